//! ONNX files: read, check, edit, write.
//!
//! | module | what |
//! |---|---|
//! | [`proto`] | the messages of the format |
//! | `scan` | how much memory a file's messages would take, before they are decoded |
//! | `file` | from and to disk |
//! | [`tensor`] | constant tensors as vectors |
//! | [`node`] | a node's attributes and description |
//! | [`graph`] | a checked graph: who makes and who uses each value; edits |
//! | `make` | nodes and attributes for edits |
//! | [`opset`] | raising the version of the operator set |
//! | [`window`] | kernel, stride and padding of convolutions |
//! | [`shapes`], `values` | shapes of all values; small integer constants on the way to them |

mod file;
pub mod graph;
pub(crate) mod make;
pub mod node;
pub mod opset;
pub mod proto;
mod scan;
pub mod shapes;
pub mod tensor;
mod values;
pub mod window;

pub use file::{MAX_FILE_BYTES, decode, encode};
pub use graph::Graph;
pub use node::Node;
pub use shapes::Shapes;
pub use tensor::Tensor;
pub use window::Window;
