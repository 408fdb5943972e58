//! One street: traffic in lanes, parked rows, bus stops, cyclists, pedestrians, furniture, facades.
//!
//! Street coordinates are `s` along the street and `d` to its left; traffic keeps to the right, so
//! the lanes with `d < 0` run towards +s.

use std::f64::consts::{FRAC_PI_2, PI};

use super::builder::{Builder, Class, Motion, REACH, bicycle_rack};
use super::furniture;
use super::ground::Carriageway;
use super::rng::Rng;

/// The cross-section of a street and where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Street {
    /// A point on the centre line in the world.
    pub(crate) origin: [f64; 2],
    /// Direction of +s in the world.
    pub(crate) yaw: f64,
    /// Lanes in each direction.
    pub(crate) lanes: u32,
    /// Width of a lane.
    lane_width: f64,
    /// Width of the parking strip on the right (d < 0) and left; 0 for none.
    parking: [f64; 2],
    /// Width of the pavement.
    pavement: f64,
    /// Share of the roadside that is built up, 0..=1.
    built: f64,
    /// Mean gap between vehicles in a lane, in metres.
    gap: f64,
}

impl Street {
    /// A street along the world's x axis.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut strip = || {
            if rng.chance(0.6) { 2.4 } else { 0.0 }
        };
        let parking = [strip(), strip()];
        Self {
            origin: [0.0; 2],
            yaw: 0.0,
            lanes: 1 + rng.weighted(&[0.6, 0.33, 0.07]) as u32,
            lane_width: rng.range(3.2, 3.7),
            parking,
            pavement: rng.range(2.5, 5.5),
            built: rng.range(0.1, 1.0),
            gap: rng.range(20.0, 70.0),
        }
    }

    /// Distance from the centre line to the middle of lane `lane`.
    pub(crate) fn lane_offset(&self, lane: u32) -> f64 {
        (f64::from(lane) + 0.5) * self.lane_width
    }

    /// Distance from the centre line to the kerb; both sides have the width of the wider one.
    fn kerb(&self) -> f64 {
        let parking = self.parking[0].max(self.parking[1]);
        f64::from(self.lanes) * self.lane_width + 0.5 + parking
    }

    /// The carriageway, for the ground.
    pub(crate) fn carriageway(&self) -> Carriageway {
        Carriageway {
            origin: self.origin,
            axis: [self.yaw.cos(), self.yaw.sin()],
            half_width: self.kerb(),
        }
    }

    /// Converts street coordinates to world coordinates.
    fn at(&self, s: f64, d: f64) -> [f64; 2] {
        let (sin, cos) = self.yaw.sin_cos();
        [
            self.origin[0] + cos * s - sin * d,
            self.origin[1] + sin * s + cos * d,
        ]
    }
}

/// Whether a point lies within `margin` of the kerbs of a street other than number `own`.
fn on_other(streets: &[Street], own: usize, at: [f64; 2], margin: f64) -> bool {
    streets
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != own)
        .any(|(_, street)| street.carriageway().along(at)[1].abs() < street.kerb() + margin)
}

/// The heading of traffic on a side of a street: side −1 is the right (d < 0), +1 the left.
fn heading(street: &Street, side: f64) -> f64 {
    if side < 0.0 {
        street.yaw
    } else {
        street.yaw + PI
    }
}

/// Places everything between the kerbs of street `own`.
pub(crate) fn fill_carriageway(builder: &mut Builder, streets: &[Street], own: usize) {
    let Some(street) = streets.get(own) else {
        return;
    };
    for side in [-1.0, 1.0] {
        bus_stop(builder, streets, own, side);
        for lane in 0..street.lanes {
            traffic(builder, street, side, lane);
        }
        parked(builder, streets, own, side);
        cyclists(builder, street, side);
    }
    // People crossing the street.
    for _ in 0..builder.rng.weighted(&[0.5, 0.3, 0.2]) {
        let s = builder.rng.range(-60.0, 60.0);
        for _ in 0..builder.rng.int(1, 3) {
            let rng = &mut builder.rng;
            let d = rng.range(-1.0, 1.0) * street.kerb();
            let at = street.at(s + rng.normal(1.2), d);
            let yaw = street.yaw + rng.sign() * FRAC_PI_2 + rng.normal(0.2);
            let speed = rng.range(0.7, 2.0);
            builder.put(Class::Pedestrian, Motion::Going(speed), at, yaw, 0.3);
        }
    }
}

/// Places buses and waiting people at the kerb.
fn bus_stop(builder: &mut Builder, streets: &[Street], own: usize, side: f64) {
    let Some(street) = streets.get(own) else {
        return;
    };
    if !builder.rng.chance(0.4) {
        return;
    }
    let mut s = builder.rng.range(-55.0, 55.0);
    for _ in 0..builder.rng.int(1, 2) {
        let d = side * (street.kerb() - 1.75);
        let at = street.at(s, d);
        if !on_other(streets, own, at, 8.0) {
            let yaw = heading(street, side) + builder.rng.normal(0.02);
            builder.put(Class::Bus, Motion::Going(0.0), at, yaw, 0.4);
        }
        s += builder.rng.range(14.0, 16.0);
    }
    let at = street.at(s - 15.0, side * (street.kerb() + 1.2));
    let count = builder.rng.int(1, 7);
    builder.put_group(at, count, 1.4, false);
}

/// Places vehicles in one lane, all at about the same speed.
fn traffic(builder: &mut Builder, street: &Street, side: f64, lane: u32) {
    let queue = builder.rng.chance(0.18);
    let speed = if queue {
        0.0
    } else {
        builder.rng.range(3.0, 14.0)
    };
    let gap = if queue { 7.0 } else { street.gap };
    let mut s = -REACH + builder.rng.exponential(gap);
    while s < REACH {
        let rng = &mut builder.rng;
        let (class, length) = match rng.weighted(&[0.68, 0.2, 0.1, 0.02]) {
            0 => (Class::Car, 4.8),
            1 => (Class::Truck, 8.0),
            2 => (Class::Bus, 12.0),
            _ => (Class::Bicycle, 1.8),
        };
        let speed = match class {
            Class::Bicycle => rng.range(3.0, 7.0),
            _ => (speed + rng.normal(0.5)).clamp(0.0, 15.0) * f64::from(u8::from(!queue)),
        };
        let d = side * (street.lane_offset(lane) + rng.normal(0.2));
        let yaw = heading(street, side) + rng.normal(0.02);
        builder.put(
            class,
            Motion::Going(speed),
            street.at(s + 0.5 * length, d),
            yaw,
            0.3,
        );
        s += length + 2.0 + builder.rng.exponential(gap);
        if queue && builder.rng.chance(0.12) {
            s += 60.0;
        }
    }
}

/// Places the row of parked vehicles at one kerb.
fn parked(builder: &mut Builder, streets: &[Street], own: usize, side: f64) {
    let Some(street) = streets.get(own) else {
        return;
    };
    let width = street.parking[usize::from(side > 0.0)];
    if width == 0.0 {
        return;
    }
    let filled = builder.rng.range(0.05, 0.5);
    let mut s = -REACH;
    while s < REACH {
        let rng = &mut builder.rng;
        let (class, length) = match rng.weighted(&[0.83, 0.17]) {
            0 => (Class::Car, 5.0),
            _ => (Class::Truck, 8.5),
        };
        let there = rng.chance(filled);
        let d = side * (street.kerb() - 1.2 + rng.normal(0.08));
        let flip = if rng.chance(0.12) { PI } else { 0.0 };
        let yaw = heading(street, side) + flip + rng.normal(0.025);
        let at = street.at(s + 0.5 * length, d);
        if there && !on_other(streets, own, at, 6.0) {
            builder.put(class, Motion::Parked, at, yaw, 0.2);
        }
        s += length + builder.rng.range(0.6, 1.8);
    }
}

/// Places cyclists near the kerb.
fn cyclists(builder: &mut Builder, street: &Street, side: f64) {
    for _ in 0..builder.rng.weighted(&[0.35, 0.3, 0.2, 0.15]) {
        let rng = &mut builder.rng;
        let inside = street.kerb() - street.parking[usize::from(side > 0.0)];
        let d = side * (inside - rng.range(0.4, 1.1));
        let at = street.at(rng.range(-0.75, 0.75) * REACH, d);
        let yaw = heading(street, side) + rng.normal(0.06);
        let speed = rng.range(2.0, 7.0);
        builder.put(Class::Bicycle, Motion::Going(speed), at, yaw, 0.25);
    }
}

/// Places everything outside the kerbs of street `own`.
pub(crate) fn fill_sides(builder: &mut Builder, streets: &[Street], own: usize) {
    for side in [-1.0, 1.0] {
        facades(builder, streets, own, side);
        pavement(builder, streets, own, side);
    }
}

/// Places houses, walls, hedges and open land along the pavement's outer edge.
fn facades(builder: &mut Builder, streets: &[Street], own: usize, side: f64) {
    let Some(street) = streets.get(own) else {
        return;
    };
    let edge = street.kerb() + street.pavement;
    let setback = builder.rng.range(0.0, 9.0) * (1.0 - street.built);
    let mut s = -REACH;
    while s < REACH {
        let rng = &mut builder.rng;
        let length = rng.range(7.0, 28.0);
        let depth = rng.range(7.0, 14.0);
        let kind = if rng.chance(street.built) {
            0
        } else {
            rng.int(1, 5)
        };
        let (body, back) = match kind {
            0 => {
                let back = setback + rng.range(0.0, 0.6) + 0.5 * depth;
                (furniture::building(rng, length, depth), back)
            }
            1 => (furniture::fence(rng, length), 0.3),
            2 => (furniture::hedge(rng, length), 1.0),
            3 => (furniture::wall(rng, length), 0.4),
            _ => (furniture::large(rng), rng.range(2.5, 8.0)),
        };
        // A body's front is at −y: it faces the street on the left side, and is turned around on the right.
        let yaw = street.yaw + if side > 0.0 { 0.0 } else { PI };
        let at = street.at(s + 0.5 * length, side * (edge + back));
        // Keep at least half of the body's diagonal clear of the other street.
        let clear = 2.5 + 0.5 * length.hypot(depth);
        if !on_other(streets, own, at, clear) {
            builder.put_static(&body, at, yaw, 0.0);
        }
        if kind != 0 {
            yard(builder, streets, own, side * (edge + 2.0), s);
        }
        s += length + builder.rng.range(0.0, 3.0);
    }
}

/// Places trees, bushes and parked vehicles behind an open stretch that starts at `s`.
fn yard(builder: &mut Builder, streets: &[Street], own: usize, edge: f64, s: f64) {
    let Some(street) = streets.get(own) else {
        return;
    };
    for _ in 0..builder.rng.int(1, 5) {
        let rng = &mut builder.rng;
        let d = edge + edge.signum() * rng.range(0.0, 25.0);
        let at = street.at(s + rng.range(0.0, 20.0), d);
        let yaw = rng.range(-PI, PI);
        let kind = rng.weighted(&[0.4, 0.25, 0.12, 0.1, 0.08, 0.05]);
        if on_other(streets, own, at, 6.0) {
            continue;
        }
        match kind {
            0 => {
                let body = furniture::tree(&mut builder.rng);
                builder.put_static(&body, at, yaw, 0.3)
            }
            1 => {
                let body = furniture::bush(&mut builder.rng);
                builder.put_static(&body, at, yaw, 0.1)
            }
            2 => {
                let body = furniture::large(&mut builder.rng);
                builder.put_static(&body, at, yaw, 0.3)
            }
            3 => builder.put(Class::Car, Motion::Parked, at, yaw, 0.4),
            4 => builder.put(Class::Pedestrian, Motion::Going(0.0), at, yaw, 0.2),
            _ => builder.put(Class::Truck, Motion::Parked, at, yaw, 0.4),
        };
    }
}

/// Places lamps, trees, bins, bicycles and people between the kerb and the facades.
fn pavement(builder: &mut Builder, streets: &[Street], own: usize, side: f64) {
    let Some(street) = streets.get(own) else {
        return;
    };
    let kerb = street.kerb();
    let trees = builder.rng.chance(0.5);
    let step = builder.rng.range(7.0, 16.0);
    let mut s = -REACH + builder.rng.range(0.0, step);
    while s < REACH {
        let rng = &mut builder.rng;
        let kind = rng.weighted(&[if trees { 0.5 } else { 0.02 }, 0.35, 0.3, 0.1]);
        let body = match kind {
            0 => furniture::tree(rng),
            1 => furniture::pole(rng),
            2 => furniture::small(rng),
            _ => furniture::bush(rng),
        };
        let at = street.at(s, side * (kerb + rng.range(0.5, 0.9)));
        let yaw = street.yaw + if side > 0.0 { 0.0 } else { PI } + rng.normal(0.1);
        if !on_other(streets, own, at, 0.3) {
            builder.put_static(&body, at, yaw, 0.1);
        }
        s += step * builder.rng.range(0.4, 1.6);
    }
    if builder.rng.chance(0.3) {
        let rng = &mut builder.rng;
        let at = street.at(rng.range(-60.0, 60.0), side * (kerb + 1.2));
        let yaw = street.yaw + FRAC_PI_2;
        if !on_other(streets, own, at, 3.0) {
            bicycle_rack(builder, at, yaw);
        }
    }
    for _ in 0..builder.rng.int(0, 4) {
        let count = 1 + builder.rng.weighted(&[0.62, 0.28, 0.1]);
        let rng = &mut builder.rng;
        let s = rng.range(-0.9, 0.9) * REACH;
        let d = rng.range(0.4, street.pavement - 0.4);
        let heading = street.yaw + if rng.chance(0.5) { PI } else { 0.0 };
        let speed = if rng.chance(0.15) {
            0.0
        } else {
            rng.range(0.7, 1.8)
        };
        for person in 0..count {
            let rng = &mut builder.rng;
            let d = (d + 0.7 * person as f64).min(street.pavement - 0.3);
            let at = street.at(s + rng.normal(0.5), side * (kerb + d));
            let yaw = heading + rng.normal(0.12);
            if !on_other(streets, own, at, 0.2) {
                builder.put(Class::Pedestrian, Motion::Going(speed), at, yaw, 0.06);
            }
        }
    }
}
