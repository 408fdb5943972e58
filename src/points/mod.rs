//! Point clouds: what a frame is, the readers of every file format, and sweeps with ego motion.
//!
//! | file | columns |
//! |---|---|
//! | `*.pcd.bin` | nuScenes, unless a layout is given |
//! | `*.bin` | the layout given, else the model's own columns |
//! | `*.pcd` | by the names of its fields |
//! | `*.npy` | as `.bin` |
//!
//! A reader checks every length against the file before it takes memory: a broken file is an
//! error with the file's name, and costs no more than four times its size. (Only valid LZF data in
//! a `binary_compressed` PCD may grow further, as compressed data do.)

mod bin;
mod cloud;
mod field;
mod layout;
mod lzf;
mod npy;
mod pcd;
mod pcd_header;
mod records;
mod sweep_list;
mod sweeps;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

pub use bin::BinError;
pub use cloud::{PointCloud, Selected};
pub use field::FieldKind;
pub use layout::{ALIASES, Column, Layout, LayoutError, MAX_COLUMNS};
pub use lzf::LzfError;
pub use npy::NpyError;
pub use pcd::PcdError;
pub use records::{Extent, Field, RecordError, Records};
pub use sweep_list::read_sweeps;
pub use sweeps::{Accumulated, Pose, PoseError, SweepBuffer, SweepError, SweepPart};

/// Largest frame file that is read.
pub const MAX_FILE_BYTES: u64 = 1 << 30;
/// Most points that a frame may claim; real ones have a few hundred thousand a sweep.
pub const MAX_POINTS: u64 = 1 << 24;
/// The file names that are read, for messages.
const SUPPORTED: &str = ".bin, .pcd.bin, .pcd and .npy";

/// How files whose columns have no names are read.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// The user's word (`--layout`), for `.bin`, `.pcd.bin` and `.npy`.
    pub layout: Option<Layout>,
    /// The plan's own columns, for a `.bin` or `.npy` without `layout`.
    pub default_layout: Layout,
}

/// The formats, by file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Bin,
    NuScenes,
    Pcd,
    Npy,
}

impl Format {
    fn of(path: &Path) -> Option<Format> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let endings = [
            (".pcd.bin", Format::NuScenes),
            (".bin", Format::Bin),
            (".pcd", Format::Pcd),
            (".npy", Format::Npy),
        ];
        let found = endings.iter().find(|(ending, _)| name.ends_with(ending));
        found.map(|(_, format)| *format)
    }
}

/// Reads one frame, by the ending of its name.
///
/// # Errors
/// [`FrameError`], always with the file's name.
pub fn read(path: &Path, options: &ReadOptions) -> Result<PointCloud, FrameError> {
    let Some(format) = Format::of(path) else {
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

/// Opens a regular file of at most `limit` bytes; gives its length too.
fn open(path: &Path, limit: u64) -> Result<(File, u64), FrameError> {
    let io = |source| FrameError::Io {
        path: path.to_path_buf(),
        source,
    };
    // Asked before opening: opening a pipe would wait for its writer.
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

/// The frames that `paths` name: files as they are, folders as their frames, sorted by name. Of a data
/// set, a folder without frames of its own but with a folder `frames`, those are meant.
///
/// Other sub-folders and other files in a folder are passed over. A path that does not exist stays in
/// the list, so that reading it is what fails and the other frames go on.
///
/// # Errors
/// A folder that cannot be listed, or that holds no frame.
pub fn list_frames(paths: &[PathBuf]) -> Result<Vec<PathBuf>, FrameError> {
    let mut frames = Vec::new();
    for path in paths {
        if !path.is_dir() {
            frames.push(path.clone());
            continue;
        }
        let mut found = frames_in(path)?;
        let inner = path.join("frames");
        if found.is_empty() && inner.is_dir() {
            found = frames_in(&inner)?;
        }
        if found.is_empty() {
            return Err(FrameError::NoFrames(path.clone()));
        }
        frames.append(&mut found);
    }
    Ok(frames)
}

/// The frames in a folder, sorted by name; there may be none.
fn frames_in(folder: &Path) -> Result<Vec<PathBuf>, FrameError> {
    let io = |source| FrameError::Io {
        path: folder.into(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let file = entry.map_err(io)?.path();
        if Format::of(&file).is_some() && file.is_file() {
            found.push(file);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Why a frame could not be read or used. The message says everything; print it with `{}`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The file or folder could not be opened or read.
    #[error("{path}: cannot read the frame: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A folder, pipe or device where a file is needed.
    #[error("{0}: not a regular file")]
    NotAFile(PathBuf),
    /// The name's ending is none that is read.
    #[error("{0}: unknown kind of frame; {SUPPORTED} are read")]
    UnknownFormat(PathBuf),
    /// A file above the size limit.
    #[error("{path}: {bytes} bytes; a file may have {limit}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The largest length.
        limit: u64,
    },
    /// A folder without frames.
    #[error("{0}: no frames in this folder; {SUPPORTED} are read")]
    NoFrames(PathBuf),
    /// A `.bin` was refused.
    #[error("{path}: {reason}")]
    Bin {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: BinError,
    },
    /// A `.pcd` was refused.
    #[error("{path}: {reason}")]
    Pcd {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: PcdError,
    },
    /// A `.npy` was refused.
    #[error("{path}: {reason}")]
    Npy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: NpyError,
    },
    /// A list of sweeps, or a sweep in it, was refused.
    #[error("{path}: {reason}")]
    Sweeps {
        /// The list, or the frame that does not fit it.
        path: PathBuf,
        /// What is wrong with it.
        reason: SweepError,
    },
    /// Points that a caller or a message described were refused.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// Columns that make no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Values that do not fill rows.
    #[error("{values} values are no multiple of the {} columns of the layout `{layout}`", .layout.stride())]
    Ragged {
        /// Number of values.
        values: usize,
        /// The columns.
        layout: Layout,
    },
    /// The model needs a column that the frame lacks.
    #[error(
        "the model needs the column {column}, and the frame has `{layout}`; use frames with this \
         column, or name it with --layout if it is there under another name"
    )]
    MissingColumn {
        /// What the model needs.
        column: Column,
        /// What the frame has.
        layout: Layout,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_go_by_the_end_of_the_name() {
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
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }
}
