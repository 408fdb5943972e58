//! Rewritten and quantised graphs against ONNX Runtime, on the demo model and real frames.

use std::path::Path;

use centerpoint::build::deconv;
use centerpoint::build::folder::Folder;
use centerpoint::build::fuse::fuse;
use centerpoint::build::onnx::Graph;

use crate::bev::bev;
use crate::common::repository;
use crate::frames;
use crate::oracle;

fn demo() -> Folder {
    Folder::read(&repository().join("engines/demo")).unwrap()
}

fn demo_frame(name: &str) -> std::path::PathBuf {
    repository().join("calib/demo/frames").join(name)
}

/// Writes the BEV map of a demo frame to `folder`.
fn write_bev(model: &Folder, frame: &str, folder: &Path) -> std::path::PathBuf {
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
