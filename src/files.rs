//! Writing files so that no half of one is ever there.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `bytes` beside `path` and renames the file into place.
///
/// # Errors
/// [`Error::Io`] with the file that could not be written.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension("tmp");
    fs::write(&part, bytes).map_err(Error::io(&part, "write"))?;
    fs::rename(&part, path).map_err(Error::io(path, "rename into place"))
}
