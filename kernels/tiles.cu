// Which tiles the engine computes: those that see a pixel of the input that is not 0, or that hold what an earlier frame left
// there. All others hold the background, what the network makes of an empty input, from when the engine was made.
//
// `tiles_rows` and `tiles_columns` make a summed-area table of the input's pixels that are not 0: sums[y][x] counts those
// above and left of (y, x). A tile of any layer sees a box of the input, whose sides are tables that the host made; four
// reads tell whether it is empty. `tiles_list` lists the tiles of one layer a block, in order.
//
// In:  the network's input, codes or f32, NHWC; the sides of boxes by row and by column of tiles.
// Out: for each layer its tiles and their number; which tiles differ from the background.
#include "common.cuh"

#define BLOCK 256u
#define WARPS (BLOCK / WARP)

// A layer's tiles.
struct TileLayer {
    // First and last row of the input, plus 1, that a row of tiles sees; the same for columns.
    u64 rows, columns;
    // Whether each tile differs from the background.
    u64 differs;
    // Tiles to compute, and their number.
    u64 tiles, count;
    u32 height, width;
};
static_assert(sizeof(TileLayer) == 48, "mirrored in src/cuda/tiles.rs");

struct TilesParams {
    Map input;
    // [height + 1][width + 1]
    u64 sums;
    // [gridDim.x] of `tiles_list`.
    u64 layers;
};
static_assert(sizeof(TilesParams) == 64, "mirrored in src/cuda/tiles.rs");

// Whether a pixel is not 0. Negative zeros count as other values.
__device__ __forceinline__ bool is_occupied(const Map &map, u32 y, u32 x) {
    const u32 bytes = map.element == ELEMENT_I8 ? 1 : 4, end = map.channels * bytes;
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

// Sums along a row of the input: one block a row.
extern "C" __global__ void __launch_bounds__(BLOCK) tiles_rows(const TilesParams p) {
    __shared__ u32 warps[WARPS];
    const u32 y = blockIdx.x, width = p.input.width;
    u32 *sums = (u32 *)p.sums + (u64)(y + 1) * (width + 1);
    u32 before = 0;
    for (u32 first = 0; first < width; first += BLOCK) {
        const u32 x = first + threadIdx.x;
        const u32 occupied = x < width && is_occupied(p.input, y, x);
        u32 total;
        const u32 sum = before + scan_block(occupied, warps, total) + occupied;
        if (x < width) sums[x + 1] = sum;
        before += total;
    }
}

// Sums along columns of those: a thread a column.
extern "C" __global__ void __launch_bounds__(BLOCK) tiles_columns(const TilesParams p) {
    const u32 x = thread_index(), pitch = p.input.width + 1;
    if (x >= p.input.width) return;
    u32 *sums = (u32 *)p.sums + pitch + x + 1;
    u32 sum = 0;
    for (u32 y = 0; y < p.input.height; ++y) {
        sum += sums[(u64)y * pitch];
        sums[(u64)y * pitch] = sum;
    }
}

// Lists a layer's tiles: one block a layer.
extern "C" __global__ void __launch_bounds__(BLOCK) tiles_list(const TilesParams p) {
    __shared__ u32 warps[WARPS];
    const TileLayer &layer = ((const TileLayer *)p.layers)[blockIdx.x];
    const u32 *sums = (const u32 *)p.sums;
    const u32 pitch = p.input.width + 1, count = layer.height * layer.width;
    u32 listed = 0;
    for (u32 first = 0; first < count; first += BLOCK) {
        const u32 tile = first + threadIdx.x;
        u32 compute = 0;
        if (tile < count) {
            const uint2 rows = ((const uint2 *)layer.rows)[tile / layer.width];
            const uint2 columns = ((const uint2 *)layer.columns)[tile % layer.width];
            const u32 *top = sums + (u64)rows.x * pitch, *bottom = sums + (u64)rows.y * pitch;
            const u32 pixels = bottom[columns.y] - bottom[columns.x] - top[columns.y] + top[columns.x];
            u8 *differs = (u8 *)layer.differs + tile;
            // What an earlier frame left is replaced by the background.
            compute = pixels != 0 || *differs != 0;
            *differs = pixels != 0;
        }
        u32 total;
        const u32 at = listed + scan_block(compute, warps, total);
        if (compute) ((u32 *)layer.tiles)[at] = tile;
        listed += total;
    }
    if (threadIdx.x == 0) *(u32 *)layer.count = listed;
}
