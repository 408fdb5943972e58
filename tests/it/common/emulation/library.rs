//! The libraries that hold the kernels: finds the `.cu` of a kernel, compiles, loads and calls it.
//!
//! Each `.cu` becomes a library of its own, built at the first launch of one of its kernels and stored in cargo's
//! folder for test files, under the hash of its sources.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, OnceLock};

use centerpoint::internals::cuda::Launch;
use sha2::{Digest, Sha256};

use super::checked;

const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O1",
    "-g",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    // Static variables of inline functions must not be shared between libraries.
    "-fno-gnu-unique",
];

/// float-cast-overflow: a GPU saturates where C++ leaves the result undefined.
const CHECKED_FLAGS: &[&str] = &[
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
];

/// The C++ compiler and its version: `CXX`, else g++ or c++.
pub(crate) static COMPILER: LazyLock<(String, String)> = LazyLock::new(|| {
    let named = std::env::var("CXX").ok();
    let mut candidates = named.as_deref().into_iter().chain(["g++", "c++"]);
    let found = candidates.find_map(|program| {
        let output = Command::new(program).arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        output
            .status
            .success()
            .then(|| (program.to_owned(), version))
    });
    found.expect("no C++ compiler: install g++, or name one in CXX")
});

/// The libraries of this repository's kernels and of those of the tests.
static LIBRARIES: LazyLock<Vec<Library>> = LazyLock::new(|| {
    let folders = [kernels_folder(), emulation_folder()];
    folders
        .iter()
        .flat_map(|folder| files_of(folder, "cu"))
        .map(Library::new)
        .collect()
});

/// The library of each kernel.
static KERNELS: LazyLock<HashMap<&str, &Library>> = LazyLock::new(|| {
    let mut kernels = HashMap::new();
    for library in LIBRARIES.iter() {
        for kernel in &library.kernels {
            let other = kernels.insert(kernel.as_str(), library);
            assert!(other.is_none(), "two kernels are named `{kernel}`");
        }
    }
    kernels
});

fn kernels_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

fn emulation_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulation")
}

/// The files of `folder` with that extension, in order.
fn files_of(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

/// The names of the kernels that `source` defines.
fn kernel_names(source: &str) -> Vec<String> {
    let code: Vec<&str> = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let mut names = Vec::new();
    for definition in code.join(" ").split("__global__").skip(1) {
        let mut rest = definition.trim_start();
        loop {
            if let Some(after) = rest.strip_prefix("void ") {
                rest = after.trim_start();
            } else if rest.starts_with("__launch_bounds__") {
                let after = rest.split_once(')').unwrap().1;
                rest = after.trim_start();
            } else {
                break;
            }
        }
        let name = rest.split('(').next().unwrap_or_default().trim_end();
        assert!(
            name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "not a kernel's name: `{name}`"
        );
        names.push(name.to_owned());
    }
    names
}

/// `emulation_launch` of a library (`tests/emulation/launch.h`).
type LaunchFunction = unsafe extern "C" fn(
    kernel: *const c_char,
    grid: *const u32,
    block: u32,
    shared: u32,
    params: *mut *mut c_void,
    param_bytes: usize,
    seed: u64,
    error: *mut c_char,
    error_bytes: usize,
) -> c_int;

/// A `.cu` file, its kernels, and its library once one of them was launched.
struct Library {
    source: PathBuf,
    kernels: Vec<String>,
    loaded: OnceLock<libloading::Library>,
}

/// Runs a kernel in the schedule of `seed`. Returns the reason if it fails.
///
/// # Safety
/// That of [`Device::launch`](centerpoint::cuda::Device::launch).
pub(crate) unsafe fn run(launch: &Launch, params: &[u8], seed: u64) -> Result<(), String> {
    let Some(library) = KERNELS.get(launch.kernel) else {
        return Err("there is no such kernel".into());
    };
    let library = library.loaded.get_or_init(|| library.load());
    let name = CString::new(launch.kernel).unwrap();
    let mut params = params.to_vec();
    let mut pointers = [params.as_mut_ptr().cast::<c_void>()];
    let mut error = [0u8; 1200];
    // SAFETY: the symbol has this signature (`launch.h`), and the pointers are to live values of the sizes that go
    // with them. The caller vouches for the addresses in `params`.
    let failed = unsafe {
        let function: libloading::Symbol<'_, LaunchFunction> =
            library.get(b"emulation_launch\0").unwrap();
        function(
            name.as_ptr(),
            launch.grid.as_ptr(),
            launch.block,
            launch.shared,
            pointers.as_mut_ptr(),
            params.len(),
            seed,
            error.as_mut_ptr().cast::<c_char>(),
            error.len(),
        )
    };
    if failed == 0 {
        return Ok(());
    }
    let end = error.iter().position(|&b| b == 0).unwrap_or(error.len());
    Err(String::from_utf8_lossy(&error[..end]).into_owned())
}

impl Library {
    fn new(source: PathBuf) -> Self {
        let kernels = kernel_names(&std::fs::read_to_string(&source).unwrap());
        Self {
            source,
            kernels,
            loaded: OnceLock::new(),
        }
    }

    fn load(&self) -> libloading::Library {
        let path = self.build();
        // SAFETY: the library was built from this repository's sources; loading it runs none of their code.
        unsafe { libloading::Library::new(&path) }
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The library's source: the emulation, the kernels, and the table of their names.
    fn unit(&self) -> String {
        let emulation = emulation_folder();
        let files = [
            emulation.join("cuda_emulation.h"),
            emulation.join("launch.h"),
            self.source.clone(),
        ];
        let mut unit = String::new();
        for file in files {
            writeln!(unit, "#include \"{}\"", file.display()).unwrap();
        }
        unit += "static const emulation::Kernel KERNELS[] = {\n";
        for kernel in &self.kernels {
            writeln!(unit, "    EMULATION_KERNEL({kernel}),").unwrap();
        }
        unit += "};\nEMULATION_LAUNCH(KERNELS)\n";
        unit
    }

    /// Builds the library unless it exists.
    fn build(&self) -> PathBuf {
        let (compiler, version) = &*COMPILER;
        let mut flags = FLAGS.to_vec();
        if checked() {
            flags.extend(CHECKED_FLAGS);
        }
        let unit = self.unit();

        let mut hash = Sha256::new();
        hash.update(format!("{version} {flags:?} {unit}"));
        let mut files = files_of(&emulation_folder(), "h");
        files.extend(files_of(&kernels_folder(), "cuh"));
        files.push(self.source.clone());
        for file in files {
            hash.update(std::fs::read(file).unwrap());
        }
        let hash: String = hash.finalize()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();

        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulation");
        let stem = self.source.file_stem().unwrap().to_str().unwrap();
        let library = folder.join(format!("{stem}-{hash}.so"));
        if library.exists() {
            return library;
        }
        // Built under names of this process, then renamed: another process may be building it, too.
        std::fs::create_dir_all(&folder).unwrap();
        let own = folder.join(format!("{stem}-{hash}-{}", std::process::id()));
        let (source, output) = (own.with_extension("cpp"), own.with_extension("tmp"));
        std::fs::write(&source, unit).unwrap();
        let compiled = Command::new(compiler)
            .args(&flags)
            .arg("-I")
            .arg(kernels_folder())
            .arg(&source)
            .arg("-o")
            .arg(&output)
            .output()
            .unwrap();
        assert!(
            compiled.status.success(),
            "{} does not compile:\n{}",
            self.source.display(),
            String::from_utf8_lossy(&compiled.stderr)
        );
        std::fs::remove_file(&source).unwrap();
        std::fs::rename(&output, &library).unwrap();
        library
    }
}

#[test]
fn kernels_are_found_by_their_definitions() {
    let source = "// __global__ void none(\n\
        extern \"C\" __global__ void a_b(const P p) {}\n\
        extern \"C\" __global__ void __launch_bounds__(256)\n    c_d(const P p) {}\n\
        extern \"C\" __global__ __launch_bounds__(N, 2) void e_f(P p) {}\n";
    assert_eq!(kernel_names(source), ["a_b", "c_d", "e_f"]);
}
