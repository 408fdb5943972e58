//! Takes AWML's and mmdetection3d-style exports: two ONNX files, the pillar feature network and the
//! rest.
//!
//! [`read_pfe`] gets the PFN's weights out of the first; [`read_rpn`] checks the second against the
//! model description, names its outputs as the description does, and fuses it.

mod axes;
mod outputs;
mod pfe;
mod rpn;

pub use outputs::Matching;
pub use pfe::{Pfe, read_pfe};
pub use rpn::{Rpn, read_rpn};
