//! The part of a command line that is ROS's: `--ros-args -r from:=to -p name:=value --params-file x.yaml`.
//!
//! As rcl has it: the part begins at `--ros-args` and ends at `--` or at the end, and may come several times; of
//! two settings of one thing the later counts.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the part says, in its order, unchecked but for its form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RosArgs {
    /// The node's name, by `-r __node:=name`.
    pub node: Option<String>,
    /// Its namespace, by `-r __ns:=/space`.
    pub namespace: Option<String>,
    /// `-r from:=to`.
    pub remaps: Vec<Remap>,
    /// `-p` and `--params-file`.
    pub parameters: Vec<Assignment>,
    /// `--log-level`: debug, info, warn, error or fatal.
    pub log_level: Option<String>,
}

/// One rule of a new name for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remap {
    /// Name of the node that it is for; `None`: any.
    pub node: Option<String>,
    /// The name in the program.
    pub from: String,
    /// The name outside.
    pub to: String,
}

/// A source of parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// A file of them.
    File(PathBuf),
    /// One of them, its value as YAML.
    Value {
        /// Name of the node that it is for; `None`: any.
        node: Option<String>,
        /// Its name.
        name: String,
        /// Its value, not parsed.
        value: String,
    },
}

/// Why a command line's ROS part cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RosArgsError {
    /// An option that is not known.
    #[error(
        "--ros-args: unknown argument \"{0}\"; known are -r, -p, --params-file and --log-level"
    )]
    Unknown(String),
    /// An option without its value.
    #[error("--ros-args: {0} needs a value")]
    Missing(&'static str),
    /// A value of another form.
    #[error("--ros-args: {option} \"{found}\": expected {expected}")]
    Form {
        /// The option.
        option: &'static str,
        /// What was found.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
}

/// Splits a command line into the program's own arguments and ROS's.
///
/// # Errors
/// [`RosArgsError`] for what is wrong in ROS's part.
pub fn split(
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
            // Launch files pass them; this program has no security enclave and logs to standard error.
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

/// `[node:]name:=value` in its parts.
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
        let (node, from, to) = rule(text).ok_or_else(|| RosArgsError::Form {
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
        let (node, name, value) = rule(text).ok_or_else(|| RosArgsError::Form {
            option: "-p",
            found: text.into(),
            expected: "name:=value",
        })?;
        self.parameters
            .push(Assignment::Value { node, name, value });
        Ok(())
    }

    /// A level for all; `logger:=level` sets that of a logger, of which this program has one.
    fn level(&mut self, text: &str) -> Result<(), RosArgsError> {
        let level = text.rsplit_once(":=").map_or(text, |(_, level)| level);
        let level = level.to_ascii_lowercase();
        if !["debug", "info", "warn", "error", "fatal"].contains(&level.as_str()) {
            return Err(RosArgsError::Form {
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
    fn the_part_of_ros_is_taken_out_wherever_it_is() {
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
    fn what_is_wrong_is_told() {
        for (line, told) in [
            ("x --ros-args -q", "\"-q\""),
            ("x --ros-args -p", "-p needs a value"),
            ("x --ros-args -p a=1", "name:=value"),
            ("x --ros-args -p :=1", "name:=value"),
            ("x --ros-args -r a:=", "from:=to"),
            ("x --ros-args --params-file", "--params-file"),
            ("x --ros-args --log-level loud", "debug, info"),
        ] {
            let error = split_text(line).unwrap_err().to_string();
            assert!(error.contains(told), "{line}: {error}");
        }
    }
}
