//! The work of streams: kernels, copies, events, graphs; and when it is done.
//!
//! A call only enqueues. Work is done in the order of its stream when someone waits. With a seed, any call may also do some of
//! it, so that a program cannot rely on either.

use std::sync::Arc;
use std::time::Instant;

use emulation::Call;

use crate::calls::{fault, number};
use crate::code::Code;
use crate::world::{World, error};

/// A part of a stream's work.
pub(crate) enum Work {
    /// A launch.
    Kernel {
        module: u64,
        code: Code,
        kernel: String,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        params: Vec<u8>,
    },
    /// A copy between memory of the device or pinned memory.
    Copy { from: u64, to: u64, bytes: usize },
    /// A copy of bytes that were taken at the call, as CUDA does with memory that is not pinned.
    Bytes { bytes: Vec<u8>, to: u64 },
    /// The same byte everywhere.
    Set { to: u64, value: u8, bytes: usize },
    /// The time of an event. One that is captured without the flag for external events has no time.
    Event { event: u64, timed: bool },
    /// An executable graph's work.
    Graph(Vec<Arc<Work>>),
}

/// Decides when work is done and in which order a kernel's blocks and threads run.
pub(crate) struct Worker {
    seed: u64,
    state: u64,
    launches: u64,
}

impl Default for Worker {
    fn default() -> Self {
        let seed = number("CENTERPOINT_STANDIN_SEED", 0);
        Self {
            seed,
            state: seed,
            launches: 0,
        }
    }
}

impl Worker {
    /// The next random number (SplitMix64).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The schedule of the next launch: 0 and 1 as they are, others new for each launch.
    fn schedule(&mut self) -> u64 {
        self.launches += 1;
        match self.seed {
            0 | 1 => self.seed,
            // The highest bit would run blocks side by side.
            _ => (self.random() >> 1) | 2,
        }
    }
}

impl World {
    /// Does some of the pending work, if the seed says so.
    pub(crate) fn work_ahead(&mut self) {
        if self.worker.seed == 0 {
            return;
        }
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for stream in streams {
            let pending = self.streams.get(&stream).map_or(0, |s| s.pending.len()) as u64;
            for _ in 0..self.worker.random() % (pending + 1) {
                self.work_one(stream);
            }
        }
    }

    /// Does all work of a stream.
    pub(crate) fn work_stream(&mut self, stream: u64) {
        while self.work_one(stream) {}
    }

    /// Does all work.
    pub(crate) fn work_all(&mut self) {
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for stream in streams {
            self.work_stream(stream);
        }
    }

    /// Whether pending work, or that of an executable graph that is pending, touches this memory.
    pub(crate) fn is_pending(&self, address: u64, bytes: usize) -> bool {
        let inside = |at: u64| at >= address && at < address + bytes as u64;
        fn touches(work: &Work, inside: &dyn Fn(u64) -> bool) -> bool {
            match work {
                Work::Copy { from, to, .. } => inside(*from) || inside(*to),
                Work::Graph(works) => works.iter().any(|work| touches(work, inside)),
                _ => false,
            }
        }
        let pending = self.streams.values().flat_map(|s| &s.pending);
        pending.into_iter().any(|work| touches(work, &inside))
    }

    /// Whether an executable graph has kernels of a module.
    pub(crate) fn graphs_use(&self, module: u64) -> bool {
        let mut works = self.executables.values().flatten();
        works.any(|work| matches!(&**work, Work::Kernel { module: own, .. } if *own == module))
    }

    /// Does the first work of a stream. Returns whether there was any.
    fn work_one(&mut self, stream: u64) -> bool {
        let next = self
            .streams
            .get_mut(&stream)
            .and_then(|s| s.pending.pop_front());
        let Some(work) = next else {
            return false;
        };
        self.work(&work);
        true
    }

    /// Does a work, unless an error came before.
    fn work(&mut self, work: &Work) {
        if self.sticky.is_some() {
            return;
        }
        match work {
            Work::Graph(works) => works.iter().for_each(|work| self.work(work)),
            Work::Event { event, timed } => {
                if let Some(event) = self.events.get_mut(event) {
                    event.time = timed.then(Instant::now);
                }
            }
            Work::Set { to, value, bytes } => {
                if self.reaches("cuMemsetD8Async", *to, *bytes) {
                    // SAFETY: the range is inside an allocation.
                    unsafe { (*to as *mut u8).write_bytes(*value, *bytes) };
                }
            }
            Work::Bytes { bytes, to } => {
                if self.reaches("a copy to the device", *to, bytes.len()) {
                    // SAFETY: the range is inside an allocation.
                    unsafe {
                        std::ptr::copy_nonoverlapping(bytes.as_ptr(), *to as *mut u8, bytes.len());
                    }
                }
            }
            Work::Copy { from, to, bytes } => {
                let both = [from, to].map(|end| self.reaches("a copy", *end, *bytes));
                if both == [true; 2] {
                    // SAFETY: both ranges are inside allocations; they may overlap.
                    unsafe { std::ptr::copy(*from as *const u8, *to as *mut u8, *bytes) };
                }
            }
            Work::Kernel { .. } => self.kernel(work),
        }
    }

    /// Whether memory of this range is there. If not, the context is lost.
    fn reaches(&mut self, what: &str, address: u64, bytes: usize) -> bool {
        let found = self.find(address, bytes).is_some();
        if !found {
            fault(format!(
                "{what} of {bytes} bytes reaches freed memory at {address:#x}"
            ));
            self.sticky = Some(error::ILLEGAL_ADDRESS);
        }
        found
    }

    /// Runs a kernel, and looks for writes beside memory.
    fn kernel(&mut self, work: &Work) {
        let Work::Kernel {
            module,
            code,
            kernel,
            grid,
            block,
            shared,
            params,
        } = work
        else {
            return;
        };
        if !self.modules.contains_key(module) {
            fault(format!("`{kernel}` ran after its module was unloaded"));
            self.sticky = Some(error::LAUNCH_FAILED);
            return;
        }
        let call = Call {
            kernel,
            grid: *grid,
            block: *block,
            shared: *shared,
            params,
            seed: self.worker.schedule(),
        };
        // Parameters hold the addresses of all memory that the kernel reaches, as aligned words.
        if let Some(freed) = self.freed_in(params) {
            fault(format!(
                "`{kernel}` has the address {freed:#x} of freed memory"
            ));
            self.sticky = Some(error::ILLEGAL_ADDRESS);
            return;
        }
        // SAFETY: the addresses in the parameter are of living memory; what the kernel reaches from there is what the test is
        // about, and the margins around memory tell.
        if let Err(reason) = unsafe { code.run(&call, self) } {
            fault(format!("`{kernel}`: {reason}"));
            self.sticky = Some(error::LAUNCH_FAILED);
            return;
        }
        if let Some(memory) = self.memory.values().find(|memory| !memory.is_intact()) {
            fault(format!(
                "`{kernel}` wrote beside the {} bytes at {:#x}",
                memory.bytes, memory.address
            ));
            self.sticky = Some(error::ILLEGAL_ADDRESS);
        }
    }

    /// An address in a kernel's parameter that was given out and is free now.
    fn freed_in(&self, params: &[u8]) -> Option<u64> {
        let words = params
            .chunks_exact(8)
            .filter_map(|word| word.try_into().ok());
        let mut words = words.map(u64::from_le_bytes);
        words.find(|word| self.was_freed(*word))
    }
}
