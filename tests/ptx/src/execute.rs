//! Executes one instruction for the lanes of a warp that are at it.

use crate::arith;
use crate::block::Shared;
use crate::fault::{FaultKind, Space};
use crate::float;
use crate::module::{
    Address, Atomic, Copy, Dst, LANES, LOCAL_BASE, Lanes64, Load, Logic, Op, PARAM_BASE,
    SHARED_BASE, SINK, Src, Store, TRUE, Type, Update, VARIABLE_BASE, WINDOW,
};
use crate::race::Kind;
use crate::run::Machine;
use crate::warp::{Pending, Warp};

/// A fault of a lane.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) lane: u32,
    pub(crate) kind: FaultKind,
}

pub(crate) type Step<T> = Result<T, Box<Trouble>>;

/// A fault of the lowest lane of a mask.
pub(crate) fn trouble<T>(mask: u32, kind: FaultKind) -> Step<T> {
    Err(Box::new(Trouble {
        lane: mask.trailing_zeros(),
        kind,
    }))
}

/// The lanes of a mask, lowest first.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        (rest != 0).then(|| {
            let lane = rest.trailing_zeros();
            rest &= rest - 1;
            lane as usize
        })
    })
}

fn mask_of(bits: u32) -> u64 {
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
    /// Where a register was not set in some of the lanes.
    fn unset<T>(&self, s: Src, missing: u32) -> Step<T> {
        let names = &self.kernel.names;
        let register = match s {
            Src::R32(n) => names[0][n as usize].clone(),
            Src::R64(n) => names[1][n as usize].clone(),
            Src::Const(_) => String::new(),
        };
        trouble(missing, FaultKind::UninitialisedRegister { register })
    }

    pub(crate) fn unset_pred<T>(&self, p: u32, missing: u32) -> Step<T> {
        let register = self.kernel.names[2][p as usize].clone();
        trouble(missing, FaultKind::UninitialisedRegister { register })
    }

    /// A value that must be set.
    pub(crate) fn need(&self, warp: &Warp, s: Src, active: u32) -> Step<Lanes64> {
        let (value, set) = warp.get64(self.kernel, s);
        if active & !set != 0 {
            self.unset(s, active & !set)
        } else {
            Ok(value)
        }
    }

    /// Executes an operation without control flow.
    #[inline]
    pub(crate) fn execute(
        &mut self,
        op: &Op,
        pc: u32,
        active: u32,
        warp: &mut Warp,
        shared: &mut Shared,
    ) -> Step<()> {
        let kernel = self.kernel;
        match op {
            Op::Narrow { f, d, s } => {
                let (a, ia) = warp.get32(kernel, s[0]);
                let (b, ib) = warp.get32(kernel, s[1]);
                let (c, ic) = warp.get32(kernel, s[2]);
                let mut out = [0; LANES];
                f(&mut out, a, b, c);
                warp.put32(*d, active, &out, ia & ib & ic);
            }
            Op::Wide { f, d, s } => {
                let (a, ia) = warp.get64(kernel, s[0]);
                let (b, ib) = warp.get64(kernel, s[1]);
                let (c, ic) = warp.get64(kernel, s[2]);
                let mut out = [0; LANES];
                f(&mut out, &a, &b, &c);
                warp.put64(*d, active, &out, ia & ib & ic);
            }
            Op::Compare32 {
                f,
                s,
                logic,
                with,
                d,
                not_d,
            } => {
                let (a, ia) = warp.get32(kernel, s[0]);
                let (b, ib) = warp.get32(kernel, s[1]);
                let result = f(a, b);
                compared(warp, active, result, ia & ib, *logic, *with, *d, *not_d);
            }
            Op::Compare64 {
                f,
                s,
                logic,
                with,
                d,
                not_d,
            } => {
                let (a, ia) = warp.get64(kernel, s[0]);
                let (b, ib) = warp.get64(kernel, s[1]);
                let result = f(&a, &b);
                compared(warp, active, result, ia & ib, *logic, *with, *d, *not_d);
            }
            Op::Lookup { table, d, s } => {
                let (a, ia) = warp.get32(kernel, s[0]);
                let (b, ib) = warp.get32(kernel, s[1]);
                let (c, ic) = warp.get32(kernel, s[2]);
                let mut out = [0; LANES];
                for (i, out) in out.iter_mut().enumerate() {
                    *out = arith::lookup(a[i], b[i], c[i], *table);
                }
                warp.put32(*d, active, &out, ia & ib & ic);
            }
            Op::Select { d, s, p } => {
                let (p, ip) = warp.get_pred(*p);
                if let Dst::R32(d) = d {
                    let (a, ia) = warp.get32(kernel, s[0]);
                    let (b, ib) = warp.get32(kernel, s[1]);
                    let mut out = [0; LANES];
                    for i in 0..LANES {
                        out[i] = if p >> i & 1 == 1 { a[i] } else { b[i] };
                    }
                    warp.put32(*d, active, &out, ip & (p & ia | !p & ib));
                } else {
                    let (a, ia) = warp.get64(kernel, s[0]);
                    let (b, ib) = warp.get64(kernel, s[1]);
                    let mut out = [0; LANES];
                    for i in 0..LANES {
                        out[i] = if p >> i & 1 == 1 { a[i] } else { b[i] };
                    }
                    warp.put64(*d, active, &out, ip & (p & ia | !p & ib));
                }
            }
            Op::Predicate { logic, d, a, b } => {
                let (a, ia) = warp.get_pred(*a);
                let (b, ib) = warp.get_pred(*b);
                let (value, set) = combine(*logic, a, ia, b, ib);
                warp.put_pred(*d, active, value, set);
            }
            Op::Carry {
                kind,
                ty,
                takes,
                gives,
                d,
                s,
            } => {
                self.carry(warp, active, *kind, *ty, *takes, *gives, *d, s);
            }
            Op::Divide {
                ty,
                remainder,
                d,
                s,
            } => {
                let (a, ia) = warp.get64(kernel, s[0]);
                let (b, ib) = warp.get64(kernel, s[1]);
                let mut out = [0; LANES];
                for lane in lanes(active & ia & ib) {
                    match arith::divide(a[lane], b[lane], *ty, *remainder) {
                        Some(value) => out[lane] = value,
                        None => return trouble(1 << lane, FaultKind::DivisionByZero),
                    }
                }
                warp.put64(*d, active, &out, ia & ib);
            }
            Op::Float { op, d, s } => {
                let (a, ia) = warp.get64(kernel, s[0]);
                let (b, ib) = warp.get64(kernel, s[1]);
                let (c, ic) = warp.get64(kernel, s[2]);
                let mut out = [0; LANES];
                for lane in lanes(active) {
                    out[lane] = float::compute(*op, a[lane], b[lane], c[lane]);
                }
                warp.put64(*d, active, &out, ia & ib & ic);
            }
            Op::Convert { op, d, s } => {
                let (a, set) = warp.get64(kernel, *s);
                let mut out = [0; LANES];
                for lane in lanes(active) {
                    out[lane] = float::convert(*op, a[lane]);
                }
                warp.put64(*d, active, &out, set);
            }
            Op::ConvertPair { op, d, s } => {
                let (a, ia) = warp.get64(kernel, s[0]);
                let (b, ib) = warp.get64(kernel, s[1]);
                let mut out = [0; LANES];
                for lane in lanes(active) {
                    let high = float::convert(*op, a[lane]) & 0xffff;
                    out[lane] = high << 16 | float::convert(*op, b[lane]) & 0xffff;
                }
                warp.put64(*d, active, &out, ia & ib);
            }
            Op::Pack { d, s, count, bits } => {
                let mut out = [0; LANES];
                let mut set = u32::MAX;
                for (i, s) in s.iter().enumerate().take(*count as usize) {
                    let (part, is) = warp.get64(kernel, *s);
                    set &= is;
                    for (out, part) in out.iter_mut().zip(&part) {
                        *out |= (part & mask_of(*bits)) << (i as u32 * bits);
                    }
                }
                warp.put64(*d, active, &out, set);
            }
            Op::Unpack { d, s, count, bits } => {
                let (a, set) = warp.get64(kernel, *s);
                for (i, d) in d.iter().enumerate().take(*count as usize) {
                    let mut out = [0; LANES];
                    for (out, a) in out.iter_mut().zip(&a) {
                        *out = a >> (i as u32 * bits) & mask_of(*bits);
                    }
                    warp.put64(*d, active, &out, set);
                }
            }
            Op::IsSpace { space, d, s } => {
                let (a, set) = warp.get64(kernel, *s);
                let value =
                    lanes(active).fold(0, |m, l| m | u32::from(space_of(a[l]).0 == *space) << l);
                warp.put_pred(*d, active, value, set);
            }
            Op::ActiveMask { d } => warp.put32(*d, active, &[active; LANES], u32::MAX),
            Op::Load(load) => self.load(load, pc, active, warp, shared)?,
            Op::Store(store) => self.store(store, pc, active, warp, shared)?,
            Op::Atomic(atomic) => self.atomic(atomic, pc, active, warp, shared)?,
            Op::Copy(copy) => self.copy(copy, pc, active, warp, shared)?,
            Op::CommitGroup => {
                for pending in &mut warp.pending {
                    if pending.group.is_none() && active >> pending.lane & 1 == 1 {
                        pending.group = Some(warp.groups[pending.lane as usize]);
                    }
                }
                for lane in lanes(active) {
                    warp.groups[lane] += 1;
                }
            }
            Op::WaitGroup(groups) => self.wait_group(*groups, active, warp, shared)?,
            Op::Trap => {
                if active != 0 {
                    return trouble(active, FaultKind::Trap);
                }
            }
            // `run_warp` handles control flow.
            Op::Sync(_) | Op::Barrier(_) | Op::Jump { .. } | Op::JumpIndexed { .. } => {}
            Op::Exit | Op::Nop => {}
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn carry(
        &mut self,
        warp: &mut Warp,
        active: u32,
        kind: u8,
        ty: Type,
        takes: bool,
        gives: bool,
        d: Dst,
        s: &[Src; 3],
    ) {
        let (a, ia) = warp.get64(self.kernel, s[0]);
        let (b, ib) = warp.get64(self.kernel, s[1]);
        let (c, ic) = warp.get64(self.kernel, s[2]);
        let bits = ty.bits();
        let mask = u128::from(mask_of(bits));
        let signed = ty.signed();
        let (mut out, mut flags) = ([0; LANES], 0);
        for lane in lanes(active) {
            let carry = u128::from(takes && warp.carry >> lane & 1 == 1);
            let (x, y) = (u128::from(a[lane]) & mask, u128::from(b[lane]) & mask);
            let product = || {
                let extend = |v: u128| (v << (128 - bits)) as i128 >> (128 - bits);
                let p = if signed {
                    (extend(x) * extend(y)) as u128
                } else {
                    x * y
                };
                if kind == 2 {
                    p & mask
                } else {
                    p >> bits & mask
                }
            };
            let z = u128::from(c[lane]) & mask;
            let sum = match kind {
                0 => x + y + carry,
                // The flag is the borrow.
                1 => x.wrapping_sub(y).wrapping_sub(carry),
                _ => product() + z + carry,
            };
            out[lane] = (sum & mask) as u64;
            flags |= u32::from(sum >> bits & 1 == 1) << lane;
        }
        let set = ia & ib & ic & if takes { warp.set_carry } else { u32::MAX };
        if gives {
            warp.carry = warp.carry & !active | flags;
            warp.set_carry = warp.set_carry & !active | set & active;
        }
        warp.put64(d, active, &out, set);
    }

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

    fn load(
        &mut self,
        load: &Load,
        pc: u32,
        active: u32,
        warp: &mut Warp,
        shared: &mut Shared,
    ) -> Step<()> {
        let at = self.addresses(warp, &load.address, active)?;
        let total = load.bytes * load.count;
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

    fn store(
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

    fn atomic(
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

    fn count_bytes(&mut self, space: Space, bytes: usize) {
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

    fn copy(
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

/// The space of a generic address, and the address in it.
fn space_of(address: u64) -> (Space, u64) {
    let offset = address & WINDOW;
    match address & !WINDOW {
        SHARED_BASE => (Space::Shared, offset),
        LOCAL_BASE => (Space::Local, offset),
        PARAM_BASE => (Space::Param, offset),
        VARIABLE_BASE => (Space::Global, address),
        _ => (Space::Global, address),
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut value = [0; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(value)
}

/// The bytes of an access; past the end of everything for an absurd address.
fn slice_range(address: u64, bytes: usize) -> std::ops::Range<usize> {
    let start = address.min(1 << 40) as usize;
    start..start + bytes
}

/// Combines predicates; a value that decides the result alone hides that the other was never set.
fn combine(logic: Logic, a: u32, ia: u32, b: u32, ib: u32) -> (u32, u32) {
    match logic {
        Logic::And => (a & b, ia & ib | ia & !a | ib & !b),
        Logic::Or => (a | b, ia & ib | ia & a | ib & b),
        Logic::Xor => (a ^ b, ia & ib),
    }
}

#[allow(clippy::too_many_arguments)]
#[inline]
fn compared(
    warp: &mut Warp,
    active: u32,
    result: u32,
    set: u32,
    logic: Logic,
    with: crate::module::Pred,
    d: u32,
    not_d: u32,
) {
    if with.index == TRUE && !with.negate && logic == Logic::And {
        warp.put_pred(d, active, result, set);
        if not_d != SINK {
            warp.put_pred(not_d, active, !result, set);
        }
        return;
    }
    let (c, ic) = warp.get_pred(with);
    let (value, is) = combine(logic, result, set, c, ic);
    let (other, is_other) = combine(logic, !result, set, c, ic);
    warp.put_pred(d, active, value, is);
    if not_d != SINK {
        warp.put_pred(not_d, active, other, is_other);
    }
}
