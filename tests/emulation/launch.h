// Launches: runs the blocks of a kernel in an order that the seed decides, one after the other or two at a time.
//
// A generated file becomes a library: it includes `cuda_emulation.h`, this file and the kernels, and ends with a
// table of the kernels' names for `EMULATION_LAUNCH`.
#pragma once

#include <link.h>

#include <atomic>
#include <mutex>
#include <thread>

#include "schedule.h"

namespace emulation {

constexpr uint32_t MAX_SHARED = 227 << 10;

// A kernel in the table: its call from `void **`, and the size of its parameter.
struct Kernel {
    const char *name;
    void (*call)(void **params);
    size_t bytes;
};

template <auto F>
struct Thunk;
template <typename P, void (*F)(P)>
struct Thunk<F> {
    static void call(void **params) {
        P copy;
        memcpy(&copy, params[0], sizeof copy);
        F(copy);
    }
    static constexpr size_t BYTES = sizeof(P);
};

// States, with their stacks, between launches.
inline std::mutex states_lock;
inline std::vector<std::unique_ptr<State>> states;

inline std::unique_ptr<State> take_state() {
    std::lock_guard<std::mutex> guard(states_lock);
    if (states.empty()) return std::make_unique<State>();
    std::unique_ptr<State> s = std::move(states.back());
    states.pop_back();
    return s;
}

// The shared variables of this library on this OS thread: all its thread-local variables.
struct SharedVariables {
    unsigned char *begin = nullptr;
    size_t bytes = 0;
};

inline SharedVariables shared_variables() {
    SharedVariables found;
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *out) {
            bool here = false;
            const ElfW(Phdr) *tls = nullptr;
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const ElfW(Phdr) &header = info->dlpi_phdr[i];
                uintptr_t begin = info->dlpi_addr + header.p_vaddr, at = (uintptr_t)&shared_variables;
                here |= header.p_type == PT_LOAD && at >= begin && at < begin + header.p_memsz;
                if (header.p_type == PT_TLS) tls = &header;
            }
            if (!here) return 0;
            if (tls != nullptr) {
                *(SharedVariables *)out = {(unsigned char *)info->dlpi_tls_data, tls->p_memsz};
            }
            return 1;
        },
        &found);
    return found;
}

// Writes random bytes, also over the margins of a sanitizer.
EMULATION_UNCHECKED inline void fill_with_garbage(State &s, unsigned char *at, size_t bytes) {
    for (; bytes >= 8; bytes -= 8, at += 8) {
        uint64_t word = s.random();
        memcpy(at, &word, 8);
    }
    for (; bytes > 0; --bytes, ++at) *at = (unsigned char)s.random();
}

// Runs the block at `block_index`.
inline void run_block(State &s) {
    uint32_t count = s.block_dim.x;
    s.exited = s.at_barrier = s.barrier_count = 0;
    s.atomics = 0;
    s.ready_first = 0;
    s.ready_count = count;
    memset(s.threads, 0, count * sizeof(Thread));
    memset(s.warps, 0, sizeof s.warps);
    for (uint32_t t = 0; t < count; ++t) {
        s.copies[t].pending.clear();
        s.copies[t].group = 0;
        s.ready[t] = (uint16_t)t;
        s.warps[t / LANES].present |= 1u << t % LANES;
    }
    // If any ready thread may run next, their order is irrelevant.
    if (s.shuffled && s.policy != Policy::Any) {
        for (uint32_t t = count; t > 1; --t) std::swap(s.ready[t - 1], s.ready[s.random_below(t)]);
    }
    s.running = &s.host;
    go_on(s, pick(s));
}

// Bit of a seed: blocks run two at a time, each on an OS thread of its own. The result is not reproducible if the
// kernel lets it depend on the order of blocks.
constexpr uint64_t SIDE_BY_SIDE = 1ull << 63;

// The blocks of a launch that are still to run.
struct Blocks {
    std::vector<uint64_t> order;
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
};

// Runs blocks until none is left or one has failed.
inline void run_blocks(State &s, Blocks &blocks) {
    // The first use of a library's thread-local variable creates them all.
    state = &s;
    SharedVariables shared = shared_variables();
    while (!blocks.failed) {
        const size_t at = blocks.next++;
        if (at >= blocks.order.size()) return;
        const uint64_t b = blocks.order[at];
        s.block_index = {(uint32_t)(b % s.grid_dim.x), (uint32_t)(b / s.grid_dim.x % s.grid_dim.y),
                         (uint32_t)(b / s.grid_dim.x / s.grid_dim.y)};
        fill_with_garbage(s, shared.begin, shared.bytes);
        state = &s;
        fill_with_garbage(s, s.dynamic_shared, s.dynamic_bytes);
        run_block(s);
        if (s.failed) blocks.failed = true;
    }
}

// Sets the schedule. Seed 0: blocks and threads in their natural order; 1: reversed; any other: random.
inline void set_schedule(State &s, uint64_t seed) {
    s.random_state = seed;
    s.shuffled = seed > 1;
    s.policy = seed == 0 ? Policy::Oldest : seed == 1 ? Policy::Newest : (Policy)s.random_below(3);
    s.yield_mask = (1u << (1 + 2 * s.random_below(3))) - 1;
}

inline void set_order(State &s, uint64_t seed, std::vector<uint64_t> &order) {
    uint64_t count = (uint64_t)s.grid_dim.x * s.grid_dim.y * s.grid_dim.z;
    order.resize(count);
    for (uint64_t b = 0; b < count; ++b) order[b] = seed == 1 ? count - 1 - b : b;
    for (uint64_t b = count; s.shuffled && b > 1; --b) std::swap(order[b - 1], order[s.random() % b]);
}

// Writes why a launch is refused, or an empty string.
inline void refusal(const Kernel *kernel, const uint32_t *grid, uint32_t block, uint32_t shared, size_t bytes,
                    char *why, size_t why_bytes) {
    why[0] = 0;
    if (kernel == nullptr) {
        snprintf(why, why_bytes, "there is no such kernel");
    } else if (kernel->bytes != bytes) {
        snprintf(why, why_bytes, "its parameter has %zu bytes, the launch passes %zu", kernel->bytes, bytes);
    } else if (block == 0 || block > MAX_THREADS) {
        snprintf(why, why_bytes, "a block has 1 to %u threads, not %u", MAX_THREADS, block);
    } else if (shared > MAX_SHARED) {
        snprintf(why, why_bytes, "a block has at most %u bytes of shared memory, not %u", MAX_SHARED, shared);
    } else if (grid[0] - 1 >= 0x7fffffffu || grid[1] - 1 >= 65535 || grid[2] - 1 >= 65535) {
        snprintf(why, why_bytes, "a grid cannot have %u x %u x %u blocks", grid[0], grid[1], grid[2]);
    }
}

// Runs a kernel of `table`. On failure, writes the reason to `error` and returns 1.
inline int launch(const Kernel *table, size_t kernels, const char *name, const uint32_t *grid, uint32_t block,
                  uint32_t shared, void **params, size_t bytes, uint64_t seed, char *error, size_t error_bytes) {
    const Kernel *kernel = nullptr;
    for (size_t k = 0; k < kernels; ++k) {
        if (strcmp(table[k].name, name) == 0) kernel = &table[k];
    }
    refusal(kernel, grid, block, shared, bytes, error, error_bytes);
    if (error[0] != 0) return 1;
    const bool side_by_side = (seed & SIDE_BY_SIDE) != 0;
    seed &= ~SIDE_BY_SIDE;
    Blocks blocks;
    std::vector<std::unique_ptr<State>> workers;
    std::vector<std::unique_ptr<unsigned char[]>> dynamic;
    for (uint64_t w = 0; w < (side_by_side ? 2 : 1); ++w) {
        std::unique_ptr<State> s = take_state();
        s->call = kernel->call;
        s->params = params;
        s->thread_index = {0, 0, 0};
        s->block_dim = {block, 1, 1};
        s->grid_dim = {grid[0], grid[1], grid[2]};
        // A heap block of exactly that size, so that a sanitizer detects an overrun.
        dynamic.emplace_back(new unsigned char[shared]);
        s->dynamic_shared = dynamic.back().get();
        s->dynamic_bytes = shared;
        s->failed = false;
        s->side_by_side = side_by_side;
        s->host = Fiber();
        set_schedule(*s, seed + w);
        if (w == 0) set_order(*s, seed, blocks.order);
        workers.push_back(std::move(s));
    }
    if (side_by_side) {
        std::thread other([&] { run_blocks(*workers[1], blocks); });
        run_blocks(*workers[0], blocks);
        other.join();
    } else {
        run_blocks(*workers[0], blocks);
    }
    for (std::unique_ptr<State> &s : workers) {
        if (s->failed) {
            snprintf(error, error_bytes, "%s", s->error);
            // Reset the stacks of threads that never ended.
            s->idle.clear();
            for (auto &fiber : s->fibers) {
                fiber->fresh = true;
                s->idle.push_back(fiber.get());
            }
        }
        std::lock_guard<std::mutex> guard(states_lock);
        states.push_back(std::move(s));
    }
    return blocks.failed;
}

}  // namespace emulation

// An entry of a library's table, and its functions: `emulation_bytes` returns the size of a kernel's parameter.
#define EMULATION_KERNEL(name) {#name, emulation::Thunk<name>::call, emulation::Thunk<name>::BYTES}
#define EMULATION_LAUNCH(table)                                                                                \
    extern "C" __attribute__((visibility("default"))) int emulation_launch(                                    \
        const char *kernel, const uint32_t *grid, uint32_t block, uint32_t shared, void **params,              \
        size_t bytes, uint64_t seed, char *error, size_t error_bytes) {                                        \
        return emulation::launch(table, sizeof table / sizeof *table, kernel, grid, block, shared, params,     \
                                 bytes, seed, error, error_bytes);                                             \
    }                                                                                                          \
    extern "C" __attribute__((visibility("default"))) size_t emulation_bytes(const char *kernel) {             \
        for (const emulation::Kernel &k : table) {                                                             \
            if (strcmp(k.name, kernel) == 0) return k.bytes;                                                   \
        }                                                                                                      \
        return 0;                                                                                              \
    }
