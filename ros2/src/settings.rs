//! The node's settings: its parameters, checked against the plan's model.
//!
//! Names are those of Autoware's `lidar_centerpoint`, so its parameter files work unchanged; the library reads them, as
//! `cp-build import` does. Thresholds are applied, parameters of the model (grid, classes, sizes) must match the plan,
//! and parameters for building engines are ignored.

use std::path::Path;
use std::time::Duration;

use centerpoint::internals::model::autoware::{Autoware, Parameters, Setting, Value};
use centerpoint::internals::model::region::{corners, is_box};
use centerpoint::model::{Decode, ModelError, NmsKind, NmsStep, Suppressors, WithoutPose};
use centerpoint::points::{Extrinsic, GroundHeight};
use centerpoint::{Budget, Model};

use crate::parameters::{COMMAND_LINE, ParameterError};

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
    /// What becomes of a cloud that no transform places.
    pub(crate) without_pose: WithoutPose,
    /// Time limits of a frame.
    pub(crate) budget: Budget,
    /// Time between two reports on the limits.
    pub(crate) status_period: Duration,
    /// Load the plan and exit.
    pub(crate) build_only: bool,
    /// Quality of service of the cloud subscription.
    pub(crate) clouds: CloudQos,
    /// Sensor to vehicle, if not the plan's.
    pub(crate) extrinsic: Option<Extrinsic>,
    /// Where the clouds' ground is, if not as the plan says.
    pub(crate) ground: Option<GroundHeight>,
    /// The box whose points are dropped, if not the plan's.
    pub(crate) ignore_box: Option<[[f32; 3]; 2]>,
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
    /// [`ParameterError`] with the file and the parameter's name.
    pub(crate) fn new(
        mut p: Parameters,
        model: &Model,
        topic: &str,
    ) -> Result<Self, ParameterError> {
        let given = Autoware::take(&mut p)?;
        let (vision, autoware) = outputs(&mut p)?;
        let limits = Budget::default();
        let settings = Self {
            vision,
            autoware,
            twist: value(&given.has_twist).unwrap_or(true),
            world_frame: value(&given.world_frame).unwrap_or_else(|| "map".into()),
            past: past(&given, model)?,
            without_pose: without_pose(&mut p, &given, model)?,
            budget: Budget {
                frame_ms: value(&given.max_time_ms).unwrap_or(limits.frame_ms),
                delay_ms: value(&given.max_delay_ms).unwrap_or(limits.delay_ms),
            },
            status_period: Duration::from_secs_f64(
                value(&given.report_interval_ms).unwrap_or(100.0).max(1.0) / 1e3,
            ),
            build_only: flag(&mut p, "build_only")?,
            clouds: cloud_qos(&mut p, topic)?,
            extrinsic: extrinsic(&mut p)?,
            ground: ground(&mut p)?,
            ignore_box: ignore_box(&mut p)?,
            sim_time: flag(&mut p, "use_sim_time")?,
            decode: decode(&given, model)?,
            nms: nms(&mut p, &given, model)?,
        };
        check_built_in(&given, model)?;
        check_remap(&given, model)?;
        p.ignore("start_type_description_service");
        p.finish()?;
        Ok(settings)
    }
}

fn value<T: Clone>(setting: &Option<Setting<T>>) -> Option<T> {
    setting.as_ref().map(|setting| setting.value.clone())
}

/// Whether a file sets the value, and not the command line.
fn in_a_file<T>(setting: &Option<Setting<T>>) -> bool {
    let path = setting.as_ref().map(|setting| setting.path.as_path());
    path.is_some_and(|path| path != Path::new(COMMAND_LINE))
}

/// A boolean that is false unless it is set.
fn flag(p: &mut Parameters, name: &str) -> Result<bool, ModelError> {
    Ok(value(&p.bool(&[name])?).unwrap_or(false))
}

fn extrinsic(p: &mut Parameters) -> Result<Option<Extrinsic>, ModelError> {
    let Some(setting) = p.array::<6>(&["extrinsic"])? else {
        return Ok(None);
    };
    let parsed = Extrinsic::new(setting.value);
    parsed
        .map(Some)
        .map_err(|error| setting.invalid(error.to_string()))
}

/// `auto`, or a height in metres.
fn ground(p: &mut Parameters) -> Result<Option<GroundHeight>, ModelError> {
    let Some(setting) = p.take("ground") else {
        return Ok(None);
    };
    let text = match &setting.value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let parsed = text.parse().map(Some);
    parsed.map_err(|problem: String| setting.invalid(problem))
}

fn ignore_box(p: &mut Parameters) -> Result<Option<[[f32; 3]; 2]>, ModelError> {
    let Some(setting) = p.array::<6>(&["ignore_box"])? else {
        return Ok(None);
    };
    if is_box(&setting.value) {
        return Ok(Some(corners(setting.value)));
    }
    let problem = format!(
        "{}; expected the least x, y, z, then the greatest",
        setting.found
    );
    Err(setting.invalid(problem))
}

/// Which messages `output` requests: (vision, autoware).
fn outputs(p: &mut Parameters) -> Result<(bool, bool), ModelError> {
    let Some(setting) = p.take("output") else {
        return Ok((true, false));
    };
    let list = match &setting.value {
        Value::List(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let (mut vision, mut autoware) = (false, false);
    for output in list {
        match output {
            Value::String(text) if text == "vision" => vision = true,
            Value::String(text) if text == "autoware" => autoware = true,
            _ => {
                let found = &setting.found;
                return Err(setting.invalid(format!(
                    "{found}; expected vision, autoware, or a list of them"
                )));
            }
        }
    }
    Ok((vision, autoware))
}

fn past(given: &Autoware, model: &Model) -> Result<usize, ParameterError> {
    let max = model.points.sweeps.saturating_sub(1);
    match &given.past_frames {
        None => Ok(max),
        Some(past) if past.value <= max => Ok(past.value),
        Some(past) => Err(ParameterError::contradiction(
            past,
            format!(
                "{max} (the model was trained on {} sweeps)",
                model.points.sweeps
            ),
            "use that number or a smaller one",
        )),
    }
}

/// One of two words, by the name of the first or the second; `None` if the parameter is not set.
fn either<T>(
    p: &mut Parameters,
    name: &str,
    [first, second]: [(&str, T); 2],
) -> Result<Option<T>, ModelError> {
    let Some(setting) = p.text(&[name])? else {
        return Ok(None);
    };
    match setting.value.as_str() {
        word if word == first.0 => Ok(Some(first.1)),
        word if word == second.0 => Ok(Some(second.1)),
        _ => {
            let found = &setting.found;
            let expected = format!("{} or {}", first.0, second.0);
            Err(setting.invalid(format!("{found}; expected {expected}")))
        }
    }
}

/// What becomes of a cloud without a transform: by the parameter, else as in Autoware where its file sets the sweeps,
/// else as the plan says.
fn without_pose(
    p: &mut Parameters,
    given: &Autoware,
    model: &Model,
) -> Result<WithoutPose, ModelError> {
    let words = [("alone", WithoutPose::Alone), ("drop", WithoutPose::Drop)];
    let by_file = in_a_file(&given.world_frame) && in_a_file(&given.past_frames);
    let default = if by_file {
        WithoutPose::Drop
    } else {
        model.points.without_pose
    };
    Ok(either(p, "densification_params.without_pose", words)?.unwrap_or(default))
}

fn cloud_qos(p: &mut Parameters, topic: &str) -> Result<CloudQos, ModelError> {
    let prefix = format!("qos_overrides.{topic}.subscription");
    let words = [("reliable", true), ("best_effort", false)];
    let reliable = either(p, &format!("{prefix}.reliability"), words)?.unwrap_or(false);
    let depth = match p.count(&[&format!("{prefix}.depth")])? {
        None => 1,
        Some(depth) if (1..=1000).contains(&depth.value) => depth.value,
        Some(depth) => {
            let found = depth.value;
            return Err(depth.invalid(format!("{found}; expected 1 to 1000")));
        }
    };
    Ok(CloudQos { reliable, depth })
}

/// Candidate selection: thresholds of the score and of the rotation's norm.
fn decode(given: &Autoware, model: &Model) -> Result<Decode, ModelError> {
    let mut decode = model.decode.clone();
    let named = named_classes(model);
    let scores = &given.scores;
    if let Some(bands) = &scores.bands {
        let names: Vec<&str> = named
            .iter()
            .filter_map(|&class| model.classes.get(class).map(String::as_str))
            .collect();
        let bounds = bands.upper_bounds.value.iter();
        decode.bands = bounds.map(|&bound| bound as f32).collect();
        // Classes that only exist as the result of a remap have no threshold of their own.
        let table = bands.table(&names)?;
        let table = table.iter().map(|scores| {
            let mut band = vec![0.0; model.classes.len()];
            set(&mut band, &named, scores);
            band
        });
        decode.score = table.collect();
    } else if let Some(by_class) = &scores.by_class {
        let by_class = by_class.for_classes(named.len())?;
        for band in &mut decode.score {
            set(band, &named, by_class);
        }
    } else if let Some(single) = &scores.single {
        for band in &mut decode.score {
            band.fill(single.value as f32);
        }
    }
    if let Some(norms) = &given.yaw_norm {
        let norms = norms.for_classes(named.len())?;
        set(&mut decode.yaw_norm, &named, norms);
    }
    Ok(decode)
}

/// Suppression: Autoware's circle and IoU thresholds, applied to the model's steps. Which boxes suppress others is set by
/// the parameter, else as in Autoware where its file sets the IoU step, else as the plan says.
fn nms(
    p: &mut Parameters,
    given: &Autoware,
    model: &Model,
) -> Result<Vec<NmsStep>, ParameterError> {
    let words = [("kept", Suppressors::Kept), ("all", Suppressors::All)];
    let by_file = in_a_file(&given.iou_threshold) && in_a_file(&given.iou_search_distance);
    let suppressors = either(p, "post_process_params.iou_nms_suppressors", words)?
        .or(by_file.then_some(Suppressors::All));
    let mut nms = model.nms.clone();
    let mut applied = [false; 3];
    for step in &mut nms {
        let is_iou = matches!(step.kind, NmsKind::Iou { .. });
        step.suppressors = suppressors.filter(|_| is_iou).unwrap_or(step.suppressors);
        match &mut step.kind {
            NmsKind::Circle { radius } => {
                if let Some(circle) = &given.circle {
                    radius.fill(circle.value as f32);
                }
                applied[0] = true;
            }
            NmsKind::Iou {
                threshold,
                search_distance,
            } => {
                if let Some(given) = &given.iou_threshold {
                    *threshold = given.value as f32;
                }
                if let Some(given) = &given.iou_search_distance {
                    *search_distance = given.value as f32;
                }
                applied[1..].fill(true);
            }
        }
    }
    let settings = [
        &given.circle,
        &given.iou_threshold,
        &given.iou_search_distance,
    ];
    for (setting, applied) in settings.into_iter().zip(applied) {
        if let (Some(setting), false) = (setting, applied) {
            return Err(ParameterError::contradiction(
                setting,
                "no such suppression step",
                BUILT_IN,
            ));
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

/// Checks that parameters of the model match the plan. Numbers are compared in f32, as in the model.
fn check_built_in(given: &Autoware, model: &Model) -> Result<(), ParameterError> {
    fn same<T: PartialEq>(
        setting: &Option<Setting<T>>,
        plan: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), ParameterError> {
        match setting {
            Some(setting) if setting.value != *plan => {
                Err(ParameterError::contradiction(setting, text(plan), BUILT_IN))
            }
            _ => Ok(()),
        }
    }
    fn same_numbers<const N: usize>(
        setting: &Option<Setting<[f64; N]>>,
        plan: &[f32],
    ) -> Result<(), ParameterError> {
        match setting {
            Some(setting) if setting.value.map(|v| v as f32) != *plan => Err(
                ParameterError::contradiction(setting, format!("{plan:?}"), BUILT_IN),
            ),
            _ => Ok(()),
        }
    }
    let names = named_classes(model)
        .into_iter()
        .filter_map(|class| model.classes.get(class).cloned())
        .collect();
    same(&given.class_names, &names, |names| format!("{names:?}"))?;
    let grid = &model.grid;
    same_numbers(
        &given.point_cloud_range,
        &[&grid.min[..], &grid.max].concat(),
    )?;
    same_numbers(&given.voxel_size, &grid.voxel)?;
    for (setting, plan) in [
        (&given.point_feature_size, model.points.columns.len()),
        (&given.downsample_factor, model.head.downsample),
        (&given.encoder_in_feature_size, model.pfn_in_features()),
        (&given.cloud_capacity, model.points.capacity),
    ] {
        same(setting, &plan, usize::to_string)?;
    }
    // More pillars than cells are no limit.
    let max_pillars = given.max_voxel_size.clone().map(|mut setting| {
        setting.value = setting.value.min(grid.cells());
        setting
    });
    same(&max_pillars, &grid.max_pillars, usize::to_string)?;
    same(&given.has_variance, &model.head.variance, bool::to_string)
}

/// Checks that the plan's remapping of classes by area matches Autoware's three matrices.
fn check_remap(given: &Autoware, model: &Model) -> Result<(), ParameterError> {
    let Some(remap) = &given.remap else {
        return Ok(());
    };
    let class = |label: &str| model.classes.iter().position(|class| class == label);
    let rules = remap.value.iter().filter_map(|rule| {
        let (from, to) = (class(rule.from)?, class(rule.to)?);
        Some((from, to, rule.min_area as f32, rule.max_area as f32))
    });
    let rules: Vec<_> = rules.collect();
    let plan: Vec<_> = model
        .remap
        .iter()
        .map(|r| (r.from, r.to, r.min_area, r.max_area))
        .collect();
    if rules != plan {
        return Err(ParameterError::Contradiction {
            path: remap.path.clone(),
            key: remap.key.clone(),
            found: format!("{} rules for the plan's classes", rules.len()),
            plan: format!("{} different rules", plan.len()),
            advice: BUILT_IN,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
