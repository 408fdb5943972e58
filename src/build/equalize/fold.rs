//! Folds the factors of channels into weights and biases.

use std::collections::{BTreeMap, HashMap};

use super::channels::Factors;
use super::is_convolution;
use crate::build::Result;
use crate::build::fuse::constant_name;
use crate::build::onnx::proto::TensorProto;
use crate::build::onnx::tensor::{self, Tensor, element};
use crate::build::onnx::{Graph, Node};
use crate::model::Pfn;

/// Divides what makes each channel by its factor, and multiplies what reads it.
pub(super) fn fold(graph: &Graph, pfn: &Pfn, factors: &Factors<'_>) -> Result<(Graph, Pfn)> {
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
        changes.scale(graph, node, factors)?;
    }
    let mut graph = graph.clone();
    changes.apply(&mut graph)?;
    Ok((graph, pfn))
}

/// A weight, and a bias if there is one.
type Constants = (Tensor<f32>, Option<Tensor<f32>>);

/// Weight and bias of a convolution, if both are constants that can be changed.
pub(super) fn convolution(graph: &Graph, node: Node<'_>) -> Result<Option<Constants>> {
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
