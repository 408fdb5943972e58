//! Floating-point operations by the CPU's own arithmetic, over the lanes of a warp: those that round to nearest,
//! common conversions, and comparisons.

use crate::arith::Comparison;
use crate::convert::widen_half;
use crate::float::{NAN32, nan};
use crate::module::{
    Compare32, Compare64, Conversion, FloatKind, FloatOp, Lanes32, Lanes64, Mode, Narrow, Type,
    Wide,
};

pub(crate) fn canonical(v: f32) -> u32 {
    // By its bits: as a comparison of floats the compiler may fold it into `v`, because to it all NaNs are alike.
    let bits = v.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        NAN32
    } else {
        bits
    }
}

pub(crate) fn canonical64(v: f64) -> u64 {
    let bits = v.to_bits();
    if bits & (u64::MAX >> 1) > 0x7ff0_0000_0000_0000 {
        nan(64)
    } else {
        bits
    }
}

macro_rules! single {
    (|$a:pat_param, $b:pat_param, $c:pat_param| $e:expr) => {
        (|o: &mut Lanes32, a: &Lanes32, b: &Lanes32, c: &Lanes32| {
            for i in 0..o.len() {
                let ($a, $b, $c) = (
                    f32::from_bits(a[i]),
                    f32::from_bits(b[i]),
                    f32::from_bits(c[i]),
                );
                o[i] = canonical($e);
            }
        }) as Narrow
    };
}

macro_rules! double {
    (|$a:pat_param, $b:pat_param, $c:pat_param| $e:expr) => {
        (|o: &mut Lanes64, a: &Lanes64, b: &Lanes64, c: &Lanes64| {
            for i in 0..o.len() {
                let ($a, $b, $c) = (
                    f64::from_bits(a[i]),
                    f64::from_bits(b[i]),
                    f64::from_bits(c[i]),
                );
                o[i] = canonical64($e);
            }
        }) as Wide
    };
}

/// The CPU's form of an operation on `f32`, if it has one.
pub(crate) fn fast32(op: FloatOp) -> Option<Narrow> {
    if op.bits != 32 || op.mode != Mode::Nearest || op.ftz || op.sat || op.packed {
        return None;
    }
    Some(match op.kind {
        FloatKind::Add => single!(|a, b, _| a + b),
        FloatKind::Sub => single!(|a, b, _| a - b),
        FloatKind::Mul => single!(|a, b, _| a * b),
        FloatKind::Div => single!(|a, b, _| a / b),
        FloatKind::Sqrt => single!(|a, _, _| a.sqrt()),
        FloatKind::Reciprocal => single!(|a, _, _| 1.0 / a),
        FloatKind::Fma => single!(|a, b, c| a.mul_add(b, c)),
        FloatKind::Neg => |o, a, _, _| {
            for i in 0..o.len() {
                o[i] = a[i] ^ 1 << 31;
            }
        },
        FloatKind::Abs => |o, a, _, _| {
            for i in 0..o.len() {
                o[i] = a[i] & !(1 << 31);
            }
        },
        FloatKind::Max => |o, a, b, _| {
            for i in 0..o.len() {
                o[i] = extreme32(a[i], b[i], |x, y| x > y);
            }
        },
        FloatKind::Min => |o, a, b, _| {
            for i in 0..o.len() {
                o[i] = extreme32(a[i], b[i], |x, y| x < y);
            }
        },
        _ => return None,
    })
}

/// `extreme` for `f32`, quicker.
fn extreme32(a: u32, b: u32, first: impl Fn(i32, i32) -> bool) -> u32 {
    let key = |v: u32| (v as i32) ^ (((v as i32) >> 31) as u32 >> 1) as i32;
    let chosen = if first(key(a), key(b)) { a } else { b };
    let (na, nb) = (f32::from_bits(a).is_nan(), f32::from_bits(b).is_nan());
    match (na, nb) {
        (false, false) => chosen,
        (true, false) => b,
        (false, true) => a,
        (true, true) => NAN32,
    }
}

/// The CPU's form of an operation on `f64`, if it has one.
pub(crate) fn fast64(op: FloatOp) -> Option<Wide> {
    if op.bits != 64 || op.mode != Mode::Nearest || op.sat {
        return None;
    }
    Some(match op.kind {
        FloatKind::Add => double!(|a, b, _| a + b),
        FloatKind::Sub => double!(|a, b, _| a - b),
        FloatKind::Mul => double!(|a, b, _| a * b),
        FloatKind::Div => double!(|a, b, _| a / b),
        FloatKind::Sqrt => double!(|a, _, _| a.sqrt()),
        FloatKind::Reciprocal => double!(|a, _, _| 1.0 / a),
        FloatKind::Fma => double!(|a, b, c| a.mul_add(b, c)),
        FloatKind::Neg => |o, a, _, _| {
            for i in 0..o.len() {
                o[i] = a[i] ^ 1 << 63;
            }
        },
        FloatKind::Abs => |o, a, _, _| {
            for i in 0..o.len() {
                o[i] = a[i] & !(1 << 63);
            }
        },
        _ => return None,
    })
}

/// The CPU's form of a conversion, if it has one; the result is zero-extended.
pub(crate) fn fast_conversion(op: Conversion) -> Option<Wide> {
    macro_rules! conversion {
        (|$a:ident| $e:expr) => {
            (|o: &mut Lanes64, a: &Lanes64, _: &Lanes64, _: &Lanes64| {
                for i in 0..o.len() {
                    let $a = a[i];
                    o[i] = $e;
                }
            }) as Wide
        };
    }
    use Type::{F, S, U};
    if op.sat || op.ftz {
        return None;
    }
    let nearest = op.mode == Mode::Nearest && !op.integral;
    let toward_zero = op.mode == Mode::Zero;
    Some(match (op.to, op.from) {
        (F(32), U(32)) if nearest => conversion!(|a| u64::from((a as u32 as f32).to_bits())),
        (F(32), S(32)) if nearest => conversion!(|a| u64::from((a as i32 as f32).to_bits())),
        (F(64), U(32)) => conversion!(|a| f64::from(a as u32).to_bits()),
        (F(64), S(32)) => conversion!(|a| f64::from(a as i32).to_bits()),
        (F(64), F(32)) if !op.integral => {
            conversion!(|a| canonical64(f64::from(f32::from_bits(a as u32))))
        }
        (F(32), F(64)) if nearest => {
            conversion!(|a| u64::from(canonical(f64::from_bits(a) as f32)))
        }
        (F(32), F(16)) if !op.integral => conversion!(|a| u64::from(widen_half(a as u32))),
        (S(32), F(32)) if toward_zero => {
            conversion!(|a| u64::from(f32::from_bits(a as u32) as i32 as u32))
        }
        (U(32), F(32)) if toward_zero => {
            conversion!(|a| u64::from(f32::from_bits(a as u32) as u32))
        }
        _ => return None,
    })
}

macro_rules! float_comparisons {
    ($name:ident, $kind:ty, $lanes:ty, $read:expr) => {
        fn $name(name: &str, ftz: bool) -> Option<$kind> {
            macro_rules! compare {
                (|$a:ident, $b:ident| $e:expr) => {
                    if ftz {
                        (|a: &$lanes, b: &$lanes| {
                            let mut mask = 0u32;
                            for i in 0..a.len() {
                                let ($a, $b) = ($read(a[i], true), $read(b[i], true));
                                mask |= u32::from($e) << i;
                            }
                            mask
                        }) as $kind
                    } else {
                        (|a: &$lanes, b: &$lanes| {
                            let mut mask = 0u32;
                            for i in 0..a.len() {
                                let ($a, $b) = ($read(a[i], false), $read(b[i], false));
                                mask |= u32::from($e) << i;
                            }
                            mask
                        }) as $kind
                    }
                };
            }
            // NaN makes these differ from what Clippy proposes.
            #[allow(
                clippy::neg_cmp_op_on_partial_ord,
                clippy::double_comparisons,
                clippy::nonminimal_bool
            )]
            Some(match name {
                "eq" => compare!(|a, b| a == b),
                "ne" => compare!(|a, b| a < b || a > b),
                "lt" => compare!(|a, b| a < b),
                "le" => compare!(|a, b| a <= b),
                "gt" => compare!(|a, b| a > b),
                "ge" => compare!(|a, b| a >= b),
                "equ" => compare!(|a, b| !(a < b || a > b)),
                "neu" => compare!(|a, b| a != b),
                "ltu" => compare!(|a, b| !(a >= b)),
                "leu" => compare!(|a, b| !(a > b)),
                "gtu" => compare!(|a, b| !(a <= b)),
                "geu" => compare!(|a, b| !(a < b)),
                "num" => compare!(|a, b| !a.is_nan() && !b.is_nan()),
                "nan" => compare!(|a, b| a.is_nan() || b.is_nan()),
                _ => return None,
            })
        }
    };
}

fn read16(bits: u32, _: bool) -> f32 {
    f32::from_bits(widen_half(bits))
}

fn read32(bits: u32, ftz: bool) -> f32 {
    let flush = ftz && bits & 0x7f80_0000 == 0;
    f32::from_bits(if flush { bits & 1 << 31 } else { bits })
}

fn read64(bits: u64, _: bool) -> f64 {
    f64::from_bits(bits)
}

float_comparisons!(compare16, Compare32, Lanes32, read16);
float_comparisons!(compare32, Compare32, Lanes32, read32);
float_comparisons!(compare64, Compare64, Lanes64, read64);

/// The comparison `name` of floats of `bits`.
pub(crate) fn comparison(name: &str, bits: u32, ftz: bool) -> Option<Comparison> {
    match bits {
        16 => compare16(name, ftz).map(Comparison::Narrow),
        32 => compare32(name, ftz).map(Comparison::Narrow),
        64 => compare64(name, ftz).map(Comparison::Wide),
        _ => None,
    }
}

/// `testp`: whether a number is `finite`, `normal` and so on.
pub(crate) fn test(name: &str, bits: u32) -> Option<Comparison> {
    macro_rules! tests {
        ($t:ty, $kind:ty, $lanes:ty, |$v:ident| $e:expr) => {
            (|a: &$lanes, _: &$lanes| {
                (0..a.len()).fold(0, |mask, i| {
                    let $v = <$t>::from_bits(a[i]);
                    mask | u32::from($e) << i
                })
            }) as $kind
        };
    }
    macro_rules! both {
        (|$v:ident| $e:expr) => {
            if bits == 32 {
                Comparison::Narrow(tests!(f32, Compare32, Lanes32, |$v| $e))
            } else {
                Comparison::Wide(tests!(f64, Compare64, Lanes64, |$v| $e))
            }
        };
    }
    Some(match name {
        "finite" => both!(|v| v.is_finite()),
        "infinite" => both!(|v| v.is_infinite()),
        "number" => both!(|v| !v.is_nan()),
        "notanumber" => both!(|v| v.is_nan()),
        "normal" => both!(|v| v.is_normal()),
        "subnormal" => both!(|v| v.is_subnormal()),
        _ => return None,
    })
}
