//! Pedestrians and bicycles: thin bodies of few primitives that return few points.

use super::rng::Rng;
use super::solids::{Body, Extrusion, Material};

/// Clothes of some colour.
fn cloth(rng: &mut Rng) -> Material {
    Material::opaque(rng.range(0.12, 0.7))
}

/// Bare skin and hair.
const SKIN: Material = Material::opaque(0.4);

/// A standing or walking person; `speed` in m/s sets the stride.
pub(crate) fn pedestrian(rng: &mut Rng, speed: f64) -> Body {
    let child = rng.chance(0.12);
    let height = if child {
        rng.range(1.0, 1.4)
    } else {
        rng.range(1.5, 1.95)
    };
    let build = rng.range(0.9, 1.2) * (height / 1.75).sqrt();
    let (trousers, coat) = (cloth(rng), cloth(rng));
    let mut body = Body::default();
    let hip = 0.5 * height;
    let shoulder = 0.82 * height;
    let stride = (0.1 * speed * height * rng.range(0.6, 1.1)).clamp(0.13, 0.3);
    let leading = rng.sign();
    for side in [-1.0, 1.0] {
        let (x, y) = (side * leading * stride, side * 0.1 * build);
        let radius = 0.075 * build;
        body.capsule([0.0, y, hip], [x, y, radius], radius, trousers);
        // Arms swing against the legs.
        let swing = -0.6 * x + 0.03;
        let reach = side * (0.215 * build).max(0.17);
        body.capsule(
            [0.0, reach, shoulder - 0.05],
            [swing, reach, hip],
            0.05 * build,
            coat,
        );
    }
    let chest = 0.5 * (hip + shoulder);
    body.ellipsoid(
        [0.0, 0.0, chest],
        [0.14 * build, 0.21 * build, 0.56 * (shoulder - hip)],
        coat,
    );
    let head = 0.068 * height;
    body.capsule(
        [0.02, 0.0, shoulder],
        [0.02, 0.0, height - head],
        0.6 * head,
        SKIN,
    );
    body.ellipsoid(
        [0.02, 0.0, height - 1.15 * head],
        [head, 0.8 * head, 1.15 * head],
        SKIN,
    );
    if rng.chance(0.2) {
        let pack = [0.13, 0.16, 0.25].map(|r: f64| r * build);
        body.ellipsoid([-0.16 * build, 0.0, chest + 0.08], pack, cloth(rng));
    }
    body
}

/// A bicycle, with a rider if `ridden`.
pub(crate) fn bicycle(rng: &mut Rng, ridden: bool) -> Body {
    let length = rng.range(1.6, 1.9);
    let wheel = rng.range(0.3, 0.36);
    let metal = Material::opaque(rng.range(0.15, 0.6));
    let mut body = Body::default();
    let axle = 0.5 * length - wheel;
    let tyre = Material::mesh(0.15, 0.45);
    for x in [axle, -axle] {
        body.wheel(x, wheel, Extrusion::straight(0.025), tyre);
    }
    let saddle = rng.range(0.85, 1.0);
    let bar = rng.range(1.0, 1.12);
    let grip = rng.range(0.22, 0.33);
    let pedals = [-0.05, 0.0, wheel - 0.03];
    let stem = [axle - 0.16, 0.0, bar - 0.03];
    body.capsule(pedals, [-0.18, 0.0, saddle - 0.05], 0.025, metal);
    body.capsule(pedals, [stem[0] + 0.03, 0.0, stem[2] - 0.2], 0.03, metal);
    body.capsule([-0.15, 0.0, saddle - 0.15], stem, 0.025, metal);
    body.capsule([-axle, 0.0, wheel], pedals, 0.02, metal);
    body.capsule([axle, 0.0, wheel], stem, 0.025, metal);
    body.capsule([stem[0], -grip, bar], [stem[0], grip, bar], 0.025, metal);
    body.ellipsoid([-0.2, 0.0, saddle], [0.14, 0.08, 0.05], metal);
    if rng.chance(0.3) {
        let basket = Material::mesh(0.3, 0.6);
        let x = [axle - 0.05, axle + 0.25];
        body.block(x, [-0.17, 0.17], [bar - 0.3, bar], basket);
    }
    if ridden {
        rider(rng, &mut body, stem[0], [grip, bar], saddle);
    }
    body
}

/// The person on a bicycle: bent forward, hands on the bar (`grip` to the side, `bar` high).
fn rider(rng: &mut Rng, body: &mut Body, stem: f64, [grip, bar]: [f64; 2], saddle: f64) {
    let (trousers, coat) = (cloth(rng), cloth(rng));
    let top = rng.range(1.58, 1.8);
    let head = 0.12;
    let shoulder = [rng.range(0.08, 0.2), top - 0.3];
    let hip = [-0.2, saddle + 0.08];
    body.capsule(
        [hip[0], 0.0, hip[1]],
        [shoulder[0], 0.0, shoulder[1] - 0.06],
        0.16,
        coat,
    );
    body.ellipsoid(
        [shoulder[0] + 0.08, 0.0, top - 1.15 * head],
        [head, 0.09, 1.15 * head],
        SKIN,
    );
    let phase = rng.range(-0.14, 0.14);
    for side in [-1.0, 1.0] {
        let knee = [0.2, side * 0.12, saddle - 0.12 + side * phase];
        let foot = [-0.02, side * 0.11, 0.25 + side * phase];
        body.capsule([hip[0], side * 0.1, hip[1]], knee, 0.075, trousers);
        body.capsule(knee, foot, 0.055, trousers);
        let hand = [stem - 0.02, side * (grip - 0.04), bar + 0.03];
        body.capsule(
            [shoulder[0], side * 0.19, shoulder[1] - 0.05],
            hand,
            0.045,
            coat,
        );
    }
}
