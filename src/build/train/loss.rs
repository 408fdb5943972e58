//! Losses of the head maps, with their gradients.
//!
//! - *Labels*: CenterPoint's (<https://arxiv.org/abs/2006.11275>): the Gaussian focal loss of the heatmaps, divided by the
//!   number of objects, and L1 of the regressions at the objects' cells.
//! - *Distillation*: the float network's outputs are the goal. Squared differences of the heatmap's logits, weighted by
//!   the float network's score, because the background is nearly all of a map; and L1 of the regressions in cells where
//!   the float network sees an object, weighted by its score there.
//!
//! A batch's loss is the mean over its frames.

use super::error::TrainingError;
use super::map::Maps;
use super::network::Network;
use super::target::{FrameTarget, REGRESSIONS};
use crate::map::HeadMaps;
use crate::model::Model;

/// Weight of a cell without a score in the distillation of heatmaps.
const FLOOR: f32 = 0.02;
/// Least score of a cell whose regressions are distilled.
const LEAST_SCORE: f32 = 0.1;
/// Weight of the regressions beside the heatmaps, as in mmdetection3d's `loss_bbox`.
const REGRESSION: f64 = 0.25;
/// Weights of a velocity's components beside other values, as in mmdetection3d's `code_weights`.
const VELOCITY: f32 = 0.2;

/// The outputs of the float network on a frame, and what the loss takes from them.
#[derive(Clone, Debug)]
pub(crate) struct Teacher {
    /// Each `[cell][channel]`, in the order of the network's outputs.
    outputs: Vec<Vec<f32>>,
    tasks: Vec<TaskTeacher>,
}

/// What the float network sees for one task.
#[derive(Clone, Debug)]
struct TaskTeacher {
    /// The weight of each logit of the heatmap, and their sum.
    weights: Vec<f32>,
    norm: f64,
    /// Channels of the heatmap.
    classes: usize,
    /// The cells with a score of at least [`LEAST_SCORE`] and their scores, and the sum of these.
    objects: Vec<(usize, f32)>,
    score: f64,
}

impl Teacher {
    /// Takes the outputs of a frame, in the order of the network's outputs.
    pub(crate) fn new(heads: &Heads, outputs: Vec<Vec<f32>>) -> Self {
        let tasks = heads.tasks.iter().map(|task| {
            let logits = &outputs[task.maps.heatmap];
            let weights: Vec<f32> = logits.iter().map(|&v| FLOOR + sigmoid(v)).collect();
            let best = |cell: &[f32]| cell.iter().fold(0.0f32, |m, &v| m.max(sigmoid(v)));
            let scores = logits.chunks_exact(task.classes).map(best).enumerate();
            let objects: Vec<_> = scores.filter(|(_, score)| *score >= LEAST_SCORE).collect();
            TaskTeacher {
                norm: weights.iter().map(|&w| f64::from(w)).sum(),
                score: objects.iter().map(|&(_, score)| f64::from(score)).sum(),
                classes: task.classes,
                weights,
                objects,
            }
        });
        Self {
            tasks: tasks.collect(),
            outputs,
        }
    }

    /// The greatest weight of a logit in each cell, over all tasks.
    pub(super) fn weights(&self) -> Vec<f32> {
        let mut best: Vec<f32> = Vec::new();
        for task in &self.tasks {
            let cells = task.weights.chunks_exact(task.classes);
            let most = cells.map(|cell| cell.iter().copied().fold(0.0, f32::max));
            if best.is_empty() {
                best = most.collect();
            } else {
                best.iter_mut().zip(most).for_each(|(b, w)| *b = b.max(w));
            }
        }
        best
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        let outputs = self.outputs.iter().map(|values| size_of_val(&values[..]));
        let tasks = self.tasks.iter();
        let tasks = tasks.map(|t| size_of_val(&t.weights[..]) + size_of_val(&t.objects[..]));
        outputs.sum::<usize>() + tasks.sum::<usize>()
    }
}

/// What the outputs of a frame are compared with.
#[derive(Clone, Copy)]
pub(crate) struct Goal<'a> {
    pub(crate) teacher: Option<&'a Teacher>,
    pub(crate) target: Option<&'a FrameTarget>,
}

/// The head maps of the tasks, as numbers of outputs.
#[derive(Clone, Debug)]
pub(crate) struct Heads {
    tasks: Vec<TaskHeads>,
}

#[derive(Clone, Debug)]
struct TaskHeads {
    maps: HeadMaps<usize>,
    /// Channels of the heatmap.
    classes: usize,
}

impl Heads {
    /// Finds the outputs of a model. `labels` says whether labels are to train them.
    ///
    /// # Errors
    /// [`TrainingError::Output`] for one that is missing; [`TrainingError::Variances`].
    pub(crate) fn new(
        model: &Model,
        network: &Network,
        labels: bool,
    ) -> Result<Self, TrainingError> {
        let path = network.params.origin();
        if labels && model.head.variance {
            return Err(TrainingError::Variances { path: path.into() });
        }
        let outputs: Vec<_> = network.outputs().collect();
        let find = |name: &str| {
            let found = outputs.iter().position(|(output, _)| *output == name);
            found.ok_or_else(|| {
                let names: Vec<&str> = outputs.iter().map(|(name, _)| *name).collect();
                TrainingError::Output {
                    path: path.into(),
                    output: name.to_owned(),
                    found: names.join(", "),
                }
            })
        };
        let tasks = model.head.tasks.iter().map(|task| {
            let names = &task.outputs;
            let maps = HeadMaps {
                heatmap: find(&names.heatmap)?,
                reg: find(&names.reg)?,
                height: find(&names.height)?,
                dim: find(&names.dim)?,
                rot: find(&names.rot)?,
                vel: find(&names.vel)?,
            };
            Ok(TaskHeads {
                classes: outputs[maps.heatmap].1.channels,
                maps,
            })
        });
        Ok(Self {
            tasks: tasks.collect::<Result<_, TrainingError>>()?,
        })
    }

    /// The bias of an output before any training: a cell of a heatmap has an object with a probability of 0.1 (CornerNet).
    pub(crate) fn prior(&self, output: usize) -> f32 {
        let heatmap = self.tasks.iter().any(|task| task.maps.heatmap == output);
        if heatmap { -2.19 } else { 0.0 }
    }

    /// Adds the gradients of the batch's loss to those of the outputs, times `scale`, and returns the loss. `goals` are
    /// those of the batch's frames.
    pub(crate) fn loss(&self, network: &mut Network, goals: &[Goal<'_>], scale: f64) -> f64 {
        let mut loss = 0.0;
        for (task, heads) in self.tasks.iter().enumerate() {
            let heads = &heads.maps;
            let pool = network.pool().clone();
            let mut run =
                |output: usize, each: &(dyn Fn(usize, &Maps, &mut Frame<'_>) -> f64 + Sync)| {
                    let (values, gradient) = network.output_gradient(output);
                    let frame_len = gradient.frame_len();
                    let (row, start, shape) =
                        (gradient.row(), gradient.index(0, 0, 0), gradient.shape);
                    let frames = gradient.data_mut().chunks_mut(frame_len);
                    let mut frames: Vec<(f64, Frame<'_>)> = frames
                        .take(goals.len())
                        .map(|data| {
                            let frame = Frame {
                                data,
                                start,
                                row,
                                channels: shape.channels,
                                width: shape.width,
                            };
                            (0.0, frame)
                        })
                        .collect();
                    pool.for_each_chunk_mut(&mut frames, 1, |index, frame| {
                        if let Some((loss, frame)) = frame.first_mut() {
                            *loss = each(index, values, frame);
                        }
                    });
                    loss += frames.iter().map(|(loss, _)| loss).sum::<f64>() * scale;
                };
            run(heads.heatmap, &|index, values, frame| {
                let goal = &goals[index];
                let mut loss = 0.0;
                if let Some(teacher) = goal.teacher {
                    let goal = &teacher.outputs[heads.heatmap];
                    let weights = &teacher.tasks[task];
                    loss += distil_heatmap(goal, weights, values, index, frame, scale);
                }
                if let Some(target) = goal.target {
                    loss += focal(
                        &target.tasks[task].heatmap,
                        target.tasks[task].objects.len(),
                        values,
                        index,
                        frame,
                        scale,
                    );
                }
                loss
            });
            for (number, output) in [heads.reg, heads.height, heads.dim, heads.rot, heads.vel]
                .into_iter()
                .enumerate()
            {
                let weight = if output == heads.vel { VELOCITY } else { 1.0 };
                run(output, &|index, values, frame| {
                    let goal = &goals[index];
                    let mut loss = 0.0;
                    if let Some(teacher) = goal.teacher {
                        let own = &teacher.tasks[task];
                        let part = REGRESSION * f64::from(weight) / own.score.max(1.0);
                        for &(cell, score) in &own.objects {
                            let at = cell * frame.channels;
                            let goal = &teacher.outputs[output][at..at + frame.channels];
                            let part = part * f64::from(score);
                            loss += absolute(values, index, frame, cell, goal, [part, scale]);
                        }
                    }
                    if let Some(target) = goal.target {
                        let objects = &target.tasks[task].objects;
                        let part = REGRESSION * f64::from(weight) / (objects.len() as f64 + 1e-4);
                        for object in objects {
                            let goal = &object.values[REGRESSIONS[number].clone()];
                            loss +=
                                absolute(values, index, frame, object.cell, goal, [part, scale]);
                        }
                    }
                    loss
                });
            }
        }
        loss
    }
}

/// The gradient of one frame of a batch.
struct Frame<'a> {
    data: &'a mut [f32],
    /// Index of the first pixel.
    start: usize,
    row: usize,
    channels: usize,
    width: usize,
}

impl Frame<'_> {
    /// The gradients of a cell, `y · width + x`.
    fn cell(&mut self, cell: usize) -> &mut [f32] {
        let at = self.start + cell / self.width * self.row + cell % self.width * self.channels;
        &mut self.data[at..at + self.channels]
    }
}

/// The values of a cell of a frame.
fn values_of(maps: &Maps, frame: usize, cell: usize) -> &[f32] {
    let (width, channels) = (maps.shape.width, maps.shape.channels);
    let at = cell % width * channels;
    &maps.pixels(frame, cell / width)[at..at + channels]
}

fn sigmoid(v: f32) -> f32 {
    1.0 / (1.0 + (-v).exp())
}

/// Returns `part · |values - goal|` of a cell and adds its gradient, times `scale`; values that are not finite are not part of a goal.
fn absolute(
    values: &Maps,
    index: usize,
    frame: &mut Frame<'_>,
    cell: usize,
    goal: &[f32],
    [part, scale]: [f64; 2],
) -> f64 {
    let mut loss = 0.0;
    let gradients = frame.cell(cell);
    for ((gradient, &value), &goal) in gradients
        .iter_mut()
        .zip(values_of(values, index, cell))
        .zip(goal)
    {
        if goal.is_finite() {
            let difference = value - goal;
            loss += f64::from(difference.abs()) * part;
            if difference != 0.0 {
                *gradient += (f64::from(difference.signum()) * part * scale) as f32;
            }
        }
    }
    loss
}

/// The weighted mean of squared differences of logits.
fn distil_heatmap(
    teacher: &[f32],
    TaskTeacher { weights, norm, .. }: &TaskTeacher,
    values: &Maps,
    index: usize,
    frame: &mut Frame<'_>,
    scale: f64,
) -> f64 {
    let mut loss = 0.0;
    let channels = frame.channels;
    let part = (2.0 * scale / norm) as f32;
    let cells = teacher
        .chunks_exact(channels)
        .zip(weights.chunks_exact(channels));
    for (cell, (goal, weights)) in cells.enumerate() {
        let now = values_of(values, index, cell);
        for (((gradient, value), goal), weight) in
            frame.cell(cell).iter_mut().zip(now).zip(goal).zip(weights)
        {
            let difference = value - goal;
            loss += f64::from(weight * difference * difference);
            *gradient += part * weight * difference;
        }
    }
    loss / norm
}

/// The Gaussian focal loss with α 2 and β 4 (<https://arxiv.org/abs/1808.01244>), as mmdetection's `GaussianFocalLoss`.
fn focal(
    target: &[f32],
    objects: usize,
    values: &Maps,
    index: usize,
    frame: &mut Frame<'_>,
    scale: f64,
) -> f64 {
    /// Keeps logarithms finite, as `clip_sigmoid` does.
    const LEAST: f32 = 1e-4;
    let norm = objects.max(1) as f64;
    let part = (scale / norm) as f32;
    let mut loss = 0.0;
    let channels = frame.channels;
    for (cell, goal) in target.chunks_exact(channels).enumerate() {
        let now = values_of(values, index, cell);
        for ((gradient, &value), &goal) in frame.cell(cell).iter_mut().zip(now).zip(goal) {
            let raw = sigmoid(value);
            let p = raw.clamp(LEAST, 1.0 - LEAST);
            let q = 1.0 - p;
            // d p / d value is 0 where the score is clipped.
            let slope = if raw == p { p * q } else { 0.0 };
            if goal == 1.0 {
                loss -= f64::from(p.ln() * q * q);
                *gradient += part * slope * (2.0 * q * p.ln() - q * q / p);
            } else {
                let weight = (1.0 - goal).powi(4);
                loss -= f64::from(q.ln() * p * p * weight);
                *gradient += part * slope * weight * (p * p / q - 2.0 * p * q.ln());
            }
        }
    }
    loss / norm
}

#[cfg(test)]
mod tests {
    use super::super::map::Shape;
    use super::*;
    use crate::synth::Rng;

    /// A loss that adds its gradient to a frame.
    type Loss<'a> = &'a dyn Fn(&Maps, &mut Frame<'_>) -> f64;

    const SHAPE: Shape = Shape {
        height: 3,
        width: 4,
        channels: 2,
    };
    const VALUES: usize = 24;

    fn random(stream: u64, size: f64) -> Vec<f32> {
        let mut rng = Rng::new(7, 0, stream);
        (0..VALUES).map(|_| rng.normal(size) as f32).collect()
    }

    fn maps(values: &[f32]) -> Maps {
        let mut maps = Maps::new(1, SHAPE, 1);
        for (y, row) in values.chunks_exact(8).enumerate() {
            maps.pixels_mut(0, y).copy_from_slice(row);
        }
        maps
    }

    /// The loss of `values`, and its gradient.
    fn run(values: &[f32], loss: Loss<'_>) -> (f64, Vec<f32>) {
        let mut gradient = Maps::new(1, SHAPE, 1);
        let (start, row) = (gradient.index(0, 0, 0), gradient.row());
        let mut frame = Frame {
            data: gradient.data_mut(),
            start,
            row,
            channels: SHAPE.channels,
            width: SHAPE.width,
        };
        let found = loss(&maps(values), &mut frame);
        let rows = (0..SHAPE.height).flat_map(|y| gradient.pixels(0, y).to_vec());
        (found, rows.collect())
    }

    fn check(loss: Loss<'_>) {
        const STEP: f32 = 1.0 / 512.0;
        let values = random(1, 2.0);
        let (_, gradient) = run(&values, loss);
        assert!(gradient.iter().any(|g| *g != 0.0));
        for (i, &found) in gradient.iter().enumerate() {
            let moved = |step: f32| {
                let mut values = values.clone();
                values[i] += step;
                run(&values, loss).0
            };
            let expected = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
            let error = (f64::from(found) - expected).abs();
            assert!(
                error < 2e-3 * (1.0 + expected.abs()),
                "{i}: {found} {expected}"
            );
        }
    }

    #[test]
    fn gradients_of_the_losses_are_finite_differences() {
        let goal = random(2, 2.0);
        let weights: Vec<f32> = goal.iter().map(|&v| FLOOR + sigmoid(v)).collect();
        let task = TaskTeacher {
            norm: weights.iter().map(|&w| f64::from(w)).sum(),
            weights,
            classes: 2,
            objects: Vec::new(),
            score: 0.0,
        };
        check(&|values, frame| distil_heatmap(&goal, &task, values, 0, frame, 1.0));
        let mut target: Vec<f32> = goal.iter().map(|&v| sigmoid(v)).collect();
        target[5] = 1.0;
        check(&|values, frame| focal(&target, 2, values, 0, frame, 1.0));
        check(&|values, frame| {
            let goal = [0.25, f32::NAN];
            absolute(values, 0, frame, 6, &goal, [0.5, 1.0])
        });
    }
}
