//! The ROS arguments of a command line: `--ros-args -r from:=to -p name:=value --params-file x.yaml`.
//!
//! The rules are rcl's: ROS arguments start at `--ros-args` and end at `--` or at the end of the line, `--ros-args` may
//! be repeated, and later settings override earlier ones.

use std::ffi::OsString;
use std::path::PathBuf;

/// The ROS arguments in order. Only their syntax is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RosArgs {
    /// The node's name, by `-r __node:=name`.
    pub(crate) node: Option<String>,
    /// Its namespace, by `-r __ns:=/space`.
    pub(crate) namespace: Option<String>,
    /// `-r from:=to`.
    pub(crate) remaps: Vec<Remap>,
    /// `-p` and `--params-file`, in order.
    pub(crate) parameters: Vec<Assignment>,
    /// `--log-level`: debug, info, warn, error or fatal.
    pub(crate) log_level: Option<String>,
}

/// A rule that renames a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remap {
    /// The node that the rule applies to; `None` for any.
    pub(crate) node: Option<String>,
    /// The name in the program.
    pub(crate) from: String,
    /// The new name.
    pub(crate) to: String,
}

/// A source of parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Assignment {
    /// A parameter file.
    File(PathBuf),
    /// A single parameter.
    Value {
        /// The node that the parameter belongs to; `None` for any.
        node: Option<String>,
        name: String,
        /// The value as unparsed YAML.
        value: String,
    },
}

/// Why ROS arguments cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RosArgsError {
    /// An unknown option.
    #[error("--ros-args: unknown argument \"{0}\"; expected -r, -p, --params-file or --log-level")]
    Unknown(String),
    /// An option without its value.
    #[error("--ros-args: {0} needs a value")]
    Missing(&'static str),
    /// A malformed value.
    #[error("--ros-args: {option} \"{found}\": expected {expected}")]
    Malformed {
        option: &'static str,
        found: String,
        expected: &'static str,
    },
}

/// Splits a command line into the program's own arguments and ROS's.
///
/// # Errors
/// [`RosArgsError`] for invalid ROS arguments.
pub(crate) fn split(
    args: impl IntoIterator<Item = OsString>,
) -> Result<(Vec<OsString>, RosArgs), RosArgsError> {
    let (mut own, mut ros) = (Vec::new(), RosArgs::default());
    let mut args = args.into_iter();
    let mut inside = false;
    while let Some(arg) = args.next() {
        if !inside {
            match arg.to_str() {
                Some("--ros-args") => inside = true,
                _ => own.push(arg),
            }
            continue;
        }
        let text = arg.to_string_lossy().into_owned();
        let mut value = |option: &'static str| args.next().ok_or(RosArgsError::Missing(option));
        match text.as_str() {
            "--" => inside = false,
            "--ros-args" => {}
            "-r" | "--remap" => ros.remap(&value("-r")?.to_string_lossy())?,
            "-p" | "--param" => ros.parameter(&value("-p")?.to_string_lossy())?,
            "--params-file" => {
                let file = value("--params-file")?.into();
                ros.parameters.push(Assignment::File(file));
            }
            "--log-level" => ros.level(&value("--log-level")?.to_string_lossy())?,
            // Passed by launch files. This program has no security enclave and logs to standard error.
            "-e" | "--enclave" => drop(value("--enclave")?),
            "--enable-rosout-logs"
            | "--disable-rosout-logs"
            | "--enable-stdout-logs"
            | "--disable-stdout-logs"
            | "--enable-external-lib-logs"
            | "--disable-external-lib-logs" => {}
            _ => return Err(RosArgsError::Unknown(text)),
        }
    }
    Ok((own, ros))
}

/// Splits `[node:]name:=value`.
fn rule(text: &str) -> Option<(Option<String>, String, String)> {
    let (left, right) = text.split_once(":=")?;
    let (node, name) = match left.split_once(':') {
        Some((node, name)) => (Some(node.to_owned()), name),
        None => (None, left),
    };
    let whole = !name.is_empty() && !right.is_empty() && node.as_deref() != Some("");
    whole.then(|| (node, name.to_owned(), right.to_owned()))
}

impl RosArgs {
    fn remap(&mut self, text: &str) -> Result<(), RosArgsError> {
        let (node, from, to) = rule(text).ok_or_else(|| RosArgsError::Malformed {
            option: "-r",
            found: text.into(),
            expected: "from:=to",
        })?;
        match from.as_str() {
            "__node" | "__name" => self.node = Some(to),
            "__ns" => self.namespace = Some(to),
            _ => self.remaps.push(Remap { node, from, to }),
        }
        Ok(())
    }

    fn parameter(&mut self, text: &str) -> Result<(), RosArgsError> {
        let (node, name, value) = rule(text).ok_or_else(|| RosArgsError::Malformed {
            option: "-p",
            found: text.into(),
            expected: "name:=value",
        })?;
        self.parameters
            .push(Assignment::Value { node, name, value });
        Ok(())
    }

    /// Sets the log level. `logger:=level` does the same, because this program has a single logger.
    fn level(&mut self, text: &str) -> Result<(), RosArgsError> {
        let level = text.rsplit_once(":=").map_or(text, |(_, level)| level);
        let level = level.to_ascii_lowercase();
        if !["debug", "info", "warn", "error", "fatal"].contains(&level.as_str()) {
            return Err(RosArgsError::Malformed {
                option: "--log-level",
                found: text.into(),
                expected: "debug, info, warn, error or fatal",
            });
        }
        self.log_level = Some(level);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_text(line: &str) -> Result<(Vec<String>, RosArgs), RosArgsError> {
        let (own, ros) = split(line.split_whitespace().map(OsString::from))?;
        let own = own.into_iter().map(|arg| arg.into_string().unwrap());
        Ok((own.collect(), ros))
    }

    #[test]
    fn ros_arguments_are_extracted_wherever_they_are() {
        let line = "cp-ros2 --engine a.plan --ros-args -r __node:=front -r __ns:=/lidar -r ~/in:=/p \
                    --log-level warn -p output:=autoware -- --threads 2 --ros-args --params-file x.yaml \
                    -p front:a.b:=[1,2] -r other:in:=/q";
        let (own, ros) = split_text(line).unwrap();
        assert_eq!(own.join(" "), "cp-ros2 --engine a.plan --threads 2");
        let value = |node: Option<&str>, name: &str, value: &str| Assignment::Value {
            node: node.map(String::from),
            name: name.into(),
            value: value.into(),
        };
        let expected = RosArgs {
            node: Some("front".into()),
            namespace: Some("/lidar".into()),
            remaps: vec![
                Remap {
                    node: None,
                    from: "~/in".into(),
                    to: "/p".into(),
                },
                Remap {
                    node: Some("other".into()),
                    from: "in".into(),
                    to: "/q".into(),
                },
            ],
            parameters: vec![
                value(None, "output", "autoware"),
                Assignment::File("x.yaml".into()),
                value(Some("front"), "a.b", "[1,2]"),
            ],
            log_level: Some("warn".into()),
        };
        assert_eq!(ros, expected);
    }

    #[test]
    fn errors_name_the_wrong_argument() {
        for (line, expected) in [
            ("x --ros-args -q", "\"-q\""),
            ("x --ros-args -p", "-p needs a value"),
            ("x --ros-args -p a=1", "name:=value"),
            ("x --ros-args -p :=1", "name:=value"),
            ("x --ros-args -r a:=", "from:=to"),
            ("x --ros-args --params-file", "--params-file"),
            ("x --ros-args --log-level loud", "debug, info"),
        ] {
            let error = split_text(line).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
