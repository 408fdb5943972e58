//! The frames of a quantisation: whether they are enough, and alike enough for one range per tensor.
//!
//! Ranges over frames of two scales fit neither, and the plan finds almost nothing; only the SQNR would tell.

use std::path::Path;

use super::Job;
use crate::build::Result;
use crate::build::calibrate::CalibrationError;
use crate::model::Model;
use crate::points::{self, Column, FrameError, Layout, ReadOptions};

/// Fewest frames: with fewer, none is held out to measure on by default.
pub(crate) const FEWEST: usize = 4;
/// Largest intensity of frames that are scaled to 1, and smallest of frames that are scaled to 255.
const SCALES: [f32; 2] = [1.0, 16.0];

/// Returns what is wrong with the frames, if anything.
///
/// # Errors
/// A frame cannot be read.
pub(super) fn check(job: &Job<'_>) -> Result<Option<CalibrationError>> {
    if job.frames.len() < FEWEST {
        return Ok(Some(CalibrationError::FewFrames {
            found: job.frames.len(),
            fewest: FEWEST,
        }));
    }
    let model = &job.folder.model;
    let options = ReadOptions {
        layout: job.layout,
        default_layout: Layout::new(&model.points.columns).map_err(FrameError::from)?,
    };
    // The first frame with a low and with a high scale, and the first one's columns.
    let mut scales: [Option<(&Path, f32)>; 2] = [None; 2];
    let mut columns: Option<(&Path, Vec<Column>)> = None;
    for path in job.frames {
        let cloud = points::read(path, &options)?;
        let found = columns_of(model, cloud.layout());
        let (first, known) = columns.get_or_insert_with(|| (path, found.clone()));
        if found != *known {
            return Ok(Some(CalibrationError::MixedColumns {
                first: first.to_path_buf(),
                columns: names(known),
                other: path.clone(),
                other_columns: names(&found),
            }));
        }
        let Some(place) = cloud.layout().position(Column::Intensity) else {
            continue;
        };
        let values = cloud
            .rows()
            .map(|row| row[place])
            .filter(|value| value.is_finite());
        let most = values.fold(0.0, f32::max);
        for (scale, is_of) in [(0, most > 0.0 && most <= SCALES[0]), (1, most >= SCALES[1])] {
            if is_of {
                scales[scale].get_or_insert((path, most));
            }
        }
    }
    let wants_intensity = model.points.columns.contains(&Column::Intensity);
    Ok(match scales {
        [Some((low, low_most)), Some((high, high_most))] if wants_intensity => {
            Some(CalibrationError::MixedIntensity {
                low: low.into(),
                low_most,
                high: high.into(),
                high_most,
            })
        }
        _ => None,
    })
}

/// The columns that the model reads, a frame may lack, and this one has. What no frame may lack, the calibration itself
/// reports.
fn columns_of(model: &Model, layout: Layout) -> Vec<Column> {
    let optional = [Column::Intensity, Column::T].into_iter();
    optional
        .filter(|column| model.points.columns.contains(column))
        .filter(|&column| layout.position(column).is_some())
        .collect()
}

fn names(columns: &[Column]) -> String {
    let names = columns.iter().map(|column| column.name());
    ["x", "y", "z"]
        .into_iter()
        .chain(names)
        .collect::<Vec<_>>()
        .join(",")
}
