//! Writes a quantised model as a model folder, which all tools accept like that of a float model.

use std::collections::BTreeMap;
use std::path::Path;

use super::pfe;
use crate::build::Result;
use crate::build::folder::{self, Folder, FolderManifest, MODEL, PFE, RPN};
use crate::build::hash;
use crate::build::onnx::Graph;
use crate::build::recipe::Outcome;
use crate::files;

/// Writes the quantised `source` into the folder `out`, which [`folder::make`] has created: the FP32 network
/// with its Q/DQ pairs, the equalised PFN, the description, and the record of the quantisation.
///
/// # Errors
/// [`FileError`](crate::files::FileError).
pub(crate) fn write_quantized(source: &Folder, outcome: &Outcome, out: &Path) -> Result<()> {
    let points = source.model.grid.max_points_per_pillar;
    let pfe = pfe(&outcome.pfn, points, &out.join(PFE))?;
    let mut network = outcome.quantized.graph.clone();
    folder::bind(&mut network, &outcome.pfn);
    let mut files = BTreeMap::new();
    for (name, graph) in [(PFE, &pfe), (RPN, &network)] {
        files.extend(write_graph(graph, out, name)?);
    }
    files::write(&out.join(MODEL), source.model_text.as_bytes())?;
    let mut steps = source.steps();
    steps.extend(outcome.steps.iter().cloned());
    FolderManifest {
        producer: folder::producer(),
        inputs: source.hashes()?,
        files,
        steps,
        quantization: Some(outcome.record.clone()),
        ..FolderManifest::default()
    }
    .write(out)
}

/// Writes the network `name` into `folder` and returns the SHA-256 of its files.
pub(super) fn write_graph(
    graph: &Graph,
    folder: &Path,
    name: &str,
) -> Result<BTreeMap<String, String>> {
    let path = folder.join(name);
    graph.write(&path)?;
    hash::network(&path, name)
}
