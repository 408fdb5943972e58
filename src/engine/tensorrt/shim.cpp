// The only code that calls TensorRT's C++ interfaces. It is compiled once for every header set that build.rs finds, with
// CP_PREFIX set to trt10, trt11 or rtx1, and exports a single symbol, <prefix>_shim.
//
// The interfaces' vtables differ between major versions and the libraries do not check them, so a shim must only be used
// with a library of its own major version (choice.rs ensures this). Nothing is linked against a library: its functions
// are passed as addresses. TensorRT's namespaces are renamed to keep the linker from merging inline functions of
// different header sets.
#define CP_JOIN2(a, b) a##_##b
#define CP_JOIN(a, b) CP_JOIN2(a, b)
#define nvinfer1 CP_JOIN(CP_PREFIX, nvinfer)
#define nvonnxparser CP_JOIN(CP_PREFIX, nvonnx)

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <atomic>
#include <memory>

#include "shim.h"

// TensorRT-RTX has a subset of TensorRT's interfaces. The tests set this to 0 with RTX's oldest headers, which have
// everything that this file uses of TensorRT 10's.
#ifndef CP_RTX
#ifdef TRT_MAJOR_RTX
#define CP_RTX 1
#else
#define CP_RTX 0
#endif
#endif

namespace nv = nvinfer1;

namespace {

class Logger final : public nv::ILogger {
public:
    void log(Severity severity, const char *text) noexcept override {
        const CpLog log = to.load();
        if (log && text) log(static_cast<int32_t>(severity), text);
    }
    std::atomic<CpLog> to{nullptr};
};

// A library keeps the first logger that it receives while any of its objects lives, and ignores later ones. There is
// therefore a single logger, which is never destroyed.
Logger &logger() {
    static Logger *const one = new Logger;
    return *one;
}

class Progress final : public nv::IProgressMonitor {
public:
    explicit Progress(const CpBuild &request) : request(request) {}
    void phaseStart(const char *phase, const char *parent, int32_t steps) noexcept override {
        request.progress(request.user, 0, phase, parent, steps);
    }
    bool stepComplete(const char *phase, int32_t step) noexcept override {
        return request.progress(request.user, 1, phase, nullptr, step) != 0;
    }
    void phaseFinish(const char *phase) noexcept override {
        request.progress(request.user, 2, phase, nullptr, 0);
    }
    const CpBuild &request;
};

class Profiler final : public nv::IProfiler {
public:
    Profiler(void *user, void (*layer)(void *, const char *, float)) : user(user), layer(layer) {}
    void reportLayerTime(const char *name, float ms) noexcept override { layer(user, name, ms); }
    void *user;
    void (*layer)(void *, const char *, float);
};

const char *text(const char *string) { return string ? string : ""; }

// Returns the name of an option that the library does not support, or null.
const char *configure(const CpBuild &request, const nv::IBuilder &builder, nv::INetworkDefinition &network,
                      nv::IBuilderConfig &config) {
    static_cast<void>(builder);
    if (request.workspace) config.setMemoryPoolLimit(nv::MemoryPoolType::kWORKSPACE, request.workspace);
    if (request.optimization_level >= 0) config.setBuilderOptimizationLevel(request.optimization_level);
    config.setProfilingVerbosity(nv::ProfilingVerbosity::kDETAILED);
    if (request.flags & CP_VERSION_COMPATIBLE) config.setFlag(nv::BuilderFlag::kVERSION_COMPATIBLE);
    if (request.flags & CP_EXCLUDE_LEAN_RUNTIME) config.setFlag(nv::BuilderFlag::kEXCLUDE_LEAN_RUNTIME);
    if (request.hardware_compatibility) {
        // Cast from a number: headers before 10.9 do not name 2, but later libraries of the same major version accept it.
        const auto level = static_cast<nv::HardwareCompatibilityLevel>(request.hardware_compatibility);
        config.setHardwareCompatibilityLevel(level);
        if (config.getHardwareCompatibilityLevel() != level) return "hardware compatibility";
    }
    if (request.dla_core >= 0) {
#if CP_RTX
        return "DLA";
#else
        if (request.dla_core >= builder.getNbDLACores()) return "DLA";
        config.setDefaultDeviceType(nv::DeviceType::kDLA);
        config.setDLACore(request.dla_core);
#endif
    }
    if (request.flags & CP_GPU_FALLBACK) config.setFlag(nv::BuilderFlag::kGPU_FALLBACK);
#if CP_RTX
    if (request.timing_cache) return "timing cache";
    if (request.compute_capability_count > 0) {
        if (!config.setNbComputeCapabilities(request.compute_capability_count)) return "compute capability";
        for (int32_t i = 0; i < request.compute_capability_count; ++i) {
            const auto capability = static_cast<nv::ComputeCapability>(request.compute_capabilities[i]);
            if (!config.setComputeCapability(capability, i)) return "compute capability";
        }
    }
#else
    if (request.compute_capability_count > 0) return "compute capability";
#endif
    for (int32_t i = 0; request.input_formats && i < network.getNbInputs(); ++i) {
        network.getInput(i)->setAllowedFormats(request.input_formats);
    }
    for (int32_t i = 0; request.output_formats && i < network.getNbOutputs(); ++i) {
        network.getOutput(i)->setAllowedFormats(request.output_formats);
    }
    return nullptr;
}

int32_t build(const CpBuild *request, const char **refused) noexcept {
    using CreateBuilder = void *(*)(void *, int32_t);
    using CreateParser = void *(*)(void *, void *, int);
    Progress progress(*request);
    const std::unique_ptr<nv::IBuilder> builder(static_cast<nv::IBuilder *>(
        reinterpret_cast<CreateBuilder>(request->create_builder)(&logger(), NV_TENSORRT_VERSION)));
    if (!builder) return CP_NO_BUILDER;
    // Deprecated in versions whose networks are always strongly typed.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    const auto typed = 1u << static_cast<uint32_t>(nv::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#pragma GCC diagnostic pop
    const std::unique_ptr<nv::INetworkDefinition> network(builder->createNetworkV2(typed));
    const std::unique_ptr<nv::IBuilderConfig> config(builder->createBuilderConfig());
    if (!network || !config) return CP_NO_BUILDER;
    const std::unique_ptr<nvonnxparser::IParser> parser(static_cast<nvonnxparser::IParser *>(
        reinterpret_cast<CreateParser>(request->create_parser)(network.get(), &logger(), NV_ONNX_PARSER_VERSION)));
    if (!parser) return CP_NO_PARSER;
    if (!parser->parse(request->onnx, request->onnx_bytes)) {
        for (int i = 0; i < parser->getNbErrors(); ++i) {
            const auto *error = parser->getError(i);
            const CpParserError parser_error = {static_cast<int32_t>(error->code()), error->node(),
                                        text(error->nodeName()), text(error->nodeOperator()),
                                        text(error->desc())};
            request->parser_error(request->user, &parser_error);
        }
        return CP_PARSE;
    }
    *refused = configure(*request, *builder, *network, *config);
    if (*refused) return CP_OPTION;
    config->setProgressMonitor(&progress);
#if !CP_RTX
    std::unique_ptr<nv::ITimingCache> cache(
        config->createTimingCache(request->timing_cache, request->timing_cache_bytes));
    if (!cache || !config->setTimingCache(*cache, false)) {
        if (request->timing_cache_bytes) {
            logger().log(nv::ILogger::Severity::kWARNING,
                         "The timing cache is damaged, or belongs to another TensorRT or GPU; starting with an empty one.");
        }
        cache.reset(config->createTimingCache(nullptr, 0));
        if (cache && !config->setTimingCache(*cache, false)) cache.reset();
    }
#endif
    const std::unique_ptr<nv::IHostMemory> plan(builder->buildSerializedNetwork(*network, *config));
    if (!plan) return CP_BUILD;
    request->take_plan(request->user, plan->data(), plan->size());
#if !CP_RTX
    if (cache) {
        const std::unique_ptr<nv::IHostMemory> bytes(cache->serialize());
        if (bytes) request->take_timing_cache(request->user, bytes->data(), bytes->size());
    }
#endif
    return CP_BUILT;
}

nv::IRuntime &runtime_of(void *runtime) { return *static_cast<nv::IRuntime *>(runtime); }
nv::ICudaEngine &engine_of(void *engine) { return *static_cast<nv::ICudaEngine *>(engine); }
nv::IExecutionContext &context_of(void *context) { return *static_cast<nv::IExecutionContext *>(context); }

void *runtime_new(void *create) noexcept {
    using Create = void *(*)(void *, int32_t);
    return reinterpret_cast<Create>(create)(&logger(), NV_TENSORRT_VERSION);
}

void runtime_free(void *runtime) noexcept { delete &runtime_of(runtime); }

void *engine_new(void *runtime, const void *bytes, size_t count, int32_t host_code) noexcept {
    auto &object = runtime_of(runtime);
    object.setEngineHostCodeAllowed(host_code != 0);
    return object.deserializeCudaEngine(bytes, count);
}

void engine_free(void *engine) noexcept { delete &engine_of(engine); }

int32_t tensor_count(void *engine) noexcept { return engine_of(engine).getNbIOTensors(); }

int32_t tensor(void *engine, int32_t index, CpTensor *tensor) noexcept {
    auto &object = engine_of(engine);
    const char *name = object.getIOTensorName(index);
    if (!name) return 0;
    tensor->name = name;
    tensor->is_input = object.getTensorIOMode(name) == nv::TensorIOMode::kINPUT;
    tensor->type = static_cast<int32_t>(object.getTensorDataType(name));
    tensor->format = static_cast<int32_t>(object.getTensorFormat(name));
    const auto dims = object.getTensorShape(name);
    tensor->rank = dims.nbDims;
    for (int32_t i = 0; i < 8; ++i) tensor->dims[i] = i < dims.nbDims ? dims.d[i] : 0;
    tensor->vector = object.getTensorComponentsPerElement(name);
    tensor->vector_axis = object.getTensorVectorizedDim(name);
    return 1;
}

int64_t scratch_bytes(void *engine) noexcept {
#if !CP_RTX && NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR == 0
    return static_cast<int64_t>(engine_of(engine).getDeviceMemorySize());
#else
    return engine_of(engine).getDeviceMemorySizeV2();
#endif
}

int32_t layers(void *engine, void *user, void (*take)(void *, const void *, size_t)) noexcept {
    const std::unique_ptr<nv::IEngineInspector> inspector(engine_of(engine).createEngineInspector());
    if (!inspector) return 0;
    const char *json = inspector->getEngineInformation(nv::LayerInformationFormat::kJSON);
    if (!json) return 0;
    size_t count = 0;
    while (json[count]) ++count;
    take(user, json, count);
    return 1;
}

void *context_new(void *engine) noexcept {
    return engine_of(engine).createExecutionContext(nv::ExecutionContextAllocationStrategy::kUSER_MANAGED);
}

void context_free(void *context) noexcept { delete &context_of(context); }

void set_scratch(void *context, uint64_t address, int64_t bytes) noexcept {
    auto *memory = reinterpret_cast<void *>(address);
#if !CP_RTX && NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR == 0
    (void)bytes;
    context_of(context).setDeviceMemory(memory);
#else
    context_of(context).setDeviceMemoryV2(memory, bytes);
#endif
}

int32_t set_address(void *context, const char *name, uint64_t address) noexcept {
    return context_of(context).setTensorAddress(name, reinterpret_cast<void *>(address));
}

int32_t enqueue(void *context, void *stream) noexcept {
    return context_of(context).enqueueV3(static_cast<cudaStream_t>(stream));
}

int32_t profile(void *context, void *stream, void *user, void (*layer)(void *, const char *, float)) noexcept {
    auto &object = context_of(context);
    Profiler profiler(user, layer);
    object.setProfiler(&profiler);
    // With a profiler this waits for the stream and reports the times.
    const bool done = object.enqueueV3(static_cast<cudaStream_t>(stream));
    object.setProfiler(nullptr);
    return done;
}

const CpShim SHIM = {NV_TENSORRT_VERSION, CP_RTX,      build,       runtime_new, runtime_free, engine_new,
                     engine_free,         tensor_count, tensor,      scratch_bytes, layers,   context_new,
                     context_free,        set_scratch,  set_address, enqueue,       profile};

} // namespace

extern "C" const CpShim *CP_JOIN(CP_PREFIX, shim)(CpLog log) {
    logger().to.store(log);
    return &SHIM;
}
