//! Loads, stores and atomics: addresses, checks, and the spaces behind them.

use crate::block::Shared;
use crate::execute::{Step, Trouble, lanes, trouble};
use crate::fault::{FaultKind, Space};
use crate::module::{
    Address, Atomic, LANES, LOCAL_BASE, Lanes64, Load, PARAM_BASE, SHARED_BASE, Store, Type,
    Update, WINDOW,
};
use crate::race::Kind;
use crate::run::Machine;
use crate::warp::Warp;

pub(crate) fn mask_of(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// The updated value of an atomic operation or reduction.
pub(crate) fn updated(update: Update, ty: Type, old: u64, b: u64, c: u64) -> u64 {
    let bits = ty.bits();
    let mask = mask_of(bits);
    let (old, b) = (old & mask, b & mask);
    let key = |v: u64| {
        if ty.signed() {
            i128::from((v << (64 - bits)) as i64 >> (64 - bits))
        } else {
            v.into()
        }
    };
    let new = match update {
        Update::Add => match ty {
            Type::F(32) => {
                let sum = f32::from_bits(old as u32) + f32::from_bits(b as u32);
                u64::from(if sum.is_nan() {
                    0x7fff_ffff
                } else {
                    sum.to_bits()
                })
            }
            Type::F(_) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
            _ => old.wrapping_add(b),
        },
        Update::Min => {
            if key(b) < key(old) {
                b
            } else {
                old
            }
        }
        Update::Max => {
            if key(b) > key(old) {
                b
            } else {
                old
            }
        }
        Update::And => old & b,
        Update::Or => old | b,
        Update::Xor => old ^ b,
        Update::Exchange => b,
        Update::Compare => {
            if old == b {
                c
            } else {
                old
            }
        }
        Update::Increment => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        Update::Decrement => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    };
    new & mask
}

impl Machine<'_> {
    /// Addresses of an access in each lane.
    pub(crate) fn addresses(&self, warp: &Warp, address: &Address, active: u32) -> Step<Lanes64> {
        let Some(base) = address.base else {
            return Ok([address.offset; LANES]);
        };
        let mut at = self.need(warp, base, active)?;
        for at in &mut at {
            *at = at.wrapping_add(address.offset);
        }
        Ok(at)
    }

    pub(crate) fn load(
        &mut self,
        load: &Load,
        pc: u32,
        active: u32,
        warp: &mut Warp,
        shared: &mut Shared,
    ) -> Step<()> {
        let at = self.addresses(warp, &load.address, active)?;
        let total = load.bytes * load.count;
        warp.polled |= load.strong;
        let mut out = [[0u64; LANES]; 4];
        let mut set = active;
        let shift = 64 - 8 * load.bytes as u32;
        for lane in lanes(active) {
            let place = self.place(load.address.space, at[lane], total, lane)?;
            self.count_bytes(place.0, total);
            for (i, out) in out.iter_mut().enumerate().take(load.count) {
                let offset = place.1 + (i * load.bytes) as u64;
                let value = self.read((place.0, offset), load.bytes, lane, warp, shared)?;
                let Some(value) = value else {
                    set &= !(1 << lane);
                    continue;
                };
                out[lane] = if load.signed {
                    ((value << shift) as i64 >> shift) as u64
                } else {
                    value
                };
            }
            if self.races {
                self.race(
                    place,
                    total,
                    pc,
                    lane,
                    Kind::Read,
                    load.strong,
                    warp,
                    shared,
                )?;
            }
        }
        for (d, out) in load.d.iter().zip(&out).take(load.count) {
            warp.put64(*d, active, out, set);
        }
        Ok(())
    }

    pub(crate) fn store(
        &mut self,
        store: &Store,
        pc: u32,
        active: u32,
        warp: &mut Warp,
        shared: &mut Shared,
    ) -> Step<()> {
        let at = self.addresses(warp, &store.address, active)?;
        let total = store.bytes * store.count;
        let mut values = [[0u64; LANES]; 4];
        let mut set = u32::MAX;
        for (s, value) in store.s.iter().zip(&mut values).take(store.count) {
            let (lanes, is) = warp.get64(self.kernel, *s);
            let missing = active & !is;
            if missing != 0
                && self
                    .place(
                        store.address.space,
                        at[missing.trailing_zeros() as usize],
                        1,
                        0,
                    )?
                    .0
                    != Space::Local
            {
                return self.unset(*s, missing);
            }
            set &= is;
            *value = lanes;
        }
        let start = self.first_lane(active);
        for lane in lanes(active & (u32::MAX << start)).chain(lanes(active & !(u32::MAX << start)))
        {
            let place = self.place(store.address.space, at[lane], total, lane)?;
            self.count_bytes(place.0, total);
            let mut same = true;
            for (i, value) in values.iter().enumerate().take(store.count) {
                let offset = place.1 + (i * store.bytes) as u64;
                let value = value[lane] & mask_of(8 * store.bytes as u32);
                if self.races {
                    same &= self.peek((place.0, offset), store.bytes, shared) == Some(value);
                }
                let set = set >> lane & 1 == 1;
                self.write(
                    (place.0, offset),
                    store.bytes,
                    value,
                    set,
                    lane,
                    warp,
                    shared,
                )?;
            }
            if self.races {
                let kind = if same { Kind::Rewrite } else { Kind::Write };
                self.race(place, total, pc, lane, kind, store.strong, warp, shared)?;
            }
        }
        Ok(())
    }

    pub(crate) fn atomic(
        &mut self,
        atomic: &Atomic,
        pc: u32,
        active: u32,
        warp: &mut Warp,
        shared: &mut Shared,
    ) -> Step<()> {
        let at = self.addresses(warp, &atomic.address, active)?;
        let b = self.need(warp, atomic.s[0], active)?;
        let c = self.need(warp, atomic.s[1], active)?;
        let bytes = atomic.ty.bytes();
        warp.polled = true;
        let mut out = [0; LANES];
        let start = self.first_lane(active);
        for lane in lanes(active & (u32::MAX << start)).chain(lanes(active & !(u32::MAX << start)))
        {
            let place = self.place(atomic.address.space, at[lane], bytes, lane)?;
            self.count_bytes(place.0, 2 * bytes);
            let old = self.read(place, bytes, lane, warp, shared)?.unwrap_or(0);
            let new = updated(atomic.update, atomic.ty, old, b[lane], c[lane]);
            self.write(place, bytes, new, true, lane, warp, shared)?;
            out[lane] = old;
            if self.races {
                self.race(place, bytes, pc, lane, Kind::Write, true, warp, shared)?;
            }
        }
        warp.put64(atomic.d, active, &out, u32::MAX);
        Ok(())
    }

    /// The lane whose write comes first.
    fn first_lane(&mut self, active: u32) -> u32 {
        if self.seed == 0 || active == 0 {
            0
        } else {
            self.random.bit(active)
        }
    }

    /// The space and address in it of an aligned access.
    pub(crate) fn place(
        &self,
        space: Space,
        address: u64,
        bytes: usize,
        lane: usize,
    ) -> Step<(Space, u64)> {
        let place = match space {
            Space::Generic => space_of(address),
            // Parameters of functions are local; their windows tell.
            Space::Param => match space_of(address) {
                (Space::Param, offset) => (Space::Param, offset),
                _ => (Space::Local, address),
            },
            _ => (space, address),
        };
        if !place.1.is_multiple_of(bytes as u64) {
            let kind = FaultKind::Misaligned {
                space: place.0,
                address: place.1,
                bytes,
            };
            return trouble(1 << lane, kind);
        }
        Ok(place)
    }

    pub(crate) fn count_bytes(&mut self, space: Space, bytes: usize) {
        match space {
            Space::Global => self.global_bytes += bytes as u64,
            Space::Shared => self.shared_bytes += bytes as u64,
            _ => {}
        }
    }

    /// A number from memory; `None` where local memory was never written.
    #[inline]
    pub(crate) fn read(
        &mut self,
        (space, address): (Space, u64),
        bytes: usize,
        lane: usize,
        warp: &Warp,
        shared: &Shared,
    ) -> Step<Option<u64>> {
        let fail = |kind| {
            Err(Box::new(Trouble {
                lane: lane as u32,
                kind,
            }))
        };
        let outside = || {
            fail(FaultKind::OutOfBounds {
                space,
                address,
                bytes,
            })
        };
        let unset = || {
            fail(FaultKind::UninitialisedMemory {
                space,
                address,
                bytes,
            })
        };
        let range = slice_range(address, bytes);
        match space {
            Space::Global | Space::Generic => match self.device.read(address, bytes) {
                None => outside(),
                Some(_) if !self.device.initialised(address, bytes) => unset(),
                value => Ok(value),
            },
            Space::Shared => {
                let (Some(data), Some(set)) =
                    (shared.bytes.get(range.clone()), shared.set.get(range))
                else {
                    return outside();
                };
                self.pending(address, bytes, lane, shared)?;
                if set.contains(&false) {
                    return unset();
                }
                Ok(Some(number(data)))
            }
            Space::Local => {
                let size = self.kernel.local_bytes;
                if range.end > size {
                    return outside();
                }
                let range = range.start + lane * size..range.end + lane * size;
                if warp.set_local[range.clone()].contains(&false) {
                    return Ok(None);
                }
                Ok(Some(number(&warp.local[range])))
            }
            Space::Param => match self.params.get(range) {
                Some(data) => Ok(Some(number(data))),
                None => outside(),
            },
        }
    }

    /// What memory holds, to compare it.
    fn peek(
        &mut self,
        (space, address): (Space, u64),
        bytes: usize,
        shared: &Shared,
    ) -> Option<u64> {
        match space {
            Space::Global => self.device.read(address, bytes),
            Space::Shared => {
                let range = slice_range(address, bytes);
                if shared.set.get(range.clone())?.contains(&false) {
                    return None;
                }
                shared.bytes.get(range).map(number)
            }
            _ => None,
        }
    }

    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub(crate) fn write(
        &mut self,
        (space, address): (Space, u64),
        bytes: usize,
        value: u64,
        set: bool,
        lane: usize,
        warp: &mut Warp,
        shared: &mut Shared,
    ) -> Step<()> {
        let fail = |kind| {
            Err(Box::new(Trouble {
                lane: lane as u32,
                kind,
            }))
        };
        let outside = || {
            fail(FaultKind::OutOfBounds {
                space,
                address,
                bytes,
            })
        };
        let range = slice_range(address, bytes);
        let data = &value.to_le_bytes()[..bytes];
        match space {
            Space::Global | Space::Generic => match self.device.write(address, bytes, value) {
                Some(()) => Ok(()),
                None => outside(),
            },
            Space::Shared => {
                let Some(target) = shared.bytes.get_mut(range.clone()) else {
                    return outside();
                };
                target.copy_from_slice(data);
                shared.set[range].fill(true);
                self.pending(address, bytes, lane, shared)
            }
            Space::Local => {
                let size = self.kernel.local_bytes;
                if range.end > size {
                    return outside();
                }
                let range = range.start + lane * size..range.end + lane * size;
                warp.local[range.clone()].copy_from_slice(data);
                warp.set_local[range].fill(set);
                Ok(())
            }
            Space::Param => fail(FaultKind::ReadOnly { space, address }),
        }
    }
}

/// The space of a generic address, and the address in it.
pub(crate) fn space_of(address: u64) -> (Space, u64) {
    let offset = address & WINDOW;
    match address & !WINDOW {
        SHARED_BASE => (Space::Shared, offset),
        LOCAL_BASE => (Space::Local, offset),
        PARAM_BASE => (Space::Param, offset),
        _ => (Space::Global, address),
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut value = [0; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(value)
}

/// The bytes of an access; past the end of everything for an absurd address.
pub(crate) fn slice_range(address: u64, bytes: usize) -> std::ops::Range<usize> {
    let start = address.min(1 << 40) as usize;
    start..start + bytes
}
