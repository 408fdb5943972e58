//! Adam with decoupled weight decay (<https://arxiv.org/abs/1711.05101>), curves of its rate, clipping, and the moving
//! average of the weights.

use super::error::TrainingError;
use super::kernels::{Loop, vectorised};
use super::params::{Param, Params, Role};
use crate::cpu::Pool;
use crate::engine::cpu::Isa;
use crate::plan::config::{Curve, QatConfig};

/// Steps in a row without a finite gradient after which a training has diverged.
const MOST_SKIPPED: u32 = 5;
/// Parameters in one task of an update.
const CHUNK: usize = 1 << 14;

impl Curve {
    /// The factor of the rate, and β₁, of step `step` of `steps`.
    pub(crate) fn at(self, step: usize, steps: usize) -> (f64, f64) {
        let done = step as f64 / steps.max(1) as f64;
        // From `a` to `b` as `part` goes from 0 to 1.
        let cosine = |a: f64, b: f64, part: f64| {
            b + (a - b) / 2.0 * (1.0 + (std::f64::consts::PI * part.clamp(0.0, 1.0)).cos())
        };
        match self {
            Self::Constant => (1.0, 0.9),
            Self::Cosine => {
                const WARM_UP: f64 = 0.05;
                if done < WARM_UP {
                    return (((step + 1) as f64 / (WARM_UP * steps as f64)).min(1.0), 0.9);
                }
                (cosine(1.0, 0.0, (done - WARM_UP) / (1.0 - WARM_UP)), 0.9)
            }
            Self::OneCycle => {
                const RISE: f64 = 0.4;
                if done < RISE {
                    let part = done / RISE;
                    return (cosine(0.1, 1.0, part), cosine(0.95, 0.85, part));
                }
                let part = (done - RISE) / (1.0 - RISE);
                (cosine(1.0, 1e-5, part), cosine(0.85, 0.95, part))
            }
        }
    }
}

/// What one step needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepOptions {
    pub(crate) rate: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    /// Decoupled: each step takes `rate · decay` of the weights away.
    pub(crate) weight_decay: f64,
    /// Greatest norm of all gradients; larger ones are scaled down to it.
    pub(crate) clip: f64,
    /// Share of the moving average that each step keeps; 0 follows the weights.
    pub(crate) ema: f64,
}

impl QatConfig {
    /// What step `step` needs.
    pub(crate) fn at(&self, step: usize) -> StepOptions {
        let (factor, beta1) = self.curve.at(step, self.steps);
        StepOptions {
            rate: self.rate * factor,
            beta1,
            beta2: self.beta2,
            weight_decay: self.weight_decay,
            clip: self.clip,
            ema: self.ema,
        }
    }
}

/// The moments of Adam and the moving average.
#[derive(Clone, Debug)]
pub(crate) struct Optimizer {
    /// Steps done.
    pub(super) steps: u32,
    /// Steps in a row that were skipped for gradients that are not finite.
    pub(super) skipped: u32,
    pub(super) mean: Vec<f32>,
    pub(super) square: Vec<f32>,
    /// The moving average of all parameters.
    pub(super) average: Vec<f32>,
}

impl Optimizer {
    /// Starts at the parameters.
    pub(crate) fn new(params: &Params) -> Self {
        let values = params.all_values();
        Self {
            steps: 0,
            skipped: 0,
            mean: vec![0.0; values.len()],
            square: vec![0.0; values.len()],
            average: values.to_vec(),
        }
    }

    /// The moving average of the parameters.
    pub(crate) fn average(&self) -> &[f32] {
        &self.average
    }

    /// As [`Optimizer::average`], to exchange it with the parameters.
    pub(crate) fn average_mut(&mut self) -> &mut [f32] {
        &mut self.average
    }

    /// Changes the parameters by one step and clears the gradients. Returns the norm of the gradients before clipping; if it
    /// is not finite, the gradients are cleared with a warning, and nothing else changes.
    ///
    /// # Errors
    /// [`TrainingError::Gradients`] for the [`MOST_SKIPPED`]th such step in a row.
    pub(crate) fn step(
        &mut self,
        pool: &Pool,
        isa: Isa,
        params: &mut Params,
        options: &StepOptions,
    ) -> Result<f64, TrainingError> {
        let origin = params.origin().to_path_buf();
        let (all, values, gradients) = params.split();
        let mut square = 0.0f64;
        for param in all.iter().filter(|p| p.rate > 0.0) {
            let part = &gradients[param.range()];
            square += part
                .iter()
                .map(|&g| f64::from(g) * f64::from(g))
                .sum::<f64>();
        }
        let norm = square.sqrt();
        if !norm.is_finite() {
            let bad =
                |p: &&Param| p.rate > 0.0 && gradients[p.range()].iter().any(|g| !g.is_finite());
            // Without such a tensor, the sum itself is out of range.
            let tensor = all.iter().find(bad).map_or("all tensors", |p| &p.name);
            self.skipped += 1;
            if self.skipped >= MOST_SKIPPED {
                return Err(TrainingError::Gradients {
                    path: origin,
                    tensor: tensor.to_owned(),
                    steps: self.skipped,
                });
            }
            log::warn!(
                "training: the gradient of \"{tensor}\" is not finite after {} steps; this step changes nothing",
                self.steps
            );
            gradients.fill(0.0);
            return Ok(norm);
        }
        self.steps += 1;
        self.skipped = 0;
        let factor = if norm > options.clip {
            options.clip / norm
        } else {
            1.0
        };
        let correction = |beta: f64| 1.0 - beta.powi(self.steps as i32);
        for param in all {
            let range = param.range();
            if param.role == Role::Statistic {
                // Not trained, but part of the average that is measured.
                let keep = options.ema as f32;
                let average = self.average[range.clone()].iter_mut();
                for (average, value) in average.zip(&values[range]) {
                    *average = keep * *average + (1.0 - keep) * *value;
                }
                continue;
            }
            if param.rate <= 0.0 {
                gradients[range].fill(0.0);
                continue;
            }
            let rate = options.rate * f64::from(param.rate);
            let decay = match param.role {
                Role::Weight => 1.0 - rate * options.weight_decay,
                Role::Bias | Role::Scale | Role::Statistic => 1.0,
            };
            let constants = Constants {
                factor: factor as f32,
                beta1: options.beta1 as f32,
                beta2: options.beta2 as f32,
                rate: (rate / correction(options.beta1)) as f32,
                correction: (1.0 / correction(options.beta2)) as f32,
                decay: decay as f32,
                ema: options.ema as f32,
            };
            let mut tasks: Vec<Update<'_>> = values[range.clone()]
                .chunks_mut(CHUNK)
                .zip(gradients[range.clone()].chunks_mut(CHUNK))
                .zip(self.mean[range.clone()].chunks_mut(CHUNK))
                .zip(self.square[range.clone()].chunks_mut(CHUNK))
                .zip(self.average[range].chunks_mut(CHUNK))
                .map(|((((values, gradients), mean), square), average)| Update {
                    values,
                    gradients,
                    mean,
                    square,
                    average,
                    constants,
                })
                .collect();
            pool.for_each_chunk_mut(&mut tasks, 1, |_, tasks| {
                for task in tasks {
                    vectorised(isa, task);
                }
            });
        }
        Ok(norm)
    }
}

#[derive(Clone, Copy)]
struct Constants {
    factor: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    correction: f32,
    decay: f32,
    ema: f32,
}

struct Update<'a> {
    values: &'a mut [f32],
    gradients: &'a mut [f32],
    mean: &'a mut [f32],
    square: &'a mut [f32],
    average: &'a mut [f32],
    constants: Constants,
}

impl Loop for &mut Update<'_> {
    #[inline(always)]
    fn run(self) {
        let c = self.constants;
        let each = self.values.iter_mut().zip(self.gradients.iter_mut());
        let moments = self.mean.iter_mut().zip(self.square.iter_mut());
        for (((value, gradient), (mean, square)), average) in
            each.zip(moments).zip(self.average.iter_mut())
        {
            let g = *gradient * c.factor;
            *gradient = 0.0;
            *mean = c.beta1 * *mean + (1.0 - c.beta1) * g;
            *square = c.beta2 * *square + (1.0 - c.beta2) * g * g;
            let step = *mean / ((*square * c.correction).sqrt() + 1e-8);
            *value = *value * c.decay - c.rate * step;
            *average = c.ema * *average + (1.0 - c.ema) * *value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_rise_and_fall() {
        let (first, _) = Curve::Cosine.at(0, 100);
        let (top, _) = Curve::Cosine.at(5, 100);
        let (last, _) = Curve::Cosine.at(99, 100);
        assert!(
            (first - 0.2).abs() < 1e-12 && top == 1.0 && last < 1e-3,
            "{first} {top} {last}"
        );
        let (first, momentum) = Curve::OneCycle.at(0, 100);
        assert!((first - 0.1).abs() < 1e-12 && (momentum - 0.95).abs() < 1e-12);
        let (top, momentum) = Curve::OneCycle.at(40, 100);
        assert!((top - 1.0).abs() < 1e-12 && (momentum - 0.85).abs() < 1e-12);
        assert!(Curve::OneCycle.at(99, 100).0 < 1e-2);
    }

    /// Two steps by hand, in f64, as `torch.optim.AdamW` computes them.
    #[test]
    fn two_steps_are_those_of_adamw() {
        let mut params = Params::new(std::path::Path::new("net.onnx"));
        let index = params.push("w", Role::Weight, &[1.0, -2.0]);
        let mut optimizer = Optimizer::new(&params);
        let options = StepOptions {
            rate: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            weight_decay: 0.01,
            clip: f64::INFINITY,
            ema: 0.5,
        };
        let pool = Pool::new(1);
        let mut expected = [1.0f64, -2.0];
        let (mut m, mut v, mut average) = ([0.0; 2], [0.0; 2], expected);
        for (step, gradients) in [[0.5f32, 0.25], [-1.0, 2.0]].into_iter().enumerate() {
            params
                .gradients_mut(index, None)
                .0
                .copy_from_slice(&gradients);
            let norm = optimizer.step(&pool, Isa::Portable, &mut params, &options);
            assert!(norm.is_ok());
            for i in 0..2 {
                let g = f64::from(gradients[i]);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                let n = step as i32 + 1;
                let (m, v) = (
                    m[i] / (1.0 - 0.9f64.powi(n)),
                    v[i] / (1.0 - 0.99f64.powi(n)),
                );
                expected[i] = expected[i] * (1.0 - 0.1 * 0.01) - 0.1 * m / (v.sqrt() + 1e-8);
                average[i] = (average[i] + expected[i]) / 2.0;
            }
        }
        for i in 0..2 {
            assert!((f64::from(params.values(index)[i]) - expected[i]).abs() < 1e-6);
            assert!((f64::from(optimizer.average()[i]) - average[i]).abs() < 1e-6);
        }
        assert_eq!(params.gradients(index), [0.0; 2]);
    }

    #[test]
    fn clipping_scales_all_gradients() {
        let norm_of = |clip| {
            let mut params = Params::new(std::path::Path::new("net.onnx"));
            let index = params.push("w", Role::Weight, &[0.0, 0.0]);
            params
                .gradients_mut(index, None)
                .0
                .copy_from_slice(&[3.0, 4.0]);
            let mut optimizer = Optimizer::new(&params);
            let options = StepOptions {
                rate: 1.0,
                beta1: 0.0,
                beta2: 0.0,
                weight_decay: 0.0,
                clip,
                ema: 0.0,
            };
            let norm = optimizer.step(&Pool::new(1), Isa::Portable, &mut params, &options);
            (norm.unwrap(), optimizer.mean.clone())
        };
        assert_eq!(norm_of(10.0), (5.0, vec![3.0, 4.0]));
        let (norm, mean) = norm_of(1.0);
        assert_eq!(norm, 5.0);
        assert!((mean[0] - 0.6).abs() < 1e-6 && (mean[1] - 0.8).abs() < 1e-6);
    }

    #[test]
    fn gradients_that_are_not_finite_change_nothing_and_end_the_training() {
        let mut params = Params::new(std::path::Path::new("net.onnx"));
        params.push("a", Role::Weight, &[1.0]);
        let index = params.push("b", Role::Weight, &[1.0]);
        let mut optimizer = Optimizer::new(&params);
        let options = QatConfig::default().at(100);
        let pool = Pool::new(1);
        let mut step = |gradient: f32| {
            params.gradients_mut(index, None).0[0] = gradient;
            let found = optimizer.step(&pool, Isa::Portable, &mut params, &options);
            (found, params.values(index)[0], params.gradients(index)[0])
        };
        let skips = |step: &mut dyn FnMut(f32) -> _, expected| {
            for _ in 1..MOST_SKIPPED {
                let (found, value, gradient): (Result<f64, TrainingError>, f32, f32) =
                    step(f32::NAN);
                assert!(found.unwrap().is_nan());
                assert_eq!((value, gradient), (expected, 0.0));
            }
        };
        skips(&mut step, 1.0);
        // A finite step in between starts the count again.
        let (_, moved, _) = step(1.0);
        assert!(moved < 1.0);
        skips(&mut step, moved);
        let error = step(f32::INFINITY).0.unwrap_err().to_string();
        assert!(
            error.contains("net.onnx") && error.contains("\"b\""),
            "{error}"
        );
    }
}
