// Atomics and fences. The emulation chooses where the threads of a block switch; in random schedules a thread may
// yield before and after each of these. Blocks that run side by side have OS threads of their own, so atomics are
// real ones.
#pragma once

#include <thread>

#include "schedule.h"

namespace emulation {

// Lets other threads run at random.
inline void perhaps_yield() {
    State &s = *state;
    if (!s.shuffled || (s.random() & s.yield_mask) != 0) return;
    if (s.side_by_side) std::this_thread::yield();
    make_ready(s, s.current);
    suspend(s);
}

template <typename T, typename F>
T atomic(const char *what, T *at, F change) {
    State &s = *state;
    s.atomics += 1;
    if (s.atomics > MAX_ATOMICS) {
        fail("%s: the block has run %llu atomics: does a thread wait for another?", what,
             (unsigned long long)s.atomics);
    }
    perhaps_yield();
    T old, changed;
    __atomic_load(at, &old, __ATOMIC_SEQ_CST);
    do {
        changed = change(old);
    } while (!__atomic_compare_exchange(at, &old, &changed, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    perhaps_yield();
    return old;
}

}  // namespace emulation

#define EMULATION_ATOMIC(name, type, result)                                                                   \
    inline type name(type *at, type value) {                                                                   \
        return emulation::atomic(#name, at, [value](type old) -> type { return result; });                     \
    }
// Sums wrap around, as on the device.
EMULATION_ATOMIC(atomicAdd, unsigned, old + value)
EMULATION_ATOMIC(atomicAdd, int, (int)((unsigned)old + (unsigned)value))
EMULATION_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATION_ATOMIC(atomicSub, unsigned, old - value)
EMULATION_ATOMIC(atomicSub, int, (int)((unsigned)old - (unsigned)value))
EMULATION_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
EMULATION_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
#define EMULATION_ATOMICS(type)                                                                                \
    EMULATION_ATOMIC(atomicMin, type, value < old ? value : old)                                               \
    EMULATION_ATOMIC(atomicMax, type, value > old ? value : old)                                               \
    EMULATION_ATOMIC(atomicExch, type, ((void)old, value))                                                     \
    EMULATION_ATOMIC(atomicAnd, type, old & value)                                                             \
    EMULATION_ATOMIC(atomicOr, type, old | value)                                                              \
    EMULATION_ATOMIC(atomicXor, type, old ^ value)
EMULATION_ATOMICS(unsigned)
EMULATION_ATOMICS(int)
EMULATION_ATOMICS(unsigned long long)
EMULATION_ATOMIC(atomicMin, long long, value < old ? value : old)
EMULATION_ATOMIC(atomicMax, long long, value > old ? value : old)
EMULATION_ATOMIC(atomicExch, float, ((void)old, value))
#undef EMULATION_ATOMICS
#undef EMULATION_ATOMIC

#define EMULATION_ATOMIC_CAS(type)                                                                             \
    inline type atomicCAS(type *at, type expected, type value) {                                               \
        return emulation::atomic("atomicCAS", at,                                                              \
                                 [=](type old) -> type { return old == expected ? value : old; });             \
    }
EMULATION_ATOMIC_CAS(unsigned)
EMULATION_ATOMIC_CAS(int)
EMULATION_ATOMIC_CAS(unsigned long long)
EMULATION_ATOMIC_CAS(unsigned short)
#undef EMULATION_ATOMIC_CAS

inline void __threadfence() { emulation::perhaps_yield(); }
inline void __threadfence_block() { emulation::perhaps_yield(); }
