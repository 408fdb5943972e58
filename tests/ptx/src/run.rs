//! Runs a launch: blocks in order, and a warp until it stops.

use crate::block::{Block, Shared};
use crate::execute::{Step, Trouble, lanes, trouble};
use crate::fault::{Fault, FaultKind, Place, Space};
use crate::layout::ADDED;
use crate::memory::Device;
use crate::module::{Barrier, Kernel, LANES, Op, Pred, Reduction, Special, TRUE};
use crate::race::{Access, Kind, Shadow};
use crate::random::Random;
use crate::warp::{Wait, Warp};
use crate::{Counts, Launch, Module, Options};

/// Most instructions of a warp.
const BUDGET: u64 = 1 << 26;
/// Instructions of a warp before another one runs, without a seed.
const QUANTUM: u64 = 1 << 14;
/// Instructions of a block after which it seems to wait for another one.
const SPINNING: u64 = 1 << 20;
/// Blocks that run at the same time.
const RESIDENT: usize = 8;
const RESIDENT_SEEDED: usize = 4;

/// Why a warp stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Others may run.
    Pause,
    /// Lanes arrived at a barrier or exited.
    Event,
}

/// A launch that runs.
pub(crate) struct Machine<'a> {
    module: &'a Module,
    pub(crate) kernel: &'a Kernel,
    pub(crate) device: Device<'a>,
    pub(crate) params: &'a [u8],
    pub(crate) grid: [u32; 3],
    block: [u32; 3],
    dynamic: u32,
    independent: bool,
    pub(crate) races: bool,
    pub(crate) seed: u64,
    pub(crate) random: Random,
    shadow: Shadow,
    /// Warp instructions issued, by program counter.
    issued: Vec<u64>,
    threads_issued: u64,
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

    /// Runs a warp until its lanes wait, or for a while.
    pub(crate) fn run_warp(
        &mut self,
        warp: &mut Warp,
        shared: &mut Shared,
    ) -> Result<Stop, Box<Fault>> {
        let quantum = if self.seed == 0 {
            QUANTUM
        } else {
            1 + self.random.below(256)
        };
        let mut left = quantum;
        while left > 0 {
            let Some((pc, group, limit)) = warp.select(self.independent, &mut self.random) else {
                return Ok(Stop::Pause);
            };
            let steps = if self.independent {
                1 + self.random.below(16)
            } else {
                left
            };
            let mut at = pc;
            let allowed = steps.min(left);
            let mut used = 0;
            let done = self.run_group(warp, shared, &mut at, group, limit, allowed, &mut used);
            left -= used.min(left);
            warp.instructions += used;
            match done {
                Ok(Some(stop)) => return Ok(stop),
                Ok(None) => {}
                Err(trouble) => return Err(self.located(&trouble, at, warp, shared)),
            }
            if warp.instructions > BUDGET {
                let kind = FaultKind::Budget {
                    instructions: warp.instructions,
                };
                let trouble = Trouble {
                    lane: group.trailing_zeros(),
                    kind,
                };
                return Err(self.located(&trouble, at, warp, shared));
            }
        }
        // The lanes at the lowest address may wait for others of the warp.
        warp.last_first = !warp.last_first;
        Ok(Stop::Pause)
    }

    /// Runs the lanes `group` at `pc` together, as long as they stay together and no others are due.
    #[allow(clippy::too_many_arguments)]
    fn run_group(
        &mut self,
        warp: &mut Warp,
        shared: &mut Shared,
        pc: &mut u32,
        group: u32,
        limit: u32,
        allowed: u64,
        used: &mut u64,
    ) -> Step<Option<Stop>> {
        let kernel = self.kernel;
        while *used < allowed {
            let at = *pc;
            let instruction = &kernel.code[at as usize];
            *used += 1;
            self.issued[at as usize] += 1;
            self.threads_issued += u64::from(group.count_ones());
            let active = if instruction.guard.index == TRUE {
                group
            } else {
                self.guarded(warp, instruction.guard, group)?
            };
            let mut next = at + 1;
            match &instruction.op {
                Op::Jump { target } => {
                    if active == group {
                        next = *target;
                    } else if active != 0 {
                        warp.set_pc(active, *target);
                        warp.set_pc(group & !active, next);
                        return Ok(None);
                    }
                }
                Op::JumpIndexed { index, targets } => {
                    let index = self.need(warp, *index, active)?;
                    warp.set_pc(group, next);
                    for lane in lanes(active) {
                        let Some(&target) = targets.get(index[lane] as usize) else {
                            let (index, targets) = (index[lane], targets.len());
                            return trouble(1 << lane, FaultKind::BranchIndex { index, targets });
                        };
                        warp.pc[lane] = target;
                    }
                    return Ok(None);
                }
                Op::Exit => {
                    if active != 0 {
                        self.wait_group(None, active, warp, shared)?;
                        warp.alive &= !active;
                        shared.alive -= active.count_ones();
                        warp.set_pc(group & !active, next);
                        self.arrived(warp, shared)?;
                        return Ok(Some(Stop::Event));
                    }
                }
                Op::Sync(sync) => {
                    if active != 0 {
                        let mask = self.need(warp, sync.mask, active)?;
                        let first = mask[active.trailing_zeros() as usize] as u32;
                        for lane in lanes(active) {
                            let mask = mask[lane] as u32;
                            if mask >> lane & 1 == 0 {
                                let lane = lane as u32;
                                return trouble(1 << lane, FaultKind::NotInMask { lane, mask });
                            }
                        }
                        let same = lanes(active).all(|lane| mask[lane] as u32 == first);
                        if same && first & warp.alive == active {
                            self.collective(&[(at, active)], first, warp, shared)?;
                        } else {
                            warp.block(active, at, |lane| Wait::Lanes(mask[lane] as u32));
                            warp.set_pc(group & !active, next);
                            self.arrived(warp, shared)?;
                            return Ok(None);
                        }
                    }
                }
                Op::Barrier(barrier) => {
                    if active != 0 {
                        self.arrive(barrier, at, active, warp, shared)?;
                        warp.set_pc(group & !active, next);
                        if barrier.arrive {
                            warp.set_pc(active, next);
                        }
                        return Ok(Some(Stop::Event));
                    }
                }
                op => self.execute(op, at, active, warp, shared)?,
            }
            *pc = next;
            if next >= limit {
                break;
            }
        }
        warp.set_pc(group, *pc);
        Ok(None)
    }

    #[inline]
    fn guarded(&self, warp: &Warp, guard: Pred, group: u32) -> Step<u32> {
        let (value, set) = warp.get_pred(guard);
        if group & !set != 0 {
            return self.unset_pred(guard.index, group & !set);
        }
        Ok(group & value)
    }

    /// Executes `.sync` instructions whose lanes have all arrived.
    fn arrived(&mut self, warp: &mut Warp, shared: &mut Shared) -> Step<()> {
        let mut seen = 0u32;
        for lane in lanes(warp.blocked & warp.alive) {
            let Wait::Lanes(mask) = warp.wait[lane] else {
                continue;
            };
            if seen >> lane & 1 == 1 {
                continue;
            }
            let members = mask & warp.alive;
            seen |= members;
            if lanes(members).any(|l| warp.wait[l] != Wait::Lanes(mask)) {
                continue;
            }
            let mut parts = Vec::new();
            let mut rest = members;
            while rest != 0 {
                let pc = warp.pc[rest.trailing_zeros() as usize];
                let same = lanes(rest)
                    .filter(|&l| warp.pc[l] == pc)
                    .fold(0, |m, l| m | 1 << l);
                parts.push((pc, same));
                rest &= !same;
            }
            self.collective(&parts, mask, warp, shared)?;
            warp.release(members);
        }
        Ok(())
    }

    /// Lanes arrive at a barrier.
    fn arrive(
        &mut self,
        barrier: &Barrier,
        pc: u32,
        active: u32,
        warp: &mut Warp,
        shared: &mut Shared,
    ) -> Step<()> {
        let number = self.need(warp, barrier.barrier, active)?;
        let threads = match barrier.threads {
            Some(s) => Some(self.need(warp, s, active)?),
            None => None,
        };
        let (value, set) = warp.get_pred(barrier.value);
        if barrier.reduction != Reduction::None && active & !set != 0 {
            return self.unset_pred(barrier.value.index, active & !set);
        }
        for lane in lanes(active) {
            let (number, count) = (number[lane], threads.map_or(0, |t| t[lane]));
            let odd = barrier.aligned && count % LANES as u64 != 0;
            if number >= 16 || threads.is_some() && (count == 0 || odd) {
                let kind = FaultKind::BarrierOperands {
                    barrier: number,
                    threads: count,
                };
                return trouble(1 << lane, kind);
            }
            let arrivals = &mut shared.barriers[number as usize];
            let threads = threads.map(|t| t[lane] as u32);
            let reduction = (!barrier.arrive).then_some(barrier.reduction);
            if arrivals.count == 0 {
                arrivals.first = (warp.index * LANES as u32 + lane as u32, pc);
                arrivals.threads = threads;
                arrivals.reduction = reduction;
            } else if arrivals.threads != threads
                || arrivals.reduction.is_some()
                    && reduction.is_some()
                    && arrivals.reduction != reduction
            {
                let (thread, pc) = arrivals.first;
                let other = Box::new(self.place_at(shared, thread, pc));
                let kind = FaultKind::BarrierMismatch {
                    barrier: number as u32,
                    other,
                };
                return trouble(1 << lane, kind);
            }
            arrivals.reduction = arrivals.reduction.or(reduction);
            arrivals.count += 1;
            arrivals.trues += value >> lane & 1;
            if let Some(limit) = threads
                && arrivals.count > limit
            {
                let kind = FaultKind::BarrierOperands {
                    barrier: number,
                    threads: limit.into(),
                };
                return trouble(1 << lane, kind);
            }
        }
        if let Some(clocks) = &mut shared.clocks {
            let mut done = 0u64;
            for lane in lanes(active) {
                if done >> number[lane] & 1 == 0 {
                    done |= 1 << number[lane];
                    clocks.arrive(warp.index as usize, number[lane] as usize);
                }
            }
        }
        if !barrier.arrive {
            warp.block(active, pc, |lane| Wait::Barrier(number[lane] as u32));
        }
        Ok(())
    }

    /// Enters an access for races, and faults if there is one.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn race(
        &mut self,
        (space, address): (Space, u64),
        bytes: usize,
        pc: u32,
        lane: usize,
        kind: Kind,
        strong: bool,
        warp: &Warp,
        shared: &mut Shared,
    ) -> Step<()> {
        let (Some(lane_clocks), Some(warp_clocks)) = (&warp.clocks, &shared.clocks) else {
            return Ok(());
        };
        let mine = warp.index as usize;
        let access = Access {
            block: shared.number,
            thread: (mine * LANES + lane) as u32,
            warp_time: warp_clocks.now(mine),
            lane_time: lane_clocks.now(lane),
            pc,
            strong,
        };
        let ordered = |other: &Access| {
            let (theirs, their_lane) =
                (other.thread as usize / LANES, other.thread as usize % LANES);
            if other.block != access.block {
                false
            } else if theirs == mine {
                lane_clocks.covers(lane, their_lane, other.lane_time)
            } else {
                warp_clocks.covers(mine, theirs, other.warp_time)
            }
        };
        let found = match space {
            Space::Global => self.shadow.enter(address, bytes, access, kind, ordered),
            Space::Shared => shared.shadow.enter(address, bytes, access, kind, ordered),
            _ => None,
        };
        let Some((address, other)) = found else {
            return Ok(());
        };
        let [x, y, _] = self.grid;
        let n = other.block;
        let index = [n % x, n / x % y, n / x / y];
        let other = Box::new(self.place_in(index, other.thread, other.pc));
        trouble(
            1 << lane,
            FaultKind::Race {
                space,
                address,
                other,
            },
        )
    }

    /// Faults where a `cp.async` into a range was not waited for.
    pub(crate) fn pending(
        &self,
        address: u64,
        bytes: usize,
        lane: usize,
        shared: &Shared,
    ) -> Step<()> {
        if shared.pending.is_empty() {
            return Ok(());
        }
        let end = address + bytes as u64;
        let hit = shared
            .pending
            .iter()
            .find(|p| p.0 < end && address < p.0 + p.1 as u64);
        let Some(&(_, _, thread, pc)) = hit else {
            return Ok(());
        };
        let other = Box::new(self.place_at(shared, thread, pc));
        trouble(1 << lane, FaultKind::PendingCopy { address, other })
    }

    fn place_in(&self, block: [u32; 3], thread: u32, pc: u32) -> Place {
        let [x, y, _] = self.block;
        let line = self
            .kernel
            .code
            .get(pc as usize)
            .map_or(0, |i| i.line as usize);
        let text = self
            .module
            .lines
            .get(line.wrapping_sub(1))
            .cloned()
            .unwrap_or_default();
        Place {
            line,
            text,
            block,
            thread: [thread % x, thread / x % y, thread / x / y],
        }
    }

    fn place_at(&self, shared: &Shared, thread: u32, pc: u32) -> Place {
        self.place_in(shared.index, thread, pc)
    }

    /// Where a lane is.
    pub(crate) fn place_of(&self, shared: &Shared, warp: &Warp, lane: usize) -> Place {
        self.place_at(
            shared,
            warp.index * LANES as u32 + lane as u32,
            warp.pc[lane],
        )
    }

    pub(crate) fn fault(&self, place: Place, kind: FaultKind) -> Box<Fault> {
        Box::new(Fault {
            kernel: self.kernel.name.clone(),
            place: Some(place),
            kind,
        })
    }

    pub(crate) fn fault_without_place(&self, kind: FaultKind) -> Box<Fault> {
        Box::new(Fault {
            kernel: self.kernel.name.clone(),
            place: None,
            kind,
        })
    }

    fn located(&self, trouble: &Trouble, pc: u32, warp: &Warp, shared: &Shared) -> Box<Fault> {
        let thread = warp.index * LANES as u32 + trouble.lane;
        self.fault(self.place_at(shared, thread, pc), trouble.kind.clone())
    }
}
