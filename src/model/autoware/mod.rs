//! Autoware's `lidar_centerpoint` parameter files, for the import and for the ROS 2 node (feature `autoware`).
//!
//! Autoware spreads a model over `*ml_package.param.yaml` (network), `*common.param.yaml` or `centerpoint.param.yaml`
//! (suppression, sweeps), `detection_class_remapper.param.yaml` and `*diagnostics.param.yaml`. They may be passed in
//! any order. [`Autoware::take`] reads every form that autoware_universe and autoware_launch have had since 2022: keys
//! moved from the top level into tables, from file to file, and changed names. Where two spellings of one value are
//! given, the newer one counts, as it does for the node that reads it. Unknown keys are errors.

#[cfg(feature = "build")]
mod import;
mod parameters;

use std::path::{Path, PathBuf};

#[cfg(feature = "build")]
pub(crate) use import::{Common, Description, read};
pub use parameters::{Parameters, Setting, Value};

use super::{AUTOWARE_LABELS, ModelError};

/// Parameters that only other detectors have, with the detector; the first that is found names the file.
const OTHER_DETECTORS: [(&str, &str); 17] = [
    ("max_camera_lidar_delay", BEVFUSION),
    ("image_backbone_onnx_path", BEVFUSION),
    ("sensor_fusion", BEVFUSION),
    ("num_cameras", BEVFUSION),
    ("out_size_factor", BEVFUSION),
    ("max_points_per_voxel", BEVFUSION),
    ("model_params.paint_class_names", POINTPAINTING),
    ("paint_class_names", POINTPAINTING),
    ("omp_params.num_threads", POINTPAINTING),
    ("omp_num_threads", POINTPAINTING),
    ("detection3d.use_head", "autoware_ptv3"),
    ("segmentation3d.use_head", "autoware_ptv3"),
    ("serialization_depth", "autoware_ptv3"),
    ("voxels_num", TRANSFUSION),
    ("num_proposals", TRANSFUSION),
    ("onnx_path", TRANSFUSION),
    ("engine_path", TRANSFUSION),
];
const BEVFUSION: &str = "autoware_bevfusion";
const POINTPAINTING: &str = "pointpainting";
const TRANSFUSION: &str = "autoware_lidar_transfusion";

/// Parameters of Autoware's node that concern neither the model nor this project's node.
const IGNORED: [&str; 10] = [
    "encoder_onnx_path",
    "encoder_engine_path",
    "head_onnx_path",
    "head_engine_path",
    "trt_precision",
    "model_path",
    "logger_name",
    "model_params.model_params_version",
    "post_process_params.iou_nms_target_class_names",
    "iou_nms_target_class_names",
];

/// Names of the matrices of `detection_class_remapper.param.yaml`.
const ALLOW: &str = "allow_remapping_by_area_matrix";
const MIN_AREA: &str = "min_area_matrix";
const MAX_AREA: &str = "max_area_matrix";

/// The areas in m² at which `rename_car_to_truck_and_bus`, a parameter until September 2022, makes a car a truck and
/// a truck a bus.
const RENAMED_AT: [f64; 2] = [12.1, 19.75];

/// What Autoware's parameter files say; `None` for what none of them has.
#[derive(Clone, Debug)]
pub struct Autoware {
    /// The network's classes, in the order of its heatmaps.
    pub class_names: Option<Setting<Vec<String>>>,
    /// Columns of a point.
    pub point_feature_size: Option<Setting<usize>>,
    /// Most pillars.
    pub max_voxel_size: Option<Setting<usize>>,
    /// Minimum x, y, z, then maximum x, y, z, in metres.
    pub point_cloud_range: Option<Setting<[f64; 6]>>,
    /// Voxel size in metres.
    pub voxel_size: Option<Setting<[f64; 3]>>,
    /// BEV cells for each head cell and axis.
    pub downsample_factor: Option<Setting<usize>>,
    /// Columns of the PFN's input.
    pub encoder_in_feature_size: Option<Setting<usize>>,
    /// Whether regression maps have variance channels.
    pub has_variance: Option<Setting<bool>>,
    /// Whether objects have velocities.
    pub has_twist: Option<Setting<bool>>,
    /// Most points of a frame.
    pub cloud_capacity: Option<Setting<usize>>,
    /// Minimum scores.
    pub scores: Scores,
    /// Minimum norm of the rotation by class.
    pub yaw_norm: Option<Setting<Vec<f64>>>,
    /// Radius of circle suppression in metres.
    pub circle: Option<Setting<f64>>,
    /// Largest IoU that is not an overlap.
    pub iou_threshold: Option<Setting<f64>>,
    /// Distance in metres up to which IoU suppression compares boxes.
    pub iou_search_distance: Option<Setting<f64>>,
    /// The fixed frame in which past sweeps are placed.
    pub world_frame: Option<Setting<String>>,
    /// Past sweeps of a frame.
    pub past_frames: Option<Setting<usize>>,
    /// Processing time of a frame in ms from which the node warns.
    pub max_time_ms: Option<Setting<f64>>,
    /// Time without a punctual frame in ms from which the node reports an error.
    pub max_delay_ms: Option<Setting<f64>>,
    /// Time between two reports in ms.
    pub report_interval_ms: Option<Setting<f64>>,
    /// Class changes by area, row by row of the matrices.
    pub remap: Option<Setting<Vec<Rule>>>,
}

/// A class change by area.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Label that the network gave.
    pub from: &'static str,
    /// Label that the box gets.
    pub to: &'static str,
    /// Minimum length × width in m².
    pub min_area: f64,
    /// Maximum length × width in m².
    pub max_area: f64,
}

/// Minimum scores; where several are given, the bands count before the classes, and these before the single one.
#[derive(Clone, Debug)]
pub struct Scores {
    /// One for all classes.
    pub single: Option<Setting<f64>>,
    /// By class.
    pub by_class: Option<Setting<Vec<f64>>>,
    /// By distance and class.
    pub bands: Option<Bands>,
}

/// Minimum scores by distance and class.
#[derive(Clone, Debug)]
pub struct Bands {
    /// Upper bounds in metres, ascending.
    pub upper_bounds: Setting<Vec<f64>>,
    thresholds: Thresholds,
    /// Name of the parameter above those of the classes.
    key: String,
}

/// Files of 2025 have one flat list, band by band; others a list of bands for each class.
#[derive(Clone, Debug)]
enum Thresholds {
    ByBand(Setting<Vec<f64>>),
    ByClass(Vec<(String, Setting<Vec<f64>>)>),
}

impl Autoware {
    /// Takes all of Autoware's parameters from `p`.
    ///
    /// # Errors
    /// [`ModelError`] with the file and the key: another detector's file, a version that Autoware's node refuses, a
    /// value of the wrong type, length or range.
    pub fn take(p: &mut Parameters) -> Result<Self, ModelError> {
        refuse_other_detectors(p)?;
        check_version(p)?;
        add_remapper_file(p)?;
        let any = 0.0..=f64::INFINITY;
        let limit = 0.0..=1e9;
        let taken = Self {
            class_names: p.texts(&["model_params.class_names", "class_names"])?,
            point_feature_size: p
                .count(&["model_params.point_feature_size", "point_feature_size"])?,
            max_voxel_size: p.count(&[
                "model_params.max_voxel_size",
                "max_voxel_size",
                "max_num_voxels",
            ])?,
            point_cloud_range: p.array(&["model_params.point_cloud_range", "point_cloud_range"])?,
            voxel_size: p.array(&["model_params.voxel_size", "voxel_size"])?,
            downsample_factor: p.count(&["model_params.downsample_factor", "downsample_factor"])?,
            encoder_in_feature_size: p.count(&[
                "model_params.encoder_in_feature_size",
                "encoder_in_feature_size",
            ])?,
            has_variance: p.bool(&["model_params.has_variance", "has_variance"])?,
            has_twist: p.bool(&["model_params.has_twist", "has_twist"])?,
            cloud_capacity: p.count(&["cloud_capacity"])?,
            scores: scores(p)?,
            yaw_norm: p.numbers(
                &[
                    "model_params.yaw_norm_thresholds",
                    "post_process_params.yaw_norm_thresholds",
                    "yaw_norm_thresholds",
                ],
                0.0..=1e3,
            )?,
            circle: p.number(
                &[
                    "post_process_params.circle_nms_dist_threshold",
                    "circle_nms_dist_threshold",
                ],
                0.0..=1e3,
            )?,
            iou_threshold: p.number(
                &["post_process_params.iou_nms_threshold", "iou_nms_threshold"],
                0.0..=1.0,
            )?,
            iou_search_distance: p.number(
                &[
                    "post_process_params.iou_nms_search_distance_2d",
                    "iou_nms_search_distance_2d",
                ],
                any,
            )?,
            world_frame: p.text(&[
                "densification_params.world_frame_id",
                "densification_world_frame_id",
            ])?,
            past_frames: p.count(&[
                "densification_params.num_past_frames",
                "densification_num_past_frames",
            ])?,
            max_time_ms: p.number(
                &[
                    "diagnostics.max_allowed_processing_time_ms",
                    "max_allowed_processing_time_ms",
                ],
                limit.clone(),
            )?,
            max_delay_ms: p.number(
                &[
                    "diagnostics.max_acceptable_consecutive_delay_ms",
                    "max_acceptable_consecutive_delay_ms",
                ],
                limit.clone(),
            )?,
            report_interval_ms: p.number(
                &[
                    "diagnostics.validation_callback_interval_ms",
                    "validation_callback_interval_ms",
                ],
                limit,
            )?,
            remap: remap(p)?,
        };
        IGNORED.iter().for_each(|name| p.ignore(name));
        Ok(taken)
    }
}

impl<T> Setting<Vec<T>> {
    /// Checks that there is a value for each of `classes`.
    ///
    /// # Errors
    /// [`ModelError::Value`] with both numbers.
    pub fn for_classes(&self, classes: usize) -> Result<&[T], ModelError> {
        if self.value.len() == classes {
            return Ok(&self.value);
        }
        let found = self.value.len();
        Err(self.invalid(format!("{found} values for {classes} classes")))
    }
}

impl Bands {
    /// Minimum scores `[band][class]` of a network with these classes.
    ///
    /// # Errors
    /// [`ModelError::Value`] if a class or a band has no value, or a value no class.
    pub fn table(&self, classes: &[&str]) -> Result<Vec<Vec<f64>>, ModelError> {
        let bands = self.upper_bounds.value.len();
        let by_class = match &self.thresholds {
            Thresholds::ByBand(flat) => {
                let (found, expected) = (flat.value.len(), classes.len());
                if found != bands * expected {
                    return Err(flat.invalid(format!(
                        "{found} values; expected {bands} bands × {expected} classes"
                    )));
                }
                return Ok(flat
                    .value
                    .chunks(expected.max(1))
                    .map(<[f64]>::to_vec)
                    .collect());
            }
            Thresholds::ByClass(by_class) => by_class,
        };
        for (class, setting) in by_class {
            if !classes.contains(&class.as_str()) {
                return Err(setting.invalid(format!(
                    "`{class}` is not a class; known classes: {}",
                    classes.join(" ")
                )));
            }
            if setting.value.len() != bands {
                let found = setting.value.len();
                return Err(setting.invalid(format!(
                    "{found} values; expected {bands}, one for each upper bound of `{}`",
                    self.upper_bounds.key
                )));
            }
        }
        let mut table = vec![Vec::with_capacity(classes.len()); bands];
        for class in classes {
            let Some((_, setting)) = by_class.iter().find(|(name, _)| name == class) else {
                return Err(ModelError::Value {
                    path: self.upper_bounds.path.clone(),
                    key: format!("{}.{class}", self.key),
                    problem: format!("missing; expected {bands} values, one for each upper bound"),
                });
            };
            for (band, value) in table.iter_mut().zip(&setting.value) {
                band.push(*value);
            }
        }
        Ok(table)
    }
}

fn refuse_other_detectors(p: &mut Parameters) -> Result<(), ModelError> {
    for (name, detector) in OTHER_DETECTORS {
        if p.has(name)
            && let Some(found) = p.take(name)
        {
            return Err(found.invalid(format!(
                "this parameter belongs to Autoware's {detector}, which is another detector; expected the files of \
                 lidar_centerpoint"
            )));
        }
    }
    Ok(())
}

/// Refuses the versions that Autoware's node refuses. A file without a version is older than that rule.
fn check_version(p: &mut Parameters) -> Result<(), ModelError> {
    let Some(version) = p.take("version") else {
        return Ok(());
    };
    let text = match &version.value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if is_supported(&text) {
        return Ok(());
    }
    Err(version.invalid(format!(
        "`{text}`; expected 4.1 or a later 4.x, as Autoware's node does: update the model's folder"
    )))
}

/// Whether Autoware's node reads a manifest of this version: `[v]MAJOR.MINOR`, 4.1 or a later minor one.
fn is_supported(version: &str) -> bool {
    let digits = version.strip_prefix(['v', 'V']).unwrap_or(version);
    let number = |text: &str| -> Option<u32> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| plain)
    };
    digits.split_once('.').is_some_and(|(major, minor)| {
        number(major) == Some(4) && number(minor).is_some_and(|minor| minor >= 1)
    })
}

/// Reads the matrices from the file that a manifest of version 4 names, unless they are given already.
fn add_remapper_file(p: &mut Parameters) -> Result<(), ModelError> {
    let Some(named) = p.text(&["class_remapper_param_path"])? else {
        return Ok(());
    };
    if p.has(ALLOW) {
        return Ok(());
    }
    let path = beside(&named);
    let mut file = Parameters::default();
    file.read(&path, |_| true)?;
    for name in [ALLOW, MIN_AREA, MAX_AREA] {
        if let Some(matrix) = file.take(name) {
            p.set(name, matrix.value, &path);
        }
    }
    Ok(())
}

/// A file that a manifest names, relative to the manifest's folder.
pub(super) fn beside(named: &Setting<String>) -> PathBuf {
    let folder = named.path.parent().unwrap_or(Path::new(""));
    folder.join(&named.value)
}

fn scores(p: &mut Parameters) -> Result<Scores, ModelError> {
    let upper_bounds = p.numbers(
        &[
            "model_params.detection_score_thresholds.distance_bin_upper_limits",
            "model_params.score_thresholds.upper_bounds",
        ],
        0.0..=f64::INFINITY,
    )?;
    let mut thresholds = None;
    for key in [
        "model_params.detection_score_thresholds.min_confidence_scores",
        "model_params.score_thresholds.thresholds",
    ] {
        let flat = p.numbers(&[key], 0.0..=1.0)?;
        let mut by_class = Vec::new();
        for class in p.below(&format!("{key}.")) {
            let values = p.numbers(&[&format!("{key}.{class}")], 0.0..=1.0)?;
            by_class.extend(values.map(|values| (class, values)));
        }
        let found = match flat {
            Some(flat) => Some(Thresholds::ByBand(flat)),
            None if by_class.is_empty() => None,
            None => Some(Thresholds::ByClass(by_class)),
        };
        thresholds = thresholds.or(found.map(|found| (found, key)));
    }
    let bands = match (upper_bounds, thresholds) {
        (None, None) => None,
        (Some(upper_bounds), Some((thresholds, key))) => {
            let bounds = &upper_bounds.value;
            if bounds.is_empty() || bounds.windows(2).any(|pair| pair[0] >= pair[1]) {
                let found = &upper_bounds.found;
                return Err(upper_bounds.invalid(format!("{found}; expected ascending distances")));
            }
            Some(Bands {
                upper_bounds,
                thresholds,
                key: key.into(),
            })
        }
        (Some(bounds), None) => {
            let count = bounds.value.len();
            return Err(bounds.invalid(format!(
                "{count} distance bands without minimum scores; add `min_confidence_scores`"
            )));
        }
        (None, Some((Thresholds::ByBand(values), _))) => return Err(without_bounds(&values)),
        (None, Some((Thresholds::ByClass(by_class), key))) => {
            return Err(match by_class.first() {
                Some((_, values)) => without_bounds(values),
                None => ModelError::Value {
                    path: PathBuf::new(),
                    key: key.into(),
                    problem: "empty".into(),
                },
            });
        }
    };
    Ok(Scores {
        bands,
        by_class: p.numbers(&["post_process_params.score_thresholds"], 0.0..=1.0)?,
        single: p.number(
            &["post_process_params.score_threshold", "score_threshold"],
            0.0..=1.0,
        )?,
    })
}

fn without_bounds(values: &Setting<Vec<f64>>) -> ModelError {
    values.invalid("minimum scores without distance bands; add `distance_bin_upper_limits`")
}

/// The remap rules from the three matrices, row by row, or from their predecessor.
fn remap(p: &mut Parameters) -> Result<Option<Setting<Vec<Rule>>>, ModelError> {
    let labels = AUTOWARE_LABELS.len();
    let mut matrix = |name, range| -> Result<_, ModelError> {
        let matrix = p.numbers(&[name], range)?;
        match &matrix {
            Some(matrix) if matrix.value.len() != labels * labels => Err(matrix.invalid(format!(
                "{} values; expected {} ({labels} × {labels} labels)",
                matrix.value.len(),
                labels * labels
            ))),
            _ => Ok(matrix),
        }
    };
    let allow = matrix(ALLOW, 0.0..=1.0)?;
    let min = matrix(MIN_AREA, 0.0..=f64::INFINITY)?;
    let max = matrix(MAX_AREA, 0.0..=f64::INFINITY)?;
    let renamed = p.bool(&["rename_car_to_truck_and_bus"])?;
    let Some(allow) = allow else {
        return Ok(renamed.map(|renamed| Setting {
            value: if renamed.value {
                renaming()
            } else {
                Vec::new()
            },
            found: renamed.found,
            key: renamed.key,
            path: renamed.path,
        }));
    };
    let (Some(min), Some(max)) = (min, max) else {
        return Err(allow.invalid(format!(
            "given without `{MIN_AREA}` and `{MAX_AREA}`; pass the whole detection_class_remapper.param.yaml"
        )));
    };
    let mut rules = Vec::new();
    for cell in (0..allow.value.len()).filter(|&cell| allow.value[cell] != 0.0) {
        let rule = Rule {
            from: AUTOWARE_LABELS[cell / labels],
            to: AUTOWARE_LABELS[cell % labels],
            min_area: min.value[cell],
            max_area: max.value[cell],
        };
        if rule.min_area > rule.max_area {
            return Err(min.invalid(format!(
                "from {} to {}: {} m² is above the maximum of {} m²",
                rule.from, rule.to, rule.min_area, rule.max_area
            )));
        }
        rules.push(rule);
    }
    Ok(Some(Setting {
        value: rules,
        found: allow.found,
        key: allow.key,
        path: allow.path,
    }))
}

fn renaming() -> Vec<Rule> {
    let [truck, bus] = RENAMED_AT;
    let rule = |to, min_area, max_area| Rule {
        from: "CAR",
        to,
        min_area,
        max_area,
    };
    vec![rule("TRUCK", truck, bus), rule("BUS", bus, f64::INFINITY)]
}

#[cfg(test)]
mod tests;
