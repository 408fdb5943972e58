//! What trainings have in common: the loop over steps, the order of frames, labels, the precision, the table.
//!
//! ```text
//! frames_of ─ Task::gradients ─ Optimizer ─ every `check` steps: Task::measure ─ State ─ file
//! ```

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::Progress;
use crate::boxes::Box3d;
use crate::build::calibrate::CalibrationError;
use crate::build::config::ConfigError;
use crate::build::folder::{Folder, Network as PlanNetwork};
use crate::build::globs::Globs;
use crate::build::train::network::Network;
use crate::build::train::optimizer::{Optimizer, StepOptions};
use crate::build::train::state::State;
use crate::build::{BuildError, Result, hash};
use crate::detector::{Detector, Options};
use crate::eval::{frames, nuscenes};
use crate::files::{FileError, OutputFile};
use crate::model::{Model, Pfn};
use crate::plan::Training;
use crate::points::{Layout, Transform};
use crate::program::Payload;
use crate::results::nuscenes::{Results, SampleBox, sample_token};
use crate::synth::Rng;

/// Random stream of the order of frames, separate from other uses of a seed.
const ORDER_STREAM: u64 = 0x006f_7264_6572;

/// The layers that are trained.
pub(super) struct Choice {
    train: Globs,
    freeze: Globs,
}

impl Choice {
    /// `train` are patterns of layers to train, none for all, and `freeze` of layers to leave. Warns about a pattern that
    /// matches none of `layers`.
    pub(super) fn new(train: &[String], freeze: &[String], layers: &[String]) -> Self {
        let choice = Self {
            train: Globs::new(train),
            freeze: Globs::new(freeze),
        };
        for (key, globs) in [("train_layers", &choice.train), ("freeze", &choice.freeze)] {
            for pattern in globs.unused(layers.iter().map(String::as_str)) {
                let first = layers.first().map_or("", String::as_str);
                log::warn!(
                    "{key} pattern \"{pattern}\" matches no layer; layer names look like \"{first}\""
                );
            }
        }
        choice
    }

    /// The rate of a layer: 1 or 0.
    pub(super) fn rate(&self, layer: &str) -> f32 {
        let train = self.train.is_empty() || self.train.matches(layer);
        if train && !self.freeze.matches(layer) {
            1.0
        } else {
            0.0
        }
    }
}

/// A network with its optimiser.
pub(super) struct Learner {
    pub(super) network: Network,
    pub(super) optimizer: Optimizer,
}

impl Learner {
    /// A network before its first step.
    pub(super) fn new(network: Network) -> Self {
        Self {
            optimizer: Optimizer::new(&network.params),
            network,
        }
    }

    /// Continues from the file, if there is one and it exists.
    ///
    /// # Errors
    /// As [`State::read`].
    pub(super) fn resume(&mut self, state: &mut State, file: Option<&Path>) -> Result<()> {
        let Some(path) = file else {
            return Ok(());
        };
        state.read(path, &mut self.network.params, &mut self.optimizer)?;
        self.network.prepare()
    }

    /// Calls `f` with the parameters of the moving average.
    pub(super) fn averaged<T>(&mut self, f: impl FnOnce(&Network) -> T) -> T {
        let params = &mut self.network.params;
        params.exchange(self.optimizer.average_mut());
        let made = f(&self.network);
        let params = &mut self.network.params;
        params.exchange(self.optimizer.average_mut());
        made
    }
}

/// What one kind of training does at its steps.
pub(super) trait Task {
    /// Adds the gradients of the mean loss of `frames` to those of the parameters, and returns the loss. `frames` are numbers
    /// below [`Course::frames`].
    ///
    /// # Errors
    /// [`BuildError`] for a frame that cannot be read.
    fn gradients(&mut self, network: &mut Network, frames: &[usize]) -> Result<f64>;

    /// The figure of the moving average; higher is better. Keeps the network if its figure is above `best`.
    ///
    /// # Errors
    /// [`BuildError`] for a network that cannot be built or run.
    fn measure(&mut self, learner: &mut Learner, best: f64) -> Result<f64>;
}

/// The course of a training.
pub(super) struct Course<'a> {
    /// Name of the figure.
    pub(super) figure: &'static str,
    /// Number of steps.
    pub(super) steps: usize,
    /// Frames of a step.
    pub(super) batch: usize,
    /// Number of frames.
    pub(super) frames: usize,
    /// Seed of their order.
    pub(super) seed: u64,
    /// Steps between two measurements.
    pub(super) check: usize,
    /// Measurements without a better one after which the training stops; 0 never stops it.
    pub(super) patience: usize,
    /// The optimiser's options at a step.
    pub(super) options: &'a dyn Fn(usize) -> StepOptions,
    /// Where the state is written at every measurement.
    pub(super) state: Option<&'a Path>,
    pub(super) progress: &'a dyn Progress,
}

impl Course<'_> {
    /// Trains from `state` to the last step, or until the figure no longer rises.
    ///
    /// # Errors
    /// Those of `task`, of [`Network::update`], and [`FileError`] for the state.
    pub(super) fn run(
        &self,
        learner: &mut Learner,
        state: &mut State,
        task: &mut dyn Task,
    ) -> Result<()> {
        let (figure_name, before) = (self.figure, state.before());
        self.progress.begin_at("train", state.step, self.steps);
        let stale = |state: &State| self.patience > 0 && state.since_best >= self.patience;
        while state.step < self.steps && !stale(state) {
            let options = (self.options)(state.step);
            let loss = task.gradients(&mut learner.network, &self.frames_of(state.step))?;
            let norm = learner.network.update(&mut learner.optimizer, &options)?;
            state.step += 1;
            let mut figure = None;
            if state.step == self.steps || state.step.is_multiple_of(self.check.max(1)) {
                let found = task.measure(learner, state.best)?;
                figure = Some(found);
                state.measured(found, learner.optimizer.average());
                // The measurement had the bar.
                self.progress.begin_at("train", state.step, self.steps);
            } else {
                self.progress.advance();
            }
            state.log.push([
                state.step as f64,
                options.rate,
                loss,
                norm,
                figure.unwrap_or(f64::NAN),
            ]);
            self.progress.note(&format!(
                "train: loss {loss:.4}, {figure_name} {:.3} (before {before:.3})",
                state.best
            ));
            if let (Some(path), Some(_)) = (self.state, figure) {
                state.write(path, &learner.network.params, &learner.optimizer)?;
            }
        }
        Ok(())
    }

    /// The record of a training that ended in `state`. Warns if it made nothing better: then the network before it is kept.
    pub(super) fn record(&self, state: &State, layers: Vec<String>) -> Training {
        let kept = state.best > state.before();
        if !kept {
            log::warn!(
                "the training did not help: {} {:.4} before it, at best {:.4} after a step; the network before the training is \
                 kept",
                self.figure,
                state.before(),
                state.best_figure()
            );
        }
        Training {
            frames: self.frames,
            steps: state.step,
            layers,
            figure: self.figure.to_owned(),
            before: state.before(),
            best: state.best,
            best_step: state.best_step,
            kept,
        }
    }

    /// The frames of a step. Each pass over all frames has an order of its own.
    fn frames_of(&self, step: usize) -> Vec<usize> {
        let (batch, count) = (self.batch, self.frames);
        let mut frames = Vec::with_capacity(batch);
        let mut epoch_order: Option<(usize, Vec<usize>)> = None;
        for place in step * batch..(step + 1) * batch {
            let epoch = place / count;
            let order = match &mut epoch_order {
                Some((known, order)) if *known == epoch => order,
                other => {
                    let mut order: Vec<usize> = (0..count).collect();
                    let mut rng = Rng::new(self.seed, epoch as u64, ORDER_STREAM);
                    for i in (1..count).rev() {
                        order.swap(i, (rng.uniform() * (i + 1) as f64) as usize);
                    }
                    &mut other.insert((epoch, order)).1
                }
            };
            frames.push(order[place % count]);
        }
        frames
    }
}

/// An error about an option.
pub(super) fn need(
    origin: &str,
    key: &'static str,
    found: &str,
    expected: &'static str,
) -> BuildError {
    BuildError::from(ConfigError::Value {
        origin: origin.to_owned(),
        key,
        found: found.to_owned(),
        expected,
    })
}

/// Removes the state of a training that is done.
///
/// # Errors
/// [`FileError`].
pub(super) fn remove_state(file: Option<&Path>) -> Result<()> {
    match file.filter(|path| path.exists()) {
        Some(path) => Ok(std::fs::remove_file(path).map_err(FileError::new(path, "remove"))?),
        None => Ok(()),
    }
}

/// The labels of the frames to train and to measure on.
pub(super) struct Labels {
    results: Results,
    /// SHA-256 of the file.
    hash: String,
}

impl Labels {
    /// Reads a file, checks that it has every frame, and warns about boxes whose class the model does not know.
    ///
    /// # Errors
    /// [`BuildError::Results`] for the file, [`CalibrationError::NoLabels`] for a frame without labels.
    pub(super) fn read(path: &Path, frames: &[&[PathBuf]], model: &Model) -> Result<Self> {
        let labels = Self {
            results: Results::read(path)?,
            hash: hash::sha256_file(path)?,
        };
        let mut unknown: BTreeMap<&str, usize> = BTreeMap::new();
        for frame in frames.iter().copied().flatten() {
            for sample in labels.of(frame)? {
                if class_of(model, sample).is_none() {
                    *unknown.entry(&sample.detection_name).or_default() += 1;
                }
            }
        }
        if !unknown.is_empty() {
            let counts = unknown.iter();
            let counts: Vec<String> = counts
                .map(|(class, boxes)| format!("{class} ({boxes})"))
                .collect();
            log::warn!(
                "{}: ignored boxes of {}: the model has no such class; its classes are {}",
                path.display(),
                counts.join(", "),
                model.classes.join(", ")
            );
        }
        Ok(labels)
    }

    /// SHA-256 of the file.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// The labels of a frame.
    fn of(&self, frame: &Path) -> Result<&[SampleBox]> {
        let token = sample_token(frame);
        let found = self.results.results.get(&token);
        found.map(Vec::as_slice).ok_or_else(|| {
            BuildError::from(CalibrationError::NoLabels {
                path: frame.into(),
                sample: token,
            })
        })
    }

    /// The labelled boxes of a frame, in the model's coordinates; `place` is the way from the frame to the model, if they
    /// differ. Objects without a point are left out.
    ///
    /// # Errors
    /// [`CalibrationError::NoLabels`].
    pub(super) fn boxes(
        &self,
        frame: &Path,
        model: &Model,
        place: Option<Transform>,
    ) -> Result<Vec<Box3d>> {
        let back = place.map(|place| place.inverse());
        let samples = self.of(frame)?.iter().filter(|s| s.num_pts != 0);
        let boxes = samples.filter_map(|sample| {
            let found = sample.to_box3d(class_of(model, sample)?);
            Some(back.map_or(found, |back| back.place(&found)))
        });
        Ok(boxes.collect())
    }
}

/// The number of a box's class.
fn class_of(model: &Model, sample: &SampleBox) -> Option<u32> {
    let class = model
        .classes
        .iter()
        .position(|c| *c == sample.detection_name);
    class.map(|class| class as u32)
}

/// A model, and how its plans run.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) folder: &'a Folder,
    /// Columns of the frames whose files do not name them; `None` uses the model's.
    pub(super) layout: Option<Layout>,
    /// CPU threads; 0 is one per core.
    pub(super) threads: usize,
}

/// The mean average precision (nuScenes) on `paths`, of a plan that is written, run, and removed.
///
/// # Errors
/// [`BuildError`] for the plan, its frames and their labels.
pub(super) fn mean_ap(
    site: &Site<'_>,
    payload: &Payload,
    pfn: &Pfn,
    paths: &[PathBuf],
    labels: &Labels,
) -> Result<f64> {
    let dir = tempfile::tempdir().map_err(BuildError::io(&std::env::temp_dir()))?;
    let plan = dir.path().join("candidate.plan");
    let network = PlanNetwork {
        payload,
        pfn,
        steps: Vec::new(),
        quantization: None,
    };
    site.folder.write_cpu(&plan, network, None)?;
    let options = Options {
        threads: site.threads,
        // As metrics are taken.
        score: Some(0.1),
        ..Options::default()
    };
    let mut detector = Detector::load(&plan, &options)?;
    let run = frames::run(
        &mut detector,
        paths,
        site.layout,
        nuscenes::MAX_BOXES,
        || {},
    )?;
    let mut truth = Results::default();
    for path in paths {
        let boxes = labels.of(path)?.to_vec();
        truth.results.insert(sample_token(path), boxes);
    }
    let classes = site.folder.model.classes.iter().map(String::as_str);
    let config = nuscenes::Config::for_classes(classes);
    Ok(nuscenes::evaluate(&truth, &run.results, &config)?.mean_ap)
}

/// Writes the table of a training as CSV.
///
/// # Errors
/// [`FileError`].
pub(super) fn write_log(path: &Path, figure: &str, rows: &[[f64; 5]]) -> Result<()> {
    let mut file = OutputFile::create(path)?;
    let mut write = || -> std::io::Result<()> {
        writeln!(file, "step,rate,loss,gradient_norm,{figure}")?;
        for [step, rate, loss, norm, value] in rows {
            let value = if value.is_nan() {
                String::new()
            } else {
                value.to_string()
            };
            writeln!(file, "{step},{rate:e},{loss},{norm},{value}")?;
        }
        Ok(())
    };
    write().map_err(FileError::new(path, "write"))?;
    Ok(file.finish()?)
}
