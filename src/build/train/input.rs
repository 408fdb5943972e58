//! The input of a training: the pillars of a frame, before the PFN, moved at random.
//!
//! Moves are those of mmdetection3d's `RandomFlip3D` and `GlobalRotScaleTrans`: flips along x and y, a turn about the
//! vertical axis, a scale, and a shift. They apply to a whole scene, points and labels alike.

use std::path::{Path, PathBuf};

use super::pfn::PillarRows;
use crate::boxes::Box3d;
use crate::build::Result;
use crate::build::runner::{FrameReader, missing_column};
use crate::cpu::features;
use crate::cpu::pillars::{Pillars, voxelize};
use crate::model::Model;
use crate::points::{Column, Layout, Transform};
use crate::synth::Rng;

/// Frames whose points give the size of each column.
const SCALE_FRAMES: usize = 8;
/// Greatest turn, in radians.
const TURN: f64 = std::f64::consts::FRAC_PI_8;
/// Greatest change of the scale.
const SCALE: f64 = 0.05;
/// Standard deviations of the shift along x, y, z, in metres.
const SHIFT: [f64; 3] = [0.4, 0.4, 0.1];

/// A move of a whole scene. The default leaves it where it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Move {
    /// Signs of x and y: −1 is a flip.
    signs: [f64; 2],
    /// Turn, in radians.
    turn: f64,
    scale: f64,
    /// In metres.
    shift: [f64; 3],
}

impl Default for Move {
    fn default() -> Self {
        Self {
            signs: [1.0; 2],
            turn: 0.0,
            scale: 1.0,
            shift: [0.0; 3],
        }
    }
}

impl Move {
    /// A random move.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut sign = || if rng.chance(0.5) { -1.0 } else { 1.0 };
        Self {
            signs: [sign(), sign()],
            turn: rng.range(-TURN, TURN),
            scale: rng.range(1.0 - SCALE, 1.0 + SCALE),
            shift: SHIFT.map(|deviation| rng.normal(deviation)),
        }
    }

    /// Flips and turns a direction.
    fn direction(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let (x, y) = (x * self.signs[0], y * self.signs[1]);
        let (sin, cos) = self.turn.sin_cos();
        [x * cos - y * sin, x * sin + y * cos]
    }

    /// Moves a point.
    pub(crate) fn point(&self, point: [f32; 3]) -> [f32; 3] {
        if *self == Self::default() {
            return point;
        }
        let [x, y, z] = point.map(f64::from);
        let [x, y] = self.direction([x, y]);
        let moved = [x, y, z].map(|v| v * self.scale);
        [0, 1, 2].map(|i| (moved[i] + self.shift[i]) as f32)
    }

    /// Moves a box.
    pub(crate) fn place(&self, found: &Box3d) -> Box3d {
        let (sin, cos) = f64::from(found.yaw).sin_cos();
        let [x, y] = self.direction([cos, sin]);
        let velocity = self.direction(found.velocity.map(f64::from));
        Box3d {
            center: self.point(found.center),
            size: found.size.map(|v| (f64::from(v) * self.scale) as f32),
            yaw: y.atan2(x) as f32,
            velocity: velocity.map(|v| (v * self.scale) as f32),
            ..*found
        }
    }
}

/// Reads frames into pillars.
pub(crate) struct FrameInput {
    model: Model,
    frames: FrameReader,
    pillars: Pillars,
    points: Vec<f32>,
}

impl FrameInput {
    /// As [`FrameReader::new`].
    ///
    /// # Errors
    /// As [`FrameReader::new`].
    pub(crate) fn new(model: &Model, layout: Option<Layout>, network: &Path) -> Result<Self> {
        Ok(Self {
            frames: FrameReader::new(model, layout, network)?,
            pillars: Pillars::new(&model.grid),
            points: Vec::new(),
            model: model.clone(),
        })
    }

    /// Reads a frame's file, and moves it.
    ///
    /// # Errors
    /// [`crate::points::FrameError`] where the frame cannot be read or lacks a column.
    pub(crate) fn read(&mut self, frame: &Path, scene: &Move) -> Result<PillarRows> {
        let cloud = self.frames.read(frame)?;
        let spec = &self.model.points;
        let columns = &spec.columns;
        let place = self.frames.place();
        let selected = cloud.select_placed(
            columns,
            spec.intensity_scale,
            place.as_ref(),
            &mut self.points,
        );
        let selected = selected.map_err(missing_column(frame))?;
        let len = selected.points.len().min(spec.capacity * columns.len());
        let mut points = selected.points[..len].to_vec();
        let position = |wanted| columns.iter().position(|&column| column == wanted);
        if let [Some(x), Some(y), Some(z)] = Column::COORDINATES.map(position) {
            for row in points.chunks_exact_mut(columns.len()) {
                [row[x], row[y], row[z]] = scene.point([row[x], row[y], row[z]]);
            }
        }
        voxelize(&points, columns.len(), &self.model.grid, &mut self.pillars);
        let mut pillars = PillarRows {
            cells: self.pillars.cells().to_vec(),
            ..PillarRows::default()
        };
        let (rows, lengths) = (&mut pillars.rows, &mut pillars.lengths);
        features::input_rows(&self.model, &points, &self.pillars, rows, lengths);
        if self.model.pfn.legacy {
            // Such a network reads the offsets from the centre in place of the coordinates (`Pfn::fold_legacy`).
            let inputs = self.model.pfn_in_features();
            let offsets = inputs - self.model.pfn.center_axes;
            for row in rows.chunks_exact_mut(inputs) {
                row.copy_within(offsets.., 0);
            }
        }
        Ok(pillars)
    }

    /// The factors that give each column of the PFN's input a standard deviation of 1 over the first frames.
    ///
    /// # Errors
    /// As [`FrameInput::read`].
    pub(crate) fn column_scale(&mut self, frames: &[PathBuf]) -> Result<Vec<f32>> {
        let columns = self.model.pfn_in_features();
        let mut sums = vec![[0.0f64; 2]; columns];
        let mut rows = 0u32;
        for frame in frames.iter().take(SCALE_FRAMES) {
            let pillars = self.read(frame, &Move::default())?;
            for row in pillars.rows.chunks_exact(columns) {
                rows += 1;
                for ([sum, square], &value) in sums.iter_mut().zip(row) {
                    *sum += f64::from(value);
                    *square += f64::from(value) * f64::from(value);
                }
            }
        }
        let count = f64::from(rows).max(1.0);
        let scale = sums.iter().map(|[sum, square]| {
            let mean = sum / count;
            let deviation = (square / count - mean * mean).max(0.0).sqrt();
            // A column that is the same everywhere has no size.
            if deviation > 1e-6 {
                (1.0 / deviation) as f32
            } else {
                1.0
            }
        });
        Ok(scale.collect())
    }

    /// The way from the last frame that was read to the model, if they differ.
    pub(crate) fn place(&self) -> Option<Transform> {
        self.frames.place()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The corners of a moved box are the moved corners of the box.
    #[test]
    fn boxes_move_with_their_points() {
        let corners = |found: &Box3d| {
            let (sin, cos) = f64::from(found.yaw).sin_cos();
            [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]].map(|[a, b]| {
                let (x, y) = (
                    a * f64::from(found.size[0]) / 2.0,
                    b * f64::from(found.size[1]) / 2.0,
                );
                let turned = [x * cos - y * sin, x * sin + y * cos];
                [
                    (turned[0] + f64::from(found.center[0])) as f32,
                    (turned[1] + f64::from(found.center[1])) as f32,
                    found.center[2],
                ]
            })
        };
        let found = Box3d {
            center: [10.0, -4.0, 1.0],
            size: [4.0, 2.0, 1.5],
            yaw: 0.7,
            velocity: [3.0, 1.0],
            score: 1.0,
            class: 0,
        };
        for seed in 0..20 {
            let scene = Move::random(&mut Rng::new(seed, 0, 0));
            let (moved, expected) = (
                scene.place(&found),
                corners(&found).map(|corner| scene.point(corner)),
            );
            let near =
                |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
            for corner in corners(&moved) {
                assert!(expected.iter().any(|e| near(corner, *e)), "{scene:?}");
            }
            // The way of one second, as a point moves.
            let [x, y, z] = found.center;
            let later = scene.point([x + found.velocity[0], y + found.velocity[1], z]);
            let ways = later.iter().zip(moved.center).map(|(b, a)| b - a);
            for (way, velocity) in ways.zip(moved.velocity) {
                assert!((way - velocity).abs() < 1e-4, "{scene:?}");
            }
        }
    }
}
