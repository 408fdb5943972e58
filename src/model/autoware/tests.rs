//! Tests of Autoware's parameter files: one case for each form that they have had since 2022, by what differs. The texts
//! are ours; the keys are those of autoware_universe and autoware_launch.

use std::path::PathBuf;

use super::*;
use crate::model::autoware::import::{Common, Description, read};
use crate::model::{Model, NmsKind, Rotation, SizeOrder};
use crate::points::Column;

/// A parameter file with these lines.
fn file(lines: &str) -> String {
    let lines = lines.lines().map(|line| format!("    {line}\n"));
    format!("/**:\n  ros__parameters:\n{}", lines.collect::<String>())
}

const NETWORK: &str = "\
class_names: [CAR, TRUCK, BUS, BICYCLE, PEDESTRIAN]
point_feature_size: 4
point_cloud_range: [-76.8, -76.8, -4.0, 76.8, 76.8, 6.0]
voxel_size: [0.32, 0.32, 10.0]
downsample_factor: 1
encoder_in_feature_size: 9
";

/// The table `name` with these lines.
fn table(name: &str, lines: &str) -> String {
    let lines = lines.lines().map(|line| format!("  {line}\n"));
    format!("{name}:\n{}", lines.collect::<String>())
}

const SUPPRESSION: &str = "\
circle_nms_dist_threshold: 0.5
iou_nms_search_distance_2d: 10.0
iou_nms_threshold: 0.1
";
const YAW: &str = "yaw_norm_thresholds: [0.3, 0.3, 0.3, 0.3, 0.0]\n";
const SWEEPS: &str = "densification_params:\n  world_frame_id: map\n  num_past_frames: 1\n";
const DIAGNOSTICS: &str = "\
max_allowed_processing_time_ms: 200.0
max_acceptable_consecutive_delay_ms: 1000.0
validation_callback_interval_ms: 100
";
const ENGINES: &str = "\
encoder_onnx_path: \"$(var model_path)/pts_voxel_encoder_$(var model_name).onnx\"
encoder_engine_path: \"$(var model_path)/pts_voxel_encoder_$(var model_name).engine\"
head_onnx_path: \"$(var model_path)/pts_backbone_neck_head_$(var model_name).onnx\"
head_engine_path: \"$(var model_path)/pts_backbone_neck_head_$(var model_name).engine\"
trt_precision: fp16
";
const CAPACITY: &str = "cloud_capacity: 2000000\n";
const PILLARS: &str = "max_voxel_size: 40000\n";
const HEADS: &str = "has_variance: false\nhas_twist: false\n";
const FLAT_BANDS: &str = "\
score_thresholds:
  upper_bounds: [50.0, 200.0]
  thresholds: [
    0.35, 0.36, 0.37, 0.38, 0.39,   # near
    0.45, 0.46, 0.47, 0.48, 0.49    # far
  ]
";
const CLASS_BANDS: &str = "\
CAR: [0.35, 0.45]
TRUCK: [0.36, 0.46]
BUS: [0.37, 0.47]
BICYCLE: [0.38, 0.48]
PEDESTRIAN: [0.39, 0.49]
";

/// The matrices with one rule: cars of 36 m² and more are trailers.
fn remapper(last: &str) -> String {
    let matrix = |cell: &str, other: &str| {
        let cells = (0..64).map(|i| if i == 12 { cell } else { other });
        cells.collect::<Vec<_>>().join(", ")
    };
    file(&format!(
        "{ALLOW}: [{}]\n{MIN_AREA}: [{}]\n{MAX_AREA}: [{}]\n",
        matrix("1", "0"),
        matrix("36.0", "0.0"),
        matrix(last, "0.0")
    ))
}

fn bands_by_class(table_name: &str, bounds: &str, scores: &str) -> String {
    table(
        table_name,
        &format!("{bounds}: [50.0, 200.0]\n{}", table(scores, CLASS_BANDS)),
    )
}

/// The manifest of version 4.1.
fn manifest() -> String {
    let bands = bands_by_class(
        "detection_score_thresholds",
        "distance_bin_upper_limits",
        "min_confidence_scores",
    );
    file(&format!(
        "version: v4.1\nencoder_onnx_path: pts_voxel_encoder.onnx\nclass_remapper_param_path: \
         detection_class_remapper.param.yaml\ntrt_precision: fp16\n{}",
        table(
            "model_params",
            &format!("{NETWORK}{PILLARS}{HEADS}{YAW}{bands}")
        )
    ))
}

/// The common file from August 2026 on.
fn common() -> String {
    file(&format!(
        "{CAPACITY}{}{SWEEPS}{}",
        table("post_process_params", SUPPRESSION),
        table("diagnostics", DIAGNOSTICS)
    ))
}

/// Writes files by name to a folder.
fn write(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let paths = files.iter().map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let paths = paths.collect();
    (folder, paths)
}

fn read_texts(texts: &[&str]) -> Result<Description, ModelError> {
    let names: Vec<String> = (0..texts.len())
        .map(|i| format!("{i}.param.yaml"))
        .collect();
    let files: Vec<_> = names
        .iter()
        .map(String::as_str)
        .zip(texts.iter().copied())
        .collect();
    read(&write(&files).1, &[32], Common::Required)
}

/// The scores of a case: in bands, by class, or one.
#[derive(Clone, Copy, PartialEq)]
enum Expected {
    Bands,
    Classes,
    One(f32),
}

/// When, what differs, the files, the expected scores, and how many values are assumed.
type Case = (&'static str, &'static str, Vec<String>, Expected, usize);

fn cases() -> Vec<Case> {
    let flat = |more: &str| file(&format!("{NETWORK}{PILLARS}{more}"));
    let post = |more: &str| table("post_process_params", &format!("{SUPPRESSION}{YAW}{more}"));
    let package = |more: &str| file(&table("model_params", &format!("{NETWORK}{HEADS}{more}")));
    let param = |more: &str| file(&format!("{ENGINES}{CAPACITY}{more}{SWEEPS}"));
    let target = "iou_nms_target_class_names: [CAR]\n";
    let flat_sweeps = "densification_num_past_frames: 1\ndensification_world_frame_id: map\n";
    let by_class = bands_by_class("score_thresholds", "upper_bounds", "thresholds");
    let newest = bands_by_class(
        "detection_score_thresholds",
        "distance_bin_upper_limits",
        "min_confidence_scores",
    );
    let one = "score_threshold: 0.35\n";
    let per_class = "score_thresholds: [0.35, 0.36, 0.37, 0.38, 0.39]\n";
    vec![
        (
            "2022-04",
            "flat, `max_num_voxels`, cars renamed, the rest in the launch file",
            vec![file(&format!(
                "{NETWORK}max_num_voxels: 40000\nrename_car_to_truck_and_bus: true\n"
            ))],
            Expected::One(0.4),
            4,
        ),
        (
            "2022-05",
            "`max_voxel_size`",
            vec![flat("rename_car_to_truck_and_bus: false\n")],
            Expected::One(0.4),
            4,
        ),
        (
            "2022-09-21",
            "a remapper file instead of renaming",
            vec![flat(""), remapper("inf")],
            Expected::One(0.35),
            4,
        ),
        (
            "2022-09-27",
            "suppression in the file",
            vec![flat(&format!("{SUPPRESSION}{target}"))],
            Expected::One(0.35),
            3,
        ),
        (
            "2022-09-29",
            "yaw norms by class",
            vec![flat(&format!("{SUPPRESSION}{target}{YAW}")), remapper("999.999")],
            Expected::One(0.35),
            2,
        ),
        (
            "2024-03",
            "the launch file's values in the file",
            vec![flat(&format!(
                "{SUPPRESSION}{target}{YAW}{one}has_twist: true\ntrt_precision: fp16\n{flat_sweeps}{ENGINES}"
            ))
            .replacen("    trt_precision: fp16\n", "", 1)],
            Expected::One(0.35),
            0,
        ),
        (
            "2024-03",
            "two flat files, `build_only`",
            vec![
                flat(flat_sweeps),
                file(&format!(
                    "{one}has_twist: false\nbuild_only: false\n{ENGINES}{SUPPRESSION}{target}{YAW}"
                )),
            ],
            Expected::One(0.35),
            0,
        ),
        (
            "2024-04",
            "`has_variance`, flat, with `cloud_capacity` since 2024-07",
            vec![flat(&format!(
                "{SUPPRESSION}{target}{YAW}{one}{HEADS}{CAPACITY}{flat_sweeps}{ENGINES}"
            ))],
            Expected::One(0.35),
            0,
        ),
        (
            "2024-07",
            "tables, `ml_package` apart",
            vec![
                param(&post(&format!("{one}{target}"))),
                package(PILLARS),
                remapper(".inf"),
            ],
            Expected::One(0.35),
            0,
        ),
        (
            "2024-12",
            "`max_voxel_size` in the other file, `diagnostics.param.yaml` apart and flat",
            vec![
                param(&format!("{}{PILLARS}", post(one))),
                package(""),
                file(DIAGNOSTICS),
            ],
            Expected::One(0.35),
            0,
        ),
        (
            "2025-03",
            "diagnostics in a table of their own file",
            vec![
                param(&post(one)),
                package(PILLARS),
                file(&table("diagnostics", DIAGNOSTICS)),
            ],
            Expected::One(0.35),
            0,
        ),
        (
            "2025-07",
            "`post_process_params.score_thresholds` by class",
            vec![
                param(&post(per_class)),
                package(&format!("model_params_version: \"1.0.0\"\n{PILLARS}")),
            ],
            Expected::Classes,
            0,
        ),
        (
            "2025-08",
            "`model_params.score_thresholds`, one flat list",
            vec![param(&post("")), package(&format!("{PILLARS}{FLAT_BANDS}"))],
            Expected::Bands,
            0,
        ),
        (
            "2025-10",
            "`thresholds` by class",
            vec![param(&post("")), package(&format!("{PILLARS}{by_class}"))],
            Expected::Bands,
            0,
        ),
        (
            "2026-02",
            "`detection_score_thresholds`",
            vec![param(&post("")), package(&format!("{PILLARS}{newest}"))],
            Expected::Bands,
            0,
        ),
        (
            "2026-07",
            "version 4.0: paths in `ml_package`, one common file",
            vec![
                file(&format!(
                    "encoder_onnx_path: pts_voxel_encoder.onnx\ntrt_precision: fp16\n{}",
                    table("model_params", &format!("{NETWORK}{PILLARS}{HEADS}{newest}"))
                )),
                file(&format!(
                    "{CAPACITY}{}{SWEEPS}{}",
                    post(""),
                    table("diagnostics", DIAGNOSTICS)
                )),
            ],
            Expected::Bands,
            0,
        ),
        (
            "2026-08",
            "version 4.1: `version`, `class_remapper_param_path`, yaw norms in `model_params`",
            vec![manifest(), common(), remapper("999.999")],
            Expected::Bands,
            0,
        ),
    ]
}

#[test]
fn every_form_since_2022_makes_the_same_model() {
    for (date, what, files, scores, assumed) in cases() {
        let texts: Vec<&str> = files.iter().map(String::as_str).collect();
        let read = read_texts(&texts).unwrap_or_else(|e| panic!("{date}, {what}: {e}"));
        let Description { model, text, .. } = &read;
        let place = format!("{date}, {what}: {read:#?}");
        let again = Model::parse(text, "model.toml".as_ref()).unwrap();
        assert_eq!(again, *model, "{place}");
        assert_eq!(read.assumed.len(), assumed, "{place}");
        let columns = [Column::X, Column::Y, Column::Z, Column::T];
        assert_eq!(model.points.columns, columns, "{place}");
        let grid = &model.grid;
        assert_eq!((grid.nx, grid.max_pillars), (480, 40_000), "{place}");
        assert_eq!(
            (model.pfn_in_features(), model.points.sweeps),
            (9, 2),
            "{place}"
        );
        assert_eq!(model.head.rotation, Rotation::NegCosNegSin);
        assert_eq!(model.head.size_order, SizeOrder::Wlh);
        assert_eq!(model.head.tasks[0].classes, [0, 1, 2, 3, 4]);
        let named: Vec<&[f32]> = model.decode.score.iter().map(|band| &band[..5]).collect();
        let near = [0.35, 0.36, 0.37, 0.38, 0.39];
        match scores {
            Expected::Bands => {
                assert_eq!(model.decode.bands, [50.0, 200.0], "{place}");
                assert_eq!(named, [near, [0.45, 0.46, 0.47, 0.48, 0.49]], "{place}");
            }
            Expected::Classes => assert_eq!(named, [near], "{place}"),
            Expected::One(score) => assert_eq!(named, [[score; 5]], "{place}"),
        }
        let has_yaw = texts
            .iter()
            .any(|text| text.contains("yaw_norm_thresholds"));
        let yaw = if has_yaw {
            [0.3, 0.3, 0.3, 0.3, 0.0]
        } else {
            [0.0; 5]
        };
        assert_eq!(model.decode.yaw_norm[..5], yaw, "{place}");
        let has_nms = texts.iter().any(|text| text.contains("iou_nms_threshold"));
        let radius = if has_nms { 0.5 } else { 1.5 };
        let NmsKind::Circle { radius: found } = &model.nms[0].kind else {
            panic!("{place}");
        };
        assert_eq!(found[0], radius, "{place}");
        assert_eq!(model.nms.len(), 1 + usize::from(has_nms), "{place}");
        if has_nms {
            assert_eq!(model.nms[1].group[..5], [0, 0, 0, 0, 1], "{place}");
            let NmsKind::Iou {
                threshold,
                search_distance,
            } = model.nms[1].kind
            else {
                panic!("{place}");
            };
            assert_eq!((threshold, search_distance), (0.1, 10.0), "{place}");
        }
    }
}

#[test]
fn cars_become_trucks_and_buses_by_area_as_until_2022() {
    let text = file(&format!(
        "{NETWORK}{PILLARS}rename_car_to_truck_and_bus: true\n"
    ))
    .replace("CAR, TRUCK, BUS, BICYCLE", "CAR, BICYCLE");
    let model = read_texts(&[&text]).unwrap().model;
    assert_eq!(
        model.classes,
        ["CAR", "BICYCLE", "PEDESTRIAN", "TRUCK", "BUS"]
    );
    let rules: Vec<_> = model
        .remap
        .iter()
        .map(|r| (r.from, r.to, r.min_area, r.max_area))
        .collect();
    assert_eq!(rules, [(0, 3, 12.1, 19.75), (0, 4, 19.75, f32::INFINITY)]);
}

#[test]
fn a_remap_may_lead_to_a_class_that_the_network_lacks() {
    for (written, max) in [
        ("inf", f32::INFINITY),
        (".inf", f32::INFINITY),
        ("99.5", 99.5),
    ] {
        let remapper = remapper(written);
        let model = read_texts(&[&remapper, &manifest(), &common()])
            .unwrap()
            .model;
        assert_eq!(model.classes[5], "TRAILER");
        let [ref rule] = model.remap[..] else {
            panic!("{:?}", model.remap);
        };
        assert_eq!(
            (rule.from, rule.to, rule.min_area, rule.max_area),
            (0, 5, 36.0, max)
        );
    }
}

#[test]
fn the_manifest_names_the_remapper_file_beside_it() {
    let (manifest, common, remapper) = (manifest(), common(), remapper("999.999"));
    let named = ("detection_class_remapper.param.yaml", remapper.as_str());
    let files = [("a.yaml", manifest.as_str()), ("b.yaml", &common), named];
    let (_folder, paths) = write(&files);
    let read_two = |paths: &[PathBuf]| read(&paths[..2], &[32], Common::Required);
    assert_eq!(read_two(&paths).unwrap().model.remap.len(), 1);
    let (_folder, paths) = write(&files[..2]);
    let error = read_two(&paths).unwrap_err();
    assert!(matches!(error, ModelError::Io { .. }), "{error}");
    assert!(
        error.to_string().contains("detection_class_remapper"),
        "{error}"
    );
}

#[test]
fn versions_are_accepted_as_by_autowares_node() {
    for (version, expected) in [
        ("v4.1", true),
        ("4.1", true),
        ("v4.2", true),
        ("v4.10", true),
        ("v4.0", false),
        ("v3.9", false),
        ("v5.0", false),
        ("", false),
        ("v4", false),
        ("v4.1.0", false),
        ("v4.x", false),
        ("latest", false),
        ("v4.+1", false),
        ("v4.", false),
    ] {
        assert_eq!(is_supported(version), expected, "{version}");
        let text = manifest().replace("v4.1", &format!("\"{version}\""));
        let read = read_texts(&[&text, &common(), &remapper("1e3")]);
        let error = read.err().map(|error| error.to_string());
        assert_eq!(error.is_none(), expected, "{version}: {error:?}");
        if let Some(error) = error {
            assert!(
                error.contains("key `version`") && error.contains("4.1 or a later"),
                "{error}"
            );
        }
    }
    // A number without quotation marks.
    let text = manifest().replace("v4.1", "4.1");
    assert!(read_texts(&[&text, &common(), &remapper("1e3")]).is_ok());
}

#[test]
fn files_of_other_detectors_are_named() {
    for (text, detector) in [
        (
            "voxels_num: [5000, 30000, 60000]\nnum_proposals: 500\n",
            TRANSFUSION,
        ),
        (
            "trt_precision: fp16\nonnx_path: t.onnx\nengine_path: t.engine\n",
            TRANSFUSION,
        ),
        (
            "voxels_num: [1, 2, 3]\nnum_proposals: 500\nout_size_factor: 8\n",
            BEVFUSION,
        ),
        (
            "onnx_path: b.onnx\nimage_backbone_onnx_path: \"\"\n",
            BEVFUSION,
        ),
        (
            "model_params:\n  paint_class_names: [CAR]\n  class_names: [CAR]\n",
            POINTPAINTING,
        ),
        ("detection3d:\n  use_head: true\n", "autoware_ptv3"),
    ] {
        let error = read_texts(&[&common(), &file(text)])
            .unwrap_err()
            .to_string();
        let expected = [detector, "another detector", "1.param.yaml"];
        assert!(
            expected.iter().all(|part| error.contains(part)),
            "{text}: {error}"
        );
    }
}

#[test]
fn errors_name_the_file_and_the_key() {
    let (manifest, common, remapper) = (manifest(), common(), remapper("999.999"));
    let short = remapper.replacen("0.0, ", "", 1);
    let crossed = remapper.replace("999.999", "9.5");
    let cases: [(&[&str], &[&str]); 17] = [
        (
            &[&manifest, &remapper],
            &["post_process_params.circle", "missing", "common"],
        ),
        (
            &[&common, &remapper],
            &["model_params.class_names", "missing", "ml_package"],
        ),
        // The third file is wrong, and the second.
        (
            &[&manifest, &common, &short],
            &["2.param.yaml", MIN_AREA, "63 values"],
        ),
        (
            &[&manifest, &common, &crossed],
            &["2.param.yaml", MIN_AREA, "CAR to TRAILER", "9.5"],
        ),
        (
            &[
                &remapper,
                &manifest,
                &common.replace("iou_nms_threshold", "iou_nms_treshold"),
            ],
            &["2.param.yaml", "iou_nms_treshold", "unknown"],
        ),
        (
            &[
                &remapper,
                &manifest.replace("[0.32, 0.32", "[0.33, 0.32"),
                &common,
            ],
            &["1.param.yaml", "model_params.voxel_size", "whole number"],
        ),
        (
            &[
                &remapper,
                &manifest.replace("max_voxel_size: 40000", "max_voxel_size: 0"),
                &common,
            ],
            &["1.param.yaml", "model_params.max_voxel_size", "0"],
        ),
        (
            &[
                &remapper,
                &manifest,
                &common.replace("num_past_frames: 1", "num_past_frames: 64"),
            ],
            &["2.param.yaml", "densification_params.num_past_frames", "65"],
        ),
        (
            &[
                &remapper,
                &manifest.replace("[0.36, 0.46]", "[0.36]"),
                &common,
            ],
            &[
                "1.param.yaml",
                "min_confidence_scores.TRUCK",
                "1 values; expected 2",
            ],
        ),
        (
            &[
                &remapper,
                &manifest.replace("TRUCK: [0.36", "TRACK: [0.36"),
                &common,
            ],
            &["1.param.yaml", "TRACK", "known classes: CAR TRUCK"],
        ),
        (
            &[
                &remapper,
                &manifest.replace("          TRUCK: [0.36, 0.46]\n", ""),
                &common,
            ],
            &["1.param.yaml", "min_confidence_scores.TRUCK", "missing"],
        ),
        (
            &[
                &remapper,
                &manifest.replace("[50.0, 200.0]", "[200.0, 50.0]"),
                &common,
            ],
            &["distance_bin_upper_limits", "ascending"],
        ),
        (
            &[
                &remapper,
                &manifest.replace("[0.3, 0.3, 0.3, 0.3, 0.0]", "[0.3]"),
                &common,
            ],
            &["model_params.yaw_norm_thresholds", "1 values for 5 classes"],
        ),
        (
            &[
                &remapper,
                &manifest.replace("feature_size: 4", "feature_size: 6"),
                &common,
            ],
            &["model_params.point_feature_size", "expected 4"],
        ),
        (
            &[
                &remapper,
                &manifest.replace("factor: 1", "factor: high"),
                &common,
            ],
            &[
                "model_params.downsample_factor",
                "\"high\"",
                "non-negative integer",
            ],
        ),
        (
            &[
                &remapper,
                &manifest,
                &common.replace("threshold: 0.1", "threshold: 1.5"),
            ],
            &[
                "post_process_params.iou_nms_threshold",
                "1.5",
                "from 0 to 1",
            ],
        ),
        (
            &[&remapper, &manifest, "a: 1\n"],
            &["2.param.yaml", "ros__parameters"],
        ),
    ];
    for (files, expected) in cases {
        let error = read_texts(files).unwrap_err().to_string();
        assert!(
            expected.iter().all(|part| error.contains(part)),
            "{expected:?}: {error}"
        );
    }
    let flat = file(&table(
        "model_params",
        &format!("{NETWORK}{FLAT_BANDS}{PILLARS}{YAW}"),
    ));
    let error = read_texts(&[&flat.replace("0.48, 0.49 ", "0.48 "), &common]).unwrap_err();
    assert!(
        error.to_string().contains("9 values; expected 2 bands × 5"),
        "{error}"
    );
}

#[test]
fn the_newer_of_two_spellings_counts() {
    // The common files before version 4.1 had yaw norms, too; the node of 4.1 reads only those of the manifest.
    let older = common().replace(
        "post_process_params:\n",
        &format!("post_process_params:\n      {YAW}")
            .replace("0.3, 0.3, 0.3, 0.3, 0.0", "0.9, 0.9, 0.9, 0.9, 0.9"),
    );
    assert!(older.contains("0.9"));
    for files in [[&manifest(), &older], [&older, &manifest()]] {
        let remapper = remapper("1e3");
        let model = read_texts(&[files[0], files[1], &remapper]).unwrap().model;
        assert_eq!(model.decode.yaw_norm[..5], [0.3, 0.3, 0.3, 0.3, 0.0]);
    }
}
