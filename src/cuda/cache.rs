//! Compiled kernels on disk, so that NVRTC is asked once per machine.
//!
//! A file is named by the hash of all that its code depends on. It is written under another name and then
//! renamed, so that no reader sees half of one, and begins with the hash of its code, so that a damaged one
//! is noticed and made anew. A folder that cannot be written costs time at the next start, nothing else.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::files;

/// Length of the hash in front of the code.
const HASH: usize = 32;

/// A folder of compiled kernels.
#[derive(Debug)]
pub(super) struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// `$XDG_CACHE_HOME/centerpoint`, or `~/.cache/centerpoint`.
    pub(super) fn of_user() -> Self {
        let absolute = |path: PathBuf| path.is_absolute().then_some(path);
        let folder = std::env::var_os("XDG_CACHE_HOME")
            .and_then(|path| absolute(path.into()))
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
            .map(|path| path.join("centerpoint"));
        Self { folder }
    }

    /// A given folder.
    #[cfg(test)]
    pub(super) fn at(folder: &Path) -> Self {
        Self {
            folder: Some(folder.into()),
        }
    }

    /// The code that depends on `key` alone: from disk, or else from `make`, which is then kept.
    ///
    /// # Errors
    /// What `make` gives.
    pub(super) fn get_or<E>(
        &self,
        key: &[&[u8]],
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let Some(folder) = &self.folder else {
            return make();
        };
        let path = folder.join(format!("{}.cubin", hex(&hash(key))));
        if let Some(code) = read(&path) {
            return Ok(code);
        }
        let code = make()?;
        if let Err(error) = write(folder, &path, &code) {
            log::debug!("{}: compiled kernels are not kept: {error}", path.display());
        }
        Ok(code)
    }
}

/// The code in a file, if it is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    if bytes.len() < HASH || bytes[..HASH] != hash(&[&bytes[HASH..]]) {
        log::debug!("{} is damaged: compiling anew", path.display());
        return None;
    }
    bytes.drain(..HASH);
    Some(bytes)
}

fn write(folder: &Path, path: &Path, code: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    files::write_with(path, |file| {
        file.write_all(&hash(&[code]))?;
        file.write_all(code)
    })
    .map_err(|error| error.source)
}

/// SHA-256 over the parts and their lengths.
fn hash(parts: &[&[u8]]) -> [u8; HASH] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for the code of `key`; tells whether it had to be made.
    fn ask(cache: &Cache, key: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut made = false;
        let code = cache.get_or(key, || {
            made = true;
            Ok::<_, ()>(b"code".to_vec())
        });
        (code.unwrap(), made)
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    #[test]
    fn code_is_made_once_per_key() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(&folder.path().join("new"));
        assert_eq!(ask(&cache, &[b"ab", b"c"]), (b"code".to_vec(), true));
        assert_eq!(ask(&cache, &[b"ab", b"c"]), (b"code".to_vec(), false));
        assert!(ask(&cache, &[b"a", b"bc"]).1, "parts are apart");
        assert_eq!(
            files(&folder.path().join("new")).len(),
            2,
            "no partial file"
        );
    }

    #[test]
    fn a_damaged_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        ask(&cache, &[b"key"]);
        let path = files(folder.path()).remove(0);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[HASH + 1] ^= 1;
        for damaged in [&[][..], &whole[..10], &whole[..whole.len() - 1], &flipped] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(ask(&cache, &[b"key"]), (b"code".to_vec(), true));
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_nothing_but_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = Cache::at(&file.join("below"));
        assert!(ask(&cache, &[b"key"]).1);
        assert!(ask(&cache, &[b"key"]).1);
        assert!(ask(&Cache { folder: None }, &[b"key"]).1);
    }
}
