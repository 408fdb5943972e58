//! Imports a PyTorch checkpoint as a model folder: builds the two networks, and from there on does what an import of ONNX files
//! does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::manifest::CheckpointOrigin;
use super::{Folder, FolderManifest, MODEL, PFE, RPN, description, fitted_pfe, make, producer};
use crate::build::checkpoint::{Checkpoint, Report, Request};
use crate::build::import::{pfe_of, rpn_of};
use crate::build::{Result, compile, hash};
use crate::files;

/// Builds the networks of a checkpoint, checks them against the description in the files `model`, and writes them with it into
/// a model folder. Returns the folder and what became of the checkpoint's tensors.
///
/// # Errors
/// [`BuildError`](crate::build::BuildError) for a checkpoint that is damaged, incomplete or of another network, and as
/// [`super::import`].
pub(crate) fn import_checkpoint(
    request: &Request,
    model: &[PathBuf],
    out: &Path,
    force: bool,
) -> Result<(Folder, Report)> {
    let mut checkpoint = Checkpoint::open(request)?;
    let description = description(model, &checkpoint.pfn_widths()?)?;
    let networks = checkpoint.networks(&description.model)?;
    // Errors refer to the checkpoint and not to the files that come of it, so all checks come first.
    let path = &request.checkpoint;
    fitted_pfe(pfe_of(networks.pfe.clone())?, path, &description.model)?;
    compile::cpu(&rpn_of(networks.rpn.clone(), &description.model)?.graph)?;

    let name = |path: &Path| match path.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => path.display().to_string(),
    };
    let mut inputs =
        BTreeMap::from([(MODEL.to_owned(), hash::sha256(description.text.as_bytes()))]);
    let sources = [Some(path), request.calib.as_ref(), request.graph.as_ref()];
    for path in sources.into_iter().flatten() {
        inputs.insert(name(path), hash::sha256_file(path)?);
    }
    make(out, force)?;
    networks.pfe.write(&out.join(PFE))?;
    networks.rpn.write(&out.join(RPN))?;
    files::write(&out.join(MODEL), description.text.as_bytes())?;
    FolderManifest {
        producer: producer(),
        inputs,
        steps: networks.report.steps.clone(),
        checkpoint: Some(CheckpointOrigin {
            file: name(path),
            scales: networks.report.scales.clone(),
        }),
        ..FolderManifest::default()
    }
    .write(out)?;
    let mut folder = Folder::read(out)?;
    folder.assumed = description.assumed;
    Ok((folder, networks.report))
}
