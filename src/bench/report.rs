//! All that was measured, as one value: what `--json` writes, and what the text is made from.

use std::path::Path;

use serde::Serialize;

use super::compare::Comparison;
use super::input::Description;
use super::machine::{Machine, State};
use super::memory::Resident;
use super::run::{Recording, Sample, Settings, Subject};
use super::stats::Summary;
use crate::deadline::Counts;
use crate::detection::Dropped;

/// A measurement of one plan or more.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// This crate's version.
    pub version: &'static str,
    /// How it was measured.
    pub settings: ReportedSettings,
    /// On what.
    pub machine: Machine,
    /// The machine before the first warm-up.
    pub before: State,
    /// The machine after the last frame.
    pub after: State,
    /// Plan by plan.
    pub runs: Vec<Run>,
    /// Every plan by the first, if they took turns.
    pub comparisons: Vec<Comparison>,
}

/// [`Settings`] with the names of the options.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ReportedSettings {
    warm_up_ms: f64,
    duration_s: f64,
    iterations: usize,
    rate_hz: Option<f64>,
    deadline_ms: Option<f64>,
}

impl From<&Settings> for ReportedSettings {
    fn from(settings: &Settings) -> Self {
        Self {
            warm_up_ms: settings.warm_up_ms,
            duration_s: settings.duration_s,
            iterations: settings.iterations,
            rate_hz: settings.rate_hz,
            deadline_ms: settings.deadline_ms,
        }
    }
}

/// One plan on one input.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The plan's file.
    pub plan: String,
    /// The model's name.
    pub model: String,
    /// Cells of the grid, x then y.
    pub grid: [usize; 2],
    /// The GPU's name; `None` where all stages ran on the CPU.
    pub gpu: Option<String>,
    /// CPU threads that shared the work.
    pub threads: usize,
    /// Its frames.
    pub input: Description,
    /// Frames before the measured ones.
    pub warm_up_frames: usize,
    /// What they took, those of other plans included.
    pub warm_up_ms: f64,
    /// Measured frames.
    pub frames: usize,
    /// From the first one's begin to the last one's end; of plans that took turns only their own frames.
    pub walltime_s: f64,
    /// Frames a second of that time.
    pub throughput_qps: f64,
    /// From the cloud to the boxes, in ms.
    pub latency_ms: Summary,
    /// From the scan to the boxes, in ms, where frames came at a rate.
    pub response_ms: Option<Summary>,
    /// The parts of the latency, in ms, in their order.
    pub stages_ms: Vec<Stage>,
    /// Scans that came while the detector was busy.
    pub skipped_scans: u64,
    /// Against the deadline, if there is one.
    pub deadline: Option<Missed>,
    /// Boxes of a frame, on average.
    pub boxes: f64,
    /// What all frames lost.
    pub dropped: Dropped,
    /// What it took.
    pub memory: Memory,
}

/// A part of the latency.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// `pillars`, `features`, `scatter`, `engine`, `decode`, `nms`, `other`.
    pub name: &'static str,
    /// Its times in ms.
    #[serde(flatten)]
    pub ms: Summary,
}

/// Frames that were late.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Missed {
    /// What a frame may take.
    pub deadline_ms: f64,
    /// Frames, skipped scans included.
    pub frames: u64,
    /// Those that were late.
    pub misses: u64,
    /// The most that were late one after the other.
    pub longest_run: u64,
}

impl Missed {
    fn new(counts: Counts, deadline_ms: f64) -> Self {
        Self {
            deadline_ms,
            frames: counts.frames,
            misses: counts.misses,
            longest_run: counts.longest,
        }
    }
}

/// Memory of the process, with all plans that it holds, and of the device; in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Before a plan was loaded.
    pub start: Option<Resident>,
    /// After the last frame.
    pub end: Option<Resident>,
    /// Taken on the device after the last frame, by whatever program; `None` on the CPU.
    pub device: Option<u64>,
    /// Allocations during all measured frames; `None` where nobody counts.
    pub allocations: Option<u64>,
}

impl Run {
    /// Sums up a recording of `subject`, whose plan is the file `plan`.
    pub fn new(
        plan: &Path,
        subject: &Subject,
        recording: &Recording,
        settings: &Settings,
        percentiles: &[f64],
        memory: Memory,
    ) -> Self {
        let samples = &recording.samples;
        let summary = |ms: &dyn Fn(&Sample) -> f64| {
            Summary::new(&samples.iter().map(ms).collect::<Vec<_>>(), percentiles)
        };
        let stages = PARTS.iter().map(|&(name, ms)| Stage {
            name,
            ms: summary(&ms),
        });
        let frames = samples.len();
        let model = subject.detector.model();
        let walltime_s = recording.walltime_ms / 1e3;
        Self {
            plan: plan.display().to_string(),
            model: model.name.clone(),
            grid: [model.grid.nx, model.grid.ny],
            gpu: subject
                .detector
                .device()
                .map(|device| device.name().to_owned()),
            threads: subject.detector.threads(),
            input: subject.feed.description().clone(),
            warm_up_frames: recording.warm_up_frames,
            warm_up_ms: recording.warm_up_ms,
            frames,
            walltime_s,
            throughput_qps: frames as f64 / walltime_s,
            latency_ms: summary(&|sample| sample.latency_ms),
            response_ms: settings
                .rate_hz
                .map(|_| summary(&|sample| sample.response_ms)),
            stages_ms: stages.collect(),
            skipped_scans: recording.skipped,
            deadline: recording
                .deadline
                .zip(settings.deadline_ms)
                .map(|(counts, ms)| Missed::new(counts, ms)),
            boxes: recording.boxes as f64 / frames as f64,
            dropped: recording.dropped,
            memory: Memory {
                allocations: recording.allocations,
                ..memory
            },
        }
    }
}

/// The parts of a frame, which add up to its latency.
type Part = (&'static str, fn(&Sample) -> f64);
const PARTS: [Part; 7] = [
    ("pillars", |sample| sample.times.pillars),
    ("features", |sample| sample.times.features),
    ("scatter", |sample| sample.times.scatter),
    ("engine", |sample| sample.times.engine),
    ("decode", |sample| sample.times.decode),
    ("nms", |sample| sample.times.nms),
    // Sweeps that are put together, copies to and from a device, and the time for which it is waited.
    ("other", |sample| {
        let times = sample.times;
        let stages = times.pillars + times.features + times.scatter + times.engine;
        sample.latency_ms - stages - times.decode - times.nms
    }),
];

/// A frame's times in ms, in the manner of `trtexec --exportTimes`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrameTimes {
    /// Index of the run in the report.
    pub run: usize,
    /// When it began, since the first measured frame of its run or comparison did.
    pub start_ms: f64,
    /// From the cloud to the boxes.
    pub latency_ms: f64,
    /// From the scan to the boxes.
    pub response_ms: f64,
    pillars_ms: f64,
    features_ms: f64,
    scatter_ms: f64,
    engine_ms: f64,
    decode_ms: f64,
    nms_ms: f64,
    other_ms: f64,
}

/// The times of every frame of recordings that were taken together, in the order in which they ran. `first`
/// is the index of the first one's run.
pub fn times(recordings: &[Recording], first: usize) -> Vec<FrameTimes> {
    let runs = recordings.iter().enumerate().flat_map(|(i, recording)| {
        let samples = recording.samples.iter();
        samples.map(move |sample| {
            let [
                pillars_ms,
                features_ms,
                scatter_ms,
                engine_ms,
                decode_ms,
                nms_ms,
                other_ms,
            ] = PARTS.map(|(_, ms)| ms(sample));
            FrameTimes {
                run: first + i,
                start_ms: sample.start_ms,
                latency_ms: sample.latency_ms,
                response_ms: sample.response_ms,
                pillars_ms,
                features_ms,
                scatter_ms,
                engine_ms,
                decode_ms,
                nms_ms,
                other_ms,
            }
        })
    });
    let mut frames: Vec<FrameTimes> = runs.collect();
    frames.sort_by(|a, b| a.start_ms.total_cmp(&b.start_ms));
    frames
}
