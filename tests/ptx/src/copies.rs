//! `cp.async`: copies from global to shared memory that arrive at the wait.

use crate::access::slice_range;
use crate::block::Shared;
use crate::execute::{Step, lanes, trouble};
use crate::fault::{FaultKind, Space};
use crate::module::{Copy, LANES};
use crate::race::Kind;
use crate::run::Machine;
use crate::warp::{Pending, Warp};

impl Machine<'_> {
    pub(crate) fn copy(
        &mut self,
        copy: &Copy,
        pc: u32,
        active: u32,
        warp: &mut Warp,
        shared: &mut Shared,
    ) -> Step<()> {
        let to = self.addresses(warp, &copy.to, active)?;
        let from = self.addresses(warp, &copy.from, active)?;
        let read = match copy.read {
            Some(s) => self.need(warp, s, active)?,
            None => [copy.bytes as u64; LANES],
        };
        let (ignore, set) = warp.get_pred(copy.ignore);
        if active & !set != 0 {
            return self.unset_pred(copy.ignore.index, active & !set);
        }
        for lane in lanes(active) {
            let ignored = copy.has_ignore && ignore >> lane & 1 == 1;
            let read = if ignored {
                0
            } else {
                (read[lane] as usize).min(copy.bytes)
            };
            let (_, target) = self.place(Space::Shared, to[lane], copy.bytes, lane)?;
            self.place(Space::Global, from[lane], copy.bytes, lane)?;
            if slice_range(target, copy.bytes).end > shared.bytes.len() {
                let (space, bytes) = (Space::Shared, copy.bytes);
                return trouble(
                    1 << lane,
                    FaultKind::OutOfBounds {
                        space,
                        address: target,
                        bytes,
                    },
                );
            }
            self.count_bytes(Space::Global, read);
            self.count_bytes(Space::Shared, copy.bytes);
            let mut pending = Pending {
                lane: lane as u32,
                pc,
                to: target,
                from: from[lane],
                bytes: copy.bytes,
                read,
                group: None,
                early: None,
            };
            // A copy reads its source now or at the wait; both are allowed.
            let bytes = self.source(&pending, warp, shared)?;
            if self.seed != 0 && self.random.below(2) == 0 {
                pending.early = Some(bytes);
            }
            if self.races {
                let place = (Space::Global, from[lane]);
                if read > 0 {
                    self.race(place, read, pc, lane, Kind::Read, false, warp, shared)?;
                }
            }
            shared.pending.push((
                target,
                copy.bytes,
                warp.index * LANES as u32 + lane as u32,
                pc,
            ));
            warp.pending.push(pending);
        }
        Ok(())
    }

    fn source(&mut self, pending: &Pending, warp: &Warp, shared: &Shared) -> Step<[u8; 16]> {
        let mut bytes = [0; 16];
        for (i, byte) in bytes.iter_mut().enumerate().take(pending.read) {
            let place = (Space::Global, pending.from + i as u64);
            let value = self.read(place, 1, pending.lane as usize, warp, shared)?;
            *byte = value.unwrap_or(0) as u8;
        }
        Ok(bytes)
    }

    /// Completes copies of the lanes `active`, except those of the last `groups` groups.
    pub(crate) fn wait_group(
        &mut self,
        groups: Option<u32>,
        active: u32,
        warp: &mut Warp,
        shared: &mut Shared,
    ) -> Step<()> {
        let all = std::mem::take(&mut warp.pending);
        for pending in all {
            let lane = pending.lane as usize;
            let due = active >> lane & 1 == 1
                && match (groups, pending.group) {
                    (None, _) => true,
                    (Some(left), Some(group)) => group + left < warp.groups[lane],
                    (Some(_), None) => false,
                };
            if !due {
                warp.pending.push(pending);
                continue;
            }
            let bytes = match pending.early {
                Some(bytes) => bytes,
                None => self.source(&pending, warp, shared)?,
            };
            let thread = warp.index * LANES as u32 + pending.lane;
            let mine = (pending.to, pending.bytes, thread, pending.pc);
            if let Some(at) = shared.pending.iter().position(|other| *other == mine) {
                shared.pending.swap_remove(at);
            }
            let range = slice_range(pending.to, pending.bytes);
            shared.bytes[range.clone()].copy_from_slice(&bytes[..pending.bytes]);
            shared.set[range].fill(true);
            if self.races {
                let place = (Space::Shared, pending.to);
                self.race(
                    place,
                    pending.bytes,
                    pending.pc,
                    lane,
                    Kind::Write,
                    false,
                    warp,
                    shared,
                )?;
            }
        }
        Ok(())
    }
}
