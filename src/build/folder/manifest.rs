//! `manifest.json` of a model folder: the sources of its files, and how they were quantised.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{MANIFEST, MODEL, PFE, RPN};
use crate::build::Result;
use crate::build::export::TypedNetwork;
use crate::build::recipe::float::FloatTraining;
use crate::build::{BuildError, hash};
use crate::files::{self, FileError};
use crate::plan::Quantization;

/// How a folder was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FolderManifest {
    /// The program and version that wrote the folder.
    pub producer: String,
    /// SHA-256 of the source files, by name.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 of the folder's networks, if this program wrote them. The two networks of a quantised model only
    /// work together, because they were equalised together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// The changes to the networks, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// How the network was quantised, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// The checkpoint that the networks were built from, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointOrigin>,
    /// How the networks were trained in float, if this program did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<FloatTraining>,
    /// Input, outputs and commands of a strongly typed network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typed: Option<TypedNetwork>,
}

/// What a folder's networks have from a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CheckpointOrigin {
    /// Name of the file.
    pub file: String,
    /// Where the ranges of a layer's input and of its weight come from, by layer: keys of the checkpoint.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scales: BTreeMap<String, [String; 2]>,
}

impl FolderManifest {
    /// Reads a folder's manifest and checks the hashes of the networks in it. Returns `None` if there is no
    /// manifest or another program wrote it.
    ///
    /// # Errors
    /// [`BuildError::Folder`] for a manifest that cannot be read and for a file that does not match it.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST);
        let broken = |what: String| BuildError::Folder {
            path: path.clone(),
            what,
        };
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(BuildError::io(&path))?,
        };
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| broken(format!("not valid JSON: {e}")))?;
        let producer = value.get("producer").and_then(|p| p.as_str());
        if !producer.is_some_and(|p| p.starts_with("centerpoint ")) {
            return Ok(None);
        }
        let manifest: Self = serde_json::from_value(value).map_err(|e| broken(e.to_string()))?;
        if manifest.quantization.is_none() && manifest.typed.is_none() {
            return Ok(Some(manifest));
        }
        for name in [PFE, RPN] {
            let network = folder.join(name);
            manifest.check(name, &network, &path)?;
            for (name, file) in hash::network_data(&network, name)? {
                manifest.check(&name, &file, &path)?;
            }
        }
        Ok(Some(manifest))
    }

    /// Checks that `file` is the one that the manifest at `path` names.
    fn check(&self, name: &str, file: &Path, path: &Path) -> Result<()> {
        let error = |path: &Path, what: String| BuildError::Folder {
            path: path.to_path_buf(),
            what,
        };
        let Some(expected) = self.files.get(name) else {
            return Err(error(path, format!("`files` has no entry for `{name}`")));
        };
        if hash::sha256_file(file)? == *expected {
            return Ok(());
        }
        let what = format!(
            "does not match {MANIFEST} in this folder; copy all files from one folder, or create the folder again"
        );
        Err(error(file, what))
    }

    /// Writes the manifest into `folder`. It must be the last file, so that an incomplete folder has none.
    ///
    /// # Errors
    /// [`FileError`].
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MANIFEST);
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| FileError::new(&path, "encode")(e.into()))?;
        Ok(files::write(&path, (text + "\n").as_bytes())?)
    }
}

/// Creates a folder for a model.
///
/// # Errors
/// [`BuildError::Exists`] if the folder already contains a model and `force` is not set.
pub(crate) fn make(folder: &Path, force: bool) -> Result<()> {
    let mut names = [MODEL, PFE, RPN, MANIFEST].into_iter();
    if let Some(name) = names.find(|name| !force && folder.join(name).exists()) {
        return Err(BuildError::Exists {
            path: folder.join(name),
        });
    }
    std::fs::create_dir_all(folder).map_err(FileError::new(folder, "create"))?;
    Ok(())
}
