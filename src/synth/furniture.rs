//! Unlabelled parts of a scene: buildings, walls, fences, poles, trees, and things that look like objects from
//! a distance.
//!
//! Bodies reach below z = 0 to meet sloping ground.

use super::rng::Rng;
use super::solids::{Body, Extrusion, Material};

/// z of the underside of static bodies, in metres.
const DEPTH: f64 = -2.0;

fn stone(rng: &mut Rng) -> Material {
    Material::opaque(rng.range(0.15, 0.65))
}

/// A house `length` along x and `depth` along y, whose street side is at y = −depth / 2.
pub(crate) fn building(rng: &mut Rng, length: f64, depth: f64) -> Body {
    let mut body = Body::default();
    let wall = stone(rng);
    let height = rng.range(3.0, 18.0);
    let (half, front) = (0.5 * length, -0.5 * depth);
    if rng.chance(0.25) && length > 12.0 {
        // L-shaped: one wing is set back.
        let split = rng.range(-0.2, 0.2) * length;
        let back = front + rng.range(2.0, 0.6 * depth);
        body.block([-half, split], [front, -front], [DEPTH, height], wall);
        body.block([split, half], [back, -front], [DEPTH, height * 0.8], wall);
    } else {
        body.block([-half, half], [front, -front], [DEPTH, height], wall);
    }
    // Pilasters, doorways, balconies and shop signs: relief in front of the wall.
    let relief = stone(rng);
    let spacing = rng.range(2.5, 6.0);
    let step = rng.range(0.08, 0.35);
    let mut x = -half + 0.5 * spacing;
    let kind = rng.int(0, 2);
    while x < half - 0.5 {
        match kind {
            0 => body.block(
                [x - 0.25, x + 0.25],
                [front - step, front + 0.1],
                [DEPTH, height],
                relief,
            ),
            1 => body.block(
                [x - 0.9, x + 0.9],
                [front - 3.0 * step, front + 0.1],
                [3.2, 4.2],
                relief,
            ),
            _ => body.block(
                [x - 0.6, x + 0.6],
                [front - 0.02, front + 0.1],
                [0.9, 2.3],
                Material::mesh(0.05, 0.3),
            ),
        }
        x += spacing;
    }
    body
}

/// A straight wall along x.
pub(crate) fn wall(rng: &mut Rng, length: f64) -> Body {
    let mut body = Body::default();
    let half = 0.5 * length;
    let thickness = rng.range(0.1, 0.2);
    let top = rng.range(0.6, 2.4);
    body.block(
        [-half, half],
        [-thickness, thickness],
        [DEPTH, top],
        stone(rng),
    );
    body
}

/// A fence along x: posts, and a mesh that returns some of the rays.
pub(crate) fn fence(rng: &mut Rng, length: f64) -> Body {
    let mut body = Body::default();
    let half = 0.5 * length;
    let top = rng.range(0.9, 2.0);
    let mesh = Material::mesh(rng.range(0.2, 0.5), rng.range(0.15, 0.6));
    body.block([-half, half], [-0.02, 0.02], [0.05, top], mesh);
    let spans = (length / 2.5).ceil().max(1.0) as u32;
    for post in 0..=spans {
        let x = -half + length * f64::from(post) / f64::from(spans);
        body.capsule([x, 0.0, DEPTH], [x, 0.0, top], 0.04, Material::opaque(0.35));
    }
    body
}

/// A hedge along x.
pub(crate) fn hedge(rng: &mut Rng, length: f64) -> Body {
    let mut body = Body::default();
    let (half, wide) = (0.5 * length, rng.range(0.3, 0.9));
    let leaves = Material::foliage(rng.range(0.25, 0.5), rng.range(3.0, 8.0));
    body.block(
        [-half, half],
        [-wide, wide],
        [DEPTH, rng.range(0.7, 2.0)],
        leaves,
    );
    body
}

/// A tree: trunk and a crown of two or three ellipsoids.
pub(crate) fn tree(rng: &mut Rng) -> Body {
    let mut body = Body::default();
    let trunk = rng.range(0.08, 0.28);
    let clear = rng.range(2.4, 4.0);
    let height = clear + rng.range(2.0, 7.0);
    let spread = rng.range(1.2, 3.2);
    body.capsule(
        [0.0, 0.0, DEPTH],
        [0.0, 0.0, clear + 1.0],
        trunk,
        Material::opaque(0.25),
    );
    let leaves = Material::foliage(rng.range(0.2, 0.5), rng.range(0.4, 1.6));
    let middle = 0.5 * (clear + height);
    for _ in 0..rng.int(1, 3) {
        let (dx, dy) = (rng.normal(0.3) * spread, rng.normal(0.3) * spread);
        let radii = [
            spread * rng.range(0.6, 1.0),
            spread * rng.range(0.6, 1.0),
            0.5 * (height - clear) * rng.range(0.7, 1.0),
        ];
        body.ellipsoid([dx, dy, middle + rng.normal(0.3)], radii, leaves);
    }
    let base = 2.0 * trunk + 0.3;
    body.with_base(base, base)
}

/// A bush, from a shrub to the size of a small car.
pub(crate) fn bush(rng: &mut Rng) -> Body {
    let mut body = Body::default();
    let size = rng.range(0.3, 1.3);
    let leaves = Material::foliage(rng.range(0.2, 0.5), rng.range(2.0, 7.0));
    for _ in 0..rng.int(1, 3) {
        let at = [rng.normal(0.4) * size, rng.normal(0.25) * size, 0.4 * size];
        let radii = [0.6, 0.5, 0.7].map(|r: f64| r * size * rng.range(0.8, 1.3));
        body.ellipsoid(at, radii, leaves);
    }
    body
}

/// A street lamp, sign post, traffic light or bollard.
pub(crate) fn pole(rng: &mut Rng) -> Body {
    let mut body = Body::default();
    let steel = Material::opaque(rng.range(0.2, 0.6));
    let mut post = |top: f64, radius: f64| {
        body.capsule([0.0, 0.0, DEPTH], [0.0, 0.0, top], radius, steel);
    };
    match rng.weighted(&[0.35, 0.3, 0.15, 0.2]) {
        0 => {
            let top = rng.range(5.0, 9.0);
            post(top, rng.range(0.06, 0.14));
            body.capsule([0.0, 0.0, top], [0.0, -1.5, top + 0.1], 0.06, steel);
        }
        1 => {
            let top = rng.range(2.1, 3.0);
            post(top, 0.04);
            let half = rng.range(0.2, 0.45);
            let sign = Material::opaque(rng.range(0.7, 1.0));
            body.block([-0.05, -0.03], [-half, half], [top - 2.0 * half, top], sign);
        }
        2 => {
            post(rng.range(3.2, 4.0), 0.08);
            body.block(
                [-0.15, 0.15],
                [-0.18, 0.18],
                [2.2, 3.2],
                Material::opaque(0.1),
            );
        }
        _ => post(rng.range(0.8, 1.3), rng.range(0.05, 0.12)),
    }
    body.with_base(0.4, 0.4)
}

/// Something small on the pavement: bin, hydrant, cabinet, bench, parcel locker, advertising pillar,
/// a pole with a coat of posters. From a distance many of them look like a person.
pub(crate) fn small(rng: &mut Rng) -> Body {
    let mut body = Body::default();
    let skin = stone(rng);
    match rng.int(0, 6) {
        0 => {
            let r = rng.range(0.2, 0.35);
            body.capsule([0.0, 0.0, DEPTH], [0.0, 0.0, 0.9 - r], r, skin);
        }
        1 => {
            body.capsule([0.0, 0.0, DEPTH], [0.0, 0.0, 0.7], 0.14, skin);
            body.capsule([0.0, -0.18, 0.5], [0.0, 0.18, 0.5], 0.08, skin);
        }
        2 => {
            let (x, y) = (rng.range(0.2, 0.7), rng.range(0.2, 0.35));
            let top = rng.range(1.0, 2.1);
            body.block([-x, x], [-y, y], [DEPTH, top], skin);
        }
        3 => {
            body.block([-0.8, 0.8], [-0.25, 0.25], [0.4, 0.48], skin);
            body.block([-0.8, 0.8], [0.22, 0.28], [0.4, 0.9], skin);
            for x in [[-0.7, -0.6], [0.6, 0.7]] {
                body.block(x, [-0.22, 0.22], [DEPTH, 0.42], skin);
            }
        }
        4 => {
            let top = rng.range(1.5, 3.2);
            let radius = rng.range(0.18, 0.6);
            body.capsule([0.0, 0.0, DEPTH], [0.0, 0.0, top - radius], radius, skin);
        }
        5 => {
            // A thin young tree with a stake, which has the outline of a person.
            body.capsule([0.0, 0.0, DEPTH], [0.0, 0.0, 1.2], 0.06, skin);
            let leaves = Material::foliage(0.35, 5.0);
            let radii = [0.3, 0.3, rng.range(0.4, 0.7)];
            body.ellipsoid([0.0, 0.0, 1.3], radii, leaves);
        }
        _ => {
            // A board or an A-shaped sign.
            let half = rng.range(0.25, 0.5);
            let top = rng.range(0.9, 1.8);
            body.block([-0.06, 0.06], [-half, half], [DEPTH, top], skin);
        }
    }
    body
}

/// Something as big as a vehicle: container, kiosk, skip, concrete blocks, a stack of pallets, a covered stand.
pub(crate) fn large(rng: &mut Rng) -> Body {
    let mut body = Body::default();
    let skin = stone(rng);
    match rng.int(0, 5) {
        0 => {
            let half = if rng.chance(0.3) { 6.0 } else { 3.03 };
            body.block([-half, half], [-1.22, 1.22], [DEPTH, 2.6], skin);
        }
        1 => {
            let (x, y) = (rng.range(1.2, 3.0), rng.range(1.0, 1.5));
            body.block([-x, x], [-y, y], [DEPTH, 2.5], skin);
            let roof = [-y - 0.4, y + 0.4];
            body.block([-x - 0.3, x + 0.3], roof, [2.5, 2.7], skin);
        }
        2 => {
            let profile = [[-1.9, 1.3], [1.9, 1.3], [1.3, DEPTH], [-1.3, DEPTH]];
            body.prism(&profile, Extrusion::straight(0.85), skin);
        }
        3 => {
            let y = rng.range(0.3, 0.9);
            let top = rng.range(0.7, 1.6);
            let half = rng.range(1.2, 2.6);
            body.block([-half, half], [-y, y], [DEPTH, top], skin);
        }
        4 => {
            for _ in 0..rng.int(2, 4) {
                let (x, y) = (rng.normal(1.0), rng.normal(0.5));
                let top = rng.range(0.4, 1.9);
                body.block([x - 0.6, x + 0.6], [y - 0.5, y + 0.5], [DEPTH, top], skin);
            }
        }
        _ => {
            let half = rng.range(1.5, 2.2);
            for (x, y) in [(half, 0.7), (half, -0.7), (-half, 0.7), (-half, -0.7)] {
                body.capsule([x, y, DEPTH], [x, y, 2.3], 0.04, skin);
            }
            let back = Material::mesh(0.3, 0.6);
            body.block([-half, half], [0.68, 0.72], [0.3, 2.2], back);
            body.block([-half, half], [-0.8, 0.8], [2.3, 2.4], skin);
        }
    }
    body
}
