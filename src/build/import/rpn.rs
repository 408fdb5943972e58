//! Reads the backbone-neck-head network, checks it against the model description, and gives it the
//! description's names and sizes.

use std::path::Path;

use super::outputs::{self, Matching};
use crate::build::compile::CPU_OPERATORS;
use crate::build::deconv;
use crate::build::foreign;
use crate::build::fuse::{FuseReport, fuse};
use crate::build::onnx::graph::Value;
use crate::build::onnx::proto::{GraphProto, ValueInfoProto};
use crate::build::onnx::shapes::text;
use crate::build::onnx::tensor::element;
use crate::build::onnx::{Graph, Shapes, make};
use crate::build::simplify::simplify;
use crate::build::{BuildError, Result};
use crate::model::Model;

/// An imported network.
#[derive(Clone, Debug)]
pub struct Rpn {
    /// The graph, fused and with deconvolutions rewritten. All sizes are fixed, and its outputs are those
    /// of the description, in its order.
    pub graph: Graph,
    /// The rule that matched the outputs.
    pub matching: Matching,
    /// Outputs of the file that the description does not name; the graph no longer has them.
    pub unused: Vec<String>,
    /// The nodes that were folded.
    pub fused: FuseReport,
    /// Descriptions of the deconvolutions that were rewritten as 1×1 convolutions.
    pub rewritten: Vec<String>,
    /// What was changed in a network that others quantised, one line each.
    pub normalized: Vec<String>,
}

/// Reads the network in the ONNX file at `path`, which must match `model`: one input of the BEV map's
/// size, and the outputs of each task at the head's size. Axes of the input that the file leaves open
/// are fixed to the description's sizes. The source file `import/outputs.rs` explains how outputs are
/// matched.
///
/// # Errors
/// [`BuildError`] with the path. A mismatch between file and description is a [`BuildError::Graph`]
/// with both sizes.
pub fn read_rpn(path: &Path, model: &Model) -> Result<Rpn> {
    rpn_of(Graph::read(path)?, model)
}

/// As [`read_rpn`], from a graph.
///
/// # Errors
/// As [`read_rpn`].
pub(crate) fn rpn_of(mut graph: Graph, model: &Model) -> Result<Rpn> {
    let normalized = foreign::normalize(&mut graph)?;
    let dims = bev(model);
    let input = input(&graph, dims)?;
    let fused = fuse(&mut graph, &[(&input, &dims)])?;
    let rewritten = deconv::rewrite(&mut graph)?;
    let (matching, unused) = describe(&mut graph, &input, model)?;
    Ok(Rpn {
        graph,
        matching,
        unused,
        fused,
        rewritten,
        normalized,
    })
}

/// As [`rpn_of`], with BatchNormalization and deconvolutions as they are in the file, to be trained.
///
/// # Errors
/// As [`read_rpn`].
pub(crate) fn unfused_rpn(mut graph: Graph, model: &Model) -> Result<Graph> {
    simplify(&mut graph)?;
    let input = input(&graph, bev(model))?;
    describe(&mut graph, &input, model)?;
    Ok(graph)
}

/// Shape of the network's input.
fn bev(model: &Model) -> [usize; 4] {
    [1, model.bev_channels(), model.grid.ny, model.grid.nx]
}

/// Gives a network the names and sizes of the description. Returns the rule that matched its outputs, and those that
/// it no longer has.
fn describe(graph: &mut Graph, input: &str, model: &Model) -> Result<(Matching, Vec<String>)> {
    let dims = bev(model);
    let shapes = Shapes::infer(graph, &[(input, &dims)])?;
    let channels = |name: &str| match shapes.get(name) {
        Some(&[1, c, _, _]) => Some(c),
        _ => None,
    };
    let wanted = outputs::head_maps(model);
    let (names, matching) = outputs::match_outputs(graph, &wanted, channels)?;
    let (h, w) = model.head_size();
    for (name, wanted) in names.iter().zip(&wanted) {
        let expected = [1, wanted.channels, h, w];
        let found = shapes.get(name);
        if found.is_none()
            && let Some(unknown) = unknown_operator(graph, &shapes)
        {
            return Err(unknown);
        }
        if found != Some(&expected) {
            return Err(BuildError::graph(
                graph.path(),
                format!(
                    "output \"{name}\" ({} in the description) has shape {}, but the description \
                     expects {expected:?}; correct its grid, `head.downsample`, classes or \
                     `head.variance`, or use the network that belongs to it",
                    wanted.name,
                    text(found)
                ),
            ));
        }
    }
    let outputs = graph.proto().output.iter().map(|o| o.name().to_owned());
    let unused: Vec<String> = outputs.filter(|o| !names.contains(o)).collect();
    let new_names: Vec<String> = wanted.iter().map(|w| w.name.clone()).collect();
    let renaming = Renaming {
        from: &names,
        to: &new_names,
    };
    renaming.check(graph)?;
    graph.edit(|proto| {
        for v in proto.input.iter_mut().filter(|v| v.name() == input) {
            *v = value(input, &dims);
        }
        renaming.apply(proto);
        proto.output = wanted
            .iter()
            .map(|wanted| value(&wanted.name, &[1, wanted.channels, h, w]))
            .collect();
        // The file's shapes of inner values may belong to other sizes.
        proto.value_info.clear();
    })?;
    graph.prune()?;
    Ok((matching, unused))
}

/// An error about the first node whose output has no shape, if its operator is not supported.
fn unknown_operator(graph: &Graph, shapes: &Shapes) -> Option<BuildError> {
    let is_known = |value: &String| shapes.get(value).is_some();
    let node = graph
        .nodes()
        .find(|n| n.proto.input.iter().any(is_known) && !n.proto.output.iter().all(is_known))?;
    let mut words = CPU_OPERATORS.iter().flat_map(|o| o.split([' ', ',']));
    if words.any(|word| word == node.op()) {
        return None;
    }
    Some(node.unsupported(CPU_OPERATORS))
}

/// The name of the graph's only input. Axes that the file fixes must have the lengths in `dims`.
fn input(graph: &Graph, dims: [usize; 4]) -> Result<String> {
    let inputs = graph.inputs()?;
    let fits = |value: &Value| match &value.dims {
        Some(found) => {
            let same = |(a, b): (&Option<usize>, &usize)| a.is_none_or(|a| a == *b);
            found.len() == dims.len() && found.iter().zip(&dims).all(same)
        }
        None => true,
    };
    match &inputs[..] {
        [one] if one.element != element::FLOAT => {
            let found = element::name(one.element);
            let what = format!(
                "input \"{}\" has element type {found}, expected FLOAT",
                one.name
            );
            Err(BuildError::graph(graph.path(), what))
        }
        [one] if fits(one) => Ok(one.name.clone()),
        [one] => Err(BuildError::graph(
            graph.path(),
            format!(
                "input \"{}\" has shape {}, but the description expects {dims:?} (batch, last width \
                 of `pfn.layers`, rows and columns of the grid)",
                one.name,
                one.shape()
            ),
        )),
        others => {
            let names: Vec<&str> = others.iter().map(|v| v.name.as_str()).collect();
            let what = format!("expected one input, the BEV map, but it has {names:?}");
            Err(BuildError::graph(graph.path(), what))
        }
    }
}

/// New names for outputs.
struct Renaming<'a> {
    from: &'a [String],
    to: &'a [String],
}

impl Renaming<'_> {
    /// Rejects new names that other values already have.
    fn check(&self, graph: &Graph) -> Result<()> {
        for name in self.to.iter().filter(|name| !self.from.contains(name)) {
            if graph.fresh_name(name) != *name {
                let what = format!("an inner value already has the name of output \"{name}\"");
                return Err(BuildError::graph(graph.path(), what));
            }
        }
        Ok(())
    }

    fn apply(&self, proto: &mut GraphProto) {
        for node in &mut proto.node {
            for name in node.input.iter_mut().chain(&mut node.output) {
                let place = self.from.iter().position(|from| from == name);
                if let Some(to) = place.and_then(|i| self.to.get(i)) {
                    *name = to.clone();
                }
            }
        }
    }
}

/// A FLOAT value of fixed shape.
fn value(name: &str, dims: &[usize]) -> ValueInfoProto {
    make::value(name, Some(dims.iter().map(|&n| make::axis(n)).collect()))
}
