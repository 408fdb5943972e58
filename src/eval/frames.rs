//! Runs a detector on a folder of labelled frames.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::detection::Times;
use crate::detector::{Detector, DetectorError};
use crate::points::{self, FrameError, Layout, ReadOptions};
use crate::results::nuscenes::{Results, SampleBox, sample_token};

/// The boxes and latencies of a set of frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// The boxes of each frame, by its [`sample_token`].
    pub results: Results,
    /// The latency of each frame, in order.
    pub times: Vec<Times>,
}

/// Default path of the labels of the frames in `dir`: `labels.json` in the folder, or else next to it.
pub(crate) fn labels_path(dir: &Path) -> PathBuf {
    let inside = dir.join("labels.json");
    if inside.exists() {
        return inside;
    }
    // Not `Path::parent`, which does not work for `.`.
    dir.join("..").join("labels.json")
}

/// Detects the objects in each of `frames`, whose columns are `layout` if they have no names, and calls `done` after each.
///
/// Keeps the best `max_boxes` boxes of a frame, the number that a metric allows. Runs the first frame once before all
/// frames, so the times are those of a warm detector.
///
/// # Errors
/// The first frame that cannot be read or run, because a score over fewer frames would not be comparable.
pub(crate) fn run(
    detector: &mut Detector,
    frames: &[PathBuf],
    layout: Option<Layout>,
    max_boxes: usize,
    mut done: impl FnMut(),
) -> Result<Run, DetectorError> {
    let classes = detector.model().classes.clone();
    let options = ReadOptions {
        layout,
        default_layout: Layout::new(&detector.model().points.columns).map_err(FrameError::from)?,
    };
    if let Some(first) = frames.first() {
        detector.detect(&points::read(first, &options)?)?;
    }
    let mut run = Run::default();
    for frame in frames {
        let start = Instant::now();
        let cloud = points::read(frame, &options)?;
        let read = start.elapsed().as_secs_f64() * 1e3;
        let detection = detector.detect(&cloud)?;
        let mut times = detection.times;
        times.read = read;
        times.total += read;
        run.times.push(times);
        let token = sample_token(frame);
        let boxes = detection.boxes.iter().take(max_boxes).filter_map(|found| {
            let class = classes.get(found.class as usize)?;
            Some(SampleBox::from_box3d(found, &token, class))
        });
        let boxes = boxes.collect();
        run.results.results.insert(token, boxes);
        done();
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_in_the_folder_or_next_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let frames = dir.path().join("frames");
        std::fs::create_dir(&frames).unwrap();
        assert_eq!(labels_path(&frames), frames.join("../labels.json"));
        std::fs::write(frames.join("labels.json"), "").unwrap();
        assert_eq!(labels_path(&frames), frames.join("labels.json"));
    }
}
