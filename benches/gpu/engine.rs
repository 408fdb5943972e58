//! Time of the CUDA engine by layer, INT8 beside FP16, and what each saving saves.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use centerpoint::cuda::Device;
use centerpoint::engine::{Engine, LayerTime, MapMut};
use centerpoint::internals::cuda::peak::peak;
use centerpoint::internals::engine::cuda::{Computed, CudaEngine, Options};
use centerpoint::internals::engine::lazy::LazyHeads;
use centerpoint::internals::program::Program;
use centerpoint::internals::testing::Random;
use centerpoint::internals::testing::networks::Network;
use centerpoint::map::{Element, quantize};
use centerpoint::points::ReadOptions;
use centerpoint::{Detector, Layout, Plan, points};
use half::f16;

use crate::{frame, median};

/// Rounds of products of the measure of tensor cores: milliseconds.
const ROUNDS: u32 = 100_000;
/// Bytes of input channels at a time and output channels of the blocks that are compared; the first is the default.
const BLOCKS: [[usize; 2]; 3] = [[64, 64], [32, 64], [32, 32]];

/// Measures a network, `demo` or `base`. `frames`: runs of each time.
pub(crate) fn run(name: &str, device: &Arc<dyn Device>, frames: usize) -> Result<()> {
    let network = network(name)?;
    let real = real_frames(&network)?;
    let (_, first) = real.first().context("no frame")?;
    let quick = frames < 10;
    for half in [false, true] {
        let rounds = if quick { 2 } else { ROUNDS };
        let most = peak(device, half, rounds)?;
        let kind = if half { "FP16" } else { "INT8" };
        println!(
            "\n{name}, {kind}: products alone reach {:.0} TOPS",
            2.0 * most / 1e12
        );
        let plan = plan(&network, first, half)?;
        let blocks = if quick { &BLOCKS[..1] } else { &BLOCKS };
        for &block in blocks {
            let options = Options {
                half,
                block: Some(block),
                ..Options::default()
            };
            layers(&plan, device, &options, first, frames.div_ceil(10), most)?;
        }
        savings(&plan, device, half, first, frames)?;
    }
    Ok(())
}

/// Prints what is left of the multiply-adds for each of the frames, counted by the device.
pub(crate) fn left(name: &str, device: &Arc<dyn Device>) -> Result<()> {
    let network = network(name)?;
    let real = real_frames(&network)?;
    let plan = plan(&network, &real.first().context("no frame")?.1, false)?;
    println!("\n{name}: share of the multiply-adds that are left");
    println!("| frame | tiles | and sources |\n|---|---|---|");
    // Neither depends on what the network computes.
    let switches = switches(&plan, false);
    for (frame, values) in &real {
        let mut row = format!("| {frame} |");
        for options in &switches[1..3] {
            let mut engine = engine(&plan, device, options)?;
            set_input(&mut engine, values)?;
            engine.run()?;
            device.wait()?;
            let share = plan.share(&engine.computed()?);
            row += &format!(" {share:.3} |");
        }
        println!("{row}");
    }
    Ok(())
}

/// Runs the shipped INT8 plan on its frames in turn. Fails if the boxes of one of `frames` are not those of the CPU.
pub(crate) fn same(device: &Arc<dyn Device>, frames: usize) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plan = Plan::open(&root.join("engines/demo/int8.plan"))?;
    let options = centerpoint::Options {
        device: centerpoint::Device::Cpu,
        ..centerpoint::Options::default()
    };
    let read = ReadOptions {
        layout: None,
        default_layout: Layout::new(&plan.model().points.columns)?,
    };
    let mut on_cpu = Detector::new(&plan, &options)?;
    let mut expected = Vec::new();
    for path in points::list_frames(&[root.join("calib/demo/frames")], false) {
        let cloud = points::read(&path, &read)?;
        let boxes = on_cpu.detect(&cloud)?.boxes.to_vec();
        expected.push((cloud, boxes));
    }
    let mut detector = Detector::on(&plan, &options, device)?;
    for (number, (cloud, boxes)) in expected.iter().cycle().take(frames).enumerate() {
        let found = detector.detect(cloud)?.boxes;
        anyhow::ensure!(
            found == boxes,
            "frame {number} has other boxes than on the CPU"
        );
    }
    println!("{frames} frames with the network: the CPU's boxes");
    Ok(())
}

fn network(name: &str) -> Result<Network> {
    Ok(match name {
        "demo" => Network::demo()?,
        // Random weights let far more cells pass than trained ones.
        "base" => Network::autoware_base(-2.0)?,
        other => anyhow::bail!("there is no network `{other}`, only `demo` and `base`"),
    })
}

/// BEV maps of frames that are there, by name: that of the demo, and the ones beside the repository.
fn real_frames(network: &Network) -> Result<Vec<(String, Vec<f32>)>> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/frames");
    let mut paths = vec![(PathBuf::from(frame::FRAME), None)];
    for (folder, layout) in [
        ("waymo", Some("waymo")),
        ("nuscenes", None),
        ("av2", Some("xyzir")),
        ("kitti", Some("kitti")),
    ] {
        let frames = points::list_frames(&[shared.join(folder)], false);
        paths.extend(frames.into_iter().map(|path| (path, layout)));
    }
    if !shared.exists() {
        println!("only the demo's frame: {} does not exist", shared.display());
    }
    let mut frames = Vec::new();
    for (path, layout) in paths.iter().filter(|(path, _)| path.exists()) {
        let layout = layout.map(str::parse).transpose()?;
        let (map, pillars) = frame::bev(&network.model, &network.pfn, path, layout)?;
        let ends: Vec<_> = path
            .iter()
            .rev()
            .take(2)
            .map(|part| part.to_string_lossy())
            .collect();
        let name: String = ends[0].chars().take(24).collect();
        frames.push((format!("{}/{name}, {pillars} pillars", ends[1]), map));
    }
    Ok(frames)
}

/// A network in one precision.
struct Prepared {
    program: Program,
    weights: Arc<Vec<u8>>,
    heads: LazyHeads,
    /// Multiply-adds by operator.
    macs: HashMap<String, f64>,
}

impl Prepared {
    /// The share of all multiply-adds.
    fn share(&self, computed: &[Computed]) -> f64 {
        let of = |computed: &Computed| self.macs.get(&computed.name).copied().unwrap_or(0.0);
        let left: f64 = computed.iter().map(|one| of(one) * one.share).sum();
        left / self.macs.values().sum::<f64>()
    }

    /// The multiply-adds of a launch's operators.
    fn of_launch(&self, name: &str) -> f64 {
        let names = name.split(" + ");
        names.filter_map(|name| self.macs.get(name)).sum()
    }
}

fn plan(network: &Network, real: &[f32], half: bool) -> Result<Prepared> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("engine.plan");
    if half {
        network.write_plan(&network.graph, &path)?;
    } else {
        network.write_plan(&network.quantized(real)?, &path)?;
    }
    let plan = Plan::open(&path)?;
    let program = Program::from_json(plan.section("program")?.as_ref())?;
    let layers = program.layers();
    Ok(Prepared {
        macs: layers
            .into_iter()
            .map(|layer| (layer.name, layer.macs as f64))
            .collect(),
        weights: Arc::new(plan.section("weights")?.as_ref().to_vec()),
        heads: LazyHeads::new(plan.model()),
        program,
    })
}

fn engine(plan: &Prepared, device: &Arc<dyn Device>, options: &Options) -> Result<CudaEngine> {
    Ok(CudaEngine::new(
        plan.program.clone(),
        plan.weights.clone(),
        device,
        options,
    )?)
}

/// Writes `[C, H, W]` values to the engine's input.
fn set_input(engine: &mut CudaEngine, values: &[f32]) -> Result<()> {
    let MapMut::Device(map) = engine.input_map() else {
        anyhow::bail!("a map on the host");
    };
    let mut bytes = map.download()?;
    let format = *map.format();
    let layout = format.layout;
    let mut values = values.iter();
    for c in 0..layout.channels {
        for y in 0..layout.height {
            for x in 0..layout.width {
                let value = *values.next().context("too few values")?;
                let at = layout.index(c, y, x) * format.element.bytes();
                match format.element {
                    Element::I8 => bytes[at] = quantize(value, format.scale) as u8,
                    Element::F16 => {
                        bytes[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
                    }
                    Element::F32 => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                }
            }
        }
    }
    Ok(map.upload(&bytes)?)
}

/// The medians of each launch's time.
fn profile(engine: &mut CudaEngine, runs: usize) -> Result<Vec<LayerTime>> {
    let mut all: Vec<Vec<LayerTime>> = Vec::with_capacity(runs);
    for _ in 0..runs {
        all.push(engine.profile()?);
    }
    let mut times = all[0].clone();
    for (at, time) in times.iter_mut().enumerate() {
        time.ms = median(all.iter().map(|run| run[at].ms).collect());
    }
    Ok(times)
}

/// Prints a table of the launches, medians of `runs`: of a dense input without savings, and of a real one with whole maps. `most`:
/// multiply-adds a second of products alone.
fn layers(
    plan: &Prepared,
    device: &Arc<dyn Device>,
    options: &Options,
    real: &[f32],
    runs: usize,
    most: f64,
) -> Result<()> {
    let mut random = Random(3);
    let values: Vec<f32> = real.iter().map(|_| random.next()).collect();
    let dense_options = Options {
        skip_empty: Some(false),
        ..options.clone()
    };
    let engine_of = |options: &Options, values: &[f32]| -> Result<_> {
        let mut engine = engine(plan, device, options)?;
        set_input(&mut engine, values)?;
        let times = profile(&mut engine, runs)?;
        let computed = engine.computed()?;
        Ok((times, computed))
    };
    let (dense, _) = engine_of(&dense_options, &values)?;
    let (sparse, computed) = engine_of(options, real)?;
    let of_real: HashMap<&str, f64> = sparse
        .iter()
        .map(|time| (time.name.as_str(), time.ms))
        .collect();
    let shares: HashMap<&str, f64> = computed
        .iter()
        .map(|one| (one.name.as_str(), one.share))
        .collect();
    let [bytes, outputs] = options.block.unwrap_or(BLOCKS[0]);
    println!(
        "\nblocks of 8 x 16 pixels, {bytes} bytes of input channels at a time, {outputs} output channels"
    );
    println!(
        "| launch | GMAC | dense ms | TOPS | of the peak, % | real ms | share left |\n|---|---|---|---|---|---|---|"
    );
    let row = |name: &str, macs: f64, ms: f64, real: f64, share: f64| {
        let rate = macs / (ms / 1e3);
        println!(
            "| {name} | {:.2} | {ms:.4} | {:.1} | {:.0} | {real:.4} | {share:.2} |",
            macs / 1e9,
            2.0 * rate / 1e12,
            100.0 * rate / most
        );
    };
    let mut totals = [0.0; 3];
    for time in &dense {
        let macs = plan.of_launch(&time.name);
        let names: Vec<&str> = time.name.split(" + ").collect();
        let left: f64 = names
            .iter()
            .filter_map(|name| Some(plan.macs.get(*name)? * shares.get(name)?))
            .sum();
        let ms = of_real.get(time.name.as_str()).copied().unwrap_or(f64::NAN);
        let label = match names.len() {
            1 => names[0].to_owned(),
            more => format!("{} and {} others", names[0], more - 1),
        };
        row(&label, macs, time.ms, ms, left / macs.max(1.0));
        totals = [totals[0] + macs, totals[1] + time.ms, totals[2] + left];
    }
    let all_real = sparse.iter().map(|time| time.ms).sum();
    row("all", totals[0], totals[1], all_real, totals[2] / totals[0]);
    Ok(())
}

/// The savings, each with those before it.
fn switches(plan: &Prepared, half: bool) -> [Options; 4] {
    let options = |skip: bool, channels: bool, lazy: bool| Options {
        skip_empty: Some(skip),
        skip_channels: Some(channels),
        lazy_heads: lazy.then(|| plan.heads.clone()),
        half,
        block: None,
    };
    [
        options(false, false, false),
        options(true, false, false),
        options(true, true, false),
        options(true, true, true),
    ]
}

/// Prints the time of the whole network on a real input with each saving, one after the other in one run.
fn savings(
    plan: &Prepared,
    device: &Arc<dyn Device>,
    half: bool,
    real: &[f32],
    frames: usize,
) -> Result<()> {
    let names = ["nothing saved", "tiles", "and sources", "and lazy heads"];
    let mut engines = Vec::new();
    for options in &switches(plan, half) {
        let mut engine = engine(plan, device, options)?;
        set_input(&mut engine, real)?;
        engines.push((engine, Vec::new()));
    }
    let (start, end) = (device.create_mark()?, device.create_mark()?);
    for round in 0..frames + frames.div_ceil(20) {
        for (engine, times) in &mut engines {
            device.mark(start)?;
            engine.run()?;
            device.mark(end)?;
            let ms = device.elapsed(start, end)?;
            if round >= frames.div_ceil(20) {
                times.push(ms);
            }
        }
    }
    device.free_mark(start);
    device.free_mark(end);
    println!("\n| saved, real input | ms | multiply-adds left |\n|---|---|---|");
    for ((engine, times), name) in engines.into_iter().zip(names) {
        let share = plan.share(&engine.computed()?);
        println!("| {name} | {:.4} | {share:.3} |", median(times));
    }
    Ok(())
}
