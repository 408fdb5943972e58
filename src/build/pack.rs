//! A plan of a bare TensorRT engine, which trtexec or any other program built.
//!
//! The engine goes into the plan as it is, with all that an engine does not hold: description, PFN, and the scale
//! of an INT8 input. No library looks at it here, so no GPU is needed; its inputs and outputs are checked against
//! the description when the plan is loaded.

use crate::files::FileError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::folder::{self, FolderManifest, MANIFEST, MODEL, PFE};
use super::{BuildError, hash};
use crate::cuda::Element;
use crate::engine::tensorrt::Version;
use crate::error::Result;
use crate::plan::{self, Accuracy, Contents, Manifest, Target, TensorDesc, TensorRtTarget};

/// Where all comes from.
pub struct Sources<'a> {
    /// The engine.
    pub engine: &'a Path,
    /// A model folder, as it is or as `cp-build compile --target onnx` wrote it; or a description.
    pub model: &'a Path,
    /// The PFN's network, beside a description that is in no folder.
    pub pfe: Option<&'a Path>,
    /// Value of code 1 of an INT8 input, where no folder tells it.
    pub input_scale: Option<f32>,
    /// The library that built it, where its header does not tell.
    pub built_with: Option<Version>,
    /// Measured accuracy.
    pub accuracy: Option<Accuracy>,
}

/// Writes the plan, and gives what its engine runs on.
///
/// # Errors
/// [`BuildError::NotAnEngine`] for another kind of file, with what it is; [`BuildError::Folder`] for a folder whose
/// files do not belong together, or that tells the scale already; as [`super::folder::Folder::read`] for
/// description and PFN; [`plan::PlanError`].
pub fn pack(sources: Sources<'_>, out: &Path) -> Result<Target> {
    let Sources {
        engine,
        model,
        pfe,
        input_scale,
        built_with,
        accuracy,
    } = sources;
    // Mapped: the engine is in memory once, as the system's own pages.
    let bytes = plan::map(engine).map_err(FileError::new(engine, "read"))?;
    let library = library(engine, &bytes, built_with)?;
    let refused = |path: PathBuf, what: &str| BuildError::Folder {
        path,
        what: what.into(),
    };
    let (description, pfe, manifest) = match (model.is_dir(), pfe) {
        (true, None) => {
            let manifest = FolderManifest::read(model)?;
            (model.join(MODEL), model.join(PFE), manifest)
        }
        (false, Some(pfe)) => (model.to_path_buf(), pfe.to_path_buf(), None),
        (true, Some(_)) => {
            let what = "a model folder has a PFN of its own; leave out --pfe";
            return Err(refused(model.into(), what).into());
        }
        (false, None) => {
            let what = "no folder; give a model folder, or the description's PFN with --pfe";
            return Err(refused(model.into(), what).into());
        }
    };
    let (model_text, pfn) = folder::read_stages(&description, &pfe)?;
    let (typed, quantization, steps) = match manifest {
        Some(manifest) => (manifest.typed, manifest.quantization, manifest.steps),
        None => (None, None, Vec::new()),
    };
    if typed.is_some() && input_scale.is_some() {
        let what = "it tells the type and the scale of the engine's input; leave out --input-scale";
        return Err(refused(model.join(MANIFEST), what).into());
    }
    let precision = match (&typed, &quantization) {
        (Some(typed), _) => typed.precision.clone(),
        (None, Some(_)) => "int8".into(),
        (None, None) => "unknown".into(),
    };
    let codes = input_scale.map(|scale| TensorDesc {
        // What the engine calls it, and its size, is read from the engine.
        name: String::new(),
        input: true,
        element: Element::I8,
        scale: Some(scale),
        dims: Vec::new(),
    });
    let target = Target {
        engine: "tensorrt".into(),
        precision,
        version: format!("{}.{}.{}", library.major, library.minor, library.patch),
        tensorrt: Some(TensorRtTarget {
            library,
            built_on: None,
            compute_capabilities: Vec::new(),
            options: None,
            tensors: typed.map_or_else(|| codes.into_iter().collect(), |typed| typed.tensors),
            layers: None,
        }),
    };
    let mut inputs = BTreeMap::from([(ENGINE.to_owned(), hash::sha256(&bytes))]);
    for (name, path) in [(MODEL, &description), (PFE, &pfe)] {
        inputs.insert(name.to_owned(), hash::sha256_file(path)?);
    }
    let contents = Contents {
        manifest: Manifest {
            producer: folder::producer(),
            target: target.clone(),
            inputs,
            steps,
            quantization,
            accuracy,
            ..Manifest::default()
        },
        model_text: &model_text,
        pfn: &pfn,
        engine: vec![("engine", &bytes)],
    };
    plan::write(out, contents)?;
    Ok(target)
}

/// The engine's name in the manifest; that of its file may be anything.
const ENGINE: &str = "engine";

/// The library that built an engine, by its header, or `given` for one that begins as engines do.
fn library(path: &Path, bytes: &[u8], given: Option<Version>) -> Result<Version> {
    let given = given.filter(|_| matches!(bytes, [_, b't', b'r', b't', ..]));
    let version = Version::from_plan_header(bytes);
    given.or(version).ok_or_else(|| {
        BuildError::NotAnEngine {
            path: path.into(),
            what: kind(bytes).into(),
        }
        .into()
    })
}

/// What a file is that is no engine, with what to do.
fn kind(bytes: &[u8]) -> &'static str {
    let start = bytes.get(..bytes.len().min(512)).unwrap_or_default();
    // A name may be cut in the middle of a letter.
    let text = match std::str::from_utf8(start) {
        Ok(_) => true,
        Err(error) => error.valid_up_to() + 4 > start.len(),
    };
    match start {
        [] => "the file is empty; build the engine again",
        [b'C', b'P', b'P', b'L', b'A', b'N', ..] => {
            "this is a plan of centerpoint already, it needs no packing"
        }
        // The first field of an ONNX file is the version of the format.
        [0x08, 1..=32, ..] => {
            "this looks like an ONNX network; build an engine of it with trtexec, or use `cp-build compile \
             --target tensorrt`"
        }
        [b'P', b'K', 3, 4, ..] | [0x1f, 0x8b, ..] => "this is an archive; unpack it",
        [_, b't', b'r', b't', ..] => {
            "this begins as engines of TensorRT do, but no version that is known stands where they have it; \
             name the one that built it with --built-with"
        }
        _ if text && !start.contains(&0) => "this is a text",
        _ => "it does not begin as engines of TensorRT do",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_told_by_their_start() {
        let long = "ä".repeat(400);
        for (bytes, needle) in [
            (&b""[..], "empty"),
            (b"CPPLAN\r\n\x01", "a plan of centerpoint"),
            (b"\x08\x08\x12\x07pytorch", "an ONNX network"),
            (b"PK\x03\x04", "an archive"),
            (b"[points]\ncolumns = 3\n", "a text"),
            (&long.as_bytes()[..511], "a text"),
            (b"ftrt\0\0\0\0", "no version that is known"),
            (b"\x7fELF\x02\0", "does not begin"),
            (b"\xff\xfe\xfd\xfc", "does not begin"),
        ] {
            assert!(kind(bytes).contains(needle), "{needle}: {}", kind(bytes));
            let error = library(Path::new("x.plan"), bytes, None);
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with("x.plan: no TensorRT engine: "), "{error}");
            let given = Version::parse("10.3");
            let named = library(Path::new("x.plan"), bytes, given);
            assert_eq!(named.ok(), given.filter(|_| bytes.starts_with(b"ftrt")));
        }
    }
}
