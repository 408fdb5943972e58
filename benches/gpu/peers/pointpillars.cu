// Times the kernels of NVIDIA's CUDA-PointPillars: see peers.sh.
//
// Covered: voxelisation with the PFN's input (one call of its public class for three kernels), the scatter that its
// TensorRT plugin launches, decoding of anchors, sort, and NMS by rotated IoU.
//
// Not covered: the PFN itself, which is in its TensorRT engine; the plugin's class around the scatter and the backbone,
// which need TensorRT. The harness bypasses its post-process class, which allocates and clears a mask for all
// anchors in every frame, whose size overflows 32 bits on our grids; here the mask has the boxes' size.
//
// Differences from our frame: 4 columns (x y z intensity), 32 points per pillar instead of 20, 64 channels instead of
// 32 (constants there), no cap on pillars. It decodes anchors, 3 classes of 2 rotations on a head of half the grid's
// side, as shipped; we decode the 5 classes of a CenterPoint head on the whole grid.
#include "bench.cuh"

#include "pointpillar/lidar-postprocess.hpp"
#include "pointpillar/lidar-voxelization.hpp"
#include "pointpillar/pillarscatter-kernel.hpp"

#include <thrust/device_ptr.h>
#include <thrust/functional.h>
#include <thrust/sort.h>

using namespace bench;

// Launch functions that the peer defines but declares in no header.
namespace pointpillar {
namespace lidar {
cudaError_t postprocess_launch(const float *classes, float *boxes, const float *directions, float *anchors, float *bottoms,
                               float *found, float *scores, int *count, const float x_min, const float x_max,
                               const float y_min, const float y_max, const int width, const int height, const int anchor_count,
                               const int class_count, const int values, const float score, const float direction,
                               cudaStream_t stream);
cudaError_t nms_launch(unsigned int count, float *boxes, float threshold, uint64_t *mask, cudaStream_t stream);
}  // namespace lidar
}  // namespace pointpillar

// Constants of the peer: points of a pillar, channels, values of a detected box.
constexpr int PILLAR_POINTS = 32, PEER_CHANNELS = 64, BOX = 9;
constexpr float IOU = 0.1f;

struct Box {
    float values[BOX];
};

int main(int argc, char **argv) {
    const Frame frame = open("CUDA-PointPillars", argc, argv);
    const size_t area = size_t(frame.cells) * frame.cells;
    const float half_side = frame.half(), voxel = frame.voxel;
    auto nothing = [] {};
    Table table;

    // It has no cap on pillars: the buffers must hold those of the frame and a few that rounding may add.
    const int capacity = (std::max(MAX_PILLARS, frame.pillars()) + 1023) / 1024 * 1024 + 1024;
    pointpillar::lidar::VoxelizationParameter grid;
    grid.min_range = nvtype::Float3(-half_side, -half_side, Z_MIN);
    grid.max_range = nvtype::Float3(half_side, half_side, Z_MAX);
    grid.voxel_size = nvtype::Float3(voxel, voxel, Z_MAX - Z_MIN);
    grid.grid_size = nvtype::Int3(frame.cells, frame.cells, 1);
    grid.max_voxels = capacity;
    grid.max_points_per_voxel = PILLAR_POINTS;
    grid.max_points = frame.points();
    grid.num_feature = 4;
    auto voxels = pointpillar::lidar::create_voxelization(grid);
    float *rows = frame.columns({0, 1, 2, 3});
    table.stage("voxelisation and PFN input (no PFN)", nothing, [&] { voxels->forward(rows, frame.points(), nullptr); });

    auto scatter = [&](auto *features, auto *map, auto launch) {
        check(cudaMemsetAsync(map, 0, area * PEER_CHANNELS * sizeof(*map)), "clear");
        if (launch(features, voxels->coords(), voxels->params(), frame.cells, frame.cells, map, nullptr) != 0) std::exit(1);
    };
    const size_t size = size_t(capacity) * PEER_CHANNELS;
    float *features = upload(values(size)), *map = zeroed<float>(area * PEER_CHANNELS);
    table.stage("scatter, f32, with its clear", nothing, [&] { scatter(features, map, pillarScatterFloatKernelLaunch); });
    half *features_half = zeroed<half>(size), *map_half = zeroed<half>(area * PEER_CHANNELS);
    table.aside("scatter, f16", nothing, [&] { scatter(features_half, map_half, pillarScatterHalfKernelLaunch); });

    const pointpillar::lidar::PostProcessParameter post{};
    const int side = frame.cells / 2, anchors = post.num_anchors, per_cell = anchors * post.num_classes;
    const size_t all = size_t(side) * side * anchors;
    float *classes = upload(logits(side, per_cell, per_cell));
    const std::vector<float> encoded = values(all * post.num_box_values);
    const size_t encoded_bytes = encoded.size() * sizeof(float);
    float *source = upload(encoded), *boxes = upload(encoded), *directions = upload(values(all * 2));
    float *shapes = upload(std::vector<float>(post.anchors, post.anchors + anchors * post.len_per_anchor));
    const nvtype::Float3 low = post.anchor_bottom_heights;
    float *bottoms = upload(std::vector<float>{low.x, low.y, low.z});
    float *found = zeroed<float>(all * BOX), *scores = zeroed<float>(all);
    int *counter = zeroed<int>(1), count = 0;
    // Decoding overwrites the encoded boxes.
    auto restore = [&] { check(cudaMemcpyAsync(boxes, source, encoded_bytes, cudaMemcpyDeviceToDevice), "restore"); };
    auto decode = [&] {
        check(cudaMemsetAsync(counter, 0, sizeof(int)), "clear");
        check(pointpillar::lidar::postprocess_launch(classes, boxes, directions, shapes, bottoms, found, scores, counter,
                                                     -half_side, half_side, -half_side, half_side, side, side, anchors,
                                                     post.num_classes, post.num_box_values, SCORE, post.dir_offset, nullptr),
              "decode");
        check(cudaMemcpy(&count, counter, sizeof count, cudaMemcpyDeviceToHost), "the count");
    };
    auto sort = [&] {
        thrust::stable_sort_by_key(thrust::device_pointer_cast(scores), thrust::device_pointer_cast(scores) + count,
                                   thrust::device_pointer_cast(reinterpret_cast<Box *>(found)), thrust::greater<float>());
    };
    table.stage("decode, count to the host", restore, decode);
    table.stage("sort", [&] { restore(); decode(); }, sort);
    if (count == 0) {
        std::printf("no box passed the score, so NMS was not timed\n");
        return 1;
    }

    // In host memory, as in the peer.
    const size_t blocks = (count + 63) / 64;
    uint64_t *mask = pinned<uint64_t>(count * blocks);
    std::vector<Box> host(count);
    int kept = 0;
    table.stage("NMS, its mask written to and read on the host", nothing, [&] {
        check(cudaMemsetAsync(mask, 0, count * blocks * sizeof(uint64_t)), "clear");
        check(pointpillar::lidar::nms_launch(count, found, IOU, mask, nullptr), "NMS");
        check(cudaMemcpy(host.data(), found, count * sizeof(Box), cudaMemcpyDeviceToHost), "boxes");
        kept = greedy(mask, count);
    });
    table.end();
    std::printf("%d boxes of %d\n", kept, count);
}
