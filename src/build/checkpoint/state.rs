//! The state dict of one network: its keys without their prefix, and which of them were read.
//!
//! | family | encoder | backbone | neck | head | task heads |
//! |---|---|---|---|---|---|
//! | mmdetection3d, AWML | `pts_voxel_encoder` | `pts_backbone` | `pts_neck` | `pts_bbox_head` | `task_heads.N.heatmap` |
//! | the same, single-stage | `voxel_encoder` | `backbone` | `neck` | `bbox_head` | `task_heads.N.heatmap` |
//! | det3d (CenterPoint) | `reader` | `neck` | `neck` | `bbox_head` | `tasks.N.hm` |
//!
//! Wrappers put `module.` or `model.` before these names. The PFN, which all have, tells the family and the prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::CheckpointError;
use super::file::File;
use crate::build::Result;
use crate::build::onnx::tensor::Tensor;

/// What a program calls the parts of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Family {
    pub(super) encoder: &'static str,
    pub(super) backbone: &'static str,
    pub(super) neck: &'static str,
    pub(super) head: &'static str,
    /// The list of the tasks in the head.
    pub(super) tasks: &'static str,
    /// The heatmap of a task.
    pub(super) heatmap: &'static str,
    /// Whether the layers are in plain sequences, as det3d has them, with a padding before each block.
    pub(super) plain: bool,
    /// ε of the head's BatchNormalizations where nothing states it.
    pub(super) head_eps: f64,
}

const MMDET3D: Family = Family {
    encoder: "pts_voxel_encoder",
    backbone: "pts_backbone",
    neck: "pts_neck",
    head: "pts_bbox_head",
    tasks: "task_heads",
    heatmap: "heatmap",
    plain: false,
    head_eps: 1e-3,
};

const FAMILIES: [Family; 3] = [
    MMDET3D,
    Family {
        encoder: "voxel_encoder",
        backbone: "backbone",
        neck: "neck",
        head: "bbox_head",
        ..MMDET3D
    },
    Family {
        encoder: "reader",
        backbone: "neck",
        neck: "neck",
        head: "bbox_head",
        tasks: "tasks",
        heatmap: "hm",
        plain: true,
        // Its head does not pass on the ε of the neck.
        head_eps: 1e-5,
    },
];

/// Parts of keys that only sparse encoders have.
const SPARSE: [&str; 2] = ["conv_input", "encoder_layers"];
/// Largest number of keys that an error names.
const MAX_NAMED: usize = 6;

/// The tensors of one network.
pub(super) struct State {
    file: File,
    pub(super) family: Family,
    prefix: String,
    /// Keys without the prefix that were read or left aside, and those that were only counted as known.
    known: BTreeSet<String>,
    /// Number of tensors that were read.
    pub(super) read: usize,
}

impl State {
    /// Finds the network in a file.
    ///
    /// # Errors
    /// [`CheckpointError`] for a sparse encoder, several networks, or none on pillars.
    pub(super) fn new(file: File) -> Result<Self> {
        let path = || file.path.clone();
        let is_sparse = |key: &&str| key.split('.').any(|part| SPARSE.contains(&part));
        if let Some(key) = file.keys().find(is_sparse) {
            return Err(CheckpointError::Sparse {
                path: path(),
                key: key.into(),
            }
            .into());
        }
        let mut found: BTreeMap<String, Family> = BTreeMap::new();
        for key in file.keys() {
            for family in FAMILIES {
                if let Some(place) = key.find(&format!("{}.pfn_layers.0.", family.encoder))
                    && let Some(prefix) = key.get(..place)
                    && (prefix.is_empty() || prefix.ends_with('.'))
                {
                    found.insert(prefix.to_owned(), family);
                }
            }
        }
        let mut networks = found.into_iter();
        match (networks.next(), networks.next()) {
            (Some((prefix, family)), None) => Ok(Self {
                file,
                family,
                prefix,
                known: BTreeSet::new(),
                read: 0,
            }),
            (Some((first, _)), Some((second, _))) => {
                let prefixes = [first, second].map(|prefix| format!("`{prefix}`"));
                Err(CheckpointError::SeveralNetworks {
                    path: path(),
                    prefixes: prefixes.join(" and "),
                }
                .into())
            }
            (None, _) => {
                let first: Vec<String> =
                    file.keys().take(3).map(|key| format!("`{key}`")).collect();
                let found = match &first[..] {
                    [] => "it holds no tensors".to_owned(),
                    keys => format!("its first keys are {}", keys.join(", ")),
                };
                Err(CheckpointError::Missing {
                    path: path(),
                    key: format!("{}.pfn_layers.0.linear.weight", MMDET3D.encoder),
                    expected: format!(
                        "a CenterPoint-pillar network by the names of mmdetection3d, AWML or det3d; {found}"
                    ),
                }
                .into())
            }
        }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    /// The configuration in the file.
    pub(super) fn config(&self) -> Option<&str> {
        self.file.config.as_deref()
    }

    /// Keys of the file's root beside the state dict.
    pub(super) fn beside(&self) -> &[String] {
        &self.file.beside
    }

    /// A key as it is in the file.
    pub(super) fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A name of another file of the same network, without the prefix.
    pub(super) fn without_prefix<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(&self.prefix).unwrap_or(name)
    }

    /// Whether there is a tensor of this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.file.has(&self.full(key))
    }

    /// The keys, with their prefixes.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.file.keys()
    }

    /// The axes of a tensor.
    pub(super) fn dims(&self, key: &str) -> Option<&[usize]> {
        self.file.dims(&self.full(key))
    }

    /// Whether any key starts so.
    pub(super) fn has_any(&self, start: &str) -> bool {
        let start = self.full(start);
        self.file.keys().any(|key| key.starts_with(&start))
    }

    /// The largest number that follows `start` in a key.
    pub(super) fn last(&self, start: &str) -> Option<usize> {
        let start = self.full(start);
        let rest = self.file.keys().filter_map(|key| key.strip_prefix(&start));
        let number = |rest: &str| rest.split('.').next()?.parse().ok();
        rest.filter_map(number).max()
    }

    /// Reads a tensor.
    ///
    /// # Errors
    /// As [`File::floats`].
    pub(super) fn take(&mut self, key: &str) -> Result<Option<Tensor<f32>>> {
        let tensor = self.file.floats(&self.full(key))?;
        if tensor.is_some() && self.known.insert(key.to_owned()) {
            self.read += 1;
        }
        Ok(tensor)
    }

    /// Reads a tensor that the network cannot do without.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`], and as [`State::take`].
    pub(super) fn need(&mut self, key: &str, expected: impl Fn() -> String) -> Result<Tensor<f32>> {
        match self.take(key)? {
            Some(tensor) => Ok(tensor),
            None => Err(CheckpointError::Missing {
                path: self.path().into(),
                key: self.full(key),
                expected: expected(),
            }
            .into()),
        }
    }

    /// Reads a value for each channel.
    ///
    /// # Errors
    /// As [`State::need`], and [`CheckpointError::Tensor`] for another number of values.
    pub(super) fn need_row(&mut self, key: &str, channels: usize) -> Result<Vec<f32>> {
        let row = self.need(key, || format!("{channels} values"))?;
        if row.dims != [channels] {
            return Err(self.misfit(key, &row.dims, format!("[{channels}]")).into());
        }
        Ok(row.data)
    }

    /// A tensor of another shape than expected.
    pub(super) fn misfit(&self, key: &str, found: &[usize], expected: String) -> CheckpointError {
        self.error(key, format!("has shape {found:?}"), expected)
    }

    /// A tensor that does not fit.
    pub(super) fn error(&self, key: &str, found: String, expected: String) -> CheckpointError {
        CheckpointError::Tensor {
            path: self.path().into(),
            key: self.full(key),
            found,
            expected,
        }
    }

    /// Counts the keys that start so as known, and returns their number.
    pub(super) fn leave(&mut self, start: &str) -> usize {
        self.leave_if(|key| key.starts_with(start))
    }

    /// Counts keys as known by their names without the prefix, and returns their number.
    pub(super) fn leave_if(&mut self, is_left: impl Fn(&str) -> bool) -> usize {
        let keys = self
            .file
            .keys()
            .filter_map(|key| key.strip_prefix(&self.prefix));
        let left: Vec<String> = keys.filter(|key| is_left(key)).map(String::from).collect();
        let count = left.len();
        self.known.extend(left);
        count
    }

    /// The keys that nothing read, and the number of those that no network needs.
    pub(super) fn rest(&self) -> (Vec<String>, usize) {
        let unknown = self
            .file
            .keys()
            .filter(|key| match key.strip_prefix(&self.prefix) {
                Some(key) => !self.known.contains(key),
                None => true,
            });
        // How often a BatchNormalization was updated in training.
        let is_counter = |key: &&str| key.ends_with(".num_batches_tracked");
        let (counters, rest): (Vec<&str>, Vec<&str>) = unknown.partition(is_counter);
        (rest.into_iter().map(String::from).collect(), counters.len())
    }
}

/// The first few names, for a message.
pub(super) fn some(names: &[String]) -> String {
    let shown = names.iter().take(MAX_NAMED).map(|name| format!("`{name}`"));
    let more = if names.len() > MAX_NAMED { ", …" } else { "" };
    shown.collect::<Vec<_>>().join(", ") + more
}
