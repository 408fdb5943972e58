//! Errors of checkpoints.

use std::path::PathBuf;

/// Why a checkpoint cannot be imported. Each variant names the file, and what to do where that is not obvious.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file is no checkpoint, or is damaged.
    #[error("{path}: not a readable checkpoint of torch.save or safetensors: {what}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The problem.
        what: String,
    },
    /// The file holds no dictionary of tensors.
    #[error(
        "{path}: {place} is {found}, expected a dictionary: a state dict, or one with the key `state_dict` or \
         `model_state_dict`"
    )]
    NoStateDict {
        /// The file.
        path: PathBuf,
        /// The root or a key.
        place: String,
        /// What it is.
        found: String,
    },
    /// Loading the file in Python would run a command. Nothing runs here.
    #[error("{path}: {place} calls `{name}` when Python loads the file; do not trust this file")]
    Code {
        /// The file.
        path: PathBuf,
        /// Where the call is.
        place: String,
        /// The function.
        name: String,
    },
    /// A sparse 3D encoder, which is not supported.
    #[error(
        "{path}: `{key}` belongs to a sparse 3D encoder, which is not supported yet; expected a network on pillars"
    )]
    Sparse {
        /// The file.
        path: PathBuf,
        /// A key of the encoder.
        key: String,
    },
    /// Several networks in one file.
    #[error(
        "{path}: it holds several networks, under {prefixes}; expected one, save only that one's state dict"
    )]
    SeveralNetworks {
        /// The file.
        path: PathBuf,
        /// The prefixes of their keys.
        prefixes: String,
    },
    /// The network lacks a tensor.
    #[error("{path}: it has no `{key}`; expected {expected}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What the key should hold.
        expected: String,
    },
    /// A tensor does not fit.
    #[error("{path}: `{key}` {found}; expected {expected}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// Nothing says how the backbone and the neck change the resolution, or statements contradict each other.
    #[error(
        "{path}: {what}; name the network's flattened mmengine configuration (--network-config)"
    )]
    Strides {
        /// The file.
        path: PathBuf,
        /// The problem.
        what: String,
    },
    /// Layers without scales in a quantised network.
    #[error(
        "{path}: no scale for {layers}; a quantiser that was switched off leaves no trace, so name the layers that stay in \
         float (--skip), or take no scales (--scales none)"
    )]
    NoScales {
        /// The file.
        path: PathBuf,
        /// The layers and what each lacks.
        layers: String,
    },
    /// Tensors that are no part of the network.
    #[error(
        "{path}: {count} tensors are no part of the network: {keys}; leave them out with --allow-unmatched"
    )]
    Unmatched {
        /// The file.
        path: PathBuf,
        /// Their number.
        count: usize,
        /// The first ones.
        keys: String,
    },
    /// Two files disagree about a range.
    #[error(
        "{path}: the range of `{key}` is {found}, but {other} has {expected}; use files of the same run"
    )]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// The quantiser.
        key: String,
        /// Its range in the file.
        found: String,
        /// The other file.
        other: PathBuf,
        /// Its range there.
        expected: String,
    },
    /// The ONNX file cannot lend its graph.
    #[error("{path}: {what}")]
    Graph {
        /// The ONNX file.
        path: PathBuf,
        /// The problem, and what to do.
        what: String,
    },
}
