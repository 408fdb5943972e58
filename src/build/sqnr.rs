//! Measures the error of quantisation without labels: the signal-to-quantisation-noise ratio (SQNR) of the head
//! outputs.
//!
//! On frames not used for calibration, the network's raw outputs are compared with those of the float network. The
//! SQNR of an output is `10·log10(Σ y² / Σ (y' − y)²)` in dB. The sums are over all cells and frames, or only over
//! the *object cells*, where the float heatmap has a score of at least [`OBJECT_SCORE`] in any class.
//!
//! [`Sqnr::figure`] summarises all outputs: the mean of three numbers in dB, each a mean over tasks:
//! - heatmaps over all cells, where noise creates false boxes;
//! - heatmaps over object cells, where noise changes scores and their order;
//! - all other outputs over object cells, where noise moves boxes. Other cells of these outputs are never read.

use std::path::{Path, PathBuf};

pub(crate) use crate::plan::{OutputSqnr, Sqnr};

use super::runner::Runner;
use crate::build::{BuildError, Result};
use crate::engine::{Engine, EngineError, MapRef};
use crate::map::MapView;
use crate::model::Model;

/// Minimum score of an object cell.
pub(crate) const OBJECT_SCORE: f64 = 0.1;
/// Maximum bytes of float outputs to keep for comparison; further frames are not measured.
const MAX_BYTES: usize = 256 << 20;
/// Maximum SQNR in dB, also that of an output without error. Differences beyond are rounding of f32.
const MOST: f64 = 140.0;

/// The float network's outputs on the frames to measure.
pub(crate) struct Reference<'a> {
    model: &'a Model,
    frames: Vec<ReferenceFrame>,
}

/// The float network's outputs on one frame.
struct ReferenceFrame {
    path: PathBuf,
    /// Each output, `[cell][channel]`.
    outputs: Vec<Vec<f32>>,
    /// By task: whether each cell is an object cell.
    objects: Vec<Vec<bool>>,
}

impl<'a> Reference<'a> {
    /// Runs the float network `runner` on `frames` and calls `done` after each. Stops after 256 MiB of outputs.
    ///
    /// # Errors
    /// The first frame that cannot be read or run.
    pub(crate) fn new(
        model: &'a Model,
        runner: &mut Runner,
        frames: &[PathBuf],
        mut done: impl FnMut(),
    ) -> Result<Self> {
        let mut reference = Self::empty(model);
        for path in frames {
            if reference.is_full(runner.engine()) {
                break;
            }
            runner.run(path, None)?;
            reference.add(path, runner.engine())?;
            done();
        }
        Ok(reference)
    }

    /// Creates a reference without frames; see [`Reference::add`].
    pub(crate) fn empty(model: &'a Model) -> Self {
        Self {
            model,
            frames: Vec::new(),
        }
    }

    /// Whether there is no room for another frame of the network in `engine`.
    pub(crate) fn is_full(&self, engine: &impl Engine) -> bool {
        let outputs = engine.outputs().iter();
        let values: usize = outputs.map(|o| o.channels * o.height * o.width).sum();
        self.frames.len() >= (MAX_BYTES / values.max(1) / size_of::<f32>()).max(1)
    }

    /// Adds the outputs in `engine` of the frame at `path`.
    ///
    /// # Errors
    /// [`EngineError::Mismatch`] if the engine lacks a heatmap of the model.
    pub(crate) fn add(&mut self, path: &Path, engine: &impl Engine) -> Result<()> {
        let all = engine.outputs();
        let objects = self.model.head.tasks.iter().map(|task| {
            let heatmap = all.iter().position(|o| o.name == task.outputs.heatmap);
            // No output has the index `all.len()`.
            let heatmap = host_map(engine, heatmap.unwrap_or(all.len()))?;
            Ok(cells(&heatmap).map(is_object).collect())
        });
        self.frames.push(ReferenceFrame {
            path: path.to_path_buf(),
            objects: objects.collect::<Result<_>>()?,
            outputs: outputs(engine)?,
        });
        Ok(())
    }

    /// Number of frames.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Runs another version of the network on the same frames and compares; calls `done` after each.
    ///
    /// # Errors
    /// The first frame that cannot be read or run.
    pub(crate) fn measure(&self, runner: &mut Runner, mut done: impl FnMut()) -> Result<Sqnr> {
        let mut comparison = self.compare(runner.engine());
        for (index, frame) in self.frames.iter().enumerate() {
            runner.run(&frame.path, None)?;
            comparison.add(index, runner.engine())?;
            done();
        }
        Ok(comparison.finish())
    }

    /// Starts comparing the network in `engine`.
    pub(crate) fn compare(&self, engine: &impl Engine) -> Comparison<'_> {
        let outputs = engine.outputs().iter();
        let outputs = outputs.map(|o| (o.name.clone(), self.task(&o.name), Default::default()));
        Comparison {
            reference: self,
            outputs: outputs.collect(),
        }
    }

    /// The task that an output belongs to.
    fn task(&self, output: &str) -> usize {
        let mut tasks = self.model.head.tasks.iter();
        let found = tasks.position(|task| task.outputs.iter().any(|name| name == output));
        found.unwrap_or(0)
    }

    /// See the [module documentation](self).
    fn figure(&self, outputs: &[OutputSqnr]) -> f64 {
        let mut heatmaps = (Mean::default(), Mean::default());
        let mut boxes = Mean::default();
        for output in outputs {
            let mut tasks = self.model.head.tasks.iter();
            if tasks.any(|task| task.outputs.heatmap == output.name) {
                heatmaps.0.add(output.all);
                heatmaps.1.add(output.objects);
            } else {
                boxes.add(output.objects);
            }
        }
        let parts = [heatmaps.0, heatmaps.1, boxes].map(|mean| mean.value());
        parts.iter().sum::<f64>() / parts.len() as f64
    }
}

/// Compares another version of the network, frame by frame.
pub(crate) struct Comparison<'a> {
    reference: &'a Reference<'a>,
    /// Name and task of each output, and its sums over all cells and over object cells.
    outputs: Vec<(String, usize, [Sum; 2])>,
}

impl Comparison<'_> {
    /// Compares the outputs in `engine` with frame `index` of the reference. Does nothing if there is no such frame.
    ///
    /// # Errors
    /// [`EngineError::Mismatch`] if the engine has another number of outputs than the reference.
    pub(crate) fn add(&mut self, index: usize, engine: &impl Engine) -> Result<()> {
        let Some(frame) = self.reference.frames.get(index) else {
            return Ok(());
        };
        if frame.outputs.len() != self.outputs.len() {
            let (found, expected) = (self.outputs.len(), frame.outputs.len());
            let what =
                format!("the number of outputs is {found}, the float network's is {expected}");
            return Err(EngineError::Mismatch { what }.into());
        }
        for (i, (_, task, sums)) in self.outputs.iter_mut().enumerate() {
            let (view, expected) = (host_map(engine, i)?, &frame.outputs[i]);
            let objects = frame.objects.get(*task).map_or(&[][..], |o| o);
            let expected = expected.chunks_exact(view.layout.channels.max(1));
            for (cell, (found, expected)) in cells(&view).zip(expected).enumerate() {
                let mut sum = Sum::default();
                for (found, expected) in found.zip(expected) {
                    sum.add(f64::from(found), f64::from(*expected));
                }
                sums[0].merge(sum);
                if objects.get(cell) == Some(&true) {
                    sums[1].merge(sum);
                }
            }
        }
        Ok(())
    }

    /// The ratios over all frames.
    pub(crate) fn finish(self) -> Sqnr {
        let outputs = self.outputs.into_iter();
        let outputs: Vec<OutputSqnr> = outputs
            .map(|(name, _, [all, objects])| OutputSqnr {
                name,
                all: all.decibels(),
                objects: objects.decibels(),
            })
            .collect();
        let frames = &self.reference.frames;
        let objects = frames.iter().flat_map(|f| f.objects.iter().flatten());
        Sqnr {
            figure: self.reference.figure(&outputs),
            frames: frames.len(),
            object_cells: objects.filter(|&&object| object).count() as u64,
            outputs,
        }
    }
}

/// Sums of squares.
#[derive(Clone, Copy, Default)]
struct Sum {
    signal: f64,
    noise: f64,
}

impl Sum {
    fn add(&mut self, found: f64, expected: f64) {
        self.signal += expected * expected;
        self.noise += (found - expected) * (found - expected);
    }

    fn merge(&mut self, other: Self) {
        self.signal += other.signal;
        self.noise += other.noise;
    }

    fn decibels(self) -> f64 {
        if self.noise == 0.0 {
            return MOST;
        }
        let decibels = 10.0 * (self.signal / self.noise).log10();
        // NaN outputs count as pure noise, and so does any output where the float output is 0.
        if decibels.is_nan() {
            -MOST
        } else {
            decibels.clamp(-MOST, MOST)
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn value(self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}

/// The values of all outputs of an engine, each `[cell][channel]`.
///
/// # Errors
/// [`EngineError::Mismatch`] if an output is not in host memory.
pub(crate) fn outputs(engine: &impl Engine) -> Result<Vec<Vec<f32>>> {
    let all = 0..engine.outputs().len();
    let each = all.map(|i| Ok(cells(&host_map(engine, i)?).flatten().collect()));
    each.collect()
}

/// The channels of each cell of a map, in the order `y · width + x`.
fn cells<'a>(view: &MapView<'a>) -> impl Iterator<Item = impl Iterator<Item = f32> + 'a> + 'a {
    let MapView { data, layout } = *view;
    (0..layout.height).flat_map(move |y| {
        (0..layout.width).map(move |x| {
            (0..layout.channels).filter_map(move |c| data.get(layout.index(c, y, x)).copied())
        })
    })
}

/// Output `index` of an engine on the host.
fn host_map(engine: &impl Engine, index: usize) -> Result<MapView<'_>> {
    let map = engine.output_map(index);
    map.and_then(MapRef::host).ok_or_else(|| missing(index))
}

fn missing(index: usize) -> BuildError {
    let what = format!("the engine has no output {index} in host memory");
    EngineError::Mismatch { what }.into()
}

/// Whether a cell is an object cell, by its heatmap logits.
fn is_object(mut logits: impl Iterator<Item = f32>) -> bool {
    let least = (OBJECT_SCORE / (1.0 - OBJECT_SCORE)).ln();
    logits.any(|logit| f64::from(logit) >= least)
}

#[cfg(test)]
mod tests;
