//! `cp-infer`: runs a plan on frames and prints or draws the boxes.
//!
//! One bad frame among many is reported and the rest go on.

mod args;
#[path = "../common/mod.rs"]
mod common;
mod sink;

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use args::Args;
use centerpoint::bench::Profile;
use centerpoint::detector::{Detector, Options};
use centerpoint::output::FrameResult;
use centerpoint::points::{self, FrameError, ReadOptions};
use centerpoint::{Error, PointCloud};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sink::Sink;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match run(&common::parse::<Args>()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(bad_frames) => {
            eprintln!("cp-infer: {bad_frames} frames could not be processed");
            ExitCode::from(3)
        }
        // Whoever read the results has gone away, as `head` does.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cp-infer: {error}");
            ExitCode::from(common::status(&error))
        }
    }
}

/// Runs all frames; gives the number of those that failed.
fn run(args: &Args) -> Result<usize, Error> {
    let options = Options {
        threads: args.threads,
        device: args.device.into(),
        score: args.score,
        intensity_scale: args.intensity_scale,
        tensorrt: args.library.clone(),
        ..Options::default()
    };
    let mut detector = Detector::load(&args.engine, &options)?;
    let frames = match &args.sweeps {
        Some(list) => vec![list.clone()],
        None => points::list_frames(&args.pcd)?,
    };
    let mut sink = Sink::open(args, &detector, &frames)?;
    let progress = progress_bar(frames.len());
    let mut failed = 0;
    let mut profile = Profile::default();
    for path in &frames {
        match frame(args, path, &mut detector, &mut sink) {
            Ok(()) if args.profile => profile.add(&detector.profile()?),
            Ok(()) => {}
            Err(Error::Frame(error)) => {
                failed += 1;
                // Only here are both known, what the model needs and which file lacks it.
                let file = match error {
                    FrameError::MissingColumn { .. } => format!("{}: ", path.display()),
                    _ => String::new(),
                };
                progress.suspend(|| eprintln!("cp-infer: {file}{error}"));
            }
            Err(error) => return Err(error),
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    sink.close()?;
    if args.profile {
        eprint!("{profile}");
    }
    Ok(failed)
}

/// One frame from its file to the sink.
fn frame(args: &Args, path: &Path, detector: &mut Detector, sink: &mut Sink) -> Result<(), Error> {
    let start = Instant::now();
    let (cloud, sweep_points) = read(args, path, detector)?;
    let read_ms = start.elapsed().as_secs_f64() * 1e3;
    let detection = detector.detect(&cloud)?;
    let mut times = detection.times;
    times.read = read_ms;
    times.total += read_ms;
    let mut dropped = detection.dropped;
    dropped.sweep_points += sweep_points;
    let result = FrameResult {
        frame: &path.display().to_string(),
        points: cloud.len(),
        dropped,
        boxes: detection.boxes,
        times: args.times.then_some(times),
    };
    sink.write(path, &cloud, &result)
}

/// Reads a frame, or the sweeps that make one; also the number of points past the capacity.
fn read(args: &Args, path: &Path, detector: &Detector) -> Result<(PointCloud, u64), Error> {
    let model = detector.model();
    let default_layout = points::Layout::new(&model.points.columns).map_err(FrameError::from)?;
    let options = ReadOptions {
        layout: args.layout,
        default_layout,
    };
    if args.sweeps.is_none() {
        return Ok((points::read(path, &options)?, 0));
    }
    let (cloud, sweeps) = points::read_sweeps(path, &options, model.points.capacity)?;
    Ok((cloud, sweeps.points_over_capacity as u64))
}

/// A bar for many frames; hidden for one, and where standard error is no terminal.
fn progress_bar(frames: usize) -> ProgressBar {
    if frames < 2 {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new(frames as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} frames, {eta} left") {
        bar.set_style(style);
    }
    bar
}
