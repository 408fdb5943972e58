//! Floating-point operations of 16, 32 and 64 bits in all rounding modes, and conversions.
//!
//! Numbers are taken apart into integers, computed exactly (with a sticky last bit), and rounded once. The common
//! operations, which round to nearest, use the CPU's arithmetic instead (`fast`), which is IEEE as well.

use crate::module::{
    Compare32, Compare64, Conversion, FloatKind, FloatOp, Lanes32, Lanes64, Mode, Narrow, Type,
    Wide,
};

/// Any NaN that an operation on `f32` results in.
const NAN32: u32 = 0x7fff_ffff;
/// Bits of a number's mantissa after `unpack`, without the leading one.
const TOP: u32 = 52;

/// A finite number is `mantissa * 2^exponent`; its leading bit is bit 52.
#[derive(Clone, Copy, Debug)]
enum Number {
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

fn nan(bits: u32) -> u64 {
    match bits {
        16 => 0x7fff,
        32 => u64::from(NAN32),
        _ => 0xfff8_0000_0000_0000,
    }
}

fn infinity(bits: u32, negative: bool) -> u64 {
    let (mantissa, bias) = format(bits);
    (2 * bias as u64 + 1) << mantissa | u64::from(negative) << (bits - 1)
}

fn zero(bits: u32, negative: bool) -> u64 {
    u64::from(negative) << (bits - 1)
}

fn unpack(value: u64, bits: u32, ftz: bool) -> Number {
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
fn shift_round(mantissa: u128, shift: u32, mode: Mode, negative: bool) -> u128 {
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
fn pack(negative: bool, exponent: i32, mantissa: u128, bits: u32, mode: Mode, ftz: bool) -> u64 {
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

fn convert_float(n: u64, from: u32, to: u32, mode: Mode, ftz: bool) -> u64 {
    // Flushing concerns single precision.
    match unpack(n, from, ftz && from == 32) {
        Number::Nan => nan(to),
        Number::Infinite { negative } => infinity(to, negative),
        Number::Zero { negative } => zero(to, negative),
        Number::Finite {
            negative,
            exponent,
            mantissa,
        } => pack(negative, exponent, mantissa, to, mode, ftz && to == 32),
    }
}

/// Between 0 and 1; NaN is 0.
fn saturate(n: u64, bits: u32) -> u64 {
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

/// A float to an integer of `bits`, saturated.
fn to_integer(n: u64, from: u32, to: Type, mode: Mode, ftz: bool) -> u64 {
    let (bits, signed) = (to.bits(), to.signed());
    let largest = if signed {
        (1u128 << (bits - 1)) - 1
    } else {
        (1u128 << bits) - 1
    };
    let smallest = if signed { 1u128 << (bits - 1) } else { 0 };
    let (negative, magnitude) = match unpack(n, from, ftz && from == 32) {
        // The ISA: 0, except from or to 64 bits, where it is the highest bit.
        Number::Nan if from == 64 || bits == 64 => return 1 << (bits - 1),
        Number::Nan | Number::Zero { .. } => return 0,
        Number::Infinite { negative } => (negative, u128::MAX),
        Number::Finite {
            negative,
            exponent,
            mantissa,
        } => {
            let magnitude = if exponent >= 64 {
                u128::MAX
            } else if exponent >= 0 {
                mantissa << exponent
            } else {
                shift_round(mantissa, exponent.unsigned_abs(), mode, negative)
            };
            (negative, magnitude)
        }
    };
    let value = if negative {
        (magnitude.min(smallest) as u64).wrapping_neg()
    } else {
        magnitude.min(largest) as u64
    };
    value & u64::MAX >> (64 - bits)
}

fn sign_extend(n: u64, bits: u32) -> i128 {
    i128::from((n << (64 - bits)) as i64 >> (64 - bits))
}

/// Rounds a float to an integer of its own type.
fn integral(n: u64, bits: u32, mode: Mode) -> u64 {
    match unpack(n, bits, false) {
        Number::Nan => nan(bits),
        Number::Finite {
            negative,
            exponent,
            mantissa,
        } if exponent < 0 => {
            let rounded = shift_round(mantissa, exponent.unsigned_abs(), mode, negative);
            pack(negative, 0, rounded, bits, Mode::Nearest, false)
        }
        _ => n,
    }
}

/// Converts; the result is extended to 64 bits by its sign, if it has one.
pub(crate) fn convert(op: Conversion, n: u64) -> u64 {
    let (from, to) = (op.from, op.to);
    let (fb, tb) = (from.bits(), to.bits());
    match (from.float(), to.float()) {
        (true, true) => {
            let n = if op.ftz && fb == 32 && n >> 23 & 0xff == 0 {
                n & 1 << 31
            } else {
                n
            };
            let n = if op.integral {
                integral(n, fb, op.mode)
            } else {
                n
            };
            let result = convert_float(n, fb, tb, op.mode, op.ftz);
            if op.sat { saturate(result, tb) } else { result }
        }
        (true, false) => {
            let n = to_integer(n, fb, to, op.mode, op.ftz);
            if to.signed() {
                sign_extend(n, tb) as u64
            } else {
                n
            }
        }
        (false, true) => {
            let v = widen(n, from);
            let result = pack(v < 0, 0, v.unsigned_abs(), tb, op.mode, false);
            if op.sat { saturate(result, tb) } else { result }
        }
        (false, false) => {
            let v = widen(n, from);
            let v = if op.sat {
                let (least, largest) = if to.signed() {
                    (-(1i128 << (tb - 1)), (1i128 << (tb - 1)) - 1)
                } else {
                    (0, (1i128 << tb) - 1)
                };
                v.clamp(least, largest)
            } else {
                v
            };
            let low = v as u64 & u64::MAX >> (64 - tb);
            if to.signed() {
                sign_extend(low, tb) as u64
            } else {
                low
            }
        }
    }
}

fn widen(n: u64, from: Type) -> i128 {
    let bits = from.bits();
    if from.signed() {
        sign_extend(n, bits)
    } else {
        i128::from(n & u64::MAX >> (64 - bits))
    }
}

fn canonical(v: f32) -> u32 {
    if v.is_nan() { NAN32 } else { v.to_bits() }
}

fn canonical64(v: f64) -> u64 {
    if v.is_nan() { nan(64) } else { v.to_bits() }
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

/// A half as `f32`.
pub(crate) fn widen_half(half: u32) -> u32 {
    let sign = (half & 0x8000) << 16;
    match half >> 10 & 0x1f {
        0x1f if half & 0x3ff != 0 => NAN32,
        0x1f => sign | 0x7f80_0000,
        // The fraction counts units of 2^-24.
        0 => sign | ((half & 0x3ff) as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        e => sign | (e + 112) << 23 | (half & 0x3ff) << 13,
    }
}

/// A number rounded to a half, to nearest.
pub(crate) fn half_from(v: f64) -> u32 {
    convert_float(v.to_bits(), 64, 16, Mode::Nearest, false) as u32
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
pub(crate) fn comparison(name: &str, bits: u32, ftz: bool) -> Option<crate::arith::Comparison> {
    use crate::arith::Comparison;
    match bits {
        16 => compare16(name, ftz).map(Comparison::Narrow),
        32 => compare32(name, ftz).map(Comparison::Narrow),
        64 => compare64(name, ftz).map(Comparison::Wide),
        _ => None,
    }
}

/// `testp`: whether a number is `finite`, `normal` and so on.
pub(crate) fn test(name: &str, bits: u32) -> Option<crate::arith::Comparison> {
    use crate::arith::Comparison;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn op(kind: FloatKind, bits: u32, mode: Mode) -> FloatOp {
        FloatOp {
            kind,
            bits,
            mode,
            ftz: false,
            sat: false,
            packed: false,
        }
    }

    /// Random bits; half of the pairs have exponents close to each other.
    fn numbers(random: &mut Random, bits: u32) -> [u64; 3] {
        let mask = u64::MAX >> (64 - bits);
        let (width, _) = format(bits);
        let a = random.next() & mask;
        let mut near = |n: u64| {
            let other = random.next() & mask;
            if other & 1 == 0 {
                return other;
            }
            let field = (1u64 << (bits - 1 - width)) - 1;
            let exponent = (n >> width & field)
                .wrapping_add(random.below(9))
                .wrapping_sub(4)
                & field;
            other & !(field << width) | exponent << width
        };
        [a, near(a), near(a)]
    }

    #[test]
    fn rounding_to_nearest_agrees_with_the_cpu() {
        let mut random = Random::new(1);
        for _ in 0..300_000 {
            let [a, b, c] = numbers(&mut random, 32);
            let [x, y, z] = [a, b, c].map(|n| f32::from_bits(n as u32));
            let check = |kind, expected: f32| {
                let found = compute(op(kind, 32, Mode::Nearest), a, b, c);
                assert_eq!(
                    found,
                    u64::from(canonical(expected)),
                    "{kind:?} {x:e} {y:e} {z:e}"
                );
            };
            check(FloatKind::Add, x + y);
            check(FloatKind::Sub, x - y);
            check(FloatKind::Mul, x * y);
            check(FloatKind::Div, x / y);
            check(FloatKind::Sqrt, x.sqrt());
            check(FloatKind::Fma, x.mul_add(y, z));
            let [a, b, c] = numbers(&mut random, 64);
            let [x, y, z] = [a, b, c].map(f64::from_bits);
            let check = |kind, expected: f64| {
                let found = compute(op(kind, 64, Mode::Nearest), a, b, c);
                assert_eq!(found, canonical64(expected), "{kind:?} {x:e} {y:e} {z:e}");
            };
            check(FloatKind::Add, x + y);
            check(FloatKind::Sub, x - y);
            check(FloatKind::Mul, x * y);
            check(FloatKind::Div, x / y);
            check(FloatKind::Sqrt, x.sqrt());
            check(FloatKind::Fma, x.mul_add(y, z));
            let narrow = convert_float(a, 64, 32, Mode::Nearest, false);
            assert_eq!(narrow, u64::from(canonical(x as f32)), "{x:e}");
        }
    }

    #[test]
    fn directed_rounding_encloses_the_exact_result() {
        let mut random = Random::new(2);
        for _ in 0..300_000 {
            let [a, b, c] = numbers(&mut random, 32);
            let kinds = [
                FloatKind::Add,
                FloatKind::Mul,
                FloatKind::Div,
                FloatKind::Fma,
                FloatKind::Sqrt,
            ];
            for kind in kinds {
                let by = |mode| f32::from_bits(compute(op(kind, 32, mode), a, b, c) as u32);
                let nearest = by(Mode::Nearest);
                let (down, up, zero) = (by(Mode::Down), by(Mode::Up), by(Mode::Zero));
                if nearest.is_nan() {
                    assert!(down.is_nan() && up.is_nan() && zero.is_nan());
                    continue;
                }
                assert!(
                    down <= nearest && nearest <= up,
                    "{kind:?} {a:x} {b:x} {c:x}"
                );
                assert!(
                    up == down || up == down.next_up(),
                    "{kind:?} {a:x} {b:x} {c:x}"
                );
                // Of the two neighbours, nearest is one, and zero the one with the smaller magnitude.
                assert!(nearest == down || nearest == up);
                assert_eq!(zero.abs(), down.abs().min(up.abs()));
            }
        }
    }

    #[test]
    fn halves_convert_there_and_back() {
        for bits in 0..=0xffffu64 {
            let value = widen_half(bits as u32);
            assert_eq!(
                convert_float(bits, 16, 32, Mode::Nearest, false),
                u64::from(value)
            );
            let back = convert_float(value.into(), 32, 16, Mode::Nearest, false);
            let nan = bits & 0x7fff > 0x7c00;
            assert_eq!(back, if nan { 0x7fff } else { bits });
        }
    }

    #[test]
    fn integers_convert_as_the_cpu_does() {
        let mut random = Random::new(3);
        let conversion = |to, from, mode| Conversion {
            to,
            from,
            mode,
            integral: false,
            ftz: false,
            sat: false,
        };
        for _ in 0..300_000 {
            let n = random.next();
            let n = n >> random.below(64);
            let check = |to: Type, from: Type, expected: u64| {
                let found = convert(conversion(to, from, Mode::Nearest), n);
                assert_eq!(found, expected, "{from:?} {n:x} to {to:?}");
            };
            check(Type::F(32), Type::U(64), (n as f32).to_bits().into());
            check(Type::F(32), Type::S(64), (n as i64 as f32).to_bits().into());
            check(Type::F(64), Type::U(64), (n as f64).to_bits());
            check(Type::F(64), Type::S(64), (n as i64 as f64).to_bits());
            check(Type::F(32), Type::S(32), (n as i32 as f32).to_bits().into());
            let zero = |to, from, n| convert(conversion(to, from, Mode::Zero), n);
            let bits = random.next();
            let single = f32::from_bits(bits as u32);
            if !single.is_nan() {
                let bits = bits & 0xffff_ffff;
                assert_eq!(
                    zero(Type::S(32), Type::F(32), bits),
                    single as i32 as i64 as u64
                );
                assert_eq!(
                    zero(Type::U(32), Type::F(32), bits),
                    u64::from(single as u32)
                );
                assert_eq!(zero(Type::U(64), Type::F(32), bits), single as u64);
                assert_eq!(zero(Type::S(64), Type::F(32), bits), single as i64 as u64);
            }
        }
    }

    #[test]
    fn fast_forms_agree_with_exact_ones() {
        let mut random = Random::new(4);
        let kinds = [
            FloatKind::Add,
            FloatKind::Sub,
            FloatKind::Mul,
            FloatKind::Div,
            FloatKind::Sqrt,
            FloatKind::Reciprocal,
            FloatKind::Fma,
            FloatKind::Neg,
            FloatKind::Abs,
            FloatKind::Min,
            FloatKind::Max,
        ];
        let special = [
            0u32,
            1 << 31,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            1,
            0x3f80_0000,
        ];
        for round in 0..20_000 {
            let mut lanes = [[0u32; 32]; 3];
            for lane in lanes.iter_mut().flatten() {
                *lane = random.next() as u32;
                if round % 2 == 0 {
                    *lane = special[random.below(7) as usize];
                }
            }
            for kind in kinds {
                let op = op(kind, 32, Mode::Nearest);
                let mut out = [0; 32];
                fast32(op).expect("a fast form")(&mut out, &lanes[0], &lanes[1], &lanes[2]);
                for i in 0..32 {
                    let [a, b, c] = [0, 1, 2].map(|at: usize| u64::from(lanes[at][i]));
                    // Equal zeros of both signs are ordered by both forms.
                    assert_eq!(
                        u64::from(out[i]),
                        compute(op, a, b, c),
                        "{kind:?} {a:x} {b:x}"
                    );
                }
            }
        }
    }
}
