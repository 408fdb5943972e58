//! Pillar features: the PFN (pillar feature network) over each pillar's points.
//!
//! The input columns of a point are the cloud's columns, xyz − mean of the pillar's kept points, and the offset
//! from the pillar's centre along 2 or 3 axes (metres); rows beyond the pillar's count are zero.
//! Each layer is Linear → ReLU → max over **all** `max_points_per_pillar` rows, padding included;
//! every layer but the last appends its max to each row. BatchNorm is folded into the Linear, so a padding row
//! can win the max. All padding rows of a pillar are equal in every layer, so one zero row represents them.
//!
//! Order of operations, in f32, with each product rounded before it is added (no FMA), for any number of threads:
//! - mean: the kept points are added in input order, then divided by their number;
//! - output of a row: bias, plus the columns of the appended max in ascending order (computed once per pillar,
//!   since all its rows share them), plus the row's own columns in ascending order.

// Only for the calls into code compiled for wider vectors.
#![allow(unsafe_code)]

use crate::cpu::pillars::Pillars;
use crate::cpu::pool::Pool;
use crate::model::{Grid, Model, Pfn, PfnError, PfnLayer};

/// Output channels computed by one inner loop.
const LANES: usize = 16;
/// Rows that share a pass over the weights.
const ROWS: usize = 2;
/// Pillars per task of the pool: small enough to balance, large enough to be worth a dispatch.
const PILLARS_PER_TASK: usize = 64;

/// Weights and buffers of the stage, and the features of the last frame. Allocated once.
#[derive(Clone, Debug)]
pub struct Features {
    inputs: Inputs,
    layers: Vec<PackedLayer>,
    channels: usize,
    scratch: Vec<Scratch>,
    /// `[max_pillars][channels]`.
    values: Vec<f32>,
    /// Pillars of the last frame.
    pillars: usize,
}

/// The input columns of a point.
#[derive(Clone, Copy, Debug)]
struct Inputs {
    point_columns: usize,
    mean_offset: bool,
    center_axes: usize,
}

/// A layer with its weights in the order of computation: tiles of [`LANES`] output channels (zero beyond the
/// last), with the input columns in order within a tile.
#[derive(Clone, Debug)]
struct PackedLayer {
    tiles: Vec<Tile>,
}

#[derive(Clone, Debug)]
struct Tile {
    bias: [f32; LANES],
    /// Weights of the row's own columns; zero for columns that pad the previous layer to whole tiles.
    row_weight: Vec<[f32; LANES]>,
    /// Weights of the appended max's columns; empty in the first layer.
    max_weight: Vec<[f32; LANES]>,
}

/// Buffers of one thread, for one pillar.
#[derive(Clone, Debug)]
struct Scratch {
    /// Rows read by a layer.
    rows: Vec<f32>,
    /// Rows written by it.
    next: Vec<f32>,
    /// Max read by a layer.
    max: Vec<f32>,
    /// Max written by it.
    next_max: Vec<f32>,
}

impl Features {
    /// Packs the weights and allocates the buffers for a pool of `threads` threads.
    ///
    /// # Errors
    /// [`PfnError`] if `pfn` does not match `model`.
    pub fn new(model: &Model, pfn: &Pfn, threads: usize) -> Result<Self, PfnError> {
        pfn.check(model)?;
        let mut layers: Vec<PackedLayer> = Vec::with_capacity(pfn.layers.len());
        let mut widest = model.pfn_in_features();
        for layer in &pfn.layers {
            let row_features = layers.last().map_or(layer.in_features, PackedLayer::width);
            layers.push(PackedLayer::new(layer, layers.is_empty(), row_features));
            widest = widest.max(layers.last().map_or(0, PackedLayer::width));
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
            inputs: Inputs::new(model),
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

    /// Features per pillar: the channels C of the BEV map.
    pub fn channels(&self) -> usize {
        self.channels
    }
}

/// Computes the features of every pillar into `out`.
///
/// `points` has rows of `stride` values that start with the model's columns; `pillars` holds indices into
/// `points`, and `grid` is the model's.
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
    let frame = FrameInput {
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
    frame: &FrameInput<'_>,
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

/// The inputs shared by a frame's tasks.
struct FrameInput<'a> {
    points: &'a [f32],
    stride: usize,
    pillars: &'a Pillars,
    grid: &'a Grid,
    inputs: Inputs,
    layers: &'a [PackedLayer],
    channels: usize,
}

/// Computes the features of a task's pillars into its part of the values.
type Version = fn(&FrameInput<'_>, &mut Scratch, usize, &mut [f32]);

/// The versions of [`run_task`] that this machine supports, widest vectors first. All return the same bytes:
/// the compiler never fuses or reorders f32 operations on its own.
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
fn run_task_avx512(frame: &FrameInput<'_>, scratch: &mut Scratch, task: usize, chunk: &mut [f32]) {
    run_task(frame, scratch, task, chunk);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_task_avx2(frame: &FrameInput<'_>, scratch: &mut Scratch, task: usize, chunk: &mut [f32]) {
    run_task(frame, scratch, task, chunk);
}

// Inlined, like the functions it calls in loops, to be compiled for the caller's vector width.
#[inline(always)]
fn run_task(frame: &FrameInput<'_>, scratch: &mut Scratch, task: usize, chunk: &mut [f32]) {
    for (i, output) in chunk.chunks_exact_mut(frame.channels).enumerate() {
        let pillar = task * PILLARS_PER_TASK + i;
        let mut rows = frame.inputs.write_rows(
            frame.points,
            frame.stride,
            frame.pillars,
            frame.grid,
            pillar,
            &mut scratch.rows,
        );
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

/// Appends the PFN's input rows of every pillar to `rows`, and their number to `lengths`. A pillar that is not full ends
/// with one row of zeros, which stands for its padding. `points` and `pillars` are as in [`features`].
pub(crate) fn input_rows(
    model: &Model,
    points: &[f32],
    pillars: &Pillars,
    rows: &mut Vec<f32>,
    lengths: &mut Vec<u32>,
) {
    let inputs = Inputs::new(model);
    let (stride, grid) = (inputs.point_columns, &model.grid);
    for (pillar, &count) in pillars.counts().iter().enumerate() {
        let most = grid.max_points_per_pillar;
        let length = (count as usize + 1).min(most);
        let start = rows.len();
        rows.resize(start + length * inputs.width(), 0.0);
        inputs.write_rows(points, stride, pillars, grid, pillar, &mut rows[start..]);
        lengths.push(length as u32);
    }
}

impl Inputs {
    fn new(model: &Model) -> Self {
        Self {
            point_columns: model.points.columns.len(),
            mean_offset: model.pfn.mean_offset,
            center_axes: model.pfn.center_axes,
        }
    }

    fn width(self) -> usize {
        self.point_columns + if self.mean_offset { 3 } else { 0 } + self.center_axes
    }

    /// Writes the input rows of `pillar`'s points, and returns their number.
    #[inline(always)]
    fn write_rows(
        self,
        points: &[f32],
        stride: usize,
        pillars: &Pillars,
        grid: &Grid,
        pillar: usize,
        rows: &mut [f32],
    ) -> usize {
        let kept = pillars.points(pillar);
        let point = |index: u32| &points[index as usize * stride..][..self.point_columns];
        let mut mean = [0.0f32; 3];
        for &index in kept {
            let point = point(index);
            (0..3).for_each(|axis| mean[axis] += point[axis]);
        }
        mean = mean.map(|sum| sum / kept.len() as f32);
        let cell = pillars.cells()[pillar] as usize;
        let center = grid.center(cell % grid.nx, cell / grid.nx);
        for (&index, row) in kept.iter().zip(rows.chunks_exact_mut(self.width())) {
            let point = point(index);
            let (own, mut offsets) = row.split_at_mut(self.point_columns);
            own.copy_from_slice(point);
            if self.mean_offset {
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

impl PackedLayer {
    /// Packs `layer`. Its rows have `row_features` columns, the last of which may be padding.
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

    /// Columns of the rows read by the layer.
    fn row_features(&self) -> usize {
        self.tiles.first().map_or(0, |tile| tile.row_weight.len())
    }

    /// Columns of the rows written by the layer.
    fn width(&self) -> usize {
        self.tiles.len() * LANES
    }

    /// Runs the layer on the first `n` contiguous rows of `scratch.rows`, and replaces them by its output rows
    /// and their max.
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
            // ReLU outputs are never below 0.
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
