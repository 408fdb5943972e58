//! Imports the exports of AWML and mmdetection3d: two ONNX files, one with the pillar feature network
//! and one with the rest.
//!
//! [`read_pfe`] extracts the PFN's weights from the first. [`read_rpn`] fuses the second, checks it
//! against the model description and names its outputs as the description does.

mod axes;
mod heads;
mod outputs;
mod pfe;
mod rpn;

pub(crate) use heads::read_heads;
pub use outputs::Matching;
pub use pfe::read_pfe;
pub(crate) use pfe::{LayerTensors, Pfe, UnfusedLayer, pfe_of, unfused_pfe};
pub use rpn::{Rpn, read_rpn};
pub(crate) use rpn::{rpn_of, unfused_rpn};
