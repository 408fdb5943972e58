//! BatchNormalization in training (<https://arxiv.org/abs/1502.03167>; ONNX `BatchNormalization`): each channel is
//! normalised by the mean and the variance of the batch, and the running ones, which inference uses, follow them.
//!
//! A layer whose factor is not trained keeps its running statistics and normalises by them.
//!
//! Sums go over lines of pixels: in f32 within a line, in f64 over the lines of a task, and over the tasks in order. Their
//! order depends on the shape alone.

use super::kernels::{
    ChannelProducts, ChannelSquares, ChannelSums, NormGradient, Normalise, vectorised,
};
use super::map::Maps;
use super::params::Params;
use crate::cpu::Pool;
use crate::engine::cpu::Isa;

/// Lines in one task.
const LINES: usize = 8;

/// Pixels with their channels, in lines of any lengths.
pub(super) trait Lines: Sync {
    fn count(&self) -> usize;
    fn line(&self, index: usize) -> &[f32];
}

impl Lines for Maps {
    fn count(&self) -> usize {
        self.frames * self.shape.height
    }

    fn line(&self, index: usize) -> &[f32] {
        self.pixels(index / self.shape.height, index % self.shape.height)
    }
}

/// Rows of values without borders, `[row][channel]`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    /// Values of a line: some number of rows.
    pub(super) line: usize,
}

impl Lines for Rows<'_> {
    fn count(&self) -> usize {
        self.data.len().div_ceil(self.line)
    }

    fn line(&self, index: usize) -> &[f32] {
        let start = index * self.line;
        &self.data[start..self.data.len().min(start + self.line)]
    }
}

/// A BatchNormalization. Its parameters are numbers of tensors in [`Params`].
#[derive(Clone, Debug)]
pub(super) struct Norm {
    /// Factor γ and shift β.
    pub(super) gamma: usize,
    pub(super) beta: usize,
    /// Running mean and variance.
    pub(super) mean: usize,
    pub(super) variance: usize,
    /// Added to a variance.
    pub(super) epsilon: f32,
    /// Share of the running statistics that a batch keeps, as ONNX defines it (1 − PyTorch's).
    pub(super) momentum: f32,
    /// Whether the last batch was normalised by its own statistics.
    own: bool,
    /// Mean of the last batch, and 1 / √(variance + ε).
    centre: Vec<f32>,
    inverse: Vec<f32>,
    /// `y = x · factor + shift`.
    factor: Vec<f32>,
    shift: Vec<f32>,
}

impl Norm {
    pub(super) fn new(
        [gamma, beta, mean, variance]: [usize; 4],
        epsilon: f32,
        momentum: f32,
    ) -> Self {
        Self {
            gamma,
            beta,
            mean,
            variance,
            epsilon,
            momentum,
            own: false,
            centre: Vec::new(),
            inverse: Vec::new(),
            factor: Vec::new(),
            shift: Vec::new(),
        }
    }

    /// Factor 1, shift 0, and the statistics of a standard distribution.
    pub(super) fn start_anew(&self, params: &mut Params) {
        for (tensor, value) in [
            (self.gamma, 1.0),
            (self.beta, 0.0),
            (self.mean, 0.0),
            (self.variance, 1.0),
        ] {
            params.values_mut(tensor).fill(value);
        }
    }

    /// Takes the statistics of a batch, and moves the running ones.
    pub(super) fn measure(
        &mut self,
        pool: &Pool,
        isa: Isa,
        input: &impl Lines,
        params: &mut Params,
    ) {
        let channels = params.values(self.gamma).len();
        self.own = params.is_trained(self.gamma);
        if self.own {
            let total: usize = (0..input.count()).map(|i| input.line(i).len()).sum();
            let count = (total / channels) as f64;
            let sums = sums(pool, input, channels, |_, values, sums| {
                vectorised(isa, ChannelSums { values, sums });
            });
            let means: Vec<f64> = sums.iter().map(|sum| sum / count.max(1.0)).collect();
            self.centre = means.iter().map(|&mean| mean as f32).collect();
            let centre = &self.centre;
            let squares = self::sums(pool, input, channels, |_, values, sums| {
                vectorised(
                    isa,
                    ChannelSquares {
                        values,
                        centre,
                        sums,
                    },
                );
            });
            let keep = self.momentum;
            let variances: Vec<f64> = squares.iter().map(|sum| sum / count.max(1.0)).collect();
            self.inverse = variances
                .iter()
                .map(|v| (1.0 / (v + f64::from(self.epsilon)).sqrt()) as f32)
                .collect();
            for (running, &now) in params.values_mut(self.mean).iter_mut().zip(&self.centre) {
                *running = keep * *running + (1.0 - keep) * now;
            }
            // As PyTorch: the running variance is that of the population, estimated from the batch.
            let unbiased = count / (count - 1.0).max(1.0);
            let running = params.values_mut(self.variance).iter_mut();
            for (running, now) in running.zip(variances) {
                *running = keep * *running + (1.0 - keep) * (now * unbiased) as f32;
            }
        } else {
            self.centre = params.values(self.mean).to_vec();
            let variances = params.values(self.variance).iter();
            self.inverse = variances.map(|v| 1.0 / (v + self.epsilon).sqrt()).collect();
        }
        let gamma = params.values(self.gamma).iter();
        self.factor = gamma.zip(&self.inverse).map(|(g, i)| g * i).collect();
        let beta = params.values(self.beta).iter().zip(&self.centre);
        self.shift = beta
            .zip(&self.factor)
            .map(|((b, c), f)| b - c * f)
            .collect();
    }

    /// Normalises a line by the statistics of [`Norm::measure`].
    pub(super) fn normalise(&self, isa: Isa, values: &[f32], relu: bool, out: &mut [f32]) {
        let (factor, shift) = (&self.factor, &self.shift);
        vectorised(
            isa,
            Normalise {
                values,
                factor,
                shift,
                relu,
                out,
            },
        );
    }

    /// Adds the gradients of γ and β, and returns what [`Correction::apply`] needs. `gradient` is that of the output, in the
    /// lines of `input`.
    pub(super) fn gradients(
        &self,
        pool: &Pool,
        isa: Isa,
        input: &impl Lines,
        gradient: &impl Lines,
        params: &mut Params,
    ) -> Correction<'_> {
        let channels = self.centre.len();
        let both = sums(pool, input, 2 * channels, |line, values, sums| {
            let gradient = gradient.line(line);
            let (sums, products) = sums.split_at_mut(channels);
            vectorised(
                isa,
                ChannelProducts {
                    values,
                    centre: &self.centre,
                    gradient,
                    sums,
                    products,
                },
            );
        });
        let (shift, product) = both.split_at(channels);
        let total: usize = (0..input.count()).map(|i| input.line(i).len()).sum();
        let count = (total / channels).max(1) as f64;
        let (gamma, beta) = params.gradients_mut(self.gamma, Some(self.beta));
        let inverse = || self.inverse.iter().map(|&i| f64::from(i));
        for ((sum, product), inverse) in gamma.iter_mut().zip(product).zip(inverse()) {
            *sum += (product * inverse) as f32;
        }
        for (sum, shift) in beta.into_iter().flatten().zip(shift) {
            *sum += *shift as f32;
        }
        let part = |sum: f64| if self.own { (sum / count) as f32 } else { 0.0 };
        Correction {
            norm: self,
            mean: shift.iter().map(|&sum| part(sum)).collect(),
            slope: product
                .iter()
                .zip(inverse())
                .map(|(product, inverse)| part(product * inverse * inverse))
                .collect(),
        }
    }
}

/// The way from an output's gradient to that of the input.
pub(super) struct Correction<'a> {
    norm: &'a Norm,
    /// Mean of the gradient.
    mean: Vec<f32>,
    /// Its slope over the input.
    slope: Vec<f32>,
}

impl Correction<'_> {
    /// Turns the gradient of a line of the output into that of the input.
    pub(super) fn apply(&self, isa: Isa, values: &[f32], gradient: &mut [f32]) {
        vectorised(
            isa,
            NormGradient {
                values,
                centre: &self.norm.centre,
                factor: &self.norm.factor,
                mean: &self.mean,
                slope: &self.slope,
                gradient,
            },
        );
    }
}

/// Adds up what `add` adds to `width` sums for each line.
fn sums(
    pool: &Pool,
    input: &impl Lines,
    width: usize,
    add: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Vec<f64> {
    let lines = input.count();
    let mut tasks = vec![0.0f64; lines.div_ceil(LINES) * width];
    pool.for_each_chunk_mut(&mut tasks, width.max(1), |task, totals| {
        let mut sums = vec![0.0f32; width];
        for line in task * LINES..((task + 1) * LINES).min(lines) {
            sums.fill(0.0);
            add(line, input.line(line), &mut sums);
            for (total, sum) in totals.iter_mut().zip(&sums) {
                *total += f64::from(*sum);
            }
        }
    });
    let mut totals = vec![0.0f64; width];
    for task in tasks.chunks_exact(width.max(1)) {
        for (total, sum) in totals.iter_mut().zip(task) {
            *total += sum;
        }
    }
    totals
}
