//! The way back from the crate's structures to ONNX files: the counterpart of `import`.

mod pfe;
mod quantized;
mod typed;

pub use pfe::pfe;
pub use quantized::write_quantized;
pub use typed::{Typed, write_typed};
