//! Recognises a PFN in an ONNX graph and takes its weights.
//!
//! The graph is followed from its input, axis by axis: each axis of a value is known to be that of
//! pillars, points or channels, or of length one, so that any mix of Transpose, Reshape and Squeeze
//! that an exporter writes is understood or refused, never guessed. A layer is
//!
//! ```text
//! MatMul with a constant matrix (and Add) | Gemm | Conv 1×1   BatchNormalization folded before
//! Relu
//! ReduceMax over the points | MaxPool over all points
//! ```
//!
//! and every layer but the last appends the max, expanded to all points, to its rows: Concat on the
//! channels, rows first. Known exporters: `input_features [P, M, C]` with MatMul → Transpose →
//! BatchNormalization → Transpose → Relu → ReduceMax (mmdetection3d, AWML), and `[1, C, P, M]` with
//! Conv → BatchNormalization → Relu → MaxPool.

use std::path::Path;

use super::axes::{Axis, Input, Lengths, Tracked};
use crate::build::fuse::{FuseReport, fuse};
use crate::build::onnx::shapes::{permutation, text};
use crate::build::onnx::{Graph, Node, Shapes, Window};
use crate::build::{BuildError, Result};
use crate::model::{Pfn, PfnLayer};

/// Most layers that are read; models have one to three.
const MAX_LAYERS: usize = 16;

/// A PFN as it was found in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Pfe {
    /// The weights, BatchNormalization folded in f64.
    pub pfn: Pfn,
    /// Pillars per call, where the file fixes them.
    pub max_pillars: Option<usize>,
    /// Points per pillar, where the file fixes them.
    pub max_points: Option<usize>,
    /// What was folded on the way.
    pub fused: FuseReport,
}

/// Reads the PFN from the ONNX file at `path`.
///
/// # Errors
/// [`BuildError`] with the file's name, and the node's where one is not what a PFN has there.
pub fn read_pfe(path: &Path) -> Result<Pfe> {
    let mut graph = Graph::read(path)?;
    let input = Input::of(&graph)?;
    let fused = fuse(&mut graph, &[(&input.name, &input.dims)])?;
    let shapes = Shapes::infer(&graph, &[(&input.name, &input.dims)])?;
    if let Some(kept) = fused.kept.first() {
        let what = format!(
            "node {} could not be folded into the layer before it: {}",
            kept.node, kept.reason
        );
        return Err(BuildError::graph(path, what));
    }
    let walk = Walk {
        graph: &graph,
        shapes: &shapes,
        lengths: input.lengths,
    };
    let layers = walk.layers(Tracked {
        value: input.name,
        axes: input.axes,
    })?;
    Ok(Pfe {
        pfn: Pfn { layers },
        max_pillars: input.fixed.0,
        max_points: input.fixed.1,
        fused,
    })
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    graph: &'a Graph,
    shapes: &'a Shapes,
    lengths: Lengths,
}

impl<'a> Walk<'a> {
    fn layers(mut self, mut x: Tracked) -> Result<Vec<PfnLayer>> {
        let mut layers = Vec::new();
        loop {
            if layers.len() == MAX_LAYERS {
                let what = format!("it has more than {MAX_LAYERS} layers");
                return Err(BuildError::graph(self.graph.path(), what));
            }
            let (layer, y) = self.linear(x)?;
            self.lengths.channels = layer.out_features;
            layers.push(layer);
            let y = self.relu(y)?;
            match self.pool(&y)? {
                Some(concatenated) => x = concatenated,
                None => return Ok(layers),
            }
            self.lengths.channels *= 2;
        }
    }

    /// The nodes that use the elements of a value, not only its shape.
    fn users(&self, value: &str) -> Vec<Node<'a>> {
        let users = self.graph.consumers(value);
        users.filter(|node| node.op() != "Shape").collect()
    }

    /// The one node that uses a value.
    fn user(&self, value: &str, expected: &str) -> Result<Node<'a>> {
        match self.users(value)[..] {
            [node] => Ok(node),
            [] => Err(BuildError::graph(
                self.graph.path(),
                format!("\"{value}\" is used by no node, expected {expected}"),
            )),
            [_, other, ..] => Err(other.error(format!(
                "\"{value}\" is used by other nodes, too; expected {expected} only"
            ))),
        }
    }

    /// Follows nodes that only rearrange axes, up to the first other one.
    fn up_to_next(&self, mut x: Tracked, expected: &str) -> Result<(Tracked, Node<'a>)> {
        loop {
            let node = self.user(&x.value, expected)?;
            match self.rearranged(&x, node)? {
                Some(y) => x = y,
                None => return Ok((x, node)),
            }
        }
    }

    /// The result of a node that only rearranges the axes of `x`.
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
                self.lengths.relabelled(&x.axes, dims).ok_or_else(|| {
                    node.error(format!(
                        "cannot tell what its axes are: {dims:?} from {:?}",
                        x.axes
                    ))
                })?
            }
            _ => return Ok(None),
        };
        self.check(node, &axes)?;
        x.with(node, axes).map(Some)
    }

    fn shape(&self, node: Node<'_>) -> Result<&'a [usize]> {
        let shape = self.shapes.get(node.need_output()?);
        shape.ok_or_else(|| node.error("the shape of its output cannot be inferred"))
    }

    /// Checks that a node's output has the lengths that its axes should have.
    fn check(&self, node: Node<'_>, axes: &[Axis]) -> Result<()> {
        let dims = self.shape(node)?;
        let expected: Vec<usize> = axes.iter().map(|&a| self.lengths.of(a)).collect();
        match dims == expected {
            true => Ok(()),
            false => Err(node.error(format!("it makes shape {dims:?}, expected {expected:?}"))),
        }
    }

    /// The linear part of a layer.
    fn linear(&mut self, x: Tracked) -> Result<(PfnLayer, Tracked)> {
        let expected = "MatMul, Gemm or Conv 1×1";
        let (x, node) = self.up_to_next(x, expected)?;
        if !matches!(node.op(), "MatMul" | "Gemm" | "Conv") {
            return Err(node.error(format!("expected {expected} here")));
        }
        if node.input(0) != Some(x.value.as_str()) {
            return Err(node.error(format!("\"{}\" is not its first input", x.value)));
        }
        let weight_name = node.need_input(1)?;
        let weight = self.graph.floats(weight_name)?;
        let weight = weight
            .ok_or_else(|| node.error(format!("its weight \"{weight_name}\" is no constant")))?;
        let channels = x.position(Axis::Channels);
        let place = if node.op() == "Conv" {
            1
        } else {
            x.axes.len() - 1
        };
        if channels != Some(place) {
            return Err(node.error(format!("it works on axis {place} of {:?}", x.axes)));
        }
        let in_features = self.lengths.channels;
        let (rows_are_outputs, out_features) = match (node.op(), &weight.dims[..]) {
            ("MatMul", &[k, n]) if k == in_features => (false, n),
            ("Gemm", &[k, n]) if k == in_features && node.int("transB", 0)? == 0 => (false, n),
            ("Gemm", &[n, k]) if k == in_features && node.int("transB", 0)? != 0 => (true, n),
            ("Conv", &[n, k, 1, 1]) if k == in_features => (true, n),
            _ => {
                return Err(node.error(format!(
                    "its weight has shape {:?}, its input {in_features} channels",
                    weight.dims
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
        let mut y = x.with(node, x.axes.clone())?;
        let bias = match node.op() {
            "MatMul" => self.added(&mut y, out_features)?,
            _ => match node.input(2) {
                Some(name) => Some(self.bias(node, name, out_features)?),
                None => None,
            },
        };
        let at = |o: usize, i: usize| match rows_are_outputs {
            true => o * in_features + i,
            false => i * out_features + o,
        };
        let mut rows = Vec::with_capacity(weight.data.len());
        for o in 0..out_features {
            let row = (0..in_features).filter_map(|i| weight.data.get(at(o, i)));
            rows.extend(row.map(|w| w * alpha));
        }
        let layer = PfnLayer {
            in_features,
            out_features,
            weight: rows,
            bias: match bias {
                Some(bias) => bias.iter().map(|b| b * beta).collect(),
                None => vec![0.0; out_features],
            },
        };
        Ok((layer, y))
    }

    /// Checks that a Conv with a 1×1 kernel touches each row alone.
    fn check_pointwise(&self, node: Node<'_>, x: &Tracked) -> Result<()> {
        let dims: Vec<usize> = x.axes.iter().map(|&a| self.lengths.of(a)).collect();
        let size = match dims[..] {
            [_, _, h, w] => [h, w],
            _ => [1, 1],
        };
        let window = Window::new(node, size, Some([1, 1]))?;
        let plain = window.stride == [1; 2] && window.pad == [0; 4] && window.groups == 1;
        match plain {
            true => Ok(()),
            false => Err(node.error(format!(
                "stride {:?}, pads {:?}, group {}; a PFN has stride 1, no pads, one group",
                window.stride, window.pad, window.groups
            ))),
        }
    }

    /// The constant that an Add behind a product adds, if there is one; `y` becomes its result.
    fn added(&self, y: &mut Tracked, channels: usize) -> Result<Option<Vec<f32>>> {
        let node = self.user(&y.value, "Add or Relu")?;
        if node.op() != "Add" {
            return Ok(None);
        }
        let others = [node.need_input(0)?, node.need_input(1)?];
        let Some(name) = others.into_iter().find(|name| *name != y.value) else {
            return Err(node.error("it adds a value to itself"));
        };
        let bias = self.bias(node, name, channels)?;
        *y = y.with(node, y.axes.clone())?;
        Ok(Some(bias))
    }

    fn bias(&self, node: Node<'_>, name: &str, channels: usize) -> Result<Vec<f32>> {
        let bias = self.graph.floats(name)?;
        let row = bias.filter(|b| b.data.len() == channels && b.dims.last() == Some(&channels));
        row.map(|b| b.data).ok_or_else(|| {
            node.error(format!(
                "\"{name}\" is no constant row of {channels} values"
            ))
        })
    }

    fn relu(&self, y: Tracked) -> Result<Tracked> {
        let (y, node) = self.up_to_next(y, "Relu")?;
        match node.op() {
            "Relu" => y.with(node, y.axes.clone()),
            "BatchNormalization" => Err(node.error("it was not folded into the layer before it")),
            _ => Err(node.error("expected Relu here")),
        }
    }

    /// The max over the points of `y`, and what becomes of it: `None` if it is the graph's output,
    /// otherwise the Concat of the rows and their max.
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
                    format!("no max over the points of \"{}\" is taken", y.value),
                ),
            });
        };
        let mut max = y.with(pool, self.pooled(pool, y)?)?;
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
                            "\"{}\" must be used by this Concat and the max only",
                            y.value
                        ))),
                    };
                }
                "Expand" | "Tile" => {
                    let axes = self.expanded(node, &max)?;
                    max = max.with(node, axes)?;
                }
                _ => match self.rearranged(&max, node)? {
                    Some(next) => max = next,
                    None => return Err(node.error("expected Expand, Tile or Concat here")),
                },
            }
        }
        if let Some(other) = users.first() {
            return Err(other.error("it uses the rows of the last layer"));
        }
        let rows = max.axes.contains(&Axis::Points) || max.axes.contains(&Axis::Rows);
        let complete = max.axes.contains(&Axis::Pillars) && max.axes.contains(&Axis::Channels);
        let alone = self.graph.proto().output.len() == 1 && self.users(&max.value).is_empty();
        match !rows && complete && alone {
            true => Ok(None),
            false => Err(BuildError::graph(
                self.graph.path(),
                format!(
                    "output \"{}\" is not the one max over all points: its axes are {:?}",
                    max.value, max.axes
                ),
            )),
        }
    }

    /// The axes behind a ReduceMax or MaxPool, which must cover the points and nothing else.
    fn pooled(&self, node: Node<'_>, y: &Tracked) -> Result<Vec<Axis>> {
        let Some(points) = y.position(Axis::Points) else {
            return Err(node.error(format!("its input has no axis of points: {:?}", y.axes)));
        };
        let mut axes = y.axes.clone();
        if node.op() == "ReduceMax" {
            let reduced = self.shapes.axes(node, axes.len())?;
            if reduced.as_deref() != Some(&[points]) {
                return Err(node.error(format!(
                    "it takes the max over axes {}, the points are axis {points}",
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
        let lengths: Vec<usize> = axes.iter().map(|&a| self.lengths.of(a)).collect();
        let &[_, _, h, w] = &lengths[..] else {
            return Err(node.error(format!("its input has axes {axes:?}, expected four")));
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
                "kernel {:?}, strides {:?}, pads {:?}; the max over all points needs kernel \
                 {needed:?}",
                window.kernel, window.stride, window.pad
            )));
        }
        *axes.get_mut(points).unwrap_or(&mut Axis::One) = Axis::One;
        Ok(axes)
    }

    /// The axes behind an Expand or Tile of the max: one of length one may become that of points.
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

    /// The Concat of rows and max, in this order, on the channels.
    fn concatenated(&self, y: &Tracked, max: &Tracked, node: Node<'_>) -> Result<Tracked> {
        let inputs: Vec<&str> = node.proto.input.iter().map(String::as_str).collect();
        if inputs != [y.value.as_str(), max.value.as_str()] {
            return Err(node.error(format!(
                "it joins {inputs:?}, expected the rows \"{}\" and then their max \"{}\"",
                y.value, max.value
            )));
        }
        let axis = node.int("axis", 0)?;
        let rank = i64::try_from(y.axes.len()).unwrap_or(i64::MAX);
        let from_start = if axis < 0 {
            axis.saturating_add(rank)
        } else {
            axis
        };
        let channels = y
            .position(Axis::Channels)
            .and_then(|c| i64::try_from(c).ok());
        // With one point per pillar the max needs no expanding.
        let same =
            max.axes == y.axes || (self.lengths.points == 1 && max.axes.len() == y.axes.len());
        if channels != Some(from_start) || !same {
            return Err(node.error(format!(
                "it joins axes {:?} and {:?} on axis {axis}, expected equal ones on the channels",
                y.axes, max.axes
            )));
        }
        y.with(node, y.axes.clone())
    }
}
