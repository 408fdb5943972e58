//! Rate limit for warnings that every cloud may cause.

use std::time::{Duration, Instant};

use crate::node::TARGET;

/// Time between two warnings of the same kind, as is usual in ROS nodes.
const PERIOD: Duration = Duration::from_secs(5);

/// Limits one kind of warning.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// When it was last logged.
    last: Option<Instant>,
    /// How often it was suppressed since.
    suppressed: u64,
}

impl Throttle {
    /// Logs a warning, or counts it if the last one is too recent.
    pub(crate) fn warn(&mut self, message: impl FnOnce() -> String) {
        match self.due(Instant::now()) {
            None => {}
            Some(0) => log::warn!(target: TARGET, "{}", message()),
            Some(n) => {
                log::warn!(target: TARGET, "{} ({n} similar warnings suppressed)", message())
            }
        }
    }

    /// The number of suppressed warnings if the next one is due.
    fn due(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now - last < PERIOD) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_warning_and_then_one_per_period_is_due() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let mut at = |ms| throttle.due(start + Duration::from_millis(ms));
        assert_eq!(
            [0, 1, 4999, 5000, 5001, 10_000].map(&mut at),
            [Some(0), None, None, Some(2), None, Some(1)]
        );
    }
}
