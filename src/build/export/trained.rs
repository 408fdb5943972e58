//! Writes a trained model as a model folder: both networks with BatchNormalization, as the tools of training export them.

use std::path::Path;

use super::quantized::write_graph;
use crate::build::Result;
use crate::build::folder::{self, Folder, FolderManifest, MODEL, PFE, RPN};
use crate::build::recipe::float::FloatOutcome;
use crate::files;

/// Writes the trained networks of `source` into the folder `out`, which [`folder::make`] has created, with the description
/// and the record of the training.
///
/// # Errors
/// [`FileError`](crate::files::FileError).
pub(crate) fn write_trained(source: &Folder, outcome: &FloatOutcome, out: &Path) -> Result<()> {
    let mut files = std::collections::BTreeMap::new();
    for (name, graph) in [(PFE, &outcome.pfe), (RPN, &outcome.rpn)] {
        files.extend(write_graph(graph, out, name)?);
    }
    files::write(&out.join(MODEL), source.model_text.as_bytes())?;
    FolderManifest {
        producer: folder::producer(),
        inputs: source.hashes()?,
        files,
        training: Some(outcome.record.clone()),
        ..FolderManifest::default()
    }
    .write(out)
}
