//! `cp-build amax`: the calibrated range of a raw tensor, to compare with other tools.

use std::path::{Path, PathBuf};

use crate::build::calibrate::{self, AmaxMethod, BINS, CalibrationError};
use crate::files::FileError;

/// Arguments of `cp-build amax`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Raw tensor: little-endian f32
    #[arg(value_name = "FILE.f32")]
    file: PathBuf,
    /// Number of values in each batch, in order; must add up to the file [default: one batch]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    batches: Vec<u64>,
    /// How to pick the range
    #[arg(long, value_enum, default_value_t)]
    method: MethodArg,
    /// Share of the values to keep with --method percentile, in percent
    #[arg(long, value_name = "0..100", default_value_t = 99.99)]
    percentile: f64,
    /// Number of bins for the range of the first batch
    #[arg(long, value_name = "N", default_value_t = BINS)]
    bins: usize,
    /// Leave out values that are 0, as pytorch-quantization's option of that name
    #[arg(long)]
    skip_zeros: bool,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum MethodArg {
    /// Least mean squared error
    #[default]
    Mse,
    /// Least Kullback–Leibler divergence
    Entropy,
    /// Greatest absolute value
    Max,
    /// A share of the values
    Percentile,
}

/// The printed JSON object.
#[derive(serde::Serialize)]
struct Output {
    amax: f32,
    bins: usize,
    range: f32,
    method: String,
}

/// Runs `cp-build amax`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    let method = match args.method {
        MethodArg::Mse => AmaxMethod::Mse,
        MethodArg::Entropy => AmaxMethod::Entropy,
        MethodArg::Max => AmaxMethod::Max,
        MethodArg::Percentile => AmaxMethod::Percentile(args.percentile),
    };
    let mut histogram = calibrate::raw::read(&args.file, &args.batches, args.bins)?;
    if args.skip_zeros {
        histogram = histogram.without_zeros();
    }
    let amax = histogram.amax(method);
    let amax = amax.map_err(|source| CalibrationError::Range {
        path: args.file,
        source,
    })?;
    let output = Output {
        amax: amax.amax,
        bins: histogram.bins().len(),
        range: histogram.range(),
        method: method.to_string(),
    };
    let output = serde_json::to_string(&output);
    let output =
        output.map_err(|e| FileError::new(Path::new("standard output"), "write")(e.into()))?;
    super::print(&(output + "\n"))
}
