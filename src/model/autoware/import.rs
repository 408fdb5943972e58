//! Autoware's parameters as a model description.
//!
//! The files do not contain the PFN's widths, which come from the ONNX file. Values that Autoware's node had as
//! defaults in its code, not in these files, are filled in and reported.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{Autoware, Parameters, Rule, Setting};
use crate::map::HeadMaps;
use crate::model::file::{
    PerClass, RawBands, RawDecode, RawGrid, RawHead, RawModel, RawNms, RawNmsKind, RawPfn,
    RawPoints, RawRemap, RawTask, Scope, to_toml,
};
use crate::model::{Model, ModelError, Rotation, SizeOrder, Suppressors, WithoutPose, check};

/// Points per pillar; a constant of Autoware's code, not a parameter.
const MAX_POINTS_PER_PILLAR: usize = 32;

/// A file of the public model repository's older folders that has no parameters.
const METADATA: &str = "deploy_metadata.yaml";

/// Parameters of nodes that do not describe a model.
const NODE_ONLY: [&str; 2] = ["build_only", "use_sim_time"];

/// A model description from Autoware's files.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    /// The model.
    pub(crate) model: Model,
    /// The text of its `model.toml`.
    pub(crate) text: String,
    /// Values that are in none of the files, one line each.
    pub(crate) assumed: Vec<String>,
}

/// Where suppression and sweeps come from if no file has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Common {
    /// From nowhere: that is an error.
    Required,
    /// From the `centerpoint_common.param.yaml` that Autoware's node ships with: the folders of the public model
    /// repository do not have it.
    Shipped,
}

/// Reads Autoware parameter files, and returns the model and the text of its `model.toml`. `pfn_layers` are the
/// PFN's widths, see [`crate::model::PfnSpec::layers`].
///
/// # Errors
/// [`ModelError`], which names the file and the key. Keys may be missing in one file if another has them.
pub(crate) fn read(
    paths: &[PathBuf],
    pfn_layers: &[usize],
    common: Common,
) -> Result<Description, ModelError> {
    let mut parameters = Parameters::default();
    for path in paths {
        if path.file_name() != Some(OsStr::new(METADATA)) {
            parameters.read(path, |_| true)?;
        }
    }
    let given = Autoware::take(&mut parameters)?;
    NODE_ONLY.iter().for_each(|name| parameters.ignore(name));
    parameters.finish()?;
    let names: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let mut import = Import {
        given,
        files: PathBuf::from(names.join(", ")),
        common,
        assumed: Vec::new(),
    };
    let raw = import.raw(pfn_layers)?;
    let text = to_toml(&raw).map_err(|e| ModelError::Syntax {
        path: import.files.clone(),
        message: e.to_string(),
    })?;
    let model = check::resolve(raw).map_err(|problem| {
        let (path, key) = import.source(&problem.key);
        ModelError::Value {
            path: path.into(),
            key: key.into(),
            problem: problem.problem,
        }
    })?;
    Ok(Description {
        model,
        text,
        assumed: import.assumed,
    })
}

struct Import {
    given: Autoware,
    /// The names of all files, for what is in none of them.
    files: PathBuf,
    common: Common,
    assumed: Vec<String>,
}

/// The files that have the keys, by their newest names.
const ML_PACKAGE: &str = "ml_package.param.yaml";
const COMMON: &str = "centerpoint_common.param.yaml";

impl Import {
    /// The value, which a file must have.
    fn need<'a, T>(
        &self,
        setting: &'a Option<Setting<T>>,
        key: &str,
        file: &str,
    ) -> Result<&'a Setting<T>, ModelError> {
        setting.as_ref().ok_or_else(|| ModelError::Value {
            path: self.files.clone(),
            key: key.into(),
            problem: format!("missing; pass Autoware's `{file}`, too"),
        })
    }

    /// The value, or the one of the common file that Autoware ships.
    fn common<T: Copy + std::fmt::Debug>(
        &mut self,
        setting: &Option<Setting<T>>,
        key: &str,
        shipped: T,
    ) -> Result<T, ModelError> {
        match setting {
            Some(setting) => Ok(setting.value),
            None if self.common == Common::Shipped => {
                self.assume(key, format!("{shipped:?}, as in Autoware's {COMMON}"));
                Ok(shipped)
            }
            None => self.need(setting, key, COMMON).map(|setting| setting.value),
        }
    }

    fn assume(&mut self, key: &str, value: String) {
        self.assumed
            .push(format!("`{key}` is in none of the files: {value}"));
    }

    fn raw(&mut self, pfn_layers: &[usize]) -> Result<RawModel, ModelError> {
        let given = self.given.clone();
        let class_names = self.need(&given.class_names, "model_params.class_names", ML_PACKAGE)?;
        // Until April 2024 the files had no tables, and what they lacked was in the node's code.
        let is_flat = class_names.key == "class_names";
        let named = class_names.value.clone();
        let rules = given.remap.map_or(Vec::new(), |rules| rules.value);
        let mut classes = named.clone();
        // A remap may produce a class that the network does not have, such as TRAILER.
        for rule in rules
            .iter()
            .filter(|rule| named.iter().any(|name| name == rule.from))
        {
            if !classes.iter().any(|class| class == rule.to) {
                classes.push(rule.to.into());
            }
        }
        let package = |key| format!("model_params.{key}");
        let feature_size = self.need(
            &given.point_feature_size,
            &package("point_feature_size"),
            ML_PACKAGE,
        )?;
        let columns: &[&str] = match feature_size.value {
            4 => &["x", "y", "z", "t"],
            5 => &["x", "y", "z", "intensity", "t"],
            other => {
                return Err(feature_size.invalid(format!(
                    "{other}; expected 4 (x y z t) or 5 (x y z intensity t)"
                )));
            }
        };
        let in_features = self
            .need(
                &given.encoder_in_feature_size,
                &package("encoder_in_feature_size"),
                ML_PACKAGE,
            )?
            .value;
        let offsets = in_features.saturating_sub(columns.len());
        let range = self.need(
            &given.point_cloud_range,
            &package("point_cloud_range"),
            ML_PACKAGE,
        )?;
        let voxel_size = self.need(&given.voxel_size, &package("voxel_size"), ML_PACKAGE)?;
        let max_pillars = self.need(
            &given.max_voxel_size,
            &package("max_voxel_size"),
            ML_PACKAGE,
        )?;
        let downsample = self.need(
            &given.downsample_factor,
            &package("downsample_factor"),
            ML_PACKAGE,
        )?;
        let nms = self.suppression(&classes, is_flat)?;
        let yaw_norm = self.yaw_norm(&named, is_flat)?;
        let (score, bands) = self.scores(&named, &classes, is_flat)?;
        let past = match &given.past_frames {
            Some(past) => past.value,
            None if is_flat => {
                self.assume(
                    "densification_num_past_frames",
                    "1, the node's default".into(),
                );
                1
            }
            None => self.common(&None, "densification_params.num_past_frames", 1)?,
        };
        let capacity = match &given.cloud_capacity {
            None if self.common == Common::Shipped => {
                Some(self.common(&None, "cloud_capacity", 2_000_000)?)
            }
            capacity => capacity.as_ref().map(|capacity| capacity.value),
        };
        Ok(RawModel {
            name: "autoware-lidar-centerpoint".into(),
            points: RawPoints {
                columns: columns.iter().map(|name| (*name).into()).collect(),
                intensity_scale: None,
                sweeps: Some(past.saturating_add(1)),
                capacity,
                without_pose: Some(WithoutPose::Drop),
                extrinsic: None,
                ground: None,
                // Autoware's clouds are in base_link, on the ground, and their intensities are bytes.
                model_ground: Some(0.0),
                intensity_max: columns.contains(&"intensity").then_some(255.0),
            },
            grid: RawGrid {
                range: range.value,
                ignore_box: None,
                voxel_size: voxel_size.value,
                size: None,
                max_points_per_pillar: MAX_POINTS_PER_PILLAR,
                max_pillars: max_pillars.value,
            },
            pfn: RawPfn {
                mean_offset: Some(true),
                center_offset_axes: Some(if offsets <= 5 { 2 } else { 3 }),
                in_features: Some(in_features),
                legacy: None,
                layers: pfn_layers.to_vec(),
            },
            head: RawHead {
                downsample: downsample.value,
                size_order: SizeOrder::Wlh,
                rotation: Rotation::NegCosNegSin,
                variance: given.has_variance.is_some_and(|variance| variance.value),
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
                // Classes that only a remap leads to have no candidates.
                yaw_norm: Some(PerClass::Each(by_class(&classes, &yaw_norm))),
                center_range: None,
            },
            nms,
            remap: remap(&rules, &classes),
            classes,
        })
    }

    fn yaw_norm(&mut self, named: &[String], is_flat: bool) -> Result<Vec<f64>, ModelError> {
        if let Some(yaw_norm) = &self.given.yaw_norm {
            return yaw_norm.for_classes(named.len()).map(<[f64]>::to_vec);
        }
        let key = "model_params.yaw_norm_thresholds";
        if is_flat {
            self.assume("yaw_norm_thresholds", "0, the node's default".into());
            return Ok(vec![0.0; named.len()]);
        }
        if self.common == Common::Required {
            self.need(&self.given.yaw_norm, key, ML_PACKAGE)?;
        }
        // The common files shipped until August 2026 had it.
        self.assume(
            key,
            format!("0.3, and 0 for PEDESTRIAN, as in Autoware's {COMMON}"),
        );
        let norm = |class: &String| if class == "PEDESTRIAN" { 0.0 } else { 0.3 };
        Ok(named.iter().map(norm).collect())
    }

    /// Minimum scores. Classes beyond `named` come from a remap and have 0.
    fn scores(
        &mut self,
        named: &[String],
        classes: &[String],
        is_flat: bool,
    ) -> Result<(Option<PerClass>, Option<RawBands>), ModelError> {
        let scores = &self.given.scores;
        if let Some(bands) = &scores.bands {
            let names: Vec<&str> = named.iter().map(String::as_str).collect();
            let mut table = bands.table(&names)?;
            table
                .iter_mut()
                .for_each(|band| band.resize(classes.len(), 0.0));
            let column = |class| table.iter().map(|band| band[class]).collect();
            let by_class = classes.iter().cloned().enumerate();
            return Ok((
                None,
                Some(RawBands {
                    upper_bounds: bands.upper_bounds.value.clone(),
                    by_class: by_class.map(|(i, class)| (class, column(i))).collect(),
                }),
            ));
        }
        if let Some(scores) = &scores.by_class {
            let scores = scores.for_classes(named.len())?;
            return Ok((Some(PerClass::Each(by_class(classes, scores))), None));
        }
        let score = match &scores.single {
            Some(score) => score.value,
            None if is_flat => {
                // The cars that became trucks by area went, and the default changed, in September 2022.
                let renames = |rules: &Setting<_>| rules.key == "rename_car_to_truck_and_bus";
                let is_oldest = self.given.remap.as_ref().is_some_and(renames);
                let score = if is_oldest { 0.4 } else { 0.35 };
                self.assume("score_threshold", format!("{score}, the node's default"));
                score
            }
            None => {
                let key = "model_params.detection_score_thresholds";
                return Err(ModelError::Value {
                    path: self.files.clone(),
                    key: key.into(),
                    problem: format!(
                        "missing, and so are its older forms; pass Autoware's `{ML_PACKAGE}`, too"
                    ),
                });
            }
        };
        Ok((Some(PerClass::One(score)), None))
    }

    /// Autoware's two steps: circle over all classes, then IoU with pedestrians in their own group.
    fn suppression(
        &mut self,
        classes: &[String],
        is_flat: bool,
    ) -> Result<Vec<RawNms>, ModelError> {
        let (circle, threshold, search) = (
            self.given.circle.clone(),
            self.given.iou_threshold.clone(),
            self.given.iou_search_distance.clone(),
        );
        let no_iou = threshold.is_none() && search.is_none();
        let radius = match &circle {
            None if is_flat && no_iou => {
                self.assume(
                    "circle_nms_dist_threshold",
                    "1.5, the node's default".into(),
                );
                1.5
            }
            circle => self.common(circle, "post_process_params.circle_nms_dist_threshold", 0.5)?,
        };
        let mut steps = vec![RawNms {
            kind: RawNmsKind::Circle,
            suppressors: None,
            radius: Some(PerClass::One(radius)),
            threshold: None,
            search_distance: None,
            scope: Some(Scope::All),
            groups: None,
            max_boxes: None,
        }];
        // The node had no IoU step until September 2022.
        if is_flat && no_iou {
            return Ok(steps);
        }
        let threshold = self.common(&threshold, "post_process_params.iou_nms_threshold", 0.1)?;
        let search = self.common(
            &search,
            "post_process_params.iou_nms_search_distance_2d",
            10.0,
        )?;
        let (people, others): (Vec<_>, Vec<_>) = classes
            .iter()
            .cloned()
            .partition(|class| class == "PEDESTRIAN");
        steps.push(RawNms {
            kind: RawNmsKind::Iou,
            // A suppressed box suppresses others, as Autoware's test `PreservesLegacySuppressionBehavior` wants.
            suppressors: Some(Suppressors::All),
            radius: None,
            threshold: Some(threshold),
            search_distance: Some(search),
            scope: None,
            groups: Some(vec![others, people]),
            max_boxes: None,
        });
        Ok(steps)
    }

    /// The file and the parameter that a key of `model.toml` came from.
    fn source<'a>(&'a self, key: &'a str) -> (&'a Path, &'a str) {
        fn at<T>(setting: &Option<Setting<T>>) -> Option<(&Path, &str)> {
            let setting = setting.as_ref()?;
            Some((&setting.path, &setting.key))
        }
        let given = &self.given;
        let source = match key {
            "classes" | "head.tasks" => at(&given.class_names),
            "points.sweeps" => at(&given.past_frames),
            "points.capacity" => at(&given.cloud_capacity),
            "grid.range" => at(&given.point_cloud_range),
            "grid.voxel_size" => at(&given.voxel_size),
            "grid.max_pillars" => at(&given.max_voxel_size),
            "pfn.in_features" => at(&given.encoder_in_feature_size),
            "head.downsample" => at(&given.downsample_factor),
            "decode.yaw_norm" => at(&given.yaw_norm),
            key if key.starts_with("nms[0]") => at(&given.circle),
            key if key.starts_with("nms[1].search") => at(&given.iou_search_distance),
            key if key.starts_with("nms[1]") => at(&given.iou_threshold),
            key if key.starts_with("remap") => at(&given.remap),
            _ => None,
        };
        source.unwrap_or((&self.files, key))
    }
}

/// `values` by the names of their classes; the classes beyond them have 0.
fn by_class(classes: &[String], values: &[f64]) -> BTreeMap<String, f64> {
    let values = values.iter().copied().chain(std::iter::repeat(0.0));
    classes.iter().cloned().zip(values).collect()
}

/// The rules between the model's classes.
fn remap(rules: &[Rule], classes: &[String]) -> Vec<RawRemap> {
    let known = |label: &str| classes.iter().any(|class| class == label);
    let rules = rules
        .iter()
        .filter(|rule| known(rule.from) && known(rule.to));
    let rules = rules.map(|rule| RawRemap {
        from: rule.from.into(),
        to: rule.to.into(),
        min_area: rule.min_area,
        max_area: Some(rule.max_area),
    });
    rules.collect()
}
