//! The calibration file `*.calib.json`, and the key that identifies its inputs.
//!
//! ```json
//! {"version":2,"producer":"centerpoint 0.1.0",
//!  "key":{"model":"sha256","frames":"sha256","options":"sha256"},
//!  "tensors":{"NAME":{"all":{"range":…,"width":…,"max":…,"zeros":…,"counts":[…]},"occupied":{…},"min":…,
//!             "channel_max":[…],…}}}
//! ```
//! Files are read as a stream and take at most four times their length in memory: a count has at least two
//! characters in the file and eight bytes in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use prost::Message;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Calibration, CalibrationError, Histogram, MAX_BINS, Options, TensorStats};
use crate::build::Result;
use crate::build::folder::producer;
use crate::build::hash::{sha256, sha256_file};
use crate::build::onnx::Graph;
use crate::files::{self, FileError};
use crate::model::Model;
use crate::model::Pfn;
pub(crate) use crate::plan::CalibrationKey;
use crate::points::FrameError;

/// Version of the format and of the counting rules.
const VERSION: u32 = 2;
/// Maximum file length; the file of a large network has a few megabytes.
const MAX_BYTES: u64 = 64 << 20;

impl CalibrationKey {
    /// Hashes the inputs of a calibration.
    ///
    /// # Errors
    /// [`CalibrationError::NoFrames`], [`FrameError::NotAFile`],
    /// [`crate::build::BuildError::Io`] for a frame that cannot be read.
    pub fn new(
        model: &Model,
        pfn: &Pfn,
        graph: &Graph,
        frames: &[PathBuf],
        options: &Options,
    ) -> Result<Self> {
        if frames.is_empty() {
            return Err(CalibrationError::NoFrames.into());
        }
        // Debug text serves only the hash: it contains every field and every digit.
        let (points, grid, spec) = (&model.points, &model.grid, &model.pfn);
        let mut network = format!("{points:?} {grid:?} {spec:?}").into_bytes();
        for layer in &pfn.layers {
            network.extend(format!("{} {}", layer.in_features, layer.out_features).bytes());
            network.extend(layer.weight.iter().flat_map(|w| w.to_le_bytes()));
            network.extend(layer.bias.iter().flat_map(|b| b.to_le_bytes()));
        }
        network.extend(graph.to_model().encode_to_vec());

        let layout = options.layout.map(|layout| layout.to_string());
        let options = format!("bins {} layout {layout:?}", options.bins);
        Ok(Self {
            model: sha256(&network),
            frames: frames_hash(frames)?,
            options: sha256(options.as_bytes()),
        })
    }
}

/// SHA-256 of the names and contents of frames, in order, without their folders.
///
/// # Errors
/// [`FrameError::NotAFile`], [`crate::build::BuildError::Io`] for a frame that cannot be read.
pub(crate) fn frames_hash(frames: &[PathBuf]) -> Result<String> {
    let mut contents = String::new();
    for path in frames {
        // Opening a pipe would wait for its writer.
        if path.exists() && !path.is_file() {
            return Err(FrameError::NotAFile(path.clone()).into());
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        contents += &format!("{} {name}\n", sha256_file(path)?);
    }
    Ok(sha256(contents.as_bytes()))
}

/// The file's content for writing.
#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    producer: String,
    key: &'a CalibrationKey,
    tensors: &'a BTreeMap<String, TensorStats>,
}

/// The file's content as read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[allow(dead_code)]
    version: Version,
    #[allow(dead_code)]
    producer: String,
    key: CalibrationKey,
    tensors: BTreeMap<String, TensorStats>,
}

#[derive(Deserialize)]
#[serde(try_from = "u32")]
struct Version;

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, String> {
        match version {
            VERSION => Ok(Version),
            _ => Err(format!(
                "version {version}, this program reads version {VERSION}: delete the file, and calibrate again"
            )),
        }
    }
}

impl Calibration {
    /// Reads a calibration file.
    ///
    /// # Errors
    /// [`CalibrationError::Io`], [`CalibrationError::Broken`] for an invalid file.
    pub fn read(path: &Path) -> Result<Self, CalibrationError> {
        let io = |source| CalibrationError::Io {
            path: path.into(),
            source,
        };
        let broken = |what: String| CalibrationError::Broken {
            path: path.into(),
            what,
        };
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(broken("not a regular file".into()));
        }
        if metadata.len() > MAX_BYTES {
            let bytes = metadata.len();
            return Err(broken(format!(
                "{bytes} bytes, expected at most {MAX_BYTES}"
            )));
        }
        let file = BufReader::new(File::open(path).map_err(io)?).take(MAX_BYTES);
        let stored: Stored = serde_json::from_reader(file).map_err(|e| broken(e.to_string()))?;
        for (name, stats) in &stored.tensors {
            if let Err(what) = check(stats) {
                return Err(broken(format!("tensor \"{name}\": {what}")));
            }
        }
        Ok(Self {
            key: stored.key,
            tensors: stored.tensors,
        })
    }

    /// Writes the calibration file atomically.
    ///
    /// # Errors
    /// [`FileError`] with the path.
    pub fn write(&self, path: &Path) -> Result<()> {
        let written = Written {
            version: VERSION,
            producer: producer(),
            key: &self.key,
            tensors: &self.tensors,
        };
        let text = serde_json::to_vec(&written).map_err(std::io::Error::from);
        let mut text = text.map_err(FileError::new(path, "write"))?;
        text.push(b'\n');
        Ok(files::write(path, &text)?)
    }

    /// Checks that this calibration, read from `path`, was made from the inputs of `key`.
    ///
    /// # Errors
    /// [`CalibrationError::Stale`], which lists the changes.
    pub fn check(&self, key: &CalibrationKey, path: &Path) -> Result<(), CalibrationError> {
        let parts = [
            ("from another model", &self.key.model, &key.model),
            ("from other frames", &self.key.frames, &key.frames),
            ("with other options", &self.key.options, &key.options),
        ];
        let changed = parts.into_iter().filter(|(_, made, now)| made != now);
        let changed: Vec<&str> = changed.map(|(what, ..)| what).collect();
        if changed.is_empty() {
            return Ok(());
        }
        Err(CalibrationError::Stale {
            path: path.into(),
            changed: changed.join(" and "),
        })
    }
}

/// Checks that the statistics are consistent.
fn check(stats: &TensorStats) -> Result<(), String> {
    let channels = stats.channel_max.len();
    let lists = [
        ("channel_max", &stats.channel_max),
        ("occupied_channel_max", &stats.occupied_channel_max),
        ("channel_mean", &stats.channel_mean),
        ("occupied_channel_mean", &stats.occupied_channel_mean),
    ];
    for (name, values) in lists {
        if values.len() != channels {
            let found = values.len();
            return Err(format!("{name} has {found} values, channel_max {channels}"));
        }
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(format!("{name} contains {value}"));
        }
    }
    let max = stats.channel_max.iter().copied().fold(0.0, f32::max);
    let (all, occupied) = (&stats.all, &stats.occupied);
    if max != all.max() {
        let found = all.max();
        return Err(format!(
            "the greatest channel_max is {max}, but the histogram's is {found}"
        ));
    }
    if occupied.max() > max || occupied.total() > all.total() || !stats.min.is_finite() {
        return Err("occupied cells have more or larger values than all cells".into());
    }
    Ok(())
}

/// A histogram in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bins {
    range: f32,
    width: f32,
    max: f32,
    zeros: u64,
    #[serde(deserialize_with = "list")]
    counts: Vec<u64>,
}

impl TryFrom<Bins> for Histogram {
    type Error = String;

    fn try_from(bins: Bins) -> Result<Self, String> {
        let Bins {
            range,
            width,
            max,
            zeros,
            counts,
        } = bins;
        let length = counts.len();
        Histogram::from_parts(counts, range, width, max, zeros).ok_or_else(|| {
            format!(
                "invalid histogram: {length} bins of {width} up to {range}, values up to {max}, {zeros} zeros"
            )
        })
    }
}

/// Reads a list of at most [`MAX_BINS`] values (bins or channels) without excess capacity.
pub(super) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_BINS} values")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = seq.next_element()? {
                if values.len() == MAX_BINS {
                    return Err(serde::de::Error::invalid_length(MAX_BINS + 1, &self));
                }
                values.push(value);
            }
            values.shrink_to_fit();
            Ok(values)
        }
    }
    deserializer.deserialize_seq(List(PhantomData))
}
