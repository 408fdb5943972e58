//! The demo frames, for tests of the stages.

use centerpoint::points::ReadOptions;
use centerpoint::{Layout, PointCloud, points};

use crate::common::repository;

/// A frame, and its name for messages.
pub(crate) struct RealFrame {
    pub(crate) name: String,
    pub(crate) cloud: PointCloud,
}

/// Reads the demo frames, whose columns are those of the demo model.
pub(crate) fn demo_frames() -> Vec<RealFrame> {
    let names = (0..16).map(|i| format!("calib/demo/frames/{i:06}.bin"));
    let read = |name: String| {
        let options = ReadOptions {
            layout: None,
            default_layout: Layout::XYZIT,
        };
        let cloud = points::read(&repository().join(&name), &options).unwrap();
        RealFrame { name, cloud }
    };
    names.map(read).collect()
}
