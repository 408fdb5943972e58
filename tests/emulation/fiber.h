// Fibers: their stacks, and the switch between them within an OS thread.
//
// The switch saves only what a called function must preserve, in hand-written assembly on x86-64 and aarch64
// (a few ns); elsewhere it uses ucontext. Below every stack is a guard page, so that an overrun stops the program at
// once. AddressSanitizer is notified of every switch.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define EMULATION_UNCHECKED __attribute__((no_sanitize_address))
#else
#define EMULATION_UNCHECKED
#endif

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#define EMULATION_UCONTEXT
#endif

namespace emulation {

// Bytes of a fiber's stack; sanitizers put margins around every local variable.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t STACK_BYTES = 256 << 10;
#else
constexpr size_t STACK_BYTES = 64 << 10;
#endif

struct Fiber {
    // Lowest byte of the stack above its guard page; null for the OS thread's own stack.
    char *stack = nullptr;
    size_t bytes = 0;
    // Whether the next switch starts at the entry instead of resuming the fiber.
    bool fresh = true;
#if defined(EMULATION_UCONTEXT)
    ucontext_t context;
#else
    void *stack_pointer = nullptr;
#endif
#if defined(__SANITIZE_ADDRESS__)
    void *fake_stack = nullptr;
#endif
};

#if defined(__x86_64__)
// The stack of a suspended fiber, upwards: r15, r14, r13, r12, rbx, rbp, return address.
extern "C" __attribute__((visibility("hidden"))) void emulation_switch(void **from, void *to);
asm(R"(
    .text
    .hidden emulation_switch
    .globl emulation_switch
    .type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulation_switch, . - emulation_switch
)");
constexpr size_t SAVED_WORDS = 8, RETURN_WORD = 6;
#elif defined(__aarch64__)
// The stack of a suspended fiber, upwards: x19 to x30, d8 to d15.
extern "C" __attribute__((visibility("hidden"))) void emulation_switch(void **from, void *to);
asm(R"(
    .text
    .hidden emulation_switch
    .globl emulation_switch
    .type emulation_switch, %function
emulation_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emulation_switch, . - emulation_switch
)");
constexpr size_t SAVED_WORDS = 20, RETURN_WORD = 11;
#endif

// Maps the stack; false if the system is out of memory.
inline bool map_stack(Fiber &fiber) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *memory = mmap(nullptr, page + STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    if (mprotect(memory, page, PROT_NONE) != 0) return false;
    fiber.stack = (char *)memory + page;
    fiber.bytes = STACK_BYTES;
    return true;
}

// Makes the fiber start at `entry`, which never returns. `index` staggers the tops of the stacks: at equal
// offsets they would share a few cache lines.
inline void begin_at(Fiber &fiber, void (*entry)(), size_t index) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack, fiber.bytes);
    fiber.fake_stack = nullptr;
#endif
    size_t bytes = fiber.bytes - 192 * (index % 61);
#if defined(EMULATION_UCONTEXT)
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
#else
    // A function starts with the stack pointer that a call leaves: 8 below a multiple of 16 on x86-64, a multiple
    // of 16 on aarch64.
    uintptr_t *words = (uintptr_t *)((uintptr_t)(fiber.stack + bytes) & ~(uintptr_t)15) - SAVED_WORDS;
    for (size_t i = 0; i < SAVED_WORDS; ++i) words[i] = 0;
    words[RETURN_WORD] = (uintptr_t)entry;
    fiber.stack_pointer = words;
#endif
    fiber.fresh = false;
}

// Must be the first call where a fiber starts or resumes. `host` is the OS thread's own stack.
EMULATION_UNCHECKED inline void arrived(Fiber &here, Fiber &host) {
#if defined(__SANITIZE_ADDRESS__)
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(here.fake_stack, &bottom, &bytes);
    // The first switch away from the OS thread's stack makes it known.
    if (host.stack == nullptr) {
        host.stack = (char *)bottom;
        host.bytes = bytes;
    }
#else
    (void)here;
    (void)host;
#endif
}

// Switches from `from` to `to`; returns when something switches back.
EMULATION_UNCHECKED inline void switch_fiber(Fiber &from, Fiber &to, Fiber &host) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.bytes);
#endif
#if defined(EMULATION_UCONTEXT)
    swapcontext(&from.context, &to.context);
#else
    emulation_switch(&from.stack_pointer, to.stack_pointer);
#endif
    arrived(from, host);
}

}  // namespace emulation
