//! Calibration: one float pass over real frames yields the range (amax) of each tensor.
//!
//! ```text
//! frames ─ pass ─ TensorStats by tensor ─ amax(method) ─ amax by tensor
//!                      │
//!                 *.calib.json, which makes the next run instant
//! ```
//! [`Histogram`] counts absolute values and [`AmaxMethod`] picks a range from it, both as in
//! pytorch-quantization. A [`Calibration`] contains everything that any method or recipe needs, so one pass
//! serves them all.

mod amax;
mod cache;
mod error;
mod histogram;
mod occupancy;
mod pass;
pub(crate) mod raw;
mod stats;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) use amax::scale_of;
pub(crate) use amax::{Amax, MAX_CODE};
pub use amax::{AmaxMethod, ZERO_AMAX, scale};
pub(crate) use cache::{CalibrationKey, frames_hash};
pub use error::CalibrationError;
pub(crate) use histogram::{BINS, MAX_BINS};
pub use histogram::{Histogram, RangeError};
pub(crate) use occupancy::Occupancy;
pub(crate) use stats::TensorStats;

use super::onnx::Graph;
use crate::build::Result;
use crate::model::Model;
use crate::model::Pfn;
use crate::points::Layout;

/// Calibration options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Initial number of bins of each histogram, [`MIN_BINS`] to [`MAX_BINS`].
    pub bins: usize,
    /// Columns of frames whose file does not name them; `None` uses the model's columns.
    pub layout: Option<Layout>,
    /// CPU threads; 0 is one per core. The result does not depend on this.
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

/// The values that a range is picked from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Only those of cells below a pillar.
    pub(crate) occupied: bool,
    /// Only those that are not 0.
    pub(crate) skip_zeros: bool,
}

/// Statistics of a float network's tensors over a set of frames.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Hashes of the inputs.
    pub key: CalibrationKey,
    /// Statistics by ONNX value name, including the network's input.
    pub tensors: BTreeMap<String, TensorStats>,
}

/// Runs the float network on all `frames` in one pass and collects its statistics. `graph` must have the input
/// and the outputs that `model` describes; `pfn` computes the input. Calls `progress` after each frame with the
/// number of completed frames.
///
/// Runs several frames in parallel if their feature maps fit a fixed amount of memory. Neither this nor the
/// number of threads affects the result.
///
/// # Errors
/// [`CalibrationError`] if there are no frames, a frame lacks a column, or a value is not finite.
/// [`crate::points::FrameError`] for an unreadable frame, [`crate::build::BuildError`] for a network that cannot
/// be run.
pub(crate) fn calibrate(
    model: &Model,
    pfn: &Pfn,
    graph: &Graph,
    frames: &[PathBuf],
    options: &Options,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Calibration> {
    let key = CalibrationKey::new(model, pfn, graph, frames, options)?;
    let tensors = pass::run(model, pfn, graph, frames, options, progress)?;
    Ok(Calibration { key, tensors })
}

/// Reads the calibration from the file `cache` if it exists. Otherwise runs [`calibrate`] and writes the file.
///
/// # Errors
/// Those of [`calibrate`] and [`Calibration::read`]; [`CalibrationError::Stale`] if the file was made from
/// another model, from other frames or with other options.
pub(crate) fn load_or_run(
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
        let key = CalibrationKey::new(model, pfn, graph, frames, options)?;
        calibration.check(&key, cache)?;
        return Ok(calibration);
    }
    let calibration = calibrate(model, pfn, graph, frames, options, progress)?;
    calibration.write(cache)?;
    Ok(calibration)
}

impl Calibration {
    /// The range of a tensor over the chosen values. Uses all cells for a tensor without occupied ones.
    ///
    /// # Errors
    /// [`CalibrationError::NoTensor`], [`CalibrationError::Tensor`] with the reason.
    pub(crate) fn amax(
        &self,
        tensor: &str,
        method: AmaxMethod,
        values: Counted,
    ) -> Result<Amax, CalibrationError> {
        let Some(stats) = self.tensors.get(tensor) else {
            return Err(CalibrationError::NoTensor {
                tensor: tensor.into(),
                tensors: self.tensors.len(),
            });
        };
        let histogram = if values.occupied && stats.occupied.total() > 0 {
            &stats.occupied
        } else {
            &stats.all
        };
        let amax = if values.skip_zeros {
            histogram.without_zeros().amax(method)
        } else {
            histogram.amax(method)
        };
        amax.map_err(|source| CalibrationError::Tensor {
            tensor: tensor.into(),
            source,
        })
    }

    /// Share of a tensor's values beyond `amax`, 0 to 1; `None` for an unknown tensor.
    pub fn saturated(&self, tensor: &str, amax: f32) -> Option<f64> {
        let stats = self.tensors.get(tensor)?;
        Some(stats.all.share_beyond(amax))
    }
}

#[cfg(test)]
mod tests;
