//! Runs engines in separate processes, in turn: the method of all comparisons here.
//!
//! A runner is a process with one loaded network, which it runs once for each line received. Exactly one engine
//! works at a time, each with its own memory, and other load on the machine affects all of them alike.
//! `tests/oracle/run_engine.py` documents the protocol; [`serve`] is this project's side of it. Times are in
//! ms; memory is that of the whole process in MB, as reported by the system.

#![allow(dead_code)] // Each bench uses a part of it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Pause before each turn: idle threads of ONNX Runtime spin for a while, and would occupy the next engine's
/// second core.
const PAUSE: Duration = Duration::from_millis(100);
/// Runs shorter than this follow an unmeasured one, which restores caches, clocks and sleeping threads after
/// the other engines' turns.
const SHORT: f64 = 500.0;
/// Fewest and most rounds.
const ROUNDS: (usize, usize) = (3, 60);

/// A process that runs a network once per line received.
pub(crate) struct Runner {
    child: Child,
    /// `None` once the process has been told to exit.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// The engine's description of itself.
    pub(crate) about: String,
    /// Memory of the process before the network was loaded.
    libraries: f64,
}

/// The figures of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) wall: f64,
    /// Processor time of all threads.
    pub(crate) processor: f64,
    /// Peak memory so far.
    pub(crate) peak: f64,
}

/// The figures of one engine over all rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) smallest: f64,
    pub(crate) median: f64,
    pub(crate) mean_processor: f64,
    pub(crate) peak: f64,
    /// Peak memory minus the memory before the network was loaded.
    pub(crate) own: f64,
}

impl Runner {
    /// Starts a runner; `None` if it reports that its engine is not installed.
    pub(crate) fn start(command: &mut Command) -> Result<Option<Self>> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut runner = Self {
            child,
            input,
            output,
            about: String::new(),
            libraries: f64::NAN,
        };
        let line = runner.answer().with_context(|| format!("{command:?}"))?;
        let Some((libraries, about)) = line
            .strip_prefix("ready ")
            .and_then(|rest| rest.split_once(' '))
        else {
            if line.starts_with("missing ") {
                return Ok(None);
            }
            bail!("{command:?} answered {line:?}, expected `ready`");
        };
        runner.libraries = libraries.parse()?;
        runner.about = about.to_owned();
        Ok(Some(runner))
    }

    /// A Python runner of `engine` (`onnxruntime` or `openvino`).
    pub(crate) fn python(
        python: &str,
        engine: &str,
        onnx: &Path,
        threads: usize,
    ) -> Result<Option<Self>> {
        Self::start(
            Command::new(python)
                .arg(oracle("run_engine.py"))
                .arg(engine)
                .arg(onnx)
                .arg(threads.to_string()),
        )
    }

    /// Loads an input from a file of f32 in NCHW order.
    pub(crate) fn set_input(&mut self, path: &Path) -> Result<()> {
        self.order(&format!("input {}", path.display()))
    }

    /// Lets the runner write the last run's outputs to a file, one after the other in NCHW order, and reads it.
    pub(crate) fn outputs(&mut self, path: &Path) -> Result<Vec<f32>> {
        self.order(&format!("outputs {}", path.display()))?;
        let bytes = std::fs::read(path)?;
        let values = bytes.chunks_exact(4);
        Ok(values
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    }

    fn run(&mut self) -> Result<Run> {
        self.send("run")?;
        let line = self.answer()?;
        let numbers: Vec<f64> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [wall, processor, peak] = numbers[..] else {
            bail!("{} answered {line:?}, expected three numbers", self.about);
        };
        Ok(Run {
            wall,
            processor,
            peak,
        })
    }

    fn order(&mut self, line: &str) -> Result<()> {
        self.send(line)?;
        let answer = self.answer()?;
        anyhow::ensure!(
            answer == "done",
            "{} answered {answer:?} to {line:?}",
            self.about
        );
        Ok(())
    }

    fn send(&mut self, line: &str) -> Result<()> {
        writeln!(
            self.input.as_mut().context("the process has exited")?,
            "{line}"
        )?;
        Ok(())
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "the process has exited {}", self.about);
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // It exits at the end of its input.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// Runs all in turn, for about `budget` but at least three rounds after an unmeasured one. Returns the number
/// of rounds and each runner's figures.
pub(crate) fn in_turn(runners: &mut [Runner], budget: Duration) -> Result<(usize, Vec<Figures>)> {
    let mut first = Vec::new();
    for runner in runners.iter_mut() {
        // The first run is slower: it touches memory and selects kernels.
        runner.run()?;
        first.push(runner.run()?.wall);
    }
    let turns = first
        .iter()
        .map(|wall| if *wall < SHORT { 2.0 * wall } else { *wall });
    let round = turns.sum::<f64>() / 1e3 + PAUSE.as_secs_f64() * first.len() as f64;
    let rounds = ((budget.as_secs_f64() / round) as usize).clamp(ROUNDS.0, ROUNDS.1);
    let mut runs = vec![Vec::new(); runners.len()];
    for _ in 0..rounds {
        for ((runner, runs), first) in runners.iter_mut().zip(&mut runs).zip(&first) {
            std::thread::sleep(PAUSE);
            if *first < SHORT {
                runner.run()?;
            }
            runs.push(runner.run()?);
        }
    }
    let figures = runners.iter().zip(&runs).map(|(runner, runs)| {
        let mut walls: Vec<f64> = runs.iter().map(|run| run.wall).collect();
        walls.sort_by(f64::total_cmp);
        let peak = runs.iter().fold(0.0, |peak: f64, run| peak.max(run.peak));
        Figures {
            smallest: walls[0],
            median: walls[rounds / 2],
            mean_processor: runs.iter().map(|run| run.processor).sum::<f64>() / rounds as f64,
            peak,
            own: peak - runner.libraries,
        }
    });
    Ok((rounds, figures.collect()))
}

/// A network run by [`serve`].
pub(crate) trait RunnerNetwork {
    fn set_input(&mut self, path: &Path) -> Result<()>;
    fn run(&mut self) -> Result<()>;
    fn write_outputs(&self, path: &Path) -> Result<()>;
}

/// Serves as a runner: calls `load` for a network and its description, then answers standard input until its end.
pub(crate) fn serve<S: RunnerNetwork>(load: impl FnOnce() -> Result<(S, String)>) -> Result<()> {
    let libraries = peak_megabytes();
    let (mut served, about) = load()?;
    println!("ready {libraries} {about}");
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("input", path) => served.set_input(Path::new(path))?,
            ("outputs", path) => served.write_outputs(Path::new(path))?,
            ("run", "") => {
                let (start, processor) = (Instant::now(), processor_milliseconds());
                served.run()?;
                let wall = start.elapsed().as_secs_f64() * 1e3;
                let processor = processor_milliseconds() - processor;
                println!("{wall} {processor} {}", peak_megabytes());
                continue;
            }
            _ => bail!("unknown order {line:?}"),
        }
        println!("done");
    }
    Ok(())
}

/// The Python interpreter for the other engines, if any.
pub(crate) fn python() -> Option<String> {
    let python = std::env::var("CENTERPOINT_PYTHON").ok()?;
    Some(python).filter(|path| !path.is_empty())
}

/// A script of the oracle tests.
pub(crate) fn oracle(name: &str) -> String {
    format!("{}/tests/oracle/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Peak memory of this process; NaN if the system does not report it.
fn peak_megabytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.map_or(f64::NAN, |kilobytes| kilobytes / 1024.0)
}

/// Processor time of all threads of this process; 0 if the system does not report it.
fn processor_milliseconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e6
}
