//! Whole scenes: roads, crossings, car parks and squares.
//!
//! Streets run in any direction of the world frame; the ego vehicle's yaw turns the world into the vehicle frame
//! at the end.

use std::f64::consts::{FRAC_PI_2, PI, TAU};

use super::builder::{Builder, Class, Ego, Motion, Scene, bicycle_rack};
use super::furniture;
use super::rng::Rng;
use super::street::{self, Street};

/// Makes a scene from a random stream.
pub(crate) fn generate(mut rng: Rng) -> Scene {
    match rng.weighted(&[0.38, 0.32, 0.14, 0.16]) {
        0 => road(rng, false),
        1 => road(rng, true),
        2 => car_park(rng),
        _ => square(rng),
    }
}

/// The ego vehicle on a street, roughly aligned with it.
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

/// A straight road, or two crossing ones.
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

/// Surrounds an open place with buildings, walls or trees; `half` is its half length and half width.
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
            // Side 0 lies at +y with its front facing −y; the others are rotations of it.
            let (along, out) = (s + 0.5 * length, away + back);
            let (sin, cos) = yaw.sin_cos();
            let at = [cos * along - sin * out, sin * along + cos * out];
            builder.put_static(&body, at, yaw, 0.0);
            s += length + gap;
        }
    }
}

/// A car park: rows of bays along aisles, the ego vehicle in one of the aisles.
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

/// An open square with crowds, stalls, cyclists and a few delivery vehicles.
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

/// A random point in the rectangle; the density falls slightly with the distance from the ego vehicle.
fn place_in(rng: &mut Rng, half: [f64; 2]) -> [f64; 2] {
    half.map(|half| half * rng.range(-0.97, 0.97) * rng.range(0.5, 1.0))
}

/// Places singles, pairs and small groups of people, up to `most` groups.
fn scatter_people(builder: &mut Builder, half: [f64; 2], most: u32) {
    for _ in 0..builder.rng.int(0, most) {
        let at = place_in(&mut builder.rng, half);
        let count = 1 + builder.rng.weighted(&[0.6, 0.28, 0.12]) as u32;
        let walking = builder.rng.chance(0.75);
        builder.put_group(at, count, 0.7, walking);
    }
}

/// Places trees, lamps, bins and stalls, up to `most`.
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
