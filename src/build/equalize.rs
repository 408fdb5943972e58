//! Cross-layer equalisation: gives the channels of a tensor similar ranges, at no cost at run time.
//!
//! A tensor has one INT8 scale for all channels, so a channel with small values gets few levels. The
//! network's results do not change if the producer of channel c divides it by a factor `s_c > 0` and
//! the weights that read it are multiplied by `s_c`: convolutions are linear, and Relu, MaxPool, Concat
//! and DepthToSpace only select or move values. The first producer is the pillar feature network, whose
//! last layer (Linear, Relu and a max over rows, padding included) also commutes with a factor.
//!
//! `s_c = (amax of channel c)^alpha`, with geometric mean 1 over a tensor. With alpha = 1 all channels
//! get the same range and the weights get all of the unevenness; 0.5 splits it evenly (Nagel et al.,
//! "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019). Channels that
//! only hold zeros keep factor 1; [`MAX_FACTOR`] limits the others.
//!
//! Channels that operators tie together form a *class* with one factor: those before and after a Relu,
//! the `s²` channels that a DepthToSpace spreads over one, the summands of a residual Add. A class that
//! meets anything else (an output of the network, a Sigmoid, a BatchNormalization that was not folded)
//! keeps factor 1, and the [`EqualizeReport`] says why.

mod align;
mod channels;
mod fold;

use std::collections::BTreeMap;

pub(crate) use self::align::{Levels, align};
use self::channels::Channels;
use super::Result;
use super::onnx::{Graph, Node};
use crate::model::Pfn;

/// Factors are clamped to 1/64 ..= 64; larger ones, for nearly dead or wild channels, do not help.
pub(crate) const MAX_FACTOR: f64 = 64.0;

/// A network that computes the same results as the one it was made from.
#[derive(Clone, Debug)]
pub(crate) struct Equalized {
    /// Backbone, neck and head.
    pub graph: Graph,
    /// The pillar feature network.
    pub pfn: Pfn,
    /// What changed.
    pub report: EqualizeReport,
}

/// What [`equalize`] changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EqualizeReport {
    /// Inputs of convolutions with channels that got factors.
    pub equalized: Vec<EqualizedTensor>,
    /// Inputs of convolutions with channels that got none.
    pub left_out: Vec<LeftOut>,
}

impl EqualizeReport {
    /// One human-readable line per tensor.
    pub(crate) fn lines(&self) -> Vec<String> {
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

/// A tensor with channels that got factors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EqualizedTensor {
    /// Its name.
    pub tensor: String,
    /// Number of channels that got a factor.
    pub channels: usize,
    /// Number of channels that only hold zeros.
    pub dead: usize,
    /// Smallest and largest factor.
    pub factors: [f64; 2],
}

/// A tensor with channels that could not get a factor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// Its name.
    pub tensor: String,
    /// Number of channels without a factor.
    pub channels: usize,
    /// Why.
    pub reason: String,
}

/// Equalises a network. `channel_amax` holds the largest magnitude of each channel, by name, for all
/// tensors that convolutions read. The graph must have a fixed input size and folded
/// BatchNormalizations (see [`super::fuse`]).
///
/// The new weights are computed in f64 and stored as f32, so results differ by rounding only.
///
/// # Errors
/// [`super::BuildError`] if maxima are missing or have the wrong number of channels, for malformed
/// nodes, and for weights that would not be finite.
pub(crate) fn equalize(
    graph: &Graph,
    pfn: &Pfn,
    channel_amax: &BTreeMap<String, Vec<f32>>,
    alpha: f64,
) -> Result<Equalized> {
    let channels = Channels::new(graph, pfn)?;
    let (factors, report) = channels.equalize(graph, channel_amax, alpha)?;
    let (graph, pfn) = fold::fold(graph, pfn, &factors)?;
    Ok(Equalized { graph, pfn, report })
}

fn is_convolution(node: Node<'_>) -> bool {
    matches!(node.op(), "Conv" | "ConvTranspose")
}

#[cfg(test)]
mod tests;
