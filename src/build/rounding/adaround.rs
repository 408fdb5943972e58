//! AdaRound: each weight goes to the code below or above it.
//!
//! A weight's code is `⌊w/s⌋ + h(v)` with the rectified sigmoid `h(v) = clamp(1.2·σ(v) − 0.1, 0, 1)`, so a whole range of v
//! has h exactly 0 or 1. Adam minimises over v the error `δᵀHδ` plus a term that pulls each h to 0 or 1: `λ·Σ 1 − |2h − 1|^β`.
//! β falls from 20 to 2, so that at first only the weights near a code are drawn to it. At the end every h is rounded. A row
//! whose nearest codes are better has those.
//!
//! The number of steps is fixed: a layer with R rows of K weights takes [`STEPS`] · R · K² multiplications.

use super::gram::Hessian;
use super::{Channel, FINE, errors, factors, least, nearest};
use crate::build::calibrate::scale_of;
use crate::build::train::kernels::{Outer, outer};
use crate::cpu::Pool;
use crate::program::layout::LANES;

/// Steps of Adam.
const STEPS: usize = 1000;
/// Adam's rate.
const RATE: f32 = 0.02;
/// Adam's β₁ and β₂.
const BETAS: [f32; 2] = [0.9, 0.999];
/// Weight λ of the pull, relative to the error of a whole code in one weight of average input.
const PULL: f32 = 0.5;
/// Share of the steps without a pull.
const WARM_UP: f32 = 0.2;
/// First and last exponent β of the pull.
const EXPONENTS: [f32; 2] = [20.0, 2.0];
/// The rectified sigmoid: its range before it is clamped.
const STRETCH: [f32; 2] = [-0.1, 1.1];
/// Rows of a task.
const ROWS: usize = 32;

/// A row on its way.
struct Work {
    channel: usize,
    at: usize,
    group: usize,
    values: Vec<f32>,
    scale: f32,
    codes: Vec<i8>,
}

/// Chooses the codes of all channels, and their ranges if `search` is set.
pub(super) fn choose(
    channels: &mut [Channel],
    hessians: &[Hessian],
    most: i8,
    search: bool,
    pool: &Pool,
) {
    if search {
        pool.for_each_chunk_mut(channels, 1, |_, channels| {
            for channel in channels {
                channel.amax = range(channel, hessians, most);
            }
        });
    }
    let mut rows: Vec<Work> = Vec::new();
    for (number, channel) in channels.iter().enumerate() {
        for (at, (row, values)) in channel.rows.iter().enumerate() {
            rows.push(Work {
                channel: number,
                at,
                group: row.group,
                values: values.clone(),
                scale: channel.scale(most),
                codes: Vec::new(),
            });
        }
    }
    rows.sort_by_key(|row| row.group);
    for (group, hessian) in hessians.iter().enumerate() {
        let first = rows.partition_point(|row| row.group < group);
        let end = rows.partition_point(|row| row.group <= group);
        let matrix = Matrix::new(hessian);
        pool.for_each_chunk_mut(&mut rows[first..end], ROWS, |_, rows| {
            descend(rows, &matrix, hessian, most);
        });
    }
    for channel in channels.iter_mut() {
        channel.codes = vec![Vec::new(); channel.rows.len()];
    }
    for row in rows {
        channels[row.channel].codes[row.at] = row.codes;
    }
}

/// The range of a channel with the least error of nearest codes, each weight on its own: with the diagonal of the matrix.
fn range(channel: &Channel, hessians: &[Hessian], most: i8) -> f32 {
    let error = |amax: f32| {
        let scale = scale_of(amax, f32::from(most));
        let rows = channel.rows.iter().map(|(row, values)| {
            let hessian = &hessians[row.group];
            let errors = errors(values, &nearest(values, scale, most), scale);
            let each = errors.iter().enumerate();
            let damping = hessian.damping();
            each.map(|(k, e)| e * e * (hessian.row(k)[k] + damping))
                .sum::<f64>()
        });
        rows.sum()
    };
    least(factors(FINE).map(|factor| factor * channel.amax), error)
}

/// A matrix in f32, with a mean of 1 on its diagonal, and rows in whole blocks.
struct Matrix {
    width: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn new(hessian: &Hessian) -> Self {
        let size = hessian.size;
        let width = size.next_multiple_of(LANES);
        let sum: f64 = (0..size).map(|i| hessian.row(i)[i]).sum();
        let mean = if sum > 0.0 { sum / size as f64 } else { 1.0 };
        let mut values = vec![0.0; size * width];
        for (i, to) in values.chunks_exact_mut(width).enumerate() {
            for (to, from) in to.iter_mut().zip(hessian.row(i)) {
                *to = (from / mean) as f32;
            }
        }
        Self { width, values }
    }
}

/// The state of one weight.
#[derive(Clone, Copy, Default)]
struct Weight {
    /// Code below the weight.
    below: f32,
    /// The weight in codes.
    goal: f32,
    v: f32,
    moments: [f32; 2],
}

/// h(v) and its derivative.
fn soft(v: f32) -> [f32; 2] {
    let sigmoid = 1.0 / (1.0 + (-v).exp());
    let [from, to] = STRETCH;
    let h = (to - from) * sigmoid + from;
    if (0.0..=1.0).contains(&h) {
        [h, (to - from) * sigmoid * (1.0 - sigmoid)]
    } else {
        [h.clamp(0.0, 1.0), 0.0]
    }
}

/// The v of an h within 0 to 1.
fn inverse(h: f32) -> f32 {
    let [from, to] = STRETCH;
    let sigmoid = (h - from) / (to - from);
    (sigmoid / (1.0 - sigmoid)).ln()
}

fn descend(rows: &mut [Work], matrix: &Matrix, hessian: &Hessian, most: i8) {
    let (size, count) = (hessian.size, rows.len());
    let limit = f32::from(most);
    // `[weight][row]`, the order of the errors below.
    let mut weights = vec![Weight::default(); size * count];
    for (r, row) in rows.iter().enumerate() {
        for (k, &value) in row.values.iter().enumerate() {
            let goal = (value / row.scale).clamp(-limit, limit);
            // The greatest code has no code above it.
            let below = goal.floor().min(limit - 1.0);
            weights[k * count + r] = Weight {
                below,
                goal: value / row.scale,
                v: inverse(goal - below),
                moments: [0.0; 2],
            };
        }
    }
    let mut errors = vec![0.0; size * count];
    let mut slopes = vec![0.0; count * matrix.width];
    let mut powers = [1.0; 2];
    for step in 0..STEPS {
        for (error, weight) in errors.iter_mut().zip(&weights) {
            *error = weight.below + soft(weight.v)[0] - weight.goal;
        }
        slopes.fill(0.0);
        outer(
            hessian.isa,
            Outer {
                a: &errors,
                a_step: count,
                rows: count,
                b: &matrix.values,
                b_step: matrix.width,
                blocks: matrix.width / LANES,
                pixels: size,
                sums: &mut slopes,
            },
        );
        let progress = step as f32 / STEPS as f32;
        let cooled = (progress - WARM_UP) / (1.0 - WARM_UP);
        let [first, last] = EXPONENTS;
        let exponent = (cooled >= 0.0).then_some(first + (last - first) * cooled);
        for (power, beta) in powers.iter_mut().zip(BETAS) {
            *power *= beta;
        }
        for k in 0..size {
            for r in 0..count {
                let weight = &mut weights[k * count + r];
                let [h, slope] = soft(weight.v);
                let mut gradient = 2.0 * slopes[r * matrix.width + k];
                if let Some(exponent) = exponent {
                    let side = 2.0 * h - 1.0;
                    let pull = 2.0 * exponent * side.abs().powf(exponent - 1.0);
                    gradient -= PULL * pull * side.signum();
                }
                update(weight, gradient * slope, powers);
            }
        }
    }
    for (r, row) in rows.iter_mut().enumerate() {
        let code = |k: usize| {
            let weight = &weights[k * count + r];
            let up = if soft(weight.v)[0] >= 0.5 { 1.0 } else { 0.0 };
            (weight.below + up) as i8
        };
        let codes: Vec<i8> = (0..size).map(code).collect();
        let near = nearest(&row.values, row.scale, most);
        let error = |codes: &[i8]| hessian.error(&super::errors(&row.values, codes, row.scale));
        row.codes = if error(&codes) <= error(&near) {
            codes
        } else {
            near
        };
    }
}

/// A step of Adam.
fn update(weight: &mut Weight, gradient: f32, powers: [f32; 2]) {
    let [m, n] = &mut weight.moments;
    *m += (1.0 - BETAS[0]) * (gradient - *m);
    *n += (1.0 - BETAS[1]) * (gradient * gradient - *n);
    let (mean, square) = (*m / (1.0 - powers[0]), *n / (1.0 - powers[1]));
    weight.v -= RATE * mean / (square.sqrt() + 1e-8);
}
