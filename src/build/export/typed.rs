//! Writes a model folder for TensorRT's own tools, with a strongly typed network: FP16, and INT8 where it has
//! Q/DQ pairs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::quantized::write_graph;
use crate::build::Result;
use crate::build::compile::tensorrt::tensors;
use crate::build::folder::{self, Folder, FolderManifest, MODEL, PFE, RPN};
use crate::build::half::{self, Io};
use crate::build::hash;
use crate::build::trtexec::Commands;
use crate::files;
use crate::plan::TensorDesc;

/// A folder manifest's entry for a strongly typed network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypedNetwork {
    /// `fp16`, or `int8` with Q/DQ pairs.
    pub precision: String,
    /// The network's input and outputs.
    pub tensors: Vec<TensorDesc>,
    /// Commands that build an engine and a plan from it.
    pub commands: Commands,
}

/// Writes `source` into the folder `out`, which [`folder::make`] has created, with a strongly typed network
/// that has the given input and output types. The other files do not change.
///
/// # Errors
/// As [`half::strongly_typed`]; a file that cannot be read or written.
pub(crate) fn write_typed(source: &Folder, io: &Io, out: &Path) -> Result<TypedNetwork> {
    let mut network = half::strongly_typed(&source.rpn.graph, io)?;
    folder::bind(&mut network.graph, &source.pfe.pfn);
    let tensors = tensors(&network.graph, io, network.input_scale)?;
    let typed = TypedNetwork {
        precision: if source.is_quantized() {
            "int8"
        } else {
            "fp16"
        }
        .into(),
        commands: Commands::new(&tensors),
        tensors,
    };
    folder::copy_network(&source.path().join(PFE), &out.join(PFE))?;
    files::write(&out.join(MODEL), source.model_text.as_bytes())?;
    let mut files = hash::network(&out.join(PFE), PFE)?;
    files.extend(write_graph(&network.graph, out, RPN)?);
    FolderManifest {
        producer: folder::producer(),
        inputs: source.hashes()?,
        files,
        steps: source.steps(),
        quantization: source.quantization.clone(),
        typed: Some(typed.clone()),
        ..FolderManifest::default()
    }
    .write(out)?;
    Ok(typed)
}
