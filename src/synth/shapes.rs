//! The primitives of a scene and their intersection with rays.
//!
//! Three convex shapes are enough: a polyhedron given by planes (boxes, car bodies, wheels), a
//! capsule (poles, limbs, tubes) and an ellipsoid (tree crowns, bushes). Metres; directions are unit
//! vectors, so ray parameters are distances.

/// A vector or point in metres.
pub(crate) type Vec3 = nalgebra::Vector3<f64>;

/// Farther than anything in a scene, in metres.
const FAR: f64 = 1e4;

/// A half line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ray {
    /// Origin.
    pub(crate) origin: Vec3,
    /// Unit direction.
    pub(crate) direction: Vec3,
}

impl Ray {
    /// The point at `distance`.
    pub(crate) fn at(&self, distance: f64) -> Vec3 {
        self.origin + self.direction * distance
    }
}

/// A ray's entry into a shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    /// Distance from the ray's origin.
    pub(crate) distance: f64,
    /// Outward unit normal of the surface there.
    pub(crate) normal: Vec3,
}

/// The half space `normal · p ≤ offset`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plane {
    /// Outward unit normal.
    pub(crate) normal: Vec3,
    /// Signed distance of the plane from the origin along the normal.
    pub(crate) offset: f64,
}

/// A rotation about z by `yaw`, then a translation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pose {
    /// Translation.
    pub(crate) position: Vec3,
    /// Radians, counter-clockwise from above.
    pub(crate) yaw: f64,
}

impl Pose {
    /// `v` rotated but not translated.
    pub(crate) fn turn(&self, v: Vec3) -> Vec3 {
        let (s, c) = self.yaw.sin_cos();
        Vec3::new(c * v.x - s * v.y, s * v.x + c * v.y, v.z)
    }

    /// `p` rotated and translated.
    pub(crate) fn apply(&self, p: Vec3) -> Vec3 {
        self.turn(p) + self.position
    }
}

/// A convex solid.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// Intersection of half spaces.
    Convex(Vec<Plane>),
    /// All points within `radius` of a segment.
    Capsule {
        /// Ends of the segment.
        ends: [Vec3; 2],
        /// Radius in metres.
        radius: f64,
    },
    /// An ellipsoid whose third axis is vertical.
    Ellipsoid {
        /// Centre.
        center: Vec3,
        /// Half axes before the rotation.
        radii: Vec3,
        /// Rotation about z in radians.
        yaw: f64,
    },
}

impl Shape {
    /// This shape transformed by `pose`.
    pub(crate) fn placed(&self, pose: &Pose) -> Shape {
        match self {
            Shape::Convex(planes) => Shape::Convex(
                planes
                    .iter()
                    .map(|plane| {
                        let normal = pose.turn(plane.normal);
                        let offset = plane.offset + normal.dot(&pose.position);
                        Plane { normal, offset }
                    })
                    .collect(),
            ),
            Shape::Capsule { ends, radius } => Shape::Capsule {
                ends: ends.map(|end| pose.apply(end)),
                radius: *radius,
            },
            Shape::Ellipsoid { center, radii, yaw } => Shape::Ellipsoid {
                center: pose.apply(*center),
                radii: *radii,
                yaw: yaw + pose.yaw,
            },
        }
    }

    /// The entry of `ray` into the shape; `None` if it misses, or starts inside or behind the shape.
    pub(crate) fn enter(&self, ray: &Ray) -> Option<Hit> {
        match self {
            Shape::Convex(planes) => enter_convex(planes, ray),
            Shape::Capsule { ends, radius } => enter_capsule(ends, *radius, ray),
            Shape::Ellipsoid { center, radii, yaw } => enter_ellipsoid(center, radii, *yaw, ray),
        }
    }

    /// The distance at which `ray` leaves the shape, which is where the reversed ray from far away enters it.
    pub(crate) fn exit(&self, ray: &Ray) -> Option<f64> {
        let back = Ray {
            origin: ray.at(FAR),
            direction: -ray.direction,
        };
        self.enter(&back).map(|hit| FAR - hit.distance)
    }
}

/// Clips the ray against each half space in turn (Cyrus–Beck).
fn enter_convex(planes: &[Plane], ray: &Ray) -> Option<Hit> {
    let mut enter = Hit {
        distance: 0.0,
        normal: Vec3::zeros(),
    };
    let mut exit = f64::INFINITY;
    for plane in planes {
        let speed = plane.normal.dot(&ray.direction);
        let gap = plane.offset - plane.normal.dot(&ray.origin);
        if speed.abs() < 1e-12 {
            if gap < 0.0 {
                return None;
            }
        } else if speed < 0.0 {
            let distance = gap / speed;
            if distance > enter.distance {
                enter = Hit {
                    distance,
                    normal: plane.normal,
                };
            }
        } else {
            exit = exit.min(gap / speed);
        }
        if enter.distance > exit {
            return None;
        }
    }
    (enter.distance > 0.0).then_some(enter)
}

/// Enters the cylinder's side between the ends, else the sphere around the nearer end.
fn enter_capsule(ends: &[Vec3; 2], radius: f64, ray: &Ray) -> Option<Hit> {
    let [start, end] = *ends;
    let axis = end - start;
    let from_start = ray.origin - start;
    let axis_sq = axis.norm_squared();
    let axis_dir = axis.dot(&ray.direction);
    let axis_from = axis.dot(&from_start);
    let a = axis_sq - axis_dir * axis_dir;
    if a > 1e-12 * axis_sq.max(1e-12) {
        let b = axis_sq * from_start.dot(&ray.direction) - axis_from * axis_dir;
        let c = axis_sq * (from_start.norm_squared() - radius * radius) - axis_from * axis_from;
        let discriminant = b * b - a * c;
        if discriminant < 0.0 {
            return None;
        }
        let distance = (-b - discriminant.sqrt()) / a;
        let along = axis_from + distance * axis_dir;
        if along > 0.0 && along < axis_sq {
            let normal =
                (from_start + ray.direction * distance - axis * (along / axis_sq)) / radius;
            return (distance > 0.0).then_some(Hit { distance, normal });
        }
    }
    let near = [start, end].map(|center| enter_sphere(&center, radius, ray));
    match near {
        [Some(first), Some(second)] if second.distance < first.distance => Some(second),
        [Some(first), _] => Some(first),
        [None, second] => second,
    }
}

fn enter_sphere(center: &Vec3, radius: f64, ray: &Ray) -> Option<Hit> {
    let to = ray.origin - center;
    let b = to.dot(&ray.direction);
    let discriminant = b * b - (to.norm_squared() - radius * radius);
    if discriminant < 0.0 {
        return None;
    }
    let distance = -b - discriminant.sqrt();
    let normal = (to + ray.direction * distance) / radius;
    (distance > 0.0).then_some(Hit { distance, normal })
}

/// In coordinates divided by the half axes the ellipsoid is the unit sphere.
fn enter_ellipsoid(center: &Vec3, radii: &Vec3, yaw: f64, ray: &Ray) -> Option<Hit> {
    let forth = Pose {
        position: Vec3::zeros(),
        yaw,
    };
    let back = Pose {
        position: Vec3::zeros(),
        yaw: -yaw,
    };
    let origin = back.turn(ray.origin - center).component_div(radii);
    let direction = back.turn(ray.direction).component_div(radii);
    let a = direction.norm_squared();
    let b = origin.dot(&direction);
    let discriminant = b * b - a * (origin.norm_squared() - 1.0);
    if discriminant < 0.0 {
        return None;
    }
    let distance = (-b - discriminant.sqrt()) / a;
    let gradient = (origin + direction * distance).component_div(radii);
    (distance > 0.0).then(|| Hit {
        distance,
        normal: forth.turn(gradient.normalize()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::super::solids::{Body, Extrusion, Material};
    use super::*;

    /// Whether a point is in the shape, straight from the definitions.
    fn holds(shape: &Shape, p: &Vec3) -> bool {
        match shape {
            Shape::Convex(planes) => planes
                .iter()
                .all(|plane| plane.normal.dot(p) <= plane.offset),
            Shape::Capsule { ends, radius } => {
                let axis = ends[1] - ends[0];
                let share = (p - ends[0]).dot(&axis) / axis.norm_squared();
                (p - ends[0] - axis * share.clamp(0.0, 1.0)).norm() <= *radius
            }
            Shape::Ellipsoid { center, radii, yaw } => {
                let (s, c) = yaw.sin_cos();
                let d = p - center;
                let own = Vec3::new(c * d.x + s * d.y, c * d.y - s * d.x, d.z);
                own.component_div(radii).norm() <= 1.0
            }
        }
    }

    fn random_vec(rng: &mut Rng, reach: f64) -> Vec3 {
        Vec3::from_fn(|_, _| rng.range(-reach, reach))
    }

    fn random_shape(rng: &mut Rng) -> Shape {
        match rng.int(0, 2) {
            0 => {
                // A cube, cut by random planes.
                let center = random_vec(rng, 1.0);
                let mut plane = |normal: Vec3| {
                    let offset = normal.dot(&center) + rng.range(0.3, 1.5);
                    Plane { normal, offset }
                };
                let sides = [Vec3::x(), Vec3::y(), Vec3::z()];
                let mut planes = Vec::new();
                for side in sides {
                    planes.extend([plane(side), plane(-side)]);
                }
                for _ in 0..4 {
                    let normal = random_vec(rng, 1.0).normalize();
                    let offset = normal.dot(&center) + rng.range(0.3, 1.5);
                    planes.push(Plane { normal, offset });
                }
                Shape::Convex(planes)
            }
            1 => Shape::Capsule {
                ends: [random_vec(rng, 1.5), random_vec(rng, 1.5)],
                radius: rng.range(0.1, 1.0),
            },
            _ => Shape::Ellipsoid {
                center: random_vec(rng, 1.0),
                radii: Vec3::from_fn(|_, _| rng.range(0.2, 2.0)),
                yaw: rng.range(-3.0, 3.0),
            },
        }
    }

    #[test]
    fn entry_and_exit_agree_with_marching() {
        let mut rng = Rng::new(11, 0, 0);
        let (step, mut hits) = (0.004, 0);
        for _ in 0..600 {
            let shape = random_shape(&mut rng);
            let origin = random_vec(&mut rng, 1.0).normalize() * 9.0;
            let direction = (random_vec(&mut rng, 1.5) - origin).normalize();
            let ray = Ray { origin, direction };
            let inside: Vec<f64> = (0..4500)
                .map(|k| f64::from(k) * step)
                .filter(|&t| holds(&shape, &ray.at(t)))
                .collect();
            let entry = shape.enter(&ray);
            let (Some(first), Some(last)) = (inside.first(), inside.last()) else {
                // Marching may miss only a graze.
                let chord = entry.map_or(0.0, |hit| shape.exit(&ray).unwrap() - hit.distance);
                assert!(
                    chord < step,
                    "{shape:?} {ray:?}: marching missed a chord of {chord}"
                );
                continue;
            };
            hits += 1;
            let entry = entry.expect("marching hit the inside");
            assert!(
                (first - entry.distance).abs() <= step,
                "{shape:?} {ray:?} {entry:?}"
            );
            if *last < 17.9 {
                assert!((last - shape.exit(&ray).unwrap()).abs() <= step);
            }
            // The normal points against the ray, and outward.
            assert!((entry.normal.norm() - 1.0).abs() < 1e-9);
            assert!(entry.normal.dot(&direction) <= 1e-9);
            let at = ray.at(entry.distance);
            assert!(!holds(&shape, &(at + entry.normal * 1e-6)));
            assert!(holds(&shape, &(at + direction * 1e-6)) || last - first < 0.01);
        }
        assert!(hits > 200, "{hits}");
    }

    #[test]
    fn rays_from_inside_or_behind_miss() {
        let ball = Shape::Ellipsoid {
            center: Vec3::zeros(),
            radii: Vec3::repeat(1.0),
            yaw: 0.0,
        };
        let ray = |x: f64| Ray {
            origin: Vec3::new(x, 0.0, 0.0),
            direction: Vec3::x(),
        };
        assert_eq!(ball.enter(&ray(-3.0)).unwrap().distance, 2.0);
        assert!(ball.enter(&ray(0.0)).is_none());
        assert!(ball.enter(&ray(3.0)).is_none());
    }

    #[test]
    fn prisms_match_their_profiles() {
        let mut body = Body::default();
        let profile = [[-2.0, 0.0], [2.0, 0.0], [1.0, 1.0], [-2.0, 1.0]];
        let side = Extrusion {
            y: 0.5,
            half_width: 1.0,
            taper: 0.2,
            chamfer: 0.1,
        };
        body.prism(&profile, side, Material::opaque(0.5));
        let (min, max) = body.extent();
        assert_eq!(
            (min, max),
            (Vec3::new(-2.0, -0.5, 0.0), Vec3::new(2.0, 1.5, 1.0))
        );
        let pose = Pose {
            position: Vec3::new(10.0, 0.0, 0.0),
            yaw: std::f64::consts::FRAC_PI_2,
        };
        // Turned by 90°, the profile's x runs along the world's y, and y = 0.5 lies at x = 9.5.
        let solid = body.placed(&pose, None).next().unwrap();
        let from = |origin: Vec3, direction: Vec3| solid.shape.enter(&Ray { origin, direction });
        let rear = from(Vec3::new(9.5, -9.0, 0.5), Vec3::y()).unwrap();
        assert!((rear.distance - 7.0).abs() < 1e-12);
        let slanted = from(Vec3::new(9.5, 9.0, 0.5), -Vec3::y()).unwrap();
        assert!((slanted.distance - 7.5).abs() < 1e-12);
        let tapered = from(Vec3::new(0.0, 0.0, 0.5), Vec3::x()).unwrap();
        assert!((tapered.distance - 8.6).abs() < 1e-12, "{tapered:?}");
        assert!(
            from(Vec3::new(10.49, 9.0, 0.01), -Vec3::y())
                .unwrap()
                .distance
                > 7.0
        );
        assert!(from(Vec3::new(9.5, 9.0, 1.01), -Vec3::y()).is_none());
    }
}
