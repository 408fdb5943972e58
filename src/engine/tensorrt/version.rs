//! Versions of TensorRT and of its plans.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A line of libraries with one set of interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// TensorRT (libnvinfer).
    TensorRt,
    /// TensorRT-RTX (libtensorrt_rtx): its numbers are its own.
    TensorRtRtx,
}

/// A version of TensorRT, such as 10.3.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Whose numbers these are.
    pub family: Family,
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.family {
            Family::TensorRt => "TensorRT",
            Family::TensorRtRtx => "TensorRT-RTX",
        };
        write!(f, "{name} {}.{}.{}", self.major, self.minor, self.patch)
    }
}
