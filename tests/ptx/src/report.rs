//! Races, pending copies, and where faults are.

use crate::block::Shared;
use crate::execute::{Step, Trouble, trouble};
use crate::fault::{Fault, FaultKind, Place, Space};
use crate::module::LANES;
use crate::race::{Access, Kind};
use crate::run::Machine;
use crate::warp::Warp;

impl Machine<'_> {
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

    pub(crate) fn place_at(&self, shared: &Shared, thread: u32, pc: u32) -> Place {
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

    pub(crate) fn located(
        &self,
        trouble: &Trouble,
        pc: u32,
        warp: &Warp,
        shared: &Shared,
    ) -> Box<Fault> {
        let thread = warp.index * LANES as u32 + trouble.lane;
        self.fault(self.place_at(shared, thread, pc), trouble.kind.clone())
    }
}
