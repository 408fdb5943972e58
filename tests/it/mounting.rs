//! Frames of sensors that are mounted elsewhere: the boxes of the same scene, in the frame of the input.
#![allow(clippy::unwrap_used)] // Also in test helpers.

use std::f32::consts::PI;

use centerpoint::points::{self, Extrinsic, GroundHeight, Pose, ReadOptions, SweepBuffer};
use centerpoint::{Box3d, Detector, Layout, Options, PointCloud};

use crate::cuda::frame::{bits, demo_frames, demo_plan};
use crate::emulation;

/// A sensor 1.9 m above the vehicle's origin, turned to the left, tilted a little.
const MOUNTED: [f64; 6] = [0.9, -0.3, 1.9, 1.0, -2.0, 30.0];

fn frame(index: usize) -> PointCloud {
    let options = ReadOptions {
        layout: None,
        default_layout: Layout::XYZIT,
    };
    points::read(&demo_frames()[index], &options).unwrap()
}

/// The rotation of an extrinsic, by hand: Rz(yaw) · Ry(pitch) · Rx(roll).
fn rotation([_, _, _, roll, pitch, yaw]: [f64; 6]) -> [[f64; 3]; 3] {
    let [(sr, cr), (sp, cp), (sy, cy)] = [roll, pitch, yaw].map(|v: f64| v.to_radians().sin_cos());
    [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
}

/// A point of the vehicle's frame in that of a sensor with this extrinsic: Rᵀ (p − t).
fn to_sensor(mounted: [f64; 6], point: [f32; 3]) -> [f32; 3] {
    let r = rotation(mounted);
    let d: [f64; 3] = std::array::from_fn(|axis| f64::from(point[axis]) - mounted[axis]);
    std::array::from_fn(|column| (0..3).map(|row| r[row][column] * d[row]).sum::<f64>() as f32)
}

/// The cloud as a sensor with this extrinsic would have recorded it.
fn seen_by(mounted: [f64; 6], cloud: &PointCloud) -> PointCloud {
    let rows = cloud.rows().flat_map(|row| {
        let [x, y, z] = to_sensor(mounted, [row[0], row[1], row[2]]);
        [&[x, y, z], &row[3..]].concat()
    });
    PointCloud::new(cloud.layout(), rows.collect()).unwrap()
}

fn detector(options: &Options) -> Detector {
    Detector::new(&demo_plan("int8.plan"), options).unwrap()
}

/// Asserts that `found` are the boxes `expected`, some of which may differ: points at the border of a cell can fall into
/// the other one.
fn assert_same_objects(found: &[Box3d], expected: &[Box3d]) {
    let turn = |a: f32, b: f32| ((a - b + PI).rem_euclid(2.0 * PI) - PI).abs();
    let near = |a: &Box3d, b: &Box3d| {
        let distance = a.center.iter().zip(b.center).map(|(a, b)| (a - b).abs());
        a.class == b.class && distance.fold(0.0, f32::max) < 0.1 && turn(a.yaw, b.yaw) < 0.1
    };
    let matched = expected.iter().filter(|e| found.iter().any(|f| near(f, e)));
    let (matched, all) = (matched.count(), expected.len());
    assert!(all > 3 && matched * 10 >= all * 9, "{matched} of {all}");
}

#[test]
fn an_extrinsic_moves_points_to_the_vehicle_and_boxes_back() {
    let options = Options {
        extrinsic: Some(Extrinsic::new(MOUNTED).unwrap()),
        ..Options::default()
    };
    let (mut plain, mut mounted) = (detector(&Options::default()), detector(&options));
    for index in 0..4 {
        let cloud = frame(index);
        let expected: Vec<Box3d> = plain.detect(&cloud).unwrap().boxes.to_vec();
        let seen = seen_by(MOUNTED, &cloud);
        let found = mounted.detect(&seen).unwrap().boxes.to_vec();
        assert_eq!(found, mounted.boxes());
        let r = rotation(MOUNTED);
        let expected: Vec<Box3d> = expected
            .iter()
            .map(|b| {
                let direction = |v: [f32; 2]| -> [f32; 2] {
                    std::array::from_fn(|c| {
                        (r[0][c] * f64::from(v[0]) + r[1][c] * f64::from(v[1])) as f32
                    })
                };
                let heading = direction([b.yaw.cos(), b.yaw.sin()]);
                Box3d {
                    center: to_sensor(MOUNTED, b.center),
                    yaw: heading[1].atan2(heading[0]),
                    velocity: direction(b.velocity),
                    ..*b
                }
            })
            .collect();
        assert_same_objects(mounted.boxes(), &expected);
        // Without the extrinsic the scene is another one.
        assert_ne!(plain.detect(&seen).unwrap().boxes.len(), 0);
    }
}

#[test]
fn the_ground_is_found_wherever_the_sensor_is() {
    let auto = Options {
        ground: Some(GroundHeight::Auto),
        ..Options::default()
    };
    let mut lifted = detector(&auto);
    for index in 0..demo_frames().len() {
        let cloud = frame(index);
        // The scenes' ground is near z = 0, and not flat.
        let own = lifted.detect(&cloud).unwrap().ground.unwrap();
        assert!(
            own.height.abs() < 0.15 && own.spread < 0.06,
            "{index}: {own:?}"
        );
        for below in [-0.4, 1.73, 2.5] {
            let seen = seen_by([0.0, 0.0, below, 0.0, 0.0, 0.0], &cloud);
            let found = lifted.detect(&seen).unwrap().ground.unwrap();
            let expected = own.height - below as f32;
            assert!(
                (found.height - expected).abs() < 0.01,
                "{index}: {found:?}, {own:?}"
            );
            assert_eq!(lifted.detect(&seen).unwrap().ground, Some(found), "again");
        }
    }
}

#[test]
fn a_given_height_is_a_lift_and_leaves_directions_as_they_are() {
    let at = Options {
        ground: Some(GroundHeight::At(-1.75)),
        ..Options::default()
    };
    let (mut plain, mut lifted) = (detector(&Options::default()), detector(&at));
    let cloud = frame(3);
    let expected = plain.detect(&cloud).unwrap().boxes.to_vec();
    // 1.75 is exact in f32, so only sums are rounded.
    let seen = seen_by([0.0, 0.0, 1.75, 0.0, 0.0, 0.0], &cloud);
    let found = lifted.detect(&seen).unwrap();
    assert_eq!(found.ground, None, "nothing was looked for");
    assert_same_objects(
        found.boxes,
        &expected
            .iter()
            .map(|b| Box3d {
                center: [b.center[0], b.center[1], b.center[2] - 1.75],
                ..*b
            })
            .collect::<Vec<_>>(),
    );
}

#[test]
fn points_in_the_ignored_box_count_as_out_of_range() {
    let cloud = frame(0);
    let inside = |row: &&[f32]| (-2.0..6.0).contains(&row[0]) && (-4.0..4.0).contains(&row[1]);
    let near = cloud.rows().filter(inside).count() as u64;
    let options = Options {
        ignore_box: Some([[-2.0, -4.0, -9.0], [6.0, 4.0, 9.0]]),
        ..Options::default()
    };
    let all = detector(&Options::default())
        .detect(&cloud)
        .unwrap()
        .dropped;
    let left = detector(&options).detect(&cloud).unwrap().dropped;
    assert!(near > 100);
    let within_range = left.out_of_range - all.out_of_range;
    assert!(
        within_range <= near && within_range > near / 2,
        "{within_range} of {near}"
    );
}

#[test]
fn a_device_moves_points_as_the_cpu_does() {
    let options = Options {
        extrinsic: Some(Extrinsic::new(MOUNTED).unwrap()),
        ground: Some(GroundHeight::Auto),
        ignore_box: Some([[-2.0, -1.0, -1.0], [4.0, 1.0, 3.0]]),
        ..Options::default()
    };
    let plan = demo_plan("int8.plan");
    let mut on_cpu = Detector::new(&plan, &options).unwrap();
    let mut on_device = Detector::on(&plan, &options, &emulation::device(1)).unwrap();
    let mut sweeps = SweepBuffer::new(2, 200_000);
    for index in 0..emulation::cases(3) {
        let cloud = seen_by(MOUNTED, &frame(index));
        let expected = on_cpu.detect(&cloud).unwrap();
        let found = on_device.detect(&cloud).unwrap();
        assert!(!found.boxes.is_empty());
        assert_eq!(bits(found.boxes), bits(expected.boxes), "{index}");
        assert_eq!(
            (found.dropped, found.ground),
            (expected.dropped, expected.ground)
        );

        let pose = Pose::new([index as f64, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0]).unwrap();
        sweeps
            .push(&cloud, 100_000_000 * index as i64, Some(pose))
            .unwrap();
        let expected = on_cpu.detect_sweeps(&sweeps).unwrap();
        let found = on_device.detect_sweeps(&sweeps).unwrap();
        assert_eq!(bits(found.boxes), bits(expected.boxes), "{index} sweeps");
        assert_eq!(
            (found.dropped, found.ground),
            (expected.dropped, expected.ground)
        );
    }
}

#[test]
fn a_frame_without_ground_is_an_error_and_an_empty_one_is_not() {
    let auto = Options {
        ground: Some(GroundHeight::Auto),
        ..Options::default()
    };
    let mut detector = detector(&auto);
    let wall = (0..500).flat_map(|i| [9.0, (i % 20) as f32 * 0.1, (i / 20) as f32 * 0.1, 0.5, 0.0]);
    let wall = PointCloud::new(Layout::XYZIT, wall.collect()).unwrap();
    let error = detector.detect(&wall).unwrap_err().to_string();
    assert!(error.contains("--ground Z"), "{error}");
    let empty = PointCloud::empty(Layout::XYZIT);
    assert!(detector.detect(&empty).unwrap().boxes.is_empty());
    assert!(!detector.detect(&frame(0)).unwrap().boxes.is_empty());
}

#[test]
fn an_extrinsic_is_six_numbers_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let parse = |text: &str| Extrinsic::parse_or_read(text);
    let numbers = <[f64; 6]>::from(parse("1,-2.5, 0.25,10,-20,170").unwrap());
    assert_eq!(numbers, [1.0, -2.5, 0.25, 10.0, -20.0, 170.0]);
    let same = file(
        "six.txt",
        "# x y z\n1 -2.5 0.25\n# roll pitch yaw\n10, -20, 170\n",
    );
    assert_eq!(<[f64; 6]>::from(parse(&same).unwrap()), numbers);

    let r = rotation(numbers);
    let rows = |last: &str| {
        let rows = r
            .iter()
            .zip(numbers)
            .map(|([a, b, c], t)| format!("{a} {b} {c} {t}\n"));
        rows.collect::<String>() + last
    };
    for last in ["", "0 0 0 1\n"] {
        let matrix = <[f64; 6]>::from(parse(&file("matrix.txt", &rows(last))).unwrap());
        for (found, expected) in matrix.iter().zip(numbers) {
            assert!((found - expected).abs() < 1e-9, "{matrix:?}");
        }
    }
    for (text, part) in [
        ("1,2,3", "`1,2,3` is not an extrinsic"),
        ("1,2,3,4,5,x", "is not an extrinsic"),
        ("1,2,3,4,5,nan", "is not an extrinsic"),
        (
            &file("five.txt", "1 2 3 4 5"),
            "five.txt` is not an extrinsic",
        ),
        (
            &file("word.txt", "1 2 3 4 5 x"),
            "word.txt` is not an extrinsic",
        ),
        (
            // The iteration to the nearest rotation once did not end.
            &file("infinite.txt", "1e999 0 0 0 0 1 0 0 0 0 1 0"),
            "not finite",
        ),
        (
            &file("mirror.txt", "1 0 0 0 0 1 0 0 0 0 -1 0"),
            "does not rotate",
        ),
        (
            &file("scaled.txt", "2 0 0 0 0 2 0 0 0 0 2 0"),
            "does not rotate",
        ),
        (&file("nan.txt", "nan 0 0 0 0 1 0 0 0 0 1 0"), "not finite"),
        (
            &file("last.txt", "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 2"),
            "is not an extrinsic",
        ),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}
