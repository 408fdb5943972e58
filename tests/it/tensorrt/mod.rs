//! TensorRT: what can be shown of it without a GPU.

mod compile;
mod layers;
mod onnx;
