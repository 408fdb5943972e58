//! Folds the factors of channels into weights and biases.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use ndarray::{ArrayD, Axis};

use super::is_convolution;
use crate::build::Result;
use crate::build::fuse::constant_name;
use crate::build::onnx::make::put_initializers;
use crate::build::onnx::proto::TensorProto;
use crate::build::onnx::{Graph, Node, tensor};
use crate::model::Pfn;

/// Divides the producer of each channel by its factor, and multiplies the weights that read it.
pub(super) fn fold(graph: &Graph, pfn: &Pfn, factors: &Factors<'_>) -> Result<(Graph, Pfn)> {
    let mut pfn = pfn.clone();
    if let (Some(layer), [input]) = (pfn.layers.last_mut(), &graph.inputs()?[..]) {
        let rows = layer.weight.chunks_exact_mut(layer.in_features.max(1));
        let factors = factors.of_map(&input.name);
        for ((row, bias), factor) in rows.zip(&mut layer.bias).zip(factors) {
            for value in row.iter_mut().chain([bias]) {
                *value = (f64::from(*value) / factor) as f32;
            }
        }
    }
    let mut edits = Edits::default();
    for node in graph.nodes().filter(|n| is_convolution(*n)) {
        edits.scale(graph, node, factors)?;
    }
    let mut graph = graph.clone();
    edits.apply(&mut graph)?;
    Ok((graph, pfn))
}

/// A weight and an optional bias.
type Constants = (ArrayD<f32>, Option<ArrayD<f32>>);

/// Weight and bias of a convolution, if both are FLOAT constants.
pub(super) fn convolution(graph: &Graph, node: Node<'_>) -> Result<Option<Constants>> {
    let Some(weight) = graph.f32_array(node.need_input(1)?)? else {
        return Ok(None);
    };
    match node.input(2) {
        None => Ok(Some((weight, None))),
        Some(name) => Ok(graph.f32_array(name)?.map(|bias| (weight, Some(bias)))),
    }
}

/// The factor of every channel.
pub(super) struct Factors<'a> {
    maps: HashMap<&'a str, Range<usize>>,
    factors: Vec<f64>,
}

impl<'a> Factors<'a> {
    /// `maps` holds the range of each map's channels in `factors`.
    pub(super) fn new(maps: HashMap<&'a str, Range<usize>>, factors: Vec<f64>) -> Self {
        Self { maps, factors }
    }

    /// The factors of a map's channels; empty if the value is not a map.
    pub(super) fn of_map(&self, value: &str) -> &[f64] {
        let map = self.maps.get(value).cloned();
        map.and_then(|map| self.factors.get(map))
            .unwrap_or_default()
    }
}

/// New weights and biases.
#[derive(Default)]
struct Edits {
    /// The inputs of a node from the second on, by the node's output.
    inputs: HashMap<String, Vec<String>>,
    tensors: BTreeMap<String, TensorProto>,
}

impl Edits {
    /// Plans the weight and the bias of a convolution between maps with factors.
    fn scale(&mut self, graph: &Graph, node: Node<'_>, factors: &Factors<'_>) -> Result<()> {
        let (input, output) = (node.need_input(0)?, node.need_output()?);
        let (before, after) = (factors.of_map(input), factors.of_map(output));
        if before.iter().chain(after).all(|&f| f == 1.0) {
            return Ok(());
        }
        let Some((mut weight, bias)) = convolution(graph, node)? else {
            return Ok(());
        };
        let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0).max(1);
        let transposed = node.op() == "ConvTranspose";
        let (ins, outs) = (before.len() / groups, after.len() / groups);
        // The weight of each group is [rows, columns, ..]; the groups follow each other along axis 0.
        let (rows, columns) = if transposed { (ins, outs) } else { (outs, ins) };
        if rows == 0 || weight.shape().get(..2) != Some(&[rows * groups, columns]) {
            return Err(node.error(format!(
                "its weight has shape {:?}, expected one for {} to {} channels in {groups} groups",
                weight.shape(),
                before.len(),
                after.len()
            )));
        }
        for (group, mut part) in weight.axis_chunks_iter_mut(Axis(0), rows).enumerate() {
            for (row, mut part) in part.outer_iter_mut().enumerate() {
                for (column, mut kernel) in part.outer_iter_mut().enumerate() {
                    let (row, column) = (group * rows + row, group * columns + column);
                    let (i, o) = if transposed {
                        (row, column)
                    } else {
                        (column, row)
                    };
                    let factor = before[i] / after[o];
                    kernel.mapv_inplace(|w| (f64::from(w) * factor) as f32);
                }
            }
        }
        let mut inputs = vec![self.constant(graph, node, 1, "weight", weight)?];
        if let Some(mut bias) = bias {
            for (value, factor) in bias.iter_mut().zip(after) {
                *value = (f64::from(*value) / factor) as f32;
            }
            inputs.push(self.constant(graph, node, 2, "bias", bias)?);
        }
        self.inputs.insert(output.to_owned(), inputs);
        Ok(())
    }

    /// Plans a constant as input `index` of a node and returns its name.
    fn constant(
        &mut self,
        graph: &Graph,
        node: Node<'_>,
        index: usize,
        suffix: &str,
        values: ArrayD<f32>,
    ) -> Result<String> {
        if values.iter().any(|v| !v.is_finite()) {
            return Err(node.error("its equalised weights would not be finite"));
        }
        let name = constant_name(graph, node, index, suffix)?;
        let tensor = tensor::from_array(&name, &values);
        self.tensors.insert(name.clone(), tensor);
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
            put_initializers(proto, self.tensors.into_values());
        })?;
        // Shared weights now have a copy per user; this removes the originals.
        graph.prune()
    }
}
