// Times the kernels of Autoware's autoware_lidar_centerpoint: see peers.sh.
//
// Covered: shuffle, voxelisation, PFN input, scatter, and its whole post-process (boxes of all cells, threshold,
// sort, circle NMS, boxes to the host), which is one function; circle NMS also alone.
//
// Not covered: the PFN itself, a TensorRT engine; the densification of sweeps, which needs ROS and is part of no
// stage of ours; its IoU NMS, which is host code on ROS messages.
//
// Differences from our frame: 4 columns (x y z t), 32 points per pillar (a constant there) instead of 20, boxes
// written for every cell first. Its capacity is set to the frame's points, which favours it: shuffle and
// voxelisation run over the whole capacity, by default 2 000 000.
#include "bench.cuh"

#include "autoware/lidar_centerpoint/network/scatter_kernel.hpp"
#include "autoware/lidar_centerpoint/postprocess/circle_nms_kernel.hpp"
#include "autoware/lidar_centerpoint/postprocess/postprocess_kernel.hpp"
#include "autoware/lidar_centerpoint/preprocess/preprocess_kernel.hpp"

#include <numeric>

using namespace bench;
using namespace autoware::lidar_centerpoint;

// Constants of the peer: points of a pillar, and columns of a point, of the PFN's input and of a pillar's cell.
constexpr size_t PILLAR_POINTS = 32, POINT_COLUMNS = 4, INPUTS = 9, COORDINATES = 3;
constexpr float CIRCLE = 0.5f;

// Its configuration for our frame and model; `radius` of circle NMS in metres.
static CenterPointConfig config(const Frame &frame, double radius) {
    double half = frame.half(), voxel = frame.voxel;
    return CenterPointConfig(CLASSES, POINT_COLUMNS, frame.points(), MAX_PILLARS, {-half, -half, Z_MIN, half, half, Z_MAX},
                             {voxel, voxel, Z_MAX - Z_MIN}, 1, INPUTS, SCORE, radius, std::vector<double>(CLASSES, 0.0), false);
}

int main(int argc, char **argv) {
    const Frame frame = open("Autoware lidar_centerpoint", argc, argv);
    const int cells = frame.cells;
    const size_t area = size_t(cells) * cells, points = frame.points();
    const float half = frame.half(), voxel = frame.voxel;

    float *rows = frame.columns({0, 1, 2, 4});
    std::vector<unsigned> order(points);
    std::iota(order.begin(), order.end(), 0u);
    Random random;
    for (size_t i = points - 1; i > 0; --i) std::swap(order[i], order[std::min(i, size_t(random.next() * (i + 1)))]);
    unsigned *indices = upload(order);
    float *shuffled = zeroed<float>(points * POINT_COLUMNS);

    unsigned *mask = zeroed<unsigned>(area), *count = zeroed<unsigned>(1);
    const size_t buffer_size = area * PILLAR_POINTS * POINT_COLUMNS;
    const size_t voxels_size = MAX_PILLARS * PILLAR_POINTS * POINT_COLUMNS;
    const size_t inputs_size = MAX_PILLARS * PILLAR_POINTS * INPUTS;
    float *buffer = zeroed<float>(buffer_size), *voxels = zeroed<float>(voxels_size);
    float *numbers = zeroed<float>(MAX_PILLARS), *inputs = zeroed<float>(inputs_size);
    int *coordinates = zeroed<int>(MAX_PILLARS * COORDINATES);
    float *features = upload(values(size_t(MAX_PILLARS) * CHANNELS)), *map = zeroed<float>(area * CHANNELS);

    auto nothing = [] {};
    auto clear = [&] {
        check(cudaMemsetAsync(inputs, 0, inputs_size * sizeof(float)), "clear");
        check(cudaMemsetAsync(map, 0, area * CHANNELS * sizeof(float)), "clear");
        check(cudaMemsetAsync(count, 0, sizeof(unsigned)), "clear");
        check(cudaMemsetAsync(buffer, 0, buffer_size * sizeof(float)), "clear");
        check(cudaMemsetAsync(mask, 0, area * sizeof(unsigned)), "clear");
        check(cudaMemsetAsync(voxels, 0, voxels_size * sizeof(float)), "clear");
        check(cudaMemsetAsync(coordinates, 0, MAX_PILLARS * COORDINATES * sizeof(int)), "clear");
        check(cudaMemsetAsync(numbers, 0, MAX_PILLARS * sizeof(float)), "clear");
    };
    auto shuffle = [&] { check(shufflePoints_launch(rows, indices, shuffled, points, points, 0, nullptr), "shuffle"); };
    auto voxelize = [&] {
        check(generateVoxels_random_launch(shuffled, points, -half, half, -half, half, Z_MIN, Z_MAX, voxel, voxel,
                                           Z_MAX - Z_MIN, cells, cells, mask, buffer, nullptr),
              "voxels");
    };
    auto gather = [&] {
        check(generateBaseFeatures_launch(mask, buffer, cells, cells, MAX_PILLARS, count, voxels, numbers, coordinates, nullptr),
              "base features");
    };

    Table table;
    table.stage("clear of all buffers", nothing, clear);
    table.stage("shuffle", nothing, shuffle);
    table.stage("points to cells", clear, voxelize);
    table.stage("cells to pillars", [&] { clear(); voxelize(); }, gather);
    // The next stages' kernels trust the count, which may exceed the buffers.
    unsigned found = 0;
    check(cudaMemcpy(&found, count, sizeof found, cudaMemcpyDeviceToHost), "the count");
    if (found > unsigned(MAX_PILLARS)) {
        std::fprintf(stderr, "%u pillars, more than the %d of the buffers\n", found, MAX_PILLARS);
        return 1;
    }
    table.stage("PFN input (no PFN)", nothing, [&] {
        check(generateFeatures_launch(voxels, numbers, coordinates, count, MAX_PILLARS, voxel, voxel, Z_MAX - Z_MIN, -half,
                                      -half, Z_MIN, inputs, nullptr),
              "features");
    });
    table.stage("scatter", nothing, [&] {
        check(scatterFeatures_launch(features, coordinates, count, MAX_PILLARS, CHANNELS, cells, cells, map, nullptr), "scatter");
    });

    float *heatmap = upload(logits(cells, CLASSES, 1)), *offset = upload(values(area * 2)), *z = upload(values(area));
    float *size = upload(values(area * 3)), *rotation = upload(values(area * 2)), *velocity = upload(values(area * 2));
    std::vector<Box3D> boxes;
    auto post_process = [&](PostProcessCUDA &peer) {
        check(peer.generateDetectedBoxes3D_launch(heatmap, offset, z, size, rotation, velocity, boxes, nullptr), "post-process");
    };
    PostProcessCUDA peer(config(frame, CIRCLE));
    table.stage("decode, sort, circle NMS, boxes to the host", nothing, [&] { post_process(peer); });
    const size_t kept = boxes.size();

    // A tiny radius returns all boxes, sorted: the input of circle NMS.
    PostProcessCUDA all(config(frame, 1e-6));
    post_process(all);
    thrust::device_vector<Box3D> sorted(boxes.begin(), boxes.end());
    thrust::device_vector<bool> keep(boxes.size());
    table.aside("circle NMS of it", nothing, [&] { circleNMS(sorted, CIRCLE, keep, nullptr); });
    table.end();
    std::printf("%zu boxes of %zu\n", kept, boxes.size());
}
