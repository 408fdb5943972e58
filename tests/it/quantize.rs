//! Rewritten and quantised graphs against ONNX Runtime, on the demo model and real frames.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use centerpoint::boxes::Box3d;
use centerpoint::build::deconv;
use centerpoint::build::folder::Folder;
use centerpoint::build::fuse::fuse;
use centerpoint::build::onnx::Graph;
use centerpoint::build::quantize::{Placement, points, quantize};
use centerpoint::decode::{Decoder, decode};
use centerpoint::engine::{MapLayout, MapView};
use centerpoint::model::Model;
use centerpoint::nms::{Nms, suppress};
use centerpoint::threads::Pool;

use crate::bev::bev;
use crate::common::{repository, shared};
use crate::frames;
use crate::oracle::{self, Output};

fn demo() -> Folder {
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

/// Compares two files in ONNX Runtime on a map.
fn compare(first: &Path, second: &Path, map: &Path, tolerance: &str) {
    let [first, second, map] = [first, second, map].map(|p| p.to_str().unwrap());
    oracle::script(&["compare", first, second, map, tolerance]);
}

/// Fused norms change the outputs by rounding only, rewritten deconvolutions not at all.
#[test]
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

/// The largest magnitude of each of the network's values on some maps.
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

/// The boxes in a network's outputs, which are in the description's order.
fn boxes(model: &Model, outputs: &[Output]) -> Vec<Box3d> {
    let view = |output: &'_ Output| -> MapLayout {
        MapLayout::nchw(output.shape[1], output.shape[2], output.shape[3])
    };
    let pool = Pool::new(1);
    let mut decoder = Decoder::new(model);
    for (task, outputs) in outputs.chunks_exact(6).enumerate() {
        let maps = [0, 1, 2, 3, 4, 5].map(|i| MapView {
            data: &outputs[i].values,
            layout: view(&outputs[i]),
        });
        decode(model, task, &maps, &pool, &mut decoder);
    }
    let mut nms = Nms::new(model);
    suppress(model, decoder.candidates(), &mut nms);
    nms.boxes().to_vec()
}

/// Boxes of `a` that `b` has, too: same class, centres within 1 cm, scores within 0.01.
fn agreeing(a: &[Box3d], b: &[Box3d]) -> usize {
    let same = |a: &Box3d, b: &Box3d| {
        let distance = a.center.iter().zip(b.center).map(|(a, b)| (a - b).abs());
        a.class == b.class
            && distance.fold(0.0, f32::max) <= 0.01
            && (a.score - b.score).abs() <= 0.01
    };
    a.iter().filter(|a| b.iter().any(|b| same(a, b))).count()
}

/// Largest difference of two outputs relative to the largest value, and the share of cells that differ
/// by more than rounding.
fn differences(found: &Output, expected: &Output) -> (f32, f64) {
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

/// Every layer of the demo network in INT8, calibrated (by the largest value) on one frame and run on
/// others: what we write is valid and loads in ONNX Runtime, whose boxes are the CPU engine's.
#[test]
fn the_quantised_demo_network_finds_onnx_runtimes_boxes() {
    let folder = tempfile::tempdir().unwrap();
    let model = demo();
    let graph = &model.rpn.graph;
    let frames = ["000003.bin", "000007.bin", "000012.bin"];
    let maps = frames.map(|frame| bev(&model, &demo_frame(frame)));
    let placement = Placement::default();
    let amax = ranges(graph, &maps[..1]);
    for value in points(graph, &placement).unwrap() {
        assert!(
            amax.contains_key(&value),
            "the engine does not show {value}"
        );
    }
    let made = quantize(graph, &amax, &placement).unwrap();
    assert!(made.warnings.is_empty(), "{:?}", made.warnings);
    let path = folder.path().join("qdq.onnx");
    made.graph.write(&path).unwrap();
    let again = Graph::read(&path).unwrap();
    assert_eq!(again.to_model(), made.graph.to_model());
    for (frame, map) in frames.iter().zip(&maps) {
        let input = folder.path().join("bev.f32");
        std::fs::write(&input, frames::bin(map)).unwrap();
        let [model_path, out, input] =
            [&path, folder.path(), &input].map(|p: &Path| p.to_str().unwrap());
        if !oracle::script(&["run", model_path, out, input]) {
            return;
        }
        let expected = oracle::case(&path, folder.path()).outputs;
        let found = oracle::run(&made.graph, map);
        for (found, expected) in found.iter().zip(&expected) {
            let (worst, share) = differences(found, expected);
            println!(
                "{frame} {}: worst {worst:.1e}, {:.2} % of cells differ",
                found.name,
                100.0 * share
            );
        }
        let (a, b) = (boxes(&model.model, &found), boxes(&model.model, &expected));
        println!(
            "{frame}: {} boxes, {} of them agree",
            a.len(),
            agreeing(&a, &b)
        );
        assert!(!a.is_empty() && a.len() == b.len());
        assert_eq!(agreeing(&a, &b), a.len(), "{frame}");
    }
}

/// pytorch-quantization's own export: pairs on FLOAT weights, a quantised ConvTranspose.
#[test]
fn a_foreign_export_gives_its_own_results() {
    let Some(path) = shared("golden/calibration/qdq_export_small.onnx") else {
        return;
    };
    let Some(io) = shared("golden/calibration/qdq_export_small_io.npz") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    if !oracle::script(&["npz", io.to_str().unwrap(), out]) {
        return;
    }
    let case = oracle::case(&path, folder.path());
    let found = oracle::run(&Graph::read(&path).unwrap(), &case.input);
    let expected = Output {
        name: found[0].name.clone(),
        ..case.outputs[0].clone()
    };
    let (worst, share) = differences(&found[0], &expected);
    println!("worst {worst:.1e}, {:.2} % of cells differ", 100.0 * share);
    assert!(worst <= 0.02 && share <= 0.02, "{worst} {share}");
}
