//! Integer and bit operations, each as a function over the lanes of a warp.
//!
//! Every function is total, because it also runs on the values of inactive lanes.

use crate::module::{Compare32, Compare64, Narrow, Type, Wide};

/// A function over lanes from one over values: `op!(Narrow, u32, u16, |a, b, c| …)` computes in `u16`.
macro_rules! op {
    ($kind:ty, $lane:ty, $u:ty, |$a:pat_param, $b:pat_param, $c:pat_param| $e:expr) => {
        (|o, a, b, c| {
            for i in 0..o.len() {
                let ($a, $b, $c) = (a[i] as $u, b[i] as $u, c[i] as $u);
                #[allow(clippy::unnecessary_cast)]
                let value = ($e) as $u as $lane;
                o[i] = value;
            }
        }) as $kind
    };
}

/// A comparison over lanes from one over values.
macro_rules! compare {
    ($kind:ty, $t:ty, |$a:ident, $b:ident| $e:expr) => {
        (|a, b| {
            let mut mask = 0u32;
            for i in 0..a.len() {
                let ($a, $b) = (a[i] as $t, b[i] as $t);
                mask |= u32::from($e) << i;
            }
            mask
        }) as $kind
    };
}

/// `bfe`: bits of `a` from `position` on, extended.
fn extract(a: u64, position: u64, length: u64, bits: u32, signed: bool) -> u64 {
    let (position, length) = ((position & 0xff) as u32, (length & 0xff) as u32);
    if length == 0 {
        return 0;
    }
    let sign = signed && a >> (position.saturating_add(length - 1)).min(bits - 1) & 1 == 1;
    let low = if position >= bits { 0 } else { a >> position };
    let have = bits.saturating_sub(position).min(length);
    let mask = if have >= 64 {
        u64::MAX
    } else {
        (1 << have) - 1
    };
    if sign { low & mask | !mask } else { low & mask }
}

/// `bfi`: `b` with bits of `a` from `position` on.
fn insert(a: u64, b: u64, position: u64, length: u64, bits: u32) -> u64 {
    let (position, length) = ((position & 0xff) as u32, (length & 0xff) as u32);
    if position >= bits || length == 0 {
        return b;
    }
    let mask = if length >= 64 {
        u64::MAX
    } else {
        (1 << length) - 1
    };
    b & !(mask << position) | (a & mask) << position
}

macro_rules! family {
    ($name:ident, $kind:ty, $lane:ty, $u:ty, $s:ty, $uu:ty, $ss:ty) => {
        fn $name(name: &str, signed: bool) -> Option<$kind> {
            const BITS: u32 = <$u>::BITS;
            Some(match (name, signed) {
                ("mov", _) => op!($kind, $lane, $u, |a, _, _| a),
                ("add", _) => op!($kind, $lane, $u, |a, b, _| a.wrapping_add(b)),
                ("sub", _) => op!($kind, $lane, $u, |a, b, _| a.wrapping_sub(b)),
                ("mul.lo", _) => op!($kind, $lane, $u, |a, b, _| a.wrapping_mul(b)),
                ("mad.lo", _) => {
                    op!($kind, $lane, $u, |a, b, c| a
                        .wrapping_mul(b)
                        .wrapping_add(c))
                }
                ("mul.hi", false) => {
                    op!($kind, $lane, $u, |a, b, _| (a as $uu * b as $uu) >> BITS)
                }
                ("mul.hi", true) => {
                    op!($kind, $lane, $u, |a, b, _| (a as $s as $ss
                        * b as $s as $ss)
                        >> BITS)
                }
                ("mad.hi", false) => op!($kind, $lane, $u, |a, b, c| c
                    .wrapping_add(((a as $uu * b as $uu) >> BITS) as $u)),
                ("mad.hi", true) => op!($kind, $lane, $u, |a, b, c| c
                    .wrapping_add(((a as $s as $ss * b as $s as $ss) >> BITS) as $u)),
                ("add.sat", true) => {
                    op!($kind, $lane, $u, |a, b, _| (a as $s)
                        .saturating_add(b as $s))
                }
                ("sub.sat", true) => {
                    op!($kind, $lane, $u, |a, b, _| (a as $s)
                        .saturating_sub(b as $s))
                }
                ("min", false) => op!($kind, $lane, $u, |a, b, _| a.min(b)),
                ("min", true) => op!($kind, $lane, $u, |a, b, _| (a as $s).min(b as $s)),
                ("max", false) => op!($kind, $lane, $u, |a, b, _| a.max(b)),
                ("max", true) => op!($kind, $lane, $u, |a, b, _| (a as $s).max(b as $s)),
                ("abs", true) => op!($kind, $lane, $u, |a, _, _| (a as $s).wrapping_abs()),
                ("neg", true) => op!($kind, $lane, $u, |a, _, _| (a as $s).wrapping_neg()),
                ("and", _) => op!($kind, $lane, $u, |a, b, _| a & b),
                ("or", _) => op!($kind, $lane, $u, |a, b, _| a | b),
                ("xor", _) => op!($kind, $lane, $u, |a, b, _| a ^ b),
                ("not", _) => op!($kind, $lane, $u, |a, _, _| !a),
                ("cnot", _) => op!($kind, $lane, $u, |a, _, _| a == 0),
                // The shift count is 32 bits wide, whatever the type.
                ("shl", _) => op!($kind, $lane, $lane, |a, b, _| {
                    if b as u32 >= BITS {
                        0
                    } else {
                        (a as $u) << (b as u32)
                    }
                }),
                ("shr", false) => op!($kind, $lane, $lane, |a, b, _| {
                    if b as u32 >= BITS {
                        0
                    } else {
                        (a as $u) >> (b as u32)
                    }
                }),
                ("shr", true) => op!($kind, $lane, $lane, |a, b, _| {
                    ((a as $s) >> (b as u32).min(BITS - 1)) as $u
                }),
                ("sad", false) => {
                    op!($kind, $lane, $u, |a, b, c| c
                        .wrapping_add(a.max(b).wrapping_sub(a.min(b))))
                }
                ("sad", true) => op!($kind, $lane, $u, |a, b, c| {
                    let (a, b) = (a as $s, b as $s);
                    c.wrapping_add((a.max(b) as $u).wrapping_sub(a.min(b) as $u))
                }),
                ("popc", _) => op!($kind, $lane, $u, |a, _, _| a.count_ones()),
                ("clz", _) => op!($kind, $lane, $u, |a, _, _| a.leading_zeros()),
                ("brev", _) => op!($kind, $lane, $u, |a, _, _| a.reverse_bits()),
                ("bfind", false) => op!($kind, $lane, $u, |a, _, _| {
                    (BITS - 1).wrapping_sub(a.leading_zeros())
                }),
                ("bfind", true) => op!($kind, $lane, $u, |a, _, _| {
                    let a = if (a as $s) < 0 { !a } else { a };
                    (BITS - 1).wrapping_sub(a.leading_zeros())
                }),
                ("bfind.shiftamt", false) => op!($kind, $lane, $u, |a, _, _| {
                    if a == 0 { u32::MAX } else { a.leading_zeros() }
                }),
                ("bfind.shiftamt", true) => op!($kind, $lane, $u, |a, _, _| {
                    let a = if (a as $s) < 0 { !a } else { a };
                    if a == 0 { u32::MAX } else { a.leading_zeros() }
                }),
                ("bfe", false) => op!($kind, $lane, $u, |a, b, c| {
                    extract(a as u64, b as u64, c as u64, BITS, false)
                }),
                ("bfe", true) => op!($kind, $lane, $u, |a, b, c| {
                    extract(a as u64, b as u64, c as u64, BITS, true)
                }),
                _ => return None,
            })
        }
    };
}

family!(narrow16, Narrow, u32, u16, i16, u32, i32);
family!(narrow32, Narrow, u32, u32, i32, u64, i64);
family!(wide64, Wide, u64, u64, i64, u128, i128);

/// An operation by width.
pub(crate) enum Function {
    Narrow(Narrow),
    Wide(Wide),
}

/// The operation `name` (`add`, `mul.lo`, …) of integers of `ty`.
pub(crate) fn integer(name: &str, ty: Type) -> Option<Function> {
    let signed = ty.signed();
    match ty.bits() {
        16 => narrow16(name, signed).map(Function::Narrow),
        32 => narrow32(name, signed).map(Function::Narrow),
        64 => wide64(name, signed).map(Function::Wide),
        _ => None,
    }
}

/// `mul.wide` and `mad.wide` of operands of `ty`.
pub(crate) fn widening(ty: Type, adds: bool) -> Option<Function> {
    Some(match (ty, adds) {
        (Type::U(16), false) => Function::Narrow(op!(Narrow, u32, u32, |a, b, _| {
            (a as u16 as u32) * (b as u16 as u32)
        })),
        (Type::S(16), false) => Function::Narrow(op!(Narrow, u32, u32, |a, b, _| {
            (a as i16 as i32) * (b as i16 as i32)
        })),
        (Type::U(16), true) => Function::Narrow(op!(Narrow, u32, u32, |a, b, c| {
            ((a as u16 as u32) * (b as u16 as u32)).wrapping_add(c)
        })),
        (Type::S(16), true) => Function::Narrow(op!(Narrow, u32, u32, |a, b, c| {
            ((a as i16 as i32) * (b as i16 as i32)).wrapping_add(c as i32)
        })),
        (Type::U(32), false) => Function::Wide(op!(Wide, u64, u64, |a, b, _| {
            (a as u32 as u64) * (b as u32 as u64)
        })),
        (Type::S(32), false) => Function::Wide(op!(Wide, u64, u64, |a, b, _| {
            (a as i32 as i64) * (b as i32 as i64)
        })),
        (Type::U(32), true) => Function::Wide(op!(Wide, u64, u64, |a, b, c| {
            ((a as u32 as u64) * (b as u32 as u64)).wrapping_add(c)
        })),
        (Type::S(32), true) => Function::Wide(op!(Wide, u64, u64, |a, b, c| {
            ((a as i32 as i64) * (b as i32 as i64)).wrapping_add(c as i64)
        })),
        _ => return None,
    })
}

/// `shf`: the funnel shift; `b` is the upper word.
pub(crate) fn funnel(left: bool, wrap: bool) -> Narrow {
    fn both(low: u32, high: u32) -> u64 {
        u64::from(high) << 32 | u64::from(low)
    }
    match (left, wrap) {
        (true, true) => op!(Narrow, u32, u32, |a, b, c| (both(a, b) << (c & 31)) >> 32),
        (true, false) => op!(Narrow, u32, u32, |a, b, c| (both(a, b) << c.min(32)) >> 32),
        (false, true) => op!(Narrow, u32, u32, |a, b, c| both(a, b) >> (c & 31)),
        (false, false) => op!(Narrow, u32, u32, |a, b, c| both(a, b) >> c.min(32)),
    }
}

/// Bytes of `b:a` that the selectors in `c` choose; see the table of `prmt`.
fn permute(a: u32, b: u32, select: impl Fn(u32) -> u32) -> u32 {
    let both = u64::from(b) << 32 | u64::from(a);
    (0..4).fold(0, |d, i| {
        let s = select(i);
        let byte = (both >> ((s & 7) * 8)) as u8;
        let byte = if s & 8 != 0 {
            ((byte as i8) >> 7) as u8
        } else {
            byte
        };
        d | u32::from(byte) << (i * 8)
    })
}

/// `prmt` of a mode.
pub(crate) fn permutation(mode: &str) -> Option<Narrow> {
    Some(match mode {
        "" => op!(Narrow, u32, u32, |a, b, c| permute(a, b, |i| c >> (i * 4)
            & 15)),
        "f4e" => op!(Narrow, u32, u32, |a, b, c| permute(a, b, |i| ((c & 3) + i)
            & 7)),
        "b4e" => {
            op!(Narrow, u32, u32, |a, b, c| permute(a, b, |i| (c & 3)
                .wrapping_sub(i)
                & 7))
        }
        "rc8" => op!(Narrow, u32, u32, |a, b, c| permute(a, b, |_| c & 3)),
        "ecl" => op!(Narrow, u32, u32, |a, b, c| permute(a, b, |i| i.max(c & 3))),
        "ecr" => op!(Narrow, u32, u32, |a, b, c| permute(a, b, |i| i.min(c & 3))),
        "rc16" => {
            op!(Narrow, u32, u32, |a, b, c| permute(a, b, |i| (c & 1) * 2
                + (i & 1)))
        }
        _ => return None,
    })
}

/// `dp4a` of bytes by whether they are signed.
pub(crate) fn dot4(signed_a: bool, signed_b: bool) -> Narrow {
    fn dot(a: u32, b: u32, c: u32, signed_a: bool, signed_b: bool) -> u32 {
        let byte = |v: u32, i: u32, signed: bool| {
            let byte = (v >> (i * 8)) as u8;
            if signed {
                i32::from(byte as i8)
            } else {
                i32::from(byte)
            }
        };
        (0..4).fold(c, |sum, i| {
            sum.wrapping_add((byte(a, i, signed_a) * byte(b, i, signed_b)) as u32)
        })
    }
    match (signed_a, signed_b) {
        (false, false) => op!(Narrow, u32, u32, |a, b, c| dot(a, b, c, false, false)),
        (false, true) => op!(Narrow, u32, u32, |a, b, c| dot(a, b, c, false, true)),
        (true, false) => op!(Narrow, u32, u32, |a, b, c| dot(a, b, c, true, false)),
        (true, true) => op!(Narrow, u32, u32, |a, b, c| dot(a, b, c, true, true)),
    }
}

/// The three steps of `lop3`: it is computed as a sum of products, four bits of the table at a time.
pub(crate) fn lookup(a: u32, b: u32, c: u32, table: u32) -> u32 {
    (0..8).filter(|i| table >> i & 1 == 1).fold(0, |d, i| {
        let pick = |v: u32, bit: u32| if i >> bit & 1 == 1 { v } else { !v };
        d | pick(a, 2) & pick(b, 1) & pick(c, 0)
    })
}

/// `bfi`: bits `a` into `b`; position and length are packed by `pack_field`.
pub(crate) fn field_insert(bits: u32) -> Function {
    if bits == 32 {
        Function::Narrow(op!(Narrow, u32, u32, |a, b, c| {
            insert(a as u64, b as u64, c as u64, (c >> 8) as u64, 32)
        }))
    } else {
        Function::Wide(op!(Wide, u64, u64, |a, b, c| insert(a, b, c, c >> 8, 64)))
    }
}

/// Position and length of `bfi` in one number.
pub(crate) fn pack_field() -> Narrow {
    op!(Narrow, u32, u32, |a, b, _| (a & 0xff) | (b & 0xff) << 8)
}

/// Copies bits of any width, sign-extended from `bits` if `signed`.
pub(crate) fn extend(bits: u32, signed: bool) -> Wide {
    match (bits, signed) {
        (8, false) => op!(Wide, u64, u64, |a, _, _| a as u8),
        (8, true) => op!(Wide, u64, u64, |a, _, _| a as i8),
        (16, false) => op!(Wide, u64, u64, |a, _, _| a as u16),
        (16, true) => op!(Wide, u64, u64, |a, _, _| a as i16),
        (32, false) => op!(Wide, u64, u64, |a, _, _| a as u32),
        (32, true) => op!(Wide, u64, u64, |a, _, _| a as i32),
        _ => op!(Wide, u64, u64, |a, _, _| a),
    }
}

/// `copysign`: the sign of `a` on `b`.
pub(crate) fn copy_sign(bits: u32) -> Function {
    if bits == 32 {
        Function::Narrow(op!(Narrow, u32, u32, |a, b, _| a & 1 << 31 | b & !(1 << 31)))
    } else {
        Function::Wide(op!(Wide, u64, u64, |a, b, _| a & 1 << 63 | b & !(1 << 63)))
    }
}

macro_rules! comparisons {
    ($name:ident, $kind:ty, $u:ty, $s:ty) => {
        fn $name(name: &str, signed: bool) -> Option<$kind> {
            Some(match (name, signed) {
                ("eq", _) => compare!($kind, $u, |a, b| a == b),
                ("ne", _) => compare!($kind, $u, |a, b| a != b),
                ("lt" | "lo", false) => compare!($kind, $u, |a, b| a < b),
                ("le" | "ls", false) => compare!($kind, $u, |a, b| a <= b),
                ("gt" | "hi", false) => compare!($kind, $u, |a, b| a > b),
                ("ge" | "hs", false) => compare!($kind, $u, |a, b| a >= b),
                ("lt", true) => compare!($kind, $s, |a, b| a < b),
                ("le", true) => compare!($kind, $s, |a, b| a <= b),
                ("gt", true) => compare!($kind, $s, |a, b| a > b),
                ("ge", true) => compare!($kind, $s, |a, b| a >= b),
                _ => return None,
            })
        }
    };
}

comparisons!(compare16, Compare32, u16, i16);
comparisons!(compare32, Compare32, u32, i32);
comparisons!(compare64, Compare64, u64, i64);

/// A comparison by width.
pub(crate) enum Comparison {
    Narrow(Compare32),
    Wide(Compare64),
}

/// The comparison `name` of integers of `ty`.
pub(crate) fn comparison(name: &str, ty: Type) -> Option<Comparison> {
    match ty.bits() {
        16 => compare16(name, ty.signed()).map(Comparison::Narrow),
        32 => compare32(name, ty.signed()).map(Comparison::Narrow),
        64 => compare64(name, ty.signed()).map(Comparison::Wide),
        _ => None,
    }
}

/// `div` and `rem`; `None` for a divisor of 0.
pub(crate) fn divide(a: u64, b: u64, ty: Type, remainder: bool) -> Option<u64> {
    let bits = ty.bits();
    let value = if ty.signed() {
        let extend = |v: u64| (v << (64 - bits)) as i64 >> (64 - bits);
        let (a, b) = (extend(a), extend(b));
        if b == 0 {
            return None;
        }
        (if remainder {
            a.wrapping_rem(b)
        } else {
            a.wrapping_div(b)
        }) as u64
    } else {
        let mask = u64::MAX >> (64 - bits);
        let (a, b) = (a & mask, b & mask);
        if remainder {
            a.checked_rem(b)?
        } else {
            a.checked_div(b)?
        }
    };
    Some(value & u64::MAX >> (64 - bits))
}
