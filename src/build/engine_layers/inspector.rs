//! The engine inspector's JSON.
//!
//! ```text
//! { "Layers": [ { "Name": …, "LayerType": …, "Inputs": [ { "Name": …, "Dimensions": […],
//!                 "Format/Datatype": … } ], "Outputs": […], "TacticName": …, "Metadata": … } ],
//!   "Bindings": […] }
//! ```
//!
//! `Format/Datatype` is a sentence about both (`Row major linear FP16 format`); layers that TensorRT's
//! compiler made give the type alone there, and newer libraries have `Datatype` and `Format` instead. An
//! engine that was built without details lists names only.

use serde::Deserialize;

use super::{Layer, LayerTensor, element, nodes};

#[derive(Deserialize)]
struct Engine {
    #[serde(rename = "Layers")]
    layers: Vec<Told>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Name(String),
    Layer(Box<Detailed>),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Detailed {
    name: String,
    layer_type: String,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    tactic_name: String,
    metadata: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Tensor {
    name: String,
    dimensions: Vec<i64>,
    datatype: String,
    format: String,
    #[serde(rename = "Format/Datatype")]
    both: String,
}

/// The layers in the inspector's JSON.
///
/// # Errors
/// Text that is none.
pub fn read(json: &str) -> serde_json::Result<Vec<Layer>> {
    // Between the names in metadata there is an unescaped record separator, which JSON does not allow.
    let printable: String = json
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let engine: Engine = serde_json::from_str(&printable)?;
    Ok(engine.layers.into_iter().map(layer).collect())
}

fn layer(told: Told) -> Layer {
    match told {
        Told::Name(name) => Layer {
            name,
            ..Layer::default()
        },
        Told::Layer(layer) => Layer {
            name: layer.name,
            kind: layer.layer_type,
            inputs: layer.inputs.into_iter().map(tensor).collect(),
            outputs: layer.outputs.into_iter().map(tensor).collect(),
            tactic: layer.tactic_name,
            nodes: nodes(&layer.metadata),
        },
    }
}

fn tensor(told: Tensor) -> LayerTensor {
    let words = if told.datatype.is_empty() {
        &told.both
    } else {
        &told.datatype
    };
    LayerTensor {
        element: element(words),
        name: told.name,
        dims: told.dimensions,
        format: if told.format.is_empty() {
            told.both
        } else {
            told.format
        },
    }
}
