//! Pillar features: the PFN (pillar feature network) over each pillar's points.
//!
//! Per point the input columns are: the cloud's own columns, xyz − mean of the pillar's kept points,
//! offset from the pillar's centre in 2 or 3 axes (metres); rows past the pillar's count are zero.
//! Each layer is Linear → ReLU → max over **all** `max_points_per_pillar` rows, padding included;
//! every layer but the last appends its max to each row. BatchNorm is folded into the Linear, so a
//! padding row can win the max: all padding rows of a pillar are equal in every layer, so one zero
//! row stands for them.
//!
//! Order of operations in f32, each product rounded before it is added (no FMA), the same for any
//! number of threads:
//! - mean: the kept points are added in input order, then divided by their number;
//! - output of a row: bias, plus the columns of the appended max in ascending order (once per pillar:
//!   they are the same for all of its rows), plus the row's own columns in ascending order.

// The calls into code compiled for wider vectors are the unsafe ones of this file.
#![allow(unsafe_code)]

use crate::cpu::pillars::Pillars;
use crate::cpu::pool::Pool;
use crate::model::{Grid, Model, Pfn, PfnError, PfnLayer};

/// Output channels that one inner loop computes at a time.
const LANES: usize = 16;
/// Rows that share one pass over the weights.
const ROWS: usize = 2;
/// Pillars of one task of the pool: small enough to balance, large enough to be worth a dispatch.
const PILLARS_PER_TASK: usize = 64;

/// The stage's weights and buffers, and the features of the last frame. Allocated once.
#[derive(Clone, Debug)]
pub struct Features {
    inputs: Inputs,
    layers: Vec<Layer>,
    channels: usize,
    scratch: Vec<Scratch>,
    /// `[max_pillars][channels]`.
    values: Vec<f32>,
    /// Pillars of the last frame.
    pillars: usize,
}

/// Which input columns a point has.
#[derive(Clone, Copy, Debug)]
struct Inputs {
    point_columns: usize,
    mean_offset: bool,
    center_axes: usize,
}

/// A layer with its weights in the order of computation: tiles of [`LANES`] output channels (zero
/// past the last), the input columns in order within a tile.
#[derive(Clone, Debug)]
struct Layer {
    tiles: Vec<Tile>,
}

#[derive(Clone, Debug)]
struct Tile {
    bias: [f32; LANES],
    /// Weights of the row's own columns, zero for columns that only pad the layer before to tiles.
    row_weight: Vec<[f32; LANES]>,
    /// Weights of the columns of the appended max; none in the first layer.
    max_weight: Vec<[f32; LANES]>,
}

/// Buffers of one thread, for one pillar.
#[derive(Clone, Debug)]
struct Scratch {
    /// Rows that a layer reads.
    rows: Vec<f32>,
    /// Rows that it writes.
    next: Vec<f32>,
    /// Max that a layer reads.
    max: Vec<f32>,
    /// Max that it writes.
    next_max: Vec<f32>,
}

impl Features {
    /// Packs the weights and makes the buffers for a pool of `threads` threads.
    ///
    /// # Errors
    /// [`PfnError`] when `pfn` is not the one that `model` describes.
    pub fn new(model: &Model, pfn: &Pfn, threads: usize) -> Result<Self, PfnError> {
        pfn.check(model)?;
        let mut layers: Vec<Layer> = Vec::with_capacity(pfn.layers.len());
        let mut widest = model.pfn_in_features();
        for layer in &pfn.layers {
            let row_features = layers.last().map_or(layer.in_features, Layer::width);
            layers.push(Layer::new(layer, layers.is_empty(), row_features));
            widest = widest.max(layers.last().map_or(0, Layer::width));
        }
        let rows = vec![0.0; model.grid.max_points_per_pillar * widest];
        let max = vec![0.0; widest];
        let scratch = Scratch {
            rows: rows.clone(),
            next: rows,
            max: max.clone(),
            next_max: max,
        };
        let channels = model.bev_channels();
        Ok(Self {
            inputs: Inputs {
                point_columns: model.points.columns.len(),
                mean_offset: model.pfn.mean_offset,
                center_axes: model.pfn.center_axes,
            },
            layers,
            channels,
            scratch: vec![scratch; threads.max(1)],
            values: vec![0.0; model.grid.max_pillars * channels],
            pillars: 0,
        })
    }

    /// Features of the last frame, `[pillars][channels]`.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.pillars * self.channels]
    }

    /// Features of a pillar: channels C of the BEV map.
    pub fn channels(&self) -> usize {
        self.channels
    }
}

/// Computes the features of every pillar into `out`.
///
/// `points` has rows of `stride` values, whose first are the model's columns; `pillars` holds indices
/// into it, `grid` is the model's.
pub fn features(
    points: &[f32],
    stride: usize,
    pillars: &Pillars,
    grid: &Grid,
    pool: &Pool,
    out: &mut Features,
) {
    debug_assert!(stride >= out.inputs.point_columns);
    let channels = out.channels;
    out.pillars = pillars.len();
    let frame = Frame {
        points,
        stride,
        pillars,
        grid,
        inputs: out.inputs,
        layers: &out.layers,
        channels,
    };
    let values = &mut out.values[..out.pillars * channels];
    compute(
        &frame,
        pool,
        versions().next().unwrap_or(run_task),
        &mut out.scratch,
        values,
    );
}

fn compute(
    frame: &Frame<'_>,
    pool: &Pool,
    run: Version,
    scratch: &mut [Scratch],
    values: &mut [f32],
) {
    let length = PILLARS_PER_TASK * frame.channels;
    pool.for_each_chunk_mut_with(scratch, values, length, |scratch, task, chunk| {
        run(frame, scratch, task, chunk);
    });
}

/// What the tasks of a frame share.
struct Frame<'a> {
    points: &'a [f32],
    stride: usize,
    pillars: &'a Pillars,
    grid: &'a Grid,
    inputs: Inputs,
    layers: &'a [Layer],
    channels: usize,
}

/// Computes the features of task `task`'s pillars into its part of the values.
type Version = fn(&Frame<'_>, &mut Scratch, usize, &mut [f32]);

/// The versions of [`run_task`] that this machine can run, the widest vectors first. All give the
/// same bytes: the compiler never fuses or reorders f32 operations by itself.
fn versions() -> impl Iterator<Item = Version> {
    #[cfg(target_arch = "x86_64")]
    let wide: [Option<Version>; 2] = [
        is_x86_feature_detected!("avx512f").then_some(|frame, scratch, task, chunk| {
            // SAFETY: the processor has AVX-512F.
            unsafe { run_task_avx512(frame, scratch, task, chunk) }
        }),
        is_x86_feature_detected!("avx2").then_some(|frame, scratch, task, chunk| {
            // SAFETY: the processor has AVX2.
            unsafe { run_task_avx2(frame, scratch, task, chunk) }
        }),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let wide: [Option<Version>; 0] = [];
    wide.into_iter().flatten().chain([run_task as Version])
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_task_avx512(frame: &Frame<'_>, scratch: &mut Scratch, task: usize, chunk: &mut [f32]) {
    run_task(frame, scratch, task, chunk);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_task_avx2(frame: &Frame<'_>, scratch: &mut Scratch, task: usize, chunk: &mut [f32]) {
    run_task(frame, scratch, task, chunk);
}

// Inlined, as all that it calls in its loops: only so is it compiled for the caller's vectors.
#[inline(always)]
fn run_task(frame: &Frame<'_>, scratch: &mut Scratch, task: usize, chunk: &mut [f32]) {
    for (i, output) in chunk.chunks_exact_mut(frame.channels).enumerate() {
        let mut rows = frame.write_rows(task * PILLARS_PER_TASK + i, scratch);
        if rows < frame.grid.max_points_per_pillar {
            let width = frame.inputs.width();
            scratch.rows[rows * width..(rows + 1) * width].fill(0.0);
            rows += 1;
        }
        for layer in frame.layers {
            layer.run(rows, scratch);
        }
        output.copy_from_slice(&scratch.max[..frame.channels]);
    }
}

impl Inputs {
    fn width(self) -> usize {
        self.point_columns + if self.mean_offset { 3 } else { 0 } + self.center_axes
    }
}

impl Frame<'_> {
    /// Writes the rows of the points of `pillar`; returns their number.
    #[inline(always)]
    fn write_rows(&self, pillar: usize, scratch: &mut Scratch) -> usize {
        let (pillars, grid, inputs) = (self.pillars, self.grid, self.inputs);
        let kept = pillars.points(pillar);
        let point =
            |index: u32| &self.points[index as usize * self.stride..][..inputs.point_columns];
        let mut mean = [0.0f32; 3];
        for &index in kept {
            let point = point(index);
            (0..3).for_each(|axis| mean[axis] += point[axis]);
        }
        mean = mean.map(|sum| sum / kept.len() as f32);
        let cell = pillars.cells()[pillar] as usize;
        let center = grid.center(cell % grid.nx, cell / grid.nx);
        for (&index, row) in kept
            .iter()
            .zip(scratch.rows.chunks_exact_mut(inputs.width()))
        {
            let point = point(index);
            let (own, mut offsets) = row.split_at_mut(inputs.point_columns);
            own.copy_from_slice(point);
            if inputs.mean_offset {
                let (from_mean, rest) = offsets.split_at_mut(3);
                (0..3).for_each(|axis| from_mean[axis] = point[axis] - mean[axis]);
                offsets = rest;
            }
            for (axis, offset) in offsets.iter_mut().enumerate() {
                *offset = point[axis] - center[axis];
            }
        }
        kept.len()
    }
}

impl Layer {
    /// Packs `layer`, whose rows have `row_features` columns of which the last may be padding.
    fn new(layer: &PfnLayer, first: bool, row_features: usize) -> Self {
        let own = layer.in_features / if first { 1 } else { 2 };
        let tiles = (0..layer.out_features)
            .step_by(LANES)
            .map(|start| {
                let lanes = LANES.min(layer.out_features - start);
                let mut bias = [0.0; LANES];
                bias[..lanes].copy_from_slice(&layer.bias[start..start + lanes]);
                let column = |k: usize| {
                    let mut weights = [0.0; LANES];
                    for (lane, weight) in weights[..lanes].iter_mut().enumerate() {
                        *weight = layer.weight[(start + lane) * layer.in_features + k];
                    }
                    weights
                };
                let mut row_weight: Vec<_> = (0..own).map(column).collect();
                row_weight.resize(row_features, [0.0; LANES]);
                Tile {
                    bias,
                    row_weight,
                    max_weight: (own..layer.in_features).map(column).collect(),
                }
            })
            .collect();
        Self { tiles }
    }

    /// Columns of the rows that the layer reads.
    fn row_features(&self) -> usize {
        self.tiles.first().map_or(0, |tile| tile.row_weight.len())
    }

    /// Columns of the rows that the layer writes.
    fn width(&self) -> usize {
        self.tiles.len() * LANES
    }

    /// Runs the layer on the first `n` rows of `scratch.rows`, which lie side by side, and leaves its
    /// own rows and their max in their place.
    #[inline(always)]
    fn run(&self, n: usize, scratch: &mut Scratch) {
        let features = self.row_features();
        let rows = &scratch.rows[..n * features];
        let groups = rows.chunks_exact(ROWS * features);
        for (t, tile) in self.tiles.iter().enumerate() {
            let mut base = tile.bias;
            for (&x, weights) in scratch.max.iter().zip(&tile.max_weight) {
                add_scaled(&mut base, x, weights);
            }
            // After ReLU nothing is below 0.
            let mut max = [0.0f32; LANES];
            let mut outputs = scratch
                .next
                .chunks_exact_mut(self.width())
                .map(|row| &mut row[t * LANES..(t + 1) * LANES]);
            for group in groups.clone() {
                let group: [&[f32]; ROWS] =
                    std::array::from_fn(|r| &group[r * features..(r + 1) * features]);
                tile.run(group, base, &mut max, &mut outputs);
            }
            for row in groups.remainder().chunks_exact(features) {
                tile.run([row], base, &mut max, &mut outputs);
            }
            scratch.next_max[t * LANES..(t + 1) * LANES].copy_from_slice(&max);
        }
        std::mem::swap(&mut scratch.rows, &mut scratch.next);
        std::mem::swap(&mut scratch.max, &mut scratch.next_max);
    }
}

impl Tile {
    /// Computes this tile of `rows`, writes it to the next rows of `outputs` and raises `max`.
    #[inline(always)]
    fn run<'a, const N: usize>(
        &self,
        rows: [&[f32]; N],
        base: [f32; LANES],
        max: &mut [f32; LANES],
        outputs: &mut impl Iterator<Item = &'a mut [f32]>,
    ) {
        let mut sums = [base; N];
        let rows = rows.map(|row| &row[..self.row_weight.len()]);
        for (k, weights) in self.row_weight.iter().enumerate() {
            for (sum, row) in sums.iter_mut().zip(&rows) {
                add_scaled(sum, row[k], weights);
            }
        }
        for sum in &mut sums {
            for (value, max) in sum.iter_mut().zip(&mut *max) {
                *value = if *value > 0.0 { *value } else { 0.0 };
                *max = if *value > *max { *value } else { *max };
            }
            if let Some(output) = outputs.next() {
                output.copy_from_slice(sum);
            }
        }
    }
}

/// `sum += x · weights`, rounding the product first.
#[inline(always)]
fn add_scaled(sum: &mut [f32; LANES], x: f32, weights: &[f32; LANES]) {
    for (sum, weight) in sum.iter_mut().zip(weights) {
        *sum += x * weight;
    }
}

#[cfg(test)]
mod tests;
