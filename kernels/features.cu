// Pillar features: the PFN over the points of each pillar, fused with their gather (src/features.rs).
//
// A warp computes one pillar at a time, with a lane for each output channel:
// 1. a lane per point reads its slot and the point, and writes the model's columns to a row in shared memory;
// 2. all lanes sum the rows in input order for the mean; the rows get their offsets, and one row of zeros
//    represents the padding of a pillar that is not full;
// 3. each layer reads the rows that the previous layer wrote, and raises a maximum for each channel.
// A pillar of more rows than `chunk` is processed in chunks, once for each layer, because a layer needs the
// previous layer's maximum over all rows. The layers before are computed again, with the same result, so that
// no buffer grows with `max_points_per_pillar`.
//
// Shapes: counts and cells `[max_pillars]`, slots `[max_pillars][max_points]`, out `[max_pillars][channels]`
// f32. Rows of pillars past the frame's number keep their values.
// Launch: `Features::new` chooses the kernel and the warps of a block; the grid is for `max_pillars`, and blocks without a
// pillar exit at once. Dynamic shared memory: the weights (not `features_pfn_large`), then per warp two buffers of
// `chunk` rows and the maxima of every layer.
// Bytes: reads 8 + 4 per point of slots, the points, and 4 · weight_count per block; writes
// 4 · channels per pillar.
// Caps: a count above `max_points` reads as `max_points`, a number of pillars above `max_pillars` as
// `max_pillars`.
// Deterministic: one lane computes a sum, in one order (bias, columns of the appended maximum, columns of the
// row, ascending); the maximum of values that are neither NaN nor -0 depends on no order.
//
// Registers with nvcc 13 for sm_75 to sm_120, without spills or local memory: features_pfn 80, for 24 warps
// on a multiprocessor; features_pfn_own 107 to 122 and features_pfn_large 96 to 126, for 16. Of those warps, shared
// memory of 64, 100, 164 and 228 KiB on a multiprocessor allows these, for 11 input columns and pillars of at most
// 20 points:
//   layers       kernel              block              64   100  164  228
//   64           features_pfn_own    8 warps, 13 KiB    16   16   16   16
//   32, 32       features_pfn_own    8 warps, 26 KiB    16   16   16   16
//   64, 64       features_pfn        7 warps, 47 KiB     7   14   21   21
// No GPU has run it yet: the times are not known.
#include "common.cuh"

// Most layers of a PFN.
#define MAX_LAYERS 3
// Inputs of the first layer of `features_pfn_own`.
#define OWN_COLUMNS 12
// Most threads of a block.
#define MAX_THREADS 256

struct FeaturesLayer {
    // Columns that it reads of a row, and of the appended maximum (0 in the first layer): padded to multiples
    // of 4 with zeros.
    u32 inputs, maxes;
    // Output channels: padded to 8, 16, 32 or a multiple of 64 with zeros.
    u32 width;
    // Start of its weights: bias [width], those of the maximum [maxes][width], of the row [inputs][width].
    u32 weights;
};

struct FeaturesParams {
    u64 frame, pillars, counts, cells, slots, weights, out;
    u32 max_pillars, max_points;
    // Columns of the grid.
    u32 nx;
    // Columns appended to the point's own: xyz - mean if not 0, xyz - centre along this many axes.
    u32 mean_offset, center_axes;
    // Channels of the output, at most the last layer's width.
    u32 channels;
    // Number of f32 weights, a multiple of 4.
    u32 weight_count;
    // Rows of a warp's buffers, at most 32, and floats of a row in each.
    u32 chunk, stride[2];
    // Floats of shared memory of a warp, and of all maxima in it.
    u32 warp_floats, max_count;
    u32 layers;
    float voxel[3], min[3];
    FeaturesLayer layer[MAX_LAYERS];
    u32 reserved;
};
static_assert(sizeof(FeaturesParams) == 184, "mirrored in src/cuda/features.rs");

namespace {

// N values, read and written at once.
template <int N> struct alignas(4 * N) Vector {
    float v[N];
};

template <int N> __device__ __forceinline__ Vector<N> load(const float *from) {
    return *(const Vector<N> *)from;
}

__device__ __forceinline__ float larger(float value, float other) { return value > other ? value : other; }

// Rows in the warp's shared memory: floats from its start, and from row to row. (With a choice between two
// pointers, compilers lose track that both point to shared memory.)
struct Rows {
    u32 at, stride;
};

// Adds rows times weights `[columns][width]` to the sums, columns ascending, each product rounded first.
template <int ROWS, int CHANNELS>
__device__ __forceinline__ void add_products(const float *const (&row)[ROWS], u32 columns, const float *weights,
                                             u32 width, Vector<CHANNELS> (&sum)[ROWS]) {
    for (u32 k = 0; k < columns; k += 4) {
        Vector<4> x[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) x[r] = load<4>(row[r] + k);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            Vector<CHANNELS> weight = load<CHANNELS>(weights);
            weights += width;
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
#pragma unroll
                for (int c = 0; c < CHANNELS; ++c) sum[r].v[c] += x[r].v[j] * weight.v[c];
            }
        }
    }
}

// The weights of a layer's rows, in memory.
struct InMemory {
    u32 columns, width;

    template <int ROWS, int CHANNELS>
    __device__ __forceinline__ void add(const float *const (&row)[ROWS], const float *weights,
                                        Vector<CHANNELS> (&sum)[ROWS]) const {
        add_products<ROWS, CHANNELS>(row, columns, weights, width, sum);
    }
};

// Those of a lane's channels, in registers.
template <int CHANNELS, int COLUMNS> struct InRegisters {
    Vector<CHANNELS> weight[COLUMNS];

    // From `[COLUMNS][width]`.
    __device__ __forceinline__ void read(const float *weights, u32 width) {
#pragma unroll
        for (int k = 0; k < COLUMNS; ++k) weight[k] = load<CHANNELS>(weights + k * width);
    }

    template <int ROWS>
    __device__ __forceinline__ void add(const float *const (&row)[ROWS], const float *,
                                        Vector<CHANNELS> (&sum)[ROWS]) const {
#pragma unroll
        for (int k = 0; k < COLUMNS; k += 4) {
            Vector<4> x[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) x[r] = load<4>(row[r] + k);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
#pragma unroll
                    for (int c = 0; c < CHANNELS; ++c) sum[r].v[c] += x[r].v[j] * weight[k + j].v[c];
                }
            }
        }
    }
};

// Groups of lanes that compute different rows of the same channels.
struct Group {
    // This lane's group, and the number of groups: 32 / width, at least 1.
    u32 index, count;
    // First channel of the lane.
    u32 channel;
};

// Computes rows `first`, `first + group.count`, … of the lane, stores them in `to` and raises `max`. Past the
// last row it computes the last one again, without storing it.
template <int ROWS, int CHANNELS, typename Weights>
__device__ __forceinline__ void run_rows(const Weights &own, bool last, const float *weights, float *shared, Rows from,
                                         Rows to, u32 first, u32 rows, const Group &group,
                                         const Vector<CHANNELS> &base, Vector<CHANNELS> &max) {
    const float *row[ROWS];
    Vector<CHANNELS> sum[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        u32 index = min(first + r * group.count, rows - 1);
        row[r] = shared + from.at + index * from.stride;
        sum[r] = base;
    }
    own.add(row, weights, sum);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
            // NaN and -0 become 0.
            sum[r].v[c] = larger(sum[r].v[c], 0.0f);
            max.v[c] = larger(sum[r].v[c], max.v[c]);
        }
        u32 index = first + r * group.count;
        if (!last && index < rows) {
            *(Vector<CHANNELS> *)(shared + to.at + index * to.stride + group.channel) = sum[r];
        }
    }
}

// Runs the channels of a layer that the lanes compute at once, CHANNELS each, on `rows` rows.
template <int CHANNELS, typename Weights>
__device__ __forceinline__ void run_channels(const FeaturesLayer &layer, const Weights &own, bool last, const float *weights, float *shared, Rows from, Rows to,
                                             u32 rows, const Group &group, const float *max_before,
                                             float *max_after) {
    const float *weight = weights + layer.weights + group.channel;
    Vector<CHANNELS> base[1] = {load<CHANNELS>(weight)};
    weight += layer.width;
    const float *const before[1] = {max_before};
    add_products<1, CHANNELS>(before, layer.maxes, weight, layer.width, base);
    weight += layer.maxes * layer.width;
    // ReLU leaves nothing below 0.
    Vector<CHANNELS> max = {};
    u32 row = 0;
    while (row < rows) {
        u32 left = rows - row, first = row + group.index;
        if (left > 2 * group.count) {
            run_rows<4, CHANNELS>(own, last, weight, shared, from, to, first, rows, group, base[0], max);
            row += 4 * group.count;
        } else if (left > group.count) {
            run_rows<2, CHANNELS>(own, last, weight, shared, from, to, first, rows, group, base[0], max);
            row += 2 * group.count;
        } else {
            run_rows<1, CHANNELS>(own, last, weight, shared, from, to, first, rows, group, base[0], max);
            row += group.count;
        }
    }
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
        for (u32 other = WARP / group.count; other < WARP; other *= 2) {
            max.v[c] = larger(max.v[c], __shfl_xor_sync(FULL_MASK, max.v[c], other));
        }
        if (group.index == 0) max_after[group.channel + c] = larger(max_after[group.channel + c], max.v[c]);
    }
}

// Runs a layer on `rows` rows and raises its maxima, so that chunks of rows accumulate.
__device__ __forceinline__ void run_layer(const FeaturesLayer &layer, bool last, const float *weights, float *shared, Rows from, Rows to, u32 rows,
                                          const float *max_before, float *max_after) {
    const u32 lane = threadIdx.x % WARP;
    const InMemory own = {layer.inputs, layer.width};
    if (layer.width <= WARP) {
        u32 lanes = layer.width;
        Group group = {lane / lanes, WARP / lanes, lane % lanes};
        run_channels<1>(layer, own, last, weights, shared, from, to, rows, group, max_before, max_after);
    } else {
        for (u32 channel = 2 * lane; channel < layer.width; channel += 2 * WARP) {
            Group group = {0, 1, channel};
            run_channels<2>(layer, own, last, weights, shared, from, to, rows, group, max_before, max_after);
        }
    }
}

// Runs any layer, its weights in memory.
struct AnyLayers {
    __device__ __forceinline__ void run(const FeaturesParams &params, u32 l, bool last, const float *weights,
                                        float *shared, Rows from, Rows to, u32 rows, const float *max_before,
                                        float *max_after) const {
        run_layer(params.layer[l], last, weights, shared, from, to, rows, max_before, max_after);
    }
};

// Channels of the first of two layers of `features_pfn_own`.
#define OWN_WIDTH 16

// Runs a layer of OWN_COLUMNS inputs and 32 or 64 channels (CHANNELS of a lane), or, if LAYERS is 2, one of OWN_WIDTH
// and one of 32 channels. What a lane multiplies rows with stays in its registers.
template <int CHANNELS, int LAYERS> struct OwnLayers {
    InRegisters<CHANNELS, OWN_COLUMNS> first;
    InRegisters<1, OWN_WIDTH> second;

    static __device__ __forceinline__ Group group(u32 l) {
        const u32 lane = threadIdx.x % WARP;
        if (LAYERS == 2 && l == 0) return {lane / OWN_WIDTH, WARP / OWN_WIDTH, lane % OWN_WIDTH};
        return {0, 1, CHANNELS * lane};
    }

    __device__ __forceinline__ void read(const FeaturesParams &params, const float *weights) {
        const FeaturesLayer &one = params.layer[0], &two = params.layer[1];
        first.read(weights + one.weights + one.width + group(0).channel, one.width);
        if (LAYERS == 2) second.read(weights + two.weights + (1 + two.maxes) * two.width + group(1).channel, two.width);
    }

    __device__ __forceinline__ void run(const FeaturesParams &params, u32 l, bool last, const float *weights,
                                        float *shared, Rows from, Rows to, u32 rows, const float *max_before,
                                        float *max_after) const {
        if (LAYERS == 2 && l == 1) {
            run_channels<1>(params.layer[1], second, true, weights, shared, from, to, rows, group(1), max_before,
                            max_after);
        } else {
            run_channels<CHANNELS>(params.layer[0], first, last, weights, shared, from, to, rows, group(0), max_before,
                                   max_after);
        }
    }
};

// Reads a lane's point if it is one of the pillar's `kept`, and writes its columns to the lane's row.
template <int COLUMNS>
__device__ __forceinline__ void load_row(const FrameHeader &frame, const u32 *slots, u32 index, u32 kept, float *row) {
    if (index >= kept) return;
    float point[COLUMNS];
    load_point<COLUMNS>(frame, slots[index], point);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        if (c < (int)frame.columns) row[c] = point[c];
    }
}

// The pillar's centre along an axis, as `Grid::center`.
__device__ __forceinline__ float center_of(const FeaturesParams &params, int axis, u32 index) {
    return params.voxel[axis] / 2.0f + (float)index * params.voxel[axis] + params.min[axis];
}

// Completes the row of a lane's point: offsets, then zeros to the end. A padding row is all zeros.
__device__ __forceinline__ void finish_row(const FeaturesParams &params, u32 columns, u32 cell, bool padding,
                                           const float (&mean)[3], float *row) {
    u32 next = padding ? 0 : columns;
    if (!padding && params.mean_offset) {
#pragma unroll
        for (int axis = 0; axis < 3; ++axis) row[next + axis] = row[axis] - mean[axis];
        next += 3;
    }
    if (!padding && params.center_axes) {
        row[next] = row[0] - center_of(params, 0, cell % params.nx);
        row[next + 1] = row[1] - center_of(params, 1, cell / params.nx);
        if (params.center_axes == 3) row[next + 2] = row[2] - center_of(params, 2, 0);
        next += params.center_axes;
    }
    for (; next < params.layer[0].inputs; ++next) row[next] = 0.0f;
}

// Computes one pillar. `shared` is the warp's memory.
template <int COLUMNS, typename Layers>
__device__ __forceinline__ void run_pillar(const FeaturesParams &params, const Layers &layers, const float *weights,
                                           float *shared, u32 pillar) {
    const FrameHeader &frame = *(const FrameHeader *)params.frame;
    const u32 lane = threadIdx.x % WARP, chunk = params.chunk;
    const u32 *slots = (const u32 *)params.slots + (u64)pillar * params.max_points;
    const u32 kept = min(((const u32 *)params.counts)[pillar], params.max_points);
    const u32 rows = kept < params.max_points ? kept + 1 : kept;
    const u32 cell = ((const u32 *)params.cells)[pillar];
    const Rows inputs = {0, params.stride[0]};
    const Rows others = {chunk * inputs.stride, params.stride[1]};
    float *max = shared + others.at + chunk * others.stride;
    float *own = shared + lane * inputs.stride;
    // The row of a lane past the chunk would be outside the buffer.
    const u32 readable = lane < chunk ? kept : 0;

    // Every pillar has a point, so no lane passes this before all have read the last pillar's maxima.
    float mean[3] = {};
    for (u32 first = 0; first < kept; first += chunk) {
        load_row<COLUMNS>(frame, slots, first + lane, readable, own);
        __syncwarp();
        for (u32 r = 0; r < min(chunk, kept - first); ++r) {
#pragma unroll
            for (int axis = 0; axis < 3; ++axis) mean[axis] += shared[r * inputs.stride + axis];
        }
        __syncwarp();
    }
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) mean[axis] = mean[axis] / (float)kept;

    for (u32 c = lane; c < params.max_count; c += WARP) max[c] = 0.0f;

    const bool several = rows > chunk;
    for (u32 last = several ? 0 : params.layers - 1; last < params.layers; ++last) {
        for (u32 first = 0; first < rows; first += chunk) {
            const u32 n = min(chunk, rows - first);
            if (several) load_row<COLUMNS>(frame, slots, first + lane, readable, own);
            if (lane < n) finish_row(params, frame.columns, cell, first + lane == kept, mean, own);
            __syncwarp();
            Rows from = inputs, to = others;
            float *max_before = max, *max_after = max;
            for (u32 l = 0; l <= last; ++l) {
                layers.run(params, l, l == last, weights, shared, from, to, n, max_before, max_after);
                __syncwarp();
                Rows written = to;
                to = from;
                from = written;
                max_before = max_after;
                max_after += params.layer[l].width;
            }
        }
    }
    const float *result = max + params.max_count - params.layer[params.layers - 1].width;
    float *out = (float *)params.out + (u64)pillar * params.channels;
    for (u32 c = lane; c < params.channels; c += WARP) out[c] = result[c];
}

// The pillars of the frame that are this block's, a warp for each.
template <int COLUMNS, typename Layers>
__device__ __forceinline__ void run_block(const FeaturesParams &params, const Layers &layers, const float *weights,
                                          float *floats, u32 pillars) {
    const u32 warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    floats += warp * params.warp_floats;
    for (u32 pillar = blockIdx.x * warps + warp; pillar < pillars; pillar += gridDim.x * warps) {
        run_pillar<COLUMNS>(params, layers, weights, floats, pillar);
    }
}

// All pillars of the frame. SHARED: copies the weights to shared memory first. OWN: those of OwnLayers to registers.
template <int COLUMNS, bool SHARED, bool OWN>
__device__ __forceinline__ void run_pillars(const FeaturesParams &params) {
    DYNAMIC_SHARED(shared);
    float *floats = (float *)shared;
    const float *weights = (const float *)params.weights;
    const u32 pillars = min(*(const u32 *)params.pillars, params.max_pillars);
    if (blockIdx.x * (blockDim.x / WARP) >= pillars) return;
    if (SHARED) {
        for (u32 i = 4 * threadIdx.x; i < params.weight_count; i += 4 * blockDim.x) {
            *(Vector<4> *)(floats + i) = load<4>(weights + i);
        }
        __syncthreads();
        weights = floats;
        floats += params.weight_count;
    }
    if (!OWN) {
        run_block<COLUMNS>(params, AnyLayers(), weights, floats, pillars);
    } else if (params.layers == 2) {
        OwnLayers<1, 2> layers;
        layers.read(params, weights);
        run_block<COLUMNS>(params, layers, weights, floats, pillars);
    } else if (params.layer[0].width == WARP) {
        OwnLayers<1, 1> layers;
        layers.read(params, weights);
        run_block<COLUMNS>(params, layers, weights, floats, pillars);
    } else {
        OwnLayers<2, 1> layers;
        layers.read(params, weights);
        run_block<COLUMNS>(params, layers, weights, floats, pillars);
    }
}

} // namespace

// For models of at most 8 columns whose weights fit into shared memory.
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 3) features_pfn(const FeaturesParams params) {
    run_pillars<8, true, false>(params);
}

// For those among them that OwnLayers runs.
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 2) features_pfn_own(const FeaturesParams params) {
    run_pillars<8, true, true>(params);
}

// For all others: the weights stay in global memory.
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 2) features_pfn_large(const FeaturesParams params) {
    run_pillars<MAX_COLUMNS, false, false>(params);
}
