//! `cp-infer`: runs a plan on frames and prints or draws the boxes.
//!
//! A bad frame is reported, and the others are still processed.

mod args;
#[path = "../common/mod.rs"]
mod common;
mod input;
mod sink;

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Instant;

use args::Args;
use centerpoint::Error;
use centerpoint::bench::Profile;
use centerpoint::detector::{Detector, Options};
use centerpoint::points::FrameError;
use centerpoint::results::FrameResult;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use input::{Input, InputFrame};
use sink::Sink;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match run(&Args::checked()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(bad_frames) => {
            eprintln!("cp-infer: {bad_frames} frames could not be processed");
            ExitCode::from(3)
        }
        // The reader of the results has gone away, like `head`.
        Err(Error::File(error)) if error.source.kind() == ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cp-infer: {error}");
            ExitCode::from(common::status(&error))
        }
    }
}

/// Runs all frames, and returns the number of failed ones.
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
    let mut input = Input::open(args, detector.model())?;
    let mut sink = Sink::open(args, &detector, &input)?;
    let progress = progress_bar(input.count());
    let mut failed = 0;
    let mut profile = Profile::default();
    loop {
        let start = Instant::now();
        let Some(read) = input.next_frame() else {
            break;
        };
        let read_ms = start.elapsed().as_secs_f64() * 1e3;
        let name = match &read {
            Ok(read) => read.name.clone(),
            Err(_) => String::new(),
        };
        match read.and_then(|read| frame(args, &read, read_ms, &mut detector, &mut sink)) {
            Ok(()) if args.profile => profile.add(&detector.profile()?),
            Ok(()) => {}
            Err(error) if common::status(&error) == 3 => {
                failed += 1;
                // Add the frame's name, which the error does not know.
                let name = match error {
                    Error::Frame(FrameError::MissingColumn { .. }) => name + ": ",
                    _ => String::new(),
                };
                progress.suspend(|| eprintln!("cp-infer: {name}{error}"));
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

/// Runs one frame, from its points to the sink.
fn frame(
    args: &Args,
    frame: &InputFrame<'_>,
    read_ms: f64,
    detector: &mut Detector,
    sink: &mut Sink,
) -> Result<(), Error> {
    let detection = detector.detect(frame.cloud)?;
    let mut times = detection.times;
    times.read = read_ms;
    times.total += read_ms;
    let mut dropped = detection.dropped;
    dropped.sweep_points += frame.over_capacity;
    let result = FrameResult {
        frame: &frame.name,
        points: frame.cloud.len(),
        dropped,
        boxes: detection.boxes,
        times: args.times.then_some(times),
    };
    sink.write(frame, &result)
}

/// A progress bar; hidden for a single frame, and if standard error is not a terminal.
fn progress_bar(frames: u64) -> ProgressBar {
    if frames < 2 {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new(frames);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} frames, {eta} left") {
        bar.set_style(style);
    }
    bar
}
