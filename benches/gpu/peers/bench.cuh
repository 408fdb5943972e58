// Shared by the harnesses of the peers: the frame, synthetic head maps, times by CUDA events. See peers.sh.
//
// Stages are launched one by one: a stage of a few µs is mostly the gaps between launches, which are smaller in a
// graph like ours.
//
// All work goes to the legacy default stream, so that a peer's copies and Thrust calls, which use it, keep their
// order. Times are microseconds between two events around a stage: if a peer waits for the host or allocates
// inside a stage, its time includes that, as in its frames.
//
// Device memory lives until the program ends.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace bench {

// As in benches/common/made_up.rs: range of z in metres, caps, classes, score.
constexpr float Z_MIN = -2.0f, Z_MAX = 4.0f;
constexpr int MAX_PILLARS = 32000, MAX_POINTS = 20, CHANNELS = 32, CLASSES = 5;
constexpr float SCORE = 0.1f;
// Columns of the frame's file: x, y, z, intensity, t.
constexpr int COLUMNS = 5;
constexpr int WARM_UP = 20, RUNS = 200;

// Ends the program if a call of the runtime failed.
inline void check(cudaError_t status, const char *what) {
    if (status == cudaSuccess) return;
    std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
    std::exit(1);
}

// Zeroed device memory of `count` values.
template <typename T>
T *zeroed(size_t count) {
    T *address = nullptr;
    check(cudaMalloc(&address, count * sizeof(T)), "device memory");
    check(cudaMemset(address, 0, count * sizeof(T)), "clearing device memory");
    return address;
}

// Zeroed host memory that the device can write to.
template <typename T>
T *pinned(size_t count) {
    T *address = nullptr;
    check(cudaMallocHost(&address, count * sizeof(T)), "pinned memory");
    std::fill(address, address + count, T());
    return address;
}

// A copy of `values` in device memory.
template <typename T>
T *upload(const std::vector<T> &values) {
    T *address = zeroed<T>(values.size());
    check(cudaMemcpy(address, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "an upload");
    return address;
}

// A fixed sequence of numbers in 0..1.
class Random {
    uint64_t state = 1;

public:
    float next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return float(state >> 40) / float(1 << 24);
    }
};

// A frame on a grid of `cells` x `cells` cells of `voxel` metres around the origin.
struct Frame {
    int cells;
    float voxel;
    std::vector<float> data;

    // Half the grid's side, metres.
    float half() const { return cells * voxel / 2; }

    int points() const { return int(data.size() / COLUMNS); }

    // The chosen columns of the points, in device memory.
    float *columns(const std::vector<int> &chosen) const {
        std::vector<float> out;
        for (int point = 0; point < points(); ++point)
            for (int column : chosen) out.push_back(data[size_t(point) * COLUMNS + column]);
        return upload(out);
    }

    // Cells that hold a point.
    int pillars() const {
        std::vector<bool> hit(size_t(cells) * cells);
        for (int point = 0; point < points(); ++point) {
            const float *p = &data[size_t(point) * COLUMNS];
            int x = int(std::floor((p[0] + half()) / voxel)), y = int(std::floor((p[1] + half()) / voxel));
            bool inside = x >= 0 && x < cells && y >= 0 && y < cells && p[2] >= Z_MIN && p[2] < Z_MAX;
            if (inside) hit[size_t(y) * cells + x] = true;
        }
        return int(std::count(hit.begin(), hit.end(), true));
    }
};

// The frame that the arguments FILE CELLS VOXEL name. Ends the program successfully without a GPU.
inline Frame open(const char *peer, int argc, char **argv) {
    Frame frame{argc == 4 ? std::atoi(argv[2]) : 0, argc == 4 ? float(std::atof(argv[3])) : 0.0f, {}};
    if (frame.cells <= 0 || !(frame.voxel > 0)) {
        std::fprintf(stderr, "usage: %s FILE CELLS VOXEL (f32 rows x y z intensity t, cells of a side, metres)\n", argv[0]);
        std::exit(2);
    }
    int devices = 0;
    cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess || devices == 0) {
        std::printf("skipped %s: no GPU (%s)\n", peer, cudaGetErrorString(status));
        std::exit(0);
    }
    std::FILE *file = std::fopen(argv[1], "rb");
    float row[COLUMNS];
    while (file && std::fread(row, sizeof row, 1, file) == 1) frame.data.insert(frame.data.end(), row, row + COLUMNS);
    if (file) std::fclose(file);
    if (frame.data.empty()) {
        std::fprintf(stderr, "%s does not contain rows of %d f32\n", argv[1], COLUMNS);
        std::exit(2);
    }
    std::printf("\n%s, grid %d x %d, %d points, %d pillars\n", peer, frame.cells, frame.cells, frame.points(), frame.pillars());
    return frame;
}

// `count` synthetic values of a head map.
inline std::vector<float> values(size_t count) {
    Random random;
    std::vector<float> out(count);
    for (float &value : out) value = random.next();
    return out;
}

// Synthetic logits of a heatmap of `side` x `side` cells: about 300 cells pass SCORE, in 60 clusters, in the first
// channel, whose values are `stride` apart: 1 if channels are planes, otherwise the channels of a cell.
inline std::vector<float> logits(int side, int channels, size_t stride) {
    std::vector<float> out = values(size_t(side) * side * channels);
    for (float &value : out) value -= 7;
    Random random;
    const int cluster[5][2] = {{0, 0}, {1, 0}, {0, 1}, {1, 1}, {2, 1}};
    for (int peak = 0; peak < 60; ++peak) {
        size_t x = size_t(random.next() * (side - 4)), y = size_t(random.next() * (side - 4));
        for (auto [dx, dy] : cluster) out[((y + dy) * side + x + dx) * stride] = 2 * random.next();
    }
    return out;
}

// Number of boxes that remain under the mask of overlaps of sorted boxes, `[count][blocks of 64]`: the part of NMS
// that NVIDIA's peers run on the host.
inline int greedy(const uint64_t *mask, int count) {
    int blocks = (count + 63) / 64, kept = 0;
    std::vector<uint64_t> removed(blocks);
    for (int box = 0; box < count; ++box) {
        if (removed[box / 64] >> (box % 64) & 1) continue;
        ++kept;
        for (int block = box / 64; block < blocks; ++block) removed[block] |= mask[size_t(box) * blocks + block];
    }
    return kept;
}

// Times stages, and prints a line for each.
class Table {
    cudaEvent_t from, to;
    double sum = 0;

    template <typename Prepare, typename Run>
    double median(Prepare prepare, Run run) {
        std::vector<float> times;
        for (int i = 0; i < WARM_UP + RUNS; ++i) {
            prepare();
            check(cudaEventRecord(from), "an event");
            run();
            check(cudaEventRecord(to), "an event");
            check(cudaEventSynchronize(to), "a stage");
            float milliseconds = 0;
            check(cudaEventElapsedTime(&milliseconds, from, to), "the time of a stage");
            if (i >= WARM_UP) times.push_back(milliseconds * 1e3f);
        }
        std::sort(times.begin(), times.end());
        return times[times.size() / 2];
    }

public:
    Table() {
        check(cudaEventCreate(&from), "an event");
        check(cudaEventCreate(&to), "an event");
        std::printf("| stage | µs |\n|---|---|\n");
    }

    // A stage of the frame; `prepare` restores its input and is not timed.
    template <typename Prepare, typename Run>
    void stage(const char *name, Prepare prepare, Run run) {
        double time = median(prepare, run);
        sum += time;
        std::printf("| %s | %.1f |\n", name, time);
    }

    // A part or a variant of a stage, which the sum excludes.
    template <typename Prepare, typename Run>
    void aside(const char *name, Prepare prepare, Run run) {
        std::printf("| (%s) | %.1f |\n", name, median(prepare, run));
    }

    void end() { std::printf("| all stages | %.1f |\n", sum); }
};

}  // namespace bench
