// Times the kernels of CUDA-CenterPoint in NVIDIA's Lidar_AI_Solution: see peers.sh.
//
// Covered: voxelisation with a hash table, means of the voxels' points, decoding of one task, sort on the host, and
// NMS by rotated IoU.
//
// Not covered: its backbone of sparse convolutions (a library without sources) and its heads (TensorRT). It has the
// mean of a voxel's points instead of a PFN and scatter. The harness bypasses the classes around the launch
// functions, because their range, voxels and head are constants.
//
// Differences from its own frame: voxels are as high as the grid, like our pillars, instead of 40 layers; the voxels'
// buffers are device memory instead of managed memory. Differences from our frame: head maps are f16; at most
// 1000 boxes pass the score.
#include "bench.cuh"

#include "kernel.h"

using namespace bench;

// A decoded box; the last value is its score.
struct Detection {
    float values[DET_CHANNEL];
};

// Head maps in half precision.
static half *upload_half(const std::vector<float> &from) {
    std::vector<half> out;
    for (float value : from) out.push_back(__float2half(value));
    return upload(out);
}

int main(int argc, char **argv) {
    const Frame frame = open("CUDA-CenterPoint", argc, argv);
    const int cells = frame.cells;
    const size_t area = size_t(cells) * cells, points = frame.points();
    const float half_side = frame.half(), voxel = frame.voxel;
    auto nothing = [] {};
    Table table;

    // The kernel of the means runs in whole blocks over the voxels, without a check: so the buffers are rounded up.
    const size_t capacity = (MAX_PILLARS + THREADS_FOR_VOXEL - 1) / THREADS_FOR_VOXEL * THREADS_FOR_VOXEL;
    const size_t hash_size = points * 4, voxels_size = capacity * MAX_POINTS * COLUMNS;
    float *rows = frame.columns({0, 1, 2, 3, 4}), *voxels = zeroed<float>(voxels_size);
    unsigned *hash = zeroed<unsigned>(hash_size), *numbers = zeroed<unsigned>(capacity);
    unsigned *indices = zeroed<unsigned>(capacity * 4), *counter = zeroed<unsigned>(1);
    unsigned *found = pinned<unsigned>(1);
    half *means = zeroed<half>(capacity * COLUMNS);
    auto clear = [&] {
        check(cudaMemsetAsync(hash, 0xff, hash_size * sizeof(unsigned)), "clear");
        check(cudaMemsetAsync(voxels, 0xff, voxels_size * sizeof(float)), "clear");
        check(cudaMemsetAsync(numbers, 0, capacity * sizeof(unsigned)), "clear");
        check(cudaMemsetAsync(counter, 0, sizeof(unsigned)), "clear");
        check(cudaDeviceSynchronize(), "clear");
    };
    auto voxelize = [&] {
        check(voxelizationLaunch(rows, points, -half_side, half_side, -half_side, half_side, Z_MIN, Z_MAX, voxel, voxel,
                                 Z_MAX - Z_MIN, cells, cells, COLUMNS, MAX_PILLARS, MAX_POINTS, hash, numbers, voxels, indices,
                                 counter, nullptr),
              "voxels");
        check(cudaMemcpyAsync(found, counter, sizeof(unsigned), cudaMemcpyDeviceToHost), "the count");
        check(cudaDeviceSynchronize(), "voxels");
        *found = std::min(*found, unsigned(MAX_PILLARS));
    };
    table.stage("clear of all buffers", nothing, clear);
    table.stage("voxelisation, count to the host", clear, voxelize);
    table.stage("means of the voxels (no PFN)", [&] { clear(); voxelize(); }, [&] {
        check(featureExtractionLaunch(voxels, numbers, *found, MAX_POINTS, COLUMNS, means, nullptr), "means");
    });

    half *heatmap = upload_half(logits(cells, CLASSES, 1)), *offset = upload_half(values(area * 2));
    half *height = upload_half(values(area)), *size = upload_half(values(area * 3));
    half *rotation = upload_half(values(area * 2)), *velocity = upload_half(values(area * 2));
    float *range = upload(std::vector<float>{-half_side, -half_side, -10, half_side, half_side, 10});
    float *voxel_size = upload(std::vector<float>{voxel, voxel}), *origin = upload(std::vector<float>{-half_side, -half_side});
    float *detections = zeroed<float>(MAX_DET_NUM * DET_CHANNEL), *permuted = zeroed<float>(MAX_DET_NUM * DET_CHANNEL);
    const size_t detections_bytes = MAX_DET_NUM * DET_CHANNEL * sizeof(float);
    // In host memory, as in the peer.
    const size_t mask_size = MAX_DET_NUM * ((MAX_DET_NUM + 63) / 64);
    unsigned *count = pinned<unsigned>(1);
    uint64_t *mask = pinned<uint64_t>(mask_size);
    auto decode = [&] {
        check(cudaMemset(count, 0, sizeof(unsigned)), "clear");
        check(cudaMemset(detections, 0, detections_bytes), "clear");
        check(cudaMemset(permuted, 0, detections_bytes), "clear");
        if (postprocess_launch(1, cells, cells, 2, 1, 3, 2, 2, CLASSES, offset, height, size, rotation, velocity, heatmap, count,
                               detections, range, 1.0f, voxel_size, origin, SCORE, nullptr) != 0)
            std::exit(1);
        check(cudaDeviceSynchronize(), "decode");
    };
    std::vector<Detection> host(MAX_DET_NUM);
    auto sort = [&] {
        check(cudaMemcpy(host.data(), detections, detections_bytes, cudaMemcpyDeviceToHost), "boxes");
        std::sort(host.begin(), host.end(), [](const Detection &a, const Detection &b) {
            return a.values[DET_CHANNEL - 1] > b.values[DET_CHANNEL - 1];
        });
        check(cudaMemcpy(detections, host.data(), detections_bytes, cudaMemcpyHostToDevice), "boxes");
    };
    table.stage("decode of one task", nothing, decode);
    table.stage("sort on the host", decode, sort);
    if (*count == 0) {
        std::printf("no box passed the score, so NMS was not timed\n");
        return 1;
    }
    int kept = 0;
    table.stage("NMS, its mask written to and read on the host", nothing, [&] {
        check(cudaMemsetAsync(mask, 0, mask_size * sizeof(uint64_t)), "clear");
        if (permute_launch(*count, detections, permuted, nullptr) != 0) std::exit(1);
        if (nms_launch(*count, permuted, 0.1f, mask, nullptr) != 0) std::exit(1);
        kept = greedy(mask, int(*count));
    });
    table.end();
    std::printf("%u voxels, %d boxes of %u\n", *found, kept, *count);
}
