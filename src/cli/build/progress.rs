//! Progress bars of long jobs, hidden if standard error is not a terminal.

use std::sync::{Mutex, PoisonError};

use crate::build::recipe::Progress;
use crate::engine::tensorrt::{self, Monitor};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

fn new_bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{msg:60} {bar:30} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar
}

/// One bar, reused by consecutive steps.
pub(crate) struct Bars {
    bar: ProgressBar,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self { bar: new_bar(0) }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bars {
    fn begin_at(&self, step: &str, done: usize, total: usize) {
        self.bar.reset();
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(step.to_owned());
    }

    fn advance(&self) {
        self.bar.inc(1);
    }

    fn note(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }
}

/// A bar for each phase of TensorRT's builder. Nested phases are indented below their parent.
pub(crate) struct Phases {
    bars: MultiProgress,
    running: Mutex<Vec<Phase>>,
}

struct Phase {
    name: String,
    depth: usize,
    bar: ProgressBar,
}

impl Phases {
    pub(crate) fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            running: Mutex::new(Vec::new()),
        }
    }

    /// Removes the bars.
    pub(crate) fn finish(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for phase in running.drain(..) {
            phase.bar.finish_and_clear();
        }
    }
}

impl Monitor for Phases {
    fn progress(&self, progress: tensorrt::Progress<'_>) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |name: &str| running.iter().position(|phase| phase.name == name);
        match progress {
            tensorrt::Progress::Begin {
                phase,
                parent,
                steps,
            } => {
                let parent = parent.and_then(find).map(|at| &running[at]);
                let depth = parent.map_or(0, |parent| parent.depth + 1);
                let bar = match parent {
                    Some(parent) => self.bars.insert_after(&parent.bar, new_bar(steps)),
                    None => self.bars.add(new_bar(steps)),
                };
                bar.set_message(format!("{:1$}{phase}", "", 2 * depth));
                running.push(Phase {
                    name: phase.to_owned(),
                    depth,
                    bar,
                });
            }
            tensorrt::Progress::Step { phase, step } => {
                if let Some(at) = find(phase) {
                    running[at].bar.set_position(step + 1);
                }
            }
            tensorrt::Progress::End { phase } => {
                if let Some(at) = find(phase) {
                    running.remove(at).bar.finish_and_clear();
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressDrawTarget;

    use super::*;

    #[test]
    fn nested_phases_begin_and_end() {
        let phases = Phases::new();
        phases.bars.set_draw_target(ProgressDrawTarget::hidden());
        let begin = |phase, parent| tensorrt::Progress::Begin {
            phase,
            parent,
            steps: 2,
        };
        for news in [
            begin("build", None),
            begin("optimise", Some("build")),
            begin("time", Some("optimise")),
            tensorrt::Progress::Step {
                phase: "time",
                step: 1,
            },
            // Unknown phases are ignored.
            tensorrt::Progress::Step {
                phase: "another",
                step: 1,
            },
            tensorrt::Progress::End { phase: "another" },
        ] {
            assert!(phases.progress(news));
        }
        let state = || -> Vec<(String, usize, u64)> {
            let running = phases.running.lock().unwrap();
            let row = |p: &Phase| (p.bar.message(), p.depth, p.bar.position());
            running.iter().map(row).collect()
        };
        let row = |message: &str, depth, position| (message.to_owned(), depth, position);
        assert_eq!(
            state(),
            [
                row("build", 0, 0),
                row("  optimise", 1, 0),
                row("    time", 2, 2)
            ]
        );
        phases.progress(tensorrt::Progress::End { phase: "optimise" });
        assert_eq!(state(), [row("build", 0, 0), row("    time", 2, 2)]);
        phases.finish();
        assert!(state().is_empty());
    }
}
