//! `cp-ros2`: a ROS 2 node that detects objects in point clouds. Uses ros2-client, so it needs no ROS installation.

mod boxes;
mod counts;
mod diagnostics;
mod mailbox;
mod messages;
mod names;
mod node;
mod parameters;
mod publishers;
mod reception;
mod ros_args;
mod settings;
mod throttle;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use centerpoint::Options;
use centerpoint::internals::chain::Chain;
use centerpoint::internals::cli::{self, DeviceArg};
use clap::Parser;
use node::{Config, NodeError};
use signal_hook::consts::{SIGINT, SIGTERM};

/// A ROS 2 node that detects objects in point clouds; needs no installation of ROS.
///
/// Subscribes to `~/input/pointcloud` (sensor_msgs/PointCloud2), /tf and /tf_static. Publishes `~/output/detections`
/// (vision_msgs/Detection3DArray), `~/output/objects` (autoware_perception_msgs/DetectedObjects, with
/// `-p output:=autoware`), `~/output/markers` (visualization_msgs/MarkerArray), /diagnostics, and
/// `~/debug/{processing_time,cyclic_time,pipeline_latency}_ms`.
///
/// Ends on SIGINT or SIGTERM. Exit status: 0 success; 1 ROS 2 failed; 2 wrong usage, or a parameter that is invalid or
/// contradicts the plan; 4 the plan cannot be used; 5 the device is not available.
#[derive(Parser)]
#[command(
    name = "cp-ros2",
    version,
    override_usage = "cp-ros2 --engine <PLAN> [OPTIONS] [--ros-args -r from:=to -p name:=value --params-file FILE]"
)]
struct Args {
    /// Plan to run, made by `cp-build compile`.
    #[arg(long, value_name = "PLAN")]
    engine: PathBuf,

    /// Where to run.
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    device: DeviceArg,

    /// TensorRT's library, or its folder [default: CENTERPOINT_TENSORRT in the environment, else the system's].
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,

    /// Factor from the clouds' intensity to the model's scale, instead of the plan's.
    #[arg(long, value_name = "FACTOR", value_parser = cli::positive)]
    intensity_scale: Option<f32>,

    /// CPU threads; 0 is one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

/// The exit status for an error; see [`Args`].
fn status(error: &NodeError) -> u8 {
    match error {
        NodeError::Name(_) | NodeError::Parameter(_) => 2,
        NodeError::Detector(error) => cli::exit::code(error),
        _ => 1,
    }
}

fn main() -> ExitCode {
    let (own, ros) = match ros_args::split(std::env::args_os()) {
        Ok(parts) => parts,
        Err(error) => return fail(&error, 2),
    };
    let args: Args = cli::parse(own);
    let domain = match std::env::var("ROS_DOMAIN_ID") {
        Err(_) => 0,
        Ok(text) if text.is_empty() => 0,
        Ok(text) => match text.parse() {
            Ok(domain @ 0..=232) => domain,
            _ => {
                return fail(
                    &format!("ROS_DOMAIN_ID is \"{text}\"; expected 0 to 232"),
                    2,
                );
            }
        },
    };
    let level = match ros.log_level.as_deref() {
        Some("fatal") => "error",
        Some(level) => level,
        None => "info",
    };
    // The middleware logs its internals at info, and harmless events as warnings.
    let filter = format!("{level},ros2_client=error,rustdds=error");
    cli::init_log(&filter);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            return fail(&format!("cannot handle signals: {error}"), 1);
        }
    }
    let config = Config {
        engine: args.engine,
        options: Options {
            threads: args.threads,
            device: args.device.into(),
            intensity_scale: args.intensity_scale,
            tensorrt: args.library,
            ..Options::default()
        },
        ros,
        domain,
    };
    match node::run(&config, &stop) {
        Ok(counts) => {
            eprintln!("cp-ros2: {counts}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&Chain(&error), status(&error)),
    }
}

fn fail(error: &dyn std::fmt::Display, status: u8) -> ExitCode {
    eprintln!("cp-ros2: {error}");
    ExitCode::from(status)
}
