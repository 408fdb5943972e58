//! `cp-infer`: runs a plan on frames and prints or draws the boxes.
//!
//! A bad frame is reported, and the others are still processed.

mod args;
mod sink;

use crate::chain::Chain;
use crate::cli::input::{Input, InputFrame};
use crate::cli::interrupt::{self, First};
use crate::cli::{self, GpuEngineArg, exit};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use crate::Error;
use crate::bench::Profile;
use crate::detector::{Detector, Options};
use crate::results::FrameResult;
use args::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sink::Sink;

/// Runs `cp-infer`.
pub fn main() -> ExitCode {
    cli::init_log(cli::LOG);
    interrupt::handle("cp-infer", First::Exit);
    match run(&Args::checked()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(bad_frames) => {
            eprintln!("cp-infer: {bad_frames} frames could not be processed");
            ExitCode::from(exit::INPUT)
        }
        Err(error) => exit::finish("cp-infer", Err(error)),
    }
}

/// Runs all frames, and returns the number of failed ones.
fn run(args: &Args) -> Result<usize, Error> {
    args.input.check()?;
    let options = args.input.apply(Options {
        threads: args.threads,
        device: args.device.into(),
        fp16: args.gpu_engine == GpuEngineArg::Cuda,
        score: args.score,
        tensorrt: args.library.clone(),
        stage_times: args.times,
        ..Options::default()
    });
    let mut detector = Detector::load(&args.engine, &options)?;
    let mut input = Input::open(&args.input, detector.model())?;
    let outputs = args.out.iter().chain(&args.bev).map(PathBuf::as_path);
    let frames = input.paths().iter().map(PathBuf::as_path);
    let inputs = args
        .input
        .paths()
        .filter(|path| !path.is_dir())
        .chain(frames);
    cli::check_outputs(outputs, inputs.chain([&*args.engine]))?;
    let mut sink = Sink::open(args, &detector, &input)?;
    let progress = progress_bar(input.count());
    let (mut failed, mut unchecked) = (0, true);
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
        let first = std::mem::take(&mut unchecked);
        let done = read.and_then(|read| {
            if first || args.input.strict {
                args.input.check_frame(detector.model(), &read)?;
            }
            frame(args, &read, read_ms, &mut detector, &mut sink)
        });
        match done {
            Ok(()) if args.profile => profile.add(&detector.profile()?),
            Ok(()) => {}
            Err(error) if exit::code(&error) == exit::INPUT => {
                failed += 1;
                // Add the frame's name, which the error does not know.
                let name = match error {
                    Error::Frame(ref error) if !error.names_file() => name + ": ",
                    _ => String::new(),
                };
                progress.suspend(|| eprintln!("cp-infer: {name}{}", Chain(&error)));
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
        ground: detection.ground,
        boxes: detection.boxes,
        variances: detection.variances,
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
