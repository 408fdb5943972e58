//! Time of a frame and of its stages on a GPU, without an engine, and of the engine: `cargo bench --bench gpu`.
//!
//! Frames are synthetic: 120 000 points, on grids of 480² and 1020² cells, with head maps in device memory as an engine
//! would leave them. Stage times come from CUDA events inside the frame's graph, frame times from the host's clock,
//! from the points to the boxes; all are medians. The floor of a stage is the bytes that it must read and write, over
//! the bandwidth of a copy on the device, which is measured first.
//!
//! Without a GPU the bench prints the memory that it needs, and succeeds. `--launches` prints the kernels' launches for
//! `tests/kernels.sh`; `--dump FILE` writes the frame's points for `benches/gpu/peers/peers.sh`. These arguments need a GPU:
//! `--frames N` times N frames instead of 1000; `--identical N` runs N frames without timing them, and fails if one differs
//! from the first of its kind; `--engine demo` or `--engine base` times the network instead, by layer, and `--left demo` or
//! `--left base` counts what is left to compute of real frames; `--same N` compares N frames of the shipped plan with the CPU.
#![allow(clippy::panic, clippy::unwrap_used)]

mod engine;
#[path = "../common/frame.rs"]
mod frame;
#[path = "../common/made_up.rs"]
mod made_up;

use std::sync::Arc;
use std::time::Instant;

use centerpoint::cuda::{CudaError, Device, DeviceMap};
use centerpoint::internals::cpu::pillars::{Pillars, voxelize};
use centerpoint::internals::cuda::{Buffer, CopyEnd};
use centerpoint::internals::testing::{FixedEngine, Null, Random};
use centerpoint::map::{HeadMaps, MapDesc, MapFormat, MapLayout};
use centerpoint::model::Pfn;
use centerpoint::{Detector, DetectorError, Layout, Model, Options, PointCloud, Times, cuda};

/// Cells of a side and their size in metres.
const GRIDS: [(usize, f64); 2] = [(480, 0.32), (1020, 0.24)];
const POINTS: usize = 120_000;
const COLUMNS: usize = 5;
/// Frames that are timed. A twentieth of their number comes first, to warm up.
const FRAMES: usize = 1000;

fn main() {
    if std::env::args().any(|argument| argument == "--launches") {
        return launches();
    }
    if let Some(path) = text("--dump") {
        return dump(&path);
    }
    let frames = argument("--frames");
    for (name, run) in [("--engine", true), ("--left", false)] {
        let Some(network) = text(name) else {
            continue;
        };
        let device = cuda::open().unwrap();
        return if run {
            engine::run(&network, &device, frames.unwrap_or(FRAMES).max(1)).unwrap()
        } else {
            engine::left(&network, &device).unwrap()
        };
    }
    if let Some(frames) = argument("--same") {
        return engine::same(&cuda::open().unwrap(), frames).unwrap();
    }
    for (cells, voxel) in GRIDS {
        let null = Arc::new(Null::default());
        let case = Case::new(cells, voxel);
        let device: Arc<dyn Device> = null.clone();
        let engine = head_maps(&case, &device).unwrap();
        let before = null.bytes();
        let _frame = case.detector(&device, engine).unwrap();
        println!(
            "grid {cells}²: {:.1} MB of device memory without the engine",
            (null.bytes() - before) as f64 / 1e6
        );
    }
    let identical = argument("--identical");
    let device = match cuda::open() {
        Ok(device) => device,
        Err(error) if identical.or(frames).is_none() => {
            return println!("skipped the times: {error}");
        }
        Err(error) => panic!("{error}"),
    };
    if let Some(frames) = identical {
        return Case::new(GRIDS[0].0, GRIDS[0].1)
            .identical(&device, frames)
            .unwrap();
    }
    let frames = frames.unwrap_or(FRAMES).max(1);
    let bandwidth = bandwidth(&device).unwrap();
    println!("a copy on the device moves {bandwidth:.0} GB/s, read and written");
    for (cells, voxel) in GRIDS {
        Case::new(cells, voxel)
            .run(&device, bandwidth, frames)
            .unwrap();
    }
}

/// What follows an argument.
fn text(name: &str) -> Option<String> {
    std::env::args()
        .skip_while(|argument| argument != name)
        .nth(1)
}

/// The number that follows an argument.
fn argument(name: &str) -> Option<usize> {
    text(name).and_then(|number| number.parse().ok())
}

/// Prints each kernel's threads and dynamic shared memory of a block.
fn launches() {
    let null = Arc::new(Null::default());
    let device: Arc<dyn Device> = null.clone();
    let case = Case::new(GRIDS[0].0, GRIDS[0].1);
    let engine = head_maps(&case, &device).unwrap();
    let _frame = case.detector(&device, engine).unwrap();
    for (kernel, (threads, shared)) in null.launches() {
        println!("{kernel} {threads} {shared}");
    }
}

/// Writes the points of the frame: rows of little-endian f32, x y z intensity t.
fn dump(path: &str) {
    let case = Case::new(GRIDS[0].0, GRIDS[0].1);
    let values = case.cloud.data().iter();
    let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
    std::fs::write(path, bytes).unwrap();
}

/// A model and a frame for it.
struct Case {
    cells: usize,
    model: Model,
    pfn: Pfn,
    cloud: PointCloud,
    heads: Vec<f32>,
    layouts: HeadMaps<MapLayout>,
}

impl Case {
    fn new(cells: usize, voxel: f64) -> Self {
        let mut random = Random(1);
        let model = made_up::model_on(cells, voxel);
        let pfn = made_up::random_pfn(&model, &mut random);
        let mut points = made_up::synthetic_cloud(&mut random);
        points.truncate(POINTS * COLUMNS);
        let layout = Layout::new(&model.points.columns).unwrap();
        let (heads, layouts) = made_up::heads(&model, &mut random);
        Self {
            cells,
            cloud: PointCloud::new(layout, points).unwrap(),
            model,
            pfn,
            heads,
            layouts,
        }
    }

    fn detector(
        &self,
        device: &Arc<dyn Device>,
        engine: FixedEngine,
    ) -> Result<Detector, DetectorError> {
        let (engine, options) = (Box::new(engine), Options::default());
        Detector::with_engine(&self.model, &self.pfn, engine, Some(device), &options)
    }

    /// Prints the table of one grid.
    fn run(
        &self,
        device: &Arc<dyn Device>,
        bandwidth: f64,
        frames: usize,
    ) -> centerpoint::Result<()> {
        let engine = head_maps(self, device)?;
        let mut detector = self.detector(device, engine)?;
        let mut times = Vec::with_capacity(frames);
        let mut walls = Vec::with_capacity(frames);
        let warm_up = frames / 20;
        for i in 0..warm_up + frames {
            let start = Instant::now();
            let stages = detector.detect(&self.cloud)?.times;
            if i >= warm_up {
                walls.push(start.elapsed().as_secs_f64() * 1e3);
                times.push(stages);
            }
        }
        let stage = |time: fn(&Times) -> f64| median(times.iter().map(time).collect());
        let bytes = self.bytes();
        let rows = [
            ("pillars", stage(|t| t.pillars), bytes[0]),
            ("features", stage(|t| t.features), bytes[1]),
            ("scatter", stage(|t| t.scatter), bytes[2]),
            ("decode", stage(|t| t.decode), bytes[3]),
            ("nms", stage(|t| t.nms), 0),
        ];
        println!(
            "\ngrid {0}×{0}, {POINTS} points, {1} boxes",
            self.cells,
            detector.boxes().len()
        );
        println!("| stage | ms | MB at least | floor ms | ratio |\n|---|---|---|---|---|");
        for (name, ms, bytes) in rows {
            let floor = bytes as f64 / bandwidth / 1e6;
            let mb = bytes as f64 / 1e6;
            let ratio = if bytes > 0 { ms / floor } else { f64::NAN };
            println!("| {name} | {ms:.4} | {mb:.2} | {floor:.4} | {ratio:.1} |");
        }
        let sum: f64 = rows.iter().map(|(_, ms, _)| ms).sum();
        println!("| all stages | {sum:.4} | | | |");
        println!("| frame, host's clock | {:.4} | | | |", median(walls));
        Ok(())
    }

    /// Alternates frames of all points and of half of them. The boxes and counters of each must equal those of the
    /// first frame of its kind, and so must the features' map of every tenth pair.
    fn identical(&self, device: &Arc<dyn Device>, frames: usize) -> centerpoint::Result<()> {
        let data = self.cloud.data();
        let half = data[..POINTS / 2 * COLUMNS].to_vec();
        let clouds = [
            self.cloud.clone(),
            PointCloud::new(self.cloud.layout(), half)?,
        ];
        let engine = head_maps(self, device)?;
        let map = engine.input.1.clone();
        let mut detector = self.detector(device, engine)?;
        let mut bytes = Vec::new();
        let mut first = [None, None];
        for i in 0..frames {
            let detection = detector.detect(&clouds[i % 2])?;
            let found = (detection.boxes.to_vec(), detection.dropped);
            if i % 20 < 2 {
                bytes = map.download()?;
            }
            let (expected, features) =
                first[i % 2].get_or_insert_with(|| (found.clone(), bytes.clone()));
            assert!(*expected == found, "frame {i}: other boxes or counters");
            assert!(
                i % 20 >= 2 || *features == bytes,
                "frame {i}: other features"
            );
        }
        println!("{frames} frames of two kinds: each kind always the same bytes");
        Ok(())
    }

    /// Least bytes that pillars, features, scatter and decode must read and write.
    fn bytes(&self) -> [usize; 4] {
        let (grid, channels) = (&self.model.grid, self.model.bev_channels());
        let mut pillars = Pillars::new(grid);
        voxelize(self.cloud.data(), COLUMNS, grid, &mut pillars);
        let kept: usize = pillars.counts().iter().map(|&count| count as usize).sum();
        let found = pillars.len();
        let (height, width) = self.model.head_size();
        [
            // Points read; slots, cells and counts written.
            4 * (POINTS * COLUMNS + kept + 2 * found),
            // Slots and their points read; features written.
            4 * (kept + kept * COLUMNS + found * channels),
            // Features read; the last frame's cells cleared, this one's written.
            4 * (3 * found * channels),
            // The heatmap read.
            4 * (self.model.classes.len() * height * width),
        ]
    }
}

/// An engine without a network: fixed head maps, and a map for the features.
fn head_maps(case: &Case, device: &Arc<dyn Device>) -> Result<FixedEngine, CudaError> {
    let (channels, cells) = (case.model.bev_channels(), case.cells);
    let bev = Buffer::zeroed(device, "the network's input", channels * cells * cells)?;
    let heads = Buffer::new(device, "head maps", &case.heads)?;
    let names = &case.model.head.tasks[0].outputs;
    let outputs = names.each_ref().zip(case.layouts);
    let outputs = outputs.try_map(|(name, layout)| map(name, &heads, layout))?;
    let layout = MapLayout::nchw(channels, cells, cells);
    let input = map("bev", &bev, layout)?;
    Ok(FixedEngine::new(input, outputs.into_array().into()))
}

fn map(
    name: &str,
    memory: &Buffer<f32>,
    layout: MapLayout,
) -> Result<(MapDesc, DeviceMap), CudaError> {
    let desc = MapDesc {
        name: name.into(),
        channels: layout.channels,
        height: layout.height,
        width: layout.width,
    };
    Ok((desc, DeviceMap::new(memory, MapFormat::f32(layout))?))
}

/// GB/s that a copy on the device reads and writes.
fn bandwidth(device: &Arc<dyn Device>) -> Result<f64, CudaError> {
    const BYTES: usize = 256 << 20;
    const TIMES: usize = 20;
    let from = Buffer::<u8>::zeroed(device, "a copy's source", BYTES)?;
    let to = Buffer::<u8>::zeroed(device, "a copy's target", BYTES)?;
    let ends = [&from, &to].map(|buffer| CopyEnd::Device(buffer.ptr()));
    let (start, end) = (device.create_mark()?, device.create_mark()?);
    let mut best = f64::INFINITY;
    for _ in 0..TIMES {
        device.mark(start)?;
        #[allow(unsafe_code)]
        // SAFETY: both buffers are alive and have that many bytes; `elapsed` waits for the copy.
        unsafe {
            device.copy("the bandwidth", ends[0], ends[1], BYTES)?;
        }
        device.mark(end)?;
        best = best.min(device.elapsed(start, end)?);
    }
    device.free_mark(start);
    device.free_mark(end);
    Ok(2.0 * BYTES as f64 / best / 1e6)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
