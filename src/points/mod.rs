//! Point clouds: readers for every file format, and sweeps with ego motion.
//!
//! | file | columns |
//! |---|---|
//! | `*.pcd.bin` | the given layout, else nuScenes |
//! | `*.bin` | the given layout, else the model's own columns |
//! | `*.pcd` | from the names of its fields |
//! | `*.npy` | like `.bin`; from the names of its fields if the array is structured |
//!
//! Readers check every length against the file before they allocate: a broken file is an error that names the
//! file, and uses at most four times its size in memory. (Only valid LZF data in a `binary_compressed` PCD may
//! expand further.)

mod bin;
mod cloud;
mod field;
mod ground;
mod layout;
mod lzf;
mod mounting;
mod npy;
mod pcd;
mod pcd_header;
mod records;
mod sweep_list;
mod sweeps;
mod warning;

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::chain::Chain;

pub use cloud::PointCloud;
pub use ground::Ground;
pub use layout::{Column, Layout, LayoutError};
pub use mounting::{Extrinsic, ExtrinsicError, GroundHeight};
pub use sweep_list::read_sweeps;
pub use sweeps::{Pose, PoseError, SweepBuffer, SweepError};
pub use warning::FrameWarning;

pub(crate) use bin::BinError;
pub(crate) use field::FieldType;
pub(crate) use layout::MAX_COLUMNS;
pub(crate) use mounting::{Mounting, Transform};
pub(crate) use npy::NpyError;
#[cfg(feature = "build")]
pub(crate) use npy::write as write_npy;
pub(crate) use pcd_header::PcdError;
pub(crate) use records::{Extent, RecordError, Records};
pub(crate) use sweeps::{SweepCounts, move_row};

/// Largest frame file that is read, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 30;
/// Most points in a frame; a real sweep has a few hundred thousand.
pub(crate) const MAX_POINTS: u64 = 1 << 24;
/// The supported file names, for messages.
const SUPPORTED: &str = ".bin, .pcd.bin, .pcd and .npy";

/// Columns of the files that do not name theirs.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// The user's choice (`--layout`) for `.bin`, `.pcd.bin` and `.npy`.
    pub layout: Option<Layout>,
    /// The plan's own columns, used for `.bin` and `.npy` if `layout` is `None`.
    pub default_layout: Layout,
}

/// File format, chosen by the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Bin,
    NuScenes,
    Pcd,
    Npy,
}

impl Format {
    fn from_path(path: &Path) -> Option<Format> {
        let name = path.file_name()?.as_encoded_bytes().to_ascii_lowercase();
        let endings = [
            (".pcd.bin", Format::NuScenes),
            (".bin", Format::Bin),
            (".pcd", Format::Pcd),
            (".npy", Format::Npy),
        ];
        let found = endings
            .iter()
            .find(|(ending, _)| name.ends_with(ending.as_bytes()));
        found.map(|(_, format)| *format)
    }
}

/// Reads one frame; the end of its name decides the format.
///
/// # Errors
/// [`FrameError`], which names the file.
pub fn read(path: &Path, options: &ReadOptions) -> Result<PointCloud, FrameError> {
    if path.is_dir() {
        // From the list of frames: a folder that could not be replaced by its frames.
        return Err(frames_of(path, false)
            .err()
            .unwrap_or_else(|| FrameError::NotAFile(path.into())));
    }
    let Some(format) = Format::from_path(path) else {
        return Err(FrameError::UnknownFormat(path.to_path_buf()));
    };
    let (file, bytes) = open(path, MAX_FILE_BYTES)?;
    let mut reader = BufReader::new(file);
    let nameless = options.layout.unwrap_or(options.default_layout);
    let at = || path.to_path_buf();
    match format {
        Format::Bin => bin::parse(&mut reader, bytes, nameless)
            .map_err(|reason| FrameError::Bin { path: at(), reason }),
        Format::NuScenes => {
            let layout = options.layout.unwrap_or(Layout::NUSCENES);
            bin::parse(&mut reader, bytes, layout)
                .map_err(|reason| FrameError::Bin { path: at(), reason })
        }
        Format::Pcd => {
            pcd::parse(&mut reader, bytes).map_err(|reason| FrameError::Pcd { path: at(), reason })
        }
        Format::Npy => npy::parse(&mut reader, bytes, nameless)
            .map_err(|reason| FrameError::Npy { path: at(), reason }),
    }
}

/// Opens a regular file of at most `limit` bytes and returns it with its length.
fn open(path: &Path, limit: u64) -> Result<(File, u64), FrameError> {
    let io = |source| FrameError::Io {
        path: path.to_path_buf(),
        source,
    };
    // Check before opening: opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(FrameError::NotAFile(path.to_path_buf()));
    }
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > limit {
        return Err(FrameError::TooLarge {
            path: path.to_path_buf(),
            bytes,
            limit,
        });
    }
    Ok((file, bytes))
}

/// Lists the frames that `paths` name: each file as it is, each folder as its frames sorted by path, with those of its
/// subfolders if `recursive`. Otherwise a folder without frames that has a subfolder `frames` (a data set) stands for
/// the frames in there.
///
/// Other files are ignored. A path that does not exist, and a folder that has no frames or cannot be listed, stay in
/// the list: reading them fails later, and the other frames are still processed.
pub fn list_frames(paths: &[PathBuf], recursive: bool) -> Vec<PathBuf> {
    let mut frames = Vec::new();
    for path in paths {
        match frames_of(path, recursive) {
            Ok(found) => frames.extend(found),
            Err(_) => frames.push(path.clone()),
        }
    }
    frames
}

/// The frames that `path` stands for; see [`list_frames`].
fn frames_of(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, FrameError> {
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let mut found = Vec::new();
    frames_in(path, recursive, &mut found)?;
    let inner = path.join("frames");
    if found.is_empty() && inner.is_dir() {
        frames_in(&inner, false, &mut found)?;
    }
    found.sort_unstable();
    if found.is_empty() {
        return Err(FrameError::NoFrames(path.into()));
    }
    Ok(found)
}

/// Appends the frames in a folder. Folders that are symbolic links are not entered: they may form a circle.
fn frames_in(folder: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> Result<(), FrameError> {
    let io = |source| FrameError::Io {
        path: folder.into(),
        source,
    };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = entry.path();
        if recursive && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            frames_in(&path, recursive, found)?;
        } else if Format::from_path(&path).is_some() && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

/// A frame could not be read or used. The message is complete; print it with `{}`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The file or folder could not be opened or read.
    #[error("{path}: cannot read the frame")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The path is a folder, pipe or device.
    #[error("{0}: not a regular file")]
    NotAFile(PathBuf),
    /// The file name has no supported extension.
    #[error("{0}: unknown frame format; supported are {SUPPORTED}")]
    UnknownFormat(PathBuf),
    /// The file exceeds the size limit.
    #[error("{path}: the file has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The largest length.
        limit: u64,
    },
    /// The folder holds no frames.
    #[error("{0}: no frames in this folder; supported are {SUPPORTED}")]
    NoFrames(PathBuf),
    /// A `.bin` file is invalid.
    #[error("{path}: {}", Chain(.reason))]
    Bin {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: BinError,
    },
    /// A `.pcd` file is invalid.
    #[error("{path}: {}", Chain(.reason))]
    Pcd {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: PcdError,
    },
    /// A `.npy` file is invalid.
    #[error("{path}: {}", Chain(.reason))]
    Npy {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: NpyError,
    },
    /// A list of sweeps, or a sweep in it, is invalid.
    #[error("{path}: {}", Chain(.reason))]
    Sweeps {
        /// The list, or the frame that does not fit it.
        path: PathBuf,
        /// The problem.
        reason: SweepError,
    },
    /// The points of a caller or message do not fit their description.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The columns do not form a layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The values do not fill whole rows.
    #[error("{values} values are not a multiple of the {} columns of the layout `{layout}`", .layout.stride())]
    Ragged {
        /// Number of values.
        values: usize,
        /// The columns.
        layout: Layout,
    },
    /// The model needs a column that the frame lacks.
    #[error(
        "the model needs the column {column}, but the frame has `{layout}`{}; use frames with this \
         column, or name it with --layout if the frame has it under another name", Unused(.unused)
    )]
    MissingColumn {
        /// The column that the model needs.
        column: Column,
        /// The frame's columns.
        layout: Layout,
        /// Fields of the file that are not used as columns.
        unused: Vec<String>,
    },
    /// The frame is probably not what the model expects, and that was not to be accepted.
    #[error(transparent)]
    Implausible(FrameWarning),
    /// The ground was to be found, and too little of it is visible.
    #[error("the ground around the vehicle was not found; give its height with --ground Z")]
    NoGround,
}

impl FrameError {
    /// Whether the message names the file; otherwise a program that knows it should.
    pub(crate) fn names_file(&self) -> bool {
        !matches!(
            self,
            Self::MissingColumn { .. } | Self::NoGround | Self::Implausible(_)
        )
    }
}

/// Displays the fields of a file that are not used, if there are any.
struct Unused<'a>(&'a [String]);

impl fmt::Display for Unused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            names => write!(f, " and, not used, {}", names.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_name_decides_the_format() {
        for (name, format) in [
            ("a/000000.bin", Some(Format::Bin)),
            ("n015__LIDAR_TOP__15.pcd.bin", Some(Format::NuScenes)),
            ("A.PCD", Some(Format::Pcd)),
            ("x.y.npy", Some(Format::Npy)),
            ("bin", None),
            ("a.bin.gz", None),
            ("a.txt", None),
            ("..", None),
        ] {
            assert_eq!(Format::from_path(Path::new(name)), format, "{name}");
        }
    }
}
