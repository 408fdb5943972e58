//! A checked graph: producers and consumers of each value, constants by name, edits.
//!
//! A [`Graph`] upholds these invariants: every value has exactly one source (a node, a graph input or
//! an initializer), every value that is read has a source, there are no cycles, and no node contains a
//! subgraph. [`Graph::edit`] checks them again after each edit.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use ndarray::ArrayD;

use super::node::{Node, describe, is_standard};
use super::proto::{
    GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto,
};
use super::{file, tensor};
use crate::build::{BuildError, Result};

/// Supported versions of the standard operator set.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=24;

/// Name and shape of a graph input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// Element type, as in [`tensor::element`]; 0 if the file does not declare it.
    pub element: i32,
    /// Length of each axis, `None` for an axis that is only known at run time. `None` as a whole if the
    /// file declares no shape.
    pub dims: Option<Vec<Option<usize>>>,
}

impl Value {
    /// The shape as text, such as `[?, 20, 11]`.
    pub fn shape(&self) -> String {
        let axis = |n: &Option<usize>| n.map_or("?".to_owned(), |n| n.to_string());
        match &self.dims {
            Some(dims) => {
                let axes: Vec<String> = dims.iter().map(axis).collect();
                format!("[{}]", axes.join(", "))
            }
            None => "unknown".to_owned(),
        }
    }
}

/// A checked ONNX graph with an index of its values.
#[derive(Clone, Debug)]
pub struct Graph {
    path: PathBuf,
    /// The rest of the file; its `graph` is `None`.
    head: ModelProto,
    graph: GraphProto,
    opset: i64,
    index: Index,
}

#[derive(Clone, Debug, Default)]
struct Index {
    /// Nodes in topological order.
    order: Vec<usize>,
    producers: HashMap<String, usize>,
    consumers: HashMap<String, Vec<usize>>,
    initializers: HashMap<String, usize>,
}

impl Graph {
    /// Reads and checks the file at `path`, and its external data.
    ///
    /// # Errors
    /// [`BuildError`] with the path if the file is unreadable, is not ONNX, or holds an inconsistent
    /// graph.
    pub fn read(path: &Path) -> Result<Self> {
        Self::new(path, file::read(path)?)
    }

    /// Checks a model; `path` is only for error messages.
    ///
    /// # Errors
    /// [`BuildError::Graph`] or [`BuildError::Node`] if the graph is inconsistent.
    pub fn new(path: &Path, mut model: ModelProto) -> Result<Self> {
        let graph = model
            .graph
            .take()
            .ok_or_else(|| BuildError::graph(path, "the file contains no graph"))?;
        let opset = model
            .opset_import
            .iter()
            .find(|set| is_standard(&set.domain))
            .and_then(|set| set.version)
            .ok_or_else(|| BuildError::graph(path, "it imports no standard operator set"))?;
        if !OPSETS.contains(&opset) {
            return Err(BuildError::graph(
                path,
                format!(
                    "operator set {opset} is not supported; export the network with one from {} to {}",
                    OPSETS.start(),
                    OPSETS.end()
                ),
            ));
        }
        let index = Index::new(path, &graph)?;
        Ok(Self {
            path: path.to_path_buf(),
            head: model,
            graph,
            opset,
            index,
        })
    }

    /// Writes the graph to `path`. A graph that was read from one file and not edited is written byte for byte. A
    /// graph that is too large for one file gets its weights in a second one, `path` with `.data` appended.
    ///
    /// # Errors
    /// [`BuildError::File`], and [`BuildError::TooLarge`] if it is too large without its weights.
    pub fn write(&self, path: &Path) -> Result<()> {
        file::write(path, &self.to_model())
    }

    /// The whole model.
    pub fn to_model(&self) -> ModelProto {
        ModelProto {
            graph: Some(self.graph.clone()),
            ..self.head.clone()
        }
    }

    /// The file that the graph was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the standard operator set.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// Sets the version of the standard operator set, and raises the IR version to at least
    /// `ir_version`. [`super::opset`] checks that no node changes its meaning.
    pub(super) fn set_versions(&mut self, opset: i64, ir_version: i64) {
        self.opset = opset;
        for set in &mut self.head.opset_import {
            if is_standard(&set.domain) {
                set.version = Some(opset);
            }
        }
        let ir = &mut self.head.ir_version;
        *ir = Some(ir.unwrap_or_default().max(ir_version));
    }

    /// The value of a key in the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let mut all = self.head.metadata_props.iter();
        let found = all.find(|entry| entry.key.as_deref() == Some(key))?;
        found.value.as_deref()
    }

    /// Sets the value of a key in the file's metadata.
    pub fn set_metadata(&mut self, key: &str, value: &str) {
        let all = &mut self.head.metadata_props;
        all.retain(|entry| entry.key.as_deref() != Some(key));
        all.push(StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value.to_owned()),
        });
    }

    /// The graph as ONNX messages.
    pub fn proto(&self) -> &GraphProto {
        &self.graph
    }

    /// The inputs, without those that only declare an initializer.
    ///
    /// # Errors
    /// [`BuildError::Graph`] if a shape is invalid.
    pub fn inputs(&self) -> Result<Vec<Value>> {
        let all = self.graph.input.iter();
        all.filter(|v| !self.index.initializers.contains_key(v.name()))
            .map(|v| self.value(v))
            .collect()
    }

    /// The outputs.
    ///
    /// # Errors
    /// As [`Graph::inputs`].
    pub fn outputs(&self) -> Result<Vec<Value>> {
        self.graph.output.iter().map(|v| self.value(v)).collect()
    }

    /// Whether a value is an output of the graph.
    pub fn is_output(&self, value: &str) -> bool {
        self.graph.output.iter().any(|v| v.name() == value)
    }

    /// The nodes in topological order.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        self.index.order.iter().filter_map(|&i| self.node(i))
    }

    /// The node that produces a value; `None` for inputs and initializers.
    pub fn producer(&self, value: &str) -> Option<Node<'_>> {
        self.node(*self.index.producers.get(value)?)
    }

    /// The nodes that read a value; a node that reads it twice appears twice.
    pub fn consumers(&self, value: &str) -> impl Iterator<Item = Node<'_>> {
        let users = self.index.consumers.get(value);
        users.into_iter().flatten().filter_map(|&i| self.node(i))
    }

    /// Number of uses of a value, by nodes and as a graph output.
    pub fn uses(&self, value: &str) -> usize {
        let nodes = self.index.consumers.get(value).map_or(0, Vec::len);
        nodes + usize::from(self.is_output(value))
    }

    /// The initializer called `name`.
    pub fn initializer(&self, name: &str) -> Option<&TensorProto> {
        self.graph
            .initializer
            .get(*self.index.initializers.get(name)?)
    }

    /// A constant: an initializer or the output of a Constant node.
    ///
    /// # Errors
    /// [`BuildError::Node`] if the Constant node is malformed.
    pub fn constant(&self, value: &str) -> Result<Option<Cow<'_, TensorProto>>> {
        if let Some(tensor) = self.initializer(value) {
            return Ok(Some(Cow::Borrowed(tensor)));
        }
        match self.producer(value) {
            Some(node) if node.op() == "Constant" => constant_node(node).map(Some),
            _ => Ok(None),
        }
    }

    /// As [`Graph::floats`], as an array.
    ///
    /// # Errors
    /// As [`Graph::constant`] and [`tensor::floats`].
    pub(crate) fn array(&self, value: &str) -> Result<Option<ArrayD<f32>>> {
        let constant = self.constant(value)?;
        constant.map(|t| tensor::array(&self.path, &t)).transpose()
    }

    /// A constant of FLOAT elements as an array; `None` if the value is not a constant or has elements of
    /// a different type.
    ///
    /// # Errors
    /// As [`Graph::constant`] and [`tensor::floats`].
    pub(crate) fn f32_array(&self, value: &str) -> Result<Option<ArrayD<f32>>> {
        let constant = self.constant(value)?;
        let constant = constant.filter(|t| t.data_type() == tensor::element::FLOAT);
        constant.map(|t| tensor::array(&self.path, &t)).transpose()
    }

    /// A constant of floats as f32; `None` if the value is not a constant.
    ///
    /// # Errors
    /// As [`Graph::constant`] and [`tensor::floats`].
    pub fn floats(&self, value: &str) -> Result<Option<tensor::Tensor<f32>>> {
        let constant = self.constant(value)?;
        constant.map(|t| tensor::floats(&self.path, &t)).transpose()
    }

    /// A constant of integers as i64; `None` if the value is not a constant.
    ///
    /// # Errors
    /// As [`Graph::constant`] and [`tensor::integers`].
    pub fn integers(&self, value: &str) -> Result<Option<tensor::Tensor<i64>>> {
        let constant = self.constant(value)?;
        constant
            .map(|t| tensor::integers(&self.path, &t))
            .transpose()
    }

    /// An unused value name: `base`, or else the first free one of `base_1`, `base_2`, …
    pub fn fresh_name(&self, base: &str) -> String {
        let taken = |name: &str| {
            self.index.producers.contains_key(name)
                || self.index.initializers.contains_key(name)
                || self.graph.input.iter().any(|v| v.name() == name)
        };
        let mut name = base.to_owned();
        let mut n = 0;
        while taken(&name) {
            n += 1;
            name = format!("{base}_{n}");
        }
        name
    }

    /// Changes the graph and checks it again. If the result is inconsistent, the graph keeps its old
    /// state.
    ///
    /// # Errors
    /// As [`Graph::new`].
    pub fn edit<R>(&mut self, change: impl FnOnce(&mut GraphProto) -> R) -> Result<R> {
        // Cheap, because tensor bytes are shared.
        let mut graph = self.graph.clone();
        let result = change(&mut graph);
        self.replace(graph)?;
        Ok(result)
    }

    /// Removes the nodes and initializers that no output depends on, and sorts the nodes topologically.
    /// The format requires that order, but some exporters ignore it.
    ///
    /// # Errors
    /// As [`Graph::edit`].
    pub fn prune(&mut self) -> Result<()> {
        let mut needed: HashSet<&str> = self.graph.output.iter().map(|v| v.name()).collect();
        let mut kept = Vec::new();
        for &i in self.index.order.iter().rev() {
            let Some(node) = self.graph.node.get(i) else {
                continue;
            };
            if node.output.iter().any(|o| needed.contains(o.as_str())) {
                needed.extend(node.input.iter().map(String::as_str));
                kept.push(node.clone());
            }
        }
        kept.reverse();
        let made: HashSet<&str> = kept
            .iter()
            .flat_map(|n| &n.output)
            .map(String::as_str)
            .collect();
        let was_initializer = |name: &str| self.index.initializers.contains_key(name);
        let mut graph = self.graph.clone();
        graph.initializer.retain(|t| needed.contains(t.name()));
        // An input that only declared a removed initializer goes with it.
        graph
            .input
            .retain(|v| needed.contains(v.name()) || !was_initializer(v.name()));
        graph
            .value_info
            .retain(|v| needed.contains(v.name()) || made.contains(v.name()));
        graph.node = kept;
        self.replace(graph)
    }

    fn replace(&mut self, graph: GraphProto) -> Result<()> {
        self.index = Index::new(&self.path, &graph)?;
        self.graph = graph;
        Ok(())
    }

    fn node(&self, index: usize) -> Option<Node<'_>> {
        Some(Node {
            path: &self.path,
            proto: self.graph.node.get(index)?,
        })
    }

    fn value(&self, info: &ValueInfoProto) -> Result<Value> {
        let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        let mut dims = None;
        if let Some(shape) = tensor.and_then(|t| t.shape.as_ref()) {
            let mut known = Vec::with_capacity(shape.dim.len());
            for dim in &shape.dim {
                // Some exporters write zero or a negative size for an unknown one.
                known.push(match dim.dim_value {
                    Some(size) if size > 0 => Some(usize::try_from(size).map_err(|_| {
                        let name = info.name();
                        BuildError::graph(&self.path, format!("\"{name}\" has an axis of {size}"))
                    })?),
                    _ => None,
                });
            }
            dims = Some(known);
        }
        Ok(Value {
            name: info.name().to_owned(),
            element: tensor.and_then(|t| t.elem_type).unwrap_or_default(),
            dims,
        })
    }
}

impl Index {
    fn new(path: &Path, graph: &GraphProto) -> Result<Self> {
        let mut index = Self::default();
        if !graph.sparse_initializer.is_empty() {
            return Err(BuildError::graph(path, "sparse tensors are not supported"));
        }
        for (i, tensor) in graph.initializer.iter().enumerate() {
            if index
                .initializers
                .insert(tensor.name().to_owned(), i)
                .is_some()
            {
                let what = format!("two initializers are named \"{}\"", tensor.name());
                return Err(BuildError::graph(path, what));
            }
        }
        let mut inputs = HashSet::new();
        for input in &graph.input {
            if !inputs.insert(input.name()) {
                let what = format!("two inputs are named \"{}\"", input.name());
                return Err(BuildError::graph(path, what));
            }
        }
        for (i, proto) in graph.node.iter().enumerate() {
            let node = Node { path, proto };
            if proto
                .attribute
                .iter()
                .any(|a| a.g.is_some() || !a.graphs.is_empty())
            {
                return Err(node.error("it contains a subgraph, which is not supported"));
            }
            for output in proto.output.iter().filter(|o| !o.is_empty()) {
                let other_source = match index.producers.insert(output.clone(), i) {
                    Some(first) => graph
                        .node
                        .get(first)
                        .map(|first| format!("node {}", describe(first))),
                    None if inputs.contains(output.as_str()) => Some("a graph input".to_owned()),
                    None if index.initializers.contains_key(output) => {
                        Some("an initializer".to_owned())
                    }
                    None => None,
                };
                if let Some(other) = other_source {
                    return Err(node.error(format!(
                        "its output \"{output}\" is also produced by {other}"
                    )));
                }
            }
        }
        for (i, proto) in graph.node.iter().enumerate() {
            for input in proto.input.iter().filter(|name| !name.is_empty()) {
                if !index.has_source(input, &inputs) {
                    let what = format!("no node produces its input \"{input}\"");
                    return Err(Node { path, proto }.error(what));
                }
                index.consumers.entry(input.clone()).or_default().push(i);
            }
        }
        for output in &graph.output {
            if !index.has_source(output.name(), &inputs) {
                let what = format!("no node produces output \"{}\"", output.name());
                return Err(BuildError::graph(path, what));
            }
        }
        index.order = index.sorted(path, &graph.node)?;
        Ok(index)
    }

    fn has_source(&self, value: &str, inputs: &HashSet<&str>) -> bool {
        self.producers.contains_key(value)
            || self.initializers.contains_key(value)
            || inputs.contains(value)
    }

    /// The nodes in topological order; the file's order decides ties.
    fn sorted(&self, path: &Path, nodes: &[NodeProto]) -> Result<Vec<usize>> {
        let producers = |node: &NodeProto| {
            let all = node
                .input
                .iter()
                .filter(|name| self.producers.contains_key(*name));
            all.count()
        };
        let mut missing: Vec<usize> = nodes.iter().map(producers).collect();
        let ready = missing.iter().enumerate().filter(|(_, n)| **n == 0);
        let mut ready: BinaryHeap<_> = ready.map(|(i, _)| Reverse(i)).collect();
        let mut order = Vec::with_capacity(nodes.len());
        while let Some(Reverse(i)) = ready.pop() {
            order.push(i);
            let outputs = nodes.get(i).map_or(&[][..], |node| &node.output);
            for user in outputs
                .iter()
                .filter_map(|o| self.consumers.get(o))
                .flatten()
            {
                if let Some(missing) = missing.get_mut(*user) {
                    *missing -= 1;
                    if *missing == 0 {
                        ready.push(Reverse(*user));
                    }
                }
            }
        }
        match missing
            .iter()
            .position(|&n| n > 0)
            .and_then(|i| nodes.get(i))
        {
            Some(proto) => Err(Node { path, proto }.error("it depends on its own output")),
            None => Ok(order),
        }
    }
}

/// The output of a Constant node, in any of the operator's forms.
fn constant_node(node: Node<'_>) -> Result<Cow<'_, TensorProto>> {
    let name = node.need_output()?;
    if let Some(tensor) = node.tensor("value")? {
        return Ok(Cow::Borrowed(tensor));
    }
    let tensor = if let Some(ints) = node.ints("value_ints")? {
        tensor::from_integers(name, &[ints.len()], ints)
    } else if let Some(attribute) = node.attribute("value_floats") {
        tensor::from_floats(name, &[attribute.floats.len()], &attribute.floats)
    } else if node.attribute("value_int").is_some() {
        tensor::from_integers(name, &[], &[node.int("value_int", 0)?])
    } else if node.attribute("value_float").is_some() {
        tensor::from_floats(name, &[], &[node.float("value_float", 0.0)?])
    } else {
        return Err(node.error("its value has a type that is not supported"));
    };
    Ok(Cow::Owned(tensor))
}
