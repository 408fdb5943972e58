//! What leaves the program: tables, JSON lines, KITTI and nuScenes result files, BEV pictures, charts, MCAP
//! files.
//!
//! Every text format is a pure function from a [`FrameResult`] and the model's class names to a
//! string; who calls it writes the string where it belongs.

pub mod bev;
pub(crate) mod color;
mod font;
#[cfg(feature = "mcap")]
pub mod foxglove;
pub mod json;
pub mod kitti;
#[cfg(feature = "mcap")]
pub mod mcap;
pub mod nuscenes;
pub mod plot;
mod raster;
pub mod table;

#[doc(hidden)]
pub use color::class as class_color;
pub use raster::Image;

use std::path::PathBuf;

use crate::boxes::Box3d;
use crate::detection::{Dropped, Times};

/// All that is known about one frame after detection.
#[derive(Clone, Copy, Debug)]
pub struct FrameResult<'a> {
    /// The frame's name: its file as the user gave it.
    pub frame: &'a str,
    /// Points in the cloud, sweeps included, before any was dropped.
    pub points: usize,
    /// What was lost on the way.
    pub dropped: Dropped,
    /// The detections, best first.
    pub boxes: &'a [Box3d],
    /// Stage times, where they were asked for. They differ from run to run, so that the outputs
    /// have the same bytes only without them.
    pub times: Option<Times>,
}

/// Why a result could not be written in the asked-for format.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// A number is NaN or infinite, which JSON and the text formats cannot say.
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
        /// What was found.
        value: f32,
    },
    /// A stage time is NaN or infinite.
    #[error("{frame}: times_ms.{field} is {value}, not a finite number")]
    Time {
        /// The frame's name.
        frame: String,
        /// Name of the stage.
        field: &'static str,
        /// What was found.
        value: f64,
    },
    /// A box has a class that the list of names does not reach.
    #[error("{frame}: box {index} has class {class}, but there are {classes} class names")]
    UnknownClass {
        /// The frame's name.
        frame: String,
        /// Index into the frame's boxes.
        index: usize,
        /// The box's class.
        class: u32,
        /// How many names were given.
        classes: usize,
    },
    /// The line could not be put together.
    #[error("{frame}: cannot write JSON: {source}")]
    Json {
        /// The frame's name.
        frame: String,
        /// What the serialiser said.
        source: serde_json::Error,
    },
    /// Two frames would be written under one name.
    #[error("{first} and {second} would both be written as `{name}`; run them one after the other")]
    SameName {
        /// The name of both.
        name: String,
        /// A frame.
        first: PathBuf,
        /// Another frame.
        second: PathBuf,
    },
    /// The picture's size or range cannot be drawn.
    #[error("BEV picture: {what}")]
    Picture {
        /// Which option is wrong, with the value found and those allowed.
        what: String,
    },
}

impl FrameResult<'_> {
    /// Box `index`'s class name, after checking that every number of the box is finite.
    fn checked_class<'n>(
        &self,
        index: usize,
        b: &Box3d,
        classes: &'n [String],
    ) -> Result<&'n str, OutputError> {
        let fields = [
            ("score", &[b.score][..]),
            ("center", &b.center),
            ("size", &b.size),
            ("yaw", &[b.yaw]),
            ("velocity", &b.velocity),
        ];
        for (field, values) in fields {
            if let Some(&value) = values.iter().find(|v| !v.is_finite()) {
                return Err(OutputError::NonFinite {
                    frame: self.frame.to_owned(),
                    index,
                    field,
                    value,
                });
            }
        }
        let name = usize::try_from(b.class).ok().and_then(|i| classes.get(i));
        name.map(String::as_str)
            .ok_or_else(|| OutputError::UnknownClass {
                frame: self.frame.to_owned(),
                index,
                class: b.class,
                classes: classes.len(),
            })
    }
}

/// The name of `class`, or its index where the list of names does not reach it.
fn class_name(class: u32, classes: &[String]) -> String {
    let name = usize::try_from(class).ok().and_then(|i| classes.get(i));
    name.cloned().unwrap_or_else(|| format!("class {class}"))
}
