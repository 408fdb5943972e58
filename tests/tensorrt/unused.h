// Functions of TensorRT's interfaces that the shim never calls. A call ends the process.
//
// The interfaces differ between sets of headers. Where a set lacks a function, ours is an additional function; only
// functions whose types a set lacks are conditional.
#pragma once

#include <NvInferRuntime.h>

#include <cstdio>
#include <cstdlib>

#ifdef TRT_MAJOR_RTX
#define STAND_IN_RTX 1
#else
#define STAND_IN_RTX 0
#endif
#define STAND_IN_LATER_THAN(major, minor) \
    (NV_TENSORRT_MAJOR > (major) || (NV_TENSORRT_MAJOR == (major) && NV_TENSORRT_MINOR >= (minor)))

namespace standin {

using namespace nvinfer1;

[[noreturn]] inline void never(const char *function) {
    std::fprintf(stderr, "stand-in: %s is not implemented\n", function);
    std::abort();
}

#define UNUSED(...) \
    virtual __VA_ARGS__ { never(__func__); }

class UnusedRuntime : public apiv::VRuntime {
public:
    UNUSED(ICudaEngine *deserializeCudaEngine(IStreamReader &) noexcept)
    UNUSED(void setDLACore(int32_t) noexcept)
    UNUSED(int32_t getDLACore() const noexcept)
    UNUSED(int32_t getNbDLACores() const noexcept)
    UNUSED(void setGpuAllocator(IGpuAllocator *) noexcept)
    UNUSED(void setErrorRecorder(IErrorRecorder *) noexcept)
    UNUSED(IErrorRecorder *getErrorRecorder() const noexcept)
    UNUSED(ILogger *getLogger() const noexcept)
    UNUSED(bool setMaxThreads(int32_t) noexcept)
    UNUSED(int32_t getMaxThreads() const noexcept)
    UNUSED(void setTemporaryDirectory(char const *) noexcept)
    UNUSED(char const *getTemporaryDirectory() const noexcept)
    UNUSED(void setTempfileControlFlags(TempfileControlFlags) noexcept)
    UNUSED(TempfileControlFlags getTempfileControlFlags() const noexcept)
    UNUSED(IPluginRegistry &getPluginRegistry() noexcept)
    UNUSED(void setPluginRegistryParent(IPluginRegistry *) noexcept)
    UNUSED(IRuntime *loadRuntime(char const *) noexcept)
    UNUSED(int64_t getEngineHeaderSize() const noexcept)
    UNUSED(void setDeferredWeightsLoading(bool) noexcept)
    UNUSED(bool getDeferredWeightsLoading() const noexcept)
#if STAND_IN_RTX || STAND_IN_LATER_THAN(10, 16)
    UNUSED(ICudaEngine *deserializeCudaEngineV2(IStreamReaderV2 &) noexcept)
#endif
#if STAND_IN_RTX ? STAND_IN_LATER_THAN(1, 7) : STAND_IN_LATER_THAN(11, 3)
    UNUSED(bool setDLAWorkspaceAllocationStrategy(DLAWorkspaceAllocationStrategy) noexcept)
    UNUSED(DLAWorkspaceAllocationStrategy getDLAWorkspaceAllocationStrategy() const noexcept)
#endif
#if STAND_IN_RTX
    UNUSED(EngineValidity getEngineValidity(void const *, int64_t, uint64_t *) const noexcept)
#endif
};

class UnusedEngine : public apiv::VCudaEngine {
public:
    UNUSED(int32_t getNbLayers() const noexcept)
    UNUSED(IHostMemory *serialize() const noexcept)
    UNUSED(IExecutionContext *createExecutionContextWithoutDeviceMemory() noexcept)
    UNUSED(bool isRefittable() const noexcept)
    UNUSED(char const *getName() const noexcept)
    UNUSED(int32_t getNbOptimizationProfiles() const noexcept)
    UNUSED(int32_t const *getProfileTensorValues(char const *, int32_t, OptProfileSelector) const noexcept)
    UNUSED(EngineCapability getEngineCapability() const noexcept)
    UNUSED(void setErrorRecorder(IErrorRecorder *) noexcept)
    UNUSED(IErrorRecorder *getErrorRecorder() const noexcept)
    UNUSED(bool hasImplicitBatchDimension() const noexcept)
    UNUSED(TacticSources getTacticSources() const noexcept)
    UNUSED(ProfilingVerbosity getProfilingVerbosity() const noexcept)
    UNUSED(TensorLocation getTensorLocation(char const *) const noexcept)
    UNUSED(bool isShapeInferenceIO(char const *) const noexcept)
    UNUSED(int32_t getTensorBytesPerComponent(char const *) const noexcept)
    UNUSED(char const *getTensorFormatDesc(char const *) const noexcept)
    UNUSED(Dims getProfileShape(char const *, int32_t, OptProfileSelector) const noexcept)
    UNUSED(HardwareCompatibilityLevel getHardwareCompatibilityLevel() const noexcept)
    UNUSED(int32_t getNbAuxStreams() const noexcept)
    UNUSED(int32_t getTensorBytesPerComponentV2(char const *, int32_t) const noexcept)
    UNUSED(int32_t getTensorComponentsPerElementV2(char const *, int32_t) const noexcept)
    UNUSED(TensorFormat getTensorFormatV2(char const *, int32_t) const noexcept)
    UNUSED(char const *getTensorFormatDescV2(char const *, int32_t) const noexcept)
    UNUSED(int32_t getTensorVectorizedDimV2(char const *, int32_t) const noexcept)
    UNUSED(ISerializationConfig *createSerializationConfig() noexcept)
    UNUSED(IHostMemory *serializeWithConfig(ISerializationConfig &) const noexcept)
    UNUSED(size_t getDeviceMemorySizeForProfile(int32_t) const noexcept)
    UNUSED(IRefitter *createRefitter(ILogger &) noexcept)
    UNUSED(bool setWeightStreamingBudget(int64_t) noexcept)
    UNUSED(int64_t getWeightStreamingBudget() const noexcept)
    UNUSED(int64_t getMinimumWeightStreamingBudget() const noexcept)
    UNUSED(int64_t getStreamableWeightsSize() const noexcept)
    UNUSED(bool isDebugTensor(char const *) const noexcept)
    UNUSED(bool setWeightStreamingBudgetV2(int64_t) noexcept)
    UNUSED(int64_t getWeightStreamingBudgetV2() const noexcept)
    UNUSED(int64_t getWeightStreamingAutomaticBudget() const noexcept)
    UNUSED(int64_t getWeightStreamingScratchMemorySize() const noexcept)
    UNUSED(int64_t getDeviceMemorySizeForProfileV2(int32_t) const noexcept)
    UNUSED(int64_t const *getProfileTensorValuesV2(char const *, int32_t, OptProfileSelector) const noexcept)
    UNUSED(char const *getAliasedInputTensor(char const *) const noexcept)
    UNUSED(bool areWeightsLoaded() const noexcept)
    UNUSED(bool loadWeights(void const *, int64_t) noexcept)
    UNUSED(bool unloadWeights() noexcept)
#if STAND_IN_RTX || STAND_IN_LATER_THAN(10, 16)
    UNUSED(IExecutionContext *createExecutionContextWithRuntimeConfig(IRuntimeConfig *) noexcept)
    UNUSED(IRuntimeConfig *createRuntimeConfig() noexcept)
    UNUSED(int64_t getEngineStat(EngineStat) const noexcept)
    UNUSED(bool loadWeightsAsync(IStreamReaderV2 &, cudaStream_t) noexcept)
#endif
#if STAND_IN_RTX && STAND_IN_LATER_THAN(1, 7)
    UNUSED(IWeightsManager *createWeightsManager() noexcept)
#endif
};

class UnusedContext : public apiv::VExecutionContext {
public:
    UNUSED(void setDebugSync(bool) noexcept)
    UNUSED(bool getDebugSync() const noexcept)
    UNUSED(ICudaEngine const &getEngine() const noexcept)
    UNUSED(void setName(char const *) noexcept)
    UNUSED(char const *getName() const noexcept)
    UNUSED(int32_t getOptimizationProfile() const noexcept)
    UNUSED(bool allInputDimensionsSpecified() const noexcept)
    UNUSED(bool allInputShapesSpecified() const noexcept)
    UNUSED(void setErrorRecorder(IErrorRecorder *) noexcept)
    UNUSED(IErrorRecorder *getErrorRecorder() const noexcept)
    UNUSED(bool executeV2(void *const *) noexcept)
    UNUSED(bool setOptimizationProfileAsync(int32_t, cudaStream_t) noexcept)
    UNUSED(void setEnqueueEmitsProfile(bool) noexcept)
    UNUSED(bool getEnqueueEmitsProfile() const noexcept)
    UNUSED(bool reportToProfiler() const noexcept)
    UNUSED(bool setInputShape(char const *, Dims const &) noexcept)
    UNUSED(Dims getTensorShape(char const *) const noexcept)
    UNUSED(Dims getTensorStrides(char const *) const noexcept)
    UNUSED(void const *getTensorAddress(char const *) const noexcept)
    UNUSED(bool setInputTensorAddress(char const *, void const *) noexcept)
    UNUSED(bool setOutputTensorAddress(char const *, void *) noexcept)
    UNUSED(int32_t inferShapes(int32_t, char const **) noexcept)
    UNUSED(bool setInputConsumedEvent(cudaEvent_t) noexcept)
    UNUSED(cudaEvent_t getInputConsumedEvent() const noexcept)
    UNUSED(void *getOutputTensorAddress(char const *) const noexcept)
    UNUSED(bool setOutputAllocator(char const *, IOutputAllocator *) noexcept)
    UNUSED(IOutputAllocator *getOutputAllocator(char const *) noexcept)
    UNUSED(int64_t getMaxOutputSize(char const *) const noexcept)
    UNUSED(bool setTemporaryStorageAllocator(IGpuAllocator *) noexcept)
    UNUSED(IGpuAllocator *getTemporaryStorageAllocator() const noexcept)
    UNUSED(void setPersistentCacheLimit(size_t) noexcept)
    UNUSED(size_t getPersistentCacheLimit() const noexcept)
    UNUSED(bool setNvtxVerbosity(ProfilingVerbosity) noexcept)
    UNUSED(ProfilingVerbosity getNvtxVerbosity() const noexcept)
    UNUSED(void setAuxStreams(cudaStream_t *, int32_t) noexcept)
    UNUSED(bool setDebugListener(IDebugListener *) noexcept)
    UNUSED(IDebugListener *getDebugListener() noexcept)
    UNUSED(bool setTensorDebugState(char const *, bool) noexcept)
    UNUSED(bool getDebugState(char const *) const noexcept)
    UNUSED(bool setAllTensorsDebugState(bool) noexcept)
    UNUSED(size_t updateDeviceMemorySizeForShapes() noexcept)
    UNUSED(bool setUnfusedTensorsDebugState(bool) noexcept)
    UNUSED(bool getUnfusedTensorsDebugState() const noexcept)
    UNUSED(bool setCommunicator(void *) noexcept)
    UNUSED(bool isStreamCapturable(cudaStream_t) const noexcept)
#if STAND_IN_RTX || STAND_IN_LATER_THAN(10, 16)
    UNUSED(IRuntimeConfig *getRuntimeConfig() const noexcept)
#endif
};

class UnusedInspector : public apiv::VEngineInspector {
public:
    UNUSED(bool setExecutionContext(IExecutionContext const *) noexcept)
    UNUSED(IExecutionContext const *getExecutionContext() const noexcept)
    UNUSED(char const *getLayerInformation(int32_t, LayerInformationFormat) const noexcept)
    UNUSED(void setErrorRecorder(IErrorRecorder *) noexcept)
    UNUSED(IErrorRecorder *getErrorRecorder() const noexcept)
};

} // namespace standin
