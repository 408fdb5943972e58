//! A warp: its registers, the program counter of each lane, and which lanes run together.

use crate::clocks::LaneClocks;
use crate::module::{Dst, Kernel, LANES, Lanes32, Lanes64, Pred, Src, TRUE};
use crate::random::Random;

/// What a lane waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    None,
    /// A `.sync` instruction, for the lanes of a mask.
    Lanes(u32),
    /// A barrier of the block.
    Barrier(u32),
}

/// A `cp.async` that has not been waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) lane: u32,
    pub(crate) pc: u32,
    pub(crate) to: u64,
    pub(crate) from: u64,
    pub(crate) bytes: usize,
    pub(crate) read: usize,
    /// Committed with this group.
    pub(crate) group: Option<u32>,
    /// What was copied early.
    pub(crate) early: Option<[u8; 16]>,
}

/// A warp.
pub(crate) struct Warp {
    pub(crate) index: u32,
    pub(crate) r32: Vec<Lanes32>,
    pub(crate) r64: Vec<Lanes64>,
    pub(crate) preds: Vec<u32>,
    /// Lanes whose register was written, for each of the three files.
    pub(crate) set32: Vec<u32>,
    pub(crate) set64: Vec<u32>,
    pub(crate) set_preds: Vec<u32>,
    /// Carry flag of each lane, and whether it was set.
    pub(crate) carry: u32,
    pub(crate) set_carry: u32,
    pub(crate) pc: [u32; LANES],
    /// Lanes that have not exited, and those of them that wait.
    pub(crate) alive: u32,
    pub(crate) blocked: u32,
    pub(crate) wait: [Wait; LANES],
    /// Local memory of the lanes, one after another, and which bytes were written.
    pub(crate) local: Vec<u8>,
    pub(crate) set_local: Vec<bool>,
    pub(crate) clocks: Option<Box<LaneClocks>>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) groups: [u32; LANES],
    pub(crate) instructions: u64,
    /// The next group is the one at the highest address.
    pub(crate) last_first: bool,
    /// It executed atomics or volatile loads lately, so that its lanes may wait for others.
    pub(crate) polled: bool,
}

/// Blends lanes of `new` into `old`.
macro_rules! blend {
    ($old:expr, $new:expr, $mask:expr) => {
        for lane in 0..LANES {
            if $mask >> lane & 1 == 1 {
                $old[lane] = $new[lane];
            }
        }
    };
}

impl Warp {
    pub(crate) fn new(kernel: &Kernel) -> Self {
        Warp {
            index: 0,
            r32: vec![[0; LANES]; kernel.registers32],
            r64: vec![[0; LANES]; kernel.registers64],
            preds: vec![0; kernel.predicates],
            set32: vec![0; kernel.registers32],
            set64: vec![0; kernel.registers64],
            set_preds: vec![0; kernel.predicates],
            carry: 0,
            set_carry: 0,
            pc: [0; LANES],
            alive: 0,
            blocked: 0,
            wait: [Wait::None; LANES],
            local: vec![0; kernel.local_bytes * LANES],
            set_local: vec![false; kernel.local_bytes * LANES],
            clocks: None,
            pending: Vec::new(),
            groups: [0; LANES],
            instructions: 0,
            last_first: false,
            polled: false,
        }
    }

    /// Makes it warp `index` of a block, with the lanes `alive`.
    pub(crate) fn start(&mut self, index: u32, alive: u32, races: bool) {
        self.index = index;
        self.set32.fill(0);
        self.set64.fill(0);
        self.set_preds.fill(0);
        self.preds[TRUE as usize] = u32::MAX;
        self.set_preds[TRUE as usize] = u32::MAX;
        self.set_carry = 0;
        self.pc = [0; LANES];
        self.alive = alive;
        self.blocked = 0;
        self.wait = [Wait::None; LANES];
        self.set_local.fill(false);
        self.clocks = races.then(|| Box::new(LaneClocks::new()));
        self.pending.clear();
        self.groups = [0; LANES];
        self.instructions = 0;
        self.last_first = false;
        self.polled = false;
    }

    pub(crate) fn runnable(&self) -> u32 {
        self.alive & !self.blocked
    }

    /// The lanes to run next: their address, the lanes, and the least address of the others behind it.
    pub(crate) fn select(
        &mut self,
        independent: bool,
        random: &mut Random,
    ) -> Option<(u32, u32, u32)> {
        let runnable = self.runnable();
        if runnable == 0 {
            return None;
        }
        let lanes = || (0..LANES).filter(|lane| runnable >> lane & 1 == 1);
        if independent {
            let first = random.bit(runnable);
            let pc = self.pc[first as usize];
            let mates = lanes()
                .filter(|&l| self.pc[l] == pc)
                .fold(0, |m, l| m | 1 << l);
            // Half of the time with all lanes at the address, otherwise with any subset.
            let some = if random.below(2) == 0 {
                u32::MAX
            } else {
                random.next() as u32
            };
            return Some((pc, mates & some | 1 << first, u32::MAX));
        }
        let pcs = || lanes().map(|lane| self.pc[lane]);
        let pc = if self.last_first {
            pcs().max()
        } else {
            pcs().min()
        }?;
        let group = lanes()
            .filter(|&l| self.pc[l] == pc)
            .fold(0, |m, l| m | 1 << l);
        let limit = pcs().filter(|&other| other > pc).min().unwrap_or(u32::MAX);
        Some((pc, group, limit))
    }

    /// Lanes of `mask` continue at an address.
    pub(crate) fn set_pc(&mut self, mask: u32, pc: u32) {
        for lane in 0..LANES {
            if mask >> lane & 1 == 1 {
                self.pc[lane] = pc;
            }
        }
    }

    /// Lanes of `mask` wait.
    pub(crate) fn block(&mut self, mask: u32, pc: u32, wait: impl Fn(usize) -> Wait) {
        self.set_pc(mask, pc);
        self.blocked |= mask;
        for lane in 0..LANES {
            if mask >> lane & 1 == 1 {
                self.wait[lane] = wait(lane);
            }
        }
    }

    /// Lanes of `mask`, which waited, continue after their instruction.
    pub(crate) fn release(&mut self, mask: u32) {
        self.blocked &= !mask;
        for lane in 0..LANES {
            if mask >> lane & 1 == 1 {
                self.wait[lane] = Wait::None;
                self.pc[lane] += 1;
            }
        }
    }

    /// A value of 32 bits and the lanes in which it was set.
    #[inline]
    pub(crate) fn get32<'w>(&'w self, kernel: &'w Kernel, s: Src) -> (&'w Lanes32, u32) {
        match s {
            Src::R32(n) => (&self.r32[n as usize], self.set32[n as usize]),
            Src::Const(n) => (&kernel.constants32[n as usize], u32::MAX),
            // `decode` refuses these.
            Src::R64(_) => (&self.r32[0], 0),
        }
    }

    /// A value as 64 bits, zero-extended.
    #[inline]
    pub(crate) fn get64(&self, kernel: &Kernel, s: Src) -> (Lanes64, u32) {
        match s {
            Src::R32(n) => {
                let mut wide = [0; LANES];
                for (wide, narrow) in wide.iter_mut().zip(&self.r32[n as usize]) {
                    *wide = u64::from(*narrow);
                }
                (wide, self.set32[n as usize])
            }
            Src::R64(n) => (self.r64[n as usize], self.set64[n as usize]),
            Src::Const(n) => (kernel.constants64[n as usize], u32::MAX),
        }
    }

    #[inline]
    pub(crate) fn put32(&mut self, d: u32, mask: u32, value: &Lanes32, set: u32) {
        let register = &mut self.r32[d as usize];
        if mask == u32::MAX {
            *register = *value;
        } else {
            blend!(register, value, mask);
        }
        let flags = &mut self.set32[d as usize];
        *flags = *flags & !mask | set & mask;
    }

    #[inline]
    pub(crate) fn put64(&mut self, d: Dst, mask: u32, value: &Lanes64, set: u32) {
        match d {
            Dst::None => {}
            Dst::R32(n) => {
                let mut narrow = [0; LANES];
                for (narrow, wide) in narrow.iter_mut().zip(value) {
                    *narrow = *wide as u32;
                }
                self.put32(n, mask, &narrow, set);
            }
            Dst::R64(n) => {
                let register = &mut self.r64[n as usize];
                if mask == u32::MAX {
                    *register = *value;
                } else {
                    blend!(register, value, mask);
                }
                let flags = &mut self.set64[n as usize];
                *flags = *flags & !mask | set & mask;
            }
        }
    }

    /// Lanes in which a predicate is true, and in which it was set.
    #[inline]
    pub(crate) fn get_pred(&self, p: Pred) -> (u32, u32) {
        let value = self.preds[p.index as usize];
        (
            if p.negate { !value } else { value },
            self.set_preds[p.index as usize],
        )
    }

    #[inline]
    pub(crate) fn put_pred(&mut self, d: u32, mask: u32, value: u32, set: u32) {
        let d = d as usize;
        self.preds[d] = self.preds[d] & !mask | value & mask;
        self.set_preds[d] = self.set_preds[d] & !mask | set & mask;
    }
}
