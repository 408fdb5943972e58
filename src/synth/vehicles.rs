//! Cars, trucks and buses: bodies of real proportions with random variation.
//!
//! Every function returns a [`Body`] with x forward and the wheels at z = 0. The variants overlap on purpose
//! where classes overlap on real roads: long vans and pickups, minibuses and box trucks.

use super::rng::Rng;
use super::solids::{Body, Extrusion, Material};

/// Tyres and underbodies.
const RUBBER: Material = Material::opaque(0.06);
/// Window panes, which let most of the light through.
const GLASS: Material = Material::mesh(0.12, 0.55);
/// Number plates and reflectors, which send light straight back.
const PLATE: Material = Material::opaque(0.95);

/// A paint, from white to black.
fn paint(rng: &mut Rng) -> Material {
    let reflectivity = match rng.weighted(&[0.25, 0.2, 0.2, 0.2, 0.15]) {
        0 => rng.range(0.6, 0.85),
        1 => rng.range(0.4, 0.6),
        2 => rng.range(0.25, 0.4),
        3 => rng.range(0.12, 0.25),
        _ => rng.range(0.04, 0.1),
    };
    Material::opaque(reflectivity)
}

/// Four or more wheels of `radius` at the given positions along x, `track` apart on the outside.
fn wheels(body: &mut Body, xs: &[f64], track: f64, radius: f64) {
    let half_width = 0.32 * radius;
    for &x in xs {
        for side in [-1.0, 1.0] {
            let y = side * (0.5 * track - half_width);
            let side = Extrusion {
                y,
                ..Extrusion::straight(half_width)
            };
            body.wheel(x, radius, side, RUBBER);
        }
    }
}

/// Front and rear number plates at height `z`, flush with the ends at `±half_length`.
fn plates(body: &mut Body, half_length: f64, z: f64) {
    for x in [
        [half_length - 0.02, half_length],
        [-half_length, 0.02 - half_length],
    ] {
        body.block(x, [-0.26, 0.26], [z, z + 0.12], PLATE);
    }
}

/// A passenger car: sedan, hatchback, SUV or small van.
pub(crate) fn car(rng: &mut Rng) -> Body {
    let kind = rng.weighted(&[0.33, 0.3, 0.25, 0.12]);
    let (l, w, h) = match kind {
        0 => (
            rng.range(4.4, 5.1),
            rng.range(1.75, 1.92),
            rng.range(1.4, 1.5),
        ),
        1 => (
            rng.range(3.6, 4.4),
            rng.range(1.62, 1.82),
            rng.range(1.42, 1.58),
        ),
        2 => (
            rng.range(4.2, 4.9),
            rng.range(1.78, 2.0),
            rng.range(1.58, 1.85),
        ),
        _ => (
            rng.range(4.3, 5.2),
            rng.range(1.78, 2.0),
            rng.range(1.75, 2.0),
        ),
    };
    // Start and end of the cabin as shares of the length: rear foot, rear top, front top, front foot.
    let cabin = match kind {
        0 => [-0.4, -0.22, 0.06, 0.24],
        1 => [-0.485, -0.4, 0.08, 0.27],
        2 => [-0.485, -0.42, 0.08, 0.26],
        _ => [-0.49, -0.46, 0.2, 0.4],
    };
    let paint = paint(rng);
    let mut body = Body::default();
    let (end, half) = (0.5 * l - 0.015, 0.5 * w);
    let clear = rng.range(0.16, 0.26);
    let belt = h * rng.range(0.57, 0.63);
    let nose = belt - rng.range(0.12, 0.25);
    let shell = [
        [-end, clear],
        [-end, 0.93 * belt],
        [-end + 0.12, belt],
        [l * cabin[3], belt],
        [end - 0.15, nose],
        [end, nose - 0.2],
        [end, clear],
    ];
    let side = Extrusion {
        chamfer: rng.range(0.12, 0.3),
        ..Extrusion::straight(half)
    };
    body.prism(&shell, side, paint);
    let windows = [
        [l * cabin[0], belt],
        [l * cabin[1], h],
        [l * cabin[2], h],
        [l * cabin[3], belt],
    ];
    let side = Extrusion {
        taper: rng.range(0.1, 0.2),
        ..Extrusion::straight(half - 0.04)
    };
    body.prism(&windows, side, GLASS);
    let roof = half - 0.04 - side.taper;
    body.block(
        [l * cabin[1], l * cabin[2]],
        [-roof, roof],
        [h - 0.06, h],
        paint,
    );
    // Window posts, the part of a cabin besides the roof that a lidar sees.
    for y in [-1.0, 1.0] {
        let foot = y * (half - 0.08);
        let top = y * (roof - 0.03);
        for (x, x_top) in [(cabin[0], cabin[1]), (cabin[3], cabin[2]), (-0.08, -0.08)] {
            body.capsule(
                [l * x, foot, belt],
                [l * x_top, top, h - 0.05],
                0.045,
                paint,
            );
        }
    }
    plates(&mut body, 0.5 * l, clear + 0.2);
    wheels(&mut body, &[0.31 * l, -0.3 * l], w - 0.02, 0.068 * l + 0.02);
    body
}

/// A goods vehicle: pickup, large van, box truck, flatbed, tipper or articulated box.
pub(crate) fn truck(rng: &mut Rng) -> Body {
    match rng.weighted(&[0.17, 0.25, 0.36, 0.22]) {
        0 => pickup(rng),
        1 => van(rng),
        2 => lorry(rng, true),
        _ => lorry(rng, false),
    }
}

fn pickup(rng: &mut Rng) -> Body {
    let (l, w, h) = (
        rng.range(5.2, 5.9),
        rng.range(1.85, 2.2),
        rng.range(1.75, 2.0),
    );
    let paint = paint(rng);
    let mut body = Body::default();
    let (end, half) = (0.5 * l - 0.015, 0.5 * w);
    let belt = 0.6 * h;
    let shell = [
        [-end, 0.35],
        [-end, belt - 0.35],
        [0.26 * l, belt],
        [end - 0.1, belt - 0.1],
        [end, belt - 0.3],
        [end, 0.35],
    ];
    let side = Extrusion {
        chamfer: 0.12,
        ..Extrusion::straight(half)
    };
    body.prism(&shell, side, paint);
    let cabin = [
        [-0.14 * l, belt - 0.3],
        [-0.11 * l, h],
        [0.12 * l, h],
        [0.27 * l, belt - 0.02],
    ];
    let side = Extrusion {
        taper: 0.16,
        ..Extrusion::straight(half - 0.04)
    };
    body.prism(&cabin, side, GLASS);
    let roof = half - 0.2;
    body.block([-0.11 * l, 0.12 * l], [-roof, roof], [h - 0.06, h], paint);
    // The open bed's walls.
    let wall = [0.3, belt + 0.05];
    body.block([-end, -0.14 * l], [half - 0.08, half], wall, paint);
    body.block([-end, -0.14 * l], [-half, 0.08 - half], wall, paint);
    body.block([-end, 0.06 - end], [-half, half], wall, paint);
    if rng.chance(0.4) {
        let load = rng.range(0.1, 0.5);
        body.block(
            [-end + 0.2, -0.18 * l],
            [-half + 0.15, half - 0.15],
            [belt - 0.3, (belt + load).min(h)],
            Material::opaque(0.3),
        );
    }
    plates(&mut body, 0.5 * l, 0.5);
    wheels(&mut body, &[0.31 * l, -0.29 * l], w - 0.02, 0.39);
    body
}

fn van(rng: &mut Rng) -> Body {
    let (l, w, h) = (
        rng.range(5.3, 7.0),
        rng.range(2.0, 2.25),
        rng.range(2.2, 2.8),
    );
    let paint = paint(rng);
    let mut body = Body::default();
    let (end, half) = (0.5 * l - 0.015, 0.5 * w);
    let hood = rng.range(0.5, 0.9);
    let shell = [
        [-end, 0.3],
        [-end, h],
        [end - hood - 0.7, h],
        [end - hood, 1.25],
        [end - 0.05, 1.0],
        [end, 0.3],
    ];
    let side = Extrusion {
        taper: 0.1,
        chamfer: 0.1,
        ..Extrusion::straight(half)
    };
    body.prism(&shell, side, paint);
    plates(&mut body, 0.5 * l, 0.5);
    wheels(&mut body, &[0.5 * l - 1.0, 1.1 - 0.5 * l], w - 0.02, 0.36);
    body
}

/// A truck with a cab in front and a box, or a flatbed with some load, behind it.
fn lorry(rng: &mut Rng, boxed: bool) -> Body {
    let (l, w) = (rng.range(5.8, 11.0), rng.range(2.2, 2.6));
    let h = rng.range(2.6, 3.8).min(2.2 + 0.2 * l);
    let (end, half) = (0.5 * l - 0.015, 0.5 * w);
    let paint = paint(rng);
    let mut body = Body::default();
    let cab_length = rng.range(1.7, 2.3);
    let cab_top = if boxed {
        rng.range(2.2, 2.9).min(h)
    } else {
        rng.range(2.3, 3.1)
    };
    let cab = [
        [end - cab_length, 0.4],
        [end - cab_length, cab_top],
        [end - 0.45, cab_top],
        [end, 1.5],
        [end, 0.4],
    ];
    let side = Extrusion {
        chamfer: 0.12,
        ..Extrusion::straight(half - 0.04)
    };
    body.prism(&cab, side, paint);
    let rear = [-end, end - cab_length - rng.range(0.15, 0.6)];
    let frame = Material::opaque(0.1);
    body.block([-end, end - 0.3], [-0.45, 0.45], [0.55, 0.95], frame);
    if boxed {
        let cover = Material::opaque(rng.range(0.15, 0.85));
        body.block(rear, [-half, half], [0.95, h], cover);
    } else {
        body.block(rear, [-half, half], [0.95, 1.15], frame);
        let wall = rng.range(1.15, 1.75);
        body.block([rear[1] - 0.08, rear[1]], [-half, half], [1.1, 2.0], frame);
        if wall > 1.3 {
            for y in [[half - 0.05, half], [-half, 0.05 - half]] {
                body.block(rear, y, [1.1, wall], paint);
            }
        }
        let mut x = rear[0] + rng.range(0.0, 1.0);
        while x + 0.8 < rear[1] - 0.2 {
            let length = rng.range(0.8, 2.5).min(rear[1] - 0.2 - x);
            let reach = half * rng.range(0.4, 0.95);
            let top = rng.range(1.4, 2.9);
            let load = Material::opaque(rng.range(0.1, 0.6));
            body.block([x, x + length], [-reach, reach], [1.15, top], load);
            x += length + rng.range(0.1, 2.5);
        }
    }
    plates(&mut body, 0.5 * l, 0.6);
    let mut axles = vec![end - 0.45 * cab_length - 0.3, -0.29 * l];
    if l > 8.5 {
        axles.push(-0.29 * l - 1.15);
    }
    wheels(&mut body, &axles, w - 0.04, 0.48);
    body
}

/// A city bus or a coach.
pub(crate) fn bus(rng: &mut Rng) -> Body {
    let (l, w, h) = (
        rng.range(9.0, 13.0),
        rng.range(2.5, 2.9),
        rng.range(2.9, 3.6),
    );
    let (end, half) = (0.5 * l - 0.015, 0.5 * w);
    let paint = paint(rng);
    let floor = rng.range(0.25, 0.4);
    let sill = floor + rng.range(0.6, 1.1);
    let lintel = h - rng.range(0.35, 0.75);
    let lean = rng.range(0.05, 0.3);
    let mut body = Body::default();
    let side = |half_width: f64| Extrusion {
        chamfer: 0.18,
        ..Extrusion::straight(half_width)
    };
    let low = [[-end, floor], [-end, sill], [end, sill], [end, floor]];
    body.prism(&low, side(half), paint);
    let windows = [
        [-end + 0.02, sill],
        [-end + 0.02, lintel],
        [end - lean, lintel],
        [end - 0.02, sill],
    ];
    body.prism(&windows, side(half - 0.02), Material::mesh(0.12, 0.65));
    let roof = [
        [-end, lintel],
        [-end + 0.1, h - 0.06],
        [end - lean - 0.1, h - 0.06],
        [end - lean, lintel],
    ];
    body.prism(&roof, side(half), paint);
    // Air conditioning on the roof, which gives the full height.
    let unit = [rng.range(-0.35, 0.0) * l, rng.range(0.05, 0.3) * l];
    body.block(
        unit,
        [-0.4 * w, 0.4 * w],
        [h - 0.08, h],
        Material::opaque(0.4),
    );
    let posts = (l / 1.6) as u32;
    for post in 0..=posts {
        let x = -end + 0.1 + (2.0 * end - 0.2 - lean) * f64::from(post) / f64::from(posts);
        for y in [[half - 0.08, half - 0.01], [0.01 - half, 0.08 - half]] {
            body.block([x - 0.06, x + 0.06], y, [sill, lintel], paint);
        }
    }
    plates(&mut body, 0.5 * l, floor + 0.2);
    wheels(&mut body, &[0.28 * l, -0.27 * l], w - 0.04, 0.48);
    body
}
