//! Pictures and plots: the bird's-eye view of a frame, histograms and curves.

pub(crate) mod bev;
mod canvas;
pub(crate) mod color;
mod font;
pub(crate) mod plot;

pub use color::class as class_color;

use crate::files::FileError;

/// A picture could not be drawn or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrawError {
    /// The picture's size or range is invalid.
    #[error("BEV picture: {reason}")]
    View {
        /// Which option is wrong, with its value and those allowed.
        reason: String,
    },
    /// A picture with these sides cannot be drawn.
    #[error("a picture of {width} × {height} pixels cannot be drawn")]
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}
