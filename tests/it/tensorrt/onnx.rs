//! The networks that are written for TensorRT and others, in ONNX Runtime.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use centerpoint::boxes::Box3d;
use centerpoint::build::export::pfe;
use centerpoint::build::folder::Folder;
use centerpoint::build::half::{Io, strongly_typed};
use centerpoint::detector::{Detector, Options};
use centerpoint::map;
use centerpoint::map::Element;
use centerpoint::synth;

use crate::bev::bev_of;
use crate::common::repository;
use crate::frames::bin;
use crate::oracle::{self, Output};
use crate::quantize::{boxes, demo, error, quantised, reference};
use crate::toy::built;

/// ONNX's name of an element type.
fn onnx_name(element: Element) -> &'static str {
    match element {
        Element::F32 => "FLOAT",
        Element::F16 => "FLOAT16",
        Element::I8 => "INT8",
    }
}

/// The nearest half of a value in halves' range, as f32.
fn half(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
}

/// Every form loads in ONNX Runtime and says the same: halves at the border are what the Casts made of
/// floats, and codes what the QuantizeLinear made, up to rounding.
#[test]
fn every_border_gives_the_same_maps() {
    let folder = tempfile::tempdir().unwrap();
    let (graph, maps) = quantised(&demo());
    let map = &maps[1];
    let path = folder.path().join("typed.onnx");
    let mut made = Vec::new();
    for (input, outputs) in [
        (Element::F32, Element::F32),
        (Element::F16, Element::F16),
        (Element::F16, Element::F32),
        (Element::I8, Element::F16),
    ] {
        let typed = strongly_typed(&graph, &Io { input, outputs }).unwrap();
        typed.graph.write(&path).unwrap();
        let names = [input, outputs].map(onnx_name);
        if !oracle::script(&[&["halves", path.to_str().unwrap()], &names[..]].concat()) {
            return;
        }
        let map: Vec<f32> = match typed.input_scale {
            Some(scale) => map
                .iter()
                .map(|&v| map::quantize(half(v), scale).into())
                .collect(),
            None => map.clone(),
        };
        made.push((names, reference(&path, &map).unwrap()));
    }
    let (_, expected) = &made[0];
    for (names, outputs) in &made[1..] {
        for (found, expected) in outputs.iter().zip(expected) {
            assert_eq!(found.name, expected.name);
            // ONNX Runtime computes in floats here and rounds outputs that are halves, by half a unit.
            let equal = |(a, b): &(&f32, &f32)| (*a - *b).abs() <= b.abs() / 2048.0 + 3e-8;
            let cells = found.values.iter().zip(&expected.values);
            let differing = cells.filter(|pair| !equal(pair)).count();
            let share = differing as f64 / found.values.len() as f64;
            let apart = error(found, expected);
            println!(
                "{names:?} {}: {share:.1e} of the cells differ, {apart:.1e}",
                found.name
            );
            match names[0] {
                // ONNX Runtime does not round these to halves on the way to the first convolution; the
                // maps are as far apart as those of FP32 + Q/DQ and FP16 + Q/DQ.
                "INT8" => assert!(apart < 0.2, "{names:?} {}: {apart}", found.name),
                _ => assert_eq!(share, 0.0, "{names:?} {}", found.name),
            }
        }
    }
}

/// The PFN as it is written is valid, and gives what the file that it was read from gives.
#[test]
fn the_pfe_that_is_written_gives_the_features_of_the_one_that_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = demo();
    let points = model.model.grid.max_points_per_pillar;
    let written = folder.path().join("pts_voxel_encoder.onnx");
    let graph = pfe(&model.pfe.pfn, points, &written).unwrap();
    graph.write(&written).unwrap();
    // Seven pillars, the length that the script gives open axes.
    let columns = model.pfe.pfn.layers[0].in_features;
    let values = (0..7 * points * columns).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0);
    let values: Vec<f32> = values.collect();
    let original = repository().join("engines/demo/pts_voxel_encoder.onnx");
    let [Some(found), Some(expected)] = [&written, &original].map(|path| reference(path, &values))
    else {
        return;
    };
    assert_eq!(
        (&found[0].name, &found[0].shape),
        (&expected[0].name, &expected[0].shape)
    );
    let cells = found[0].values.iter().zip(&expected[0].values);
    let worst = cells.fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
    let largest = expected[0]
        .values
        .iter()
        .fold(0.0_f32, |m, v| m.max(v.abs()));
    println!("worst difference {worst:.1e}, largest feature {largest:.1}");
    assert!(
        largest > 0.1 && worst <= 1e-5 * largest,
        "{worst} {largest}"
    );
}

/// ONNX Runtime with a network, in a process of its own.
struct Served {
    process: Child,
    input: ChildStdin,
    output: ChildStdout,
    outputs: Vec<(String, [usize; 4])>,
}

impl Served {
    /// Starts it for a network of the model. `None`, with a line that says so, without a Python for it.
    fn start(path: &Path, model: &centerpoint::Model) -> Option<Self> {
        let Ok(python) = std::env::var("CENTERPOINT_PYTHON") else {
            println!("skipped: CENTERPOINT_PYTHON is not set");
            return None;
        };
        let mut process = Command::new(python)
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/oracle/onnx_nets.py"
            ))
            .args(["serve", path.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (height, width) = model.head_size();
        let outputs = model.head.tasks.iter().flat_map(|task| {
            let each = task.outputs.each_ref().zip(model.head_channels(task));
            let each = each.into_array().into_iter();
            each.map(move |(name, channels)| (name.clone(), [1, channels, height, width]))
        });
        Some(Self {
            input: process.stdin.take().unwrap(),
            output: process.stdout.take().unwrap(),
            outputs: outputs.collect(),
            process,
        })
    }

    /// What it makes of a map.
    fn run(&mut self, map: &[f32]) -> Vec<Output> {
        self.input.write_all(&bin(map)).unwrap();
        self.input.flush().unwrap();
        let mut outputs = Vec::new();
        for (name, shape) in &self.outputs {
            let mut bytes = vec![0; 4 * shape.iter().product::<usize>()];
            self.output.read_exact(&mut bytes).unwrap();
            let (values, _) = bytes.as_chunks::<4>();
            outputs.push(Output {
                name: name.clone(),
                shape: shape.to_vec(),
                values: values.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            });
        }
        outputs
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Its input ends with the process that it belongs to; here it may end before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The demo model, quantised: its plan is `int8.plan`, its model folder `q`.
fn quantised_demo() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = repository();
    let [model, frames] = ["engines/demo", "calib/demo"].map(|name| root.join(name));
    let args = [
        "--model",
        model.to_str().unwrap(),
        "--frames",
        frames.to_str().unwrap(),
    ];
    let recipe = ["--recipe", "custom", "--limit", "16"];
    let out = ["--out", "int8.plan", "--onnx", "q"];
    built(
        folder.path(),
        &[&["quantize"], &args[..], &recipe, &out].concat(),
    );
    folder
}

/// How the boxes of two detectors compare.
#[derive(Debug, Default)]
struct Tally {
    /// What counts as the same box: metres between the centres, difference of the scores.
    within: (f32, f32),
    boxes: usize,
    /// Boxes that the other has found, too, but dropped for a better one beside it.
    dropped: usize,
    /// Boxes of one that the other has not, although their score is far enough from the threshold.
    missing: usize,
    /// Those of them that the other has nowhere within 10 cm and 0.05.
    far: usize,
    /// Of the boxes that are the same: the largest differences.
    metres: f32,
    score: f32,
}

impl Tally {
    /// Looks for each box of one side among the boxes of the other, and among those that it had before NMS.
    fn count(&mut self, one: &[Box3d], other: &[Box3d], before: &[Box3d], threshold: f32) {
        for sought in one {
            self.boxes += 1;
            if let Some((metres, score)) = nearest(sought, other, self.within) {
                self.metres = self.metres.max(metres);
                self.score = self.score.max(score);
            } else if nearest(sought, before, self.within).is_some() {
                self.dropped += 1;
            } else if sought.score >= threshold + self.within.1 {
                self.missing += 1;
                let anywhere = [other, before].concat();
                self.far += usize::from(nearest(sought, &anywhere, (0.1, 0.05)).is_none());
            }
        }
    }
}

/// How far apart in metres and in score the nearest box is that counts as the same.
fn nearest(sought: &Box3d, among: &[Box3d], within: (f32, f32)) -> Option<(f32, f32)> {
    let apart = |other: &Box3d| {
        let squares = sought.center.iter().zip(other.center);
        let squares = squares.map(|(a, b)| (a - b).powi(2));
        (
            squares.sum::<f32>().sqrt(),
            (sought.score - other.score).abs(),
        )
    };
    let same = among.iter().filter(|other| other.class == sought.class);
    let close = same
        .map(apart)
        .filter(|(metres, score)| *metres <= within.0 && *score <= within.1);
    close.min_by(|a, b| a.0.total_cmp(&b.0))
}

/// The boxes of both sides on frames of a seed of its own: the INT8 plan's, and those that the stages of this
/// crate find in what ONNX Runtime makes of `network` on the same maps.
fn compare(folder: &Path, network: &Path, frames: u64, within: (f32, f32)) -> Option<Tally> {
    let read = Folder::read(&folder.join("q")).unwrap();
    let model = &read.model;
    let mut all = model.clone();
    all.nms.clear();
    let mut served = Served::start(network, model)?;
    let mut engine = oracle::engine(&read.rpn.graph);
    let plan = folder.join("int8.plan");
    let mut detector = Detector::load(&plan, &Options::default()).unwrap();
    let threshold = model.decode.score[0][0];
    let mut tally = Tally {
        within,
        ..Tally::default()
    };
    for index in 0..frames {
        let frame = synth::generate(9_000_001, index, &synth::Config::default()).unwrap();
        let map = bev_of(model, &read.pfe.pfn, &frame.cloud);
        let theirs = served.run(&map);
        let ours = oracle::run_on(&mut engine, &map);
        let found = detector.detect(&frame.cloud).unwrap().boxes;
        let expected = boxes(model, &theirs);
        tally.count(found, &expected, &boxes(&all, &theirs), threshold);
        tally.count(&expected, found, &boxes(&all, &ours), threshold);
    }
    Some(tally)
}

/// The exported FP32 + Q/DQ network in ONNX Runtime, and the INT8 CPU engine: the boxes of 100 frames are within
/// 1 cm and 0.01 of each other.
#[test]
fn the_int8_plan_finds_onnx_runtimes_boxes_on_100_frames() {
    let folder = quantised_demo();
    let network = folder.path().join("q/pts_backbone_neck_head.onnx");
    let Some(tally) = compare(folder.path(), &network, 100, (0.01, 0.01)) else {
        return;
    };
    println!("{tally:?}");
    // Sums of floats differ from sums of codes in their last bits, which decides a code where a value lies
    // between two; a code that differs moves about one box in a thousand by more.
    let most = tally.boxes / 500;
    assert!(
        tally.boxes > 1000 && tally.dropped + tally.missing <= most,
        "{tally:?}"
    );
    assert_eq!(tally.far, 0, "{tally:?}");
}

/// FP16 + Q/DQ rounds what FP32 + Q/DQ does not, so some values come to the next code: all boxes are within
/// 10 cm and 0.05, but for some that another candidate beside them replaces.
#[test]
fn fp16_finds_nearly_the_same_boxes() {
    let folder = quantised_demo();
    built(
        folder.path(),
        &[
            "compile", "--target", "onnx", "--model", "q", "--out", "typed",
        ],
    );
    let network = folder.path().join("typed/pts_backbone_neck_head.onnx");
    let Some(tally) = compare(folder.path(), &network, 10, (0.1, 0.05)) else {
        return;
    };
    println!("{tally:?}");
    assert!(
        tally.boxes > 100 && tally.dropped * 50 < tally.boxes,
        "{tally:?}"
    );
    assert_eq!(tally.missing, 0, "{tally:?}");
}
