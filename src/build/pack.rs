//! Packs a bare TensorRT engine, which trtexec or another program built, into a plan.
//!
//! The plan holds the unchanged engine and what an engine lacks: description, PFN, and the scale of an INT8
//! input. Packing only reads the engine's header and needs no GPU. The loader checks the engine's inputs and
//! outputs against the description.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::folder::{self, FolderManifest, MANIFEST, MODEL, PFE};
use super::{BuildError, hash};
use crate::build::Result;
use crate::engine::tensorrt::Version;
use crate::map::Element;
use crate::plan::{self, Accuracy, Contents, Manifest, Target, TensorDesc, TensorRtTarget};

/// The parts of the plan.
pub(crate) struct Sources<'a> {
    /// The engine's file.
    pub engine: &'a Path,
    /// A model folder, maybe one that `cp-build compile --target onnx` wrote, or a description.
    pub model: &'a Path,
    /// The PFN's network, if `model` is a description.
    pub pfe: Option<&'a Path>,
    /// Value of code 1 of an INT8 input, if no folder records it.
    pub input_scale: Option<f32>,
    /// The library that built the engine, if its header does not tell.
    pub built_with: Option<Version>,
    /// Measured accuracy.
    pub accuracy: Option<Accuracy>,
}

/// Writes the plan and returns the target that its engine runs on.
///
/// # Errors
/// - [`BuildError::NotAnEngine`] for a file that is not an engine, with what it is instead.
/// - [`BuildError::Folder`] for a folder whose files do not belong together, or that already records the scale.
/// - As [`super::folder::Folder::read`] for description and PFN.
/// - [`plan::PlanError`] if writing the plan fails.
pub(crate) fn pack(sources: Sources<'_>, out: &Path) -> Result<Target> {
    let Sources {
        engine,
        model,
        pfe,
        input_scale,
        built_with,
        accuracy,
    } = sources;
    let bytes = plan::read_whole(engine).map_err(BuildError::io(engine))?;
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
            let what = "a model folder contains the PFN; leave out --pfe";
            return Err(refused(model.into(), what));
        }
        (false, None) => {
            let what =
                "not a folder; give a model folder, or add --pfe with the PFN of the description";
            return Err(refused(model.into(), what));
        }
    };
    let (model_text, pfn) = folder::read_stages(&description, &pfe)?;
    let (typed, quantization, steps) = match manifest {
        Some(manifest) => (manifest.typed, manifest.quantization, manifest.steps),
        None => (None, None, Vec::new()),
    };
    if typed.is_some() && input_scale.is_some() {
        let what = "it already records the scale of the engine's input; leave out --input-scale";
        return Err(refused(model.join(MANIFEST), what));
    }
    let precision = match (&typed, &quantization) {
        (Some(typed), _) => typed.precision.clone(),
        (None, Some(_)) => "int8".into(),
        (None, None) => "unknown".into(),
    };
    let codes = input_scale.map(|scale| TensorDesc {
        // The loader reads name and size from the engine.
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
    inputs.insert(MODEL.to_owned(), hash::sha256_file(&description)?);
    inputs.extend(hash::network(&pfe, PFE)?);
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

/// The engine's name in the manifest, whatever its file is called.
const ENGINE: &str = "engine";

/// The library that built an engine: `built_with`, if the bytes begin like an engine, or else the version in
/// its header.
fn library(path: &Path, bytes: &[u8], built_with: Option<Version>) -> Result<Version> {
    let built_with = built_with.filter(|_| matches!(bytes, [_, b't', b'r', b't', ..]));
    let version = Version::from_plan_header(bytes);
    built_with
        .or(version)
        .ok_or_else(|| BuildError::NotAnEngine {
            path: path.into(),
            what: describe(bytes).into(),
        })
}

/// Says what a file is that is not an engine, and what to do.
fn describe(bytes: &[u8]) -> &'static str {
    let start = bytes.get(..bytes.len().min(512)).unwrap_or_default();
    // The cut may split a character.
    let text = match std::str::from_utf8(start) {
        Ok(_) => true,
        Err(error) => error.valid_up_to() + 4 > start.len(),
    };
    match start {
        [] => "the file is empty; build the engine again",
        [b'C', b'P', b'P', b'L', b'A', b'N', ..] => {
            "this is already a plan of centerpoint and needs no packing"
        }
        // The first field of an ONNX file is the format version.
        [0x08, 1..=32, ..] => {
            "this looks like an ONNX network; build an engine from it with trtexec or `cp-build compile \
             --target tensorrt`"
        }
        [b'P', b'K', 3, 4, ..] | [0x1f, 0x8b, ..] => "this is an archive; unpack it",
        [_, b't', b'r', b't', ..] => {
            "this begins like a TensorRT engine, but its header has no known version; name the version that \
             built it with --built-with"
        }
        _ if text && !start.contains(&0) => "this is a text file",
        _ => "it does not begin like a TensorRT engine",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_recognised_by_their_first_bytes() {
        let long = "ä".repeat(400);
        for (bytes, needle) in [
            (&b""[..], "empty"),
            (b"CPPLAN\r\n\x01", "a plan of centerpoint"),
            (b"\x08\x08\x12\x07pytorch", "an ONNX network"),
            (b"PK\x03\x04", "an archive"),
            (b"[points]\ncolumns = 3\n", "a text"),
            (&long.as_bytes()[..511], "a text"),
            (b"ftrt\0\0\0\0", "no known version"),
            (b"\x7fELF\x02\0", "does not begin"),
            (b"\xff\xfe\xfd\xfc", "does not begin"),
        ] {
            assert!(
                describe(bytes).contains(needle),
                "{needle}: {}",
                describe(bytes)
            );
            let error = library(Path::new("x.plan"), bytes, None);
            let error = error.unwrap_err().to_string();
            assert!(
                error.starts_with("x.plan: not a TensorRT engine: "),
                "{error}"
            );
            let built_with = Version::parse("10.3");
            let found = library(Path::new("x.plan"), bytes, built_with);
            let expected = built_with.filter(|_| bytes.starts_with(b"ftrt"));
            assert_eq!(found.ok(), expected);
        }
    }
}
