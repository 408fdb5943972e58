//! Draws up a `model.toml` from two exported networks, a training configuration, options, and a convention.
//!
//! The networks supply sizes, outputs and the PFN's columns; a configuration supplies nearly everything else. What the values
//! mean (the order of sizes, the rotation, the columns of a point) is in no network, so a convention must be named.

use std::path::{Path, PathBuf};

use super::Result;
use super::folder::{Folder, pfn_layers};
use super::import::{read_heads, read_pfe};
use crate::model::autoware::Description;
use crate::model::draft::{Draft, Facts, Step, StepKind, StepScope, draft, source};
use crate::model::{Candidates, Model, Rotation, SizeOrder, Suppressors, mmengine};

/// A family of models with common conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Like {
    /// Autoware's `lidar_centerpoint` and tier4 AWML (exported with `--rot_y_axis_reference`).
    Autoware,
    /// mmdetection3d from 1.0 on, on nuScenes.
    Mmdet3d,
    /// The original CenterPoint (det3d) on nuScenes, as in CUDA-CenterPoint.
    Nuscenes,
}

/// The sources of a description.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// Whose conventions fill the gaps.
    pub(crate) like: Option<Like>,
    /// A flattened mmengine configuration.
    pub(crate) config: Option<PathBuf>,
    /// Pillar feature network, and backbone, neck and head.
    pub(crate) networks: Option<[PathBuf; 2]>,
    /// Class names, in the order of the heatmaps' channels.
    pub(crate) classes: Option<Vec<String>>,
    /// Columns of a point.
    pub(crate) columns: Option<Vec<String>>,
    /// Minimum x, y, z, then maximum, in metres.
    pub(crate) range: Option<[f64; 6]>,
    /// x and y in metres.
    pub(crate) voxel_size: Option<[f64; 2]>,
}

/// Draws up the description, and checks it with the networks. Errors refer to `path`, the file that it is for.
///
/// # Errors
/// [`crate::model::ModelError`] if sources contradict each other or leave a value open;
/// [`super::BuildError`] for a network that cannot be read or imported.
pub(crate) fn new_model(request: &Request, path: &Path) -> Result<(Draft, Model)> {
    let mut sources = Vec::new();
    let options = Facts {
        source: "the options".into(),
        classes: request.classes.clone(),
        columns: request.columns.clone(),
        range: request.range,
        voxel_size: request.voxel_size.map(|[x, y]| [x, y, 0.0]),
        ..Facts::default()
    };
    let given = [
        options.classes.is_some(),
        options.columns.is_some(),
        options.range.is_some(),
        options.voxel_size.is_some(),
    ];
    if given.contains(&true) {
        sources.push(options);
    }
    if let Some(config) = &request.config {
        sources.push(mmengine::read(config)?);
    }
    let pfe = match &request.networks {
        None => None,
        Some([pfe, _]) => {
            let read = read_pfe(pfe)?;
            let first = read.pfn.layers.first();
            sources.push(Facts {
                source: source(pfe),
                in_features: first.map(|layer| layer.in_features),
                layers: Some(pfn_layers(&read)),
                max_points: read.max_points,
                max_pillars: read.max_pillars,
                ..Facts::default()
            });
            Some(read)
        }
    };
    let in_features = sources.iter().find_map(|facts| facts.in_features);
    let convention = request.like.map(|like| convention(like, in_features));
    if let Some([_, rpn]) = &request.networks {
        let all = || sources.iter().chain(&convention);
        let range = all().find_map(|facts| facts.range);
        let voxel_size = all().find_map(|facts| facts.voxel_size);
        let cells = range.zip(voxel_size).map(|(range, voxel)| {
            let count = |axis: usize| (range[axis + 3] - range[axis]) / voxel[axis];
            [count(0), count(1)].map(|count| count.round() as usize)
        });
        let heads = read_heads(rpn, cells)?;
        sources.push(Facts {
            source: source(rpn),
            cells: Some(heads.cells),
            downsample: Some(heads.downsample),
            variance: Some(heads.variance),
            task_sizes: Some(heads.tasks.iter().map(|task| task.heatmap.1).collect()),
            outputs: Some(
                heads
                    .tasks
                    .into_iter()
                    .map(|task| task.map(|(name, _)| name).into_array())
                    .collect(),
            ),
            ..Facts::default()
        });
    }
    sources.extend(convention);
    let draft = draft(&sources, path)?;
    let model = Model::parse(&draft.text, path)?;
    if let (Some(pfe), Some([pfe_path, rpn])) = (pfe, &request.networks) {
        let description = Description {
            model: model.clone(),
            text: draft.text.clone(),
            assumed: Vec::new(),
        };
        Folder::described(description, pfe, pfe_path, rpn)?;
    }
    Ok((draft, model))
}

/// What models of a family have in common. The columns depend on how many the PFN has.
fn convention(like: Like, in_features: Option<usize>) -> Facts {
    let columns: Option<&[&str]> = match (like, in_features) {
        (_, Some(9)) | (Like::Autoware, Some(10)) => Some(&["x", "y", "z", "t"]),
        (_, Some(10 | 11) | None) => Some(&["x", "y", "z", "intensity", "t"]),
        _ => None,
    };
    let shared = Facts {
        convention: true,
        columns: columns.map(|names| names.iter().map(|&name| name.into()).collect()),
        legacy: Some(false),
        intensity_max: Some(255.0),
        ..Facts::default()
    };
    if like == Like::Autoware {
        let pedestrian = || vec!["PEDESTRIAN".to_owned()];
        return Facts {
            source: "autoware".into(),
            name: Some("autoware-lidar-centerpoint".into()),
            tasks: names(&[&["CAR", "TRUCK", "BUS", "BICYCLE", "PEDESTRIAN"]]),
            sweeps: Some(2),
            model_ground: Some(0.0),
            range: Some([-76.8, -76.8, -4.0, 76.8, 76.8, 6.0]),
            voxel_size: Some([0.32, 0.32, 10.0]),
            max_points: Some(32),
            max_pillars: Some(40_000),
            size_order: Some(SizeOrder::Wlh),
            rotation: Some(Rotation::NegCosNegSin),
            candidates: Some(Candidates::BestClass),
            max_candidates: Some(1000),
            score: Some(0.35),
            yaw_norm: Some((0.3, pedestrian())),
            nms: Some(vec![
                Step {
                    kind: StepKind::Circle(0.5),
                    scope: StepScope::All,
                    max_boxes: None,
                },
                Step {
                    kind: StepKind::Iou(0.1, Some(10.0), Suppressors::All),
                    scope: StepScope::Apart(pedestrian()),
                    max_boxes: None,
                },
            ]),
            ..shared
        };
    }
    let nuscenes = Facts {
        tasks: names(&[
            &["car"],
            &["truck", "construction_vehicle"],
            &["bus", "trailer"],
            &["barrier"],
            &["motorcycle", "bicycle"],
            &["pedestrian", "traffic_cone"],
        ]),
        sweeps: Some(10),
        range: Some([-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]),
        voxel_size: Some([0.2, 0.2, 8.0]),
        max_points: Some(20),
        score: Some(0.1),
        nms: Some(vec![Step {
            kind: StepKind::Iou(0.2, None, Suppressors::Kept),
            scope: StepScope::Task,
            max_boxes: Some(83),
        }]),
        ..shared
    };
    match like {
        Like::Nuscenes => Facts {
            source: "nuscenes".into(),
            name: Some("centerpoint-nuscenes".into()),
            // The data set's points are in the frame of the sensor on the roof.
            model_ground: Some(-1.84),
            max_pillars: Some(60_000),
            size_order: Some(SizeOrder::Wlh),
            rotation: Some(Rotation::NegCosNegSin),
            candidates: Some(Candidates::BestClass),
            max_candidates: Some(1000),
            ..nuscenes
        },
        _ => Facts {
            source: "mmdet3d".into(),
            name: Some("centerpoint-mmdet3d".into()),
            max_pillars: Some(40_000),
            size_order: Some(SizeOrder::Lwh),
            rotation: Some(Rotation::SinCos),
            candidates: Some(Candidates::ClassCell),
            max_candidates: Some(500),
            ..nuscenes
        },
    }
}

fn names(tasks: &[&[&str]]) -> Option<Vec<Vec<String>>> {
    let task = |classes: &&[&str]| classes.iter().map(|&class| class.to_owned()).collect();
    Some(tasks.iter().map(task).collect())
}
