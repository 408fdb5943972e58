// Invalid calls of the C library, and valid calls from four threads. Run by tests/it/capi/hammer.rs, built with
// AddressSanitizer. Exits with 0 and "all good", or prints the failed expectation.
//
//     hammer FILE.plan FRAME.bin OTHER-NAME.plan
//
// FRAME.bin has packed floats in the model's columns, which start with x, y, z; OTHER-NAME.plan is the same
// plan with a name that is not UTF-8.
#include <centerpoint/centerpoint.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            std::printf("%s:%d: not so: %s; last error: %s\n", __FILE__, __LINE__, #condition, cp_last_error()); \
            std::fflush(stdout);                                                                   \
            std::_Exit(1);                                                                         \
        }                                                                                          \
    } while (false)

// The call fails with this status, and the text contains this word.
#define FAILS(call, status, word)                             \
    do {                                                      \
        EXPECT((call) == (status));                           \
        EXPECT(std::strstr(cp_last_error(), word) != nullptr); \
    } while (false)

using Boxes = std::vector<cp_box>;

static const char *plan_path;

static bool same(const Boxes &a, const Boxes &b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(cp_box)) == 0);
}

// A frame in memory with modifiable points and fields.
struct Frame {
    std::vector<unsigned char> data;
    std::vector<std::string> names;
    std::vector<cp_field> fields;
    cp_cloud cloud = centerpoint::make<cp_cloud>();

    Frame(const centerpoint::Detector &detector, const char *path) {
        std::ifstream file(path, std::ios::binary);
        data.assign(std::istreambuf_iterator<char>(file), {});
        for (std::size_t i = 0; i < detector.model().column_count; ++i) {
            names.push_back(detector.column_name(i));
        }
        for (std::size_t i = 0; i < names.size(); ++i) {
            fields.push_back(cp_field{names[i].c_str(), static_cast<std::uint32_t>(4 * i), CP_FLOAT32, 1});
        }
        cloud.point_step = static_cast<std::uint32_t>(4 * fields.size());
        cloud.width = static_cast<std::uint32_t>(data.size() / cloud.point_step);
        cloud.height = 1;
        cloud.data = data.data();
        cloud.data_size = data.size();
        cloud.fields = fields.data();
        cloud.field_count = fields.size();
    }
    Frame(const Frame &) = delete;
};

static Boxes detect(cp_detector *detector, const cp_cloud &cloud) {
    Boxes boxes(2000);
    std::size_t found = 0;
    EXPECT(cp_detect(detector, &cloud, boxes.data(), boxes.size(), &found) == CP_OK);
    EXPECT(*cp_last_error() == 0);
    boxes.resize(found);
    return boxes;
}

static void loading() {
    cp_detector *const marker = reinterpret_cast<cp_detector *>(&plan_path);
    cp_detector *detector = marker;
    FAILS(cp_load(plan_path, nullptr, nullptr), CP_ERROR_ARGUMENT, "detector");
    FAILS(cp_load(nullptr, nullptr, &detector), CP_ERROR_ARGUMENT, "path");
    EXPECT(detector == nullptr);
    detector = marker;
    FAILS(cp_load("no/such.plan", nullptr, &detector), CP_ERROR_PLAN, "no/such.plan");
    EXPECT(detector == nullptr);
    FAILS(cp_load("/dev/null", nullptr, &detector), CP_ERROR_PLAN, "/dev/null");

    const auto refused = [&](void (*change)(cp_options &), const char *word) {
        auto options = centerpoint::make<cp_options>();
        change(options);
        FAILS(cp_load(plan_path, &options, &detector), CP_ERROR_ARGUMENT, word);
    };
    refused([](cp_options &o) { o.struct_size = 0; }, "struct_size");
    // Smaller than that of any version.
    refused([](cp_options &o) { o.struct_size = 47; }, "struct_size");
    refused([](cp_options &o) { o.struct_size = std::numeric_limits<std::size_t>::max(); }, "CP_INIT");
    refused([](cp_options &o) { o.device = 3; }, "device");
    refused([](cp_options &o) { o.score = std::nanf(""); }, "score");
    refused([](cp_options &o) { o.score = 1.5f; }, "score");
    refused([](cp_options &o) { o.intensity_scale = -1.0f; }, "intensity_scale");
    refused([](cp_options &o) { o.budget_ms = -1.0; }, "budget_ms");
    refused([](cp_options &o) { o.delay_ms = std::nan(""); }, "delay_ms");
    refused([](cp_options &o) { o.ground = 3; }, "CP_GROUND_AUTO");
    refused([](cp_options &o) { o.ground = CP_GROUND_HEIGHT, o.ground_height = std::nanf(""); }, "ground_height");
    refused([](cp_options &o) { o.has_extrinsic = 1, o.extrinsic[5] = std::nan(""); }, "extrinsic");
    refused([](cp_options &o) { o.ignore_box[0] = 1.0f; }, "ignore_box");
    refused([](cp_options &o) { o.reserved = 1; }, "cp_options");
    // A program that was compiled with the first version's header.
    auto first = centerpoint::make<cp_options>();
    first.struct_size = 48;
    EXPECT(cp_load(plan_path, &first, &detector) == CP_OK);
    cp_free(detector);
    detector = nullptr;
    const std::unique_ptr<char[]> odd(new char[sizeof(cp_options) + 1]());
    FAILS(cp_load(plan_path, reinterpret_cast<cp_options *>(odd.get() + 1), &detector), CP_ERROR_ARGUMENT, "aligned");
    EXPECT(detector == nullptr);
    cp_free(nullptr);
}

// Structs of a program compiled with a later header.
static void growing(cp_detector *detector) {
    struct Later {
        cp_options options;
        std::uint64_t more[2];
    } later{centerpoint::make<cp_options>(), {0, 0}};
    later.options.struct_size = sizeof later;
    cp_detector *other = nullptr;
    EXPECT(cp_load(plan_path, &later.options, &other) == CP_OK);
    cp_free(other);
    later.more[1] = 1;
    FAILS(cp_load(plan_path, &later.options, &other), CP_ERROR_ARGUMENT, "older than the header");

    struct LaterInfo {
        cp_frame_info info;
        std::uint64_t more;
        std::uint64_t guard;
    } info{centerpoint::make<cp_frame_info>(), 7, 7};
    info.info.struct_size = sizeof(cp_frame_info) + 8;
    EXPECT(cp_last_frame(detector, &info.info) == CP_OK);
    EXPECT(info.info.struct_size == sizeof(cp_frame_info) + 8 && info.info.points > 0);
    EXPECT(info.more == 0 && info.guard == 7);
    info.info.struct_size = 8;
    FAILS(cp_last_frame(detector, &info.info), CP_ERROR_ARGUMENT, "struct_size");
}

static void nulls(cp_detector *detector, const cp_cloud &cloud) {
    cp_box box;
    std::size_t found = 9;
    auto model = centerpoint::make<cp_model_info>();
    auto frame = centerpoint::make<cp_frame_info>();
    auto deadline = centerpoint::make<cp_deadline_info>();
    FAILS(cp_detect(nullptr, &cloud, &box, 1, &found), CP_ERROR_ARGUMENT, "detector");
    EXPECT(found == 0);
    FAILS(cp_detect(detector, nullptr, &box, 1, &found), CP_ERROR_ARGUMENT, "cloud");
    FAILS(cp_detect(detector, &cloud, nullptr, 1, &found), CP_ERROR_ARGUMENT, "boxes");
    FAILS(cp_detect(detector, &cloud, &box, 1, nullptr), CP_ERROR_ARGUMENT, "found");
    FAILS(cp_detect(detector, &cloud, &box, std::numeric_limits<std::size_t>::max(), &found), CP_ERROR_ARGUMENT, "boxes");
    FAILS(cp_detect_device(nullptr, &box, 1, &box, 1, &found), CP_ERROR_ARGUMENT, "detector");
    FAILS(cp_detect_device(detector, nullptr, 1, &box, 1, &found), CP_ERROR_ARGUMENT, "points");
    FAILS(cp_detect_device(detector, &box, 1, &box, 1, &found), CP_ERROR_UNSUPPORTED, "CPU");
    FAILS(cp_push_sweep(nullptr, &cloud, 0, nullptr), CP_ERROR_ARGUMENT, "detector");
    FAILS(cp_push_sweep(detector, nullptr, 0, nullptr), CP_ERROR_ARGUMENT, "cloud");
    FAILS(cp_clear_sweeps(nullptr), CP_ERROR_ARGUMENT, "detector");
    FAILS(cp_detect_sweeps(nullptr, &box, 1, &found), CP_ERROR_ARGUMENT, "detector");
    FAILS(cp_detect_sweeps(detector, nullptr, 1, &found), CP_ERROR_ARGUMENT, "boxes");
    FAILS(cp_last_boxes(nullptr, &box, 1, &found), CP_ERROR_ARGUMENT, "detector");
    FAILS(cp_last_boxes(detector, &box, 1, nullptr), CP_ERROR_ARGUMENT, "found");
    cp_variances variances;
    FAILS(cp_last_variances(nullptr, &variances, 1, &found), CP_ERROR_ARGUMENT, "detector");
    FAILS(cp_last_variances(detector, nullptr, 1, &found), CP_ERROR_ARGUMENT, "variances");
    FAILS(cp_last_variances(detector, &variances, 1, nullptr), CP_ERROR_ARGUMENT, "found");
    EXPECT(cp_last_variances(detector, &variances, 1, &found) == CP_OK && found == 0);
    FAILS(cp_model(nullptr, &model), CP_ERROR_ARGUMENT, "detector");
    FAILS(cp_model(detector, nullptr), CP_ERROR_ARGUMENT, "cp_model_info");
    FAILS(cp_last_frame(nullptr, &frame), CP_ERROR_ARGUMENT, "detector");
    FAILS(cp_last_frame(detector, nullptr), CP_ERROR_ARGUMENT, "cp_frame_info");
    FAILS(cp_deadline(nullptr, &deadline), CP_ERROR_ARGUMENT, "detector");
    FAILS(cp_deadline(detector, nullptr), CP_ERROR_ARGUMENT, "cp_deadline_info");
    std::size_t length = 1;
    FAILS(cp_check(nullptr, &cloud, nullptr, 0, &length), CP_ERROR_ARGUMENT, "detector");
    FAILS(cp_check(detector, nullptr, nullptr, 0, &length), CP_ERROR_ARGUMENT, "cp_cloud");
    EXPECT(length == 0);
    FAILS(cp_check(detector, &cloud, nullptr, 1, &length), CP_ERROR_ARGUMENT, "text");
    FAILS(cp_check(detector, &cloud, nullptr, 0, nullptr), CP_ERROR_ARGUMENT, "length");
    EXPECT(cp_class_name(nullptr, 0) == nullptr && cp_column_name(nullptr, 0) == nullptr);
    EXPECT(cp_class_name(detector, 1000) == nullptr && std::strstr(cp_last_error(), "1000") != nullptr);
    EXPECT(cp_class_name(detector, 0) != nullptr && *cp_last_error() == 0);
}

// Inconsistent descriptions: each is rejected, and the next frame works as before.
static void clouds(cp_detector *detector, const Frame &frame, const Boxes &expected) {
    const auto refused = [&](cp_status status, const char *word, void (*change)(cp_cloud &, std::vector<cp_field> &)) {
        cp_cloud cloud = frame.cloud;
        std::vector<cp_field> fields = frame.fields;
        change(cloud, fields);
        if (cloud.fields == frame.cloud.fields) {
            cloud.fields = fields.data();
            cloud.field_count = fields.size();
        }
        std::size_t found = 9;
        FAILS(cp_detect(detector, &cloud, nullptr, 0, &found), status, word);
        EXPECT(found == 0);
        EXPECT(cp_last_boxes(detector, nullptr, 0, &found) == CP_OK && found == 0);
    };
    refused(CP_ERROR_CLOUD, "bytes", [](cp_cloud &c, auto &) { c.data_size -= 1; });
    refused(CP_ERROR_CLOUD, "points", [](cp_cloud &c, auto &) { c.width = c.height = c.row_step = 0xffffffff; });
    refused(CP_ERROR_CLOUD, "rows", [](cp_cloud &c, auto &) { c.height = 2, c.width /= 2, c.row_step = 1; });
    refused(CP_ERROR_CLOUD, "point", [](cp_cloud &c, auto &) { c.point_step = 0; });
    refused(CP_ERROR_CLOUD, "offset", [](cp_cloud &, auto &f) { f[0].offset = 0xffffffff; });
    refused(CP_ERROR_CLOUD, "z", [](cp_cloud &, auto &f) { f[2].count = 3; });
    refused(CP_ERROR_CLOUD, "z", [](cp_cloud &, auto &f) { f[2].datatype = 0x107; });
    refused(CP_ERROR_CLOUD, "z", [](cp_cloud &, auto &f) { f[2].name = "\xff\xfe"; });
    refused(CP_ERROR_CLOUD, "z", [](cp_cloud &, auto &f) { f.resize(2); });
    refused(CP_ERROR_CLOUD, "x", [](cp_cloud &c, auto &) { c.fields = nullptr, c.field_count = 0; });
    refused(CP_ERROR_ARGUMENT, "name", [](cp_cloud &, auto &f) { f[3].name = nullptr; });
    refused(CP_ERROR_ARGUMENT, "fields", [](cp_cloud &c, auto &) { c.fields = nullptr; });
    refused(CP_ERROR_ARGUMENT, "field_count", [](cp_cloud &, auto &f) { f.resize(5000, f[0]); });
    refused(CP_ERROR_ARGUMENT, "data", [](cp_cloud &c, auto &) { c.data = nullptr; });
    refused(CP_ERROR_ARGUMENT, "data", [](cp_cloud &c, auto &) { c.data_size = std::numeric_limits<std::size_t>::max(); });
    refused(CP_ERROR_ARGUMENT, "cp_cloud", [](cp_cloud &c, auto &) { c.reserved = 1; });
    refused(CP_ERROR_ARGUMENT, "struct_size", [](cp_cloud &c, auto &) { c.struct_size = 12; });
    EXPECT(same(detect(detector, frame.cloud), expected));

    cp_cloud none = frame.cloud;
    none.data = nullptr;
    none.data_size = none.width = 0;
    EXPECT(detect(detector, none).empty());
}

// The same points in other forms produce the same boxes.
static void forms(cp_detector *detector, const Frame &frame, const Boxes &expected) {
    const std::size_t step = frame.cloud.point_step, points = frame.cloud.width;
    // Two rows with a gap between them, fields at an offset of 3 bytes, most significant byte first.
    const std::size_t far = step + 3 + 2, half = points / 2, row = half * far + 11;
    Boxes swapped;
    {
        const std::unique_ptr<unsigned char[]> data(new unsigned char[2 * row]());
        for (std::size_t i = 0; i < 2 * half; ++i) {
            for (std::size_t byte = 0; byte < step; ++byte) {
                data[i / half * row + i % half * far + 3 + byte] = frame.data[i * step + (byte ^ 3)];
            }
        }
        std::vector<cp_field> fields = frame.fields;
        for (cp_field &field : fields) {
            field.offset += 3;
        }
        fields.insert(fields.begin(), cp_field{"return_type", 0, CP_UINT8, 1});
        cp_cloud cloud = frame.cloud;
        cloud.data = data.get();
        // The gap after the last row is not part of the data.
        cloud.data_size = 2 * row - 11;
        cloud.width = static_cast<std::uint32_t>(half);
        cloud.height = 2;
        cloud.point_step = static_cast<std::uint32_t>(far);
        cloud.row_step = static_cast<std::uint32_t>(row);
        cloud.fields = fields.data();
        cloud.field_count = fields.size();
        cloud.is_bigendian = 1;
        swapped = detect(detector, cloud);
    }
    if (points % 2 == 0) {
        EXPECT(same(swapped, expected));
    } else {
        cp_cloud even = frame.cloud;
        even.width -= 1;
        EXPECT(same(detect(detector, even), swapped));
    }

    // A description with a single change since the last frame is interpreted again.
    const auto changed = [&](void (*change)(cp_cloud &, std::vector<cp_field> &)) {
        cp_cloud cloud = frame.cloud;
        std::vector<cp_field> fields = frame.fields;
        change(cloud, fields);
        cloud.fields = fields.data();
        const centerpoint::Detector fresh(plan_path);
        const Boxes other = detect(fresh.get(), cloud);
        EXPECT(!same(other, expected));
        EXPECT(same(detect(detector, frame.cloud), expected));
        EXPECT(same(detect(detector, cloud), other));
    };
    changed([](cp_cloud &, auto &f) { std::swap(f[0].offset, f[1].offset); });
    changed([](cp_cloud &, auto &f) { std::swap(f[0].name, f[1].name); });
    changed([](cp_cloud &, auto &f) { f[2].datatype = CP_INT32; });
    changed([](cp_cloud &, auto &f) { f[3].count = 2; });
    changed([](cp_cloud &c, auto &) { c.is_bigendian = 1; });
    changed([](cp_cloud &c, auto &) { c.point_step += 4, c.width /= 2; });

    // Like in rclcpp.
    struct Field {
        std::string name;
        std::uint32_t offset;
        std::uint8_t datatype;
        std::uint32_t count;
    };
    struct PointCloud2 {
        std::uint32_t height, width;
        std::vector<Field> fields;
        bool is_bigendian;
        std::uint32_t point_step, row_step;
        std::vector<std::uint8_t> data;
    } message{1, frame.cloud.width, {}, false, frame.cloud.point_step, 0, frame.data};
    for (const cp_field &field : frame.fields) {
        message.fields.push_back({field.name, field.offset, 7, 1});
    }
    std::vector<cp_field> scratch;
    EXPECT(same(detect(detector, centerpoint::cloud_of(message, scratch)), expected));
}

// Arrays that are too short receive the best boxes, and nothing is written beyond them.
static void arrays(cp_detector *detector, const cp_cloud &cloud, const Boxes &expected) {
    const std::size_t all = expected.size();
    EXPECT(all > 3);
    for (const std::size_t capacity : {std::size_t{0}, std::size_t{1}, all - 1, all, all + 1}) {
        const std::size_t count = std::min(all, capacity);
        for (const bool again : {false, true}) {
            const std::unique_ptr<cp_box[]> boxes(new cp_box[capacity]);
            std::size_t found = 0;
            const cp_status status = again ? cp_last_boxes(detector, boxes.get(), capacity, &found)
                                           : cp_detect(detector, &cloud, boxes.get(), capacity, &found);
            EXPECT(status == CP_OK && found == all);
            EXPECT(std::memcmp(boxes.get(), expected.data(), count * sizeof(cp_box)) == 0);
        }
    }
    auto info = centerpoint::make<cp_frame_info>();
    EXPECT(cp_last_frame(detector, &info) == CP_OK);
    EXPECT(info.points == cloud.width && info.sweeps == 1 && info.missing_intensity == 0);
    EXPECT(info.engine_ms > 0 && info.read_ms > 0 && info.total_ms >= info.engine_ms + info.read_ms);
    // The text is cut where the caller's array ends.
    std::size_t length = 0;
    EXPECT(cp_check(detector, &cloud, nullptr, 0, &length) == CP_OK);
    const std::size_t whole = length;
    for (const std::size_t capacity : {std::size_t{1}, whole / 2 + 1, whole + 1}) {
        const std::unique_ptr<char[]> text(new char[capacity]);
        EXPECT(cp_check(detector, &cloud, text.get(), capacity, &length) == CP_OK && length == whole);
        EXPECT(std::strlen(text.get()) == capacity - 1);
    }
    auto deadline = centerpoint::make<cp_deadline_info>();
    EXPECT(cp_deadline(detector, &deadline) == CP_OK);
    EXPECT(deadline.budget_ms == 200.0 && deadline.budget_delay_ms == 1000.0 && deadline.frames >= 5);
    EXPECT(std::fabs(deadline.last_ms - (info.total_ms - info.read_ms)) < 1e-6);
}

static void sweeps(cp_detector *detector, const cp_cloud &cloud, const Boxes &expected) {
    Boxes boxes(2000);
    std::size_t found = 9;
    FAILS(cp_detect_sweeps(detector, boxes.data(), boxes.size(), &found), CP_ERROR_SWEEP, "cp_push_sweep");
    EXPECT(found == 0);
    cp_pose pose{1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0};
    // A single sweep is like a cloud.
    EXPECT(cp_push_sweep(detector, &cloud, 1000, &pose) == CP_OK);
    EXPECT(cp_detect_sweeps(detector, boxes.data(), boxes.size(), &found) == CP_OK);
    EXPECT(same(Boxes(boxes.begin(), boxes.begin() + static_cast<std::ptrdiff_t>(found)), expected));
    FAILS(cp_push_sweep(detector, &cloud, 999, &pose), CP_ERROR_SWEEP, "999");
    cp_pose broken = pose;
    broken.qw = 0.0;
    FAILS(cp_push_sweep(detector, &cloud, 2000, &broken), CP_ERROR_SWEEP, "norm");
    broken.qw = std::nan("");
    FAILS(cp_push_sweep(detector, &cloud, 2000, &broken), CP_ERROR_SWEEP, "finite");
    cp_cloud fewer = cloud;
    fewer.field_count = 3;
    FAILS(cp_push_sweep(detector, &fewer, 2000, &pose), CP_ERROR_SWEEP, "columns");
    EXPECT(cp_push_sweep(detector, &cloud, 2000, nullptr) == CP_OK);
    EXPECT(cp_detect_sweeps(detector, boxes.data(), boxes.size(), &found) == CP_OK);
    auto info = centerpoint::make<cp_frame_info>();
    EXPECT(cp_last_frame(detector, &info) == CP_OK);
    EXPECT(info.sweeps == 1 && info.sweeps_without_pose == 1 && info.points == cloud.width);
    for (int i = 3; i < 10; ++i) {
        pose.x += 0.5;
        EXPECT(cp_push_sweep(detector, &cloud, i * 100000000LL, &pose) == CP_OK);
    }
    EXPECT(cp_detect_sweeps(detector, boxes.data(), boxes.size(), &found) == CP_OK);
    auto model = centerpoint::make<cp_model_info>();
    EXPECT(cp_model(detector, &model) == CP_OK);
    EXPECT(cp_last_frame(detector, &info) == CP_OK);
    EXPECT(info.sweeps == model.sweeps && info.points == model.sweeps * cloud.width);
    EXPECT(cp_clear_sweeps(detector) == CP_OK);
    FAILS(cp_detect_sweeps(detector, boxes.data(), boxes.size(), &found), CP_ERROR_SWEEP, "cp_push_sweep");
    // The detector is unchanged, and works after a restart of the clock.
    EXPECT(cp_push_sweep(detector, &fewer, 1, nullptr) == CP_OK);
    EXPECT(cp_clear_sweeps(detector) == CP_OK);
    EXPECT(same(detect(detector, cloud), expected));
}

// Random descriptions of random bytes: rejected or read, never beyond the data's end.
static void random_descriptions(cp_detector *detector) {
    std::uint32_t state = 1;
    const auto next = [&](std::uint32_t below) {
        state = state * 1664525u + 1013904223u;
        return (state >> 8) % below;
    };
    const std::uint32_t odd[] = {0, 1, 3, 0x7fffffff, 0x80000000, 0xffffffff};
    const auto number = [&](std::uint32_t usual) { return next(12) == 0 ? odd[next(6)] : usual; };
    int read = 0;
    for (int i = 0; i < 4000; ++i) {
        const std::size_t size = next(600);
        const std::unique_ptr<unsigned char[]> data(new unsigned char[size]());
        const char *const names[] = {"x", "y", "z", "intensity", "t", "ring", "i", "", "x"};
        std::vector<cp_field> fields;
        for (std::uint32_t f = 0; f < 3 + next(6); ++f) {
            fields.push_back(cp_field{names[f], number(next(24)), number(1 + next(8)), number(1)});
        }
        auto cloud = centerpoint::make<cp_cloud>();
        cloud.data = data.get();
        cloud.data_size = size;
        cloud.width = number(next(12));
        cloud.height = number(next(3));
        cloud.point_step = number(16 + next(16));
        cloud.row_step = number(next(300));
        cloud.is_bigendian = next(2);
        cloud.fields = fields.data();
        cloud.field_count = fields.size();
        const cp_status status = cp_push_sweep(detector, &cloud, i, nullptr);
        EXPECT(status == CP_OK || status == CP_ERROR_CLOUD || status == CP_ERROR_SWEEP);
        read += status == CP_OK;
        EXPECT(cp_clear_sweeps(detector) == CP_OK);
    }
    EXPECT(read > 100 && read < 3900);
}

// One detector per thread, four threads: the same bytes in all of them, and separate last errors.
static void threads(const cp_cloud &cloud, const Boxes &expected) {
    std::atomic<int> waiting{0};
    std::vector<std::thread> all;
    for (unsigned number = 1; number <= 4; ++number) {
        all.emplace_back([&, number] {
            auto options = centerpoint::make<cp_options>();
            options.threads = number;
            centerpoint::Detector detector(plan_path, options);
            EXPECT(detector.model().threads == number);
            const std::string wrong = "no/such." + std::to_string(number);
            for (int i = 0; i < 5; ++i) {
                EXPECT(same(detector.detect(cloud), expected));
                cp_detector *none = nullptr;
                EXPECT(cp_load(wrong.c_str(), nullptr, &none) == CP_ERROR_PLAN);
                // All threads fail before any of them looks.
                waiting.fetch_add(1);
                while (waiting.load() < 4 * (i + 1)) {
                    std::this_thread::yield();
                }
                EXPECT(std::strstr(cp_last_error(), wrong.c_str()) != nullptr);
            }
        });
    }
    for (std::thread &thread : all) {
        thread.join();
    }
}

// One detector for four threads, which is invalid: each call succeeds or fails as busy.
static void busy(cp_detector *detector, const cp_cloud &cloud, const Boxes &expected) {
    std::atomic<int> done{0}, refused{0};
    std::vector<std::thread> all;
    for (int number = 0; number < 4; ++number) {
        all.emplace_back([&] {
            for (int i = 0; i < 5; ++i) {
                Boxes boxes(2000);
                std::size_t found = 9;
                const cp_status status = cp_detect(detector, &cloud, boxes.data(), boxes.size(), &found);
                if (status == CP_OK) {
                    boxes.resize(found);
                    EXPECT(same(boxes, expected));
                    done += 1;
                } else {
                    EXPECT(status == CP_ERROR_BUSY && found == 0);
                    EXPECT(std::strstr(cp_last_error(), "another thread") != nullptr);
                    refused += 1;
                }
            }
        });
    }
    for (std::thread &thread : all) {
        thread.join();
    }
    EXPECT(done > 0 && done + refused == 20);
}

static void owners(const char *other_name, const Frame &frame, const Boxes &expected) {
    centerpoint::Detector first(other_name);
    first.detect(frame.cloud);
    const cp_box *const memory = first.boxes().data();
    EXPECT(same(first.detect(frame.cloud), expected) && first.boxes().data() == memory);
    centerpoint::Detector second = std::move(first);
    EXPECT(first.get() == nullptr && same(second.detect(frame.cloud), expected));
    first = std::move(second);
    EXPECT(same(first.detect(frame.cloud), expected));
    try {
        cp_cloud none = frame.cloud;
        none.data = nullptr;
        first.detect(none);
        EXPECT(!"thrown");
    } catch (const centerpoint::Error &error) {
        EXPECT(error.status() == CP_ERROR_ARGUMENT && std::strstr(error.what(), "data") != nullptr);
        EXPECT(first.boxes().empty());
    }
    try {
        centerpoint::Detector missing("no/such.plan");
        EXPECT(!"thrown");
    } catch (const centerpoint::Error &error) {
        EXPECT(error.status() == CP_ERROR_PLAN);
    }
    first.push_sweep(frame.cloud, 5, nullptr);
    EXPECT(same(first.detect_sweeps(), expected));
    first.clear_sweeps();
    EXPECT(first.deadline().frames == 5 && first.last_frame().points == frame.cloud.width);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        std::printf("usage: hammer FILE.plan FRAME.bin OTHER-NAME.plan\n");
        return 2;
    }
    plan_path = argv[1];
    EXPECT(std::strcmp(cp_version(), CP_VERSION) == 0 && cp_abi_version() == CP_ABI_VERSION);
    EXPECT(*cp_last_error() == 0);

    centerpoint::Detector detector(plan_path);
    const Frame frame(detector, argv[2]);
    EXPECT(frame.cloud.width > 1000);
    const Boxes expected = detector.detect(frame.cloud);

    loading();
    growing(detector.get());
    nulls(detector.get(), frame.cloud);
    clouds(detector.get(), frame, expected);
    forms(detector.get(), frame, expected);
    arrays(detector.get(), frame.cloud, expected);
    sweeps(detector.get(), frame.cloud, expected);
    random_descriptions(detector.get());
    threads(frame.cloud, expected);
    busy(detector.get(), frame.cloud, expected);
    owners(argv[3], frame, expected);
    std::printf("all good\n");
    return 0;
}
