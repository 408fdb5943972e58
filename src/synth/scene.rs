//! A scene: ground, static solids, labelled objects and the ego vehicle's motion, without overlaps.
//!
//! The world frame is horizontal with the newest ego position at the origin; streets run in any
//! direction, and the ego vehicle's yaw turns the world into the vehicle frame at the end.

use std::f64::consts::{FRAC_PI_2, PI, TAU};

use super::furniture;
use super::ground::{Carriageway, Ground};
use super::people;
use super::rng::Rng;
use super::shapes::{Pose, Vec3};
use super::solids::{Body, Footprint, Solid};
use super::street::{self, Street};
use super::vehicles;

/// Objects and structures are placed up to this far from the ego vehicle, in metres.
pub(crate) const REACH: f64 = 108.0;

/// The classes of labelled objects, in the order of [`super::CLASSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Car,
    Truck,
    Bus,
    Bicycle,
    Pedestrian,
}

/// What an object is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Motion {
    /// Left standing, without driver or rider.
    Parked,
    /// In traffic or on foot, at this speed in m/s, 0 for a stop.
    Going(f64),
}

impl Motion {
    /// Speed in m/s.
    pub(crate) fn speed(self) -> f64 {
        match self {
            Motion::Parked => 0.0,
            Motion::Going(speed) => speed,
        }
    }
}

/// A labelled object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// Its class.
    pub(crate) class: Class,
    /// Gravity centre in the world.
    pub(crate) center: Vec3,
    /// Length, width, height.
    pub(crate) size: Vec3,
    /// Heading in the world.
    pub(crate) yaw: f64,
    /// What it does.
    pub(crate) motion: Motion,
}

impl Object {
    /// Velocity in the world, m/s.
    pub(crate) fn velocity(&self) -> Vec3 {
        let speed = self.motion.speed();
        Vec3::new(self.yaw.cos(), self.yaw.sin(), 0.0) * speed
    }
}

/// The ego vehicle's motion: a circle, or a straight line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ego {
    /// Heading now.
    pub(crate) yaw: f64,
    /// Speed in m/s.
    pub(crate) speed: f64,
    /// Yaw rate in rad/s.
    pub(crate) yaw_rate: f64,
}

impl Ego {
    /// Where the vehicle was `age` seconds ago, without its height.
    pub(crate) fn pose(&self, age: f64) -> Pose {
        // The chord of the arc: its direction is the mean heading; the chord's length differs from the
        // arc's by less than a millimetre over a tenth of a second.
        let middle = self.yaw - 0.5 * self.yaw_rate * age;
        let way = self.speed * age;
        Pose {
            position: Vec3::new(-way * middle.cos(), -way * middle.sin(), 0.0),
            yaw: self.yaw - self.yaw_rate * age,
        }
    }
}

/// Everything that a scanner may see.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    /// The ground.
    pub(crate) ground: Ground,
    /// All primitives.
    pub(crate) solids: Vec<Solid>,
    /// All labelled objects.
    pub(crate) objects: Vec<Object>,
    /// The vehicle with the scanner.
    pub(crate) ego: Ego,
}

/// A scene in the making: refuses what would overlap.
pub(crate) struct Builder {
    pub(crate) rng: Rng,
    pub(crate) scene: Scene,
    /// Ground that is taken.
    taken: Vec<Footprint>,
}

impl Builder {
    fn new(mut rng: Rng, streets: Vec<Carriageway>, ego: Ego) -> Self {
        let ground = Ground::new(&mut rng, streets);
        let here = Pose {
            position: Vec3::zeros(),
            yaw: ego.yaw,
        };
        Self {
            rng,
            scene: Scene {
                ground,
                solids: Vec::new(),
                objects: Vec::new(),
                ego,
            },
            // The ego vehicle, and what it needs to move.
            taken: vec![Footprint::new(&here, [-3.2, -1.5], [4.5, 1.5])],
        }
    }

    /// Where a body stands at a point of the ground.
    fn pose(&self, at: [f64; 2], yaw: f64) -> Pose {
        let position = Vec3::new(at[0], at[1], self.scene.ground.height(at));
        Pose { position, yaw }
    }

    fn take(&mut self, body: &Body, pose: &Pose, margin: f64) -> bool {
        let [x, y] = [pose.position.x, pose.position.y];
        let footprint = body.footprint(pose);
        let grown = footprint.grown(margin);
        if x.hypot(y) > REACH || self.taken.iter().any(|other| grown.overlaps(other)) {
            return false;
        }
        self.taken.push(footprint);
        true
    }

    /// Puts a static body at a point, if there is room with `margin` around it.
    pub(crate) fn put_static(&mut self, body: &Body, at: [f64; 2], yaw: f64, margin: f64) -> bool {
        let pose = self.pose(at, yaw);
        let room = self.take(body, &pose, margin);
        if room {
            self.scene.solids.extend(body.placed(&pose, None));
        }
        room
    }

    /// Puts a labelled object at a point, if there is room with `margin` around it.
    pub(crate) fn put(
        &mut self,
        class: Class,
        motion: Motion,
        at: [f64; 2],
        yaw: f64,
        margin: f64,
    ) -> bool {
        let rng = &mut self.rng;
        let body = match class {
            Class::Car => vehicles::car(rng),
            Class::Truck => vehicles::truck(rng),
            Class::Bus => vehicles::bus(rng),
            Class::Bicycle => people::bicycle(rng, motion != Motion::Parked),
            Class::Pedestrian => people::pedestrian(rng, motion.speed()),
        };
        let pose = self.pose(at, yaw);
        let room = self.take(&body, &pose, margin);
        if room {
            let owner = self.scene.objects.len();
            let (min, max) = body.extent();
            self.scene.solids.extend(body.placed(&pose, Some(owner)));
            self.scene.objects.push(Object {
                class,
                center: pose.apply((min + max) * 0.5),
                size: max - min,
                yaw,
                motion,
            });
        }
        room
    }

    /// A group of people around a point, who stand together or walk the same way.
    pub(crate) fn put_group(&mut self, at: [f64; 2], count: u32, spread: f64, walking: bool) {
        let heading = self.rng.range(0.0, TAU);
        let speed = self.rng.range(0.6, 1.7);
        for _ in 0..count {
            let rng = &mut self.rng;
            let at = [at[0] + rng.normal(spread), at[1] + rng.normal(spread)];
            let (yaw, speed) = if walking {
                (heading + rng.normal(0.15), speed + rng.normal(0.1))
            } else {
                (rng.range(0.0, TAU), 0.0)
            };
            self.put(
                Class::Pedestrian,
                Motion::Going(speed.clamp(0.0, 2.0)),
                at,
                yaw,
                0.08,
            );
        }
    }
}

/// Makes the scene of one random stream.
pub(crate) fn generate(mut rng: Rng) -> Scene {
    match rng.weighted(&[0.38, 0.32, 0.14, 0.16]) {
        0 => road(rng, false),
        1 => road(rng, true),
        2 => car_park(rng),
        _ => square(rng),
    }
}

/// The ego vehicle on a street that runs along its way, with some freedom.
fn ego_on_street(rng: &mut Rng) -> Ego {
    let speed = if rng.chance(0.25) {
        0.0
    } else {
        rng.range(1.0, 14.0)
    };
    let turning = speed > 0.0 && speed < 8.0 && rng.chance(0.2);
    Ego {
        yaw: if turning {
            rng.normal(0.4)
        } else {
            rng.normal(0.03)
        },
        speed,
        yaw_rate: if turning {
            rng.range(-0.4, 0.4)
        } else {
            rng.normal(0.02)
        },
    }
}

/// A straight road, or two that cross.
fn road(mut rng: Rng, crossing: bool) -> Scene {
    let ego = ego_on_street(&mut rng);
    let mut main = Street::random(&mut rng);
    // The ego vehicle drives in one of the right-hand lanes of a street along the world's x axis.
    let lane = rng.int(0, main.lanes - 1);
    main.origin = [0.0, main.lane_offset(lane)];
    let mut streets = vec![main];
    if crossing {
        let mut other = Street::random(&mut rng);
        other.yaw = FRAC_PI_2 + rng.normal(0.12);
        other.origin = [rng.range(-25.0, 45.0), 0.0];
        streets.push(other);
    }
    let mut builder = Builder::new(rng, streets.iter().map(Street::carriageway).collect(), ego);
    for index in 0..streets.len() {
        street::fill_carriageway(&mut builder, &streets, index);
    }
    for index in 0..streets.len() {
        street::fill_sides(&mut builder, &streets, index);
    }
    builder.scene
}

/// Buildings, walls or trees around an open place: `half` is its half length and width.
fn surround(builder: &mut Builder, half: [f64; 2]) {
    for side in 0..4u8 {
        let yaw = f64::from(side) * FRAC_PI_2;
        let (reach, away) = if side % 2 == 0 {
            (half[0], half[1])
        } else {
            (half[1], half[0])
        };
        let mut s = -reach;
        while s < reach {
            let rng = &mut builder.rng;
            let length = rng.range(8.0, 26.0);
            let depth = rng.range(8.0, 14.0);
            let (kind, gap) = (rng.int(0, 5), rng.range(0.0, 5.0));
            let (body, back) = match kind {
                0..=2 => (furniture::building(rng, length, depth), 0.5 * depth),
                3 => (furniture::fence(rng, length), 0.0),
                4 => (furniture::hedge(rng, length), 0.0),
                _ => (furniture::wall(rng, length), 0.0),
            };
            // Side 0 lies at +y, and its front looks down; the others are that one turned.
            let (along, out) = (s + 0.5 * length, away + back);
            let (sin, cos) = yaw.sin_cos();
            let at = [cos * along - sin * out, sin * along + cos * out];
            builder.put_static(&body, at, yaw, 0.0);
            s += length + gap;
        }
    }
}

/// A car park: rows of bays with aisles, the ego vehicle in one of them.
fn car_park(mut rng: Rng) -> Scene {
    let speed = if rng.chance(0.4) {
        0.0
    } else {
        rng.range(0.5, 4.0)
    };
    let ego = Ego {
        yaw: rng.normal(0.08) + if rng.chance(0.5) { PI } else { 0.0 },
        speed,
        yaw_rate: speed * rng.normal(0.04),
    };
    let rows = rng.int(1, 3);
    let half = [rng.range(25.0, 70.0), 8.5 * f64::from(rows) + 8.0];
    let mut builder = Builder::new(rng, Vec::new(), ego);
    let filled = builder.rng.range(0.1, 0.5);
    let first = builder.rng.int(0, rows - 1);
    for row in 0..rows {
        // The aisle of row `first` is the ego vehicle's; each has bays on both sides.
        let aisle = (f64::from(row) - f64::from(first)) * 17.0;
        for side in [-1.0, 1.0] {
            let mut s = -half[0];
            while s < half[0] {
                let rng = &mut builder.rng;
                let at = [
                    s + rng.normal(0.12),
                    aisle + side * (5.9 + rng.normal(0.15)),
                ];
                let away = if rng.chance(0.7) { 1.0 } else { -1.0 };
                let yaw = side * away * FRAC_PI_2 + rng.normal(0.03);
                let class = match rng.weighted(&[0.9, 0.1]) {
                    0 => Class::Car,
                    _ => Class::Truck,
                };
                let clutter = rng.chance(0.04);
                if rng.chance(filled) {
                    builder.put(class, Motion::Parked, at, yaw, 0.2);
                } else if clutter {
                    let body = furniture::large(&mut builder.rng);
                    builder.put_static(&body, at, yaw, 0.3);
                }
                s += 2.7;
            }
        }
        if builder.rng.chance(0.6) {
            let at = [builder.rng.range(-40.0, 40.0), aisle + 0.4];
            let speed = builder.rng.range(0.0, 4.0);
            builder.put(Class::Car, Motion::Going(speed), at, PI, 0.5);
        }
    }
    scatter_people(&mut builder, half, 7);
    for _ in 0..builder.rng.int(1, 4) {
        let at = place_in(&mut builder.rng, half);
        let yaw = builder.rng.range(0.0, TAU);
        bicycle_rack(&mut builder, at, yaw);
    }
    scatter_furniture(&mut builder, half, 26);
    surround(&mut builder, half);
    builder.scene
}

/// An open square with crowds, stalls, cyclists and a few vehicles that deliver.
fn square(mut rng: Rng) -> Scene {
    let speed = if rng.chance(0.4) {
        0.0
    } else {
        rng.range(0.5, 6.0)
    };
    let ego = Ego {
        yaw: rng.range(-PI, PI),
        speed,
        yaw_rate: speed * rng.normal(0.05),
    };
    let half = [rng.range(25.0, 75.0), rng.range(20.0, 60.0)];
    let mut builder = Builder::new(rng, Vec::new(), ego);
    // Vehicles first: they need the most room.
    let vehicles = [
        (Class::Bus, 0, 3),
        (Class::Truck, 1, 5),
        (Class::Car, 1, 10),
    ];
    for (class, low, high) in vehicles {
        for _ in 0..builder.rng.int(low, high) {
            let at = place_in(&mut builder.rng, half);
            let yaw = builder.rng.range(-PI, PI);
            let motion = if builder.rng.chance(0.55) {
                Motion::Parked
            } else {
                Motion::Going(builder.rng.range(0.0, 7.0))
            };
            builder.put(class, motion, at, yaw, 1.0);
        }
    }
    for _ in 0..builder.rng.int(0, 7) {
        let at = place_in(&mut builder.rng, half);
        let yaw = builder.rng.range(-PI, PI);
        let speed = builder.rng.range(2.0, 6.0);
        builder.put(Class::Bicycle, Motion::Going(speed), at, yaw, 0.4);
    }
    for _ in 0..builder.rng.int(0, 2) {
        let at = place_in(&mut builder.rng, half);
        let yaw = builder.rng.range(0.0, TAU);
        bicycle_rack(&mut builder, at, yaw);
    }
    for _ in 0..builder.rng.int(0, 2) {
        let at = place_in(&mut builder.rng, half);
        let (count, spread) = (builder.rng.int(6, 18), builder.rng.range(1.5, 5.0));
        let walking = builder.rng.chance(0.4);
        builder.put_group(at, count, spread, walking);
    }
    scatter_people(&mut builder, half, 10);
    scatter_furniture(&mut builder, half, 34);
    surround(&mut builder, half);
    builder.scene
}

/// A point in the rectangle, with density falling a little from the ego vehicle.
fn place_in(rng: &mut Rng, half: [f64; 2]) -> [f64; 2] {
    half.map(|half| half * rng.range(-0.97, 0.97) * rng.range(0.5, 1.0))
}

/// Singles, pairs and small groups; up to `most` groups.
fn scatter_people(builder: &mut Builder, half: [f64; 2], most: u32) {
    for _ in 0..builder.rng.int(0, most) {
        let at = place_in(&mut builder.rng, half);
        let count = 1 + builder.rng.weighted(&[0.6, 0.28, 0.12]) as u32;
        let walking = builder.rng.chance(0.75);
        builder.put_group(at, count, 0.7, walking);
    }
}

/// Trees, lamps, bins, stalls; up to `most`.
fn scatter_furniture(builder: &mut Builder, half: [f64; 2], most: u32) {
    for _ in 0..builder.rng.int(most / 3, most) {
        let rng = &mut builder.rng;
        let at = place_in(rng, half);
        let yaw = rng.range(0.0, TAU);
        let body = match rng.weighted(&[0.26, 0.2, 0.3, 0.12, 0.12]) {
            0 => furniture::tree(rng),
            1 => furniture::pole(rng),
            2 => furniture::small(rng),
            3 => furniture::bush(rng),
            _ => furniture::large(rng),
        };
        builder.put_static(&body, at, yaw, 0.25);
    }
}

/// Parked bicycles side by side.
pub(crate) fn bicycle_rack(builder: &mut Builder, at: [f64; 2], yaw: f64) {
    let count = 1 + builder.rng.weighted(&[0.35, 0.3, 0.2, 0.15]);
    let gap = builder.rng.range(0.85, 1.3);
    let (sin, cos) = yaw.sin_cos();
    for place in 0..count {
        let s = gap * place as f64;
        let at = [at[0] - sin * s, at[1] + cos * s];
        let flip = if builder.rng.chance(0.5) { PI } else { 0.0 };
        let yaw = yaw + flip + builder.rng.normal(0.08);
        builder.put(Class::Bicycle, Motion::Parked, at, yaw, 0.03);
    }
}
