// Half precision to single, for the test of `half_value`. The other way is tested through scatter.
#include "common.cuh"

struct HalfValues {
    // [count] u16 and [count] f32.
    u64 halves, values;
    u32 count;
    u32 reserved;
};
static_assert(sizeof(HalfValues) == 24, "mirrored in tests/it/cuda/scatter.rs");

extern "C" __global__ void half_values(const HalfValues p) {
    const u32 i = thread_index();
    if (i < p.count) ((float *)p.values)[i] = half_value(((const u16 *)p.halves)[i]);
}
