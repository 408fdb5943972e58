//! Losses of the head maps, with their gradients.
//!
//! - *Labels*: CenterPoint's (<https://arxiv.org/abs/2006.11275>): the Gaussian focal loss of the heatmaps, divided by the
//!   number of objects, and L1 of the regressions at the objects' cells.
//! - *Distillation*: the float network's outputs are the goal. Squared differences of the heatmap's logits, weighted by
//!   the float network's score, because the background is nearly all of a map; and L1 of the regressions in cells where
//!   the float network sees an object, weighted by its score there.
//!
//! A batch's loss is the mean over its frames.

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

/// The outputs of the float network on a frame, each `[cell][channel]`, in the order of the network's outputs.
#[derive(Clone, Debug)]
pub(crate) struct Teacher(pub(crate) Vec<Vec<f32>>);

impl Teacher {
    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|values| size_of_val(&values[..])).sum()
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
pub(crate) struct Heads(Vec<HeadMaps<usize>>);

impl Heads {
    /// Finds the outputs of a model. `None` if one is missing.
    pub(crate) fn new(model: &Model, network: &Network) -> Option<Self> {
        let names: Vec<&str> = network.outputs().map(|(name, _)| name).collect();
        let find = |name: &str| names.iter().position(|n| *n == name);
        let tasks = model.head.tasks.iter().map(|task| {
            let outputs = &task.outputs;
            Some(HeadMaps {
                heatmap: find(&outputs.heatmap)?,
                reg: find(&outputs.reg)?,
                height: find(&outputs.height)?,
                dim: find(&outputs.dim)?,
                rot: find(&outputs.rot)?,
                vel: find(&outputs.vel)?,
            })
        });
        tasks.collect::<Option<_>>().map(Self)
    }

    /// The bias of an output before any training: a cell of a heatmap has an object with a probability of 0.1 (CornerNet).
    pub(crate) fn prior(&self, output: usize) -> f32 {
        let heatmap = self.0.iter().any(|heads| heads.heatmap == output);
        if heatmap { -2.19 } else { 0.0 }
    }

    /// Adds the gradients of the batch's loss to those of the outputs, times `scale`, and returns the loss. `goals` are
    /// those of the batch's frames.
    pub(crate) fn loss(&self, network: &mut Network, goals: &[Goal<'_>], scale: f64) -> f64 {
        let mut loss = 0.0;
        for (task, heads) in self.0.iter().enumerate() {
            let score = |goal: &Goal<'_>| -> Option<Vec<f32>> {
                let teacher = goal.teacher?;
                let classes = network.output(heads.heatmap).shape.channels;
                let cells = teacher.0[heads.heatmap].chunks_exact(classes);
                let best = |cell: &[f32]| cell.iter().fold(0.0f32, |m, &v| m.max(sigmoid(v)));
                Some(cells.map(best).collect())
            };
            let scores: Vec<Option<Vec<f32>>> = goals.iter().map(score).collect();
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
                    loss += distil_heatmap(&teacher.0[heads.heatmap], values, index, frame, scale);
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
                    if let (Some(teacher), Some(scores)) = (goal.teacher, &scores[index]) {
                        let norm: f64 = scores
                            .iter()
                            .filter(|s| **s >= LEAST_SCORE)
                            .map(|&s| f64::from(s))
                            .sum();
                        let part = REGRESSION * f64::from(weight) / norm.max(1.0);
                        let cells = teacher.0[output].chunks_exact(frame.channels);
                        for (cell, (score, goal)) in scores.iter().zip(cells).enumerate() {
                            if *score >= LEAST_SCORE {
                                let part = part * f64::from(*score);
                                loss += absolute(values, index, frame, cell, goal, [part, scale]);
                            }
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
    values: &Maps,
    index: usize,
    frame: &mut Frame<'_>,
    scale: f64,
) -> f64 {
    let weights: Vec<f32> = teacher.iter().map(|&v| FLOOR + sigmoid(v)).collect();
    let norm: f64 = weights.iter().map(|&w| f64::from(w)).sum();
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
