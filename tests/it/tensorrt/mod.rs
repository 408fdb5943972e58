//! TensorRT: what can be shown of it without a GPU. With the feature `tensorrt` this is with the real libraries
//! and headers that `tests/tensorrt.sh` fetches: TensorRT-RTX builds engines without a GPU, and the lean runtimes
//! are only asked for their versions. Engines are run by a stand-in of ours (`run`).

#[cfg(feature = "tensorrt")]
mod compile;
#[cfg(feature = "tensorrt")]
mod headers;
mod layers;
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

/// The folder of one of the libraries: `rtx`, `lean10` or `lean11`. Without it, a line that says so.
#[cfg(feature = "tensorrt")]
pub(crate) fn library_folder(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("CENTERPOINT_TEST_TENSORRT") else {
        println!("skipped: CENTERPOINT_TEST_TENSORRT is not set (tests/tensorrt.sh)");
        return None;
    };
    Some(PathBuf::from(folder).join(name))
}

/// The folders of headers, by name such as `TRT-RTX-1.7`. Without them, a line that says so.
#[cfg(feature = "tensorrt")]
pub(crate) fn header_folders() -> Option<Vec<PathBuf>> {
    let Some(folder) = std::env::var_os("CENTERPOINT_TEST_TENSORRT_HEADERS") else {
        println!("skipped: CENTERPOINT_TEST_TENSORRT_HEADERS is not set (tests/tensorrt.sh)");
        return None;
    };
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
    Some(folders)
}

#[cfg(not(feature = "tensorrt"))]
#[test]
fn a_program_without_the_feature_says_how_to_get_it() {
    let opened = centerpoint::engine::tensorrt::Library::open(None);
    let error = opened.err().expect("no library").to_string();
    assert!(error.contains("--features tensorrt"), "{error}");
}
