//! Warnings that may come with every cloud, told at most every five seconds.

use std::time::{Duration, Instant};

use super::TARGET;

/// Time between two warnings of one kind, as ROS nodes have it.
const PERIOD: Duration = Duration::from_secs(5);

/// When a kind of warning was last told, and how often it was not.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: Option<Instant>,
    silent: u64,
}

impl Throttle {
    /// Warns, or counts.
    pub(super) fn warn(&mut self, message: impl FnOnce() -> String) {
        if let Some(silent) = self.due(Instant::now()) {
            match silent {
                0 => log::warn!(target: TARGET, "{}", message()),
                more => log::warn!(target: TARGET, "{} (and {more} such before)", message()),
            }
        }
    }

    /// Whether it is time; then the number of those that were not told.
    fn due(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now - last < PERIOD) {
            self.silent += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_then_one_in_a_period() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let mut at = |ms| throttle.due(start + Duration::from_millis(ms));
        assert_eq!(
            [0, 1, 4999, 5000, 5001, 10_000].map(&mut at),
            [Some(0), None, None, Some(2), None, Some(1)]
        );
    }
}
