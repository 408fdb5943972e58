//! Floating-point instructions: rounding, flushing, saturation, NaN, conversions.

use super::support::one;

fn f(instruction: &str, inputs: &[f32]) -> u32 {
    let inputs: Vec<u64> = inputs.iter().map(|v| v.to_bits().into()).collect();
    one(instruction, "%f2", &inputs) as u32
}

fn d(instruction: &str, inputs: &[f64]) -> u64 {
    let inputs: Vec<u64> = inputs.iter().map(|v| v.to_bits()).collect();
    one(instruction, "%d2", &inputs)
}

#[test]
fn sums_round_in_each_direction() {
    let tiny = 2f32.powi(-30);
    let next = 1f32.next_up();
    for (mode, plus, minus) in [
        ("rn", 1.0, -1.0),
        ("rz", 1.0, -1.0),
        ("rm", 1.0, -next),
        ("rp", next, -1.0),
    ] {
        let add = format!("add.{mode}.f32 %f2, %f10, %f11;");
        assert_eq!(f(&add, &[1.0, tiny]), f32::to_bits(plus), "{mode}");
        assert_eq!(f(&add, &[-1.0, -tiny]), f32::to_bits(minus), "{mode}");
    }
    let next = 1f64.next_up().to_bits();
    assert_eq!(d("add.rp.f64 %d2, %d10, %d11;", &[1.0, 1e-300]), next);
    assert_eq!(
        d("fma.rp.f64 %d2, %d10, %d11, %d12;", &[1e-200, 1e-200, 1.0]),
        next
    );
    assert_eq!(
        d("div.rz.f64 %d2, %d10, %d11;", &[2.0, 3.0]),
        0x3fe5_5555_5555_5555
    );
    assert_eq!(d("rcp.rp.f64 %d2, %d10;", &[3.0]), 0x3fd5_5555_5555_5556);
    assert_eq!(
        f("sqrt.rp.f32 %f2, %f10;", &[2.0]),
        2f32.sqrt().next_up().to_bits()
    );
    assert_eq!(
        f("div.rn.f32 %f2, %f10, %f11;", &[1.0, 3.0]),
        (1f32 / 3.0).to_bits()
    );
    // x - x is -0 only when rounding down.
    assert_eq!(f("sub.rm.f32 %f2, %f10, %f11;", &[1.0, 1.0]), 1 << 31);
    assert_eq!(f("sub.rn.f32 %f2, %f10, %f11;", &[1.0, 1.0]), 0);
}

#[test]
fn fused_products_round_once() {
    let x = 1.0 + f32::EPSILON;
    let exact = f(
        "fma.rn.f32 %f2, %f10, %f11, %f12;",
        &[x, x, -(1.0 + 2.0 * f32::EPSILON)],
    );
    assert_eq!(f32::from_bits(exact), f32::EPSILON * f32::EPSILON);
}

#[test]
fn nan_results_are_canonical() {
    assert_eq!(
        f(
            "add.f32 %f2, %f10, %f11;",
            &[f32::INFINITY, f32::NEG_INFINITY]
        ),
        0x7fff_ffff
    );
    assert_eq!(
        f(
            "mul.f32 %f2, %f10, %f11;",
            &[f32::from_bits(0xffc0_1234), 1.0]
        ),
        0x7fff_ffff
    );
    assert_eq!(
        f("min.f32 %f2, %f10, %f11;", &[f32::NAN, 1.0]),
        1f32.to_bits()
    );
    assert_eq!(
        f("max.f32 %f2, %f10, %f11;", &[1.0, f32::NAN]),
        1f32.to_bits()
    );
    assert_eq!(
        f("max.f32 %f2, %f10, %f11;", &[f32::NAN, f32::NAN]),
        0x7fff_ffff
    );
    assert_eq!(
        f("max.NaN.f32 %f2, %f10, %f11;", &[1.0, f32::NAN]),
        0x7fff_ffff
    );
    assert_eq!(f("min.f32 %f2, %f10, %f11;", &[0.0, -0.0]), 1 << 31);
    assert_eq!(f("max.f32 %f2, %f10, %f11;", &[-0.0, 0.0]), 0);
    assert_eq!(
        d("min.f64 %d2, %d10, %d11;", &[f64::NAN, 2.0]),
        2f64.to_bits()
    );
}

#[test]
fn subnormals_are_flushed_where_asked() {
    let small = f32::MIN_POSITIVE / 2.0;
    assert_eq!(
        f("add.f32 %f2, %f10, %f11;", &[small, 0.0]),
        small.to_bits()
    );
    assert_eq!(f("add.ftz.f32 %f2, %f10, %f11;", &[small, 0.0]), 0);
    assert_eq!(
        f("mul.ftz.f32 %f2, %f10, %f11;", &[-f32::MIN_POSITIVE, 0.5]),
        1 << 31
    );
    assert_eq!(f("abs.ftz.f32 %f2, %f10;", &[-small]), 0);
    assert_eq!(
        f("mul.sat.f32 %f2, %f10, %f11;", &[2.0, 3.0]),
        1f32.to_bits()
    );
    assert_eq!(f("mul.sat.f32 %f2, %f10, %f11;", &[-2.0, 3.0]), 0);
    assert_eq!(f("add.sat.f32 %f2, %f10, %f11;", &[f32::NAN, 3.0]), 0);
}

#[test]
fn comparisons_know_nan() {
    let test = |name: &str, a: f32, b: f32| {
        let body =
            format!("setp.{name}.f32 %p1, %f10, %f11; selp.f32 %f2, 0f3F800000, 0f00000000, %p1;");
        f(&body, &[a, b]) != 0
    };
    let nan = f32::NAN;
    for name in ["eq", "ne", "lt", "le", "gt", "ge", "num"] {
        assert!(!test(name, nan, 1.0), "{name}");
    }
    for name in ["equ", "neu", "ltu", "leu", "gtu", "geu", "nan"] {
        assert!(test(name, 1.0, nan), "{name}");
    }
    assert!(test("lt", 1.0, 2.0) && test("ge", 2.0, 2.0) && test("neu", 1.0, 2.0));
    assert!(!test("geu", 1.0, 2.0) && test("num", 1.0, 2.0) && test("eq", 0.0, -0.0));
    assert!(!test("gt.ftz", f32::from_bits(1), 0.0) && test("gt", f32::from_bits(1), 0.0));
    let kind = |name: &str, v: f32| {
        let body =
            format!("testp.{name}.f32 %p1, %f10; selp.f32 %f2, 0f3F800000, 0f00000000, %p1;");
        f(&body, &[v]) != 0
    };
    assert!(kind("finite", 1.0) && !kind("finite", f32::INFINITY) && kind("notanumber", nan));
    assert!(
        kind("subnormal", f32::from_bits(1))
            && kind("normal", 1.0)
            && kind("infinite", f32::INFINITY)
    );
    assert_eq!(
        f("copysign.f32 %f2, %f10, %f11;", &[-1.0, 3.0]),
        (-3f32).to_bits()
    );
}

#[test]
fn conversions_round_and_saturate() {
    let int = |instruction: &str, v: f32| one(instruction, "%r2", &[v.to_bits().into()]) as u32;
    assert_eq!(int("cvt.rzi.s32.f32 %r2, %f10;", -1.9), -1i32 as u32);
    assert_eq!(int("cvt.rni.s32.f32 %r2, %f10;", 2.5), 2);
    assert_eq!(int("cvt.rmi.s32.f32 %r2, %f10;", -1.1), -2i32 as u32);
    assert_eq!(int("cvt.rpi.s32.f32 %r2, %f10;", -1.9), -1i32 as u32);
    assert_eq!(int("cvt.rzi.u32.f32 %r2, %f10;", -1.0), 0);
    assert_eq!(int("cvt.rzi.u32.f32 %r2, %f10;", 1e20), u32::MAX);
    assert_eq!(int("cvt.rzi.s32.f32 %r2, %f10;", -1e20), 1 << 31);
    assert_eq!(int("cvt.rzi.s32.f32 %r2, %f10;", f32::NAN), 0);
    assert_eq!(int("cvt.rni.sat.s8.f32 %r2, %f10;", 200.0), 127);
    assert_eq!(int("cvt.rni.sat.s8.f32 %r2, %f10;", -200.0), 0xffff_ff80);
    assert_eq!(
        one("cvt.rzi.s64.f64 %rd2, %d10;", "%rd2", &[f64::NAN.to_bits()]),
        1 << 63
    );
    assert_eq!(
        one("cvt.rni.s32.f64 %r2, %d10;", "%r2", &[3.5f64.to_bits()]),
        4
    );
    assert_eq!(f("cvt.rni.f32.f32 %f2, %f10;", &[-0.4]), 1 << 31);
    assert_eq!(f("cvt.rmi.f32.f32 %f2, %f10;", &[-0.4]), (-1f32).to_bits());
    assert_eq!(f("cvt.sat.f32.f32 %f2, %f10;", &[1.5]), 1f32.to_bits());
    let narrow = |mode: &str, v: f64| {
        one(
            &format!("cvt.{mode}.f32.f64 %f2, %d10;"),
            "%f2",
            &[v.to_bits()],
        ) as u32
    };
    assert_eq!(narrow("rn", 1.0 + 1e-9), 1f32.to_bits());
    assert_eq!(narrow("rp", 1.0 + 1e-9), 1f32.next_up().to_bits());
    assert_eq!(narrow("rz", 1e300), f32::MAX.to_bits());
    assert_eq!(narrow("rn", 1e300), f32::INFINITY.to_bits());
    let half = |mode: &str, v: f32| {
        one(
            &format!("cvt.{mode}.f16.f32 %h2, %f10;"),
            "%h2",
            &[v.to_bits().into()],
        )
    };
    assert_eq!(half("rn", 1.0), 0x3c00);
    assert_eq!(half("rn", 65504.0 + 15.9), 0x7bff);
    assert_eq!(half("rn", 65520.0), 0x7c00);
    assert_eq!(half("rz", 65520.0), 0x7bff);
    assert_eq!(half("rn", f32::NAN), 0x7fff);
    assert_eq!(half("rn", 2f32.powi(-25)), 0);
    assert_eq!(half("rp", 2f32.powi(-25)), 1);
    assert_eq!(
        f(
            "mov.b32 %r3, %f10; cvt.u16.u32 %h3, %r3; cvt.f32.f16 %f2, %h3;",
            &[f32::from_bits(0x0001)]
        ),
        2f32.powi(-24).to_bits()
    );
    let pair = one(
        "cvt.rn.f16x2.f32 %r2, %f10, %f11;",
        "%r2",
        &[1f32.to_bits().into(), 2f32.to_bits().into()],
    );
    assert_eq!(pair, 0x3c00_4000);
    assert_eq!(
        one(
            "fma.rn.f16 %h2, %h10, %h11, %h12;",
            "%h2",
            &[0x4000, 0x4200, 0x3c00]
        ),
        0x4700
    );
    assert_eq!(
        one(
            "add.f16x2 %r2, %r10, %r11;",
            "%r2",
            &[0x3c00_4000, 0x3c00_3c00]
        ),
        0x4000_4200
    );
}

#[test]
fn approximations_are_close() {
    let close = |instruction: &str, v: f32, expected: f64| {
        let found = f64::from(f32::from_bits(f(instruction, &[v])));
        assert!(
            (found - expected).abs() <= expected.abs() * 1e-6 + 1e-7,
            "{instruction} {v}: {found}"
        );
    };
    close("ex2.approx.f32 %f2, %f10;", 3.5, 3.5f64.exp2());
    close("lg2.approx.f32 %f2, %f10;", 10.0, 10f64.log2());
    close("sin.approx.f32 %f2, %f10;", 1.0, 1f64.sin());
    close("cos.approx.f32 %f2, %f10;", 1.0, 1f64.cos());
    close("rsqrt.approx.f32 %f2, %f10;", 2.0, 0.5f64.sqrt());
    close("rcp.approx.ftz.f32 %f2, %f10;", 3.0, 1.0 / 3.0);
    close("sqrt.approx.f32 %f2, %f10;", 3.0, 3f64.sqrt());
    close("tanh.approx.f32 %f2, %f10;", 0.5, 0.5f64.tanh());
    let coarse = f64::from_bits(d("rcp.approx.ftz.f64 %d2, %d10;", &[3.0]));
    assert!((coarse * 3.0 - 1.0).abs() < 2f64.powi(-20) && coarse.to_bits() as u32 == 0);
}
