//! Converts TensorRT's logged errors to a reason with advice.

use super::{Family, ParserError, Version};

/// Substrings of a library's errors, in lower case, and the advice for them.
type Advice = (&'static [&'static str], &'static str);

/// Signs of too little GPU memory.
const NO_MEMORY: &[&str] = &[
    "out of memory",
    "outofmemory",
    "cudamalloc",
    "cuda error 2 ",
];

/// Signs of an unusable driver.
const DRIVER: Advice = (
    &[
        "driver version is insufficient",
        "cuda error 35",
        "cuda initialization failure",
        "no cuda-capable",
    ],
    "the NVIDIA driver is missing, or too old for this TensorRT: check that `nvidia-smi` works, or update the \
    driver",
);

/// Advice for building. The first matching row counts.
const BUILD: &[Advice] = &[
    (
        NO_MEMORY,
        "the GPU has too little free memory: end other programs on it, or reduce scratch memory with --workspace",
    ),
    (
        &[
            "allowed tensorformats",
            "allowed formats",
            "setallowedformats",
        ],
        "a requested input or output format does not exist for its type: allow linear, or a format that fits (HWC8 \
        is for FP16, CHW4 and CHW32 are for INT8)",
    ),
    (
        &[
            "insufficient workspace",
            "insufficient memory",
            "could not find any implementation",
        ],
        "no kernel was found for a layer: raise --workspace; if that does not help, this GPU does not support the \
        layer in this precision, and a newer TensorRT may",
    ),
    (
        &["builder_resource", "builder resource"],
        "TensorRT's own files were not found: add the library's folder to LD_LIBRARY_PATH",
    ),
    (
        &[
            "compute capability",
            "computecapability",
            "sm version",
            "unsupported sm",
            "unsupported gpu",
        ],
        "this library has no kernels for that GPU: choose another compute capability or another version of TensorRT",
    ),
    DRIVER,
    (
        &["dla"],
        "let the GPU run layers that the DLA does not support (--gpu-fallback), or build without --dla",
    ),
];

/// Advice for loading, like [`BUILD`].
const LOAD: &[Advice] = &[
    (
        NO_MEMORY,
        "the GPU has too little free memory: end other programs on it",
    ),
    DRIVER,
    (
        &["host code", "hostcode", "lean runtime"],
        "it is a version-compatible engine, which contains host code: load it as one, or build it without that option",
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
        "it was built for another GPU: build it again on this one",
    ),
    (
        &["version", "magic", "serialization", "header", "deserializ"],
        "it was built by another version of TensorRT, or is damaged: build it again with this one",
    ),
];

/// The reason for a failed build, with advice.
pub(super) fn build(errors: &[String]) -> String {
    with_advice(
        errors,
        BUILD,
        "run again with RUST_LOG=tensorrt=trace to see what led to it",
    )
}

/// The reason why an engine could not be loaded, with advice. `plan` is the version in its header.
pub(super) fn load(errors: &[String], library: Version, plan: Option<Version>) -> String {
    match plan {
        Some(plan) if plan != library => {
            let text = error_text(errors);
            let advice = if plan.family == library.family {
                "use that version, or build the engine again with this one"
            } else {
                match plan.family {
                    Family::TensorRtRtx => "open libtensorrt_rtx.so.1, or build the engine again",
                    Family::TensorRt => "open libnvinfer, or build the engine again",
                }
            };
            format!("{text}; according to its header, {plan} built the engine: {advice}")
        }
        _ => with_advice(
            errors,
            LOAD,
            "build it again with this version, on this GPU",
        ),
    }
}

/// TensorRT's errors as one line.
pub(super) fn error_text(errors: &[String]) -> String {
    match errors {
        [] => "it gave no reason".into(),
        errors => errors.join(" / "),
    }
}

fn with_advice(errors: &[String], table: &[Advice], otherwise: &str) -> String {
    let text = error_text(errors);
    let lower = text.to_lowercase();
    let found = table
        .iter()
        .find(|(marks, _)| marks.iter().any(|mark| lower.contains(mark)));
    format!("{text}; {}", found.map_or(otherwise, |(_, advice)| advice))
}

/// Adds advice to a parser error. `code` is ErrorCode of NvOnnxParser.h.
pub(super) fn parser(code: i32, node: i32, mut error: ParserError) -> ParserError {
    let advice = match code {
        2 => "there is too little memory",
        3 => "it cannot read this ONNX file: export the network again",
        // Invalid node; unsupported graph, node, attribute, input, data type, dynamic node, shape.
        6..=13 => {
            "this TensorRT does not support that operator or this use of it. `cp-build compile` rewrites the networks \
            that it knows, so give it the model as exported; otherwise change the export, or use a newer TensorRT"
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
