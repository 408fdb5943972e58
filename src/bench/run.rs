//! The measurement itself: warm-up, then frames until both the time and the number are reached.
//!
//! A frame's time is wall-clock time from the cloud in memory to the boxes in memory. Several plans take
//! turns frame by frame, and every second round in reverse order, so that neither what the machine does
//! meanwhile nor being first favours one of them.
//!
//! At a rate frames begin as a scanner would send them. A detector that is busy then takes the newest scan when
//! it is done, as a node does; scans in between are skipped, and are late. The response is the time from
//! the scan to its boxes, waiting and waking up included.

use std::time::{Duration, Instant};

use super::input::Feed;
use crate::deadline::{Budget, Counts, Deadline};
use crate::detection::{Dropped, Times};
use crate::detector::Detector;
use crate::error::Result;

/// How to measure. The defaults are those of `trtexec`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Least time of frames that are not counted, for each plan, in ms. One frame always is: it allocates.
    pub warm_up_ms: f64,
    /// Least time of measurement for each plan, in seconds.
    pub duration_s: f64,
    /// Least number of measured frames of each plan.
    pub iterations: usize,
    /// Scans a second; `None`: one frame after the other.
    pub rate_hz: Option<f64>,
    /// What a frame may take in ms.
    pub deadline_ms: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            warm_up_ms: 200.0,
            duration_s: 3.0,
            iterations: 10,
            rate_hz: None,
            deadline_ms: None,
        }
    }
}

/// A loaded plan and its frames.
pub struct Subject {
    /// Runs them.
    pub detector: Detector,
    /// Gives them.
    pub feed: Feed,
}

/// One measured frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When it began, in ms since the first measured one did.
    pub start_ms: f64,
    /// From the cloud to the boxes.
    pub latency_ms: f64,
    /// From the scan to the boxes; without a rate the same.
    pub response_ms: f64,
    /// What the detector says of its stages.
    pub times: Times,
}

/// What was measured of one plan.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Frames before the measured ones.
    pub warm_up_frames: usize,
    /// What they took, those of other plans included.
    pub warm_up_ms: f64,
    /// The measured frames.
    pub samples: Vec<Sample>,
    /// From the first one's begin to the last one's end, in ms; of plans that took turns only their own frames.
    pub walltime_ms: f64,
    /// What all of them lost.
    pub dropped: Dropped,
    /// Boxes of all of them.
    pub boxes: u64,
    /// Allocations of the whole process during frames; `None` where nobody counts.
    pub allocations: Option<u64>,
    /// Scans that came while the detector was busy, and were not the newest.
    pub skipped: u64,
    /// Frames against the deadline, skipped scans included.
    pub deadline: Option<Counts>,
}

/// Measures `subjects` in turn; a recording for each. `allocations` counts those of the process so far.
///
/// # Errors
/// Of the first frame that fails.
pub fn measure(
    subjects: &mut [Subject],
    settings: &Settings,
    allocations: Option<fn() -> u64>,
) -> Result<Vec<Recording>> {
    let mut recordings = vec![Recording::default(); subjects.len()];
    let plans = subjects.len() as f64;
    let warm_up = Instant::now();
    let mut warm_up_ms = 0.0;
    while recordings.iter().any(|r| r.warm_up_frames == 0)
        || warm_up_ms < settings.warm_up_ms * plans
    {
        for (subject, recording) in subjects.iter_mut().zip(&mut recordings) {
            subject.feed.detect(&mut subject.detector)?;
            recording.warm_up_frames += 1;
        }
        warm_up_ms = milliseconds(warm_up.elapsed());
        recordings
            .iter_mut()
            .for_each(|r| r.warm_up_ms = warm_up_ms);
    }
    let budget = settings.deadline_ms.map(|frame_ms| Budget {
        frame_ms,
        ..Budget::default()
    });
    let mut deadlines: Vec<Option<Deadline>> = vec![budget.map(Deadline::new); subjects.len()];
    let start = Instant::now();
    let mut scans = settings.rate_hz.map(Scans::new);
    let mut rounds = 0;
    while rounds < settings.iterations
        || start.elapsed().as_secs_f64() < settings.duration_s * plans
    {
        for turn in 0..subjects.len() {
            let plan = in_turn(rounds, turn, subjects.len());
            let (recording, deadline) = (&mut recordings[plan], &mut deadlines[plan]);
            let scan = scans.as_mut().map(|scans| scans.wait(start));
            let skipped = scan.map_or(0, |scan| scan.skipped);
            recording.skipped += skipped;
            recording.frame(&mut subjects[plan], start, scan, allocations)?;
            if let (Some(deadline), Some(sample)) = (deadline, recording.samples.last()) {
                let now = Instant::now();
                (0..skipped).for_each(|_| deadline.add(f64::INFINITY, now));
                deadline.add(sample.response_ms, now);
            }
        }
        rounds += 1;
    }
    for (recording, deadline) in recordings.iter_mut().zip(deadlines) {
        if subjects.len() > 1 {
            recording.walltime_ms = recording.samples.iter().map(|s| s.latency_ms).sum();
        }
        recording.deadline = deadline.map(|deadline| deadline.counts());
    }
    Ok(recordings)
}

/// Which of `plans` is the `turn`-th of a round: forth in even rounds, back in odd ones.
fn in_turn(round: usize, turn: usize, plans: usize) -> usize {
    match round % 2 {
        0 => turn,
        _ => plans - 1 - turn,
    }
}

impl Recording {
    /// Runs a frame and notes it.
    fn frame(
        &mut self,
        subject: &mut Subject,
        start: Instant,
        scan: Option<Scan>,
        allocations: Option<fn() -> u64>,
    ) -> Result<()> {
        let before = allocations.map(|count| count());
        let began = Instant::now();
        let found = subject.feed.detect(&mut subject.detector)?;
        let ended = Instant::now();
        let after = allocations.map(|count| count());
        if let (Some(before), Some(after)) = (before, after) {
            *self.allocations.get_or_insert(0) += after - before;
        }
        let latency_ms = milliseconds(ended - began);
        let start_ms = milliseconds(began - start);
        let waited = scan.map_or(0.0, |scan| (start_ms - scan.at_ms).max(0.0));
        let sample = Sample {
            start_ms,
            latency_ms,
            response_ms: waited + latency_ms,
            times: found.times,
        };
        self.boxes += found.boxes.len() as u64;
        self.dropped += found.dropped;
        let first = self
            .samples
            .first()
            .map_or(start_ms, |first| first.start_ms);
        self.walltime_ms = start_ms + latency_ms - first;
        self.samples.push(sample);
        Ok(())
    }
}

/// A scan that is to be taken.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scan {
    /// When it came, in ms since the start.
    at_ms: f64,
    /// Scans before it that were not taken.
    skipped: u64,
}

/// The scans of a scanner: number n comes n periods after the start.
struct Scans {
    period_ms: f64,
    next: u64,
}

impl Scans {
    fn new(rate_hz: f64) -> Self {
        Self {
            period_ms: 1e3 / rate_hz,
            next: 0,
        }
    }

    /// Waits for the next scan unless one is there; then takes the newest.
    fn wait(&mut self, start: Instant) -> Scan {
        let due = self.next as f64 * self.period_ms;
        let early = due - milliseconds(start.elapsed());
        if early > 0.0 {
            std::thread::sleep(Duration::from_secs_f64(early / 1e3));
        }
        self.take(milliseconds(start.elapsed()))
    }

    /// The newest scan at `now_ms`, at which the next one is there.
    fn take(&mut self, now_ms: f64) -> Scan {
        let newest = ((now_ms / self.period_ms) as u64).max(self.next);
        let scan = Scan {
            at_ms: newest as f64 * self.period_ms,
            skipped: newest - self.next,
        };
        self.next = newest + 1;
        scan
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_take_turns_forth_and_back() {
        let order = |plans| -> Vec<usize> {
            (0..3)
                .flat_map(|round| (0..plans).map(move |turn| in_turn(round, turn, plans)))
                .collect()
        };
        assert_eq!(order(1), [0, 0, 0]);
        assert_eq!(order(2), [0, 1, 1, 0, 0, 1]);
        assert_eq!(order(3), [0, 1, 2, 2, 1, 0, 0, 1, 2]);
    }

    #[test]
    fn the_newest_scan_is_taken_and_those_before_are_skipped() {
        let mut scans = Scans::new(10.0);
        let scan = |at_ms, skipped| Scan { at_ms, skipped };
        assert_eq!(scans.take(0.0), scan(0.0, 0));
        assert_eq!(scans.take(100.4), scan(100.0, 0));
        // Busy until 199: the third has not come yet, and is waited for.
        assert_eq!(scans.take(200.1), scan(200.0, 0));
        // Busy until 650: those at 300, 400, 500 were missed.
        assert_eq!(scans.take(650.0), scan(600.0, 3));
        assert_eq!(scans.take(700.0), scan(700.0, 0));
        // A sleep that ended a little early.
        assert_eq!(scans.take(799.99), scan(800.0, 0));
    }
}
