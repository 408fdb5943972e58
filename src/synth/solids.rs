//! Bodies: primitives with materials, built in their own frame and placed in the world.
//!
//! A body's frame has x forward, y left, and z = 0 on the ground. Its extent is the union of its
//! parts' extents, so a labelled box made from it is tight by construction.

use super::shapes::{Plane, Pose, Shape, Vec3};

/// How a surface returns rays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Surface {
    /// Always returns.
    Opaque,
    /// Returns with this probability, else lets the ray through (glass, spokes, wire fence).
    Mesh(f64),
    /// Returns at a random depth, with this many leaves per metre.
    Foliage(f64),
}

/// How a part looks to the scanner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Material {
    /// Share of light reflected by a perpendicular hit, 0..=1.
    pub(crate) reflectivity: f64,
    /// How it returns rays.
    pub(crate) surface: Surface,
}

impl Material {
    /// An opaque material.
    pub(crate) const fn opaque(reflectivity: f64) -> Self {
        Self {
            reflectivity,
            surface: Surface::Opaque,
        }
    }

    /// A surface with holes: `returns` is the share of rays that it returns.
    pub(crate) const fn mesh(reflectivity: f64, returns: f64) -> Self {
        Self {
            reflectivity,
            surface: Surface::Mesh(returns),
        }
    }

    /// Leaves with `density` hits per metre.
    pub(crate) const fn foliage(reflectivity: f64, density: f64) -> Self {
        Self {
            reflectivity,
            surface: Surface::Foliage(density),
        }
    }
}

/// One primitive of a body, with its extent in the body's frame.
#[derive(Clone, Debug)]
struct Part {
    shape: Shape,
    min: Vec3,
    max: Vec3,
    material: Material,
}

/// Primitives that stand and move together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    parts: Vec<Part>,
    /// Length and width of the body on the ground, if less than its extent (trees).
    base: Option<[f64; 2]>,
}

/// The side of a prism: a convex polygon in (x, z), extruded along y.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extrusion {
    /// Middle in y.
    pub(crate) y: f64,
    /// Half of the width at the lowest point.
    pub(crate) half_width: f64,
    /// By how much each side is narrower at the highest point.
    pub(crate) taper: f64,
    /// Width of the 45° bevel of the vertical edges.
    pub(crate) chamfer: f64,
}

impl Extrusion {
    /// Straight sides around y = 0.
    pub(crate) fn straight(half_width: f64) -> Self {
        Self {
            y: 0.0,
            half_width,
            taper: 0.0,
            chamfer: 0.0,
        }
    }
}

impl Body {
    /// Adds a box with sides along the axes: `[min, max]` in x, y and z.
    pub(crate) fn block(&mut self, x: [f64; 2], y: [f64; 2], z: [f64; 2], material: Material) {
        let profile = [[x[0], z[0]], [x[1], z[0]], [x[1], z[1]], [x[0], z[1]]];
        let side = Extrusion {
            y: 0.5 * (y[0] + y[1]),
            ..Extrusion::straight(0.5 * (y[1] - y[0]))
        };
        self.prism(&profile, side, material);
    }

    /// Adds a wheel of `radius` that stands on the ground at `x`: an octagon.
    pub(crate) fn wheel(&mut self, x: f64, radius: f64, side: Extrusion, material: Material) {
        let (near, far) = (radius * 0.414, radius);
        let octagon = [
            [near, far],
            [far, near],
            [far, -near],
            [near, -far],
            [-near, -far],
            [-far, -near],
            [-far, near],
            [-near, far],
        ]
        .map(|[dx, dz]| [x + dx, radius + dz]);
        self.prism(&octagon, side, material);
    }

    /// Adds a convex polygon in (x, z), clockwise or counter-clockwise, extruded along y.
    pub(crate) fn prism(&mut self, profile: &[[f64; 2]], side: Extrusion, material: Material) {
        let mut min = Vec3::repeat(f64::INFINITY);
        let mut max = Vec3::repeat(f64::NEG_INFINITY);
        let mut middle = [0.0; 2];
        for &[x, z] in profile {
            min = min.inf(&Vec3::new(x, side.y - side.half_width, z));
            max = max.sup(&Vec3::new(x, side.y + side.half_width, z));
            middle[0] += x / profile.len() as f64;
            middle[1] += z / profile.len() as f64;
        }
        let mut planes = Vec::with_capacity(profile.len() + 6);
        let mut add = |normal: Vec3, point: Vec3| {
            let normal = normal.normalize();
            let offset = normal.dot(&point);
            planes.push(Plane { normal, offset });
        };
        for (a, b) in profile.iter().zip(profile.iter().cycle().skip(1)) {
            let mut normal = Vec3::new(b[1] - a[1], 0.0, a[0] - b[0]);
            if normal.x * (a[0] - middle[0]) + normal.z * (a[1] - middle[1]) < 0.0 {
                normal = -normal;
            }
            add(normal, Vec3::new(a[0], 0.0, a[1]));
        }
        let slope = side.taper / (max.z - min.z);
        for sign in [-1.0, 1.0] {
            let foot = Vec3::new(0.0, side.y + sign * side.half_width, min.z);
            add(Vec3::new(0.0, sign, slope), foot);
            if side.chamfer > 0.0 {
                let cut = foot - Vec3::new(0.0, sign * side.chamfer, 0.0);
                add(Vec3::new(1.0, sign, 0.0), cut + Vec3::new(max.x, 0.0, 0.0));
                add(Vec3::new(-1.0, sign, 0.0), cut + Vec3::new(min.x, 0.0, 0.0));
            }
        }
        self.parts.push(Part {
            shape: Shape::Convex(planes),
            min,
            max,
            material,
        });
    }

    /// Adds a capsule: all points within `radius` of the segment from `start` to `end`.
    pub(crate) fn capsule(
        &mut self,
        start: [f64; 3],
        end: [f64; 3],
        radius: f64,
        material: Material,
    ) {
        let ends = [Vec3::from(start), Vec3::from(end)];
        let around = Vec3::repeat(radius);
        self.parts.push(Part {
            min: ends[0].inf(&ends[1]) - around,
            max: ends[0].sup(&ends[1]) + around,
            shape: Shape::Capsule { ends, radius },
            material,
        });
    }

    /// Adds an ellipsoid with its axes along x, y and z.
    pub(crate) fn ellipsoid(&mut self, center: [f64; 3], radii: [f64; 3], material: Material) {
        let (center, radii) = (Vec3::from(center), Vec3::from(radii));
        self.parts.push(Part {
            min: center - radii,
            max: center + radii,
            shape: Shape::Ellipsoid {
                center,
                radii,
                yaw: 0.0,
            },
            material,
        });
    }

    /// Reduces the body's footprint to `length` × `width`.
    pub(crate) fn with_base(mut self, length: f64, width: f64) -> Self {
        self.base = Some([length, width]);
        self
    }

    /// Lowest and highest corner of the extent.
    pub(crate) fn extent(&self) -> (Vec3, Vec3) {
        let mut min = Vec3::repeat(f64::INFINITY);
        let mut max = Vec3::repeat(f64::NEG_INFINITY);
        for part in &self.parts {
            min = min.inf(&part.min);
            max = max.sup(&part.max);
        }
        (min, max)
    }

    /// The ground under the body at `pose`.
    pub(crate) fn footprint(&self, pose: &Pose) -> Footprint {
        if let Some([length, width]) = self.base {
            let half = [0.5 * length, 0.5 * width];
            return Footprint::new(pose, [-half[0], -half[1]], half);
        }
        let (min, max) = self.extent();
        Footprint::new(pose, [min.x, min.y], [max.x, max.y])
    }

    /// The parts in the world, as parts of object `owner`.
    pub(crate) fn placed(&self, pose: &Pose, owner: Option<usize>) -> impl Iterator<Item = Solid> {
        self.parts.iter().map(move |part| Solid {
            shape: part.shape.placed(pose),
            footprint: Footprint::new(pose, [part.min.x, part.min.y], [part.max.x, part.max.y]),
            z: [part.min.z, part.max.z].map(|z| z + pose.position.z),
            material: part.material,
            owner,
        })
    }
}

/// One primitive in the world.
#[derive(Clone, Debug)]
pub(crate) struct Solid {
    /// Its surface.
    pub(crate) shape: Shape,
    /// A rectangle that encloses it, seen from above.
    pub(crate) footprint: Footprint,
    /// Lowest and highest point.
    pub(crate) z: [f64; 2],
    /// How it looks.
    pub(crate) material: Material,
    /// The labelled object it belongs to.
    pub(crate) owner: Option<usize>,
}

/// A rectangle seen from above.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footprint {
    /// Middle.
    pub(crate) center: [f64; 2],
    /// Unit vector along the length.
    pub(crate) axis: [f64; 2],
    /// Half of length and width.
    pub(crate) half: [f64; 2],
}

impl Footprint {
    /// The rectangle from `min` to `max` in the frame of `pose`.
    pub(crate) fn new(pose: &Pose, min: [f64; 2], max: [f64; 2]) -> Self {
        let middle = Vec3::new(0.5 * (min[0] + max[0]), 0.5 * (min[1] + max[1]), 0.0);
        let center = pose.apply(middle);
        let (sin, cos) = pose.yaw.sin_cos();
        Self {
            center: [center.x, center.y],
            axis: [cos, sin],
            half: [0.5 * (max[0] - min[0]), 0.5 * (max[1] - min[1])],
        }
    }

    /// This rectangle enlarged by `margin` on every side.
    pub(crate) fn grown(mut self, margin: f64) -> Self {
        self.half = self.half.map(|half| half + margin);
        self
    }

    /// The four corners, in order.
    pub(crate) fn corners(&self) -> [[f64; 2]; 4] {
        let [c, s] = self.axis;
        let [l, w] = self.half;
        [[l, w], [-l, w], [-l, -w], [l, -w]].map(|[x, y]| {
            [
                self.center[0] + c * x - s * y,
                self.center[1] + s * x + c * y,
            ]
        })
    }

    /// `point` in the rectangle's own axes.
    pub(crate) fn local(&self, point: [f64; 2]) -> [f64; 2] {
        let [c, s] = self.axis;
        let (x, y) = (point[0] - self.center[0], point[1] - self.center[1]);
        [c * x + s * y, c * y - s * x]
    }

    /// Distance of `point` from the rectangle; 0 inside.
    pub(crate) fn distance(&self, point: [f64; 2]) -> f64 {
        let [x, y] = self.local(point);
        let dx = (x.abs() - self.half[0]).max(0.0);
        let dy = (y.abs() - self.half[1]).max(0.0);
        dx.hypot(dy)
    }

    /// Whether the two rectangles overlap (separating axes).
    pub(crate) fn overlaps(&self, other: &Footprint) -> bool {
        let between = [
            other.center[0] - self.center[0],
            other.center[1] - self.center[1],
        ];
        let reach = self.half[0].hypot(self.half[1]) + other.half[0].hypot(other.half[1]);
        if between[0].hypot(between[1]) > reach {
            return false;
        }
        let extent = |of: &Footprint, axis: [f64; 2]| {
            let along = (of.axis[0] * axis[0] + of.axis[1] * axis[1]).abs();
            let across = (of.axis[0] * axis[1] - of.axis[1] * axis[0]).abs();
            of.half[0] * along + of.half[1] * across
        };
        let axes = |of: &Footprint| [of.axis, [-of.axis[1], of.axis[0]]];
        axes(self).into_iter().chain(axes(other)).all(|axis| {
            let gap = (between[0] * axis[0] + between[1] * axis[1]).abs();
            gap < extent(self, axis) + extent(other, axis)
        })
    }
}
