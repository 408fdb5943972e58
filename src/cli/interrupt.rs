//! SIGINT and SIGTERM: a program that is interrupted leaves no temporary files, and exits with 128 + the signal's number,
//! as a shell expects.

use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::files;

/// A signal has come, and the program ends by itself.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Exit code of a program that ended after SIGINT.
pub(crate) const EXIT: u8 = 128 + SIGINT as u8;

/// What the first signal does. A second one always ends the program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum First {
    /// Ends the program.
    Exit,
    /// Makes [`stopped`] true.
    Stop,
}

/// Handles the signals from now on.
pub(crate) fn handle(program: &'static str, first: First) {
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => {
            log::warn!("cannot handle signals: {error}");
            return;
        }
    };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if first == First::Stop && !STOPPED.swap(true, Ordering::Relaxed) {
                continue;
            }
            files::remove_temporary();
            eprintln!("{program}: interrupted; files that were not complete are as before");
            std::process::exit(128 + signal);
        }
    });
}

/// Whether the program should end by itself.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}
