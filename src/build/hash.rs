//! SHA-256 of files, networks and bytes, as lower-case hexadecimal, for manifests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{BuildError, Result, onnx};

/// SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of the file at `path`, which is read in chunks.
///
/// # Errors
/// [`BuildError::Io`] if it cannot be read.
pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    use std::io::Read;
    let io = BuildError::io(path);
    let mut file = std::fs::File::open(path).map_err(io)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0_u8; 1 << 16];
    loop {
        let n = file.read(&mut chunk).map_err(io)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(chunk.get(..n).unwrap_or_default());
    }
}

/// The files with external data of the network at `path`, for manifests that call it `name`: each as
/// `name:location`. Neither part contains a colon.
///
/// # Errors
/// As [`onnx::data_files`].
pub(crate) fn network_data(path: &Path, name: &str) -> Result<BTreeMap<String, PathBuf>> {
    let files = onnx::data_files(path)?.into_iter();
    Ok(files
        .map(|(location, file)| (format!("{name}:{location}"), file))
        .collect())
}

/// SHA-256 of the network at `path`, as `name`, and of its [`network_data`].
///
/// # Errors
/// As [`network_data`] and [`sha256_file`].
pub(crate) fn network(path: &Path, name: &str) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::from([(name.to_owned(), sha256_file(path)?)]);
    for (name, file) in network_data(path, name)? {
        hashes.insert(name, sha256_file(&file)?);
    }
    Ok(hashes)
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn known_answer() {
        assert_eq!(sha256(b"abc"), ABC);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(sha256_file(&path).unwrap(), ABC);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = sha256_file(Path::new("no/such/file")).unwrap_err();
        assert!(error.to_string().contains("no/such/file"), "{error}");
    }
}
