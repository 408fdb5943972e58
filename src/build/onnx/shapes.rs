//! Shapes of all values of a graph, for one fixed size of its inputs.
//!
//! Operators that are not known here leave their outputs without a shape; that is no error until
//! somebody needs it. Small integer constants are followed on the way (see `values`), since exporters
//! compute the arguments of Expand, Tile and Reshape from shapes.

use std::collections::HashMap;

use super::graph::Graph;
use super::node::Node;
use super::values::{self, Ints};
use super::window::Window;
use crate::build::{BuildError, Result};

/// Most axes of a value; longer shapes occur in broken files only.
const MAX_RANK: usize = 16;

/// Shapes of values by name; see [`Shapes::infer`].
#[derive(Clone, Debug, Default)]
pub struct Shapes {
    dims: HashMap<String, Vec<usize>>,
    ints: HashMap<String, Vec<i64>>,
}

/// Input dimensions to use where the file has none, or other ones.
pub type InputDims<'a> = &'a [(&'a str, &'a [usize])];

impl Shapes {
    /// Follows the graph from its inputs, whose shapes are those of `inputs` or else the file's. An
    /// input with axes of unknown length has no shape.
    ///
    /// # Errors
    /// [`BuildError::Node`] for a node whose attributes or inputs
    /// contradict each other.
    pub fn infer(graph: &Graph, inputs: InputDims<'_>) -> Result<Self> {
        let mut shapes = Self::default();
        for input in graph.inputs()? {
            let given = inputs.iter().find(|(name, _)| *name == input.name);
            let known = || input.dims.clone()?.into_iter().collect::<Option<Vec<_>>>();
            if let Some(dims) = given.map(|(_, d)| d.to_vec()).or_else(known) {
                shapes.insert(graph, &input.name, dims)?;
            }
        }
        for tensor in &graph.proto().initializer {
            let (dims, _) = super::tensor::dims(graph.path(), tensor)?;
            shapes.insert(graph, tensor.name(), dims)?;
            if let Some(ints) = values::small(graph.path(), tensor)? {
                shapes.ints.insert(tensor.name().to_owned(), ints);
            }
        }
        for node in graph.nodes() {
            let dims = shapes.node(graph, node)?;
            let Some(output) = node.output(0) else {
                continue;
            };
            if let Some(dims) = dims {
                let input_values = |i: usize| {
                    let name = node.input(i)?;
                    Some(Ints {
                        dims: shapes.dims.get(name)?,
                        values: shapes.ints.get(name).map(Vec::as_slice),
                    })
                };
                if let Some(ints) = values::fold(graph, node, &dims, input_values)? {
                    shapes.ints.insert(output.to_owned(), ints);
                }
                shapes.insert(graph, output, dims)?;
            }
        }
        Ok(shapes)
    }

    fn insert(&mut self, graph: &Graph, value: &str, dims: Vec<usize>) -> Result<()> {
        if dims.len() > MAX_RANK {
            let what = format!("\"{value}\" has {} axes, at most {MAX_RANK}", dims.len());
            return Err(BuildError::graph(graph.path(), what));
        }
        self.dims.insert(value.to_owned(), dims);
        Ok(())
    }

    /// The shape of a value, if it is known.
    pub fn get(&self, value: &str) -> Option<&[usize]> {
        self.dims.get(value).map(Vec::as_slice)
    }

    /// The elements of a small integer value that does not depend on the input's content.
    pub fn ints(&self, value: &str) -> Option<&[i64]> {
        self.ints.get(value).map(Vec::as_slice)
    }

    /// The axes that a node works on: its attribute `axes`, or from operator set 13 or 18 on its
    /// second input. Counted from 0, `rank` long at most; `None` where it names none.
    ///
    /// # Errors
    /// [`BuildError::Node`] for axes that `rank` does not have, or
    /// that are not constant.
    pub fn axes(&self, node: Node<'_>, rank: usize) -> Result<Option<Vec<usize>>> {
        let axes = match (node.ints("axes")?, node.input(1)) {
            (Some(axes), _) => axes,
            (None, None) => return Ok(None),
            (None, Some(input)) => self
                .ints(input)
                .ok_or_else(|| node.error(format!("its axes \"{input}\" are not constant")))?,
        };
        axes.iter()
            .map(|&a| axis(node, a, rank))
            .collect::<Result<_>>()
            .map(Some)
    }

    fn input(&self, node: Node<'_>, index: usize) -> Option<&[usize]> {
        self.get(node.input(index)?)
    }

    fn node(&self, graph: &Graph, node: Node<'_>) -> Result<Option<Vec<usize>>> {
        let op = node.op();
        match op {
            "Constant" => {
                let value = graph.constant(node.need_output()?)?;
                let dims = value.map(|t| super::tensor::dims(graph.path(), &t));
                return Ok(dims.transpose()?.map(|(dims, _)| dims));
            }
            "Concat" => return self.concat(node),
            "ConstantOfShape" => {
                let shape = node.input(0).and_then(|name| self.ints(name));
                return shape.map(|dims| lengths(node, dims)).transpose();
            }
            _ => {}
        }
        let Some(x) = self.input(node, 0) else {
            return Ok(None);
        };
        match op {
            "Relu" | "Sigmoid" | "Identity" | "Dropout" | "Cast" | "BatchNormalization"
            | "LeakyRelu" | "Clip" | "QuantizeLinear" | "DequantizeLinear" | "Exp" | "Tanh"
            | "Neg" | "Abs" | "Sqrt" | "Floor" | "Ceil" | "Softmax" | "Not" => Ok(Some(x.to_vec())),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Equal" | "Greater" | "Less" => {
                let Some(y) = self.input(node, 1) else {
                    return Ok(None);
                };
                broadcast(node, x, y).map(Some)
            }
            "Where" => match (self.input(node, 1), self.input(node, 2)) {
                (Some(y), Some(z)) => broadcast(node, &broadcast(node, x, y)?, z).map(Some),
                _ => Ok(None),
            },
            "Conv" | "ConvTranspose" | "MaxPool" => self.window(node, x),
            "MatMul" => match self.input(node, 1) {
                Some(y) => matmul(node, x, y).map(Some),
                None => Ok(None),
            },
            "Gemm" => match self.input(node, 1) {
                Some(y) => gemm(node, x, y).map(Some),
                None => Ok(None),
            },
            "Transpose" => {
                let perm = permutation(node, x.len())?;
                Ok(Some(
                    perm.iter().filter_map(|&a| x.get(a).copied()).collect(),
                ))
            }
            "Shape" => {
                let rank = x.len();
                let (start, end) = values::shape_range(node, rank)?;
                Ok(Some(vec![end.saturating_sub(start)]))
            }
            "Gather" => {
                let axis = axis(node, node.int("axis", 0)?, x.len())?;
                let Some(indices) = self.input(node, 1) else {
                    return Ok(None);
                };
                let (before, after) = x.split_at(axis);
                let after = after.get(1..).unwrap_or_default();
                Ok(Some([before, indices, after].concat()))
            }
            "DepthToSpace" => depth_to_space(node, x).map(Some),
            "ReduceMax" | "ReduceMean" | "ReduceSum" | "ReduceMin" => self.reduce(node, x),
            "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" | "Expand" | "Tile" | "Pad"
            | "Slice" => self.reshaping(node, x),
            _ => Ok(None),
        }
    }

    fn concat(&self, node: Node<'_>) -> Result<Option<Vec<usize>>> {
        let mut out: Option<Vec<usize>> = None;
        for index in 0..node.proto.input.len() {
            let Some(x) = self.input(node, index) else {
                return Ok(None);
            };
            let axis = axis(node, node.int("axis", i64::MIN)?, x.len())?;
            let Some(sum) = &mut out else {
                out = Some(x.to_vec());
                continue;
            };
            let same = |(i, (a, b)): (usize, (&usize, &usize))| i == axis || a == b;
            if sum.len() != x.len() || !sum.iter().zip(x).enumerate().all(same) {
                return Err(node.error(format!(
                    "its inputs have shapes {sum:?} and {x:?}, which differ beside axis {axis}"
                )));
            }
            if let (Some(total), Some(more)) = (sum.get_mut(axis), x.get(axis)) {
                *total = total.saturating_add(*more);
            }
        }
        Ok(out)
    }

    fn window(&self, node: Node<'_>, x: &[usize]) -> Result<Option<Vec<usize>>> {
        let &[batch, channels, h, w] = x else {
            return Err(node.error(format!("its input has shape {x:?}, expected [N, C, H, W]")));
        };
        if node.op() == "MaxPool" {
            let window = Window::new(node, [h, w], None)?;
            let [h, w] = window.output(node, [h, w])?;
            return Ok(Some(vec![batch, channels, h, w]));
        }
        let Some(weight) = self.input(node, 1) else {
            return Ok(None);
        };
        let &[o, i, kh, kw] = weight else {
            return Err(node.error(format!("its weight has shape {weight:?}, expected 4 axes")));
        };
        if kh == 0 || kw == 0 {
            return Err(node.error(format!("its weight has shape {weight:?}")));
        }
        let window = Window::new(node, [h, w], Some([kh, kw]))?;
        let transposed = node.op() == "ConvTranspose";
        let (needed, made) = match transposed {
            true => (o, i.saturating_mul(window.groups)),
            false => (i.saturating_mul(window.groups), o),
        };
        if needed != channels || made % window.groups != 0 {
            return Err(node.error(format!(
                "its weight has shape {weight:?} with {} groups, its input {channels} channels",
                window.groups
            )));
        }
        let [h, w] = match transposed {
            true => window.output_transposed(node, [h, w])?,
            false => window.output(node, [h, w])?,
        };
        Ok(Some(vec![batch, made, h, w]))
    }

    fn reduce(&self, node: Node<'_>, x: &[usize]) -> Result<Option<Vec<usize>>> {
        let keep = node.int("keepdims", 1)? != 0;
        let axes = match self.axes(node, x.len())? {
            Some(axes) if !axes.is_empty() => axes,
            _ => (0..x.len()).collect(),
        };
        let dims = x
            .iter()
            .enumerate()
            .filter_map(|(i, &n)| match axes.contains(&i) {
                true => keep.then_some(1),
                false => Some(n),
            });
        Ok(Some(dims.collect()))
    }

    /// Operators that keep or repeat elements and only change where they stand.
    fn reshaping(&self, node: Node<'_>, x: &[usize]) -> Result<Option<Vec<usize>>> {
        let argument = node.input(1).and_then(|name| self.ints(name));
        match node.op() {
            "Squeeze" => {
                let axes = match self.axes(node, x.len())? {
                    Some(axes) => axes,
                    None => (0..x.len()).filter(|&i| x.get(i) == Some(&1)).collect(),
                };
                if let Some(bad) = axes.iter().find(|&&a| x.get(a) != Some(&1)) {
                    return Err(node.error(format!("axis {bad} of {x:?} is not 1")));
                }
                let kept = x.iter().enumerate().filter(|(i, _)| !axes.contains(i));
                Ok(Some(kept.map(|(_, &n)| n).collect()))
            }
            "Unsqueeze" => {
                let count = match (node.ints("axes")?, argument) {
                    (Some(axes), _) | (None, Some(axes)) => axes.len(),
                    (None, None) => return Ok(None),
                };
                let rank = x.len().saturating_add(count);
                if rank > MAX_RANK {
                    return Err(node.error(format!("it makes {rank} axes, at most {MAX_RANK}")));
                }
                let axes = self.axes(node, rank)?.unwrap_or_default();
                let mut rest = x.iter().copied();
                let dims = (0..rank).map(|i| match axes.contains(&i) {
                    true => Some(1),
                    false => rest.next(),
                });
                let dims: Option<Vec<usize>> = dims.collect();
                dims.map(Some)
                    .ok_or_else(|| node.error("its axes name one twice"))
            }
            "Flatten" => {
                let axis = node.int("axis", 1)?;
                let axis = usize::try_from(axis).unwrap_or(0).min(x.len());
                let (rows, columns) = x.split_at(axis);
                Ok(Some(vec![product(node, rows)?, product(node, columns)?]))
            }
            "Reshape" => argument.map(|to| reshape(node, x, to)).transpose(),
            "Expand" => match argument {
                Some(to) => broadcast(node, x, &lengths(node, to)?).map(Some),
                None => Ok(None),
            },
            "Tile" => {
                let Some(repeats) = argument else {
                    return Ok(None);
                };
                let repeats = lengths(node, repeats)?;
                if repeats.len() != x.len() {
                    let what = format!("it repeats {repeats:?} of an input of shape {x:?}");
                    return Err(node.error(what));
                }
                let dims = x.iter().zip(&repeats).map(|(&n, &r)| n.checked_mul(r));
                let dims: Option<Vec<usize>> = dims.collect();
                dims.map(Some)
                    .ok_or_else(|| node.error("its result is too large"))
            }
            "Pad" => {
                let pads = match node.ints("pads")? {
                    Some(pads) => Some(pads),
                    None => argument,
                };
                // With the input `axes` (operator set 18) the shape is left open.
                let (Some(pads), None) = (pads, node.input(3)) else {
                    return Ok(None);
                };
                if pads.len() != 2 * x.len() {
                    let what = format!("pads are {pads:?}, its input has shape {x:?}");
                    return Err(node.error(what));
                }
                let (begin, end) = pads.split_at(x.len());
                let dims = x.iter().zip(begin.iter().zip(end)).map(|(&n, (&b, &e))| {
                    let n = i64::try_from(n).ok()?;
                    usize::try_from(n.checked_add(b)?.checked_add(e)?).ok()
                });
                let dims: Option<Vec<usize>> = dims.collect();
                dims.map(Some)
                    .ok_or_else(|| node.error(format!("pads {pads:?} are impossible")))
            }
            // Only slices of shapes matter here, and those have one axis.
            "Slice" if x.len() == 1 => {
                let ints = |i: usize| node.input(i).and_then(|name| self.ints(name));
                let len = x.first().copied().unwrap_or(0);
                Ok(values::slice_range(node, len, ints)?.map(|r| vec![r.len()]))
            }
            _ => Ok(None),
        }
    }
}

/// A shape as text, for messages.
pub(crate) fn text(dims: Option<&[usize]>) -> String {
    dims.map_or("unknown".to_owned(), |dims| format!("{dims:?}"))
}

/// An axis counted from 0.
pub(crate) fn axis(node: Node<'_>, axis: i64, rank: usize) -> Result<usize> {
    let rank_i = i64::try_from(rank).unwrap_or(i64::MAX);
    let positive = match axis < 0 {
        true => axis.checked_add(rank_i),
        false => Some(axis),
    };
    let found = positive.and_then(|a| usize::try_from(a).ok());
    found
        .filter(|&a| a < rank)
        .ok_or_else(|| node.error(format!("axis {axis} of a tensor with {rank} axes")))
}

/// The permutation of a Transpose; the reverse order where it names none.
///
/// # Errors
/// [`BuildError::Node`] if it is no permutation of `rank` axes.
pub fn permutation(node: Node<'_>, rank: usize) -> Result<Vec<usize>> {
    let Some(perm) = node.ints("perm")? else {
        return Ok((0..rank).rev().collect());
    };
    let found: Vec<usize> = perm
        .iter()
        .map(|&a| usize::try_from(a).unwrap_or(rank))
        .collect();
    let complete = found.len() == rank && (0..rank).all(|a| found.contains(&a));
    match complete {
        true => Ok(found),
        false => Err(node.error(format!("perm is {perm:?}, its input has {rank} axes"))),
    }
}

fn product(node: Node<'_>, dims: &[usize]) -> Result<usize> {
    let product = dims.iter().try_fold(1_usize, |p, &n| p.checked_mul(n));
    product.ok_or_else(|| node.error(format!("shape {dims:?} is too large")))
}

fn lengths(node: Node<'_>, dims: &[i64]) -> Result<Vec<usize>> {
    let all = dims.iter().map(|&n| usize::try_from(n).ok());
    let all: Option<Vec<usize>> = all.collect();
    all.ok_or_else(|| node.error(format!("impossible lengths {dims:?}")))
}

/// NumPy's rule: axes from the right, equal or 1.
fn broadcast(node: Node<'_>, x: &[usize], y: &[usize]) -> Result<Vec<usize>> {
    let rank = x.len().max(y.len());
    let at = |dims: &[usize], i: usize| {
        let skipped = rank - dims.len();
        i.checked_sub(skipped)
            .and_then(|i| dims.get(i).copied())
            .unwrap_or(1)
    };
    (0..rank)
        .map(|i| match (at(x, i), at(y, i)) {
            (a, b) if a == b || b == 1 => Ok(a),
            (1, b) => Ok(b),
            _ => Err(node.error(format!("shapes {x:?} and {y:?} do not fit"))),
        })
        .collect()
}

fn matmul(node: Node<'_>, x: &[usize], y: &[usize]) -> Result<Vec<usize>> {
    let bad = || node.error(format!("cannot multiply shapes {x:?} and {y:?}"));
    let (&[ref x_batch @ .., m, k], &[ref y_batch @ .., k2, n]) = (x, y) else {
        return Err(bad());
    };
    if k != k2 {
        return Err(bad());
    }
    let mut dims = broadcast(node, x_batch, y_batch)?;
    dims.extend([m, n]);
    Ok(dims)
}

fn gemm(node: Node<'_>, x: &[usize], y: &[usize]) -> Result<Vec<usize>> {
    let (&[a, b], &[c, d]) = (x, y) else {
        return Err(node.error(format!("cannot multiply shapes {x:?} and {y:?}")));
    };
    let (m, k) = if node.int("transA", 0)? == 0 {
        (a, b)
    } else {
        (b, a)
    };
    let (k2, n) = if node.int("transB", 0)? == 0 {
        (c, d)
    } else {
        (d, c)
    };
    match k == k2 {
        true => Ok(vec![m, n]),
        false => Err(node.error(format!("cannot multiply shapes {x:?} and {y:?}"))),
    }
}

fn depth_to_space(node: Node<'_>, x: &[usize]) -> Result<Vec<usize>> {
    let block = node.int("blocksize", 0)?;
    let size = usize::try_from(block)
        .ok()
        .filter(|b| (1..1 << 16).contains(b));
    match (size, x) {
        (Some(b), &[n, c, h, w]) if c % (b * b) == 0 => Ok(vec![
            n,
            c / (b * b),
            h.saturating_mul(b),
            w.saturating_mul(b),
        ]),
        _ => Err(node.error(format!("blocksize {block} for an input of shape {x:?}"))),
    }
}

/// `to` with its 0 (keep) and −1 (the rest) resolved.
fn reshape(node: Node<'_>, x: &[usize], to: &[i64]) -> Result<Vec<usize>> {
    let bad = || node.error(format!("cannot reshape {x:?} to {to:?}"));
    let keep_zero = node.int("allowzero", 0)? == 0;
    let mut dims = Vec::with_capacity(to.len());
    let mut rest = None;
    for (i, &n) in to.iter().enumerate() {
        match n {
            -1 if rest.is_none() => {
                rest = Some(i);
                dims.push(1);
            }
            0 if keep_zero => dims.push(*x.get(i).ok_or_else(bad)?),
            n => dims.push(usize::try_from(n).map_err(|_| bad())?),
        }
    }
    let (have, want) = (product(node, x)?, product(node, &dims)?);
    if let Some(slot) = rest.and_then(|i| dims.get_mut(i)) {
        *slot = have.checked_div(want).ok_or_else(bad)?;
    }
    match product(node, &dims)? == have {
        true => Ok(dims),
        false => Err(bad()),
    }
}

#[cfg(test)]
mod tests;
