//! The model description: everything that differs between CenterPoint-pillar networks, checked once.
//!
//! A model is described by a TOML file (`model.toml`; the book lists every key); a plan carries the same text. The
//! stages use the types here: class tables are resolved to one value per class, and sizes are derived and
//! bounded, so no stage has to check them again. Sources of the numbers and conventions: mmdetection3d, tier4
//! AWML, Autoware `lidar_centerpoint`.

#[cfg(feature = "autoware")]
pub(crate) mod autoware;
pub(crate) mod check;
mod check_decode;
#[cfg(feature = "build")]
pub(crate) mod draft;
pub(crate) mod file;
#[cfg(feature = "build")]
pub(crate) mod mmengine;
mod pfn;
mod problem;
#[cfg(feature = "build")]
mod python;
pub(crate) mod region;

pub use pfn::{Pfn, PfnError, PfnLayer};
pub(crate) use region::{corners, is_box};

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::map::HeadMaps;
use crate::points::{Column, Extrinsic, GroundHeight, Mounting};

/// The labels of `autoware_perception_msgs/ObjectClassification` by number, as Autoware's models spell them; also the
/// order of Autoware's remap matrices.
#[doc(hidden)]
pub const AUTOWARE_LABELS: [&str; 8] = [
    "UNKNOWN",
    "CAR",
    "TRUCK",
    "BUS",
    "TRAILER",
    "MOTORBIKE",
    "BICYCLE",
    "PEDESTRIAN",
];

/// A checked model description.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Display name, such as `centerpoint-demo`.
    pub name: String,
    /// Class names; [`crate::Box3d::class`] indexes them.
    pub classes: Vec<String>,
    /// Columns and size of the accumulated cloud.
    pub points: Points,
    /// Detection range and voxels.
    pub grid: Grid,
    /// The pillar feature network.
    pub pfn: PfnSpec,
    /// Outputs of the head.
    pub head: Head,
    /// Candidate selection.
    pub decode: Decode,
    /// Non-maximum suppression steps, in order.
    pub nms: Vec<NmsStep>,
    /// Class changes by BEV area, in order; the first match wins.
    pub remap: Vec<Remap>,
}

/// The network's point input.
#[derive(Clone, Debug, PartialEq)]
pub struct Points {
    /// Columns of a point row in training order; the first are x, y, z.
    pub columns: Vec<Column>,
    /// Factor from the files' intensity scale to that of training (1/255 for files with 0..255 and a network
    /// trained on 0..1).
    pub intensity_scale: f32,
    /// Number of accumulated clouds, including the newest.
    pub sweeps: usize,
    /// Most points of an accumulated cloud; further points are dropped and counted.
    pub capacity: usize,
    /// Sensor to vehicle, for clouds that are in the sensor's frame.
    pub extrinsic: Option<Extrinsic>,
    /// Where the clouds' ground is, to be moved to `model_ground`; `None` moves nothing.
    pub ground: Option<GroundHeight>,
    /// Height of the ground in the training data, in metres; taken as 0 if it is not known.
    pub model_ground: Option<f32>,
    /// Largest intensity of the training data, if known: other scales are noticed.
    pub intensity_max: Option<f32>,
    /// What becomes of a cloud without a pose.
    pub without_pose: WithoutPose,
}

/// What becomes of a cloud of a bag or a ROS topic that no transform places, if a frame has several sweeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithoutPose {
    /// It is a frame alone, without past sweeps.
    #[default]
    Alone,
    /// It makes no frame (Autoware).
    Drop,
}

/// Detection range and voxels.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Minimum x, y, z in metres (inclusive).
    pub min: [f32; 3],
    /// Maximum x, y, z in metres (exclusive).
    pub max: [f32; 3],
    /// Minimum and maximum x, y, z of a box whose points are dropped: the own vehicle.
    pub ignore_box: Option<[[f32; 3]; 2]>,
    /// Voxel size in metres; z is the full height of the range.
    pub voxel: [f32; 3],
    /// Columns W (x).
    pub nx: usize,
    /// Rows H (y).
    pub ny: usize,
    /// Most points that a pillar keeps.
    pub max_points_per_pillar: usize,
    /// Most pillars of a frame.
    pub max_pillars: usize,
}

/// The pillar feature network's input and widths.
#[derive(Clone, Debug, PartialEq)]
pub struct PfnSpec {
    /// Append xyz − mean of the pillar's kept points.
    pub mean_offset: bool,
    /// Append the offset from the pillar's centre along this many axes: 0, 2 (x, y) or 3.
    pub center_axes: usize,
    /// Whether training replaced the coordinates along these axes by the offsets (mmdetection3d's `legacy`). The import
    /// folds this into the weights, so the stages do not read it.
    pub legacy: bool,
    /// Output width of each layer, counted like mmdetection3d's `feat_channels`: all layers but the last
    /// concatenate their max, so their Linear has half this width.
    pub layers: Vec<usize>,
}

/// Order of the head's size channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SizeOrder {
    /// Length, width, height (mmdetection3d).
    Lwh,
    /// Width, length, height (AWML's `rot_y_axis_reference`, Autoware).
    Wlh,
}

/// Contents of the two rotation channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// (sin yaw, cos yaw) (mmdetection3d).
    SinCos,
    /// (−cos yaw, −sin yaw) (AWML's `rot_y_axis_reference`, Autoware).
    NegCosNegSin,
}

/// Meaning of the head's outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// BEV cells per head cell and axis.
    pub downsample: usize,
    /// Order of the size channels.
    pub size_order: SizeOrder,
    /// Meaning of the rotation channels.
    pub rotation: Rotation,
    /// Whether regression outputs have one variance channel per value, after the values.
    pub variance: bool,
    /// Tasks, each with its own six outputs.
    pub tasks: Vec<Task>,
}

/// One task of the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The model's class of each heatmap channel.
    pub classes: Vec<usize>,
    /// Names of the network's outputs.
    pub outputs: HeadMaps<String>,
}

/// Values per cell of each regression map; the heatmap has one per class.
pub(crate) const HEAD_VALUES: HeadMaps<usize> = HeadMaps {
    heatmap: 0,
    reg: 2,
    height: 1,
    dim: 3,
    rot: 2,
    vel: 2,
};

/// How cells become candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Candidates {
    /// One candidate per cell, for its best class (Autoware, CUDA-CenterPoint).
    BestClass,
    /// One candidate per class and cell (mmdetection3d).
    ClassCell,
}

/// Candidate selection.
#[derive(Clone, Debug, PartialEq)]
pub struct Decode {
    /// How cells become candidates.
    pub candidates: Candidates,
    /// Most candidates per task that enter suppression, best first.
    pub max_candidates: usize,
    /// Upper bounds in metres (exclusive) of the BEV distance bands; a box beyond the last is dropped. One band
    /// up to infinity for a model without bands.
    pub bands: Vec<f32>,
    /// Minimum score, `[band][class]`.
    pub score: Vec<Vec<f32>>,
    /// Minimum norm of the rotation channels by class; candidates below it are dropped.
    pub yaw_norm: Vec<f32>,
    /// Minimum and maximum x, y, z (inclusive) of a box's centre; candidates outside are dropped (mmdetection3d's
    /// `post_center_range`, which drops them after the limit of candidates).
    pub center_range: [[f32; 3]; 2],
}

/// The definition of an overlap.
#[derive(Clone, Debug, PartialEq)]
pub enum NmsKind {
    /// BEV centre distance below the radius of the *kept* box's class, metres by class.
    Circle {
        /// Radius in metres by class.
        radius: Vec<f32>,
    },
    /// Rotated BEV intersection over union above a threshold.
    Iou {
        /// Largest IoU that is not an overlap.
        threshold: f32,
        /// Pairs with a larger BEV centre distance (metres) are not compared; with 0, only boxes at the same centre.
        search_distance: f32,
    },
}

/// Which boxes suppress others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Suppressors {
    /// The kept ones: greedy, as in mmdetection3d.
    #[default]
    Kept,
    /// All, also those that are suppressed themselves, as in Autoware's IoU step.
    All,
}

/// One suppression step.
#[derive(Clone, Debug, PartialEq)]
pub struct NmsStep {
    /// The definition of an overlap.
    pub kind: NmsKind,
    /// Which better boxes suppress a box that overlaps them.
    pub suppressors: Suppressors,
    /// Group of each class; boxes only suppress others of their group.
    pub group: Vec<usize>,
    /// Most boxes kept per group.
    pub max_boxes: usize,
}

/// Changes a box's class by its BEV area (Autoware's `detection_class_remapper`).
#[derive(Clone, Debug, PartialEq)]
pub struct Remap {
    /// Class predicted by the network.
    pub from: usize,
    /// New class of the box.
    pub to: usize,
    /// Minimum length × width in m² (inclusive).
    pub min_area: f32,
    /// Maximum length × width in m² (inclusive).
    pub max_area: f32,
}

impl Model {
    /// Reads and checks a `model.toml`.
    ///
    /// # Errors
    /// [`ModelError`] with the file and the invalid key.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        Self::parse(&file::read_text(path)?, path)
    }

    /// Parses and checks the text of a model description; errors refer to it as `path`.
    ///
    /// # Errors
    /// [`ModelError`] with the invalid key.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ModelError> {
        check::resolve(file::parse(text, path)?).map_err(|problem| problem.in_file(path))
    }

    /// How clouds are moved into the model's frame of reference; `None` if they are in it.
    pub(crate) fn mounting(&self) -> Option<Mounting> {
        let points = &self.points;
        let model_ground = points.model_ground.unwrap_or(0.0);
        Mounting::new(points.extrinsic, points.ground, model_ground)
    }

    /// Columns of the PFN's input.
    pub fn pfn_in_features(&self) -> usize {
        self.points.columns.len() + if self.pfn.mean_offset { 3 } else { 0 } + self.pfn.center_axes
    }

    /// Output width of each PFN layer's Linear: half the layer's width, except for the last layer.
    pub fn pfn_linear_widths(&self) -> impl Iterator<Item = usize> + '_ {
        let last = self.pfn.layers.len().saturating_sub(1);
        self.pfn
            .layers
            .iter()
            .enumerate()
            .map(move |(i, w)| if i == last { *w } else { w / 2 })
    }

    /// Channels C of the BEV map.
    pub fn bev_channels(&self) -> usize {
        self.pfn.layers.last().copied().unwrap_or(0)
    }

    /// Rows and columns of the head's maps.
    pub fn head_size(&self) -> (usize, usize) {
        (
            self.grid.ny / self.head.downsample,
            self.grid.nx / self.head.downsample,
        )
    }

    /// Channels of the head maps of `task`.
    pub fn head_channels(&self, task: &Task) -> HeadMaps<usize> {
        let factor = if self.head.variance { 2 } else { 1 };
        HeadMaps {
            heatmap: task.classes.len(),
            ..HEAD_VALUES.map(|values| values * factor)
        }
    }

    /// Most boxes in a frame.
    pub fn max_boxes(&self) -> usize {
        self.decode.max_candidates * self.head.tasks.len()
    }
}

impl Grid {
    /// Centre of the pillar in column `x`, row `y`; z is the middle of the range.
    pub fn center(&self, x: usize, y: usize) -> [f32; 3] {
        let along = |axis: usize, index: usize| {
            self.voxel[axis] / 2.0 + index as f32 * self.voxel[axis] + self.min[axis]
        };
        [along(0, x), along(1, y), along(2, 0)]
    }

    /// Number of cells.
    pub fn cells(&self) -> usize {
        self.nx * self.ny
    }
}

/// A model description is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The file could not be read.
    #[error("{path}: cannot read this description or parameter file")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file exceeds the size limit.
    #[error("{path}: {bytes} bytes exceed the limit of such a file ({limit})")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Not TOML (or YAML), or a key is unknown, missing, or of the wrong type.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's message, with line, column and key.
        message: String,
    },
    /// A value is invalid or contradicts another.
    #[error("{path}: key `{key}`: {problem}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, dotted, such as `grid.voxel_size`.
        key: String,
        /// The problem: the value found, the values expected, and why.
        problem: String,
    },
}
