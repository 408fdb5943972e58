// CUDA C++ for a C++ compiler: the parts of the language that kernels/*.cu use, included before the unmodified files.
//
// Each CUDA thread is a fiber of one OS thread (`schedule.h`); blocks run one after another, so a kernel may not
// wait for another block. Shared variables are thread-local variables of the OS thread; `launch.h` fills them with
// garbage before every block. Left out on purpose: float atomics (their sum depends on the order), `__activemask`
// and unmasked warp operations.
//
// Stricter than a GPU: a thread that has ended does not count as arrived at a barrier, threads must wait at the
// same barrier of the source, and a mask may only name lanes that reach the same operation. A shuffle that reads
// a lane outside its mask gets garbage.
#pragma once

#include <cmath>

#include "schedule.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static thread_local
#define DYNAMIC_SHARED(name) unsigned char *const name = ::emulation::state->dynamic_shared

#define threadIdx (::emulation::state->thread_index)
#define blockIdx (::emulation::state->block_index)
#define blockDim (::emulation::state->block_dim)
#define gridDim (::emulation::state->grid_dim)
constexpr int warpSize = 32;

#define EMULATION_SITE(what) ::emulation::Site{what, file, line}
#define EMULATION_WHERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// Barriers of a block.

inline unsigned emulation_barrier(bool predicate, emulation::Site site) {
    using namespace emulation;
    State &s = *state;
    if (s.exited > 0) fail("waits at %s, but %u threads of its block have ended", Where(site).text, s.exited);
    if (s.at_barrier == 0) {
        s.barrier_site = site;
        s.barrier_count = 0;
    } else if (!same(s.barrier_site, site)) {
        fail("waits at %s while others wait at %s", Where(site).text, Where(s.barrier_site).text);
    }
    Thread &me = s.threads[s.current];
    me.site = site;
    s.at_barrier += 1;
    s.barrier_count += predicate;
    if (s.at_barrier == s.block_dim.x) {
        s.at_barrier = 0;
        s.barrier_result = s.barrier_count;
        release(s, 0, s.block_dim.x, [](uint32_t) { return true; });
    }
    suspend(s);
    me.site.what = nullptr;
    return s.barrier_result;
}

inline void __syncthreads(EMULATION_WHERE) { emulation_barrier(false, EMULATION_SITE("__syncthreads")); }
inline int __syncthreads_count(int predicate, EMULATION_WHERE) {
    return (int)emulation_barrier(predicate != 0, EMULATION_SITE("__syncthreads_count"));
}
inline int __syncthreads_or(int predicate, EMULATION_WHERE) {
    return emulation_barrier(predicate != 0, EMULATION_SITE("__syncthreads_or")) != 0;
}
inline int __syncthreads_and(int predicate, EMULATION_WHERE) {
    return emulation_barrier(predicate != 0, EMULATION_SITE("__syncthreads_and")) == blockDim.x;
}

// Warp operations.

namespace emulation {

// Computes the results of the lanes of `mask`, all of which have reached the operation.
inline void complete(State &s, Thread *lanes, Collective collective, uint32_t mask) {
    auto each = [&](auto action) {
        for (uint32_t lane = 0; lane < LANES; ++lane) {
            if (mask >> lane & 1) action(lane, lanes[lane]);
        }
    };
    auto fold = [&](auto combine) {
        uint32_t all = 0;
        bool first = true;
        each([&](uint32_t, Thread &t) {
            all = first ? (uint32_t)t.value : combine(all, (uint32_t)t.value);
            first = false;
        });
        each([&](uint32_t, Thread &t) { t.result = all; });
    };
    switch (collective) {
        case Collective::Sync: break;
        case Collective::Apply: s.apply(lanes); break;
        case Collective::Shuffle:
            each([&](uint32_t, Thread &t) {
                t.result = mask >> t.source & 1 ? lanes[t.source].value : s.random();
            });
            break;
        case Collective::Ballot: {
            uint32_t set = 0;
            each([&](uint32_t lane, Thread &t) { set |= (uint32_t)(t.value != 0) << lane; });
            each([&](uint32_t, Thread &t) { t.result = set; });
            break;
        }
        case Collective::Match:
            each([&](uint32_t, Thread &t) {
                uint32_t equal = 0;
                each([&](uint32_t lane, Thread &o) { equal |= (uint32_t)(o.value == t.value) << lane; });
                t.result = equal;
            });
            break;
        case Collective::Add: fold([](uint32_t a, uint32_t b) { return a + b; }); break;
        case Collective::MinU: fold([](uint32_t a, uint32_t b) { return a < b ? a : b; }); break;
        case Collective::MaxU: fold([](uint32_t a, uint32_t b) { return a > b ? a : b; }); break;
        case Collective::MinI: fold([](uint32_t a, uint32_t b) { return (int)a < (int)b ? a : b; }); break;
        case Collective::MaxI: fold([](uint32_t a, uint32_t b) { return (int)a > (int)b ? a : b; }); break;
        case Collective::And: fold([](uint32_t a, uint32_t b) { return a & b; }); break;
        case Collective::Or: fold([](uint32_t a, uint32_t b) { return a | b; }); break;
        case Collective::Xor: fold([](uint32_t a, uint32_t b) { return a ^ b; }); break;
    }
}

// Waits until all lanes of `mask` have reached the same operation. Returns the caller's result.
inline uint64_t collective(Collective collective, uint32_t mask, uint64_t value, uint32_t source, Site site) {
    State &s = *state;
    uint32_t first = s.current / LANES * LANES, lane = s.current % LANES;
    Warp &warp = s.warps[s.current / LANES];
    Thread *lanes = s.threads + first;
    Thread &me = lanes[lane];
    if (!(mask >> lane & 1)) fail("%s: mask %08x does not name its own lane %u", Where(site).text, mask, lane);
    if (uint32_t absent = mask & ~warp.present) {
        fail("%s: mask %08x names lane %d, which the block does not have", Where(site).text, mask,
             __builtin_ctz(absent));
    }
    if (uint32_t ended = mask & warp.exited) {
        fail("%s: mask %08x names lane %d, which has ended", Where(site).text, mask, __builtin_ctz(ended));
    }
    me.site = site;
    me.collective = collective;
    me.mask = mask;
    me.value = value;
    me.source = source;
    warp.waiting |= 1u << lane;
    if ((warp.waiting & mask) == mask) {
        for (uint32_t l = 0; l < LANES; ++l) {
            if (!(mask >> l & 1)) continue;
            const Thread &other = lanes[l];
            if (other.mask != mask || other.collective != collective || !same(other.site, site)) {
                fail("%s with mask %08x names lane %u, which waits in %s with mask %08x", Where(site).text, mask, l,
                     Where(other.site).text, other.mask);
            }
        }
        complete(s, lanes, collective, mask);
        warp.waiting &= ~mask;
        release(s, first, LANES, [mask](uint32_t l) { return (mask >> l & 1) != 0; });
    }
    suspend(s);
    me.site.what = nullptr;
    return me.result;
}

template <typename T>
T shuffle(uint32_t mask, T value, uint32_t source, Site site) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = collective(Collective::Shuffle, mask, bits, source, site);
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t lane_index() { return state->current % LANES; }

}  // namespace emulation

inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATION_WHERE) {
    emulation::collective(emulation::Collective::Sync, mask, 0, 0, EMULATION_SITE("__syncwarp"));
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATION_WHERE) {
    return (unsigned)emulation::collective(emulation::Collective::Ballot, mask, predicate != 0, 0,
                                           EMULATION_SITE("__ballot_sync"));
}
inline int __any_sync(unsigned mask, int predicate, EMULATION_WHERE) {
    return emulation::collective(emulation::Collective::Ballot, mask, predicate != 0, 0,
                                 EMULATION_SITE("__any_sync")) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATION_WHERE) {
    return emulation::collective(emulation::Collective::Ballot, mask, predicate != 0, 0,
                                 EMULATION_SITE("__all_sync")) == mask;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, EMULATION_WHERE) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "matches compare 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return (unsigned)emulation::collective(emulation::Collective::Match, mask, bits, 0,
                                           EMULATION_SITE("__match_any_sync"));
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, EMULATION_WHERE) {
    unsigned lane = emulation::lane_index(), segment = lane & ~((unsigned)width - 1);
    return emulation::shuffle(mask, value, segment + ((unsigned)from & ((unsigned)width - 1)),
                              EMULATION_SITE("__shfl_sync"));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATION_WHERE) {
    unsigned lane = emulation::lane_index(), in_segment = lane & ((unsigned)width - 1);
    return emulation::shuffle(mask, value, in_segment >= delta ? lane - delta : lane,
                              EMULATION_SITE("__shfl_up_sync"));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATION_WHERE) {
    unsigned lane = emulation::lane_index(), in_segment = lane & ((unsigned)width - 1);
    return emulation::shuffle(mask, value, in_segment + delta < (unsigned)width ? lane + delta : lane,
                              EMULATION_SITE("__shfl_down_sync"));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMULATION_WHERE) {
    unsigned lane = emulation::lane_index(), end = (lane & ~((unsigned)width - 1)) + (unsigned)width;
    unsigned source = lane ^ (unsigned)bits;
    return emulation::shuffle(mask, value, source < end ? source : lane, EMULATION_SITE("__shfl_xor_sync"));
}

#define EMULATION_REDUCE(name, type, kind)                                                                     \
    inline type name(unsigned mask, type value, EMULATION_WHERE) {                                             \
        return (type)emulation::collective(emulation::Collective::kind, mask, (unsigned)value, 0,              \
                                           EMULATION_SITE(#name));                                             \
    }
EMULATION_REDUCE(__reduce_add_sync, unsigned, Add)
EMULATION_REDUCE(__reduce_add_sync, int, Add)
EMULATION_REDUCE(__reduce_min_sync, unsigned, MinU)
EMULATION_REDUCE(__reduce_min_sync, int, MinI)
EMULATION_REDUCE(__reduce_max_sync, unsigned, MaxU)
EMULATION_REDUCE(__reduce_max_sync, int, MaxI)
EMULATION_REDUCE(__reduce_and_sync, unsigned, And)
EMULATION_REDUCE(__reduce_or_sync, unsigned, Or)
EMULATION_REDUCE(__reduce_xor_sync, unsigned, Xor)
#undef EMULATION_REDUCE

#include "atomics.h"
#include "intrinsics.h"
#include "tensor.h"
