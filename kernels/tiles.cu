// Which tiles the engine computes, in two passes. First those that see a pixel of the input that is not 0, or that hold what
// an earlier frame left there: all others hold the background, what the network makes of an empty input, from when the engine
// was made. Then, when the heatmaps are complete, the tiles of lazy layers, of which only those are computed that a passing
// cell needs.
//
// `tiles_rows` and `tiles_columns` make a summed-area table of the pixels of a map that are not 0, or of the passing cells of a
// heatmap: sums[y][x] counts those above and left of (y, x). A tile of any layer sees a box of the input, and a box of cells
// needs it, whose sides are tables that the host made; four reads tell whether a box is empty. `tiles_list` lists the tiles of
// one layer a block, in order.
//
// In:  the network's input, NHWC, or heatmaps in f32; the sides of boxes by row and by column of tiles.
// Out: for each layer its tiles and their number; which tiles may differ from the background.
#include "common.cuh"

#define BLOCK 256u
// Threads of `tiles_list`, whose steps wait for memory.
#define LIST_BLOCK 1024u
// Rows that `tiles_columns` reads before it writes one: it would wait for each otherwise.
#define ROWS 32u

// A map whose pixels are counted.
struct TileTable {
    Map map;
    // [height + 1][width + 1]
    u64 sums;
    // [channels] of a heatmap, the least logits that pass; 0: pixels that are not 0 are counted.
    u64 least;
};
static_assert(sizeof(TileTable) == 64, "mirrored in src/cuda/tiles.rs");

// For each tile of a layer a box of a table's map.
struct TileBoxes {
    // Those of the table; 0: no box is empty.
    u64 sums;
    // First and last row of the map, plus 1, by row of tiles; the same for columns.
    u64 rows, columns;
    u32 pitch;
    u32 reserved;
};
static_assert(sizeof(TileBoxes) == 32, "mirrored in src/cuda/tiles.rs");

// A layer's tiles.
struct TileLayer {
    // What a tile sees of the input.
    TileBoxes seen;
    // [needs] TileBoxes: the cells that need a tile, of each heatmap. Without any, all tiles are needed.
    u64 needed_by;
    // [sources] TileBoxes: what a tile sees of the input through each of the first sources of the layer's input.
    u64 source_boxes;
    // Whether each tile may differ from the background.
    u64 differs;
    // Tiles to compute, with their levels, and their number.
    u64 tiles, count;
    u32 height, width;
    u32 needs, sources;
};
static_assert(sizeof(TileLayer) == 88, "mirrored in src/cuda/tiles.rs");

struct TilesParams {
    // [gridDim.y] of `tiles_rows` and `tiles_columns`.
    u64 tables;
    // [gridDim.x] of `tiles_list`.
    u64 layers;
};
static_assert(sizeof(TilesParams) == 16, "mirrored in src/cuda/tiles.rs");

// Whether a pixel is not 0. Negative zeros count as other values.
__device__ __forceinline__ bool is_occupied(const Map &map, u32 y, u32 x) {
    const u32 bytes = map.element == ELEMENT_I8 ? 1 : map.element == ELEMENT_F16 ? 2 : 4, end = map.channels * bytes;
    const u8 *pixel = (const u8 *)map.data + (u64)map_index(map, 0, y, x) * bytes;
    u32 all = 0, at = 0;
    if ((u64)pixel % 16 == 0) {
        for (; at + 16 <= end; at += 16) {
            const uint4 word = *(const uint4 *)(pixel + at);
            all |= word.x | word.y | word.z | word.w;
        }
    }
    for (; at < end; ++at) all |= pixel[at];
    return all != 0;
}

// Whether a logit of a cell reaches its channel's least one, or is NaN.
__device__ __forceinline__ bool is_passing(const Map &heatmap, const float *least, u32 y, u32 x) {
    bool passes = false;
    for (u32 c = 0; c < heatmap.channels; ++c) {
        passes |= !(((const float *)heatmap.data)[map_index(heatmap, c, y, x)] < least[c]);
    }
    return passes;
}

// Sums along a row of a map: one block a row.
extern "C" __global__ void __launch_bounds__(BLOCK) tiles_rows(const TilesParams p) {
    __shared__ u32 warps[BLOCK / WARP];
    const TileTable &table = ((const TileTable *)p.tables)[blockIdx.y];
    const u32 y = blockIdx.x, width = table.map.width;
    if (y >= table.map.height) return;
    u32 *sums = (u32 *)table.sums + (u64)(y + 1) * (width + 1);
    u32 before = 0;
    for (u32 first = 0; first < width; first += BLOCK) {
        const u32 x = first + threadIdx.x;
        u32 counts = 0;
        if (x < width) {
            counts = table.least == 0 ? is_occupied(table.map, y, x)
                                      : is_passing(table.map, (const float *)table.least, y, x);
        }
        u32 total;
        const u32 sum = before + scan_block(counts, warps, total) + counts;
        if (x < width) sums[x + 1] = sum;
        before += total;
    }
}

// Sums along columns of those: a thread a column.
extern "C" __global__ void __launch_bounds__(BLOCK) tiles_columns(const TilesParams p) {
    const TileTable &table = ((const TileTable *)p.tables)[blockIdx.y];
    const u32 x = thread_index(), pitch = table.map.width + 1;
    if (x >= table.map.width) return;
    u32 *sums = (u32 *)table.sums + pitch + x + 1;
    const u32 height = table.map.height;
    u32 sum = 0;
    for (u32 y = 0; y < height; y += ROWS) {
        u32 rows[ROWS];
#pragma unroll
        for (u32 i = 0; i < ROWS; ++i) rows[i] = y + i < height ? sums[(u64)(y + i) * pitch] : 0;
#pragma unroll
        for (u32 i = 0; i < ROWS; ++i) {
            sum += rows[i];
            if (y + i < height) sums[(u64)(y + i) * pitch] = sum;
        }
    }
}

// Whether something is counted in the box of a tile.
__device__ __forceinline__ bool is_filled(const TileBoxes &boxes, u32 tile_y, u32 tile_x) {
    if (boxes.sums == 0) return true;
    const uint2 rows = ((const uint2 *)boxes.rows)[tile_y], columns = ((const uint2 *)boxes.columns)[tile_x];
    const u32 *top = (const u32 *)boxes.sums + (u64)rows.x * boxes.pitch;
    const u32 *bottom = (const u32 *)boxes.sums + (u64)rows.y * boxes.pitch;
    return bottom[columns.y] - bottom[columns.x] - top[columns.y] + top[columns.x] != 0;
}

// Whether a tile is computed. Notes what it then may differ from.
__device__ __forceinline__ bool is_computed(const TileLayer &layer, u32 tile, u32 tile_y, u32 tile_x) {
    bool needed = layer.needs == 0;
    for (u32 i = 0; i < layer.needs; ++i) needed |= is_filled(((const TileBoxes *)layer.needed_by)[i], tile_y, tile_x);
    // What is not needed stays as it is.
    if (!needed) return false;
    u8 *differs = (u8 *)layer.differs + tile;
    const bool seen = is_filled(layer.seen, tile_y, tile_x);
    // What an earlier frame left is replaced by the background.
    const bool computed = seen || *differs != 0;
    // A lazy tile may read pixels that were not computed, and never is the background again.
    *differs = layer.needs == 0 ? seen : computed;
    return computed;
}

// Lists a layer's tiles: one block a layer.
extern "C" __global__ void __launch_bounds__(LIST_BLOCK) tiles_list(const TilesParams p) {
    __shared__ u32 warps[LIST_BLOCK / WARP];
    const TileLayer &layer = ((const TileLayer *)p.layers)[blockIdx.x];
    const u32 count = layer.height * layer.width;
    u32 listed = 0;
    for (u32 first = 0; first < count; first += LIST_BLOCK) {
        const u32 tile = first + threadIdx.x, tile_y = tile / layer.width, tile_x = tile % layer.width;
        const bool computed = tile < count && is_computed(layer, tile, tile_y, tile_x);
        u32 level = 0;
        if (computed) {
            const TileBoxes *sources = (const TileBoxes *)layer.source_boxes;
            while (level < layer.sources && !is_filled(sources[level], tile_y, tile_x)) ++level;
        }
        u32 total;
        const u32 at = listed + scan_block(computed, warps, total);
        if (computed) ((u32 *)layer.tiles)[at] = tile | level << TILE_BITS;
        listed += total;
    }
    if (threadIdx.x == 0) *(u32 *)layer.count = listed;
}
