//! The pass over the frames, by several workers with one deterministic result.
//!
//! Each worker has its own network and takes the next unprocessed frame. The contribution of a frame to a
//! tensor depends on earlier frames, because they set the histogram's range. Each tensor is therefore a
//! turnstile: frame n enters after frame n − 1 has left. Workers follow each other through the network, a few
//! layers apart, and the result equals that of a single worker.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::occupancy::Occupancy;
use super::stats::{Collector, NotFinite, Summary};
use super::{CalibrationError, Histogram, Options, TensorStats};
use crate::build::compile;
use crate::build::onnx::Graph;
use crate::build::runner::Runner;
use crate::build::{BuildError, Result};
use crate::cpu::pool::Pool;
use crate::map::MapView;
use crate::model::Model;
use crate::model::Pfn;

/// Maximum bytes of feature maps of all workers, which keeps the process below 1 GB. A single worker may exceed
/// it.
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

/// A network and the state for one frame.
struct Worker {
    runner: Runner,
    occupancy: Occupancy,
    pool: Arc<Pool>,
}

/// State shared by the workers.
struct Shared<'a> {
    frames: &'a [PathBuf],
    progress: &'a (dyn Fn(usize) + Sync),
    empty: Histogram,
    /// The next frame.
    next: AtomicUsize,
    /// Number of completed frames.
    done: AtomicUsize,
    /// The first failed frame. Later frames stop and earlier ones continue, so every run reports the same one.
    failed: AtomicUsize,
    /// Its error.
    error: Mutex<Option<(usize, BuildError)>>,
    /// In network order.
    tensors: Mutex<Vec<Arc<Turnstile>>>,
}

/// A tensor that frames pass in order.
struct Turnstile {
    state: Mutex<State>,
    /// Signalled when a frame has left or failed.
    turn: Condvar,
}

struct State {
    name: String,
    /// The frame whose turn it is.
    next: usize,
    collector: Collector,
}

/// Why a frame stopped early.
enum Stop {
    Failed(BuildError),
    /// An earlier frame failed.
    Late,
}

impl<E: Into<BuildError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Locks a mutex even if it is poisoned: joining the threads raises the panic again.
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

/// Wakes the other workers if a frame panics. Otherwise they would wait forever and hide the panic.
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
    /// The turnstile of tensor `index`, in the order in which the runner reports tensors.
    fn turnstile(&self, index: usize, name: &str) -> Arc<Turnstile> {
        let mut tensors = lock(&self.tensors);
        if let Some(known) = tensors.get(index) {
            return known.clone();
        }
        // All frames report tensors in the same order, so this is the next one.
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

    /// Records the error of a frame.
    fn fail(&self, number: usize, error: BuildError) {
        let mut first = lock(&self.error);
        if first.as_ref().is_none_or(|(known, _)| number < *known) {
            *first = Some((number, error));
        }
        drop(first);
        self.stop_after(number);
    }

    /// Wakes the frames that wait for a failed one.
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
        // The workers have ended and dropped their handles.
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
    /// Waits for the frame's turn and counts its map.
    fn pass(
        &self,
        number: usize,
        map: &MapView<'_>,
        occupied: &[bool],
        pool: &Pool,
        shared: &Shared<'_>,
        frame: &Path,
    ) -> Result<(), Stop> {
        let summary = Summary::new(map, occupied, pool);
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
