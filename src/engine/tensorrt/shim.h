// The shim's interface: plain C, mirrored in ffi.rs. The same for every header set.
//
// Objects are opaque pointers. A null pointer from a function that creates one means that the library refused and
// logged the reason through CpLog. Strings are terminated by 0 and valid during the call. No function throws.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Receives a line of the library's log, from any of its threads. Severity is ILogger's: 0 internal error, 1 error,
// 2 warning, 3 info, 4 verbose.
typedef void (*CpLog)(int32_t severity, const char *text);

// An error of the ONNX parser.
struct CpParserError {
    // ErrorCode of NvOnnxParser.h.
    int32_t code;
    // Index of the node, -1 for none.
    int32_t node;
    // "" if unknown.
    const char *node_name, *node_operator, *description;
};

// Flags of CpBuild.
enum {
    CP_VERSION_COMPATIBLE = 1,
    CP_EXCLUDE_LEAN_RUNTIME = 2,
    CP_GPU_FALLBACK = 4,
};

// Result of a build.
enum {
    CP_BUILT = 0,
    CP_NO_BUILDER = 1,
    // The library does not support the option that `*refused` names.
    CP_OPTION = 2,
    CP_NO_PARSER = 3,
    // `parser_error` received the errors.
    CP_PARSE = 4,
    CP_BUILD = 5,
};

// An engine to build.
struct CpBuild {
    // Addresses of createInferBuilder_INTERNAL and createNvOnnxParser_INTERNAL.
    void *create_builder, *create_parser;
    const void *onnx;
    size_t onnx_bytes;
    // Most bytes of scratch memory; 0 for the library's default.
    size_t workspace;
    // A timing cache, or null. An unusable one counts as empty.
    const void *timing_cache;
    size_t timing_cache_bytes;
    // 0 to 5; -1 for the library's default.
    int32_t optimization_level;
    // -1 for no DLA.
    int32_t dla_core;
    uint32_t flags;
    // HardwareCompatibilityLevel: 0 none, 1 Ampere and newer, 2 same compute capability.
    int32_t hardware_compatibility;
    // TensorRT-RTX only, such as 89; none for the GPU present.
    const int32_t *compute_capabilities;
    int32_t compute_capability_count;
    // Allowed TensorFormats as a bit mask; 0 for linear.
    uint32_t input_formats, output_formats;
    // First argument of the callbacks below.
    void *user;
    // Called from any thread of the library. `event`: 0 a phase begins with `number` steps (`parent` may be null), 1 step
    // `number` is done, 2 the phase has ended. Returns whether to continue.
    int32_t (*progress)(void *user, int32_t event, const char *phase, const char *parent, int32_t number);
    void (*parser_error)(void *user, const CpParserError *error);
    void (*take_plan)(void *user, const void *bytes, size_t count);
    // Not called by libraries without a timing cache.
    void (*take_timing_cache)(void *user, const void *bytes, size_t count);
};

// An input or output of an engine.
struct CpTensor {
    const char *name;
    int32_t is_input;
    // DataType and TensorFormat.
    int32_t type, format;
    int32_t rank;
    int64_t dims[8];
    // Number of adjacent elements along the vectorised axis, and that axis; -1 in linear formats.
    int32_t vector, vector_axis;
};

// One header set.
struct CpShim {
    // Version of the headers in the form of getInferLibVersion (110400 is 11.4, 10701 is RTX 1.7.1), and whether they are
    // TensorRT-RTX's.
    int32_t version, rtx;

    int32_t (*build)(const CpBuild *request, const char **refused);

    // `create` is the address of createInferRuntime_INTERNAL.
    void *(*runtime_new)(void *create);
    void (*runtime_free)(void *runtime);
    // `host_code` allows code that runs on the host, which version-compatible engines contain.
    void *(*engine_new)(void *runtime, const void *bytes, size_t count, int32_t host_code);
    void (*engine_free)(void *engine);
    int32_t (*tensor_count)(void *engine);
    // Returns 0 if there is no such tensor.
    int32_t (*tensor)(void *engine, int32_t index, CpTensor *tensor);
    // Bytes of scratch memory that a context needs.
    int64_t (*scratch_bytes)(void *engine);
    // Passes the inspector's JSON to `take`; returns 0 if there is none.
    int32_t (*layers)(void *engine, void *user, void (*take)(void *user, const void *bytes, size_t count));

    // Creates a context whose scratch memory the caller provides.
    void *(*context_new)(void *engine);
    void (*context_free)(void *context);
    void (*set_scratch)(void *context, uint64_t address, int64_t bytes);
    // Returns 0 if the library refuses.
    int32_t (*set_address)(void *context, const char *name, uint64_t address);
    int32_t (*enqueue)(void *context, void *stream);
    // Like `enqueue`, but waits and calls `layer` with the milliseconds of each layer.
    int32_t (*profile)(void *context, void *stream, void *user,
                       void (*layer)(void *user, const char *name, float ms));
};

// A shim's only symbol is `const CpShim *<prefix>_shim(CpLog log)`. From the first call until the process ends, `log`
// receives everything that the library logs.

// ffi.rs asserts the same sizes, and a test compares the order of the fields.
static_assert(sizeof(void *) != 8 || (sizeof(CpParserError) == 32 && sizeof(CpBuild) == 136 &&
                                      sizeof(CpTensor) == 96 && sizeof(CpShim) == 128),
              "ffi.rs mirrors these structs");
