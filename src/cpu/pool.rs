//! A pool of long-lived worker threads that share the tasks of an index range.
//!
//! Threads claim tasks one by one from an atomic counter. *Which* thread runs a task varies, but the result
//! does not: it may depend on the task's index, never on the thread or the number of threads. The calling
//! thread takes part, so a pool of one thread spawns nothing. A dispatch allocates nothing. Idle workers spin
//! for some tens of microseconds, longer than the gap between two layers of a network, then sleep.
//!
//! This file needs `unsafe` because workers run a closure that borrows the caller's stack. This is sound
//! because a dispatch returns only after every worker that joined it has left it.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Upper limit of a pool's threads.
pub(crate) const MAX_THREADS: usize = 256;

/// `spin_loop` hints before a waiting thread sleeps: 30 to 100 µs, depending on the processor.
const SPINS: u32 = 2000;

/// Bits of [`Shared::state`]: number of workers in the job (low 16), whether the job is open, the job's number.
const ACTIVE: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
const EPOCH: u64 = 1 << 17;
/// The pool is being dropped.
const STOP: u64 = 1 << 63;

/// A pool of worker threads; see the module's documentation.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs; a dispatch that finds it locked runs on its own thread only.
    dispatch: Mutex<()>,
}

/// The current job.
#[derive(Clone, Copy, Debug)]
struct Job {
    /// The caller's closure.
    data: *const (),
    /// Calls `data` with (worker, index).
    call: unsafe fn(*const (), usize, usize),
    /// Number of tasks.
    n: usize,
    /// Only workers with a lower number join.
    workers: usize,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU64,
    /// Next task to claim.
    next: AtomicUsize,
    job: UnsafeCell<Job>,
    /// Number of workers that have started.
    started: AtomicUsize,
    /// Number of workers that sleep or are about to.
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    work: Condvar,
    done: Condvar,
    /// The first panic of the job, resumed on the calling thread.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only by the dispatching thread while no worker is active, and read only by workers
// that joined after it was published through `state` (release, acquire). Its pointer is used only while the
// dispatching thread keeps the closure alive, and `for_each_worker` requires `Sync` closures.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// A pointer through which tasks with different indices access different elements.
struct TaskPtr<T>(*mut T);

// SAFETY: each element or chunk is accessed by exactly one task, like a `&mut T` sent to another thread; hence
// `T: Send`.
unsafe impl<T: Send> Sync for TaskPtr<T> {}

impl<T> TaskPtr<T> {
    /// Returns the pointer. A method makes closures capture the wrapper, not its field.
    fn get(&self) -> *mut T {
        self.0
    }
}

/// Locks, ignoring poison: the data of these mutexes is always valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Creates a pool of `threads` threads, including the calling one; 0 means one per core. If the system
    /// grants fewer, the pool is smaller, which does not change results.
    pub fn new(threads: usize) -> Self {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        }
        .min(MAX_THREADS);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(Job {
                data: std::ptr::null(),
                call: |_, _, _| {},
                n: 0,
                workers: 0,
            }),
            started: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            work: Condvar::new(),
            done: Condvar::new(),
            panic: Mutex::new(None),
        });
        let mut workers = Vec::with_capacity(threads - 1);
        for worker in 1..threads {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("centerpoint-{worker}"));
            match builder.spawn(move || shared.work(worker)) {
                Ok(handle) => workers.push(handle),
                Err(error) => {
                    log::warn!("cannot start thread {worker} of {threads}: {error}");
                    break;
                }
            }
        }
        // Threads allocate while starting: wait here, to keep allocations out of later dispatches.
        while shared.started.load(Ordering::Acquire) < workers.len() {
            std::thread::yield_now();
        }
        Self {
            shared,
            workers,
            dispatch: Mutex::new(()),
        }
    }

    /// Number of threads, including the calling one.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(i)` for each `i` in `0..n`, in any order, and returns when all are done.
    ///
    /// A task's panic is resumed here after the other threads have left the job; tasks that have not started
    /// are skipped. A dispatch from inside a task runs on that thread only.
    pub fn for_each(&self, n: usize, f: impl Fn(usize) + Sync) {
        self.for_each_worker(n, self.threads(), &|_, i| f(i));
    }

    /// Like [`Pool::for_each`] with a scratch value per thread: `f(&mut scratch, i)`. At most `scratch.len()`
    /// threads take part.
    ///
    /// # Panics
    /// If `scratch` is empty and `n` is not 0.
    pub fn for_each_with<S: Send>(
        &self,
        scratch: &mut [S],
        n: usize,
        f: impl Fn(&mut S, usize) + Sync,
    ) {
        assert!(n == 0 || !scratch.is_empty(), "no scratch value");
        let base = TaskPtr(scratch.as_mut_ptr());
        self.for_each_worker(n, scratch.len(), &|worker, i| {
            // SAFETY: `worker < scratch.len()`, and one thread has that number during the job.
            let scratch = unsafe { &mut *base.get().add(worker) };
            f(scratch, i);
        });
    }

    /// Calls `f(i, chunk)` for each chunk of `chunk_len` elements of `data`; the last may be shorter. Chunk `i`
    /// starts at element `i * chunk_len`.
    ///
    /// # Panics
    /// If `chunk_len` is 0.
    pub fn for_each_chunk_mut<T: Send>(
        &self,
        data: &mut [T],
        chunk_len: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let chunks = Chunks::new(data, chunk_len);
        self.for_each_worker(chunks.count(), self.threads(), &|_, i| {
            // SAFETY: each index is claimed once per job.
            f(i, unsafe { chunks.get(i) });
        });
    }

    /// Like [`Pool::for_each_chunk_mut`] with a scratch value per thread, as in [`Pool::for_each_with`].
    ///
    /// # Panics
    /// If `chunk_len` is 0, or if `scratch` is empty and `data` is not.
    pub fn for_each_chunk_mut_with<T: Send, S: Send>(
        &self,
        scratch: &mut [S],
        data: &mut [T],
        chunk_len: usize,
        f: impl Fn(&mut S, usize, &mut [T]) + Sync,
    ) {
        let chunks = Chunks::new(data, chunk_len);
        self.for_each_with(scratch, chunks.count(), |scratch, i| {
            // SAFETY: each index is claimed once per job.
            f(scratch, i, unsafe { chunks.get(i) });
        });
    }

    /// Runs `f(worker, i)` for each `i < n` on the threads with numbers below `workers`.
    fn for_each_worker<F: Fn(usize, usize) + Sync>(&self, n: usize, workers: usize, f: &F) {
        let alone = n < 2 || workers < 2 || self.workers.is_empty();
        let guard = if alone {
            None
        } else {
            match self.dispatch.try_lock() {
                Ok(guard) => Some(guard),
                Err(std::sync::TryLockError::Poisoned(error)) => Some(error.into_inner()),
                Err(std::sync::TryLockError::WouldBlock) => None,
            }
        };
        let Some(_guard) = guard else {
            (0..n).for_each(|i| f(0, i));
            return;
        };
        self.shared.run(Job {
            data: std::ptr::from_ref(f).cast(),
            call: call::<F>,
            n,
            workers,
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.fetch_or(STOP, Ordering::SeqCst);
        drop(lock(&self.shared.lock));
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // Workers catch their tasks' panics, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

/// Calls the closure behind `data`.
///
/// # Safety
/// `data` points to a live `F`.
unsafe fn call<F: Fn(usize, usize) + Sync>(data: *const (), worker: usize, i: usize) {
    // SAFETY: the caller's promise.
    let f = unsafe { &*data.cast::<F>() };
    f(worker, i);
}

impl Shared {
    /// Publishes a job, takes part in it, and returns when all threads have left it.
    fn run(&self, job: Job) {
        // SAFETY: the dispatch lock is held and the last job has no active worker (see the end of this
        // function), so no other thread accesses the cell.
        unsafe { *self.job.get() = job };
        self.next.store(0, Ordering::Relaxed);
        let epoch = (self.state.load(Ordering::Relaxed) & !(ACTIVE | OPEN)) + EPOCH;
        self.state.store(epoch | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.lock));
            self.work.notify_all();
        }
        self.tasks(job, 0);

        // Closing the job keeps sleepers out: a short job never waits for one to wake.
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let left = || self.state.load(Ordering::Acquire) & ACTIVE == 0;
        if !spin_until(left) {
            let mut guard = lock(&self.lock);
            while !left() {
                guard = self
                    .done
                    .wait(guard)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
        let panic = lock(&self.panic).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Claims and runs tasks until none are left.
    fn tasks(&self, job: Job, worker: usize) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= job.n {
                return;
            }
            // SAFETY: `data` is the closure of the dispatch in progress, whose thread does not
            // return before this thread has left the job.
            let task = || unsafe { (job.call)(job.data, worker, i) };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(task)) {
                self.next.store(job.n, Ordering::Relaxed);
                lock(&self.panic).get_or_insert(payload);
            }
        }
    }

    /// The main loop of worker thread `worker`.
    fn work(&self, worker: usize) {
        self.started.fetch_add(1, Ordering::Release);
        let mut seen = 0;
        loop {
            let fresh = || {
                let state = self.state.load(Ordering::SeqCst);
                state & STOP != 0 || (state & OPEN != 0 && state & !(ACTIVE | OPEN) != seen)
            };
            if !spin_until(fresh) {
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                let mut guard = lock(&self.lock);
                while !fresh() {
                    guard = self
                        .work
                        .wait(guard)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                drop(guard);
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            let state = self.state.load(Ordering::Acquire);
            if state & STOP != 0 {
                return;
            }
            if state & OPEN == 0 {
                continue;
            }
            let joined =
                self.state
                    .compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
            if joined.is_err() {
                continue;
            }
            seen = state & !(ACTIVE | OPEN);
            // SAFETY: this thread is active in the job, so the cell is not written.
            let job = unsafe { *self.job.get() };
            if worker < job.workers {
                self.tasks(job, worker);
            }
            let before = self.state.fetch_sub(1, Ordering::AcqRel);
            if before & OPEN == 0 && before & ACTIVE == 1 {
                drop(lock(&self.lock));
                self.done.notify_one();
            }
        }
    }
}

/// Spins until `ready`; returns false if it did not become true in time.
fn spin_until(ready: impl Fn() -> bool) -> bool {
    for _ in 0..SPINS {
        if ready() {
            return true;
        }
        std::hint::spin_loop();
    }
    ready()
}

/// A slice split into chunks, each borrowed by one task.
struct Chunks<T> {
    base: TaskPtr<T>,
    len: usize,
    chunk_len: usize,
}

impl<T> Chunks<T> {
    fn new(data: &mut [T], chunk_len: usize) -> Self {
        assert!(chunk_len > 0, "chunk_len is 0");
        Self {
            base: TaskPtr(data.as_mut_ptr()),
            len: data.len(),
            chunk_len,
        }
    }

    fn count(&self) -> usize {
        self.len.div_ceil(self.chunk_len)
    }

    /// Chunk `i`.
    ///
    /// # Safety
    /// `i < count()`, the slice given to `new` is still mutably borrowed, and no two live chunks
    /// have the same index.
    #[allow(clippy::mut_from_ref)]
    unsafe fn get(&self, i: usize) -> &mut [T] {
        let start = i * self.chunk_len;
        let len = self.chunk_len.min(self.len - start);
        // SAFETY: `start + len <= self.len`, and chunks of different index do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.base.get().add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_runs_once() {
        for threads in [1, 2, 3, 7] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for n in [0, 1, 2, 5, 1000] {
                let counts: Vec<_> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each(n, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn chunks_cover_the_slice() {
        let pool = Pool::new(3);
        let mut data = vec![0usize; 1003];
        pool.for_each_chunk_mut(&mut data, 10, |i, chunk| {
            assert_eq!(chunk.len(), if i == 100 { 3 } else { 10 });
            chunk
                .iter_mut()
                .enumerate()
                .for_each(|(k, v)| *v = i * 10 + k);
        });
        assert!(data.iter().enumerate().all(|(i, &v)| i == v));
    }

    #[test]
    fn scratch_is_not_shared() {
        let pool = Pool::new(4);
        let mut scratch = vec![0usize; 3];
        let mut data = vec![0u8; 5000];
        for _ in 0..50 {
            pool.for_each_chunk_mut_with(&mut scratch, &mut data, 1, |count, _, chunk| {
                *count += 1;
                chunk[0] += 1;
            });
        }
        assert_eq!(scratch.iter().sum::<usize>(), 50 * 5000);
        assert!(data.iter().all(|&v| v == 50));
    }

    #[test]
    fn many_short_jobs_in_a_row() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        for round in 0..20_000 {
            pool.for_each(round % 5, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(total.into_inner(), 20_000 / 5 * 10);
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(2);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let both = std::sync::Barrier::new(2);
            pool.for_each(2, |_| {
                both.wait();
            });
        }
    }

    #[test]
    fn a_panic_is_resumed_and_the_pool_survives() {
        let pool = Pool::new(2);
        for bad in [0, 3, 99] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(100, |i| assert!(i != bad, "task {bad}"));
            }));
            let payload = outcome.unwrap_err();
            assert_eq!(
                payload.downcast_ref::<String>(),
                Some(&format!("task {bad}"))
            );
        }
        let count = AtomicUsize::new(0);
        pool.for_each(10, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }

    #[test]
    fn nested_and_concurrent_dispatches_finish() {
        let pool = Pool::new(3);
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    pool.for_each(8, |_| {
                        pool.for_each(4, |_| {
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    });
                });
            }
        });
        assert_eq!(count.into_inner(), 4 * 8 * 4);
    }
}
