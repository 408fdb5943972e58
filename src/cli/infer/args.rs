//! The command line of `cp-infer`: raw arguments and their validation.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};

use crate::cli::input::InputArgs;
use crate::cli::{self, DeviceArg, GpuEngineArg};

/// Detects objects in lidar frames: points in, 3D boxes out.
///
/// Exit status: 0 all frames processed; 1 a result could not be written; 2 invalid usage; 3 at least one frame
/// could not be read (the others are processed); 4 the plan is unusable; 5 the device is not available.
#[derive(Parser)]
#[command(name = "cp-infer", version)]
pub(crate) struct Args {
    /// The plan to run, made by `cp-build compile`.
    #[arg(long, alias = "plan", value_name = "PLAN")]
    pub(crate) engine: PathBuf,

    #[command(flatten)]
    pub(crate) input: InputArgs,

    /// Format of the results [default: mcap if --out ends in .mcap, else table].
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// Output file; for `kitti` a folder with one file per frame [default: standard output].
    #[arg(long, value_name = "PATH")]
    pub(crate) out: Option<PathBuf>,

    /// Draw the frame seen from above; for several frames or a bag, a folder with one picture per frame.
    #[arg(long, value_name = "FILE.png")]
    pub(crate) bev: Option<PathBuf>,

    /// The device to run on.
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    pub(crate) device: DeviceArg,

    /// What runs the network of a plan for the CPU on a GPU.
    #[arg(long, value_enum, default_value_t = GpuEngineArg::Auto)]
    pub(crate) gpu_engine: GpuEngineArg,

    /// TensorRT's library or its folder [default: the environment variable CENTERPOINT_TENSORRT, else the
    /// system's library].
    #[arg(long, value_name = "PATH")]
    pub(crate) library: Option<PathBuf>,

    /// Minimum score of all boxes, instead of the plan's thresholds.
    #[arg(long, value_name = "0..1", allow_negative_numbers = true, value_parser = cli::score)]
    pub(crate) score: Option<f32>,

    /// Report the time of each stage.
    #[arg(long)]
    pub(crate) times: bool,

    /// After each frame, run the network again layer by layer; print the layers' times to standard error at the
    /// end.
    #[arg(long)]
    pub(crate) profile: bool,

    /// CPU threads; 0 is one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
}

/// Format of the results.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A readable table.
    Table,
    /// One JSON object per line and frame.
    Json,
    /// KITTI's 16 columns.
    Kitti,
    /// One nuScenes result file for all frames.
    Nuscenes,
    /// Points and boxes for Foxglove, Lichtblick and rerun; needs --out.
    Mcap,
}

impl Args {
    /// Parses the command line and checks combinations of arguments. Exits if it is invalid.
    pub(crate) fn checked() -> Self {
        let args: Self = cli::parse(std::env::args_os());
        let mcap = args.format() == Format::Mcap;
        let exit = |message: &str| -> ! {
            let mut command = Self::command();
            command.error(ErrorKind::ArgumentConflict, message).exit()
        };
        if cfg!(not(feature = "mcap")) && mcap {
            exit(cli::NO_MCAP);
        }
        if mcap && args.out.is_none() {
            exit("`--format mcap` needs `--out FILE.mcap`");
        }
        args
    }

    /// Format of the results.
    pub(crate) fn format(&self) -> Format {
        let ending = self.out.as_deref().and_then(Path::extension);
        match self.format {
            Some(format) => format,
            None if ending.is_some_and(|ending| ending.eq_ignore_ascii_case("mcap")) => {
                Format::Mcap
            }
            None => Format::Table,
        }
    }
}
