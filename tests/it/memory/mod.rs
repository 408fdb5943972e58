//! Memory bounds: what must not allocate, and what may allocate only so much.
//!
//! The counters are global to the process and cover every thread. Each of these tests therefore runs its body in
//! a process of its own, through [`alone`]; in the parent the allocator only forwards.
#![allow(unsafe_code)]

#[cfg(feature = "mcap")]
mod bag;
mod calibration;
mod capi;
mod detector;
mod eval;
mod mutations;
pub(crate) mod onnx;
mod plan;
mod points;

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::type_name;
use std::process::Command;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize};
use std::time::Duration;

/// Environment variable: set in the process that runs a test's body.
const ALONE: &str = "CENTERPOINT_TEST_ALONE";

/// Set by [`alone`]: other tests do not pay for the counters.
static COUNTING: AtomicBool = AtomicBool::new(false);
/// Bytes held, less those that were held when counting began and have been freed since.
static CURRENT: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

/// Records that a block of `new` bytes replaces one of `old`.
fn record(new: usize, old: usize) {
    if COUNTING.load(Relaxed) {
        COUNT.fetch_add(1, SeqCst);
        // Added before `old` is subtracted: both blocks may exist while one grows.
        let current = CURRENT.fetch_add(new as isize, SeqCst) + new as isize;
        PEAK.fetch_max(current, SeqCst);
        CURRENT.fetch_sub(old as isize, SeqCst);
    }
}

// SAFETY: every call is forwarded to the system's allocator unchanged; the counters touch none of its memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        record(layout.size(), 0);
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        record(layout.size(), 0);
        // SAFETY: the caller upholds the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        record(size, layout.size());
        // SAFETY: the caller upholds the contract of `realloc`.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if COUNTING.load(Relaxed) {
            CURRENT.fetch_sub(layout.size() as isize, SeqCst);
        }
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Memory that a piece of code allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    /// Largest number of bytes held at a time, beyond those held before.
    peak: usize,
    /// Number of allocations, including those that grow a block.
    count: usize,
}

/// Runs `body` in a process in which no other test runs, and fails with that process's output if it fails there.
///
/// `body` must be a closure written in the test function itself: its type names the test.
pub(crate) fn alone<F: FnOnce()>(body: F) {
    let name = type_name::<F>().trim_end_matches("::{{closure}}");
    if std::env::var_os(ALONE).is_some_and(|test| test == *name) {
        wait_for_main_thread();
        COUNTING.store(true, SeqCst);
        return body();
    }
    let (_, path) = name.split_once("::").expect("a path below the crate");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", path, "--include-ignored", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(ALONE, name)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    print!("{stdout}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{path} failed in its own process");
    assert!(stdout.contains("1 passed"), "{path} names no test");
}

/// Waits until the process's main thread sleeps: libtest allocates when it begins to wait for a test.
fn wait_for_main_thread() {
    let stat = format!("/proc/self/task/{}/stat", std::process::id());
    // `ID (NAME) STATE …`
    let sleeps = |stat: &str| {
        let state = stat.rsplit(')').next().unwrap_or_default();
        state.trim_start().starts_with('S')
    };
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !sleeps(&stat)) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `code` and measures its allocations. Only one measurement at a time, and only inside [`alone`].
fn measure<T>(code: impl FnOnce() -> T) -> (T, Usage) {
    assert!(COUNTING.load(SeqCst), "measured outside `alone`");
    let (before, count) = (CURRENT.load(SeqCst), COUNT.load(SeqCst));
    PEAK.store(before, SeqCst);
    let result = code();
    let usage = Usage {
        peak: (PEAK.load(SeqCst) - before).cast_unsigned(),
        count: COUNT.load(SeqCst) - count,
    };
    (result, usage)
}
