//! The CPU engine: convolutional networks in f32, on any instruction set, without dependencies.
//!
//! # Public API
//! ```text
//! offline   ProgramBuilder::new()
//!               .input(name, c, h, w) -> TensorId
//!               .conv(name, x, &ConvSpec) .conv_transpose(name, x, &ConvTransposeSpec)
//!               .affine(name, x, scale, shift, relu) .relu(name, x) .sigmoid(name, x)
//!               .add(name, a, b, relu) .concat(name, &[x…]) .max_pool(name, x, &MaxPoolSpec)
//!               .depth_to_space(name, x, block, DepthToSpaceMode) .output(x, name)
//!               .finish() -> Payload { program: Program (serde), weights: Vec<u8> }
//! at run    CpuEngine::new(program, weights: Weights, pool: Arc<Pool>, Options) -> CpuEngine: Engine
//! ```
//! All builder methods return `Result<_, EngineError>`, whose errors name the node. The weights are
//! read in place, for instance from a memory-mapped file; see [`Weights`].

mod builder;
mod lower;
mod pack;
pub mod program;

pub use builder::{ConvSpec, ConvTransposeSpec, MaxPoolSpec, ProgramBuilder, TensorId};
pub use program::{DepthToSpaceMode, Payload, Program};

use std::sync::Arc;

/// The owner of the weight blob: `Arc::new(vec)`, or a memory map behind a type that gives the
/// blob's part of it. The bytes must stay where they are and begin at a multiple of 64 bytes.
pub type Weights = Arc<dyn AsRef<[u8]> + Send + Sync>;
