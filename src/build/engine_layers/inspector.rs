//! Reads the engine inspector's JSON.
//!
//! ```text
//! { "Layers": [ { "Name": …, "LayerType": …, "Inputs": [ { "Name": …, "Dimensions": […],
//!                 "Format/Datatype": … } ], "Outputs": […], "TacticName": …, "Metadata": … } ],
//!   "Bindings": […] }
//! ```
//!
//! `Format/Datatype` describes both (`Row major linear FP16 format`). For layers made by TensorRT's compiler it holds the
//! type alone, and newer libraries have `Datatype` and `Format` instead. An engine built without details lists names only.

use serde::Deserialize;

use super::{EngineLayer, LayerTensor, element, nodes};

#[derive(Deserialize)]
struct Engine {
    #[serde(rename = "Layers")]
    layers: Vec<LayerInfo>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum LayerInfo {
    Name(String),
    Layer(Box<DetailedLayer>),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct DetailedLayer {
    name: String,
    layer_type: String,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    tactic_name: String,
    metadata: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct TensorInfo {
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
/// The text is not the inspector's JSON.
pub(crate) fn read(json: &str) -> serde_json::Result<Vec<EngineLayer>> {
    // Metadata separates names by an unescaped record separator, which JSON does not allow.
    let printable: String = json
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let engine: Engine = serde_json::from_str(&printable)?;
    Ok(engine.layers.into_iter().map(layer).collect())
}

fn layer(info: LayerInfo) -> EngineLayer {
    match info {
        LayerInfo::Name(name) => EngineLayer {
            name,
            ..EngineLayer::default()
        },
        LayerInfo::Layer(layer) => EngineLayer {
            name: layer.name,
            kind: layer.layer_type,
            inputs: layer.inputs.into_iter().map(tensor).collect(),
            outputs: layer.outputs.into_iter().map(tensor).collect(),
            tactic: layer.tactic_name,
            nodes: nodes(&layer.metadata),
        },
    }
}

fn tensor(tensor: TensorInfo) -> LayerTensor {
    let description = if tensor.datatype.is_empty() {
        &tensor.both
    } else {
        &tensor.datatype
    };
    LayerTensor {
        element: element(description),
        name: tensor.name,
        dims: tensor.dimensions,
        format: if tensor.format.is_empty() {
            tensor.both
        } else {
            tensor.format
        },
    }
}
