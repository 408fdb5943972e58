//! Runs a launch: its checks, the blocks in order, and what it counts.

use crate::block::{Block, Shared};
use crate::fault::{Fault, FaultKind};
use crate::layout::ADDED;
use crate::memory::Device;
use crate::module::{Kernel, LANES, Special};
use crate::race::Shadow;
use crate::random::Random;
use crate::warp::Warp;
use crate::{Counts, Launch, Module, Options};

/// Instructions of a block after which it seems to wait for another one.
const SPINNING: u64 = 1 << 20;
/// Blocks that run at the same time.
const RESIDENT: usize = 8;
const RESIDENT_SEEDED: usize = 4;

/// A launch that runs.
pub(crate) struct Machine<'a> {
    pub(crate) module: &'a Module,
    pub(crate) kernel: &'a Kernel,
    pub(crate) device: Device<'a>,
    pub(crate) params: &'a [u8],
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    dynamic: u32,
    pub(crate) independent: bool,
    pub(crate) races: bool,
    pub(crate) seed: u64,
    pub(crate) random: Random,
    pub(crate) shadow: Shadow,
    /// Warp instructions issued, by program counter.
    pub(crate) issued: Vec<u64>,
    pub(crate) threads_issued: u64,
    pub(crate) global_bytes: u64,
    pub(crate) shared_bytes: u64,
    pub(crate) mma: u64,
}

/// Most shared memory of a block, in bytes, as "CUDA C++ Programming Guide", table of technical specifications.
fn shared_limit(architecture: u32) -> usize {
    let kibibytes = match architecture {
        75 => 64,
        80 | 87 => 163,
        86 | 89 | 120 | 121 => 99,
        0 | 90 | 100 | 101 | 103 | 110 => 227,
        70 | 72 => 96,
        _ => 48,
    };
    kibibytes * 1024
}

/// Runs a launch to its end.
pub(crate) fn start(
    module: &Module,
    launch: &Launch<'_>,
    device: Device<'_>,
    options: &Options,
) -> Result<Counts, Fault> {
    let refuse = |kind| {
        Err(Fault {
            kernel: launch.kernel.to_string(),
            place: None,
            kind,
        })
    };
    let Some(kernel) = module.kernel(launch.kernel) else {
        return refuse(FaultKind::NoKernel);
    };
    if launch.params.len() != kernel.param_bytes {
        let (expected, found) = (kernel.param_bytes, launch.params.len());
        return refuse(FaultKind::Parameters { expected, found });
    }
    // ptxas refuses more.
    if kernel.static_shared > 48 * 1024 {
        let (bytes, limit) = (kernel.static_shared, 48 * 1024);
        return refuse(FaultKind::SharedMemory { bytes, limit });
    }
    let bytes = kernel.static_shared + launch.shared as usize;
    let limit = shared_limit(options.architecture);
    if bytes > limit {
        return refuse(FaultKind::SharedMemory { bytes, limit });
    }
    let product = |size: [u32; 3]| size.iter().map(|&n| u64::from(n)).product::<u64>();
    let (threads, blocks) = (product(launch.block), product(launch.grid));
    let most = u64::from(kernel.max_threads.unwrap_or(1024).min(1024));
    if threads == 0 || threads > most || launch.block[2] > 64 {
        let message = format!("{threads} threads in a block, expected 1 to {most}");
        return refuse(FaultKind::Size { message });
    }
    let [x, y, z] = launch.grid;
    if blocks == 0 || x > 0x7fff_ffff || y > 65535 || z > 65535 || blocks > 0xffff_fffe {
        let message = format!("a grid of {x} x {y} x {z} blocks");
        return refuse(FaultKind::Size { message });
    }
    if options.architecture != 0 {
        for instruction in &kernel.code {
            if instruction.needs > options.architecture {
                let (needed, found) = (instruction.needs, options.architecture);
                return refuse(FaultKind::Architecture { needed, found });
            }
        }
    }
    let mut machine = Machine {
        module,
        kernel,
        device,
        params: launch.params,
        grid: launch.grid,
        block: launch.block,
        dynamic: launch.shared,
        independent: options.independent,
        races: options.races,
        seed: options.seed,
        random: Random::new(options.seed),
        shadow: Shadow::default(),
        issued: vec![0; kernel.code.len()],
        threads_issued: 0,
        global_bytes: 0,
        shared_bytes: 0,
        mma: 0,
    };
    match machine.blocks(blocks as u32, bytes) {
        Ok(()) => Ok(machine.counts()),
        Err(fault) => Err(*fault),
    }
}

impl<'a> Machine<'a> {
    pub(crate) fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts {
            thread_instructions: self.threads_issued,
            global_bytes: self.global_bytes,
            shared_bytes: self.shared_bytes,
            mma: self.mma,
            ..Counts::default()
        };
        for (instruction, &issued) in self.kernel.code.iter().zip(&self.issued) {
            if instruction.opcode == ADDED || issued == 0 {
                continue;
            }
            counts.instructions += issued;
            let opcode = &self.kernel.opcodes[instruction.opcode as usize];
            *counts.by_opcode.entry(opcode.clone()).or_default() += issued;
        }
        counts
    }

    /// Runs all blocks.
    fn blocks(&mut self, count: u32, bytes: usize) -> Result<(), Box<Fault>> {
        // A seed shuffles the blocks by a random step, which has no common divisor with their number.
        let (mut step, mut at) = (1u64, 0u64);
        if self.seed != 0 {
            let common = |mut a: u64, mut b: u64| {
                while b != 0 {
                    (a, b) = (b, a % b);
                }
                a
            };
            at = self.random.below(u64::from(count));
            step = self.random.below(u64::from(count)).max(1);
            while common(step, u64::from(count)) != 1 {
                step = step % u64::from(count) + 1;
            }
        }
        let mut started = 0;
        let mut resident: Vec<Block> = Vec::new();
        let mut spare: Vec<Block> = Vec::new();
        let mut turn = 0;
        loop {
            let wanted = if self.seed != 0 {
                RESIDENT_SEEDED
            } else if resident.iter().all(|block| block.instructions > SPINNING) {
                (resident.len() + 1).min(RESIDENT)
            } else {
                1
            };
            while resident.len() < wanted && started < count {
                let mut block = spare.pop().unwrap_or_else(|| Block::new(self, bytes));
                block.start(self, at as u32);
                resident.push(block);
                at = (at + step) % u64::from(count);
                started += 1;
            }
            if resident.is_empty() {
                return Ok(());
            }
            turn = if self.seed != 0 {
                self.random.below(resident.len() as u64) as usize
            } else {
                (turn + 1) % resident.len()
            };
            if resident[turn].advance(self)? {
                spare.push(resident.swap_remove(turn));
            }
        }
    }

    /// Values of special registers.
    pub(crate) fn fill_specials(&self, warp: &mut Warp, shared: &Shared) {
        let [x, y, _] = self.block;
        let base = warp.index * LANES as u32;
        for &(special, d) in &self.kernel.specials {
            let mut value = [0; LANES];
            for (lane, value) in value.iter_mut().enumerate() {
                let lane = lane as u32;
                let thread = base + lane;
                *value = u64::from(match special {
                    Special::Thread(0) => thread % x,
                    Special::Thread(1) => thread / x % y,
                    Special::Thread(_) => thread / x / y,
                    Special::Threads(axis) => self.block[axis],
                    Special::Block(axis) => shared.index[axis],
                    Special::Blocks(axis) => self.grid[axis],
                    Special::Lane => lane,
                    Special::Warp => warp.index,
                    Special::Warps => self.threads().div_ceil(LANES as u32),
                    Special::WarpSize => LANES as u32,
                    Special::MaskEq => 1 << lane,
                    Special::MaskLt => (1 << lane) - 1,
                    Special::MaskLe => u32::MAX >> (31 - lane),
                    Special::MaskGt => !(u32::MAX >> (31 - lane)),
                    Special::MaskGe => u32::MAX << lane,
                    Special::Clock => 0,
                    Special::DynamicShared => self.dynamic,
                    Special::TotalShared => shared.bytes.len() as u32,
                });
            }
            warp.put64(d, u32::MAX, &value, u32::MAX);
        }
    }
}
