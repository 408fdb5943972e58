//! Writes many frames to a folder, on several threads.
//!
//! `frames/000000.bin` … hold little-endian f32 rows `x y z intensity t`; `labels.json` holds the boxes
//! in nuScenes' result format, keyed by the frames' stems; `manifest.json` says how all was made. Every
//! file is written under another name first and then renamed, so that none is ever seen half-written.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io, thread};

use serde::Serialize;
use serde_json::json;

use super::{CLASSES, Config, LABEL_RANGE, generate};
use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::results::nuscenes::{Results, SampleBox};

/// What to write, and where.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Seed of the data set.
    pub seed: u64,
    /// Index of the first frame.
    pub first: u64,
    /// Number of frames.
    pub frames: u64,
    /// How each is made.
    pub config: Config,
    /// The folder; created if it does not exist.
    pub out: PathBuf,
    /// Write into a folder that is not empty, after removing an older data set from it.
    pub force: bool,
    /// Number of threads, at least 1.
    pub threads: usize,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Points in all frames.
    pub points: u64,
    /// Labels in all frames.
    pub labels: u64,
}

/// The token and file stem of frame `index`.
pub(super) fn token(index: u64) -> String {
    format!("{index:06}")
}

/// Writes the frames, labels and manifest of `dataset`. `progress` is called after each frame, from any
/// thread.
///
/// # Errors
///
/// [`Error::Io`] if a file cannot be written, or if the folder is not empty and `force` is not set.
pub fn write_dataset(dataset: &Dataset, progress: &(dyn Fn() + Sync)) -> Result<Written> {
    let frames = dataset.out.join("frames");
    prepare(&dataset.out, &frames, dataset.force)?;
    let next = AtomicU64::new(0);
    let done = Mutex::new((Results::default(), Written::default()));
    let work = || -> Result<()> {
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
            write_whole(&frames.join(format!("{}.bin", token(index))), &bytes)?;
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
        .map_err(Error::io(&path, "encode"))?;
    write_whole(&path, &labels)?;
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

/// Adds one frame's labels. A lock broken by a panicking thread is used on: the panic itself is passed
/// to the caller when that thread is joined.
fn add(done: &Mutex<(Results, Written)>, token: String, labels: Vec<SampleBox>, points: usize) {
    let mut done = done.lock().unwrap_or_else(|broken| broken.into_inner());
    done.1.points += points as u64;
    done.1.labels += labels.len() as u64;
    done.0.results.insert(token, labels);
}

/// Makes the folders; refuses a folder with anything in it unless `force`, which removes an older data
/// set's files.
fn prepare(out: &Path, frames: &Path, force: bool) -> Result<()> {
    fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
    let mut entries = fs::read_dir(out).map_err(Error::io(out, "list"))?;
    if entries.next().is_some() {
        if !force {
            let reason = "it is not empty; give another folder, or --force to replace its frames";
            let refusal = io::Error::new(io::ErrorKind::DirectoryNotEmpty, reason);
            return Err(Error::io(out, "write a data set into the folder")(refusal));
        }
        remove_old(out, frames)?;
    }
    fs::create_dir_all(frames).map_err(Error::io(frames, "create"))
}

fn remove_old(out: &Path, frames: &Path) -> Result<()> {
    let mut old = vec![out.join("labels.json"), out.join("manifest.json")];
    if frames.is_dir() {
        for entry in fs::read_dir(frames).map_err(Error::io(frames, "list"))? {
            let path = entry.map_err(Error::io(frames, "list"))?.path();
            if path
                .extension()
                .is_some_and(|ext| ext == "bin" || ext == "tmp")
            {
                old.push(path);
            }
        }
    }
    for path in old.iter().filter(|path| path.exists()) {
        fs::remove_file(path).map_err(Error::io(path, "remove"))?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::io(path, "encode")(io::Error::from(error)))?;
    write_whole(path, &bytes)
}
