//! Folds BatchNormalization, and Mul and Add with per-channel constants, into the convolution or
//! matrix product that produces their input.
//!
//! At inference a BatchNormalization is `y = x·s + t` per channel, with `s = scale / √(var + ε)` and
//! `t = bias − mean·s`. Pairs are found by data flow: the node must read the output of the convolution,
//! and must be its only user. Both must have the same number of channels. The scales multiply
//!
//! | node | weight | along axis |
//! |---|---|---|
//! | Conv | `[O, I/g, kh, kw]` | 0 |
//! | ConvTranspose | `[I, O/g, kh, kw]` | 1, within the group of each input channel |
//! | Gemm | `[K, N]`, or `[N, K]` with `transB` | that of N |
//! | MatMul (and Add), also through a Transpose that puts the last axis at 1 | `[K, N]` | 1 |
//!
//! The new constants are computed in f64 and stored as f32. A BatchNormalization that cannot be folded
//! stays in the graph, and the [`FuseReport`] says why.

use std::collections::{BTreeMap, HashMap};

use ndarray::{Array1, ArrayD, ArrayRef, Axis, Dimension};

use super::affine::Affine;
use super::onnx::proto::{NodeProto, TensorProto};
use super::onnx::shapes::{InputDims, permutation};
use super::onnx::tensor::{self, element};
use super::onnx::{Graph, Node, Shapes, make};
use super::simplify::simplify;
use super::{BuildError, Result};

/// Largest number of nodes that may share a weight that is folded; each gets its own copy.
const MAX_SHARED: usize = 3;

/// What [`fuse`] changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FuseReport {
    /// The nodes that were folded.
    pub fused: Vec<Fused>,
    /// The BatchNormalizations that stay.
    pub kept: Vec<Kept>,
    /// Removed nodes that computed nothing, such as Identity and Dropout.
    pub removed: Vec<String>,
}

/// A node that was folded into another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fused {
    /// Name and operator of the removed node.
    pub node: String,
    /// Name and operator of the node that now does its work.
    pub into: String,
}

/// A BatchNormalization that stays in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name and operator.
    pub node: String,
    /// Why it could not be folded.
    pub reason: String,
}

/// Simplifies `graph` (see `simplify`) and folds the nodes that can be folded. `inputs` sets input
/// dimensions that the file leaves open; see `Shapes::infer`.
///
/// # Errors
/// [`BuildError`] for malformed nodes and tensors. A node that cannot be folded is not an error.
pub fn fuse(graph: &mut Graph, inputs: InputDims<'_>) -> Result<FuseReport> {
    let mut report = FuseReport {
        removed: simplify(graph)?,
        ..Default::default()
    };
    // Each round folds the nodes directly after a convolution, which may bring others next to it.
    loop {
        let shapes = Shapes::infer(graph, inputs)?;
        let mut round = Round::default();
        report.kept.clear();
        for node in graph.nodes() {
            let Some(affine) = Affine::from_node(graph, node)? else {
                continue;
            };
            let is_bn = node.op() == "BatchNormalization";
            let node_text = node.describe();
            // A fold that is refused halfway must leave nothing in the round.
            let mut fold = Round::default();
            match fold.fold(graph, &shapes, node, &affine) {
                Ok(into) => {
                    round.extend(fold);
                    report.fused.push(Fused {
                        node: node_text,
                        into,
                    });
                }
                Err(Refusal::Reason(reason)) if is_bn => report.kept.push(Kept {
                    node: node_text,
                    reason,
                }),
                Err(Refusal::Reason(_)) => {}
                Err(Refusal::Broken(error)) => return Err(error),
            }
        }
        if round.replaced.is_empty() {
            break;
        }
        round.apply(graph)?;
    }
    // The Transposes around a folded BatchNormalization now cancel out.
    report.removed.extend(simplify(graph)?);
    Ok(report)
}

/// Why a node is not folded.
enum Refusal {
    /// It cannot be folded and stays in the graph. Plans record these texts.
    Reason(String),
    /// The file is malformed.
    Broken(BuildError),
}

/// A result of planning a fold.
type Foldable<T> = std::result::Result<T, Refusal>;

impl From<BuildError> for Refusal {
    fn from(error: BuildError) -> Self {
        Self::Broken(error)
    }
}

/// A refusal with a reason.
fn refuse<T>(reason: impl Into<String>) -> Foldable<T> {
    Err(Refusal::Reason(reason.into()))
}

/// The edits of one round over the graph.
#[derive(Default)]
struct Round {
    /// Outputs that take the name of the output of a removed node.
    renamed: HashMap<String, String>,
    /// Replacements of nodes by the node's output; an empty one removes the node.
    replaced: HashMap<String, Vec<NodeProto>>,
    /// New or changed initializers by name.
    tensors: BTreeMap<String, TensorProto>,
}

impl Round {
    /// Plans to fold `node` into the producer of its input, and returns that node's description.
    fn fold(
        &mut self,
        graph: &Graph,
        shapes: &Shapes,
        node: Node<'_>,
        affine: &Affine,
    ) -> Foldable<String> {
        let producer = foldable_producer(graph, shapes, node, affine)?;
        match producer.op() {
            "MatMul" => self.fold_matmul(graph, producer, affine)?,
            "Add" => self.fold_biased_matmul(graph, producer, affine)?,
            "Gemm" => self.fold_gemm(graph, producer, affine)?,
            _ => self.fold_conv(graph, producer, affine)?,
        }
        let output = node.need_output()?.to_owned();
        self.renamed.insert(affine.input.clone(), output.clone());
        self.replaced.insert(output, Vec::new());
        Ok(producer.describe())
    }

    fn fold_conv(&mut self, graph: &Graph, node: Node<'_>, affine: &Affine) -> Foldable<()> {
        let weight = weight(graph, node)?;
        let &[d0, d1, ..] = weight.shape() else {
            return Err(node
                .error(format!("its weight has shape {:?}", weight.shape()))
                .into());
        };
        let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0).max(1);
        if d0 % groups != 0 {
            return Err(node
                .error(format!(
                    "its weight of shape {:?} does not divide into {groups} groups",
                    weight.shape()
                ))
                .into());
        }
        // Only a ConvTranspose repeats its output channels in each group.
        let (axis, groups) = if node.op() == "ConvTranspose" {
            (Axis(1), groups)
        } else {
            (Axis(0), 1)
        };
        let channels = if axis == Axis(1) {
            d1.saturating_mul(groups)
        } else {
            d0
        };
        check_channels(affine, channels)?;
        let bias = bias(graph, node, channels)?;
        let mut conv = node.proto.clone();
        conv.input.truncate(1);
        conv.input.extend([
            self.weight(graph, node, weight, axis, groups, affine)?,
            self.bias(graph, node, 2, affine, &bias)?,
        ]);
        self.replace(node, vec![conv])
    }

    fn fold_gemm(&mut self, graph: &Graph, node: Node<'_>, affine: &Affine) -> Foldable<()> {
        let weight = weight(graph, node)?;
        if weight.ndim() != 2 {
            return Err(node
                .error(format!("its weight has shape {:?}", weight.shape()))
                .into());
        }
        let axis = Axis(usize::from(node.int("transB", 0)? == 0));
        let channels = weight.len_of(axis);
        check_channels(affine, channels)?;
        let mut bias = bias(graph, node, channels)?;
        let beta = f64::from(node.float("beta", 1.0)?);
        if node.input(2).is_some() {
            bias.iter_mut().for_each(|value| *value *= beta);
        }
        let mut gemm = node.proto.clone();
        gemm.input.truncate(1);
        gemm.input.extend([
            self.weight(graph, node, weight, axis, 1, affine)?,
            self.bias(graph, node, 2, affine, &bias)?,
        ]);
        // The new bias includes beta; the default is 1.
        gemm.attribute.retain(|a| a.name() != "beta");
        self.replace(node, vec![gemm])
    }

    /// Folds into a product with a constant matrix, and adds an Add after it.
    fn fold_matmul(&mut self, graph: &Graph, node: Node<'_>, affine: &Affine) -> Foldable<()> {
        let weight = matrix(graph, node)?;
        let columns = weight.len_of(Axis(1));
        check_channels(affine, columns)?;
        let output = node.need_output()?;
        let product = graph.fresh_name(&format!("{output}.product"));
        let mut matmul = node.proto.clone();
        matmul.input = vec![
            node.need_input(0)?.to_owned(),
            self.weight(graph, node, weight, Axis(1), 1, affine)?,
        ];
        matmul.output = vec![product.clone()];
        // A MatMul has no third input, so the constant gets a new name.
        let bias = self.bias(graph, node, 2, affine, &vec![0.0; columns])?;
        let name = format!("{}.bias", node.proto.name());
        let add = make::node("Add", &name, &[&product, &bias], output);
        self.replace(node, vec![matmul, add])
    }

    /// Folds into a product with a constant matrix and the Add after it.
    fn fold_biased_matmul(
        &mut self,
        graph: &Graph,
        add: Node<'_>,
        affine: &Affine,
    ) -> Foldable<()> {
        let (a, b) = (add.need_input(0)?, add.need_input(1)?);
        let product = |value| {
            sole_use_producer(graph, value)
                .ok()
                .filter(|n| n.op() == "MatMul")
        };
        let (matmul, bias_index) = match (product(a), product(b)) {
            (Some(matmul), None) => (matmul, 1),
            (None, Some(matmul)) => (matmul, 0),
            _ => return refuse("it adds no constant to a product"),
        };
        let weight = matrix(graph, matmul)?;
        let columns = weight.len_of(Axis(1));
        check_channels(affine, columns)?;
        let bias = graph.floats(if bias_index == 0 { a } else { b })?;
        let Some(bias) = bias.filter(|t| t.dims == [columns]) else {
            return refuse(format!("it adds no constant row of {columns} values"));
        };
        let bias: Vec<f64> = bias.data.into_iter().map(f64::from).collect();
        let mut product = matmul.proto.clone();
        product.input = vec![
            matmul.need_input(0)?.to_owned(),
            self.weight(graph, matmul, weight, Axis(1), 1, affine)?,
        ];
        let mut sum = add.proto.clone();
        sum.input = vec![
            matmul.need_output()?.to_owned(),
            self.bias(graph, add, bias_index, affine, &bias)?,
        ];
        self.replace(matmul, vec![product])?;
        self.replace(add, vec![sum])
    }

    fn replace(&mut self, node: Node<'_>, others: Vec<NodeProto>) -> Foldable<()> {
        self.replaced.insert(node.need_output()?.to_owned(), others);
        Ok(())
    }

    /// Plans a weight multiplied by the scale of its output channel, and returns its name. Axis 0
    /// divides into `groups`, and within each the output channels lie on `axis`.
    fn weight(
        &mut self,
        graph: &Graph,
        node: Node<'_>,
        mut weight: ArrayD<f32>,
        axis: Axis,
        groups: usize,
        affine: &Affine,
    ) -> Foldable<String> {
        let rows = weight.len_of(Axis(0)) / groups;
        for (group, mut part) in weight.axis_chunks_iter_mut(Axis(0), rows).enumerate() {
            let first = group * part.len_of(axis);
            for (channel, mut values) in part.axis_iter_mut(axis).enumerate() {
                let (scale, _) = affine.at(first + channel);
                values.mapv_inplace(|w| (f64::from(w) * scale) as f32);
            }
        }
        let name = constant_name(graph, node, 1, "weight")?;
        self.constant(name, &weight)
    }

    /// Plans the bias `before·scale + shift` of each channel in place of input `index`, and returns its
    /// name.
    fn bias(
        &mut self,
        graph: &Graph,
        node: Node<'_>,
        index: usize,
        affine: &Affine,
        before: &[f64],
    ) -> Foldable<String> {
        let folded = before.iter().enumerate().map(|(channel, before)| {
            let (scale, shift) = affine.at(channel);
            (before * scale + shift) as f32
        });
        let name = constant_name(graph, node, index, "bias")?;
        self.constant(name, &folded.collect::<Array1<f32>>())
    }

    fn constant<D: Dimension>(
        &mut self,
        name: String,
        values: &ArrayRef<f32, D>,
    ) -> Foldable<String> {
        if values.iter().any(|v| !v.is_finite()) {
            return refuse("the folded weights would not be finite");
        }
        let tensor = tensor::from_array(&name, values);
        self.tensors.insert(name.clone(), tensor);
        Ok(name)
    }

    /// Takes over the edits of one fold.
    fn extend(&mut self, fold: Self) {
        self.renamed.extend(fold.renamed);
        self.replaced.extend(fold.replaced);
        self.tensors.extend(fold.tensors);
    }

    fn apply(self, graph: &mut Graph) -> Result<()> {
        graph.edit(|proto| {
            make::replace_nodes(proto, self.replaced);
            for output in proto.node.iter_mut().flat_map(|n| &mut n.output) {
                if let Some(name) = self.renamed.get(output) {
                    output.clone_from(name);
                }
            }
            make::put_initializers(proto, self.tensors.into_values());
        })
    }
}

/// The node that produces the input of `node`, directly or through a Transpose, if `node` can be folded
/// into it.
fn foldable_producer<'a>(
    graph: &'a Graph,
    shapes: &Shapes,
    node: Node<'_>,
    affine: &Affine,
) -> Foldable<Node<'a>> {
    let first = sole_use_producer(graph, &affine.input)?;
    let is_bn = node.op() == "BatchNormalization";
    let mut last_axis = shapes
        .get(&affine.input)
        .is_some_and(|dims| dims.len() == 2);
    let mut producer = first;
    if is_bn && first.op() == "Transpose" {
        let perm = permutation(first, first.ints("perm")?.map_or(0, <[i64]>::len))?;
        last_axis = perm.get(1).is_some_and(|&axis| axis + 1 == perm.len());
        producer = sole_use_producer(graph, first.need_input(0)?)?;
    }
    let direct = first.op() == producer.op();
    match producer.op() {
        "Conv" | "ConvTranspose" if direct => Ok(producer),
        "Gemm" if direct && is_bn => Ok(producer),
        "MatMul" | "Add" if is_bn && last_axis => Ok(producer),
        _ => refuse(format!(
            "its input is made by {}, which cannot take it",
            producer.describe()
        )),
    }
}

/// The node that produces `value`, if the value is used once.
fn sole_use_producer<'a>(graph: &'a Graph, value: &str) -> Foldable<Node<'a>> {
    match (graph.producer(value), graph.uses(value)) {
        (None, _) => refuse(format!("its input \"{value}\" is made by no node")),
        (Some(producer), 1) => Ok(producer),
        (Some(producer), uses) => refuse(format!(
            "what {} makes is used {uses} times",
            producer.describe()
        )),
    }
}

/// The weight of a node, which must be a FLOAT constant and not empty.
fn weight(graph: &Graph, node: Node<'_>) -> Foldable<ArrayD<f32>> {
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
            Ok(tensor::array(graph.path(), &proto)?)
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
fn matrix(graph: &Graph, node: Node<'_>) -> Foldable<ArrayD<f32>> {
    let weight = weight(graph, node)?;
    match weight.ndim() {
        2 => Ok(weight),
        _ => refuse(format!(
            "the weight of {} has shape {:?}, not two axes",
            node.describe(),
            weight.shape()
        )),
    }
}

/// The third input of a node, a constant of one value per channel; zeros if the node has none.
fn bias(graph: &Graph, node: Node<'_>, channels: usize) -> Foldable<Vec<f64>> {
    let Some(name) = node.input(2) else {
        return Ok(vec![0.0; channels]);
    };
    match graph.floats(name)? {
        Some(bias) if bias.data.len() == channels => {
            Ok(bias.data.into_iter().map(f64::from).collect())
        }
        _ => refuse(format!(
            "the bias \"{name}\" of {} is no constant of {channels} values",
            node.describe()
        )),
    }
}

/// Refuses scales for a different number of channels.
fn check_channels(affine: &Affine, channels: usize) -> Foldable<()> {
    if affine.fits(channels) {
        return Ok(());
    }
    refuse(format!(
        "it has {} channels, the node before it makes {channels}",
        affine.channels()
    ))
}

/// The name for a changed constant: its own if no other node uses it.
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
