//! CenterPoint (pillars) lidar detection: points in, 3D boxes out.
//!
//! The way of the data, and the module that is each step:
//!
//! ```text
//! frame.bin ─ points ─ sweeps ─ pillars ─ features ─ scatter ─ engine ─ decode ─ nms ─ boxes ─ output
//! model.onnx ─ build: import ─ fuse ─ compile ─ X.plan
//! ```
//!
//! [`detector::Detector`] runs the first line; module `build` makes the plan file that it loads. Module
//! [`cuda`] has the stages around the engine once more, as kernels.
//! Lengths are metres, angles radians (counter-clockwise seen from above), times seconds, unless a
//! name says otherwise. The vehicle frame is x forward, y left, z up.

pub mod bench;
pub mod boxes;
pub mod build;
pub mod capi;
pub mod cuda;
pub mod deadline;
pub mod decode;
pub mod detector;
pub mod engine;
pub mod error;
pub mod eval;
pub mod features;
mod files;
pub mod frame;
pub mod install;
pub mod model;
pub mod nms;
pub mod output;
pub mod pillars;
pub mod plan;
pub mod points;
#[cfg(any(feature = "mcap", feature = "ros2"))]
pub mod ros;
pub mod scatter;
pub mod synth;
#[doc(hidden)]
pub mod testing;
pub mod threads;

pub use boxes::Box3d;
pub use detector::Detector;
pub use error::{Error, Result};
pub use frame::{Dropped, Times};
pub use model::Model;
pub use points::{Column, Layout, PointCloud};

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
