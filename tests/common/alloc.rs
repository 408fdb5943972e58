//! A global allocator that counts, for tests of "no allocation" and "no more than".
//!
//! A test binary that wants it has `#[path = "common/alloc.rs"] mod alloc;`, which installs it.
//! The counters are those of the whole process, threads of a pool included; so everything that
//! such a binary does in tests belongs inside [`measure`], which runs one measurement at a time.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

static CURRENT: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

/// Notes a block of `new` bytes in place of one of `old`.
fn note(new: usize, old: usize) {
    COUNT.fetch_add(1, SeqCst);
    // Added first: while a block grows, both may be there.
    let current = CURRENT.fetch_add(new, SeqCst) + new;
    PEAK.fetch_max(current, SeqCst);
    CURRENT.fetch_sub(old, SeqCst);
}

// SAFETY: every call goes to the system's allocator unchanged; the counters touch no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        CURRENT.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(block, layout) }
    }
}

/// What a piece of code took from the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Most bytes held at a time, over what was held before.
    pub(crate) peak: usize,
    /// Number of allocations, growing an old block included.
    pub(crate) count: usize,
}

/// Runs `code` and tells what it allocated.
pub(crate) fn measure<T>(code: impl FnOnce() -> T) -> (T, Usage) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let (before, count) = (CURRENT.load(SeqCst), COUNT.load(SeqCst));
    PEAK.store(before, SeqCst);
    let result = code();
    let usage = Usage {
        peak: PEAK.load(SeqCst).saturating_sub(before),
        count: COUNT.load(SeqCst) - count,
    };
    (result, usage)
}
