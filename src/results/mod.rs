//! Result files: tables, JSON lines, KITTI and nuScenes files, MCAP files.
//!
//! Each text format is a pure function from a [`FrameResult`] and the model's class names to a string;
//! the caller writes the string.

#[cfg(all(feature = "cli", feature = "mcap"))]
pub(crate) mod foxglove;
pub mod json;
pub mod kitti;
#[cfg(all(feature = "cli", feature = "mcap"))]
pub(crate) mod mcap;
pub(crate) mod nuscenes;
pub mod table;

use std::path::PathBuf;

use crate::boxes::{Box3d, Variances};
use crate::detection::{Dropped, Times};
use crate::files::FileError;
use crate::points::Ground;

/// The result of one frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameResult<'a> {
    /// The frame's name: its file as the user gave it.
    pub frame: &'a str,
    /// Points in the cloud, sweeps included, before any were dropped.
    pub points: usize,
    /// How many points, pillars and candidates were dropped.
    pub dropped: Dropped,
    /// The ground that the frame showed, if it was looked for.
    pub ground: Option<Ground>,
    /// The detections, best first.
    pub boxes: &'a [Box3d],
    /// Their variances, in the same order; empty if the network predicts none.
    pub variances: &'a [Variances],
    /// Stage times, if requested. They differ between runs; without them, equal frames make equal bytes.
    pub times: Option<Times>,
}

/// A result could not be formatted, or a result file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultsError {
    /// A number is NaN or infinite, which JSON and the text formats cannot represent.
    #[error(
        "{frame}: box {index}: {field} is {value}, not a finite number; \
         the plan's weights or the frame's values are broken"
    )]
    NonFinite {
        /// The frame's name.
        frame: String,
        /// Index into the frame's boxes.
        index: usize,
        /// Name of the output field.
        field: &'static str,
        /// The field's value.
        value: f32,
    },
    /// A stage time is NaN or infinite.
    #[error("{frame}: times_ms.{field} is {value}, not a finite number")]
    Time {
        /// The frame's name.
        frame: String,
        /// Name of the stage.
        field: &'static str,
        /// The stage's time.
        value: f64,
    },
    /// A box's class has no name.
    #[error("{frame}: box {index} has class {class}, but there are {classes} class names")]
    UnknownClass {
        /// The frame's name.
        frame: String,
        /// Index into the frame's boxes.
        index: usize,
        /// The box's class.
        class: u32,
        /// How many class names there are.
        classes: usize,
    },
    /// A frame could not be serialised.
    #[error("{frame}: cannot write JSON: {reason}")]
    Json {
        /// The frame's name.
        frame: String,
        /// The serialiser's reason.
        reason: serde_json::Error,
    },
    /// Two frames would be written under one name.
    #[error("{first} and {second} would both be written as `{name}`; run them one after the other")]
    SameName {
        /// The name of both.
        name: String,
        /// The first frame.
        first: PathBuf,
        /// The second frame.
        second: PathBuf,
    },
    /// A file could not be read.
    #[error("{path}: cannot read")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is larger than any sensible result file.
    #[error(
        "{path}: {bytes} bytes, at most {limit} are read: split the samples over several files"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size that is read.
        limit: u64,
    },
    /// A file is not a nuScenes result file.
    #[error("{path}: not a nuScenes result file: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The place (sample, box, key, line, column) and what was expected there.
        reason: serde_json::Error,
    },
    /// A box cannot be scored or written.
    #[error("sample `{sample}`, box {index}: {reason}")]
    BadBox {
        /// The sample's token.
        sample: String,
        /// The box's index among the sample's boxes.
        index: usize,
        /// The value and what was expected.
        reason: String,
    },
}

impl FrameResult<'_> {
    /// The class name of box `index`, once every number of the box is known to be finite.
    fn checked_class<'n>(
        &self,
        index: usize,
        b: &Box3d,
        classes: &'n [String],
    ) -> Result<&'n str, ResultsError> {
        let variances = self.variances.get(index);
        let variances = variances.map_or(&[][..], |variances| variances.values());
        let fields = [
            ("score", &[b.score][..]),
            ("center", &b.center),
            ("size", &b.size),
            ("yaw", &[b.yaw]),
            ("velocity", &b.velocity),
            ("variances", variances),
        ];
        for (field, values) in fields {
            if let Some(&value) = values.iter().find(|v| !v.is_finite()) {
                return Err(ResultsError::NonFinite {
                    frame: self.frame.to_owned(),
                    index,
                    field,
                    value,
                });
            }
        }
        let name = usize::try_from(b.class).ok().and_then(|i| classes.get(i));
        name.map(String::as_str)
            .ok_or_else(|| ResultsError::UnknownClass {
                frame: self.frame.to_owned(),
                index,
                class: b.class,
                classes: classes.len(),
            })
    }
}
