//! All integration tests in one program, which links once: the public API, the two programs, and the
//! comparisons with independent references. Tests that count allocations are programs of their own
//! (`tests/memory_*.rs`), since the counter is the process's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/bev.rs"]
mod bev;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/emulation.rs"]
#[allow(dead_code)]
mod emulation;
#[path = "../common/engine_net.rs"]
#[allow(dead_code, unreachable_pub)]
mod engine_net;
#[path = "../common/fixed_engine.rs"]
mod fixed_engine;
#[path = "../common/frames.rs"]
mod frames;
#[path = "../common/nets.rs"]
mod nets;
#[cfg(feature = "tensorrt")]
#[path = "../../benches/engine/networks.rs"]
#[allow(dead_code)]
mod networks;
#[path = "../common/npz.rs"]
mod npz;
#[path = "../common/oracle.rs"]
mod oracle;
#[cfg(feature = "tensorrt")]
#[path = "../../benches/common/random.rs"]
mod random;
#[path = "../common/real.rs"]
mod real;
#[path = "../common/recorded.rs"]
#[allow(dead_code, unreachable_pub)]
mod recorded;
#[cfg(feature = "tensorrt")]
#[path = "../common/standin.rs"]
mod standin;
#[path = "../common/toy.rs"]
mod toy;

mod bag;
mod bench;
mod book;
mod calibrate;
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
mod folder;
mod generate;
mod import;
mod layers;
mod machine;
mod model;
mod output;
mod pfn_golden;
mod plan;
mod points;
mod quantize;
mod recipe;
mod seeds;
mod sensitivity;
mod stages;
mod sweeps;
mod synth;
mod tensorrt;
