//! The integration tests: the public API, the programs, and comparisons with independent references. They form one
//! program, which links once.
//!
//! A test that needs more than the repository, a C++ compiler and bash is ignored unless it is asked for:
//!
//! - `#[ignore = "needs A, B"]`: `tests/ignored.sh` runs the tests whose needs are met. An upper-case name is an environment
//!   variable, which `.ci/run` sets; a path is a file beside the repository; `lib…` is a library of the compiler; any
//!   other name is a program. The test fails if it is asked for and a need is not met.
//! - `#[ignore = "nightly: …"]`: exhaustive and slow. `.ci/nightly` runs it.
//! - `#[ignore = "started by …"]`: the part of another test that runs in a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod autoware;
mod common;

mod bag;
mod bench;
mod book;
mod calibration;
mod capi;
mod cli;
mod compile;
mod cuda;
mod degenerate;
mod demo;
mod detector;
mod engine;
mod eval;
mod face;
mod folder;
mod generate;
mod import;
mod layers;
mod memory;
mod model;
mod mounting;
mod new_model;
mod output;
mod outputs;
mod plan;
mod points;
mod qat;
mod quantize;
mod recipe;
mod rounding;
mod scales;
mod seeds;
mod sensitivity;
mod shared;
mod stages;
mod sweeps;
mod tensorrt;
mod train;

use centerpoint::internals::testing::nets;
#[cfg(feature = "tensorrt")]
use common::standin;
use common::{bev, emulation, engine_net, frames, npz, oracle, real, recorded, toy};
