//! The state of the stand-in: contexts, memory, streams, events, graphs and modules. One lock holds all of it.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use crate::calls::{fault, number};
use crate::code::Code;
use crate::work::{Work, Worker};

/// CUDA's errors (`CUresult`).
pub(crate) mod error {
    pub(crate) const INVALID_VALUE: u32 = 1;
    pub(crate) const OUT_OF_MEMORY: u32 = 2;
    pub(crate) const NOT_INITIALIZED: u32 = 3;
    pub(crate) const INVALID_DEVICE: u32 = 101;
    pub(crate) const INVALID_CONTEXT: u32 = 201;
    pub(crate) const NO_BINARY_FOR_GPU: u32 = 209;
    pub(crate) const INVALID_HANDLE: u32 = 400;
    pub(crate) const NOT_FOUND: u32 = 500;
    pub(crate) const NOT_READY: u32 = 600;
    pub(crate) const ILLEGAL_ADDRESS: u32 = 700;
    pub(crate) const CONTEXT_IS_DESTROYED: u32 = 709;
    pub(crate) const LAUNCH_FAILED: u32 = 719;
    pub(crate) const CAPTURE_UNSUPPORTED: u32 = 900;
    pub(crate) const CAPTURE_INVALIDATED: u32 = 901;
    pub(crate) const CAPTURE_WRONG_THREAD: u32 = 908;
}

/// Bytes before and after an allocation that must not change.
const MARGIN: usize = 256;
/// What they hold.
const GUARD: u8 = 0xA5;
/// What new memory holds.
const GARBAGE: u8 = 0xCB;
/// Bytes of freed memory to keep.
const MAX_FREED: usize = 256 << 20;

/// Memory of the device, or pinned memory.
pub(crate) struct Memory {
    /// First usable address.
    pub(crate) address: u64,
    pub(crate) bytes: usize,
    layout: Layout,
    pub(crate) pinned: bool,
}

impl Memory {
    /// Allocates `bytes` bytes.
    fn new(bytes: usize, pinned: bool) -> Option<Self> {
        let whole = bytes.checked_add(2 * MARGIN)?;
        let layout = Layout::from_size_align(whole, 256).ok()?;
        // SAFETY: the size is not 0.
        let start = unsafe { std::alloc::alloc(layout) };
        if start.is_null() {
            return None;
        }
        // SAFETY: all ranges are inside the allocation.
        unsafe {
            start.write_bytes(GUARD, MARGIN);
            start.add(MARGIN).write_bytes(GARBAGE, bytes);
            start.add(MARGIN + bytes).write_bytes(GUARD, MARGIN);
        }
        Some(Self {
            address: start as u64 + MARGIN as u64,
            bytes,
            layout,
            pinned,
        })
    }

    /// Whether nothing was written beside it.
    pub(crate) fn is_intact(&self) -> bool {
        let start = (self.address - MARGIN as u64) as *const u8;
        // SAFETY: both margins belong to the allocation, which lives as long as `self`.
        let margins = unsafe {
            [
                std::slice::from_raw_parts(start, MARGIN),
                std::slice::from_raw_parts(start.add(MARGIN + self.bytes), MARGIN),
            ]
        };
        margins
            .iter()
            .all(|margin| margin.iter().all(|byte| *byte == GUARD))
    }

    /// Whether `bytes` bytes from `address` on are inside.
    pub(crate) fn holds(&self, address: u64, bytes: usize) -> bool {
        let at = address.checked_sub(self.address);
        at.is_some_and(|at| at as usize <= self.bytes && bytes <= self.bytes - at as usize)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { std::alloc::dealloc((self.address - MARGIN as u64) as *mut u8, self.layout) };
    }
}

/// A module: the kernels of one source.
pub(crate) struct Module {
    pub(crate) code: Code,
}

/// A kernel of a module.
pub(crate) struct Function {
    pub(crate) module: u64,
    pub(crate) code: Code,
    pub(crate) name: String,
    pub(crate) param_bytes: usize,
    /// Most bytes of dynamic shared memory.
    pub(crate) shared: u32,
}

/// A stream of work.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) pending: std::collections::VecDeque<Arc<Work>>,
    pub(crate) capture: Option<Capture>,
}

/// A capture under way.
pub(crate) struct Capture {
    pub(crate) thread: ThreadId,
    pub(crate) work: Vec<Arc<Work>>,
    pub(crate) invalid: bool,
}

/// An event: when it was recorded and, once that is done, the time.
#[derive(Default)]
pub(crate) struct Event {
    pub(crate) recorded: bool,
    pub(crate) time: Option<std::time::Instant>,
    /// Recorded in a capture without the flag for external events, so it has no time.
    pub(crate) internal: bool,
}

/// Everything that belongs to the primary context.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) initialised: bool,
    /// How often the primary context is retained.
    pub(crate) retained: u32,
    /// Handle of the context; a new one each time it is created.
    pub(crate) context: u64,
    /// The error that the context keeps returning.
    pub(crate) sticky: Option<u32>,
    /// By first address.
    pub(crate) memory: BTreeMap<u64, Memory>,
    /// Freed memory, whose addresses are not given out again at once.
    freed: Vec<Memory>,
    pub(crate) modules: BTreeMap<u64, Module>,
    pub(crate) functions: BTreeMap<u64, Function>,
    pub(crate) streams: BTreeMap<u64, Stream>,
    pub(crate) events: BTreeMap<u64, Event>,
    pub(crate) graphs: BTreeMap<u64, Vec<Arc<Work>>>,
    pub(crate) executables: BTreeMap<u64, Vec<Arc<Work>>>,
    pub(crate) worker: Worker,
    handles: u64,
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(Mutex::default);

thread_local! {
    /// The context that is current to this thread.
    static CURRENT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Handles begin here, so that none is an address that a program could read by mistake.
const FIRST_HANDLE: u64 = 0x5000_0000_0000_0010;

pub(crate) fn world() -> MutexGuard<'static, World> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A new handle.
    pub(crate) fn handle(&mut self) -> u64 {
        self.handles += 16;
        FIRST_HANDLE + self.handles
    }

    /// Makes a context current to the calling thread; 0 makes none.
    pub(crate) fn set_current(&self, context: u64) -> Result<(), u32> {
        if context != 0 && context != self.context {
            fault(format!("cuCtxSetCurrent: {context:#x} is no context"));
            return Err(error::CONTEXT_IS_DESTROYED);
        }
        CURRENT.set(context);
        Ok(())
    }

    /// Whether the calling thread's context was released.
    pub(crate) fn is_stale(&self) -> bool {
        let current = CURRENT.get();
        current != 0 && (current != self.context || self.retained == 0)
    }

    /// Fails unless the calling thread has a living context without an earlier error. Does some of the pending work, if the
    /// seed says so.
    pub(crate) fn check(&mut self, function: &str) -> Result<(), u32> {
        if !self.initialised {
            fault(format!("{function} before cuInit"));
            return Err(error::NOT_INITIALIZED);
        }
        let current = CURRENT.get();
        if current == 0 {
            fault(format!("{function} without a current context"));
            return Err(error::INVALID_CONTEXT);
        }
        if current != self.context || self.retained == 0 {
            fault(format!("{function} in a context that was released"));
            return Err(error::CONTEXT_IS_DESTROYED);
        }
        self.work_ahead();
        match self.sticky {
            Some(sticky) => Err(sticky),
            None => Ok(()),
        }
    }

    /// As [`World::check`], for calls that a capturing thread must not make. They end the capture.
    pub(crate) fn check_uncaptured(&mut self, function: &str) -> Result<(), u32> {
        self.check(function)?;
        let own = std::thread::current().id();
        let captures = self.streams.values_mut().filter_map(|s| s.capture.as_mut());
        let mut captures = captures.filter(|capture| capture.thread == own);
        match captures.next() {
            None => Ok(()),
            Some(capture) => {
                capture.invalid = true;
                fault(format!("{function} while this thread captures"));
                Err(error::CAPTURE_UNSUPPORTED)
            }
        }
    }

    /// Allocates memory.
    pub(crate) fn allocate(&mut self, bytes: usize, pinned: bool) -> Result<u64, u32> {
        if bytes == 0 {
            return Err(error::INVALID_VALUE);
        }
        let limit = number("CENTERPOINT_STANDIN_MEMORY", 8 << 30) as usize;
        let used: usize = self.memory.values().map(|memory| memory.bytes).sum();
        if bytes > limit.saturating_sub(used) {
            return Err(error::OUT_OF_MEMORY);
        }
        let memory = Memory::new(bytes, pinned).ok_or(error::OUT_OF_MEMORY)?;
        let address = memory.address;
        self.memory.insert(address, memory);
        Ok(address)
    }

    /// The allocation that `bytes` bytes from `address` on are inside of.
    pub(crate) fn find(&self, address: u64, bytes: usize) -> Option<&Memory> {
        let (_, memory) = self.memory.range(..=address).next_back()?;
        memory.holds(address, bytes).then_some(memory)
    }

    /// Frees memory: whoever reads it finds garbage.
    pub(crate) fn forget(&mut self, address: u64) {
        let Some(memory) = self.memory.remove(&address) else {
            return;
        };
        // SAFETY: the memory is still allocated.
        unsafe { (memory.address as *mut u8).write_bytes(GARBAGE, memory.bytes) };
        self.freed.push(memory);
        while self.freed.iter().map(|memory| memory.bytes).sum::<usize>() > MAX_FREED {
            self.freed.remove(0);
        }
    }

    /// Whether an address is in memory that was freed.
    pub(crate) fn was_freed(&self, address: u64) -> bool {
        self.freed.iter().any(|memory| memory.holds(address, 1))
    }

    /// What is still there although the context goes, which it takes with it.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        for memory in self.memory.values() {
            let kind = if memory.pinned { "pinned" } else { "device" };
            leaks.push(format!("{} bytes of {kind} memory", memory.bytes));
        }
        for (count, what) in [
            (self.modules.len(), "modules"),
            (self.streams.len(), "streams"),
            (self.events.len(), "events"),
            (self.graphs.len(), "graphs"),
            (self.executables.len(), "executable graphs"),
        ] {
            if count > 0 {
                leaks.push(format!("{count} {what}"));
            }
        }
        leaks
    }

    /// Destroys the context with everything in it.
    pub(crate) fn destroy(&mut self) {
        self.work_all();
        for leak in self.leaks() {
            fault(format!("left in a context that was released: {leak}"));
        }
        let (handles, worker) = (self.handles, std::mem::take(&mut self.worker));
        *self = Self {
            initialised: self.initialised,
            handles,
            worker,
            ..Self::default()
        };
    }
}
