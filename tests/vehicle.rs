//! The vehicle's library, without programs, compiler or ONNX: both shipped plans, through the public API, find the boxes
//! that `cp-infer` printed. `cargo test --no-default-features --features cuda,tensorrt` runs this and no other
//! integration test.
//!
//! `golden/000003.*.json` are the outputs of
//! `cp-infer --engine engines/demo/PLAN --pcd calib/demo/frames/000003.bin --format json` of commit 6e1102e.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use centerpoint::points::{ReadOptions, read};
use centerpoint::{Box3d, Detector, Device, Layout, Options};
use serde_json::Value;

/// The box of a JSON object. JSON has the fewest digits that read back as the same f32.
fn box_of(value: &Value, classes: &[String]) -> Box3d {
    let number = |value: &Value| value.as_f64().unwrap() as f32;
    let numbers = |key: &str| -> Vec<f32> {
        let list = value[key].as_array().unwrap();
        list.iter().map(number).collect()
    };
    let class = value["class"].as_str().unwrap();
    Box3d {
        center: numbers("center").try_into().unwrap(),
        size: numbers("size").try_into().unwrap(),
        yaw: number(&value["yaw"]),
        velocity: numbers("velocity").try_into().unwrap(),
        score: number(&value["score"]),
        class: classes.iter().position(|name| name == class).unwrap() as u32,
    }
}

fn check(precision: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let options = Options {
        device: Device::Cpu,
        ..Options::default()
    };
    let plan = root.join(format!("engines/demo/{precision}.plan"));
    let mut detector = Detector::load(&plan, &options).unwrap();
    let classes = detector.model().classes.clone();
    let read_options = ReadOptions {
        layout: None,
        default_layout: Layout::new(&detector.model().points.columns).unwrap(),
    };
    let cloud = read(&root.join("calib/demo/frames/000003.bin"), &read_options).unwrap();
    let golden = root.join(format!("tests/golden/000003.{precision}.json"));
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let boxes = golden["boxes"].as_array().unwrap();
    let expected: Vec<Box3d> = boxes.iter().map(|b| box_of(b, &classes)).collect();
    assert!(expected.len() > 20);
    // The second frame runs on the buffers of the first.
    for _ in 0..2 {
        let found = detector.detect(&cloud).unwrap();
        assert_eq!(found.boxes, expected);
        let dropped = &golden["dropped"];
        assert_eq!(dropped["out_of_range"], found.dropped.out_of_range);
        assert_eq!(dropped["pillar_points"], found.dropped.pillar_points);
    }
}

#[test]
fn the_fp32_plan_finds_the_golden_boxes() {
    check("fp32");
}

#[test]
fn the_int8_plan_finds_the_golden_boxes() {
    check("int8");
}
