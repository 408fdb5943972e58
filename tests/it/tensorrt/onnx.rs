//! Networks written for TensorRT and other runtimes, in ONNX Runtime.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use centerpoint::build::Folder;
use centerpoint::internals::build::export::pfe;
use centerpoint::internals::build::half::{Io, strongly_typed};
use centerpoint::map::Element;
use centerpoint::points::{self, ReadOptions, list_frames};
use centerpoint::{Box3d, Detector, Layout, Options, map};

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

/// Rounds a value in the range of halves to the nearest half.
fn half(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
}

/// Every form loads in ONNX Runtime and computes the same maps up to rounding: halves at the border replace Casts from
/// floats, and codes replace QuantizeLinear.
#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn all_types_of_inputs_and_outputs_compute_the_same_maps() {
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
        oracle::script(&[&["halves", path.to_str().unwrap()], &names[..]].concat());
        let map: Vec<f32> = match typed.input_scale {
            Some(scale) => map
                .iter()
                .map(|&v| map::quantize(half(v), scale).into())
                .collect(),
            None => map.clone(),
        };
        made.push((names, reference(&path, &map)));
    }
    let (_, expected) = &made[0];
    for (names, outputs) in &made[1..] {
        for (found, expected) in outputs.iter().zip(expected) {
            assert_eq!(found.name, expected.name);
            // ONNX Runtime computes in floats here and rounds half outputs by at most half a unit.
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
                // ONNX Runtime does not round these to halves before the first convolution; the maps differ as much
                // as those of FP32 + Q/DQ and FP16 + Q/DQ.
                "INT8" => assert!(apart < 0.2, "{names:?} {}: {apart}", found.name),
                _ => assert_eq!(share, 0.0, "{names:?} {}", found.name),
            }
        }
    }
}

/// A written PFN is valid and computes the features of the file that it was read from.
#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn a_written_pfe_computes_the_features_of_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let model = demo();
    let points = model.model.grid.max_points_per_pillar;
    let written = folder.path().join("pts_voxel_encoder.onnx");
    let graph = pfe(&model.pfe.pfn, points, &written).unwrap();
    graph.write(&written).unwrap();
    // Seven pillars, the length that the script chooses for open axes.
    let columns = model.pfe.pfn.layers[0].in_features;
    let values = (0..7 * points * columns).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0);
    let values: Vec<f32> = values.collect();
    let original = repository().join("engines/demo/pts_voxel_encoder.onnx");
    let [found, expected] = [&written, &original].map(|path| reference(path, &values));
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
    /// Starts ONNX Runtime with a network of the model.
    fn start(path: &Path, model: &centerpoint::Model) -> Self {
        let mut process = Command::new(oracle::python())
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
        Self {
            input: process.stdin.take().unwrap(),
            output: process.stdout.take().unwrap(),
            outputs: outputs.collect(),
            process,
        }
    }

    /// Runs the network on a map.
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
        // It ends with the test program, which closes its input; here it may end earlier.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Quantises the demo model: plan `int8.plan`, model folder `q`.
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

/// A comparison of the boxes of two detectors.
#[derive(Debug, Default)]
struct Tally {
    /// Tolerance for the same box: metres between the centres, difference of the scores.
    within: (f32, f32),
    boxes: usize,
    /// Boxes that the other also found but suppressed in favour of a better one.
    dropped: usize,
    /// Boxes that the other lacks, although their score exceeds the threshold by more than the tolerance.
    missing: usize,
    /// Missing boxes with no box of the other within 10 cm and 0.05.
    far: usize,
    /// Largest distance between boxes that are the same.
    metres: f32,
    /// Largest difference between their scores.
    score: f32,
}

impl Tally {
    /// Looks for each box of one side among the boxes of the other, after and before NMS.
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

/// The distance in metres and in score to the nearest box that counts as the same.
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

/// Compares the boxes of the INT8 plan on synthetic frames with those that this crate's stages decode from ONNX
/// Runtime's outputs of `network` on the same maps.
fn compare(folder: &Path, network: &Path, frames: u64, within: (f32, f32)) -> Tally {
    let read = Folder::read(&folder.join("q")).unwrap();
    let model = &read.model;
    let mut all = model.clone();
    all.nms.clear();
    let mut served = Served::start(network, model);
    let mut engine = oracle::engine(&read.rpn.graph);
    let plan = folder.join("int8.plan");
    let mut detector = Detector::load(&plan, &Options::default()).unwrap();
    let threshold = model.decode.score[0][0];
    let mut tally = Tally {
        within,
        ..Tally::default()
    };
    let count = frames.to_string();
    let synth = ["synth", "--out", "scenes", "--seed", "9000001", "--frames"];
    built(folder, &[&synth[..], &[&count]].concat());
    let options = ReadOptions {
        layout: None,
        default_layout: Layout::XYZIT,
    };
    for path in list_frames(&[folder.join("scenes")], false) {
        let cloud = points::read(&path, &options).unwrap();
        let map = bev_of(model, &read.pfe.pfn, &cloud);
        let theirs = served.run(&map);
        let ours = oracle::run_on(&mut engine, &map);
        let found = detector.detect(&cloud).unwrap().boxes;
        let expected = boxes(model, &theirs);
        tally.count(found, &expected, &boxes(&all, &theirs), threshold);
        tally.count(&expected, found, &boxes(&all, &ours), threshold);
    }
    tally
}

/// The boxes of the exported FP32 + Q/DQ network in ONNX Runtime and of the INT8 CPU engine agree within 1 cm and 0.01
/// on 100 frames.
#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn the_int8_plan_finds_onnx_runtimes_boxes_on_100_frames() {
    let folder = quantised_demo();
    let network = folder.path().join("q/pts_backbone_neck_head.onnx");
    let tally = compare(folder.path(), &network, 100, (0.01, 0.01));
    println!("{tally:?}");
    // Sums of floats and of codes differ in their last bits, which decides the code of a value halfway between two.
    // A different code moves about one box in a thousand by more.
    let most = tally.boxes / 500;
    assert!(
        tally.boxes > 1000 && tally.dropped + tally.missing <= most,
        "{tally:?}"
    );
    assert_eq!(tally.far, 0, "{tally:?}");
}

/// FP16 + Q/DQ rounds more than FP32 + Q/DQ, which moves some values to the next code. All boxes agree within 10 cm
/// and 0.05, except a few that another candidate beside them replaces.
#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn fp16_finds_nearly_the_same_boxes() {
    let folder = quantised_demo();
    built(
        folder.path(),
        &[
            "compile", "--target", "onnx", "--model", "q", "--out", "typed",
        ],
    );
    let network = folder.path().join("typed/pts_backbone_neck_head.onnx");
    let tally = compare(folder.path(), &network, 10, (0.1, 0.05));
    println!("{tally:?}");
    assert!(
        tally.boxes > 100 && tally.dropped * 50 < tally.boxes,
        "{tally:?}"
    );
    assert_eq!(tally.missing, 0, "{tally:?}");
}
