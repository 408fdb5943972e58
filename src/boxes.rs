//! The detected box, and geometry shared by several stages.
//!
//! Metres and radians in the input cloud's frame: x forward, y left, z up, yaw 0 along +x and
//! counter-clockwise seen from above.

use bytemuck::{Pod, Zeroable};
use serde::Serialize;

use crate::elementary;

/// A detected object. Plain data: 11 32-bit words, laid out the same on host and device.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Box3d {
    /// Gravity centre x, y, z in metres.
    pub center: [f32; 3],
    /// Length (along yaw), width, height in metres.
    pub size: [f32; 3],
    /// Heading in radians, counter-clockwise from +x, in (−π, π].
    pub yaw: f32,
    /// Velocity over ground along x and y in m/s.
    pub velocity: [f32; 2],
    /// Confidence, 0..=1.
    pub score: f32,
    /// Index into the model's class names.
    pub class: u32,
}

/// Variances of a box's values, which only some networks predict. Plain data: 9 32-bit words, laid out the same on host
/// and device. Source: Autoware's `lidar_centerpoint`, whose position variances are in head cells times metres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Pod, Zeroable)]
#[repr(C)]
pub struct Variances {
    /// Of the centre along x, y, z.
    pub center: [f32; 3],
    /// Of length, width, height.
    pub size: [f32; 3],
    /// Of the heading, in rad².
    pub yaw: f32,
    /// Of the velocity along x and y, in (m/s)².
    pub velocity: [f32; 2],
}

impl Variances {
    /// All values.
    pub(crate) fn values(&self) -> &[f32; 9] {
        bytemuck::cast_ref(self)
    }
}

impl Box3d {
    /// The four BEV corners, counter-clockwise from the front left.
    pub fn corners(&self) -> [[f32; 2]; 4] {
        let (s, c) = self.yaw.sin_cos();
        let (hl, hw) = (self.size[0] * 0.5, self.size[1] * 0.5);
        [[hl, hw], [-hl, hw], [-hl, -hw], [hl, -hw]].map(|[x, y]| {
            [
                self.center[0] + c * x - s * y,
                self.center[1] + s * x + c * y,
            ]
        })
    }
}

/// The name of `class`, or its index if it has no name.
pub(crate) fn class_name(class: u32, classes: &[String]) -> String {
    let name = usize::try_from(class).ok().and_then(|i| classes.get(i));
    name.cloned().unwrap_or_else(|| format!("class {class}"))
}

/// Most corners of a rectangle clipped at four lines: 8 in exact arithmetic, but where rounding makes an
/// outline zigzag across a line, each line can add half as many corners as there are.
const MAX_CORNERS: usize = 19;

/// The BEV rectangle of a box, prepared for many overlap tests.
///
/// All arithmetic is in f32, each operation rounded on its own, in the order of the code. Sine and cosine are
/// evaluated in f64 and rounded, which makes them independent of the platform's f32 library.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BevRect {
    center: [f32; 2],
    /// Half of the length and of the width.
    half: [f32; 2],
    cos: f32,
    sin: f32,
}

impl BevRect {
    /// Creates the rectangle of `bbox`.
    pub fn new(bbox: &Box3d) -> Self {
        let (sin, cos) = elementary::sin_cos(bbox.yaw);
        Self {
            center: [bbox.center[0], bbox.center[1]],
            half: [bbox.size[0] * 0.5, bbox.size[1] * 0.5],
            cos: cos as f32,
            sin: sin as f32,
        }
    }

    /// Area in m².
    pub fn area(&self) -> f32 {
        4.0 * self.half[0] * self.half[1]
    }

    /// Squared distance of the centres in m².
    pub fn distance_squared(&self, other: &Self) -> f32 {
        let [dx, dy] = self.offset(other);
        dx * dx + dy * dy
    }

    /// Intersection over union with `other`, 0 to 1. It is 0 if neither has an area, or if the numbers are too
    /// large to compute it.
    pub fn iou(&self, other: &Self) -> f32 {
        let reach = self.radius() + other.radius();
        if self.distance_squared(other) > reach * reach {
            return 0.0;
        }
        let (own, others) = (self.area(), other.area());
        let overlap = self.intersection(other).min(own).min(others);
        let iou = overlap / (own + others - overlap);
        if iou.is_finite() { iou } else { 0.0 }
    }

    /// Area of the intersection with `other` in m²: `other`'s corners in this rectangle's frame,
    /// clipped at its four sides in turn (Sutherland and Hodgman 1974), then the shoelace formula.
    fn intersection(&self, other: &Self) -> f32 {
        let [dx, dy] = self.offset(other);
        let x = self.cos * dx + self.sin * dy;
        let y = self.cos * dy - self.sin * dx;
        let cos = self.cos * other.cos + self.sin * other.sin;
        let sin = self.cos * other.sin - self.sin * other.cos;
        let [l, w] = other.half;
        let mut outline = Outline::default();
        for [u, v] in [[l, w], [-l, w], [-l, -w], [l, -w]] {
            outline.push([x + (cos * u - sin * v), y + (sin * u + cos * v)]);
        }
        for (axis, limit) in self.half.into_iter().enumerate() {
            outline = outline.clipped(axis, 1.0, limit);
            outline = outline.clipped(axis, -1.0, limit);
        }
        outline.area()
    }

    fn offset(&self, other: &Self) -> [f32; 2] {
        [
            other.center[0] - self.center[0],
            other.center[1] - self.center[1],
        ]
    }

    fn radius(&self) -> f32 {
        (self.half[0] * self.half[0] + self.half[1] * self.half[1]).sqrt()
    }
}

/// A convex polygon, counter-clockwise.
#[derive(Clone, Copy, Default)]
struct Outline {
    corners: [[f32; 2]; MAX_CORNERS],
    len: usize,
}

impl Outline {
    fn push(&mut self, corner: [f32; 2]) {
        if self.len < MAX_CORNERS {
            self.corners[self.len] = corner;
            self.len += 1;
        }
    }

    /// The part where `sign · coordinate ≤ limit`.
    fn clipped(&self, axis: usize, sign: f32, limit: f32) -> Self {
        let mut out = Self::default();
        let corners = &self.corners[..self.len];
        for (i, &to) in corners.iter().enumerate() {
            let from = corners[if i == 0 { corners.len() - 1 } else { i - 1 }];
            let (a, b) = (sign * from[axis], sign * to[axis]);
            if (a <= limit) != (b <= limit) {
                let t = (limit - a) / (b - a);
                let mut crossing = [sign * limit; 2];
                crossing[1 - axis] = from[1 - axis] + t * (to[1 - axis] - from[1 - axis]);
                out.push(crossing);
            }
            if b <= limit {
                out.push(to);
            }
        }
        out
    }

    /// Area by the shoelace formula, relative to the first corner.
    fn area(&self) -> f32 {
        let [x0, y0] = self.corners[0];
        let corners = &self.corners[..self.len];
        let twice: f32 = corners
            .windows(2)
            .map(|pair| {
                let [[ax, ay], [bx, by]] = [pair[0], pair[1]];
                (ax - x0) * (by - y0) - (bx - x0) * (ay - y0)
            })
            .sum();
        (0.5 * twice).max(0.0)
    }
}
