//! Engines in processes of their own, run in turn: the method of all comparisons here.
//!
//! A runner is a process with one loaded network that runs once for each line it is sent, so that
//! exactly one engine works at a time, each with its own memory, and other load on the machine meets
//! all alike. `tests/oracle/run_engine.py` says what is sent and answered; [`serve`] is our own end of
//! it. Times are in ms, memory in MB of the whole process as the system counts it.

#![allow(dead_code)] // Each bench uses its part.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Pause before each turn: idle threads of ONNX Runtime spin on for a while, and would take the next
/// engine's second core.
const PAUSE: Duration = Duration::from_millis(100);
/// Runs shorter than this follow an unmeasured one, which brings back caches, clocks and sleeping
/// threads after the others' turns.
const SHORT: f64 = 500.0;
/// Fewest and most rounds.
const ROUNDS: (usize, usize) = (3, 60);

/// A process that runs a network for each line it is sent.
pub(crate) struct Runner {
    child: Child,
    /// `None` once the process was told to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What the engine says it is.
    pub(crate) about: String,
    /// Memory of the process before the network was loaded.
    libraries: f64,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) wall: f64,
    /// Of all threads together.
    pub(crate) processor: f64,
    /// Most memory so far.
    pub(crate) peak: f64,
}

/// What the rounds of one engine gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) smallest: f64,
    pub(crate) median: f64,
    pub(crate) mean_processor: f64,
    pub(crate) peak: f64,
    /// Peak memory without what the process had before it loaded the network.
    pub(crate) own: f64,
}

impl Runner {
    /// Starts a runner; `None` if it says that its engine is not installed.
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
            bail!("{command:?} says {line:?}, expected `ready`");
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

    /// Loads an input from a file of f32 in the order of NCHW.
    pub(crate) fn set_input(&mut self, path: &Path) -> Result<()> {
        self.order(&format!("input {}", path.display()))
    }

    /// Writes the last run's outputs to a file, NCHW, one after the other, and reads it.
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
        let words: Vec<f64> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [wall, processor, peak] = words[..] else {
            bail!("{} says {line:?}, expected three numbers", self.about);
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
            "{} says {answer:?} to {line:?}",
            self.about
        );
        Ok(())
    }

    fn send(&mut self, line: &str) -> Result<()> {
        writeln!(self.input.as_mut().context("has ended")?, "{line}")?;
        Ok(())
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "the process has ended {}", self.about);
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// Runs all in turn, for about `budget` but at least three rounds after an unmeasured one. Gives the
/// number of rounds and each one's figures.
pub(crate) fn in_turn(runners: &mut [Runner], budget: Duration) -> Result<(usize, Vec<Figures>)> {
    let mut first = Vec::new();
    for runner in runners.iter_mut() {
        // The very first run is slower: memory is touched, kernels are chosen.
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

/// A network that [`serve`] runs.
pub(crate) trait Served {
    fn set_input(&mut self, path: &Path) -> Result<()>;
    fn run(&mut self) -> Result<()>;
    fn write_outputs(&self, path: &Path) -> Result<()>;
}

/// Our end of a runner: loads a network, which gives it and what it is, and then answers standard
/// input until it ends.
pub(crate) fn serve<S: Served>(load: impl FnOnce() -> Result<(S, String)>) -> Result<()> {
    let libraries = peak_megabytes();
    let (mut served, about) = load()?;
    println!("ready {libraries} {about}");
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("input", path) => served.set_input(Path::new(path))?,
            ("outputs", path) => served.write_outputs(Path::new(path))?,
            ("run", "") => {
                let (begin, processor) = (Instant::now(), processor_milliseconds());
                served.run()?;
                let wall = begin.elapsed().as_secs_f64() * 1e3;
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

/// The interpreter of the other engines, if there is one.
pub(crate) fn python() -> Option<String> {
    let python = std::env::var("CENTERPOINT_PYTHON").ok()?;
    Some(python).filter(|path| !path.is_empty())
}

/// A script of the oracle tests.
pub(crate) fn oracle(name: &str) -> String {
    format!("{}/tests/oracle/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Peak memory of this process; NaN where the system does not say it.
fn peak_megabytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.map_or(f64::NAN, |kilobytes| kilobytes / 1024.0)
}

/// Processor time of all threads of this process; 0 where the system does not say it.
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
