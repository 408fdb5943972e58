// The threads of one block: which runs next, which waits for which, and the reports of deadlocks.
//
// A thread runs until it waits (barrier, warp operation), ends, or yields at an atomic; then it switches to the
// next ready thread directly. A thread gets a stack only when it runs, and passes it on when it ends, so that
// threads that never wait all share one. The launch's policy selects the next ready thread; random numbers
// depend only on its seed, so that a schedule can be repeated.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "fiber.h"

namespace emulation {

constexpr uint32_t MAX_THREADS = 1024, LANES = 32;

// Atomics of one block after which a thread is assumed to wait forever.
constexpr uint64_t MAX_ATOMICS = 1ull << 28;

struct Index3 {
    uint32_t x, y, z;
};

// Which ready thread runs next.
enum class Policy {
    // The one that has been ready longest.
    Oldest,
    // The one that became ready last, which then runs as far as it can.
    Newest,
    // A random one.
    Any,
};

// Operations that the lanes of a warp run together.
enum class Collective : uint8_t { Sync, Apply, Shuffle, Ballot, Match, Add, MinU, MaxU, MinI, MaxI, And, Or, Xor };

// The place in the sources where a thread waits.
struct Site {
    const char *what;
    const char *file;
    int line;
};

// Equal strings of one library mostly share an address.
inline bool same_text(const char *a, const char *b) { return a == b || strcmp(a, b) == 0; }

inline bool same(const Site &a, const Site &b) {
    return a.line == b.line && same_text(a.what, b.what) && same_text(a.file, b.file);
}

struct Thread {
    // Null before it starts and after it has ended.
    Fiber *fiber;
    // Where it waits; `what` is null while it runs.
    Site site;
    Collective collective;
    uint32_t mask;
    // The lane that a shuffle reads.
    uint32_t source;
    uint64_t value, result;
};

// An asynchronous copy of 16 bytes; of zeros if `from` is null.
struct Copy {
    void *to;
    const void *from;
    uint64_t group;
};

// A thread's copies that no wait has completed yet, and its open group.
struct Copies {
    std::vector<Copy> pending;
    uint64_t group;
};

// Lanes as bits.
struct Warp {
    uint32_t present, exited, waiting;
};

// The part of a launch that one OS thread runs.
struct State {
    // Visible to kernels.
    Index3 thread_index, block_index, block_dim, grid_dim;
    unsigned char *dynamic_shared;
    size_t dynamic_bytes;

    void (*call)(void **params);
    void **params;

    uint32_t current, exited, at_barrier;
    Site barrier_site;
    uint32_t barrier_count, barrier_result;
    uint64_t atomics;
    Thread threads[MAX_THREADS];
    Warp warps[MAX_THREADS / LANES];
    Copies copies[MAX_THREADS];
    // What the operation under way does, if it is one of a whole warp.
    void (*apply)(Thread *lanes);
    // Ready threads: a ring.
    uint16_t ready[MAX_THREADS];
    uint32_t ready_first, ready_count;

    Policy policy;
    // Whether orders are random, and where threads yield: at an atomic if these bits of a random number are 0.
    bool shuffled;
    uint64_t yield_mask;
    // Whether another block of the launch runs at the same time.
    bool side_by_side;
    uint64_t random_state;

    // The OS thread's own stack, and the running fiber.
    Fiber host;
    Fiber *running;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber *> idle;
    bool failed;
    char error[1024];

    uint64_t random() {
        random_state += 0x9E3779B97F4A7C15ull;
        uint64_t z = random_state;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }

    // A number below `bound`.
    uint32_t random_below(uint32_t bound) { return (uint32_t)(((random() >> 32) * bound) >> 32); }
};

// The state of this OS thread.
static thread_local State *state;

// Switches from the running fiber to `to`; returns when something resumes it.
EMULATION_UNCHECKED inline void resume(State &s, Fiber &to) {
    Fiber &from = *s.running;
    s.running = &to;
    switch_fiber(from, to, s.host);
}

// Ends the launch with an error. Abandons the stacks of suspended threads: kernels own nothing.
[[noreturn]] __attribute__((format(printf, 1, 2), noinline)) inline void fail(const char *format, ...) {
    State &s = *state;
    s.failed = true;
    int used = snprintf(s.error, sizeof s.error, "block (%u, %u, %u), thread %u: ", s.block_index.x, s.block_index.y,
                        s.block_index.z, s.current);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(s.error + used, sizeof s.error - (size_t)used, format, arguments);
    va_end(arguments);
    resume(s, s.host);
    abort();
}

inline const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == nullptr ? path : slash + 1;
}

// The place where a thread waits, as text.
struct Where {
    char text[160];
    explicit Where(const Site &site) {
        snprintf(text, sizeof text, "%s (%s:%d)", site.what, base_name(site.file), site.line);
    }
};

inline void make_ready(State &s, uint32_t thread) {
    s.ready[(s.ready_first + s.ready_count) % MAX_THREADS] = (uint16_t)thread;
    s.ready_count += 1;
}

// Makes threads ready that waited together: those of the `count` from `first` on for which `released` holds.
template <typename F>
void release(State &s, uint32_t first, uint32_t count, F released) {
    uint32_t turn = s.shuffled ? s.random_below(count) : 0;
    for (uint32_t i = 0; i < count; ++i) {
        uint32_t offset = (i + turn) % count;
        if (released(offset)) make_ready(s, first + offset);
    }
}

// Reports which thread waits where, and fails.
[[noreturn]] __attribute__((noinline)) inline void deadlock(State &s) {
    char text[700];
    int used = 0, listed = 0;
    const Site *last = nullptr;
    for (uint32_t t = 0; t < s.block_dim.x && listed < 4; ++t) {
        const Thread &thread = s.threads[t];
        if (thread.site.what == nullptr || (last != nullptr && same(*last, thread.site))) continue;
        last = &thread.site;
        listed += 1;
        used += snprintf(text + used, sizeof text - (size_t)used, "%sthread %u in %s", listed == 1 ? "" : ", ", t,
                         Where(thread.site).text);
    }
    fail("deadlock: no thread can go on; waiting: %s", text);
}

// Removes the next thread to run from the ready ones.
inline uint32_t pick(State &s) {
    if (s.ready_count == 0) deadlock(s);
    uint32_t at = s.ready_first;
    if (s.policy == Policy::Newest) {
        at = (s.ready_first + s.ready_count - 1) % MAX_THREADS;
        s.ready_count -= 1;
        return s.ready[at];
    }
    if (s.policy == Policy::Any) {
        uint32_t other = (at + s.random_below(s.ready_count)) % MAX_THREADS;
        uint16_t thread = s.ready[other];
        s.ready[other] = s.ready[at];
        s.ready[at] = thread;
    }
    s.ready_first = (s.ready_first + 1) % MAX_THREADS;
    s.ready_count -= 1;
    return s.ready[at];
}

EMULATION_UNCHECKED inline void fiber_main();

// A fiber without a thread.
inline Fiber &idle_fiber(State &s) {
    if (s.idle.empty()) {
        s.fibers.push_back(std::make_unique<Fiber>());
        if (!map_stack(*s.fibers.back())) {
            fprintf(stderr, "emulation: no memory for the stack of a thread\n");
            abort();
        }
        s.idle.push_back(s.fibers.back().get());
    }
    Fiber *fiber = s.idle.back();
    s.idle.pop_back();
    if (fiber->fresh) begin_at(*fiber, fiber_main, s.fibers.size());
    return *fiber;
}

// Starts or resumes `thread`, which is not the current one.
inline void go_on(State &s, uint32_t thread) {
    s.current = thread;
    s.thread_index.x = thread;
    Fiber *fiber = s.threads[thread].fiber;
    resume(s, fiber != nullptr ? *fiber : idle_fiber(s));
}

// Lets other threads run until the current one is picked again.
inline void suspend(State &s) {
    uint32_t next = pick(s);
    if (next != s.current) go_on(s, next);
}

// Records the end of the current thread; fails if others wait for it.
inline void thread_ends(State &s) {
    uint32_t me = s.current;
    s.exited += 1;
    Warp &warp = s.warps[me / LANES];
    warp.exited |= 1u << me % LANES;
    if (s.at_barrier > 0) {
        fail("ended while %u threads wait for it at %s", s.at_barrier, Where(s.barrier_site).text);
    }
    for (uint32_t lane = 0; warp.waiting != 0 && lane < LANES; ++lane) {
        uint32_t other = me / LANES * LANES + lane;
        if ((warp.waiting >> lane & 1) && (s.threads[other].mask >> me % LANES & 1)) {
            fail("ended while thread %u waits for it in %s with mask %08x", other,
                 Where(s.threads[other].site).text, s.threads[other].mask);
        }
    }
    s.threads[me].fiber = nullptr;
}

// The body of a fiber: runs the current thread to its end, then the next one: here if that one has not started,
// otherwise on its own stack.
EMULATION_UNCHECKED inline void fiber_main() {
    State &s = *state;
    Fiber &mine = *s.running;
    arrived(mine, s.host);
    for (;;) {
        s.threads[s.current].fiber = &mine;
        s.call(s.params);
        thread_ends(s);
        bool last = s.exited == s.block_dim.x;
        uint32_t next = last ? 0 : pick(s);
        if (!last && s.threads[next].fiber == nullptr) {
            s.current = next;
            s.thread_index.x = next;
            continue;
        }
        s.idle.push_back(&mine);
        if (last) {
            resume(s, s.host);
        } else {
            go_on(s, next);
        }
    }
}

}  // namespace emulation
