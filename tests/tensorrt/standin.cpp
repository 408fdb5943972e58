// A TensorRT for tests. It implements the interfaces that the shim calls, against any set of headers, and leaves
// computation to the test. A plan is text, one item per line:
//
//   stand-in ID                      first; names the engine to the test
//   tensor NAME input|output TYPE FORMAT VECTOR AXIS DIM...
//   scratch BYTES
//   log SEVERITY TEXT                logged while the plan is loaded
//   layer NAME MS                    reported to a profiler
//   code                             needs setEngineHostCodeAllowed
//   fail deserialize|context         returns null
//   fail address NAME                refuses the tensor's address
//   fail enqueue N                   the N-th run fails, counted from 1
//
// It refuses what TensorRT leaves undefined: runs without an address or scratch memory. Freeing objects in the wrong
// order ends the process.
#include "unused.h"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace standin {

// A tensor of a run.
struct Map {
    const char *name;
    void *address;
};

// Runs engine `id`, which may write to all of its scratch memory. Returns 0 on failure.
using Compute = int32_t (*)(uint64_t id, const Map *maps, size_t count, void *scratch, int64_t scratch_bytes);

std::atomic<Compute> compute{nullptr};

// Number of live engines and contexts by plan.
std::mutex alive_lock;
std::map<uint64_t, int32_t> alive;

void count(uint64_t id, int32_t change) {
    const std::lock_guard<std::mutex> held(alive_lock);
    alive[id] += change;
}

// Ends the process unless `parts`, the live parts of an object that is being freed, is 0.
void check_freed(const std::atomic<int32_t> &parts, const char *what) {
    if (parts == 0) return;
    std::fprintf(stderr, "stand-in: %s is freed before its parts\n", what);
    std::abort();
}

struct Tensor {
    std::string name;
    bool input;
    int32_t type, format, vector, axis;
    Dims dims;
};

struct Layer {
    std::string name;
    float ms;
};

struct Plan {
    uint64_t id = 0;
    std::vector<Tensor> tensors;
    std::vector<Layer> layers;
    std::vector<std::pair<int32_t, std::string>> log;
    int64_t scratch = 0;
    bool code = false, fail_deserialize = false, fail_context = false;
    std::string fail_address;
    int64_t fail_enqueue = 0;

    // Returns false if the text is not a plan.
    bool read(const std::string &text) {
        std::istringstream lines(text);
        std::string line;
        bool first = true;
        while (std::getline(lines, line)) {
            std::istringstream words(line);
            std::string key;
            words >> key;
            if (first != (key == "stand-in")) return false;
            first = false;
            if (key == "stand-in") words >> id;
            else if (key == "tensor") tensors.push_back(tensor(words));
            else if (key == "scratch") words >> scratch;
            else if (key == "code") code = true;
            else if (key == "layer") {
                Layer layer;
                words >> layer.name >> layer.ms;
                layers.push_back(layer);
            } else if (key == "log") {
                std::pair<int32_t, std::string> entry;
                words >> entry.first >> std::ws;
                std::getline(words, entry.second);
                log.push_back(entry);
            } else if (key == "fail") {
                std::string what;
                words >> what;
                if (what == "deserialize") fail_deserialize = true;
                else if (what == "context") fail_context = true;
                else if (what == "address") words >> fail_address;
                else if (what == "enqueue") words >> fail_enqueue;
                else return false;
            } else return false;
        }
        return !first;
    }

    static Tensor tensor(std::istringstream &words) {
        Tensor made;
        std::string mode;
        words >> made.name >> mode >> made.type >> made.format >> made.vector >> made.axis;
        made.input = mode == "input";
        made.dims.nbDims = 0;
        int64_t dim;
        while (made.dims.nbDims < Dims::MAX_DIMS && words >> dim) made.dims.d[made.dims.nbDims++] = dim;
        return made;
    }
};

// State that an engine shares with its runtime and its contexts.
struct Parts {
    ILogger &logger;
    Plan plan;
    std::atomic<int32_t> &engines;
    std::atomic<int32_t> contexts{0};

    void error(const std::string &text) const { logger.log(ILogger::Severity::kERROR, text.c_str()); }
};

class Context final : public IExecutionContext, UnusedContext {
public:
    explicit Context(Parts &parts) : parts(parts) {
        IExecutionContext::mImpl = this;
        ++parts.contexts;
        count(parts.plan.id, 1);
    }
    ~Context() noexcept override {
        count(parts.plan.id, -1);
        --parts.contexts;
    }
    IExecutionContext *getPImpl() noexcept override { return this; }

    void setProfiler(IProfiler *given) noexcept override { profiler = given; }
    IProfiler *getProfiler() const noexcept override { return profiler; }
    void setDeviceMemory(void *memory) noexcept override { setDeviceMemoryV2(memory, parts.plan.scratch); }
    virtual void setDeviceMemoryV2(void *memory, int64_t bytes) noexcept {
        scratch = memory;
        scratch_bytes = bytes;
    }

    bool setTensorAddress(char const *name, void *address) noexcept override {
        for (const auto &tensor : parts.plan.tensors) {
            if (tensor.name != name || tensor.name == parts.plan.fail_address) continue;
            addresses[tensor.name] = address;
            return true;
        }
        parts.error(std::string("no address can be set for ") + name);
        return false;
    }

    bool enqueueV3(cudaStream_t) noexcept override {
        if (++runs == parts.plan.fail_enqueue) {
            parts.error("run " + std::to_string(runs) + " failed");
            return false;
        }
        if (parts.plan.scratch > 0 && (!scratch || scratch_bytes < parts.plan.scratch)) {
            parts.error("no scratch memory was set");
            return false;
        }
        std::vector<Map> maps;
        for (const auto &tensor : parts.plan.tensors) {
            const auto found = addresses.find(tensor.name);
            if (found == addresses.end() || !found->second) {
                parts.error("no address was set for " + tensor.name);
                return false;
            }
            maps.push_back({tensor.name.c_str(), found->second});
        }
        const Compute run = compute;
        if (!run || !run(parts.plan.id, maps.data(), maps.size(), scratch, parts.plan.scratch)) {
            parts.error("nothing computes this engine");
            return false;
        }
        for (const auto &layer : parts.plan.layers) {
            if (profiler) profiler->reportLayerTime(layer.name.c_str(), layer.ms);
        }
        return true;
    }

private:
    Parts &parts;
    std::map<std::string, void *> addresses;
    void *scratch = nullptr;
    int64_t scratch_bytes = 0, runs = 0;
    IProfiler *profiler = nullptr;
};

// Lists the names of the layers as JSON.
class Inspector final : public IEngineInspector, UnusedInspector {
public:
    explicit Inspector(const Plan &plan) : json("{\"Layers\": [") {
        IEngineInspector::mImpl = this;
        for (size_t i = 0; i < plan.layers.size(); ++i) {
            json += (i ? ", \"" : "\"") + plan.layers[i].name + "\"";
        }
        json += "]}";
    }
    IEngineInspector *getPImpl() noexcept override { return this; }
    char const *getEngineInformation(LayerInformationFormat) const noexcept override { return json.c_str(); }

private:
    std::string json;
};

class Engine final : public ICudaEngine, UnusedEngine {
public:
    Engine(ILogger &logger, const Plan &plan, std::atomic<int32_t> &engines) : parts{logger, plan, engines} {
        ICudaEngine::mImpl = this;
        ++engines;
        count(plan.id, 1);
    }
    ~Engine() noexcept override {
        check_freed(parts.contexts, "an engine");
        count(parts.plan.id, -1);
        --parts.engines;
    }
    ICudaEngine *getPImpl() noexcept override { return this; }

    IExecutionContext *createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept override {
        if (parts.plan.fail_context || strategy != ExecutionContextAllocationStrategy::kUSER_MANAGED) {
            parts.error("no context can be made");
            return nullptr;
        }
        return new Context(parts);
    }
    IEngineInspector *createEngineInspector() const noexcept override { return new Inspector(parts.plan); }
    virtual size_t getDeviceMemorySize() const noexcept { return static_cast<size_t>(parts.plan.scratch); }
    virtual int64_t getDeviceMemorySizeV2() const noexcept { return parts.plan.scratch; }

    int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(parts.plan.tensors.size()); }
    char const *getIOTensorName(int32_t index) const noexcept override {
        const auto at = static_cast<size_t>(index);
        return at < parts.plan.tensors.size() ? parts.plan.tensors[at].name.c_str() : nullptr;
    }
    TensorIOMode getTensorIOMode(char const *name) const noexcept override {
        return find(name).input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    Dims getTensorShape(char const *name) const noexcept override { return find(name).dims; }
    DataType getTensorDataType(char const *name) const noexcept override {
        return static_cast<DataType>(find(name).type);
    }
    TensorFormat getTensorFormat(char const *name) const noexcept override {
        return static_cast<TensorFormat>(find(name).format);
    }
    int32_t getTensorComponentsPerElement(char const *name) const noexcept override { return find(name).vector; }
    int32_t getTensorVectorizedDim(char const *name) const noexcept override { return find(name).axis; }

private:
    const Tensor &find(char const *name) const {
        for (const auto &tensor : parts.plan.tensors) {
            if (tensor.name == name) return tensor;
        }
        never("an unknown tensor");
    }

    Parts parts;
};

class Runtime final : public IRuntime, UnusedRuntime {
public:
    explicit Runtime(ILogger &logger) : logger(logger) { IRuntime::mImpl = this; }
    ~Runtime() noexcept override { check_freed(engines, "a runtime"); }
    IRuntime *getPImpl() noexcept override { return this; }
    void setEngineHostCodeAllowed(bool allowed) noexcept override { code_allowed = allowed; }
    bool getEngineHostCodeAllowed() const noexcept override { return code_allowed; }

    using UnusedRuntime::deserializeCudaEngine;
    ICudaEngine *deserializeCudaEngine(void const *bytes, std::size_t size) noexcept override {
        Plan plan;
        const bool read = plan.read(std::string(static_cast<const char *>(bytes), size));
        for (const auto &[severity, text] : plan.log) {
            logger.log(static_cast<ILogger::Severity>(severity), text.c_str());
        }
        const char *problem = !read                         ? "these are no bytes of an engine"
                              : plan.fail_deserialize       ? "the engine is for another GPU"
                              : plan.code && !code_allowed ? "the engine has code, which is not allowed"
                                                            : nullptr;
        if (!problem) return new Engine(logger, plan, engines);
        logger.log(ILogger::Severity::kERROR, problem);
        return nullptr;
    }

private:
    ILogger &logger;
    std::atomic<int32_t> engines{0};
    bool code_allowed = false;
};

} // namespace standin

// Sets the function that computes all engines.
EXPORT void standin_compute(standin::Compute compute) { standin::compute = compute; }

// Number of live engines and contexts of a plan.
EXPORT int32_t standin_alive(uint64_t id) {
    const std::lock_guard<std::mutex> held(standin::alive_lock);
    return standin::alive[id];
}

EXPORT int32_t getInferLibVersion() noexcept { return NV_TENSORRT_VERSION; }

EXPORT void *createInferRuntime_INTERNAL(void *logger, int32_t) noexcept {
    return static_cast<nvinfer1::IRuntime *>(new standin::Runtime(*static_cast<nvinfer1::ILogger *>(logger)));
}
