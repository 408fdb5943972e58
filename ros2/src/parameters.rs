//! ROS parameters: read from the command line and YAML files, then taken by name with type and range checks.
//!
//! A file has `ros__parameters` below a node's name or a pattern such as `/**`. Nested names are joined with dots.
//! Later values replace earlier ones.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::names::Names;
use crate::ros_args::{Assignment, RosArgs};

/// Maximum size of a parameter file.
const MAX_BYTES: u64 = 1 << 20;

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Bool(bool),
    Integer(i64),
    Double(f64),
    String(String),
    List(Vec<Value>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => value.fmt(f),
            Value::Integer(value) => value.fmt(f),
            Value::Double(value) => write!(f, "{value:?}"),
            Value::String(value) => write!(f, "\"{value}\""),
            Value::List(values) => {
                let texts: Vec<String> = values.iter().map(Value::to_string).collect();
                write!(f, "[{}]", texts.join(", "))
            }
        }
    }
}

/// The contents of a parameter file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tree {
    Branch(BTreeMap<String, Tree>),
    Leaf(Value),
    /// A key without a value.
    Empty(()),
}

/// Why parameters cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParameterError {
    /// A file cannot be read.
    #[error("{path}: cannot read the parameters")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file or value is not valid YAML of the expected form.
    #[error("{place}: {reason}")]
    Syntax {
        /// The file or the parameter.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A parameter that the node does not have.
    #[error("unknown parameter \"{name}\"{}", hint(.similar))]
    Unknown {
        name: String,
        /// A known parameter with a similar name.
        similar: Option<String>,
    },
    /// A value of the wrong type or outside its range.
    #[error("the parameter \"{name}\" is {found}; expected {expected}")]
    Type {
        name: String,
        found: Value,
        expected: String,
    },
    /// A value that contradicts the plan.
    #[error("the parameter \"{name}\" is {found}, but the plan has {plan}; {advice}")]
    Contradiction {
        name: String,
        found: Value,
        /// The plan's value.
        plan: String,
        /// What to do.
        advice: &'static str,
    },
}

impl ParameterError {
    /// A [`ParameterError::Type`].
    pub(crate) fn wrong_type(name: &str, found: Value, expected: impl Into<String>) -> Self {
        Self::Type {
            name: name.into(),
            found,
            expected: expected.into(),
        }
    }
}

fn hint(similar: &Option<String>) -> String {
    let hint = |name| format!("; did you mean \"{name}\"?");
    similar.as_ref().map_or(String::new(), hint)
}

/// Reads all parameters for the node.
///
/// # Errors
/// [`ParameterError::Io`] or [`ParameterError::Syntax`], with the file or the parameter.
pub(crate) fn read(
    args: &RosArgs,
    names: &Names,
) -> Result<BTreeMap<String, Value>, ParameterError> {
    let mut all = BTreeMap::new();
    for assignment in &args.parameters {
        match assignment {
            Assignment::File(path) => add_file(path, names, &mut all)?,
            Assignment::Value { node, name, value } => {
                if node.as_ref().is_none_or(|node| node == names.node()) {
                    all.insert(name.clone(), parse(name, value)?);
                }
            }
        }
    }
    Ok(all)
}

/// Parses a value as rcl does: as YAML, where anything else is a string.
fn parse(name: &str, text: &str) -> Result<Value, ParameterError> {
    serde_saphyr::from_str(text).map_err(|e| ParameterError::Syntax {
        place: format!("-p {name}:={text}"),
        reason: e.to_string(),
    })
}

fn add_file(
    path: &Path,
    names: &Names,
    all: &mut BTreeMap<String, Value>,
) -> Result<(), ParameterError> {
    let io = |source| ParameterError::Io {
        path: path.into(),
        source,
    };
    let syntax = |reason: String| ParameterError::Syntax {
        place: path.display().to_string(),
        reason,
    };
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > MAX_BYTES {
        return Err(syntax(format!(
            "{bytes} bytes; expected at most {MAX_BYTES}"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let tree: BTreeMap<String, Tree> =
        serde_saphyr::from_str(&text).map_err(|e| syntax(e.to_string()))?;
    let node = names.fully_qualified();
    let node: Vec<&str> = tokens(&node).collect();
    descend(&tree, &mut Vec::new(), &node, all).map_err(syntax)
}

/// Collects `ros__parameters` below matching node names; `path` is the pattern so far.
fn descend<'a>(
    tree: &'a BTreeMap<String, Tree>,
    path: &mut Vec<&'a str>,
    node: &[&str],
    all: &mut BTreeMap<String, Value>,
) -> Result<(), String> {
    for (key, below) in tree {
        match below {
            Tree::Branch(parameters) if key == "ros__parameters" => {
                if matches(path, node) {
                    flatten("", parameters, all);
                }
            }
            Tree::Empty(()) if key == "ros__parameters" => {}
            Tree::Branch(below) => {
                let depth = path.len();
                path.extend(tokens(key));
                descend(below, path, node, all)?;
                path.truncate(depth);
            }
            Tree::Leaf(_) | Tree::Empty(()) => {
                return Err(format!(
                    "\"{key}\" is outside `ros__parameters`; expected `/**: ros__parameters:`, or a node's name \
                     instead of `/**`"
                ));
            }
        }
    }
    Ok(())
}

fn tokens(name: &str) -> impl Iterator<Item = &str> {
    name.split('/').filter(|token| !token.is_empty())
}

/// Whether a pattern matches a node: `*` is any token, `**` any number of tokens.
fn matches(pattern: &[&str], node: &[&str]) -> bool {
    match (pattern, node) {
        ([], []) => true,
        (["**", rest @ ..], _) => {
            matches(rest, node) || node.split_first().is_some_and(|(_, n)| matches(pattern, n))
        }
        ([first, pattern @ ..], [token, node @ ..]) => {
            (*first == "*" || first == token) && matches(pattern, node)
        }
        _ => false,
    }
}

/// Joins nested names with dots.
fn flatten(prefix: &str, tree: &BTreeMap<String, Tree>, all: &mut BTreeMap<String, Value>) {
    for (key, below) in tree {
        let name = format!("{prefix}{key}");
        match below {
            Tree::Branch(below) => flatten(&format!("{name}."), below, all),
            Tree::Leaf(value) => drop(all.insert(name, value.clone())),
            Tree::Empty(()) => {}
        }
    }
}

/// Takes parameters by name; those that remain at the end are unknown.
pub(crate) struct Parameters {
    remaining: BTreeMap<String, Value>,
    /// The names taken so far.
    known: Vec<String>,
}

impl Parameters {
    pub(crate) fn new(parameters: BTreeMap<String, Value>) -> Self {
        Self {
            remaining: parameters,
            known: Vec::new(),
        }
    }

    /// Takes a value of any type.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.known.push(name.into());
        self.remaining.remove(name)
    }

    /// Accepts a parameter without using it.
    pub(crate) fn ignore(&mut self, name: &str) {
        self.take(name);
    }

    /// Takes a boolean.
    pub(crate) fn bool(&mut self, name: &str) -> Result<Option<bool>, ParameterError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(ParameterError::wrong_type(name, other, "true or false")),
        }
    }

    /// Takes a string.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ParameterError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(ParameterError::wrong_type(name, other, "a string")),
        }
    }

    /// Takes a non-negative integer; also returns it as a value for errors.
    pub(crate) fn count(&mut self, name: &str) -> Result<Option<(usize, Value)>, ParameterError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Integer(value)) if value >= 0 => {
                Ok(Some((value as usize, Value::Integer(value))))
            }
            Some(other) => Err(ParameterError::wrong_type(
                name,
                other,
                "a non-negative integer",
            )),
        }
    }

    /// Takes a number; integers are accepted.
    pub(crate) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ParameterError> {
        let Some(found) = self.take(name) else {
            return Ok(None);
        };
        match number(&found, &range) {
            Some(value) => Ok(Some(value)),
            None => Err(ParameterError::wrong_type(
                name,
                found,
                format!("a number{}", within(&range)),
            )),
        }
    }

    /// Takes a list of numbers, of a given length if there is one.
    pub(crate) fn numbers(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
        length: Option<usize>,
    ) -> Result<Option<Vec<f64>>, ParameterError> {
        let Some(found) = self.take(name) else {
            return Ok(None);
        };
        let values = match &found {
            Value::List(list) => list.iter().map(|value| number(value, &range)).collect(),
            _ => None,
        };
        let values: Option<Vec<f64>> = values;
        match values {
            Some(values) if length.is_none_or(|length| values.len() == length) => Ok(Some(values)),
            _ => {
                let count = length.map_or(String::new(), |length| format!("{length} "));
                let expected = format!("a list of {count}numbers{}", within(&range));
                Err(ParameterError::wrong_type(name, found, expected))
            }
        }
    }

    /// Checks that no parameter remains.
    pub(crate) fn finish(self) -> Result<(), ParameterError> {
        let Some(name) = self.remaining.into_keys().next() else {
            return Ok(());
        };
        // A missing prefix is the most common mistake.
        let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
        let similar = self.known.iter().find(|known| last(known) == last(&name));
        Err(ParameterError::Unknown {
            similar: similar.cloned(),
            name,
        })
    }
}

fn number(value: &Value, range: &RangeInclusive<f64>) -> Option<f64> {
    let number = match *value {
        Value::Integer(value) => value as f64,
        Value::Double(value) => value,
        _ => return None,
    };
    range.contains(&number).then_some(number)
}

fn within(range: &RangeInclusive<f64>) -> String {
    match (range.start(), range.end()) {
        // The end only excludes nonsense.
        (start, end) if *end >= 1e6 => format!(" of at least {start}"),
        (start, end) => format!(" from {start} to {end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(line: &str, files: &[&str]) -> Result<BTreeMap<String, Value>, ParameterError> {
        let folder = tempfile::tempdir().unwrap();
        let mut words: Vec<_> = vec!["--ros-args".into()];
        for (number, text) in files.iter().enumerate() {
            let path = folder.path().join(format!("{number}.yaml"));
            std::fs::write(&path, text).unwrap();
            words.extend(["--params-file".into(), path.into_os_string()]);
        }
        words.extend(line.split_whitespace().map(Into::into));
        let (_, args) = crate::ros_args::split(words).unwrap();
        read(&args, &Names::new(&args, "detector").unwrap())
    }

    #[test]
    fn values_have_their_yaml_types() {
        let line = "-p a:=true -p b:=3 -p c:=3.0 -p d:=map -p e:=[1,2.5] -p f:=[\"x\",z] -p g:=\"3\" -p h:=1e-3";
        let all = read_all(line, &[]).unwrap();
        let value = |name: &str| all[name].clone();
        assert_eq!(value("a"), Value::Bool(true));
        assert_eq!(value("b"), Value::Integer(3));
        assert_eq!(value("c"), Value::Double(3.0));
        assert_eq!(value("d"), Value::String("map".into()));
        let list = vec![Value::Integer(1), Value::Double(2.5)];
        assert_eq!(value("e"), Value::List(list));
        let list = ["x", "z"].map(|text| Value::String(text.into()));
        assert_eq!(value("f"), Value::List(list.into()));
        assert_eq!(value("g"), Value::String("3".into()));
        assert_eq!(value("h"), Value::Double(0.001));
    }

    #[test]
    fn files_apply_to_matching_nodes_and_later_values_win() {
        let files = [
            "/**:\n  ros__parameters:\n    a: 1\n    nested:\n      b: [1.0, 2.0]\n    empty:\n",
            "detector:\n  ros__parameters:\n    a: 2\nother:\n  ros__parameters:\n    a: 3\n",
            "front:\n  detector:\n    ros__parameters:\n      c: 1\n",
            "/*/detector:\n  ros__parameters:\n    c: 2\n",
        ];
        let all = read_all("-p d:=1 -p other:d:=2 -p detector:e:=x", &files).unwrap();
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "d", "e", "nested.b"]);
        assert_eq!(all["a"], Value::Integer(2));
        let all = read_all("-r __ns:=/front -p d:=1", &files).unwrap();
        assert_eq!(all["a"], Value::Integer(1));
        assert_eq!(all["c"], Value::Integer(2));
        assert!(matches(&["**", "d"], &["a", "b", "d"]));
        assert!(!matches(&["*"], &["a", "b"]));
    }

    #[test]
    fn malformed_files_are_errors_that_name_the_file() {
        for text in [
            "a: 1",
            "/**:\n  a: 1",
            "- 1",
            "/**:\n  ros__parameters:\n  - x\n",
            "{",
        ] {
            let error = read_all("", &[text]).unwrap_err().to_string();
            assert!(error.contains("0.yaml"), "{text}: {error}");
        }
        let error = read_all("--params-file /nowhere.yaml", &[]).unwrap_err();
        assert!(matches!(error, ParameterError::Io { .. }), "{error}");
    }
}
