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

mod channels;

use std::collections::{BTreeMap, HashMap};

use self::channels::{Channels, Factors};
use super::Result;
use super::fuse::constant_name;
use super::onnx::proto::TensorProto;
use super::onnx::tensor::{self, Tensor, element};
use super::onnx::{Graph, Node, Shapes};
use crate::features::Pfn;

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
    let shapes = Shapes::infer(graph, &[])?;
    let mut channels = Channels::new(graph, &shapes);
    for node in graph.nodes() {
        channels.visit(graph, node)?;
    }
    for value in &graph.proto().output {
        channels.pin(value.name(), "it is an output of the network");
    }
    let made = pfn.layers.last().map_or(0, |layer| layer.out_features);
    for input in graph.inputs()? {
        if channels
            .map(&input.name)
            .is_some_and(|map| map.len() != made)
        {
            let reason = format!("the PFN makes {made} channels for it");
            channels.pin(&input.name, &reason);
        }
    }
    let (factors, report) = channels.factors(graph, channel_amax, alpha)?;

    let mut pfn = pfn.clone();
    if let (Some(layer), [input]) = (pfn.layers.last_mut(), &graph.inputs()?[..]) {
        let rows = layer.weight.chunks_exact_mut(layer.in_features.max(1));
        for ((row, bias), factor) in rows.zip(&mut layer.bias).zip(factors.of(&input.name)) {
            for value in row.iter_mut().chain([bias]) {
                *value = (f64::from(*value) / factor) as f32;
            }
        }
    }
    let mut changes = Changes::default();
    for node in graph.nodes().filter(|n| is_convolution(*n)) {
        changes.scale(graph, node, &factors)?;
    }
    let mut graph = graph.clone();
    changes.apply(&mut graph)?;
    Ok(Equalized { graph, pfn, report })
}

fn is_convolution(node: Node<'_>) -> bool {
    matches!(node.op(), "Conv" | "ConvTranspose")
}

/// Weight and bias of a convolution, if both are constants that can be changed.
fn convolution(
    graph: &Graph,
    node: Node<'_>,
) -> Result<Option<(Tensor<f32>, Option<Tensor<f32>>)>> {
    let constant = |value: &str| -> Result<Option<Tensor<f32>>> {
        match graph.constant(value)? {
            Some(proto) if proto.data_type() == element::FLOAT => {
                tensor::floats(graph.path(), &proto).map(Some)
            }
            _ => Ok(None),
        }
    };
    let Some(weight) = constant(node.need_input(1)?)? else {
        return Ok(None);
    };
    match node.input(2) {
        None => Ok(Some((weight, None))),
        Some(name) => Ok(constant(name)?.map(|bias| (weight, Some(bias)))),
    }
}

/// New weights and biases.
#[derive(Default)]
struct Changes {
    /// By the output of a node: its inputs from the second on.
    inputs: HashMap<String, Vec<String>>,
    tensors: BTreeMap<String, TensorProto>,
}

impl Changes {
    /// Plans the weight and the bias of a convolution between maps with factors.
    fn scale(&mut self, graph: &Graph, node: Node<'_>, factors: &Factors<'_>) -> Result<()> {
        let (input, output) = (node.need_input(0)?, node.need_output()?);
        let (before, after) = (factors.of(input), factors.of(output));
        if before.iter().chain(after).all(|&f| f == 1.0) {
            return Ok(());
        }
        let Some((mut weight, bias)) = convolution(graph, node)? else {
            return Ok(());
        };
        let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0).max(1);
        let transposed = node.op() == "ConvTranspose";
        let (ins, outs) = (before.len() / groups, after.len() / groups);
        // Rows and columns of the weight, of which the rows go through the groups.
        let (rows, columns) = if transposed { (ins, outs) } else { (outs, ins) };
        let taps: usize = weight.dims.iter().skip(2).product();
        if weight.data.len() != rows * groups * columns * taps || taps == 0 {
            return Err(node.error(format!(
                "its weight has shape {:?} for {} channels to {} in {groups} groups",
                weight.dims,
                before.len(),
                after.len()
            )));
        }
        for (at, values) in weight.data.chunks_exact_mut(taps).enumerate() {
            let (row, column) = (at / columns, at % columns + at / columns / rows * columns);
            let (i, o) = if transposed {
                (row, column)
            } else {
                (column, row)
            };
            let factor = before[i] / after[o];
            values
                .iter_mut()
                .for_each(|w| *w = (f64::from(*w) * factor) as f32);
        }
        let mut inputs = vec![self.constant(graph, node, 1, "weight", weight)?];
        if let Some(mut bias) = bias {
            for (value, factor) in bias.data.iter_mut().zip(after) {
                *value = (f64::from(*value) / factor) as f32;
            }
            inputs.push(self.constant(graph, node, 2, "bias", bias)?);
        }
        self.inputs.insert(output.to_owned(), inputs);
        Ok(())
    }

    /// Plans a constant as input `index` of a node. Gives its name.
    fn constant(
        &mut self,
        graph: &Graph,
        node: Node<'_>,
        index: usize,
        suffix: &str,
        tensor: Tensor<f32>,
    ) -> Result<String> {
        if tensor.data.iter().any(|v| !v.is_finite()) {
            return Err(node.error("its equalised weights would not be finite"));
        }
        let name = constant_name(graph, node, index, suffix)?;
        let proto = tensor::from_floats(&name, &tensor.dims, &tensor.data);
        self.tensors.insert(name.clone(), proto);
        Ok(name)
    }

    fn apply(mut self, graph: &mut Graph) -> Result<()> {
        graph.edit(|proto| {
            for node in &mut proto.node {
                let output = node.output.first().map_or("", String::as_str);
                if let Some(inputs) = self.inputs.remove(output) {
                    node.input.truncate(1);
                    node.input.extend(inputs);
                }
            }
            for tensor in &mut proto.initializer {
                if let Some(changed) = self.tensors.remove(tensor.name()) {
                    *tensor = changed;
                }
            }
            proto.initializer.extend(self.tensors.into_values());
        })?;
        // Weights that were shared have a copy for each user now.
        graph.prune()
    }
}

#[cfg(test)]
mod tests;
