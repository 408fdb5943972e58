//! The stand-in for TensorRT: `tests/tensorrt/standin.cpp`, compiled against the newest headers of each family, and
//! engines for it, which run a function of the test.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use centerpoint::cuda::{Device, DevicePtr};
use centerpoint::map::Element;
use sha2::{Digest, Sha256};

use crate::cuda::scatter::half;
use crate::tensorrt::header_folders;

/// A stand-in library.
pub(crate) struct StandIn {
    pub(crate) path: PathBuf,
    library: libloading::Library,
}

/// The layout of channels in memory, with the numbers of TensorRT's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Linear = 0,
    Chw2 = 1,
    Hwc8 = 2,
    Chw4 = 3,
    Chw16 = 4,
    Chw32 = 5,
    Hwc = 8,
    Hwc16 = 11,
}

impl Format {
    /// Channels of a vector, and whether all channels of a cell are adjacent.
    fn vector(self) -> (usize, bool) {
        match self {
            Self::Linear => (1, false),
            Self::Chw2 => (2, false),
            Self::Hwc8 => (8, true),
            Self::Chw4 => (4, false),
            Self::Chw16 => (16, false),
            Self::Chw32 => (32, false),
            Self::Hwc => (1, true),
            Self::Hwc16 => (16, true),
        }
    }

    /// The index of (c, y, x) in a map of C × H × W.
    fn place(self, [c, y, x]: [usize; 3], [channels, h, w]: [usize; 3]) -> usize {
        match self.vector() {
            (n, false) => (((c / n) * h + y) * w + x) * n + c % n,
            (n, true) => (y * w + x) * (channels.div_ceil(n) * n) + c,
        }
    }

    /// Number of values in memory, padding included.
    fn values(self, [channels, h, w]: [usize; 3]) -> usize {
        let (n, _) = self.vector();
        channels.div_ceil(n) * n * h * w
    }
}

/// An input or output of an engine.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) input: bool,
    pub(crate) element: Element,
    pub(crate) format: Format,
    /// C, H, W.
    pub(crate) size: [usize; 3],
}

impl Tensor {
    /// The tensor's line in a plan.
    pub(crate) fn line(&self) -> String {
        let Self { name, element, .. } = self;
        let mode = if self.input { "input" } else { "output" };
        let (vector, axis) = match self.format.vector().0 {
            1 => (-1, -1),
            vector => (vector as i32, 1),
        };
        let [c, h, w] = self.size;
        let (element, format) = (*element as u32, self.format as u32);
        format!("tensor {name} {mode} {element} {format} {vector} {axis} 1 {c} {h} {w}")
    }

    fn bytes(&self) -> usize {
        let value = match self.element {
            Element::F32 => 4,
            Element::F16 => 2,
            Element::I8 => 1,
        };
        self.format.values(self.size) * value
    }

    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let [channels, height, width] = self.size;
        (0..channels * height * width).map(move |i| {
            let at = [i / (height * width), i / width % height, i % width];
            self.format.place(at, self.size)
        })
    }
}

/// A tensor's memory during a run; mirrors `Map` in `standin.cpp`.
#[repr(C)]
struct Map {
    name: *const c_char,
    address: *mut c_void,
}

/// The memory of all tensors during a run. Reads and writes go through the device, which fails if a tensor's memory
/// is too small.
pub(crate) struct Maps<'a> {
    maps: &'a [Map],
    device: &'a dyn Device,
}

impl Maps<'_> {
    fn memory(&self, tensor: &Tensor) -> DevicePtr<u8> {
        let named = |map: &&Map| {
            // SAFETY: the names belong to the plan, which outlives the run.
            let name = unsafe { CStr::from_ptr(map.name) };
            name.to_bytes() == tensor.name.as_bytes()
        };
        let map = self.maps.iter().find(named).expect("a tensor of the plan");
        // SAFETY: the library got the address from the engine that is tested.
        unsafe { DevicePtr::from_address(map.address as u64) }
    }

    /// Reads the values, or codes, of an input in NCHW order. Padding must be 0.
    pub(crate) fn read(&self, tensor: &Tensor) -> Vec<f32> {
        let mut bytes = vec![0; tensor.bytes()];
        // SAFETY: the emulation checks the range.
        unsafe { (self.device).download("an input", self.memory(tensor), &mut bytes) }.unwrap();
        let value = bytes.len() / tensor.format.values(tensor.size);
        let values = tensor.places().map(|place| {
            let bytes = &mut bytes[place * value..][..value];
            let read = match *bytes {
                [a, b, c, d] => f32::from_ne_bytes([a, b, c, d]),
                [a, b] => half_value(u16::from_ne_bytes([a, b])),
                _ => f32::from(bytes[0] as i8),
            };
            bytes.fill(0);
            read
        });
        let values = values.collect();
        let padding = bytes.iter().all(|byte| *byte == 0);
        assert!(padding, "{} has padding other than 0", tensor.name);
        values
    }

    /// Writes an output, given in NCHW order, and NaN to its padding.
    pub(crate) fn write(&self, tensor: &Tensor, values: &[f32]) {
        let mut bytes = vec![0xff; tensor.bytes()];
        for (place, value) in tensor.places().zip(values) {
            match tensor.element {
                Element::F32 => bytes[place * 4..][..4].copy_from_slice(&value.to_ne_bytes()),
                Element::F16 => {
                    bytes[place * 2..][..2].copy_from_slice(&half(*value).to_ne_bytes())
                }
                Element::I8 => panic!("an INT8 output"),
            }
        }
        // SAFETY: the emulation checks the range.
        unsafe { (self.device).upload("an output", self.memory(tensor), &bytes) }.unwrap();
    }
}

/// The value of a half-precision number.
pub(crate) fn half_value(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    };
    if bits >> 15 == 0 { size } else { -size }
}

/// The function that computes an engine.
type Network = dyn FnMut(&Maps<'_>) + Send;

/// The function that computes an engine, and its device.
#[derive(Clone)]
struct Run {
    compute: Arc<Mutex<Network>>,
    device: Arc<dyn Device>,
}

/// Runs by number of the engine.
static RUNS: Mutex<BTreeMap<u64, Run>> = Mutex::new(BTreeMap::new());

unsafe extern "C" fn compute(
    id: u64,
    maps: *const Map,
    count: usize,
    scratch: *mut c_void,
    scratch_bytes: i64,
) -> i32 {
    let run = RUNS.lock().unwrap().get(&id).cloned();
    let Some(Run { compute, device }) = run else {
        return 0;
    };
    // SAFETY: `standin.cpp` passes `count` maps that live during the call.
    let maps = unsafe { std::slice::from_raw_parts(maps, count) };
    // A panic must not unwind into the library; its message is already printed.
    let done = catch_unwind(AssertUnwindSafe(|| {
        let noise = vec![0xa5; scratch_bytes as usize];
        // SAFETY: the library got the address from the engine; the emulation checks the range.
        unsafe {
            let scratch = DevicePtr::from_address(scratch as u64);
            device.upload("scratch memory", scratch, &noise).unwrap();
        }
        let device = &*device;
        compute.lock().unwrap()(&Maps { maps, device });
    }));
    done.is_ok().into()
}

/// An engine for the stand-in. It can run until this is dropped.
pub(crate) struct Engine {
    id: u64,
    /// The serialised engine.
    pub(crate) plan: String,
}

impl Engine {
    /// Makes an engine that runs `compute` on the memory of `device`.
    pub(crate) fn new(
        tensors: &[Tensor],
        device: &Arc<dyn Device>,
        compute: impl FnMut(&Maps<'_>) + Send + 'static,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let run = Run {
            compute: Arc::new(Mutex::new(compute)),
            device: device.clone(),
        };
        RUNS.lock().unwrap().insert(id, run);
        let mut plan = format!("stand-in {id}\n");
        for tensor in tensors {
            writeln!(plan, "{}", tensor.line()).unwrap();
        }
        Self { id, plan }
    }

    /// Adds a line to the plan; `standin.cpp` documents them.
    pub(crate) fn with(mut self, line: &str) -> Self {
        writeln!(self.plan, "{line}").unwrap();
        self
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        RUNS.lock().unwrap().remove(&self.id);
    }
}

impl StandIn {
    /// Number of engines and contexts of a plan that are not freed.
    pub(crate) fn alive(&self, engine: &Engine) -> i32 {
        // SAFETY: the function has this type.
        unsafe {
            let alive: libloading::Symbol<'_, unsafe extern "C" fn(u64) -> i32> =
                self.library.get(b"standin_alive\0").unwrap();
            alive(engine.id)
        }
    }

    fn open(headers: &Path) -> Self {
        type Compute = unsafe extern "C" fn(u64, *const Map, usize, *mut c_void, i64) -> i32;
        let path = build(headers);
        // SAFETY: the library was built from this repository's source, where the function has this type.
        let library = unsafe {
            let library = libloading::Library::new(&path).unwrap();
            let set: libloading::Symbol<'_, unsafe extern "C" fn(Compute)> =
                library.get(b"standin_compute\0").unwrap();
            set(compute);
            library
        };
        Self { path, library }
    }
}

/// The stand-ins, one for each family of headers.
pub(crate) fn all() -> &'static [StandIn] {
    static ALL: LazyLock<Vec<StandIn>> = LazyLock::new(|| {
        let folders = header_folders();
        let families = folders.iter().map(|folder| (family(folder), folder));
        // The last of a family by name is the newest.
        let newest: BTreeMap<String, &PathBuf> = families.collect();
        newest
            .values()
            .map(|folder| StandIn::open(folder))
            .collect()
    });
    &ALL
}

/// The library's name and major version from `NvInferVersion.h`.
fn family(headers: &Path) -> String {
    let text = std::fs::read_to_string(headers.join("NvInferVersion.h")).unwrap();
    let majors = ["#define TRT_MAJOR_", "#define NV_TENSORRT_MAJOR"];
    let line = majors
        .iter()
        .find_map(|start| text.lines().find_map(|line| line.strip_prefix(start)));
    let line = line.unwrap();
    let major = line
        .split_whitespace()
        .find(|word| word.parse::<u32>().is_ok());
    let name = if line.starts_with("RTX") {
        "TensorRT-RTX"
    } else {
        "TensorRT"
    };
    format!("{name} {}", major.unwrap())
}

/// Builds the library unless it exists.
fn build(headers: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (compiler, version) = &*::emulation::COMPILER;
    let flags = [
        "-std=c++17",
        "-O1",
        "-g",
        "-fPIC",
        "-shared",
        "-pthread",
        "-fvisibility=hidden",
    ];
    let sources = root.join("tests/tensorrt");
    let mut hash = Sha256::new();
    hash.update(format!("{version} {flags:?} {}", headers.display()));
    for file in ["standin.cpp", "unused.h"] {
        hash.update(std::fs::read(sources.join(file)).unwrap());
    }
    hash.update(std::fs::read(headers.join("NvInferVersion.h")).unwrap());
    let digest = hash.finalize();
    let hash: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("standin");
    let library = folder.join(format!("libstandin-{hash}.so"));
    if library.exists() {
        return library;
    }
    std::fs::create_dir_all(&folder).unwrap();
    // Built under a name of this process, then renamed: another process may be building it too.
    let own = folder.join(format!("{hash}-{}.tmp", std::process::id()));
    let compiled = Command::new(compiler)
        .args(flags)
        .args([
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-deprecated-declarations",
            "-isystem",
        ])
        .arg(headers)
        .arg("-I")
        .arg(root.join("src/engine/tensorrt/include"))
        .arg(sources.join("standin.cpp"))
        .arg("-o")
        .arg(&own)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(
        compiled.status.success(),
        "{} does not compile:\n{errors}",
        headers.display()
    );
    std::fs::rename(&own, &library).unwrap();
    library
}
