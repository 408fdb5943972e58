//! Writes a data set of many frames to a folder, on several threads.
//!
//! `frames/000000.bin` … hold little-endian f32 rows `x y z intensity t`; `labels.json` holds the boxes
//! in nuScenes' result format, keyed by the frames' stems; `manifest.json` records how the data set was made.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io, thread};

use serde::Serialize;
use serde_json::json;

use super::{CLASSES, Config, LABEL_RANGE, SynthError, generate};
use crate::files::{self, FileError};
use crate::results::nuscenes::{Results, SampleBox};

/// A data set to write.
#[derive(Clone, Debug)]
pub(crate) struct Dataset {
    /// Seed of the data set.
    pub seed: u64,
    /// Index of the first frame.
    pub first: u64,
    /// Number of frames.
    pub frames: u64,
    /// Settings of the frames.
    pub config: Config,
    /// The output folder; created if missing.
    pub out: PathBuf,
    /// Write into a folder that is not empty, after removing an existing data set from it.
    pub force: bool,
    /// Number of threads, at least 1.
    pub threads: usize,
}

/// Totals of a written data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DatasetTotals {
    /// Points in all frames.
    pub points: u64,
    /// Labels in all frames.
    pub labels: u64,
}

/// The token and file stem of frame `index`.
pub(super) fn token(index: u64) -> String {
    format!("{index:06}")
}

/// Writes the frames, labels and manifest of `dataset`. Calls `progress` after each frame, from any thread.
/// # Errors
/// [`FileError`] if a file cannot be written, or the folder is not empty and `force` is not set.
pub(crate) fn write_dataset(
    dataset: &Dataset,
    progress: &(dyn Fn() + Sync),
) -> Result<DatasetTotals, SynthError> {
    let frames = dataset.out.join("frames");
    prepare(&dataset.out, &frames, dataset.force)?;
    let next = AtomicU64::new(0);
    let done = Mutex::new((Results::default(), DatasetTotals::default()));
    let work = || -> Result<(), SynthError> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= dataset.frames {
                return Ok(());
            }
            let index = dataset.first + number;
            let made = generate(dataset.seed, index, &dataset.config)?;
            let bytes: Vec<u8> = made
                .cloud
                .data()
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            files::write(&frames.join(format!("{}.bin", token(index))), &bytes)?;
            add(&done, token(index), made.labels, made.cloud.len());
            progress();
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..dataset.threads.max(1))
            .map(|_| scope.spawn(work))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })?;
    let (mut results, written) = done
        .into_inner()
        .unwrap_or_else(|broken| broken.into_inner());
    results.meta.insert("use_lidar".to_owned(), json!(true));
    let path = dataset.out.join("labels.json");
    let mut labels = Vec::new();
    results
        .write_to(&mut labels)
        .map_err(FileError::new(&path, "encode"))?;
    files::write(&path, &labels)?;
    let manifest = json!({
        "generator": concat!("centerpoint ", env!("CARGO_PKG_VERSION"), " synth"),
        "seed": dataset.seed,
        "first": dataset.first,
        "frames": dataset.frames,
        "classes": CLASSES,
        "columns": ["x", "y", "z", "intensity", "t"],
        "label_range": LABEL_RANGE,
        "config": dataset.config,
        "points": written.points,
        "labels": written.labels,
    });
    write_json(&dataset.out.join("manifest.json"), &manifest)?;
    Ok(written)
}

/// Adds one frame's labels. Ignores that a panicking thread poisoned the lock: the caller gets the panic when
/// that thread is joined.
fn add(
    done: &Mutex<(Results, DatasetTotals)>,
    token: String,
    labels: Vec<SampleBox>,
    points: usize,
) {
    let mut done = done.lock().unwrap_or_else(|broken| broken.into_inner());
    done.1.points += points as u64;
    done.1.labels += labels.len() as u64;
    done.0.results.insert(token, labels);
}

/// Creates the folders. Fails for a folder that is not empty unless `force`, which removes the files of an
/// existing data set.
fn prepare(out: &Path, frames: &Path, force: bool) -> Result<(), FileError> {
    fs::create_dir_all(out).map_err(FileError::new(out, "create"))?;
    let mut entries = fs::read_dir(out).map_err(FileError::new(out, "list"))?;
    if entries.next().is_some() {
        if !force {
            let reason =
                "it is not empty; choose another folder, or use --force to replace its frames";
            let refusal = io::Error::new(io::ErrorKind::DirectoryNotEmpty, reason);
            return Err(FileError::new(out, "write a data set into the folder")(
                refusal,
            ));
        }
        remove_old(out, frames)?;
    }
    fs::create_dir_all(frames).map_err(FileError::new(frames, "create"))
}

fn remove_old(out: &Path, frames: &Path) -> Result<(), FileError> {
    let mut old = vec![out.join("labels.json"), out.join("manifest.json")];
    if frames.is_dir() {
        for entry in fs::read_dir(frames).map_err(FileError::new(frames, "list"))? {
            let path = entry.map_err(FileError::new(frames, "list"))?.path();
            if path
                .extension()
                .is_some_and(|ext| ext == "bin" || ext == "tmp")
            {
                old.push(path);
            }
        }
    }
    for path in old.iter().filter(|path| path.exists()) {
        fs::remove_file(path).map_err(FileError::new(path, "remove"))?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| FileError::new(path, "encode")(io::Error::from(error)))?;
    files::write(path, &bytes)
}

#[cfg(test)]
mod tests;
