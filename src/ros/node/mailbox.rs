//! A place for one thing between two threads: the latest wins.
//!
//! Things go round: what was replaced or is done with comes back to be filled again, so that nothing is
//! allocated while things flow.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The place.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct State<T> {
    waiting: Option<T>,
    spare: Vec<T>,
}

impl<T> Mailbox<T> {
    /// An empty place.
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: None,
                spare: Vec::new(),
            }),
            filled: Condvar::new(),
        }
    }

    /// Nothing that is done under the lock can leave it half done.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something to fill, if there is.
    pub(super) fn spare(&self) -> Option<T> {
        self.lock().spare.pop()
    }

    /// Gives back what is done with.
    pub(super) fn give_back(&self, thing: T) {
        self.lock().spare.push(thing);
    }

    /// Puts a thing in its place; says whether it replaced one that nobody took.
    pub(super) fn put(&self, thing: T) -> bool {
        let mut state = self.lock();
        let replaced = state.waiting.replace(thing);
        let dropped = replaced.is_some();
        state.spare.extend(replaced);
        drop(state);
        self.filled.notify_one();
        dropped
    }

    /// Takes what waits, or what comes within `timeout`.
    pub(super) fn take(&self, timeout: Duration) -> Option<T> {
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
    fn the_latest_wins_and_things_go_round() {
        let mailbox = Mailbox::new();
        assert_eq!(mailbox.spare(), None);
        assert!(!mailbox.put(1));
        assert!(mailbox.put(2));
        assert_eq!(mailbox.spare(), Some(1));
        assert_eq!(mailbox.take(Duration::ZERO), Some(2));
        assert_eq!(mailbox.take(Duration::ZERO), None);
        mailbox.give_back(2);
        assert_eq!(mailbox.spare(), Some(2));
        assert_eq!(mailbox.spare(), None);
    }

    #[test]
    fn who_waits_is_woken() {
        let mailbox = Arc::new(Mailbox::new());
        let other = Arc::clone(&mailbox);
        let thread = std::thread::spawn(move || other.take(Duration::from_secs(60)));
        mailbox.put(7);
        assert_eq!(thread.join().unwrap(), Some(7));
    }
}
