//! Reads result and label files: one pass over the text counts the boxes, a second reads them, without a tree
//! in between.
//!
//! Memory holds the file's bytes, the boxes (224 bytes each plus their names, from at least 97 bytes of text)
//! and, while Python's `NaN` tokens are replaced, a copy of the bytes that is at most a third longer: less than
//! 4 times the file. Counting keeps it there, because a list that grows exists twice while it moves. Two things
//! cost more than their text: metadata (`[0,0,…]` costs 16 times its text), limited to 1000 values, and samples
//! without boxes, about 90 bytes each.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::vec;

use serde::Deserialize;
use serde::de::{
    self, DeserializeSeed, Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Deserializer, Map};

use super::meta::Meta;
use super::{MAX_FILE_BYTES, Results, SampleBox};
use crate::results::ResultsError;

/// See [`Results::read`].
pub(super) fn read(path: &Path) -> Result<Results, ResultsError> {
    let bytes = replace_python_constants(read_bytes(path)?);
    let results = parse(&bytes).map_err(|reason| ResultsError::Format {
        path: path.to_path_buf(),
        reason,
    })?;
    let zero = results.boxes().filter(|b| b.rotation == [0.0; 4]).count();
    if zero > 0 {
        log::warn!(
            "{}: {zero} boxes have the rotation (0, 0, 0, 0), which is none; their heading is read as 0, as by the devkit",
            path.display()
        );
    }
    Ok(results)
}

/// Parses the text of a file.
fn parse(bytes: &[u8]) -> Result<Results, serde_json::Error> {
    let mut lengths = Vec::new();
    // Counting stops at a syntax error; the second pass reports it.
    let _ = Deserializer::from_slice(bytes).deserialize_map(Count(&mut lengths));
    let mut deserializer = Deserializer::from_slice(bytes);
    let results = deserializer.deserialize_map(ReadFile(lengths.into_iter()))?;
    deserializer.end()?;
    Ok(results)
}

/// Reads the file's bytes after checking its size.
fn read_bytes(path: &Path) -> Result<Vec<u8>, ResultsError> {
    let io = |source| ResultsError::Read {
        path: path.to_path_buf(),
        source,
    };
    let too_large = |bytes| ResultsError::TooLarge {
        path: path.to_path_buf(),
        bytes,
        limit: MAX_FILE_BYTES,
    };
    let file = File::open(path).map_err(io)?;
    let expected = file.metadata().map_err(io)?.len();
    if expected > MAX_FILE_BYTES {
        return Err(too_large(expected));
    }
    // With one spare byte, the buffer does not grow to detect the end of the file.
    let mut bytes = Vec::with_capacity(expected as usize + 1);
    // A pipe has no length, and a file can grow: limit the bytes read, too.
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// What Python's `json.dump` writes for floats that JSON cannot represent.
const PYTHON_CONSTANTS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// Replaces Python's constants outside strings with `null`.
///
/// Columns in later error messages refer to the replaced text.
fn replace_python_constants(bytes: Vec<u8>) -> Vec<u8> {
    let mut found = 0;
    for_each_constant(&bytes, |_, _| found += 1);
    if found == 0 {
        return bytes;
    }
    // `null` is one byte longer than the shortest of the constants.
    let mut out = Vec::with_capacity(bytes.len() + found);
    let mut copied = 0;
    for_each_constant(&bytes, |at, length| {
        out.extend_from_slice(&bytes[copied..at]);
        out.extend_from_slice(b"null");
        copied = at + length;
    });
    out.extend_from_slice(&bytes[copied..]);
    out
}

/// Calls `found(offset, length)` for each of Python's constants outside strings, in order.
fn for_each_constant(bytes: &[u8], mut found: impl FnMut(usize, usize)) {
    let mut in_string = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            b'N' | b'I' | b'-' if !in_string => {
                let constant = PYTHON_CONSTANTS.iter().find(|c| bytes[at..].starts_with(c));
                if let Some(constant) = constant {
                    found(at, constant.len());
                    at += constant.len() - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// Records the length of each list of boxes under `results`, in file order.
struct Count<'a>(&'a mut Vec<usize>);

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "results" => map.next_value_seed(CountSamples(self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// [`Count`] below `results`.
struct CountSamples<'a>(&'a mut Vec<usize>);

impl<'de> DeserializeSeed<'de> for CountSamples<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CountSamples<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of lists")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(CountSamples(self.0))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let at = self.0.len();
        self.0.push(0);
        while seq.next_element::<IgnoredAny>()?.is_some() {
            self.0[at] += 1;
        }
        Ok(())
    }
}

/// Reads the file, given the lengths from [`Count`].
struct ReadFile(vec::IntoIter<usize>);

impl<'de> Visitor<'de> for ReadFile {
    type Value = Results;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with the key `results`")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Results, A::Error> {
        let (mut meta, mut results) = (Map::new(), None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "meta" => meta = map.next_value_seed(Meta).map_err(within("meta"))?,
                "results" => results = Some(map.next_value_seed(Samples(&mut self.0))?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Results {
            meta,
            results: results.ok_or_else(|| A::Error::missing_field("results"))?,
        })
    }
}

/// Reads `{sample_token: [box…]}`, given the lengths of the lists.
struct Samples<'a>(&'a mut vec::IntoIter<usize>);

impl<'de> DeserializeSeed<'de> for Samples<'_> {
    type Value = BTreeMap<String, Vec<SampleBox>>;

    fn deserialize<D: de::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Samples<'_> {
    type Value = BTreeMap<String, Vec<SampleBox>>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with a list of boxes for each sample token")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut samples = BTreeMap::new();
        while let Some(token) = map.next_key::<String>()? {
            let boxes = map.next_value_seed(Boxes {
                token: &token,
                length: self.0.next().unwrap_or(0),
            })?;
            if samples.contains_key(&token) {
                return Err(A::Error::custom(format!(
                    "sample `{token}` is listed twice"
                )));
            }
            samples.insert(token, boxes);
        }
        Ok(samples)
    }
}

/// Reads the boxes of one sample.
struct Boxes<'a> {
    token: &'a str,
    /// Number of boxes.
    length: usize,
}

impl<'de> DeserializeSeed<'de> for Boxes<'_> {
    type Value = Vec<SampleBox>;

    fn deserialize<D: de::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Boxes<'_> {
    type Value = Vec<SampleBox>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a list of boxes for sample `{}`", self.token)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut boxes = Vec::with_capacity(self.length);
        loop {
            let next = seq.next_element::<SampleBox>().and_then(|next| {
                let checked = next.as_ref().map_or(Ok(()), |b| b.check(self.token));
                checked.map_err(A::Error::custom).map(|()| next)
            });
            let at =
                |error| within(&format!("sample `{}`, box {}", self.token, boxes.len()))(error);
            match next.map_err(at)? {
                Some(next) => boxes.push(next),
                None => return Ok(boxes),
            }
        }
    }
}

impl<'de> Deserialize<'de> for SampleBox {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<SampleBox, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = SampleBox;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a box: an object with the keys of nuscenes-devkit's DetectionBox")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SampleBox, A::Error> {
                let (mut token, mut name) = (None, None);
                let (mut translation, mut size, mut rotation) = (None, None, None);
                let (mut velocity, mut ego_translation) = ([None; 2], [0.0; 3]);
                let (mut score, mut attribute, mut points) = (-1.0, String::new(), -1);
                while let Some(key) = map.next_key::<String>()? {
                    let read = match key.as_str() {
                        "sample_token" => map.next_value().map(|v| token = Some(v)),
                        "translation" => map.next_value().map(|v| translation = Some(v)),
                        "size" => map.next_value().map(|v| size = Some(v)),
                        "rotation" => map.next_value().map(|v| rotation = Some(v)),
                        "velocity" => map.next_value().map(|v| velocity = v),
                        "detection_name" => map.next_value().map(|v| name = Some(v)),
                        "detection_score" => map.next_value().map(|v| score = v),
                        "attribute_name" => map.next_value().map(|v| attribute = v),
                        "ego_translation" => map.next_value().map(|v| ego_translation = v),
                        "num_pts" => map.next_value().map(|v| points = v),
                        _ => map.next_value::<IgnoredAny>().map(drop),
                    };
                    read.map_err(within(&key))?;
                }
                let missing = A::Error::missing_field;
                Ok(SampleBox {
                    sample_token: token.ok_or_else(|| missing("sample_token"))?,
                    translation: translation.ok_or_else(|| missing("translation"))?,
                    size: size.ok_or_else(|| missing("size"))?,
                    rotation: rotation.ok_or_else(|| missing("rotation"))?,
                    velocity,
                    detection_name: name.ok_or_else(|| missing("detection_name"))?,
                    detection_score: score,
                    attribute_name: attribute,
                    ego_translation,
                    num_pts: points,
                })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Prefixes an error's message with `place`, for `map_err`.
fn within<E: de::Error>(place: &str) -> impl FnOnce(E) -> E {
    move |error| E::custom(format!("{place}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: &str = r#"{"sample_token":"a","translation":[1,2,3],"size":[2,4,1.5],
        "rotation":[1,0,0,0],"velocity":[NaN,-Infinity],"detection_name":"car","tracking_id":"7"}"#;

    fn parse(text: &str) -> Result<Results, String> {
        super::parse(&replace_python_constants(text.into())).map_err(|e| e.to_string())
    }

    fn error_of(boxes: &str) -> String {
        parse(&format!(r#"{{"results":{{"a":[{BOX},{boxes}]}}}}"#)).unwrap_err()
    }

    #[test]
    fn missing_keys_have_the_devkits_defaults_and_extra_keys_are_ignored() {
        let results = parse(&format!(
            r#"{{"version":2,"results":{{"b":[],"a":[{BOX}]}}}}"#
        ))
        .unwrap();
        assert_eq!(results.results["b"], vec![]);
        let read = &results.results["a"][0];
        assert_eq!(read.velocity, [None, None]);
        assert_eq!((read.detection_score, read.num_pts), (-1.0, -1));
        assert_eq!(read.ego_translation, [0.0; 3]);
        assert_eq!(read.attribute_name, "");
    }

    #[test]
    fn python_constants_are_replaced_outside_strings_only() {
        let replace = |t: &str| String::from_utf8(replace_python_constants(t.into())).unwrap();
        assert_eq!(replace("[NaN,Infinity,-Infinity]"), "[null,null,null]");
        assert_eq!(replace(r#"{"NaN\"NaN":NaN}"#), r#"{"NaN\"NaN":null}"#);
        assert_eq!(replace(r#"{"\\":NaN}"#), r#"{"\\":null}"#);
        assert_eq!(replace("[-1,Na,I"), "[-1,Na,I");
    }

    #[test]
    fn errors_name_sample_box_and_key() {
        let error = error_of(&BOX.replace("[1,2,3]", "[1,NaN,3]"));
        assert!(
            error.contains("sample `a`, box 1: translation: invalid type: null"),
            "{error}"
        );
        let error = error_of(&BOX.replace("\"size\":[2,4,1.5],", ""));
        assert!(
            error.contains("sample `a`, box 1: missing field `size`"),
            "{error}"
        );
        let error = error_of(&BOX.replace("[2,4,1.5]", "[2,4,0]"));
        assert!(
            error.contains("sample `a`, box 1: size: 0, expected"),
            "{error}"
        );
        let error = error_of(&BOX.replace("[2,4,1.5]", "[2,4]"));
        assert!(
            error.contains("sample `a`, box 1: size: invalid length 2"),
            "{error}"
        );
        let error = error_of(&BOX.replace(":\"a\"", ":\"b\""));
        assert!(
            error.contains("sample `a`, box 1: sample_token is `b`"),
            "{error}"
        );
        let error = error_of("3");
        assert!(
            error.contains("sample `a`, box 1: invalid type: integer `3`"),
            "{error}"
        );
    }

    #[test]
    fn other_json_files_are_rejected() {
        let error = parse(r#"{"meta":{}}"#).unwrap_err();
        assert!(error.contains("missing field `results`"), "{error}");
        let error = parse(r#"{"results":[]}"#).unwrap_err();
        assert!(
            error.contains("a list of boxes for each sample token"),
            "{error}"
        );
        let error = parse(r#"{"results":{"a":[],"a":[]}}"#).unwrap_err();
        assert!(error.contains("sample `a` is listed twice"), "{error}");
        assert!(parse("[]").is_err());
        assert!(parse("").is_err());
    }
}
