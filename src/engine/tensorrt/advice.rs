//! From what TensorRT logged to a reason that says what to do.

use super::{Family, ParserError, Version};

/// What may be in a library's errors, and what to do then.
type Row = (&'static [&'static str], &'static str);

/// What a GPU without memory is called.
const NO_MEMORY: &[&str] = &[
    "out of memory",
    "outofmemory",
    "cudamalloc",
    "cuda error 2 ",
];

/// A driver that cannot be used.
const DRIVER: Row = (
    &[
        "driver version is insufficient",
        "cuda error 35",
        "cuda initialization failure",
        "no cuda-capable",
    ],
    "the NVIDIA driver is missing, or too old for this TensorRT: see whether `nvidia-smi` works, or update \
     the driver",
);

/// For building. The first row that fits counts.
const BUILD: &[Row] = &[
    (
        NO_MEMORY,
        "the GPU has too little free memory: end other programs on it, or allow less scratch memory with \
         --workspace",
    ),
    (
        &[
            "allowed tensorformats",
            "allowed formats",
            "setallowedformats",
        ],
        "a format that was asked for an input or output does not exist for its type: allow linear, or one \
         that fits (HWC8 is for FP16, CHW4 and CHW32 are for INT8)",
    ),
    (
        &[
            "insufficient workspace",
            "insufficient memory",
            "could not find any implementation",
        ],
        "a layer found no kernel: raise --workspace; if that does not help, the layer is not supported in \
         this precision on this GPU, and a newer TensorRT may have it",
    ),
    (
        &["builder_resource", "builder resource"],
        "TensorRT's own files were not found: put the folder of the library into LD_LIBRARY_PATH",
    ),
    (
        &[
            "compute capability",
            "computecapability",
            "sm version",
            "unsupported sm",
            "unsupported gpu",
        ],
        "this library has no kernels for that GPU: choose another compute capability, or another version of \
         TensorRT",
    ),
    DRIVER,
    (
        &["dla"],
        "let layers that the DLA does not have run on the GPU (--gpu-fallback), or build without --dla",
    ),
];

/// As [`BUILD`], for loading.
const LOAD: &[Row] = &[
    (
        NO_MEMORY,
        "the GPU has too little free memory: end other programs on it",
    ),
    DRIVER,
    (
        &["host code", "hostcode", "lean runtime"],
        "it is a version-compatible engine, which carries code of its own: load it as one, or build it without \
         that option",
    ),
    (
        &[
            "compute capability",
            "different gpu",
            "device model",
            "platform",
            "target gpu",
            "sm version",
        ],
        "it was built for another GPU: build it anew on this one",
    ),
    (
        &["version", "magic", "serialization", "header", "deserializ"],
        "it was built by another version of TensorRT, or is damaged: build it anew with this one",
    ),
];

/// Why a build failed, and what to do.
pub(super) fn build(errors: &[String]) -> String {
    with_advice(
        errors,
        BUILD,
        "run again with RUST_LOG=tensorrt=trace to see what it did before",
    )
}

/// Why an engine could not be loaded, and what to do. `plan` is the version in its header.
pub(super) fn load(errors: &[String], library: Version, plan: Option<Version>) -> String {
    match plan {
        Some(plan) if plan != library => {
            let said = said(errors);
            let advice = match plan.family == library.family {
                true => "use that version, or build the engine anew with this one",
                false => match plan.family {
                    Family::TensorRtRtx => "open libtensorrt_rtx.so.1, or build the engine anew",
                    Family::TensorRt => "open libnvinfer, or build the engine anew",
                },
            };
            format!("{said}; the engine's header says that it was built by {plan}: {advice}")
        }
        _ => with_advice(errors, LOAD, "build it anew with this version, on this GPU"),
    }
}

/// What TensorRT said, as one line.
pub(super) fn said(errors: &[String]) -> String {
    match errors {
        [] => "it did not say why".into(),
        errors => errors.join(" / "),
    }
}

fn with_advice(errors: &[String], table: &[Row], otherwise: &str) -> String {
    let said = said(errors);
    let lower = said.to_lowercase();
    let found = table
        .iter()
        .find(|(marks, _)| marks.iter().any(|mark| lower.contains(mark)));
    format!("{said}; {}", found.map_or(otherwise, |(_, advice)| advice))
}

/// What the parser said of a node, and what to do. `code` is ErrorCode of NvOnnxParser.h.
pub(super) fn parser(code: i32, node: i32, mut error: ParserError) -> ParserError {
    let advice = match code {
        2 => "there is too little memory",
        3 => "this is no ONNX file that it can read: export the network again",
        // Invalid node; unsupported graph, node, attribute, input, data type, dynamic node, shape.
        6..=13 => {
            "this TensorRT does not have that operator or this use of it: `cp-build compile` rewrites the \
             networks that it knows, so give it the model as it was exported; else change the export, or use a \
             newer TensorRT"
        }
        _ => "",
    };
    if !advice.is_empty() {
        error.what = format!("{}; {advice}", error.what);
    }
    if error.node.is_empty() && node >= 0 {
        error.node = format!("number {node}");
    }
    error
}
