//! Forwards the libraries' log to the `log` crate, target `tensorrt`, and captures the lines that a call needs.
//!
//! A library has a single logger for everything that is created or run with it, and some lines come from its own threads.
//! A call that wants to know why it failed therefore listens while it runs: it captures the lines of its own thread, and
//! those of threads on which no call listens.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// Whether a line is the builder's verbose list of the layers that it chose. The first prefix is TensorRT's, the second
/// TensorRT-RTX 1.7's.
fn lists_layers(line: &str) -> bool {
    line.starts_with("Engine Layer Information:") || line.starts_with("Layers:")
}

/// Most errors to keep per call.
const LIMIT: usize = 32;

/// The lines that a listener captured.
#[derive(Debug, Default)]
pub(super) struct CapturedLog {
    /// Errors and internal errors.
    pub(super) errors: Vec<String>,
    /// The last list of layers; see [`lists_layers`].
    pub(super) layers: Option<String>,
}

struct ActiveListener {
    id: u64,
    thread: ThreadId,
    quiet: bool,
    log: CapturedLog,
}

struct Listeners {
    next: u64,
    all: Vec<ActiveListener>,
}

static LISTENERS: Mutex<Listeners> = Mutex::new(Listeners {
    next: 0,
    all: Vec::new(),
});

fn listeners() -> MutexGuard<'static, Listeners> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens from its creation to [`Listener::finish`]. If nothing is logged, this allocates nothing once as many calls
/// have listened at the same time before.
pub(super) struct Listener(u64);

impl Listener {
    pub(super) fn new() -> Self {
        Self::with(false)
    }

    /// For an attempt that may fail: errors are logged at debug level.
    pub(super) fn quiet() -> Self {
        Self::with(true)
    }

    fn with(quiet: bool) -> Self {
        let mut listeners = listeners();
        let id = listeners.next;
        listeners.next += 1;
        listeners.all.push(ActiveListener {
            id,
            thread: thread::current().id(),
            quiet,
            log: CapturedLog::default(),
        });
        Self(id)
    }

    /// Stops listening and returns the captured lines.
    pub(super) fn finish(self) -> CapturedLog {
        self.take().unwrap_or_default()
    }

    fn take(&self) -> Option<CapturedLog> {
        let mut listeners = listeners();
        let at = listeners.all.iter().position(|one| one.id == self.0)?;
        Some(listeners.all.remove(at).log)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.take();
    }
}

/// Handles a line of a library's log. `severity` is ILogger's: 0 internal error, 1 error, 2 warning, 3 info, 4 verbose.
pub(super) fn line(severity: i32, line: &str) {
    let mut level = match severity {
        ..=1 => log::Level::Error,
        2 => log::Level::Warn,
        3 => log::Level::Info,
        _ => log::Level::Trace,
    };
    if level == log::Level::Error || lists_layers(line) {
        let thread = thread::current().id();
        let mut listeners = listeners();
        let own = listeners.all.iter_mut().rfind(|one| one.thread == thread);
        match own {
            Some(own) => {
                own.capture(level, line);
                if own.quiet {
                    level = level.max(log::Level::Debug);
                }
            }
            None => listeners
                .all
                .iter_mut()
                .for_each(|one| one.capture(level, line)),
        }
    }
    log::log!(target: "tensorrt", level, "{line}");
}

impl ActiveListener {
    fn capture(&mut self, level: log::Level, line: &str) {
        if level != log::Level::Error {
            self.log.layers = Some(line.to_owned());
        } else if self.log.errors.len() < LIMIT {
            self.log.errors.push(line.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A single test, because every listener captures the lines of threads without one.
    #[test]
    fn a_call_captures_its_own_thread_and_threads_without_listener() {
        let outer = Listener::new();
        line(1, "first");
        line(2, "a warning");
        thread::scope(|scope| {
            scope.spawn(|| line(0, "from a library thread"));
            scope.spawn(|| {
                let other = Listener::quiet();
                line(1, "from another call");
                assert!(
                    other
                        .finish()
                        .errors
                        .contains(&"from another call".to_owned())
                );
            });
        });
        line(4, "Layers:\nName: a");
        let log = outer.finish();
        assert_eq!(log.errors, ["first", "from a library thread"]);
        assert!(log.layers.unwrap().contains("Name: a"));
        line(1, "after finishing");
        assert!(Listener::new().finish().errors.is_empty());

        // A nested call.
        let outer = Listener::new();
        let inner = Listener::new();
        line(1, "inner");
        assert_eq!(inner.finish().errors, ["inner"]);
        line(1, "outer");
        assert_eq!(outer.finish().errors, ["outer"]);
    }
}
