//! exp, sin, cos and atan2 of f32 values in f64, by the same operations as `kernels/elementary.cuh`.
//!
//! The functions of C libraries, of CUDA, and of different versions of either differ in last bits. These use only
//! operations that IEEE 754 rounds exactly (no fused ones), so that every CPU and GPU has the same bits. Their errors
//! are far below half a unit in the last place of an f32, to which callers round.

// The order of operations is the kernels': `mul_add` would fuse them.
#![allow(clippy::suboptimal_flops)]

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, FRAC_PI_8, LOG2_E, PI};

/// ln 2 = high + low; the product of the high part with an exponent is exact.
const LN_2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];

/// Added to a small number and subtracted again, it leaves the nearest integer, whose value is in its sum's low bits.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// tan(π/8), and between it and its neighbours 0 and 1 the bounds tan(π/16) and tan(3π/16).
const TAN_PI_8: f64 = 0.414_213_562_373_095_03;
const TAN_PI_16: f64 = 0.198_912_367_379_658;
const TAN_3_PI_16: f64 = 0.668_178_637_919_298_9;

/// 32 zeros, and the first binary digits of 2/π.
const TWO_BY_PI: [u32; 8] = [
    0,
    0xa2f9_836e,
    0x4e44_1529,
    0xfc27_57d1,
    0xf534_ddc0,
    0xdb62_9599,
    0x3c43_9041,
    0xfe51_63ab,
];

/// Value of 2^−62 of a right angle, in radians.
const RIGHT_ANGLE_BY_2_62: f64 = FRAC_PI_2 / (1u64 << 62) as f64;

/// The polynomial with these coefficients, the highest power's first.
fn polynomial<const N: usize>(x: f64, coefficients: [f64; N]) -> f64 {
    let mut sum = 0.0;
    for coefficient in coefficients {
        sum = sum * x + coefficient;
    }
    sum
}

/// The exponential, with a relative error below 2⁻⁵⁰: 0 below e⁻⁷⁰⁸, infinite beyond e⁷⁰⁹; NaN of NaN.
///
/// x = k ln 2 + r with |r| ≤ ln 2 / 2, and the series of e^r up to r¹³.
pub fn exp(x: f32) -> f64 {
    let x = f64::from(x);
    if x > 709.0 {
        return f64::INFINITY;
    }
    if x < -708.0 {
        return 0.0;
    }
    let rounded = x * LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = (x - k * LN_2[0]) - k * LN_2[1];
    let series = polynomial(
        r,
        [
            1.0 / 6_227_020_800.0,
            1.0 / 479_001_600.0,
            1.0 / 39_916_800.0,
            1.0 / 3_628_800.0,
            1.0 / 362_880.0,
            1.0 / 40_320.0,
            1.0 / 5040.0,
            1.0 / 720.0,
            1.0 / 120.0,
            1.0 / 24.0,
            1.0 / 6.0,
            1.0 / 2.0,
            1.0,
            1.0,
        ],
    );
    // The low bits of the sum are k; shifted, they are what k adds to the exponent.
    let power = f64::from_bits((rounded.to_bits() << 52).wrapping_add(1.0f64.to_bits()));
    series * power
}

/// Sine and cosine of an angle in radians, with an error below 2⁻⁵⁰; NaN of what is not finite.
///
/// Beyond π/4 the angle is counted in right angles modulo 4, as a fixed-point number with 62 binary places: the digits of
/// 2/π whose products are multiples of 4 are left out (Payne and Hanek, 1983).
pub fn sin_cos(angle: f32) -> (f64, f64) {
    let bits = angle.to_bits() & 0x7fff_ffff;
    let (turns, r) = if bits < (FRAC_PI_4 as f32).to_bits() {
        (0, f64::from(f32::from_bits(bits)))
    } else {
        let (exponent, mantissa) = (bits >> 23, u64::from((bits & 0x7f_ffff) | 0x80_0000));
        let (word, shift) = ((exponent - 120) / 32, (exponent - 120) % 32);
        let digits = |index: u32| {
            let at = (word + index) as usize % 8;
            let pair = (u64::from(TWO_BY_PI[at]) << 32) | u64::from(TWO_BY_PI[(at + 1) % 8]);
            (pair << shift) >> 32
        };
        let right_angles = ((mantissa * digits(0)) << 32)
            .wrapping_add(mantissa * digits(1))
            .wrapping_add((mantissa * digits(2)) >> 32);
        let turns = right_angles.wrapping_add(1 << 61) >> 62;
        let rest = right_angles.wrapping_sub(turns << 62).cast_signed();
        (turns, rest as f64 * RIGHT_ANGLE_BY_2_62)
    };
    let w = r * r;
    let sin = polynomial(
        w,
        [
            -1.0 / 1_307_674_368_000.0,
            1.0 / 6_227_020_800.0,
            -1.0 / 39_916_800.0,
            1.0 / 362_880.0,
            -1.0 / 5040.0,
            1.0 / 120.0,
            -1.0 / 6.0,
        ],
    );
    let sin = r + r * (w * sin);
    let cos = polynomial(
        w,
        [
            1.0 / 20_922_789_888_000.0,
            -1.0 / 87_178_291_200.0,
            1.0 / 479_001_600.0,
            -1.0 / 3_628_800.0,
            1.0 / 40_320.0,
            -1.0 / 720.0,
            1.0 / 24.0,
            -1.0 / 2.0,
            1.0,
        ],
    );
    if bits >= f32::INFINITY.to_bits() {
        return (f64::NAN, f64::NAN);
    }
    let (sin, cos) = match turns & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    };
    (if angle.is_sign_negative() { -sin } else { sin }, cos)
}

/// The angle of the vector (x, y) in [−π, π], with a relative error below 2⁻⁵⁰; NaN if one is NaN. Signs of zeros count as
/// in IEEE 754.
///
/// The lesser by the greater is t = tan α; with c the nearest of tan 0, tan π/8 and tan π/4, the series of
/// atan((t − c) / (1 + t c)) up to its 21st power.
pub fn atan2(y: f32, x: f32) -> f64 {
    let (a, b) = (f64::from(y.abs()), f64::from(x.abs()));
    let steep = a > b;
    let (least, greatest) = if steep { (b, a) } else { (a, b) };
    let t = if least == greatest {
        // Both may be 0, or infinite.
        if least == 0.0 { 0.0 } else { 1.0 }
    } else {
        least / greatest
    };
    let (c, of_c) = if t < TAN_PI_16 {
        (0.0, 0.0)
    } else if t < TAN_3_PI_16 {
        (TAN_PI_8, FRAC_PI_8)
    } else {
        (1.0, FRAC_PI_4)
    };
    let z = (t - c) / (1.0 + t * c);
    let w = z * z;
    let series = polynomial(
        w,
        [
            1.0 / 21.0,
            -1.0 / 19.0,
            1.0 / 17.0,
            -1.0 / 15.0,
            1.0 / 13.0,
            -1.0 / 11.0,
            1.0 / 9.0,
            -1.0 / 7.0,
            1.0 / 5.0,
            -1.0 / 3.0,
        ],
    );
    let mut angle = of_c + (z + z * (w * series));
    if steep {
        angle = FRAC_PI_2 - angle;
    }
    if x.is_sign_negative() {
        angle = PI - angle;
    }
    if y.is_sign_negative() { -angle } else { angle }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit patterns spread over all f32 values, and the neighbours of those where something changes.
    fn values() -> Vec<f32> {
        let mut values: Vec<f32> = (0..1 << 20)
            .map(|i| f32::from_bits(i * 4093 + 77))
            .collect();
        let special = [
            0.0,
            1e-45,
            1e-38,
            88.7,
            103.9,
            708.0,
            709.0,
            f32::MAX,
            f32::INFINITY,
        ];
        let right_angles = (1..2000).map(|i| (f64::from(i) * FRAC_PI_4) as f32);
        let powers = (0..128).map(|i| (f64::from(i) * std::f64::consts::LN_2 / 2.0) as f32);
        for value in special.into_iter().chain(right_angles).chain(powers) {
            for near in [value.next_down(), value, value.next_up()] {
                values.extend([near, -near]);
            }
        }
        values
    }

    /// The error in units of 2⁻⁵⁰ of `scale`.
    fn error(found: f64, expected: f64, scale: f64) -> f64 {
        if found.is_nan() || expected.is_nan() || found.is_infinite() || expected.is_infinite() {
            return if found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan() {
                0.0
            } else {
                f64::INFINITY
            };
        }
        (found - expected).abs() / scale * 2f64.powi(50)
    }

    #[test]
    fn exp_is_that_of_the_system() {
        for x in values() {
            let (found, expected) = (exp(x), f64::from(x).exp());
            if (-708.0..=709.0).contains(&x) || x.is_nan() {
                assert!(
                    error(found, expected, expected) < 1.0,
                    "{x}: {found} {expected}"
                );
            }
            assert_eq!((found as f32).to_bits(), (expected as f32).to_bits(), "{x}");
        }
    }

    #[test]
    fn sin_cos_is_that_of_the_system() {
        for x in values() {
            let (found, expected) = (sin_cos(x), f64::from(x).sin_cos());
            assert!(
                error(found.0, expected.0, 1.0) < 1.0,
                "{x}: {found:?} {expected:?}"
            );
            assert!(
                error(found.1, expected.1, 1.0) < 1.0,
                "{x}: {found:?} {expected:?}"
            );
            if x.is_finite() {
                assert_eq!(
                    (found.0 as f32).to_bits(),
                    (expected.0 as f32).to_bits(),
                    "{x}"
                );
                assert_eq!(
                    (found.1 as f32).to_bits(),
                    (expected.1 as f32).to_bits(),
                    "{x}"
                );
            }
        }
    }

    #[test]
    fn atan2_is_that_of_the_system() {
        let mut values = values();
        values.extend([0.0, -0.0, 1.0, -1.0, f32::NEG_INFINITY, f32::NAN]);
        let special = [
            0.0,
            -0.0,
            1.0,
            -3.0,
            1e-30,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        let others = values.iter().rev().zip(&values).map(|(y, x)| (*y, *x));
        let near = values.iter().map(|y| (*y, y * 1.3));
        let axes = values.iter().flat_map(|y| special.map(|x| (*y, x)));
        for (y, x) in others.chain(near).chain(axes) {
            for (y, x) in [(y, x), (x, y)] {
                let (found, expected) = (atan2(y, x), f64::from(y).atan2(f64::from(x)));
                let scale = if expected == 0.0 { 1.0 } else { expected.abs() };
                assert!(
                    error(found, expected, scale) < 1.0,
                    "{y} {x}: {found} {expected}"
                );
                if !found.is_nan() {
                    assert_eq!(
                        found.is_sign_negative(),
                        expected.is_sign_negative(),
                        "{y} {x}"
                    );
                }
            }
        }
    }
}
