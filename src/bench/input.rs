//! Input of measured frames: clouds from files, or the sweeps of a synthetic scene.
//!
//! Synthetic frames show a street of [`crate::synth`], the same in every run, seen by a scanner of 32, 64 or
//! 128 beams with enough columns for the requested number of points, which are thinned out evenly in scan
//! order. As on a vehicle, each frame brings one new sweep, which goes through [`Detector::detect_sweeps`] with
//! the sweeps of the previous frames. The vehicle's motion is already compensated, so all poses are equal; this
//! does not change the cost.

use serde::Serialize;

use crate::detection::Detection;
use crate::detector::{Detector, Result};
use crate::model::Model;
use crate::points::{FrameError, Layout, PointCloud, Pose, SweepBuffer};
use crate::synth::{self, Config, Scanner};

/// Seed of the synthetic scene, chosen arbitrarily.
const SEED: u64 = 8_000_001;
/// Time between two sweeps.
const SWEEP_NS: i64 = 100_000_000;
/// Beams of each scanner, and the most points per sweep for which it is used.
const SCANNERS: [(u32, usize); 3] = [(32, 40_000), (64, 120_000), (128, usize::MAX)];

/// The source of frames.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    /// Frames that the caller reads, used in turn.
    Recorded,
    /// A synthetic scene.
    Synthetic {
        /// Points per sweep; `None`: those seen by a scanner of 32 × 900 rays.
        points: Option<usize>,
        /// Sweeps per frame, at least 1; `None`: the model's number.
        sweeps: Option<usize>,
    },
}

/// Description of an input, for reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct InputDescription {
    /// `files` or `synthetic`.
    pub kind: &'static str,
    /// Number of files, or sweeps of the scene, used in turn.
    pub count: usize,
    /// Sweeps per frame.
    pub sweeps: usize,
    /// Fewest and most points of a frame, including all its sweeps.
    pub points: [usize; 2],
}

/// Feeds a detector an endless series of frames.
pub(crate) struct Feed {
    clouds: Vec<PointCloud>,
    /// The sweeps of a frame, if there are several.
    buffer: Option<SweepBuffer>,
    description: InputDescription,
    frame: usize,
}

impl Feed {
    /// Generates all clouds, or reads them with `read`.
    ///
    /// # Errors
    /// Those of `read`; [`FrameError`] if the scene cannot be made.
    pub(crate) fn new<E: From<FrameError>>(
        input: &Input,
        model: &Model,
        read: impl FnOnce() -> Result<Vec<PointCloud>, E>,
    ) -> Result<Self, E> {
        match input {
            Input::Recorded => Ok(Self::from_clouds("files", read()?)),
            Input::Synthetic { points, sweeps } => {
                let count = sweeps.unwrap_or(model.points.sweeps).max(1);
                let clouds = synthetic(*points, count)?;
                match count {
                    1 => Ok(Self::from_clouds("synthetic", clouds)),
                    _ => Ok(Self::from_sweeps(clouds, model.points.capacity)?),
                }
            }
        }
    }

    fn from_clouds(kind: &'static str, clouds: Vec<PointCloud>) -> Self {
        let points = clouds.iter().map(PointCloud::len);
        Self {
            description: InputDescription {
                kind,
                count: clouds.len(),
                sweeps: 1,
                points: [points.clone().min(), points.max()].map(|n| n.unwrap_or(0)),
            },
            clouds,
            buffer: None,
            frame: 0,
        }
    }

    /// Creates a feed whose buffer already holds all sweeps but the one of the first frame.
    fn from_sweeps(clouds: Vec<PointCloud>, capacity: usize) -> Result<Self, FrameError> {
        let points = clouds.iter().map(PointCloud::len).sum();
        let buffer = SweepBuffer::new(clouds.len() - 1, capacity);
        let mut feed = Self {
            description: InputDescription {
                kind: "synthetic",
                count: clouds.len(),
                sweeps: clouds.len(),
                points: [points; 2],
            },
            clouds,
            buffer: Some(buffer),
            frame: 0,
        };
        for _ in 0..feed.clouds.len() {
            feed.push()?;
        }
        Ok(feed)
    }

    /// Description of the input.
    pub(crate) fn description(&self) -> &InputDescription {
        &self.description
    }

    /// Runs the next frame.
    ///
    /// # Errors
    /// As for [`Detector::detect`].
    pub(crate) fn detect<'a>(&mut self, detector: &'a mut Detector) -> Result<Detection<'a>> {
        if self.buffer.is_some() {
            self.push()?;
        }
        match &self.buffer {
            Some(buffer) => Ok(detector.detect_sweeps(buffer)?),
            None => {
                let cloud = &self.clouds[self.frame % self.clouds.len()];
                self.frame += 1;
                Ok(detector.detect(cloud)?)
            }
        }
    }

    /// Pushes the next sweep into the buffer.
    fn push(&mut self) -> Result<(), FrameError> {
        if let Some(buffer) = &mut self.buffer {
            // Always `Some`: the rotation is valid.
            let pose = Pose::new([0.0; 3], [1.0, 0.0, 0.0, 0.0]).ok();
            let stamp = self.frame as i64 * SWEEP_NS;
            buffer
                .push(&self.clouds[self.frame % self.clouds.len()], stamp, pose)
                .map_err(|reason| FrameError::Sweeps {
                    path: "the synthetic scene".into(),
                    reason,
                })?;
            self.frame += 1;
        }
        Ok(())
    }
}

/// `count` sweeps of the scene, oldest first, each with exactly `points` points if that is `Some`.
fn synthetic(points: Option<usize>, count: usize) -> Result<Vec<PointCloud>, FrameError> {
    let mut scanner = Scanner::default();
    let Some(points) = points else {
        return scan_sweeps(&scanner, count);
    };
    let beams = SCANNERS.iter().find(|(_, most)| points <= *most);
    scanner.beams = beams.map_or(128, |(beams, _)| *beams);
    scanner.columns = (points / scanner.beams as usize + 16) as u32;
    loop {
        let sweeps = scan_sweeps(&scanner, count)?;
        if sweeps.iter().all(|sweep| sweep.len() >= points) {
            return sweeps.iter().map(|sweep| thinned(sweep, points)).collect();
        }
        // About one ray in six does not return.
        scanner.columns += scanner.columns / 8 + 1;
    }
}

/// The scene's sweeps, split by the age of their points, oldest first: rows of x, y, z, intensity.
fn scan_sweeps(scanner: &Scanner, count: usize) -> Result<Vec<PointCloud>, FrameError> {
    let config = Config {
        scanner: scanner.clone(),
        sweeps: count as u32,
        sweep_interval: SWEEP_NS as f64 * 1e-9,
    };
    let frame = synth::generate(SEED, 0, &config)?;
    let stride = frame.cloud.layout().stride();
    let rows: Vec<&[f32]> = frame.cloud.rows().collect();
    let sweeps = rows.chunk_by(|a, b| a[stride - 1] == b[stride - 1]);
    let mut clouds = Vec::with_capacity(count);
    for sweep in sweeps {
        let values = sweep.iter().flat_map(|row| row[..4].iter().copied());
        clouds.push(PointCloud::new(Layout::KITTI, values.collect())?);
    }
    clouds.reverse();
    Ok(clouds)
}

/// Selects `points` points of a cloud evenly in scan order.
fn thinned(cloud: &PointCloud, points: usize) -> Result<PointCloud, FrameError> {
    let stride = cloud.layout().stride();
    let kept = (0..points).flat_map(|i| {
        let row = i * cloud.len() / points.max(1);
        cloud.data()[row * stride..(row + 1) * stride]
            .iter()
            .copied()
    });
    PointCloud::new(cloud.layout(), kept.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_sweeps_have_the_requested_number_of_points() {
        for (points, count) in [(1, 1), (999, 3), (41_000, 1)] {
            let sweeps = synthetic(Some(points), count).unwrap();
            let found: Vec<usize> = sweeps.iter().map(PointCloud::len).collect();
            assert_eq!(found, vec![points; count]);
        }
        let default = synthetic(None, 2).unwrap();
        assert!(default.iter().all(|sweep| sweep.len() > 20_000));
        assert_ne!(default[0].data(), default[1].data());
    }

    #[test]
    fn thinning_keeps_the_order_without_duplicates() {
        let layout: Layout = "x,y,z".parse().unwrap();
        let rows = (0..10u8).flat_map(|i| [f32::from(i); 3]);
        let cloud = PointCloud::new(layout, rows.collect()).unwrap();
        let x = |points| {
            let kept = thinned(&cloud, points).unwrap();
            kept.rows().map(|row| row[0] as u8).collect::<Vec<u8>>()
        };
        assert_eq!(x(4), [0, 2, 5, 7]);
        assert_eq!(x(10), (0..10).collect::<Vec<u8>>());
        assert!(x(0).is_empty());
    }
}
