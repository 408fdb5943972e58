//! Pixels where they belong, and a picture of any values.

use std::f32::consts::FRAC_PI_2;

use proptest::prelude::*;

use super::{BevOptions, render};
use crate::boxes::Box3d;
use crate::detection::Dropped;
use crate::draw::DrawError;
use crate::draw::canvas::Image;
use crate::points::{Column, Layout, PointCloud};
use crate::results::{FrameResult, table};

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
fn points_are_at_their_positions() {
    let points = [[23.05, 7.05, 1.0], [-34.95, -41.95, 1.0]];
    let mut options = options(&[]);
    options.heights = Some([-5.0, 1.0]);
    let image = render(&cloud(&points), &[], None, &options).unwrap();
    let empty = render(&cloud(&[]), &[], None, &options).unwrap();
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
fn higher_points_are_lighter() {
    let points = [[20.0, 5.0, -2.0], [20.0, 8.05, 1.0], [20.0, 11.0, 4.0]];
    let mut options = options(&[]);
    options.heights = Some([-2.0, 4.0]);
    let image = render(&cloud(&points), &[], None, &options).unwrap();
    let light = points.map(|[x, y, _]| brightness(at(&image, x, y)));
    assert!(light[0] < light[1] && light[1] < light[2], "{light:?}");
}

#[test]
fn boxes_have_class_colour_front_and_arrow() {
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
    let image = render(&cloud(&[]), &[bus], None, &options(&names)).unwrap();
    let empty = render(&cloud(&[]), &[], None, &options(&names)).unwrap();
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
    let image = render(&cloud(&[]), &[turned], None, &options(&names)).unwrap();
    assert!(pink(at(&image, 26.0, 13.95)) && !pink(at(&image, 26.0, 2.25)));
    assert!(pink(at(&image, 25.55, 5.0)) && pink(at(&image, 28.55, 5.0)));
}

#[test]
fn labels_are_dashed() {
    let names = classes();
    let truth = Box3d {
        size: [20.0, 10.0, 3.0],
        center: [30.0, 24.95, 0.0],
        ..car()
    };
    let image = render(&cloud(&[]), &[], Some(&[truth]), &options(&names)).unwrap();
    let along: Vec<bool> = (0..190)
        .map(|i| brightness(at(&image, 20.5 + i as f32 * 0.1, 29.95)) > 350)
        .collect();
    let changes = along.windows(2).filter(|w| w[0] != w[1]).count();
    assert!(changes > 20, "{changes} changes along a dashed edge");
}

#[test]
fn skips_low_scores() {
    let names = classes();
    let mut options = options(&names);
    let all = render(&cloud(&[]), &[car()], None, &options).unwrap();
    options.min_score = 0.95;
    let none = render(&cloud(&[]), &[car()], None, &options).unwrap();
    let empty = render(&cloud(&[]), &[], None, &options).unwrap();
    assert_ne!(all, none);
    assert_eq!(none, empty);
}

#[test]
fn is_deterministic_and_its_png_reads_back() {
    let names = classes();
    // Many points of equal height, whose order could differ.
    let points: Vec<[f32; 3]> = (0..20_000)
        .map(|i| {
            let a = i as f32 * 0.618;
            [a.sin() * 50.0, a.cos() * 40.0, (i % 7) as f32]
        })
        .collect();
    let draw = || render(&cloud(&points), &[car()], Some(&[car()]), &options(&names)).unwrap();
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
fn rejects_invalid_sizes_and_ranges() {
    let draw = |size_px, range| {
        let options = BevOptions {
            size_px,
            range,
            ..BevOptions::default()
        };
        render(&cloud(&[]), &[], None, &options)
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
    fn and_table_accept_any_values(
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
        let _ = render(&points, &boxes, labels.as_deref(), &options);
        options.range = [-60.0, -60.0, 60.0, 60.0];
        let image = render(&points, &boxes, labels.as_deref(), &options).unwrap();
        prop_assert_eq!(image.width(), size_px);
        let text = table::text(&result(&boxes), &names);
        prop_assert_eq!(text.lines().count(), if boxes.is_empty() { 1 } else { boxes.len() + 2 });
    }
}
