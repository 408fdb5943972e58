//! Reads a result file's `meta`: any JSON object of limited size.
//!
//! JSON values take many times the memory of their text, and real files have few.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Maximum number of values under `meta`, including nested ones.
const MAX_VALUES: usize = 1000;

/// Reads an object of at most [`MAX_VALUES`] values.
pub(super) struct Meta;

impl<'de> DeserializeSeed<'de> for Meta {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let left = Cell::new(MAX_VALUES);
        match (MetaValue { left: &left }).deserialize(deserializer)? {
            Value::Object(map) => Ok(map),
            Value::Null => Ok(Map::new()),
            _ => Err(D::Error::custom("expected an object")),
        }
    }
}

/// Reads any JSON value and counts it and the values inside it.
#[derive(Clone, Copy)]
struct MetaValue<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for MetaValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| {
            D::Error::custom(format!("more than {MAX_VALUES} values, shorten it"))
        })?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MetaValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            object.insert(key, map.next_value_seed(self)?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Map<String, Value>, String> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        Meta.deserialize(&mut deserializer)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn values_are_kept_and_counted() {
        let text = r#"{"use_lidar":true,"ranges":[1,-2,0.5,"x",null,{"k":{}}]}"#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Value::Object(read(text).unwrap()), expected);
        let many = vec!["0"; MAX_VALUES].join(",");
        let error = read(&format!(r#"{{"x":[{many}]}}"#)).unwrap_err();
        assert!(error.contains("more than 1000 values"), "{error}");
    }
}
