//! Compares this project's CPU engine with others on the same networks and inputs: time, memory, differences of
//! outputs.
//!
//! `cargo bench --bench engine -- --help` lists the options. Each engine has its own process and all run in
//! turn (see `runner.rs`), so the ratios hold even on a busy machine. The other engines need a Python
//! interpreter in `CENTERPOINT_PYTHON` with numpy, onnx and onnxruntime; OpenVINO is measured if the package
//! `openvino` is installed.

#[path = "../common/frame.rs"]
mod frame;
mod ours;
mod report;
#[path = "../common/runner.rs"]
mod runner;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use centerpoint::internals::testing::Random;
use centerpoint::internals::testing::networks::Network;
use clap::{Parser, ValueEnum};

use crate::runner::Runner;

/// Measures engines in turn, each in its own process.
///
/// The other engines need CENTERPOINT_PYTHON, an interpreter with numpy, onnx and onnxruntime; OpenVINO also
/// needs the package openvino.
#[derive(Parser)]
#[command(name = "engine")]
struct Args {
    /// Networks.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["demo", "autoware-base"])]
    net: Vec<Net>,
    /// Numbers of threads.
    #[arg(long, value_delimiter = ',', default_values = ["1", "2"])]
    threads: Vec<usize>,
    /// Inputs.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["dense", "real"])]
    input: Vec<Input>,
    /// Engines [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    engine: Vec<Engine>,
    /// Time for each table; at least three rounds are run.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Passed by `cargo bench`; absent for `cargo test --benches`, which only checks that this runs.
    #[arg(long, hide = true)]
    bench: bool,
    /// Serve as the measured process and run this plan.
    #[arg(long, hide = true, value_name = "PLAN")]
    serve: Option<PathBuf>,
    /// With `--serve`: what is not computed.
    #[arg(long, hide = true, value_enum, default_value = "lazy")]
    saving: Saving,
    /// Added to the heatmap of autoware-base. Its weights are random, so without it far more cells pass the threshold
    /// than in a trained network.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    heatmap_bias: f32,
}

/// What this project's engine does not compute; each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Saving {
    /// Computes everything.
    None,
    /// Empty pixels.
    Pixels,
    /// Channels of sources that are empty.
    Channels,
    /// What the decoder does not read, as in a detector.
    Lazy,
}

#[derive(Clone, Copy, ValueEnum)]
enum Net {
    /// The shipped model, 256 x 256.
    Demo,
    /// The size deployed by Autoware, 480 x 480, with random weights.
    AutowareBase,
}

/// The network's input.
#[derive(Clone, Copy, ValueEnum)]
enum Input {
    /// Random values in 0..1 everywhere.
    Dense,
    /// The BEV map of a frame.
    Real,
}

/// An engine and the form of network that it runs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// This project's, FP32, as a detector runs it.
    Fp32Lazy,
    /// This project's, FP32, with whole maps.
    Fp32,
    /// This project's, FP32, without skipping empty regions.
    Fp32Full,
    /// This project's, INT8, as a detector runs it.
    Int8Lazy,
    /// This project's, INT8, with whole maps.
    Int8,
    /// This project's, INT8, with whole maps and all channels.
    Int8Pixels,
    /// This project's, INT8, without skipping empty regions.
    Int8Full,
    /// ONNX Runtime, FP32.
    OrtFp32,
    /// ONNX Runtime, INT8 in its fastest form: unsigned codes clipped to 127.
    OrtInt8,
    /// ONNX Runtime, INT8 with signed codes, as required by TensorRT.
    OrtSigned,
    /// OpenVINO, FP32.
    OvFp32,
    /// OpenVINO, INT8 with unsigned codes clipped to 127.
    OvInt8,
    /// OpenVINO, INT8 with signed codes.
    OvSigned,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Engine::Fp32Lazy => "ours FP32, lazy heads",
            Engine::Fp32 => "ours FP32",
            Engine::Fp32Full => "ours FP32, no skipping",
            Engine::Int8Lazy => "ours INT8, lazy heads",
            Engine::Int8 => "ours INT8",
            Engine::Int8Pixels => "ours INT8, all channels",
            Engine::Int8Full => "ours INT8, no skipping",
            Engine::OrtFp32 => "ONNX Runtime FP32",
            Engine::OrtInt8 => "ONNX Runtime INT8 u8+Clip",
            Engine::OrtSigned => "ONNX Runtime INT8 s8",
            Engine::OvFp32 => "OpenVINO FP32",
            Engine::OvInt8 => "OpenVINO INT8 u8+Clip",
            Engine::OvSigned => "OpenVINO INT8 s8",
        }
    }

    /// The engine's name in `run_engine.py`; `None` for this project's.
    fn python(self) -> Option<&'static str> {
        match self {
            _ if self.saving().is_some() => None,
            Engine::OrtFp32 | Engine::OrtInt8 | Engine::OrtSigned => Some("onnxruntime"),
            _ => Some("openvino"),
        }
    }

    /// What this project's engine does not compute; `None` for the others.
    fn saving(self) -> Option<Saving> {
        match self {
            Engine::Fp32Lazy | Engine::Int8Lazy => Some(Saving::Lazy),
            Engine::Fp32 | Engine::Int8 => Some(Saving::Channels),
            Engine::Int8Pixels => Some(Saving::Pixels),
            Engine::Fp32Full | Engine::Int8Full => Some(Saving::None),
            _ => None,
        }
    }

    /// The file with the engine's form of the network.
    fn file(self) -> &'static str {
        match self {
            Engine::Fp32Lazy | Engine::Fp32 | Engine::Fp32Full => "fp32.plan",
            Engine::Int8Lazy | Engine::Int8 | Engine::Int8Pixels | Engine::Int8Full => "int8.plan",
            Engine::OrtFp32 | Engine::OvFp32 => "fp32.onnx",
            Engine::OrtInt8 | Engine::OvInt8 => "u8.onnx",
            Engine::OrtSigned | Engine::OvSigned => "s8.onnx",
        }
    }

    /// This project's engine of the same precision.
    fn ours(self) -> Engine {
        match self {
            Engine::Fp32Lazy
            | Engine::Fp32
            | Engine::Fp32Full
            | Engine::OrtFp32
            | Engine::OvFp32 => Engine::Fp32,
            _ => Engine::Int8,
        }
    }
}

impl Input {
    fn file(self) -> &'static str {
        match self {
            Input::Dense => "dense.f32",
            Input::Real => "real.f32",
        }
    }
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if let Some(plan) = &args.serve {
        return ours::serve(plan, args.threads[0], args.saving);
    }
    let python = runner::python().filter(|_| args.bench);
    if !args.bench {
        (args.net, args.threads, args.seconds) = (vec![Net::Demo], vec![1], 0.0);
        println!("skipped the other engines: this run only checks that ours works");
    } else if python.is_none() {
        println!("skipped the other engines: CENTERPOINT_PYTHON is not set");
    }
    if args.engine.is_empty() {
        args.engine = Engine::value_variants().to_vec();
    }
    args.engine
        .retain(|engine| engine.python().is_none() || python.is_some());
    for net in &args.net {
        let network = match net {
            Net::Demo => Network::demo()?,
            Net::AutowareBase => Network::autoware_base(args.heatmap_bias)?,
        };
        let folder = tempfile::tempdir()?;
        let about = write(&network, folder.path(), python.as_deref())?;
        for &threads in &args.threads {
            measure(
                &network,
                folder.path(),
                &about,
                threads,
                &args,
                python.as_deref(),
            )?;
        }
    }
    Ok(())
}

/// Writes the inputs and the network's forms; returns a description of each input. The real input is always
/// used for calibration, which makes the network the same in all tables.
fn write(network: &Network, folder: &Path, python: Option<&str>) -> Result<[String; 2]> {
    let (model, pfn) = (&network.model, &network.pfn);
    let cells = model.grid.cells();
    let mut random = Random(3);
    let dense: Vec<f32> = (0..cells * model.bev_channels())
        .map(|_| random.next())
        .collect();
    let (real, pillars) = frame::bev(model, pfn, Path::new(frame::FRAME), None)?;
    for (input, values) in [(Input::Dense, &dense), (Input::Real, &real)] {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        std::fs::write(folder.join(input.file()), bytes)?;
    }

    let quantized = network.quantized(&real)?;
    let (s8, u8) = (folder.join("s8.onnx"), folder.join("u8.onnx"));
    network.write_plan(&network.graph, &folder.join("fp32.plan"))?;
    network.write_plan(&quantized, &folder.join("int8.plan"))?;
    network.graph.write(&folder.join("fp32.onnx"))?;
    quantized.write(&s8)?;
    if let Some(python) = python {
        let script = runner::oracle("qdq_u8.py");
        let done = Command::new(python)
            .arg(&script)
            .args([&s8, &u8])
            .status()?;
        anyhow::ensure!(done.success(), "{script} failed");
    }
    let share = 100.0 * pillars as f64 / cells as f64;
    Ok([
        "dense input".to_owned(),
        format!("real input, {share:.1} % of the cells hold a pillar"),
    ])
}

/// Measures all engines on all inputs with one number of threads.
fn measure(
    network: &Network,
    folder: &Path,
    about: &[String; 2],
    threads: usize,
    args: &Args,
    python: Option<&str>,
) -> Result<()> {
    let (mut engines, mut runners) = (Vec::new(), Vec::new());
    for &engine in &args.engine {
        let runner = match (engine.python(), python) {
            (Some(kind), Some(python)) => {
                Runner::python(python, kind, &folder.join(engine.file()), threads)?
            }
            _ => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("--serve").arg(folder.join(engine.file()));
                command.args(["--threads", &threads.to_string()]);
                if let Some(saving) = engine.saving().and_then(|s| s.to_possible_value()) {
                    command.args(["--saving", saving.get_name()]);
                }
                Runner::start(&mut command)?
            }
        };
        match runner {
            Some(runner) => {
                println!("{}: {}", engine.name(), runner.about);
                engines.push(engine);
                runners.push(runner);
            }
            None => println!("skipped {}: the package is not installed", engine.name()),
        }
    }
    for &input in &args.input {
        for runner in &mut runners {
            runner.set_input(&folder.join(input.file()))?;
        }
        let budget = Duration::from_secs_f64(args.seconds);
        let (rounds, figures) = runner::in_turn(&mut runners, budget)?;
        let outputs = runners
            .iter_mut()
            .map(|r| r.outputs(&folder.join("outputs.f32")));
        let outputs: Vec<Vec<f32>> = outputs.collect::<Result<_>>()?;
        let macs = network.macs()? as f64;
        println!(
            "\n{}, {:.1} GMAC, {}, {threads} threads, {rounds} rounds",
            network.name,
            macs / 1e9,
            about[input as usize]
        );
        report::print(&engines, &figures, &outputs, macs);
    }
    Ok(())
}
