//! The deadline monitor: whether frames meet their time budget, and for how long they have missed it.
//!
//! Levels and limits follow Autoware's `lidar_centerpoint`: a frame over budget is a warning, and an unbroken
//! run of late frames that lasts longer than the allowed delay is an error. A silent scanner is neither, since
//! no frame is late.

use std::time::{Duration, Instant};

/// Time limits of frames. The defaults are Autoware's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Longest duration of a frame in ms.
    pub frame_ms: f64,
    /// Longest duration of an unbroken run of late frames in ms.
    pub delay_ms: f64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            frame_ms: 200.0,
            delay_ms: 1000.0,
        }
    }
}

/// Status, with the levels of `diagnostic_msgs/DiagnosticStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The last frame was in time, or there has been no frame.
    #[default]
    Ok,
    /// The last frame was late.
    Warn,
    /// All frames have been late for longer than the delay.
    Error,
}

/// Counts frames and late frames.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deadline {
    budget: Budget,
    counts: Counts,
    /// End of the last frame in time, or of the first frame if none was in time.
    in_time: Option<Instant>,
}

/// The counters of a [`Deadline`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Frames so far.
    pub frames: u64,
    /// Frames over budget.
    pub misses: u64,
    /// Late frames since the last frame in time.
    pub consecutive: u64,
    /// Longest run of late frames.
    pub longest: u64,
    /// Duration of the last frame in ms; 0 before the first.
    pub last_ms: f64,
}

impl Deadline {
    /// Creates a monitor without frames.
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            ..Self::default()
        }
    }

    /// Records a frame of `ms` milliseconds that ended at `now`. NaN counts as late.
    pub fn add(&mut self, ms: f64, now: Instant) {
        let counts = &mut self.counts;
        counts.frames += 1;
        counts.last_ms = ms;
        if ms <= self.budget.frame_ms {
            counts.consecutive = 0;
            self.in_time = Some(now);
            return;
        }
        counts.misses += 1;
        counts.consecutive += 1;
        counts.longest = counts.longest.max(counts.consecutive);
        self.in_time.get_or_insert(now);
    }

    /// The time limits.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// The counters.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How long frames have been late at `now`; 0 if the last frame was in time.
    pub fn delay(&self, now: Instant) -> Duration {
        match self.in_time {
            Some(since) if self.counts.consecutive > 0 => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        }
    }

    /// The status at `now`.
    pub fn level(&self, now: Instant) -> Level {
        if self.counts.consecutive == 0 {
            Level::Ok
        } else if self.delay(now).as_secs_f64() * 1e3 > self.budget.delay_ms {
            Level::Error
        } else {
            Level::Warn
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor with `frames` (end and duration in ms), and its start.
    fn monitor(frames: &[(u64, f64)]) -> (Deadline, Instant) {
        let start = Instant::now();
        let mut deadline = Deadline::new(Budget {
            frame_ms: 100.0,
            delay_ms: 1000.0,
        });
        for &(at, ms) in frames {
            deadline.add(ms, start + Duration::from_millis(at));
        }
        (deadline, start)
    }

    #[test]
    fn misses_and_their_longest_run_are_counted() {
        let times = [50.0, 100.0, 100.1, 300.0, f64::NAN, 20.0, 101.0];
        let frames: Vec<(u64, f64)> = times.iter().map(|&ms| (0, ms)).collect();
        let (deadline, start) = monitor(&frames);
        let expected = Counts {
            frames: 7,
            misses: 4,
            consecutive: 1,
            longest: 3,
            last_ms: 101.0,
        };
        assert_eq!(deadline.counts(), expected);
        assert_eq!(deadline.level(start), Level::Warn);
    }

    #[test]
    fn an_unbroken_delay_is_an_error() {
        let at = |start, ms| start + Duration::from_millis(ms);
        let (deadline, start) = monitor(&[]);
        assert_eq!(deadline.level(at(start, 5000)), Level::Ok);

        let (deadline, start) = monitor(&[(0, 10.0), (400, 150.0), (800, 150.0)]);
        assert_eq!(deadline.level(at(start, 1000)), Level::Warn);
        assert_eq!(deadline.level(at(start, 1001)), Level::Error);
        assert_eq!(deadline.delay(at(start, 1001)).as_millis(), 1001);

        // Late from the first frame on.
        let (deadline, start) = monitor(&[(400, 150.0), (1500, 150.0)]);
        assert_eq!(deadline.level(at(start, 1400)), Level::Warn);
        assert_eq!(deadline.level(at(start, 1500)), Level::Error);

        // A frame in time ends the delay, and silence is not a delay.
        let (deadline, start) = monitor(&[(0, 150.0), (2000, 150.0), (2100, 10.0)]);
        assert_eq!(deadline.level(at(start, 9000)), Level::Ok);
        assert_eq!(deadline.delay(at(start, 9000)), Duration::ZERO);
    }
}
