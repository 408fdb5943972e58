// Scatter: pillar features into the BEV map that the engine reads, as `src/scatter.rs`.
//
// One launch, `scatter_write`: blocks of BLOCK threads, each for WARP pillars, a grid for max_pillars.
// Blocks without work exit at once.
//
// In:  features[max_pillars][channels] f32; cells[max_pillars], the cell y * width + x of each pillar; their
//      count; pillar_of_cell, which shows whether a cell has a pillar.
// Out: the map, in the engine's layout, as f32, f16 (nearest, ties to even) or i8 codes (QuantizeLinear).
//      written[max_pillars], the cells of this frame for the next one; NONE past them.
//
// The map persists and is 0 outside of pillars. The kernel clears the cells of the last frame that have no
// pillar in this one, and writes the others. So it writes no element twice and no order matters; the thread
// that reads an entry of `written` also replaces it.
//
// Where channels are adjacent (NHWC, CHW4, CHW32, HWC8) a warp handles a pillar at a time, with neighbouring
// channels on its lanes; otherwise (NCHW) a channel at a time, with pillars on its lanes.
//
// Bytes, for P pillars of C channels in elements of E: reads 4PC and 4 to 8 max_pillars; writes EPC, and EC
// for each cell to clear.
#include "common.cuh"

#define BLOCK 256u
#define WARPS (BLOCK / WARP)
// No cell, and no index in the map.
#define NONE 0xffffffffu

struct ScatterParams {
    u64 features, cells;
    // Address of the number of pillars.
    u64 count;
    // [cells] Valid if `cells` of the pillar is the cell.
    u64 pillar_of_cell;
    u64 written;
    Map map;
    u32 max_pillars;
    u32 reserved;
};
static_assert(sizeof(ScatterParams) == 96, "mirrored in src/cuda/scatter.rs");

// Writes a value to element `index` of the map's storage.
__device__ __forceinline__ void store(const Map &map, u32 index, float value) {
    if (map.element == ELEMENT_F32) {
        ((float *)map.data)[index] = value;
    } else if (map.element == ELEMENT_F16) {
        ((u16 *)map.data)[index] = half_bits(value);
    } else {
        ((i8 *)map.data)[index] = code_of(value, map.scale, 0);
    }
}

extern "C" __global__ void scatter_write(const ScatterParams p) {
    // Indices of channel 0 in the map: of cells to clear, and of pillars to write.
    __shared__ u32 clear_at[WARP], write_at[WARP];
    const u32 begin = blockIdx.x * WARP;
    const u32 *cells = (const u32 *)p.cells;
    bool busy = false;
    if (threadIdx.x < WARP) {
        const u32 pillar = begin + threadIdx.x;
        u32 old = NONE, now = NONE;
        if (pillar < p.max_pillars) {
            const u32 count = *(const u32 *)p.count;
            u32 *written = (u32 *)p.written + pillar;
            old = *written;
            if (pillar < count) now = cells[pillar];
            if (old != now) *written = now;
            if (old != NONE) {
                u32 owner = ((const u32 *)p.pillar_of_cell)[old];
                if (owner < count && cells[owner] == old) old = NONE;
            }
        }
        const u32 width = p.map.width;
        clear_at[threadIdx.x] = old == NONE ? NONE : map_index(p.map, 0, old / width, old % width);
        write_at[threadIdx.x] = now == NONE ? NONE : map_index(p.map, 0, now / width, now % width);
        busy = old != NONE || now != NONE;
    }
    if (!__syncthreads_or(busy)) return;

    const u32 channels = p.map.channels;
    const float *features = (const float *)p.features + (u64)begin * channels;
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (p.map.vector > 1 || p.map.stride_c == 1) {
        for (u32 c = lane; c < channels; c += WARP) {
            const u32 channel_at = map_index(p.map, c, 0, 0);
            for (u32 pillar = warp; pillar < WARP; pillar += WARPS) {
                const u32 clear = clear_at[pillar], write = write_at[pillar];
                if (clear != NONE) store(p.map, clear + channel_at, 0.0f);
                if (write != NONE) store(p.map, write + channel_at, features[pillar * channels + c]);
            }
        }
    } else {
        const u32 clear = clear_at[lane], write = write_at[lane];
        for (u32 c = warp; c < channels; c += WARPS) {
            const u32 channel_at = map_index(p.map, c, 0, 0);
            if (clear != NONE) store(p.map, clear + channel_at, 0.0f);
            if (write != NONE) store(p.map, write + channel_at, features[lane * channels + c]);
        }
    }
}
