//! The pass over the frames: several workers, one result.
//!
//! Each worker has a network of its own and takes the next frame that nobody has. What a frame adds to
//! a tensor depends on the frames before it (the range of a histogram does), so each tensor is a
//! turnstile: frame n enters when frame n − 1 has left. Workers therefore follow each other through the
//! network, a few layers apart, and the result is that of one worker.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::occupancy::Occupancy;
use super::stats::{Collector, NotFinite, Summary};
use super::{CalibrationError, Histogram, Options, TensorStats};
use crate::build::onnx::Graph;
use crate::build::runner::Runner;
use crate::build::{BuildError, compile};
use crate::cpu::pool::Pool;
use crate::error::{Error, Result};
use crate::map::MapView;
use crate::model::Model;
use crate::model::Pfn;

/// Most bytes of feature maps that workers share: with the rest it stays below 1 GB. One worker may
/// need more.
const MAX_ARENAS: usize = 640 << 20;

/// Collects the statistics of every tensor of the float network.
pub(super) fn run(
    model: &Model,
    pfn: &Pfn,
    graph: &Graph,
    frames: &[PathBuf],
    options: &Options,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<BTreeMap<String, TensorStats>> {
    let empty = Histogram::new(options.bins).map_err(CalibrationError::Options)?;
    let payload = compile::cpu(graph)?;
    let worker = |threads: usize| -> Result<Worker, BuildError> {
        let pool = Arc::new(Pool::new(threads));
        let runner = Runner::new(model, pfn, payload.clone(), pool.clone(), graph.path())?;
        Ok(Worker {
            runner: runner.with_layout(options.layout),
            occupancy: Occupancy::new(&model.grid),
            pool,
        })
    };
    let alone = worker(options.threads)?;
    let threads = alone.pool.threads();
    let arena = alone.runner.engine().arena_bytes().max(1);
    let most = threads.min(frames.len()).max(1);
    let count = (MAX_ARENAS / arena).clamp(1, most);
    let workers = if count == 1 {
        vec![alone]
    } else {
        drop(alone);
        let share = |index| threads / count + usize::from(index < threads % count);
        let workers = (0..count).map(|index| worker(share(index)));
        workers.collect::<Result<_, BuildError>>()?
    };

    let shared = Shared {
        frames,
        progress,
        empty,
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        failed: AtomicUsize::new(usize::MAX),
        error: Mutex::new(None),
        tensors: Mutex::new(Vec::new()),
    };
    std::thread::scope(|scope| {
        for mut worker in workers {
            let shared = &shared;
            scope.spawn(move || worker.run(shared));
        }
    });
    shared.finish()
}

/// A network with what a frame needs.
struct Worker {
    runner: Runner,
    occupancy: Occupancy,
    pool: Arc<Pool>,
}

/// What workers share.
struct Shared<'a> {
    frames: &'a [PathBuf],
    progress: &'a (dyn Fn(usize) + Sync),
    empty: Histogram,
    /// The frame to take next.
    next: AtomicUsize,
    /// Frames that are through.
    done: AtomicUsize,
    /// The first frame that failed: those after it stop, those before it go on, so that it is the same
    /// one in every run.
    failed: AtomicUsize,
    /// Its error.
    error: Mutex<Option<(usize, Error)>>,
    /// In the order of the network.
    tensors: Mutex<Vec<Arc<Turnstile>>>,
}

/// A tensor, which frames pass in order.
struct Turnstile {
    state: Mutex<State>,
    /// A frame has left, or failed.
    turn: Condvar,
}

struct State {
    name: String,
    /// The frame whose turn it is.
    next: usize,
    collector: Collector,
}

/// Why a frame was not finished.
enum Stop {
    Failed(Error),
    /// An earlier frame failed.
    Late,
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Locks, also after a panic elsewhere, which is raised again when the threads are joined.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// Runs frames until none is left.
    fn run(&mut self, shared: &Shared<'_>) {
        loop {
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = shared.frames.get(number) else {
                return;
            };
            let guard = Guard { number, shared };
            let outcome = self.frame(number, path, shared);
            drop(guard);
            match outcome {
                Ok(()) => {
                    let done = shared.done.fetch_add(1, Ordering::Relaxed) + 1;
                    (shared.progress)(done);
                }
                Err(stop) => {
                    if let Stop::Failed(error) = stop {
                        shared.fail(number, error);
                    }
                    return;
                }
            }
        }
    }

    fn frame(&mut self, number: usize, path: &Path, shared: &Shared<'_>) -> Result<(), Stop> {
        self.runner.read(path)?;
        self.occupancy.set(self.runner.cells());
        let (pool, occupancy) = (&self.pool, &mut self.occupancy);
        let mut index = 0;
        let mut outcome = Ok(());
        self.runner.run_read(Some(&mut |name, map| {
            if outcome.is_ok() {
                let occupied = occupancy.of_size(map.layout.height, map.layout.width);
                let turnstile = shared.turnstile(index, name);
                outcome = turnstile.pass(number, &map, occupied, pool, shared, path);
            }
            index += 1;
        }))?;
        outcome
    }
}

/// Wakes the other workers if a frame panics, so that the panic is seen and they do not wait for ever.
struct Guard<'a, 'b> {
    number: usize,
    shared: &'a Shared<'b>,
}

impl Drop for Guard<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.stop_after(self.number);
        }
    }
}

impl Shared<'_> {
    /// The tensor that is shown at place `index`.
    fn turnstile(&self, index: usize, name: &str) -> Arc<Turnstile> {
        let mut tensors = lock(&self.tensors);
        if let Some(known) = tensors.get(index) {
            return known.clone();
        }
        // Each frame shows all tensors in one order, so it is the next one.
        let new = Arc::new(Turnstile {
            state: Mutex::new(State {
                name: name.to_owned(),
                next: 0,
                collector: Collector::new(self.empty.clone()),
            }),
            turn: Condvar::new(),
        });
        tensors.push(new.clone());
        new
    }

    /// Notes the error of a frame.
    fn fail(&self, number: usize, error: Error) {
        let mut first = lock(&self.error);
        if first.as_ref().is_none_or(|(known, _)| number < *known) {
            *first = Some((number, error));
        }
        drop(first);
        self.stop_after(number);
    }

    /// Wakes the frames that wait for one that will never come.
    fn stop_after(&self, number: usize) {
        self.failed.fetch_min(number, Ordering::SeqCst);
        for tensor in lock(&self.tensors).iter() {
            drop(lock(&tensor.state));
            tensor.turn.notify_all();
        }
    }

    fn finish(self) -> Result<BTreeMap<String, TensorStats>> {
        let error = self.error.into_inner();
        if let Some((_, error)) = error.unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let tensors = self.tensors.into_inner();
        let tensors = tensors.unwrap_or_else(PoisonError::into_inner).into_iter();
        // The workers are gone, and so are their handles.
        let states = tensors.filter_map(Arc::into_inner).map(|tensor| {
            let state = tensor.state.into_inner();
            state.unwrap_or_else(PoisonError::into_inner)
        });
        Ok(states
            .map(|state| (state.name, state.collector.finish()))
            .collect())
    }
}

impl Turnstile {
    /// Counts a frame's map when it is its turn.
    fn pass(
        &self,
        number: usize,
        map: &MapView<'_>,
        occupied: &[bool],
        pool: &Pool,
        shared: &Shared<'_>,
        frame: &Path,
    ) -> Result<(), Stop> {
        let summary = Summary::of(map, occupied, pool);
        let mut state = lock(&self.state);
        while state.next != number {
            if shared.failed.load(Ordering::SeqCst) < number {
                return Err(Stop::Late);
            }
            state = self
                .turn
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let summary = summary.map_err(|at: NotFinite| CalibrationError::NotFinite {
            tensor: state.name.clone(),
            frame: frame.into(),
            value: at.value,
            channel: at.channel,
            y: at.y,
            x: at.x,
        })?;
        state.collector.add(map, occupied, &summary, pool);
        state.next += 1;
        drop(state);
        self.turn.notify_all();
        Ok(())
    }
}
