// The functions of `kernels/elementary.cuh` as a kernel, for `tests/it/cuda/elementary.rs`.
#include "elementary.cuh"

struct Elementary {
    // [count] f32.
    u64 x, y;
    // [count][4] f64: exp(x), sin(x), cos(x), atan2(y, x).
    u64 out;
    u32 count;
    u32 padding;
};
static_assert(sizeof(Elementary) == 32, "mirrored in tests/it/cuda/elementary.rs");

extern "C" __global__ void elementary_values(const Elementary p) {
    const u32 i = thread_index();
    if (i >= p.count) return;
    const float x = ((const float *)p.x)[i], y = ((const float *)p.y)[i];
    double *out = (double *)p.out + 4 * (u64)i;
    out[0] = elementary::exp(x);
    elementary::sin_cos(x, out[1], out[2]);
    out[3] = elementary::atan2(y, x);
}
