//! One node: its attributes with defaults, its inputs by position, its errors.

use std::path::Path;

use super::proto::{AttributeProto, NodeProto, TensorProto};
use crate::build::{BuildError, Result};

/// A node of a graph, with the file that it came from for error messages.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub(super) path: &'a Path,
    /// The message itself.
    pub proto: &'a NodeProto,
}

impl<'a> Node<'a> {
    /// The operator's name if it belongs to the standard set, otherwise an empty string.
    pub fn op(&self) -> &'a str {
        match self.proto.domain.as_deref() {
            None | Some("" | "ai.onnx") => self.proto.op_type.as_deref().unwrap_or_default(),
            Some(_) => "",
        }
    }

    /// Name and operator, such as `"/conv/Conv" (Conv)`; a node without a name is described by its
    /// first output.
    pub fn describe(&self) -> String {
        describe(self.proto)
    }

    /// Name of input `index`; `None` where an optional input is left out.
    pub fn input(&self, index: usize) -> Option<&'a str> {
        let name = self.proto.input.get(index)?;
        (!name.is_empty()).then_some(name)
    }

    /// Name of input `index`, which the operator needs.
    ///
    /// # Errors
    /// [`BuildError::Node`] if it is left out.
    pub fn need_input(&self, index: usize) -> Result<&'a str> {
        self.input(index).ok_or_else(|| {
            let found = self.proto.input.len();
            self.error(format!("input {index} is missing, it has {found} inputs"))
        })
    }

    /// Name of output `index`; `None` where it is left out.
    pub fn output(&self, index: usize) -> Option<&'a str> {
        let name = self.proto.output.get(index)?;
        (!name.is_empty()).then_some(name)
    }

    /// Name of the first output, which every operator has.
    ///
    /// # Errors
    /// [`BuildError::Node`] if it is left out.
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

    /// The attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        let mut all = self.proto.attribute.iter();
        all.find(|a| a.name.as_deref() == Some(name))
    }

    /// An integer attribute, or `default` where it is left out.
    ///
    /// # Errors
    /// [`BuildError::Node`] if it has another type.
    pub fn int(&self, name: &str, default: i64) -> Result<i64> {
        self.typed(name, |a| a.i).map(|v| v.unwrap_or(default))
    }

    /// A float attribute, or `default` where it is left out.
    ///
    /// # Errors
    /// As [`Node::int`].
    pub fn float(&self, name: &str, default: f32) -> Result<f32> {
        self.typed(name, |a| a.f).map(|v| v.unwrap_or(default))
    }

    /// A string attribute, or `default` where it is left out.
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
        // An empty list and a list of another type look alike where the type is not written.
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
                    "attribute \"{name}\" has attribute type {}, which does not fit",
                    attribute.r#type.unwrap_or_default()
                ))),
            },
        }
    }
}

/// As [`Node::describe`].
pub(crate) fn describe(node: &NodeProto) -> String {
    let op = node.op_type.as_deref().unwrap_or_default();
    let op = match node.domain.as_deref() {
        None | Some("" | "ai.onnx") => op.to_owned(),
        Some(domain) => format!("{domain}::{op}"),
    };
    match (node.name.as_deref(), node.output.first()) {
        (Some(name), _) if !name.is_empty() => format!("\"{name}\" ({op})"),
        (_, Some(output)) => format!("that makes \"{output}\" ({op})"),
        (_, None) => format!("without name and outputs ({op})"),
    }
}
