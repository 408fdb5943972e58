//! Tests that need a scene's internals: the object that a ray hit, and every primitive.

use std::f64::consts::TAU;

use super::builder::{Class, Ego, Motion, Object, Scene};
use super::ground::Ground;
use super::rng::Rng;
use super::scanner::{Scanner, scan};
use super::scene::generate;
use super::shapes::{Pose, Ray, Vec3};
use super::solids::{Body, Footprint, Material, Surface};
use super::{Config, LABEL_RANGE};

fn scene(index: u64) -> Scene {
    generate(Rng::new(42, index, 0))
}

/// A scanner that measures exactly and loses nothing.
fn exact() -> Scanner {
    Scanner {
        range_noise: 0.0,
        dropout: 0.0,
        sensitivity: 1e-9,
        ..Scanner::default()
    }
}

/// `point` in the axes of `object`, which has moved back by `age` seconds.
fn in_object(object: &Object, point: &Vec3, age: f64) -> Vec3 {
    let pose = Pose {
        position: Vec3::zeros(),
        yaw: -object.yaw,
    };
    pose.turn(point - object.center + object.velocity() * age)
}

/// Distance of a point outside the half extent.
fn excess(object: &Object, local: &Vec3) -> f64 {
    (local.abs() - object.size * 0.5).max()
}

#[test]
fn an_objects_points_lie_in_its_box() {
    let scanner = Scanner::default();
    let mut checked = 0;
    for index in 0..6 {
        let scene = scene(index);
        for age in [0.0, 0.1] {
            for point in scan(&scene, &scanner, age, &mut Rng::new(1, index, 1)) {
                if let Some(object) = point.owner.map(|owner| &scene.objects[owner]) {
                    let out = excess(object, &in_object(object, &point.point, age));
                    assert!(out < 6.0 * scanner.range_noise, "{out} m out of {object:?}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 10_000, "{checked}");
}

#[test]
fn labels_are_in_the_vehicles_frame() {
    let mut checked = 0;
    for index in 0..12 {
        let frame = super::generate(42, index, &Config::default()).unwrap();
        let scene = scene(index);
        let returns = scan(&scene, &exact(), 0.0, &mut Rng::new(1, index, 1));
        let within = |object: &&Object| object.center.xy().norm() < LABEL_RANGE;
        let objects = scene.objects.iter().enumerate();
        let labelled = objects.filter(|(_, object)| within(object));
        for ((owner, object), label) in labelled.zip(&frame.labels) {
            // The ego vehicle's axes, written out.
            let (sin, cos) = scene.ego.yaw.sin_cos();
            let turned = |v: Vec3| Vec3::new(cos * v.x + sin * v.y, cos * v.y - sin * v.x, v.z);
            let [w, _, _, z] = label.rotation;
            let heading = Vec3::new(w * w - z * z, 2.0 * w * z, 0.0);
            let [vx, vy] = label.velocity.map(Option::unwrap);
            let along = heading * object.motion.speed();
            assert!((along - Vec3::new(vx, vy, 0.0)).norm() < 1e-3, "{label:?}");
            let center = Vec3::from(label.translation);
            let [width, length, height] = label.size;
            for point in returns.iter().filter(|point| point.owner == Some(owner)) {
                let d = turned(point.point) - center;
                let local = [d.dot(&heading), heading.x * d.y - heading.y * d.x, d.z];
                for (value, size) in local.iter().zip([length, width, height]) {
                    assert!(value.abs() < 0.5 * size + 1e-3, "frame {index}: {label:?}");
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 10_000, "{checked}");
}

#[test]
fn boxes_are_tight() {
    // The parts of an object reach every face of its box, so some points lie close to each face that the
    // scanner sees.
    let mut gaps = Vec::new();
    for index in 0..20 {
        let scene = scene(index);
        let mut best = vec![f64::NEG_INFINITY; scene.objects.len()];
        for point in scan(&scene, &exact(), 0.0, &mut Rng::new(1, index, 1)) {
            if let Some(owner) = point.owner {
                let object = &scene.objects[owner];
                let local = in_object(object, &point.point, 0.0);
                best[owner] = best[owner].max(excess(object, &local));
            }
        }
        for (object, best) in scene.objects.iter().zip(best) {
            if object.center.norm() < 15.0 && best > f64::NEG_INFINITY {
                assert!(best < 1e-6, "{best} m out of {object:?}");
                gaps.push(-best);
            }
        }
    }
    gaps.sort_by(f64::total_cmp);
    assert!(gaps.len() > 50);
    assert!(
        gaps[gaps.len() / 2] < 0.02,
        "median gap {}",
        gaps[gaps.len() / 2]
    );
}

#[test]
fn labelled_boxes_do_not_overlap() {
    for index in 0..60 {
        let scene = scene(index);
        let footprints: Vec<Footprint> = scene
            .objects
            .iter()
            .map(|object| {
                let pose = Pose {
                    position: object.center,
                    yaw: object.yaw,
                };
                let half = [0.5 * object.size.x, 0.5 * object.size.y];
                Footprint::new(&pose, half.map(|h| -h), half)
            })
            .collect();
        for (i, a) in footprints.iter().enumerate() {
            // The scanner's own vehicle stands at the origin.
            assert!(a.distance([0.0, 0.0]) > 0.5, "frame {index}");
            for (j, b) in footprints.iter().enumerate().skip(i + 1) {
                assert!(!a.overlaps(b), "frame {index}: objects {i} and {j}");
            }
        }
    }
}

#[test]
fn rectangle_overlaps_match_sampled_points() {
    let mut rng = Rng::new(3, 0, 0);
    let mut both = [0; 2];
    for _ in 0..400 {
        let mut random = || {
            let pose = Pose {
                position: Vec3::new(rng.range(-3.0, 3.0), rng.range(-3.0, 3.0), 0.0),
                yaw: rng.range(-TAU, TAU),
            };
            let half = [rng.range(0.5, 3.0), rng.range(0.2, 1.0)];
            Footprint::new(&pose, half.map(|h| -h), half)
        };
        let (a, b) = (random(), random());
        let n = 60;
        let shares = (0..=n * n).any(|k| {
            let grid = |v: i32| 2.0 * f64::from(v) / f64::from(n) - 1.0;
            let (u, v) = (grid(k / n) * a.half[0], grid(k % n) * a.half[1]);
            let [c, s] = a.axis;
            b.distance([a.center[0] + c * u - s * v, a.center[1] + s * u + c * v]) < 1e-12
        });
        // A common point proves an overlap; without one the overlap is thinner than the grid.
        if shares {
            assert!(a.overlaps(&b));
        } else {
            assert!(!a.grown(-0.1).overlaps(&b.grown(-0.1)));
        }
        both[usize::from(shares)] += 1;
    }
    assert!(both.iter().all(|&count| count > 50), "{both:?}");
}

#[test]
fn objects_have_the_proportions_of_their_class() {
    let limits = |class: Class| match class {
        Class::Car => [(3.6, 5.2), (1.6, 2.0), (1.4, 2.0)],
        Class::Truck => [(5.2, 11.0), (1.8, 2.6), (1.7, 3.8)],
        Class::Bus => [(9.0, 13.0), (2.5, 2.9), (2.9, 3.6)],
        Class::Bicycle => [(1.6, 1.9), (0.48, 0.72), (1.0, 1.8)],
        Class::Pedestrian => [(0.35, 0.8), (0.4, 0.8), (1.0, 1.95)],
    };
    let mut seen = [0; 5];
    for index in 0..40 {
        for object in &scene(index).objects {
            for (size, (low, high)) in object.size.iter().zip(limits(object.class)) {
                assert!((low - 1e-9..=high + 1e-9).contains(size), "{object:?}");
            }
            let top = match object.class {
                Class::Pedestrian => 2.0,
                Class::Bicycle => 7.0,
                _ => 15.0,
            };
            assert!((0.0..=top).contains(&object.motion.speed()), "{object:?}");
            seen[object.class as usize] += 1;
        }
    }
    assert!(seen.iter().all(|&count| count > 30), "{seen:?}");
}

#[test]
fn the_ground_is_at_zero_under_the_vehicle_and_carries_the_objects() {
    for index in 0..30 {
        let scene = scene(index);
        assert!(scene.ground.height([0.0, 0.0]).abs() < 1e-12);
        for x in [-2.0, 0.0, 2.0] {
            assert!(scene.ground.height([x, 0.0]).abs() < 0.15, "frame {index}");
        }
        for object in &scene.objects {
            let [x, y] = [object.center.x, object.center.y];
            let bottom = object.center.z - 0.5 * object.size.z;
            // The body's origin may lie slightly off its centre.
            assert!(
                (bottom - scene.ground.height([x, y])).abs() < 0.16,
                "{object:?}"
            );
        }
    }
}

#[test]
fn buckets_and_profile_match_brute_force() {
    let scanner = exact();
    let (mut rays, mut hits) = (0, 0);
    for (index, age) in [(0, 0.0), (1, 0.1), (2, 0.0), (7, 0.1)] {
        let mut scene = scene(index);
        scene.ego.speed = 9.0;
        // Surfaces that let some rays through would make the comparison random.
        scene
            .solids
            .retain(|solid| solid.material.surface == Surface::Opaque);
        let ego = scene.ego.pose(age).position;
        let here = scene.ground.height([ego.x, ego.y]) + scanner.height;
        let origin = ego + Vec3::new(0.0, 0.0, here);
        for point in scan(&scene, &scanner, age, &mut Rng::new(5, index, 1))
            .iter()
            .step_by(23)
        {
            let way = point.point - origin;
            // Noise is along the ray, so every return lies exactly on a beam.
            let direction = way.normalize();
            let off = |elevation: &f64| (direction.z - elevation.sin()).abs();
            let beams = scanner.elevations();
            assert!(beams.iter().map(off).fold(1.0, f64::min) < 1e-9);
            let nearest = scene
                .solids
                .iter()
                .filter_map(|solid| {
                    let object = solid.owner.map(|owner| &scene.objects[owner]);
                    let back = object.map_or(Vec3::zeros(), |o| o.velocity() * age);
                    let ray = Ray {
                        origin: origin + back,
                        direction,
                    };
                    let hit = solid.shape.enter(&ray)?;
                    Some((hit.distance, solid.owner))
                })
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let ray = Ray { origin, direction };
            let ground = (1..10_600)
                .map(|step| 0.01 * f64::from(step))
                .find(|&t| {
                    let p = ray.at(t);
                    p.z < scene.ground.height([p.x, p.y])
                })
                .unwrap_or(f64::INFINITY);
            rays += 1;
            match nearest {
                // At the foot of a wall, and at kerbs, the rough ground may come first.
                Some((distance, owner)) if distance < ground - 0.5 => {
                    assert!(
                        (way.norm() - distance).abs() < 1e-6,
                        "frame {index}: {} m, not {distance} m",
                        way.norm()
                    );
                    assert_eq!(point.owner, owner);
                    hits += 1;
                }
                _ => assert!(
                    way.norm() < ground + 0.03 * ground,
                    "frame {index}: {} m through the ground at {ground} m",
                    way.norm()
                ),
            }
        }
    }
    assert!(rays > 3000 && hits > 500, "{rays} rays, {hits} hits");
}

/// A flat world with one car ahead at `x`, moving at `speed` to the left.
fn one_car(x: f64, speed: f64) -> Scene {
    let mut body = Body::default();
    body.block([-2.0, 2.0], [-0.9, 0.9], [0.0, 1.5], Material::opaque(0.5));
    let pose = Pose {
        position: Vec3::new(x, 0.0, 0.0),
        yaw: TAU / 4.0,
    };
    Scene {
        ground: Ground::new(&mut Rng::new(0, 0, 0), Vec::new()),
        solids: body.placed(&pose, Some(0)).collect(),
        objects: vec![Object {
            class: Class::Car,
            center: Vec3::new(x, 0.0, 0.75),
            size: Vec3::new(4.0, 1.8, 1.5),
            yaw: pose.yaw,
            motion: Motion::Going(speed),
        }],
        ego: Ego {
            yaw: 0.0,
            speed: 8.0,
            yaw_rate: 0.3,
        },
    }
}

#[test]
fn occluded_objects_return_nothing() {
    let mut scene = one_car(20.0, 0.0);
    let returns = |scene: &Scene| {
        let points = scan(scene, &exact(), 0.0, &mut Rng::new(1, 2, 3));
        points.iter().filter(|point| point.owner == Some(0)).count()
    };
    let free = returns(&scene);
    assert!(free > 100, "{free}");
    let mut wall = Body::default();
    wall.block([-0.1, 0.1], [-4.0, 4.0], [-3.0, 3.0], Material::opaque(0.3));
    let pose = Pose {
        position: Vec3::new(12.0, 0.0, 0.0),
        yaw: 0.0,
    };
    scene.solids.extend(wall.placed(&pose, None));
    assert_eq!(returns(&scene), 0);
    // A fence hides some of it.
    scene.solids.truncate(1);
    let mut fence = Body::default();
    let mesh = Material::mesh(0.3, 0.5);
    fence.block([-0.1, 0.1], [-4.0, 4.0], [-3.0, 3.0], mesh);
    scene.solids.extend(fence.placed(&pose, None));
    let behind_fence = returns(&scene) as f64 / free as f64;
    assert!((0.35..0.65).contains(&behind_fence), "{behind_fence}");
}

#[test]
fn a_moving_object_trails_by_its_velocity_and_a_static_one_does_not() {
    for speed in [0.0, 10.0] {
        let scene = one_car(20.0, speed);
        // The middle of the car's extent along the world's y, in the newest frame's coordinates.
        let middle = |age: f64| {
            let points = scan(&scene, &exact(), age, &mut Rng::new(1, 2, 3));
            let ys = points
                .iter()
                .filter(|p| p.owner == Some(0))
                .map(|p| p.point.y);
            let (low, high) = ys.fold((f64::MAX, f64::MIN), |(l, h), y| (l.min(y), h.max(y)));
            0.5 * (low + high)
        };
        // A column is 0.13 m wide at this range.
        let trail = middle(0.0) - middle(0.1);
        assert!((trail - 0.1 * speed).abs() < 0.15, "{speed} m/s: {trail} m");
    }
}

#[test]
fn the_past_pose_follows_the_arc() {
    let ego = Ego {
        yaw: 0.4,
        speed: 9.0,
        yaw_rate: -0.35,
    };
    // Integrate the motion backwards in small steps.
    let (mut p, mut yaw, n) = (Vec3::zeros(), ego.yaw, 10_000);
    let dt = 0.1 / f64::from(n);
    for _ in 0..n {
        p -= Vec3::new(yaw.cos(), yaw.sin(), 0.0) * (ego.speed * dt);
        yaw -= ego.yaw_rate * dt;
    }
    let pose = ego.pose(0.1);
    assert!((pose.position - p).norm() < 1e-3);
    assert!((pose.yaw - yaw).abs() < 1e-9);
}

#[test]
fn far_and_dark_surfaces_lose_more_points() {
    let count = |x: f64, reflectivity: f64| {
        let mut scene = one_car(x, 0.0);
        scene.solids[0].material = Material::opaque(reflectivity);
        let points = |scanner: &Scanner| {
            let points = scan(&scene, scanner, 0.0, &mut Rng::new(9, 9, 9));
            points.iter().filter(|p| p.owner == Some(0)).count() as f64
        };
        points(&Scanner::default()) / points(&exact())
    };
    let near = count(10.0, 0.5);
    assert!((0.9..0.99).contains(&near), "{near}");
    let dark = count(60.0, 0.02);
    assert!(dark < near - 0.05, "{dark}");
    let far = count(85.0, 0.02);
    assert!(far < dark - 0.1, "{far} {dark}");
}

#[test]
fn the_ground_is_as_rough_as_its_cover() {
    let scene = one_car(20.0, 0.0);
    let origin = Vec3::new(0.0, 0.0, exact().height);
    let mut squares = Vec::new();
    for point in scan(&scene, &exact(), 0.0, &mut Rng::new(1, 2, 3)) {
        let way = point.point - origin;
        let [x, y] = [point.point.x, point.point.y];
        if point.owner.is_none() && way.norm() < 15.0 {
            // Distance of the point from the smooth ground along the ray.
            let off = (point.point.z - scene.ground.height([x, y])) * way.norm() / way.z;
            squares.push(off * off);
        }
    }
    let deviation = (squares.iter().sum::<f64>() / squares.len() as f64).sqrt();
    let expected = scene.ground.open.roughness;
    assert!(squares.len() > 5000);
    assert!(
        (0.9..1.1).contains(&(deviation / expected)),
        "{deviation} m"
    );
}
