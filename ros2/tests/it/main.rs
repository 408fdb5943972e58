//! Integration tests of `cp-ros2`: its man page and completions, and the node next to other ROS 2 implementations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod generate;
mod peer;

use std::process::Output;

/// The program under test.
const NODE: &str = env!("CARGO_BIN_EXE_cp-ros2");

/// What a program printed, on both streams.
fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}
