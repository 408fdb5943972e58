use super::*;

/// The form in which mmengine writes a configuration of nuScenes, with what concerns training cut out.
const NUSCENES: &str = r#"
auto_scale_lr = dict(base_batch_size=32, enable=False)
class_names = [
    'car',
    'truck',
    'bus',
]
point_cloud_range = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
voxel_size = [0.2, 0.2, 8]
model = dict(
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        voxel=True,
        voxel_layer=dict(
            max_num_points=20,
            max_voxels=(30000, 40000),
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size)),
    pts_bbox_head=dict(
        bbox_coder=dict(
            code_size=9,
            max_num=500,
            out_size_factor=4,
            pc_range=[-51.2, -51.2],
            post_center_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
            score_threshold=0.1,
            type='CenterPointBBoxCoder',
            voxel_size=[0.2, 0.2]),
        common_heads=dict(dim=(3, 2), height=(1, 2), reg=(2, 2), rot=(2, 2), vel=(2, 2)),
        tasks=[
            dict(class_names=['car'], num_class=1),
            dict(class_names=['truck', 'bus'], num_class=2),
        ],
        type='CenterHead'),
    pts_middle_encoder=dict(in_channels=64, output_shape=(512, 512), type='PointPillarsScatter'),
    pts_voxel_encoder=dict(
        feat_channels=[64],
        in_channels=5,
        legacy=False,
        norm_cfg=dict(eps=0.001, momentum=0.01, type='BN1d'),
        type='PillarFeatureNet',
        with_distance=False),
    test_cfg=dict(
        pts=dict(
            max_per_img=500,
            min_radius=[4, 0.25],
            nms_thr=0.2,
            nms_type='circle',
            out_size_factor=4,
            post_max_size=83,
            pre_max_size=1000,
            score_threshold=0.1)),
    train_cfg=None,
    type='CenterPoint')
test_pipeline = [
    dict(coord_type='LIDAR', load_dim=5, type='LoadPointsFromFile', use_dim=5),
    dict(sweeps_num=9, test_mode=True, type='LoadPointsFromMultiSweeps', use_dim=[0, 1, 2, 3, 4]),
    dict(keys=['points'], type='Pack3DDetInputs'),
]
"#;

fn read(text: &str) -> Result<Facts, ModelError> {
    parse(text, Path::new("config.py"))
}

#[test]
fn a_flattened_configuration_tells_the_model() {
    let facts = read(NUSCENES).unwrap();
    let names = |classes: &[&str]| classes.iter().map(|&class| class.to_owned()).collect();
    let tasks: Vec<Vec<String>> = vec![names(&["car"]), names(&["truck", "bus"])];
    assert_eq!(facts.tasks, Some(tasks));
    assert_eq!(
        facts.columns,
        Some(names(&["x", "y", "z", "intensity", "t"]))
    );
    assert_eq!(facts.sweeps, Some(10));
    assert_eq!(facts.range, Some([-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]));
    assert_eq!(facts.voxel_size, Some([0.2, 0.2, 8.0]));
    assert_eq!(
        (facts.max_points, facts.max_pillars),
        (Some(20), Some(40_000))
    );
    assert_eq!((facts.in_features, facts.center_axes), (Some(11), Some(3)));
    assert_eq!((facts.mean_offset, facts.legacy), (Some(true), Some(false)));
    assert_eq!(facts.layers, Some(vec![64]));
    assert_eq!(facts.downsample, Some(4));
    assert_eq!(facts.size_order, Some(SizeOrder::Lwh));
    assert_eq!(facts.rotation, Some(Rotation::SinCos));
    assert_eq!(facts.candidates, Some(Candidates::ClassCell));
    assert_eq!((facts.max_candidates, facts.score), (Some(500), Some(0.1)));
    assert_eq!(
        facts.center_range,
        Some([-61.2, -61.2, -10.0, 61.2, 61.2, 10.0])
    );
    let step = Step {
        kind: StepKind::CircleByTask(vec![2.0, 0.5]),
        scope: StepScope::Task,
        max_boxes: Some(83),
    };
    assert_eq!(facts.nms, Some(vec![step]));
}

#[test]
fn variants_of_the_pillar_network_are_told_apart() {
    let with = |from: &str, to: &str| read(&NUSCENES.replace(from, to)).unwrap();
    // mmdetection3d's default.
    assert_eq!(with("legacy=False,", "").legacy, Some(true));
    let autoware = "type='PillarFeatureNetAutoware', use_voxel_center_z=False";
    let facts = with("type='PillarFeatureNet'", autoware);
    assert_eq!((facts.center_axes, facts.in_features), (Some(2), Some(10)));
    let facts = with("type='PillarFeatureNet'", "type='BackwardPillarFeatureNet'");
    assert_eq!(facts.center_axes, Some(2));
    // x y z t, as Autoware's first models.
    let facts = with("use_dim=[0, 1, 2, 3, 4]", "use_dim=[0, 1, 2, 4]");
    let columns = facts.columns.unwrap();
    assert_eq!(columns, ["x", "y", "z", "t"]);
    // Without sweeps, the fifth column is the data set's own.
    let lines = NUSCENES
        .lines()
        .filter(|line| !line.contains("MultiSweeps"));
    let facts = read(&lines.collect::<Vec<_>>().join("\n")).unwrap();
    assert_eq!((facts.columns, facts.sweeps), (None, None));
    let facts = with("nms_type='circle'", "nms_type='rotate'");
    let steps = facts.nms.unwrap();
    assert_eq!(steps[0].kind, StepKind::Iou(0.2, None, Suppressors::Kept));
    // Before 1.0 the conventions of boxes were others.
    let old = NUSCENES
        .replace(
            "data_preprocessor=dict(",
            "pts_voxel_layer=dict(max_num_points=20, voxel_size=voxel_size,",
        )
        .replace(
            "type='Det3DDataPreprocessor',",
            "point_cloud_range=point_cloud_range, max_voxels=30000,",
        );
    let facts = read(&old).unwrap();
    assert_eq!((facts.size_order, facts.max_pillars), (None, Some(30_000)));
}

#[test]
fn other_configurations_are_refused_with_the_key() {
    for (from, to, parts) in [
        (
            "class_names = [",
            "_base_ = ['a.py']\nclass_names = [",
            &["`_base_`", "dump('flat.py')"][..],
        ),
        (
            "class_names = [",
            "import os\nclass_names = [",
            &["line 3", "import os", "dump('flat.py')"],
        ),
        (
            "type='CenterPoint')",
            "type='TransFusionDetector')",
            &["model.type", "TransFusionDetector"],
        ),
        (
            "type='PointPillarsScatter'",
            "type='SparseEncoder'",
            &["pts_middle_encoder.type", "SparseEncoder"],
        ),
        (
            "with_distance=False",
            "with_distance=True",
            &["with_distance"],
        ),
        (
            "max_num_points=20",
            "max_num_points='20'",
            &["voxel_layer.max_num_points", "whole number"],
        ),
        (
            "voxel_size=voxel_size",
            "voxel_size=[0.2, 0.2]",
            &["voxel_size", "3 numbers"],
        ),
        (
            "num_class=2",
            "num_class=3",
            &["tasks[1].num_class", "2 class names"],
        ),
        (
            "nms_type='circle'",
            "nms_type='soft'",
            &["nms_type", "soft"],
        ),
        (
            "use_dim=[0, 1, 2, 3, 4]",
            "use_dim=[0, 7]",
            &["use_dim", "5 columns"],
        ),
        (
            "type='CenterHead'",
            "type='TransFusionHead'",
            &["pts_bbox_head.type"],
        ),
    ] {
        assert!(NUSCENES.contains(from), "{from}");
        let error = read(&NUSCENES.replace(from, to)).unwrap_err().to_string();
        for part in parts.iter().chain(&["config.py"]) {
            assert!(error.contains(part), "{to}: {error}");
        }
    }
}

/// Damaged configurations are errors with the file's name, or other facts.
#[test]
fn damaged_configurations_never_crash() {
    let mut random = crate::testing::Random(7);
    let mut below = |n: usize| ((random.next() * n as f32) as usize).min(n - 1);
    let good = NUSCENES.as_bytes();
    for _ in 0..4000 {
        let mut bytes = good.to_vec();
        for _ in 0..1 + below(4) {
            let at = below(bytes.len() - 40);
            match below(4) {
                0 => bytes[at] = b"[](){}=,'\"\\#\n0-e."[below(17)],
                1 => drop(bytes.drain(at..at + below(40))),
                2 => {
                    let copy = bytes[at..at + 40].to_vec();
                    bytes.splice(at..at, copy);
                }
                _ => bytes.truncate(at.max(100)),
            }
        }
        if let Err(error) = read(&String::from_utf8_lossy(&bytes)) {
            assert!(error.to_string().starts_with("config.py: "), "{error}");
        }
    }
}

#[test]
fn the_structure_has_strides_and_epsilons() {
    let text = "model = dict(\n\
        pts_voxel_encoder=dict(norm_cfg=dict(type='BN1d', eps=0.01)),\n\
        pts_backbone=dict(layer_nums=[3, 5], layer_strides=(2, 2), norm_cfg=dict(type='BN')),\n\
        pts_neck=dict(upsample_strides=[0.5, 1], use_conv_for_no_stride=True),\n\
        pts_bbox_head=dict(separate_head=dict(norm_cfg=dict(eps=0.002))))";
    let found = structure(text, Path::new("flat.py")).unwrap();
    let expected = Structure {
        layer_nums: Some(vec![3, 5]),
        strides: Some(vec![2, 2]),
        upsample: Some(vec![0.5, 1.0]),
        conv_for_no_stride: true,
        // PFN; mmcv's default; not stated: neck, shared convolution; tasks.
        eps: [Some(0.01), Some(1e-5), None, None, Some(0.002)],
    };
    assert_eq!(found, expected);
    let error = structure("model = dict(pts_backbone=dict())", Path::new("flat.py"));
    assert!(error.unwrap_err().to_string().contains("pts_neck"));
}
