//! Where the frames of `cp-infer` come from: files, a list of sweeps, a bag.

use std::path::PathBuf;

use centerpoint::points::{self, FrameError, Layout, ReadOptions};
use centerpoint::results::nuscenes::sample_token;
#[cfg(feature = "mcap")]
use centerpoint::ros::bag::{Bag, FrameOptions, Frames};
use centerpoint::{Error, Model, PointCloud};

use crate::args::Args;

/// Files have no stamps: they count as frames of a scanner with 10 Hz.
const PERIOD_NS: i64 = 100_000_000;
/// The coordinate frame of the points in files, for viewers.
const FRAME_ID: &str = "lidar";

/// A frame; borrowed from [`Input`] until the next one.
pub(crate) struct Frame<'a> {
    /// Its file as the user gave it, or topic and stamp.
    pub(crate) name: String,
    /// Names its result where each frame has a file of its own.
    pub(crate) token: String,
    /// When and where the points were taken, for viewers.
    #[cfg_attr(not(feature = "mcap"), allow(dead_code))]
    pub(crate) stamp_ns: i64,
    #[cfg_attr(not(feature = "mcap"), allow(dead_code))]
    pub(crate) frame_id: String,
    pub(crate) cloud: &'a PointCloud,
    /// Points past the model's capacity.
    pub(crate) over_capacity: u64,
}

/// Gives one frame after the other.
pub(crate) struct Input {
    source: Source,
    options: ReadOptions,
    capacity: usize,
    /// The last frame that was read from a file.
    cloud: PointCloud,
    given: i64,
}

enum Source {
    Files(Vec<PathBuf>),
    Sweeps(PathBuf),
    #[cfg(feature = "mcap")]
    Bag {
        frames: Box<Frames>,
        count: u64,
    },
}

impl Input {
    /// Finds what the arguments name; files are opened one by one later.
    pub(crate) fn open(args: &Args, model: &Model) -> Result<Self, Error> {
        let source = match (&args.bag, &args.sweeps) {
            #[cfg(feature = "mcap")]
            (Some(path), _) => {
                let bag = Bag::open(path)?;
                let topic = bag.cloud_topic(args.topic.as_deref())?.clone();
                let options = FrameOptions {
                    sweeps: model.points.sweeps,
                    capacity: model.points.capacity,
                    fixed_frame: args.fixed_frame.clone(),
                };
                Source::Bag {
                    count: topic.messages,
                    frames: Box::new(Frames::new(bag, &topic, &options)),
                }
            }
            (_, Some(list)) => Source::Sweeps(list.clone()),
            (_, None) => Source::Files(points::list_frames(&args.pcd)?),
        };
        Ok(Self {
            source,
            options: ReadOptions {
                layout: args.layout,
                default_layout: Layout::new(&model.points.columns).map_err(FrameError::from)?,
            },
            capacity: model.points.capacity,
            cloud: PointCloud::empty(Layout::XYZIT),
            given: 0,
        })
    }

    /// Number of frames, as far as it is known.
    pub(crate) fn count(&self) -> u64 {
        match &self.source {
            Source::Files(paths) => paths.len() as u64,
            Source::Sweeps(_) => 1,
            #[cfg(feature = "mcap")]
            Source::Bag { count, .. } => *count,
        }
    }

    /// Whether results go to a file for each frame. Those of a bag do, however many frames it has.
    pub(crate) fn many(&self) -> bool {
        match &self.source {
            Source::Files(paths) => paths.len() > 1,
            Source::Sweeps(_) => false,
            #[cfg(feature = "mcap")]
            Source::Bag { .. } => true,
        }
    }

    /// The files, whose names may be alike.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        match &self.source {
            Source::Files(paths) => paths,
            _ => &[],
        }
    }

    /// The next frame. An error is that of one frame; the others follow.
    pub(crate) fn next_frame(&mut self) -> Option<Result<Frame<'_>, Error>> {
        let index = self.given;
        self.given += 1;
        let (path, cloud, over_capacity) = match &mut self.source {
            Source::Files(paths) => {
                let path = paths.get(usize::try_from(index).ok()?)?;
                (path, points::read(path, &self.options), 0)
            }
            Source::Sweeps(_) if index > 0 => return None,
            Source::Sweeps(list) => match points::read_sweeps(list, &self.options, self.capacity) {
                Ok((cloud, done)) => (&*list, Ok(cloud), done.points_over_capacity),
                Err(error) => (&*list, Err(error), 0),
            },
            #[cfg(feature = "mcap")]
            Source::Bag { frames, .. } => return Some(bag_frame(frames.next_frame()?)),
        };
        self.cloud = match cloud {
            Ok(cloud) => cloud,
            Err(error) => return Some(Err(error.into())),
        };
        Some(Ok(Frame {
            name: path.display().to_string(),
            token: sample_token(path),
            stamp_ns: index.saturating_mul(PERIOD_NS),
            frame_id: FRAME_ID.into(),
            cloud: &self.cloud,
            over_capacity: over_capacity as u64,
        }))
    }
}

#[cfg(feature = "mcap")]
fn bag_frame(
    frame: Result<centerpoint::ros::bag::BagFrame<'_>, centerpoint::ros::bag::BagError>,
) -> Result<Frame<'_>, Error> {
    let frame = frame?;
    Ok(Frame {
        token: file_name(&frame.name),
        name: frame.name,
        stamp_ns: frame.stamp_ns,
        frame_id: frame.frame_id,
        cloud: frame.cloud,
        over_capacity: frame.points_over_capacity as u64,
    })
}

/// A frame's name as that of a file: `/lidar/points@12` is `lidar_points@12`.
#[cfg(feature = "mcap")]
fn file_name(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "@-.".contains(c);
    let name = name.trim_start_matches('/').chars();
    name.map(|c| if allowed(c) { c } else { '_' }).collect()
}
