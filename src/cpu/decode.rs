//! Decode: head maps to candidate boxes, best first.
//!
//! A first pass over the heatmap marks the cells that may have a candidate. It compares logits, which saves the
//! sigmoid for the many cells without one. All further work is done for marked cells only.
//! Sources: CenterPoint (Yin et al. 2021), mmdetection3d's `CenterPointBBoxCoder`, Autoware's
//! `generateBoxes3D_kernel`.
//!
//! Numbers: positions are f32, each operation rounded on its own, in the order of the code; `exp`, `atan2` and
//! the sigmoid are evaluated in f64 and rounded to f32, which makes them independent of the platform's f32
//! library. A score passes if `sigmoid(logit) ≥ threshold`. The smallest passing logit is found once by
//! bisection, so comparing logits is exactly the same rule.
//!
//! A candidate with a NaN or infinite value, including the result of an `exp`, is dropped and counted. The same holds for
//! the variances of networks that predict them.
//! Candidates are ordered by score (descending), then task, cell and class (ascending), before any limit
//! applies.

use std::cmp::Ordering;

use crate::boxes::{Box3d, Variances};
use crate::cpu::pool::Pool;
use crate::elementary;
use crate::map::{HeadMaps, MapView};
use crate::model::{Candidates, Model, Rotation, SizeOrder};

/// Heatmap rows scanned by one task of the pool.
const ROWS_PER_TASK: usize = 16;

/// A box before suppression, with the keys that make its rank unique.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The box; its score and class are the first and last key of the rank.
    pub bbox: Box3d,
    /// Task of the head.
    pub task: u32,
    /// Cell of the head's maps, `y · width + x`.
    pub cell: u32,
    /// The box's variances; all 0 if the head has none.
    pub variances: Variances,
}

impl Candidate {
    /// Best first: score descending, then task, cell, class ascending. No two candidates are equal.
    fn rank(&self, other: &Self) -> Ordering {
        let key = |c: &Self| (c.task, c.cell, c.bbox.class);
        let by_score = other.bbox.score.total_cmp(&self.bbox.score);
        by_score.then_with(|| key(self).cmp(&key(other)))
    }
}

/// Tables and buffers of the stage, and the candidates of the frame. Allocated once.
#[derive(Clone, Debug)]
pub struct CandidateList {
    /// Smallest passing logit, `[band][class]`.
    logits: Vec<Vec<f32>>,
    /// Smallest passing logit in any band, by class.
    least: Vec<f32>,
    /// Cells that may have a candidate: 1, the others 0.
    marked: Vec<u8>,
    /// Candidates of the current task, at most twice the limit.
    task: Vec<Candidate>,
    /// Candidates of all tasks, sorted.
    candidates: Vec<Candidate>,
    surplus: u64,
    non_finite: u64,
}

impl CandidateList {
    /// Creates tables and buffers for `model`; nothing is allocated later.
    pub fn new(model: &Model) -> Self {
        let (logits, least) = least_logits(model);
        let (height, width) = model.head_size();
        Self {
            logits,
            least,
            marked: vec![0; height * width],
            task: Vec::with_capacity(2 * model.decode.max_candidates),
            candidates: Vec::with_capacity(model.max_boxes()),
            surplus: 0,
            non_finite: 0,
        }
    }

    /// Removes the last frame's candidates.
    pub fn clear(&mut self) {
        self.candidates.clear();
        self.surplus = 0;
        self.non_finite = 0;
    }

    /// The candidates of all tasks decoded since [`CandidateList::clear`], best first.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Number of candidates beyond `max_candidates` of their task.
    pub fn surplus(&self) -> u64 {
        self.surplus
    }

    /// Number of candidates dropped for a NaN or infinity in a head map: a broken network, not an overflow.
    pub fn non_finite(&self) -> u64 {
        self.non_finite
    }
}

/// Adds the candidates of one task to `out`. Call [`CandidateList::clear`] before the first task of a frame.
///
/// `maps` are the task's head maps, each `H × W` ([`Model::head_size`]). Logarithms of variances follow the values.
pub fn decode(
    model: &Model,
    task: usize,
    maps: &HeadMaps<MapView<'_>>,
    pool: &Pool,
    out: &mut CandidateList,
) {
    let (height, width) = model.head_size();
    let classes = &model.head.tasks[task].classes;
    let channels = model.head_channels(&model.head.tasks[task]);
    debug_assert!(maps.zip(channels).iter().all(|(map, channels)| {
        let layout = map.layout;
        layout.channels >= *channels && (layout.height, layout.width) == (height, width)
    }));
    mark(&maps.heatmap, classes, &out.least, pool, &mut out.marked);

    out.task.clear();
    for cell in 0..height * width {
        if out.marked[cell] == 0 {
            continue;
        }
        let (y, x) = (cell / width, cell % width);
        let logit = |channel: usize| at(&maps.heatmap, channel, y, x);
        match model.decode.candidates {
            Candidates::BestClass => {
                if !(0..classes.len()).all(|channel| logit(channel).is_finite()) {
                    out.non_finite += 1;
                    continue;
                }
                let mut best = 0;
                for channel in 1..classes.len() {
                    if logit(channel) > logit(best) {
                        best = channel;
                    }
                }
                out.consider(model, maps, task, cell, classes[best], logit(best));
            }
            Candidates::ClassCell => {
                for (channel, &class) in classes.iter().enumerate() {
                    out.consider(model, maps, task, cell, class, logit(channel));
                }
            }
        }
    }
    out.cut(model.decode.max_candidates);
    out.candidates.extend_from_slice(&out.task);
    out.candidates.sort_unstable_by(Candidate::rank);
}

/// Sets `marked` where a logit reaches its class's smallest passing one, or is NaN.
fn mark(heatmap: &MapView<'_>, classes: &[usize], least: &[f32], pool: &Pool, marked: &mut [u8]) {
    let width = heatmap.layout.width;
    pool.for_each_chunk_mut(marked, ROWS_PER_TASK * width, |task, chunk| {
        for (i, row) in chunk.chunks_exact_mut(width).enumerate() {
            let least = classes.iter().map(|&class| least[class]);
            mark_row(heatmap, task * ROWS_PER_TASK + i, least, row);
        }
    });
}

/// Sets the cells of row `y` to 1 where a logit reaches its channel's `least` one or is NaN, to 0 elsewhere. What else is
/// read of a task's maps is read at these cells only.
pub(crate) fn mark_row(
    heatmap: &MapView<'_>,
    y: usize,
    least: impl Iterator<Item = f32>,
    row: &mut [u8],
) {
    let layout = heatmap.layout;
    row.fill(0);
    for (channel, least) in least.enumerate() {
        let start = layout.index(channel, y, 0);
        let mark = |(marked, logit): (&mut u8, &f32)| {
            *marked |= u8::from(*logit >= least || logit.is_nan());
        };
        if layout.stride_x == 1 {
            let logits = &heatmap.data[start..start + row.len()];
            row.iter_mut().zip(logits).for_each(mark);
        } else {
            let logits = heatmap.data[start..].iter().step_by(layout.stride_x);
            row.iter_mut().zip(logits).for_each(mark);
        }
    }
}

/// The decision about a cell and class.
enum Verdict {
    Keep(Box3d, Variances),
    /// Below a threshold, beyond the last distance band, or outside the range of centres.
    Reject,
    /// A value is NaN or infinite.
    NonFinite,
}

impl CandidateList {
    /// Adds the candidate of `class` at `cell` if it passes.
    fn consider(
        &mut self,
        model: &Model,
        maps: &HeadMaps<MapView<'_>>,
        task: usize,
        cell: usize,
        class: usize,
        logit: f32,
    ) {
        match self.judge(model, maps, cell, class, logit) {
            Verdict::Reject => {}
            Verdict::NonFinite => self.non_finite += 1,
            Verdict::Keep(bbox, variances) => {
                if self.task.len() == 2 * model.decode.max_candidates {
                    self.cut(model.decode.max_candidates);
                }
                self.task.push(Candidate {
                    bbox,
                    task: task as u32,
                    cell: cell as u32,
                    variances,
                });
            }
        }
    }

    fn judge(
        &self,
        model: &Model,
        maps: &HeadMaps<MapView<'_>>,
        cell: usize,
        class: usize,
        logit: f32,
    ) -> Verdict {
        if logit < self.least[class] {
            return Verdict::Reject;
        }
        let width = model.head_size().1;
        let (row, column) = (cell / width, cell % width);
        let value = |map, channel| at(map, channel, row, column);
        let reg = [value(&maps.reg, 0), value(&maps.reg, 1)];
        let z = value(&maps.height, 0);
        let dim = [0, 1, 2].map(|channel| value(&maps.dim, channel));
        let rot = [value(&maps.rot, 0), value(&maps.rot, 1)];
        let velocity = [value(&maps.vel, 0), value(&maps.vel, 1)];
        let read = [&[logit, z][..], &reg, &dim, &rot, &velocity];
        if !read.into_iter().flatten().all(|value| value.is_finite()) {
            return Verdict::NonFinite;
        }

        let grid = &model.grid;
        let cell_size = |axis: usize| model.head.downsample as f32 * grid.voxel[axis];
        let x = (column as f32 + reg[0]) * cell_size(0) + grid.min[0];
        let y = (row as f32 + reg[1]) * cell_size(1) + grid.min[1];
        let size = dim.map(exp);
        if ![x, y].iter().chain(&size).all(|value| value.is_finite()) {
            return Verdict::NonFinite;
        }
        let order = |[a, b, c]: [f32; 3]| match model.head.size_order {
            SizeOrder::Lwh => [a, b, c],
            SizeOrder::Wlh => [b, a, c],
        };
        let mut variances = Variances::default();
        if model.head.variance {
            let logs = LogVariances {
                reg: [value(&maps.reg, 2), value(&maps.reg, 3)],
                z: value(&maps.height, 1),
                size: order([3, 4, 5].map(|channel| value(&maps.dim, channel))),
                rot: [value(&maps.rot, 2), value(&maps.rot, 3)],
                velocity: [value(&maps.vel, 2), value(&maps.vel, 3)],
            };
            match logs.decode([cell_size(0), cell_size(1)], rot) {
                Some(decoded) => variances = decoded,
                None => return Verdict::NonFinite,
            }
        }

        let distance = (x * x + y * y).sqrt();
        let band = model
            .decode
            .bands
            .iter()
            .position(|bound| distance < *bound);
        let Some(band) = band else {
            return Verdict::Reject;
        };
        let yaw_norm = (rot[0] * rot[0] + rot[1] * rot[1]).sqrt();
        if logit < self.logits[band][class] || yaw_norm < model.decode.yaw_norm[class] {
            return Verdict::Reject;
        }
        let [least, greatest] = model.decode.center_range;
        let center = [x, y, z];
        if (0..3).any(|axis| center[axis] < least[axis] || center[axis] > greatest[axis]) {
            return Verdict::Reject;
        }
        let bbox = Box3d {
            center,
            size: order(size),
            yaw: match model.head.rotation {
                Rotation::SinCos => yaw(rot[0], rot[1]),
                Rotation::NegCosNegSin => yaw(-rot[1], -rot[0]),
            },
            velocity,
            score: sigmoid(logit),
            class: class as u32,
        };
        Verdict::Keep(bbox, variances)
    }

    /// Keeps the best `n` candidates of the current task, in any order, and counts the rest. Ranks are unique,
    /// so the result does not depend on the number of cuts.
    fn cut(&mut self, n: usize) {
        if self.task.len() > n {
            self.surplus += (self.task.len() - n) as u64;
            self.task.select_nth_unstable_by(n - 1, Candidate::rank);
            self.task.truncate(n);
        }
    }
}

/// Logarithms of variances at a cell.
struct LogVariances {
    reg: [f32; 2],
    z: f32,
    /// In the order of the box's size.
    size: [f32; 3],
    rot: [f32; 2],
    velocity: [f32; 2],
}

impl LogVariances {
    /// The variances of a box whose head cell has this size in metres, and whose rotation channels have these values;
    /// `None` if one is not finite.
    ///
    /// The heading is the angle of (a, b), the rotation channels, with da = √var(a) and db alike:
    /// var = (b² var(a) + a² var(b)) / (a² + b²)².
    fn decode(&self, cell: [f32; 2], rot: [f32; 2]) -> Option<Variances> {
        let [a, b] = rot.map(f64::from);
        let (a, b) = (a * a, b * b);
        let [of_a, of_b] = self.rot.map(elementary::exp);
        let norm = a + b;
        let variances = Variances {
            center: [
                cell[0] * exp(self.reg[0]),
                cell[1] * exp(self.reg[1]),
                exp(self.z),
            ],
            size: self.size.map(exp),
            yaw: ((b * of_a + a * of_b) / (norm * norm)) as f32,
            velocity: self.velocity.map(exp),
        };
        let logs = [
            &self.reg[..],
            &[self.z],
            &self.size,
            &self.rot,
            &self.velocity,
        ];
        let mut all = logs.into_iter().flatten().chain(variances.values());
        all.all(|value| value.is_finite()).then_some(variances)
    }
}

/// The exponential, evaluated in f64.
fn exp(log: f32) -> f32 {
    elementary::exp(log) as f32
}

#[inline]
fn at(map: &MapView<'_>, channel: usize, y: usize, x: usize) -> f32 {
    map.data[map.layout.index(channel, y, x)]
}

/// The score of a logit.
fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + elementary::exp(-logit))) as f32
}

/// The angle in (−π, π].
fn yaw(sin: f32, cos: f32) -> f32 {
    let yaw = elementary::atan2(sin, cos) as f32;
    if yaw == -std::f32::consts::PI {
        std::f32::consts::PI
    } else {
        yaw
    }
}

/// The smallest passing logits, `[band][class]`, and the smallest in any band by class.
pub(crate) fn least_logits(model: &Model) -> (Vec<Vec<f32>>, Vec<f32>) {
    let logits: Vec<Vec<f32>> = model
        .decode
        .score
        .iter()
        .map(|band| band.iter().map(|&score| least_logit(score)).collect())
        .collect();
    let least = (0..model.classes.len())
        .map(|class| {
            logits
                .iter()
                .map(|band| band[class])
                .fold(f32::INFINITY, f32::min)
        })
        .collect();
    (logits, least)
}

/// The smallest logit whose sigmoid reaches `score`; −∞ for a score of 0.
fn least_logit(score: f32) -> f32 {
    // Map floats to integers of the same order: all bits but the sign of negative floats are flipped.
    let order = |bits: i32| bits ^ ((bits >> 31) as u32 >> 1) as i32;
    let float = |key: i32| f32::from_bits(order(key) as u32);
    let key = |value: f32| order(value.to_bits() as i32);
    let (mut below, mut reaches) = (key(f32::NEG_INFINITY), key(f32::INFINITY));
    if sigmoid(float(below)) >= score {
        return f32::NEG_INFINITY;
    }
    while reaches - 1 > below {
        let middle = ((i64::from(below) + i64::from(reaches)) / 2) as i32;
        if sigmoid(float(middle)) >= score {
            reaches = middle;
        } else {
            below = middle;
        }
    }
    float(reaches)
}
