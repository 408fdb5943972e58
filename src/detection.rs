//! The detector's result for one frame: boxes, losses, and the duration of each stage.
//!
//! Losses and durations are plain `Copy` data. Their field names and order are those of the JSON output.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::boxes::{Box3d, Variances};
use crate::points::Ground;

/// The objects of one frame, borrowed from the detector until the next frame.
#[derive(Clone, Copy, Debug)]
pub struct Detection<'a> {
    /// The boxes, best first.
    pub boxes: &'a [Box3d],
    /// The boxes' variances, in the same order; empty if the network predicts none ([`Head::variance`]).
    ///
    /// [`Head::variance`]: crate::model::Head::variance
    pub variances: &'a [Variances],
    /// The frame's losses. In an ordinary frame only points out of range are counted.
    pub dropped: Dropped,
    /// Time of each stage in ms; `read` is 0.
    pub times: Times,
    /// The ground that the frame showed, if it was looked for ([`GroundHeight::Auto`](crate::points::GroundHeight)).
    pub ground: Option<Ground>,
}

/// The losses of a frame; all 0 if nothing was lost.
///
/// The first two counters are ordinary losses (no return, beyond the grid). The others mean that a limit of the
/// model or the program was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// Points with a NaN or infinite value in a column that the model reads.
    pub non_finite: u64,
    /// Points outside the model's range, or in its `ignore_box`.
    pub out_of_range: u64,
    /// Points beyond their pillar's `max_points_per_pillar`.
    pub pillar_points: u64,
    /// Points of pillars beyond `max_pillars`.
    pub pillars: u64,
    /// Candidate boxes beyond the limit of NMS.
    pub candidates: u64,
    /// Candidate boxes with a NaN or infinity, caused by broken weights or input of the network.
    pub non_finite_candidates: u64,
    /// Points of older sweeps beyond the limit of an accumulated cloud.
    pub sweep_points: u64,
}

impl Dropped {
    /// The counters with their names, in the order of the JSON output.
    pub fn counters(&self) -> [(&'static str, u64); 7] {
        [
            ("non_finite", self.non_finite),
            ("out_of_range", self.out_of_range),
            ("pillar_points", self.pillar_points),
            ("pillars", self.pillars),
            ("candidates", self.candidates),
            ("non_finite_candidates", self.non_finite_candidates),
            ("sweep_points", self.sweep_points),
        ]
    }

    /// Whether a limit was reached, losing data that the model could have used.
    pub fn overflowed(&self) -> bool {
        [
            self.pillar_points,
            self.pillars,
            self.candidates,
            self.non_finite_candidates,
            self.sweep_points,
        ]
        .iter()
        .any(|&n| n > 0)
    }
}

impl std::ops::AddAssign for Dropped {
    /// Sums the counters of several frames.
    fn add_assign(&mut self, other: Self) {
        self.non_finite += other.non_finite;
        self.out_of_range += other.out_of_range;
        self.pillar_points += other.pillar_points;
        self.pillars += other.pillars;
        self.candidates += other.candidates;
        self.non_finite_candidates += other.non_finite_candidates;
        self.sweep_points += other.sweep_points;
    }
}

/// Wall-clock time of each stage of one frame in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    /// Reading and decoding the frame's files, and accumulating sweeps.
    pub read: f64,
    /// Points to pillars.
    pub pillars: f64,
    /// Point features and the pillar feature network.
    pub features: f64,
    /// Pillar features to the BEV map.
    pub scatter: f64,
    /// Backbone, neck and heads.
    pub engine: f64,
    /// Head maps to candidate boxes.
    pub decode: f64,
    /// Non-maximum suppression.
    pub nms: f64,
    /// From the first byte read to the last box, including all of the above.
    pub total: f64,
}

impl Times {
    /// The times with their stage names, in the order of the JSON output.
    pub fn stages(&self) -> [(&'static str, f64); 8] {
        [
            ("read", self.read),
            ("pillars", self.pillars),
            ("features", self.features),
            ("scatter", self.scatter),
            ("engine", self.engine),
            ("decode", self.decode),
            ("nms", self.nms),
            ("total", self.total),
        ]
    }
}

/// Measures the stages of a frame.
pub(crate) struct Clock {
    start: Instant,
    last: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub(crate) fn start() -> Self {
        let start = Instant::now();
        Self { start, last: start }
    }

    /// Stores the milliseconds since the last lap in `ms`.
    pub(crate) fn lap(&mut self, ms: &mut f64) {
        let now = Instant::now();
        *ms = (now - self.last).as_secs_f64() * 1e3;
        self.last = now;
    }

    /// Milliseconds since the start.
    pub(crate) fn total(&self) -> f64 {
        self.start.elapsed().as_secs_f64() * 1e3
    }
}
