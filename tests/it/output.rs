//! Result formats through the public API: numbers worked out by hand, and JSON that reads back bit for bit.
// 1.5708 is printed text, not π/2.
#![allow(clippy::approx_constant, clippy::unwrap_used)]

use std::f32::consts::{FRAC_PI_2, PI};

use centerpoint::results::{FrameResult, ResultsError, json, kitti, table};
use centerpoint::{Box3d, Dropped, Times};
use proptest::prelude::*;

fn classes() -> Vec<String> {
    ["car", "truck", "bus", "bicycle", "pedestrian"]
        .map(String::from)
        .to_vec()
}

fn car() -> Box3d {
    Box3d {
        center: [10.0, 4.0, -0.5],
        size: [4.0, 2.0, 1.5],
        yaw: 0.0,
        velocity: [3.0, -0.25],
        score: 0.9,
        class: 0,
    }
}

fn times() -> Times {
    Times {
        read: 0.5,
        pillars: 1.25,
        features: 4.0,
        scatter: 0.75,
        engine: 50.0,
        decode: 1.0,
        nms: 0.5,
        total: 58.125,
    }
}

fn result(boxes: &[Box3d]) -> FrameResult<'_> {
    FrameResult {
        frame: "frames/000000.bin",
        points: 34688,
        dropped: Dropped::default(),
        ground: None,
        boxes,
        variances: &[],
        times: None,
    }
}

// ---- JSON

#[test]
fn json_has_the_documented_fields_in_order() {
    let boxes = [car()];
    let mut frame = result(&boxes);
    frame.dropped.out_of_range = 12;
    assert_eq!(
        json::line(&frame, &classes()).unwrap(),
        r#"{"frame":"frames/000000.bin","points":34688,"dropped":{"non_finite":0,"out_of_range":12,"pillar_points":0,"pillars":0,"candidates":0,"non_finite_candidates":0,"sweep_points":0},"boxes":[{"class":"car","score":0.9,"center":[10.0,4.0,-0.5],"size":[4.0,2.0,1.5],"yaw":0.0,"velocity":[3.0,-0.25]}]}"#.to_owned() + "\n"
    );
    frame.times = Some(times());
    let line = json::line(&frame, &classes()).unwrap();
    assert!(
        line.ends_with(
            r#","times_ms":{"read":0.5,"pillars":1.25,"features":4.0,"scatter":0.75,"engine":50.0,"decode":1.0,"nms":0.5,"total":58.125}}
"#
        ),
        "{line}"
    );
}

#[test]
fn json_escapes_names_and_stays_on_one_line() {
    let mut frame = result(&[]);
    frame.frame = "a \"b\"\n\u{e9}.bin";
    let line = json::line(&frame, &classes()).unwrap();
    assert_eq!(line.find('\n'), Some(line.len() - 1));
    let back: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(back["frame"], frame.frame);
    assert_eq!(back["boxes"], serde_json::json!([]));
}

#[test]
fn nan_and_infinity_are_errors() {
    type Set = fn(&mut Box3d, f32);
    let set: [(&str, Set); 5] = [
        ("score", |b, v| b.score = v),
        ("center", |b, v| b.center[2] = v),
        ("size", |b, v| b.size[1] = v),
        ("yaw", |b, v| b.yaw = v),
        ("velocity", |b, v| b.velocity[1] = v),
    ];
    for (name, set) in set {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut boxes = [car(), car()];
            set(&mut boxes[1], value);
            for error in [
                json::line(&result(&boxes), &classes()).unwrap_err(),
                kitti::text(&result(&boxes), &classes()).unwrap_err(),
            ] {
                let ResultsError::NonFinite { index, field, .. } = error else {
                    panic!("{error}");
                };
                assert_eq!((index, field), (1, name));
            }
        }
    }
    let mut frame = result(&[]);
    frame.times = Some(Times {
        engine: f64::NAN,
        ..times()
    });
    let error = json::line(&frame, &classes()).unwrap_err().to_string();
    assert!(error.contains("times_ms.engine is NaN"), "{error}");
}

#[test]
fn a_class_without_a_name_is_an_error() {
    let boxes = [Box3d { class: 5, ..car() }];
    let error = json::line(&result(&boxes), &classes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "frames/000000.bin: box 0 has class 5, but there are 5 class names"
    );
}

fn finite() -> impl Strategy<Value = f32> {
    // Every finite bit pattern: subnormals, both zeros, the largest.
    any::<u32>()
        .prop_map(f32::from_bits)
        .prop_filter("finite", |v| v.is_finite())
}

proptest! {
    #[test]
    fn json_floats_read_back_bit_for_bit(v in prop::array::uniform10(finite())) {
        let boxes = [Box3d {
            center: [v[0], v[1], v[2]],
            size: [v[3], v[4], v[5]],
            yaw: v[6],
            velocity: [v[7], v[8]],
            score: v[9],
            class: 3,
        }];
        #[derive(serde::Deserialize)]
        struct Line { boxes: Vec<LineBox> }
        #[derive(serde::Deserialize)]
        struct LineBox { class: String, score: f32, center: [f32; 3], size: [f32; 3], yaw: f32, velocity: [f32; 2] }
        let line = json::line(&result(&boxes), &classes()).unwrap();
        let back: Line = serde_json::from_str(&line).unwrap();
        let b = &back.boxes[0];
        prop_assert_eq!(b.class.as_str(), "bicycle");
        let found = [&b.center[..], &b.size, &[b.yaw], &b.velocity, &[b.score]].concat();
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&found), bits(&v));
        // serde_json could round twice; the standard library's parser does not.
        let printed = line.split("\"score\":").nth(1).unwrap().split(',').next().unwrap();
        prop_assert_eq!(printed.parse::<f32>().unwrap().to_bits(), v[9].to_bits());
    }
}

// ---- KITTI

#[test]
fn kitti_line_of_a_car_to_the_front_left() {
    // x_cam = -4, y_cam = -(-0.5 - 0.75) = 1.25, z_cam = 10; rotation_y = -π/2;
    // alpha = -π/2 - atan2(-4, 10) = -1.570796 + 0.380506 = -1.190290.
    assert_eq!(
        kitti::text(&result(&[car()]), &classes()).unwrap(),
        "car -1 -1 -1.1903 -1 -1 -1 -1 1.5000 2.0000 4.0000 -4.0000 1.2500 10.0000 -1.5708 0.9000\n"
    );
}

#[test]
fn kitti_angles_are_wrapped() {
    let rotation = |yaw: f32| -> (f64, f64) {
        let b = Box3d {
            center: [0.0, -5.0, 0.0],
            yaw,
            ..car()
        };
        let text = kitti::text(&result(&[b]), &classes()).unwrap();
        let columns: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(columns.len(), 16);
        (columns[14].parse().unwrap(), columns[3].parse().unwrap())
    };
    // To the right of the camera: x_cam = 5, z_cam = 0, hence alpha = rotation_y - π/2.
    // A car that heads right has rotation_y 0.
    assert_eq!(rotation(-FRAC_PI_2), (0.0, -1.5708));
    // Heading left: -π in (−π, π] is π.
    assert_eq!(rotation(FRAC_PI_2), (3.1416, 1.5708));
    assert_eq!(rotation(PI * 0.75), (2.3562, 0.7854));
    assert_eq!(rotation(PI), (1.5708, 0.0));
}

#[test]
fn kitti_class_names_are_one_column() {
    let names = vec!["construction vehicle".to_owned()];
    let text = kitti::text(&result(&[car(), car()]), &names).unwrap();
    assert_eq!(text.lines().count(), 2);
    for line in text.lines() {
        assert!(line.starts_with("construction_vehicle -1 "), "{line}");
        assert_eq!(line.split(' ').count(), 16);
    }
    assert_eq!(kitti::text(&result(&[]), &names).unwrap(), "");
}

// ---- table

#[test]
fn table_snapshot() {
    let pedestrian = Box3d {
        center: [-33.456, -50.125, 1.0],
        size: [0.7, 0.65, 1.75],
        yaw: -3.0,
        velocity: [-1.0, 0.0],
        score: 0.4567,
        class: 4,
    };
    let boxes = [car(), pedestrian];
    let mut frame = result(&boxes);
    frame.dropped.non_finite = 3;
    frame.dropped.pillars = 20;
    frame.times = Some(times());
    assert_eq!(
        table::text(&frame, &classes()),
        "\
frames/000000.bin: 34688 points, 2 boxes, dropped 3 non_finite, 20 pillars, 58.1 ms
times ms:  read 0.50  pillars 1.25  features 4.00  scatter 0.75  engine 50.00  decode 1.00  nms 0.50  total 58.12
class       score        x        y       z       l       w       h    yaw°      vx      vy
car         0.900    10.00     4.00   -0.50    4.00    2.00    1.50     0.0    3.00   -0.25
pedestrian  0.457   -33.46   -50.12    1.00    0.70    0.65    1.75  -171.9   -1.00    0.00
"
    );
    assert_eq!(
        table::text(&result(&[]), &classes()),
        "frames/000000.bin: 34688 points, 0 boxes\n"
    );
}
