//! The graph of an exported network with the weights and the ranges of a checkpoint.
//!
//! Layers are matched by name: that of the weight, which exporters keep if they fold nothing, else the path in the node's name,
//! such as `/pts_backbone/blocks.0/blocks.0.0/Conv`.

use std::collections::HashSet;
use std::path::Path;

use super::CheckpointError;
use super::builder::{Builder, OPSET};
use super::layers::{Reader, Shape};
use super::network::Epsilons;
use super::state::State;
use crate::build::fuse::fuse;
use crate::build::onnx::{Graph, Node, opset};
use crate::build::quantize::{layer_name, layers};
use crate::build::{BuildError, Result};
use crate::model::Model;

/// Reads the float network at `path`, and replaces the weights of all its layers.
///
/// # Errors
/// [`CheckpointError`] for a layer that the checkpoint lacks or that has another shape there, and as [`Graph::read`].
pub(super) fn rpn(
    reader: &mut Reader<'_>,
    model: &Model,
    path: &Path,
    eps: Epsilons,
) -> Result<Graph> {
    let error = |what: String| -> BuildError {
        CheckpointError::Graph {
            path: path.into(),
            what,
        }
        .into()
    };
    let mut graph = Graph::read(path)?;
    let is_pair = |node: &Node<'_>| matches!(node.op(), "QuantizeLinear" | "DequantizeLinear");
    if let Some(node) = graph.nodes().find(is_pair) {
        let what = format!(
            "node {}: the network is already quantised; name the float network, or none",
            node.describe()
        );
        return Err(error(what));
    }
    let inputs = graph.inputs()?;
    let [input] = &inputs[..] else {
        let names: Vec<&str> = inputs.iter().map(|value| value.name.as_str()).collect();
        return Err(error(format!(
            "expected one input, the BEV map, but it has {names:?}"
        )));
    };
    let dims = [1, model.bev_channels(), model.grid.ny, model.grid.nx];
    let report = fuse(&mut graph, &[(&input.name, &dims)])?;
    if let Some(kept) = report.kept.first() {
        return Err(error(format!("node {}: {}", kept.node, kept.reason)));
    }
    opset::raise(&mut graph, OPSET)?;
    let mut builder = Builder::default();
    let mut replaced = HashSet::new();
    for found in layers(&graph)? {
        let Some(node) = graph.producer(&found.output) else {
            continue;
        };
        let axis = match node.op() {
            "Conv" => 0,
            "ConvTranspose" => 1,
            _ => return Err(node.error("expected only Conv and ConvTranspose")),
        };
        if node.int("group", 1)? != 1 {
            return Err(node.error("groups are not supported"));
        }
        let weight = graph.array(node.need_input(1)?)?;
        let weight = weight.ok_or_else(|| node.error("its weight is not a constant"))?;
        let dims = weight.shape();
        let &[_, _, _, kernel] = dims else {
            return Err(node.error(format!("its weight has shape {dims:?}")));
        };
        let key = key(reader.state, &graph, node)?;
        let shape = Shape {
            axis,
            inputs: dims.get(1 - axis).copied().unwrap_or_default(),
            kernels: &[kernel],
        };
        let norm = norm(reader.state, &key);
        let eps = epsilon(reader.state, &key, eps);
        let layer = reader.layer(&key, norm.as_deref(), eps, shape)?;
        if layer.weight.dims != dims {
            let key = format!("{key}.weight");
            let expected = format!("{dims:?}, as in {}", path.display());
            return Err(reader
                .state
                .misfit(&key, &layer.weight.dims, expected)
                .into());
        }
        builder.layer(
            &layer,
            node.op(),
            node.proto.attribute.clone(),
            node.need_input(0)?,
            &found.output,
        );
        replaced.insert(found.output);
    }
    let nodes = builder.nodes.iter().flat_map(|node| &node.output);
    let tensors = builder.tensors.iter().map(|tensor| tensor.name());
    let new: HashSet<String> = nodes
        .map(String::as_str)
        .chain(tensors)
        .map(String::from)
        .collect();
    graph.edit(|proto| {
        let is_replaced =
            |outputs: &[String]| outputs.first().is_some_and(|o| replaced.contains(o));
        proto.node.retain(|node| !is_replaced(&node.output));
        proto
            .initializer
            .retain(|tensor| !new.contains(tensor.name()));
        proto.input.retain(|value| !new.contains(value.name()));
        proto.node.extend(builder.nodes);
        proto.initializer.extend(builder.tensors);
    })?;
    graph.prune()?;
    Ok(graph)
}

/// The key of a node's layer in the state dict.
fn key(state: &State, graph: &Graph, node: Node<'_>) -> Result<String> {
    let names = [layer_name(graph, node), module(node.proto.name())];
    // AWML exports through modules whose names lack the first part.
    let candidates = names
        .iter()
        .flat_map(|name| [name.clone(), format!("pts_{name}")]);
    let has = |key: &String| state.has(&format!("{key}.weight"));
    match candidates.clone().find(has) {
        Some(key) => Ok(key),
        None => Err(CheckpointError::Missing {
            path: state.path().into(),
            key: format!("{}.weight", state.full(&names[0])),
            expected: format!(
                "the weight of node {} in {}",
                node.describe(),
                graph.path().display()
            ),
        }
        .into()),
    }
}

/// The module that torch names a node after: `/neck/deblocks.1/deblocks.1.0/Conv` belongs to `neck.deblocks.1.0`.
fn module(node: &str) -> String {
    let mut parts: Vec<&str> = node.split('/').filter(|part| !part.is_empty()).collect();
    // The operator.
    parts.pop();
    let mut module: Vec<&str> = Vec::new();
    for part in parts {
        // Members of a sequence repeat its name.
        let repeats = module.last().and_then(|last| part.strip_prefix(last));
        if repeats.is_some_and(|rest| rest.starts_with('.')) {
            module.pop();
        }
        module.push(part);
    }
    module.join(".")
}

/// The key of the BatchNormalization that belongs to a layer.
fn norm(state: &State, key: &str) -> Option<String> {
    let norm = match key.rsplit_once('.')? {
        (stem, "conv") => format!("{stem}.bn"),
        (stem, place) => format!("{stem}.{}", place.parse::<usize>().ok()?.checked_add(1)?),
    };
    state.has(&format!("{norm}.running_mean")).then_some(norm)
}

/// ε of the part that a layer belongs to.
fn epsilon(state: &State, key: &str, eps: Epsilons) -> f64 {
    let family = state.family;
    let mut parts = key.split('.');
    let (part, within) = (parts.next(), parts.next());
    if part == Some(family.head) {
        if within == Some(family.tasks) {
            eps.tasks
        } else {
            eps.shared
        }
    } else if part == Some(family.neck) {
        eps.neck
    } else {
        eps.backbone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_after_modules() {
        for (node, expected) in [
            (
                "/pts_backbone/blocks.0/blocks.0.3/Conv",
                "pts_backbone.blocks.0.3",
            ),
            (
                "/pts_bbox_head/task_heads.0/reg/reg.0/conv/Conv",
                "pts_bbox_head.task_heads.0.reg.0.conv",
            ),
            (
                "/pts_bbox_head/shared_conv/conv/Conv",
                "pts_bbox_head.shared_conv.conv",
            ),
            ("/a/ab/Conv", "a.ab"),
            ("node_conv2d_3", ""),
            ("", ""),
        ] {
            assert_eq!(module(node), expected, "{node}");
        }
    }
}
