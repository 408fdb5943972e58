//! What a measured frame is made of: clouds from files, or the sweeps of a made-up scene.
//!
//! Made-up frames are a street of [`crate::synth`], the same in every run, seen by a scanner of 32, 64 or 128 beams
//! with as many columns as give the asked-for number of points: those at hand in the order of the scan, thinned out
//! evenly. As on a vehicle each frame brings one new sweep, and the sweeps of the last frames go with
//! it through [`Detector::detect_sweeps`]. The vehicle's motion is compensated already, so all poses are equal;
//! what they cost does not depend on that.

use std::path::PathBuf;

use serde::Serialize;

use crate::detection::Detection;
use crate::detector::Detector;
use crate::error::Result;
use crate::model::Model;
use crate::points::{self, FrameError, Layout, PointCloud, Pose, ReadOptions, SweepBuffer};
use crate::synth::{self, Config, Scanner};

/// The made-up scene: one of many, without a meaning.
const SEED: u64 = 8_000_001;
/// Time between two sweeps.
const SWEEP_NS: i64 = 100_000_000;
/// Beams of the scanner, and the points of a sweep up to which it is taken.
const SCANNERS: [(u32, usize); 3] = [(32, 40_000), (64, 120_000), (128, usize::MAX)];

/// Where frames come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Files and folders, read once before the measurement and then taken in turn.
    Files {
        /// What [`points::list_frames`] takes.
        paths: Vec<PathBuf>,
        /// Columns of files without names for them; `None`: the model's.
        layout: Option<Layout>,
    },
    /// A made-up scene.
    Synthetic {
        /// Points of a sweep; `None`: as many as a scanner of 32 × 900 rays sees.
        points: Option<usize>,
        /// Sweeps of a frame, at least 1; `None`: those that the model was trained with.
        sweeps: Option<usize>,
    },
}

/// An input as reports tell it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// `files` or `synthetic`.
    pub kind: &'static str,
    /// Files, or sweeps of the scene, that are taken in turn.
    pub count: usize,
    /// Sweeps that are put together for a frame.
    pub sweeps: usize,
    /// Fewest and most points of a frame, its sweeps together.
    pub points: [usize; 2],
}

/// Gives a detector one frame after the other, without end.
pub struct Feed {
    clouds: Vec<PointCloud>,
    /// Holds the sweeps of a frame, where there are several.
    buffer: Option<SweepBuffer>,
    description: Description,
    frame: usize,
}

impl Feed {
    /// Reads or makes all clouds.
    ///
    /// # Errors
    /// [`FrameError`] of a file, or where there is none.
    pub fn new(input: &Input, model: &Model) -> Result<Self> {
        let feed = match input {
            Input::Files { paths, layout } => {
                let options = ReadOptions {
                    layout: *layout,
                    default_layout: Layout::new(&model.points.columns).map_err(FrameError::from)?,
                };
                let files = points::list_frames(paths)?;
                let clouds = files.iter().map(|path| points::read(path, &options));
                let clouds = clouds.collect::<Result<Vec<_>, _>>()?;
                Self::of_clouds("files", clouds)
            }
            Input::Synthetic { points, sweeps } => {
                let count = sweeps.unwrap_or(model.points.sweeps).max(1);
                let clouds = synthetic(*points, count)?;
                match count {
                    1 => Self::of_clouds("synthetic", clouds),
                    _ => Self::of_sweeps(clouds, model.points.capacity)?,
                }
            }
        };
        Ok(feed)
    }

    fn of_clouds(kind: &'static str, clouds: Vec<PointCloud>) -> Self {
        let points = clouds.iter().map(PointCloud::len);
        Self {
            description: Description {
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

    /// A feed whose buffer already holds all sweeps but the one that the first frame brings.
    fn of_sweeps(clouds: Vec<PointCloud>, capacity: usize) -> Result<Self, FrameError> {
        let points = clouds.iter().map(PointCloud::len).sum();
        let buffer = SweepBuffer::new(clouds.len() - 1, capacity);
        let mut feed = Self {
            description: Description {
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

    /// What it gives.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Runs the next frame.
    ///
    /// # Errors
    /// Those of [`Detector::detect`].
    pub fn detect<'a>(&mut self, detector: &'a mut Detector) -> Result<Detection<'a>> {
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

    /// Gives the buffer the next sweep.
    fn push(&mut self) -> Result<(), FrameError> {
        if let Some(buffer) = &mut self.buffer {
            // Always there: the rotation is one.
            let pose = Pose::new([0.0; 3], [1.0, 0.0, 0.0, 0.0]).ok();
            let stamp = self.frame as i64 * SWEEP_NS;
            buffer
                .push(&self.clouds[self.frame % self.clouds.len()], stamp, pose)
                .map_err(|reason| FrameError::Sweeps {
                    path: "the made-up scene".into(),
                    reason,
                })?;
            self.frame += 1;
        }
        Ok(())
    }
}

/// `count` sweeps of the scene, oldest first, of exactly `points` points each if that is said.
fn synthetic(points: Option<usize>, count: usize) -> Result<Vec<PointCloud>, FrameError> {
    let mut scanner = Scanner::default();
    let Some(points) = points else {
        return sweeps_of(&scanner, count);
    };
    let beams = SCANNERS.iter().find(|(_, most)| points <= *most);
    scanner.beams = beams.map_or(128, |(beams, _)| *beams);
    scanner.columns = (points / scanner.beams as usize + 16) as u32;
    loop {
        let sweeps = sweeps_of(&scanner, count)?;
        if sweeps.iter().all(|sweep| sweep.len() >= points) {
            return sweeps.iter().map(|sweep| thinned(sweep, points)).collect();
        }
        // About one ray in six does not come back.
        scanner.columns += scanner.columns / 8 + 1;
    }
}

/// The scene's sweeps by the age of their points, oldest first: rows of x, y, z, intensity.
fn sweeps_of(scanner: &Scanner, count: usize) -> Result<Vec<PointCloud>, FrameError> {
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

/// `points` of a cloud's points, evenly over the order of the scan.
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
    fn made_up_sweeps_have_as_many_points_as_was_asked_for() {
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
    fn thinning_out_keeps_the_order_and_no_point_twice() {
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
