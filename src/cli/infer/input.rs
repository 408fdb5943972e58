//! The input frames of `cp-infer`: files, a list of sweeps, or a bag.

use std::path::PathBuf;

#[cfg(feature = "mcap")]
use crate::bag::{Bag, BagError, BagFrame, FrameOptions, Frames};
use crate::points::{self, FrameError, Layout, ReadOptions};
use crate::results::nuscenes::sample_token;
use crate::{Error, Model, PointCloud};

use crate::cli::infer::args::Args;

/// Files have no stamps: treat them as frames of a 10 Hz scanner.
const PERIOD_NS: i64 = 100_000_000;
/// Name of the coordinate frame of files, for viewers.
const FRAME_ID: &str = "lidar";

/// An input frame, borrowed from [`Input`] until the next one.
pub(crate) struct InputFrame<'a> {
    /// The file as named by the user, or topic and stamp.
    pub(crate) name: String,
    /// File stem of its results if each frame has its own file.
    pub(crate) token: String,
    /// Stamp and coordinate frame of the points, for viewers.
    #[cfg_attr(not(feature = "mcap"), allow(dead_code))]
    pub(crate) stamp_ns: i64,
    #[cfg_attr(not(feature = "mcap"), allow(dead_code))]
    pub(crate) frame_id: String,
    pub(crate) cloud: &'a PointCloud,
    /// Points beyond the model's capacity.
    pub(crate) over_capacity: u64,
}

/// Reads one frame after the other.
pub(crate) struct Input {
    source: Source,
    options: ReadOptions,
    capacity: usize,
    /// The last frame read from a file.
    cloud: PointCloud,
    next: i64,
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
    /// Finds the frames named by the arguments; opens files later, one by one.
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
                    without_pose: model.points.without_pose,
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
            next: 0,
        })
    }

    /// Number of frames.
    pub(crate) fn count(&self) -> u64 {
        match &self.source {
            Source::Files(paths) => paths.len() as u64,
            Source::Sweeps(_) => 1,
            #[cfg(feature = "mcap")]
            Source::Bag { count, .. } => *count,
        }
    }

    /// Whether each frame's results go to their own file. Always true for a bag, however many frames it has.
    pub(crate) fn many(&self) -> bool {
        match &self.source {
            Source::Files(paths) => paths.len() > 1,
            Source::Sweeps(_) => false,
            #[cfg(feature = "mcap")]
            Source::Bag { .. } => true,
        }
    }

    /// The input files, whose stems may collide.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        match &self.source {
            Source::Files(paths) => paths,
            _ => &[],
        }
    }

    /// The next frame. An error concerns a single frame; the others follow.
    pub(crate) fn next_frame(&mut self) -> Option<Result<InputFrame<'_>, Error>> {
        let index = self.next;
        self.next += 1;
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
        Some(Ok(InputFrame {
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
fn bag_frame(frame: Result<BagFrame<'_>, BagError>) -> Result<InputFrame<'_>, Error> {
    let frame = frame?;
    Ok(InputFrame {
        token: file_name(&frame.name),
        name: frame.name,
        stamp_ns: frame.stamp_ns,
        frame_id: frame.frame_id,
        cloud: frame.cloud,
        over_capacity: frame.points_over_capacity as u64,
    })
}

/// A file name for a frame: `lidar_points@12` for `/lidar/points@12`.
#[cfg(feature = "mcap")]
fn file_name(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "@-.".contains(c);
    let name = name.trim_start_matches('/').chars();
    name.map(|c| if allowed(c) { c } else { '_' }).collect()
}
