//! CenterPoint (pillars) lidar detection: points in, 3D boxes out.
//!
//! Data flows from left to right; each name is a module:
//!
//! ```text
//! frame.bin ─ points ─ stages ─ engine ─ stages ─ boxes ─ results
//! model.onnx ─ build ─ X.plan
//! ```
//!
//! [`detector::Detector`] runs the first line on a plan, which module `build` makes. The [`stages`] around the engine
//! (pillars, features and scatter before it, decode and NMS after it) exist twice, with the same names and the same
//! bytes: in [`cpu`] and, as kernels, in [`cuda`].
//!
//! Lengths are metres, angles radians (counter-clockwise seen from above), times seconds, unless a
//! name says otherwise. The vehicle frame is x forward, y left, z up.

#[cfg(feature = "mcap")]
pub mod bag;
#[cfg(feature = "cli")]
pub mod bench;
pub mod boxes;
#[cfg(feature = "build")]
pub mod build;
pub mod capi;
pub mod chain;
#[cfg(feature = "cli")]
pub mod cli;
pub mod cpu;
pub mod cuda;
pub mod deadline;
pub mod detection;
pub mod detector;
#[cfg(any(feature = "cli", feature = "mcap"))]
pub mod draw;
pub mod engine;
pub mod error;
#[cfg(any(feature = "cli", feature = "build"))]
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
#[cfg(any(feature = "cli", feature = "build"))]
pub mod synth;
#[cfg(feature = "build")]
#[doc(hidden)]
pub mod testing;

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
