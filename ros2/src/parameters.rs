//! The node's parameters: from the command line and from files, and why they cannot be used.
//!
//! The library reads the files, because `cp-build import` reads the same. A file's parameters apply if the name or the
//! pattern above them matches the node. Later values replace earlier ones.

use std::path::{Path, PathBuf};

use centerpoint::internals::model::autoware::{Parameters, Setting, Value};
use centerpoint::model::ModelError;

use crate::names::Names;
use crate::ros_args::{Assignment, RosArgs};

/// What stands for a file in errors about `-p`.
pub(crate) const COMMAND_LINE: &str = "command line";

/// Why parameters cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParameterError {
    /// A file cannot be read, or a parameter is unknown or invalid.
    #[error(transparent)]
    Invalid(#[from] ModelError),
    /// A value that contradicts the plan.
    #[error("{path}: key `{key}`: {found}, but the plan has {plan}; {advice}")]
    Contradiction {
        /// The file, or what stands for the command line.
        path: PathBuf,
        /// The parameter's name.
        key: String,
        found: String,
        /// The plan's value.
        plan: String,
        /// What to do.
        advice: &'static str,
    },
}

impl ParameterError {
    /// A [`ParameterError::Contradiction`].
    pub(crate) fn contradiction<T>(
        setting: &Setting<T>,
        plan: impl Into<String>,
        advice: &'static str,
    ) -> Self {
        Self::Contradiction {
            path: setting.path.clone(),
            key: setting.key.clone(),
            found: setting.found.to_string(),
            plan: plan.into(),
            advice,
        }
    }
}

/// Reads all parameters for the node.
///
/// # Errors
/// [`ModelError`] with the file or the parameter.
pub(crate) fn read(args: &RosArgs, names: &Names) -> Result<Parameters, ModelError> {
    let own = names.fully_qualified();
    let own: Vec<&str> = own.split('/').filter(|token| !token.is_empty()).collect();
    let mut all = Parameters::default();
    for assignment in &args.parameters {
        match assignment {
            Assignment::File(path) => all.read(path, |pattern| matches(pattern, &own))?,
            Assignment::Value { node, name, value } => {
                if node.as_ref().is_none_or(|node| node == names.node()) {
                    let parsed = Value::parse(value).map_err(|message| ModelError::Syntax {
                        path: format!("-p {name}:={value}").into(),
                        message,
                    })?;
                    all.set(name, parsed, Path::new(COMMAND_LINE));
                }
            }
        }
    }
    Ok(all)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(line: &str, files: &[&str]) -> Result<Parameters, ModelError> {
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
        let mut all = read_all(line, &[]).unwrap();
        let mut value = |name: &str| all.take(name).unwrap().value;
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
        let taken = |all: &mut Parameters, name: &str| all.take(name).map(|taken| taken.value);
        let mut all = read_all("-p d:=1 -p other:d:=2 -p detector:e:=x", &files).unwrap();
        let a = all.take("a").unwrap();
        assert_eq!(a.value, Value::Integer(2));
        assert!(a.path.ends_with("1.yaml"), "{:?}", a.path);
        assert_eq!(taken(&mut all, "d"), Some(Value::Integer(1)));
        assert_eq!(all.take("e").unwrap().path, Path::new(COMMAND_LINE));
        assert!(all.take("nested.b").is_some());
        all.finish().unwrap();
        let mut all = read_all("-r __ns:=/front -p d:=1", &files).unwrap();
        assert_eq!(taken(&mut all, "a"), Some(Value::Integer(1)));
        assert_eq!(taken(&mut all, "c"), Some(Value::Integer(2)));
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
        assert!(matches!(error, ModelError::Io { .. }), "{error}");
    }
}
