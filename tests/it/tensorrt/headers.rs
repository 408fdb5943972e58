//! The shim compiled against all available headers: no warnings, and no symbol that collides with another shim's.
//!
//! The headers of TensorRT 10 cannot be fetched; its code compiles against those of TensorRT-RTX 1.3, which have all
//! that it uses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use centerpoint::internals::engine::tensorrt::choice::choose;
use centerpoint::internals::engine::tensorrt::{Family, Version};

use super::library::network;
use super::{header_folders, library_folder};

/// A shim to compile.
struct Shim {
    /// Distinguishes shims of the same prefix.
    name: String,
    prefix: &'static str,
    headers: PathBuf,
    /// Whether it is compiled as TensorRT 10 with the headers of TensorRT-RTX.
    stand_in: bool,
}

impl Shim {
    /// Compiles the shim with all warnings into `folder`. Returns the object file.
    fn compile(&self, folder: &Path) -> PathBuf {
        let object = folder.join(format!("{}.o", self.name));
        let mut command = compiler();
        command
            .args(["-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", "-c"])
            .args(["-I", "src/engine/tensorrt/include", "-isystem"])
            .arg(&self.headers)
            .arg(format!("-DCP_PREFIX={}", self.prefix));
        if self.stand_in {
            // TensorRT-RTX deprecates functions that TensorRT 10 does not.
            command.args(["-DCP_RTX=0", "-Wno-deprecated-declarations"]);
        }
        command
            .arg("src/engine/tensorrt/shim.cpp")
            .arg("-o")
            .arg(&object);
        run(&mut command);
        object
    }
}

fn compiler() -> Command {
    let name = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let mut command = Command::new(name);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// Runs a command, which must succeed. Returns its standard output.
fn run(command: &mut Command) -> String {
    let done = command.output().expect("the command runs");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}\n{errors}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A shim for every set of headers, and one for TensorRT 10 with the oldest headers of TensorRT-RTX.
fn shims(folders: Vec<PathBuf>) -> Vec<Shim> {
    let mut shims: Vec<Shim> = folders
        .into_iter()
        .map(|headers| {
            let version = std::fs::read_to_string(headers.join("NvInferVersion.h")).unwrap();
            let has = |macros: &str| version.lines().any(|line| line.starts_with(macros));
            let prefix = match () {
                () if has("#define TRT_MAJOR_RTX") => "rtx1",
                () if has("#define TRT_MAJOR_ENTERPRISE 11") => "trt11",
                () => "trt10",
            };
            let name = headers.display().to_string().replace(['/', '.'], "_");
            Shim {
                name,
                prefix,
                headers,
                stand_in: false,
            }
        })
        .collect();
    let oldest = shims.iter().find(|shim| shim.prefix == "rtx1");
    let headers = oldest.expect("headers of TensorRT-RTX").headers.clone();
    assert!(headers.ends_with("TRT-RTX-1.3"), "{}", headers.display());
    shims.push(Shim {
        name: "stand_in".into(),
        prefix: "trt10",
        headers,
        stand_in: true,
    });
    shims
}

/// Names of the external symbols that an object file defines.
fn symbols(object: &Path) -> Vec<String> {
    let listed = run(Command::new("nm")
        .args(["--defined-only", "--extern-only", "--format=posix"])
        .arg(object));
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn the_shim_compiles_without_warnings_against_all_headers_beside_others() {
    let folder = tempfile::tempdir().unwrap();
    let shims = shims(header_folders());
    let next = Mutex::new(shims.iter());
    let objects = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(shim) = next.lock().unwrap().next() else {
                        return;
                    };
                    let object = shim.compile(folder.path());
                    objects.lock().unwrap().push((shim, object));
                }
            });
        }
    });
    let objects = objects.into_inner().unwrap();
    assert_eq!(objects.len(), shims.len());
    for (shim, object) in &objects {
        let symbols = symbols(object);
        let start = format!("{}_shim", shim.prefix);
        assert!(symbols.contains(&start), "{} has no {start}", shim.name);
        for symbol in symbols {
            // Symbols of the compiler and the standard library are the same in all objects.
            let common = ["DW.ref.", "_ZSt", "_ZNSt", "_ZNKSt"];
            let common = common.iter().any(|begin| symbol.starts_with(begin))
                && !symbol.contains("nvinfer")
                && !symbol.contains("nvonnx");
            assert!(
                common || symbol.contains(shim.prefix),
                "{symbol} of {} may collide",
                shim.name
            );
        }
    }
    versions_are_those_of_the_headers(&objects, folder.path());
}

/// Links one shim of each prefix into a program that prints their versions: first those of the oldest headers, then
/// those of the newest.
fn versions_are_those_of_the_headers(objects: &[(&Shim, PathBuf)], folder: &Path) {
    let mut sorted: Vec<_> = objects.iter().collect();
    sorted.sort_by_key(|(shim, _)| &shim.headers);
    let oldest: BTreeMap<&str, &PathBuf> = sorted
        .iter()
        .rev()
        .map(|(shim, object)| (shim.prefix, object))
        .collect();
    let newest: BTreeMap<&str, &PathBuf> = sorted
        .iter()
        .map(|(shim, object)| (shim.prefix, object))
        .collect();
    let oldest = linked(&oldest, &folder.join("oldest"));
    let newest = linked(&newest, &folder.join("newest"));
    assert_eq!(oldest["rtx1"], Version::new(Family::TensorRtRtx, 1, 3, 0));
    assert_eq!(newest["rtx1"], Version::new(Family::TensorRtRtx, 1, 7, 1));
    assert_eq!(newest["trt11"].major, 11);
    // The library of the tests, and a shim that would crash in it.
    let advice = choose(newest["rtx1"], &[oldest["rtx1"]]).unwrap_err();
    assert!(advice.contains("headers of TensorRT-RTX 1.7"), "{advice}");
}

/// Links shims into a program. Returns the versions that they report, by prefix.
fn linked(objects: &BTreeMap<&str, &PathBuf>, program: &Path) -> BTreeMap<String, Version> {
    let mut source = String::from("#include \"shim.h\"\n#include <cstdio>\n");
    let mut body = String::new();
    for prefix in objects.keys() {
        source += &format!("extern \"C\" const CpShim *{prefix}_shim(CpLog log);\n");
        body += &format!(
            "std::printf(\"{prefix} %d\\n\", static_cast<int>({prefix}_shim(nullptr)->version));\n"
        );
    }
    source += &format!("int main() {{\n{body}}}\n");
    let main = program.with_extension("cpp");
    std::fs::write(&main, source).unwrap();
    run(compiler()
        .args(["-std=c++17", "-I", "src/engine/tensorrt"])
        .arg(&main)
        .args(objects.values())
        .arg("-o")
        .arg(program));
    run(&mut Command::new(program))
        .lines()
        .map(|line| {
            let (prefix, number) = line.split_once(' ').unwrap();
            let version = Version::from_library_number(number.parse().unwrap()).unwrap();
            (prefix.to_owned(), version)
        })
        .collect()
}

/// With the real library, every shim that [`choose`] allows builds the same engine as the shim of the library's own
/// headers. (The shims of 1.3 and 1.4, which it refuses, crash.)
#[test]
#[ignore = "needs CENTERPOINT_TEST_TENSORRT, CENTERPOINT_TEST_TENSORRT_HEADERS"]
fn shims_of_all_headers_that_fit_the_library_build_the_same_engine() {
    let rtx = library_folder("rtx");
    let library = Version::new(Family::TensorRtRtx, 1, 7, 1);
    let folder = tempfile::tempdir().unwrap();
    let onnx = folder.path().join("small.onnx");
    std::fs::write(&onnx, network()).unwrap();
    let mut plans = BTreeMap::new();
    let mut refused = Vec::new();
    for shim in shims(header_folders())
        .iter()
        .filter(|shim| shim.prefix == "rtx1")
    {
        let object = shim.compile(folder.path());
        let version = linked(
            &BTreeMap::from([("rtx1", &object)]),
            &folder.path().join("version"),
        )["rtx1"];
        if choose(library, &[version]).is_err() {
            refused.push(version.minor);
            continue;
        }
        let (program, plan) = (folder.path().join("build"), folder.path().join("plan"));
        run(compiler()
            .args([
                "-std=c++17",
                "-I",
                "src/engine/tensorrt",
                "tests/tensorrt/build.cpp",
            ])
            .args([&object, Path::new("-o"), &program]));
        run(Command::new(program)
            .args(
                ["libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"]
                    .map(|name| rtx.join(name)),
            )
            .args([&onnx, &plan]));
        plans.insert(version.minor, std::fs::read(plan).unwrap());
    }
    assert_eq!(refused, [3, 4]);
    assert_eq!(plans.keys().copied().collect::<Vec<_>>(), [5, 6, 7]);
    assert!(
        plans
            .values()
            .all(|plan| *plan == plans[&7] && !plan.is_empty()),
        "the engines differ"
    );
}
