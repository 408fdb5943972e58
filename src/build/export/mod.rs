//! Exports the crate's structures as ONNX files: the counterpart of `import`.

mod pfe;
mod quantized;
mod trained;
mod typed;

pub use pfe::pfe;
pub(crate) use quantized::write_quantized;
pub(crate) use trained::write_trained;
pub(crate) use typed::{TypedNetwork, write_typed};
