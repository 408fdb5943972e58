//! Two trained PFNs on real frames, from the ONNX file to the pillar features.
//!
//! - haohaonju's (MatMul → Transpose → BatchNormalization): compared with features computed by ONNX Runtime for
//!   a Waymo frame. Most of the difference is the reference's own rounding: the PFN in f64 differs by 8.3e-5, too.
//! - carkusl's (Conv 1×1 → BatchNormalization): compared with `pfn_oracle.py`, which voxelises a nuScenes frame
//!   independently and runs ONNX Runtime. The ONNX file supports only 5268 pillars, so the frame also reaches
//!   that limit.

use std::path::{Path, PathBuf};
use std::process::Command;

use centerpoint::Model;
use centerpoint::internals::build::import::read_pfe;
use centerpoint::internals::cpu::features::{Features, features};
use centerpoint::internals::cpu::pillars::{Pillars, voxelize};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::model::Pfn;

use super::shared;
use crate::npz::npy;
use crate::oracle;

const STRIDE: usize = 5;

/// Largest tolerated difference from the reference's features.
pub(super) const TOLERANCE: f32 = 1e-4;

/// A trained PFN, and a frame in the model's columns.
pub(super) struct Case {
    pub(super) model: Model,
    pub(super) pfe: PathBuf,
    pub(super) frame: PathBuf,
}

impl Case {
    pub(super) fn pfn(&self) -> Pfn {
        read_pfe(&self.pfe).unwrap().pfn
    }

    pub(super) fn points(&self) -> Vec<f32> {
        floats(&std::fs::read(&self.frame).unwrap())
    }
}

/// haohaonju's PFN.
pub(super) fn haohaonju() -> Case {
    Case {
        model: model(
            [-74.88, -74.88, -2.0, 74.88, 74.88, 4.0],
            [0.32, 0.32, 6.0],
            20,
            32000,
        ),
        pfe: shared("data/pfn/haohaonju_waymo_pfe_baseline32000.onnx"),
        frame: shared("data/frames/waymo/seq_0_frame_100.bin"),
    }
}

/// carkusl's PFN.
pub(super) fn carkusl() -> Case {
    let frames = std::fs::read_dir(shared("data/frames/nuscenes")).unwrap();
    Case {
        model: model(
            [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0],
            [0.2, 0.2, 8.0],
            20,
            5268,
        ),
        pfe: shared("data/pfn/carkusl_nusc_pfe_sim.onnx"),
        frame: frames.map(|frame| frame.unwrap().path()).min().unwrap(),
    }
}

/// A model of five point columns, xyz − mean and xy − centre, and two layers of 64.
fn model(range: [f32; 6], voxel: [f32; 3], max_points: usize, max_pillars: usize) -> Model {
    let text = format!(
        r#"
        name = "golden"
        classes = ["car"]
        [points]
        columns = ["x", "y", "z", "intensity", "ring"]
        [grid]
        range = {range:?}
        voxel_size = {voxel:?}
        max_points_per_pillar = {max_points}
        max_pillars = {max_pillars}
        [pfn]
        center_offset_axes = 2
        in_features = 10
        layers = [64, 64]
        [head]
        downsample = 1
        size_order = "lwh"
        rotation = "sin_cos"
        [decode]
        score = 0.1
        "#
    );
    Model::parse(&text, Path::new("golden.toml")).unwrap()
}

pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn integers(bytes: &[u8]) -> Vec<i32> {
    bytes
        .chunks_exact(4)
        .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// The expected results of a frame: cells as `[pillars][y, x]`, counts, features.
pub(super) struct Golden {
    cells: Vec<i32>,
    counts: Vec<i32>,
    pub(super) features: Vec<f32>,
}

/// The expected results for haohaonju's frame.
pub(super) fn haohaonju_golden() -> Golden {
    let npz = std::fs::read(shared("data/pfn/haohaonju_waymo_frame_100.npz")).unwrap();
    Golden {
        cells: integers(&npy(&npz, "coors_yx")),
        counts: integers(&npy(&npz, "num_points")),
        features: floats(&npy(&npz, "pillar_features")),
    }
}

/// Largest difference between two lists of features.
pub(super) fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Runs the stages on the case's frame, compares, and prints the largest absolute difference.
fn compare(case: &Case, golden: &Golden) -> Pillars {
    let (model, points) = (&case.model, case.points());
    let pool = Pool::new(2);
    let mut pillars = Pillars::new(&model.grid);
    voxelize(&points, STRIDE, &model.grid, &mut pillars);
    let mut out = Features::new(model, &case.pfn(), pool.threads()).unwrap();
    features(&points, STRIDE, &pillars, &model.grid, &pool, &mut out);

    let nx = model.grid.nx as i32;
    let expected: Vec<i32> = golden
        .cells
        .chunks_exact(2)
        .map(|yx| yx[0] * nx + yx[1])
        .collect();
    assert_eq!(pillars.len(), expected.len());
    assert!(
        pillars.cells().iter().map(|&cell| cell as i32).eq(expected),
        "cells or their order"
    );
    assert!(
        pillars
            .counts()
            .iter()
            .map(|&n| n as i32)
            .eq(golden.counts.iter().copied()),
        "counts"
    );
    let worst = worst(out.values(), &golden.features);
    println!(
        "{}: {} pillars, largest difference {worst:e}",
        case.pfe.file_name().unwrap().display(),
        pillars.len()
    );
    assert!(worst < TOLERANCE, "{worst}");
    assert!(
        golden.features.iter().any(|&value| value > 1.0),
        "all features are small"
    );
    pillars
}

#[test]
#[ignore = "needs ../shared"]
fn haohaonju_on_a_waymo_frame() {
    let (case, golden) = (haohaonju(), haohaonju_golden());
    assert_eq!((case.model.grid.nx, case.model.grid.ny), (468, 468));
    assert_eq!(golden.counts.len(), 13569);
    compare(&case, &golden);
}

#[test]
#[ignore = "needs ../shared, CENTERPOINT_PYTHON"]
fn carkusl_on_a_nuscenes_frame() {
    let case = carkusl();
    let out = tempfile::NamedTempFile::new().unwrap();
    let grid = &case.model.grid;
    let range = grid.min.iter().chain(&grid.max);
    let caps = [grid.max_points_per_pillar, grid.max_pillars];
    let run = Command::new(oracle::python())
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/oracle/pfn_oracle.py"
        ))
        .args([&case.pfe, &case.frame, out.path()])
        .args(range.chain(&grid.voxel).map(f32::to_string))
        .args(caps.map(|n| n.to_string()))
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );

    let bytes = std::fs::read(out.path()).unwrap();
    let pillars = integers(&bytes[..4])[0] as usize;
    let (table, features) = bytes[4..].split_at(pillars * 12);
    let table = integers(table);
    let golden = Golden {
        cells: table
            .chunks_exact(3)
            .flat_map(|row| [row[0], row[1]])
            .collect(),
        counts: table.chunks_exact(3).map(|row| row[2]).collect(),
        features: floats(features),
    };
    let pillars = compare(&case, &golden);
    assert_eq!(pillars.len(), grid.max_pillars);
    assert!(pillars.dropped().pillars > 0 && pillars.dropped().pillar_points > 0);
}
