//! Executes one instruction for the lanes of a warp that are at it.

use crate::access::{mask_of, space_of};
use crate::arith;
use crate::block::Shared;
use crate::convert;
use crate::fault::FaultKind;
use crate::float;
use crate::module::{Dst, LANES, Lanes64, Logic, Op, Pred, SINK, Src, TRUE, Type};
use crate::run::Machine;
use crate::warp::Warp;

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

impl Machine<'_> {
    /// Where a register was not set in some of the lanes.
    pub(crate) fn unset<T>(&self, s: Src, missing: u32) -> Step<T> {
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
                    out[lane] = convert::convert(*op, a[lane]);
                }
                warp.put64(*d, active, &out, set);
            }
            Op::ConvertPair { op, d, s } => {
                let (a, ia) = warp.get64(kernel, s[0]);
                let (b, ib) = warp.get64(kernel, s[1]);
                let mut out = [0; LANES];
                for lane in lanes(active) {
                    let high = convert::convert(*op, a[lane]) & 0xffff;
                    out[lane] = high << 16 | convert::convert(*op, b[lane]) & 0xffff;
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
    with: Pred,
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
