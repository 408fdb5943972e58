//! `.sync` instructions of a warp, once all lanes of the mask are there.

use crate::access::updated;
use crate::block::Shared;
use crate::execute::{Step, lanes, trouble};
use crate::fault::{FaultKind, Space};
use crate::mma;
use crate::module::{
    Collective, Dst, LANES, Lanes32, Lanes64, Op, SINK, Shuffle, Sync, Type, Vote,
};
use crate::race::Kind;
use crate::run::Machine;
use crate::warp::Warp;

impl Machine<'_> {
    /// Executes it for groups of lanes, each at its own program counter; together they are `mask` without exited
    /// lanes.
    pub(crate) fn collective(
        &mut self,
        parts: &[(u32, u32)],
        mask: u32,
        warp: &mut Warp,
        shared: &mut Shared,
    ) -> Step<()> {
        let kernel = self.kernel;
        let sync_at = |pc: u32| match &kernel.code[pc as usize].op {
            Op::Sync(sync) => Some(&**sync),
            _ => None,
        };
        let all = parts.iter().fold(0, |all, part| all | part.1);
        let Some(sync) = sync_at(parts[0].0) else {
            return Ok(());
        };
        for part in &parts[1..] {
            if sync_at(part.0).is_none_or(|other| other.collective != sync.collective) {
                let lane = parts[0].1.trailing_zeros() as usize;
                let other = Box::new(self.place_of(shared, warp, lane));
                return trouble(part.1, FaultKind::SyncMismatch { other });
            }
        }
        // Only `bar.warp.sync` orders accesses to memory; the others make lanes wait and no more.
        if let (Collective::Barrier, Some(clocks)) = (&sync.collective, &mut warp.clocks) {
            clocks.join(all);
        }
        // An operand of all lanes, each from its own instruction, and where it was set.
        let gather = |warp: &Warp, at: usize| -> (Lanes64, u32) {
            let (mut value, mut set) = ([0; LANES], 0);
            for &(pc, members) in parts {
                let Some(s) = sync_at(pc).and_then(|sync| sync.s.get(at)) else {
                    continue;
                };
                let (part, is) = warp.get64(kernel, *s);
                for lane in lanes(members) {
                    value[lane] = part[lane];
                }
                set |= is & members;
            }
            (value, set)
        };
        let needed = |this: &Self, warp: &Warp, at: usize| -> Step<Lanes64> {
            for &(pc, members) in parts {
                if let Some(s) = sync_at(pc).and_then(|sync| sync.s.get(at)) {
                    this.need(warp, *s, members)?;
                }
            }
            Ok(gather(warp, at).0)
        };
        let put = |warp: &mut Warp, at: usize, value: &Lanes64, set: u32| {
            for &(pc, members) in parts {
                if let Some(d) = sync_at(pc).and_then(|sync| sync.d.get(at)) {
                    warp.put64(*d, members, value, set);
                }
            }
        };
        let put_pred = |warp: &mut Warp, value: u32| {
            for &(pc, members) in parts {
                let d = sync_at(pc).map_or(SINK, |sync| sync.d_pred);
                warp.put_pred(d, members, value, u32::MAX);
            }
        };
        match &sync.collective {
            Collective::Barrier => {}
            Collective::Shuffle(kind) => {
                let (value, is) = gather(warp, 0);
                let (b, c) = (needed(self, warp, 1)?, needed(self, warp, 2)?);
                let (mut out, mut set, mut valid) = ([0; LANES], 0u32, 0u32);
                for lane in lanes(all) {
                    let (from, inside) =
                        shuffled(*kind, lane as u32, b[lane] as u32, c[lane] as u32);
                    if all >> from & 1 == 0 {
                        return trouble(1 << lane, FaultKind::AbsentLane { lane: from, mask });
                    }
                    out[lane] = value[from as usize];
                    set |= (is >> from & 1) << lane;
                    valid |= u32::from(inside) << lane;
                }
                put(warp, 0, &out, set);
                put_pred(warp, valid);
            }
            Collective::Vote(vote) => {
                let mut votes = 0;
                for &(pc, members) in parts {
                    let Some(Sync { p, .. }) = sync_at(pc) else {
                        continue;
                    };
                    let (value, set) = warp.get_pred(*p);
                    if members & !set != 0 {
                        return self.unset_pred(p.index, members & !set);
                    }
                    votes |= value & members;
                }
                let holds = match vote {
                    Vote::All => votes == all,
                    Vote::Any => votes != 0,
                    Vote::Uniform => votes == 0 || votes == all,
                    Vote::Ballot => {
                        put(warp, 0, &[u64::from(votes); LANES], u32::MAX);
                        return Ok(());
                    }
                };
                put_pred(warp, if holds { u32::MAX } else { 0 });
            }
            Collective::MatchAny { .. } => {
                let value = needed(self, warp, 0)?;
                let mut out = [0; LANES];
                for lane in lanes(all) {
                    let same = lanes(all).filter(|&l| value[l] == value[lane]);
                    out[lane] = same.fold(0u64, |m, l| m | 1 << l);
                }
                put(warp, 0, &out, u32::MAX);
            }
            Collective::MatchAll { .. } => {
                let value = needed(self, warp, 0)?;
                let first = value[all.trailing_zeros() as usize];
                let same = lanes(all).all(|lane| value[lane] == first);
                put(
                    warp,
                    0,
                    &[if same { u64::from(all) } else { 0 }; LANES],
                    u32::MAX,
                );
                put_pred(warp, if same { u32::MAX } else { 0 });
            }
            Collective::Reduce { update, signed } => {
                let value = needed(self, warp, 0)?;
                let ty = if *signed { Type::S(32) } else { Type::U(32) };
                let total = lanes(all)
                    .map(|lane| value[lane])
                    .reduce(|a, b| updated(*update, ty, a, b, 0))
                    .unwrap_or(0);
                put(warp, 0, &[total; LANES], u32::MAX);
            }
            Collective::Mma { m, n, k, kind } => {
                self.whole(all, mask)?;
                let mut registers = [[0; LANES]; 10];
                for (at, register) in registers.iter_mut().enumerate().take(sync.s.len()) {
                    let value = needed(self, warp, at)?;
                    for (narrow, wide) in register.iter_mut().zip(&value) {
                        *narrow = *wide as u32;
                    }
                }
                let d = mma::multiply((*m, *n, *k), *kind, &registers[..sync.s.len()]);
                for (at, d) in d.iter().enumerate().take(sync.d.len()) {
                    put(warp, at, &wide(d), u32::MAX);
                }
                self.mma += 1;
            }
            Collective::LoadMatrix { count, transpose } => {
                self.whole(all, mask)?;
                let d: Vec<Dst> = sync.d.clone();
                let Some(address) = sync.address else {
                    return Ok(());
                };
                let rows = *count * 8;
                let used = if rows >= LANES {
                    u32::MAX
                } else {
                    (1 << rows) - 1
                };
                let at = self.addresses(warp, &address, used)?;
                for (matrix, d) in d.iter().enumerate() {
                    let mut cells = [[0u64; 8]; 8];
                    for (row, cells) in cells.iter_mut().enumerate() {
                        let lane = matrix * 8 + row;
                        let place = self.place(address.space, at[lane], 16, lane)?;
                        if place.0 != Space::Shared {
                            let kind = FaultKind::OutOfBounds {
                                space: Space::Shared,
                                address: at[lane],
                                bytes: 16,
                            };
                            return trouble(1 << lane, kind);
                        }
                        for (column, cell) in cells.iter_mut().enumerate() {
                            let place = (place.0, place.1 + 2 * column as u64);
                            *cell = self.read(place, 2, lane, warp, shared)?.unwrap_or(0);
                        }
                        self.shared_bytes += 16;
                        if self.races {
                            let pc = parts[0].0;
                            self.race(place, 16, pc, lane, Kind::Read, false, warp, shared)?;
                        }
                    }
                    let mut out = [0; LANES];
                    for (lane, out) in out.iter_mut().enumerate() {
                        let (row, column) = (lane / 4, lane % 4 * 2);
                        *out = if *transpose {
                            cells[column][row] | cells[column + 1][row] << 16
                        } else {
                            cells[row][column] | cells[row][column + 1] << 16
                        };
                    }
                    warp.put64(*d, all, &out, u32::MAX);
                }
            }
        }
        Ok(())
    }

    /// Instructions of a whole warp need all its lanes.
    fn whole(&self, all: u32, mask: u32) -> Step<()> {
        if all == u32::MAX {
            return Ok(());
        }
        trouble(
            all,
            FaultKind::AbsentLane {
                lane: (!all).trailing_zeros(),
                mask,
            },
        )
    }
}

fn wide(narrow: &Lanes32) -> Lanes64 {
    let mut wide = [0; LANES];
    for (wide, narrow) in wide.iter_mut().zip(narrow) {
        *wide = u64::from(*narrow);
    }
    wide
}

/// The lane that `shfl` reads from, and whether it is in the segment; otherwise it is the lane itself.
fn shuffled(kind: Shuffle, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let least = lane & segment;
    let most = least | clamp & !segment;
    let (from, inside) = match kind {
        Shuffle::Up => (
            lane.wrapping_sub(b),
            (lane as i32 - b as i32) >= most as i32,
        ),
        Shuffle::Down => (lane + b, lane + b <= most),
        Shuffle::Butterfly => (lane ^ b, lane ^ b <= most),
        Shuffle::Index => (least | b & !segment, (least | b & !segment) <= most),
    };
    if inside { (from, true) } else { (lane, false) }
}
