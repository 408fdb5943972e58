//! TensorRT without a GPU.
//!
//! With the feature `tensorrt` the tests use the real libraries and headers that `tests/tensorrt.sh` fetches.
//! TensorRT-RTX builds engines without a GPU; the lean runtimes only report their versions. A stand-in library of our
//! own runs engines (`run`).

#[cfg(feature = "tensorrt")]
mod compile;
#[cfg(feature = "tensorrt")]
mod headers;
#[cfg(feature = "tensorrt")]
mod library;
mod onnx;
mod pack;
#[cfg(feature = "tensorrt")]
mod programs;
#[cfg(feature = "tensorrt")]
mod run;

#[cfg(feature = "tensorrt")]
use std::path::PathBuf;

#[cfg(feature = "tensorrt")]
use crate::common::variable;

/// The folder of one of the libraries: `rtx`, `lean10` or `lean11`.
#[cfg(feature = "tensorrt")]
pub(crate) fn library_folder(name: &str) -> PathBuf {
    PathBuf::from(variable("CENTERPOINT_TEST_TENSORRT")).join(name)
}

/// The folders of headers, sorted by name, such as `TRT-RTX-1.7`.
#[cfg(feature = "tensorrt")]
pub(crate) fn header_folders() -> Vec<PathBuf> {
    let folder = variable("CENTERPOINT_TEST_TENSORRT_HEADERS");
    let entries = std::fs::read_dir(folder).expect("the folder of headers");
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| match path.join("include") {
            include if include.is_dir() => include,
            _ => path,
        })
        .filter(|path| path.join("NvInferVersion.h").is_file())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "no headers");
    folders
}

#[cfg(not(feature = "tensorrt"))]
#[test]
fn a_program_without_the_feature_says_how_to_get_it() {
    let opened = centerpoint::internals::engine::tensorrt::Library::open(None);
    let error = opened.err().expect("no library").to_string();
    assert!(error.contains("--features tensorrt"), "{error}");
}
