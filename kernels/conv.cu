// Convolutions of the engine on tensor cores. Of codes: integer sums, and the CPU engine's conversion of sums to results, as
// `src/engine/cpu/conv.rs`. Of half-precision numbers: sums in f32, in the order of the hardware.
//
// `conv_<type>_k<k>_s<s>_c<c>_n<n>`: codes (s8) or halves (f16), taps within k x k pixels, stride s, c input channels at a time,
// n output channels a block.
// A launch runs up to MAX_GROUP convolutions side by side, one for each row of the grid. Its blocks of THREADS threads take
// one job after the other: a tile of TILE_H x TILE_W steps, one phase and n output channels of it.
//
// In:  codes or halves, NHWC with a border, whose pixels and first channels are aligned to 16 bytes; weights in the order in
//      which a warp's lanes take them (`src/engine/cuda/pack.rs`); constants of the output channels; a list of tiles; for a
//      concatenation the sums of its first sources for an empty input, from which tiles of a level start.
// Out: the same type or f32, NHWC, of the tiles in the list; or the sums themselves.
//
// A patch, all input pixels that a tile's taps read, is copied once for each c channels and read by all taps. Weights
// come with it if they are few, else tap by tap, two taps ahead, into a ring of three. A warp computes two rows of the tile:
// 2 x n / 8 products of 16 x 8 results.
//
// Memory of a job: its patch, n * taps * channels weights, and its results.
#include "mma.cuh"

#define THREADS 128u
#define MAX_TAPS 9
#define MAX_GROUP 8
// Blocks that a multiprocessor shall hold, which limits their registers. The split products of compute capability 7.5 need
// more, and so do the instructions of 10.0 and later.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 800 || __CUDA_ARCH__ >= 1000)
#define RESIDENT 3
#else
#define RESIDENT 4
#endif

// What the jobs of a phase multiply.
struct Phase {
    // Number of taps, and the first byte of their weights.
    u32 taps, weights;
    // Pixel in the patch that each tap reads for the first step.
    u32 offset[MAX_TAPS];
    u32 reserved;
};
static_assert(sizeof(Phase) == 48, "mirrored in src/cuda/conv.rs");

// Most levels of a tile, and of their sums.
#define MAX_LEVELS 3

enum ConvFlags { CONV_RELU = 1, CONV_OUTPUT_F32 = 2, CONV_RESIDUAL_F32 = 4, CONV_START = 8, CONV_SUMS = 16 };

struct Conv {
    // Address of the first channel of the buffer's first pixel, which belongs to the border.
    u64 input;
    u64 weights;
    // For each phase, block and channel of a block: multipliers, then biases, both f32, then what sums start from.
    u64 constants;
    // [phases]
    u64 phases;
    // Address of the first channel of the map's first pixel, or 0.
    u64 residual;
    u64 output;
    // For each level from 1 on, the sums of the channels before it for an empty input, [rows][columns][n * blocks], with rows
    // and columns of whole tiles. CONV_SUMS writes those of a level to the output.
    u64 background;
    // The tiles to compute, and their number.
    u64 tiles, count;
    // Rows and columns of the input's buffer, and bytes from pixel to pixel.
    u32 rows, columns, pixel;
    // Row and column of the buffer where the patch of the first tile begins.
    u32 origin_y, origin_x;
    // Bytes of a pixel's input channels: a multiple of those of c. For each level from 1 on, the bytes of the first sources, which
    // are not multiplied.
    u32 channels, first_channel[MAX_LEVELS];
    // What is multiplied ends here.
    u32 end_channel;
    u32 phase_count;
    // Blocks of n output channels.
    u32 blocks;
    // Output channels: whole copies of 16 bytes, except of f32.
    u32 out_channels;
    u32 height, width;
    // Output pixels of a step.
    u32 up_y, up_x;
    // Elements from row to row and from pixel to pixel.
    u32 out_row, out_pixel, residual_row, residual_pixel;
    u32 flags;
    float residual_scale;
    // The output's codes.
    float scale, inverse_scale;
    int zero;
};
static_assert(sizeof(Conv) == 176, "mirrored in src/cuda/conv.rs");

struct ConvGroup {
    Conv convs[MAX_GROUP];
};

// `nearest_code` in the low byte: one instruction on a device.
__device__ __forceinline__ u32 rounded(float steps) {
#ifdef __CUDA_ARCH__
    u32 code;
    asm("cvt.rni.s8.f32 %0, %1;" : "=r"(code) : "f"(steps));
    return code;
#else
    return (u32)nearest_code(steps);
#endif
}

// `code_of` of a zero point of 0 in the low byte, with a product where it surely gives the code that the division gives.
__device__ __forceinline__ u32 quick_code(float value, float scale, float inverse) {
    const float steps = value * inverse;
    const float rest = steps - (steps + ROUNDING - ROUNDING);
    // For all codes the product is off by less than 1e-4 steps. What is far beyond them, or NaN, may take the slow path.
    if (fabsf(rest) < 0.4999f) return rounded(steps);
    return rounded(value / scale);
}

// The types of the input and of sums.
struct Codes {
    typedef int Sum;
    static constexpr bool HALF = false;
    static constexpr u32 BYTES = 1;
    static __device__ __forceinline__ void multiply(Sum (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma_s8(d, a, b0, b1); }
};

struct Halves {
    typedef float Sum;
    static constexpr bool HALF = true;
    static constexpr u32 BYTES = 2;
    static __device__ __forceinline__ void multiply(Sum (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma_f16(d, a, b0, b1); }
};

// C: bytes of the channels at a time; N: output channels.
template <int K, int STRIDE, int C, int N>
struct Shape {
    static constexpr u32 PATCH_W = (TILE_W - 1) * STRIDE + K, PATCH_H = (TILE_H - 1) * STRIDE + K;
    // The distance of two pixels keeps the rows of a matrix in different banks.
    static constexpr u32 PIXEL = C + 16, PATCH = PATCH_W * PATCH_H * PIXEL;
    // Weights of a tap, and whether those of all taps are copied at once.
    static constexpr u32 TAP = C * N;
    static constexpr bool AT_ONCE = K * K * TAP <= 9216;
};

template <typename T, int K, int STRIDE, int C, int N>
struct Job {
    using S = Shape<K, STRIDE, C, N>;
    // Bytes from pixel to pixel of results in shared memory.
    static constexpr u32 RESULTS = N * T::BYTES + 16;
    typename T::Sum sums[2][N / 8][4];

    // Index in a map of sums of a pair of sums: the `half`th of row `m`, in the `n`th group of 8 channels. `y0`, `x0`: the
    // tile's first step.
    static __device__ __forceinline__ u64 sums_at(const Conv &conv, u32 block, u32 y0, u32 x0, int m, int half, int n) {
        const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const u32 columns = (conv.width + TILE_W - 1) / TILE_W * TILE_W;
        const u64 step = (u64)(y0 + warp * 2 + m) * columns + x0 + half * 8 + lane / 4;
        return (step * conv.blocks + block) * N + (u32)n * 8 + lane % 4 * 2;
    }

    // What sums start from: 0, or at a level the sums of the channels before it.
    __device__ __forceinline__ void start(const Conv &conv, u32 level, u32 block, u32 y0, u32 x0) {
        // One level's rows follow the other's.
        const u32 rows = (conv.height + TILE_H - 1) / TILE_H * TILE_H;
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int n = 0; n < N / 8; ++n)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    int2 pair = make_int2(0, 0);
                    if (N >= 16 && !T::HALF && level != 0) {
                        const u64 at = sums_at(conv, block, (level - 1) * rows + y0, x0, m, half, n);
                        pair = *(const int2 *)((const int *)conv.background + at);
                    }
                    sums[m][n][half * 2] = pair.x;
                    sums[m][n][half * 2 + 1] = pair.y;
                }
    }

    // Writes the sums to the output.
    __device__ __forceinline__ void store(const Conv &conv, u32 block, u32 y0, u32 x0) const {
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int n = 0; n < N / 8; ++n)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    int2 *to = (int2 *)((int *)conv.output + sums_at(conv, block, y0, x0, m, half, n));
                    *to = make_int2((int)sums[m][n][half * 2], (int)sums[m][n][half * 2 + 1]);
                }
    }

    // Adds the products of all taps and of the channels from `first` on. `y`, `x`: the patch's first pixel; `weights`: those
    // of the job.
    __device__ __forceinline__ void multiply(const Conv &conv, const Phase &phase, u32 first, u32 y, u32 x,
                                             const u8 *weights, u8 *patch) {
        u8 *ring = patch + S::PATCH;
        const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, taps = phase.taps;
        for (u32 c = first; c < conv.end_channel; c += C) {
            const u8 *from = weights + (u64)c * taps * N;
            auto load_tap = [&](u32 tap, u32 slot) {
                if (tap < taps) {
                    for (u32 i = threadIdx.x; i < S::TAP / 16; i += THREADS) {
                        copy_16(ring + slot * S::TAP + i * 16, from + tap * S::TAP + i * 16, true);
                    }
                }
                commit_copies();
            };
            for (u32 i = threadIdx.x; i < S::PATCH_H * S::PATCH_W * (C / 16); i += THREADS) {
                const u32 pixel = i / (C / 16), part = i % (C / 16);
                const u32 row = y + pixel / S::PATCH_W, column = x + pixel % S::PATCH_W;
                const bool valid = row < conv.rows && column < conv.columns;
                const u64 at = valid ? ((u64)row * conv.columns + column) * conv.pixel : 0;
                copy_16(patch + pixel * S::PIXEL + part * 16, (const u8 *)conv.input + at + c + part * 16, valid);
            }
            if (S::AT_ONCE) {
                for (u32 i = threadIdx.x; i < taps * (S::TAP / 16); i += THREADS) {
                    copy_16(ring + i * 16, from + i * 16, true);
                }
                commit_copies();
                wait_copies<0>();
                __syncthreads();
            } else {
                load_tap(0, 0);
                load_tap(1, 1);
            }
            u32 slot = 0;
#pragma unroll 1
            for (u32 tap = 0; tap < taps; ++tap) {
                if (!S::AT_ONCE) {
                    wait_copies<1>();
                    __syncthreads();
                    // The slot that all warps have just left.
                    load_tap(tap + 2, slot == 0 ? 2 : slot - 1);
                }
                const u8 *tap_weights = ring + slot * S::TAP, *pixels = patch + phase.offset[tap] * S::PIXEL;
                slot = S::AT_ONCE || slot != 2 ? slot + 1 : 0;
#pragma unroll
                for (int k = 0; k < C / 32; ++k) {
                    u32 a[2][4];
#pragma unroll
                    for (int m = 0; m < 2; ++m) {
                        const u32 row = (warp * 2 + m) * STRIDE, column = lane % 16 * STRIDE;
                        load_matrices(a[m], pixels + (row * S::PATCH_W + column) * S::PIXEL + k * 32 + lane / 16 * 16);
                    }
                    if (N == 8) {
                        const uint2 b = *(const uint2 *)(tap_weights + (k * WARP + lane) * 8);
#pragma unroll
                        for (int m = 0; m < 2; ++m) T::multiply(sums[m][0], a[m], b.x, b.y);
                    }
#pragma unroll
                    for (int n = 0; n < N / 16; ++n) {
                        const uint4 b = *(const uint4 *)(tap_weights + ((k * (N / 16) + n) * WARP + lane) * 16);
#pragma unroll
                        for (int m = 0; m < 2; ++m) {
                            T::multiply(sums[m][2 * n], a[m], b.x, b.y);
                            T::multiply(sums[m][2 * n + 1], a[m], b.z, b.w);
                        }
                    }
                }
            }
            // Neither copies nor readers are left where the next patch or the results go.
            wait_copies<0>();
            __syncthreads();
        }
    }

    // Results of the two channels that start at `channel` of the block: the `half`th of row `m`, `row` and `column` its output
    // pixel. PLAIN: without start values and residual.
    template <bool PLAIN>
    __device__ __forceinline__ float2 results(const Conv &conv, const u8 *constants, int m, int n, int half,
                                              u32 channel, u32 row, u32 column, bool inside) {
        const u32 count = conv.phase_count * conv.blocks * N;
        const u32 at = (u32)n * 8 + threadIdx.x % 4 * 2;
        const float2 multiplier = *(const float2 *)(constants + at * 4);
        const float2 bias = *(const float2 *)(constants + (count + at) * 4);
        typename T::Sum first = sums[m][n][half * 2], second = sums[m][n][half * 2 + 1];
        if (!PLAIN && !T::HALF && conv.flags & CONV_START) {
            const int2 start = *(const int2 *)(constants + (2 * count + at) * 4);
            first += start.x;
            second += start.y;
        }
        float2 y = make_float2((float)first * multiplier.x + bias.x, (float)second * multiplier.y + bias.y);
        if (!PLAIN && conv.residual != 0 && inside && channel < conv.out_channels) {
            const u64 from = (u64)row * conv.residual_row + (u64)column * conv.residual_pixel + channel;
            if (conv.flags & CONV_RESIDUAL_F32) {
                const float *values = (const float *)conv.residual + from;
                y.x += values[0];
                if (channel + 1 < conv.out_channels) y.y += values[1];
            } else if (T::HALF) {
                const u16 *halves = (const u16 *)conv.residual + from;
                y.x += half_value(halves[0]);
                y.y += half_value(halves[1]);
            } else {
                const i8 *codes = (const i8 *)conv.residual + from;
                y.x += (float)codes[0] * conv.residual_scale;
                y.y += (float)codes[1] * conv.residual_scale;
            }
        }
        if (conv.flags & CONV_RELU) {
            y.x = y.x > 0.0f ? y.x : 0.0f;
            y.y = y.y > 0.0f ? y.y : 0.0f;
        }
        return y;
    }

    // Writes the results: f32 to the output, else to shared memory, with RESULTS bytes a pixel. `y0`, `x0`: the tile's first step.
    template <bool PLAIN>
    __device__ __forceinline__ void finish(const Conv &conv, u32 part, u32 y0, u32 x0, u8 *results_of_tile) {
        const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const u32 number = part / conv.blocks, block = part % conv.blocks;
        const u8 *constants = (const u8 *)conv.constants + (u64)part * N * 4;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const u32 pixel = (warp * 2 + m) * TILE_W + half * 8 + lane / 4;
                const u32 row = (y0 + pixel / TILE_W) * conv.up_y + number / conv.up_x;
                const u32 column = (x0 + pixel % TILE_W) * conv.up_x + number % conv.up_x;
                const bool inside = row < conv.height && column < conv.width;
#pragma unroll
                for (int n = 0; n < N / 8; ++n) {
                    const u32 in_block = (u32)n * 8 + lane % 4 * 2, channel = block * N + in_block;
                    const float2 y = results<PLAIN>(conv, constants, m, n, half, channel, row, column, inside);
                    if (!PLAIN && conv.flags & CONV_OUTPUT_F32) {
                        if (!inside) continue;
                        float *to = (float *)conv.output + (u64)row * conv.out_row + (u64)column * conv.out_pixel;
                        if (channel < conv.out_channels) to[channel] = y.x;
                        if (channel + 1 < conv.out_channels) to[channel + 1] = y.y;
                    } else if (N >= 16 && T::HALF) {
                        const u32 pair = half_bits(y.x) | (u32)half_bits(y.y) << 16;
                        *(u32 *)(results_of_tile + pixel * RESULTS + in_block * 2) = pair;
                    } else if (N >= 16) {
                        u32 first, second;
                        if (PLAIN || conv.zero == 0) {
                            first = quick_code(y.x, conv.scale, conv.inverse_scale);
                            second = quick_code(y.y, conv.scale, conv.inverse_scale);
                        } else {
                            first = (u32)code_of(y.x, conv.scale, conv.zero);
                            second = (u32)code_of(y.y, conv.scale, conv.zero);
                        }
                        *(u16 *)(results_of_tile + pixel * RESULTS + in_block) = (u16)((first & 0xffu) | second << 8);
                    }
                }
            }
        }
    }
};

template <typename T, int K, int STRIDE, int C, int N>
__device__ __forceinline__ void conv_tiles(const ConvGroup &group) {
    using S = Shape<K, STRIDE, C, N>;
    DYNAMIC_SHARED(shared);
    const Conv &conv = group.convs[blockIdx.y];
    const u32 steps_x = (conv.width + conv.up_x - 1) / conv.up_x, tiles_x = (steps_x + TILE_W - 1) / TILE_W;
    const u32 parts = conv.phase_count * conv.blocks, jobs = *(const u32 *)conv.count * parts;
    for (u32 job = blockIdx.x; job < jobs; job += gridDim.x) {
        const u32 entry = ((const u32 *)conv.tiles)[job / parts], part = job % parts;
        const u32 tile = entry % (1u << TILE_BITS), level = entry >> TILE_BITS;
        const u32 number = part / conv.blocks, block = part % conv.blocks;
        const Phase &phase = ((const Phase *)conv.phases)[number];
        const u32 y0 = tile / tiles_x * TILE_H, x0 = tile % tiles_x * TILE_W;
        const u8 *weights = (const u8 *)conv.weights + phase.weights + (u64)block * N * phase.taps * conv.channels;
        Job<T, K, STRIDE, C, N> run;
        const u32 first = N >= 16 && !T::HALF && level != 0 ? conv.first_channel[level - 1] : 0;
        run.start(conv, level, block, y0, x0);
        run.multiply(conv, phase, first, conv.origin_y + y0 * STRIDE, conv.origin_x + x0 * STRIDE, weights, shared);
        if (N >= 16 && !T::HALF && conv.flags & CONV_SUMS) {
            run.store(conv, block, y0, x0);
            continue;
        }

        // Most convolutions: apart, because tests within the loop cost as much as the arithmetic.
        const bool plain = conv.residual == 0 && conv.zero == 0 && (conv.flags & (CONV_START | CONV_OUTPUT_F32)) == 0;
        if (N >= 16 && plain) {
            run.template finish<true>(conv, part, y0, x0, shared);
        } else {
            run.template finish<false>(conv, part, y0, x0, shared);
        }
        if (N < 16 || conv.flags & CONV_OUTPUT_F32) continue;
        constexpr u32 PART = 16 / T::BYTES, PARTS = (N + PART - 1) / PART;
        __syncthreads();
        for (u32 i = threadIdx.x; i < TILE_H * TILE_W * PARTS; i += THREADS) {
            const u32 pixel = i / PARTS, channel = block * N + i % PARTS * PART;
            const u32 row = (y0 + pixel / TILE_W) * conv.up_y + number / conv.up_x;
            const u32 column = (x0 + pixel % TILE_W) * conv.up_x + number % conv.up_x;
            if (row >= conv.height || column >= conv.width || channel >= conv.out_channels) continue;
            const u64 to = (u64)row * conv.out_row + (u64)column * conv.out_pixel + channel;
            *(uint4 *)((u8 *)conv.output + to * T::BYTES) = *(const uint4 *)(shared + pixel * run.RESULTS + i % PARTS * 16);
        }
        // The next job's patch goes to the same memory.
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_s8_k1_s1_c32_n8(const ConvGroup p) { conv_tiles<Codes, 1, 1, 32, 8>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_s8_k1_s1_c32_n32(const ConvGroup p) { conv_tiles<Codes, 1, 1, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, 3) conv_s8_k1_s1_c64_n64(const ConvGroup p) { conv_tiles<Codes, 1, 1, 64, 64>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_s8_k1_s2_c32_n32(const ConvGroup p) { conv_tiles<Codes, 1, 2, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_s8_k3_s1_c32_n8(const ConvGroup p) { conv_tiles<Codes, 3, 1, 32, 8>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_s8_k3_s1_c32_n32(const ConvGroup p) { conv_tiles<Codes, 3, 1, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_s8_k3_s1_c32_n64(const ConvGroup p) { conv_tiles<Codes, 3, 1, 32, 64>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_s8_k3_s1_c64_n64(const ConvGroup p) { conv_tiles<Codes, 3, 1, 64, 64>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_s8_k3_s2_c32_n32(const ConvGroup p) { conv_tiles<Codes, 3, 2, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_s8_k3_s2_c32_n64(const ConvGroup p) { conv_tiles<Codes, 3, 2, 32, 64>(p); }

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_f16_k1_s1_c16_n8(const ConvGroup p) { conv_tiles<Halves, 1, 1, 32, 8>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_f16_k1_s1_c16_n32(const ConvGroup p) { conv_tiles<Halves, 1, 1, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, 3) conv_f16_k1_s1_c32_n64(const ConvGroup p) { conv_tiles<Halves, 1, 1, 64, 64>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_f16_k1_s2_c16_n32(const ConvGroup p) { conv_tiles<Halves, 1, 2, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_f16_k3_s1_c16_n8(const ConvGroup p) { conv_tiles<Halves, 3, 1, 32, 8>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_f16_k3_s1_c16_n32(const ConvGroup p) { conv_tiles<Halves, 3, 1, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_f16_k3_s1_c16_n64(const ConvGroup p) { conv_tiles<Halves, 3, 1, 32, 64>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_f16_k3_s1_c32_n64(const ConvGroup p) { conv_tiles<Halves, 3, 1, 64, 64>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_f16_k3_s2_c16_n32(const ConvGroup p) { conv_tiles<Halves, 3, 2, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) conv_f16_k3_s2_c16_n64(const ConvGroup p) { conv_tiles<Halves, 3, 2, 32, 64>(p); }
