// Decode: the head maps of all tasks into candidate boxes, best first, as `src/decode.rs`.
//
// Four launches (the first and the last once for every TASKS_PER_LAUNCH tasks):
//   decode_cells   a warp for each REGION of REGION_CELLS cells, blocks of CELLS_BLOCK threads, y is the task:
//                  marks cells by their logits, tests the marked ones, lists the keys of those that pass
//   decode_select  a block of SELECT_BLOCK threads for each task: numbers the keys of its regions, selects
//                  the best max_candidates (radix select, most significant byte first), counts the rest; if there
//                  are more, it moves the keys together first
//   decode_sort    a block of SORT_BLOCK threads for each TILE of the selected keys of all tasks: sorts it
//   decode_boxes   a thread for each key: its rank is its position in its tile plus, for each other tile, the
//                  number of smaller keys there (binary search); writes the box at its rank
//
// In:  per task six maps (`Output`), each [channels, height, width] in f32 or f16, in the engine's layout.
// Out: boxes[total] and slots[total], best first; `BoxTotals`.
//
// The slots of a frame number (task, cell, class) in ascending order; a candidate has a slot. Its key is the
// complement of its score's bits, then the slot: unique, and ascending in the order of `Candidate::rank`
// (scores are not negative, so their bits order as they do).
//
// Deterministic: positions in lists come from ballots and scans; the counters of a digit are sums; keys are
// unique, so there is only one selection and one sorted order.
//
// Caps: keys of a task past max_candidates count as surplus. A region's list has room for every cell (with
// `class_cell`, for every class of every cell), so the marked cells cannot overflow it.
// Nothing is cleared between frames: a frame writes everything that it reads.
//
// Bytes, for C heatmap channels on N cells in elements of E, with K candidates: reads ECN once (the floor),
// then 10E (20E with variances) and, for the best class, EC for each marked cell at random; writes and reads 8K about four times;
// N / 32 for the regions' counts; writes 48 (84) for each box.
#include "elementary.cuh"

#define TASKS_PER_LAUNCH 8
#define CELLS_BLOCK 128u
#define SELECT_BLOCK 1024u
#define SORT_BLOCK 512u

// Cells that a warp scans: STEPS times WARP.
#define STEPS 8u
#define REGION_CELLS (STEPS * WARP)
// Keys that a block sorts, two per thread.
#define TILE (2u * SORT_BLOCK)
// Pads the last tile: larger than every key, because slots end before 2^32 - 1.
#define NO_KEY 0xffffffffffffffffull

// The maps of a task, as `model::OUTPUT_KINDS`.
enum Output { HEATMAP, REG, HEIGHT, DIM, ROT, VEL, OUTPUTS };

struct DecodeTask {
    // Classes of the task; the channels of its heatmap.
    u32 classes;
    // Its first entry among the channels of all tasks.
    u32 channel;
};

// A heatmap channel.
struct DecodeChannel {
    u32 class_id;
    // Rank of its class among those of its task, ascending.
    u32 rank;
    // The channel of its task whose rank is this channel's position.
    u32 by_rank;
    // Least logit that passes in any band.
    float least;
    float yaw_norm;
};
static_assert(sizeof(DecodeTask) == 8 && sizeof(DecodeChannel) == 20, "mirrored in src/cuda/decode.rs");

// The candidates of a task, by `decode_select`.
struct DecodeTaskCounts {
    u32 count, surplus, non_finite;
};

static_assert(sizeof(DecodeTaskCounts) == 12, "mirrored in src/cuda/decode.rs");

struct DecodeMaps {
    // [tasks] DecodeTask and [channels] DecodeChannel.
    u64 tasks, channels;
    // [bands] Upper bounds, and [bands][channels] least logits.
    u64 bands, logits;
    // [regions of all tasks][region_keys] Keys; [regions] their number, and that of non-finite cells.
    u64 keys, found, non_finite;
    // Sorted tiles; [tasks] DecodeTaskCounts.
    u64 sorted, counts;
    u64 boxes, slots;
    // [max_boxes] Variances; 0 if the maps have none.
    u64 variances;
    // The task of the first maps, and the number of all tasks.
    u32 first_task, task_count;
    u32 width, height;
    // Regions of a task.
    u32 regions;
    u32 class_cell, band_count, channel_count;
    // Metres of a head cell along x and y; least x and y.
    float cell[2], min[2];
    // Least and greatest x, y, z of a box's centre.
    float center_min[3], center_max[3];
    // 1 if sizes are width, length, height; 1 if the rotation is (-cos, -sin).
    u32 wlh, neg_cos_neg_sin;
    Map maps[TASKS_PER_LAUNCH][OUTPUTS];
};
static_assert(sizeof(DecodeMaps) == 176 + TASKS_PER_LAUNCH * OUTPUTS * 48, "mirrored in src/cuda/decode.rs");

struct DecodeLists {
    u64 tasks;
    // As in DecodeMaps. `decode_select` replaces `found` by the number of keys before each region.
    u64 keys, found, non_finite;
    // [tasks][max_candidates] Selected keys; [tasks] DecodeTaskCounts.
    u64 selected, counts;
    u64 sorted, totals;
    u32 task_count, regions;
    u32 class_cell, max_candidates;
};
static_assert(sizeof(DecodeLists) == 80, "mirrored in src/cuda/decode.rs");

__device__ __forceinline__ float element_value(float stored) { return stored; }
__device__ __forceinline__ float element_value(u16 stored) { return half_value(stored); }

__device__ __forceinline__ float map_value(const Map &map, u32 c, u32 y, u32 x) {
    const u32 index = map_index(map, c, y, x);
    return map.element == ELEMENT_F32 ? ((const float *)map.data)[index]
                                      : half_value(((const u16 *)map.data)[index]);
}

// For each step, whether a logit of the lane's cell is not below its channel's least one; NaN is not.
template <typename Stored>
__device__ __forceinline__ u32 mark_cells(const Map &heatmap, const DecodeChannel *channels, u32 count,
                                          const u32 (&at)[STEPS]) {
    u32 marked = 0;
    for (u32 c = 0; c < count; ++c) {
        const Stored *plane = (const Stored *)heatmap.data + map_index(heatmap, c, 0, 0);
        const float least = channels[c].least;
#pragma unroll
        for (u32 s = 0; s < STEPS; ++s) {
            marked |= (u32) !(element_value(plane[at[s]]) < least) << s;
        }
    }
    return marked;
}

// The maps' values at a cell.
struct Measured {
    // Whether no value is NaN or infinite.
    bool finite;
    float center[3];
    // In the order of the channels.
    float size[3];
    float rot[2], velocity[2];
};

__device__ __forceinline__ Measured measure(const DecodeMaps &p, const Map *maps, u32 y, u32 x) {
    Measured m;
    const float reg_x = map_value(maps[REG], 0, y, x), reg_y = map_value(maps[REG], 1, y, x);
    m.finite = is_finite(reg_x) && is_finite(reg_y);
    m.center[0] = ((float)x + reg_x) * p.cell[0] + p.min[0];
    m.center[1] = ((float)y + reg_y) * p.cell[1] + p.min[1];
    m.center[2] = map_value(maps[HEIGHT], 0, y, x);
    m.finite = m.finite && is_finite(m.center[0]) && is_finite(m.center[1]) && is_finite(m.center[2]);
#pragma unroll
    for (u32 i = 0; i < 3; ++i) {
        const float log = map_value(maps[DIM], i, y, x);
        m.size[i] = (float)elementary::exp(log);
        m.finite = m.finite && is_finite(log) && is_finite(m.size[i]);
    }
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
        m.rot[i] = map_value(maps[ROT], i, y, x);
        m.velocity[i] = map_value(maps[VEL], i, y, x);
        m.finite = m.finite && is_finite(m.rot[i]) && is_finite(m.velocity[i]);
    }
    return m;
}

// exp of the value at a cell, evaluated in double. Clears `finite` if either is NaN or infinite.
__device__ __forceinline__ double exp_value(const Map &map, u32 c, u32 y, u32 x, bool &finite) {
    const float log = map_value(map, c, y, x);
    const double value = elementary::exp(log);
    finite = finite && is_finite(log) && is_finite((float)value);
    return value;
}

// The variances of the values at a cell, whose logarithms are the channels after them; `finite` tells whether all are.
__device__ __forceinline__ Variances measure_variances(const DecodeMaps &p, const Map *maps, u32 y, u32 x,
                                                       bool &finite) {
    Variances v;
    finite = true;
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
        v.center[i] = p.cell[i] * (float)exp_value(maps[REG], 2 + i, y, x, finite);
        v.velocity[i] = (float)exp_value(maps[VEL], 2 + i, y, x, finite);
    }
    v.center[2] = (float)exp_value(maps[HEIGHT], 1, y, x, finite);
#pragma unroll
    for (u32 i = 0; i < 3; ++i) v.size[i] = (float)exp_value(maps[DIM], 3 + i, y, x, finite);
    if (p.wlh) {
        const float width = v.size[0];
        v.size[0] = v.size[1];
        v.size[1] = width;
    }
    const double rot_0 = (double)map_value(maps[ROT], 0, y, x), rot_1 = (double)map_value(maps[ROT], 1, y, x);
    const double a = rot_0 * rot_0, b = rot_1 * rot_1, norm = a + b;
    const float log_a = map_value(maps[ROT], 2, y, x), log_b = map_value(maps[ROT], 3, y, x);
    v.yaw = (float)((b * elementary::exp(log_a) + a * elementary::exp(log_b)) / (norm * norm));
    finite = finite && is_finite(log_a) && is_finite(log_b) && is_finite(v.yaw) && is_finite(v.center[0]) &&
             is_finite(v.center[1]);
    return v;
}

// The outcome of a cell and class; refused means below a threshold, beyond the last band, or outside the range of
// centres.
enum Verdict { REFUSE, KEEP, NON_FINITE };

// `c` is the channel among those of all tasks.
__device__ __forceinline__ Verdict judge(const DecodeMaps &p, const Map *maps, u32 c, u32 y, u32 x, float logit) {
    const DecodeChannel &channel = ((const DecodeChannel *)p.channels)[c];
    if (logit < channel.least) return REFUSE;
    const Measured m = measure(p, maps, y, x);
    if (!is_finite(logit) || !m.finite) return NON_FINITE;
    if (p.variances != 0) {
        bool finite;
        measure_variances(p, maps, y, x, finite);
        if (!finite) return NON_FINITE;
    }
    const float distance = sqrtf(m.center[0] * m.center[0] + m.center[1] * m.center[1]);
    u32 band = 0;
    while (band < p.band_count && !(distance < ((const float *)p.bands)[band])) ++band;
    if (band == p.band_count) return REFUSE;
    const float yaw_norm = sqrtf(m.rot[0] * m.rot[0] + m.rot[1] * m.rot[1]);
    const float least = ((const float *)p.logits)[band * p.channel_count + c];
    if (logit < least || yaw_norm < channel.yaw_norm) return REFUSE;
#pragma unroll
    for (u32 i = 0; i < 3; ++i) {
        if (m.center[i] < p.center_min[i] || m.center[i] > p.center_max[i]) return REFUSE;
    }
    return KEEP;
}

// Most keys of a region, and the start of a task's first region.
__device__ __forceinline__ u32 region_keys(const DecodeTask &task, u32 class_cell) {
    return class_cell ? task.classes * REGION_CELLS : REGION_CELLS;
}
__device__ __forceinline__ u64 first_key(const DecodeTask &task, u32 index, u32 class_cell, u32 regions) {
    return (u64)(class_cell ? task.channel : index) * regions * REGION_CELLS;
}

// The keys of a region while a warp lists them.
struct Region {
    u64 *keys;
    u32 found, non_finite;
};

// Appends the keys of the lanes that keep theirs. All lanes must call it.
__device__ __forceinline__ void append(Region &region, Verdict verdict, float logit, u32 slot) {
    const u32 kept = __ballot_sync(FULL_MASK, verdict == KEEP);
    if (verdict == KEEP) {
        const float score = (float)(1.0 / (1.0 + elementary::exp(-logit)));
        region.keys[region.found + __popc(kept & lanes_below())] = (u64)~__float_as_uint(score) << 32 | slot;
    }
    region.found += __popc(kept);
    region.non_finite += __popc(__ballot_sync(FULL_MASK, verdict == NON_FINITE));
}

extern "C" __global__ void decode_cells(const DecodeMaps p) {
    const u32 index = thread_index() / WARP;
    // Uniform across the warp.
    if (index >= p.regions) return;
    const u32 task_index = p.first_task + blockIdx.y;
    const DecodeTask task = ((const DecodeTask *)p.tasks)[task_index];
    const DecodeChannel *channels = (const DecodeChannel *)p.channels + task.channel;
    const Map *maps = p.maps[blockIdx.y];
    const u32 cells = p.width * p.height;
    const u32 first = index * REGION_CELLS + lane_index();

    u32 at[STEPS];
    u32 inside = 0;
#pragma unroll
    for (u32 s = 0; s < STEPS; ++s) {
        const u32 cell = first + s * WARP;
        inside |= (u32)(cell < cells) << s;
        const u32 valid = min(cell, cells - 1);
        at[s] = map_index(maps[HEATMAP], 0, valid / p.width, valid % p.width);
    }
    u32 marked;
    if (maps[HEATMAP].element == ELEMENT_F32) {
        marked = mark_cells<float>(maps[HEATMAP], channels, task.classes, at);
    } else {
        marked = mark_cells<u16>(maps[HEATMAP], channels, task.classes, at);
    }
    marked &= inside;

    Region region;
    region.keys = (u64 *)p.keys + first_key(task, task_index, p.class_cell, p.regions) +
                  (u64)index * region_keys(task, p.class_cell);
    region.found = 0;
    region.non_finite = 0;
#pragma unroll 1
    for (u32 s = 0; s < STEPS; ++s) {
        const bool on = marked >> s & 1u;
        if (!__any_sync(FULL_MASK, on)) continue;
        const u32 cell = first + s * WARP, y = cell / p.width, x = cell % p.width;
        const u32 slot = task.channel * cells + cell * task.classes;
        // One round for the best class, or a round for each class.
        const u32 rounds = p.class_cell ? task.classes : 1;
#pragma unroll 1
        for (u32 round = 0; round < rounds; ++round) {
            Verdict verdict = REFUSE;
            u32 channel = round;
            float logit = 0.0f;
            if (on) {
                logit = map_value(maps[HEATMAP], channel, y, x);
                bool finite = true;
                if (!p.class_cell) {
                    finite = is_finite(logit);
                    for (u32 c = 1; c < task.classes; ++c) {
                        const float other = map_value(maps[HEATMAP], c, y, x);
                        finite = finite && is_finite(other);
                        if (other > logit) {
                            logit = other;
                            channel = c;
                        }
                    }
                }
                verdict = finite ? judge(p, maps, task.channel + channel, y, x, logit) : NON_FINITE;
            }
            append(region, verdict, logit, slot + channels[channel].rank);
        }
    }
    if (lane_index() == 0) {
        const u32 at_region = task_index * p.regions + index;
        ((u32 *)p.found)[at_region] = region.found;
        ((u32 *)p.non_finite)[at_region] = region.non_finite;
    }
}

// The keys of a task as one list, in the order of its regions.
struct KeyList {
    const u64 *keys;
    // Number of keys before each region.
    const u32 *before;
    u32 regions;
    u32 region_keys;
};

__device__ __forceinline__ u64 key_at(const KeyList &list, u32 i) {
    // The last region that starts at or before `i`.
    u32 low = 0, high = list.regions;
    while (low + 1 < high) {
        const u32 middle = low + (high - low) / 2;
        if (list.before[middle] <= i) low = middle;
        else high = middle;
    }
    return list.keys[(u64)low * list.region_keys + (i - list.before[low])];
}

// Moves the `count` keys of a list together, in place: a key moves to an earlier place, which a block of threads reads
// before it writes there. All threads of the block must call it.
__device__ __forceinline__ void compact(u64 *keys, const KeyList &list, u32 count) {
    for (u32 first = 0; first < count; first += SELECT_BLOCK) {
        const u32 i = first + threadIdx.x;
        const u64 key = i < count ? key_at(list, i) : NO_KEY;
        __syncthreads();
        if (i < count) keys[i] = key;
        __syncthreads();
    }
}

// The `wanted`-th smallest of the `count` keys; 0 < wanted < count. All threads of the block must call it. It
// finds the key byte by byte: it counts the keys with the prefix found so far by their next byte.
__device__ __forceinline__ u64 select_key(const u64 *keys, u32 count, u32 wanted) {
    __shared__ u32 histogram[256];
    __shared__ u32 found_byte, found_below;
    u64 prefix = 0;
    for (u32 shift = 56;; shift -= 8) {
        if (threadIdx.x < 256) histogram[threadIdx.x] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < count; i += SELECT_BLOCK) {
            const u64 key = keys[i];
            // In two steps, because a shift by 64 is undefined.
            if (key >> shift >> 8 == prefix) atomicAdd(&histogram[key >> shift & 255u], 1u);
        }
        __syncthreads();
        if (threadIdx.x < WARP) {
            // Eight byte values per lane; the wanted one is in the lane whose sums enclose `wanted`.
            u32 sum = 0;
            for (u32 b = 0; b < 8; ++b) sum += histogram[threadIdx.x * 8 + b];
            u32 upto = sum;
            for (u32 step = 1; step < WARP; step *= 2) {
                const u32 before = __shfl_up_sync(FULL_MASK, upto, step);
                if (threadIdx.x >= step) upto += before;
            }
            u32 below = upto - sum;
            if (below < wanted && wanted <= upto) {
                u32 byte = threadIdx.x * 8;
                while (below + histogram[byte] < wanted) below += histogram[byte++];
                found_byte = byte;
                found_below = below;
            }
        }
        __syncthreads();
        prefix = prefix << 8 | found_byte;
        wanted -= found_below;
        // Stop once all keys with this prefix are wanted: the last byte leaves one, because keys are unique.
        if (histogram[found_byte] == wanted || shift == 0) {
            return prefix << shift | (((u64)1 << shift) - 1);
        }
        // All threads have read the histogram.
        __syncthreads();
    }
}

extern "C" __global__ void decode_select(const DecodeLists p) {
    __shared__ u32 sums[SELECT_BLOCK / WARP];
    const u32 index = blockIdx.x;
    const DecodeTask task = ((const DecodeTask *)p.tasks)[index];
    u32 *before = (u32 *)p.found + index * p.regions;
    const u32 *non_finite = (const u32 *)p.non_finite + index * p.regions;

    u32 count = 0, lost = 0;
    for (u32 first = 0; first < p.regions; first += SELECT_BLOCK) {
        const u32 r = first + threadIdx.x;
        const bool valid = r < p.regions;
        u32 total;
        const u32 keys_before = scan_block(valid ? before[r] : 0, sums, total);
        if (valid) before[r] = count + keys_before;
        count += total;
        // Its barriers make the writes above visible to all threads.
        scan_block(valid ? non_finite[r] : 0, sums, total);
        lost += total;
    }
    u64 *keys = (u64 *)p.keys + first_key(task, index, p.class_cell, p.regions);
    const KeyList list = {keys, before, p.regions, region_keys(task, p.class_cell)};
    const u32 wanted = min(count, p.max_candidates);
    u64 last = NO_KEY;
    if (wanted < count) {
        compact(keys, list, count);
        last = select_key(keys, count, wanted);
    }
    u64 *selected = (u64 *)p.selected + (u64)index * p.max_candidates;
    u32 done = 0;
    for (u32 first = 0; first < count; first += SELECT_BLOCK) {
        const u32 i = first + threadIdx.x;
        const u64 key = i >= count ? NO_KEY : wanted < count ? keys[i] : key_at(list, i);
        const bool take = i < count && key <= last;
        u32 total;
        const u32 place = scan_block(take, sums, total);
        if (take) selected[done + place] = key;
        done += total;
    }
    if (threadIdx.x == 0) {
        DecodeTaskCounts *out = (DecodeTaskCounts *)p.counts + index;
        out->count = wanted;
        out->surplus = count - wanted;
        out->non_finite = lost;
    }
}

// Number of selected keys of all tasks.
__device__ __forceinline__ u32 selected_keys(u64 counts, u32 task_count) {
    u32 total = 0;
    for (u32 t = 0; t < task_count; ++t) total += ((const DecodeTaskCounts *)counts)[t].count;
    return total;
}

extern "C" __global__ void decode_sort(const DecodeLists p) {
    __shared__ u64 tile[TILE];
    const DecodeTaskCounts *counts = (const DecodeTaskCounts *)p.counts;
    const u32 total = selected_keys(p.counts, p.task_count);
    const u32 first = blockIdx.x * TILE;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        BoxTotals *totals = (BoxTotals *)p.totals;
        u32 surplus = 0, non_finite = 0;
        for (u32 t = 0; t < p.task_count; ++t) {
            surplus += counts[t].surplus;
            non_finite += counts[t].non_finite;
        }
        totals->count = total;
        totals->surplus = surplus;
        totals->non_finite = non_finite;
        totals->reserved = 0;
    }
    // Uniform across the block.
    if (first >= total) return;
    const u32 count = min(total - first, TILE);
    u32 size = 2;
    while (size < count) size *= 2;

    for (u32 k = threadIdx.x; k < size; k += SORT_BLOCK) {
        u64 key = NO_KEY;
        if (k < count) {
            u32 task = 0, i = first + k;
            while (i >= counts[task].count) i -= counts[task++].count;
            key = ((const u64 *)p.selected)[(u64)task * p.max_candidates + i];
        }
        tile[k] = key;
    }
    // Bitonic sorting network (Batcher 1968).
    for (u32 run = 2; run <= size; run *= 2) {
        for (u32 step = run / 2; step > 0; step /= 2) {
            __syncthreads();
            const u32 low = threadIdx.x / step * step * 2 + threadIdx.x % step, high = low + step;
            if (high < size) {
                const u64 a = tile[low], b = tile[high];
                const bool ascending = (low & run) == 0;
                if ((a > b) == ascending) {
                    tile[low] = b;
                    tile[high] = a;
                }
            }
        }
    }
    __syncthreads();
    for (u32 k = threadIdx.x; k < count; k += SORT_BLOCK) ((u64 *)p.sorted)[first + k] = tile[k];
}

// The angle of a direction in (-pi, pi].
__device__ __forceinline__ float yaw_of(float sin, float cos) {
    const float pi = 3.14159274f;
    const float yaw = (float)elementary::atan2(sin, cos);
    return yaw == -pi ? pi : yaw;
}

extern "C" __global__ void decode_boxes(const DecodeMaps p) {
    const u32 i = thread_index();
    const u32 total = selected_keys(p.counts, p.task_count);
    if (i >= total) return;
    const u64 *sorted = (const u64 *)p.sorted;
    const u64 key = sorted[i];
    const u32 slot = (u32)key;

    const DecodeTask *tasks = (const DecodeTask *)p.tasks;
    const u32 cells = p.width * p.height;
    u32 index = 0;
    while (slot >= (tasks[index].channel + tasks[index].classes) * cells) ++index;
    // Another launch handles this task.
    if (index < p.first_task || index >= p.first_task + TASKS_PER_LAUNCH) return;

    u32 rank = i % TILE;
    for (u32 begin = 0; begin < total; begin += TILE) {
        if (begin == i / TILE * TILE) continue;
        u32 low = begin, high = min(begin + TILE, total);
        while (low < high) {
            const u32 middle = low + (high - low) / 2;
            if (sorted[middle] < key) low = middle + 1;
            else high = middle;
        }
        rank += low - begin;
    }

    const DecodeTask task = tasks[index];
    const DecodeChannel *channels = (const DecodeChannel *)p.channels + task.channel;
    const u32 in_task = slot - task.channel * cells;
    const u32 cell = in_task / task.classes;
    const Map *maps = p.maps[index - p.first_task];
    const u32 y = cell / p.width, x = cell % p.width;
    const Measured m = measure(p, maps, y, x);
    Box box;
    box.center[0] = m.center[0];
    box.center[1] = m.center[1];
    box.center[2] = m.center[2];
    box.size[0] = p.wlh ? m.size[1] : m.size[0];
    box.size[1] = p.wlh ? m.size[0] : m.size[1];
    box.size[2] = m.size[2];
    box.yaw = p.neg_cos_neg_sin ? yaw_of(-m.rot[1], -m.rot[0]) : yaw_of(m.rot[0], m.rot[1]);
    box.velocity[0] = m.velocity[0];
    box.velocity[1] = m.velocity[1];
    box.score = __uint_as_float(~(u32)(key >> 32));
    box.class_id = channels[channels[in_task % task.classes].by_rank].class_id;
    ((Box *)p.boxes)[rank] = box;
    ((u32 *)p.slots)[rank] = slot;
    if (p.variances != 0) {
        bool finite;
        ((Variances *)p.variances)[rank] = measure_variances(p, maps, y, x, finite);
    }
}
