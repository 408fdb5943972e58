//! `cp-build new-model`: descriptions drawn up from networks, and checked by importing them.

use std::path::{Path, PathBuf};

use centerpoint::Model;
use centerpoint::model::{NmsKind, Rotation, SizeOrder, Suppressors};

use crate::toy::{build, built, refused, write_autoware};

const NETWORKS: [&str; 4] = ["--pfe", "pfe.onnx", "--rpn", "rpn.onnx"];

/// A folder with two networks: 9 columns, 32 points, 16 × 16 cells, 2 classes.
fn networks() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_autoware(folder.path(), "pfe.onnx", "rpn.onnx");
    folder
}

fn arguments(more: &str) -> Vec<&str> {
    let head = ["new-model"].into_iter().chain(NETWORKS);
    head.chain(more.split_whitespace()).collect()
}

fn read(folder: &Path) -> (String, Model) {
    let path = folder.join("model.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let model = Model::parse(&text, &path).unwrap();
    (text, model)
}

#[test]
fn networks_and_a_few_options_make_a_description_that_imports() {
    let folder = networks();
    let args = "--like autoware --classes CAR,PEDESTRIAN --range -8,-8,0,8,8,4 --out model.toml";
    let (out, _) = built(folder.path(), &arguments(args));
    assert!(
        out.starts_with("model.toml: 2 classes, 16 × 16 cells, 6 outputs\n"),
        "{out}"
    );
    // What no file tells is named, and marked in the file.
    assert!(
        out.contains("head.rotation") && out.ends_with(", nms\n"),
        "{out}"
    );
    assert!(!out.contains("pfn.layers"), "{out}");
    let (text, model) = read(folder.path());
    for line in [
        "rotation = \"neg_cos_neg_sin\"  # as in autoware",
        "range = [-8.0, -8.0, 0.0, 8.0, 8.0, 4.0]  # the options",
        "layers = [2]  # pfe.onnx",
        "voxel_size = [1.0, 1.0, 4.0]  # rpn.onnx",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let found = text
            .lines()
            .any(|l| l.split_whitespace().eq(words.iter().copied()));
        assert!(found, "{line}\n{text}");
    }
    assert_eq!(model.classes, ["CAR", "PEDESTRIAN"]);
    assert_eq!(model.grid.max_points_per_pillar, 32);
    assert_eq!((model.pfn.center_axes, model.points.columns.len()), (2, 4));
    assert_eq!(model.head.size_order, SizeOrder::Wlh);
    assert_eq!(model.decode.yaw_norm, [0.3, 0.0]);
    assert_eq!(model.nms[1].suppressors, Suppressors::All);
    assert_eq!(model.nms[1].group, [0, 1]);
    let import: Vec<&str> = ["import"].into_iter().chain(NETWORKS).collect();
    built(
        folder.path(),
        &[&import[..], &["--model", "model.toml", "--out", "m"]].concat(),
    );

    // An existing file is replaced only on request; an input never.
    let message = refused(folder.path(), &arguments(args), 2);
    assert!(
        message.contains("model.toml") && message.contains("--force"),
        "{message}"
    );
    built(folder.path(), &arguments(&format!("{args} --force")));
    let input = args.replace("model.toml", "rpn.onnx --force");
    let message = refused(folder.path(), &arguments(&input), 2);
    assert!(message.contains("rpn.onnx"), "{message}");
}

#[test]
fn what_is_missing_or_contradicts_is_named() {
    let folder = networks();
    let path = folder.path();
    for (args, status, parts) in [
        ("--out m.toml", 2, &["--like", "--config"][..]),
        (
            "--like autoware --out m.toml",
            4,
            &["[2] channels", "--classes"],
        ),
        (
            "--like autoware --classes a,b,c --out m.toml",
            4,
            &["3 names", "[2] classes"],
        ),
        (
            "--like autoware --classes a,b --columns x,y,z,intensity,t --out m.toml",
            4,
            &["9 columns", "5 point columns", "--columns"],
        ),
        (
            "--like autoware --classes a,b --range -8,-8,0,8,8,4 --voxel-size 0.5,0.5 --out m.toml",
            4,
            &["the options", "32.0", "[16, 16]", "rpn.onnx"],
        ),
    ] {
        let message = refused(path, &arguments(args), status);
        for part in parts {
            assert!(message.contains(part), "{args}: {message}");
        }
        assert!(!path.join("m.toml").exists(), "{args}");
    }
    // No source at all is clap's error.
    let none = build(
        path,
        &["new-model", "--like", "autoware", "--out", "m.toml"],
    );
    let message = String::from_utf8(none.stderr).unwrap();
    assert_eq!(none.status.code(), Some(2), "{message}");
    assert!(
        message.contains("--pfe") && message.contains("--config"),
        "{message}"
    );
}

/// A configuration with the layers of the toy networks.
fn config(points: u32) -> String {
    format!(
        "class_names = ['car', 'pedestrian']
model = dict(
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        voxel_layer=dict(
            max_num_points={points},
            max_voxels=(64, 64),
            point_cloud_range=[-8.0, -8.0, 0.0, 8.0, 8.0, 4.0],
            voxel_size=[1.0, 1.0, 4.0])),
    pts_bbox_head=dict(
        bbox_coder=dict(
            max_num=500,
            out_size_factor=1,
            post_center_range=[-10.0, -10.0, -5.0, 10.0, 10.0, 5.0],
            score_threshold=0.1,
            type='CenterPointBBoxCoder'),
        tasks=[dict(class_names=['car', 'pedestrian'], num_class=2)],
        type='CenterHead'),
    pts_middle_encoder=dict(type='PointPillarsScatter'),
    pts_voxel_encoder=dict(
        feat_channels=[2], in_channels=4, type='BackwardPillarFeatureNet'),
    test_cfg=dict(pts=dict(min_radius=[4], nms_type='circle', post_max_size=83)),
    type='CenterPoint')
test_pipeline = [
    dict(type='LoadPointsFromFile', use_dim=5),
    dict(sweeps_num=1, type='LoadPointsFromMultiSweeps', use_dim=[0, 1, 2, 4]),
]
"
    )
}

#[test]
fn a_configuration_alone_or_with_its_networks_makes_a_description() {
    let folder = networks();
    let path = folder.path();
    let config_path = PathBuf::from("config.py");
    std::fs::write(path.join(&config_path), config(32)).unwrap();
    for args in [
        vec!["new-model", "--config", "config.py", "--out", "model.toml"],
        arguments("--config config.py --out model.toml --force"),
    ] {
        built(path, &args);
        let (text, model) = read(path);
        assert_eq!(model.classes, ["car", "pedestrian"]);
        assert_eq!(model.points.sweeps, 2);
        assert!(model.pfn.legacy, "mmdetection3d's default");
        assert_eq!(model.head.rotation, Rotation::SinCos);
        assert_eq!(model.decode.center_range[1], [10.0, 10.0, 5.0]);
        // min_radius is a square.
        let radius = vec![2.0; 2];
        assert_eq!(model.nms[0].kind, NmsKind::Circle { radius });
        assert!(text.contains("# config.py"), "{text}");
    }
    std::fs::write(path.join(&config_path), config(20)).unwrap();
    let args = arguments("--config config.py --out m.toml");
    let message = refused(path, &args, 4);
    for part in ["max_points_per_pillar", "20 by config.py", "32 by pfe.onnx"] {
        assert!(message.contains(part), "{message}");
    }
    let text = "_base_ = ['../a.py']\n".to_owned() + &config(32);
    std::fs::write(path.join(&config_path), text).unwrap();
    let message = refused(path, &args, 4);
    assert!(
        message.contains("_base_") && message.contains("flat.py"),
        "{message}"
    );
}
