//! The progress bar of long jobs; hidden where standard error is no terminal.

use centerpoint::build::recipe::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// One bar, for one step after the other.
pub(crate) struct Bars {
    bar: ProgressBar,
}

impl Bars {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg:60} {bar:30} {pos}/{len}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bars {
    fn begin(&self, step: &str, total: usize) {
        self.bar.reset();
        self.bar.set_length(total as u64);
        self.bar.set_message(step.to_owned());
    }

    fn advance(&self) {
        self.bar.inc(1);
    }
}
