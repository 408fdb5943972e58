//! The input options that all programs share, and the frames that they name: files, a list of sweeps, or a bag.

use std::path::{Path, PathBuf};
#[cfg(feature = "build")]
use tempfile::TempDir;

#[cfg(feature = "mcap")]
use crate::bag::{Bag, BagError, BagFrame, FrameOptions, Frames};
use crate::chain::Chain;
#[cfg(feature = "build")]
use crate::files::FileError;
use crate::points::{self, FrameError, Layout, ReadOptions};
use crate::results::nuscenes::sample_token;
use crate::{Error, Model, PointCloud, model};

use crate::cli;
use crate::detector::{Options, sanity};
use crate::points::{Extrinsic, FrameWarning, GroundHeight};

/// Files have no stamps: treat them as frames of a 10 Hz scanner.
const PERIOD_NS: i64 = 100_000_000;
/// Name of the coordinate frame of files, for viewers.
const FRAME_ID: &str = "lidar";

/// Input options.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Input")]
pub(crate) struct InputArgs {
    /// Frames: .bin, .pcd.bin, .pcd, .npy files, or folders of them.
    #[arg(long, alias = "frames", value_name = "PATH", num_args = 1.., conflicts_with_all = ["sweeps", "bag"])]
    pub(crate) pcd: Vec<PathBuf>,

    /// Also search the folders below those of --pcd.
    #[arg(long, requires = "pcd")]
    pub(crate) recursive: bool,

    /// A list of sweeps with poses (JSON, newest first) that form one frame.
    #[arg(long, value_name = "FILE", conflicts_with = "bag")]
    pub(crate) sweeps: Option<PathBuf>,

    /// A ROS 2 bag: an .mcap file, or a folder written by `ros2 bag record`. Its frames are named TOPIC@STAMP
    /// (ns).
    #[arg(long, value_name = "PATH", conflicts_with = "layout")]
    pub(crate) bag: Option<PathBuf>,

    /// The bag's topic of point clouds (sensor_msgs/msg/PointCloud2) [default: the only one].
    #[arg(long, value_name = "NAME", requires = "bag")]
    pub(crate) topic: Option<String>,

    /// The world frame in which the bag's transforms (/tf, /tf_static) place past sweeps, for models with
    /// several sweeps [default: the root of the clouds' transform tree].
    #[arg(long, value_name = "NAME", requires = "bag")]
    pub(crate) fixed_frame: Option<String>,

    /// Columns of .bin and .npy files: a name (kitti, nuscenes, waymo, xyzi, xyzit, xyzir) or a list
    /// such as x,y,z,intensity,_ [default: the plan's own columns; nuscenes for .pcd.bin].
    #[arg(long, value_name = "COLUMNS", value_parser = cli::layout)]
    pub(crate) layout: Option<Layout>,

    /// Factor from the frames' intensity scale to the model's, instead of the model's.
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true, value_parser = cli::positive)]
    pub(crate) intensity_scale: Option<f32>,

    /// Where the sensor is on the vehicle: x,y,z in metres, roll,pitch,yaw in degrees about the vehicle's fixed axes
    /// x, y, z; or a file with these numbers or with a matrix [R | t] [default: the model's].
    #[arg(long, value_name = "FILE|X,Y,Z,ROLL,PITCH,YAW", allow_hyphen_values = true, value_parser = extrinsic)]
    pub(crate) extrinsic: Option<Extrinsic>,

    /// Height of the ground in the frames, in metres, or `auto` to find it in each frame: the points are moved until
    /// the ground is where the model expects it [default: the model's].
    #[arg(long, value_name = "auto|Z", allow_hyphen_values = true)]
    pub(crate) ground: Option<GroundHeight>,

    /// Drop the points in this box of the vehicle's frame, such as those on the vehicle itself: the least x,y,z, then
    /// the greatest, in metres [default: the model's].
    #[arg(long, value_name = "X,Y,Z,X,Y,Z", allow_hyphen_values = true, value_parser = ignore_box)]
    pub(crate) ignore_box: Option<[[f32; 3]; 2]>,

    /// Refuse frames that are probably not what the model expects, instead of warning about the first.
    #[arg(long)]
    pub(crate) strict: bool,
}

impl InputArgs {
    /// Whether the arguments name any frames.
    pub(crate) fn any(&self) -> bool {
        !self.pcd.is_empty() || self.sweeps.is_some() || self.bag.is_some()
    }

    /// The files and folders that the arguments name.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let paths = self.pcd.iter().chain(&self.sweeps).chain(&self.bag);
        paths.map(PathBuf::as_path)
    }

    /// Checks that the arguments name frames, and that this program can read them.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_options()?;
        if self.any() {
            Ok(())
        } else {
            Err(Error::Usage(
                "name the frames with --pcd, --sweeps or --bag".into(),
            ))
        }
    }

    /// Checks that no option is without effect. Frames need not be named.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub(crate) fn check_options(&self) -> Result<(), Error> {
        if cfg!(not(feature = "mcap")) && self.bag.is_some() {
            return Err(Error::Usage(cli::NO_MCAP.into()));
        }
        let (pcd, bag) = (!self.pcd.is_empty(), self.bag.is_some());
        // clap does not require an option that conflicts with a given one.
        for (option, given, needed, named) in [
            ("--recursive", self.recursive, "--pcd", pcd),
            ("--topic", self.topic.is_some(), "--bag", bag),
            ("--fixed-frame", self.fixed_frame.is_some(), "--bag", bag),
            (
                "--layout",
                self.layout.is_some(),
                "--pcd or --sweeps",
                self.any(),
            ),
            (
                "--strict",
                self.strict,
                "--pcd, --sweeps or --bag",
                self.any(),
            ),
        ] {
            if given && !named {
                return Err(Error::Usage(format!("{option} needs {needed}")));
            }
        }
        Ok(())
    }

    /// Sets the detector's options.
    pub(crate) fn apply(&self, options: Options) -> Options {
        Options {
            intensity_scale: self.intensity_scale,
            extrinsic: self.extrinsic,
            ground: self.ground,
            ignore_box: self.ignore_box,
            ..options
        }
    }

    /// Sets the model's input options, for passes that run a network without a detector.
    #[cfg(feature = "build")]
    pub(crate) fn apply_to(&self, model: &mut Model) {
        *model = self.apply(Options::default()).apply(model);
    }

    /// Looks at a frame, the first of a run: warns, or with --strict refuses it.
    ///
    /// # Errors
    /// [`FrameError::Implausible`].
    pub(crate) fn check_frame(
        &self,
        model: &Model,
        frame: &InputFrame<'_>,
    ) -> Result<(), FrameError> {
        self.check_cloud(model, &frame.name, frame.cloud, frame.begins)
    }

    /// Looks at the cloud of a frame; `begins` is [`InputFrame::begins`].
    fn check_cloud(
        &self,
        model: &Model,
        name: &str,
        cloud: &PointCloud,
        begins: bool,
    ) -> Result<(), FrameError> {
        for warning in sanity::check(model, cloud) {
            if begins && matches!(warning, FrameWarning::Sweeps { .. }) {
                continue;
            }
            if self.strict {
                return Err(FrameError::Implausible(warning));
            }
            log::warn!("{name}: {warning}");
        }
        Ok(())
    }

    /// The frames as files, for passes that read them more than once: those of a bag or of a list of sweeps are written
    /// to a temporary folder.
    ///
    /// # Errors
    /// There are no frames, or one cannot be read.
    #[cfg(feature = "build")]
    pub(crate) fn files(&self, model: &Model) -> Result<FrameFiles, Error> {
        self.check()?;
        let mut input = Input::open(self, model)?;
        if let Source::Files(paths) = input.source {
            // A folder is in the list only if it has no frames.
            if let Some(folder) = paths.iter().find(|path| path.is_dir()) {
                points::read(folder, &input.options)?;
            }
            for path in paths.iter().take(if self.strict { usize::MAX } else { 1 }) {
                let cloud = points::read(path, &input.options)?;
                self.check_cloud(model, &path.display().to_string(), &cloud, false)?;
            }
            return Ok(FrameFiles {
                paths,
                _folder: None,
            });
        }
        let create = |error| FileError::new(&std::env::temp_dir(), "create")(error);
        let folder = tempfile::tempdir().map_err(create)?;
        let mut paths = Vec::new();
        while let Some(frame) = input.next_frame() {
            let frame = frame?;
            if paths.is_empty() || self.strict {
                self.check_frame(model, &frame)?;
            }
            let path = folder.path().join(format!("{}.npy", frame.token));
            points::write_npy(&path, frame.cloud)?;
            paths.push(path);
        }
        Ok(FrameFiles {
            paths,
            _folder: Some(folder),
        })
    }
}

/// Frames as files.
#[cfg(feature = "build")]
pub(crate) struct FrameFiles {
    /// The files, in order.
    pub(crate) paths: Vec<PathBuf>,
    /// Holds frames that were no files; removed at the end.
    _folder: Option<TempDir>,
}

fn extrinsic(text: &str) -> Result<Extrinsic, String> {
    Extrinsic::parse_or_read(text).map_err(|error| Chain(&error).to_string())
}

fn ignore_box(text: &str) -> Result<[[f32; 3]; 2], String> {
    Some(cli::numbers::<6>(text)?)
        .filter(model::is_box)
        .map(model::corners)
        .ok_or_else(|| "expected the least x,y,z of a box, then the greatest".into())
}

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
    /// Whether this is the first frame of a bag, which has no past sweeps yet.
    pub(crate) begins: bool,
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
    /// Whether a bag has yielded no frame so far.
    #[cfg_attr(not(feature = "mcap"), allow(dead_code))]
    begins: bool,
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
    pub(crate) fn open(args: &InputArgs, model: &Model) -> Result<Self, Error> {
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
            (_, None) => Source::Files(points::list_frames(&args.pcd, args.recursive)),
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
            begins: true,
        })
    }

    /// All frames.
    ///
    /// # Errors
    /// A frame cannot be read.
    pub(crate) fn clouds(args: &InputArgs, model: &Model) -> Result<Vec<PointCloud>, Error> {
        args.check()?;
        let mut input = Self::open(args, model)?;
        let mut clouds = Vec::new();
        while let Some(frame) = input.next_frame() {
            let frame = frame?;
            if clouds.is_empty() || args.strict {
                args.check_frame(model, &frame)?;
            }
            clouds.push(frame.cloud.clone());
        }
        Ok(clouds)
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
            Source::Bag { frames, .. } => {
                let frame = bag_frame(frames.next_frame()?, self.begins);
                self.begins &= frame.is_err();
                return Some(frame);
            }
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
            begins: false,
            over_capacity: over_capacity as u64,
        }))
    }
}

#[cfg(feature = "mcap")]
fn bag_frame(frame: Result<BagFrame<'_>, BagError>, begins: bool) -> Result<InputFrame<'_>, Error> {
    let frame = frame?;
    Ok(InputFrame {
        token: file_name(&frame.name),
        name: frame.name,
        stamp_ns: frame.stamp_ns,
        frame_id: frame.frame_id,
        cloud: frame.cloud,
        begins,
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
