//! Infers the shapes of all values of a graph for fixed input sizes.
//!
//! The outputs of an unknown operator have no shape, which is an error only if something needs it.
//! Exporters compute the arguments of Expand, Tile and Reshape from shapes, so inference also evaluates
//! small integer values (see `values`).

use std::collections::HashMap;

use super::graph::Graph;
use super::node::Node;
pub(crate) use super::values::axis;
use super::values::{self, Ints};
use super::window::Window;
use crate::build::{BuildError, Result};

/// Largest rank of a value; only broken files exceed it.
const MAX_RANK: usize = 16;

/// Shapes of values by name; see [`Shapes::infer`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Shapes {
    dims: HashMap<String, Vec<usize>>,
    ints: HashMap<String, Vec<i64>>,
}

/// Input dimensions by name, which take precedence over the file's.
pub(crate) type InputDims<'a> = &'a [(&'a str, &'a [usize])];

impl Shapes {
    /// Infers shapes from the graph's inputs, whose own shapes come from `inputs` or else from the file.
    /// An input with an axis of unknown length has no shape.
    ///
    /// # Errors
    /// [`BuildError::Node`] for a node whose attributes and inputs contradict each other.
    pub(crate) fn infer(graph: &Graph, inputs: InputDims<'_>) -> Result<Self> {
        let mut shapes = Self::default();
        for input in graph.inputs()? {
            let fixed = inputs.iter().find(|(name, _)| *name == input.name);
            let known = || input.dims.clone()?.into_iter().collect::<Option<Vec<_>>>();
            if let Some(dims) = fixed.map(|(_, d)| d.to_vec()).or_else(known) {
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
            let what = format!(
                "\"{value}\" has {} axes, more than the supported {MAX_RANK}",
                dims.len()
            );
            return Err(BuildError::graph(graph.path(), what));
        }
        self.dims.insert(value.to_owned(), dims);
        Ok(())
    }

    /// The shape of a value, if it is known.
    pub(crate) fn get(&self, value: &str) -> Option<&[usize]> {
        self.dims.get(value).map(Vec::as_slice)
    }

    /// The elements of a small integer value that does not depend on the input's data.
    pub(crate) fn ints(&self, value: &str) -> Option<&[i64]> {
        self.ints.get(value).map(Vec::as_slice)
    }

    /// The axes that a node works on, from its attribute `axes`, or from its second input since operator
    /// set 13 or 18. They are counted from 0 and below `rank`; `None` if the node names none.
    ///
    /// # Errors
    /// [`BuildError::Node`] for an axis out of range, or axes that are not constant.
    pub(crate) fn axes(&self, node: Node<'_>, rank: usize) -> Result<Option<Vec<usize>>> {
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
            "Relu" | "Sigmoid" | "Identity" | "Dropout" | "Cast" | "CastLike"
            | "BatchNormalization" | "LeakyRelu" | "Clip" | "QuantizeLinear"
            | "DequantizeLinear" | "Exp" | "Tanh" | "Neg" | "Abs" | "Sqrt" | "Floor" | "Ceil"
            | "Softmax" | "Not" => Ok(Some(x.to_vec())),
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
                    "its inputs have shapes {sum:?} and {x:?}, which differ outside of axis {axis}"
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
            return Err(node.error(format!("its weight has the empty shape {weight:?}")));
        }
        let window = Window::new(node, [h, w], Some([kh, kw]))?;
        let transposed = node.op() == "ConvTranspose";
        let (inputs, outputs) = if transposed {
            (o, i.saturating_mul(window.groups))
        } else {
            (i.saturating_mul(window.groups), o)
        };
        if inputs != channels || outputs % window.groups != 0 {
            return Err(node.error(format!(
                "its weight has shape {weight:?} and {} groups, but its input has {channels} channels",
                window.groups
            )));
        }
        let [h, w] = if transposed {
            window.output_transposed(node, [h, w])?
        } else {
            window.output(node, [h, w])?
        };
        Ok(Some(vec![batch, outputs, h, w]))
    }

    fn reduce(&self, node: Node<'_>, x: &[usize]) -> Result<Option<Vec<usize>>> {
        let keep = node.int("keepdims", 1)? != 0;
        let axes = match self.axes(node, x.len())? {
            Some(axes) if !axes.is_empty() => axes,
            _ => (0..x.len()).collect(),
        };
        let dims = x.iter().enumerate().filter_map(|(i, &n)| {
            if axes.contains(&i) {
                keep.then_some(1)
            } else {
                Some(n)
            }
        });
        Ok(Some(dims.collect()))
    }

    /// The output of an operator that moves, repeats or drops elements.
    fn reshaping(&self, node: Node<'_>, x: &[usize]) -> Result<Option<Vec<usize>>> {
        let argument = node.input(1).and_then(|name| self.ints(name));
        match node.op() {
            "Squeeze" => {
                let axes = match self.axes(node, x.len())? {
                    Some(axes) => axes,
                    None => (0..x.len()).filter(|&i| x.get(i) == Some(&1)).collect(),
                };
                if let Some(bad) = axes.iter().find(|&&a| x.get(a) != Some(&1)) {
                    return Err(
                        node.error(format!("axis {bad} of shape {x:?} does not have length 1"))
                    );
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
                    return Err(node.error(format!(
                        "its output has {rank} axes, more than the supported {MAX_RANK}"
                    )));
                }
                let axes = self.axes(node, rank)?.unwrap_or_default();
                let mut rest = x.iter().copied();
                let dims = (0..rank).map(|i| {
                    if axes.contains(&i) {
                        Some(1)
                    } else {
                        rest.next()
                    }
                });
                let dims: Option<Vec<usize>> = dims.collect();
                dims.map(Some)
                    .ok_or_else(|| node.error("its axes contain a duplicate"))
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
                    let what = format!("its repeats are {repeats:?}, its input has shape {x:?}");
                    return Err(node.error(what));
                }
                let dims = x.iter().zip(&repeats).map(|(&n, &r)| n.checked_mul(r));
                let dims: Option<Vec<usize>> = dims.collect();
                dims.map(Some)
                    .ok_or_else(|| node.error("its output is too large"))
            }
            "Pad" => {
                let pads = match node.ints("pads")? {
                    Some(pads) => Some(pads),
                    None => argument,
                };
                // The input `axes` of operator set 18 is not supported: the shape stays unknown.
                let (Some(pads), None) = (pads, node.input(3)) else {
                    return Ok(None);
                };
                if pads.len() != 2 * x.len() {
                    let what = format!("its pads are {pads:?}, its input has shape {x:?}");
                    return Err(node.error(what));
                }
                let (begin, end) = pads.split_at(x.len());
                let dims = x.iter().zip(begin.iter().zip(end)).map(|(&n, (&b, &e))| {
                    let n = i64::try_from(n).ok()?;
                    usize::try_from(n.checked_add(b)?.checked_add(e)?).ok()
                });
                let dims: Option<Vec<usize>> = dims.collect();
                dims.map(Some)
                    .ok_or_else(|| node.error(format!("its pads {pads:?} are invalid")))
            }
            // Only slices of shapes matter, and those have one axis.
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

/// The permutation of a Transpose; reverses the axes if the node has none.
///
/// # Errors
/// [`BuildError::Node`] if it is not a permutation of `rank` axes.
pub(crate) fn permutation(node: Node<'_>, rank: usize) -> Result<Vec<usize>> {
    let Some(perm) = node.ints("perm")? else {
        return Ok((0..rank).rev().collect());
    };
    let found: Vec<usize> = perm
        .iter()
        .map(|&a| usize::try_from(a).unwrap_or(rank))
        .collect();
    let complete = found.len() == rank && (0..rank).all(|a| found.contains(&a));
    if complete {
        Ok(found)
    } else {
        Err(node.error(format!("perm is {perm:?}, but its input has {rank} axes")))
    }
}

fn product(node: Node<'_>, dims: &[usize]) -> Result<usize> {
    let product = dims.iter().try_fold(1_usize, |p, &n| p.checked_mul(n));
    product.ok_or_else(|| node.error(format!("shape {dims:?} is too large")))
}

fn lengths(node: Node<'_>, dims: &[i64]) -> Result<Vec<usize>> {
    let all = dims.iter().map(|&n| usize::try_from(n).ok());
    let all: Option<Vec<usize>> = all.collect();
    all.ok_or_else(|| node.error(format!("invalid lengths {dims:?}")))
}

/// Broadcasts two shapes by NumPy's rule: aligned at the last axis, lengths equal or 1.
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
            _ => Err(node.error(format!("cannot broadcast shapes {x:?} and {y:?}"))),
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
    if k == k2 {
        Ok(vec![m, n])
    } else {
        Err(node.error(format!("cannot multiply shapes {x:?} and {y:?}")))
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

/// The shape `to`, with 0 (keep the length) and −1 (infer the length) resolved.
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
    if product(node, &dims)? == have {
        Ok(dims)
    } else {
        Err(bad())
    }
}

#[cfg(test)]
mod tests;
