//! ROS parameters: read from YAML files, then taken by name with type and range checks.
//!
//! A file has `ros__parameters` below a node's name or a pattern such as `/**`. Nested names are joined with dots.
//! Later values replace earlier ones. Each value remembers where it was set, so that an error names the right file.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::model::ModelError;
use crate::model::file::read_text_within;

/// Maximum size of a parameter file: it may hold the parameters of many nodes.
const MAX_BYTES: u64 = 1 << 20;

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Double(f64),
    /// A text.
    String(String),
    /// A list.
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

impl Value {
    /// Parses a value as rcl does: as YAML, where anything else is a string.
    ///
    /// # Errors
    /// The parser's message.
    pub fn parse(text: &str) -> Result<Self, String> {
        yaml(text)
    }

    /// The number, if it is one. `inf` is a string in YAML 1.2, but a number for rcl and in Autoware's files.
    fn number(&self) -> Option<f64> {
        match self {
            Value::Integer(value) => Some(*value as f64),
            Value::Double(value) => Some(*value),
            Value::String(text) => match text.trim_start_matches('+') {
                "inf" | "Inf" | "INF" => Some(f64::INFINITY),
                _ => None,
            },
            _ => None,
        }
    }

    /// A list of the items' type, if all items are.
    fn items<T>(&self, item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        match self {
            Value::List(list) => list.iter().map(item).collect(),
            _ => None,
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

/// A checked value, where it was set, and as which parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting<T> {
    /// The checked value.
    pub value: T,
    /// The value as it was written.
    pub found: Value,
    /// The parameter's name.
    pub key: String,
    /// The file, or what stands for the command line.
    pub path: PathBuf,
}

impl<T> Setting<T> {
    /// The error that this value is invalid.
    pub fn invalid(&self, problem: impl Into<String>) -> ModelError {
        ModelError::Value {
            path: self.path.clone(),
            key: self.key.clone(),
            problem: problem.into(),
        }
    }

    /// Converts the value; `None` from `check` is the error that it is not `expected`.
    fn check<U>(
        self,
        expected: &str,
        check: impl FnOnce(T) -> Option<U>,
    ) -> Result<Setting<U>, ModelError> {
        let error = self.invalid(format!("{}; expected {expected}", self.found));
        match check(self.value) {
            Some(value) => Ok(Setting {
                value,
                found: self.found,
                key: self.key,
                path: self.path,
            }),
            None => Err(error),
        }
    }
}

/// Parameters that are not taken yet; those that remain at the end are unknown.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    remaining: BTreeMap<String, (Value, PathBuf)>,
    /// The names taken so far.
    known: Vec<String>,
}

/// A parameter that may have several spellings, the newest first. The newest one given counts.
pub(super) type Spellings<'a> = &'a [&'a str];

impl Parameters {
    /// Sets a parameter; `path` is where it was found.
    pub fn set(&mut self, name: &str, value: Value, path: &Path) {
        self.remaining.insert(name.into(), (value, path.into()));
    }

    /// Reads a file: the parameters of nodes whose name's pattern, split at `/`, fulfils `is_own`.
    ///
    /// # Errors
    /// [`ModelError`] with the file.
    pub fn read(
        &mut self,
        path: &Path,
        is_own: impl Fn(&[&str]) -> bool,
    ) -> Result<(), ModelError> {
        let syntax = |message: String| ModelError::Syntax {
            path: path.into(),
            message,
        };
        let text = read_text_within(path, MAX_BYTES)?;
        let tree: BTreeMap<String, Tree> = yaml(&text).map_err(syntax)?;
        let mut all = BTreeMap::new();
        descend(&tree, &mut Vec::new(), &is_own, &mut all).map_err(syntax)?;
        for (name, value) in all {
            self.set(&name, value, path);
        }
        Ok(())
    }

    /// Whether a parameter is given and not taken yet.
    pub(super) fn has(&self, name: &str) -> bool {
        self.remaining.contains_key(name)
    }

    /// The names that begin with `prefix`, without it.
    pub(super) fn below(&self, prefix: &str) -> Vec<String> {
        let names = self.remaining.keys();
        let names = names.filter_map(|name| name.strip_prefix(prefix).map(String::from));
        names.collect()
    }

    /// Takes a value of any type.
    pub fn take(&mut self, name: &str) -> Option<Setting<Value>> {
        self.take_newest(&[name])
    }

    fn take_newest(&mut self, names: Spellings<'_>) -> Option<Setting<Value>> {
        let mut newest = None;
        for name in names {
            self.known.push((*name).into());
            let Some((value, path)) = self.remaining.remove(*name) else {
                continue;
            };
            newest.get_or_insert(Setting {
                found: value.clone(),
                value,
                key: (*name).into(),
                path,
            });
        }
        newest
    }

    /// Accepts a parameter without using it.
    pub fn ignore(&mut self, name: &str) {
        self.take(name);
    }

    fn checked<T>(
        &mut self,
        names: Spellings<'_>,
        expected: &str,
        check: impl FnOnce(Value) -> Option<T>,
    ) -> Result<Option<Setting<T>>, ModelError> {
        let taken = self.take_newest(names);
        taken
            .map(|setting| setting.check(expected, check))
            .transpose()
    }

    /// Takes a boolean.
    ///
    /// # Errors
    /// [`ModelError::Value`] for another type; so do the following.
    pub fn bool(&mut self, names: &[&str]) -> Result<Option<Setting<bool>>, ModelError> {
        self.checked(names, "true or false", |value| match value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// Takes a string.
    ///
    /// # Errors
    /// [`ModelError::Value`].
    pub fn text(&mut self, names: &[&str]) -> Result<Option<Setting<String>>, ModelError> {
        self.checked(names, "a string", |value| match value {
            Value::String(value) => Some(value),
            _ => None,
        })
    }

    /// Takes a list of strings.
    ///
    /// # Errors
    /// [`ModelError::Value`].
    pub(super) fn texts(
        &mut self,
        names: Spellings<'_>,
    ) -> Result<Option<Setting<Vec<String>>>, ModelError> {
        self.checked(names, "a list of strings", |value| {
            value.items(|item| match item {
                Value::String(text) => Some(text.clone()),
                _ => None,
            })
        })
    }

    /// Takes a non-negative integer.
    ///
    /// # Errors
    /// [`ModelError::Value`].
    pub fn count(&mut self, names: &[&str]) -> Result<Option<Setting<usize>>, ModelError> {
        self.checked(names, "a non-negative integer", |value| match value {
            Value::Integer(value) => usize::try_from(value).ok(),
            _ => None,
        })
    }

    /// Takes a number; integers are accepted.
    ///
    /// # Errors
    /// [`ModelError::Value`].
    pub fn number(
        &mut self,
        names: &[&str],
        range: RangeInclusive<f64>,
    ) -> Result<Option<Setting<f64>>, ModelError> {
        let expected = format!("a number{}", within(&range));
        self.checked(names, &expected, |value| {
            value.number().filter(|number| range.contains(number))
        })
    }

    /// Takes a list of numbers.
    ///
    /// # Errors
    /// [`ModelError::Value`].
    pub(super) fn numbers(
        &mut self,
        names: Spellings<'_>,
        range: RangeInclusive<f64>,
    ) -> Result<Option<Setting<Vec<f64>>>, ModelError> {
        let expected = format!("a list of numbers{}", within(&range));
        self.checked(names, &expected, |value| {
            value.items(|item| item.number().filter(|number| range.contains(number)))
        })
    }

    /// Takes a list of `N` numbers.
    ///
    /// # Errors
    /// [`ModelError::Value`].
    pub fn array<const N: usize>(
        &mut self,
        names: &[&str],
    ) -> Result<Option<Setting<[f64; N]>>, ModelError> {
        self.checked(names, &format!("a list of {N} numbers"), |value| {
            value.items(Value::number)?.try_into().ok()
        })
    }

    /// Checks that no parameter remains.
    ///
    /// # Errors
    /// [`ModelError::Value`] with the first one that does.
    pub fn finish(self) -> Result<(), ModelError> {
        let Some((name, (_, path))) = self.remaining.into_iter().next() else {
            return Ok(());
        };
        // A missing prefix is the most common mistake.
        let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
        let similar = self.known.iter().find(|known| last(known) == last(&name));
        let hint = similar.map(|known| format!("; did you mean `{known}`?"));
        Err(ModelError::Value {
            path,
            key: name,
            problem: format!("unknown parameter{}", hint.unwrap_or_default()),
        })
    }
}

/// Parses YAML whose values have any type. Numbers may be infinite, as in `max_area_matrix`.
fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! {
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::PassThrough,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())
}

/// Collects `ros__parameters` below matching node names; `path` is the pattern so far.
fn descend<'a>(
    tree: &'a BTreeMap<String, Tree>,
    path: &mut Vec<&'a str>,
    is_own: &impl Fn(&[&str]) -> bool,
    all: &mut BTreeMap<String, Value>,
) -> Result<(), String> {
    for (key, below) in tree {
        match below {
            Tree::Branch(parameters) if key == "ros__parameters" => {
                if is_own(path) {
                    flatten("", parameters, all);
                }
            }
            Tree::Empty(()) if key == "ros__parameters" => {}
            Tree::Branch(below) => {
                let depth = path.len();
                path.extend(key.split('/').filter(|token| !token.is_empty()));
                descend(below, path, is_own, all)?;
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

fn within(range: &RangeInclusive<f64>) -> String {
    match (range.start(), range.end()) {
        // The end only excludes nonsense.
        (start, end) if *end >= 1e6 => format!(" of at least {start}"),
        (start, end) => format!(" from {start} to {end}"),
    }
}
