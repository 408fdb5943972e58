//! Tests of the transform buffer: trees, times, cycles and malformed input.

use std::f64::consts::{FRAC_PI_2, PI};

use super::super::messages::{Header, Quaternion, Time, Transform, Vector3};
use super::*;

const SECOND: i64 = 1_000_000_000;

/// `child` at (x, 0, 0) in `parent`, turned by `yaw`.
fn transform(parent: &str, child: &str, stamp_ns: i64, x: f64, yaw: f64) -> TransformStamped {
    TransformStamped {
        header: Header {
            stamp: Time::from_nanoseconds(stamp_ns),
            frame_id: parent.into(),
        },
        child_frame_id: child.into(),
        transform: Transform {
            translation: Vector3 { x, y: 0.0, z: 0.0 },
            rotation: Quaternion::from_yaw(yaw),
        },
    }
}

fn buffer(
    timed: &[(&str, &str, i64, f64, f64)],
    static_transforms: &[(&str, &str, f64)],
) -> TfBuffer {
    let mut buffer = TfBuffer::default();
    for &(parent, child, stamp, x, yaw) in timed {
        let transform = transform(parent, child, stamp, x, yaw);
        buffer.insert(&transform, false).unwrap();
    }
    for &(parent, child, x) in static_transforms {
        let transform = transform(parent, child, 0, x, 0.0);
        buffer.insert(&transform, true).unwrap();
    }
    buffer
}

/// Checks a pose's x, y and yaw.
#[track_caller]
fn assert_pose(found: Result<Pose, TfError>, x: f64, y: f64, yaw: f64) {
    let world = Pose::new([0.0; 3], [1.0, 0.0, 0.0, 0.0]).unwrap();
    let rows = found.unwrap().transform_to(&world);
    let expected = [x, y, yaw.cos(), yaw.sin()];
    let found = [rows[0][3], rows[1][3], rows[0][0], rows[1][0]];
    for (found, expected) in found.into_iter().zip(expected) {
        assert!(
            (f64::from(found) - expected).abs() < 1e-6,
            "{rows:?} for {x} {y} {yaw}"
        );
    }
}

#[test]
fn lookups_go_up_down_and_across_the_tree() {
    let buffer = buffer(
        &[
            ("map", "base", 0, 10.0, FRAC_PI_2),
            ("map", "base", SECOND, 10.0, FRAC_PI_2),
        ],
        &[("base", "lidar", 2.0), ("base", "radar", 3.0)],
    );
    let found = |target, source| buffer.lookup(target, source, SECOND / 2);
    assert_pose(found("map", "base"), 10.0, 0.0, FRAC_PI_2);
    assert_pose(found("map", "lidar"), 10.0, 2.0, FRAC_PI_2);
    assert_pose(found("lidar", "map"), -2.0, 10.0, -FRAC_PI_2);
    assert_pose(found("lidar", "radar"), 1.0, 0.0, 0.0);
    assert_pose(found("/map", "/lidar"), 10.0, 2.0, FRAC_PI_2);
    // A frame in itself is the identity, known or not.
    assert_pose(found("nowhere", "nowhere"), 0.0, 0.0, 0.0);
}

#[test]
fn lookups_interpolate_between_samples_and_fail_outside() {
    // From 170° to -170° the short path crosses 180°. Today's times in ns do not fit an f64.
    let now = 1_800_000_000 * SECOND;
    let angle = PI * 170.0 / 180.0;
    let buffer = buffer(
        &[
            ("map", "base", now + SECOND, 30.0, -angle),
            ("map", "base", now, 10.0, angle),
        ],
        &[],
    );
    let at = |ns| buffer.lookup("map", "base", now + ns);
    assert_pose(at(0), 10.0, 0.0, angle);
    assert_pose(at(SECOND / 4), 15.0, 0.0, PI * 175.0 / 180.0);
    assert_pose(at(SECOND / 2), 20.0, 0.0, PI);
    assert_pose(at(SECOND), 30.0, 0.0, -angle);
    let too_old = TfError::TooOld {
        child: "base".into(),
        stamp_ns: now - 1,
        oldest_ns: now,
    };
    assert_eq!(at(-1), Err(too_old));
    let too_new = at(SECOND + 1_500_000).unwrap_err();
    assert!(matches!(too_new, TfError::TooNew { .. }));
    assert!(too_new.to_string().contains("1.5 ms after"), "{too_new}");
}

#[test]
fn unknown_frames_and_separate_trees_are_different_errors() {
    let buffer = buffer(&[], &[("map", "base", 1.0), ("world", "drone", 1.0)]);
    let unknown = |frame: &str| {
        Err(TfError::Unknown {
            frame: frame.into(),
        })
    };
    assert_eq!(buffer.lookup("odom", "base", 0), unknown("odom"));
    assert_eq!(buffer.lookup("map", "lidar", 0), unknown("lidar"));
    let apart = buffer.lookup("map", "drone", 0);
    assert!(matches!(apart, Err(TfError::NoPath { .. })), "{apart:?}");
}

#[test]
fn only_transforms_on_the_path_must_cover_the_time() {
    // odom in the map is known only until 1 s.
    let buffer = buffer(
        &[
            ("map", "odom", 0, 5.0, 0.0),
            ("map", "odom", SECOND, 5.0, 0.0),
            ("odom", "base", 0, 1.0, 0.0),
            ("odom", "base", 2 * SECOND, 3.0, 0.0),
        ],
        &[("base", "lidar", 1.0)],
    );
    let at = 3 * SECOND / 2;
    assert_pose(buffer.lookup("odom", "lidar", at), 3.5, 0.0, 0.0);
    assert_pose(buffer.lookup("lidar", "odom", at), -3.5, 0.0, 0.0);
    assert_pose(buffer.lookup("base", "lidar", at), 1.0, 0.0, 0.0);
    match buffer.lookup("map", "lidar", at) {
        Err(TfError::TooNew { child, .. }) => assert_eq!(child, "odom"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn cycles_are_errors() {
    let buffer = buffer(
        &[],
        &[("b", "a", 1.0), ("a", "b", 1.0), ("map", "base", 1.0)],
    );
    for (target, source) in [("map", "a"), ("a", "map"), ("base", "b")] {
        let found = buffer.lookup(target, source, 0);
        assert!(matches!(found, Err(TfError::Cycle { .. })), "{found:?}");
    }
    // There is a path within the cycle.
    assert_pose(buffer.lookup("b", "a", 0), 1.0, 0.0, 0.0);
}

#[test]
fn a_new_parent_holds_from_its_time_on_without_interpolation() {
    let buffer = buffer(
        &[
            ("map", "box", 0, 1.0, 0.0),
            ("map", "box", SECOND, 2.0, 0.0),
            ("truck", "box", 3 * SECOND, 50.0, 0.0),
            ("truck", "box", 4 * SECOND, 60.0, 0.0),
        ],
        &[("map", "truck", 1000.0)],
    );
    let at = |ns| buffer.lookup("map", "box", ns);
    assert_pose(at(SECOND / 2), 1.5, 0.0, 0.0);
    assert_pose(at(2 * SECOND), 2.0, 0.0, 0.0);
    assert_pose(at(3 * SECOND), 1050.0, 0.0, 0.0);
    assert_pose(at(7 * SECOND / 2), 1055.0, 0.0, 0.0);
    // A static child with a new parent has it at all times.
    let mut buffer = buffer;
    buffer
        .insert(&transform("map", "box", 9, 7.0, 0.0), true)
        .unwrap();
    assert_pose(buffer.lookup("map", "box", -5), 7.0, 0.0, 0.0);
    buffer
        .insert(&transform("truck", "box", 9, 8.0, 0.0), true)
        .unwrap();
    assert_pose(buffer.lookup("map", "box", 99 * SECOND), 1008.0, 0.0, 0.0);
}

#[test]
fn the_history_is_bounded_and_a_jump_back_restarts_it() {
    let mut buffer = TfBuffer::default();
    let mut insert = |stamp_ns, x| {
        let transform = transform("map", "base", stamp_ns, x, 0.0);
        buffer.insert(&transform, false).unwrap();
        buffer.clone()
    };
    for second in 0..100 {
        insert(second * SECOND, second as f64);
    }
    let full = insert(99 * SECOND, -1.0);
    assert_eq!(full.links["base"].samples().count(), 11);
    assert_pose(full.lookup("map", "base", 99 * SECOND), 99.0, 0.0, 0.0);
    assert_pose(full.lookup("map", "base", 89 * SECOND), 89.0, 0.0, 0.0);
    let old = full.lookup("map", "base", 89 * SECOND - 1);
    assert!(matches!(old, Err(TfError::TooOld { .. })), "{old:?}");

    let restarted = insert(5 * SECOND, 5.0);
    assert_pose(restarted.lookup("map", "base", 5 * SECOND), 5.0, 0.0, 0.0);
    let too_new = restarted.lookup("map", "base", 95 * SECOND);
    assert!(
        matches!(too_new, Err(TfError::TooNew { .. })),
        "{too_new:?}"
    );

    // The number of samples is bounded too.
    let mut dense = TfBuffer::default();
    for ns in 0..MAX_SAMPLES as i64 + 10 {
        dense
            .insert(&transform("map", "base", ns, 0.0, 0.0), false)
            .unwrap();
    }
    assert_eq!(dense.links["base"].samples().count(), MAX_SAMPLES);
}

#[test]
fn invalid_transforms_are_rejected_and_the_rest_of_the_message_is_inserted() {
    let good = transform("map", "base", 0, 1.0, 0.0);
    let mut broken = Vec::new();
    for (parent, child) in [("", "base"), ("map", ""), ("base", "/base")] {
        broken.push(transform(parent, child, 0, 1.0, 0.0));
    }
    broken.push(transform("map", "base", 0, f64::NAN, 0.0));
    let mut zero = good.clone();
    zero.transform.rotation.w = 0.0;
    broken.push(zero);
    for broken in broken {
        let mut buffer = TfBuffer::default();
        assert!(buffer.insert(&broken, false).is_err(), "{broken:?}");
        let message = TFMessage {
            transforms: vec![broken, good.clone()],
        };
        assert!(buffer.extend(&message, false).is_err());
        assert_pose(buffer.lookup("map", "base", 0), 1.0, 0.0, 0.0);
    }
}

#[test]
fn the_root_follows_the_newest_transforms_and_terminates_in_a_cycle() {
    let buffer = buffer(
        &[("odom", "base", 0, 1.0, 0.0), ("map", "odom", 0, 1.0, 0.0)],
        &[("base", "lidar", 1.0), ("b", "a", 1.0), ("a", "b", 1.0)],
    );
    assert_eq!(buffer.root("/lidar"), "map");
    assert_eq!(buffer.root("map"), "map");
    assert_eq!(buffer.root("elsewhere"), "elsewhere");
    assert!(["a", "b"].contains(&buffer.root("a")));
}
