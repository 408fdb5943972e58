//! What the engine is compared with: a naive reference in Rust, and ONNX Runtime.

pub mod naive;
pub mod net;
