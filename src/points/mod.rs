//! Point clouds: what a frame is, and the readers of every file format.

pub mod sweeps;

use std::path::PathBuf;

/// What one column of a point row means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Column {
    /// Metres forward.
    X,
    /// Metres to the left.
    Y,
    /// Metres up.
    Z,
    /// Return strength in the file's own scale.
    Intensity,
    /// Age of the point's sweep in seconds; 0 for the newest.
    T,
    /// Laser (beam) number.
    Ring,
    /// Waymo's pulse elongation.
    Elongation,
    /// A column that is read over.
    Skip,
}

/// The meaning of each column, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout(pub Vec<Column>);

/// One cloud: rows of `layout.0.len()` values.
#[derive(Clone, Debug, PartialEq)]
pub struct PointCloud {
    /// Meaning of the columns.
    pub layout: Layout,
    /// Row-major values, `n × columns`.
    pub data: Vec<f32>,
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The file could not be opened or read.
    #[error("{path}: cannot read the frame: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl std::str::FromStr for Column {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "x" => Self::X,
            "y" => Self::Y,
            "z" => Self::Z,
            "intensity" => Self::Intensity,
            "t" => Self::T,
            "ring" => Self::Ring,
            "elongation" => Self::Elongation,
            "skip" | "_" => Self::Skip,
            other => return Err(format!("`{other}` is no column")),
        })
    }
}
