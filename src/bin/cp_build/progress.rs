//! The progress bar of long jobs, which is hidden where standard error is no terminal.

use std::sync::Mutex;

use centerpoint::build::recipe::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar for the step at hand.
#[derive(Default)]
pub(crate) struct Bar {
    bar: Mutex<Option<ProgressBar>>,
}

impl Bar {
    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.replace(None);
    }

    fn replace(&self, new: Option<ProgressBar>) {
        // A bar is only shown: what a panic elsewhere left of it does no harm.
        let mut bar = self.bar.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(old) = std::mem::replace(&mut *bar, new) {
            old.finish_and_clear();
        }
    }
}

impl Progress for Bar {
    fn begin(&self, step: &str, total: usize) {
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) = ProgressStyle::with_template("{msg}: {bar:40} {pos}/{len}, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(step.to_owned());
        self.replace(Some(bar));
    }

    fn advance(&self) {
        let bar = self.bar.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(bar) = &*bar {
            bar.inc(1);
        }
    }
}
