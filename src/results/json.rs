//! One JSON line per frame.
//!
//! ```text
//! {"frame","points","dropped":{…},"boxes":[{"class","score","center":[x,y,z],"size":[l,w,h],
//!  "yaw","velocity":[vx,vy]}],"times_ms":{"read","pillars",…,"total"}}
//! ```
//! Boxes of a network that predicts variances also have
//! `"variances":{"center":[x,y,z],"size":[l,w,h],"yaw","velocity":[vx,vy]}`.
//!
//! Metres, radians and m/s in the frame of the cloud. Every f32 has the fewest digits that read back to the
//! same f32. `ground`, with its height, cells of 1 m that show it, and spread in metres, is present only if it was
//! looked for. NaN and infinity, which JSON cannot represent, are errors rather than `null`. `times_ms` is
//! present only if times were measured.

use serde::Serialize;

use super::{FrameResult, ResultsError};
use crate::boxes::Variances;
use crate::detection::{Dropped, Times};
use crate::points::Ground;

#[derive(Serialize)]
struct Line<'a> {
    frame: &'a str,
    points: usize,
    dropped: Dropped,
    #[serde(skip_serializing_if = "Option::is_none")]
    ground: Option<Ground>,
    boxes: Vec<LineBox<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times_ms: Option<Times>,
}

#[derive(Serialize)]
struct LineBox<'a> {
    class: &'a str,
    score: f32,
    center: [f32; 3],
    size: [f32; 3],
    yaw: f32,
    velocity: [f32; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    variances: Option<Variances>,
}

/// Formats the frame as one line of JSON, including the line break.
///
/// # Errors
/// A number that is not finite, or a class without a name.
pub fn line(result: &FrameResult<'_>, classes: &[String]) -> Result<String, ResultsError> {
    let boxes = result
        .boxes
        .iter()
        .enumerate()
        .map(|(index, b)| {
            Ok(LineBox {
                class: result.checked_class(index, b, classes)?,
                score: b.score,
                center: b.center,
                size: b.size,
                yaw: b.yaw,
                velocity: b.velocity,
                variances: result.variances.get(index).copied(),
            })
        })
        .collect::<Result<_, ResultsError>>()?;
    if let Some((field, value)) = result
        .times
        .and_then(|t| t.stages().into_iter().find(|(_, ms)| !ms.is_finite()))
    {
        return Err(ResultsError::Time {
            frame: result.frame.to_owned(),
            field,
            value,
        });
    }
    let line = Line {
        frame: result.frame,
        points: result.points,
        dropped: result.dropped,
        ground: result.ground,
        boxes,
        times_ms: result.times,
    };
    serde_json::to_string(&line)
        .map(|text| text + "\n")
        .map_err(|reason| ResultsError::Json {
            frame: result.frame.to_owned(),
            reason,
        })
}
