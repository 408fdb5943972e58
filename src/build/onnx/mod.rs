//! ONNX files: read, check, edit, write.
//!
//! | module | what it holds |
//! |---|---|
//! | [`proto`] | the messages of the format |
//! | `scan` | the memory that a file's messages need, measured before they are decoded |
//! | `file` | reading from and writing to disk |
//! | `external` | tensors that lie in other files |
//! | [`tensor`] | constant tensors as vectors and arrays |
//! | [`node`] | a node's attributes, inputs and description |
//! | [`graph`] | a checked graph: producers and consumers of each value, edits |
//! | `make` | nodes, attributes and values for edits |
//! | [`opset`] | raising the operator set version |
//! | [`window`] | kernel, stride and padding of convolutions |
//! | [`shapes`], `values` | the shapes of all values, and the small integer constants they depend on |

mod external;
mod file;
pub(crate) mod graph;
pub(crate) mod make;
pub(crate) mod node;
pub(crate) mod opset;
pub(crate) mod proto;
mod scan;
pub(crate) mod shapes;
pub(crate) mod tensor;
mod values;
pub(crate) mod window;

pub(crate) use file::data_files;
pub use file::{decode, encode};
pub use graph::Graph;
pub(crate) use node::Node;
pub(crate) use shapes::Shapes;
pub(crate) use window::Window;
