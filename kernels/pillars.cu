// Voxelisation: which points of the frame belong to which pillar, as `src/pillars.rs`.
//
// Three launches, one thread per point, blocks of TILE threads, a grid for the input's capacity (blocks
// past the frame's points exit at once):
//   pillars_cells   each point's cell; the first point of each cell; the number of first points in each tile
//   pillars_number  numbers the pillars in the order of their first points, and clears their slots
//   pillars_fill    fills each pillar with its first points in input order; counts dropped points
//
// In:  the frame (`FrameHeader`), rows of f32 in the cloud's own columns.
// Out: cells[max_pillars]              cell of each pillar, y * nx + x
//      counts[max_pillars]             kept points of each pillar, 1 to max_points
//      slots[max_pillars][max_points]  the kept points, ascending; undefined past the count
//      totals                          number of pillars, and counts of dropped points
//
// Deterministic in any order of threads: a cell's first point and a pillar's slots are minima, counters
// are sums. Slots: a point that meets a smaller one in a slot moves on to the next slot; a point that meets
// a larger one replaces it, and the larger one moves on. So slot k ends with the k-th smallest point: it
// kept the smallest of all that reached it. A point may start at slot b if its pillar is known to have b
// smaller points.
//
// Caps: cells past max_pillars get the number NO_PILLAR, and their points count as dropped; points past
// max_points drop out of the last slot and are counted. A last slot with a smaller point rejects the rest of
// a crowded cell with one read.
//
// `pillars_fill` clears what the frame touched: the first points of cells (including those without a
// pillar) and the counts of tiles. Everything else is written before it is read.
//
// Bytes, for N points of R columns in C cells with P pillars: reads N * 4R once; writes N * 4 and reads them
// twice; C * 4 three times at random; writes P * 4 * max_points; kept points * 4 to 8 at random within that.
// All but the points fits into L2.
#include "common.cuh"

// Points of a block.
#define TILE 512u
#define WARPS (TILE / WARP)
// In `point_cells`: the point is in no cell. In `first`: the cell has no point. In `slots`: the slot is free.
#define NONE 0xffffffffu
// Number of a cell past the last pillar.
#define NO_PILLAR 0xffffffffu
// Marks the first point of a cell in `point_cells`; a grid has at most 2^26 cells.
#define FIRST 0x80000000u

struct Totals {
    u32 pillars;
    // Dropped points, in the order of `frame::Dropped`.
    u32 non_finite, out_of_range, pillar_points, past_pillars;
    // Sums of `pillars_cells`; `pillars_number` moves them to the fields above and leaves 0.
    u32 found_non_finite, found_out_of_range;
    u32 reserved;
};
static_assert(sizeof(Totals) == 32, "mirrored in src/cuda/pillars.rs");

struct PillarsParams {
    u64 frame;
    // [cells] First point of each cell; NONE between frames.
    u64 first;
    // [capacity] Cell of each point.
    u64 point_cells;
    // [cells] Pillar of each cell that has a point; undefined for others.
    u64 pillar_of_cell;
    // [capacity / TILE] Number of cells whose first point is in the tile; 0 between frames.
    u64 tile_firsts;
    u64 slots, counts, cells, totals;
    // Metres.
    float min[3], max[3];
    // Points from `ignore` to `ignore + 3` are dropped; of no size if none are.
    float ignore[6];
    float voxel[2];
    u32 nx, ny;
    u32 max_points, max_pillars, capacity;
    u32 reserved;
};
static_assert(sizeof(PillarsParams) == 152, "mirrored in src/cuda/pillars.rs");

// Points of the frame.
__device__ __forceinline__ u32 point_count(const PillarsParams &p) {
    return min(((const FrameHeader *)p.frame)->count, p.capacity);
}

// Column or row of a cell: floor((value - least) / size), at most `last`.
__device__ __forceinline__ u32 cell_along(float value, float least, float size, u32 last) {
    float quotient = (value - least) / size;
    return quotient < (float)last ? (u32)quotient : last;
}

extern "C" __global__ void pillars_cells(const PillarsParams p) {
    const u32 count = point_count(p);
    const u32 tile = blockIdx.x;
    if (tile * TILE >= count) return;
    const u32 index = tile * TILE + threadIdx.x;

    u32 cell = NONE;
    bool finite = true, inside = true;
    if (index < count) {
        float row[MAX_COLUMNS];
        load_point(*(const FrameHeader *)p.frame, index, row);
#pragma unroll
        for (int c = 0; c < MAX_COLUMNS; ++c) finite = finite && is_finite(row[c]);
#pragma unroll
        for (int a = 0; a < 3; ++a) inside = inside && p.min[a] <= row[a] && row[a] < p.max[a];
        bool ignored = true;
#pragma unroll
        for (int a = 0; a < 3; ++a) ignored = ignored && p.ignore[a] <= row[a] && row[a] < p.ignore[3 + a];
        inside = inside && !ignored;
        if (finite && inside) {
            u32 x = cell_along(row[0], p.min[0], p.voxel[0], p.nx - 1);
            u32 y = cell_along(row[1], p.min[1], p.voxel[1], p.ny - 1);
            cell = y * p.nx + x;
        }
        ((u32 *)p.point_cells)[index] = cell;
    }

    // Among the lanes of a cell, only the lowest can hold its first point.
    const u32 same = __match_any_sync(FULL_MASK, cell);
    bool lowered = false;
    if (cell != NONE && (same & lanes_below()) == 0) {
        u32 *first = (u32 *)p.first + cell;
        // `first` only decreases, so a stale value that is small enough decides as the newest would.
        if (*(volatile u32 *)first > index) {
            u32 before = atomicMin(first, index);
            lowered = before > index;
            // The cell moves from the tile of its previous first point to this one.
            if (lowered && before != NONE) atomicAdd((u32 *)p.tile_firsts + before / TILE, ~0u);
        }
    }
    const u32 firsts = __syncthreads_count(lowered);
    const u32 non_finite = __syncthreads_count(!finite);
    const u32 out_of_range = __syncthreads_count(finite && !inside);
    if (threadIdx.x == 0) {
        Totals *totals = (Totals *)p.totals;
        if (firsts > 0) atomicAdd((u32 *)p.tile_firsts + tile, firsts);
        if (non_finite > 0) atomicAdd(&totals->found_non_finite, non_finite);
        if (out_of_range > 0) atomicAdd(&totals->found_out_of_range, out_of_range);
    }
}

extern "C" __global__ void pillars_number(const PillarsParams p) {
    __shared__ u32 sums[WARPS];
    const u32 count = point_count(p);
    const u32 tile = blockIdx.x;
    // One block runs even for a frame without points: it writes the totals.
    const u32 tiles = count == 0 ? 1 : (count + TILE - 1) / TILE;
    if (tile >= tiles) return;
    const u32 index = tile * TILE + threadIdx.x;

    // Pillars of the tiles before this one.
    u32 part = 0, begin;
    for (u32 t = threadIdx.x; t < tile; t += TILE) part += ((const u32 *)p.tile_firsts)[t];
    scan_block(part, sums, begin);

    const u32 cell = index < count ? ((const u32 *)p.point_cells)[index] : NONE;
    const bool is_first = cell != NONE && ((const u32 *)p.first)[cell] == index;
    u32 firsts;
    const u32 pillar = begin + scan_block(is_first, sums, firsts);
    const u32 end = begin + firsts;

    u32 *slots = (u32 *)p.slots;
    const u32 slots_end = min(end, p.max_pillars) * p.max_points;
    u32 slot = min(begin, p.max_pillars) * p.max_points + threadIdx.x;
    for (; slot < slots_end; slot += TILE) slots[slot] = NONE;
    __syncthreads();
    if (is_first) {
        const bool fits = pillar < p.max_pillars;
        ((u32 *)p.point_cells)[index] = cell | FIRST;
        ((u32 *)p.pillar_of_cell)[cell] = fits ? pillar : NO_PILLAR;
        if (fits) {
            ((u32 *)p.cells)[pillar] = cell;
            ((u32 *)p.counts)[pillar] = 1;
            slots[pillar * p.max_points] = index;
        }
    }
    if (tile + 1 == tiles && threadIdx.x == 0) {
        Totals *totals = (Totals *)p.totals;
        totals->pillars = min(end, p.max_pillars);
        totals->non_finite = totals->found_non_finite;
        totals->out_of_range = totals->found_out_of_range;
        totals->pillar_points = 0;
        totals->past_pillars = 0;
        totals->found_non_finite = 0;
        totals->found_out_of_range = 0;
    }
}

// Inserts a point into the slots of its pillar, from slot `k` on. Returns whether that filled a free slot:
// otherwise one point, this or another, has dropped out.
__device__ __forceinline__ bool insert(u32 *slots, u32 max_points, u32 k, u32 point) {
    // Slots only decrease, so a stale value that is small enough decides as the newest would.
    if (*(volatile u32 *)(slots + max_points - 1) < point) return false;
    for (; k < max_points; ++k) {
        if (*(volatile u32 *)(slots + k) < point) continue;
        u32 before = atomicMin(slots + k, point);
        if (before == NONE) return true;
        point = max(before, point);
    }
    return false;
}

extern "C" __global__ void pillars_fill(const PillarsParams p) {
    const u32 count = point_count(p);
    const u32 tile = blockIdx.x;
    if (tile * TILE >= count) return;
    const u32 index = tile * TILE + threadIdx.x;
    if (threadIdx.x == 0) ((u32 *)p.tile_firsts)[tile] = 0;

    const u32 marked = index < count ? ((const u32 *)p.point_cells)[index] : NONE;
    const u32 cell = marked & ~FIRST;
    const bool in_cell = marked != NONE;
    const bool is_first = in_cell && (marked & FIRST) != 0;
    if (is_first) ((u32 *)p.first)[cell] = NONE;
    const u32 pillar = in_cell ? ((const u32 *)p.pillar_of_cell)[cell] : NO_PILLAR;

    // The lower lanes of the same pillar hold smaller points, and slot 0 holds the pillar's first point.
    const u32 same = __match_any_sync(FULL_MASK, pillar);
    const u32 begin = max((u32)__popc(same & lanes_below()), 1u);
    bool dropped_out = false;
    if (pillar != NO_PILLAR && !is_first) {
        u32 *slots = (u32 *)p.slots + pillar * p.max_points;
        if (insert(slots, p.max_points, begin, index)) {
            atomicAdd((u32 *)p.counts + pillar, 1u);
        } else {
            dropped_out = true;
        }
    }
    const u32 pillar_points = __syncthreads_count(dropped_out);
    const u32 past_pillars = __syncthreads_count(in_cell && pillar == NO_PILLAR);
    if (threadIdx.x == 0) {
        Totals *totals = (Totals *)p.totals;
        if (pillar_points > 0) atomicAdd(&totals->pillar_points, pillar_points);
        if (past_pillars > 0) atomicAdd(&totals->past_pillars, past_pillars);
    }
}
