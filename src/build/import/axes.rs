//! Tracks what the axes of a PFN's values count while nodes rearrange them.

use crate::build::onnx::{Graph, Node};
use crate::build::{BuildError, Result};

/// Lengths that stand in for the pillar and point axes if the file leaves them open. They only serve
/// shape inference. They are primes, so no product of other lengths equals them by chance.
const STAND_IN: (usize, usize) = (9973, 101);

/// What an axis of a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// A single element.
    One,
    Pillars,
    Points,
    Channels,
    /// Pillars and points merged into the rows of a matrix.
    Rows,
}

/// Lengths of the axes.
#[derive(Clone, Copy)]
pub(super) struct Lengths {
    pub(super) pillars: usize,
    pub(super) points: usize,
    pub(super) channels: usize,
}

impl Lengths {
    /// The length of an axis.
    pub(super) fn len_of(self, axis: Axis) -> usize {
        match axis {
            Axis::One => 1,
            Axis::Pillars => self.pillars,
            Axis::Points => self.points,
            Axis::Channels => self.channels,
            Axis::Rows => self.pillars.saturating_mul(self.points),
        }
    }

    /// The axes of a value after its shape changes from `axes` to `dims`, if they are certain. Axes of
    /// length one may appear and vanish, and pillars and points may merge into rows and split again, but
    /// the order stays.
    pub(super) fn relabel(self, axes: &[Axis], dims: &[usize]) -> Option<Vec<Axis>> {
        let mut left: Vec<Axis> = Vec::new();
        for &axis in axes.iter().filter(|a| **a != Axis::One) {
            match axis {
                Axis::Rows => left.extend([Axis::Pillars, Axis::Points]),
                axis => left.push(axis),
            }
        }
        let mut left = left.into_iter().peekable();
        let mut relabelled = Vec::with_capacity(dims.len());
        for &n in dims {
            let next = left.peek().copied();
            let axis = match next {
                Some(axis) if self.len_of(axis) == n => axis,
                Some(Axis::Pillars) if self.len_of(Axis::Rows) == n => {
                    left.next();
                    Axis::Rows
                }
                _ if n == 1 => {
                    relabelled.push(Axis::One);
                    continue;
                }
                _ => return None,
            };
            // Pillars only merge into rows with the points directly after them.
            if axis == Axis::Rows && left.peek() != Some(&Axis::Points) {
                return None;
            }
            left.next();
            relabelled.push(axis);
        }
        // The remaining axes must have length one.
        left.all(|axis| self.len_of(axis) == 1)
            .then_some(relabelled)
    }
}

/// A value whose axes are known.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub(super) value: String,
    pub(super) axes: Vec<Axis>,
}

impl Tracked {
    /// The output of `node`, with these axes.
    pub(super) fn output(node: Node<'_>, axes: Vec<Axis>) -> Result<Self> {
        Ok(Self {
            value: node.need_output()?.to_owned(),
            axes,
        })
    }

    /// The position of an axis.
    pub(super) fn position(&self, axis: Axis) -> Option<usize> {
        self.axes.iter().position(|&a| a == axis)
    }
}

/// The input of a PFN's graph.
pub(super) struct Input {
    pub(super) name: String,
    pub(super) axes: Vec<Axis>,
    pub(super) dims: Vec<usize>,
    /// The lengths of the axes, with stand-ins for those that the file leaves open.
    pub(super) lengths: Lengths,
    /// Numbers of pillars and points that the file fixes.
    pub(super) fixed: (Option<usize>, Option<usize>),
}

impl Input {
    /// Finds the only input of the graph.
    pub(super) fn from_graph(graph: &Graph) -> Result<Self> {
        let bad = |what: String| Err(BuildError::graph(graph.path(), what));
        let mut inputs = graph.inputs()?;
        let names: Vec<String> = inputs.iter().map(|v| v.name.clone()).collect();
        let (Some(value), true) = (inputs.pop(), names.len() == 1) else {
            return bad(format!("a PFN has one input, but this graph has {names:?}"));
        };
        let (axes, pillars, points, channels) = match value.dims.as_deref() {
            Some(&[pillars, points, channels]) => (
                vec![Axis::Pillars, Axis::Points, Axis::Channels],
                pillars,
                points,
                channels,
            ),
            Some(&[None | Some(1), channels, pillars, points]) => (
                vec![Axis::One, Axis::Channels, Axis::Pillars, Axis::Points],
                pillars,
                points,
                channels,
            ),
            _ => {
                return bad(format!(
                    "input \"{}\" has shape {}, expected [pillars, points, columns] or [1, columns, \
                     pillars, points]",
                    value.name,
                    value.shape()
                ));
            }
        };
        let Some(channels) = channels else {
            return bad(format!(
                "input \"{}\" does not fix the number of columns",
                value.name
            ));
        };
        let lengths = Lengths {
            pillars: pillars.unwrap_or(STAND_IN.0),
            points: points.unwrap_or(STAND_IN.1),
            channels,
        };
        Ok(Self {
            name: value.name,
            dims: axes.iter().map(|&a| lengths.len_of(a)).collect(),
            axes,
            lengths,
            fixed: (pillars, points),
        })
    }
}
