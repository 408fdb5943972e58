//! Evaluates the small integer values that a graph computes from shapes and constants.

use std::path::Path;

use super::graph::Graph;
use super::node::Node;
use super::proto::TensorProto;
use super::tensor::{self, element};
use crate::build::Result;

/// Largest value that is evaluated, in elements. Arguments of Reshape, Tile and the like have one
/// element per axis.
const MAX_ELEMENTS: usize = 64;

/// The shape of a value, and its elements if they are known.
#[derive(Clone, Copy)]
pub(super) struct Ints<'a> {
    pub(super) dims: &'a [usize],
    pub(super) values: Option<&'a [i64]>,
}

/// The elements of a constant, if they are few and integers or booleans.
pub(super) fn small(path: &Path, constant: &TensorProto) -> Result<Option<Vec<i64>>> {
    let integer = matches!(
        constant.data_type(),
        element::INT64 | element::INT32 | element::BOOL
    );
    if !integer || tensor::dims(path, constant)?.1 > MAX_ELEMENTS {
        return Ok(None);
    }
    Ok(Some(tensor::integers(path, constant)?.data))
}

/// The elements of the output of `node`, whose shape is `dims`, if they follow from `inputs`.
pub(super) fn fold<'a>(
    graph: &Graph,
    node: Node<'_>,
    dims: &[usize],
    inputs: impl Fn(usize) -> Option<Ints<'a>>,
) -> Result<Option<Vec<i64>>> {
    let count = dims.iter().try_fold(1_usize, |p, &n| p.checked_mul(n));
    let Some(count) = count.filter(|&n| n <= MAX_ELEMENTS) else {
        return Ok(None);
    };
    let value = |i: usize| inputs(i).and_then(|x| x.values);
    let binary = |f: fn(i64, i64) -> Option<i64>| zip(count, value(0)?, value(1)?, f);
    Ok(match node.op() {
        "Constant" => match graph.constant(node.need_output()?)? {
            Some(constant) => small(graph.path(), &constant)?,
            None => None,
        },
        "Shape" => {
            let Some(x) = inputs(0) else {
                return Ok(None);
            };
            let (start, end) = shape_range(node, x.dims.len())?;
            let dims = x.dims.get(start..end).unwrap_or_default();
            dims.iter().map(|&n| i64::try_from(n).ok()).collect()
        }
        "ConstantOfShape" => {
            let fill = match node.tensor("value")? {
                Some(fill) => small(graph.path(), fill)?,
                // The default fill is a float zero.
                None => None,
            };
            fill.and_then(|f| f.first().map(|&v| vec![v; count]))
        }
        "Identity" | "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => value(0).map(<[_]>::to_vec),
        "Cast" => match node.int("to", 0)? as i32 {
            element::INT64 | element::INT32 => value(0).map(<[_]>::to_vec),
            _ => None,
        },
        "Expand" => value(0).and_then(|x| match x {
            [only] => Some(vec![*only; count]),
            // Only axes of length one are added.
            _ => (x.len() == count).then(|| x.to_vec()),
        }),
        "Concat" => {
            let parts = (0..node.proto.input.len()).map(value);
            let parts: Option<Vec<&[i64]>> = parts.collect();
            parts.filter(|_| dims.len() == 1).map(|p| p.concat())
        }
        "Gather" => match (inputs(0), value(0), value(1)) {
            (Some(x), Some(data), Some(indices)) if x.dims.len() == 1 => {
                let at = |&i: &i64| {
                    let i = axis(node, i, data.len())?;
                    Ok(data.get(i).copied().unwrap_or_default())
                };
                Some(indices.iter().map(at).collect::<Result<_>>()?)
            }
            _ => None,
        },
        "Slice" => {
            let Some(x) = value(0) else {
                return Ok(None);
            };
            let range = slice_range(node, x.len(), value)?;
            range.map(|r| r.filter_map(|i| x.get(i).copied()).collect())
        }
        "Add" => binary(i64::checked_add),
        "Sub" => binary(i64::checked_sub),
        "Mul" => binary(i64::checked_mul),
        "Div" => binary(i64::checked_div),
        "Equal" => binary(|a, b| Some(i64::from(a == b))),
        "Where" => match (value(0), value(1), value(2)) {
            (Some(c), Some(a), Some(b)) => {
                let pick = |i: usize| {
                    let from = if pick(c, i)? == 0 { b } else { a };
                    pick(from, i)
                };
                (0..count).map(pick).collect()
            }
            _ => None,
        },
        _ => None,
    })
}

/// Element `i` of a vector, or the only element of a scalar.
fn pick(values: &[i64], i: usize) -> Option<i64> {
    match values {
        [only] => Some(*only),
        _ => values.get(i).copied(),
    }
}

fn zip(count: usize, a: &[i64], b: &[i64], f: fn(i64, i64) -> Option<i64>) -> Option<Vec<i64>> {
    (0..count).map(|i| f(pick(a, i)?, pick(b, i)?)).collect()
}

/// An index into `len` elements as Python slices have it: negative ones count from the end, and ones
/// out of range are clamped.
fn clamp(index: i64, len: usize) -> usize {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let index = if index < 0 {
        index.saturating_add(len)
    } else {
        index
    };
    usize::try_from(index.clamp(0, len)).unwrap_or(0)
}

/// The axes that a Shape node reports (attributes `start` and `end` of operator set 15).
pub(super) fn shape_range(node: Node<'_>, rank: usize) -> Result<(usize, usize)> {
    let start = clamp(node.int("start", 0)?, rank);
    let end = clamp(node.int("end", i64::MAX)?, rank);
    Ok((start, end.max(start)))
}

/// The elements that a Slice with steps of 1 takes from a vector of `len`; `None` if they are unknown.
pub(super) fn slice_range<'a>(
    node: Node<'_>,
    len: usize,
    ints: impl Fn(usize) -> Option<&'a [i64]>,
) -> Result<Option<std::ops::Range<usize>>> {
    let argument = |i: usize, name: &str| -> Result<Option<i64>> {
        let from_attribute = node.ints(name)?.and_then(|v| v.first().copied());
        Ok(from_attribute.or_else(|| ints(i).and_then(|v| v.first().copied())))
    };
    let (Some(start), Some(end)) = (argument(1, "starts")?, argument(2, "ends")?) else {
        return Ok(None);
    };
    if node.input(4).is_some() && ints(4) != Some(&[1]) {
        return Ok(None);
    }
    let (start, end) = (clamp(start, len), clamp(end, len));
    Ok(Some(start..end.max(start)))
}

/// Converts an axis, which counts from the end if it is negative, to one that counts from 0.
pub(crate) fn axis(node: Node<'_>, axis: i64, rank: usize) -> Result<usize> {
    let rank_i = i64::try_from(rank).unwrap_or(i64::MAX);
    let positive = if axis < 0 {
        axis.checked_add(rank_i)
    } else {
        Some(axis)
    };
    let found = positive.and_then(|a| usize::try_from(a).ok());
    found
        .filter(|&a| a < rank)
        .ok_or_else(|| node.error(format!("axis {axis} of a tensor with {rank} axes")))
}
