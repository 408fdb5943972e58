//! Gram matrices of a layer's input: sums of products of the codes that its taps read.
//!
//! A BEV map is mostly empty, and all its empty cells are alike. Summed over all cells, a Gram matrix would describe the
//! background and little else. So cells under a pillar and other cells are summed apart, and their means are weighted:
//! [`BACKGROUND`] for the other cells, the rest for those under a pillar.
//!
//! Bias correction takes off the mean error later. What it cannot take off is the error around that mean, so the matrix is
//! that of `x − c`, where c is the mean column of the cells that the bias correction counts.
//!
//! Up to [`OCCUPIED`] cells under a pillar and [`OTHERS`] other ones of a frame count, spread evenly. A product of two codes
//! is at most 2¹⁴, so the sums of a frame are exact in f32, and those of all frames in f64.

use super::Geometry;
use crate::build::calibrate::Occupancy;
use crate::build::config::BiasCorrection;
use crate::build::train::kernels::{Loop, Outer, outer, vectorised};
use crate::cpu::Pool;
use crate::engine::cpu::Isa;
use crate::map::MapLayout;
use crate::program::layout::LANES;

/// Most cells of a frame under a pillar. 1024 products of codes fit into the 24 bits of an f32.
const OCCUPIED: usize = 1024;
/// Most other cells of a frame.
const OTHERS: usize = 256;
/// Weight of the cells without a pillar.
const BACKGROUND: f64 = 0.1;
/// Rows of a matrix that one task computes.
const ROWS: usize = 48;
/// Damping: this share of the mean of the diagonal is added to it, as GPTQ does.
const DAMPING: f64 = 0.01;

/// The sums of one kind of cells.
#[derive(Clone, Debug, Default)]
struct Sums {
    /// All cells, whether they were summed or not.
    all: u64,
    /// Cells that were summed.
    cells: u64,
    /// `[group][column][column]`; only blocks on and above the diagonal.
    products: Vec<f64>,
    /// `[group][column]`.
    values: Vec<f64>,
}

/// The sums of a layer's input. Layers with the same input and geometry share them.
#[derive(Clone, Debug)]
pub(crate) struct Gram {
    geometry: Geometry,
    /// Cells under a pillar, and others.
    sums: [Sums; 2],
    frames: usize,
    isa: Isa,
}

impl Gram {
    pub(crate) fn new(geometry: &Geometry, isa: Isa) -> Self {
        let (groups, column) = (geometry.window.groups, geometry.column());
        let sums = Sums {
            all: 0,
            cells: 0,
            products: vec![0.0; groups * column * column],
            values: vec![0.0; groups * column],
        };
        Self {
            geometry: geometry.clone(),
            sums: [sums.clone(), sums],
            frames: 0,
            isa,
        }
    }

    /// Bytes that the sums of a geometry take.
    pub(crate) fn bytes(geometry: &Geometry) -> usize {
        let column = geometry.column();
        2 * size_of::<f64>() * geometry.window.groups * column * column
    }

    /// Adds the map of one frame.
    pub(crate) fn add(
        &mut self,
        codes: &[i8],
        layout: MapLayout,
        occupancy: &mut Occupancy,
        pool: &Pool,
    ) {
        let isa = self.isa;
        let [rows, columns] = self.geometry.cells;
        let occupied = occupancy.of_size(rows, columns);
        let mut kinds = [Vec::new(), Vec::new()];
        for (cell, &occupied) in occupied.iter().enumerate() {
            kinds[usize::from(!occupied)].push([cell / columns, cell % columns]);
        }
        for ((sums, cells), most) in self.sums.iter_mut().zip(&kinds).zip([OCCUPIED, OTHERS]) {
            sums.all += cells.len() as u64;
            let step = cells.len().div_ceil(most).max(1);
            // Another cell of each stretch in each frame.
            let first = self.frames % step;
            let chosen: Vec<[usize; 2]> = cells.iter().skip(first).step_by(step).copied().collect();
            sums.cells += chosen.len() as u64;
            for group in 0..self.geometry.window.groups {
                add(
                    &self.geometry,
                    sums,
                    group,
                    &chosen,
                    (codes, layout),
                    pool,
                    isa,
                );
            }
        }
        self.frames += 1;
    }

    /// The weighted and centred matrices of the groups. `centre` says around which mean.
    pub(crate) fn hessians(&self, centre: BiasCorrection) -> Vec<Hessian> {
        (0..self.geometry.window.groups)
            .map(|group| self.hessian(group, centre))
            .collect()
    }

    fn hessian(&self, group: usize, centre: BiasCorrection) -> Hessian {
        let column = self.geometry.column();
        let [occupied, others] = &self.sums;
        let mean = |sums: &Sums| -> Vec<f64> {
            let values = sums.values.iter().skip(group * column).take(column);
            values.map(|v| v / sums.cells.max(1) as f64).collect()
        };
        let means = [mean(occupied), mean(others)];
        let blend = |share: f64| -> Vec<f64> {
            let pairs = means[0].iter().zip(&means[1]);
            pairs.map(|(a, b)| share * a + (1.0 - share) * b).collect()
        };
        let all = (occupied.all + others.all).max(1);
        let centre = match centre {
            BiasCorrection::Off => vec![0.0; column],
            BiasCorrection::All => blend(occupied.all as f64 / all as f64),
            BiasCorrection::Occupied => blend(1.0),
            BiasCorrection::Background => blend(0.0),
        };
        let shares = match (occupied.cells, others.cells) {
            (0, _) => [0.0, 1.0],
            (_, 0) => [1.0, 0.0],
            _ => [1.0 - BACKGROUND, BACKGROUND],
        };
        let mut matrix = vec![0.0; column * column];
        for ((sums, mean), share) in self.sums.iter().zip(&means).zip(shares) {
            let first = group * column * column;
            let weight = share / sums.cells.max(1) as f64;
            for i in 0..column {
                for j in i..column {
                    // E[(x − c)(x − c)ᵀ]
                    let product = sums.products[first + i * column + j] * weight;
                    let moved = centre[i] * centre[j] - centre[i] * mean[j] - mean[i] * centre[j];
                    matrix[i * column + j] += product + share * moved;
                }
            }
        }
        for i in 0..column {
            for j in 0..i {
                matrix[i * column + j] = matrix[j * column + i];
            }
        }
        Hessian {
            size: column,
            isa: self.isa,
            matrix,
            centre,
        }
    }
}

/// Adds the columns of some cells of a group.
fn add(
    geometry: &Geometry,
    sums: &mut Sums,
    group: usize,
    cells: &[[usize; 2]],
    map: (&[i8], MapLayout),
    pool: &Pool,
    isa: Isa,
) {
    let column = geometry.column();
    let width = column.next_multiple_of(LANES);
    let columns = columns(geometry, group, cells, map, width);
    for values in columns.chunks_exact(width) {
        let to = sums.values.iter_mut().skip(group * column);
        for (sum, value) in to.zip(&values[..column]) {
            *sum += f64::from(*value);
        }
    }
    let matrix = &mut sums.products[group * column * column..][..column * column];
    pool.for_each_chunk_mut(matrix, ROWS * column, |task, products| {
        let first = task * ROWS;
        let rows = products.len() / column;
        let start = first / LANES * LANES;
        let blocks = (width - start) / LANES;
        let mut sums = vec![0.0; rows * blocks * LANES];
        let product = Outer {
            a: &columns[first.min(columns.len())..],
            a_step: width,
            rows,
            b: &columns[start.min(columns.len())..],
            b_step: width,
            blocks,
            pixels: cells.len(),
            sums: &mut sums,
        };
        outer(isa, product);
        for (products, sums) in products
            .chunks_exact_mut(column)
            .zip(sums.chunks_exact(blocks * LANES))
        {
            for (to, sum) in products[start..].iter_mut().zip(sums) {
                *to += f64::from(*sum);
            }
        }
    });
}

/// The columns of cells, `[cell][width]`: what the taps of a group read. Pixels outside the map are 0.
fn columns(
    geometry: &Geometry,
    group: usize,
    cells: &[[usize; 2]],
    (codes, layout): (&[i8], MapLayout),
    width: usize,
) -> Vec<f32> {
    let inputs = geometry.inputs();
    let window = &geometry.window;
    let mut columns = vec![0.0; cells.len() * width];
    for (column, [y, x]) in columns.chunks_exact_mut(width).zip(cells) {
        for (tap, column) in column
            .chunks_exact_mut(inputs)
            .take(geometry.taps())
            .enumerate()
        {
            let at = |axis: usize, cell: usize, tap: usize, len: usize| {
                if geometry.transposed {
                    return Some(cell);
                }
                let reach = cell * window.stride[axis] + tap * window.dilation[axis];
                reach.checked_sub(window.pad[axis]).filter(|at| *at < len)
            };
            let [tap_y, tap_x] = [tap / window.kernel[1], tap % window.kernel[1]];
            let (Some(y), Some(x)) = (
                at(0, *y, tap_y, layout.height),
                at(1, *x, tap_x, layout.width),
            ) else {
                continue;
            };
            for (i, value) in column.iter_mut().enumerate() {
                let at = layout.index(group * inputs + i, y, x);
                *value = codes.get(at).copied().map_or(0.0, f32::from);
            }
        }
    }
    columns
}

/// The matrix H of a group's error `δᵀHδ`, in codes of the input squared.
#[derive(Clone, Debug)]
pub(crate) struct Hessian {
    pub(super) size: usize,
    pub(super) isa: Isa,
    /// `[row][column]`, symmetric.
    pub(super) matrix: Vec<f64>,
    /// The mean column that it is centred on, in codes.
    pub(super) centre: Vec<f64>,
}

impl Hessian {
    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.matrix[i * self.size..][..self.size]
    }

    /// `δᵀHδ`.
    pub(super) fn error(&self, errors: &[f64]) -> f64 {
        self.slope(errors)
            .iter()
            .zip(errors)
            .map(|(s, e)| s * e)
            .sum()
    }

    /// `Hδ`.
    pub(super) fn slope(&self, errors: &[f64]) -> Vec<f64> {
        let mut slope = vec![0.0; self.size];
        for (i, &error) in errors.iter().enumerate().filter(|(_, e)| **e != 0.0) {
            add_multiple(self.isa, &mut slope, self.row(i), error);
        }
        slope
    }

    /// What is added to the diagonal, so that inputs that never vary have nearest codes.
    pub(super) fn damping(&self) -> f64 {
        let sum: f64 = (0..self.size).map(|i| self.matrix[i * self.size + i]).sum();
        let mean = sum / self.size.max(1) as f64;
        if mean > 0.0 { DAMPING * mean } else { 1.0 }
    }
}

/// `sums += factor · values`.
struct Multiple<'a> {
    sums: &'a mut [f64],
    values: &'a [f64],
    factor: f64,
}

impl Loop for Multiple<'_> {
    #[inline(always)]
    fn run(self) {
        for (sum, value) in self.sums.iter_mut().zip(self.values) {
            *sum += self.factor * value;
        }
    }
}

/// `sums += factor · values`, each product rounded before it is added.
pub(super) fn add_multiple(isa: Isa, sums: &mut [f64], values: &[f64], factor: f64) {
    vectorised(
        isa,
        Multiple {
            sums,
            values,
            factor,
        },
    );
}
