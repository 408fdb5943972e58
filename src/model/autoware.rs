//! Autoware's `lidar_centerpoint` parameter files as a model description (feature `yaml`).
//!
//! Autoware spreads a model over `*_ml_package.param.yaml` (network), `*_common.param.yaml`
//! (suppression, sweeps) and `detection_class_remapper.param.yaml`. They may be passed in any order, and not
//! all are required. Keys of the ROS node that do not describe the model are ignored; unknown keys are errors.
//! The files do not contain the PFN's widths, which come from the ONNX file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::file::{
    PerClass, RawBands, RawDecode, RawGrid, RawHead, RawModel, RawNms, RawNmsKind, RawPfn,
    RawPoints, RawRemap, RawTask, Scope, read_text, to_toml,
};
use super::problem::Problem;
use super::{AUTOWARE_LABELS, Model, ModelError, Rotation, SizeOrder, check};
use crate::map::HeadMaps;

/// Points per pillar; a constant of Autoware's code, not a parameter.
const MAX_POINTS_PER_PILLAR: usize = 32;

#[derive(Deserialize)]
struct File {
    #[serde(rename = "/**")]
    node: Node,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    #[serde(rename = "ros__parameters")]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    model_params: Option<ModelParams>,
    post_process_params: Option<PostProcess>,
    densification_params: Option<Densification>,
    cloud_capacity: Option<usize>,
    allow_remapping_by_area_matrix: Option<Vec<u8>>,
    min_area_matrix: Option<Vec<f64>>,
    max_area_matrix: Option<Vec<f64>>,
    #[serde(rename = "diagnostics")]
    _diagnostics: Option<IgnoredAny>,
    #[serde(rename = "encoder_onnx_path")]
    _encoder_onnx_path: Option<IgnoredAny>,
    #[serde(rename = "encoder_engine_path")]
    _encoder_engine_path: Option<IgnoredAny>,
    #[serde(rename = "head_onnx_path")]
    _head_onnx_path: Option<IgnoredAny>,
    #[serde(rename = "head_engine_path")]
    _head_engine_path: Option<IgnoredAny>,
    #[serde(rename = "trt_precision")]
    _trt_precision: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelParams {
    class_names: Vec<String>,
    point_feature_size: usize,
    max_voxel_size: usize,
    point_cloud_range: [f64; 6],
    voxel_size: [f64; 3],
    downsample_factor: usize,
    encoder_in_feature_size: usize,
    #[serde(default)]
    has_variance: bool,
    score_thresholds: Option<ScoreThresholds>,
    #[serde(rename = "has_twist")]
    _has_twist: Option<IgnoredAny>,
    #[serde(rename = "model_params_version")]
    _version: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoreThresholds {
    upper_bounds: Vec<f64>,
    thresholds: Thresholds,
}

/// Newer files have one flat list, band by band; others a list of bands per class.
#[derive(Deserialize)]
#[serde(untagged)]
enum Thresholds {
    ByBand(Vec<f64>),
    ByClass(BTreeMap<String, Vec<f64>>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostProcess {
    score_threshold: Option<f64>,
    circle_nms_dist_threshold: f64,
    iou_nms_search_distance_2d: f64,
    iou_nms_threshold: f64,
    yaw_norm_thresholds: Vec<f64>,
    #[serde(rename = "iou_nms_target_class_names")]
    _iou_nms_target_class_names: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Densification {
    num_past_frames: usize,
    #[serde(rename = "world_frame_id")]
    _world_frame_id: Option<IgnoredAny>,
}

/// Reads Autoware parameter files, and returns the model and the text of its `model.toml`. `pfn_layers` are the
/// PFN's widths, see [`super::PfnSpec::layers`].
///
/// # Errors
/// [`ModelError`], which names the file and the key. Keys may be missing in one file if another has them.
pub fn read(paths: &[PathBuf], pfn_layers: &[usize]) -> Result<(Model, String), ModelError> {
    let mut all = Parameters::default();
    for path in paths {
        let text = read_text(path)?;
        let file: File = serde_saphyr::from_str(&text).map_err(|e| ModelError::Syntax {
            path: path.clone(),
            message: e.to_string(),
        })?;
        all.merge(file.node.parameters);
    }
    let path = paths
        .first()
        .map_or(Path::new("(no file)"), PathBuf::as_path);
    let value = |problem: Problem| problem.in_file(path);
    let raw = all.into_raw(pfn_layers).map_err(value)?;
    let text = to_toml(&raw).map_err(|e| ModelError::Syntax {
        path: path.into(),
        message: e.to_string(),
    })?;
    Ok((check::resolve(raw).map_err(value)?, text))
}

fn missing(key: &str, file: &str) -> Problem {
    Problem {
        key: key.into(),
        problem: format!("missing; pass Autoware's `{file}` file, too"),
    }
}

impl Parameters {
    /// Overwrites values with those that `other` has.
    fn merge(&mut self, other: Self) {
        fn overwrite<T>(to: &mut Option<T>, from: Option<T>) {
            if from.is_some() {
                *to = from;
            }
        }
        overwrite(&mut self.model_params, other.model_params);
        overwrite(&mut self.post_process_params, other.post_process_params);
        overwrite(&mut self.densification_params, other.densification_params);
        overwrite(&mut self.cloud_capacity, other.cloud_capacity);
        overwrite(
            &mut self.allow_remapping_by_area_matrix,
            other.allow_remapping_by_area_matrix,
        );
        overwrite(&mut self.min_area_matrix, other.min_area_matrix);
        overwrite(&mut self.max_area_matrix, other.max_area_matrix);
    }

    fn into_raw(self, pfn_layers: &[usize]) -> Result<RawModel, Problem> {
        let remap = self.remap()?;
        let params = self
            .model_params
            .ok_or_else(|| missing("model_params", "ml_package.param.yaml"))?;
        let post = self
            .post_process_params
            .ok_or_else(|| missing("post_process_params", "common.param.yaml"))?;
        let named = params.class_names.clone();
        let mut classes = params.class_names;
        // A remap may produce a class that the network does not have, such as TRAILER.
        for rule in remap.iter().filter(|rule| named.contains(&rule.from)) {
            if !classes.contains(&rule.to) {
                classes.push(rule.to.clone());
            }
        }
        let columns: &[&str] = match params.point_feature_size {
            4 => &["x", "y", "z", "t"],
            5 => &["x", "y", "z", "intensity", "t"],
            other => {
                return Err(Problem {
                    key: "model_params.point_feature_size".into(),
                    problem: format!("{other}; expected 4 (x y z t) or 5 (x y z intensity t)"),
                });
            }
        };
        let offsets = params.encoder_in_feature_size.saturating_sub(columns.len());
        let (score, bands) = scores(params.score_thresholds, &post, &named, &classes)?;
        let yaw_norm = post.yaw_norm_thresholds;
        if yaw_norm.len() != named.len() {
            return Err(Problem {
                key: "post_process_params.yaw_norm_thresholds".into(),
                problem: format!("{} values for {} classes", yaw_norm.len(), named.len()),
            });
        }
        let yaw_norm = classes
            .iter()
            .enumerate()
            .map(|(i, class)| (class.clone(), yaw_norm.get(i).copied().unwrap_or(0.0)))
            .collect();
        Ok(RawModel {
            name: "autoware-lidar-centerpoint".into(),
            points: RawPoints {
                columns: columns.iter().map(|name| (*name).into()).collect(),
                intensity_scale: None,
                sweeps: Some(1 + self.densification_params.map_or(0, |d| d.num_past_frames)),
                capacity: self.cloud_capacity,
                extrinsic: None,
                ground: None,
                model_ground: None,
                intensity_max: None,
            },
            grid: RawGrid {
                range: params.point_cloud_range,
                ignore_box: None,
                voxel_size: params.voxel_size,
                size: None,
                max_points_per_pillar: MAX_POINTS_PER_PILLAR,
                max_pillars: params.max_voxel_size,
            },
            pfn: RawPfn {
                mean_offset: Some(true),
                center_offset_axes: Some(if offsets <= 5 { 2 } else { 3 }),
                in_features: Some(params.encoder_in_feature_size),
                layers: pfn_layers.to_vec(),
            },
            head: RawHead {
                downsample: params.downsample_factor,
                size_order: SizeOrder::Wlh,
                rotation: Rotation::NegCosNegSin,
                variance: params.has_variance,
                tasks: Some(vec![RawTask {
                    classes: named,
                    outputs: Some(HeadMaps::NAMES.map(String::from).into_array()),
                }]),
            },
            decode: RawDecode {
                candidates: None,
                max_candidates: None,
                score,
                bands,
                yaw_norm: Some(PerClass::Each(yaw_norm)),
            },
            nms: suppression(
                &classes,
                post.circle_nms_dist_threshold,
                post.iou_nms_threshold,
                post.iou_nms_search_distance_2d,
            ),
            remap: remap
                .into_iter()
                .filter(|rule| classes.contains(&rule.from) && classes.contains(&rule.to))
                .collect(),
            classes,
        })
    }

    /// The remap rules from the three matrices, row by row.
    fn remap(&self) -> Result<Vec<RawRemap>, Problem> {
        let Some(allow) = &self.allow_remapping_by_area_matrix else {
            return Ok(Vec::new());
        };
        let cells = AUTOWARE_LABELS.len() * AUTOWARE_LABELS.len();
        let (Some(min), Some(max)) = (&self.min_area_matrix, &self.max_area_matrix) else {
            return Err(missing(
                "min_area_matrix",
                "detection_class_remapper.param.yaml",
            ));
        };
        for (name, len) in [
            ("allow_remapping_by_area_matrix", allow.len()),
            ("min_area_matrix", min.len()),
            ("max_area_matrix", max.len()),
        ] {
            if len != cells {
                return Err(Problem {
                    key: name.into(),
                    problem: format!("{len} values; expected {cells} (8 × 8 labels)"),
                });
            }
        }
        Ok((0..cells)
            .filter(|&i| allow[i] != 0)
            .map(|i| RawRemap {
                from: AUTOWARE_LABELS[i / AUTOWARE_LABELS.len()].into(),
                to: AUTOWARE_LABELS[i % AUTOWARE_LABELS.len()].into(),
                min_area: min[i],
                max_area: Some(max[i]),
            })
            .collect())
    }
}

/// Autoware's two steps: circle over all classes, then IoU with pedestrians in their own group.
fn suppression(classes: &[String], circle: f64, iou: f64, search: f64) -> Vec<RawNms> {
    let (people, others): (Vec<_>, Vec<_>) = classes
        .iter()
        .cloned()
        .partition(|class| class == "PEDESTRIAN");
    vec![
        RawNms {
            kind: RawNmsKind::Circle,
            radius: Some(PerClass::One(circle)),
            threshold: None,
            search_distance: None,
            scope: Some(Scope::All),
            groups: None,
            max_boxes: None,
        },
        RawNms {
            kind: RawNmsKind::Iou,
            radius: None,
            threshold: Some(iou),
            search_distance: Some(search),
            scope: None,
            groups: Some(vec![others, people]),
            max_boxes: None,
        },
    ]
}

type Scores = (Option<PerClass>, Option<RawBands>);

/// Thresholds by band and class. Classes beyond `named` come from a remap and have threshold 0.
fn scores(
    raw: Option<ScoreThresholds>,
    post: &PostProcess,
    named: &[String],
    classes: &[String],
) -> Result<Scores, Problem> {
    let Some(raw) = raw else {
        return match post.score_threshold {
            Some(score) => Ok((Some(PerClass::One(score)), None)),
            None => Err(missing(
                "model_params.score_thresholds",
                "ml_package.param.yaml",
            )),
        };
    };
    let bands = raw.upper_bounds.len();
    let mut by_class = match raw.thresholds {
        Thresholds::ByClass(by_class) => by_class,
        Thresholds::ByBand(flat) if flat.len() == bands * named.len() => named
            .iter()
            .enumerate()
            .map(|(i, class)| {
                let column = (0..bands)
                    .map(|band| flat[band * named.len() + i])
                    .collect();
                (class.clone(), column)
            })
            .collect(),
        Thresholds::ByBand(flat) => {
            return Err(Problem {
                key: "model_params.score_thresholds.thresholds".into(),
                problem: format!(
                    "{} values; expected {bands} bands × {} classes",
                    flat.len(),
                    named.len()
                ),
            });
        }
    };
    for class in classes.iter().filter(|class| !named.contains(class)) {
        by_class
            .entry(class.clone())
            .or_insert_with(|| vec![0.0; bands]);
    }
    Ok((
        None,
        Some(RawBands {
            upper_bounds: raw.upper_bounds,
            by_class,
        }),
    ))
}
