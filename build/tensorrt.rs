//! Compiles `src/engine/tensorrt/shim.cpp` once for each TensorRT family whose headers are found: `trt10`,
//! `trt11`, and `rtx1` for TensorRT-RTX. Only with the feature `tensorrt`.
//!
//! Headers are searched for in
//! 1. `TENSORRT_INCLUDE_DIR`, a list like `PATH`. Each entry is a folder with NvInfer.h (or with NvOnnxParser.h
//!    alone), or a folder that contains such folders or folders with a matching `include`;
//! 2. the places that Debian packages and NVIDIA archives use: [`PLACES`].
//!
//! 2 is used only for families that 1 lacks. If a location has several versions of a family, **the oldest** is
//! used: a library supports its own headers and all older ones of its major version, so the oldest headers support
//! the most libraries, and the shim needs nothing that only newer headers declare. TensorRT-RTX changed its
//! interfaces in 1.5, so for that family the oldest version from 1.5 on is preferred.
//!
//! Missing headers and compiler errors are only warnings. The program reports at run time what is missing.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The shims: prefix, whether it is TensorRT-RTX, major version.
const FAMILIES: [(&str, bool, u32); 3] = [
    ("trt10", false, 10),
    ("trt11", false, 11),
    ("rtx1", true, 1),
];

/// First version of TensorRT-RTX with the current interfaces. Must match `src/engine/tensorrt/choice.rs`.
const RTX_BREAK: (u32, u32) = (1, 5);

/// Default locations of the headers.
const PLACES: [&str; 5] = [
    "/usr/include/aarch64-linux-gnu",
    "/usr/include/x86_64-linux-gnu",
    "/usr/include",
    "/usr/local/include",
    "/usr/local/tensorrt/include",
];

/// How to install the headers, for warnings.
const ADVICE: &str = "install them (Debian, Ubuntu, JetPack: libnvinfer-dev and libnvonnxparsers-dev), or name \
                      their folder in TENSORRT_INCLUDE_DIR, and build again";

const SHIM: &str = "src/engine/tensorrt/shim.cpp";

/// The headers of one TensorRT version.
#[derive(Clone, Debug)]
struct Headers {
    /// The folder with NvInfer.h.
    folder: PathBuf,
    rtx: bool,
    /// Major, minor.
    version: (u32, u32),
}

/// Writes `tensorrt.rs`, the list of shims that `src/engine/tensorrt/ffi.rs` includes.
///
/// # Errors
/// If `tensorrt.rs` cannot be written.
pub(crate) fn build() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=TENSORRT_INCLUDE_DIR");
    println!("cargo::rerun-if-changed=src/engine/tensorrt/shim.cpp");
    println!("cargo::rerun-if-changed=src/engine/tensorrt/shim.h");
    println!("cargo::rerun-if-changed=src/engine/tensorrt/include");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let given = given_folders();
    let places = places();
    let parsers: Vec<&PathBuf> = given.iter().chain(&places).collect();
    let sets = [&given, &places].map(|folders| -> Vec<Headers> {
        folders.iter().filter_map(|folder| read(folder)).collect()
    });
    let mut compiled = Vec::new();
    let mut problems = Vec::new();
    for (prefix, rtx, major) in FAMILIES {
        let Some(headers) = sets.iter().find_map(|sets| choose(sets, rtx, major)) else {
            continue;
        };
        println!(
            "cargo::rerun-if-changed={}",
            headers.folder.join("NvInferVersion.h").display()
        );
        match compile(prefix, headers, &parsers, &out) {
            Ok(()) => compiled.push(prefix),
            Err(problem) => {
                // This file never exists, so cargo tries again at the next build.
                println!("cargo::rerun-if-changed={}", out.join("again").display());
                problems.push(problem);
            }
        }
    }
    if compiled.is_empty() && problems.is_empty() {
        problems.push(format!(
            "found no headers of TensorRT 10, TensorRT 11 or TensorRT-RTX 1; {ADVICE}"
        ));
        // Packages would install them here.
        for folder in PLACES.iter().filter(|place| place.ends_with("-gnu")) {
            if Path::new(folder).is_dir() {
                println!("cargo::rerun-if-changed={folder}");
            }
        }
    }
    for problem in &problems {
        println!("cargo::warning=feature `tensorrt`: {problem}");
    }
    fs::write(out.join("tensorrt.rs"), list(&compiled, &problems))
}

/// The source of `tensorrt.rs`.
fn list(compiled: &[&str], problems: &[String]) -> String {
    let mut text = String::from("unsafe extern \"C\" {\n");
    for prefix in compiled {
        let _ = writeln!(text, "    fn {prefix}_shim(log: Log) -> *const Shim;");
    }
    text.push_str("}\n/// The shims of this program.\nconst SHIMS: &[Start] = &[");
    for prefix in compiled {
        let _ = write!(text, "{prefix}_shim, ");
    }
    let _ = writeln!(
        text,
        "];\n/// Why other shims are missing.\nconst PROBLEMS: &str = {:?};",
        problems.join("; ")
    );
    text
}

/// All folders with headers that `TENSORRT_INCLUDE_DIR` names.
fn given_folders() -> Vec<PathBuf> {
    let list = env::var_os("TENSORRT_INCLUDE_DIR").unwrap_or_default();
    let mut folders = Vec::new();
    for entry in env::split_paths(&list).filter(|entry| !entry.as_os_str().is_empty()) {
        if has_headers(&entry) {
            folders.push(entry);
            continue;
        }
        println!("cargo::rerun-if-changed={}", entry.display());
        let before = folders.len();
        for inner in subfolders(&entry) {
            let include = inner.join("include");
            folders.extend(
                [inner, include]
                    .into_iter()
                    .find(|folder| has_headers(folder)),
            );
        }
        if folders.len() == before {
            println!(
                "cargo::warning=feature `tensorrt`: {}, named in TENSORRT_INCLUDE_DIR, contains no NvInfer.h",
                entry.display()
            );
        }
    }
    folders
}

/// [`PLACES`] and the `TensorRT*` folders of archives below `/usr/local` and `/opt`.
fn places() -> Vec<PathBuf> {
    let archives = ["/usr/local", "/opt"]
        .into_iter()
        .flat_map(|folder| subfolders(Path::new(folder)))
        .filter(|folder| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("TensorRT")
        })
        .map(|folder| folder.join("include"));
    PLACES
        .iter()
        .map(PathBuf::from)
        .chain(archives)
        .filter(|folder| has_headers(folder))
        .collect()
}

/// The subfolders of a folder, sorted.
fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let mut inner: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    inner.sort();
    inner
}

fn has_headers(folder: &Path) -> bool {
    ["NvInfer.h", "NvOnnxParser.h"]
        .iter()
        .any(|name| folder.join(name).is_file())
}

/// Reads the version of the headers in a folder from NvInferVersion.h.
fn read(folder: &Path) -> Option<Headers> {
    let bytes = fs::read(folder.join("NvInferVersion.h")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("#define") && words.next() == Some(name))
                .then(|| words.next().unwrap_or_default())
        })
    };
    // 10.3 defines a number, later versions the name of another macro: TRT_MAJOR_ENTERPRISE, TRT_MAJOR_RTX.
    let number = |name: &str| {
        let found = value(name)?;
        found.parse().ok().or_else(|| value(found)?.parse().ok())
    };
    Some(Headers {
        folder: folder.to_path_buf(),
        rtx: value("TRT_MAJOR_RTX").is_some(),
        version: (number("NV_TENSORRT_MAJOR")?, number("NV_TENSORRT_MINOR")?),
    })
}

/// The headers to compile a family with.
fn choose(sets: &[Headers], rtx: bool, major: u32) -> Option<&Headers> {
    sets.iter()
        .filter(|headers| headers.rtx == rtx && headers.version.0 == major)
        .min_by_key(|headers| (rtx && headers.version < RTX_BREAK, headers.version))
}

/// Compiles the shim, or returns why that failed.
fn compile(
    prefix: &str,
    headers: &Headers,
    parsers: &[&PathBuf],
    out: &Path,
) -> Result<(), String> {
    let (major, minor) = headers.version;
    let what = format!(
        "the headers of TensorRT{} {major}.{minor} in {}",
        if headers.rtx { "-RTX" } else { "" },
        headers.folder.display()
    );
    let parser = |folder: &Path| folder.join("NvOnnxParser.h").is_file();
    // A parser header beside other TensorRT headers belongs to those.
    let alone = |folder: &Path| parser(folder) && !folder.join("NvInfer.h").is_file();
    let mut folders = vec![headers.folder.as_path()];
    if !parser(&headers.folder) {
        let Some(folder) = parsers.iter().find(|folder| alone(folder)) else {
            return Err(format!(
                "{what} have no NvOnnxParser.h; install libnvonnxparsers-dev, or name its folder in \
                 TENSORRT_INCLUDE_DIR as well, and build again"
            ));
        };
        folders.push(folder);
    }
    let mut compiler = cc::Build::new();
    compiler
        .cpp(true)
        .std("c++17")
        // A newer compiler may warn about more; the tests enable all warnings.
        .warnings(false)
        .extra_warnings(false)
        .define("CP_PREFIX", prefix)
        .out_dir(out.join(prefix))
        // First, to take precedence over the headers of a CUDA toolkit.
        .include("src/engine/tensorrt/include")
        .file(SHIM);
    for folder in folders {
        // The compiler searches this folder anyway, and naming it breaks `#include_next`.
        if folder != Path::new("/usr/include") {
            compiler.flag("-isystem").flag(folder);
        }
    }
    fs::create_dir_all(out.join(prefix)).map_err(|error| error.to_string())?;
    compiler
        .try_compile(&format!("centerpoint_{prefix}"))
        .map_err(|error| {
            // cargo already shows the compiler's own output as warnings.
            let first = error.to_string();
            let first = first.lines().next().unwrap_or_default();
            format!("cannot compile the shim for {what}: {first}")
        })
}
