// Tensor cores, loads of matrices and asynchronous copies: the functions of `kernels/mma.cuh`.
//
// The lane that comes last computes a product for its whole warp. Copies are made as late as the waits allow, so what is read
// too early is still garbage.
#pragma once

#include "schedule.h"

namespace emulation {

// Waits for the warp, then calls `apply(lanes)` once; each lane's `value` is the address of its operands.
inline void warp_apply(void (*apply)(Thread *), void *operands, Site site) {
    Warp &warp = state->warps[state->current / LANES];
    const uint32_t others = ~(1u << state->current % LANES);
    // Only the lane that comes last sets it, right before the warp's operation.
    if ((warp.waiting & others) == others) state->apply = apply;
    collective(Collective::Apply, ~0u, (uint64_t)operands, 0, site);
}

// Of sums of type `Sum`.
template <typename Sum>
struct Product {
    Sum *d;
    const uint32_t *a;
    uint32_t b[2];
};

// Eight columns of a row. Sums of 32 products of codes are exact in f32, which is quicker than in integers.
typedef float Columns __attribute__((vector_size(32)));

// Most of the time of a convolution goes into this function.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("avx2", "default"), optimize("O3")))
#endif
static void multiply_codes(Thread *lanes) {
    float a[16][32];
    Columns b[32];
    for (uint32_t lane = 0; lane < LANES; ++lane) {
        const Product<int> &p = *(const Product<int> *)lanes[lane].value;
        for (uint32_t i = 0; i < 8; ++i) {
            const uint32_t part = i / 4, k = lane % 4 * 4 + part * 16 + i % 4, shift = i % 4 * 8;
            a[lane / 4][k] = (int8_t)(p.a[part * 2] >> shift);
            a[lane / 4 + 8][k] = (int8_t)(p.a[part * 2 + 1] >> shift);
            b[k][lane / 4] = (int8_t)(p.b[part] >> shift);
        }
    }
    for (uint32_t row = 0; row < 16; ++row) {
        Columns sums = {};
        for (uint32_t k = 0; k < 32; ++k) sums += a[row][k] * b[k];
        for (uint32_t column = 0; column < 8; ++column) {
            int *d = ((const Product<int> *)lanes[row % 8 * 4 + column / 2].value)->d;
            d[row / 8 * 2 + column % 2] += (int)sums[column];
        }
    }
}

inline float half_of(uint32_t word, uint32_t i) {
    const uint16_t bits = (uint16_t)(word >> 16 * i);
    _Float16 half;
    memcpy(&half, &bits, 2);
    return (float)half;
}

// Products are exact in f32. The order of the sums is this one's own, as a GPU's is.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("avx2", "default"), optimize("O3")))
#endif
static void multiply_halves(Thread *lanes) {
    float a[16][16];
    Columns b[16];
    for (uint32_t lane = 0; lane < LANES; ++lane) {
        const Product<float> &p = *(const Product<float> *)lanes[lane].value;
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t part = i / 2, k = lane % 4 * 2 + part * 8 + i % 2;
            a[lane / 4][k] = half_of(p.a[part * 2], i % 2);
            a[lane / 4 + 8][k] = half_of(p.a[part * 2 + 1], i % 2);
            b[k][lane / 4] = half_of(p.b[part], i % 2);
        }
    }
    for (uint32_t row = 0; row < 16; ++row) {
        Columns sums = {};
        for (uint32_t k = 0; k < 16; ++k) sums += a[row][k] * b[k];
        for (uint32_t column = 0; column < 8; ++column) {
            float *d = ((const Product<float> *)lanes[row % 8 * 4 + column / 2].value)->d;
            d[row / 8 * 2 + column % 2] += sums[column];
        }
    }
}

struct Matrices {
    uint32_t *r;
    const unsigned char *row;
};

inline void give_matrices(Thread *lanes) {
    for (uint32_t lane = 0; lane < LANES; ++lane) {
        for (uint32_t m = 0; m < 4; ++m) {
            const unsigned char *row = ((const Matrices *)lanes[m * 8 + lane / 4].value)->row;
            memcpy(&((const Matrices *)lanes[lane].value)->r[m], row + lane % 4 * 4, 4);
        }
    }
}

inline void copy_now(const Copy &copy) {
    if (copy.from != nullptr) {
        memcpy(copy.to, copy.from, 16);
    } else {
        memset(copy.to, 0, 16);
    }
}

}  // namespace emulation

inline void mma_s8(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, EMULATION_WHERE) {
    emulation::Product<int> product{d, a, {b0, b1}};
    emulation::warp_apply(emulation::multiply_codes, &product, EMULATION_SITE("mma"));
}

inline void mma_f16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, EMULATION_WHERE) {
    emulation::Product<float> product{d, a, {b0, b1}};
    emulation::warp_apply(emulation::multiply_halves, &product, EMULATION_SITE("mma"));
}

inline void load_matrices(unsigned (&r)[4], const void *row, EMULATION_WHERE) {
    if ((uintptr_t)row % 16 != 0) emulation::fail("ldmatrix: a row is not aligned to 16 bytes");
    emulation::Matrices matrices{r, (const unsigned char *)row};
    emulation::warp_apply(emulation::give_matrices, &matrices, EMULATION_SITE("ldmatrix"));
}

inline void copy_16(void *to, const void *from, bool valid) {
    if ((uintptr_t)to % 16 != 0 || (uintptr_t)from % 16 != 0) {
        emulation::fail("cp.async: an address is not aligned to 16 bytes");
    }
    emulation::Copies &copies = emulation::state->copies[emulation::state->current];
    copies.pending.push_back({to, valid ? from : nullptr, copies.group});
}

inline void commit_copies() { emulation::state->copies[emulation::state->current].group += 1; }

template <int N>
void wait_copies() {
    emulation::Copies &copies = emulation::state->copies[emulation::state->current];
    size_t done = 0;
    while (done < copies.pending.size() && copies.pending[done].group + N < copies.group) {
        emulation::copy_now(copies.pending[done++]);
    }
    copies.pending.erase(copies.pending.begin(), copies.pending.begin() + (ptrdiff_t)done);
}
