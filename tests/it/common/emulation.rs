//! A CUDA device for tests on any machine: the unmodified `kernels/*.cu`, compiled as C++ and run on the CPU.
//!
//! The crate `emulation` (`tests/emulation/`) compiles and runs the kernels; `sanitizers.rs` repeats tests under sanitizers. Device memory is heap memory of
//! the exact size. [`DEVICE`]`=cuda` in the environment selects the GPU instead of the emulation.
#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use ::emulation::{Call, Kernels};
use bytemuck::NoUninit;
use centerpoint::cuda::{self, CudaError, Device};
use centerpoint::internals::cuda::Launch;

use crate::recorded::{Plain, Recorded};

pub(crate) mod sanitizers;

/// This repository's kernels and those of the tests.
static KERNELS: LazyLock<Kernels> = LazyLock::new(|| {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulation");
    Kernels::new(&[&own, ::emulation::folder()], &own, &cache, checked())
});

/// Environment variable that is set in runs under sanitizers.
const CHECKED: &str = "CENTERPOINT_TEST_SANITIZERS";

/// Environment variable that runs the tests on the GPU if it is `cuda`.
const DEVICE: &str = "CENTERPOINT_TEST_DEVICE";

/// Bit of a launch's seed: blocks run two at a time.
const SIDE_BY_SIDE: u64 = 1 << 63;

/// The device that the tests of the stages run on: the GPU if [`DEVICE`] says so, else an emulated device. `seed`
/// selects the order of its blocks and threads (0: natural, 1: reversed, else random; 3, 7, 11 …: two blocks at a
/// time).
pub(crate) fn device(seed: u64) -> Arc<dyn Device> {
    match std::env::var(DEVICE) {
        Ok(name) if name == "cuda" => gpu(),
        Ok(name) => panic!("{DEVICE} may be `cuda`, not `{name}`"),
        Err(_) => emulated(seed, seed % 4 == 3),
    }
}

/// The GPU. It is opened once, because that loads all kernels, and again after a test has lost it.
fn gpu() -> Arc<dyn Device> {
    static GPU: Mutex<Option<Arc<dyn Device>>> = Mutex::new(None);
    let mut gpu = GPU.lock().unwrap_or_else(PoisonError::into_inner);
    if gpu
        .as_ref()
        .is_some_and(|gpu| matches!(gpu.wait(), Err(CudaError::Lost { .. })))
    {
        *gpu = None;
    }
    gpu.get_or_insert_with(|| cuda::open().unwrap()).clone()
}

/// An emulated device regardless of [`DEVICE`]; with `side_by_side`, two blocks run at a time.
pub(crate) fn emulated(seed: u64, side_by_side: bool) -> Arc<dyn Device> {
    emulated_with(None, seed, side_by_side)
}

/// An emulated device with a planted fault: `from` is `to` in the kernels' file `file`.
pub(crate) fn planted(file: &str, from: &str, to: &str, seed: u64) -> Arc<dyn Device> {
    let folder = tempfile::tempdir().unwrap();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let text = std::fs::read_to_string(own.join(file)).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from}");
    std::fs::write(folder.path().join(file), text.replace(from, to)).unwrap();
    let cache = folder.path().join("cache");
    let kernels = Kernels::new(&[folder.path()], &own, &cache, false);
    emulated_with(Some((kernels, folder)), seed, false)
}

fn emulated_with(
    kernels: Option<(Kernels, tempfile::TempDir)>,
    seed: u64,
    side_by_side: bool,
) -> Arc<dyn Device> {
    Arc::new(Recorded::new(Emulation {
        kernels,
        seed,
        side_by_side,
        launches: AtomicU64::new(0),
        memory: Mutex::default(),
        lost: Mutex::default(),
    }))
}

/// Launches a kernel of the tests.
pub(crate) fn launch<P: NoUninit>(
    device: &dyn Device,
    launch: &Launch,
    params: &P,
) -> Result<(), CudaError> {
    // SAFETY: the parameters come from buffers of the test. Planted bugs are what the sanitizers are there for.
    unsafe { device.launch(launch, bytemuck::bytes_of(params)) }
}

/// Whether kernels are built with sanitizers.
pub(crate) fn checked() -> bool {
    std::env::var_os(CHECKED).is_some()
}

/// Number of `cases` to run: a tenth under sanitizers.
pub(crate) fn cases(cases: usize) -> usize {
    if checked() { cases.div_ceil(10) } else { cases }
}

/// An emulated device. Launches run at once; after a failed one all later calls fail, as on a GPU.
struct Emulation {
    /// Those of a file with a planted fault, and their folder.
    kernels: Option<(Kernels, tempfile::TempDir)>,
    seed: u64,
    side_by_side: bool,
    launches: AtomicU64,
    /// Layouts of allocations by address.
    memory: Mutex<BTreeMap<u64, Layout>>,
    lost: Mutex<Option<CudaError>>,
}

impl Emulation {
    /// Fails if an earlier call failed.
    fn check_lost(&self) -> Result<(), CudaError> {
        match &*self.lost.lock().unwrap() {
            Some(first) => Err(CudaError::Lost {
                first: Box::new(first.clone()),
            }),
            None => Ok(()),
        }
    }

    /// Stores the error that loses the device, and returns it.
    fn lose(&self, error: CudaError) -> CudaError {
        *self.lost.lock().unwrap() = Some(error.clone());
        error
    }

    /// Whether `bytes` bytes at `address` are inside one allocation.
    fn holds(&self, address: u64, bytes: usize) -> bool {
        let memory = self.memory.lock().unwrap();
        let before = memory.range(..=address).next_back();
        before.is_some_and(|(&first, layout)| {
            (address - first) as usize <= layout.size()
                && bytes <= layout.size() - (address - first) as usize
        })
    }

    /// Fails if a copy would leave the allocation that it starts in.
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

    /// The seed of the next launch: each launch of a device has its own random schedule.
    fn next_seed(&self) -> u64 {
        let number = self.launches.fetch_add(1, Ordering::Relaxed);
        let schedule = match self.seed {
            0 | 1 => self.seed,
            seed => (seed << 32 | number).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 2,
        };
        if self.side_by_side {
            schedule | SIDE_BY_SIDE
        } else {
            schedule & !SIDE_BY_SIDE
        }
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
            return Err(memory_error("the size is 0"));
        }
        let layout = Layout::from_size_align(bytes, 256)
            .map_err(|_| memory_error("the size is too large"))?;
        // SAFETY: the layout's size is not 0.
        let pointer = unsafe { alloc::alloc_zeroed(layout) };
        if pointer.is_null() {
            return Err(memory_error("the host is out of memory"));
        }
        self.memory.lock().unwrap().insert(pointer as u64, layout);
        Ok(pointer as u64)
    }

    fn free(&self, address: u64) {
        let layout = self.memory.lock().unwrap().remove(&address);
        let layout = layout.expect("only allocated memory is freed");
        // SAFETY: `alloc` returned this address for this layout, and nobody has freed it.
        unsafe { alloc::dealloc(address as *mut u8, layout) };
    }

    fn upload(&self, what: &'static str, to: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.check_copy(what, to, bytes.len())?;
        // SAFETY: the range is inside an allocation, which no reference points to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&self, what: &'static str, from: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.check_copy(what, from, bytes.len())?;
        // SAFETY: the range is inside an allocation, which no reference points to.
        unsafe {
            std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len())
        };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), CudaError> {
        self.check_lost()?;
        let call = Call {
            kernel: launch.kernel,
            grid: launch.grid,
            block: launch.block,
            shared: launch.shared,
            params,
            seed: self.next_seed(),
        };
        let planted = self.kernels.as_ref().map(|(kernels, _)| kernels);
        let planted = planted.filter(|kernels| kernels.names().any(|name| name == call.kernel));
        let kernels = planted.unwrap_or(&*KERNELS);
        // SAFETY: this method's contract.
        unsafe { kernels.run(&call) }.map_err(|reason| {
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
