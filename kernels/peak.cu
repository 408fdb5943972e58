// The products that tensor cores compute in a second: what the bench of the engine compares layers with. Each warp computes
// CHAINS independent sums of products that are in registers.
//
// In:  nothing.
// Out: a number a thread, so that nothing is left out.
#include "mma.cuh"

#define THREADS 256u
#define CHAINS 8

struct PeakParams {
    // [threads]
    u64 out;
    u32 rounds;
    u32 reserved;
};
static_assert(sizeof(PeakParams) == 16, "mirrored in src/cuda/peak.rs");

template <typename Sum, typename Multiply>
__device__ __forceinline__ void peak(const PeakParams &p, Multiply multiply) {
    Sum sums[CHAINS][4];
#pragma unroll
    for (int chain = 0; chain < CHAINS; ++chain)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[chain][i] = 0;
    // Small codes, or small halves: 1 and 0.
    const u32 a[4] = {threadIdx.x & 0x00010001u, 0x00010000u, 0, threadIdx.x & 0x00000001u};
    for (u32 round = 0; round < p.rounds; ++round) {
#pragma unroll
        for (int chain = 0; chain < CHAINS; ++chain) multiply(sums[chain], a, round & 1u, 0x00010000u);
    }
    Sum all = 0;
#pragma unroll
    for (int chain = 0; chain < CHAINS; ++chain)
#pragma unroll
        for (int i = 0; i < 4; ++i) all += sums[chain][i];
    ((Sum *)p.out)[thread_index()] = all;
}

extern "C" __global__ void __launch_bounds__(THREADS) peak_s8(const PeakParams p) {
    peak<int>(p, [](int(&d)[4], const u32(&a)[4], u32 b0, u32 b1) { mma_s8(d, a, b0, b1); });
}

extern "C" __global__ void __launch_bounds__(THREADS) peak_f16(const PeakParams p) {
    peak<float>(p, [](float(&d)[4], const u32(&a)[4], u32 b0, u32 b1) { mma_f16(d, a, b0, b1); });
}
