//! The command line of `cp-ros2`: raw arguments, and their check.

use std::path::PathBuf;

use clap::Parser;

use crate::common::{self, DeviceArg};

/// A ROS 2 node that detects objects in point clouds; needs no installation of ROS.
///
/// Subscribes `~/input/pointcloud` (sensor_msgs/PointCloud2), /tf and /tf_static. Publishes `~/output/detections`
/// (vision_msgs/Detection3DArray), `~/output/objects` (autoware_perception_msgs/DetectedObjects, with
/// `-p output:=autoware`), `~/output/markers` (visualization_msgs/MarkerArray), /diagnostics, and
/// `~/debug/{processing_time,cyclic_time,pipeline_latency}_ms`.
///
/// Ends on SIGINT or SIGTERM. Exit status: 0 ended as asked; 1 ROS 2 failed; 2 wrong usage, or a parameter that is
/// wrong or contradicts the plan; 4 the plan cannot be used; 5 the device is not available.
#[derive(Parser)]
#[command(
    name = "cp-ros2",
    version,
    override_usage = "cp-ros2 --engine <PLAN> [OPTIONS] [--ros-args -r from:=to -p name:=value --params-file FILE]"
)]
pub(crate) struct Args {
    /// The plan to run, made by `cp-build compile`.
    #[arg(long, value_name = "PLAN")]
    pub(crate) engine: PathBuf,

    /// Where to run.
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    pub(crate) device: DeviceArg,

    /// TensorRT's library, or the folder that holds it [default: CENTERPOINT_TENSORRT in the environment, else
    /// the one that the system finds].
    #[arg(long, value_name = "PATH")]
    pub(crate) library: Option<PathBuf>,

    /// Factor from the clouds' intensity to the model's scale, instead of the plan's.
    #[arg(long, value_name = "FACTOR", value_parser = common::positive)]
    pub(crate) intensity_scale: Option<f32>,

    /// CPU threads; 0 is one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
}
