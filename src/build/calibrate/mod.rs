//! Calibration: one float pass over real frames, and the ranges (amax) that it gives.
//!
//! ```text
//! frames ─ pass ─ TensorStats by tensor ─ amax(method) ─ amax by tensor
//!                      │
//!                 *.calib.json, which makes the next run instant
//! ```
//! [`Histogram`] counts absolute values, [`Method`] picks a range from it, both as
//! pytorch-quantization does. A [`Calibration`] has all that any method or recipe needs, so that one
//! pass serves them all.

mod amax;
mod cache;
mod error;
mod histogram;
mod occupancy;
mod pass;
pub mod raw;
mod stats;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use amax::{Amax, MAX_CODE, Method, ZERO_AMAX, scale};
pub use cache::Key;
pub use error::CalibrationError;
pub use histogram::{BINS, Histogram, MAX_BINS, MIN_BINS, RangeError};
pub(crate) use occupancy::Occupancy;
pub use stats::TensorStats;

pub use crate::map::quantize;

use super::onnx::Graph;
use crate::error::Result;
use crate::model::Model;
use crate::model::Pfn;
use crate::points::Layout;

/// How to calibrate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Bins that a tensor's first range is cut into, [`MIN_BINS`] to [`MAX_BINS`].
    pub bins: usize,
    /// Columns of frames whose file does not name them; `None`: the model's.
    pub layout: Option<Layout>,
    /// CPU threads; 0 is one per core. The result does not depend on them.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bins: BINS,
            layout: None,
            threads: 0,
        }
    }
}

/// What a float network's tensors looked like on some frames.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// What it was made from.
    pub key: Key,
    /// Each tensor by its ONNX value name, the network's input included.
    pub tensors: BTreeMap<String, TensorStats>,
}

/// Runs the float network on all of `frames`, in one pass that collects everything. `graph` has the
/// one input and the outputs that `model` describes, `pfn` makes the input. `progress` is called after
/// each frame with the number of those that are done.
///
/// Several frames are run at a time as long as their feature maps take little memory. The result
/// depends neither on that nor on the number of threads.
///
/// # Errors
/// [`CalibrationError`]: no frames, a frame that lacks a column, a value that is not finite, each with
/// its frame. [`crate::points::FrameError`] for a frame that cannot be read,
/// [`crate::build::BuildError`] for a network that cannot be run.
pub fn calibrate(
    model: &Model,
    pfn: &Pfn,
    graph: &Graph,
    frames: &[PathBuf],
    options: &Options,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Calibration> {
    let key = Key::of(model, pfn, graph, frames, options)?;
    let tensors = pass::run(model, pfn, graph, frames, options, progress)?;
    Ok(Calibration { key, tensors })
}

/// Reads the calibration in the file `cache` if it is there, or else makes it as [`calibrate`] does and
/// writes it there.
///
/// # Errors
/// As [`calibrate`] and [`Calibration::read`]; [`CalibrationError::Stale`] if the file was made from
/// another model, from other frames or with other options.
pub fn load_or_run(
    cache: &Path,
    model: &Model,
    pfn: &Pfn,
    graph: &Graph,
    frames: &[PathBuf],
    options: &Options,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Calibration> {
    if cache.exists() {
        let calibration = Calibration::read(cache)?;
        let key = Key::of(model, pfn, graph, frames, options)?;
        calibration.check(&key, cache)?;
        return Ok(calibration);
    }
    let calibration = calibrate(model, pfn, graph, frames, options, progress)?;
    calibration.write(cache)?;
    Ok(calibration)
}

impl Calibration {
    /// The range of a tensor, over all cells or over the occupied ones. A tensor without occupied
    /// cells has its range over all.
    ///
    /// # Errors
    /// [`CalibrationError::NoTensor`], [`CalibrationError::Tensor`] with the reason.
    pub fn amax(
        &self,
        tensor: &str,
        method: Method,
        occupied: bool,
    ) -> Result<Amax, CalibrationError> {
        let Some(stats) = self.tensors.get(tensor) else {
            return Err(CalibrationError::NoTensor {
                tensor: tensor.into(),
                tensors: self.tensors.len(),
            });
        };
        let histogram = match occupied && stats.occupied.total() > 0 {
            true => &stats.occupied,
            false => &stats.all,
        };
        let amax = histogram.amax(method);
        amax.map_err(|source| CalibrationError::Tensor {
            tensor: tensor.into(),
            source,
        })
    }

    /// Share of a tensor's values, 0 to 1, that are beyond `amax`; `None` for a tensor that the
    /// calibration does not know.
    pub fn saturated(&self, tensor: &str, amax: f32) -> Option<f64> {
        let stats = self.tensors.get(tensor)?;
        Some(stats.all.share_beyond(amax))
    }
}
