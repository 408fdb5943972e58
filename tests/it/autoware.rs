//! Folders of Autoware's public model repository: as model folders, and to a plan in one command.

use std::path::Path;

use centerpoint::model::{NmsKind, Suppressors, WithoutPose};
use centerpoint::{Model, Plan};

use crate::frames::bin;
use crate::toy::{build, built, refused, write_autoware};

const PFE: &str = "pts_voxel_encoder.onnx";
const RPN: &str = "pts_backbone_neck_head.onnx";

pub(crate) const MANIFEST: &str = "/**:
  ros__parameters:
    version: v4.1
    encoder_onnx_path: pts_voxel_encoder.onnx
    encoder_engine_path: pts_voxel_encoder.engine
    head_onnx_path: pts_backbone_neck_head.onnx
    head_engine_path: pts_backbone_neck_head.engine
    class_remapper_param_path: detection_class_remapper.param.yaml
    trt_precision: fp16
    model_params:
      class_names: [CAR, PEDESTRIAN]
      point_feature_size: 4
      max_voxel_size: 40000
      point_cloud_range: [-8.0, -8.0, 0.0, 8.0, 8.0, 4.0]
      voxel_size: [1.0, 1.0, 4.0]
      downsample_factor: 1
      encoder_in_feature_size: 9
      has_variance: false
      has_twist: false
      yaw_norm_thresholds: [0.3, 0.0]
      detection_score_thresholds:
        distance_bin_upper_limits: [50.0, 200.0]
        min_confidence_scores:
          CAR: [0.35, 0.4]
          PEDESTRIAN: [0.35, 0.4]
";
pub(crate) const COMMON: &str = "/**:
  ros__parameters:
    post_process_params:
      circle_nms_dist_threshold: 0.7
      iou_nms_search_distance_2d: 0.0
      iou_nms_threshold: 0.2
    densification_params:
      world_frame_id: map
      num_past_frames: 0
";

/// A folder `base` as in version 4.1, and frames.
fn bundle() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    std::fs::create_dir(&base).unwrap();
    write_autoware(&base, PFE, RPN);
    let zeros = ["0"; 64].join(", ");
    let remapper = format!(
        "/**:\n  ros__parameters:\n    allow_remapping_by_area_matrix: [{zeros}]\n    min_area_matrix: \
         [{zeros}]\n    max_area_matrix: [{zeros}]\n"
    );
    std::fs::write(base.join("ml_package.param.yaml"), MANIFEST).unwrap();
    std::fs::write(base.join("detection_class_remapper.param.yaml"), remapper).unwrap();
    std::fs::write(base.join("deploy_metadata.yaml"), "num_checkpoint: 9\n").unwrap();
    std::fs::write(folder.path().join("common.param.yaml"), COMMON).unwrap();
    let frames = folder.path().join("frames");
    std::fs::create_dir(&frames).unwrap();
    for frame in 0..8 {
        let points = (0..200).flat_map(|i| {
            let at = |step: usize| ((frame * 131 + i * step) % 157) as f32 / 157.0;
            [
                15.9 * at(17) - 7.95,
                15.9 * at(29) - 7.95,
                3.9 * at(41),
                0.0,
            ]
        });
        let points: Vec<f32> = points.collect();
        std::fs::write(frames.join(format!("{frame}.bin")), bin(&points)).unwrap();
    }
    folder
}

fn radius(model: &Model) -> f32 {
    match &model.nms[0].kind {
        NmsKind::Circle { radius } => radius[0],
        other => panic!("{other:?}"),
    }
}

/// The plan's model in `folder`.
fn model_of(folder: &Path, plan: &str) -> Model {
    Plan::open(&folder.join(plan)).unwrap().model().clone()
}

#[test]
fn a_folder_and_frames_become_a_plan_in_one_command() {
    let folder = bundle();
    let path = folder.path();
    let one = ["autoware", "base", "--frames", "frames", "--out"];
    let (said, _) = built(path, &[&one[..], &["a.plan"]].concat());
    for expected in [
        "`post_process_params.circle_nms_dist_threshold` is in none of the files: 0.5",
        "`cloud_capacity` is in none of the files: 2000000",
        "a.plan: cpu int8",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    let model = model_of(path, "a.plan");
    assert_eq!((radius(&model), model.points.sweeps), (0.5, 2));
    // More pillars than cells are no limit.
    assert_eq!(model.grid.max_pillars, 256);
    assert_eq!(model.points.without_pose, WithoutPose::Drop);
    let suppressors: Vec<Suppressors> = model.nms.iter().map(|step| step.suppressors).collect();
    assert_eq!(suppressors, [Suppressors::Kept, Suppressors::All]);

    // Step by step, with the same bytes.
    built(path, &["import", "--model", "base", "--out", "folder"]);
    for (model, plan) in [("folder", "b.plan"), ("base", "c.plan")] {
        let steps = [
            "quantize", "--model", model, "--frames", "frames", "--out", plan,
        ];
        built(path, &steps);
        let read = |name: &str| std::fs::read(path.join(name)).unwrap();
        assert!(read("a.plan") == read(plan), "{plan} differs");
    }
    // The folder is a model folder for other commands, too.
    built(path, &["compile", "--model", "base", "--out", "float.plan"]);
    assert_eq!(model_of(path, "float.plan"), model);
}

#[test]
fn further_files_replace_what_autoware_ships() {
    let folder = bundle();
    let path = folder.path();
    let (said, _) = built(
        path,
        &[
            "import",
            "--model",
            "base",
            "common.param.yaml",
            "--out",
            "a",
        ],
    );
    assert!(
        said.contains("cloud_capacity") && !said.contains("circle"),
        "{said}"
    );
    let text = std::fs::read_to_string(path.join("a/model.toml")).unwrap();
    let model = Model::parse(&text, "model.toml".as_ref()).unwrap();
    assert_eq!((radius(&model), model.points.sweeps), (0.7, 1));
    // All files, listed.
    let files = [
        "base/ml_package.param.yaml",
        "common.param.yaml",
        "base/deploy_metadata.yaml",
    ];
    let networks = [
        "--pfe",
        "base/pts_voxel_encoder.onnx",
        "--rpn",
        "base/pts_backbone_neck_head.onnx",
    ];
    let import = [
        &["import", "--model"],
        &files[..],
        &networks,
        &["--out", "b"],
    ]
    .concat();
    built(path, &import);
    let again = std::fs::read_to_string(path.join("b/model.toml")).unwrap();
    let again = Model::parse(&again, "model.toml".as_ref()).unwrap();
    assert_eq!((again.nms, again.points.sweeps), (model.nms, 1));
}

/// Until version 4.0 the files of all models lay in one folder.
#[test]
fn the_older_folder_is_read_if_it_has_one_model() {
    let folder = bundle();
    let path = folder.path();
    let flat = path.join("flat");
    std::fs::create_dir(&flat).unwrap();
    write_autoware(
        &flat,
        "pts_voxel_encoder_centerpoint_tiny.onnx",
        "pts_backbone_neck_head_centerpoint_tiny.onnx",
    );
    let lines = MANIFEST.lines().filter(|line| {
        !["version", "path", "trt"]
            .iter()
            .any(|key| line.contains(key))
    });
    let older: String = lines.map(|line| format!("{line}\n")).collect();
    std::fs::write(flat.join("centerpoint_tiny_ml_package.param.yaml"), &older).unwrap();
    built(path, &["import", "--model", "flat", "--out", "a"]);

    std::fs::write(flat.join("centerpoint_ml_package.param.yaml"), &older).unwrap();
    let error = refused(path, &["import", "--model", "flat", "--out", "b"], 4);
    assert!(
        error.contains("several models: centerpoint_ml_package"),
        "{error}"
    );
    let error = refused(path, &["import", "--model", "frames", "--out", "b"], 4);
    assert!(error.contains("expected ml_package.param.yaml"), "{error}");
    // Without a folder, the networks must be named.
    let run = build(
        path,
        &["import", "--model", "common.param.yaml", "--out", "b"],
    );
    assert_eq!(run.status.code(), Some(2));
}
