//! Parameters taken one by one, each with its type and its range; what is left at the end is unknown.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::parameters::{ParameterError, Value};

/// The parameters that were not taken yet, and the names that were asked for.
pub(super) struct Reader {
    left: BTreeMap<String, Value>,
    known: Vec<String>,
}

impl ParameterError {
    /// A [`ParameterError::Type`].
    pub(super) fn wrong(name: &str, found: Value, expected: impl Into<String>) -> Self {
        Self::Type {
            name: name.into(),
            found,
            expected: expected.into(),
        }
    }
}

impl Reader {
    pub(super) fn new(parameters: BTreeMap<String, Value>) -> Self {
        Self {
            left: parameters,
            known: Vec::new(),
        }
    }

    /// A value, whatever its type.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.known.push(name.into());
        self.left.remove(name)
    }

    /// Says that a parameter is known, and not used.
    pub(super) fn read_over(&mut self, name: &str) {
        self.take(name);
    }

    pub(super) fn bool(&mut self, name: &str) -> Result<Option<bool>, ParameterError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(ParameterError::wrong(name, other, "true or false")),
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ParameterError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(ParameterError::wrong(name, other, "a text")),
        }
    }

    /// A number that counts something, and the value as it was found.
    pub(super) fn count(&mut self, name: &str) -> Result<Option<(usize, Value)>, ParameterError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Integer(value)) if value >= 0 => {
                Ok(Some((value as usize, Value::Integer(value))))
            }
            Some(other) => Err(ParameterError::wrong(
                name,
                other,
                "a whole number from 0 on",
            )),
        }
    }

    /// A number; whole ones may be written without a point.
    pub(super) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ParameterError> {
        let Some(found) = self.take(name) else {
            return Ok(None);
        };
        match number(&found, &range) {
            Some(value) => Ok(Some(value)),
            None => Err(ParameterError::wrong(
                name,
                found,
                format!("a number{}", within(&range)),
            )),
        }
    }

    /// A list of numbers, of a length if that is given.
    pub(super) fn numbers(
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
                Err(ParameterError::wrong(name, found, expected))
            }
        }
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<(), ParameterError> {
        let Some(name) = self.left.into_keys().next() else {
            return Ok(());
        };
        // A forgotten prefix is the usual slip.
        let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
        let near = self.known.iter().find(|known| last(known) == last(&name));
        Err(ParameterError::Unknown {
            near: near.cloned(),
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
        (start, end) if *end >= 1e6 => format!(" from {start} on"),
        (start, end) => format!(" within {start} to {end}"),
    }
}
