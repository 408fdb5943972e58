//! `cp-ros2`: a ROS 2 node that detects objects in point clouds.

mod args;
#[path = "../common/mod.rs"]
mod common;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use args::Args;
use centerpoint::detector::Options;
use centerpoint::ros::node::{self, Config, NodeError};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Exit status by the kind of error; see [`Args`].
fn status(error: &NodeError) -> u8 {
    match error {
        NodeError::Name(_) | NodeError::Parameter(_) => 2,
        NodeError::Detector(error) => common::status(error),
        _ => 1,
    }
}

fn main() -> ExitCode {
    let (own, ros) = match node::args::split(std::env::args_os()) {
        Ok(parts) => parts,
        Err(error) => return fail(&error, 2),
    };
    let args: Args = common::parse(own);
    let domain = match std::env::var("ROS_DOMAIN_ID") {
        Err(_) => 0,
        Ok(text) if text.is_empty() => 0,
        Ok(text) => match text.parse() {
            Ok(domain @ 0..=232) => domain,
            _ => return fail(&format!("ROS_DOMAIN_ID is \"{text}\", not 0 to 232"), 2),
        },
    };
    let level = match ros.log_level.as_deref() {
        Some("fatal") => "error",
        Some(level) => level,
        None => "info",
    };
    // The middleware tells of its inner life at info, and as errors what is none.
    let filter = format!("{level},ros2_client=error,rustdds=error");
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter)).init();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            return fail(&format!("cannot listen to signals: {error}"), 1);
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
        Err(error) => fail(&error, status(&error)),
    }
}

fn fail(error: &dyn std::fmt::Display, status: u8) -> ExitCode {
    eprintln!("cp-ros2: {error}");
    ExitCode::from(status)
}
