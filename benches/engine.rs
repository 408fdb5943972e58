//! The CPU engine on the demo model's backbone, neck and head (random weights).
//!
//! `cargo bench --bench engine` measures 1 and 2 threads. If `CENTERPOINT_PYTHON` names an interpreter
//! with onnxruntime, it first runs the same network there, in turn with ours: two processes that
//! wait for each other, one turn each at a time, so that other load on the machine meets both alike.
//! Peak memory is that of the whole process, as the system counts it.

#[allow(dead_code, unreachable_pub)]
#[path = "../tests/common/engine_net.rs"]
mod net;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use centerpoint::engine::Engine;
use centerpoint::engine::cpu::program::ALIGN;
use centerpoint::engine::cpu::{CpuEngine, Options};
use centerpoint::threads::Pool;
use criterion::Criterion;

/// Rows and columns of the input map.
const SIDE: usize = 256;
/// Runs of each engine.
const ROUNDS: usize = 60;
/// Pause before each turn. ONNX Runtime's idle threads spin on for a while; without the pause they
/// would take the other engine's second core.
const PAUSE: Duration = Duration::from_millis(100);
/// Argument that makes this program the measured process.
const CHILD: &str = "--run-engine";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == CHILD) {
        let threads = arguments
            .get(at + 1)
            .context("number of threads is missing")?;
        return child(threads.parse()?);
    }
    // `cargo test --benches` only wants to know whether this runs.
    let is_test = arguments.iter().any(|argument| argument == "--test");
    match std::env::var("CENTERPOINT_PYTHON") {
        _ if is_test => {}
        Ok(python) if !python.is_empty() => compare(&python)?,
        _ => println!("skipped ONNX Runtime: CENTERPOINT_PYTHON is not set"),
    }
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    for threads in [1, 2] {
        let mut engine = load(threads)?;
        criterion.bench_function(&format!("demo/{threads} threads"), |bencher| {
            bencher.iter(|| engine.run());
        });
    }
    criterion.final_summary();
    Ok(())
}

/// Weights at an aligned address, as in a memory-mapped plan.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(weights: &[u8]) -> Self {
        let mut bytes = vec![0; weights.len() + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        bytes[start..start + weights.len()].copy_from_slice(weights);
        Self { bytes, start }
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// The demo network with a random input.
fn load(threads: usize) -> Result<CpuEngine> {
    let payload = net::demo(SIDE).payload()?;
    let pool = Arc::new(Pool::new(threads));
    let weights = Arc::new(Aligned::new(&payload.weights));
    let mut engine = CpuEngine::new(payload.program, weights, pool, &Options::default())?;
    let mut view = engine.input_mut();
    let mut random = net::Random(3);
    for c in 0..view.layout.channels {
        for y in 0..view.layout.height {
            for x in 0..view.layout.width {
                view.set(c, y, x, random.value());
            }
        }
    }
    Ok(engine)
}

/// The measured process: for each line read, runs twice and prints the milliseconds that the second run
/// took, those of processor time, and peak megabytes.
fn child(threads: usize) -> Result<()> {
    let mut engine = load(threads)?;
    println!("ready 0 0");
    for line in std::io::stdin().lines() {
        line?;
        // Not measured: caches, clocks and sleeping threads after the other engine's turn.
        engine.run()?;
        let (begin, processor) = (Instant::now(), processor_milliseconds());
        engine.run()?;
        let wall = begin.elapsed().as_secs_f64() * 1e3;
        println!(
            "{wall} {} {}",
            processor_milliseconds() - processor,
            peak_megabytes()
        );
    }
    Ok(())
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

/// A process that runs a network, and measures the second run, for each line it is sent.
struct Runner {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Wall time of each run.
    wall: Vec<f64>,
    /// Processor time of each run.
    processor: Vec<f64>,
    peak: f64,
    /// Megabytes before the network was loaded.
    libraries: f64,
}

impl Runner {
    fn new(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        let (wall, processor, peak) = (Vec::new(), Vec::new(), f64::NAN);
        let mut runner = Self {
            child,
            input,
            output,
            wall,
            processor,
            peak,
            libraries: f64::NAN,
        };
        runner.libraries = runner.words()?[1].parse()?;
        Ok(runner)
    }

    /// The three words of the next line.
    fn words(&mut self) -> Result<[String; 3]> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        words
            .try_into()
            .map_err(|_| anyhow::anyhow!("unexpected output {line:?}"))
    }

    fn run(&mut self) -> Result<()> {
        writeln!(self.input, "run")?;
        let [wall, processor, peak] = self.words()?;
        self.wall.push(wall.parse()?);
        self.processor.push(processor.parse()?);
        self.peak = peak.parse()?;
        Ok(())
    }

    /// Smallest and median wall time, mean processor time.
    fn finish(mut self) -> Result<[f64; 3]> {
        drop(self.input);
        self.child.wait()?;
        self.wall.sort_by(f64::total_cmp);
        let count = self.processor.len();
        let processor = self.processor.iter().sum::<f64>() / count as f64;
        Ok([self.wall[0], self.wall[count / 2], processor])
    }
}

/// Runs our engine and ONNX Runtime in turn and prints both.
fn compare(python: &str) -> Result<()> {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/oracle/onnx_reference.py"
    );
    let folder = tempfile::tempdir()?;
    let network = net::demo(SIDE);
    let bytes: Vec<u8> = network
        .constants
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    std::fs::write(
        folder.path().join("demo.json"),
        serde_json::to_vec(&network)?,
    )?;
    std::fs::write(folder.path().join("demo.constants.f32"), bytes)?;
    let made = Command::new(python)
        .args([script, "make"])
        .arg(folder.path())
        .status()?;
    anyhow::ensure!(made.success(), "{script} failed");
    let onnx = folder.path().join("demo.onnx");
    let macs: u64 = network
        .payload()?
        .program
        .layers()
        .iter()
        .map(|layer| layer.macs)
        .sum();

    println!(
        "demo network, {:.2} GMAC, {ROUNDS} runs in turn",
        macs as f64 / 1e9
    );
    for threads in ["1", "2"] {
        let mut ours = Runner::new(Command::new(std::env::current_exe()?).args([CHILD, threads]))?;
        let mut theirs = Runner::new(
            Command::new(python)
                .args([script, "time"])
                .arg(&onnx)
                .arg(threads),
        )?;
        for _ in 0..ROUNDS {
            std::thread::sleep(PAUSE);
            ours.run()?;
            std::thread::sleep(PAUSE);
            theirs.run()?;
        }
        let (peak, libraries) = ([ours.peak, theirs.peak], theirs.libraries);
        let (ours, theirs) = (ours.finish()?, theirs.finish()?);
        println!("{threads} threads                  ours   ONNX Runtime   ratio");
        let line = |what: &str, ours: f64, theirs: f64| {
            println!("  {what:22} {ours:8.1} {theirs:14.1} {:7.2}", ours / theirs);
        };
        line("smallest time, ms", ours[0], theirs[0]);
        line("median time, ms", ours[1], theirs[1]);
        line("mean CPU time, ms", ours[2], theirs[2]);
        line("peak memory, MB", peak[0], peak[1]);
        line("  without libraries", peak[0], peak[1] - libraries);
        println!("  GMAC/s {:.0}", macs as f64 / ours[0] / 1e6);
    }
    Ok(())
}
