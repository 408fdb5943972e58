//! The libraries' log: to the `log` crate, target `tensorrt`; and what the call that is going on needs of it.
//!
//! A library has one logger, whatever is made or run with it, and some of its lines come from threads of its
//! own. So a call that wants to know why it failed listens while it lasts: it hears the lines of its own
//! thread, and those of threads on which nobody listens.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// Whether a line is the builder's account of the layers that it chose, at severity verbose. TensorRT begins
/// it with the first, TensorRT-RTX 1.7 with the second.
fn tells_layers(line: &str) -> bool {
    line.starts_with("Engine Layer Information:") || line.starts_with("Layers:")
}

/// Most errors that are kept of one call.
const LIMIT: usize = 32;

/// What a listener heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Errors and internal errors.
    pub(super) errors: Vec<String>,
    /// The last line that [`tells_layers`].
    pub(super) layers: Option<String>,
}

struct Listening {
    id: u64,
    thread: ThreadId,
    quiet: bool,
    heard: Heard,
}

struct Listeners {
    next: u64,
    all: Vec<Listening>,
}

static LISTENERS: Mutex<Listeners> = Mutex::new(Listeners {
    next: 0,
    all: Vec::new(),
});

fn listeners() -> MutexGuard<'static, Listeners> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens from its making to [`Listener::finish`]. Where nothing is said this allocates nothing, once as many
/// have listened at a time before.
pub(super) struct Listener(u64);

impl Listener {
    pub(super) fn new() -> Self {
        Self::with(false)
    }

    /// For a try that may fail: errors are logged as details.
    pub(super) fn quiet() -> Self {
        Self::with(true)
    }

    fn with(quiet: bool) -> Self {
        let mut listeners = listeners();
        let id = listeners.next;
        listeners.next += 1;
        listeners.all.push(Listening {
            id,
            thread: thread::current().id(),
            quiet,
            heard: Heard::default(),
        });
        Self(id)
    }

    /// What was heard.
    pub(super) fn finish(self) -> Heard {
        self.take().unwrap_or_default()
    }

    fn take(&self) -> Option<Heard> {
        let mut listeners = listeners();
        let at = listeners.all.iter().position(|one| one.id == self.0)?;
        Some(listeners.all.remove(at).heard)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.take();
    }
}

/// Takes a line of a library. `severity` is ILogger's: 0 internal error, 1 error, 2 warning, 3 info, 4 verbose.
pub(super) fn line(severity: i32, line: &str) {
    let mut level = match severity {
        ..=1 => log::Level::Error,
        2 => log::Level::Warn,
        3 => log::Level::Info,
        _ => log::Level::Trace,
    };
    if level == log::Level::Error || tells_layers(line) {
        let thread = thread::current().id();
        let mut listeners = listeners();
        let own = listeners.all.iter_mut().rfind(|one| one.thread == thread);
        match own {
            Some(own) => {
                own.hear(level, line);
                if own.quiet {
                    level = level.max(log::Level::Debug);
                }
            }
            None => listeners
                .all
                .iter_mut()
                .for_each(|one| one.hear(level, line)),
        }
    }
    log::log!(target: "tensorrt", level, "{line}");
}

impl Listening {
    fn hear(&mut self, level: log::Level, line: &str) {
        if level != log::Level::Error {
            self.heard.layers = Some(line.to_owned());
        } else if self.heard.errors.len() < LIMIT {
            self.heard.errors.push(line.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: threads of nobody are heard by all.
    #[test]
    fn a_call_hears_its_own_thread_and_those_of_nobody() {
        let outer = Listener::new();
        line(1, "first");
        line(2, "a warning");
        thread::scope(|scope| {
            scope.spawn(|| line(0, "of a thread of the library"));
            scope.spawn(|| {
                let other = Listener::quiet();
                line(1, "of another call");
                assert!(
                    other
                        .finish()
                        .errors
                        .contains(&"of another call".to_owned())
                );
            });
        });
        line(4, "Layers:\nName: a");
        let heard = outer.finish();
        assert_eq!(heard.errors, ["first", "of a thread of the library"]);
        assert!(heard.layers.unwrap().contains("Name: a"));
        line(1, "after all");
        assert!(Listener::new().finish().errors.is_empty());

        // A call within a call.
        let outer = Listener::new();
        let inner = Listener::new();
        line(1, "inner");
        assert_eq!(inner.finish().errors, ["inner"]);
        line(1, "outer");
        assert_eq!(outer.finish().errors, ["outer"]);
    }
}
