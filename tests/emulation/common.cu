// Results of functions in `common.cuh`, for the tests: single-precision values of halves (scatter tests the other
// direction), and points as kernels read them.
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

struct PointRows {
    u64 frame;
    // [the frame's points][columns] f32.
    u64 rows;
    u32 columns;
    u32 reserved;
};
static_assert(sizeof(PointRows) == 24, "mirrored in tests/it/cuda/input.rs");

extern "C" __global__ void point_rows(const PointRows p) {
    const FrameHeader &frame = *(const FrameHeader *)p.frame;
    const u32 i = thread_index();
    if (i >= frame.count) return;
    float row[MAX_COLUMNS];
    load_point(frame, i, row);
    for (u32 c = 0; c < p.columns; ++c) ((float *)p.rows)[i * p.columns + c] = row[c];
}
