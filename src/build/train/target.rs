//! Training targets of labelled boxes, drawn as mmdetection3d's `CenterHead.get_targets_single` draws them: a Gaussian on
//! the heatmap of its class for each object, and the regressions in the cell of its centre.

use std::ops::Range;

use crate::boxes::Box3d;
use crate::model::{Model, Rotation, SizeOrder};

/// Least overlap of a box that is moved by the radius of its Gaussian with the true one.
const MIN_OVERLAP: f64 = 0.1;
/// Least radius of a Gaussian, in cells.
const MIN_RADIUS: usize = 2;
/// Most objects of a frame and task.
const MAX_OBJECTS: usize = 500;

/// Places of reg, height, dim, rot and vel in [`Object::values`].
pub(super) const REGRESSIONS: [Range<usize>; 5] = [0..2, 2..3, 3..6, 6..8, 8..10];

/// The targets of a frame, by task.
#[derive(Clone, Debug)]
pub(crate) struct FrameTarget {
    pub(super) tasks: Vec<TaskTarget>,
}

/// The targets of one task.
#[derive(Clone, Debug)]
pub(super) struct TaskTarget {
    /// `[cell][class]`: 1 at a centre.
    pub(super) heatmap: Vec<f32>,
    pub(super) objects: Vec<Object>,
}

/// The regressions of an object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// The cell of its centre, `y · width + x`.
    pub(super) cell: usize,
    /// In the order of [`REGRESSIONS`]; an unknown velocity is NaN.
    pub(super) values: [f32; 10],
}

impl FrameTarget {
    /// Draws the boxes, in the model's coordinates.
    pub(crate) fn new(model: &Model, boxes: &[Box3d]) -> Self {
        let (width, height) = model.head_size();
        let cell = [0, 1].map(|i| f64::from(model.grid.voxel[i]) * model.head.downsample as f64);
        let tasks = model.head.tasks.iter().map(|task| {
            let classes = task.classes.len();
            let mut target = TaskTarget {
                heatmap: vec![0.0; width * height * classes],
                objects: Vec::new(),
            };
            for found in boxes {
                let class = task.classes.iter().position(|c| *c == found.class as usize);
                let Some(class) = class.filter(|_| target.objects.len() < MAX_OBJECTS) else {
                    continue;
                };
                let at = [0, 1]
                    .map(|i| (f64::from(found.center[i]) - f64::from(model.grid.min[i])) / cell[i]);
                let size = [0, 1].map(|i| f64::from(found.size[i]) / cell[i]);
                let inside = at[0] >= 0.0
                    && at[1] >= 0.0
                    && (at[0] as usize) < width
                    && (at[1] as usize) < height;
                if !inside || size.iter().any(|s| *s <= 0.0) {
                    continue;
                }
                let [x, y] = at.map(|v| v as usize);
                let radius = (gaussian_radius(size) as usize).max(MIN_RADIUS);
                target.draw([width, height], classes, class, [x, y], radius);
                let sizes = found.size.map(f32::ln);
                let dim = match model.head.size_order {
                    SizeOrder::Lwh => sizes,
                    SizeOrder::Wlh => [sizes[1], sizes[0], sizes[2]],
                };
                let (sin, cos) = found.yaw.sin_cos();
                let rot = match model.head.rotation {
                    Rotation::SinCos => [sin, cos],
                    Rotation::NegCosNegSin => [-cos, -sin],
                };
                let [vx, vy] = found.velocity;
                target.objects.push(Object {
                    cell: y * width + x,
                    values: [
                        (at[0] - x as f64) as f32,
                        (at[1] - y as f64) as f32,
                        found.center[2],
                        dim[0],
                        dim[1],
                        dim[2],
                        rot[0],
                        rot[1],
                        vx,
                        vy,
                    ],
                });
            }
            target
        });
        Self {
            tasks: tasks.collect(),
        }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        let tasks = self.tasks.iter();
        tasks
            .map(|t| size_of_val(&t.heatmap[..]) + size_of_val(&t.objects[..]))
            .sum()
    }
}

impl TaskTarget {
    /// Draws a Gaussian of `2 · radius + 1` cells, whose standard deviation is a sixth of that. Where Gaussians overlap,
    /// the larger value stays.
    fn draw(
        &mut self,
        [width, height]: [usize; 2],
        classes: usize,
        class: usize,
        [x, y]: [usize; 2],
        radius: usize,
    ) {
        let sigma = (2 * radius + 1) as f64 / 6.0;
        for row in y.saturating_sub(radius)..(y + radius + 1).min(height) {
            for column in x.saturating_sub(radius)..(x + radius + 1).min(width) {
                let square = row.abs_diff(y).pow(2) + column.abs_diff(x).pow(2);
                let value = (-(square as f64) / (2.0 * sigma * sigma)).exp() as f32;
                let at = &mut self.heatmap[(row * width + column) * classes + class];
                *at = at.max(value);
            }
        }
    }
}

/// The radius of CornerNet within which a box keeps the least overlap, as mmdetection's `gaussian_radius`: its formula
/// divides by 2, where a quadratic's root has `2a`.
fn gaussian_radius([length, width]: [f64; 2]) -> f64 {
    let (sum, area) = (length + width, length * width);
    let root = |a: f64, b: f64, c: f64| (b + (b * b - 4.0 * a * c).sqrt()) / 2.0;
    let r1 = root(1.0, sum, area * (1.0 - MIN_OVERLAP) / (1.0 + MIN_OVERLAP));
    let r2 = root(4.0, 2.0 * sum, (1.0 - MIN_OVERLAP) * area);
    let r3 = root(
        4.0 * MIN_OVERLAP,
        -2.0 * MIN_OVERLAP * sum,
        (MIN_OVERLAP - 1.0) * area,
    );
    r1.min(r2).min(r3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mmdetection's formula in Python, for 1.2 m × 0.5 m, 4.5 m × 1.9 m and 12 m × 2.9 m on cells of 0.8 m.
    #[test]
    fn radii_are_those_of_mmdetection() {
        for (size, expected) in [
            ([1.5, 0.625], 0.4060921515829311),
            ([5.625, 2.375], 1.5343896418550187),
            ([15.0, 3.625], 2.9379068837964146),
        ] {
            assert!(
                (gaussian_radius(size) - expected).abs() < 1e-9,
                "{size:?} {}",
                gaussian_radius(size)
            );
        }
    }
}
