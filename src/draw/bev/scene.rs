//! Objects with a position in metres: rings, points, the vehicle, boxes.

use super::panels::overlap;
use super::{BACKGROUND, FAINT_TEXT, GRID, Picture, TEXT, View};
use crate::boxes::Box3d;
use crate::draw::canvas::{Paint, Rect, bounds, paint};
use crate::draw::color::{self, SCALE_STEPS};
use crate::draw::font;
use crate::points::{Column, PointCloud};

/// Slower objects have no arrow, in m/s.
const MIN_SPEED: f32 = 0.5;

impl Picture {
    /// Draws range rings and axes.
    pub(super) fn grid(&mut self) {
        let View { range, unit, .. } = self.view;
        let [min_x, min_y, max_x, max_y] = range;
        let origin = self.view.pixel([0.0, 0.0]);
        for ends in [[[min_x, 0.0], [max_x, 0.0]], [[0.0, min_y], [0.0, max_y]]] {
            let ends = ends.map(|p| self.view.pixel(p));
            self.canvas.line(&ends, unit, paint(GRID, 0.15));
        }
        for radius in self.view.rings() {
            let radius = radius * self.view.scale;
            self.canvas.ring(origin, radius, unit, paint(GRID, 0.28));
        }
    }

    /// Draws the rings' radii on top of the points, inside the map and where no box is; returns their rectangles.
    pub(super) fn ring_labels(&mut self, boxes: &[Rect]) -> Vec<Rect> {
        let size = 9.0 * self.view.unit;
        let label = |radius: f32| {
            let text = format!("{radius} m");
            // On the diagonal to the front right, away from the axes.
            let along = radius * std::f32::consts::FRAC_1_SQRT_2;
            let [x, y] = self.view.pixel([along, -along]);
            let half = [font::width(&text) * size * 0.5, size * 0.5];
            (text, [x - half[0], y - half[1], x + half[0], y + half[1]])
        };
        let mut labels: Vec<(String, Rect)> = self.view.rings().map(label).collect();
        let [left, top, right, bottom] = self.view.map();
        labels.retain(|(_, r)| {
            let inside = r[0] >= left && r[1] >= top && r[2] <= right && r[3] <= bottom;
            inside && !boxes.iter().any(|b| overlap(r, b))
        });
        for (text, rect) in &labels {
            self.haloed_text([rect[0], rect[3]], size, FAINT_TEXT, text);
        }
        labels.into_iter().map(|(_, rect)| rect).collect()
    }

    /// Draws the points, the highest on top, and returns the ends of the height scale.
    pub(super) fn points(&mut self, cloud: &PointCloud, heights: Option<[f32; 2]>) -> [f32; 2] {
        let layout = cloud.layout();
        let [x, y, z] = layout.coordinates();
        let t = layout.position(Column::T);
        let [min_x, min_y, max_x, max_y] = self.view.range;
        let mut visible: Vec<([f32; 2], f32, bool)> = cloud
            .rows()
            .map(|row| ([row[x], row[y]], row[z], t.is_some_and(|t| row[t] > 0.0)))
            .filter(|&([x, y], z, _)| {
                (min_x..=max_x).contains(&x) && (min_y..=max_y).contains(&y) && z.is_finite()
            })
            .collect();
        let mut all: Vec<f32> = visible.iter().map(|p| p.1).collect();
        let [low, high] = height_range(&mut all, heights);
        // Stable, so that equal clouds make equal bytes.
        visible.sort_by(|a, b| a.1.total_cmp(&b.1));
        let colors = color::height_scale();
        let last = (SCALE_STEPS - 1) as f32;
        let near = (max_x - min_x).max(max_y - min_y) * 0.5;
        for (at, z, old) in visible {
            let step = ((z - low) / (high - low) * last).clamp(0.0, last) as usize;
            // Distant points are sparse; drawn larger, they stay visible.
            let distance = (at[0].hypot(at[1]) / near).min(1.0);
            let paint = Paint {
                rgb: colors[step],
                alpha: if old { 0.35 } else { 0.85 },
            };
            let radius = (0.85 + 0.45 * distance) * self.view.unit;
            self.canvas.dot(self.view.pixel(at), radius, paint);
        }
        [low, high]
    }

    /// Draws the vehicle as an arrowhead that points forward, and returns its rectangle.
    pub(super) fn ego(&mut self) -> Rect {
        let [x, y] = self.view.pixel([0.0, 0.0]);
        let u = self.view.unit.max(self.view.scale * 0.09);
        for (grow, rgb) in [(3.0, BACKGROUND), (0.0, TEXT)] {
            let paint = paint(rgb, 1.0);
            let (tip, side, tail, notch) = (15.0 + 1.6 * grow, 9.0 + grow, 11.0 + grow, 6.0);
            let arrowhead = [
                [x, y - tip * u],
                [x + side * u, y + tail * u],
                [x, y + (notch + grow) * u],
                [x - side * u, y + tail * u],
            ];
            self.canvas.polygon(&arrowhead, paint);
        }
        [x - 12.0 * u, y - 20.0 * u, x + 12.0 * u, y + 14.0 * u]
    }

    /// The corners of a box in pixels.
    pub(super) fn corners(&self, b: &Box3d) -> [[f32; 2]; 4] {
        b.corners().map(|p| self.view.pixel(p))
    }

    /// Draws a ground-truth box.
    pub(super) fn label_box(&mut self, b: &Box3d) {
        let paint = paint(TEXT, 0.75);
        let (corners, unit) = (self.corners(b), self.view.unit);
        self.canvas.dashed(&corners, 1.1 * unit, 5.0 * unit, paint);
    }

    /// The smallest rectangle around a box as drawn, including its disc.
    pub(super) fn hull(&self, b: &Box3d) -> Rect {
        let mut points = self.corners(b).to_vec();
        if let Some(([x, y], r)) = self.spot(b) {
            points.extend([[x - r, y - r], [x + r, y + r]]);
        }
        bounds(&points)
    }

    /// Centre and radius of the disc that makes a box of only a few pixels, such as a pedestrian's, easy to find.
    fn spot(&self, b: &Box3d) -> Option<([f32; 2], f32)> {
        let View { unit, scale, .. } = self.view;
        let small = b.size[0].max(b.size[1]) * scale < 14.0 * unit;
        small.then(|| (self.view.pixel([b.center[0], b.center[1]]), 12.0 * unit))
    }

    /// Draws a detection.
    pub(super) fn detected_box(&mut self, b: &Box3d) {
        let (corners, unit) = (self.corners(b), self.view.unit);
        let rgb = color::class(b.class);
        // Boxes with a low score are fainter, but always visible.
        let alpha = |full: f32| full * (0.5 + 0.5 * b.score.clamp(0.0, 1.0));
        let fill = paint(rgb, alpha(0.22));
        let line = paint(rgb, alpha(1.0));
        let [front_left, rear_left, _, front_right] = corners;
        let middle = |a: [f32; 2], b: [f32; 2], t: f32| [0, 1].map(|k| a[k] + (b[k] - a[k]) * t);
        if let Some((center, radius)) = self.spot(b) {
            self.canvas.disc(center, radius, paint(rgb, alpha(0.2)));
        }
        self.canvas.polygon(&corners, fill);
        self.canvas.outline(&corners, 1.7 * unit, line);
        self.canvas
            .line(&[front_left, front_right], 3.4 * unit, line);

        let (length, width) = (
            distance(front_left, rear_left),
            distance(front_left, front_right),
        );
        // A smaller triangle would be a blot.
        if width >= 9.0 * unit {
            let tip = middle(front_left, front_right, 0.5);
            let rear = middle(rear_left, corners[2], 0.5);
            let base = middle(tip, rear, (width * 0.55 / length.max(1.0)).min(0.5));
            let across = [0, 1].map(|k| (front_left[k] - front_right[k]) * 0.34);
            let triangle = [
                tip,
                [base[0] + across[0], base[1] + across[1]],
                [base[0] - across[0], base[1] - across[1]],
            ];
            let paint = paint(rgb, alpha(0.8));
            self.canvas.polygon(&triangle, paint);
        }
        self.velocity(b, line);
    }

    /// Draws an arrow from the box's centre to its position in one second.
    fn velocity(&mut self, b: &Box3d, paint: Paint) {
        let [vx, vy] = b.velocity;
        let speed = vx.hypot(vy);
        let longest = self.view.width.max(self.view.height) * 0.5 / self.view.scale;
        // Skips objects that stand, NaN, and speeds of more than half of the view in one second.
        if speed >= MIN_SPEED && speed <= longest {
            let [x, y, _] = b.center;
            let (from, to) = ([x, y], [x + vx, y + vy]);
            self.arrow(self.view.pixel(from), self.view.pixel(to), paint);
        }
    }

    /// Draws an arrow between two pixels.
    pub(super) fn arrow(&mut self, from: [f32; 2], to: [f32; 2], paint: Paint) {
        let (unit, size) = (self.view.unit, distance(from, to));
        let along = [0, 1].map(|k| (to[k] - from[k]) / size);
        // The point `back` pixels behind and `aside` pixels beside the tip.
        let at = |back: f32, aside: f32| {
            [
                to[0] - along[0] * back - along[1] * aside,
                to[1] - along[1] * back + along[0] * aside,
            ]
        };
        let (head, side) = (9.0 * unit, 4.2 * unit);
        let neck = at(head.min(size), 0.0);
        self.canvas.line(&[from, neck], 1.5 * unit, paint);
        let head = [to, at(head, side), at(head, -side)];
        self.canvas.polygon(&head, paint);
    }
}

/// The ends of the height scale in metres: `fixed` ones, or those of the middle 98 % of `heights`, rounded to half
/// metres.
fn height_range(heights: &mut [f32], fixed: Option<[f32; 2]>) -> [f32; 2] {
    const LEAST: f32 = 3.0;
    let [low, high] = match fixed {
        Some(ends) if ends.iter().all(|v| v.is_finite()) => ends,
        _ if heights.is_empty() => [0.0, LEAST],
        _ => {
            let last = heights.len() - 1;
            let mut share = |thousandth: usize| {
                let index = last * thousandth / 1000;
                *heights.select_nth_unstable_by(index, f32::total_cmp).1
            };
            [
                (share(10) * 2.0).floor() / 2.0,
                (share(990) * 2.0).ceil() / 2.0,
            ]
        }
    };
    if fixed.is_some() && high > low {
        return [low, high];
    }
    [low, high.max(low + LEAST)]
}

fn distance(a: [f32; 2], b: [f32; 2]) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_height_scale_covers_nearly_all_points() {
        // A thousand heights from -2.1 to 7.89 and an outlier.
        let mut heights: Vec<f32> = (0..1000).map(|i| i as f32 * 0.01 - 2.1).collect();
        heights.push(1e6);
        assert_eq!(height_range(&mut heights, None), [-2.0, 8.0]);
        assert_eq!(height_range(&mut heights, Some([0.0, 1.0])), [0.0, 1.0]);
        assert_eq!(height_range(&mut [], None), [0.0, 3.0]);
        assert_eq!(height_range(&mut [5.2], None), [5.0, 8.0]);
    }
}
