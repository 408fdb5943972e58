//! Folds BatchNormalization, and Mul and Add with per-channel constants, into the convolution or
//! matrix product that makes their input.
//!
//! At inference a BatchNormalization is `y = x·s + t` per channel, with `s = scale / √(var + ε)` and
//! `t = bias − mean·s`. Pairs are found by data flow: the node's input must be what the convolution
//! makes, and nothing else may use it. The channels of both must agree. The factors go to
//!
//! | node | weight | axis |
//! |---|---|---|
//! | Conv | `[O, I/g, kh, kw]` | 0 |
//! | ConvTranspose | `[I, O/g, kh, kw]` | 1, within the group of each input channel |
//! | Gemm | `[K, N]`, or `[N, K]` with `transB` | that of N |
//! | MatMul (and Add), also through a Transpose that puts the last axis at 1 | `[K, N]` | 1 |
//!
//! All is computed in f64 and stored as f32. A BatchNormalization that cannot be folded stays, with
//! the reason in the [`FuseReport`].

use std::collections::{HashMap, HashSet};

use super::affine::Affine;
use super::onnx::proto::{NodeProto, TensorProto};
use super::onnx::shapes::{InputDims, permutation};
use super::onnx::tensor::{self, Tensor, element};
use super::onnx::{Graph, Node, Shapes};
use super::simplify::simplify;
use super::{BuildError, Result};

/// Most nodes that may share one weight for it to be folded: each gets its own copy.
const MAX_SHARED: usize = 3;

/// What [`fuse`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FuseReport {
    /// The nodes that were folded.
    pub fused: Vec<Fused>,
    /// The BatchNormalizations that stay.
    pub kept: Vec<Kept>,
    /// Nodes that computed nothing and went, such as Identity and Dropout.
    pub removed: Vec<String>,
}

/// A node that was folded into another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fused {
    /// Name and operator of the node that went.
    pub node: String,
    /// Name and operator of the node that does its work now.
    pub into: String,
}

/// A BatchNormalization that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name and operator.
    pub node: String,
    /// Why it could not be folded.
    pub reason: String,
}

/// Simplifies `graph` (see [`simplify`]) and folds what can be folded. `inputs` gives dimensions
/// that the file leaves open; see [`Shapes::infer`].
///
/// # Errors
/// [`BuildError`] for malformed nodes and tensors. What merely cannot be folded is
/// no error.
pub fn fuse(graph: &mut Graph, inputs: InputDims<'_>) -> Result<FuseReport> {
    let mut report = FuseReport {
        removed: simplify(graph)?,
        ..Default::default()
    };
    // Each round folds the nodes right behind a convolution; behind those there may be more.
    loop {
        let shapes = Shapes::infer(graph, inputs)?;
        let mut round = Round::default();
        report.kept.clear();
        for node in graph.nodes() {
            let Some(affine) = Affine::of(graph, node)? else {
                continue;
            };
            let is_bn = node.op() == "BatchNormalization";
            let node_text = node.describe();
            match round.fold(graph, &shapes, node, &affine) {
                Ok(into) => report.fused.push(Fused {
                    node: node_text,
                    into,
                }),
                Err(Refusal::Reason(reason)) if is_bn => report.kept.push(Kept {
                    node: node_text,
                    reason,
                }),
                Err(Refusal::Reason(_)) => {}
                Err(Refusal::Broken(error)) => return Err(error),
            }
        }
        if round.gone.is_empty() {
            break;
        }
        round.apply(graph)?;
    }
    // Transposes around a folded BatchNormalization undo each other now.
    report.removed.extend(simplify(graph)?);
    Ok(report)
}

/// Why a node is not folded.
enum Refusal {
    /// It cannot be; it stays as it is.
    Reason(String),
    /// The file is broken.
    Broken(BuildError),
}

impl From<BuildError> for Refusal {
    fn from(error: BuildError) -> Self {
        Self::Broken(error)
    }
}

/// A refusal with a reason.
fn refuse<T>(reason: impl Into<String>) -> std::result::Result<T, Refusal> {
    Err(Refusal::Reason(reason.into()))
}

/// The changes of one round over the graph.
#[derive(Default)]
struct Round {
    /// Outputs of nodes that go.
    gone: HashSet<String>,
    /// Outputs that take the name of the output of a node that went.
    renamed: HashMap<String, String>,
    /// Nodes by their output, and what takes their place.
    replaced: HashMap<String, Vec<NodeProto>>,
    /// New or changed initializers by name.
    tensors: HashMap<String, TensorProto>,
}

impl Round {
    /// Plans to fold `node` into the maker of its input. Gives that maker's description.
    fn fold(
        &mut self,
        graph: &Graph,
        shapes: &Shapes,
        node: Node<'_>,
        affine: &Affine,
    ) -> std::result::Result<String, Refusal> {
        let maker = maker(graph, shapes, node, affine)?;
        match maker.op() {
            "MatMul" => self.fold_matmul(graph, maker, affine)?,
            "Add" => self.fold_biased_matmul(graph, maker, affine)?,
            "Gemm" => self.fold_gemm(graph, maker, affine)?,
            _ => self.fold_conv(graph, maker, affine)?,
        }
        let output = node.need_output()?.to_owned();
        self.renamed.insert(affine.input.clone(), output.clone());
        self.gone.insert(output);
        Ok(maker.describe())
    }

    fn fold_conv(&mut self, graph: &Graph, node: Node<'_>, affine: &Affine) -> Planned {
        let weight = weight(graph, node)?;
        let &[d0, d1, ref kernel @ ..] = &weight.dims[..] else {
            return Err(node
                .error(format!("its weight has shape {:?}", weight.dims))
                .into());
        };
        let taps: usize = kernel.iter().product();
        let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0).max(1);
        if d0 % groups != 0 {
            let shape = &weight.dims;
            return Err(node
                .error(format!("{groups} groups of a weight of {shape:?}"))
                .into());
        }
        let transposed = node.op() == "ConvTranspose";
        let channels = if transposed {
            d1.saturating_mul(groups)
        } else {
            d0
        };
        let inputs_per_group = d0 / groups;
        let channel = |i: usize| match transposed {
            false => i / (d1 * taps),
            true => i / (d1 * taps) / inputs_per_group * d1 + i / taps % d1,
        };
        check_channels(affine, channels)?;
        let bias = bias(graph, node, channels)?;
        let before = |c: usize| {
            bias.as_ref()
                .and_then(|b| b.get(c))
                .map_or(0.0, |&v| v.into())
        };
        let mut conv = node.proto.clone();
        conv.input.truncate(1);
        conv.input.extend([
            self.weight(graph, node, &weight, affine, channel)?,
            self.bias(graph, node, 2, affine, channels, before)?,
        ]);
        self.replace(node, vec![conv])
    }

    fn fold_gemm(&mut self, graph: &Graph, node: Node<'_>, affine: &Affine) -> Planned {
        let weight = weight(graph, node)?;
        let &[rows, columns] = &weight.dims[..] else {
            return Err(node
                .error(format!("its weight has shape {:?}", weight.dims))
                .into());
        };
        let by_row = node.int("transB", 0)? != 0;
        let channels = if by_row { rows } else { columns };
        check_channels(affine, channels)?;
        let bias = bias(graph, node, channels)?;
        let beta = f64::from(node.float("beta", 1.0)?);
        let before = |c: usize| {
            let value = bias.as_ref().and_then(|b| b.get(c));
            value.map_or(0.0, |&v| beta * f64::from(v))
        };
        let channel = |i: usize| if by_row { i / columns } else { i % columns };
        let mut gemm = node.proto.clone();
        gemm.input.truncate(1);
        gemm.input.extend([
            self.weight(graph, node, &weight, affine, channel)?,
            self.bias(graph, node, 2, affine, channels, before)?,
        ]);
        // The factor of the old bias is in the new one; 1 is the default.
        gemm.attribute.retain(|a| a.name() != "beta");
        self.replace(node, vec![gemm])
    }

    /// A product with a constant matrix gets an Add behind it.
    fn fold_matmul(&mut self, graph: &Graph, node: Node<'_>, affine: &Affine) -> Planned {
        let weight = matrix(graph, node)?;
        let columns = weight.dims.last().copied().unwrap_or(0);
        check_channels(affine, columns)?;
        let output = node.need_output()?;
        let product = graph.fresh_name(&format!("{output}.product"));
        let mut matmul = node.proto.clone();
        matmul.input = vec![
            node.need_input(0)?.to_owned(),
            self.weight(graph, node, &weight, affine, |i| i % columns)?,
        ];
        matmul.output = vec![product.clone()];
        // The product itself has no third input: the constant gets a new name.
        let bias = self.bias(graph, node, 2, affine, columns, |_| 0.0)?;
        let add = NodeProto {
            name: Some(format!("{}.bias", node.proto.name())),
            op_type: Some("Add".to_owned()),
            input: vec![product, bias],
            output: vec![output.to_owned()],
            ..Default::default()
        };
        self.replace(node, vec![matmul, add])
    }

    /// A product with a constant matrix that already has an Add behind it.
    fn fold_biased_matmul(&mut self, graph: &Graph, add: Node<'_>, affine: &Affine) -> Planned {
        let (a, b) = (add.need_input(0)?, add.need_input(1)?);
        let product = |value| sole_maker(graph, value).ok().filter(|n| n.op() == "MatMul");
        let (matmul, bias_index) = match (product(a), product(b)) {
            (Some(matmul), None) => (matmul, 1),
            (None, Some(matmul)) => (matmul, 0),
            _ => return refuse("it adds no constant to a product"),
        };
        let weight = matrix(graph, matmul)?;
        let columns = weight.dims.last().copied().unwrap_or(0);
        check_channels(affine, columns)?;
        let bias = graph.floats(if bias_index == 0 { a } else { b })?;
        let Some(bias) = bias.filter(|t| t.dims == [columns]) else {
            return refuse(format!("it adds no constant row of {columns} values"));
        };
        let before = |c: usize| bias.data.get(c).map_or(0.0, |&v| v.into());
        let mut product = matmul.proto.clone();
        product.input = vec![
            matmul.need_input(0)?.to_owned(),
            self.weight(graph, matmul, &weight, affine, |i| i % columns)?,
        ];
        let mut sum = add.proto.clone();
        sum.input = vec![
            matmul.need_output()?.to_owned(),
            self.bias(graph, add, bias_index, affine, columns, before)?,
        ];
        self.replace(matmul, vec![product])?;
        self.replace(add, vec![sum])
    }

    fn replace(&mut self, node: Node<'_>, others: Vec<NodeProto>) -> Planned {
        self.replaced.insert(node.need_output()?.to_owned(), others);
        Ok(())
    }

    /// Plans a weight whose elements are multiplied by the factor of their output channel, which
    /// `channel` gives by position. Gives its name.
    fn weight(
        &mut self,
        graph: &Graph,
        node: Node<'_>,
        weight: &Tensor<f32>,
        affine: &Affine,
        channel: impl Fn(usize) -> usize,
    ) -> std::result::Result<String, Refusal> {
        let all = weight.data.iter().enumerate();
        let folded = all.map(|(i, &w)| (f64::from(w) * affine.at(channel(i)).0) as f32);
        let name = constant_name(graph, node, 1, "weight")?;
        self.constant(name, &weight.dims, folded.collect())
    }

    /// Plans the bias `before·scale + shift` of each channel, in place of input `index`. Gives its
    /// name.
    fn bias(
        &mut self,
        graph: &Graph,
        node: Node<'_>,
        index: usize,
        affine: &Affine,
        channels: usize,
        before: impl Fn(usize) -> f64,
    ) -> std::result::Result<String, Refusal> {
        let folded = (0..channels).map(|c| {
            let (scale, shift) = affine.at(c);
            (before(c) * scale + shift) as f32
        });
        let name = constant_name(graph, node, index, "bias")?;
        self.constant(name, &[channels], folded.collect())
    }

    fn constant(
        &mut self,
        name: String,
        dims: &[usize],
        data: Vec<f32>,
    ) -> std::result::Result<String, Refusal> {
        if data.iter().any(|v| !v.is_finite()) {
            return refuse("the folded weights would not be finite");
        }
        let tensor = tensor::from_floats(&name, dims, &data);
        self.tensors.insert(name.clone(), tensor);
        Ok(name)
    }

    fn apply(mut self, graph: &mut Graph) -> Result<()> {
        graph.edit(|proto| {
            for node in std::mem::take(&mut proto.node) {
                let output = node.output.first().map_or("", String::as_str);
                if self.gone.contains(output) {
                    continue;
                }
                match self.replaced.remove(output) {
                    Some(others) => proto.node.extend(others),
                    None => proto.node.push(node),
                }
            }
            for output in proto.node.iter_mut().flat_map(|n| &mut n.output) {
                if let Some(name) = self.renamed.get(output) {
                    *output = name.clone();
                }
            }
            for tensor in &mut proto.initializer {
                if let Some(changed) = self.tensors.remove(tensor.name()) {
                    *tensor = changed;
                }
            }
            let mut new: Vec<TensorProto> = self.tensors.into_values().collect();
            new.sort_by(|a, b| a.name().cmp(b.name()));
            proto.initializer.extend(new);
        })
    }
}

/// Whether a change could be planned.
type Planned = std::result::Result<(), Refusal>;

/// The node that makes the input of `node`, directly or through a Transpose, if it is of a kind that
/// can take the work of `node`.
fn maker<'a>(
    graph: &'a Graph,
    shapes: &Shapes,
    node: Node<'_>,
    affine: &Affine,
) -> std::result::Result<Node<'a>, Refusal> {
    let first = sole_maker(graph, &affine.input)?;
    let is_bn = node.op() == "BatchNormalization";
    let mut last_axis = shapes
        .get(&affine.input)
        .is_some_and(|dims| dims.len() == 2);
    let mut maker = first;
    if is_bn && first.op() == "Transpose" {
        let perm = permutation(first, first.ints("perm")?.map_or(0, <[i64]>::len))?;
        last_axis = perm.get(1).is_some_and(|&axis| axis + 1 == perm.len());
        maker = sole_maker(graph, first.need_input(0)?)?;
    }
    let direct = first.op() == maker.op();
    match maker.op() {
        "Conv" | "ConvTranspose" if direct => Ok(maker),
        "Gemm" if direct && is_bn => Ok(maker),
        "MatMul" | "Add" if is_bn && last_axis => Ok(maker),
        _ => refuse(format!(
            "its input is made by {}, which cannot take it",
            maker.describe()
        )),
    }
}

/// The node that makes `value`, if that is used once.
fn sole_maker<'a>(graph: &'a Graph, value: &str) -> std::result::Result<Node<'a>, Refusal> {
    match (graph.producer(value), graph.uses(value)) {
        (None, _) => refuse(format!("its input \"{value}\" is made by no node")),
        (Some(maker), 1) => Ok(maker),
        (Some(maker), uses) => refuse(format!(
            "what {} makes is used {uses} times",
            maker.describe()
        )),
    }
}

/// The weight of a node: a constant of FLOAT elements.
fn weight(graph: &Graph, node: Node<'_>) -> std::result::Result<Tensor<f32>, Refusal> {
    let name = node.need_input(1)?;
    let uses = graph.uses(name);
    match graph.constant(name)? {
        Some(_) if uses > MAX_SHARED => refuse(format!(
            "the weight \"{name}\" of {} is used {uses} times",
            node.describe()
        )),
        Some(proto) if proto.dims.contains(&0) => refuse(format!(
            "the weight \"{name}\" of {} is empty",
            node.describe()
        )),
        Some(proto) if proto.data_type() == element::FLOAT => {
            Ok(tensor::floats(graph.path(), &proto)?)
        }
        Some(proto) => refuse(format!(
            "the weight \"{name}\" of {} has elements of {}, not FLOAT",
            node.describe(),
            element::name(proto.data_type())
        )),
        None => refuse(format!(
            "the weight \"{name}\" of {} is no constant",
            node.describe()
        )),
    }
}

/// The weight of a MatMul, which must have two axes.
fn matrix(graph: &Graph, node: Node<'_>) -> std::result::Result<Tensor<f32>, Refusal> {
    let weight = weight(graph, node)?;
    match weight.dims.len() {
        2 => Ok(weight),
        _ => refuse(format!(
            "the weight of {} has shape {:?}, not two axes",
            node.describe(),
            weight.dims
        )),
    }
}

/// The third input of a node, if there is one: a constant of one value per channel.
fn bias(
    graph: &Graph,
    node: Node<'_>,
    channels: usize,
) -> std::result::Result<Option<Vec<f32>>, Refusal> {
    let Some(name) = node.input(2) else {
        return Ok(None);
    };
    match graph.floats(name)? {
        Some(bias) if bias.data.len() == channels => Ok(Some(bias.data)),
        _ => refuse(format!(
            "the bias \"{name}\" of {} is no constant of {channels} values",
            node.describe()
        )),
    }
}

/// Refuses factors for another number of channels.
fn check_channels(affine: &Affine, channels: usize) -> Planned {
    match affine.fits(channels) {
        true => Ok(()),
        false => refuse(format!(
            "it has {} channels, the node before it makes {channels}",
            affine.channels()
        )),
    }
}

/// The name under which a changed constant is stored: its own if nobody else uses it.
pub(super) fn constant_name(
    graph: &Graph,
    node: Node<'_>,
    input: usize,
    suffix: &str,
) -> Result<String> {
    if let Some(name) = node.input(input) {
        if graph.uses(name) == 1 && graph.initializer(name).is_some() {
            return Ok(name.to_owned());
        }
    } else if let Some(stem) = node.input(1).and_then(|w| w.strip_suffix(".weight")) {
        return Ok(graph.fresh_name(&format!("{stem}.bias")));
    }
    Ok(graph.fresh_name(&format!("{}.{suffix}", node.need_output()?)))
}

#[cfg(test)]
mod tests;
