// Kernels with planted bugs, and their correct twins, for the tests of the emulation (`tests/it/cuda/harness.rs`).
#include "common.cuh"

struct Plant {
    u64 in;
    u64 out;
    u32 count;
    u32 reserved;
};
static_assert(sizeof(Plant) == 24, "mirrored in tests/it/cuda/harness.rs");

// out[i] = 2 in[i].
extern "C" __global__ void plant_double(const Plant p) {
    for (u32 i = thread_index(); i < p.count; i += thread_count()) {
        ((u32 *)p.out)[i] = 2 * ((const u32 *)p.in)[i];
    }
}

// out[b] = sum of the block's inputs: warp shuffles, then shared memory.
template <u32 WARPS>
__device__ __forceinline__ u32 block_sum(u32 value) {
    __shared__ u32 sums[WARPS];
    for (u32 step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(FULL_MASK, value, step);
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = value;
    __syncthreads();
    u32 sum = 0;
    for (u32 w = 0; w < WARPS; ++w) sum += sums[w];
    return sum;
}

extern "C" __global__ void __launch_bounds__(256) plant_block_sum(const Plant p) {
    u32 i = thread_index();
    u32 sum = block_sum<8>(i < p.count ? ((const u32 *)p.in)[i] : 0);
    if (threadIdx.x == 0) ((u32 *)p.out)[blockIdx.x] = sum;
}
