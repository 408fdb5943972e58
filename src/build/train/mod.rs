//! Training: gradients of the network, and what is done with them.
//!
//! ```text
//! graph ─ Network ─ forward ─ loss ─ backward ─ Optimizer ─┐
//!            └──────────────── prepare ────────────────────┘
//! ```
//!
//! Everything is computed in f32 with the kernels of the CPU engine, on all cores. All sums have a fixed order, so a
//! training gives the same bytes each time, for any number of threads and on every instruction set.

mod conv;
mod error;
pub(crate) mod input;
pub(crate) mod kernels;
pub(crate) mod loss;
mod map;
pub(crate) mod network;
mod norm;
pub(crate) mod optimizer;
pub(crate) mod params;
pub(crate) mod pfn;
pub(crate) mod state;
pub(crate) mod target;
#[cfg(test)]
mod tests;

pub(crate) use error::TrainingError;
pub(crate) use map::Shape;
