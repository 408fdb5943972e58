//! Compiles a graph to a program for an engine: for the CPU engine here, for TensorRT in [`tensorrt`].
//!
//! Each ONNX node becomes one call of the engine's builder, which fuses and packs. The resulting tensor gets
//! the name of the node's output, and observers see it under that name. Nodes without effect (see
//! [`super::simplify`]), and Reshape, Squeeze and Unsqueeze nodes that keep a map's shape, produce no operator.

mod qdq;
pub(crate) mod tensorrt;

use std::collections::HashMap;

use qdq::{Scales, Weight};

use super::affine::Affine;
use super::onnx::shapes::{axis, text};
use super::onnx::{Graph, Node, Shapes, Window};
use super::simplify::simplify;
use super::{BuildError, Result};
use crate::build::lower::{ConvSpec, Direction, MaxPoolSpec, ProgramBuilder, TensorId};
use crate::program::{Codes, DepthToSpaceMode, Payload, ProgramError};

/// The operators that the CPU engine supports, including those that are removed.
pub(crate) const CPU_OPERATORS: &[&str] = &[
    "Add",
    "BatchNormalization",
    "Cast, CastLike (to its own type)",
    "Clip (0 to infinity)",
    "Concat (channels)",
    "Constant",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "DequantizeLinear",
    "Dropout",
    "Identity",
    "MaxPool",
    "Mul (by constants)",
    "Pad (zeros before Conv)",
    "QuantizeLinear (to INT8)",
    "Relu",
    "Reshape, Squeeze, Unsqueeze (without effect)",
    "Sigmoid",
];

/// Maximum number of convolutions that share one weight. Each gets its own packed copy, so without a limit a
/// small file could produce a large program.
const MAX_SHARED: usize = 3;
/// Maximum number of values produced by expanding scalars (Mul or Add with one number).
const MAX_SPREAD: usize = 1 << 18;

/// Compiles a graph with one input and outputs of shape [1, C, H, W] to the CPU engine's payload. The graph is a
/// float network, or has Q/DQ pairs as written by [`super::quantize`] and pytorch-quantization. Runs remaining
/// BatchNormalizations as they are; fold them beforehand with `fuse`.
///
/// # Errors
/// [`BuildError::Operator`] for an unsupported operator, [`BuildError::Node`] for an unsupported form of an
/// operator, [`BuildError::Engine`] if the engine refuses a node. Each names the node.
pub fn cpu(graph: &Graph) -> Result<Payload> {
    let payload = network(graph)?.finish();
    payload.map_err(|e| refused(graph, e))
}

/// The network of a graph, as [`cpu`] compiles it, before anything is fused. Each value has the name of the value in the
/// graph.
///
/// # Errors
/// As [`cpu`].
pub(crate) fn network(graph: &Graph) -> Result<ProgramBuilder> {
    // Cheap, because the weights are shared.
    let mut graph = graph.clone();
    simplify(&mut graph)?;
    let shapes = Shapes::infer(&graph, &[])?;
    let mut compiler = Compiler {
        graph: &graph,
        shapes: &shapes,
        builder: ProgramBuilder::new(),
        maps: HashMap::new(),
        codes: HashMap::new(),
        spread: 0,
    };
    compiler.input()?;
    for node in graph.nodes() {
        let output = node.need_output()?;
        // Shapes computed by exporters are constants here.
        if shapes.ints(output).is_some() || qdq::is_constant(&graph, node)? {
            continue;
        }
        let map = if is_view(node) {
            compiler.view(node)?
        } else {
            let map = compiler.node(node)?;
            compiler.builder.name_tensor(map, output);
            map
        };
        compiler.maps.insert(output.to_owned(), map);
    }
    compiler.finish()
}

struct Compiler<'a> {
    graph: &'a Graph,
    shapes: &'a Shapes,
    builder: ProgramBuilder,
    /// The engine's tensor of each value.
    maps: HashMap<String, TensorId>,
    /// Scale and zero point of each quantised value.
    codes: HashMap<String, Codes>,
    /// Values produced by expanding scalars so far.
    spread: usize,
}

impl Compiler<'_> {
    fn input(&mut self) -> Result<()> {
        let inputs = self.graph.inputs()?;
        let dims = inputs.first().and_then(|v| self.shapes.get(&v.name));
        match (&inputs[..], dims) {
            ([input], Some(&[1, c, h, w])) => {
                let map = self.builder.input(&input.name, c, h, w);
                let map = map.map_err(|e| self.refused(e))?;
                self.maps.insert(input.name.clone(), map);
                Ok(())
            }
            _ => {
                let found = inputs
                    .iter()
                    .map(|v| format!("\"{}\" {}", v.name, v.shape()));
                let found: Vec<String> = found.collect();
                let what = format!(
                    "expected one input of fixed shape [1, C, H, W], found {}",
                    found.join(", ")
                );
                Err(BuildError::graph(self.graph.path(), what))
            }
        }
    }

    fn finish(mut self) -> Result<ProgramBuilder> {
        for output in &self.graph.proto().output {
            let name = output.name();
            let found = self.maps.get(name).copied();
            let Some(map) = found.filter(|&map| self.has_own_shape(name, map)) else {
                let dims = self.shapes.get(name);
                let what = format!(
                    "output \"{name}\" has shape {}, expected [1, C, H, W]",
                    text(dims)
                );
                return Err(BuildError::graph(self.graph.path(), what));
            };
            let made = self.builder.output(map, name);
            made.map_err(|e| refused(self.graph, e))?;
        }
        Ok(self.builder)
    }

    fn refused(&self, source: ProgramError) -> BuildError {
        refused(self.graph, source)
    }

    /// Whether a value has its map's shape [1, C, H, W] and is not a view with other axes.
    fn has_own_shape(&self, value: &str, map: TensorId) -> bool {
        let [c, h, w] = self.builder.shape(map);
        self.shapes.get(value) == Some(&[1, c, h, w])
    }

    /// The map of input `index`.
    fn map(&self, node: Node<'_>, index: usize) -> Result<TensorId> {
        let name = node.need_input(index)?;
        let Some(&map) = self.maps.get(name) else {
            let what = format!("its input \"{name}\" is a constant, expected a map");
            return Err(node.error(what));
        };
        if self.has_own_shape(name, map) {
            return Ok(map);
        }
        Err(node.error(format!(
            "its input \"{name}\" has shape {}, expected [1, C, H, W]",
            text(self.shapes.get(name))
        )))
    }

    fn node(&mut self, node: Node<'_>) -> Result<TensorId> {
        let name = match node.proto.name() {
            "" => node.need_output()?,
            name => name,
        };
        let made = match node.op() {
            "Conv" | "ConvTranspose" => return self.conv(name, node),
            "QuantizeLinear" => {
                let codes = Scales::read(self.graph, node)?.single(node)?;
                self.codes.insert(node.need_output()?.to_owned(), codes);
                let x = self.map(node, 0)?;
                self.builder.quantize(name, x, codes.scale, codes.zero)
            }
            "DequantizeLinear" => {
                let Codes { scale, zero } = Scales::read(self.graph, node)?.single(node)?;
                let codes = node.need_input(0)?;
                if let Some(made) = self.codes.get(codes).filter(|c| c.scale != scale) {
                    let made = made.scale;
                    return Err(node.error(format!(
                        "its scale is {scale}, but the codes \"{codes}\" have scale {made}"
                    )));
                }
                if let Some(made) = self.codes.get(codes).filter(|c| c.zero != zero) {
                    let made = made.zero;
                    return Err(node.error(format!(
                        "its zero point is {zero}, but the codes \"{codes}\" have zero point {made}"
                    )));
                }
                let x = self.map(node, 0)?;
                self.builder.dequantize(name, x)
            }
            "BatchNormalization" | "Add" | "Mul" => return self.affine_or_add(name, node),
            "Relu" => {
                let x = self.map(node, 0)?;
                self.builder.relu(name, x)
            }
            "Clip" => {
                self.check_clip(node)?;
                let x = self.map(node, 0)?;
                self.builder.relu(name, x)
            }
            "Sigmoid" => {
                let x = self.map(node, 0)?;
                self.builder.sigmoid(name, x)
            }
            "Concat" => {
                let inputs = 0..node.proto.input.len();
                let maps: Vec<TensorId> =
                    inputs.map(|i| self.map(node, i)).collect::<Result<_>>()?;
                let axis = axis(node, node.int("axis", 0)?, 4)?;
                if axis != 1 {
                    return Err(node.error(format!(
                        "it concatenates on axis {axis}, only axis 1 is supported"
                    )));
                }
                self.builder.concat(name, &maps)
            }
            "DepthToSpace" => {
                let x = self.map(node, 0)?;
                let mode = match node.string("mode", "DCR")? {
                    "DCR" => DepthToSpaceMode::Dcr,
                    "CRD" => DepthToSpaceMode::Crd,
                    other => {
                        return Err(node.error(format!("mode is {other}, expected DCR or CRD")));
                    }
                };
                let block = node.int("blocksize", 0)?;
                let block = usize::try_from(block)
                    .map_err(|_| node.error(format!("blocksize is {block}")))?;
                self.builder.depth_to_space(name, x, block, mode)
            }
            "MaxPool" => {
                let x = self.map(node, 0)?;
                let [_, h, w] = self.builder.shape(x);
                let window = Window::new(node, [h, w], None)?;
                if window.dilation != [1; 2] {
                    return Err(node.error(format!(
                        "dilations are {:?}, expected [1, 1]",
                        window.dilation
                    )));
                }
                let spec = MaxPoolSpec {
                    kernel: window.kernel,
                    stride: window.stride,
                    pad: window.pad,
                };
                self.builder.max_pool(name, x, &spec)
            }
            _ => {
                return Err(node.unsupported(CPU_OPERATORS));
            }
        };
        made.map_err(|e| self.refused(e))
    }

    fn conv(&mut self, name: &str, node: Node<'_>) -> Result<TensorId> {
        let x = self.map(node, 0)?;
        let [_, h, w] = self.builder.shape(x);
        let weight = Weight::read(self.graph, node)?;
        let bias = match node.input(2) {
            Some(bias_name) => {
                let bias = self.graph.floats(bias_name)?;
                Some(bias.ok_or_else(|| not_a_bias(self.graph, node, bias_name))?)
            }
            None => None,
        };
        let bias = bias.as_ref().map(|b| &b.data[..]);
        let &[d0, d1, kh, kw] = &weight.dims[..] else {
            return Err(node.error(format!(
                "its weight has shape {:?}, expected four dimensions",
                weight.dims
            )));
        };
        let window = Window::new(node, [h, w], Some([kh, kw]))?;
        let (direction, out_channels) = match node.op() {
            "Conv" => (Direction::Forward, d0),
            _ => {
                let output_padding = window.output_padding;
                let direction = Direction::Transposed { output_padding };
                (direction, d1.saturating_mul(window.groups))
            }
        };
        let spec = ConvSpec {
            direction,
            out_channels,
            kernel: window.kernel,
            stride: window.stride,
            pad: window.pad,
            dilation: window.dilation,
            groups: window.groups,
            weight: weight.spec(),
            bias,
            relu: false,
        };
        let made = self.builder.conv(name, x, &spec);
        made.map_err(|e| self.refused(e))
    }

    fn affine_or_add(&mut self, name: &str, node: Node<'_>) -> Result<TensorId> {
        let made = if let Some(affine) = Affine::from_node(self.graph, node)? {
            let index = usize::from(node.input(0) != Some(affine.input.as_str()));
            let x = self.map(node, index)?;
            let [channels, ..] = self.builder.shape(x);
            if !affine.fits(channels) {
                return Err(node.error(format!(
                    "it has factors for {} channels, but its input has {channels}",
                    affine.channels()
                )));
            }
            if affine.channels() < channels {
                self.spread = self.spread.saturating_add(channels);
                if self.spread > MAX_SPREAD {
                    return Err(node.error("too many products or sums with scalars"));
                }
            }
            let at = |c| {
                let (scale, shift) = affine.at(c);
                (scale as f32, shift as f32)
            };
            let (scale, shift): (Vec<f32>, Vec<f32>) = (0..channels).map(at).unzip();
            self.builder.affine(name, x, &scale, &shift, false)
        } else if node.op() == "Add" {
            let (a, b) = (self.map(node, 0)?, self.map(node, 1)?);
            self.builder.add(name, a, b, false)
        } else {
            return Err(node.error("only products with one constant per channel are supported"));
        };
        made.map_err(|e| self.refused(e))
    }

    /// Checks that a Clip is equivalent to a Relu.
    fn check_clip(&self, node: Node<'_>) -> Result<()> {
        let bound = |index: usize, attribute: &str, open: f32| -> Result<f32> {
            match node.input(index) {
                Some(name) => {
                    let value = self.graph.floats(name)?;
                    let value = value.and_then(|t| t.data.first().copied());
                    value.ok_or_else(|| {
                        node.error(format!("its bound \"{name}\" is not a constant"))
                    })
                }
                None => node.float(attribute, open),
            }
        };
        let (min, max) = (
            bound(1, "min", f32::NEG_INFINITY)?,
            bound(2, "max", f32::INFINITY)?,
        );
        if min == 0.0 && max >= f32::MAX {
            return Ok(());
        }
        Err(node.error(format!(
            "it clips to {min} to {max}, only 0 to infinity is supported"
        )))
    }

    /// The map of a node that returns its input, possibly with axes of length one added or removed.
    fn view(&self, node: Node<'_>) -> Result<TensorId> {
        if node.op() == "Identity" {
            return self.map(node, 0);
        }
        let (from, to) = (node.need_input(0)?, node.need_output()?);
        let long = |value: &str| -> Option<Vec<usize>> {
            let dims = self.shapes.get(value)?;
            Some(dims.iter().copied().filter(|&n| n != 1).collect())
        };
        let map = self.maps.get(from).copied();
        map.filter(|_| long(from).is_some() && long(from) == long(to))
            .ok_or_else(|| {
                node.error(format!(
                    "it changes shape {} to {}; only adding or removing axes of length one is supported",
                    text(self.shapes.get(from)),
                    text(self.shapes.get(to))
                ))
            })
    }
}

/// Whether a node creates no map of its own.
fn is_view(node: Node<'_>) -> bool {
    matches!(
        node.op(),
        "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten"
    )
}

/// An error about the bias of `node`, which is not a constant.
fn not_a_bias(graph: &Graph, node: Node<'_>, bias: &str) -> BuildError {
    let producer = graph.producer(bias);
    let advice = if producer.is_some_and(|n| n.op() == "DequantizeLinear") {
        "; it is quantised: keep biases in float (ONNX Runtime: QuantizeBias=False)"
    } else {
        ""
    };
    node.error(format!("its bias \"{bias}\" is not a constant{advice}"))
}

fn refused(graph: &Graph, source: ProgramError) -> BuildError {
    BuildError::Engine {
        path: graph.path().to_path_buf(),
        source: source.into(),
    }
}
