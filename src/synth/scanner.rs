//! A rotating scanner: casts the rays of one turn and collects the returns.
//!
//! A turn is instantaneous: all rays leave from the same pose. Each azimuth column tests only the primitives in
//! it, nearest first; the ground is intersected on a height profile along the column. Whether a ray returns
//! depends on reflectivity, incidence and range.

use std::f64::consts::TAU;

use serde::Serialize;

use super::builder::Scene;
use super::ground::Ground;
use super::rng::Rng;
use super::shapes::{Pose, Ray, Vec3};
use super::solids::{Solid, Surface};

/// The scanner's properties. Elevations are degrees above the horizon, lengths metres.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Scanner {
    /// Number of beams.
    pub beams: u32,
    /// Elevation of the lowest beam.
    pub min_elevation: f64,
    /// Elevation of the highest beam.
    pub max_elevation: f64,
    /// Below this angle the beams are about evenly spaced; above it their spacing grows.
    pub dense_elevation: f64,
    /// Number of azimuth steps in a turn; 0 counts as 1.
    pub columns: u32,
    /// Height of the beams' origin above the ground.
    pub height: f64,
    /// Nearest range.
    pub min_range: f64,
    /// Farthest range.
    pub max_range: f64,
    /// Standard deviation of the range.
    pub range_noise: f64,
    /// Share of returns lost at random.
    pub dropout: f64,
    /// Signal (reflectivity × cosine of incidence × (100 m / range)²) at which 63 % of the rays return.
    pub sensitivity: f64,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            beams: 32,
            min_elevation: -25.0,
            max_elevation: 8.0,
            dense_elevation: 3.0,
            columns: 900,
            height: 1.8,
            min_range: 1.0,
            max_range: 105.0,
            range_noise: 0.02,
            dropout: 0.05,
            sensitivity: 0.03,
        }
    }
}

impl Scanner {
    /// The elevation of each beam in radians, lowest first: evenly spaced through a sinh, which is linear near
    /// the horizon and exponential away from it.
    pub(crate) fn elevations(&self) -> Vec<f64> {
        let scale = self.dense_elevation;
        let low = (self.min_elevation / scale).asinh();
        let high = (self.max_elevation / scale).asinh();
        let steps = f64::from(self.beams.saturating_sub(1).max(1));
        (0..self.beams)
            .map(|beam| low + (high - low) * f64::from(beam) / steps)
            .map(|u| (scale * u.sinh()).to_radians())
            .collect()
    }
}

/// One point of a turn, in the world frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Return {
    /// Position, with noise.
    pub(crate) point: Vec3,
    /// Intensity, 0..=1 in steps of 1/255.
    pub(crate) intensity: f64,
    /// The object that was hit.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "only tests check which object was hit")
    )]
    pub(crate) owner: Option<usize>,
}

/// A solid as seen from one scanner pose.
struct Candidate<'a> {
    solid: &'a Solid,
    /// Origin of the rays for this solid: moving solids stay in place and the rays move instead.
    origin: Vec3,
    /// Least horizontal distance.
    near: f64,
    /// Least and greatest tangent of elevation.
    tangents: [f64; 2],
    /// First azimuth column and number of columns.
    columns: [usize; 2],
}

/// The surface that a ray hit.
struct Contact {
    distance: f64,
    /// Cosine of the angle between the ray and the surface's normal.
    incidence: f64,
    reflectivity: f64,
    /// Standard deviation that the surface's texture adds to the range.
    roughness: f64,
    owner: Option<usize>,
}

/// Scans `scene` as it was `age` seconds ago. The returns are ordered by column, lowest beam first.
pub(crate) fn scan(scene: &Scene, scanner: &Scanner, age: f64, rng: &mut Rng) -> Vec<Return> {
    let ego = scene.ego.pose(age);
    let ground_here = scene.ground.height([ego.position.x, ego.position.y]);
    let origin = ego.position + Vec3::new(0.0, 0.0, ground_here + scanner.height);
    let columns = scanner.columns.max(1) as usize;
    let step = TAU / columns as f64;
    let first = ego.yaw + step * rng.uniform();
    let origin_pose = Pose {
        position: origin,
        yaw: first,
    };
    let candidates = candidates(scene, scanner.max_range, step, &origin_pose, age);
    let buckets = Buckets::new(&candidates, columns);
    let beams: Vec<(f64, f64)> = scanner.elevations().iter().map(|e| e.sin_cos()).collect();
    let mut profile = Profile::new(scanner.max_range);
    let mut returns = Vec::with_capacity(columns * beams.len());
    for column in 0..columns {
        let (sin, cos) = (first + step * column as f64).sin_cos();
        profile.aim(&scene.ground, &origin, [cos, sin]);
        for &(up, out) in &beams {
            let direction = Vec3::new(out * cos, out * sin, up);
            let ground = profile.cast(&scene.ground, up / out, out);
            let here = buckets
                .column(column)
                .iter()
                .map(|&c| &candidates[c as usize]);
            if let Some(contact) = cast(here, direction, up / out, ground, rng) {
                let ray = Ray { origin, direction };
                returns.extend(receive(scanner, &ray, &contact, rng));
            }
        }
    }
    returns
}

/// The solids within range, nearest first; `sensor` has the yaw of column 0, and `step` is the angle between
/// columns.
fn candidates<'a>(
    scene: &'a Scene,
    max_range: f64,
    step: f64,
    sensor: &Pose,
    age: f64,
) -> Vec<Candidate<'a>> {
    let mut found: Vec<Candidate<'a>> = scene
        .solids
        .iter()
        .filter_map(|solid| {
            let object = solid.owner.and_then(|owner| scene.objects.get(owner));
            let back = object.map_or(Vec3::zeros(), |object| object.velocity() * age);
            let origin = sensor.position + back;
            let from = [origin.x, origin.y];
            let near = solid.footprint.distance(from);
            if near > max_range {
                return None;
            }
            let corners = solid.footprint.corners();
            let far = corners
                .iter()
                .map(|c| (c[0] - from[0]).hypot(c[1] - from[1]))
                .fold(0.0, f64::max);
            let tangent = |height: f64, nearer: bool| {
                let rise = height - origin.z;
                rise / if (rise > 0.0) == nearer {
                    near.max(0.01)
                } else {
                    far
                }
            };
            Some(Candidate {
                solid,
                origin,
                near,
                tangents: [tangent(solid.z[0], false), tangent(solid.z[1], true)],
                columns: columns_of(
                    &solid.footprint.center,
                    &corners,
                    from,
                    near,
                    [sensor.yaw, step],
                ),
            })
        })
        .collect();
    found.sort_by(|a, b| a.near.total_cmp(&b.near));
    found
}

/// The azimuth columns covered by a footprint: the first and their number. `turn` is the azimuth of column 0
/// and the angle between columns.
fn columns_of(
    center: &[f64; 2],
    corners: &[[f64; 2]; 4],
    from: [f64; 2],
    near: f64,
    turn: [f64; 2],
) -> [usize; 2] {
    let [first, step] = turn;
    let all = (TAU / step).round() as usize;
    if near < 0.05 {
        return [0, all];
    }
    let azimuth = |p: &[f64; 2]| (p[1] - from[1]).atan2(p[0] - from[0]);
    let middle = azimuth(center);
    let (mut low, mut high) = (0.0f64, 0.0f64);
    for corner in corners {
        // From outside, a convex footprint spans less than half a turn around any of its points.
        let turn = (azimuth(corner) - middle + 0.5 * TAU).rem_euclid(TAU) - 0.5 * TAU;
        low = low.min(turn);
        high = high.max(turn);
    }
    let start = ((middle + low - first).rem_euclid(TAU) / step).floor();
    let count = ((high - low) / step).ceil() as usize + 2;
    [start as usize % all, count.min(all)]
}

/// The candidates in each column, nearest first.
struct Buckets {
    /// Start of each column's list, and the end of the last.
    starts: Vec<u32>,
    lists: Vec<u32>,
}

impl Buckets {
    fn new(candidates: &[Candidate<'_>], columns: usize) -> Self {
        let each = |candidate: &Candidate<'_>| {
            let [first, count] = candidate.columns;
            (0..count).map(move |k| (first + k) % columns)
        };
        let mut starts = vec![0u32; columns + 1];
        for column in candidates.iter().flat_map(each) {
            starts[column + 1] += 1;
        }
        for column in 0..columns {
            starts[column + 1] += starts[column];
        }
        let mut next = starts.clone();
        let mut lists = vec![0u32; starts[columns] as usize];
        for (index, candidate) in candidates.iter().enumerate() {
            for column in each(candidate) {
                lists[next[column] as usize] = index as u32;
                next[column] += 1;
            }
        }
        Self { starts, lists }
    }

    fn column(&self, column: usize) -> &[u32] {
        &self.lists[self.starts[column] as usize..self.starts[column + 1] as usize]
    }
}

/// The nearest surface that returns this ray.
fn cast<'a>(
    candidates: impl Iterator<Item = &'a Candidate<'a>>,
    direction: Vec3,
    tangent: f64,
    ground: Option<Contact>,
    rng: &mut Rng,
) -> Option<Contact> {
    let mut best = ground;
    let mut limit = best.as_ref().map_or(f64::INFINITY, |c| c.distance);
    for candidate in candidates {
        if candidate.near > limit {
            break;
        }
        if tangent < candidate.tangents[0] || tangent > candidate.tangents[1] {
            continue;
        }
        let ray = Ray {
            origin: candidate.origin,
            direction,
        };
        let solid = candidate.solid;
        let Some(hit) = solid.shape.enter(&ray) else {
            continue;
        };
        let mut distance = hit.distance;
        let mut incidence = hit.normal.dot(&direction).abs();
        match solid.material.surface {
            Surface::Opaque => {}
            Surface::Mesh(returns) => {
                if !rng.chance(returns) {
                    continue;
                }
            }
            Surface::Foliage(density) => {
                distance += rng.exponential(1.0 / density);
                if solid.shape.exit(&ray).is_none_or(|exit| distance > exit) {
                    continue;
                }
                incidence = rng.range(0.3, 1.0);
            }
        }
        if distance < limit {
            limit = distance;
            best = Some(Contact {
                distance,
                incidence,
                reflectivity: solid.material.reflectivity,
                roughness: 0.0,
                owner: solid.owner,
            });
        }
    }
    best
}

/// The return of a contact; `None` if it is too weak or out of range.
fn receive(scanner: &Scanner, ray: &Ray, contact: &Contact, rng: &mut Rng) -> Option<Return> {
    let range = contact.distance;
    let signal = contact.reflectivity * contact.incidence * (100.0 / range).powi(2);
    let seen = (1.0 - scanner.dropout) * -(-signal / scanner.sensitivity).exp_m1();
    // Draw both numbers for every contact: a lost point must not change the next one.
    let (lost, noise) = (!rng.chance(seen), rng.normal(1.0));
    let strength = contact.reflectivity * (0.35 + 0.65 * contact.incidence) + rng.normal(0.02);
    let range = range + noise * scanner.range_noise.hypot(contact.roughness);
    if lost || range < scanner.min_range || range > scanner.max_range {
        return None;
    }
    Some(Return {
        point: ray.at(range),
        intensity: (strength.clamp(0.0, 1.0) * 255.0).round() / 255.0,
        owner: contact.owner,
    })
}

/// The ground along one azimuth: heights at fixed ranges, walked once for all beams from the lowest up.
struct Profile {
    ranges: Vec<f64>,
    heights: Vec<f64>,
    origin: Vec3,
    direction: [f64; 2],
    /// The first sample that may end a hit; earlier ones lie below all later beams.
    next: usize,
}

impl Profile {
    fn new(max_range: f64) -> Self {
        let mut ranges = vec![0.5];
        let mut range = 2.0;
        while range < max_range {
            ranges.push(range);
            range += (0.05 * range).clamp(0.25, 2.0);
        }
        ranges.push(max_range);
        Self {
            heights: vec![0.0; ranges.len()],
            ranges,
            origin: Vec3::zeros(),
            direction: [1.0, 0.0],
            next: 1,
        }
    }

    fn point(&self, range: f64) -> [f64; 2] {
        [
            self.origin.x + range * self.direction[0],
            self.origin.y + range * self.direction[1],
        ]
    }

    /// Points the profile in `direction`, seen from `origin`.
    fn aim(&mut self, ground: &Ground, origin: &Vec3, direction: [f64; 2]) {
        self.origin = *origin;
        self.direction = direction;
        self.next = 1;
        for index in 0..self.ranges.len() {
            self.heights[index] = ground.height(self.point(self.ranges[index])) - origin.z;
        }
    }

    /// Intersects the ground with the beam of this tangent of elevation (whose cosine is `out`). Beams must
    /// come in ascending order.
    fn cast(&mut self, ground: &Ground, tangent: f64, out: f64) -> Option<Contact> {
        while self.heights.get(self.next)? < &(tangent * self.ranges[self.next]) {
            self.next += 1;
        }
        let (mut near, mut far) = (self.ranges[self.next - 1], self.ranges[self.next]);
        let slope = (self.heights[self.next] - self.heights[self.next - 1]) / (far - near);
        let gap = |range: f64, height: f64| height - tangent * range;
        let mut below = gap(near, self.heights[self.next - 1]);
        let mut above = gap(far, self.heights[self.next]);
        let mut range = far;
        // Two steps of false position, for kerbs and waves within the segment.
        for _ in 0..2 {
            let share = if above > below {
                below / (below - above)
            } else {
                1.0
            };
            range = near + (far - near) * share.clamp(0.0, 1.0);
            let error = gap(range, ground.height(self.point(range)) - self.origin.z);
            if error > 0.0 {
                (far, above) = (range, error);
            } else {
                (near, below) = (range, error);
            }
        }
        let cover = ground.cover(self.point(range));
        let sine = -tangent * out;
        let incidence = (sine + slope * out) / slope.hypot(1.0);
        Some(Contact {
            distance: range / out,
            incidence: incidence.max(1e-3),
            reflectivity: cover.reflectivity,
            roughness: cover.roughness,
            owner: None,
        })
    }
}
