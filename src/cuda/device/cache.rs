//! Compiled kernels on disk, so that NVRTC runs once per machine.
//!
//! A file's name is the hash of everything its code depends on. The file is written under a temporary name and
//! renamed, so that no reader sees half of one, and starts with the hash of its code, so that a damaged one is
//! detected and compiled again. If the folder is not writable, the next start compiles again.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::files;

/// Length of the hash before the code.
const HASH: usize = 32;

/// A folder of compiled kernels.
#[derive(Debug)]
pub(super) struct KernelCache {
    folder: Option<PathBuf>,
}

impl KernelCache {
    /// `$XDG_CACHE_HOME/centerpoint`, or `~/.cache/centerpoint`.
    pub(super) fn in_user_folder() -> Self {
        let absolute = |path: PathBuf| path.is_absolute().then_some(path);
        let folder = std::env::var_os("XDG_CACHE_HOME")
            .and_then(|path| absolute(path.into()))
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
            .map(|path| path.join("centerpoint"));
        Self { folder }
    }

    #[cfg(test)]
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self {
            folder: Some(folder.into()),
        }
    }

    /// The code that depends on `key` alone: from disk, or else from `make`, whose result is stored.
    ///
    /// # Errors
    /// Those of `make`.
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
            log::debug!("{}: cannot store compiled kernels: {error}", path.display());
        }
        Ok(code)
    }
}

/// The code in a file, if the file is intact.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    if bytes.len() < HASH || bytes[..HASH] != hash(&[&bytes[HASH..]]) {
        log::debug!("{} is damaged: compiling again", path.display());
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

/// SHA-256 of the parts and their lengths.
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

    /// The code of `key`, and whether it was made.
    fn get(cache: &KernelCache, key: &[&[u8]]) -> (Vec<u8>, bool) {
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
        let cache = KernelCache::in_folder(&folder.path().join("new"));
        assert_eq!(get(&cache, &[b"ab", b"c"]), (b"code".to_vec(), true));
        assert_eq!(get(&cache, &[b"ab", b"c"]), (b"code".to_vec(), false));
        assert!(get(&cache, &[b"a", b"bc"]).1, "the parts are told apart");
        assert_eq!(
            files(&folder.path().join("new")).len(),
            2,
            "no partial file"
        );
    }

    #[test]
    fn a_damaged_file_is_compiled_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::in_folder(folder.path());
        get(&cache, &[b"key"]);
        let path = files(folder.path()).remove(0);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[HASH + 1] ^= 1;
        for damaged in [&[][..], &whole[..10], &whole[..whole.len() - 1], &flipped] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(get(&cache, &[b"key"]), (b"code".to_vec(), true));
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn an_unwritable_folder_only_costs_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = KernelCache::in_folder(&file.join("below"));
        assert!(get(&cache, &[b"key"]).1);
        assert!(get(&cache, &[b"key"]).1);
        assert!(get(&KernelCache { folder: None }, &[b"key"]).1);
    }
}
