// Shared by all kernels: integer names, the frame's input, maps, and small device functions.
//
// nvcc and NVRTC compile the same sources (no standard headers, because NVRTC has none), and so does a C++
// compiler after an emulation header, for tests without a GPU (`tests/emulation/`).
//
// Conventions. A kernel is `extern "C"`, is named `<stage>_<what>` and takes ONE parameter by value: a
// struct of device addresses and numbers that `src/cuda/<stage>.rs` mirrors with `#[repr(C)]`; both sides
// assert its size. Everything that differs from frame to frame is in device memory, so that one recorded
// graph of launches serves every frame. Arithmetic is f32, each operation rounded separately
// (`-fmad=false`), in the order of the CPU stage of the same name, so that both produce the same bytes.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;

// `DYNAMIC_SHARED(name)`: the launch's dynamic shared memory as bytes.
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

#define WARP 32u
#define FULL_MASK 0xffffffffu

// Most columns of a point row, and most sweeps of a frame, as in `src/points/`.
#define MAX_COLUMNS 16
#define MAX_SWEEPS 256

// A sweep of the frame.
struct Sweep {
    // Its first point.
    u32 first;
    // Seconds before the newest sweep.
    float age;
    // Rows of [R | t] that move its points into the newest sweep's frame of reference.
    float motion[12];
};

// The frame's input, written by the host before each frame (`src/cuda/input.rs`).
struct FrameHeader {
    // Address of the points: rows of `stride` f32, in the cloud's own columns.
    u64 points;
    u32 count;
    u32 stride;
    // Columns of the model: each one's position in a row (-1: it is 0) and factor.
    u32 columns;
    int source[MAX_COLUMNS];
    float factor[MAX_COLUMNS];
    // The model's column that the sweep's age is added to, or -1.
    int time;
    // Newest first; sweep 0 stays where it is unless `placed`.
    u32 sweeps;
    u32 placed;
    Sweep sweep[MAX_SWEEPS];
};
static_assert(sizeof(Sweep) == 56, "mirrored in src/cuda/input.rs");
static_assert(sizeof(FrameHeader) == 160 + 56 * MAX_SWEEPS, "mirrored in src/cuda/input.rs");

// `boxes::Box3d`: metres and radians.
struct Box {
    float center[3];
    // Length (along yaw), width, height.
    float size[3];
    float yaw;
    float velocity[2];
    float score;
    u32 class_id;
};
static_assert(sizeof(Box) == 44, "mirrored in src/boxes.rs");

// Variances of a box's values.
struct Variances {
    float center[3];
    float size[3];
    float yaw;
    float velocity[2];
};
static_assert(sizeof(Variances) == 36, "mirrored in src/boxes.rs");

// The boxes of a list, and the candidates dropped before: past the cap, and for non-finite values.
struct BoxTotals {
    u32 count, surplus, non_finite;
    u32 reserved;
};
static_assert(sizeof(BoxTotals) == 16, "mirrored in src/cuda/decode.rs");

// How values of a map are stored.
enum Element { ELEMENT_F32 = 0, ELEMENT_F16 = 1, ELEMENT_I8 = 2 };

// A map in device memory: element (c, y, x) has index
// (c / vector) * stride_c + y * stride_y + x * stride_x + c % vector.
struct Map {
    u64 data;
    u32 element;
    u32 channels, height, width;
    u32 stride_c, stride_y, stride_x;
    // Channels that lie side by side: 1, 2, 4, 8, 16 or 32.
    u32 vector;
    // Value of code 1, if elements are i8.
    float scale;
    u32 reserved;
};
static_assert(sizeof(Map) == 48, "mirrored in src/cuda/map.rs");

__device__ __forceinline__ u32 map_index(const Map &map, u32 c, u32 y, u32 x) {
    return c / map.vector * map.stride_c + y * map.stride_y + x * map.stride_x + c % map.vector;
}

__device__ __forceinline__ bool is_finite(float value) {
    return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
}

__device__ __forceinline__ bool is_nan(float value) {
    return (__float_as_uint(value) & 0x7fffffffu) > 0x7f800000u;
}

// The half-precision number (IEEE binary16) nearest to a value, ties to even; 0x7fff for any NaN.
__device__ __forceinline__ u16 half_bits(float value) {
#ifdef __CUDA_ARCH__
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else
    union { _Float16 half; u16 bits; } as;
    as.half = (_Float16)value;
    return is_nan(value) ? 0x7fffu : as.bits;
#endif
}

// Value of a half-precision number.
__device__ __forceinline__ float half_value(u16 bits) {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#else
    union { u16 bits; _Float16 half; } as;
    as.bits = bits;
    return (float)as.half;
#endif
}

// 1.5 * 2^23: adding a small number rounds it to an integer, half to even, in the low bits of the sum.
#define ROUNDING 12582912.0f

// The code of a number of steps, as `map::quantize` of scale 1: half to even, in -128..=127; 0 for NaN.
__device__ __forceinline__ i8 nearest_code(float steps) {
    if (is_nan(steps)) return 0;
    steps = steps < -128.0f ? -128.0f : steps > 127.0f ? 127.0f : steps;
    return (i8)(__float_as_uint(steps + ROUNDING) & 0xffu);
}

// `Codes::code`: QuantizeLinear. What is rounded before the zero point is added may be too large to round, but then is beyond
// all codes.
__device__ __forceinline__ i8 code_of(float value, float scale, int zero) {
    const float steps = value / scale;
    return nearest_code(zero == 0 ? steps : steps + ROUNDING - ROUNDING + (float)zero);
}

// Rows and columns of a tile of the engine's maps (`src/cuda/tiles.rs`). In a list of tiles, a tile's number takes the low
// TILE_BITS bits; above them is its level, the number of sources of its input that it takes from the background.
#define TILE_H 8u
#define TILE_W 16u
#define TILE_BITS 28u

// Index of this thread in the launch.
__device__ __forceinline__ u32 thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

// This thread's lane, and a mask of the lanes before it, in one-dimensional blocks.
__device__ __forceinline__ u32 lane_index() { return threadIdx.x % WARP; }
__device__ __forceinline__ u32 lanes_below() { return (1u << lane_index()) - 1u; }

// Sum of `value` over the threads of the block before this one; `total` is the sum over all. All threads
// must call it, in blocks of whole warps; `sums` is shared memory for one number per warp.
__device__ __forceinline__ u32 scan_block(u32 value, u32 *sums, u32 &total) {
    u32 upto = value;
    for (u32 step = 1; step < WARP; step *= 2) {
        const u32 before = __shfl_up_sync(FULL_MASK, upto, step);
        if (lane_index() >= step) upto += before;
    }
    const u32 warp = threadIdx.x / WARP;
    // All threads have read an earlier call's sums.
    __syncthreads();
    if (lane_index() == WARP - 1) sums[warp] = upto;
    __syncthreads();
    u32 before = upto - value;
    total = 0;
    for (u32 w = 0; w < blockDim.x / WARP; ++w) {
        if (w < warp) before += sums[w];
        total += sums[w];
    }
    return before;
}

// Reads point `index` into `row` as the model expects it: its columns in order, scaled, moved into the model's
// frame of reference, with its age. Same operations as `PointCloud::select_placed` or, for several sweeps, as
// `SweepBuffer::accumulate_placed`.
template <int COLUMNS>
__device__ __forceinline__ void load_point(const FrameHeader &frame, u32 index, float (&row)[COLUMNS]) {
    u32 sweep = 0, end = frame.sweeps;
    while (sweep + 1 < end) {
        u32 middle = (sweep + end) / 2;
        if (index < frame.sweep[middle].first) end = middle;
        else sweep = middle;
    }
    const int time = sweep == 0 ? -1 : frame.time;
    const float age = frame.sweep[sweep].age;
    const float *from = (const float *)frame.points + (u64)index * frame.stride;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        float value = 0.0f;
        if (c < (int)frame.columns) {
            int source = frame.source[c];
            value = source < 0 ? 0.0f : from[source] * frame.factor[c];
        }
        // Written once, with a constant index: otherwise compilers keep the row in local memory.
        row[c] = c == time ? value + age : value;
    }
    if (sweep == 0 && frame.placed == 0) return;
    const float *m = frame.sweep[sweep].motion;
    float x = row[0], y = row[1], z = row[2];
    row[0] = m[0] * x + m[1] * y + m[2] * z + m[3];
    row[1] = m[4] * x + m[5] * y + m[6] * z + m[7];
    row[2] = m[8] * x + m[9] * y + m[10] * z + m[11];
}
