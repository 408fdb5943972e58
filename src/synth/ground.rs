//! The ground: a tilted, gently waving surface with streets, kerbs and markings on it.

use std::f64::consts::TAU;

use super::rng::Rng;

/// Height of the pavement above the carriageway in metres.
const KERB: f64 = 0.13;

/// The carriageway of a street, infinitely long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carriageway {
    /// A point on the centre line.
    pub(crate) origin: [f64; 2],
    /// Unit vector along the street.
    pub(crate) axis: [f64; 2],
    /// Half of the width between the kerbs.
    pub(crate) half_width: f64,
}

impl Carriageway {
    /// Distances of a point along the street and to its left.
    pub(crate) fn along(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [dx, dy] = [x - self.origin[0], y - self.origin[1]];
        let [c, s] = self.axis;
        [c * dx + s * dy, c * dy - s * dx]
    }
}

/// The ground's surface at a point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cover {
    /// Share of light reflected.
    pub(crate) reflectivity: f64,
    /// Standard deviation that its texture adds to a measured range, in metres.
    pub(crate) roughness: f64,
}

/// The height field. The height under the ego vehicle, at (0, 0), is 0.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    slope: [f64; 2],
    /// Amplitude, wave vector and phase of each wave.
    waves: [(f64, [f64; 2], f64); 3],
    offset: f64,
    /// The streets; the ground beside them is raised by the kerb.
    pub(crate) streets: Vec<Carriageway>,
    /// Surface beside the streets.
    pub(crate) open: Cover,
}

impl Ground {
    /// Creates a ground with the given streets; without streets it is one open place.
    pub(crate) fn new(rng: &mut Rng, streets: Vec<Carriageway>) -> Self {
        let slope = [rng.normal(0.008), rng.normal(0.008)];
        let waves = [(0.25, 110.0), (0.12, 60.0), (0.03, 22.0)].map(|(amplitude, length)| {
            let (angle, k) = (rng.range(0.0, TAU), TAU / (length * rng.range(0.8, 1.4)));
            let wave = [k * angle.cos(), k * angle.sin()];
            (amplitude * rng.uniform(), wave, rng.range(0.0, TAU))
        });
        let grass = !streets.is_empty() && rng.chance(0.35);
        let open = Cover {
            reflectivity: if grass { 0.4 } else { rng.range(0.18, 0.32) },
            roughness: if grass { 0.04 } else { 0.012 },
        };
        let mut ground = Self {
            slope,
            waves,
            offset: 0.0,
            streets,
            open,
        };
        ground.offset = ground.height([0.0, 0.0]);
        ground
    }

    /// Height at a point in metres.
    pub(crate) fn height(&self, [x, y]: [f64; 2]) -> f64 {
        let mut height = self.slope[0] * x + self.slope[1] * y - self.offset;
        for (amplitude, wave, phase) in &self.waves {
            height += amplitude * (wave[0] * x + wave[1] * y + phase).sin();
        }
        let on_street = |street: &Carriageway| street.along([x, y])[1].abs() < street.half_width;
        if !self.streets.is_empty() && !self.streets.iter().any(on_street) {
            height += KERB;
        }
        height
    }

    /// The surface at a point.
    pub(crate) fn cover(&self, point: [f64; 2]) -> Cover {
        for street in &self.streets {
            let [s, d] = street.along(point);
            let edge = street.half_width - d.abs();
            if edge < 0.0 {
                continue;
            }
            let dash = d.abs() < 0.08 && s.rem_euclid(9.0) < 3.0;
            let line = (edge - 0.25).abs() < 0.07;
            return Cover {
                reflectivity: if dash || line { 0.7 } else { 0.16 },
                roughness: 0.008,
            };
        }
        self.open
    }
}
