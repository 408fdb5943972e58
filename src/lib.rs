//! CenterPoint (pillars) lidar detection: points in, 3D boxes out.
//!
//! The way of the data, and the module that is each step:
//!
//! ```text
//! frame.bin ─ points ─ sweeps ─ pillars ─ features ─ scatter ─ engine ─ decode ─ nms ─ boxes ─ results
//! model.onnx ─ build: import ─ fuse ─ compile ─ X.plan
//! ```
//!
//! [`detector::Detector`] runs the first line; module `build` makes the plan file that it loads. Module
//! [`cuda`] has the stages around the engine once more, as kernels.
//! Lengths are metres, angles radians (counter-clockwise seen from above), times seconds, unless a
//! name says otherwise. The vehicle frame is x forward, y left, z up.

#[cfg(feature = "mcap")]
pub mod bag;
pub mod bench;
pub mod boxes;
pub mod build;
pub mod capi;
pub mod cpu;
pub mod cuda;
pub mod deadline;
pub mod detection;
pub mod detector;
pub mod draw;
pub mod engine;
pub mod error;
pub mod eval;
#[doc(hidden)]
pub mod files;

pub mod map;
pub mod model;
pub mod plan;
pub mod points;
pub mod program;
pub mod results;
pub mod stages;
pub mod synth;

pub use boxes::Box3d;
pub use detection::{Dropped, Times};
pub use detector::Detector;
pub use error::{Error, Result};
pub use model::Model;
pub use points::{Column, Layout, PointCloud};

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
