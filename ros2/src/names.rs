//! Names of the node and its topics: private (`~/x`) and relative names are made absolute, then remapped.
//!
//! The rules are those of <https://design.ros2.org/articles/topic_and_service_names.html>.

use crate::ros_args::{Remap, RosArgs};

/// Why a name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} name \"{name}\" is invalid: {reason}")]
pub(crate) struct NameError {
    /// What it names: node, namespace or topic.
    what: &'static str,
    name: String,
    reason: &'static str,
}

/// The node's names and the remapping rules of its topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// Absolute, without a trailing slash; `/` if there is none.
    namespace: String,
    node: String,
    remaps: Vec<Remap>,
}

impl Names {
    /// The names from a command line; `node` is the node's default name.
    ///
    /// # Errors
    /// [`NameError`] for a node or namespace name that ROS does not allow.
    pub(crate) fn new(args: &RosArgs, node: &str) -> Result<Self, NameError> {
        let node = args.node.as_deref().unwrap_or(node);
        check("node", node, token(node))?;
        let namespace = args.namespace.as_deref().unwrap_or("/");
        let inner = namespace.trim_matches('/');
        if !inner.is_empty() {
            check("namespace", namespace, tokens(inner))?;
        }
        Ok(Self {
            namespace: format!("/{inner}"),
            node: node.into(),
            remaps: args.remaps.clone(),
        })
    }

    /// The node's name, without its namespace.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// The namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The node's name with its namespace.
    pub(crate) fn fully_qualified(&self) -> String {
        self.absolute(&self.node)
    }

    /// The absolute, remapped name of the topic that the program calls `name`.
    ///
    /// # Errors
    /// [`NameError`] if a rule leads to a name that ROS does not allow.
    pub(crate) fn topic(&self, name: &str) -> Result<String, NameError> {
        let own = self.absolute(name);
        let rule = self.remaps.iter().find(|rule| {
            rule.node.as_ref().is_none_or(|node| *node == self.node)
                && self.absolute(&rule.from) == own
        });
        let topic = rule.map_or(own, |rule| self.absolute(&rule.to));
        check("topic", &topic, tokens(topic.trim_start_matches('/')))?;
        Ok(topic)
    }

    fn absolute(&self, name: &str) -> String {
        let space = match self.namespace.as_str() {
            "/" => "",
            other => other,
        };
        if name.starts_with('/') {
            name.into()
        } else if let Some(rest) = name.strip_prefix("~/") {
            format!("{space}/{}/{rest}", self.node)
        } else if name == "~" {
            format!("{space}/{}", self.node)
        } else {
            format!("{space}/{name}")
        }
    }
}

fn check(what: &'static str, name: &str, found: Result<(), &'static str>) -> Result<(), NameError> {
    found.map_err(|reason| NameError {
        what,
        name: name.into(),
        reason,
    })
}

/// Checks a name of several tokens, without a leading slash.
fn tokens(name: &str) -> Result<(), &'static str> {
    name.split('/').try_for_each(token)
}

fn token(token: &str) -> Result<(), &'static str> {
    let mut characters = token.chars();
    match characters.next() {
        None => Err("a token is empty"),
        Some(first) if first.is_ascii_digit() => Err("a token starts with a digit"),
        Some(_) if token.contains("__") => Err("it contains two consecutive underscores"),
        Some(_) if token.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => Ok(()),
        Some(_) => Err("only letters, digits, _ and / are allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Result<Names, NameError> {
        let words = line.split_whitespace().map(Into::into);
        let args = std::iter::once("--ros-args".into()).chain(words);
        let (_, args) = crate::ros_args::split(args).unwrap();
        Names::new(&args, "detector")
    }

    #[test]
    fn names_are_made_absolute_and_remapped() {
        let plain = names("").unwrap();
        assert_eq!(plain.topic("~/input").unwrap(), "/detector/input");
        assert_eq!(plain.topic("/tf").unwrap(), "/tf");
        assert_eq!(plain.topic("tf").unwrap(), "/tf");
        let names = names(
            "-r __ns:=/front -r __node:=d -r ~/input:=/points -r other:~/output:=no -r ~/output:=boxes \
             -r /tf:=tf",
        )
        .unwrap();
        assert_eq!(names.fully_qualified(), "/front/d");
        assert_eq!(names.topic("~/input").unwrap(), "/points");
        assert_eq!(names.topic("~/output").unwrap(), "/front/boxes");
        assert_eq!(names.topic("/tf").unwrap(), "/front/tf");
        assert_eq!(names.topic("~/debug/x").unwrap(), "/front/d/debug/x");
    }

    #[test]
    fn invalid_names_are_rejected() {
        for line in [
            "-r __node:=a/b",
            "-r __node:=1a",
            "-r __ns:=/a//b",
            "-r __ns:=/a-b",
        ] {
            assert!(names(line).is_err(), "{line}");
        }
        for to in ["/a//b", "/a/", "a__b", "/9"] {
            let names = names(&format!("-r ~/input:={to}")).unwrap();
            assert!(names.topic("~/input").is_err(), "{to}");
        }
    }
}
