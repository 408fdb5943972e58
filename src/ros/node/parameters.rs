//! ROS parameters: values by name, from the command line and from YAML files.
//!
//! A file has `ros__parameters` below the name of a node, or below a pattern such as `/**`; what is nested below
//! that has names with dots. Later values replace earlier ones.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::args::{Assignment, RosArgs};
use super::names::Names;

/// The largest file of parameters that is read.
const MAX_BYTES: u64 = 1 << 20;

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// true or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Double(f64),
    /// A text.
    String(String),
    /// Several of them.
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

/// What stands in a file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tree {
    Branch(BTreeMap<String, Tree>),
    Leaf(Value),
    /// A key without a value.
    Nothing(()),
}

/// Why parameters cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterError {
    /// A file cannot be read.
    #[error("{path}: cannot read the parameters: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file or a value is no YAML of this form.
    #[error("{place}: {reason}")]
    Syntax {
        /// The file, or the parameter.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A parameter that the node does not have.
    #[error("the parameter \"{name}\" is not known{}", hint(.near))]
    Unknown {
        /// Its name.
        name: String,
        /// A known name that is like it.
        near: Option<String>,
    },
    /// A value of another type.
    #[error("the parameter \"{name}\" is {found}; expected {expected}")]
    Type {
        /// Its name.
        name: String,
        /// Its value.
        found: Value,
        /// What was expected.
        expected: String,
    },
    /// A value that the plan says otherwise.
    #[error("the parameter \"{name}\" is {found}, but the plan has {plan}; {advice}")]
    Contradiction {
        /// Its name.
        name: String,
        /// Its value.
        found: Value,
        /// The plan's.
        plan: String,
        /// What to do.
        advice: &'static str,
    },
}

fn hint(near: &Option<String>) -> String {
    near.as_ref()
        .map_or(String::new(), |near| format!("; is \"{near}\" meant?"))
}

/// Reads all parameters that are meant for the node.
///
/// # Errors
/// [`ParameterError::Io`] or [`ParameterError::Syntax`], with the file or the parameter.
pub fn read(args: &RosArgs, names: &Names) -> Result<BTreeMap<String, Value>, ParameterError> {
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

/// A value as rcl reads it: YAML, and what YAML cannot read is a text.
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
        return Err(syntax(format!("{bytes} bytes; at most {MAX_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let tree: BTreeMap<String, Tree> =
        serde_saphyr::from_str(&text).map_err(|e| syntax(e.to_string()))?;
    let node = names.fully_qualified();
    let node: Vec<&str> = tokens(&node).collect();
    descend(&tree, &mut Vec::new(), &node, all).map_err(syntax)
}

/// Looks for `ros__parameters` below names of nodes.
fn descend<'a>(
    tree: &'a BTreeMap<String, Tree>,
    way: &mut Vec<&'a str>,
    node: &[&str],
    all: &mut BTreeMap<String, Value>,
) -> Result<(), String> {
    for (key, below) in tree {
        match below {
            Tree::Branch(parameters) if key == "ros__parameters" => {
                if matches(way, node) {
                    flatten("", parameters, all);
                }
            }
            Tree::Nothing(()) if key == "ros__parameters" => {}
            Tree::Branch(below) => {
                let depth = way.len();
                way.extend(tokens(key));
                descend(below, way, node, all)?;
                way.truncate(depth);
            }
            Tree::Leaf(_) | Tree::Nothing(()) => {
                return Err(format!(
                    "\"{key}\" stands outside of `ros__parameters`; expected `/**: ros__parameters:`, or a \
                     node's name instead of `/**`"
                ));
            }
        }
    }
    Ok(())
}

fn tokens(name: &str) -> impl Iterator<Item = &str> {
    name.split('/').filter(|token| !token.is_empty())
}

/// Whether a pattern means a node: `*` is any token, `**` are any number of them.
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

/// Names of what is nested, with dots.
fn flatten(prefix: &str, tree: &BTreeMap<String, Tree>, all: &mut BTreeMap<String, Value>) {
    for (key, below) in tree {
        let name = format!("{prefix}{key}");
        match below {
            Tree::Branch(below) => flatten(&format!("{name}."), below, all),
            Tree::Leaf(value) => drop(all.insert(name, value.clone())),
            Tree::Nothing(()) => {}
        }
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
        let (_, args) = super::super::args::split(words).unwrap();
        read(&args, &Names::new(&args, "detector").unwrap())
    }

    #[test]
    fn values_have_the_type_that_yaml_gives_them() {
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
    fn files_are_for_nodes_and_later_values_count() {
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
    fn what_is_no_file_of_parameters_is_an_error_with_its_name() {
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
