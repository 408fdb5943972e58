//! Compares rewritten and quantised graphs with ONNX Runtime, on the demo model and real frames.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use centerpoint::build::Folder;
use centerpoint::internals::build::deconv;
use centerpoint::internals::build::fuse::fuse;
use centerpoint::internals::build::half::{Io, strongly_typed};
use centerpoint::internals::build::onnx::Graph;
use centerpoint::internals::build::quantize::{Placement, insert_qdq, tensors_to_calibrate};
use centerpoint::internals::cpu::decode::{CandidateList, decode};
use centerpoint::internals::cpu::nms::{Nms, suppress};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::map::{MapLayout, MapView};
use centerpoint::{Box3d, Model};

use crate::bev::bev;
use crate::common::repository;
use crate::frames;
use crate::oracle::{self, Output};

pub(crate) fn demo() -> Folder {
    Folder::read(&repository().join("engines/demo")).unwrap()
}

fn demo_frame(name: &str) -> PathBuf {
    repository().join("calib/demo/frames").join(name)
}

/// Writes the BEV map of a demo frame to `folder`.
fn write_bev(model: &Folder, frame: &str, folder: &Path) -> PathBuf {
    let path = folder.join("bev.f32");
    std::fs::write(&path, frames::bin(&bev(model, &demo_frame(frame)))).unwrap();
    path
}

/// Compares the results of two files in ONNX Runtime for a map.
fn compare(first: &Path, second: &Path, map: &Path, tolerance: &str) {
    let [first, second, map] = [first, second, map].map(|p| p.to_str().unwrap());
    oracle::script(&["compare", first, second, map, tolerance]);
}

/// Fused norms change the outputs by rounding only; rewritten deconvolutions do not change them at all.
#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn the_imported_demo_network_gives_the_originals_results_on_a_frame() {
    let folder = tempfile::tempdir().unwrap();
    let model = demo();
    assert_eq!(model.rpn.rewritten.len(), 3);
    assert_eq!(model.rpn.fused.kept.len(), 0);
    let map = write_bev(&model, "000003.bin", folder.path());
    let original = repository().join("engines/demo/pts_backbone_neck_head.onnx");
    let [fused, rewritten, imported] =
        ["fused", "rewritten", "imported"].map(|name| folder.path().join(name));
    let mut graph = Graph::read(&original).unwrap();
    fuse(&mut graph, &[]).unwrap();
    graph.write(&fused).unwrap();
    deconv::rewrite(&mut graph).unwrap();
    graph.write(&rewritten).unwrap();
    model.rpn.graph.write(&imported).unwrap();
    compare(&original, &imported, &map, "1e-5");
    compare(&fused, &rewritten, &map, "0");
}

/// The largest magnitude of each of the network's values over some maps.
fn ranges(graph: &Graph, maps: &[Vec<f32>]) -> BTreeMap<String, f32> {
    let mut engine = oracle::engine(graph);
    let mut ranges = BTreeMap::new();
    for map in maps {
        oracle::fill(&mut engine, map);
        engine
            .run_with(&mut |name, view| {
                let values = oracle::dense(name, view).values;
                let most = values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                let range: &mut f32 = ranges.entry(name.to_owned()).or_default();
                *range = range.max(most);
            })
            .unwrap();
    }
    ranges
}

/// Decodes the boxes from a network's outputs, which have the description's order.
pub(crate) fn boxes(model: &Model, outputs: &[Output]) -> Vec<Box3d> {
    let view = |output: &'_ Output| -> MapLayout {
        MapLayout::nchw(output.shape[1], output.shape[2], output.shape[3])
    };
    let pool = Pool::new(1);
    let mut decoder = CandidateList::new(model);
    for (task, outputs) in outputs.chunks_exact(6).enumerate() {
        let maps = [0, 1, 2, 3, 4, 5].map(|i| MapView {
            data: &outputs[i].values,
            layout: view(&outputs[i]),
        });
        decode(model, task, &maps.into(), &pool, &mut decoder);
    }
    let mut nms = Nms::new(model);
    suppress(model, decoder.candidates(), &mut nms);
    nms.boxes().to_vec()
}

/// Number of boxes of `a` that `b` also has: same class, centres within 1 cm, scores within 0.01.
fn agreeing(a: &[Box3d], b: &[Box3d]) -> usize {
    let same = |a: &Box3d, b: &Box3d| {
        let distance = a.center.iter().zip(b.center).map(|(a, b)| (a - b).abs());
        a.class == b.class
            && distance.fold(0.0, f32::max) <= 0.01
            && (a.score - b.score).abs() <= 0.01
    };
    a.iter().filter(|a| b.iter().any(|b| same(a, b))).count()
}

/// The largest difference of two outputs relative to the largest value, and the share of cells that
/// differ by more than rounding.
pub(crate) fn differences(found: &Output, expected: &Output) -> (f32, f64) {
    assert_eq!(
        (&found.name, &found.shape),
        (&expected.name, &expected.shape)
    );
    let largest = expected.values.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
    let cells = found.values.iter().zip(&expected.values);
    let all: Vec<f32> = cells.map(|(a, b)| (a - b).abs() / largest).collect();
    let differing = all.iter().filter(|d| **d > 1e-5).count();
    let worst = all.iter().fold(0.0_f32, |m, d| m.max(*d));
    (worst, differing as f64 / all.len() as f64)
}

/// The frames for tests on the demo network; the first one calibrates it.
pub(crate) const FRAMES: [&str; 3] = ["000003.bin", "000007.bin", "000012.bin"];

/// The demo network with all layers in INT8, calibrated by the largest value, and the frames' maps.
pub(crate) fn quantised(model: &Folder) -> (Graph, [Vec<f32>; 3]) {
    let graph = &model.rpn.graph;
    let maps = FRAMES.map(|frame| bev(model, &demo_frame(frame)));
    let placement = Placement::default();
    let amax = ranges(graph, &maps[..1]);
    let made = insert_qdq(graph, &amax, &placement).unwrap();
    assert!(made.warnings.is_empty(), "{:?}", made.warnings);
    let found = made.quantizers.iter().map(|q| &q.tensor);
    let activations: Vec<&String> = found
        .take(tensors_to_calibrate(graph, &placement).unwrap().len())
        .collect();
    assert!(activations.iter().all(|v| amax.contains_key(*v)));
    (made.graph, maps)
}

/// ONNX Runtime's outputs of a file for a map, after onnx.checker has checked it.
pub(crate) fn reference(path: &Path, map: &[f32]) -> Vec<Output> {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("bev.f32");
    std::fs::write(&input, frames::bin(map)).unwrap();
    let arguments = [path, folder.path(), &input].map(|p| p.to_str().unwrap());
    oracle::script(&[&["check"], &arguments[..]].concat());
    oracle::case(path, folder.path()).outputs
}

/// The written file is valid and loads in ONNX Runtime, which finds the same boxes as the CPU engine.
#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn the_quantised_demo_network_finds_onnx_runtimes_boxes() {
    let folder = tempfile::tempdir().unwrap();
    let model = demo();
    let (graph, maps) = quantised(&model);
    let path = folder.path().join("qdq.onnx");
    graph.write(&path).unwrap();
    assert_eq!(Graph::read(&path).unwrap().to_model(), graph.to_model());
    for (frame, map) in FRAMES.iter().zip(&maps) {
        let expected = reference(&path, map);
        let found = oracle::run(&graph, map);
        for (found, expected) in found.iter().zip(&expected) {
            let (worst, share) = differences(found, expected);
            println!(
                "{frame} {}: worst {worst:.1e}, {:.2} % of cells differ",
                found.name,
                100.0 * share
            );
        }
        let (a, b) = (boxes(&model.model, &found), boxes(&model.model, &expected));
        println!("{frame}: {} boxes, {} agree", a.len(), agreeing(&a, &b));
        assert!(!a.is_empty() && a.len() == b.len());
        assert_eq!(agreeing(&a, &b), a.len(), "{frame}");
    }
}

/// Euclidean norm of `a - b` relative to that of `b`.
pub(crate) fn error(a: &Output, b: &Output) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    };
    let cells = a.values.iter().zip(&b.values);
    norm(&mut cells.map(|(a, b)| a - b)) / norm(&mut b.values.iter().copied())
}

/// FP16 + Q/DQ and FP32 + Q/DQ are equally far from the float network. They are not equal, because a half
/// has 11 bits: at the end of a range its step is a sixteenth to an eighth of a code, so some values round
/// to the next code.
#[test]
#[ignore = "needs CENTERPOINT_PYTHON"]
fn the_strongly_typed_demo_network_is_as_close_to_the_float_one_as_the_one_with_floats() {
    let folder = tempfile::tempdir().unwrap();
    let model = demo();
    let (graph, maps) = quantised(&model);
    let names = ["float.onnx", "floats.onnx", "halves.onnx"];
    let paths = names.map(|name| folder.path().join(name));
    model.rpn.graph.write(&paths[0]).unwrap();
    graph.write(&paths[1]).unwrap();
    let halves = strongly_typed(&graph, &Io::default()).unwrap();
    halves.graph.write(&paths[2]).unwrap();
    oracle::script(&["halves", paths[2].to_str().unwrap(), "FLOAT16", "FLOAT16"]);
    for (frame, map) in FRAMES.iter().zip(&maps) {
        let [float, floats, halves] = paths.each_ref().map(|p| reference(p, map));
        for ((float, floats), halves) in float.iter().zip(&floats).zip(&halves) {
            let (a, b, c) = (
                error(floats, float),
                error(halves, float),
                error(halves, floats),
            );
            println!(
                "{frame} {}: FP32 + Q/DQ {a:.1e} from float, FP16 + Q/DQ {b:.1e}; {c:.1e} apart",
                float.name
            );
            assert!(b <= 1.1 * a && c <= a, "{frame} {}", float.name);
        }
        let found = [&float, &floats, &halves].map(|outputs| boxes(&model.model, outputs));
        println!(
            "{frame}: {}, {}, {} boxes; of the last {} agree with the second's",
            found[0].len(),
            found[1].len(),
            found[2].len(),
            agreeing(&found[2], &found[1])
        );
    }
}
