// The engine's operators that do not run on tensor cores: convolutions of any shape, of codes and of floats, and what acts on
// pixels. The operations and their order are the CPU engine's (`src/engine/cpu`), so are the bytes.
//
// A block of THREADS threads, one for each pixel, takes one job after the other: a tile of TILE_H x TILE_W steps (of
// convolutions, else of output pixels), and of a convolution one phase and one block of LANES output channels.
//
// In, out: maps of codes, halves or f32, NHWC with a border of the value 0, whose channels lie anywhere in a pixel; a list of tiles.
#include "elementary.cuh"

#define THREADS 128u
// Output channels of a block; input channels that are added side by side if the outputs are few.
#define LANES 16

// A tensor of codes, halves or f32.
struct View {
    // Address of position 0 of the map's first pixel.
    u64 data;
    // Position of each channel.
    u64 channels;
    u32 count;
    // Elements from row to row and from pixel to pixel.
    u32 row, pixel;
    u32 element;
    float scale;
    int zero;
};
static_assert(sizeof(View) == 40, "mirrored in src/cuda/direct.rs");

struct DirectPhase {
    u64 weights, multiplier, bias;
    // Rows and columns of the taps, relative to a step's input pixel.
    u64 taps;
    u32 count;
    u32 reserved;
};
static_assert(sizeof(DirectPhase) == 40, "mirrored in src/cuda/direct.rs");

enum DirectOp { AFFINE, ADD, RELU, SIGMOID, QUANTIZE, DEQUANTIZE, DEPTH_TO_SPACE, MAX_POOL };

struct DirectParams {
    View input, output;
    // A residual or a second summand; no channels: none.
    View second;
    u64 tiles, count;
    // [phases] of a convolution; factors and summands of AFFINE.
    u64 phases;
    u64 shift;
    // Of the output.
    u32 height, width;
    // Rows and columns of the input, for windows.
    u32 input_height, input_width;
    u32 kernel[2], stride[2], up[2], pad[2];
    u32 groups;
    // Lanes are input channels.
    u32 narrow;
    u32 relu;
    u32 op;
    u32 block;
    // DEPTH_TO_SPACE: the order of channels is CRD, not DCR.
    u32 crd;
};
static_assert(sizeof(DirectParams) == 224, "mirrored in src/cuda/direct.rs");

// Index of an element from the map's first pixel on; negative in the border before it.
__device__ __forceinline__ long long element(const View &view, u32 channel, int y, int x) {
    return (long long)y * view.row + (long long)x * view.pixel + ((const u32 *)view.channels)[channel];
}

// A value: of codes what they stand for.
__device__ __forceinline__ float value(const View &view, u32 channel, int y, int x) {
    const long long at = element(view, channel, y, x);
    if (view.element == ELEMENT_F32) return ((const float *)view.data)[at];
    if (view.element == ELEMENT_F16) return half_value(((const u16 *)view.data)[at]);
    return ((float)((const i8 *)view.data)[at] - (float)view.zero) * view.scale;
}

// Stores a value, as its code if the map holds codes.
__device__ __forceinline__ void store(const View &view, u32 channel, u32 y, u32 x, float value) {
    const long long at = element(view, channel, (int)y, (int)x);
    if (view.element == ELEMENT_I8) {
        ((i8 *)view.data)[at] = code_of(value, view.scale, view.zero);
    } else if (view.element == ELEMENT_F16) {
        ((u16 *)view.data)[at] = half_bits(value);
    } else {
        ((float *)view.data)[at] = value;
    }
}

__device__ __forceinline__ float positive(float value) { return value > 0.0f ? value : 0.0f; }

// The job's tile and part, and this thread's step of it; false if that is outside the map of `height` x `width` steps.
struct Place {
    u32 part, y, x;
};

__device__ __forceinline__ bool place_of(const DirectParams &p, u32 job, u32 parts, u32 height, u32 width, Place &place) {
    const u32 tiles_x = (width + TILE_W - 1) / TILE_W, tile = ((const u32 *)p.tiles)[job / parts];
    place.part = job % parts;
    place.y = tile / tiles_x * TILE_H + threadIdx.x / TILE_W;
    place.x = tile % tiles_x * TILE_W + threadIdx.x % TILE_W;
    return place.y < height && place.x < width;
}

// Residual, ReLU and store of a convolution's result.
__device__ __forceinline__ void finish(const DirectParams &p, u32 channel, u32 y, u32 x, float result) {
    if (p.second.count != 0) result += value(p.second, channel, (int)y, (int)x);
    store(p.output, channel, y, x, p.relu ? positive(result) : result);
}

// A job of a convolution: the output channels `first` to `first + lanes` of a group at an output pixel.
struct ConvJob {
    DirectPhase phase;
    // Blocks or channels that precede this one in the weights.
    u32 block, first, lanes;
    // The first input channel, and the number of a group's.
    u32 from, channels;
    // Output pixel, and the input pixel of the step.
    u32 y, x;
    int step_y, step_x;
};

// Output channels of a group, and its blocks: of LANES channels, or of one.
__device__ __forceinline__ u32 group_channels(const DirectParams &p) { return p.output.count / p.groups; }
__device__ __forceinline__ u32 group_blocks(const DirectParams &p) {
    return p.narrow ? group_channels(p) : (group_channels(p) + LANES - 1) / LANES;
}

__device__ __forceinline__ bool conv_job(const DirectParams &p, u32 job, ConvJob &run) {
    const u32 per_group = group_channels(p), in_group = group_blocks(p), blocks = p.groups * in_group;
    const u32 height = (p.height + p.up[0] - 1) / p.up[0], width = (p.width + p.up[1] - 1) / p.up[1];
    Place place;
    if (!place_of(p, job, p.up[0] * p.up[1] * blocks, height, width, place)) return false;
    const u32 number = place.part / blocks;
    run.phase = ((const DirectPhase *)p.phases)[number];
    run.block = place.part % blocks;
    const u32 group = run.block / in_group;
    const u32 at = run.block % in_group * (p.narrow ? 1 : LANES);
    run.first = group * per_group + at;
    run.lanes = p.narrow ? 1 : min((u32)LANES, per_group - at);
    run.channels = p.input.count / p.groups;
    run.from = group * run.channels;
    run.y = place.y * p.up[0] + number / p.up[1];
    run.x = place.x * p.up[1] + number % p.up[1];
    run.step_y = (int)(place.y * p.stride[0]);
    run.step_x = (int)(place.x * p.stride[1]);
    return run.y < p.height && run.x < p.width;
}

__device__ __forceinline__ u32 conv_jobs(const DirectParams &p) {
    return *(const u32 *)p.count * p.up[0] * p.up[1] * p.groups * group_blocks(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) direct_conv_s8(const DirectParams p) {
    const u32 jobs = conv_jobs(p);
    for (u32 job = blockIdx.x; job < jobs; job += gridDim.x) {
        ConvJob run;
        if (!conv_job(p, job, run)) continue;
        const u32 quads = (run.channels + 3) / 4, padded = (run.channels + 31) / 32 * 32;
        const i8 *weights = (const i8 *)run.phase.weights;
        int sums[LANES];
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) sums[lane] = 0;
        for (u32 tap = 0; tap < run.phase.count; ++tap) {
            const int2 at = ((const int2 *)run.phase.taps)[tap];
            for (u32 c = 0; c < run.channels; ++c) {
                const long long from = element(p.input, run.from + c, run.step_y + at.x, run.step_x + at.y);
                const int code = (int)((const i8 *)p.input.data)[from] - p.input.zero;
                if (p.narrow) {
                    sums[0] += code * (int)weights[((u64)run.block * run.phase.count + tap) * padded + c];
                } else {
                    const i8 *w = weights + (((u64)run.block * run.phase.count + tap) * quads + c / 4) * (4 * LANES) + c % 4;
#pragma unroll
                    for (int lane = 0; lane < LANES; ++lane) sums[lane] += code * (int)w[lane * 4];
                }
            }
        }
        const u32 constants = run.block * (p.narrow ? 1 : LANES);
        const float *multiplier = (const float *)run.phase.multiplier + constants;
        const float *bias = (const float *)run.phase.bias + constants;
#pragma unroll
        for (u32 lane = 0; lane < LANES; ++lane) {
            if (lane >= run.lanes) break;
            finish(p, run.first + lane, run.y, run.x, (float)sums[lane] * multiplier[lane] + bias[lane]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) direct_conv_f32(const DirectParams p) {
    const u32 jobs = conv_jobs(p);
    for (u32 job = blockIdx.x; job < jobs; job += gridDim.x) {
        ConvJob run;
        if (!conv_job(p, job, run)) continue;
        const float *weights = (const float *)run.phase.weights;
        const float *bias = (const float *)run.phase.bias + run.block * (p.narrow ? 1 : LANES);
        float sums[LANES];
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) sums[lane] = p.narrow ? 0.0f : bias[lane];
        for (u32 tap = 0; tap < run.phase.count; ++tap) {
            const int2 at = ((const int2 *)run.phase.taps)[tap];
            const int y = run.step_y + at.x, x = run.step_x + at.y;
            const u64 row = ((u64)run.block * run.phase.count + tap) * run.channels;
            if (p.narrow) {
                // Lanes are input channels, whose number is a multiple of LANES.
                for (u32 c = 0; c < run.channels; c += LANES) {
#pragma unroll
                    for (u32 lane = 0; lane < LANES; ++lane) {
                        sums[lane] = __fmaf_rn(value(p.input, run.from + c + lane, y, x), weights[row + c + lane], sums[lane]);
                    }
                }
            } else {
                for (u32 c = 0; c < run.channels; ++c) {
                    const float input = value(p.input, run.from + c, y, x);
#pragma unroll
                    for (u32 lane = 0; lane < LANES; ++lane) {
                        sums[lane] = __fmaf_rn(input, weights[(row + c) * LANES + lane], sums[lane]);
                    }
                }
            }
        }
        if (p.narrow) {
            // The sum of the lanes, halves added until one is left. With constant indices, sums stay in registers.
#pragma unroll
            for (int lane = 0; lane < 8; ++lane) sums[lane] += sums[lane + 8];
#pragma unroll
            for (int lane = 0; lane < 4; ++lane) sums[lane] += sums[lane + 4];
            sums[0] = (sums[0] + sums[2]) + (sums[1] + sums[3]) + bias[0];
        }
#pragma unroll
        for (u32 lane = 0; lane < LANES; ++lane) {
            if (lane >= run.lanes) break;
            finish(p, run.first + lane, run.y, run.x, sums[lane]);
        }
    }
}

// Where a window of MAX_POOL begins and ends along an axis.
__device__ __forceinline__ void window(const DirectParams &p, int axis, u32 at, u32 len, u32 &first, u32 &end) {
    const u32 begin = at * p.stride[axis];
    first = begin > p.pad[axis] ? begin - p.pad[axis] : 0;
    end = begin + p.kernel[axis] > p.pad[axis] ? begin + p.kernel[axis] - p.pad[axis] : 0;
    if (end > len) end = len;
}

__device__ __forceinline__ void copy(const View &to, u32 channel, u32 y, u32 x, const View &from, u32 other, u32 i, u32 j) {
    const long long at = element(to, channel, (int)y, (int)x), source = element(from, other, (int)i, (int)j);
    if (to.element == ELEMENT_I8) {
        ((i8 *)to.data)[at] = ((const i8 *)from.data)[source];
    } else if (from.element == ELEMENT_F16) {
        store(to, channel, y, x, half_value(((const u16 *)from.data)[source]));
    } else if (to.element == ELEMENT_F16) {
        ((u16 *)to.data)[at] = half_bits(((const float *)from.data)[source]);
    } else {
        ((float *)to.data)[at] = ((const float *)from.data)[source];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 8) direct_pixels(const DirectParams p) {
    const u32 jobs = *(const u32 *)p.count;
    const float *factor = (const float *)p.phases, *shift = (const float *)p.shift;
    for (u32 job = blockIdx.x; job < jobs; job += gridDim.x) {
        Place place;
        if (!place_of(p, job, 1, p.height, p.width, place)) continue;
        const u32 y = place.y, x = place.x;
        for (u32 c = 0; c < p.output.count; ++c) {
            if (p.op == DEPTH_TO_SPACE) {
                const u32 a = y % p.block, b = x % p.block;
                const u32 from = p.crd ? (c * p.block + a) * p.block + b : (a * p.block + b) * p.output.count + c;
                copy(p.output, c, y, x, p.input, from, y / p.block, x / p.block);
                continue;
            }
            if (p.op == MAX_POOL) {
                u32 top, bottom, left, right;
                window(p, 0, y, p.input_height, top, bottom);
                window(p, 1, x, p.input_width, left, right);
                bool some = false;
                float most = __uint_as_float(0xff800000u);
                u32 best_y = 0, best_x = 0;
                for (u32 i = top; i < bottom; ++i) {
                    for (u32 j = left; j < right; ++j) {
                        const long long at = element(p.input, c, (int)i, (int)j);
                        // Codes compare as the values that they stand for.
                        const float one = p.input.element == ELEMENT_I8 ? (float)((const i8 *)p.input.data)[at]
                                                                        : value(p.input, c, (int)i, (int)j);
                        if (one > most || !some && !is_nan(one)) {
                            some = true;
                            most = one;
                            best_y = i;
                            best_x = j;
                        }
                    }
                }
                if (some) {
                    copy(p.output, c, y, x, p.input, c, best_y, best_x);
                } else if (p.output.element == ELEMENT_I8) {
                    ((i8 *)p.output.data)[element(p.output, c, (int)y, (int)x)] = -128;
                } else {
                    store(p.output, c, y, x, most);
                }
                continue;
            }
            const float v = value(p.input, c, (int)y, (int)x);
            float result = v;
            if (p.op == AFFINE) result = v * factor[c] + shift[c];
            if (p.op == ADD) result = v + value(p.second, c, (int)y, (int)x);
            if (p.op == SIGMOID) result = 1.0f / (1.0f + (float)elementary::exp(-v));
            if (p.relu) result = positive(result);
            store(p.output, c, y, x, result);
        }
    }
}
