//! Real files through the readers, and real frames through the shipped plan.

use std::path::Path;

use centerpoint::internals::build::import::read_pfe;
use centerpoint::internals::build::onnx::Graph;
use centerpoint::points;

use super::shared;
use crate::demo::{INT8, infer};
use crate::import::difference;
use crate::memory::{alone, onnx::assert_cut_files_are_refused};
use crate::oracle::{self, Output};
use crate::points::{OPTIONS, read_with};
use crate::quantize::differences;
use crate::toy::built;

const NETWORKS: [&str; 3] = [
    "data/pfn/carkusl_nusc_pfe_sim.onnx",
    "data/pfn/haohaonju_waymo_pfe_baseline32000.onnx",
    "golden/calibration/qdq_export_small.onnx",
];

#[test]
#[ignore = "needs ../shared"]
fn real_files_survive_a_round_trip_byte_for_byte() {
    for file in NETWORKS {
        let path = shared(file);
        let bytes = std::fs::read(&path).unwrap();
        let graph = Graph::read(&path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy.onnx");
        graph.write(&copy).unwrap();
        assert!(std::fs::read(&copy).unwrap() == bytes, "{file}");
    }
}

#[test]
#[ignore = "needs ../shared"]
fn truncated_real_networks_are_refused() {
    alone(|| {
        let files = NETWORKS.map(|file| std::fs::read(shared(file)).unwrap());
        assert_cut_files_are_refused(&files);
    });
}

#[test]
#[ignore = "needs ../shared, CENTERPOINT_PYTHON"]
fn trained_pfns_give_onnx_runtimes_features() {
    for (file, widths, pillars) in [
        ("carkusl_nusc_pfe_sim", [(10, 32), (64, 64)], 5268),
        (
            "haohaonju_waymo_pfe_baseline32000",
            [(10, 32), (64, 64)],
            32000,
        ),
    ] {
        let path = shared(&format!("data/pfn/{file}.onnx"));
        let pfe = read_pfe(&path).unwrap();
        let found: Vec<_> = pfe
            .pfn
            .layers
            .iter()
            .map(|l| (l.in_features, l.out_features))
            .collect();
        assert_eq!(found, widths);
        assert_eq!((pfe.max_pillars, pfe.max_points), (Some(pillars), Some(20)));
        assert_eq!(pfe.fused.fused.len(), 2);
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().to_str().unwrap();
        oracle::script(&["run", path.to_str().unwrap(), out]);
        let worst = difference(&pfe.pfn, &oracle::case(&path, folder.path()));
        println!("{file}: {worst:.1e}");
        assert!(worst <= 1e-4, "{file}: {worst}");
    }
}

/// An export of pytorch-quantization, whose own tools crashed on printing it. The numbers are 127 times the scales that the
/// Python package `onnx` reads from the file.
#[test]
#[ignore = "needs ../shared"]
fn an_export_of_pytorch_quantization_is_listed() {
    let path = shared("golden/calibration/qdq_export_small.onnx");
    let (text, _) = built(Path::new("."), &["inspect", path.to_str().unwrap()]);
    for line in [
        "inputs.1 3.6506 - - c1",
        "/Concat_output_0 1.7835 - - head",
        "c1 0 16 0.1137 0.1173 0.1178 8",
        "up 1 16 0.1197 0.1239 0.1245 8",
        "head 0 4 0.1710 0.1745 0.1767 8",
    ] {
        let squeezed = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.lines().any(|l| squeezed(l) == line), "{line}: {text}");
    }
}

/// An export of pytorch-quantization: pairs on FLOAT weights, a quantised ConvTranspose.
#[test]
#[ignore = "needs ../shared, CENTERPOINT_PYTHON"]
fn a_foreign_export_computes_its_recorded_outputs() {
    let path = shared("golden/calibration/qdq_export_small.onnx");
    let io = shared("golden/calibration/qdq_export_small_io.npz");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    oracle::script(&["npz", io.to_str().unwrap(), out]);
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

/// Known point counts of the real frames, and a range plausible for any scan of a street.
#[test]
#[ignore = "needs ../shared"]
fn real_frames_are_read_completely() {
    let frames = shared("data/frames");
    let nuscenes = "n015-2018-07-24-11-22-45+0800__LIDAR_TOP__1532402927647951.pcd.bin";
    for (name, layout, count) in [
        ("kitti/000000.bin", Some("kitti"), 125_635),
        ("kitti/000001.bin", Some("kitti"), 122_109),
        ("kitti/000002.bin", Some("kitti"), 115_604),
        (&*format!("nuscenes/{nuscenes}"), None, 34_688),
        ("waymo/seq_0_frame_100.bin", Some("waymo"), 177_125),
        (
            "av2/315966265259836000.bin",
            Some("x,y,z,intensity,_"),
            99_229,
        ),
        (
            "av2/315966265360032000.bin",
            Some("x,y,z,intensity,ring"),
            99_466,
        ),
        ("autoware/ground_segmentation_test.pcd", None, 65_536),
    ] {
        let path = frames.join(name);
        let started = std::time::Instant::now();
        let cloud = match layout {
            Some(layout) => read_with(layout, &path),
            None => points::read(&path, &OPTIONS),
        }
        .unwrap();
        println!("{name}: {} points, {:.1?}", cloud.len(), started.elapsed());
        assert_eq!(cloud.len(), count, "{name}");
        assert!(
            cloud
                .rows()
                .all(|row| row[..3].iter().all(|v| v.abs() < 500.0)),
            "{name}"
        );
        let far = cloud
            .rows()
            .filter(|row| row[0].hypot(row[1]) > 2.0)
            .count();
        assert!(far * 4 > count, "{name}: {far} points beyond 2 m");
        let z = cloud.rows().filter(|row| row[2].abs() < 5.0).count();
        assert!(
            z * 10 > count * 9,
            "{name}: {z} points within 5 m of the sensor's height"
        );
    }
}

/// The demo model was trained on another scanner's geometry and intensity: the test only asserts that every frame
/// runs.
#[test]
#[ignore = "needs ../shared"]
fn real_frames_run() {
    for (frames, layout) in [
        ("kitti/000000.bin", Some("kitti")),
        ("kitti/000001.bin", Some("kitti")),
        ("kitti/000002.bin", Some("kitti")),
        ("nuscenes", None),
        ("waymo/seq_0_frame_100.bin", Some("waymo")),
        ("av2/315966265259836000.bin", Some("xyzir")),
        ("av2/315966265360032000.bin", Some("xyzir")),
        ("autoware/ground_segmentation_test.pcd", None),
    ] {
        let path = shared(&format!("data/frames/{frames}"));
        let mut args = vec!["--pcd", path.to_str().unwrap(), "--format", "json"];
        args.extend(layout.iter().flat_map(|layout| ["--layout", layout]));
        let line: serde_json::Value = serde_json::from_slice(&infer(INT8, &args).stdout).unwrap();
        assert!(line["points"].as_u64().unwrap() > 30_000, "{frames}");
    }
}
