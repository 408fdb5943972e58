//! A single-slot queue between two threads: the latest item wins.
//!
//! Replaced and finished items are recycled, so that a steady flow allocates nothing.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The slot and the items to recycle.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct State<T> {
    waiting: Option<T>,
    spare: Vec<T>,
}

impl<T> Mailbox<T> {
    /// An empty mailbox.
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: None,
                spare: Vec::new(),
            }),
            filled: Condvar::new(),
        }
    }

    /// Ignores poisoning: no operation under the lock can leave the state inconsistent.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An item to reuse, if there is one.
    pub(crate) fn spare(&self) -> Option<T> {
        self.lock().spare.pop()
    }

    /// Returns a finished item for reuse.
    pub(crate) fn recycle(&self, item: T) {
        self.lock().spare.push(item);
    }

    /// Puts an item into the slot; returns whether it replaced one that was not taken.
    pub(crate) fn put(&self, item: T) -> bool {
        let mut state = self.lock();
        let replaced = state.waiting.replace(item);
        let dropped = replaced.is_some();
        state.spare.extend(replaced);
        drop(state);
        self.filled.notify_one();
        dropped
    }

    /// Takes the waiting item, or one that arrives within `timeout`.
    pub(crate) fn take(&self, timeout: Duration) -> Option<T> {
        let state = self.lock();
        let waited = self
            .filled
            .wait_timeout_while(state, timeout, |state| state.waiting.is_none());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_latest_item_wins_and_items_are_recycled() {
        let mailbox = Mailbox::new();
        assert_eq!(mailbox.spare(), None);
        assert!(!mailbox.put(1));
        assert!(mailbox.put(2));
        assert_eq!(mailbox.spare(), Some(1));
        assert_eq!(mailbox.take(Duration::ZERO), Some(2));
        assert_eq!(mailbox.take(Duration::ZERO), None);
        mailbox.recycle(2);
        assert_eq!(mailbox.spare(), Some(2));
        assert_eq!(mailbox.spare(), None);
    }

    #[test]
    fn a_put_wakes_a_waiting_thread() {
        let mailbox = Arc::new(Mailbox::new());
        let other = Arc::clone(&mailbox);
        let thread = std::thread::spawn(move || other.take(Duration::from_secs(60)));
        mailbox.put(7);
        assert_eq!(thread.join().unwrap(), Some(7));
    }
}
