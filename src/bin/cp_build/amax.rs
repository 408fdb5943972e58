//! `cp-build amax`.

use std::path::PathBuf;

use centerpoint::build::calibrate::{self, BINS, CalibrationError};

/// Arguments of `cp-build amax`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Raw tensor: little-endian f32
    #[arg(value_name = "FILE.f32")]
    file: PathBuf,
    /// Values of each batch, in order, which sum up to the file [default: one batch]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    batches: Vec<u64>,
    /// How the range is picked
    #[arg(long, value_enum, default_value_t)]
    method: Method,
    /// Share of the values that --method percentile keeps, in percent
    #[arg(long, value_name = "0..100", default_value_t = 99.99)]
    percentile: f64,
    /// Bins that the first batch's range is cut into
    #[arg(long, value_name = "N", default_value_t = BINS)]
    bins: usize,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Method {
    /// The least mean squared error
    #[default]
    Mse,
    /// The least Kullback–Leibler divergence
    Entropy,
    /// The greatest absolute value
    Max,
    /// A share of the values
    Percentile,
}

/// What is printed.
#[derive(serde::Serialize)]
struct Output {
    amax: f32,
    bins: usize,
    range: f32,
    method: String,
}

/// Runs `cp-build amax`.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let method = match args.method {
        Method::Mse => calibrate::Method::Mse,
        Method::Entropy => calibrate::Method::Entropy,
        Method::Max => calibrate::Method::Max,
        Method::Percentile => calibrate::Method::Percentile(args.percentile),
    };
    let histogram = calibrate::raw::read(&args.file, &args.batches, args.bins)?;
    let found = histogram.amax(method);
    let found = found.map_err(|source| CalibrationError::Range {
        path: args.file,
        source,
    })?;
    let output = Output {
        amax: found.amax,
        bins: histogram.bins().len(),
        range: histogram.range(),
        method: method.to_string(),
    };
    crate::print(&(serde_json::to_string(&output)? + "\n"))
}
