//! The measurement: warm-up, then frames until both the minimum time and the minimum number are reached.
//!
//! A frame's time is the wall-clock time from the cloud in memory to the boxes in memory. Several plans take
//! turns frame by frame, every second round in reverse order, so neither disturbances nor the position in a
//! round favour one of them.
//!
//! At a fixed rate, frames start when a scanner would send them. A busy detector continues with the newest scan
//! when it is done, like a node; scans in between are skipped and count as late. The response time is that from
//! the scan to its boxes, including waiting and waking up.

use std::time::{Duration, Instant};

use super::input::Feed;
use crate::deadline::{Budget, Counts, Deadline};
use crate::detection::{Dropped, Times};
use crate::detector::{Detector, Result};

/// Settings of a measurement. The defaults are those of `trtexec`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Minimum warm-up per plan in ms. At least one frame is run, because the first one allocates.
    pub warm_up_ms: f64,
    /// Minimum duration of the measurement per plan, in seconds.
    pub duration_s: f64,
    /// Minimum number of measured frames per plan.
    pub iterations: usize,
    /// Scans per second; `None`: frames back to back.
    pub rate_hz: Option<f64>,
    /// Time budget of a frame in ms.
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
pub(crate) struct Subject {
    /// The detector.
    pub detector: Detector,
    /// Its input.
    pub feed: Feed,
}

/// One measured frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Start of the frame, in ms since that of the first measured one.
    pub start_ms: f64,
    /// From the cloud to the boxes.
    pub latency_ms: f64,
    /// From the scan to the boxes; equal to the latency without a rate.
    pub response_ms: f64,
    /// Times of the detector's stages.
    pub times: Times,
}

/// The measurements of one plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    /// Frames before the measured ones.
    pub warm_up_frames: usize,
    /// Duration of the warm-up in ms, including frames of other plans.
    pub warm_up_ms: f64,
    /// The measured frames.
    pub samples: Vec<Sample>,
    /// From the start of the first frame to the end of the last, in ms; for plans that took turns, the sum of
    /// their own frames.
    pub walltime_ms: f64,
    /// Sum of their losses.
    pub dropped: Dropped,
    /// Number of their boxes.
    pub boxes: u64,
    /// Allocations of the whole process during frames; `None` if not counted.
    pub allocations: Option<u64>,
    /// Scans skipped because the detector was busy and a newer scan arrived.
    pub skipped: u64,
    /// Deadline counters, including skipped scans.
    pub deadline: Option<Counts>,
}

/// Measures `subjects` in turn, and returns a recording of each: at least one round, and no more once `stopped`.
/// `allocations` returns the number of the process's allocations so far.
///
/// # Errors
/// The error of the first frame that fails.
pub(crate) fn measure(
    subjects: &mut [Subject],
    settings: &Settings,
    allocations: Option<fn() -> u64>,
    stopped: fn() -> bool,
) -> Result<Vec<Recording>> {
    let mut recordings = vec![Recording::default(); subjects.len()];
    let plans = subjects.len() as f64;
    let warm_up = Instant::now();
    let mut warm_up_ms = 0.0;
    while recordings.iter().any(|r| r.warm_up_frames == 0)
        || warm_up_ms < settings.warm_up_ms * plans && !stopped()
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
    let unfinished = |rounds: usize| {
        rounds < settings.iterations || start.elapsed().as_secs_f64() < settings.duration_s * plans
    };
    while rounds == 0 || unfinished(rounds) && !stopped() {
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

/// Index of the plan with turn `turn` in a round of `plans` plans: ascending in even rounds, descending in odd
/// ones.
fn in_turn(round: usize, turn: usize, plans: usize) -> usize {
    match round % 2 {
        0 => turn,
        _ => plans - 1 - turn,
    }
}

impl Recording {
    /// Runs a frame and records it.
    fn frame(
        &mut self,
        subject: &mut Subject,
        start: Instant,
        scan: Option<Scan>,
        allocations: Option<fn() -> u64>,
    ) -> Result<()> {
        let before = allocations.map(|count| count());
        let started = Instant::now();
        let found = subject.feed.detect(&mut subject.detector)?;
        let ended = Instant::now();
        let after = allocations.map(|count| count());
        if let (Some(before), Some(after)) = (before, after) {
            *self.allocations.get_or_insert(0) += after - before;
        }
        let latency_ms = milliseconds(ended - started);
        let start_ms = milliseconds(started - start);
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

/// The scan for the next frame.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scan {
    /// Arrival, in ms since the start.
    at_ms: f64,
    /// Scans skipped before it.
    skipped: u64,
}

/// The scans of a scanner: scan n arrives n periods after the start.
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

    /// Waits for the next scan if none has arrived, and takes the newest.
    fn wait(&mut self, start: Instant) -> Scan {
        let due = self.next as f64 * self.period_ms;
        let early = due - milliseconds(start.elapsed());
        if early > 0.0 {
            std::thread::sleep(Duration::from_secs_f64(early / 1e3));
        }
        self.take(milliseconds(start.elapsed()))
    }

    /// Takes the newest scan at `now_ms`, when at least one has arrived.
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
    fn plans_take_turns_in_both_directions() {
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
    fn the_newest_scan_is_taken_and_older_ones_are_skipped() {
        let mut scans = Scans::new(10.0);
        let scan = |at_ms, skipped| Scan { at_ms, skipped };
        assert_eq!(scans.take(0.0), scan(0.0, 0));
        assert_eq!(scans.take(100.4), scan(100.0, 0));
        // Busy until 199: waits for the third scan.
        assert_eq!(scans.take(200.1), scan(200.0, 0));
        // Busy until 650: skips those at 300, 400 and 500.
        assert_eq!(scans.take(650.0), scan(600.0, 3));
        assert_eq!(scans.take(700.0), scan(700.0, 0));
        // The sleep ended slightly early.
        assert_eq!(scans.take(799.99), scan(800.0, 0));
    }
}
