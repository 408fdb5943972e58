//! The file form of a model description: `model.toml`. Unknown keys are errors.
//!
//! ```toml
//! name = "centerpoint-demo"
//! classes = ["car", "truck", "bus", "bicycle", "pedestrian"]
//!
//! [points]
//! columns = ["x", "y", "z", "intensity", "t"]   # in training order
//! intensity_scale = 1.0                         # files' scale → training scale; default 1
//! sweeps = 2                                    # default 1
//! capacity = 300000                             # default 300000 per sweep
//! extrinsic = [0.9, 0.0, 2.0, 0.0, 0.0, 0.0]    # sensor to vehicle: metres, degrees; default: none
//! ground = "auto"                               # or its height in the clouds; default: they fit the model
//! model_ground = 0.0                            # its height in the training data; default 0
//! intensity_max = 1.0                           # of the training data; optional: other scales are noticed
//! without_pose = "alone"                        # or "drop"; default alone
//!
//! [grid]
//! range = [-51.2, -51.2, -3.0, 51.2, 51.2, 5.0] # metres
//! ignore_box = [-1.0, -1.0, 0.0, 4.0, 1.0, 2.0] # points on the own vehicle; default: none
//! voxel_size = [0.4, 0.4, 8.0]
//! size = [256, 256]                             # optional; checked against the two above
//! max_points_per_pillar = 20
//! max_pillars = 20000
//!
//! [pfn]
//! mean_offset = true                            # default true
//! center_offset_axes = 3                        # default 3; 2 in older models
//! in_features = 11                              # optional; checked
//! legacy = false                                # offsets replace the coordinates; default false
//! layers = [32, 32]
//!
//! [head]
//! downsample = 2
//! size_order = "lwh"                            # or "wlh"
//! rotation = "sin_cos"                          # or "neg_cos_neg_sin"
//! variance = false                              # default false
//! # [[head.tasks]]                              # default: one task with all classes
//! # classes = ["car"]
//! # outputs = ["heatmap_0", "reg_0", "height_0", "dim_0", "rot_0", "vel_0"]   # default: these names
//!
//! [decode]
//! candidates = "best_class"                     # or "class_cell"; default best_class
//! max_candidates = 1000                         # per task; default 1000
//! score = 0.1                                   # a number, or a table per class
//! # bands = { upper_bounds = [50.0, 90.0], car = [0.35, 0.3], … }   # instead of `score`
//! yaw_norm = { car = 0.3, … }                   # default 0
//! center_range = [-61.2, -61.2, -10.0, 61.2, 61.2, 10.0]   # of a box's centre; default: no limit
//!
//! [[nms]]                                       # zero or more steps, in order
//! kind = "circle"                               # `radius` in metres (the square root of
//! radius = { car = 2.0, … }                     # mmdetection3d's min_radius, which is in m²)
//! scope = "class"                               # or "task", "all", or groups = [["car", …], …]
//! max_boxes = 83                                # per group; default: no limit
//!
//! [[nms]]
//! kind = "iou"
//! threshold = 0.1
//! search_distance = 10.0                        # default: no limit
//! suppressors = "kept"                          # or "all"; default kept
//! scope = "all"
//!
//! [[remap]]
//! from = "car"
//! to = "truck"
//! min_area = 12.1
//! max_area = 19.75                              # default: no limit
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Candidates, ModelError, Rotation, SizeOrder, Suppressors, WithoutPose};
use crate::points::{Extrinsic, GroundHeight};

/// Limit of a description's size; real ones are far smaller.
const MAX_BYTES: u64 = 1 << 16;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    pub(super) name: String,
    pub(super) classes: Vec<String>,
    pub(super) points: RawPoints,
    pub(super) grid: RawGrid,
    pub(super) pfn: RawPfn,
    pub(super) head: RawHead,
    pub(super) decode: RawDecode,
    #[serde(default)]
    pub(super) nms: Vec<RawNms>,
    #[serde(default)]
    pub(super) remap: Vec<RawRemap>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPoints {
    pub(super) columns: Vec<String>,
    pub(super) intensity_scale: Option<f64>,
    pub(super) sweeps: Option<usize>,
    pub(super) capacity: Option<usize>,
    pub(super) extrinsic: Option<Extrinsic>,
    pub(super) ground: Option<GroundHeight>,
    pub(super) model_ground: Option<f64>,
    pub(super) intensity_max: Option<f64>,
    pub(super) without_pose: Option<WithoutPose>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrid {
    pub(super) range: [f64; 6],
    pub(super) ignore_box: Option<[f64; 6]>,
    pub(super) voxel_size: [f64; 3],
    pub(super) size: Option<[usize; 2]>,
    pub(super) max_points_per_pillar: usize,
    pub(super) max_pillars: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPfn {
    pub(super) mean_offset: Option<bool>,
    pub(super) center_offset_axes: Option<usize>,
    pub(super) in_features: Option<usize>,
    pub(super) legacy: Option<bool>,
    pub(super) layers: Vec<usize>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHead {
    pub(super) downsample: usize,
    pub(super) size_order: SizeOrder,
    pub(super) rotation: Rotation,
    #[serde(default)]
    pub(super) variance: bool,
    pub(super) tasks: Option<Vec<RawTask>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTask {
    pub(super) classes: Vec<String>,
    pub(super) outputs: Option<[String; 6]>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDecode {
    pub(super) candidates: Option<Candidates>,
    pub(super) max_candidates: Option<usize>,
    pub(super) score: Option<PerClass>,
    pub(super) bands: Option<RawBands>,
    pub(super) yaw_norm: Option<PerClass>,
    pub(super) center_range: Option<[f64; 6]>,
}

/// `{ upper_bounds = […], <class> = […], … }`
#[derive(Serialize, Deserialize)]
pub(super) struct RawBands {
    pub(super) upper_bounds: Vec<f64>,
    #[serde(flatten)]
    pub(super) by_class: BTreeMap<String, Vec<f64>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNms {
    pub(super) kind: RawNmsKind,
    pub(super) suppressors: Option<Suppressors>,
    pub(super) radius: Option<PerClass>,
    pub(super) threshold: Option<f64>,
    pub(super) search_distance: Option<f64>,
    pub(super) scope: Option<Scope>,
    pub(super) groups: Option<Vec<Vec<String>>>,
    pub(super) max_boxes: Option<usize>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawNmsKind {
    Circle,
    Iou,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    Class,
    Task,
    All,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRemap {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) min_area: f64,
    pub(super) max_area: Option<f64>,
}

/// One value for all classes, or one per class.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum PerClass {
    One(f64),
    Each(BTreeMap<String, f64>),
}

/// Reads the text of a description.
pub(crate) fn read_text(path: &Path) -> Result<String, ModelError> {
    read_text_within(path, MAX_BYTES)
}

/// Reads the text of a file of at most `limit` bytes.
pub(super) fn read_text_within(path: &Path, limit: u64) -> Result<String, ModelError> {
    let io = |source| ModelError::Io {
        path: path.into(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > limit {
        return Err(ModelError::TooLarge {
            path: path.into(),
            bytes,
            limit,
        });
    }
    std::fs::read_to_string(path).map_err(io)
}

/// The TOML text of a description read from another file format.
#[cfg(feature = "build")]
pub(super) fn to_toml(raw: &RawModel) -> Result<String, toml::ser::Error> {
    toml::to_string(raw)
}

/// Parses TOML text.
pub(super) fn parse(text: &str, path: &Path) -> Result<RawModel, ModelError> {
    toml::from_str(text).map_err(|e| ModelError::Syntax {
        path: path.into(),
        message: e.to_string().trim_end().to_string(),
    })
}
