// Builds an engine through the shim `rtx1`, for compute capability 8.9:
//
//   build LIBRARY PARSER MODEL.onnx OUT.plan
//
// Fails if the library builds no engine; crashes if the shim does not fit the library.
#include <dlfcn.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "shim.h"

extern "C" const CpShim *rtx1_shim(CpLog log);

int main(int count, char **arguments) {
    if (count != 5) return 2;
    void *const library = dlopen(arguments[1], RTLD_LAZY | RTLD_LOCAL);
    void *const parser = dlopen(arguments[2], RTLD_LAZY | RTLD_LOCAL);
    if (!library || !parser) return 3;
    std::ifstream model(arguments[3], std::ios::binary);
    const std::string onnx((std::istreambuf_iterator<char>(model)), {});
    std::ofstream plan(arguments[4], std::ios::binary);
    const int32_t capability = 89;

    CpBuild build{};
    build.create_builder = dlsym(library, "createInferBuilder_INTERNAL");
    build.create_parser = dlsym(parser, "createNvOnnxParser_INTERNAL");
    build.onnx = onnx.data();
    build.onnx_bytes = onnx.size();
    build.optimization_level = -1;
    build.dla_core = -1;
    build.compute_capabilities = &capability;
    build.compute_capability_count = 1;
    build.user = &plan;
    build.progress = [](void *, int32_t, const char *, const char *, int32_t) { return 1; };
    build.parser_error = [](void *, const CpParserError *error) { std::puts(error->description); };
    build.take_plan = [](void *user, const void *bytes, size_t size) {
        static_cast<std::ofstream *>(user)->write(static_cast<const char *>(bytes), static_cast<std::streamsize>(size));
    };
    build.take_timing_cache = [](void *, const void *, size_t) {};
    const char *refused = nullptr;
    const auto log = [](int32_t severity, const char *line) {
        if (severity < 2) std::puts(line);
    };
    return rtx1_shim(log)->build(&build, &refused) == CP_BUILT ? 0 : 4;
}
