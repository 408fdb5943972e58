//! CUDA kernels on the CPU: compiles a `.cu` as C++ with the headers beside this file, loads it, and calls its kernels.
//!
//! A `.cu` becomes a library of its own, built at the first launch of one of its kernels and stored in the caller's folder,
//! under the hash of its sources. Whatever fails to build is a fault of the repository, so it panics.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, OnceLock};

use sha2::{Digest, Sha256};

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
pub static COMPILER: LazyLock<(String, String)> = LazyLock::new(|| {
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

/// A launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The kernel's name.
    pub kernel: &'a str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The kernel's one parameter.
    pub params: &'a [u8],
    /// The order of blocks and threads, see `launch.h`.
    pub seed: u64,
}

/// Kernels by name, each in the library of its file.
pub struct Kernels {
    libraries: Vec<Library>,
    /// Index of a kernel's library.
    places: HashMap<String, usize>,
}

impl Kernels {
    /// The kernels in the `.cu` files of `folders`, whose headers are in `include`. Libraries are stored in `cache`. `checked`
    /// builds them with sanitizers.
    pub fn new(folders: &[&Path], include: &Path, cache: &Path, checked: bool) -> Self {
        let files = folders.iter().flat_map(|folder| files_of(folder, "cu"));
        let libraries: Vec<Library> = files
            .map(|source| Library::new(source, include, cache, checked))
            .collect();
        let mut places = HashMap::new();
        for (at, library) in libraries.iter().enumerate() {
            for kernel in &library.kernels {
                let other = places.insert(kernel.clone(), at);
                assert!(other.is_none(), "two kernels are named `{kernel}`");
            }
        }
        Self { libraries, places }
    }

    /// The kernels' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Runs a kernel. Returns the reason if it fails.
    ///
    /// # Safety
    /// The parameter's addresses point to memory as large as the kernel reaches, which nothing else uses meanwhile.
    ///
    /// # Errors
    /// The reason.
    pub unsafe fn run(&self, call: &Call<'_>) -> Result<(), String> {
        match self.places.get(call.kernel) {
            // SAFETY: this method's contract.
            Some(&at) => unsafe { self.libraries[at].run(call) },
            None => Err("there is no such kernel".into()),
        }
    }
}

/// The folder of the emulation's headers and of the kernels that test it.
pub fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
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

/// `emulation_bytes` of a library: the size of a kernel's parameter, 0 if there is no such kernel.
type BytesFunction = unsafe extern "C" fn(kernel: *const c_char) -> usize;

/// A `.cu` file, its kernels, and its library once one of them was launched.
pub struct Library {
    source: PathBuf,
    include: PathBuf,
    cache: PathBuf,
    checked: bool,
    kernels: Vec<String>,
    loaded: OnceLock<libloading::Library>,
}

impl Library {
    /// The kernels of the file `source`; see [`Kernels::new`].
    pub fn new(source: PathBuf, include: &Path, cache: &Path, checked: bool) -> Self {
        let kernels = kernel_names(&std::fs::read_to_string(&source).unwrap());
        Self {
            source,
            include: include.into(),
            cache: cache.into(),
            checked,
            kernels,
            loaded: OnceLock::new(),
        }
    }

    /// The bytes of a kernel's parameter, if there is such a kernel.
    pub fn param_bytes(&self, kernel: &str) -> Option<usize> {
        let name = CString::new(kernel).ok()?;
        let library = self.loaded.get_or_init(|| self.load());
        // SAFETY: the symbol has this signature (`launch.h`).
        let bytes = unsafe {
            let function: libloading::Symbol<'_, BytesFunction> =
                library.get(b"emulation_bytes\0").unwrap();
            function(name.as_ptr())
        };
        (bytes > 0).then_some(bytes)
    }

    /// Runs a kernel. Returns the reason if it fails.
    ///
    /// # Safety
    /// As [`Kernels::run`].
    ///
    /// # Errors
    /// The reason.
    pub unsafe fn run(&self, call: &Call<'_>) -> Result<(), String> {
        let library = self.loaded.get_or_init(|| self.load());
        let name = CString::new(call.kernel).unwrap();
        let mut params = call.params.to_vec();
        let mut pointers = [params.as_mut_ptr().cast::<c_void>()];
        let mut error = [0u8; 1200];
        // SAFETY: the symbol has this signature (`launch.h`), and the pointers are to live values of the sizes that go
        // with them. The caller vouches for the addresses in the parameter.
        let failed = unsafe {
            let function: libloading::Symbol<'_, LaunchFunction> =
                library.get(b"emulation_launch\0").unwrap();
            function(
                name.as_ptr(),
                call.grid.as_ptr(),
                call.block,
                call.shared,
                pointers.as_mut_ptr(),
                params.len(),
                call.seed,
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

    fn load(&self) -> libloading::Library {
        let path = self.build();
        // SAFETY: the library was built from this repository's sources; loading it runs none of their code.
        unsafe { libloading::Library::new(&path) }
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The library's source: the emulation, the kernels, and the table of their names.
    fn unit(&self) -> String {
        let emulation = folder();
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
        if self.checked {
            flags.extend(CHECKED_FLAGS);
        }
        let unit = self.unit();

        let mut hash = Sha256::new();
        hash.update(format!("{version} {flags:?} {unit}"));
        let mut files = files_of(folder(), "h");
        files.extend(files_of(&self.include, "cuh"));
        files.push(self.source.clone());
        for file in files {
            hash.update(std::fs::read(file).unwrap());
        }
        let hash: String = hash.finalize()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();

        let cache = &self.cache;
        let stem = self.source.file_stem().unwrap().to_str().unwrap();
        let library = cache.join(format!("{stem}-{hash}.so"));
        if library.exists() {
            return library;
        }
        // Built under names of this process, then renamed: another process may be building it, too.
        std::fs::create_dir_all(cache).unwrap();
        let own = cache.join(format!("{stem}-{hash}-{}", std::process::id()));
        let (source, output) = (own.with_extension("cpp"), own.with_extension("tmp"));
        std::fs::write(&source, unit).unwrap();
        let compiled = Command::new(compiler)
            .args(&flags)
            .arg("-I")
            .arg(&self.include)
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

#[cfg(test)]
#[test]
fn kernels_are_found_by_their_definitions() {
    let source = "// __global__ void none(\n\
        extern \"C\" __global__ void a_b(const P p) {}\n\
        extern \"C\" __global__ void __launch_bounds__(256)\n    c_d(const P p) {}\n\
        extern \"C\" __global__ __launch_bounds__(N, 2) void e_f(P p) {}\n";
    assert_eq!(kernel_names(source), ["a_b", "c_d", "e_f"]);
}
