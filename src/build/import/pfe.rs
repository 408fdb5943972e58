//! Recognises a PFN in an ONNX graph and extracts its weights.
//!
//! The import walks the graph from its input and tracks what each axis counts: pillars, points or
//! channels, or a single element. It so understands or rejects any mix of Transpose, Reshape and Squeeze
//! that an exporter writes, and never guesses. A layer is
//!
//! ```text
//! MatMul with a constant matrix (and Add) | Gemm | Conv 1×1   with folded BatchNormalization
//! Relu
//! ReduceMax over the points | MaxPool over all points
//! ```
//!
//! All layers but the last append the max, expanded to all points, to their rows: Concat on the
//! channels, rows first. Known exporters write `input_features [P, M, C]` with MatMul → Transpose →
//! BatchNormalization → Transpose → Relu → ReduceMax (mmdetection3d, AWML), or `[1, C, P, M]` with
//! Conv → BatchNormalization → Relu → MaxPool.

use std::path::Path;

use super::axes::{Axis, Input, Lengths, Tracked};
use crate::build::foreign;
use crate::build::fuse::{FuseReport, fuse};
use crate::build::onnx::shapes::{self, permutation, text};
use crate::build::onnx::{Graph, Node, Shapes, Window};
use crate::build::simplify::simplify;
use crate::build::{BuildError, Result};
use crate::model::{Pfn, PfnLayer};

/// Largest number of layers; models have one to three.
const MAX_LAYERS: usize = 16;

/// An imported PFN.
#[derive(Clone, Debug, PartialEq)]
pub struct Pfe {
    /// The weights, BatchNormalization folded in f64.
    pub pfn: Pfn,
    /// Pillars per call, if the file fixes them.
    pub max_pillars: Option<usize>,
    /// Points per pillar, if the file fixes them.
    pub max_points: Option<usize>,
    /// The nodes that were folded.
    pub fused: FuseReport,
    /// Values whose Q/DQ pairs were dropped: the PFN runs in float.
    pub left_aside: Vec<String>,
}

/// The tensors of a layer whose BatchNormalization is not folded, by their names in the graph.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerTensors {
    pub(crate) weight: String,
    /// Whether the weight is `[out][in]` and not `[in][out]`.
    pub(crate) rows_are_outputs: bool,
    pub(crate) bias: Option<String>,
    pub(crate) norm: Option<NormTensors>,
}

/// The tensors of a BatchNormalization and its constants.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NormTensors {
    /// Factor γ, shift β, running mean, running variance: name and values.
    pub(crate) tensors: [(String, Vec<f32>); 4],
    /// Added to a variance.
    pub(crate) epsilon: f32,
    /// Share of the running statistics that a batch keeps.
    pub(crate) momentum: f32,
}

/// A layer as its graph has it: before its BatchNormalization, with the names of its tensors.
pub(crate) type UnfusedLayer = (PfnLayer, LayerTensors);

/// Reads the PFN from the ONNX file at `path`.
///
/// # Errors
/// [`BuildError`] with the path, and with the first node that does not belong in a PFN.
pub fn read_pfe(path: &Path) -> Result<Pfe> {
    pfe_of(Graph::read(path)?)
}

/// Extracts the PFN from a graph.
///
/// # Errors
/// As [`read_pfe`].
pub(crate) fn pfe_of(mut graph: Graph) -> Result<Pfe> {
    let is_pair = |node: Node<'_>| matches!(node.op(), "QuantizeLinear" | "DequantizeLinear");
    let left_aside = if graph.nodes().any(is_pair) {
        foreign::without_pairs(&mut graph)?
    } else {
        Vec::new()
    };
    let input = Input::from_graph(&graph)?;
    let fused = fuse(&mut graph, &[(&input.name, &input.dims)])?;
    let shapes = Shapes::infer(&graph, &[(&input.name, &input.dims)])?;
    if let Some(kept) = fused.kept.first() {
        let what = format!(
            "node {} could not be folded into the layer before it: {}",
            kept.node, kept.reason
        );
        return Err(BuildError::graph(graph.path(), what));
    }
    let walk = Walk {
        graph: &graph,
        shapes: &shapes,
        lengths: input.lengths,
        norms: false,
    };
    let layers = walk.layers(Tracked {
        value: input.name,
        axes: input.axes,
    })?;
    let layers = layers.into_iter().map(|(layer, _)| layer);
    Ok(Pfe {
        pfn: Pfn {
            layers: layers.collect(),
        },
        max_pillars: input.fixed.0,
        max_points: input.fixed.1,
        fused,
        left_aside,
    })
}

/// Simplifies the graph of a PFN, and returns its layers with BatchNormalization apart, to be trained.
///
/// # Errors
/// As [`read_pfe`], and for a quantised PFN.
pub(crate) fn unfused_pfe(graph: &mut Graph) -> Result<Vec<UnfusedLayer>> {
    simplify(graph)?;
    let input = Input::from_graph(graph)?;
    let shapes = Shapes::infer(graph, &[(&input.name, &input.dims)])?;
    let walk = Walk {
        graph,
        shapes: &shapes,
        lengths: input.lengths,
        norms: true,
    };
    walk.layers(Tracked {
        value: input.name,
        axes: input.axes,
    })
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    graph: &'a Graph,
    shapes: &'a Shapes,
    lengths: Lengths,
    /// Whether layers may have a BatchNormalization that is not folded.
    norms: bool,
}

impl<'a> Walk<'a> {
    fn layers(mut self, mut x: Tracked) -> Result<Vec<UnfusedLayer>> {
        let mut layers = Vec::new();
        loop {
            if layers.len() == MAX_LAYERS {
                let what = format!("the PFN has more than {MAX_LAYERS} layers");
                return Err(BuildError::graph(self.graph.path(), what));
            }
            let (layer, mut tensors, mut y) = self.linear(x)?;
            self.lengths.channels = layer.out_features;
            if self.norms {
                (tensors.norm, y) = self.norm(y, layer.out_features)?;
            }
            layers.push((layer, tensors));
            let y = self.relu(y)?;
            match self.pool(&y)? {
                Some(concatenated) => x = concatenated,
                None => return Ok(layers),
            }
            self.lengths.channels *= 2;
        }
    }

    /// The nodes that read the elements of a value, not only its shape.
    fn users(&self, value: &str) -> Vec<Node<'a>> {
        let users = self.graph.consumers(value);
        users.filter(|node| node.op() != "Shape").collect()
    }

    /// The only node that reads a value.
    fn user(&self, value: &str, expected: &str) -> Result<Node<'a>> {
        match self.users(value)[..] {
            [node] => Ok(node),
            [] => Err(BuildError::graph(
                self.graph.path(),
                format!("no node reads \"{value}\", expected {expected}"),
            )),
            [_, other, ..] => Err(other.error(format!(
                "\"{value}\" has several readers, expected only {expected}"
            ))),
        }
    }

    /// Follows nodes that only rearrange axes, and returns the first node that does not, with its input.
    fn skip_rearranging(&self, mut x: Tracked, expected: &str) -> Result<(Tracked, Node<'a>)> {
        loop {
            let node = self.user(&x.value, expected)?;
            match self.rearranged(&x, node)? {
                Some(y) => x = y,
                None => return Ok((x, node)),
            }
        }
    }

    /// The output of a node that only rearranges the axes of `x`.
    fn rearranged(&self, x: &Tracked, node: Node<'_>) -> Result<Option<Tracked>> {
        let axes = match node.op() {
            "Identity" => x.axes.clone(),
            "Transpose" => {
                let perm = permutation(node, x.axes.len())?;
                perm.iter()
                    .filter_map(|&a| x.axes.get(a).copied())
                    .collect()
            }
            "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => {
                let dims = self.shape(node)?;
                self.lengths.relabel(&x.axes, dims).ok_or_else(|| {
                    node.error(format!(
                        "cannot tell what the axes of its output {dims:?} count; its input has {:?}",
                        x.axes
                    ))
                })?
            }
            _ => return Ok(None),
        };
        self.check(node, &axes)?;
        Tracked::output(node, axes).map(Some)
    }

    fn shape(&self, node: Node<'_>) -> Result<&'a [usize]> {
        let shape = self.shapes.get(node.need_output()?);
        shape.ok_or_else(|| node.error("the shape of its output cannot be inferred"))
    }

    /// Checks that a node's output has the lengths of its axes.
    fn check(&self, node: Node<'_>, axes: &[Axis]) -> Result<()> {
        let dims = self.shape(node)?;
        let expected: Vec<usize> = axes.iter().map(|&a| self.lengths.len_of(a)).collect();
        if dims == expected {
            return Ok(());
        }
        Err(node.error(format!(
            "its output has shape {dims:?}, expected {expected:?}"
        )))
    }

    /// The BatchNormalization of `y`, if it has one, and its output.
    fn norm(&self, y: Tracked, channels: usize) -> Result<(Option<NormTensors>, Tracked)> {
        let (at, node) = self.skip_rearranging(y.clone(), "BatchNormalization or Relu")?;
        if node.op() != "BatchNormalization" {
            return Ok((None, y));
        }
        if at.position(Axis::Channels) != Some(1) {
            return Err(node.error(format!(
                "it normalises axis 1 of {:?}, expected the channels",
                at.axes
            )));
        }
        let tensor = |i: usize| -> Result<(String, Vec<f32>)> {
            let name = node.need_input(i)?;
            Ok((name.to_owned(), self.bias(node, name, channels)?))
        };
        let norm = NormTensors {
            tensors: [tensor(1)?, tensor(2)?, tensor(3)?, tensor(4)?],
            epsilon: node.float("epsilon", 1e-5)?,
            momentum: node.float("momentum", 0.9)?,
        };
        Ok((Some(norm), Tracked::output(node, at.axes)?))
    }

    /// The linear part of a layer.
    fn linear(&mut self, x: Tracked) -> Result<(PfnLayer, LayerTensors, Tracked)> {
        let expected = "MatMul, Gemm or Conv 1×1";
        let (x, node) = self.skip_rearranging(x, expected)?;
        if !matches!(node.op(), "MatMul" | "Gemm" | "Conv") {
            return Err(node.error(format!("expected {expected} here")));
        }
        if node.input(0) != Some(x.value.as_str()) {
            return Err(node.error(format!("\"{}\" is not its first input", x.value)));
        }
        let weight_name = node.need_input(1)?;
        let weight = self.graph.array(weight_name)?;
        let weight = weight
            .ok_or_else(|| node.error(format!("its weight \"{weight_name}\" is not a constant")))?;
        let channels = x.position(Axis::Channels);
        let place = if node.op() == "Conv" {
            1
        } else {
            x.axes.len() - 1
        };
        if channels != Some(place) {
            return Err(node.error(format!(
                "it multiplies along axis {place} of {:?}, expected the channels",
                x.axes
            )));
        }
        let in_features = self.lengths.channels;
        let (rows_are_outputs, out_features) = match (node.op(), weight.shape()) {
            ("MatMul", &[k, n]) if k == in_features => (false, n),
            ("Gemm", &[k, n]) if k == in_features && node.int("transB", 0)? == 0 => (false, n),
            ("Gemm", &[n, k]) if k == in_features && node.int("transB", 0)? != 0 => (true, n),
            ("Conv", &[n, k, 1, 1]) if k == in_features => (true, n),
            _ => {
                return Err(node.error(format!(
                    "its weight has shape {:?}, but its input has {in_features} channels",
                    weight.shape()
                )));
            }
        };
        if node.op() == "Conv" {
            self.check_pointwise(node, &x)?;
        }
        let (alpha, beta) = match node.op() {
            "Gemm" if node.int("transA", 0)? != 0 => return Err(node.error("transA is set")),
            "Gemm" => (node.float("alpha", 1.0)?, node.float("beta", 1.0)?),
            _ => (1.0, 1.0),
        };
        let mut y = Tracked::output(node, x.axes.clone())?;
        let (bias, bias_name) = match node.op() {
            "MatMul" => self.added(&mut y, out_features)?.unzip(),
            _ => match node.input(2) {
                Some(name) => (
                    Some(self.bias(node, name, out_features)?),
                    Some(name.to_owned()),
                ),
                None => (None, None),
            },
        };
        if self.norms && (alpha, beta) != (1.0, 1.0) {
            let what = format!("alpha {alpha} and beta {beta} cannot be trained, expected 1");
            return Err(node.error(what));
        }
        let tensors = LayerTensors {
            weight: weight_name.to_owned(),
            rows_are_outputs,
            bias: bias_name,
            norm: None,
        };
        // A row of a layer's weight belongs to an output.
        let weight = if rows_are_outputs {
            weight
        } else {
            weight.reversed_axes()
        };
        let layer = PfnLayer {
            in_features,
            out_features,
            weight: weight.iter().map(|w| w * alpha).collect(),
            bias: match bias {
                Some(bias) => bias.iter().map(|b| b * beta).collect(),
                None => vec![0.0; out_features],
            },
        };
        Ok((layer, tensors, y))
    }

    /// Checks that a Conv with a 1×1 kernel treats each row separately.
    fn check_pointwise(&self, node: Node<'_>, x: &Tracked) -> Result<()> {
        let dims: Vec<usize> = x.axes.iter().map(|&a| self.lengths.len_of(a)).collect();
        let size = match dims[..] {
            [_, _, h, w] => [h, w],
            _ => [1, 1],
        };
        let window = Window::new(node, size, Some([1, 1]))?;
        if window.stride == [1; 2] && window.pad == [0; 4] && window.groups == 1 {
            return Ok(());
        }
        Err(node.error(format!(
            "it has strides {:?}, pads {:?} and group {}; a PFN has stride 1, no pads and one group",
            window.stride, window.pad, window.groups
        )))
    }

    /// The constant of an Add after the product `y` and its name, if there is one; `y` then becomes the sum.
    fn added(&self, y: &mut Tracked, channels: usize) -> Result<Option<(Vec<f32>, String)>> {
        let node = self.user(&y.value, "Add or Relu")?;
        if node.op() != "Add" {
            return Ok(None);
        }
        let others = [node.need_input(0)?, node.need_input(1)?];
        let Some(name) = others.into_iter().find(|name| *name != y.value) else {
            return Err(node.error("it adds a value to itself"));
        };
        let bias = self.bias(node, name, channels)?;
        let name = name.to_owned();
        *y = Tracked::output(node, y.axes.clone())?;
        Ok(Some((bias, name)))
    }

    fn bias(&self, node: Node<'_>, name: &str, channels: usize) -> Result<Vec<f32>> {
        let bias = self.graph.floats(name)?;
        let row = bias.filter(|b| b.data.len() == channels && b.dims.last() == Some(&channels));
        row.map(|b| b.data).ok_or_else(|| {
            node.error(format!(
                "\"{name}\" is not a constant row of {channels} values"
            ))
        })
    }

    fn relu(&self, y: Tracked) -> Result<Tracked> {
        let (y, node) = self.skip_rearranging(y, "Relu")?;
        match node.op() {
            "Relu" => Tracked::output(node, y.axes),
            "BatchNormalization" => Err(node.error("it was not folded into the layer before it")),
            _ => Err(node.error("expected Relu here")),
        }
    }

    /// Follows the max over the points of `y`. Returns the Concat of the rows and their max, or `None` if
    /// the max is the graph's output.
    fn pool(&self, y: &Tracked) -> Result<Option<Tracked>> {
        let mut users = self.users(&y.value);
        let place = users
            .iter()
            .position(|n| matches!(n.op(), "ReduceMax" | "MaxPool"));
        let Some(pool) = place.map(|i| users.remove(i)) else {
            return Err(match users.first() {
                Some(node) => node.error("expected ReduceMax or MaxPool over the points here"),
                None => BuildError::graph(
                    self.graph.path(),
                    format!(
                        "no node computes the max over the points of \"{}\"",
                        y.value
                    ),
                ),
            });
        };
        let mut max = Tracked::output(pool, self.pooled(pool, y)?)?;
        self.check(pool, &max.axes)?;
        while !self.graph.is_output(&max.value) {
            let node = self.user(&max.value, "Expand, Tile or Concat")?;
            match node.op() {
                "Concat" => {
                    return match users[..] {
                        [other] if other.need_output()? == node.need_output()? => {
                            self.concatenated(y, &max, node).map(Some)
                        }
                        _ => Err(node.error(format!(
                            "only this Concat and the max may read \"{}\"",
                            y.value
                        ))),
                    };
                }
                "Expand" | "Tile" => {
                    let axes = self.expanded(node, &max)?;
                    max = Tracked::output(node, axes)?;
                }
                _ => match self.rearranged(&max, node)? {
                    Some(next) => max = next,
                    None => return Err(node.error("expected Expand, Tile or Concat here")),
                },
            }
        }
        if let Some(other) = users.first() {
            return Err(other.error("it reads the rows of the last layer, expected only their max"));
        }
        let rows = max.axes.contains(&Axis::Points) || max.axes.contains(&Axis::Rows);
        let complete = max.axes.contains(&Axis::Pillars) && max.axes.contains(&Axis::Channels);
        let alone = self.graph.proto().output.len() == 1 && self.users(&max.value).is_empty();
        if !rows && complete && alone {
            return Ok(None);
        }
        Err(BuildError::graph(
            self.graph.path(),
            format!(
                "output \"{}\" is not the only output, or not the max over all points; its axes are {:?}",
                max.value, max.axes
            ),
        ))
    }

    /// The axes of the output of a ReduceMax or MaxPool, which must reduce the points and nothing else.
    fn pooled(&self, node: Node<'_>, y: &Tracked) -> Result<Vec<Axis>> {
        let Some(points) = y.position(Axis::Points) else {
            return Err(node.error(format!("its input has no axis of points: {:?}", y.axes)));
        };
        let mut axes = y.axes.clone();
        if node.op() == "ReduceMax" {
            let reduced = self.shapes.axes(node, axes.len())?;
            if reduced.as_deref() != Some(&[points]) {
                return Err(node.error(format!(
                    "it takes the max over axes {}, but the points are axis {points}",
                    text(reduced.as_deref())
                )));
            }
            match node.int("keepdims", 1)? {
                0 => {
                    axes.remove(points);
                }
                _ => *axes.get_mut(points).unwrap_or(&mut Axis::One) = Axis::One,
            }
            return Ok(axes);
        }
        let lengths: Vec<usize> = axes.iter().map(|&a| self.lengths.len_of(a)).collect();
        let &[_, _, h, w] = &lengths[..] else {
            return Err(node.error(format!("its input has axes {axes:?}, expected four axes")));
        };
        let window = Window::new(node, [h, w], None)?;
        let needed = match points {
            2 => [h, 1],
            _ => [1, w],
        };
        let steps = [
            window.stride[0] == 1 || points == 2,
            window.stride[1] == 1 || points == 3,
        ];
        if points < 2 || window.kernel != needed || window.pad != [0; 4] || steps != [true; 2] {
            return Err(node.error(format!(
                "it has kernel {:?}, strides {:?} and pads {:?}; the max over all points needs kernel \
                 {needed:?}",
                window.kernel, window.stride, window.pad
            )));
        }
        *axes.get_mut(points).unwrap_or(&mut Axis::One) = Axis::One;
        Ok(axes)
    }

    /// The axes of the output of an Expand or Tile of the max. An axis of length one may become that of
    /// the points.
    fn expanded(&self, node: Node<'_>, max: &Tracked) -> Result<Vec<Axis>> {
        let dims = self.shape(node)?;
        let found = max.axes.iter().zip(dims).map(|(&axis, &n)| match axis {
            Axis::One if n == self.lengths.points && n != 1 => Axis::Points,
            axis => axis,
        });
        let axes: Vec<Axis> = found.collect();
        self.check(node, &axes)?;
        Ok(axes)
    }

    /// The output of the Concat of rows and max, in this order, on the channels.
    fn concatenated(&self, y: &Tracked, max: &Tracked, node: Node<'_>) -> Result<Tracked> {
        let inputs: Vec<&str> = node.proto.input.iter().map(String::as_str).collect();
        if inputs != [y.value.as_str(), max.value.as_str()] {
            return Err(node.error(format!(
                "it joins {inputs:?}, expected the rows \"{}\" and then their max \"{}\"",
                y.value, max.value
            )));
        }
        let axis = shapes::axis(node, node.int("axis", 0)?, y.axes.len())?;
        // With one point per pillar the max needs no expansion.
        let same =
            max.axes == y.axes || (self.lengths.points == 1 && max.axes.len() == y.axes.len());
        if y.position(Axis::Channels) != Some(axis) || !same {
            return Err(node.error(format!(
                "it joins axes {:?} and {:?} on axis {axis}, expected equal axes joined on the channels",
                y.axes, max.axes
            )));
        }
        Tracked::output(node, y.axes.clone())
    }
}
