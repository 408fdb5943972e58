//! GPTQ: codes one after the other, each making up for the errors of those before it.
//!
//! With `H + damping = L·Lᵀ` the error is `‖Lᵀδ‖²`. Its last entry depends on the last weight alone, the one before on the
//! last two, and so on. So from the last weight to the first, the code nearest to the weight plus what makes up for the
//! errors so far is the best for the entry at hand. (The same codes come out of the inverse matrices of the paper.) The
//! weights with the largest inputs are last, so that they are chosen first, with all others left to make up for them.
//!
//! Then single codes change as long as that lowers the error. At the end a row has its nearest codes if they are better.

use super::gram::{Hessian, add_multiple};
use super::{COARSE, Channel, errors, factors, nearest};
use crate::build::calibrate::scale_of;
use crate::cpu::Pool;

/// Most passes over a row that change single codes.
const PASSES: usize = 10;
/// The least improvement worth a change, relative to the error of a step of one code: less is rounding of f64.
const WORTH: f64 = 1e-9;

/// The factor L of a damped matrix, in the order in which weights are chosen, last first.
struct Factor {
    /// The weight at each place.
    order: Vec<usize>,
    /// Rows of L, `[row][column]`, zero above the diagonal.
    rows: Vec<f64>,
}

impl Factor {
    fn new(hessian: &Hessian) -> Self {
        let size = hessian.size;
        let diagonal = |i: usize| hessian.matrix[i * size + i];
        let mut order: Vec<usize> = (0..size).collect();
        order.sort_by(|&a, &b| diagonal(a).total_cmp(&diagonal(b)).then(b.cmp(&a)));
        let mut damping = hessian.damping();
        loop {
            let matrix = nalgebra::DMatrix::from_fn(size, size, |i, j| {
                let damped = if i == j { damping } else { 0.0 };
                hessian.matrix[order[i] * size + order[j]] + damped
            });
            if let Some(factor) = matrix.cholesky() {
                // nalgebra stores columns, so the rows are those of the transposed matrix.
                let rows = factor.l().transpose().as_slice().to_vec();
                return Self { order, rows };
            }
            // Sums of squares have a factor but for rounding, which more damping outweighs.
            damping *= 10.0;
        }
    }

    /// The codes for several ranges, with their errors. `values` are in the order of the weights.
    fn codes(
        &self,
        hessian: &Hessian,
        values: &[f32],
        scales: &[f64],
        most: i8,
    ) -> Vec<(f64, Vec<i8>)> {
        let size = self.order.len();
        let most = f64::from(most);
        let mut codes = vec![vec![0_i8; size]; scales.len()];
        let mut sums = vec![vec![0.0; size]; scales.len()];
        let mut totals = vec![0.0; scales.len()];
        for place in (0..size).rev() {
            let row = &self.rows[place * size..][..=place];
            let (value, pivot) = (f64::from(values[self.order[place]]), row[place]);
            for (at, &scale) in scales.iter().enumerate() {
                // δ = value of the code − weight; the best δ makes this entry of Lᵀδ zero.
                let goal = value - sums[at][place] / pivot;
                let code = (goal / scale).round_ties_even().clamp(-most, most);
                let entry = pivot * (code * scale - goal);
                totals[at] += entry * entry;
                codes[at][self.order[place]] = code as i8;
                let error = code * scale - value;
                add_multiple(hessian.isa, &mut sums[at][..place], &row[..place], error);
            }
        }
        totals.into_iter().zip(codes).collect()
    }
}

/// Chooses the codes of all channels, and their ranges if `search` is set.
pub(super) fn choose(
    channels: &mut [Channel],
    hessians: &[Hessian],
    most: i8,
    search: bool,
    pool: &Pool,
) {
    let mut found: Vec<Option<Factor>> = hessians.iter().map(|_| None).collect();
    pool.for_each_chunk_mut(&mut found, 1, |group, found| {
        found[0] = Some(Factor::new(&hessians[group]));
    });
    let found: Vec<Factor> = found.into_iter().flatten().collect();
    pool.for_each_chunk_mut(channels, 1, |_, channels| {
        for channel in channels {
            one(channel, hessians, &found, most, search);
        }
    });
}

fn one(channel: &mut Channel, hessians: &[Hessian], found: &[Factor], most: i8, search: bool) {
    let steps = if search { COARSE } else { 1 };
    let ranges: Vec<f32> = factors(steps).map(|f| f * channel.amax).collect();
    let scales: Vec<f64> = ranges
        .iter()
        .map(|&amax| f64::from(scale_of(amax, f32::from(most))))
        .collect();
    let mut totals = vec![0.0; ranges.len()];
    let mut rows = Vec::with_capacity(channel.rows.len());
    for (row, values) in &channel.rows {
        let all = found[row.group].codes(&hessians[row.group], values, &scales, most);
        for (total, (error, _)) in totals.iter_mut().zip(&all) {
            *total += error;
        }
        rows.push(all);
    }
    // The first of equals.
    let least = totals.iter().copied().fold(f64::INFINITY, f64::min);
    let best = totals.iter().position(|&total| total == least).unwrap_or(0);
    channel.amax = ranges[best];
    let scale = channel.scale(most);
    channel.codes.clear();
    for ((row, values), mut all) in channel.rows.iter().zip(rows) {
        let hessian = &hessians[row.group];
        let mut codes = all.swap_remove(best).1;
        let after = improve(hessian, values, &mut codes, scale, most);
        let near = nearest(values, scale, most);
        let before = hessian.error(&errors(values, &near, scale));
        channel
            .codes
            .push(if after <= before { codes } else { near });
    }
}

/// Changes single codes as long as that lowers the error, and returns it.
fn improve(hessian: &Hessian, values: &[f32], codes: &mut [i8], scale: f32, most: i8) -> f64 {
    let mut errors = errors(values, codes, scale);
    let mut slope = hessian.slope(&errors);
    let (scale, most) = (f64::from(scale), f64::from(most));
    for _ in 0..PASSES {
        let mut changed = false;
        for k in 0..codes.len() {
            let curve = hessian.matrix[k * hessian.size + k];
            if curve <= 0.0 {
                continue;
            }
            let code = f64::from(codes[k]);
            let goal = code - slope[k] / (curve * scale);
            let step = goal.round_ties_even().clamp(-most, most) - code;
            let delta = step * scale;
            let gain = -(2.0 * slope[k] + delta * curve) * delta;
            if gain <= WORTH * curve * scale * scale {
                continue;
            }
            codes[k] = (code + step) as i8;
            errors[k] += delta;
            add_multiple(hessian.isa, &mut slope, hessian.row(k), delta);
            changed = true;
        }
        if !changed {
            break;
        }
    }
    hessian.error(&super::errors(values, codes, scale as f32))
}
