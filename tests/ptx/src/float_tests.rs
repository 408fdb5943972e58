//! The exact operations against the CPU, the fast ones against the exact.

use super::*;
use crate::convert::{convert, widen_half};
use crate::fast::{canonical, canonical64, fast32};
use crate::module::{Conversion, Type};
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
