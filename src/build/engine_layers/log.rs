//! Reads the builder's log of an engine's layers, which needs no GPU.
//!
//! ```text
//! Name: …, LayerType: …, Inputs: [ { Name: …, Dimensions: […], …, Datatype: …, Format: … }, … ],
//!     Constants: […], Outputs: […], TacticName: …, StreamId: …, Metadata: …        a line for each layer
//! I/O Tensors:
//!  Name: …, IOMode: …, DataType: …, Dimensions: […], …, ProfileInfo: [ { …, Format: … }]
//! ```

use super::{EngineLayer, LayerTensor, element, nodes};

/// An input or output of an engine, from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoTensor {
    /// Whether it is an input.
    pub input: bool,
    /// Name, shape, type and layout.
    pub tensor: LayerTensor,
}

/// The layers in a log.
pub fn layers(text: &str) -> Vec<EngineLayer> {
    text.lines().filter_map(layer).collect()
}

/// The inputs and outputs in a log.
pub fn io_tensors(text: &str) -> Vec<IoTensor> {
    text.lines().filter_map(io_tensor).collect()
}

fn layer(line: &str) -> Option<EngineLayer> {
    let (name, rest) = line.strip_prefix("Name: ")?.split_once(", LayerType: ")?;
    let (kind, rest) = rest.split_once(", ")?;
    // Metadata comes last. A node's name may contain anything.
    let (rest, metadata) = rest.split_once(", Metadata: ").unwrap_or((rest, ""));
    Some(EngineLayer {
        name: name.to_owned(),
        kind: kind.to_owned(),
        inputs: tensors(rest, "Inputs: "),
        outputs: tensors(rest, "Outputs: "),
        tactic: field(rest, "TacticName: ").to_owned(),
        nodes: nodes(metadata),
    })
}

fn io_tensor(line: &str) -> Option<IoTensor> {
    let (name, rest) = line
        .trim_start()
        .strip_prefix("Name: ")?
        .split_once(", IOMode: ")?;
    Some(IoTensor {
        input: rest.starts_with("Input"),
        tensor: LayerTensor {
            name: name.to_owned(),
            dims: dims(rest),
            element: element(field(rest, "DataType: ")),
            format: field(rest, "Format: ").to_owned(),
        },
    })
}

/// The tensors in the list after `key`.
fn tensors(text: &str, key: &str) -> Vec<LayerTensor> {
    let list = text
        .split_once(key)
        .map_or("", |(_, rest)| bracketed(rest, '[', ']'));
    let mut rest = list;
    let mut found = Vec::new();
    while let Some(start) = rest.find('{') {
        let tensor = bracketed(&rest[start..], '{', '}');
        rest = &rest[start + tensor.len()..];
        let (datatype, both) = (
            field(tensor, "Datatype: "),
            field(tensor, "Format/Datatype: "),
        );
        let format = field(tensor, "Format: ");
        found.push(LayerTensor {
            name: field(tensor, "Name: ").to_owned(),
            dims: dims(tensor),
            element: element(datatype),
            format: if format.is_empty() { both } else { format }.to_owned(),
        });
    }
    found
}

/// The text from its first character, an opening bracket, to the matching closing bracket.
fn bracketed(text: &str, open: char, close: char) -> &str {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            depth = depth.saturating_sub(1);
        }
        if depth == 0 {
            return &text[..at + c.len_utf8()];
        }
    }
    text
}

/// The value after `key`, up to the next comma or the end of its tensor.
fn field<'a>(text: &'a str, key: &str) -> &'a str {
    let Some((_, value)) = text.split_once(key) else {
        return "";
    };
    let end = value.find([',', '}']).unwrap_or(value.len());
    value[..end].trim()
}

/// The first shape in a text.
fn dims(text: &str) -> Vec<i64> {
    let list = text
        .split_once("Dimensions: ")
        .map_or("", |(_, rest)| bracketed(rest, '[', ']'));
    let numbers = list.trim_matches(['[', ']']).split(',');
    numbers.filter_map(|n| n.trim().parse().ok()).collect()
}
