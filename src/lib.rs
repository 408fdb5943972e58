//! CenterPoint (pillars) lidar detection: points in, 3D boxes out.
//!
//! ```text
//! frame.bin ─ points ─ encoder ─ engine ─ decoder ─ boxes ─ results
//! model.onnx ─ build ─ X.plan
//! ```
//!
//! [`Detector`] runs the first line on a [`Plan`], which the second line makes. Encoder (pillars, features, scatter) and
//! decoder (decode, NMS) exist twice, with the same names and the same bytes: on the CPU and as CUDA kernels.
//!
//! - [`points`] reads frames and accumulates sweeps, [`results`] formats boxes.
//! - [`model`] describes a network; a plan holds a [`Model`].
//! - [`engine`] and [`map`] are for an engine of your own, see [`Detector::with_engine`]; [`cuda`] opens a GPU for it.
//! - Module `build` (feature `build`) imports and quantises networks.
//!
//! Lengths are metres, angles radians (counter-clockwise seen from above), times seconds, unless a
//! name says otherwise. The vehicle frame is x forward, y left, z up.

#![cfg_attr(docsrs, feature(doc_cfg))]
// What only the programs call has no caller without them.
#![cfg_attr(
    not(all(feature = "cli", feature = "build")),
    allow(dead_code, unreachable_pub, unused_imports)
)]

#[cfg(feature = "mcap")]
mod bag;
#[cfg(feature = "cli")]
mod bench;
mod boxes;
#[cfg(feature = "build")]
pub mod build;
mod capi;
mod chain;
#[cfg(feature = "cli")]
mod cli;
mod cpu;
pub mod cuda;
mod deadline;
mod detection;
mod detector;
#[cfg(feature = "cli")]
mod draw;
mod elementary;
pub mod engine;
mod error;
#[cfg(any(feature = "cli", feature = "build"))]
mod eval;
mod files;
#[doc(hidden)]
pub mod internals;
pub mod map;
pub mod model;
mod plan;
pub mod points;
mod program;
pub mod results;
mod stages;
#[cfg(any(feature = "cli", feature = "build"))]
mod synth;
#[cfg(any(feature = "build", test))]
mod testing;

pub use boxes::{Box3d, Variances};
pub use deadline::{Budget, Counts, Deadline, Level};
pub use detection::{Detection, Dropped, Times};
pub use detector::{Detector, DetectorError, Device, Options};
pub use error::{Error, Result};
pub use model::Model;
pub use plan::{Plan, PlanError};
pub use points::{Column, Layout, PointCloud};

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
