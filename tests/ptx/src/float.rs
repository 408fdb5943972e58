//! Floating-point operations of 16, 32 and 64 bits in all rounding modes.
//!
//! Numbers are taken apart into integers, computed exactly (with a sticky last bit), and rounded once. The common
//! operations, which round to nearest, use the CPU's arithmetic instead (`fast`), which is IEEE as well.

use crate::convert::convert_float;
use crate::module::{FloatKind, FloatOp, Mode};

/// Any NaN that an operation on `f32` results in.
pub(crate) const NAN32: u32 = 0x7fff_ffff;
/// Bits of a number's mantissa after `unpack`, without the leading one.
const TOP: u32 = 52;

/// A finite number is `mantissa * 2^exponent`; its leading bit is bit 52.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Nan,
    Infinite {
        negative: bool,
    },
    Zero {
        negative: bool,
    },
    Finite {
        negative: bool,
        exponent: i32,
        mantissa: u128,
    },
}

/// Explicit mantissa bits and the exponent bias.
fn format(bits: u32) -> (u32, i32) {
    match bits {
        16 => (10, 15),
        32 => (23, 127),
        _ => (52, 1023),
    }
}

pub(crate) fn nan(bits: u32) -> u64 {
    match bits {
        16 => 0x7fff,
        32 => u64::from(NAN32),
        _ => 0xfff8_0000_0000_0000,
    }
}

pub(crate) fn infinity(bits: u32, negative: bool) -> u64 {
    let (mantissa, bias) = format(bits);
    (2 * bias as u64 + 1) << mantissa | u64::from(negative) << (bits - 1)
}

pub(crate) fn zero(bits: u32, negative: bool) -> u64 {
    u64::from(negative) << (bits - 1)
}

pub(crate) fn unpack(value: u64, bits: u32, ftz: bool) -> Number {
    let (width, bias) = format(bits);
    let negative = value >> (bits - 1) & 1 == 1;
    let fraction = value & ((1 << width) - 1);
    let exponent = (value >> width) as i32 & (2 * bias + 1);
    if exponent == 2 * bias + 1 {
        return if fraction == 0 {
            Number::Infinite { negative }
        } else {
            Number::Nan
        };
    }
    let mantissa = if exponent == 0 {
        fraction
    } else {
        fraction | 1 << width
    };
    if mantissa == 0 || (ftz && exponent == 0) {
        return Number::Zero { negative };
    }
    let shift = TOP - mantissa.ilog2();
    Number::Finite {
        negative,
        exponent: exponent.max(1) - bias - width as i32 - shift as i32,
        mantissa: u128::from(mantissa) << shift,
    }
}

/// Whether a magnitude is rounded up, from its last bit and its remainder compared with a half.
fn rounds_up(mode: Mode, negative: bool, odd: bool, rest: u128, half: u128) -> bool {
    match mode {
        Mode::Nearest => rest > half || (rest == half && odd),
        Mode::Zero => false,
        Mode::Down => negative && rest != 0,
        Mode::Up => !negative && rest != 0,
    }
}

/// `mantissa >> shift`, rounded; the lowest bit may be sticky.
pub(crate) fn shift_round(mantissa: u128, shift: u32, mode: Mode, negative: bool) -> u128 {
    match shift {
        0 => mantissa,
        1..=127 => {
            let kept = mantissa >> shift;
            let rest = mantissa & ((1 << shift) - 1);
            let up = rounds_up(mode, negative, kept & 1 == 1, rest, 1 << (shift - 1));
            kept + u128::from(up)
        }
        // Less than a quarter of the last bit.
        _ => u128::from(rounds_up(mode, negative, false, 1, 2)),
    }
}

/// The number of `bits` nearest in the mode's direction.
pub(crate) fn pack(
    negative: bool,
    exponent: i32,
    mantissa: u128,
    bits: u32,
    mode: Mode,
    ftz: bool,
) -> u64 {
    if mantissa == 0 {
        return zero(bits, negative);
    }
    let (width, bias) = format(bits);
    let least = 1 - bias - width as i32;
    let last = (mantissa.ilog2() as i32 + exponent - width as i32).max(least);
    let shift = last - exponent;
    let rounded = if shift > 0 {
        shift_round(mantissa, shift as u32, mode, negative)
    } else {
        mantissa << -shift
    };
    // The leading one adds 1 to the exponent field, and so does a carry of the rounding.
    let value = ((last - least) as u64) << width;
    let value = value + rounded as u64;
    let largest = infinity(bits, false);
    if value >= largest {
        let to_infinity = match mode {
            Mode::Nearest => true,
            Mode::Zero => false,
            Mode::Down => negative,
            Mode::Up => !negative,
        };
        return (largest - u64::from(!to_infinity)) | zero(bits, negative);
    }
    if ftz && value < 1 << width {
        return zero(bits, negative);
    }
    value | zero(bits, negative)
}

/// `a * b + c`.
fn fused(a: Number, b: Number, c: Number, bits: u32, mode: Mode, ftz: bool) -> u64 {
    use Number::{Finite, Infinite, Nan, Zero};
    let sign = |n: Number| match n {
        Nan => false,
        Infinite { negative } | Zero { negative } | Finite { negative, .. } => negative,
    };
    let negative = sign(a) != sign(b);
    match (a, b, c) {
        (Nan, _, _)
        | (_, Nan, _)
        | (_, _, Nan)
        | (Infinite { .. }, Zero { .. }, _)
        | (Zero { .. }, Infinite { .. }, _) => nan(bits),
        (Infinite { .. }, _, Infinite { negative: n })
        | (_, Infinite { .. }, Infinite { negative: n })
            if n != negative =>
        {
            nan(bits)
        }
        (Infinite { .. }, _, _) | (_, Infinite { .. }, _) => infinity(bits, negative),
        (_, _, Infinite { negative }) => infinity(bits, negative),
        (Zero { .. }, _, Zero { negative: n }) | (_, Zero { .. }, Zero { negative: n }) => {
            zero(bits, if n == negative { n } else { mode == Mode::Down })
        }
        (
            Zero { .. },
            _,
            Finite {
                negative,
                exponent,
                mantissa,
            },
        )
        | (
            _,
            Zero { .. },
            Finite {
                negative,
                exponent,
                mantissa,
            },
        ) => pack(negative, exponent, mantissa, bits, mode, ftz),
        (
            Finite {
                exponent: ea,
                mantissa: ma,
                ..
            },
            Finite {
                exponent: eb,
                mantissa: mb,
                ..
            },
            c,
        ) => {
            let (exponent, product) = (ea + eb, ma * mb);
            let Finite {
                negative: nc,
                exponent: ec,
                mantissa: mc,
            } = c
            else {
                return pack(negative, exponent, product, bits, mode, ftz);
            };
            // Both with the leading bit at 125 or 124, then the smaller one shifted down.
            let (exponent, product) = (exponent - 20, product << 20);
            let (ec, mc) = (ec - 72, mc << 72);
            let align = |mantissa: u128, by: i32| {
                if by <= 0 {
                    mantissa
                } else if by > 127 {
                    1
                } else {
                    mantissa >> by | u128::from(mantissa & ((1 << by) - 1) != 0)
                }
            };
            let base = exponent.max(ec);
            let (p, q) = (align(product, base - exponent), align(mc, base - ec));
            let (n, sum) = if negative == nc {
                (negative, p + q)
            } else if p == q {
                return zero(bits, mode == Mode::Down);
            } else {
                (if p > q { negative } else { nc }, p.abs_diff(q))
            };
            pack(n, base, sum, bits, mode, ftz)
        }
    }
}

fn quotient(a: Number, b: Number, bits: u32, mode: Mode, ftz: bool) -> u64 {
    use Number::{Finite, Infinite, Nan, Zero};
    match (a, b) {
        (Nan, _) | (_, Nan) => nan(bits),
        (Infinite { .. }, Infinite { .. }) | (Zero { .. }, Zero { .. }) => nan(bits),
        (Infinite { negative: m }, Zero { negative: n } | Finite { negative: n, .. })
        | (Finite { negative: m, .. }, Zero { negative: n }) => infinity(bits, m != n),
        (Zero { negative: m }, Infinite { negative: n } | Finite { negative: n, .. })
        | (Finite { negative: m, .. }, Infinite { negative: n }) => zero(bits, m != n),
        (
            Finite {
                negative: m,
                exponent: ea,
                mantissa: ma,
            },
            Finite {
                negative: n,
                exponent: eb,
                mantissa: mb,
            },
        ) => {
            let dividend = ma << 74;
            let sticky = u128::from(dividend % mb != 0);
            pack(
                m != n,
                ea - eb - 74,
                (dividend / mb) | sticky,
                bits,
                mode,
                ftz,
            )
        }
    }
}

fn square_root(a: Number, bits: u32, mode: Mode, ftz: bool) -> u64 {
    match a {
        Number::Zero { negative } => zero(bits, negative),
        Number::Infinite { negative: false } => infinity(bits, false),
        Number::Finite {
            negative: false,
            exponent,
            mantissa,
        } => {
            let shift = if exponent % 2 == 0 { 72 } else { 73 };
            let square = mantissa << shift;
            let root = square.isqrt();
            let sticky = u128::from(root * root != square);
            // One more bit below for the sticky one.
            pack(
                false,
                (exponent - shift) / 2 - 1,
                root << 1 | sticky,
                bits,
                mode,
                ftz,
            )
        }
        _ => nan(bits),
    }
}

/// `min` or `max`; `-0 < +0`, and a NaN loses against a number unless `keep_nan`.
fn extreme(a: u64, b: u64, bits: u32, larger: bool, keep_nan: bool) -> u64 {
    let is_nan = |v: u64| matches!(unpack(v, bits, false), Number::Nan);
    match (is_nan(a), is_nan(b)) {
        (true, true) => return nan(bits),
        (true, false) => return if keep_nan { nan(bits) } else { b },
        (false, true) => return if keep_nan { nan(bits) } else { a },
        (false, false) => {}
    }
    // Two's complement order.
    let key = |v: u64| {
        let magnitude = (v & ((1 << (bits - 1)) - 1)) as i64;
        if v >> (bits - 1) & 1 == 1 {
            -1 - magnitude
        } else {
            magnitude
        }
    };
    if (key(a) > key(b)) == larger { a } else { b }
}

/// A number as `f64`, exactly.
fn value(n: u64, bits: u32) -> f64 {
    match bits {
        16 => f64::from_bits(convert_float(n, 16, 64, Mode::Nearest, false)),
        32 => f64::from(f32::from_bits(n as u32)),
        _ => f64::from_bits(n),
    }
}

/// Between 0 and 1; NaN is 0.
pub(crate) fn saturate(n: u64, bits: u32) -> u64 {
    let v = value(n, bits);
    if v.is_nan() || v <= 0.0 {
        0
    } else if v >= 1.0 {
        let (width, bias) = format(bits);
        (bias as u64) << width
    } else {
        n
    }
}

/// Computes a number of `op.bits` bits.
pub(crate) fn compute(op: FloatOp, a: u64, b: u64, c: u64) -> u64 {
    if op.packed {
        let half = FloatOp {
            packed: false,
            ..op
        };
        let low = compute(half, a & 0xffff, b & 0xffff, c & 0xffff);
        return low | compute(half, a >> 16 & 0xffff, b >> 16 & 0xffff, c >> 16 & 0xffff) << 16;
    }
    let FloatOp {
        bits, mode, ftz, ..
    } = op;
    let flush = |v: u64| {
        let (width, bias) = format(bits);
        let subnormal = (v >> width) & (2 * bias as u64 + 1) == 0;
        if ftz && subnormal {
            v & 1 << (bits - 1)
        } else {
            v
        }
    };
    let sign = 1u64 << (bits - 1);
    let (ua, ub, uc) = (
        unpack(a, bits, ftz),
        unpack(b, bits, ftz),
        unpack(c, bits, ftz),
    );
    let one = Number::Finite {
        negative: false,
        exponent: -(TOP as i32),
        mantissa: 1 << TOP,
    };
    let from_value =
        |v: f64| convert_float(v.to_bits(), 64, bits, Mode::Nearest, ftz && bits == 32);
    let negated = |n: Number| match n {
        Number::Nan => Number::Nan,
        Number::Infinite { negative } => Number::Infinite {
            negative: !negative,
        },
        Number::Zero { negative } => Number::Zero {
            negative: !negative,
        },
        Number::Finite {
            negative,
            exponent,
            mantissa,
        } => Number::Finite {
            negative: !negative,
            exponent,
            mantissa,
        },
    };
    let result = match op.kind {
        FloatKind::Add => fused(ua, one, ub, bits, mode, ftz),
        FloatKind::Sub => fused(ua, one, negated(ub), bits, mode, ftz),
        // Adding a zero of the product's sign changes nothing.
        FloatKind::Mul => fused(
            ua,
            ub,
            Number::Zero {
                negative: (a ^ b) & sign != 0,
            },
            bits,
            mode,
            ftz,
        ),
        FloatKind::Fma => fused(ua, ub, uc, bits, mode, ftz),
        FloatKind::Div => quotient(ua, ub, bits, mode, ftz),
        FloatKind::Reciprocal => quotient(one, ua, bits, mode, ftz),
        FloatKind::Sqrt => square_root(ua, bits, mode, ftz),
        FloatKind::Min => extreme(flush(a), flush(b), bits, false, false),
        FloatKind::Max => extreme(flush(a), flush(b), bits, true, false),
        FloatKind::MinNan => extreme(flush(a), flush(b), bits, false, true),
        FloatKind::MaxNan => extreme(flush(a), flush(b), bits, true, true),
        FloatKind::Neg => flush(a) ^ sign,
        FloatKind::Abs => flush(a) & !sign,
        FloatKind::Exp2 => from_value(value(flush(a), bits).exp2()),
        FloatKind::Log2 => from_value(value(flush(a), bits).log2()),
        FloatKind::Sin => from_value(value(flush(a), bits).sin()),
        FloatKind::Cos => from_value(value(flush(a), bits).cos()),
        FloatKind::Tanh => from_value(value(flush(a), bits).tanh()),
        FloatKind::InverseSqrt => from_value(1.0 / value(flush(a), bits).sqrt()),
        FloatKind::CoarseReciprocal => coarse(1.0 / f64::from_bits(flush_double(a))),
        FloatKind::CoarseInverseSqrt => coarse(1.0 / f64::from_bits(flush_double(a)).sqrt()),
    };
    if op.sat {
        saturate(result, bits)
    } else {
        result
    }
}

fn flush_double(n: u64) -> u64 {
    if n >> 52 & 0x7ff == 0 { n & 1 << 63 } else { n }
}

/// The upper half of a number, as hardware approximates it; the lower is 0.
fn coarse(v: f64) -> u64 {
    let bits = if v.is_nan() {
        nan(64)
    } else {
        flush_double(v.to_bits())
    };
    bits & 0xffff_ffff_0000_0000
}

#[cfg(test)]
#[path = "float_tests.rs"]
mod tests;
