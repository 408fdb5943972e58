//! Cloud counters: each cloud is counted once by its outcome.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters shared by the node's threads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) received: AtomicU64,
    pub(crate) processed: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) unplaced: AtomicU64,
    pub(crate) unwanted: AtomicU64,
    pub(crate) lost: AtomicU64,
}

/// A snapshot of the counters. `received` is the sum of the next five, except for a cloud in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Clouds that arrived.
    pub(crate) received: u64,
    /// Clouds whose boxes were published.
    pub(crate) processed: u64,
    /// Clouds replaced by a newer one before they were processed.
    pub(crate) dropped: u64,
    /// Clouds that could not be read.
    pub(crate) malformed: u64,
    /// Clouds that no transform placed, where such clouds make no frame.
    pub(crate) unplaced: u64,
    /// Clouds that arrived while no box topic had a subscriber.
    pub(crate) unwanted: u64,
    /// Clouds that never arrived, from gaps in sequence numbers; not included in `received`.
    pub(crate) lost: u64,
}

/// Adds one to a counter.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            received: read(&self.received),
            processed: read(&self.processed),
            dropped: read(&self.dropped),
            malformed: read(&self.malformed),
            unplaced: read(&self.unplaced),
            unwanted: read(&self.unwanted),
            lost: read(&self.lost),
        }
    }
}

impl Counts {
    /// The counters with their names.
    pub(crate) fn counters(&self) -> [(&'static str, u64); 7] {
        [
            ("received", self.received),
            ("processed", self.processed),
            ("dropped", self.dropped),
            ("malformed", self.malformed),
            ("unplaced", self.unplaced),
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
