//! Cross-layer equalisation: channels of one tensor get like ranges, at no cost at run time.
//!
//! A tensor has one INT8 scale for all of its channels, so that a channel with small values keeps
//! few levels. Dividing channel c by a factor `s_c > 0` where it is made and multiplying the weights
//! that read it by the same changes nothing in the result: convolutions are linear, and Relu, MaxPool,
//! Concat and DepthToSpace only choose or move values. The pillar feature network is the first maker:
//! its last layer is Linear, Relu and a max over rows (of padding, too), all of which a factor passes.
//!
//! `s_c = (amax of channel c)^alpha`, with geometric mean 1 over a tensor: alpha = 1 gives all
//! channels one range, and all of the unevenness to the weights; 0.5 shares it (Nagel et al., "Data-Free
//! Quantization Through Weight Equalization and Bias Correction", ICCV 2019). Channels that only hold
//! zeros keep factor 1; others stay within [`MAX_FACTOR`] of it.
//!
//! Channels that operators tie together form a *class* with one factor: those before and after a Relu,
//! the `s²` channels that a DepthToSpace spreads over one, both summands of a residual Add. A class
//! that meets anything else (an output of the network, Sigmoid, a BatchNormalization that could not be
//! folded) keeps factor 1, with the reason in the [`Report`].

mod align;
mod channels;
mod fold;

use std::collections::BTreeMap;

pub use self::align::{Levels, align};
use self::channels::Channels;
use super::Result;
use super::onnx::{Graph, Node};
use crate::model::Pfn;

/// Factors are within 1/64 to 64: what a dead or a wild channel asks for beyond that helps nobody.
pub const MAX_FACTOR: f64 = 64.0;

/// A network whose results are those of the one it was made from.
#[derive(Clone, Debug)]
pub struct Equalized {
    /// Backbone, neck and head.
    pub graph: Graph,
    /// The pillar feature network.
    pub pfn: Pfn,
    /// What was done.
    pub report: Report,
}

/// What [`equalize`] did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The tensors that convolutions read whose channels got factors.
    pub equalized: Vec<Equal>,
    /// Those that stay, or of which channels stay.
    pub left_out: Vec<LeftOut>,
}

impl Report {
    /// A line for each tensor, for people.
    pub fn lines(&self) -> Vec<String> {
        let equalized = self.equalized.iter().map(|e| {
            let [least, largest] = e.factors;
            let (tensor, channels, dead) = (&e.tensor, e.channels, e.dead);
            format!(
                "equalized {channels} channels of {tensor} by {least:.3} to {largest:.3}, \
                 {dead} of them dead"
            )
        });
        let left_out = self.left_out.iter().map(|l| {
            let (tensor, channels, reason) = (&l.tensor, l.channels, &l.reason);
            format!("left {channels} channels of {tensor} as they are: {reason}")
        });
        equalized.chain(left_out).collect()
    }
}

/// A tensor whose channels got factors.
#[derive(Clone, Debug, PartialEq)]
pub struct Equal {
    /// Its name.
    pub tensor: String,
    /// Channels that got one.
    pub channels: usize,
    /// Channels that only hold zeros.
    pub dead: usize,
    /// Least and largest factor.
    pub factors: [f64; 2],
}

/// A tensor with channels that could get no factor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub tensor: String,
    /// Channels that stay as they are.
    pub channels: usize,
    /// Why.
    pub reason: String,
}

/// Equalises a network. `channel_amax` has the largest absolute value of each channel of the tensors
/// that convolutions read, by name. The graph must have a fixed input size and folded
/// BatchNormalizations (see [`super::fuse`]).
///
/// Computed in f64, stored as f32: the results differ by rounding only.
///
/// # Errors
/// [`super::BuildError`] for a tensor without maxima, or with those of another number of channels; for
/// malformed nodes; for weights that would not be finite.
pub fn equalize(
    graph: &Graph,
    pfn: &Pfn,
    channel_amax: &BTreeMap<String, Vec<f32>>,
    alpha: f64,
) -> Result<Equalized> {
    let channels = Channels::of(graph, pfn)?;
    let (factors, report) = channels.equalized(graph, channel_amax, alpha)?;
    let (graph, pfn) = fold::fold(graph, pfn, &factors)?;
    Ok(Equalized { graph, pfn, report })
}

fn is_convolution(node: Node<'_>) -> bool {
    matches!(node.op(), "Conv" | "ConvTranspose")
}

#[cfg(test)]
mod tests;
