//! Folders of Autoware's public model repository, which are model folders as they are.
//!
//! ```text
//! DIR/ml_package.param.yaml  DIR/detection_class_remapper.param.yaml
//! DIR/pts_voxel_encoder.onnx  DIR/pts_backbone_neck_head.onnx
//! ```
//!
//! Until version 4.0 all models were in one folder, and the name of a model was part of its files' names.

use std::path::{Path, PathBuf};

use super::{MODEL, PFE, RPN};
use crate::build::{BuildError, Result};
use crate::model::autoware::Parameters;

/// The manifest's name, which older versions begin with the model's name.
const MANIFEST: &str = "ml_package.param.yaml";

/// The files of a model.
pub(super) struct Found {
    /// Pillar feature network.
    pub(super) pfe: PathBuf,
    /// Backbone, neck and head.
    pub(super) rpn: PathBuf,
    /// The parameter files, the manifest first.
    pub(super) parameters: Vec<PathBuf>,
}

/// The files in `folder`; `None` if it is no folder of Autoware's.
///
/// # Errors
/// [`BuildError::Io`]; [`BuildError::Folder`] if there are several models.
pub(super) fn find(folder: &Path) -> Result<Option<Found>> {
    if !folder.is_dir() || folder.join(MODEL).exists() {
        return Ok(None);
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(BuildError::io(folder))? {
        let name = entry.map_err(BuildError::io(folder))?.file_name();
        names.extend(name.into_string().ok());
    }
    names.sort();
    let manifests: Vec<&String> = names
        .iter()
        .filter(|name| name.ends_with(MANIFEST))
        .collect();
    let manifest = match manifests[..] {
        [] => return Ok(None),
        [one] => one.as_str(),
        _ if names.iter().any(|name| name == MANIFEST) => MANIFEST,
        _ => {
            let list: Vec<&str> = manifests.iter().map(|name| name.as_str()).collect();
            return Err(BuildError::Folder {
                path: folder.into(),
                what: format!(
                    "several models: {}; import one by naming its files with --pfe, --rpn and --model",
                    list.join(", ")
                ),
            });
        }
    };
    let model = manifest.strip_suffix(MANIFEST).unwrap_or_default();
    let manifest = folder.join(manifest);
    let mut parameters = Parameters::default();
    parameters.read(&manifest, |_| true)?;
    let mut network = |key: &str, name: &str| -> Result<PathBuf> {
        let named = parameters.text(&[key])?.map(|named| named.value);
        // A launch file fills in what `$(var …)` stands for.
        let named = named.filter(|named| !named.contains("$("));
        let stem = name.strip_suffix(".onnx").unwrap_or(name);
        // `centerpoint_ml_package.param.yaml` belongs to `…_centerpoint.onnx`.
        let of_model = format!("{stem}_{}.onnx", model.trim_end_matches('_'));
        let own = folder.join(of_model);
        Ok(match named {
            Some(named) => folder.join(named),
            None if own.exists() => own,
            None => folder.join(name),
        })
    };
    let pfe = network("encoder_onnx_path", PFE)?;
    let rpn = network("head_onnx_path", RPN)?;
    let others = names.iter().filter(|name| {
        name.ends_with("class_remapper.param.yaml") || name.ends_with("common.param.yaml")
    });
    let mut parameters = vec![manifest];
    parameters.extend(others.map(|name| folder.join(name)));
    Ok(Some(Found {
        pfe,
        rpn,
        parameters,
    }))
}
