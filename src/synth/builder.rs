//! A scene and its construction: objects, structures and the ego vehicle, without overlaps.
//!
//! The world frame is horizontal with the newest ego position at the origin.

use std::f64::consts::{PI, TAU};

use super::ground::{Carriageway, Ground};
use super::people;
use super::rng::Rng;
use super::shapes::{Pose, Vec3};
use super::solids::{Body, Footprint, Solid};
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

/// The motion of an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Motion {
    /// Parked, without driver or rider.
    Parked,
    /// In traffic or on foot, at this speed in m/s; 0 while stopped.
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
    /// Its motion.
    pub(crate) motion: Motion,
}

impl Object {
    /// Velocity in the world, m/s.
    pub(crate) fn velocity(&self) -> Vec3 {
        let speed = self.motion.speed();
        Vec3::new(self.yaw.cos(), self.yaw.sin(), 0.0) * speed
    }
}

/// The ego vehicle's motion: an arc or a straight line.
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
    /// The vehicle's pose `age` seconds ago, without its height.
    pub(crate) fn pose(&self, age: f64) -> Pose {
        // The chord of the arc: its direction is the mean heading; the chord's length differs from the
        // arc's by less than a millimetre over a tenth of a second.
        let middle = self.yaw - 0.5 * self.yaw_rate * age;
        let chord = self.speed * age;
        Pose {
            position: Vec3::new(-chord * middle.cos(), -chord * middle.sin(), 0.0),
            yaw: self.yaw - self.yaw_rate * age,
        }
    }
}

/// Everything a scanner can see.
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

/// Builds a scene and rejects overlapping bodies.
pub(crate) struct Builder {
    pub(crate) rng: Rng,
    pub(crate) scene: Scene,
    /// Occupied ground.
    occupied: Vec<Footprint>,
}

impl Builder {
    pub(crate) fn new(mut rng: Rng, streets: Vec<Carriageway>, ego: Ego) -> Self {
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
            // The ego vehicle and the room it needs to move.
            occupied: vec![Footprint::new(&here, [-3.2, -1.5], [4.5, 1.5])],
        }
    }

    /// The pose of a body standing at a point of the ground.
    fn pose(&self, at: [f64; 2], yaw: f64) -> Pose {
        let position = Vec3::new(at[0], at[1], self.scene.ground.height(at));
        Pose { position, yaw }
    }
    /// Occupies the ground of `body` if it is within reach and free with `margin` around it.
    fn occupy(&mut self, body: &Body, pose: &Pose, margin: f64) -> bool {
        let [x, y] = [pose.position.x, pose.position.y];
        let footprint = body.footprint(pose);
        let grown = footprint.grown(margin);
        if x.hypot(y) > REACH || self.occupied.iter().any(|other| grown.overlaps(other)) {
            return false;
        }
        self.occupied.push(footprint);
        true
    }

    /// Places a static body at a point if there is room with `margin` around it.
    pub(crate) fn put_static(&mut self, body: &Body, at: [f64; 2], yaw: f64, margin: f64) -> bool {
        let pose = self.pose(at, yaw);
        let room = self.occupy(body, &pose, margin);
        if room {
            self.scene.solids.extend(body.placed(&pose, None));
        }
        room
    }

    /// Places a labelled object at a point if there is room with `margin` around it.
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
        let room = self.occupy(&body, &pose, margin);
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

    /// Places a group of people around a point, who stand together or walk in the same direction.
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

/// Places parked bicycles side by side.
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
