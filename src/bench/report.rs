//! The complete report: the content of `--json`, and the source of the text.

use std::path::Path;

use serde::Serialize;

use super::compare::Comparison;
use super::input::InputDescription;
use super::machine::{Machine, State};
use super::memory::Resident;
use super::run::{Recording, Sample, Settings, Subject};
use super::stats::Summary;
use crate::deadline::Counts;
use crate::detection::Dropped;

/// A measurement of one plan or more.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// This crate's version.
    pub version: &'static str,
    /// Settings of the measurement.
    pub settings: ReportedSettings,
    /// The machine.
    pub machine: Machine,
    /// The machine before the first warm-up.
    pub before: State,
    /// The machine after the last frame.
    pub after: State,
    /// One run per plan and input.
    pub runs: Vec<Run>,
    /// Comparisons with the first plan, if they took turns.
    pub comparisons: Vec<Comparison>,
    /// Whether the program was stopped before the measurement was complete.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
}

/// [`Settings`] with the names of the command line's options.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct ReportedSettings {
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

/// A plan on an input.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// The plan's file.
    pub plan: String,
    /// The model's name.
    pub model: String,
    /// Cells of the grid, x then y.
    pub grid: [usize; 2],
    /// The GPU's name; `None` if all stages ran on the CPU.
    pub gpu: Option<String>,
    /// Number of CPU threads.
    pub threads: usize,
    /// The frames.
    pub input: InputDescription,
    /// Frames before the measured ones.
    pub warm_up_frames: usize,
    /// Duration of the warm-up in ms, including frames of other plans.
    pub warm_up_ms: f64,
    /// Measured frames.
    pub frames: usize,
    /// From the start of the first frame to the end of the last; for plans that took turns, the sum of their
    /// own frames.
    pub walltime_s: f64,
    /// Frames per second of that time.
    pub throughput_qps: f64,
    /// From the cloud to the boxes, in ms.
    pub latency_ms: Summary,
    /// From the scan to the boxes, in ms, if frames came at a fixed rate.
    pub response_ms: Option<Summary>,
    /// The parts of the latency, in ms, in execution order.
    pub stages_ms: Vec<Stage>,
    /// Scans that arrived while the detector was busy.
    pub skipped_scans: u64,
    /// Missed deadlines, if there is a deadline.
    pub deadline: Option<DeadlineMisses>,
    /// Mean number of boxes per frame.
    pub boxes: f64,
    /// Sum of all frames' losses.
    pub dropped: Dropped,
    /// Memory used.
    pub memory: Memory,
}

/// A part of the latency.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stage {
    /// `pillars`, `features`, `scatter`, `engine`, `decode`, `nms`, `other`.
    pub name: &'static str,
    /// Times in ms.
    #[serde(flatten)]
    pub ms: Summary,
}

/// Missed deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct DeadlineMisses {
    /// Time budget of a frame in ms.
    pub deadline_ms: f64,
    /// Frames, including skipped scans.
    pub frames: u64,
    /// Late frames.
    pub misses: u64,
    /// Longest run of late frames.
    pub longest_run: u64,
}

impl DeadlineMisses {
    fn new(counts: Counts, deadline_ms: f64) -> Self {
        Self {
            deadline_ms,
            frames: counts.frames,
            misses: counts.misses,
            longest_run: counts.longest,
        }
    }
}

/// Memory of the process, with all its plans, and of the device; in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Before loading a plan.
    pub start: Option<Resident>,
    /// After the last frame.
    pub end: Option<Resident>,
    /// Used on the device after the last frame by all programs; `None` on the CPU.
    pub device: Option<u64>,
    /// Allocations during all measured frames; `None` if not counted.
    pub allocations: Option<u64>,
}

impl Run {
    /// Summarises a recording of `subject`, whose plan is the file `plan`.
    pub(crate) fn new(
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
                .map(|(counts, ms)| DeadlineMisses::new(counts, ms)),
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
    // Accumulating sweeps, copies to and from a device, and waiting for it.
    ("other", |sample| {
        let times = sample.times;
        let stages = times.pillars + times.features + times.scatter + times.engine;
        sample.latency_ms - stages - times.decode - times.nms
    }),
];

/// A frame's times in ms, like `trtexec --exportTimes`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FrameTimes {
    /// Index of the run in the report.
    pub run: usize,
    /// Start of the frame, relative to that of the first measured frame of its run or comparison.
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

/// The times of all frames of recordings that took turns, in execution order. `first` is the index of the first
/// recording's run.
pub(crate) fn times(recordings: &[Recording], first: usize) -> Vec<FrameTimes> {
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
