//! A view of one node: attributes with defaults, inputs by position, errors that name the node.

use std::path::Path;

use super::proto::{AttributeProto, NodeProto, TensorProto};
use crate::build::{BuildError, Result};

/// A node of a graph, with the path of its file for error messages.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub(super) path: &'a Path,
    /// The message itself.
    pub proto: &'a NodeProto,
}

impl<'a> Node<'a> {
    /// The operator's name if it belongs to the standard set, otherwise an empty string.
    pub fn op(&self) -> &'a str {
        if is_standard(&self.proto.domain) {
            self.proto.op_type.as_deref().unwrap_or_default()
        } else {
            ""
        }
    }

    /// Name and operator, such as `"/conv/Conv" (Conv)`. A node without a name is described by its
    /// first output.
    pub fn describe(&self) -> String {
        describe(self.proto)
    }

    /// Name of input `index`; `None` if an optional input is omitted.
    pub fn input(&self, index: usize) -> Option<&'a str> {
        let name = self.proto.input.get(index)?;
        (!name.is_empty()).then_some(name)
    }

    /// Name of input `index`, which the operator requires.
    ///
    /// # Errors
    /// [`BuildError::Node`] if it is missing.
    pub fn need_input(&self, index: usize) -> Result<&'a str> {
        self.input(index).ok_or_else(|| {
            let found = self.proto.input.len();
            self.error(format!("input {index} is missing; it has {found} inputs"))
        })
    }

    /// Name of output `index`; `None` if it is omitted.
    pub fn output(&self, index: usize) -> Option<&'a str> {
        let name = self.proto.output.get(index)?;
        (!name.is_empty()).then_some(name)
    }

    /// Name of the first output, which every operator has.
    ///
    /// # Errors
    /// [`BuildError::Node`] if it is missing.
    pub fn need_output(&self) -> Result<&'a str> {
        self.output(0)
            .ok_or_else(|| self.error("it has no output".to_owned()))
    }

    /// An error about this node.
    pub fn error(&self, what: impl Into<String>) -> BuildError {
        BuildError::Node {
            path: self.path.to_path_buf(),
            node: self.describe(),
            what: what.into(),
        }
    }

    /// An error about this node, whose operator is not one of `supported`.
    pub(crate) fn unsupported(&self, supported: &[&str]) -> BuildError {
        let op = self.proto.op_type();
        let advice = if op.contains("QLinear") || op.ends_with("Integer") {
            "save the quantised network with QuantizeLinear and DequantizeLinear (ONNX Runtime: QuantFormat.QDQ)"
        } else if op.starts_with("Cast") {
            "export the network in FP32"
        } else {
            "export the network without it"
        };
        BuildError::Operator {
            path: self.path.to_path_buf(),
            node: self.describe(),
            advice,
            supported: supported.join(", "),
        }
    }

    /// The attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        let mut all = self.proto.attribute.iter();
        all.find(|a| a.name.as_deref() == Some(name))
    }

    /// An integer attribute, or `default` if it is absent.
    ///
    /// # Errors
    /// [`BuildError::Node`] if it has a different type.
    pub fn int(&self, name: &str, default: i64) -> Result<i64> {
        self.typed(name, |a| a.i).map(|v| v.unwrap_or(default))
    }

    /// A float attribute, or `default` if it is absent.
    ///
    /// # Errors
    /// As [`Node::int`].
    pub fn float(&self, name: &str, default: f32) -> Result<f32> {
        self.typed(name, |a| a.f).map(|v| v.unwrap_or(default))
    }

    /// A string attribute, or `default` if it is absent.
    ///
    /// # Errors
    /// As [`Node::int`].
    pub fn string(&self, name: &str, default: &'static str) -> Result<&'a str> {
        let text = |a: &'a AttributeProto| std::str::from_utf8(a.s.as_ref()?).ok();
        self.typed(name, text).map(|v| v.unwrap_or(default))
    }

    /// A tensor attribute.
    ///
    /// # Errors
    /// As [`Node::int`].
    pub fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>> {
        self.typed(name, |a| a.t.as_deref())
    }

    /// A list of integers.
    ///
    /// # Errors
    /// As [`Node::int`].
    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>> {
        // If the file omits the type, an empty list cannot be told from a list of another type.
        self.typed(name, |a| match a.r#type {
            None | Some(0 | 7) => Some(a.ints.as_slice()),
            Some(_) => None,
        })
    }

    fn typed<T>(
        &self,
        name: &str,
        value: impl FnOnce(&'a AttributeProto) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(attribute) => match value(attribute) {
                Some(value) => Ok(Some(value)),
                None => Err(self.error(format!(
                    "attribute \"{name}\" has attribute type {}, which the operator does not allow",
                    attribute.r#type.unwrap_or_default()
                ))),
            },
        }
    }
}

/// Whether an operator set or node belongs to ONNX's standard domain.
pub(super) fn is_standard(domain: &Option<String>) -> bool {
    matches!(domain.as_deref(), None | Some("" | "ai.onnx"))
}

/// See [`Node::describe`].
pub(crate) fn describe(node: &NodeProto) -> String {
    let op = node.op_type.as_deref().unwrap_or_default();
    let op = match node.domain.as_deref() {
        Some(domain) if !is_standard(&node.domain) => format!("{domain}::{op}"),
        _ => op.to_owned(),
    };
    match (node.name.as_deref(), node.output.first()) {
        (Some(name), _) if !name.is_empty() => format!("\"{name}\" ({op})"),
        (_, Some(output)) => format!("that makes \"{output}\" ({op})"),
        (_, None) => format!("without name and outputs ({op})"),
    }
}
