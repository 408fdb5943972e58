//! What became of the clouds: each is counted once.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that several threads count up.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) received: AtomicU64,
    pub(super) processed: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) unwanted: AtomicU64,
    pub(super) lost: AtomicU64,
}

/// What became of the clouds. `received` is the sum of the next four, but for one that is in work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clouds that came in.
    pub received: u64,
    /// Clouds whose boxes were published.
    pub processed: u64,
    /// Clouds that a newer one replaced before they were begun.
    pub dropped: u64,
    /// Clouds that could not be read.
    pub malformed: u64,
    /// Clouds that nobody wanted: no topic of boxes had a subscriber.
    pub unwanted: u64,
    /// Clouds that never came, by gaps in their publishers' numbers; not among the received.
    pub lost: u64,
}

/// Counts one up.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            received: read(&self.received),
            processed: read(&self.processed),
            dropped: read(&self.dropped),
            malformed: read(&self.malformed),
            unwanted: read(&self.unwanted),
            lost: read(&self.lost),
        }
    }
}

impl Counts {
    /// The counters by name.
    pub fn counters(&self) -> [(&'static str, u64); 6] {
        [
            ("received", self.received),
            ("processed", self.processed),
            ("dropped", self.dropped),
            ("malformed", self.malformed),
            ("unwanted", self.unwanted),
            ("lost", self.lost),
        ]
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = self.counters().map(|(name, n)| format!("{n} {name}"));
        write!(f, "clouds: {}", texts.join(", "))
    }
}
