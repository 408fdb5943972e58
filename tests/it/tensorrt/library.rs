//! Opening libraries, valid and invalid, and building with the real TensorRT-RTX.
//!
//! Whatever may crash runs in a process of its own, a second run of this program, where a crash is recognised.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use centerpoint::engine::TensorRtError;
use centerpoint::internals::build::onnx::encode;
use centerpoint::internals::build::onnx::proto::GraphProto;
use centerpoint::internals::engine::tensorrt::{
    BuildRequest, Built, Family, Library, Monitor, Progress, Version,
};

use super::library_folder;
use crate::nets::{ints, model, node, value};

/// Environment variable: the path that the child opens; empty for the library that the environment names.
const CHILD: &str = "CENTERPOINT_TEST_CHILD_LIBRARY";

/// Prints the library's log.
struct Printed;

impl log::Log for Printed {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        if record.target() == "tensorrt" {
            println!("log {} {}", record.level(), record.args());
        }
    }
    fn flush(&self) {}
}

#[test]
#[ignore = "started by the tests that open libraries"]
fn child() {
    log::set_logger(&Printed).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let path = std::env::var_os(CHILD).unwrap();
    let path = (!path.is_empty()).then_some(Path::new(&path));
    let library = match Library::open(path) {
        Ok(library) => library,
        Err(error) => return println!("refused: {error}"),
    };
    println!("opened: {}", library.version());
    match library.build(&request(&network()), &()) {
        Ok(built) => println!("built: {} bytes", built.plan.len()),
        Err(error) => println!("not built: {error}"),
    }
}

/// Opens `path` in a child, which also builds with it for compute capability 8.9. Returns the child's output.
fn opened(path: &Path, named: Option<&Path>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "tensorrt::library::child",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD, path)
        .env_remove("CENTERPOINT_TENSORRT");
    if let Some(named) = named {
        command.env("CENTERPOINT_TENSORRT", named);
    }
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{}: {}\n{said}",
        path.display(),
        done.status
    );
    said
}

fn assert_says(path: &Path, words: &[&str]) {
    let said = opened(path, None);
    for word in words {
        assert!(
            said.contains(word),
            "{}: no \"{word}\" in\n{said}",
            path.display()
        );
    }
}

/// A small network: `y` is `x`, smoothed and clipped below 0.
pub(super) fn network() -> Vec<u8> {
    let pool = {
        let mut pool = node("AveragePool", &["x"], &["pooled"]);
        pool.attribute = vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1])];
        pool
    };
    encode(&model(GraphProto {
        name: Some("small".into()),
        node: vec![pool, node("Relu", &["pooled"], &["y"])],
        input: vec![value("x", &[1, 8, 16, 16])],
        output: vec![value("y", &[1, 8, 16, 16])],
        ..Default::default()
    }))
}

fn request(onnx: &[u8]) -> BuildRequest<'_> {
    BuildRequest {
        compute_capabilities: &[89],
        ..BuildRequest::new(onnx, Path::new("small.onnx"))
    }
}

/// The real TensorRT-RTX.
fn rtx() -> Library {
    Library::open(Some(&library_folder("rtx"))).unwrap()
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn real_libraries_are_opened_or_refused_by_version() {
    let rtx = library_folder("rtx");
    let sibling = |name: &str| rtx.with_file_name(name);
    assert_says(
        &rtx,
        &[
            "opened: TensorRT-RTX 1.7.1",
            "built: ",
            "log TRACE ",
            "log INFO ",
        ],
    );
    // As a file, and through the environment.
    assert_says(
        &rtx.join("libtensorrt_rtx.so.1"),
        &["opened: TensorRT-RTX 1.7.1", "built: "],
    );
    let said = opened(Path::new(""), Some(&rtx));
    assert!(said.contains("opened: TensorRT-RTX 1.7.1"), "{said}");
    // The shim has headers of 11, so this opens. It cannot build, with or without a driver.
    assert_says(
        &sibling("lean11"),
        &["opened: TensorRT 11.4.0", "is a lean runtime"],
    );
    // The shim has no headers of 10.
    assert_says(
        &sibling("lean10"),
        &[
            "refused: ",
            "this is TensorRT 10.16.1",
            "the headers of TensorRT 11.4.0 and of TensorRT-RTX 1.5.0",
            "the headers of TensorRT 10.16 (their folder in TENSORRT_INCLUDE_DIR)",
        ],
    );
    // The version counts, not the file name. This folder holds no parser.
    let folder = tempfile::tempdir().unwrap();
    let renamed = folder.path().join("libnvinfer.so.11");
    std::os::unix::fs::symlink(rtx.join("libtensorrt_rtx.so.1"), &renamed).unwrap();
    assert_says(
        folder.path(),
        &[
            "opened: TensorRT-RTX 1.7.1",
            "not built: ",
            "libtensorrt_onnxparser_rtx.so.1",
        ],
    );
}

/// Compiles a library that only has `getInferLibVersion`, which returns `number`.
fn fake(folder: &Path, number: i32) -> PathBuf {
    let source = folder.join("fake.c");
    std::fs::write(
        &source,
        format!("int getInferLibVersion(void) {{ return {number}; }}\n"),
    )
    .unwrap();
    let library = folder.join(format!("fake{number}.so"));
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(done.unwrap().success());
    library
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn unsuitable_libraries_are_refused_with_the_reason() {
    let rtx = library_folder("rtx");
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none");
    assert_says(&none, &["refused: ", "there is no such file or folder"]);
    assert_says(
        folder.path(),
        &["refused: ", "contains none of libnvinfer.so.11"],
    );
    let text = folder.path().join("libnvinfer.so.10");
    std::fs::write(&text, "not a library\n").unwrap();
    assert_says(
        folder.path(),
        &["refused: ", "it cannot be opened", "libnvinfer.so.10"],
    );
    let parser = rtx.join("libtensorrt_onnxparser_rtx.so.1");
    assert_says(&parser, &["refused: ", "it is not a TensorRT library"]);
    for (number, words) in [
        (8601, "this is TensorRT 8.6.1"),
        (8601, "use TensorRT 10 or 11"),
        (10300, "use TensorRT-RTX 1.5 or newer"),
        (110300, "use TensorRT 11.4 or newer"),
        (120000, "use TensorRT 10 or 11"),
        (
            7,
            "it reports version number 7, which is not one of TensorRT's",
        ),
        (110400, "it has no createInferRuntime_INTERNAL"),
    ] {
        assert_says(&fake(folder.path(), number), &["refused: ", words]);
    }
}

/// Records the progress that it receives.
#[derive(Default)]
struct Recorder {
    begun: Mutex<Vec<(String, u64)>>,
    steps: Mutex<usize>,
    ended: Mutex<Vec<String>>,
}

impl Monitor for Recorder {
    fn progress(&self, progress: Progress<'_>) -> bool {
        match progress {
            Progress::Begin { phase, steps, .. } => {
                self.begun.lock().unwrap().push((phase.into(), steps));
            }
            Progress::Step { .. } => *self.steps.lock().unwrap() += 1,
            Progress::End { phase } => self.ended.lock().unwrap().push(phase.into()),
        }
        true
    }
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn a_build_reports_progress_and_layers() {
    let library = rtx();
    let onnx = network();
    let recorder = Recorder::default();
    let built: Built = library.build(&request(&onnx), &recorder).unwrap();
    let version = Version::new(Family::TensorRtRtx, 1, 7, 1);
    assert_eq!(library.version(), version);
    assert_eq!(Version::from_plan_header(&built.plan), Some(version));
    assert_eq!(built.timing_cache, None);
    let layers = built.layer_log.unwrap();
    for part in [
        "LayerType: avgpool",
        "I/O Tensors:",
        "[ONNX Layer: /AveragePool]",
    ] {
        assert!(layers.contains(part), "{part}: {layers}");
    }
    let begun = recorder.begun.into_inner().unwrap();
    let ended = recorder.ended.into_inner().unwrap();
    assert!(
        !begun.is_empty() && begun.iter().all(|(_, steps)| *steps > 0),
        "{begun:?}"
    );
    assert_eq!(begun.len(), ended.len(), "{begun:?} {ended:?}");
    assert!(recorder.steps.into_inner().unwrap() > 0);
    // The same bytes again.
    let again = library.build(&request(&onnx), &()).unwrap();
    assert!(again.plan == built.plan, "another plan");
}

/// Cancels immediately.
struct Stop;

impl Monitor for Stop {
    fn progress(&self, _: Progress<'_>) -> bool {
        false
    }
}

/// Panics at the first step.
struct Panic;

impl Monitor for Panic {
    fn progress(&self, progress: Progress<'_>) -> bool {
        assert!(!matches!(progress, Progress::Step { .. }), "a plant");
        true
    }
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn a_monitor_cancels_a_build_and_its_panic_propagates() {
    let library = rtx();
    let onnx = network();
    let error = library.build(&request(&onnx), &Stop).unwrap_err();
    assert!(
        error.to_string().contains("the build was cancelled"),
        "{error}"
    );
    let build = || library.build(&request(&onnx), &Panic);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(build)).unwrap_err();
    assert!(
        panic
            .downcast_ref::<&str>()
            .is_some_and(|words| words.contains("a plant"))
    );
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn the_parsers_errors_name_the_node() {
    let library = rtx();
    let strange = encode(&model(GraphProto {
        name: Some("strange".into()),
        node: vec![
            node("Relu", &["x"], &["a"]),
            node("Sparkle", &["a"], &["y"]),
        ],
        input: vec![value("x", &[1, 8, 16, 16])],
        output: vec![value("y", &[1, 8, 16, 16])],
        ..Default::default()
    }));
    let error = library.build(&request(&strange), &()).unwrap_err();
    let TensorRtError::Parse { errors, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(
        (errors[0].node.as_str(), errors[0].operator.as_str()),
        ("/Sparkle", "Sparkle")
    );
    let words = error.to_string();
    for word in [
        "small.onnx: ",
        "node \"/Sparkle\" (Sparkle)",
        "use a newer TensorRT",
    ] {
        assert!(words.contains(word), "{words}");
    }
    let error = library.build(&request(b"no ONNX at all"), &()).unwrap_err();
    assert!(
        error.to_string().contains("export the network again"),
        "{error}"
    );
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT"]
fn unsupported_features_are_refused_with_advice() {
    let library = rtx();
    let onnx = network();
    let plain = request(&onnx);
    let refused = |request: &BuildRequest<'_>| library.build(request, &()).unwrap_err();
    let error = refused(&BuildRequest {
        dla_core: Some(0),
        ..plain.clone()
    });
    assert!(
        error
            .to_string()
            .contains("the option --dla: RTX cards have no DLA"),
        "{error}"
    );
    let error = refused(&BuildRequest {
        timing_cache: Some(&[]),
        ..plain.clone()
    });
    assert!(error.to_string().contains("--timing-cache"), "{error}");
    // f32 has no HWC8.
    let error = refused(&BuildRequest {
        input_formats: 1 << 2,
        ..plain.clone()
    });
    assert!(matches!(error, TensorRtError::Build { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("a requested input or output format"),
        "{error}"
    );
    for capability in [90, 100, 7] {
        let error = refused(&BuildRequest {
            compute_capabilities: &[capability],
            ..plain.clone()
        });
        assert!(
            error.to_string().contains("compute capabilit"),
            "{capability}: {error}"
        );
    }
    // Without compute capabilities it builds for the GPU of this machine, if it has one.
    if centerpoint::cuda::open().is_err() {
        let error = refused(&BuildRequest {
            compute_capabilities: &[],
            ..plain
        });
        assert!(
            matches!(error, TensorRtError::Unavailable { .. }),
            "{error:?}"
        );
        assert!(
            error
                .to_string()
                .contains("builds engines on the GPU that they are for"),
            "{error}"
        );
    }
}
