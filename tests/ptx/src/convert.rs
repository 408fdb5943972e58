//! Conversions between integers and floats, and between floats, in all rounding modes.

use crate::float::{NAN32, Number, infinity, nan, pack, saturate, shift_round, unpack, zero};
use crate::module::{Conversion, Mode, Type};

pub(crate) fn convert_float(n: u64, from: u32, to: u32, mode: Mode, ftz: bool) -> u64 {
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
