//! What the axes of a PFN's values are, and how they fare when values are rearranged.

use crate::build::onnx::{Graph, Node};
use crate::build::{BuildError, Result};

/// Lengths used for axes of pillars and points that the file leaves open. They only serve to follow
/// shapes; two primes, so that no product of other lengths equals them by chance.
const STAND_IN: (usize, usize) = (9973, 101);

/// What an axis of a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// A single element.
    One,
    Pillars,
    Points,
    Channels,
    /// Pillars and points in one, rows of a matrix.
    Rows,
}

#[derive(Clone, Copy)]
pub(super) struct Lengths {
    pub(super) pillars: usize,
    pub(super) points: usize,
    pub(super) channels: usize,
}

impl Lengths {
    pub(super) fn of(self, axis: Axis) -> usize {
        match axis {
            Axis::One => 1,
            Axis::Pillars => self.pillars,
            Axis::Points => self.points,
            Axis::Channels => self.channels,
            Axis::Rows => self.pillars.saturating_mul(self.points),
        }
    }

    /// What the axes are when `axes` are stored as `dims`: axes of length one come and go, pillars and
    /// points become rows and back, and the order of the others stays.
    pub(super) fn relabelled(self, axes: &[Axis], dims: &[usize]) -> Option<Vec<Axis>> {
        let mut left: Vec<Axis> = Vec::new();
        for &axis in axes.iter().filter(|a| **a != Axis::One) {
            match axis {
                Axis::Rows => left.extend([Axis::Pillars, Axis::Points]),
                axis => left.push(axis),
            }
        }
        let mut left = left.into_iter().peekable();
        let mut found = Vec::with_capacity(dims.len());
        for &n in dims {
            let next = left.peek().copied();
            let axis = match next {
                Some(axis) if self.of(axis) == n => axis,
                Some(Axis::Pillars) if self.of(Axis::Rows) == n => {
                    left.next();
                    Axis::Rows
                }
                _ if n == 1 => {
                    found.push(Axis::One);
                    continue;
                }
                _ => return None,
            };
            // Pillars without points behind them are no rows.
            if axis == Axis::Rows && left.peek() != Some(&Axis::Points) {
                return None;
            }
            left.next();
            found.push(axis);
        }
        // What is left over has to be of length one.
        left.all(|axis| self.of(axis) == 1).then_some(found)
    }
}

/// A value whose axes are understood.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub(super) value: String,
    pub(super) axes: Vec<Axis>,
}

impl Tracked {
    pub(super) fn position(&self, axis: Axis) -> Option<usize> {
        self.axes.iter().position(|&a| a == axis)
    }

    pub(super) fn with(&self, node: Node<'_>, axes: Vec<Axis>) -> Result<Self> {
        Ok(Self {
            value: node.need_output()?.to_owned(),
            axes,
        })
    }
}

/// The graph's input.
pub(super) struct Input {
    pub(super) name: String,
    pub(super) axes: Vec<Axis>,
    pub(super) dims: Vec<usize>,
    /// Stand-ins where the file leaves them open.
    pub(super) lengths: Lengths,
    /// Pillars and points where the file fixes them.
    pub(super) fixed: (Option<usize>, Option<usize>),
}

impl Input {
    /// Reads the graph's one input.
    pub(super) fn of(graph: &Graph) -> Result<Self> {
        let bad = |what: String| Err(BuildError::graph(graph.path(), what));
        let mut inputs = graph.inputs()?;
        let names: Vec<String> = inputs.iter().map(|v| v.name.clone()).collect();
        let (Some(value), true) = (inputs.pop(), names.len() == 1) else {
            return bad(format!("a PFN has one input, this graph has {names:?}"));
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
                "input \"{}\" leaves the number of columns open",
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
            dims: axes.iter().map(|&a| lengths.of(a)).collect(),
            axes,
            lengths,
            fixed: (pillars, points),
        })
    }
}
