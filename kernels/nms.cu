// Non-maximum suppression: keeps the best of overlapping boxes, as `src/nms.rs` with the geometry of
// `src/boxes.rs`.
//
// 2 + 3 launches a step, or 2 + 1 for more boxes than masks are made for:
//   nms_prepare  a thread for each box: its BEV rectangle and its class; all boxes remain
//   nms_list     a block of STEP_BLOCK threads for each group of one step: the group's boxes and their rectangles
//   nms_masks    a block of STEP_BLOCK threads for each tile of TILE times TILE pairs of listed boxes: a mask for each
//                box of the later ones that it overlaps
//   nms_resolve  a block of STEP_BLOCK threads for each group: which of its boxes remain
//   nms_step     all of a step in a block for each group, see below
//   nms_output   one block of OUTPUT_BLOCK threads: copies the remaining boxes, in order, with remapped
//                classes, and writes the totals before them
//
// In:  boxes[count], best first, and their totals (`kernels/decode.cu`).
// Out: `BoxTotals`, then the remaining boxes, best first: one block of memory, for one copy.
//
// A step with masks. The groups' lists form one list, group after group. Bit j of the mask of the i-th box tells that it
// overlaps the j-th of its group, for j > i. A block then walks its group's boxes, TILE at a time: one thread decides
// which of them remain, and all threads collect the boxes that those remove. Three launches, but K^2 / 2 tests spread over
// the whole GPU, for masks of K^2 / 8 bytes.
//
// A step without masks. The block lists its group's remaining boxes, in order, in a part of memory of its own, which starts
// after as many entries as lower groups have boxes, remaining or not (a number that no other block changes
// meanwhile). It processes them in chunks of CHUNK: it tests every box of the chunk against every box of the
// group's list of suppressors and against the earlier ones of the chunk. A box that overlaps a suppressor is
// removed; an overlap within the chunk sets a bit in the earlier box's mask. Then one thread walks the chunk in
// order: it keeps each box that remains, and removes those in its mask. Kept boxes are appended to the list of
// suppressors. Where all boxes suppress (`all_suppress`), removed ones remove those in their masks and are appended,
// too. The first box past the group's cap and all later ones are removed.
//
// IoU: most pairs are far apart and rejected by distance. All threads put the other pairs into a queue and
// clip them together, because a warp takes as long for one pair as for 32.
//
// Deterministic: lists come from ballots and scans; the queue's order depends on the schedule, but it only
// decides who sets a bit first.
//
// Without masks memory grows only with the number of boxes. Bytes, for K boxes, G groups and S suppressors of a group: reads
// 44K and writes 40K once; per step G * 4K for the lists and 16S for each chunk, from cache; writes 44 for each
// remaining box. Time is S * K / groups tests, in one block per group.
#include "elementary.cuh"

#define STEP_BLOCK 256u
#define WARPS (STEP_BLOCK / WARP)
#define OUTPUT_BLOCK 1024u
// Boxes processed at a time: the bits of a mask.
#define CHUNK 64u
// Boxes that a chunk is tested against between two looks at the queue, and the most pairs from that.
#define ROUND 16u
#define ROUND_PAIRS (ROUND * CHUNK)
// Room for the pairs of one round and those left over from earlier rounds.
#define QUEUE (2u * ROUND_PAIRS)
// Boxes along a side of a tile: the bits of a word of a mask. Rows of a tile between two looks at the queue, which has
// room for all their pairs.
#define TILE 64u
#define TILE_ROWS 32u
// Most words of a mask.
#define MASKED_WORDS 128u
// No class.
#define NONE 0xffffffffu
// Corners of an outline that a thread holds, a power of two: those that a clip has not read yet and those that
// it has written are at most 14, see `clip`.
#define RING 16u

// The BEV rectangle of a box; metres.
struct Rect {
    float x, y;
    // Half of the diagonal.
    float radius;
    // In a circle step's lists: the squared radius of the box's class.
    float limit;
    // Half of the length and of the width.
    float half_length, half_width;
    float cos, sin;
};
static_assert(sizeof(Rect) == 32, "allocated in src/cuda/nms.rs");

// Changes a box's class by its BEV area.
struct NmsRemap {
    u32 from, to;
    float min_area, max_area;
};
static_assert(sizeof(NmsRemap) == 16, "mirrored in src/cuda/nms.rs");

// The counters of a frame.
struct NmsTotals {
    BoxTotals boxes;
    // `Totals` of `pillars.cu`; 0 unless they are asked for.
    u32 pillars[8];
};
static_assert(sizeof(NmsTotals) == 48, "mirrored in src/cuda/nms.rs");

struct NmsParams {
    // BoxTotals of the candidates, and the candidates.
    u64 totals, boxes;
    // [capacity] Rect and class of each box, and whether it remains (1 or 0).
    u64 rects, classes, left;
    // [capacity] Indices of the groups' boxes, and rectangles of those that suppress others: a part for each group.
    u64 members, suppressors;
    // [groups] First entry and number of the boxes of each group; [capacity] the end of the group of each listed box;
    // [capacity][words] their masks. 0 without masks.
    u64 spans, ends, masks;
    // [classes] Group of each class in this step; squared radius of each class in a circle step.
    u64 groups, limits;
    // [remap_count] NmsRemap.
    u64 remap;
    // `Totals` of `pillars.cu` to append to the result, or 0.
    u64 pillars;
    // NmsTotals, then boxes.
    u64 out;
    // Variances of the candidates and of the boxes in `out`; 0 if there are none.
    u64 variances, out_variances;
    u32 capacity;
    u32 circle;
    // In an IoU step: greatest IoU that is not an overlap, and square of the distance up to which pairs are compared.
    float threshold, search;
    // Most boxes that a group keeps.
    u32 max_boxes;
    u32 remap_count;
    // Whether removed boxes suppress others, too.
    u32 all_suppress;
    // Words of TILE bits of a mask.
    u32 words;
};
static_assert(sizeof(NmsParams) == 168, "mirrored in src/cuda/nms.rs");

__device__ __forceinline__ u32 box_count(const NmsParams &p) {
    return min(((const BoxTotals *)p.totals)->count, p.capacity);
}

extern "C" __global__ void nms_prepare(const NmsParams p) {
    const u32 i = thread_index();
    if (i >= box_count(p)) return;
    const Box &box = ((const Box *)p.boxes)[i];
    Rect rect;
    rect.x = box.center[0];
    rect.y = box.center[1];
    rect.half_length = box.size[0] * 0.5f;
    rect.half_width = box.size[1] * 0.5f;
    rect.radius = sqrtf(rect.half_length * rect.half_length + rect.half_width * rect.half_width);
    rect.limit = 0.0f;
    double sin, cos;
    elementary::sin_cos(box.yaw, sin, cos);
    rect.cos = (float)cos;
    rect.sin = (float)sin;
    ((Rect *)p.rects)[i] = rect;
    ((u32 *)p.classes)[i] = box.class_id;
    ((u32 *)p.left)[i] = 1;
}

__device__ __forceinline__ float distance_squared(const Rect &a, const Rect &b) {
    const float dx = b.x - a.x, dy = b.y - a.y;
    return dx * dx + dy * dy;
}

// Corners of an outline, in a thread's own part of shared memory: `corner[slot][axis][thread]`.
struct Corners {
    float at[RING][2][STEP_BLOCK];
};

// Area by the shoelace formula, relative to the first corner, from corners one at a time.
struct Area {
    u32 count;
    float first[2], last[2];
    float twice;

    __device__ __forceinline__ void add(float x, float y) {
        if (count == 0) {
            first[0] = x;
            first[1] = y;
        } else {
            twice += (last[0] - first[0]) * (y - first[1]) - (x - first[0]) * (last[1] - first[1]);
        }
        last[0] = x;
        last[1] = y;
        ++count;
    }
};

// Clips the outline of `count` corners from slot `begin` on to where SIGN * coordinate <= limit on AXIS
// (Sutherland and Hodgman 1974); `put(x, y)` is called for each corner of the result, in order.
//
// `put` may append to the ring: the first i of L corners produce at most (3i + 1) / 2, so that with the unread
// ones there are at most L + (i + 1) / 2, which is 14 for L = 9, the most before the last clip.
template <int AXIS, int SIGN, typename Put>
__device__ __forceinline__ void clip(const Corners &corners, u32 begin, u32 count, float limit, Put put) {
    const u32 t = threadIdx.x;
    const float sign = (float)SIGN;
    if (count == 0) return;
    const u32 last = (begin + count - 1) % RING;
    float from[2] = {corners.at[last][0][t], corners.at[last][1][t]};
    for (u32 i = 0; i < count; ++i) {
        const u32 slot = (begin + i) % RING;
        const float to[2] = {corners.at[slot][0][t], corners.at[slot][1][t]};
        const float a = sign * from[AXIS], b = sign * to[AXIS];
        if ((a <= limit) != (b <= limit)) {
            const float part = (limit - a) / (b - a);
            const float other = from[1 - AXIS] + part * (to[1 - AXIS] - from[1 - AXIS]);
            if (AXIS == 0) put(sign * limit, other);
            else put(other, sign * limit);
        }
        if (b <= limit) put(to[0], to[1]);
        from[0] = to[0];
        from[1] = to[1];
    }
}

// Area of the intersection of two rectangles: `b`'s corners in `a`'s frame, clipped at its four sides in turn.
// Corners are in shared memory, because the compiler does not know their number.
__device__ __forceinline__ float intersection(const Rect &a, const Rect &b, Corners &corners) {
    const float dx = b.x - a.x, dy = b.y - a.y;
    const float x = a.cos * dx + a.sin * dy;
    const float y = a.cos * dy - a.sin * dx;
    const float cos = a.cos * b.cos + a.sin * b.sin;
    const float sin = a.cos * b.sin - a.sin * b.cos;
    u32 end = 0;
    const auto append = [&](float px, float py) {
        corners.at[end % RING][0][threadIdx.x] = px;
        corners.at[end % RING][1][threadIdx.x] = py;
        ++end;
    };
    const auto corner = [&](float u, float v) { append(x + (cos * u - sin * v), y + (sin * u + cos * v)); };
    corner(b.half_length, b.half_width);
    corner(-b.half_length, b.half_width);
    corner(-b.half_length, -b.half_width);
    corner(b.half_length, -b.half_width);

    u32 begin = end;
    clip<0, 1>(corners, 0, 4, a.half_length, append);
    u32 next = end;
    clip<0, -1>(corners, begin, next - begin, a.half_length, append);
    begin = next;
    next = end;
    clip<1, 1>(corners, begin, next - begin, a.half_width, append);
    Area area = {};
    clip<1, -1>(corners, next, end - next, a.half_width, [&](float px, float py) { area.add(px, py); });
    return fmaxf(0.5f * area.twice, 0.0f);
}

// Intersection over union, 0 if it is not finite.
__device__ __forceinline__ float iou(const Rect &a, const Rect &b, Corners &corners) {
    const float own = 4.0f * a.half_length * a.half_width;
    const float others = 4.0f * b.half_length * b.half_width;
    const float overlap = fminf(fminf(intersection(a, b, corners), own), others);
    const float ratio = overlap / (own + others - overlap);
    return is_finite(ratio) ? ratio : 0.0f;
}

// Shared memory of a group's block.
struct Step {
    // The boxes of the chunk, and for each one a mask of the later ones that it suppresses.
    Rect chunk[CHUNK];
    u32 masks[CHUNK][CHUNK / 32];
    // Boxes of the chunk that an earlier chunk's box suppresses, and those that remain.
    u32 removed[CHUNK / 32], stay[CHUNK / 32];
    // Pairs to clip: index among the suppressors, then those of the chunk, times CHUNK, plus the later box.
    u32 queue[QUEUE];
    u32 queued;
};

// Records that box `a` (one of `earlier` suppressors, or one of the chunk) overlaps box `b` of the chunk.
__device__ __forceinline__ void suppress(Step &s, u32 earlier, u32 a, u32 b) {
    atomicOr(a < earlier ? &s.removed[b / 32] : &s.masks[a - earlier][b / 32], 1u << b % 32);
}

// Tests the chunk's `size` boxes against `earlier` suppressors and each other. All threads must call it.
__device__ __forceinline__ void test_pairs(const NmsParams &p, Step &s, Corners &corners, const Rect *suppressors,
                                           u32 earlier, u32 size) {
    const u32 b = threadIdx.x % CHUNK;
    for (u32 first = 0; first < earlier + size; first += ROUND) {
        const u32 end = min(first + ROUND, earlier + size);
#pragma unroll 4
        for (u32 a = first + threadIdx.x / CHUNK; a < end; a += STEP_BLOCK / CHUNK) {
            if (b >= size || a >= earlier + b) continue;
            const Rect &before = a < earlier ? suppressors[a] : s.chunk[a - earlier];
            const float distance = distance_squared(before, s.chunk[b]);
            if (p.circle) {
                if (distance < before.limit) suppress(s, earlier, a, b);
            } else {
                const float reach = before.radius + s.chunk[b].radius;
                if (distance <= p.search && !(distance > reach * reach)) {
                    s.queue[atomicAdd(&s.queued, 1u)] = a * CHUNK + b;
                }
            }
        }
        if (p.circle) continue;
        __syncthreads();
        const u32 queued = s.queued;
        // All threads have read it.
        __syncthreads();
        if (queued <= QUEUE - ROUND_PAIRS && end < earlier + size) continue;
        for (u32 i = threadIdx.x; i < queued; i += STEP_BLOCK) {
            const u32 pair = s.queue[i], before = pair / CHUNK, after = pair % CHUNK;
            const Rect rect = before < earlier ? suppressors[before] : s.chunk[before - earlier];
            if (iou(rect, s.chunk[after], corners) > p.threshold) suppress(s, earlier, before, after);
        }
        if (threadIdx.x == 0) s.queued = 0;
        __syncthreads();
    }
}

// Which of the chunk's `size` boxes remain, at most `room`. One thread calls it.
__device__ __forceinline__ void resolve(Step &s, u32 size, u32 room, bool all_suppress) {
    u32 left[CHUNK / 32], stay[CHUNK / 32];
#pragma unroll
    for (u32 w = 0; w < CHUNK / 32; ++w) {
        const u32 bits = size <= 32 * w ? 0 : min(size - 32 * w, 32u);
        left[w] = (bits == 32 ? FULL_MASK : (1u << bits) - 1u) & ~s.removed[w];
        stay[w] = 0;
    }
    if (all_suppress) {
        // What a box removes does not depend on whether it remains.
        for (u32 i = 0; i < size; ++i) {
#pragma unroll
            for (u32 w = 0; w < CHUNK / 32; ++w) left[w] &= ~s.masks[i][w];
        }
    }
#pragma unroll
    for (u32 w = 0; w < CHUNK / 32; ++w) {
        while (left[w] != 0 && room > 0) {
            const u32 bit = __ffs(left[w]) - 1;
            stay[w] |= 1u << bit;
            left[w] &= ~(1u << bit);
            --room;
#pragma unroll
            for (u32 v = w; v < CHUNK / 32; ++v) left[v] &= ~s.masks[32 * w + bit][v];
        }
    }
#pragma unroll
    for (u32 w = 0; w < CHUNK / 32; ++w) s.stay[w] = stay[w];
}

// Group of box `i`, NONE from `end` on.
__device__ __forceinline__ u32 group_of(const NmsParams &p, u32 i, u32 end) {
    return i < end ? ((const u32 *)p.groups)[((const u32 *)p.classes)[i]] : NONE;
}

// Lists the remaining boxes of the block's group, in order, in the group's part of `members`. Returns their number
// and the start of that part. All threads must call it.
__device__ __forceinline__ u32 list_members(const NmsParams &p, u32 &begin) {
    __shared__ u32 own[WARPS], lower[WARPS];
    const u32 count = box_count(p);
    const u32 *left = (const u32 *)p.left;
    const u32 warp = threadIdx.x / WARP;
    // Each warp handles a part of the boxes, in whole steps of a warp.
    const u32 part = (count + STEP_BLOCK - 1) / STEP_BLOCK * WARP;
    const u32 first = min(warp * part, count), end = min(first + part, count);
    u32 mine = 0, before = 0;
    for (u32 i = first; i < end; i += WARP) {
        const u32 box = i + lane_index(), group = group_of(p, box, end);
        mine += __popc(__ballot_sync(FULL_MASK, group == blockIdx.x && left[box]));
        before += __popc(__ballot_sync(FULL_MASK, group < blockIdx.x));
    }
    if (lane_index() == 0) {
        own[warp] = mine;
        lower[warp] = before;
    }
    __syncthreads();
    u32 total = 0, place = 0;
    begin = 0;
    for (u32 w = 0; w < WARPS; ++w) {
        if (w < warp) place += own[w];
        total += own[w];
        begin += lower[w];
    }
    u32 *members = (u32 *)p.members + begin;
    for (u32 i = first; i < end; i += WARP) {
        const u32 box = i + lane_index();
        const bool is_mine = group_of(p, box, end) == blockIdx.x && left[box];
        const u32 found = __ballot_sync(FULL_MASK, is_mine);
        if (is_mine) members[place + __popc(found & lanes_below())] = box;
        place += __popc(found);
    }
    return total;
}

// A group's part of the list of boxes.
struct Span {
    u32 begin, count;
};

// The rectangle of a box, with what a circle step needs.
__device__ __forceinline__ Rect listed_rect(const NmsParams &p, u32 box) {
    Rect rect = ((const Rect *)p.rects)[box];
    if (p.circle) rect.limit = ((const float *)p.limits)[((const u32 *)p.classes)[box]];
    return rect;
}

extern "C" __global__ void nms_list(const NmsParams p) {
    u32 begin;
    const u32 total = list_members(p, begin);
    const u32 *members = (const u32 *)p.members;
    // The list is written.
    __syncthreads();
    for (u32 i = begin + threadIdx.x; i < begin + total; i += STEP_BLOCK) {
        ((Rect *)p.suppressors)[i] = listed_rect(p, members[i]);
        ((u32 *)p.ends)[i] = begin + total;
    }
    if (threadIdx.x == 0) ((Span *)p.spans)[blockIdx.x] = {begin, total};
}

// Shared memory of a tile's block.
struct Tile {
    Rect row[TILE], column[TILE];
    // The end of the group of each row; 0 if there is no such row.
    u32 end[TILE];
    u32 masks[TILE][TILE / 32];
    // Pairs to clip: row times TILE plus column.
    u32 queue[TILE_ROWS * TILE];
    u32 queued;
};

extern "C" __global__ void nms_masks(const NmsParams p) {
    __shared__ Tile s;
    __shared__ Corners corners;
    // Tiles on and above the diagonal, column by column, so that those of few boxes come first.
    u32 column = (u32)((sqrtf(8.0f * (float)blockIdx.x + 1.0f) - 1.0f) * 0.5f);
    while (column * (column + 1) / 2 > blockIdx.x) --column;
    while ((column + 1) * (column + 2) / 2 <= blockIdx.x) ++column;
    const u32 row = blockIdx.x - column * (column + 1) / 2;
    const u32 count = box_count(p);
    // Uniform across the block. Boxes that are not listed have ends of earlier frames, within the list's memory.
    if (column * TILE >= count) return;
    const Rect *rects = (const Rect *)p.suppressors;
    const u32 t = threadIdx.x;
    if (t < TILE) {
        const u32 r = row * TILE + t, c = column * TILE + t;
        s.end[t] = r < count ? ((const u32 *)p.ends)[r] : 0;
        if (r < count) s.row[t] = rects[r];
        if (c < count) s.column[t] = rects[c];
        for (u32 w = 0; w < TILE / 32; ++w) s.masks[t][w] = 0;
    }
    if (t == 0) s.queued = 0;
    __syncthreads();
    const u32 b = t % TILE, later = column * TILE + b;
    for (u32 first = 0; first < TILE; first += TILE_ROWS) {
        for (u32 a = first + t / TILE; a < first + TILE_ROWS; a += STEP_BLOCK / TILE) {
            if (later <= row * TILE + a || later >= s.end[a] || later >= count) continue;
            const float distance = distance_squared(s.row[a], s.column[b]);
            if (p.circle) {
                if (distance < s.row[a].limit) atomicOr(&s.masks[a][b / 32], 1u << b % 32);
            } else {
                const float reach = s.row[a].radius + s.column[b].radius;
                if (distance <= p.search && !(distance > reach * reach)) {
                    s.queue[atomicAdd(&s.queued, 1u)] = a * TILE + b;
                }
            }
        }
        if (p.circle) continue;
        __syncthreads();
        const u32 queued = s.queued;
        // All threads have read it.
        __syncthreads();
        for (u32 i = t; i < queued; i += STEP_BLOCK) {
            const u32 pair = s.queue[i], before = pair / TILE, after = pair % TILE;
            if (iou(s.row[before], s.column[after], corners) > p.threshold) {
                atomicOr(&s.masks[before][after / 32], 1u << after % 32);
            }
        }
        if (t == 0) s.queued = 0;
        __syncthreads();
    }
    __syncthreads();
    if (t < TILE && row * TILE + t < count) {
        ((u64 *)p.masks)[(u64)(row * TILE + t) * p.words + column] = (u64)s.masks[t][1] << 32 | s.masks[t][0];
    }
}

// Bits `from` to `to` - 1.
__device__ __forceinline__ u64 bits_between(u32 from, u32 to) {
    const u64 below_to = to >= TILE ? ~0ull : ((u64)1 << to) - 1;
    return below_to & ~(((u64)1 << from) - 1);
}

extern "C" __global__ void nms_resolve(const NmsParams p) {
    // Boxes of the group that others remove.
    __shared__ u32 removed[2 * MASKED_WORDS];
    // The masks of a tile on the diagonal, and the boxes that remove others and that remain.
    __shared__ u64 diagonal[TILE], removing, staying;
    const Span span = ((const Span *)p.spans)[blockIdx.x];
    // Uniform across the block.
    if (span.count == 0) return;
    const u32 begin = span.begin, end = begin + span.count;
    const u32 first_word = begin / TILE, end_word = (end - 1) / TILE + 1;
    const u64 *masks = (const u64 *)p.masks;
    const u32 *members = (const u32 *)p.members;
    u32 *left = (u32 *)p.left;
    const u32 t = threadIdx.x;
    for (u32 w = 2 * first_word + t; w < 2 * end_word; w += STEP_BLOCK) removed[w] = 0;
    u32 kept = 0, word = first_word;
    for (; word < end_word && kept < p.max_boxes; ++word) {
        const u32 from = begin > word * TILE ? begin - word * TILE : 0, to = min(end - word * TILE, TILE);
        if (t < TILE) diagonal[t] = from <= t && t < to ? masks[(u64)(word * TILE + t) * p.words + word] : 0;
        // What earlier tiles remove is known, too.
        __syncthreads();
        if (t == 0) {
            const u64 own = bits_between(from, to);
            u64 remaining = own & ~((u64)removed[2 * word + 1] << 32 | removed[2 * word]), stay = 0;
            if (p.all_suppress) {
                // What a box removes does not depend on whether it remains.
                for (u32 i = from; i < to; ++i) remaining &= ~diagonal[i];
            }
            for (u32 room = p.max_boxes - kept; remaining != 0 && room > 0; --room) {
                const u32 bit = __ffsll((long long)remaining) - 1;
                stay |= (u64)1 << bit;
                remaining &= ~((u64)1 << bit) & ~diagonal[bit];
            }
            staying = stay;
            removing = p.all_suppress ? own : stay;
        }
        __syncthreads();
        const u64 stay = staying, remove = removing;
        kept += __popcll(stay);
        if (from <= t && t < to && (stay >> t & 1u) == 0) left[members[word * TILE + t]] = 0;
        // Eight threads for each later word, each with every eighth box.
        for (u32 i = t; i < 8 * (end_word - word - 1); i += STEP_BLOCK) {
            const u32 later = word + 1 + i / 8;
            u64 bits = 0;
            for (u32 b = i % 8; b < TILE; b += 8) {
                if (remove >> b & 1u) bits |= masks[(u64)(word * TILE + b) * p.words + later];
            }
            if ((u32)bits != 0) atomicOr(&removed[2 * later], (u32)bits);
            if (bits >> 32 != 0) atomicOr(&removed[2 * later + 1], (u32)(bits >> 32));
        }
        // All threads have read the decision.
        __syncthreads();
    }
    // The group is full.
    for (u32 i = max(word * TILE, begin) + t; i < end; i += STEP_BLOCK) left[members[i]] = 0;
}

extern "C" __global__ void nms_step(const NmsParams p) {
    __shared__ Step s;
    __shared__ Corners corners;
    u32 begin;
    const u32 total = list_members(p, begin);
    const u32 *members = (const u32 *)p.members + begin;
    Rect *suppressors = (Rect *)p.suppressors + begin;
    u32 *left = (u32 *)p.left;
    const bool all_suppress = p.all_suppress;
    u32 kept = 0, earlier = 0;
    u32 first = 0;
    if (threadIdx.x == 0) s.queued = 0;
    for (; first < total && kept < p.max_boxes; first += CHUNK) {
        // The list and the last chunk's suppressors are written; its masks are read.
        __syncthreads();
        const u32 size = min(total - first, CHUNK);
        if (threadIdx.x < size) {
            s.chunk[threadIdx.x] = listed_rect(p, members[first + threadIdx.x]);
        }
        if (threadIdx.x < CHUNK) {
            for (u32 w = 0; w < CHUNK / 32; ++w) s.masks[threadIdx.x][w] = 0;
        }
        if (threadIdx.x < CHUNK / 32) s.removed[threadIdx.x] = 0;
        __syncthreads();
        test_pairs(p, s, corners, suppressors, earlier, size);
        __syncthreads();
        if (threadIdx.x == 0) resolve(s, size, p.max_boxes - kept, all_suppress);
        __syncthreads();
        u32 before = 0, stayed = 0;
        for (u32 w = 0; w < CHUNK / 32; ++w) {
            const u32 stay = s.stay[w];
            stayed += __popc(stay);
            if (w < threadIdx.x / 32) before += __popc(stay);
        }
        if (threadIdx.x < size) {
            const u32 stay = s.stay[threadIdx.x / 32];
            const bool is_kept = stay >> threadIdx.x % 32 & 1u;
            if (all_suppress) {
                suppressors[earlier + threadIdx.x] = s.chunk[threadIdx.x];
            } else if (is_kept) {
                suppressors[earlier + before + __popc(stay & lanes_below())] = s.chunk[threadIdx.x];
            }
            if (!is_kept) left[members[first + threadIdx.x]] = 0;
        }
        kept += stayed;
        earlier += all_suppress ? size : stayed;
    }
    // The group is full.
    for (u32 i = first + threadIdx.x; i < total; i += STEP_BLOCK) left[members[i]] = 0;
}

extern "C" __global__ void nms_output(const NmsParams p) {
    __shared__ u32 sums[OUTPUT_BLOCK / WARP];
    const u32 count = box_count(p);
    const NmsRemap *remap = (const NmsRemap *)p.remap;
    NmsTotals *totals = (NmsTotals *)p.out;
    Box *out = (Box *)(totals + 1);
    u32 written = 0;
    for (u32 first = 0; first < count; first += OUTPUT_BLOCK) {
        const u32 i = first + threadIdx.x;
        const bool is_left = i < count && ((const u32 *)p.left)[i];
        u32 total;
        const u32 place = scan_block(is_left, sums, total);
        if (is_left) {
            Box box = ((const Box *)p.boxes)[i];
            const float area = box.size[0] * box.size[1];
            for (u32 r = 0; r < p.remap_count; ++r) {
                const NmsRemap rule = remap[r];
                if (rule.from == box.class_id && rule.min_area <= area && area <= rule.max_area) {
                    box.class_id = rule.to;
                    break;
                }
            }
            out[written + place] = box;
            if (p.variances != 0) {
                ((Variances *)p.out_variances)[written + place] = ((const Variances *)p.variances)[i];
            }
        }
        written += total;
    }
    if (threadIdx.x == 0) {
        totals->boxes = *(const BoxTotals *)p.totals;
        totals->boxes.count = written;
    }
    if (threadIdx.x < 8) totals->pillars[threadIdx.x] = p.pillars == 0 ? 0 : ((const u32 *)p.pillars)[threadIdx.x];
}
