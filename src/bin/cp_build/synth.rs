//! `cp-build synth`: writes synthetic lidar frames with labels.

use std::path::PathBuf;
use std::thread;

use centerpoint::synth::{Config, Dataset, Scanner, write_dataset};
use indicatif::{ProgressBar, ProgressStyle};

/// Arguments of `cp-build synth`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of frames.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    frames: u64,
    /// Seed; the same seed produces the same frames.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Index of the first frame.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
    first: u64,
    /// Folder for the frames, labels.json and manifest.json.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace the frames in a non-empty folder.
    #[arg(long)]
    force: bool,
    /// Threads [default: all].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Sweeps per frame, 0.1 s apart, motion-compensated.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10))]
    sweeps: u32,
    /// Beams of the scanner.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=256))]
    beams: u32,
}

/// Runs `cp-build synth`.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let threads = match args.threads {
        Some(threads) => usize::from(threads),
        None => thread::available_parallelism().map_or(1, |count| count.get()),
    };
    let dataset = Dataset {
        seed: args.seed,
        first: args.first,
        frames: args.frames,
        config: Config {
            scanner: Scanner {
                beams: args.beams,
                ..Scanner::default()
            },
            sweeps: args.sweeps,
            ..Config::default()
        },
        out: args.out,
        force: args.force,
        threads,
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} frames, {per_sec}, {eta} left")?;
    let bar = ProgressBar::new(dataset.frames).with_style(style);
    let written = write_dataset(&dataset, &|| bar.inc(1))?;
    bar.finish_and_clear();
    println!(
        "{}: {} frames, {:.0} points and {:.1} labels each",
        dataset.out.display(),
        dataset.frames,
        written.points as f64 / dataset.frames as f64,
        written.labels as f64 / dataset.frames as f64,
    );
    Ok(())
}
