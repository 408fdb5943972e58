// Detects objects in a frame, a file of packed little-endian floats in the model's columns. Prints one box per
// line:
// class, score, centre x y z, length width height, yaw, velocity x y.
#include <centerpoint/centerpoint.hpp>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

static std::vector<char> read(const char *path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw std::runtime_error(std::string(path) + ": cannot open");
    }
    return {std::istreambuf_iterator<char>(file), {}};
}

static void run(const char *plan, const char *frame) {
    centerpoint::Detector detector(plan);

    // A point has one float for each column of the model.
    std::vector<cp_field> fields;
    for (std::uint32_t i = 0; i < detector.model().column_count; ++i) {
        fields.push_back(cp_field{detector.column_name(i), i * 4, CP_FLOAT32, 1});
    }
    const std::vector<char> bytes = read(frame);
    auto cloud = centerpoint::make<cp_cloud>();
    cloud.data = bytes.data();
    cloud.data_size = bytes.size();
    cloud.point_step = static_cast<std::uint32_t>(fields.size() * 4);
    cloud.width = static_cast<std::uint32_t>(bytes.size() / cloud.point_step);
    cloud.height = 1;
    cloud.fields = fields.data();
    cloud.field_count = fields.size();

    for (const cp_box &box : detector.detect(cloud)) {
        std::printf("%s %.9g  %.9g %.9g %.9g  %.9g %.9g %.9g  %.9g  %.9g %.9g\n", detector.class_name(box.class_id),
                    box.score, box.center[0], box.center[1], box.center[2], box.size[0], box.size[1], box.size[2],
                    box.yaw, box.velocity[0], box.velocity[1]);
    }
    const cp_frame_info info = detector.last_frame();
    std::fprintf(stderr, "%llu points, %.1f ms\n", static_cast<unsigned long long>(info.points), info.total_ms);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: detect FILE.plan FRAME.bin\n");
        return 2;
    }
    try {
        run(argv[1], argv[2]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "detect: %s\n", error.what());
        return 1;
    }
    return 0;
}
