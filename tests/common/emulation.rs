//! A CUDA device for tests on any machine: the unmodified `kernels/*.cu` compiled as C++ and run on the CPU.
//!
//! Every `.cu` becomes a shared library of its own in cargo's folder for test files, built at its first
//! launch and kept under the hash of what it was made from. `tests/emulation/` holds the C++ side: CUDA's
//! language, the schedule of the threads, the launch. Device memory is heap memory of the exact size.
//!
//! [`CHECKED`] in the environment selects builds with AddressSanitizer and UBSan, whose runtime must have been
//! preloaded; [`DEVICE`]`=cuda` selects the driver and the GPU instead of the emulation.
#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use centerpoint::cuda::{CudaError, Device, Launch};
use sha2::{Digest, Sha256};

use crate::recorded::{Plain, Recorded};

/// Environment variable: builds with sanitizers where it is set.
pub(crate) const CHECKED: &str = "CENTERPOINT_TEST_SANITIZERS";

/// Environment variable: `cuda` runs the tests on the GPU.
pub(crate) const DEVICE: &str = "CENTERPOINT_TEST_DEVICE";

/// The device that the tests of the stages run on: an emulated one whose blocks and threads take turns as
/// `seed` says (0: in their natural order), or with [`DEVICE`] the GPU. None, with a line that says so,
/// without a C++ compiler.
pub(crate) fn device(seed: u64) -> Option<Arc<dyn Device>> {
    emulated(seed)
}

/// An emulated device, whatever [`DEVICE`] says.
pub(crate) fn emulated(seed: u64) -> Option<Arc<dyn Device>> {
    static SKIPPED: OnceLock<()> = OnceLock::new();
    if COMPILER.is_none() {
        SKIPPED.get_or_init(|| println!("skipped: no C++ compiler"));
        return None;
    }
    Some(Arc::new(Recorded::new(Emulation {
        seed,
        launches: AtomicU64::new(0),
        memory: Mutex::default(),
        lost: Mutex::default(),
    })))
}

/// Whether kernels are built with sanitizers.
pub(crate) fn checked() -> bool {
    std::env::var_os(CHECKED).is_some()
}

/// How many of `cases` to run: a tenth under sanitizers.
pub(crate) fn cases(cases: usize) -> usize {
    if checked() { cases.div_ceil(10) } else { cases }
}

/// The compiler and its version, if there is one.
static COMPILER: LazyLock<Option<(String, String)>> = LazyLock::new(|| {
    let named = std::env::var("CXX").ok();
    let candidates = named.as_deref().into_iter().chain(["g++", "c++"]);
    candidates.map(str::to_owned).find_map(|program| {
        let output = Command::new(&program).arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some((program, version))
    })
});

/// The compiler that builds the kernels.
pub(crate) fn compiler() -> Option<&'static str> {
    COMPILER.as_ref().map(|(program, _)| program.as_str())
}

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
    "-Wno-unknown-pragmas",
];

/// float-cast-overflow: a GPU saturates where C++ leaves the result open.
const CHECKED_FLAGS: &[&str] = &[
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
];

/// A `.cu` file and the kernels in it.
struct Source {
    path: PathBuf,
    kernels: Vec<String>,
    library: OnceLock<libloading::Library>,
}

/// The kernels of this repository and those of the tests: which source holds which.
struct Sources {
    files: Vec<Source>,
    of: HashMap<String, usize>,
}

static SOURCES: LazyLock<Sources> = LazyLock::new(|| {
    let mut sources = Sources {
        files: Vec::new(),
        of: HashMap::new(),
    };
    for folder in [kernels_folder(), emulation_folder()] {
        for path in files_of(&folder, "cu") {
            let kernels = kernel_names(&std::fs::read_to_string(&path).unwrap());
            for kernel in &kernels {
                let other = sources.of.insert(kernel.clone(), sources.files.len());
                assert!(other.is_none(), "two kernels are named `{kernel}`");
            }
            sources.files.push(Source {
                path,
                kernels,
                library: OnceLock::new(),
            });
        }
    }
    sources
});

fn kernels_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

fn emulation_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulation")
}

/// The files of `folder` that end so, in order.
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
pub(crate) fn kernel_names(source: &str) -> Vec<String> {
    let code: String = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ");
    let mut names = Vec::new();
    for definition in code.split("__global__").skip(1) {
        let mut rest = definition.trim_start();
        loop {
            if let Some(after) = rest.strip_prefix("void ") {
                rest = after.trim_start();
            } else if rest.starts_with("__launch_bounds__") {
                rest = rest
                    .split_once(')')
                    .map_or("", |(_, after)| after)
                    .trim_start();
            } else {
                break;
            }
        }
        let name = rest.split('(').next().unwrap_or_default().trim();
        names.push(name.to_owned());
    }
    names
}

impl Source {
    /// The library of this source, built and loaded at first use.
    fn library(&self) -> &libloading::Library {
        self.library.get_or_init(|| {
            let path = self.build();
            // SAFETY: the library was built from this repository's sources; loading it runs no code of ours.
            unsafe { libloading::Library::new(&path) }
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        })
    }

    /// The file that the library is made from: the emulation, the kernels, and the table of their names.
    fn unit(&self) -> String {
        use std::fmt::Write;
        let mut unit = String::new();
        let emulation = emulation_folder();
        for header in ["cuda_emulation.h", "launch.h"] {
            writeln!(unit, "#include \"{}/{header}\"", emulation.display()).unwrap();
        }
        writeln!(unit, "#include \"{}\"", self.path.display()).unwrap();
        unit += "static const emulation::Kernel KERNELS[] = {\n";
        for kernel in &self.kernels {
            writeln!(
                unit,
                "    {{\"{kernel}\", emulation::Thunk<{kernel}>::call, emulation::Thunk<{kernel}>::BYTES}},"
            )
            .unwrap();
        }
        unit += "};\nEMULATION_LAUNCH(KERNELS)\n";
        unit
    }

    /// Builds the library unless it is there already.
    fn build(&self) -> PathBuf {
        let (compiler, version) = COMPILER.as_ref().unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulation");
        std::fs::create_dir_all(&folder).unwrap();
        let mut flags = FLAGS.to_vec();
        if checked() {
            flags.extend(CHECKED_FLAGS);
        }
        let unit = self.unit();

        let mut hash = Sha256::new();
        hash.update(format!("{compiler} {version} {flags:?} {unit}"));
        let headers = files_of(&emulation_folder(), "h").into_iter();
        for file in headers
            .chain(files_of(&kernels_folder(), "cuh"))
            .chain([self.path.clone()])
        {
            hash.update(std::fs::read(file).unwrap());
        }
        let hash: String = hash
            .finalize()
            .iter()
            .take(8)
            .map(|b| format!("{b:02x}"))
            .collect();
        let stem = self.path.file_stem().unwrap().to_str().unwrap();
        let library = folder.join(format!("{stem}-{hash}.so"));
        if library.exists() {
            return library;
        }
        // Written beside it under a name of this process, and moved: another process may build it too.
        let unit_path = folder.join(format!("{stem}-{hash}.cpp"));
        let unfinished = folder.join(format!("{stem}-{hash}.{}", std::process::id()));
        std::fs::write(&unit_path, unit).unwrap();
        let output = Command::new(compiler)
            .args(&flags)
            .arg("-I")
            .arg(kernels_folder())
            .args(["-x", "c++"])
            .arg(&unit_path)
            .arg("-o")
            .arg(&unfinished)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{} does not compile:\n{}",
            self.path.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::rename(&unfinished, &library).unwrap();
        library
    }
}

/// `emulation_launch` of a library, as `EMULATION_LAUNCH` in `launch.h` defines it.
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

/// An emulated device. Launches run at once; after a failed one all further calls fail, as on a GPU.
struct Emulation {
    seed: u64,
    launches: AtomicU64,
    /// Layouts of allocations by address.
    memory: Mutex<BTreeMap<u64, Layout>>,
    lost: Mutex<Option<CudaError>>,
}

impl Emulation {
    /// Fails where an earlier call did.
    fn check_lost(&self) -> Result<(), CudaError> {
        match &*self.lost.lock().unwrap() {
            Some(first) => Err(CudaError::Lost {
                first: Box::new(first.clone()),
            }),
            None => Ok(()),
        }
    }

    /// Notes that the device is lost by `error`.
    fn lose(&self, error: CudaError) -> CudaError {
        *self.lost.lock().unwrap() = Some(error.clone());
        error
    }

    /// Whether `bytes` bytes at `address` lie within one allocation.
    fn holds(&self, address: u64, bytes: usize) -> bool {
        let memory = self.memory.lock().unwrap();
        let before = memory.range(..=address).next_back();
        before.is_some_and(|(&first, layout)| {
            (address - first) as usize <= layout.size()
                && bytes <= layout.size() - (address - first) as usize
        })
    }

    /// Fails where a copy would leave the allocation that it begins in.
    fn check_copy(&self, what: &'static str, address: u64, bytes: usize) -> Result<(), CudaError> {
        self.check_lost()?;
        if self.holds(address, bytes) {
            return Ok(());
        }
        Err(self.lose(CudaError::Copy {
            what,
            bytes,
            reason: format!("{address:#x} is not device memory of that size"),
        }))
    }

    /// Runs a kernel; the reason where it fails.
    fn run(&self, launch: &Launch, params: &[u8]) -> Result<(), String> {
        let Some(&file) = SOURCES.of.get(launch.kernel) else {
            return Err("there is no such kernel".into());
        };
        let number = self.launches.fetch_add(1, Ordering::Relaxed);
        let seed = match self.seed {
            0 => 0,
            seed => seed
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add(number)
                .max(1),
        };
        let name = CString::new(launch.kernel).unwrap();
        let mut copy = params.to_vec();
        let mut pointers = [copy.as_mut_ptr().cast::<c_void>()];
        let mut error = [0u8; 1200];
        let library = SOURCES.files[file].library();
        // SAFETY: the symbol has this signature (`launch.h`), and the pointers are to live values of the sizes
        // that are given with them. What the kernel does with addresses is what the tests are for.
        let failed = unsafe {
            let function: libloading::Symbol<'_, LaunchFunction> =
                library.get(b"emulation_launch\0").unwrap();
            function(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.block,
                launch.shared,
                pointers.as_mut_ptr(),
                copy.len(),
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
}

impl Plain for Emulation {
    fn alloc(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError> {
        let memory_error = |reason: &str| CudaError::Memory {
            what,
            bytes,
            reason: reason.into(),
        };
        if bytes == 0 {
            return Err(memory_error("no bytes are asked for"));
        }
        let layout =
            Layout::from_size_align(bytes, 256).map_err(|_| memory_error("that is too much"))?;
        // SAFETY: the layout has a size other than 0.
        let pointer = unsafe { alloc::alloc_zeroed(layout) };
        if pointer.is_null() {
            return Err(memory_error("the host has no such memory"));
        }
        self.memory.lock().unwrap().insert(pointer as u64, layout);
        Ok(pointer as u64)
    }

    fn free(&self, address: u64) {
        let layout = self.memory.lock().unwrap().remove(&address);
        let layout = layout.expect("only what was allocated is freed");
        // SAFETY: `alloc` gave this address for this layout, and it was not freed before.
        unsafe { alloc::dealloc(address as *mut u8, layout) };
    }

    fn upload(&self, what: &'static str, to: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.check_copy(what, to, bytes.len())?;
        // SAFETY: the range lies within an allocation, which no reference points to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&self, what: &'static str, from: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.check_copy(what, from, bytes.len())?;
        // SAFETY: the range lies within an allocation, which no reference points to.
        unsafe {
            std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len())
        };
        Ok(())
    }

    fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), CudaError> {
        self.check_lost()?;
        self.run(launch, params).map_err(|reason| {
            self.lose(CudaError::Kernel {
                kernel: launch.kernel.into(),
                reason,
            })
        })
    }
}

impl Drop for Emulation {
    fn drop(&mut self) {
        let leaked = self.memory.lock().unwrap().len();
        assert!(
            leaked == 0 || std::thread::panicking(),
            "{leaked} buffers were not freed"
        );
    }
}
