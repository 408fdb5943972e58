//! The meaning of 8-bit codes, as QuantizeLinear and DequantizeLinear define it: `value = (code - zero) · scale`.

use crate::map::quantize;

/// The greatest code of 4 or 8 bits; the least has the other sign.
pub(crate) fn greatest_code(bits: u8) -> i8 {
    if bits == 4 { 7 } else { i8::MAX }
}

/// Scale and zero point of a map's codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Codes {
    /// Value of a step of 1.
    pub(crate) scale: f32,
    /// Code of the value 0.
    pub(crate) zero: i8,
}

impl Codes {
    /// 1.5 · 2²³. Adding it and taking it away again rounds half to even; a number that is too large for that stays beyond all
    /// codes.
    pub(crate) const ROUND: f32 = 12_582_912.0;

    /// The code of a value: `value / scale` rounded half to even, plus the zero point, in -128..=127; 0 for NaN.
    #[inline]
    pub(crate) fn code(self, value: f32) -> i8 {
        if self.zero == 0 {
            return quantize(value, self.scale);
        }
        let steps = value / self.scale + Self::ROUND - Self::ROUND;
        quantize(steps + f32::from(self.zero), 1.0)
    }

    /// The value of a code.
    #[inline]
    pub(crate) fn value(self, code: i8) -> f32 {
        (f32::from(code) - f32::from(self.zero)) * self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ONNX rounds first and adds the zero point then: with an odd one, halves go the other way than in a sum.
    #[test]
    fn the_zero_point_is_added_after_rounding() {
        for zero in [-128, -21, -1, 1, 40, 127] {
            let codes = Codes { scale: 0.25, zero };
            for half in -2000..2000 {
                let value = half as f32 * 0.125;
                let steps = (f64::from(value) / 0.25).round_ties_even();
                let expected = (steps + f64::from(zero)).clamp(-128.0, 127.0);
                assert_eq!(
                    f64::from(codes.code(value)),
                    expected,
                    "{value} around {zero}"
                );
            }
            for code in i8::MIN..=i8::MAX {
                assert_eq!(codes.code(codes.value(code)), code);
            }
            assert_eq!(codes.value(zero), 0.0);
        }
    }

    #[test]
    fn extremes_saturate_and_nan_is_code_0() {
        for zero in [-128, 1, 127] {
            let codes = Codes { scale: 0.5, zero };
            for large in [1e3, 3e6, 6e6, 1e9, f32::MAX, f32::INFINITY] {
                assert_eq!(codes.code(large), 127, "{large}");
                assert_eq!(codes.code(-large), -128, "{large}");
            }
            assert_eq!(codes.code(f32::NAN), 0);
        }
    }
}
