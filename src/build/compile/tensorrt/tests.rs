//! Checks before and after a build. Builds themselves are tested in `tests/it/tensorrt/compile.rs`.

use super::*;

fn tensorrt(major: u32, minor: u32) -> Version {
    Version::new(Family::TensorRt, major, minor, 0)
}

/// The refused option.
fn refused(options: &TensorRtOptions, version: Version, quantized: bool) -> Option<&'static str> {
    check(options, &[], false, version, quantized)
        .err()
        .map(|(option, _)| option)
}

#[test]
fn the_dla_needs_a_version_and_network_that_support_it() {
    let mut options = TensorRtOptions {
        dla: Some(0),
        gpu_fallback: true,
        ..TensorRtOptions::default()
    };
    for (major, minor, float, pairs) in [
        (10, 3, true, false),
        (10, 7, true, false),
        (10, 8, false, false),
        (10, 16, false, false),
        (11, 3, false, false),
        (11, 4, true, true),
        (12, 0, true, true),
    ] {
        let version = tensorrt(major, minor);
        assert_eq!(
            refused(&options, version, false).is_none(),
            float,
            "{version}"
        );
        assert_eq!(
            refused(&options, version, true).is_none(),
            pairs,
            "{version}"
        );
    }
    options.dla = None;
    assert_eq!(
        refused(&options, tensorrt(10, 3), false),
        Some("--gpu-fallback")
    );
}

#[test]
fn options_that_need_others_or_newer_libraries_are_refused() {
    let mut options = TensorRtOptions {
        exclude_lean_runtime: true,
        ..TensorRtOptions::default()
    };
    let version = tensorrt(10, 3);
    assert_eq!(
        refused(&options, version, true),
        Some("--exclude-lean-runtime")
    );
    options.version_compatible = true;
    assert_eq!(refused(&options, version, true), None);
    options.hardware_compatible = HardwareCompatibility::AmperePlus;
    assert_eq!(refused(&options, version, true), None);
    options.hardware_compatible = HardwareCompatibility::SameComputeCapability;
    let name = "--hardware-compatible same-compute-capability";
    assert_eq!(refused(&options, tensorrt(10, 8), true), Some(name));
    assert_eq!(refused(&options, tensorrt(10, 9), true), None);
    let (option, _) = check(&options, &[87], false, tensorrt(10, 9), true).unwrap_err();
    assert_eq!(option, "--compute-capability");
    check(&options, &[], true, tensorrt(10, 9), true).unwrap();
}

#[test]
fn an_engine_with_other_inputs_or_outputs_is_refused() {
    let tensors = [TensorDesc {
        name: "x".into(),
        input: true,
        element: Element::I8,
        scale: Some(0.5),
        dims: vec![1, 2, 4, 4],
    }];
    let built = |line: &str| Built {
        layer_log: Some(format!("I/O Tensors:\n Name: {line}, ProfileInfo: []")),
        ..Built::default()
    };
    let path = Path::new("net.onnx");
    let right = "x, IOMode: Input, DataType: Int8, Dimensions: [1,2,4,4]";
    check_tensors(&built(right), &tensors, path).unwrap();
    check_tensors(&Built::default(), &tensors, path).unwrap();
    for (from, to, problem) in [
        (
            "x",
            "y",
            "tensor `y` of the engine: the network has no such",
        ),
        (
            "Input",
            "Output",
            "tensor `x` of the engine: the network has no such",
        ),
        (
            "Int8",
            "Half",
            "it is fp16 [1, 2, 4, 4], but the network has int8 [1, 2, 4, 4]",
        ),
        (
            "4,4",
            "4,8",
            "it is int8 [1, 2, 4, 8], but the network has int8",
        ),
    ] {
        let wrong = built(&right.replacen(from, to, 1));
        let error = check_tensors(&wrong, &tensors, path)
            .unwrap_err()
            .to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn layers_come_from_the_log_if_the_inspector_reports_none() {
    let graph = crate::build::testing::shaped(
        vec![crate::build::testing::node("Relu", &["x"], "out")],
        vec![],
        Some(&[1]),
    );
    let log = "Layers:\nName: a, LayerType: kgen, Inputs: [], Outputs: []".to_owned();
    let names = |inspector: Option<&str>, log: Option<&String>| {
        let built = Built {
            inspector: inspector.map(str::to_owned),
            layer_log: log.cloned(),
            ..Built::default()
        };
        let mut warnings = Vec::new();
        let table = table(&built, &graph, &mut warnings);
        let layers = table.map(|t| t.layers.into_iter().map(|l| l.name).collect::<String>());
        (layers, warnings.len())
    };
    let json = Some("{\"Layers\": [\"b\"]}");
    assert_eq!(names(json, Some(&log)), (Some("b".into()), 0));
    assert_eq!(names(None, Some(&log)), (Some("a".into()), 0));
    assert_eq!(names(Some("?"), Some(&log)), (Some("a".into()), 1));
    assert_eq!(names(Some("{\"Layers\": []}"), None), (None, 1));
    assert_eq!(names(None, None), (None, 1));
}

#[test]
fn a_timing_cache_may_not_exist_yet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    assert_eq!(read_cache(&path).unwrap(), None);
    std::fs::write(&path, "times").unwrap();
    assert_eq!(read_cache(&path).unwrap().as_deref(), Some(&b"times"[..]));
    let error = read_cache(folder.path()).unwrap_err();
    assert!(
        matches!(error, crate::build::BuildError::Io { .. }),
        "{error}"
    );
}
