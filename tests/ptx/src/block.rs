//! A block: shared memory, barriers, and the choice of the warp that runs next.

use crate::clocks::WarpClocks;
use crate::fault::{Fault, FaultKind};
use crate::module::{Barrier, Dst, LANES, Op, Reduction};
use crate::race::Shadow;
use crate::run::Machine;
use crate::steps::Stop;
use crate::warp::{Wait, Warp};

/// Barriers of a block.
pub(crate) const BARRIERS: usize = 16;

/// A barrier that threads have arrived at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrivals {
    pub(crate) count: u32,
    /// Thread count of the instruction, if it has one.
    pub(crate) threads: Option<u32>,
    pub(crate) reduction: Option<Reduction>,
    /// Threads whose predicate is true.
    pub(crate) trues: u32,
    /// A thread that arrived, and where.
    pub(crate) first: (u32, u32),
}

/// What the threads of a block share.
pub(crate) struct Shared {
    /// Number of the block in the grid, and its index.
    pub(crate) number: u32,
    pub(crate) index: [u32; 3],
    pub(crate) bytes: Vec<u8>,
    /// Which bytes were written.
    pub(crate) set: Vec<bool>,
    /// Targets of `cp.async`: address, bytes, thread, program counter.
    pub(crate) pending: Vec<(u64, usize, u32, u32)>,
    pub(crate) shadow: Shadow,
    pub(crate) clocks: Option<WarpClocks>,
    pub(crate) barriers: [Arrivals; BARRIERS],
    /// Threads that have not exited.
    pub(crate) alive: u32,
}

/// A block with its warps.
pub(crate) struct Block {
    pub(crate) shared: Shared,
    pub(crate) warps: Vec<Warp>,
    /// The warp that ran last.
    last: usize,
    /// Instructions since it started.
    pub(crate) instructions: u64,
}

impl Block {
    pub(crate) fn new(machine: &Machine<'_>, bytes: usize) -> Self {
        let threads = machine.threads();
        let warps = threads.div_ceil(LANES as u32) as usize;
        Block {
            shared: Shared {
                number: 0,
                index: [0; 3],
                bytes: vec![0; bytes],
                set: vec![false; bytes],
                pending: Vec::new(),
                shadow: Shadow::default(),
                clocks: None,
                barriers: [Arrivals::default(); BARRIERS],
                alive: 0,
            },
            warps: (0..warps).map(|_| Warp::new(machine.kernel)).collect(),
            last: 0,
            instructions: 0,
        }
    }

    /// Makes it block `number` of the grid.
    pub(crate) fn start(&mut self, machine: &Machine<'_>, number: u32) {
        let shared = &mut self.shared;
        let [x, y, _] = machine.grid;
        shared.number = number;
        shared.index = [number % x, number / x % y, number / x / y];
        shared.set.fill(false);
        shared.pending.clear();
        shared.shadow.clear();
        shared.clocks = machine
            .races
            .then(|| WarpClocks::new(self.warps.len(), BARRIERS));
        shared.barriers = [Arrivals::default(); BARRIERS];
        shared.alive = machine.threads();
        for (index, warp) in self.warps.iter_mut().enumerate() {
            let left = shared.alive - (index * LANES) as u32;
            let alive = if left >= 32 {
                u32::MAX
            } else {
                (1 << left) - 1
            };
            warp.start(index as u32, alive, machine.races);
            machine.fill_specials(warp, shared);
        }
        self.last = self.warps.len() - 1;
        self.instructions = 0;
    }

    /// Runs a warp for a while. Returns whether the block has ended.
    pub(crate) fn advance(&mut self, machine: &mut Machine<'_>) -> Result<bool, Box<Fault>> {
        let count = self.warps.len();
        let first = if machine.seed == 0 {
            self.last + 1
        } else {
            machine.random.below(count as u64) as usize
        };
        let runnable = (0..count)
            .map(|i| (first + i) % count)
            .find(|&i| self.warps[i].runnable() != 0);
        let Some(index) = runnable else {
            return if self.shared.alive == 0 {
                Ok(true)
            } else {
                Err(self.stuck(machine))
            };
        };
        self.last = index;
        let before = self.warps[index].instructions;
        let stop = machine.run_warp(&mut self.warps[index], &mut self.shared)?;
        self.instructions += self.warps[index].instructions - before;
        if stop == Stop::Event {
            for barrier in 0..BARRIERS {
                self.complete(machine, barrier)?;
            }
        }
        Ok(self.shared.alive == 0)
    }

    /// Releases a barrier that all have arrived at.
    fn complete(&mut self, machine: &mut Machine<'_>, number: usize) -> Result<(), Box<Fault>> {
        let arrivals = self.shared.barriers[number];
        let expected = arrivals.threads.unwrap_or(self.shared.alive);
        if arrivals.count == 0 || arrivals.count < expected {
            return Ok(());
        }
        self.shared.barriers[number] = Arrivals::default();
        for warp in &mut self.warps {
            let here = |lane: &usize| warp.wait[*lane] == Wait::Barrier(number as u32);
            let waiting = (0..LANES)
                .filter(here)
                .fold(0u32, |mask, lane| mask | 1 << lane);
            if waiting == 0 {
                continue;
            }
            aligned(machine, warp, &self.shared, waiting)?;
            if let Some(clocks) = &mut self.shared.clocks {
                clocks.leave(warp.index as usize, number);
            }
            if let Some(clocks) = &mut warp.clocks {
                clocks.join(waiting);
            }
            let mut rest = waiting;
            while rest != 0 {
                let pc = warp.pc[rest.trailing_zeros() as usize];
                let same = (0..LANES)
                    .filter(|&lane| rest >> lane & 1 == 1 && warp.pc[lane] == pc)
                    .fold(0, |mask, lane| mask | 1 << lane);
                rest &= !same;
                if let Op::Barrier(barrier) = &machine.kernel.code[pc as usize].op {
                    write_result(warp, barrier, same, &arrivals);
                }
            }
            warp.release(waiting);
        }
        Ok(())
    }

    /// No warp can run: which thread waits for which.
    fn stuck(&self, machine: &Machine<'_>) -> Box<Fault> {
        let shared = &self.shared;
        let waiting = |warp: &Warp| warp.alive & warp.blocked;
        // Lanes of one warp at different barriers, or some at a barrier: the barrier diverges.
        for warp in &self.warps {
            let mask = waiting(warp);
            let at = |wanted: bool| {
                (0..LANES).find(|&lane| {
                    let barrier = matches!(warp.wait[lane], Wait::Barrier(_));
                    mask >> lane & 1 == 1 && barrier == wanted
                })
            };
            if let Some(lane) = at(true) {
                let other = (0..LANES).find(|&l| mask >> l & 1 == 1 && warp.pc[l] != warp.pc[lane]);
                if let Some(other) = other {
                    let place = machine.place_of(shared, warp, lane);
                    let other = Box::new(machine.place_of(shared, warp, other));
                    return machine.fault(place, FaultKind::BarrierDivergence { other });
                }
            }
        }
        let first = self.warps.iter().find(|w| waiting(w) != 0);
        let Some(warp) = first else {
            return machine.fault_without_place(FaultKind::Deadlock {
                missing: "nobody".into(),
            });
        };
        let lane = waiting(warp).trailing_zeros() as usize;
        let place = machine.place_of(shared, warp, lane);
        let missing = self.missing(machine, warp, lane);
        machine.fault(place, FaultKind::Deadlock { missing })
    }

    /// A thread that `lane` of `warp` waits for in vain, in words.
    fn missing(&self, machine: &Machine<'_>, warp: &Warp, lane: usize) -> String {
        match warp.wait[lane] {
            Wait::Lanes(mask) => {
                let absent = |l: &usize| {
                    mask >> l & 1 == 1
                        && warp.alive >> l & 1 == 1
                        && warp.wait[*l] != warp.wait[lane]
                };
                match (0..LANES).find(absent) {
                    Some(l) => format!("lane {l} at {}", machine.place_of(&self.shared, warp, l)),
                    None => "no lane".into(),
                }
            }
            Wait::Barrier(number) => {
                let arrivals = self.shared.barriers[number as usize];
                let elsewhere = self.warps.iter().find_map(|w| {
                    let absent =
                        |l: &usize| w.alive >> l & 1 == 1 && w.wait[*l] != Wait::Barrier(number);
                    (0..LANES)
                        .find(absent)
                        .map(|l| machine.place_of(&self.shared, w, l))
                });
                let expected = arrivals.threads.unwrap_or(self.shared.alive);
                let count = format!("{} of {expected} threads arrived", arrivals.count);
                match elsewhere {
                    Some(place) => format!("{place}; {count}"),
                    None => format!("exited threads; {count}"),
                }
            }
            Wait::None => String::new(),
        }
    }
}

/// An aligned barrier needs all lanes of a warp, at one instruction.
fn aligned(
    machine: &Machine<'_>,
    warp: &Warp,
    shared: &Shared,
    waiting: u32,
) -> Result<(), Box<Fault>> {
    let first = waiting.trailing_zeros() as usize;
    let is_aligned = |lane: usize| match &machine.kernel.code[warp.pc[lane] as usize].op {
        Op::Barrier(barrier) => barrier.aligned,
        _ => false,
    };
    for lane in 0..LANES {
        let alive = warp.alive >> lane & 1 == 1;
        let here = waiting >> lane & 1 == 1;
        if !alive || here && warp.pc[lane] == warp.pc[first] {
            continue;
        }
        if is_aligned(first) || here && is_aligned(lane) {
            let place = machine.place_of(shared, warp, first);
            let other = Box::new(machine.place_of(shared, warp, lane));
            return Err(machine.fault(place, FaultKind::BarrierDivergence { other }));
        }
    }
    Ok(())
}

fn write_result(warp: &mut Warp, barrier: &Barrier, mask: u32, arrivals: &Arrivals) {
    let holds = match barrier.reduction {
        Reduction::None => return,
        Reduction::Count => {
            let count = [u64::from(arrivals.trues); LANES];
            if barrier.d != Dst::None {
                warp.put64(barrier.d, mask, &count, u32::MAX);
            }
            return;
        }
        Reduction::And => arrivals.trues == arrivals.count,
        Reduction::Or => arrivals.trues > 0,
    };
    warp.put_pred(
        barrier.d_pred,
        mask,
        if holds { u32::MAX } else { 0 },
        u32::MAX,
    );
}
