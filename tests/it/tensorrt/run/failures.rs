//! Every error of a TensorRT plan: its type, its message, and that everything is freed.

use std::path::PathBuf;
use std::sync::Arc;

use centerpoint::cuda::{CudaError, Device as GpuDevice};
use centerpoint::engine::TensorRtError;
use centerpoint::internals::engine::tensorrt::{Family, Library, Version};
use centerpoint::internals::plan::{Manifest, TensorRtOptions};
use centerpoint::{Detector, DetectorError, Device, Options, PlanError};

use super::{device, engine, manifest, options, plain, plan_of, stand_in, write};
use crate::cuda::frame::{demo_frames, demo_plan, read};
use crate::standin::{self, Engine, StandIn};

/// The error from making a detector with a plan of the demo network.
fn refusal(
    device: &Arc<dyn GpuDevice>,
    stand_in: &StandIn,
    manifest: Manifest,
    engine: &Engine,
) -> DetectorError {
    let folder = tempfile::tempdir().unwrap();
    let plan = write(folder.path(), &demo_plan("fp32.plan"), manifest, engine);
    let made = Detector::on(&plan, &options(stand_in), device);
    let error = made.err().expect("a plan that does not fit");
    assert_eq!(stand_in.alive(engine), 0);
    error
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn engines_that_fail_to_load_are_errors() {
    let device = device(0);
    let network = demo_plan("fp32.plan");
    for stand_in in standin::all() {
        let refused =
            |engine: &Engine| refusal(&device, stand_in, manifest(stand_in, None), engine);
        let whole = || engine(&network, &plain(&network), &device);
        let name = manifest(stand_in, None).target.version;
        for (engine, words) in [
            (
                whole().with("fail deserialize"),
                "the engine is for another GPU",
            ),
            (whole().with("fail context"), "no context can be made"),
            (whole().with("nonsense"), "these are no bytes of an engine"),
            (
                whole().with("code"),
                "the engine has code, which is not allowed",
            ),
        ] {
            let error = refused(&engine);
            let DetectorError::TensorRt(TensorRtError::Load { reason, .. }) = &error else {
                panic!("{error:?}");
            };
            assert!(
                reason.starts_with(words) && reason.contains("; "),
                "{reason}"
            );
            let text = error.to_string();
            assert!(
                text.contains(&format!("standin.plan: {name} could not load the engine: ")),
                "{text}"
            );
        }

        let error = refused(&whole().with("scratch 1125899906842624"));
        let text = error.to_string();
        let DetectorError::TensorRt(TensorRtError::Cuda(CudaError::Memory { bytes, .. })) = error
        else {
            panic!("{text}");
        };
        assert_eq!(bytes, 1 << 50);
        assert!(
            text.starts_with(
                "no device memory for TensorRT scratch memory (1125899906842624 bytes)"
            ),
            "{text}"
        );

        let error = refused(&whole().with("fail address rot"));
        let text = error.to_string();
        assert!(
            matches!(
                error,
                DetectorError::TensorRt(TensorRtError::Binding { .. })
            ),
            "{text}"
        );
        let expected = "tensor `rot` of the engine: TensorRT refused its memory: no address can be set for rot";
        assert!(text.ends_with(expected), "{text}");

        // The first run, before the frame is recorded.
        let error = refused(&whole().with("fail enqueue 1"));
        let text = error.to_string();
        assert!(
            matches!(error, DetectorError::Cuda(CudaError::Engine { .. })),
            "{text}"
        );
        assert_eq!(text, "the engine did not run: run 1 failed");
    }
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn engines_with_other_inputs_or_outputs_are_refused_by_name() {
    let stand_in = stand_in();
    let device = device(0);
    let network = demo_plan("fp32.plan");
    let whole = plain(&network);
    let plan: String = whole.iter().map(|tensor| tensor.line() + "\n").collect();
    // A tensor, an edit of its line, and the error.
    for (name, from, to, words) in [
        (
            "heatmap",
            "heatmap",
            "scores",
            "the engine has no such output; it has ",
        ),
        (
            "rot",
            "output 0",
            "output 2",
            "its type is INT8, expected FP32 or FP16",
        ),
        (
            "spatial_features",
            "input 0",
            "input 3",
            "its type is INT32, expected",
        ),
        (
            "spatial_features",
            "input 0",
            "input 2",
            "it takes INT8 codes, but the plan does not say",
        ),
        (
            "spatial_features",
            "1 32 256 256",
            "1 64 256 256",
            "its shape is 1x64x256x256, but the model",
        ),
        (
            "spatial_features",
            "1 32 256 256",
            "-1 32 256 256",
            "-1x32x256x256 is not fixed; export",
        ),
        (
            "dim",
            "1 3 128 128",
            "1 3 64 64",
            "its shape is 1x3x64x64, but the model description says 1x3x128x128",
        ),
        (
            "vel",
            "output 0 0",
            "output 0 10",
            "its format is DLA_HWC4, expected one of LINEAR, ",
        ),
        (
            "reg",
            "output 0 0 -1 -1",
            "output 0 5 16 1",
            "reports 16 along axis 1",
        ),
        (
            "dim",
            "dim output",
            "dim input",
            "the engine has 2 inputs (spatial_features, dim)",
        ),
    ] {
        let line = whole
            .iter()
            .find(|tensor| tensor.name == name)
            .unwrap()
            .line();
        assert!(line.contains(from), "{line}");
        let mut engine = Engine::new(&[], &device, |_| ());
        engine.plan += &plan.replace(&line, &line.replacen(from, to, 1));
        let error = refusal(&device, stand_in, manifest(stand_in, None), &engine);
        let DetectorError::TensorRt(TensorRtError::Binding {
            tensor, problem, ..
        }) = &error
        else {
            panic!("{error}");
        };
        assert_eq!(tensor, name);
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn a_run_that_fails_is_an_error() {
    let (stand_in, device) = (stand_in(), device(0));
    let network = demo_plan("fp32.plan");
    let engine = engine(&network, &plain(&network), &device).with("fail enqueue 3");
    let folder = tempfile::tempdir().unwrap();
    let plan = plan_of(folder.path(), &network, stand_in, &engine);
    // Run 1 precedes the recording.
    let mut detector = Detector::on(&plan, &options(stand_in), &device).unwrap();
    let cloud = read(&demo_frames()[0]);
    detector.detect(&cloud).unwrap();
    let error = detector.detect(&cloud).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the engine did not run: run 3 failed");
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn engines_with_code_are_loaded_where_the_plan_allows_it() {
    let (stand_in, device) = (stand_in(), device(0));
    let network = demo_plan("fp32.plan");
    let engine = engine(&network, &plain(&network), &device).with("code");
    let mut manifest = manifest(stand_in, None);
    if let Some(target) = &mut manifest.target.tensorrt {
        target.options = Some(TensorRtOptions {
            version_compatible: true,
            ..version_incompatible()
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let plan = write(folder.path(), &network, manifest.clone(), &engine);
    Detector::on(&plan, &options(stand_in), &device).unwrap();

    if let Some(target) = &mut manifest.target.tensorrt {
        target.options = Some(version_incompatible());
    }
    let error = refusal(&device, stand_in, manifest, &engine);
    assert!(
        error.to_string().contains("code, which is not allowed"),
        "{error}"
    );
}

fn version_incompatible() -> TensorRtOptions {
    serde_json::from_str(r#"{"input_type": "fp16", "output_type": "fp16"}"#).unwrap()
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn plans_of_another_line_of_libraries_are_refused() {
    let device = device(0);
    let network = demo_plan("fp32.plan");
    for stand_in in standin::all() {
        let engine = engine(&network, &plain(&network), &device);
        let found = Library::open(Some(&stand_in.path)).unwrap().version();
        let other = match found.family {
            Family::TensorRt => Family::TensorRtRtx,
            Family::TensorRtRtx => Family::TensorRt,
        };
        for wanted in [
            Version::new(found.family, found.major + 1, found.minor, found.patch),
            Version::new(other, found.major, found.minor, found.patch),
        ] {
            let mut manifest = manifest(stand_in, None);
            if let Some(target) = &mut manifest.target.tensorrt {
                target.library = wanted;
            }
            let error = refusal(&device, stand_in, manifest, &engine);
            assert!(
                matches!(
                    error,
                    DetectorError::TensorRt(TensorRtError::Mismatch { .. })
                ),
                "{error}"
            );
            let text = error.to_string();
            let expected = format!(
                "the engine is for {wanted}, but the library is {found}: set CENTERPOINT_TENSORRT"
            );
            assert!(text.contains(&expected), "{text}");
        }
        // The library itself judges minor versions.
        let mut manifest = manifest(stand_in, None);
        if let Some(target) = &mut manifest.target.tensorrt {
            target.library.minor += 1;
        }
        let folder = tempfile::tempdir().unwrap();
        let plan = write(folder.path(), &network, manifest, &engine);
        Detector::on(&plan, &options(stand_in), &device).unwrap();
    }
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn incomplete_plans_are_refused() {
    let (stand_in, device) = (stand_in(), device(0));
    let network = demo_plan("fp32.plan");
    let engine = engine(&network, &plain(&network), &device);
    let mut bare = manifest(stand_in, None);
    bare.target.tensorrt = None;
    let error = refusal(&device, stand_in, bare, &engine);
    assert!(
        matches!(error, DetectorError::Plan(PlanError::Broken { .. })),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("the manifest has no TensorRT target"),
        "{error}"
    );

    let folder = tempfile::tempdir().unwrap();
    let plan = plan_of(folder.path(), &network, stand_in, &engine);
    let nowhere = Options {
        tensorrt: Some(PathBuf::from("no/such/libnvinfer.so")),
        ..Options::default()
    };
    let error = Detector::on(&plan, &nowhere, &device).err().unwrap();
    assert!(
        matches!(
            error,
            DetectorError::TensorRt(TensorRtError::Library { .. })
        ),
        "{error}"
    );

    let on_cpu = Options {
        device: Device::Cpu,
        ..options(stand_in)
    };
    let error = Detector::new(&plan, &on_cpu).err().unwrap();
    assert!(
        matches!(error, DetectorError::Plan(PlanError::Target { .. })),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("made for `tensorrt`, but the CPU was requested; leave out"),
        "{text}"
    );
}
