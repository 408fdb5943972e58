//! Tests on the shared material of this project's developers, a folder `shared` beside the checkout: real frames of
//! several scanners, trained networks, and results of reference implementations. Their licences keep them out of the
//! repository.

mod calibration;
mod checkpoints;
mod cuda;
mod evaluation;
mod exports;
mod files;
mod pfn;
mod sweeps;

use std::path::PathBuf;

use centerpoint::points::ReadOptions;
use centerpoint::{Layout, points};

use crate::common::repository;
use crate::real::RealFrame;

/// A file or folder of the shared material.
fn shared(name: &str) -> PathBuf {
    let path = repository().join("../shared").join(name);
    assert!(path.exists(), "this test needs ../shared/{name}");
    path
}

/// Reads all frames of all scanners.
fn scanner_frames() -> Vec<RealFrame> {
    let folder = shared("data/frames");
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
        for path in points::list_frames(&[folder.join(data_set)], false) {
            frames.push(RealFrame {
                name: path.strip_prefix(&folder).unwrap().display().to_string(),
                cloud: points::read(&path, &options).unwrap(),
            });
        }
    }
    frames
}
