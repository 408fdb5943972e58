//! Runs a warp until its lanes wait, and lets lanes arrive at `.sync` instructions and barriers.

use crate::block::Shared;
use crate::execute::{Step, Trouble, lanes, trouble};
use crate::fault::{Fault, FaultKind};
use crate::module::{Barrier, LANES, Op, Pred, Reduction, TRUE};
use crate::run::Machine;
use crate::warp::{Wait, Warp};

/// Most instructions of a warp.
const BUDGET: u64 = 1 << 26;
/// Instructions of a warp before another one runs, without a seed.
const QUANTUM: u64 = 1 << 14;

/// Why a warp stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Others may run.
    Pause,
    /// Lanes arrived at a barrier or exited.
    Event,
}

impl Machine<'_> {
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
        warp.last_first = warp.polled && !warp.last_first;
        warp.polled = false;
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
}
