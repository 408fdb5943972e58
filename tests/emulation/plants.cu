// Kernels with planted bugs, for the tests of the emulation (`tests/it/cuda/plants.rs`). Each is correct if
// `planted` is 0, and has the bug that its comment names if it is 1. `in` and `out` hold `count` u32 unless a
// comment says otherwise.
#include "common.cuh"

struct Plant {
    u64 in;
    u64 out;
    u32 count;
    u32 planted;
};
static_assert(sizeof(Plant) == 24, "mirrored in tests/it/cuda/harness.rs");

// Number of threads of the launch.
__device__ __forceinline__ u32 thread_count() { return gridDim.x * blockDim.x; }

// Out: the input in reverse, within each block. Planted: no barrier between writing and reading.
extern "C" __global__ void __launch_bounds__(256) plant_reverse(const Plant p) {
    __shared__ u32 values[256];
    values[threadIdx.x] = ((const u32 *)p.in)[thread_index()];
    if (!p.planted) __syncthreads();
    ((u32 *)p.out)[thread_index()] = values[blockDim.x - 1 - threadIdx.x];
}

// Out: the input's odd numbers in order. One block. Planted: a counter assigns their positions, so that their
// order is that in which the threads arrive.
extern "C" __global__ void __launch_bounds__(256) plant_compact(const Plant p) {
    __shared__ u32 sums[256 / WARP], counter;
    if (threadIdx.x == 0) counter = 0;
    const u32 value = ((const u32 *)p.in)[threadIdx.x], kept = value % 2;
    u32 total;
    const u32 place = scan_block(kept, sums, total);
    if (kept) ((u32 *)p.out)[p.planted ? atomicAdd(&counter, 1u) : place] = value;
}

// Out[0]: sum of the input, out[1]: number of threads. Planted: reads the sum, and writes it after another
// atomic.
extern "C" __global__ void plant_sum(const Plant p) {
    u32 *sum = (u32 *)p.out, *threads = sum + 1;
    const u32 value = ((const u32 *)p.in)[thread_index()];
    if (p.planted) {
        const u32 before = *sum;
        atomicAdd(threads, 1u);
        *sum = before + value;
    } else {
        atomicAdd(threads, 1u);
        atomicAdd(sum, value);
    }
}

// Out[0]: 20 for each block of one thread. Planted: reads it, and writes it after a fence. Correct as long as one
// block runs at a time.
extern "C" __global__ void plant_siblings(const Plant p) {
    volatile u32 *sum = (volatile u32 *)p.out;
    for (u32 i = 0; i < 20; ++i) {
        if (p.planted) {
            const u32 before = *sum;
            __threadfence();
            *sum = before + 1;
        } else {
            __threadfence();
            atomicAdd((u32 *)p.out, 1u);
        }
    }
}

// Out: the sum of each warp's input, in all its lanes. Planted: lane 16 adds lane 0's value before the warp has
// synchronised.
extern "C" __global__ void __launch_bounds__(256) plant_warp(const Plant p) {
    __shared__ u32 sums[256 / WARP];
    u32 &sum = sums[threadIdx.x / WARP];
    if (lane_index() == 0) sum = 0;
    if (!p.planted) __syncwarp();
    atomicAdd(&sum, ((const u32 *)p.in)[thread_index()]);
    __syncwarp();
    ((u32 *)p.out)[thread_index()] = sum;
}

// Out: for each block the number of its threads. Planted: the counter in shared memory is not cleared.
extern "C" __global__ void plant_count(const Plant p) {
    __shared__ u32 counter;
    if (!p.planted && threadIdx.x == 0) counter = 0;
    __syncthreads();
    atomicAdd(&counter, 1u);
    __syncthreads();
    if (threadIdx.x == 0) ((u32 *)p.out)[blockIdx.x] = counter;
}

// Out: what each thread reads from uninitialised static and dynamic shared memory.
extern "C" __global__ void __launch_bounds__(64) plant_garbage(const Plant p) {
    DYNAMIC_SHARED(bytes);
    __shared__ u32 values[64];
    ((u32 *)p.out)[2 * thread_index()] = values[threadIdx.x];
    ((u32 *)p.out)[2 * thread_index() + 1] = ((const u32 *)bytes)[threadIdx.x];
    values[threadIdx.x] = ((u32 *)bytes)[threadIdx.x] = 0;
}

// Out: 1. Planted: the two halves of a block wait at different barriers.
extern "C" __global__ void plant_branch(const Plant p) {
    if (p.planted && threadIdx.x < blockDim.x / 2) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    ((u32 *)p.out)[thread_index()] = 1;
}

// Out: 1 for the first `count` threads. Planted: the others have returned before the barrier.
extern "C" __global__ void plant_return(const Plant p) {
    if (p.planted && thread_index() >= p.count) return;
    __syncthreads();
    if (thread_index() < p.count) ((u32 *)p.out)[thread_index()] = 1;
}

// Out: for the first `count` threads their warp's ballot. Planted: the others have returned before it.
extern "C" __global__ void plant_ballot(const Plant p) {
    if (p.planted && thread_index() >= p.count) return;
    const u32 ballot = __ballot_sync(FULL_MASK, thread_index() < p.count);
    if (thread_index() < p.count) ((u32 *)p.out)[thread_index()] = ballot;
}

// Out: 32 for each thread, as the sum of ones. Planted: half of the lanes are at a barrier.
extern "C" __global__ void plant_wait(const Plant p) {
    u32 sum = 1;
    if (!p.planted || lane_index() < WARP / 2) {
        for (u32 step = WARP / 2; step > 0; step /= 2) sum += __shfl_xor_sync(FULL_MASK, sum, (int)step);
    }
    __syncthreads();
    ((u32 *)p.out)[thread_index()] = sum;
}

// Out[0]: number of blocks that arrived. Planted: they wait for each other.
extern "C" __global__ void plant_spin(const Plant p) {
    atomicAdd((u32 *)p.out, 1u);
    while (p.planted && atomicAdd((u32 *)p.out, 0u) < gridDim.x) {}
}

// Out: the input. Planted: writes one element past the end.
extern "C" __global__ void plant_overrun(const Plant p) {
    for (u32 i = thread_index(); i < p.count + p.planted; i += thread_count()) {
        ((u32 *)p.out)[i] = i < p.count ? ((const u32 *)p.in)[i] : 0;
    }
}

// Out: the input, through 4 · blockDim bytes of dynamic shared memory. Planted: uses it from the second element
// on.
extern "C" __global__ void plant_dynamic(const Plant p) {
    DYNAMIC_SHARED(bytes);
    u32 *values = (u32 *)bytes + p.planted;
    values[threadIdx.x] = ((const u32 *)p.in)[thread_index()];
    __syncthreads();
    ((u32 *)p.out)[thread_index()] = values[threadIdx.x];
}

// Out: the input. Planted: the last thread's index is past the end of the shared array.
extern "C" __global__ void __launch_bounds__(64) plant_static(const Plant p) {
    __shared__ u32 values[64];
    values[threadIdx.x + p.planted] = ((const u32 *)p.in)[thread_index()];
    __syncthreads();
    ((u32 *)p.out)[thread_index()] = values[threadIdx.x + p.planted];
}

// Out: the input, read as pairs. Planted: reads pairs from a misaligned address.
extern "C" __global__ void plant_pairs(const Plant p) {
    const u32 i = 2 * thread_index();
    if (i + 1 + p.planted >= p.count) return;
    const uint2 pair = *(const uint2 *)((const u32 *)p.in + i + p.planted);
    ((u32 *)p.out)[i] = pair.x;
    ((u32 *)p.out)[i + 1] = pair.y;
}

// Out: half of the input. Planted: converts a float that is out of range to u32.
extern "C" __global__ void plant_float(const Plant p) {
    const float value = (float)((const u32 *)p.in)[thread_index()] * (p.planted ? -0.5f : 0.5f);
    ((u32 *)p.out)[thread_index()] = (u32)value;
}

// Out: the threads of the launch in the order in which they reach an atomic on in[0].
extern "C" __global__ void plant_order(const Plant p) {
    const u32 place = atomicAdd((u32 *)p.in, 1u);
    if (place < p.count) ((u32 *)p.out)[place] = thread_index();
}

// Out: the index of each thread; no thread waits for another.
extern "C" __global__ void plant_index(const Plant p) {
    for (u32 i = thread_index(); i < p.count; i += thread_count()) ((u32 *)p.out)[i] = i;
}

// The results of every warp operation, with all lanes and with half of them. In: `count` = 32 values; out: rows of
// 32, as `warp_operations` in `tests/it/cuda/harness.rs` lists them.
extern "C" __global__ void plant_operations(const Plant p) {
    const u32 lane = lane_index();
    const u32 value = ((const u32 *)p.in)[lane];
    u32 *out = (u32 *)p.out + lane;
    u32 row = 0;
    out[WARP * row++] = __shfl_sync(FULL_MASK, value, 5);
    out[WARP * row++] = __shfl_sync(FULL_MASK, value, 3, 8);
    out[WARP * row++] = __shfl_up_sync(FULL_MASK, value, 3);
    out[WARP * row++] = __shfl_down_sync(FULL_MASK, value, 3, 16);
    out[WARP * row++] = __shfl_xor_sync(FULL_MASK, value, 9);
    out[WARP * row++] = __ballot_sync(FULL_MASK, value % 3 == 0);
    out[WARP * row++] = __match_any_sync(FULL_MASK, value % 5);
    out[WARP * row++] = __reduce_add_sync(FULL_MASK, value);
    out[WARP * row++] = (u32)__reduce_min_sync(FULL_MASK, (int)value - 1000);
    out[WARP * row++] = __reduce_or_sync(FULL_MASK, value);
    const u32 half = lane < WARP / 2 ? 0xffffu : 0xffff0000u;
    if (lane < WARP / 2) {
        out[WARP * row] = __reduce_max_sync(half, value);
    } else {
        out[WARP * row] = __reduce_max_sync(half, value + 1);
    }
    row += 1;
    out[WARP * row++] = (u32)__all_sync(half, lane < WARP / 2) + 2 * (u32)__any_sync(half, value == 0);
    const u64 wide = (u64)value << 32 | lane;
    out[WARP * row++] = (u32)(__shfl_xor_sync(FULL_MASK, wide, 1) >> 32);
    out[WARP * row++] = (u32)__syncthreads_count(value % 2 == 0);
}
