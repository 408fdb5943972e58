//! A list of sweeps in a JSON file (`--sweeps`), read as one cloud. [`read_sweeps`] documents its form.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::sweeps::{MAX_SWEEPS, Pose, SweepBuffer, SweepCounts, SweepError};
use super::{FrameError, Layout, PointCloud, ReadOptions, open, read};

/// Largest list that is read, in bytes.
const MAX_LIST_BYTES: u64 = 1 << 20;

/// The list as it is written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListFile {
    sweeps: Vec<ListedSweep>,
    #[serde(default)]
    layout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedSweep {
    file: PathBuf,
    stamp_ns: i64,
    /// Required, if only as null. Boxed to keep a list of tiny entries small.
    #[serde(deserialize_with = "Option::deserialize")]
    pose: Option<Box<ListedPose>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedPose {
    translation: [f64; 3],
    rotation: [f64; 4],
}

/// Reads the sweeps named by a list into one cloud of at most `max_points` points.
///
/// ```json
/// { "layout": "x,y,z,intensity,_",
///   "sweeps": [
///     { "file": "newest.bin", "stamp_ns": 315966265360032000,
///       "pose": { "translation": [5223.9, 2385.3, 69.1],
///                 "rotation": [0.9607, -0.0074, -0.0226, -0.2764] } },
///     { "file": "older.bin", "stamp_ns": 315966265259836000, "pose": null } ] }
/// ```
/// Newest first. `file` is relative to the list; `stamp_ns` counts nanoseconds from any epoch; `pose` is
/// vehicle→world (metres; unit quaternion w x y z), null where unknown; `layout` is optional. Unknown keys are
/// errors.
///
/// Files that do not name their columns have those of `options.layout`, else of the list's `layout`, else the
/// default. Each sweep dropped because it has no pose is logged as a warning.
///
/// # Errors
/// [`FrameError::Sweeps`] for an invalid list, or the error of the frame that could not be read.
pub fn read_sweeps(
    path: &Path,
    options: &ReadOptions,
    max_points: usize,
) -> Result<(PointCloud, SweepCounts), FrameError> {
    let refused = |reason| FrameError::Sweeps {
        path: path.to_path_buf(),
        reason,
    };
    let list = read_list(path)?;
    let poses = check(&list).map_err(refused)?;
    let mut options = *options;
    if let (None, Some(text)) = (options.layout, &list.layout) {
        options.layout = Some(text.parse().map_err(|e| refused(SweepError::Layout(e)))?);
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut buffer = SweepBuffer::new(list.sweeps.len() - 1, max_points);
    for (past, (sweep, pose)) in list.sweeps.iter().zip(&poses).enumerate().rev() {
        let frame = folder.join(&sweep.file);
        if pose.is_none() && list.sweeps.len() > 1 {
            let lost = if past == 0 {
                "all past sweeps are"
            } else {
                "it is"
            };
            log::warn!(
                "{}: this sweep has no pose; {lost} dropped",
                frame.display()
            );
        }
        let cloud = read(&frame, &options)?;
        buffer
            .push(&cloud, sweep.stamp_ns, *pose)
            .map_err(|reason| FrameError::Sweeps {
                path: frame,
                reason,
            })?;
    }
    let mut out = PointCloud::empty(Layout::XYZIT);
    let accumulated = buffer.accumulate(&mut out);
    Ok((out, accumulated))
}

fn read_list(path: &Path) -> Result<ListFile, FrameError> {
    let (mut file, bytes) = open(path, MAX_LIST_BYTES)?;
    let mut text = vec![0; bytes as usize];
    file.read_exact(&mut text)
        .map_err(|source| FrameError::Io {
            path: path.to_path_buf(),
            source,
        })?;
    serde_json::from_slice(&text).map_err(|error| FrameError::Sweeps {
        path: path.to_path_buf(),
        reason: SweepError::Json(error.to_string()),
    })
}

/// Checks the number and order of the sweeps and returns their poses.
fn check(list: &ListFile) -> Result<Vec<Option<Pose>>, SweepError> {
    if !(1..=MAX_SWEEPS).contains(&list.sweeps.len()) {
        return Err(SweepError::Count(list.sweeps.len()));
    }
    for pair in list.sweeps.windows(2) {
        if let [newer, older] = pair
            && newer.stamp_ns < older.stamp_ns
        {
            return Err(SweepError::Order {
                file: older.file.clone(),
                stamp: older.stamp_ns,
                before: newer.stamp_ns,
            });
        }
    }
    let poses = list.sweeps.iter().map(|sweep| {
        let pose = sweep.pose.as_ref();
        let pose = pose.map(|pose| Pose::new(pose.translation, pose.rotation));
        pose.transpose().map_err(|reason| SweepError::Pose {
            file: sweep.file.clone(),
            reason,
        })
    });
    poses.collect()
}
