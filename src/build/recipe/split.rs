//! Splits the frames into those to calibrate on and those to measure on.

use std::path::PathBuf;

use crate::build::Result;
use crate::build::calibrate::CalibrationError;
use crate::build::config::FramesConfig;
use crate::synth::Rng;

/// Random stream for the choice of frames, separate from other uses of a seed.
const CHOICE_STREAM: u64 = 0x6368_6f69_6365;

/// The frames to calibrate on and those to measure on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) calibration: Vec<PathBuf>,
    pub(super) held_out: Vec<PathBuf>,
}

impl Split {
    pub(super) fn new(frames: &[PathBuf], options: &FramesConfig) -> Result<Self> {
        let mut chosen: Vec<usize> = (0..frames.len()).collect();
        if options.limit > 0 && options.limit < frames.len() {
            let mut rng = Rng::new(options.seed, 0, CHOICE_STREAM);
            for i in 0..options.limit {
                let span = (frames.len() - i) as f64;
                chosen.swap(i, i + (rng.uniform() * span) as usize);
            }
            chosen.truncate(options.limit);
            chosen.sort_unstable();
        }
        let every = options.held_out;
        let is_held_out = |place: usize| every > 0 && place % every == every - 1;
        let (mut calibration, mut held_out) = (Vec::new(), Vec::new());
        for (place, path) in chosen.iter().filter_map(|&i| frames.get(i)).enumerate() {
            if is_held_out(place) {
                held_out.push(path.clone());
            } else {
                calibration.push(path.clone());
            }
        }
        if calibration.is_empty() {
            return Err(CalibrationError::NoFrames.into());
        }
        Ok(Self {
            calibration,
            held_out,
        })
    }
}
