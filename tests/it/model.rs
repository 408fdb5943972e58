//! The model description: what is accepted, what is rejected, and with which message.

use std::path::Path;

use centerpoint::model::{Candidates, ModelError, NmsKind, Rotation, SizeOrder};
use centerpoint::{Column, Model};
use proptest::prelude::*;

/// A complete description; the tests edit single lines.
const DEMO: &str = r#"name = "centerpoint-demo"
classes = ["car", "truck", "bus", "bicycle", "pedestrian"]

[points]
columns = ["x", "y", "z", "intensity", "t"]
intensity_scale = 1.0 # trained on 0..1
sweeps = 2
capacity = 400000

[grid]
range = [-51.2, -51.2, -3.0, 51.2, 51.2, 5.0]
voxel_size = [0.4, 0.4, 8.0]
size = [256, 256]
max_points_per_pillar = 20
max_pillars = 20000

[pfn]
mean_offset = true
center_offset_axes = 3
in_features = 11
layers = [32, 32]

[head]
downsample = 2
size_order = "lwh"
rotation = "sin_cos"

[decode]
candidates = "best_class"
max_candidates = 1000
score = 0.1

[[nms]]
kind = "circle"
scope = "class"
radius = { car = 2.0, truck = 2.5, bus = 3.5, bicycle = 0.85, pedestrian = 0.4 }
max_boxes = 200
"#;

fn parse(text: &str) -> Result<Model, ModelError> {
    Model::parse(text, Path::new("some/model.toml"))
}

/// The demo description with `from` replaced; fails if it does not occur.
fn edited(from: &str, to: &str) -> String {
    assert!(
        DEMO.contains(from),
        "`{from}` is not in the demo description"
    );
    DEMO.replacen(from, to, 1)
}

#[track_caller]
fn assert_rejected(text: &str, key: &str, message: &str) {
    let error = parse(text)
        .expect_err("accepted although invalid")
        .to_string();
    assert!(
        error.starts_with("some/model.toml: "),
        "no file name: {error}"
    );
    assert!(
        error.contains(key) && error.contains(message),
        "`{key}`, `{message}`: {error}"
    );
}

#[test]
fn the_demo_description_is_resolved() {
    let model = parse(DEMO).unwrap();
    assert_eq!(
        model.classes,
        ["car", "truck", "bus", "bicycle", "pedestrian"]
    );
    assert_eq!(
        model.points.columns,
        [
            Column::X,
            Column::Y,
            Column::Z,
            Column::Intensity,
            Column::T
        ]
    );
    assert_eq!((model.grid.nx, model.grid.ny), (256, 256));
    assert_eq!(model.head_size(), (128, 128));
    assert_eq!(model.pfn_in_features(), 11);
    assert_eq!(model.pfn_linear_widths().collect::<Vec<_>>(), [16, 32]);
    assert_eq!(model.head.tasks.len(), 1);
    assert_eq!(model.head.tasks[0].outputs.vel, "vel");
    assert_eq!(model.head.size_order, SizeOrder::Lwh);
    assert_eq!(model.head.rotation, Rotation::SinCos);
    assert_eq!(model.decode.candidates, Candidates::BestClass);
    assert_eq!(model.decode.score, [[0.1; 5]]);
    assert_eq!(model.nms[0].group, [0, 1, 2, 3, 4]);
    assert!(matches!(&model.nms[0].kind, NmsKind::Circle { radius } if radius.len() == 5));
}

#[test]
fn the_shipped_description_is_valid() {
    let model = Model::read(&crate::common::repository().join("engines/demo/model.toml")).unwrap();
    assert_eq!((model.classes.len(), model.grid.cells()), (5, 256 * 256));
}

#[test]
fn grid_is_rounded_not_truncated() {
    // 42.4 / 0.2 = 211.99999999999997 in f64 (and 244.8 / 0.24 = 1019.9999 in f32): peer projects truncate and
    // lose a column.
    let text = edited(
        "range = [-51.2, -51.2, -3.0, 51.2, 51.2, 5.0]",
        "range = [-21.2, -21.2, -3.0, 21.2, 21.2, 5.0]",
    )
    .replace("[0.4, 0.4, 8.0]", "[0.2, 0.2, 8.0]")
    .replace("size = [256, 256]", "size = [212, 212]");
    let model = parse(&text).unwrap();
    assert_eq!((model.grid.nx, model.grid.ny), (212, 212));
}

#[test]
fn invalid_values_are_rejected_by_key() {
    for (from, to, key, words) in [
        (
            "sweeps = 2",
            "sweeps = 0",
            "points.sweeps",
            "0; expected 1 to 64",
        ),
        ("sweeps = 2", "sweps = 2", "sweps", "unknown field"),
        ("downsample = 2\n", "", "downsample", "missing field"),
        (
            "max_pillars = 20000",
            "max_pillars = 0",
            "grid.max_pillars",
            "expected 1 or more",
        ),
        (
            "max_pillars = 20000",
            "max_pillars = -1",
            "max_pillars",
            "-1",
        ),
        (
            "max_points_per_pillar = 20",
            "max_points_per_pillar = 0",
            "grid.max_points_per_pillar",
            "0",
        ),
        (
            "size = [256, 256]",
            "size = [256, 255]",
            "grid.size",
            "[256, 256]",
        ),
        (
            "[0.4, 0.4, 8.0]",
            "[0.4, 0.4, 4.0]",
            "grid.voxel_size",
            "2 voxels along z",
        ),
        (
            "[0.4, 0.4, 8.0]",
            "[0.4, 0.39, 8.0]",
            "grid.voxel_size",
            "not a whole number",
        ),
        (
            "[0.4, 0.4, 8.0]",
            "[0.4, 0.0, 8.0]",
            "grid.voxel_size",
            "not above 0",
        ),
        (
            "[0.4, 0.4, 8.0]",
            "[0.0004, 0.4, 8.0]",
            "grid.voxel_size",
            "at most 8192",
        ),
        (
            "51.2, 51.2, 5.0]",
            "-51.2, 51.2, 5.0]",
            "grid.range",
            "not a valid range",
        ),
        (
            "51.2, 51.2, 5.0]",
            "nan, 51.2, 5.0]",
            "grid.range",
            "not a valid range",
        ),
        (
            "center_offset_axes = 3",
            "center_offset_axes = 1",
            "pfn.center_offset_axes",
            "0, 2 or 3",
        ),
        (
            "in_features = 11",
            "in_features = 10",
            "pfn.in_features",
            "make 11",
        ),
        ("layers = [32, 32]", "layers = []", "pfn.layers", "1 to 3"),
        (
            "layers = [32, 32]",
            "layers = [33, 32]",
            "pfn.layers",
            "even",
        ),
        (
            "\"intensity\", \"t\"]",
            "\"intensity\", \"time\"]",
            "points.columns",
            "`time` is not a column",
        ),
        (
            "\"intensity\", \"t\"]",
            "\"t\", \"t\"]",
            "points.columns",
            "twice",
        ),
        (
            "[\"x\", \"y\"",
            "[\"y\", \"x\"",
            "points.columns",
            "x, y, z",
        ),
        (
            "intensity_scale = 1.0",
            "intensity_scale = 0.0",
            "points.intensity_scale",
            "above 0",
        ),
        (
            "\"pedestrian\"]",
            "\"car\"]",
            "classes",
            "`car` is empty or listed twice",
        ),
        (
            "downsample = 2",
            "downsample = 3",
            "head.downsample",
            "does not divide",
        ),
        (
            "size_order = \"lwh\"",
            "size_order = \"hwl\"",
            "size_order",
            "unknown variant",
        ),
        (
            "score = 0.1",
            "score = 1.5",
            "decode.score",
            "within 0 to 1",
        ),
        (
            "score = 0.1",
            "score = { car = 0.1 }",
            "decode.score.truck",
            "missing",
        ),
        (
            "score = 0.1",
            "score = { car = 0.1, tram = 0.1 }",
            "decode.score",
            "`tram` is not a class",
        ),
        ("score = 0.1", "", "decode.score", "missing"),
        (
            "score = 0.1",
            "bands = { upper_bounds = [9.0, 5.0] }",
            "decode.bands.upper_bounds",
            "ascend",
        ),
        (
            "score = 0.1",
            "bands = { upper_bounds = [9.0] }",
            "decode.bands.car",
            "missing",
        ),
        (
            "kind = \"circle\"",
            "kind = \"iou\"",
            "nms[0].radius",
            "not valid for",
        ),
        (
            "scope = \"class\"",
            "groups = [[\"car\"]]",
            "nms[0].groups",
            "`truck` is in no group",
        ),
        (
            "scope = \"class\"",
            "groups = [[\"car\", \"truck\"], [\"bus\", \"car\", \"bicycle\", \"pedestrian\"]]",
            "nms[0].groups",
            "`car` is in two groups",
        ),
        ("scope = \"class\"", "", "nms[0].scope", "either"),
        (
            "max_boxes = 200",
            "max_boxes = 0",
            "nms[0].max_boxes",
            "every box",
        ),
        (
            "max_candidates = 1000",
            "max_candidates = 0",
            "decode.max_candidates",
            "expected 1",
        ),
    ] {
        assert_rejected(&edited(from, to), key, words);
    }
    let remap = format!("{DEMO}\n[[remap]]\nfrom = \"car\"\nto = \"tram\"\nmin_area = 1.0\n");
    assert_rejected(&remap, "remap[0].to", "`tram` is not a class");
    let tasks = edited(
        "rotation =",
        "tasks = [{ classes = [\"car\"] }]\nrotation =",
    );
    assert_rejected(&tasks, "head.tasks", "`truck` is in 0 tasks");
}

#[test]
fn more_pillars_than_cells_are_no_limit() {
    for (given, expected) in [(65_535, 65_535), (65_536, 65_536), (70_000, 65_536)] {
        let text = edited("max_pillars = 20000", &format!("max_pillars = {given}"));
        assert_eq!(parse(&text).unwrap().grid.max_pillars, expected, "{given}");
    }
}

#[test]
fn bands_tasks_and_groups_are_resolved() {
    let text = edited("score = 0.1", "bands = { upper_bounds = [50.0, 90.0], car = [0.5, 0.4], truck = [0.1, 0.2], bus = [0.1, 0.2], bicycle = [0.1, 0.2], pedestrian = [0.3, 0.35] }")
        .replace("rotation =", "tasks = [{ classes = [\"pedestrian\", \"bicycle\"] }, { classes = [\"bus\", \"car\", \"truck\"] }]\nrotation =")
        .replace("scope = \"class\"", "scope = \"task\"");
    let model = parse(&text).unwrap();
    assert_eq!(model.decode.bands, [50.0, 90.0]);
    assert_eq!(model.decode.score[1], [0.4, 0.2, 0.2, 0.2, 0.35]);
    assert_eq!(model.head.tasks[0].classes, [4, 3]);
    assert_eq!(model.head.tasks[1].outputs.heatmap, "heatmap_1");
    assert_eq!(model.nms[0].group, [1, 1, 1, 0, 0]);
}

#[test]
fn a_missing_or_huge_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone.toml");
    let error = Model::read(&path).unwrap_err().to_string();
    assert!(error.contains("gone.toml"), "{error}");
    let path = folder.path().join("huge.toml");
    std::fs::write(&path, vec![b'#'; (1 << 16) + 1]).unwrap();
    let error = Model::read(&path).unwrap_err().to_string();
    assert!(
        error.contains("huge.toml") && error.contains("65537"),
        "{error}"
    );
}

#[test]
fn truncation_never_panics_and_names_the_file() {
    for i in 0..64 {
        let mut end = DEMO.len() * i / 64;
        while !DEMO.is_char_boundary(end) {
            end -= 1;
        }
        if let Err(error) = parse(&DEMO[..end]) {
            assert!(error.to_string().contains("some/model.toml"), "{error}");
        }
    }
}

proptest! {
    #[test]
    fn damaged_text_never_panics(at in 0..DEMO.len(), with in "\\PC{0,12}", cut in 0usize..40) {
        let at = (0..=at).rev().find(|&i| DEMO.is_char_boundary(i)).unwrap_or(0);
        let end = (at + cut..=DEMO.len()).find(|&i| DEMO.is_char_boundary(i)).unwrap_or(DEMO.len());
        let text = format!("{}{with}{}", &DEMO[..at], &DEMO[end..]);
        if let Err(error) = parse(&text) {
            prop_assert!(error.to_string().contains("some/model.toml"));
        }
    }
}
