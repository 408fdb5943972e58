//! Exports the crate's structures as ONNX files: the counterpart of `import`.

mod pfe;
mod quantized;
mod typed;

pub use pfe::pfe;
pub use quantized::write_quantized;
pub use typed::{TypedNetwork, write_typed};
