//! Writing files so that no half of one is ever there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `bytes` beside `path`, waits until they are on the disk, and renames the file into place.
///
/// # Errors
/// The operating system's.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.to_path_buf();
    part.as_mut_os_string().push(".part");
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// As [`replace`].
///
/// # Errors
/// [`Error::Io`] with the file.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes).map_err(Error::io(path, "write"))
}
