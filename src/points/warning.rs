//! What is probably wrong with a frame, and the option that mends it.

use std::fmt;

use super::Layout;

/// A frame can be used, but something about it is probably wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameWarning {
    /// The file goes on after its last point.
    #[error("{bytes} bytes follow the last point that the header declares; they are ignored")]
    Excess {
        /// Bytes after the last point, including padding.
        bytes: u64,
    },
    /// A PCD has a VIEWPOINT. Like PCL's own filters, nothing here moves the points by it.
    #[error("the points are not moved by VIEWPOINT {0}; --extrinsic moves them")]
    Viewpoint(String),
    /// Many coordinates are of no plausible size.
    #[error(
        "{:.0} % of the coordinates are above 10 km or below 1 µm: the values are not metres as f32; name the columns with \
         --layout", .share * 100.0
    )]
    NotCoordinates {
        /// Share of the coordinates.
        share: f64,
    },
    /// The columns look mixed up, and rows of another length do not.
    #[error(
        "the columns `{layout}` do not look like x, y, z, but rows of {columns} values do: name them with --layout"
    )]
    Columns {
        /// The columns used to read the frame.
        layout: Layout,
        /// Values of a row that fits.
        columns: usize,
    },
    /// The intensities have another scale than the model's.
    #[error(
        "the intensities reach {found}, those of the model {expected}: --intensity-scale {}", Significant(*.scale)
    )]
    Intensity {
        /// Largest intensity, in the model's scale.
        found: f32,
        /// Largest intensity of the training data.
        expected: f32,
        /// Factor that makes them equal.
        scale: f32,
    },
    /// Hardly any point is within the model's range.
    #[error(
        "only {:.1} % of the points are within the model's range: they should be in metres, in the vehicle's frame (x \
         forward, z up); --extrinsic moves them", .share * 100.0
    )]
    OutOfRange {
        /// Share of the points.
        share: f64,
    },
    /// The ground is not where the model expects it.
    #[error(
        "the ground is at {found:.2} m, and the model expects it at {expected:.2} m: --ground auto moves the points"
    )]
    Ground {
        /// Height of the ground, in metres.
        found: f32,
        /// Height of the ground in the training data.
        expected: f32,
    },
    /// A single sweep, where the model was trained on several.
    #[error(
        "the frame is one sweep, and the model was trained on {expected}: --sweeps or --bag adds the past ones"
    )]
    Sweeps {
        /// The model's sweeps.
        expected: usize,
    },
}

/// Displays a number with three significant digits.
struct Significant(f32);

impl fmt::Display for Significant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = 2 - self.0.abs().log10().floor().clamp(-9.0, 2.0) as i32;
        write!(f, "{:.*}", digits as usize, self.0)
    }
}
