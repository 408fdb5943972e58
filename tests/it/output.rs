//! Result formats and pictures through the public API: numbers worked out by hand, JSON that reads back bit for
//! bit, and pixels where they belong.
// 1.5708 is printed text, not π/2.
#![allow(clippy::approx_constant, clippy::unwrap_used)]

use std::f32::consts::{FRAC_PI_2, PI};

use centerpoint::draw::bev::{self, BevOptions};
use centerpoint::draw::{DrawError, Image};
use centerpoint::results::{FrameResult, ResultsError, json, kitti, table};
use centerpoint::{Box3d, Column, Dropped, Layout, PointCloud, Times};
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
        boxes,
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

// ---- BEV

/// 1200 pixels for 120 m: 10 pixels per metre. The map is the square below the title bar.
fn options(classes: &[String]) -> BevOptions<'_> {
    BevOptions {
        size_px: 1200,
        range: [-60.0, -60.0, 60.0, 60.0],
        classes,
        title: "000000.bin",
        ..BevOptions::default()
    }
}

/// The pixel at a position in metres: x up, y to the left, the origin in the middle of the map. Pixel centres are
/// at odd multiples of 0.05 m.
fn at(image: &Image, x: f32, y: f32) -> [u8; 3] {
    let map_top = (image.height() - image.width()) as f32;
    let (column, row) = (600.0 - y * 10.0, map_top + 600.0 - x * 10.0);
    image.pixel(column as u32, row as u32).unwrap()
}

fn cloud(points: &[[f32; 3]]) -> PointCloud {
    let layout = Layout::new(&[Column::X, Column::Y, Column::Z]).unwrap();
    PointCloud::new(layout, points.concat()).unwrap()
}

fn brightness(pixel: [u8; 3]) -> u32 {
    pixel.iter().map(|&v| u32::from(v)).sum()
}

#[test]
fn bev_points_are_at_their_positions() {
    let points = [[23.05, 7.05, 1.0], [-34.95, -41.95, 1.0]];
    let mut options = options(&[]);
    options.heights = Some([-5.0, 1.0]);
    let image = bev::render(&cloud(&points), &[], None, &options).unwrap();
    let empty = bev::render(&cloud(&[]), &[], None, &options).unwrap();
    for [x, y, _] in points {
        // x is up and y is left: no mirrored or rotated position is lit.
        assert!(
            brightness(at(&image, x, y)) > brightness(at(&empty, x, y)) + 150,
            "{x} {y}"
        );
        for (mx, my) in [(-x, y), (x, -y), (-x, -y), (y, x), (-y, x), (y, -x)] {
            assert_eq!(at(&image, mx, my), at(&empty, mx, my), "{mx} {my}");
        }
    }
}

#[test]
fn bev_higher_points_are_lighter() {
    let points = [[20.0, 5.0, -2.0], [20.0, 8.05, 1.0], [20.0, 11.0, 4.0]];
    let mut options = options(&[]);
    options.heights = Some([-2.0, 4.0]);
    let image = bev::render(&cloud(&points), &[], None, &options).unwrap();
    let light = points.map(|[x, y, _]| brightness(at(&image, x, y)));
    assert!(light[0] < light[1] && light[1] < light[2], "{light:?}");
}

#[test]
fn bev_boxes_have_class_colour_front_and_arrow() {
    let names = classes();
    // A bus from x 21.05 to 33.05 and y 6.55 to 9.55 that drives forward at 15 m/s.
    let bus = Box3d {
        center: [27.05, 8.05, 0.0],
        size: [12.0, 3.0, 3.0],
        yaw: 0.0,
        velocity: [15.0, 0.0],
        score: 1.0,
        class: 2,
    };
    let image = bev::render(&cloud(&[]), &[bus], None, &options(&names)).unwrap();
    let empty = bev::render(&cloud(&[]), &[], None, &options(&names)).unwrap();
    let pink = |p: [u8; 3]| p[0] > 200 && p[1] < 110 && p[2] > 120;
    for (x, y) in [(21.05, 8.75), (33.05, 8.75), (25.0, 6.55), (25.0, 9.55)] {
        assert!(
            pink(at(&image, x, y)),
            "outline at {x} {y}: {:?}",
            at(&image, x, y)
        );
    }
    // The front edge is thicker than the rear edge: 0.1 m inside.
    assert!(pink(at(&image, 32.95, 6.85)) && !pink(at(&image, 21.2, 6.85)));
    // The arrow extends beyond the front, to 15 m ahead of the centre and no farther.
    assert!(pink(at(&image, 38.0, 8.05)) && pink(at(&image, 41.75, 8.05)));
    assert_eq!(at(&image, 42.5, 8.05), at(&empty, 42.5, 8.05));
    // The inside is filled; outside is nothing.
    assert_ne!(at(&image, 24.0, 7.2), at(&empty, 24.0, 7.2));
    assert_eq!(at(&image, 20.0, 8.05), at(&empty, 20.0, 8.05));

    // Rotated by 90° to the left, the front is at y = 14.05, the long sides at x = 25.55 and 28.55.
    let turned = Box3d {
        yaw: FRAC_PI_2,
        velocity: [0.0; 2],
        ..bus
    };
    let image = bev::render(&cloud(&[]), &[turned], None, &options(&names)).unwrap();
    assert!(pink(at(&image, 26.0, 13.95)) && !pink(at(&image, 26.0, 2.25)));
    assert!(pink(at(&image, 25.55, 5.0)) && pink(at(&image, 28.55, 5.0)));
}

#[test]
fn bev_labels_are_dashed() {
    let names = classes();
    let truth = Box3d {
        size: [20.0, 10.0, 3.0],
        center: [30.0, 24.95, 0.0],
        ..car()
    };
    let image = bev::render(&cloud(&[]), &[], Some(&[truth]), &options(&names)).unwrap();
    let along: Vec<bool> = (0..190)
        .map(|i| brightness(at(&image, 20.5 + i as f32 * 0.1, 29.95)) > 350)
        .collect();
    let changes = along.windows(2).filter(|w| w[0] != w[1]).count();
    assert!(changes > 20, "{changes} changes along a dashed edge");
}

#[test]
fn bev_skips_low_scores() {
    let names = classes();
    let mut options = options(&names);
    let all = bev::render(&cloud(&[]), &[car()], None, &options).unwrap();
    options.min_score = 0.95;
    let none = bev::render(&cloud(&[]), &[car()], None, &options).unwrap();
    let empty = bev::render(&cloud(&[]), &[], None, &options).unwrap();
    assert_ne!(all, none);
    assert_eq!(none, empty);
}

#[test]
fn bev_is_deterministic_and_its_png_reads_back() {
    let names = classes();
    // Many points of equal height, whose order could differ.
    let points: Vec<[f32; 3]> = (0..20_000)
        .map(|i| {
            let a = i as f32 * 0.618;
            [a.sin() * 50.0, a.cos() * 40.0, (i % 7) as f32]
        })
        .collect();
    let draw = || bev::render(&cloud(&points), &[car()], Some(&[car()]), &options(&names)).unwrap();
    let (image, again) = (draw(), draw());
    assert_eq!(image, again);

    let dir = tempfile::tempdir().unwrap();
    let paths = ["a.png", "b.png"].map(|name| dir.path().join(name));
    image.write_png(&paths[0]).unwrap();
    again.write_png(&paths[1]).unwrap();
    let bytes = std::fs::read(&paths[0]).unwrap();
    assert_eq!(bytes, std::fs::read(&paths[1]).unwrap());

    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
        .read_info()
        .unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (1200, 1252));
    assert_eq!(info.color_type, png::ColorType::Rgb);
    for (x, y) in [(0, 0), (600, 700), (1199, 1251)] {
        let i = 3 * (y as usize * 1200 + x as usize);
        assert_eq!(image.pixel(x, y).unwrap(), pixels[i..i + 3]);
    }
    assert_eq!((image.pixel(1200, 0), image.pixel(0, 1252)), (None, None));

    let missing = dir.path().join("no/such/folder.png");
    let error = image.write_png(&missing).unwrap_err().to_string();
    assert!(error.contains("folder.png: cannot create"), "{error}");
}

#[test]
fn bev_rejects_invalid_sizes_and_ranges() {
    let draw = |size_px, range| {
        let options = BevOptions {
            size_px,
            range,
            ..BevOptions::default()
        };
        bev::render(&cloud(&[]), &[], None, &options)
    };
    let square = [-1.0, -1.0, 1.0, 1.0];
    for (size, range) in [
        (1200, [1.0, -1.0, -1.0, 1.0]),
        (1200, [-1.0, 1.0, 1.0, 1.0]),
        (1200, [f32::NAN, -1.0, 1.0, 1.0]),
        (1200, [-1.0, -1.0, f32::INFINITY, 1.0]),
        (1200, [-1e30, -1e30, 1e30, 1e30]),
        (1200, [-1e-30, -1e-30, 1e-30, 1e-30]),
        (1200, [-1000.0, -1.0, 1000.0, 1.0]),
        (63, square),
        (0, square),
        (u32::MAX, square),
    ] {
        let error = draw(size, range).unwrap_err();
        assert!(matches!(error, DrawError::View { .. }), "{error}");
    }
    // The smallest and the largest valid pictures.
    draw(64, square).unwrap();
    draw(3900, square).unwrap();
}

/// Any bit pattern; ordinary magnitudes are as likely as extreme ones.
fn any_value() -> impl Strategy<Value = f32> {
    prop_oneof![
        -60.0_f32..60.0,
        any::<u32>().prop_map(f32::from_bits),
        prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0]),
    ]
}

fn any_box() -> impl Strategy<Value = Box3d> {
    (prop::array::uniform10(any_value()), 0u32..12).prop_map(|(v, class)| Box3d {
        center: [v[0], v[1], v[2]],
        size: [v[3], v[4], v[5]],
        yaw: v[6],
        velocity: [v[7], v[8]],
        score: v[9],
        class: if class == 11 { u32::MAX } else { class },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn bev_and_table_accept_any_values(
        order in Just(vec![Column::X, Column::Y, Column::Z, Column::T, Column::Intensity])
            .prop_shuffle(),
        mut data in prop::collection::vec(any_value(), 0..60),
        boxes in prop::collection::vec(any_box(), 0..8),
        labels in prop::option::of(prop::collection::vec(any_box(), 0..4)),
        size_px in 64u32..200,
        range in prop::array::uniform4(prop_oneof![-80.0_f32..80.0, any_value()]),
        heights in prop::option::of(prop::array::uniform2(any_value())),
        title in ".{0,40}",
        total_ms in prop::option::of(any::<f64>()),
    ) {
        let names = classes();
        data.truncate(data.len() / order.len() * order.len());
        let points = PointCloud::new(Layout::new(&order).unwrap(), data).unwrap();
        let mut options = BevOptions { size_px, range, classes: &names, title: &title, total_ms,
            min_score: 0.0, heights };
        // An error or a picture; always a picture for a valid range.
        let _ = bev::render(&points, &boxes, labels.as_deref(), &options);
        options.range = [-60.0, -60.0, 60.0, 60.0];
        let image = bev::render(&points, &boxes, labels.as_deref(), &options).unwrap();
        prop_assert_eq!(image.width(), size_px);
        let text = table::text(&result(&boxes), &names);
        prop_assert_eq!(text.lines().count(), if boxes.is_empty() { 1 } else { boxes.len() + 2 });
    }
}
