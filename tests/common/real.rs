//! Real frames for tests of stages: the demo frames of this repository, and the scanners' frames of the
//! shared material where that is there.
#![allow(dead_code)] // Each test binary uses its part.

use centerpoint::points::{self, Layout, PointCloud, ReadOptions};

use crate::common::{repository, shared};

/// A frame and its name for messages.
pub(crate) struct RealFrame {
    pub(crate) name: String,
    pub(crate) cloud: PointCloud,
}

/// The demo frames, which come in the demo model's columns.
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

/// The scanners' frames of the shared material; none, with a line that says so, where it is absent.
pub(crate) fn scanner_frames() -> Vec<RealFrame> {
    let Some(folder) = shared("data/frames") else {
        return Vec::new();
    };
    let mut frames = Vec::new();
    for (data_set, layout) in [
        ("kitti", Some("kitti")),
        ("nuscenes", None),
        ("waymo", Some("waymo")),
        ("av2", Some("xyzir")),
        ("autoware", None),
    ] {
        let options = ReadOptions {
            layout: layout.map(|layout| layout.parse().unwrap()),
            default_layout: Layout::XYZIT,
        };
        for path in points::list_frames(&[folder.join(data_set)]).unwrap() {
            frames.push(RealFrame {
                name: path.strip_prefix(&folder).unwrap().display().to_string(),
                cloud: points::read(&path, &options).unwrap(),
            });
        }
    }
    frames
}
