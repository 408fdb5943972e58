//! A problem with a key of a description, and the checks that several tables share.

use std::path::Path;

use super::ModelError;
use super::file::PerClass;

/// An invalid value, without the file's name.
pub(super) struct Problem {
    /// Dotted key.
    pub(super) key: String,
    /// The problem.
    pub(super) problem: String,
}

impl Problem {
    /// Adds the file's path.
    pub(super) fn in_file(self, path: &Path) -> ModelError {
        let Self { key, problem } = self;
        let path = path.into();
        ModelError::Value { path, key, problem }
    }
}

pub(super) fn problem<T>(key: impl Into<String>, problem: impl Into<String>) -> Result<T, Problem> {
    Err(Problem {
        key: key.into(),
        problem: problem.into(),
    })
}

pub(super) fn class_id(name: &str, classes: &[String], key: &str) -> Result<usize, Problem> {
    match classes.iter().position(|class| class == name) {
        Some(id) => Ok(id),
        None => problem(
            key,
            format!(
                "`{name}` is not a class; known classes: {}",
                classes.join(" ")
            ),
        ),
    }
}

pub(super) fn per_class(
    raw: &PerClass,
    classes: &[String],
    key: &str,
    low: f64,
    high: f64,
) -> Result<Vec<f32>, Problem> {
    let values = match raw {
        PerClass::One(value) => vec![*value; classes.len()],
        PerClass::Each(by_name) => {
            for name in by_name.keys() {
                class_id(name, classes, key)?;
            }
            let mut values = Vec::with_capacity(classes.len());
            for class in classes {
                match by_name.get(class) {
                    Some(value) => values.push(*value),
                    None => return problem(format!("{key}.{class}"), "missing"),
                }
            }
            values
        }
    };
    match values.iter().find(|value| !(low..=high).contains(*value)) {
        Some(value) => problem(key, format!("{value} is not within {low} to {high}")),
        None => Ok(values.into_iter().map(|value| value as f32).collect()),
    }
}

pub(super) fn bounded(key: &str, value: usize, low: usize, high: usize) -> Result<usize, Problem> {
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        let most = if high == usize::MAX {
            " or more".into()
        } else {
            format!(" to {high}")
        };
        problem(key, format!("{value}; expected {low}{most}"))
    }
}
