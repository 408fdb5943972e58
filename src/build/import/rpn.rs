//! The backbone-neck-head network: checked against the model description, with the description's
//! names and fixed sizes.

use std::path::Path;

use super::outputs::{self, Matching};
use crate::build::compile::CPU_OPERATORS;
use crate::build::deconv;
use crate::build::fuse::{FuseReport, fuse};
use crate::build::onnx::graph::Value;
use crate::build::onnx::proto::{
    DimensionProto, GraphProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::build::onnx::shapes::text;
use crate::build::onnx::tensor::element;
use crate::build::onnx::{Graph, Shapes};
use crate::build::{BuildError, Result};
use crate::model::Model;

/// A network as it was found in a file.
#[derive(Clone, Debug)]
pub struct Rpn {
    /// The graph: fused, deconvolutions rewritten, all sizes fixed, its outputs those of the
    /// description, in its order.
    pub graph: Graph,
    /// How the outputs were told apart.
    pub matching: Matching,
    /// Outputs of the file that the description does not want; they are gone from the graph.
    pub unused: Vec<String>,
    /// What was folded.
    pub fused: FuseReport,
    /// Deconvolutions that are 1×1 convolutions now, as text.
    pub rewritten: Vec<String>,
}

/// Reads the network in the ONNX file at `path`, which must fit `model`: one input of the BEV map's
/// size, and the outputs of each task at the head's size. An input or batch axis that the file leaves
/// open is fixed to the description's. How outputs are told apart is said in the source file
/// `import/outputs.rs`.
///
/// # Errors
/// [`BuildError`] with the file's name; a file and a description that do not fit are
/// [`BuildError::Graph`] with both sizes.
pub fn read_rpn(path: &Path, model: &Model) -> Result<Rpn> {
    let mut graph = Graph::read(path)?;
    let dims = [1, model.bev_channels(), model.grid.ny, model.grid.nx];
    let input = input(&graph, dims)?;
    let fused = fuse(&mut graph, &[(&input, &dims)])?;
    let rewritten = deconv::rewrite(&mut graph)?;
    let shapes = Shapes::infer(&graph, &[(&input, &dims)])?;
    let channels = |name: &str| match shapes.get(name) {
        Some(&[1, c, _, _]) => Some(c),
        _ => None,
    };
    let wanted = outputs::wanted(model);
    let (names, matching) = outputs::matched(&graph, &wanted, channels)?;
    let (h, w) = model.head_size();
    for (name, wanted) in names.iter().zip(&wanted) {
        let expected = [1, wanted.channels, h, w];
        let found = shapes.get(name);
        if found.is_none()
            && let Some(unknown) = unknown_operator(&graph, &shapes)
        {
            return Err(unknown);
        }
        if found != Some(&expected) {
            return Err(BuildError::graph(
                path,
                format!(
                    "output \"{name}\" ({} of the description) has shape {}, the description \
                     gives {expected:?}; correct its grid, `head.downsample`, classes or \
                     `head.variance`, or take the network that belongs to it",
                    wanted.name,
                    text(found)
                ),
            ));
        }
    }
    let outputs = graph.proto().output.iter().map(|o| o.name().to_owned());
    let unused: Vec<String> = outputs.filter(|o| !names.contains(o)).collect();
    let new_names: Vec<String> = wanted.iter().map(|w| w.name.clone()).collect();
    let renamed = Renamed {
        from: &names,
        to: &new_names,
    };
    renamed.check(&graph)?;
    graph.edit(|proto| {
        for v in proto.input.iter_mut().filter(|v| v.name() == input) {
            *v = value(&input, &dims);
        }
        renamed.apply(proto);
        proto.output = wanted
            .iter()
            .map(|wanted| value(&wanted.name, &[1, wanted.channels, h, w]))
            .collect();
        // Shapes of inner values were those of the file's own sizes.
        proto.value_info.clear();
    })?;
    graph.prune()?;
    Ok(Rpn {
        graph,
        matching,
        unused,
        fused,
        rewritten,
    })
}

/// The first node at which shapes end, if its operator is not one that is run.
fn unknown_operator(graph: &Graph, shapes: &Shapes) -> Option<BuildError> {
    let is_known = |value: &String| shapes.get(value).is_some();
    let node = graph
        .nodes()
        .find(|n| n.proto.input.iter().any(is_known) && !n.proto.output.iter().all(is_known))?;
    let mut words = CPU_OPERATORS.iter().flat_map(|o| o.split([' ', ',']));
    match words.any(|word| word == node.op()) {
        true => None,
        false => Some(BuildError::Operator {
            path: graph.path().to_path_buf(),
            node: node.describe(),
            supported: CPU_OPERATORS.join(", "),
        }),
    }
}

/// The name of the graph's input, whose fixed axes must be those of `dims`.
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
                "input \"{}\" has elements of {found}, expected FLOAT",
                one.name
            );
            Err(BuildError::graph(graph.path(), what))
        }
        [one] if fits(one) => Ok(one.name.clone()),
        [one] => Err(BuildError::graph(
            graph.path(),
            format!(
                "input \"{}\" has shape {}, the description gives {dims:?} (batch, last \
                     width of `pfn.layers`, rows and columns of the grid)",
                one.name,
                one.shape()
            ),
        )),
        others => {
            let names: Vec<&str> = others.iter().map(|v| v.name.as_str()).collect();
            let what = format!("expected one input, the BEV map; it has {names:?}");
            Err(BuildError::graph(graph.path(), what))
        }
    }
}

/// Outputs that get the description's names.
struct Renamed<'a> {
    from: &'a [String],
    to: &'a [String],
}

impl Renamed<'_> {
    /// Refuses new names that other values have already.
    fn check(&self, graph: &Graph) -> Result<()> {
        for name in self.to.iter().filter(|name| !self.from.contains(name)) {
            if graph.fresh_name(name) != *name {
                let what = format!("an inner value is called like the output \"{name}\"");
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
    let axis = |&n: &usize| DimensionProto {
        dim_value: Some(n as i64),
        ..Default::default()
    };
    let shape = TensorShapeProto {
        dim: dims.iter().map(axis).collect(),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: Some(element::FLOAT),
                shape: Some(shape),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
