//! The node's settings: its parameters, checked against the plan's model.
//!
//! Names are those of Autoware's `lidar_centerpoint`, so its `*_ml_package.param.yaml`, `*_common.param.yaml` and
//! `detection_class_remapper.param.yaml` work unchanged. Thresholds are applied, parameters of the model (grid,
//! classes, sizes) must match the plan, and parameters for building engines are ignored.

use std::collections::BTreeMap;
use std::time::Duration;

use centerpoint::model::{AUTOWARE_LABELS, Decode, NmsKind, NmsStep};
use centerpoint::{Budget, Model};

use crate::parameters::{ParameterError, Parameters, Value};

/// What to do if a parameter contradicts the plan.
const BUILT_IN: &str =
    "the plan fixes this value: correct the parameter, or build a plan from another model";

/// The node's settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Publish `vision_msgs/Detection3DArray`.
    pub(crate) vision: bool,
    /// Publish `autoware_perception_msgs/DetectedObjects`.
    pub(crate) autoware: bool,
    /// Include velocities in Autoware's objects.
    pub(crate) twist: bool,
    /// The world frame in which sweeps are accumulated.
    pub(crate) world_frame: String,
    /// Number of past sweeps added to a cloud.
    pub(crate) past: usize,
    /// Time limits of a frame.
    pub(crate) budget: Budget,
    /// Time between two reports on the limits.
    pub(crate) status_period: Duration,
    /// Load the plan and exit.
    pub(crate) build_only: bool,
    /// Quality of service of the cloud subscription.
    pub(crate) clouds: CloudQos,
    /// Whether time is simulated, so that latency cannot be measured.
    pub(crate) sim_time: bool,
    /// Candidate selection, with the parameters applied.
    pub(crate) decode: Decode,
    /// Suppression, with the parameters applied.
    pub(crate) nms: Vec<NmsStep>,
}

/// Quality of service of the cloud subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CloudQos {
    /// Request lost data again.
    pub(crate) reliable: bool,
    /// Maximum number of queued clouds.
    pub(crate) depth: usize,
}

impl Settings {
    /// Checks parameters; `topic` is the cloud topic.
    ///
    /// # Errors
    /// [`ParameterError`] with the parameter's name.
    pub(crate) fn new(
        parameters: BTreeMap<String, Value>,
        model: &Model,
        topic: &str,
    ) -> Result<Self, ParameterError> {
        let mut p = Parameters::new(parameters);
        let (vision, autoware) = outputs(&mut p)?;
        let budget = Budget::default();
        let ms = |p: &mut Parameters, name: &str, default| {
            p.number(name, 0.0..=1e9).map(|v| v.unwrap_or(default))
        };
        let settings = Self {
            vision,
            autoware,
            twist: p.bool("model_params.has_twist")?.unwrap_or(true),
            world_frame: p
                .text("densification_params.world_frame_id")?
                .unwrap_or_else(|| "map".into()),
            past: past(&mut p, model)?,
            budget: Budget {
                frame_ms: ms(
                    &mut p,
                    "diagnostics.max_allowed_processing_time_ms",
                    budget.frame_ms,
                )?,
                delay_ms: ms(
                    &mut p,
                    "diagnostics.max_acceptable_consecutive_delay_ms",
                    budget.delay_ms,
                )?,
            },
            status_period: Duration::from_secs_f64(
                ms(&mut p, "diagnostics.validation_callback_interval_ms", 100.0)?.max(1.0) / 1e3,
            ),
            build_only: p.bool("build_only")?.unwrap_or(false),
            clouds: cloud_qos(&mut p, topic)?,
            sim_time: p.bool("use_sim_time")?.unwrap_or(false),
            decode: decode(&mut p, model)?,
            nms: nms(&mut p, model)?,
        };
        check_built_in(&mut p, model)?;
        check_remap(&mut p, model)?;
        for name in [
            "encoder_onnx_path",
            "encoder_engine_path",
            "head_onnx_path",
            "head_engine_path",
            "trt_precision",
            "logger_name",
            "model_params.model_params_version",
            "post_process_params.iou_nms_target_class_names",
            "start_type_description_service",
        ] {
            p.ignore(name);
        }
        p.finish()?;
        Ok(settings)
    }
}

/// Which messages `output` requests: (vision, autoware).
fn outputs(p: &mut Parameters) -> Result<(bool, bool), ParameterError> {
    let name = "output";
    let Some(value) = p.take(name) else {
        return Ok((true, false));
    };
    let list = match &value {
        Value::List(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let (mut vision, mut autoware) = (false, false);
    for output in list {
        match output {
            Value::String(text) if text == "vision" => vision = true,
            Value::String(text) if text == "autoware" => autoware = true,
            _ => {
                return Err(ParameterError::wrong_type(
                    name,
                    value,
                    "vision, autoware, or a list of them",
                ));
            }
        }
    }
    Ok((vision, autoware))
}

fn past(p: &mut Parameters, model: &Model) -> Result<usize, ParameterError> {
    let name = "densification_params.num_past_frames";
    let max = model.points.sweeps.saturating_sub(1);
    let Some((past, found)) = p.count(name)? else {
        return Ok(max);
    };
    if past > max {
        return Err(ParameterError::Contradiction {
            name: name.into(),
            found,
            plan: format!(
                "{max} (the model was trained on {} sweeps)",
                model.points.sweeps
            ),
            advice: "use that number or a smaller one",
        });
    }
    Ok(past)
}

fn cloud_qos(p: &mut Parameters, topic: &str) -> Result<CloudQos, ParameterError> {
    let prefix = format!("qos_overrides.{topic}.subscription");
    let name = format!("{prefix}.reliability");
    let reliable = match p.text(&name)?.as_deref() {
        None | Some("best_effort") => false,
        Some("reliable") => true,
        Some(other) => {
            let found = Value::String(other.into());
            return Err(ParameterError::wrong_type(
                &name,
                found,
                "reliable or best_effort",
            ));
        }
    };
    let name = format!("{prefix}.depth");
    let depth = match p.count(&name)? {
        None => 1,
        Some((depth @ 1..=1000, _)) => depth,
        Some((_, found)) => return Err(ParameterError::wrong_type(&name, found, "1 to 1000")),
    };
    Ok(CloudQos { reliable, depth })
}

/// Candidate selection: thresholds of the score and of the rotation's norm.
fn decode(p: &mut Parameters, model: &Model) -> Result<Decode, ParameterError> {
    let mut decode = model.decode.clone();
    let named = named_classes(model);
    if let Some(score) = p.number("post_process_params.score_threshold", 0.0..=1.0)? {
        decode
            .score
            .iter_mut()
            .for_each(|band| band.fill(score as f32));
    }
    let name = "post_process_params.score_thresholds";
    if let Some(scores) = p.numbers(name, 0.0..=1.0, Some(named.len()))? {
        for band in &mut decode.score {
            set(band, &named, &scores);
        }
    }
    let name = "model_params.score_thresholds.upper_bounds";
    if let Some(bounds) = p.numbers(name, 0.0..=f64::INFINITY, None)? {
        if bounds.is_empty() || bounds.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(ParameterError::wrong_type(
                name,
                list(&bounds),
                "ascending distances",
            ));
        }
        let name = "model_params.score_thresholds.thresholds";
        let length = bounds.len() * named.len();
        let scores = p.numbers(name, 0.0..=1.0, Some(length))?.ok_or_else(|| {
            let expected = format!("{} bands × {} classes", bounds.len(), named.len());
            ParameterError::wrong_type(name, Value::String("missing".into()), expected)
        })?;
        decode.bands = bounds.iter().map(|&bound| bound as f32).collect();
        // Classes that only exist as the result of a remap have no threshold of their own.
        decode.score = scores
            .chunks(named.len().max(1))
            .map(|scores| {
                let mut band = vec![0.0; model.classes.len()];
                set(&mut band, &named, scores);
                band
            })
            .collect();
    }
    let name = "post_process_params.yaw_norm_thresholds";
    if let Some(norms) = p.numbers(name, 0.0..=1e3, Some(named.len()))? {
        set(&mut decode.yaw_norm, &named, &norms);
    }
    Ok(decode)
}

/// Suppression: Autoware's circle and IoU thresholds, applied to the model's steps.
fn nms(p: &mut Parameters, model: &Model) -> Result<Vec<NmsStep>, ParameterError> {
    let mut nms = model.nms.clone();
    for name in [
        "post_process_params.circle_nms_dist_threshold",
        "post_process_params.iou_nms_search_distance_2d",
        "post_process_params.iou_nms_threshold",
    ] {
        let Some(value) = p.number(name, 0.0..=1e6)? else {
            continue;
        };
        let mut applied = false;
        for step in &mut nms {
            match (&mut step.kind, name) {
                (NmsKind::Circle { radius }, "post_process_params.circle_nms_dist_threshold") => {
                    radius.fill(value as f32);
                }
                (
                    NmsKind::Iou {
                        search_distance, ..
                    },
                    "post_process_params.iou_nms_search_distance_2d",
                ) => {
                    *search_distance = value as f32;
                }
                (NmsKind::Iou { threshold, .. }, "post_process_params.iou_nms_threshold") => {
                    *threshold = value as f32;
                }
                _ => continue,
            }
            applied = true;
        }
        if !applied {
            return Err(ParameterError::Contradiction {
                name: name.into(),
                found: Value::Double(value),
                plan: "no such suppression step".into(),
                advice: BUILT_IN,
            });
        }
    }
    Ok(nms)
}

/// The network's own classes, in the order of its heatmaps.
fn named_classes(model: &Model) -> Vec<usize> {
    model
        .head
        .tasks
        .iter()
        .flat_map(|task| task.classes.clone())
        .collect()
}

/// Assigns a value to each of the network's classes.
fn set(by_class: &mut [f32], named: &[usize], values: &[f64]) {
    for (&class, &value) in named.iter().zip(values) {
        if let Some(target) = by_class.get_mut(class) {
            *target = value as f32;
        }
    }
}

fn list(values: &[f64]) -> Value {
    Value::List(values.iter().copied().map(Value::Double).collect())
}

/// Checks that parameters of the model match the plan.
fn check_built_in(p: &mut Parameters, model: &Model) -> Result<(), ParameterError> {
    let names = named_classes(model)
        .into_iter()
        .filter_map(|class| model.classes.get(class));
    let texts = names.map(|name| Value::String(name.clone())).collect();
    let grid = &model.grid;
    let range: Vec<f64> = grid
        .min
        .iter()
        .chain(&grid.max)
        .map(|&v| f64::from(v))
        .collect();
    let voxel: Vec<f64> = grid.voxel.iter().map(|&v| f64::from(v)).collect();
    let count = |n: usize| Value::Integer(n as i64);
    for (name, plan) in [
        ("model_params.class_names", Value::List(texts)),
        (
            "model_params.point_feature_size",
            count(model.points.columns.len()),
        ),
        ("model_params.max_voxel_size", count(grid.max_pillars)),
        ("model_params.point_cloud_range", list(&range)),
        ("model_params.voxel_size", list(&voxel)),
        (
            "model_params.downsample_factor",
            count(model.head.downsample),
        ),
        (
            "model_params.encoder_in_feature_size",
            count(model.pfn_in_features()),
        ),
        (
            "model_params.has_variance",
            Value::Bool(model.head.variance),
        ),
        ("cloud_capacity", count(model.points.capacity)),
    ] {
        let Some(found) = p.take(name) else { continue };
        if !same(&found, &plan) {
            return Err(ParameterError::Contradiction {
                name: name.into(),
                found,
                plan: plan.to_string(),
                advice: BUILT_IN,
            });
        }
    }
    Ok(())
}

/// Compares two values, numbers in f32 as in the model.
fn same(a: &Value, b: &Value) -> bool {
    let number = |value: &Value| match *value {
        Value::Integer(value) => Some(value as f32),
        Value::Double(value) => Some(value as f32),
        _ => None,
    };
    match (a, b) {
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b || number(a).is_some_and(|a| number(b) == Some(a)),
    }
}

/// Checks that the plan's remapping of classes by area matches Autoware's three matrices.
fn check_remap(p: &mut Parameters, model: &Model) -> Result<(), ParameterError> {
    let name = "allow_remapping_by_area_matrix";
    let cells = Some(AUTOWARE_LABELS.len() * AUTOWARE_LABELS.len());
    let allow = p.numbers(name, 0.0..=1.0, cells)?;
    let min = p.numbers("min_area_matrix", 0.0..=f64::MAX, cells)?;
    let max = p.numbers("max_area_matrix", 0.0..=f64::MAX, cells)?;
    let (Some(allow), Some(min), Some(max)) = (allow, min, max) else {
        return Ok(());
    };
    let class = |label: &str| model.classes.iter().position(|class| class == label);
    let rules = (0..allow.len())
        .filter(|&i| allow[i] != 0.0)
        .filter_map(|i| {
            let from = class(AUTOWARE_LABELS[i / AUTOWARE_LABELS.len()])?;
            let to = class(AUTOWARE_LABELS[i % AUTOWARE_LABELS.len()])?;
            Some((from, to, min[i] as f32, max[i] as f32))
        });
    let rules: Vec<_> = rules.collect();
    let plan: Vec<_> = model
        .remap
        .iter()
        .map(|r| (r.from, r.to, r.min_area, r.max_area))
        .collect();
    if rules != plan {
        return Err(ParameterError::Contradiction {
            name: name.into(),
            found: Value::String(format!("{} rules for the plan's classes", rules.len())),
            plan: format!("{} different rules", plan.len()),
            advice: BUILT_IN,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
