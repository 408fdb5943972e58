//! `manifest.json` of a model folder: what its files were made from, and how they were quantised.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{MANIFEST, MODEL, PFE, RPN};
use crate::build::export::Typed;
use crate::build::{BuildError, hash};
use crate::error::Result;
use crate::files::{self, FileError};
use crate::plan::Quantization;

/// How a folder was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FolderManifest {
    /// Program and version that wrote the folder.
    pub producer: String,
    /// SHA-256 of the files that it was made from, by name.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 of the folder's networks, where this program wrote them: of a quantised model one is of no use
    /// without the other, for they were equalised together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// What was done to the networks on their way here, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// How the network was quantised, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// What the network is, where it is a strongly typed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typed: Option<Typed>,
}

impl FolderManifest {
    /// Reads a folder's manifest, and checks that networks which were written with it are those that it speaks of. `None`
    /// where there is none, or only another program's.
    ///
    /// # Errors
    /// [`BuildError::Folder`] for a manifest that cannot be read, and for a file that is another than it says.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST);
        let broken = |what: String| BuildError::Folder {
            path: path.clone(),
            what,
        };
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(FileError::new(&path, "read"))?,
        };
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| broken(format!("no JSON: {e}")))?;
        let producer = value.get("producer").and_then(|p| p.as_str());
        if !producer.is_some_and(|p| p.starts_with("centerpoint ")) {
            return Ok(None);
        }
        let manifest: Self = serde_json::from_value(value).map_err(|e| broken(e.to_string()))?;
        if manifest.quantization.is_none() && manifest.typed.is_none() {
            return Ok(Some(manifest));
        }
        for name in [PFE, RPN] {
            let Some(expected) = manifest.files.get(name) else {
                return Err(broken(format!("`files` lacks `{name}`")).into());
            };
            let found = folder.join(name);
            if hash::sha256_file(&found)? != *expected {
                return Err(BuildError::Folder {
                    path: found,
                    what: format!(
                        "not the file that {MANIFEST} beside it was written with; take all files of one \
                         folder, or make it again"
                    ),
                }
                .into());
            }
        }
        Ok(Some(manifest))
    }

    /// Writes the manifest into `folder`: last of its files, so that half a folder is none.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MANIFEST);
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| FileError::new(&path, "encode")(e.into()))?;
        Ok(files::write(&path, (text + "\n").as_bytes())?)
    }
}

/// Makes a folder for a model.
///
/// # Errors
/// [`BuildError::Exists`] where there is a model in it already, which only `force` allows to be replaced.
pub fn make(folder: &Path, force: bool) -> Result<()> {
    let mut names = [MODEL, PFE, RPN, MANIFEST].into_iter();
    if let Some(name) = names.find(|name| !force && folder.join(name).exists()) {
        return Err(BuildError::Exists {
            path: folder.join(name),
        }
        .into());
    }
    std::fs::create_dir_all(folder).map_err(FileError::new(folder, "create"))?;
    Ok(())
}
