//! Integer instructions against the definitions and tables of the ISA.

use super::support::{one, r};

const M1: u64 = u64::MAX;

#[test]
fn sums_and_products_wrap() {
    assert_eq!(r("add.u32 %r2, %r10, %r11;", &[0xffff_ffff, 2]), 1);
    assert_eq!(r("sub.s32 %r2, %r10, %r11;", &[1, 3]), 0xffff_fffe);
    assert_eq!(r("mul.lo.s32 %r2, %r10, -3;", &[5]), (-15i32) as u32);
    assert_eq!(
        r("mul.hi.u32 %r2, %r10, %r11;", &[0xffff_ffff, 0xffff_ffff]),
        0xffff_fffe
    );
    assert_eq!(
        r("mul.hi.s32 %r2, %r10, %r11;", &[0xffff_ffff, 2]),
        0xffff_ffff
    );
    assert_eq!(r("mad.lo.s32 %r2, %r10, %r11, %r12;", &[7, 6, M1]), 41);
    assert_eq!(r("mad.hi.s32 %r2, %r10, %r11, 1;", &[1 << 31, 2]), 0);
    assert_eq!(
        one("mul.hi.u64 %rd2, %rd10, %rd11;", "%rd2", &[M1, M1]),
        M1 - 1
    );
    assert_eq!(one("mul.hi.s64 %rd2, %rd10, %rd11;", "%rd2", &[M1, 5]), M1);
    assert_eq!(
        one("mul.wide.s32 %rd2, %r10, %r11;", "%rd2", &[M1, 5]),
        -5i64 as u64
    );
    assert_eq!(
        one("mul.wide.s32 %rd2, %r10, -5;", "%rd2", &[3]),
        -15i64 as u64
    );
    assert_eq!(
        one("mul.wide.u32 %rd2, %r10, 44;", "%rd2", &[0xffff_ffff]),
        0xffff_ffff * 44
    );
    assert_eq!(
        r("mul.wide.u16 %r2, %h10, %h11;", &[0xffff, 0xffff]),
        0xffff * 0xffff
    );
    assert_eq!(
        r("mul.wide.s16 %r2, %h10, %h11;", &[0xffff, 2]),
        -2i32 as u32
    );
    assert_eq!(
        one(
            "mad.wide.u32 %rd2, %r10, 2, %rd11;",
            "%rd2",
            &[0xffff_ffff, 7]
        ),
        0x2_0000_0005
    );
    assert_eq!(one("add.u16 %h2, %h10, %h11;", "%h2", &[0xffff, 3]), 2);
    assert_eq!(
        r("add.sat.s32 %r2, %r10, %r11;", &[0x7fff_ffff, 1]),
        0x7fff_ffff
    );
    assert_eq!(
        r("sub.sat.s32 %r2, %r10, %r11;", &[0x8000_0000, 1]),
        0x8000_0000
    );
    assert_eq!(
        r("sad.s32 %r2, %r10, %r11, %r12;", &[-3i64 as u64, 4, 10]),
        17
    );
    assert_eq!(r("sad.u32 %r2, %r10, %r11, %r12;", &[2, 9, 10]), 17);
}

#[test]
fn quotients_round_to_zero() {
    assert_eq!(
        r("div.s32 %r2, %r10, %r11;", &[-7i64 as u64, 2]),
        -3i32 as u32
    );
    assert_eq!(
        r("rem.s32 %r2, %r10, %r11;", &[-7i64 as u64, 2]),
        -1i32 as u32
    );
    assert_eq!(
        r("div.u32 %r2, %r10, %r11;", &[-7i64 as u64, 2]),
        0x7fff_fffc
    );
    assert_eq!(one("div.u16 %h2, %h10, %h11;", "%h2", &[50_000, 7]), 7142);
    assert_eq!(
        one("rem.u64 %rd2, %rd10, %rd11;", "%rd2", &[M1, 10]),
        M1 % 10
    );
}

#[test]
fn extremes_and_signs() {
    assert_eq!(r("min.s32 %r2, %r10, %r11;", &[M1, 1]), u32::MAX);
    assert_eq!(r("min.u32 %r2, %r10, %r11;", &[M1, 1]), 1);
    assert_eq!(r("max.s32 %r2, %r10, %r11;", &[M1, 1]), 1);
    assert_eq!(r("abs.s32 %r2, %r10;", &[M1]), 1);
    assert_eq!(r("neg.s32 %r2, %r10;", &[5]), -5i32 as u32);
    assert_eq!(r("cnot.b32 %r2, %r10;", &[0]), 1);
    assert_eq!(r("cnot.b32 %r2, %r10;", &[9]), 0);
    assert_eq!(one("neg.s16 %h2, %h10;", "%h2", &[1]), 0xffff);
    assert_eq!(r("slct.s32.s32 %r2, %r10, %r11, %r12;", &[1, 2, 0]), 1);
    assert_eq!(r("slct.s32.s32 %r2, %r10, %r11, %r12;", &[1, 2, M1]), 2);
    assert_eq!(
        r("slct.b32.f32 %r2, %r10, %r11, %f12;", &[1, 2, 0x8000_0000]),
        1
    );
    assert_eq!(
        r("slct.b32.f32 %r2, %r10, %r11, %f12;", &[1, 2, 0x7fc0_0000]),
        2
    );
}

#[test]
fn shifts_clamp_their_counts() {
    assert_eq!(r("shl.b32 %r2, %r10, %r11;", &[1, 31]), 1 << 31);
    assert_eq!(r("shl.b32 %r2, %r10, %r11;", &[1, 32]), 0);
    assert_eq!(r("shr.u32 %r2, %r10, %r11;", &[M1, 40]), 0);
    assert_eq!(r("shr.s32 %r2, %r10, %r11;", &[1 << 31, 40]), u32::MAX);
    assert_eq!(one("shl.b64 %rd2, %rd10, %r11;", "%rd2", &[3, 63]), 1 << 63);
    assert_eq!(one("shl.b64 %rd2, %rd10, %r11;", "%rd2", &[3, 64]), 0);
    assert_eq!(
        one("shr.s64 %rd2, %rd10, %r11;", "%rd2", &[1 << 63, 65]),
        M1
    );
    assert_eq!(one("shl.b16 %h2, %h10, %r11;", "%h2", &[0xffff, 4]), 0xfff0);
    assert_eq!(
        one("shr.s16 %h2, %h10, %r11;", "%h2", &[0x8000, 20]),
        0xffff
    );
    let (low, high) = (0x1122_3344, 0x5566_7788);
    assert_eq!(
        r("shf.l.wrap.b32 %r2, %r10, %r11, %r12;", &[low, high, 8]),
        0x6677_8811
    );
    assert_eq!(
        r("shf.l.wrap.b32 %r2, %r10, %r11, %r12;", &[low, high, 40]),
        0x6677_8811
    );
    assert_eq!(
        r("shf.l.clamp.b32 %r2, %r10, %r11, %r12;", &[low, high, 40]),
        0x1122_3344
    );
    assert_eq!(
        r("shf.r.wrap.b32 %r2, %r10, %r11, %r12;", &[low, high, 8]),
        0x8811_2233
    );
    assert_eq!(
        r("shf.r.clamp.b32 %r2, %r10, %r11, %r12;", &[low, high, 99]),
        0x5566_7788
    );
}

#[test]
fn bits_are_counted_and_moved() {
    assert_eq!(r("popc.b32 %r2, %r10;", &[0xf0f0]), 8);
    assert_eq!(r("popc.b64 %r2, %rd10;", &[M1]), 64);
    assert_eq!(r("clz.b32 %r2, %r10;", &[0]), 32);
    assert_eq!(r("clz.b64 %r2, %rd10;", &[1]), 63);
    assert_eq!(r("brev.b32 %r2, %r10;", &[1]), 1 << 31);
    assert_eq!(one("brev.b64 %rd2, %rd10;", "%rd2", &[2]), 1 << 62);
    assert_eq!(r("bfind.u32 %r2, %r10;", &[0x100]), 8);
    assert_eq!(r("bfind.u32 %r2, %r10;", &[0]), u32::MAX);
    assert_eq!(r("bfind.s32 %r2, %r10;", &[-256i64 as u64]), 7);
    assert_eq!(r("bfind.s32 %r2, %r10;", &[M1]), u32::MAX);
    assert_eq!(r("bfind.shiftamt.u32 %r2, %r10;", &[0x100]), 23);
    assert_eq!(r("bfind.shiftamt.u32 %r2, %r10;", &[0]), u32::MAX);
    assert_eq!(r("bfind.u64 %r2, %rd10;", &[1 << 40]), 40);
    assert_eq!(r("bfe.u32 %r2, %r10, 4, 8;", &[0xabcd]), 0xbc);
    assert_eq!(r("bfe.s32 %r2, %r10, 4, 8;", &[0xabcd]), 0xffff_ffbc);
    assert_eq!(r("bfe.u32 %r2, %r10, 4, 0;", &[0xabcd]), 0);
    assert_eq!(r("bfe.s32 %r2, %r10, 28, 8;", &[0x8000_0000]), 0xffff_fff8);
    assert_eq!(r("bfe.s32 %r2, %r10, 40, 8;", &[0x8000_0000]), 0xffff_ffff);
    assert_eq!(
        one("bfe.s64 %rd2, %rd10, 60, 64;", "%rd2", &[1 << 63]),
        0xffff_ffff_ffff_fff8
    );
    assert_eq!(
        r("bfi.b32 %r2, %r10, %r11, 8, 4;", &[0xab, 0xffff_ffff]),
        0xffff_fbff
    );
    assert_eq!(
        r("bfi.b32 %r2, %r10, %r11, %r12, %r13;", &[0xab, 0, 28, 8]),
        0xb000_0000
    );
    assert_eq!(
        one("bfi.b64 %rd2, %rd10, %rd11, 32, 32;", "%rd2", &[7, 9]),
        0x7_0000_0009
    );
    assert_eq!(
        r(
            "lop3.b32 %r2, %r10, %r11, %r12, 0xe8;",
            &[0b1100, 0b1010, 0b0110]
        ),
        0b1110
    );
    assert_eq!(
        r(
            "lop3.b32 %r2, %r10, %r11, %r12, 0x96;",
            &[0b1100, 0b1010, 0b0110]
        ),
        0
    );
    assert_eq!(
        r("and.b32 %r2, %r10, %r11; not.b32 %r2, %r2;", &[12, 10]),
        !8
    );
    assert_eq!(
        r(
            "dp4a.s32.u32 %r2, %r10, %r11, %r12;",
            &[0xff02_0304, 0x0102_0304, 100]
        ),
        128
    );
}

#[test]
fn permutations_follow_the_table() {
    let (a, b) = (0x3322_1100, 0x7766_5544);
    let table = [
        ("", 0x7531, 0x7755_3311),
        ("", 0x0248, 0x0022_4400),
        (".f4e", 0, 0x3322_1100),
        (".f4e", 1, 0x4433_2211),
        (".f4e", 2, 0x5544_3322),
        (".f4e", 3, 0x6655_4433),
        (".b4e", 0, 0x5566_7700),
        (".b4e", 1, 0x6677_0011),
        (".b4e", 2, 0x7700_1122),
        (".b4e", 3, 0x0011_2233),
        (".rc8", 2, 0x2222_2222),
        (".ecl", 0, 0x3322_1100),
        (".ecl", 1, 0x3322_1111),
        (".ecl", 2, 0x3322_2222),
        (".ecl", 3, 0x3333_3333),
        (".ecr", 0, 0x0000_0000),
        (".ecr", 1, 0x1111_1100),
        (".ecr", 2, 0x2222_1100),
        (".ecr", 3, 0x3322_1100),
        (".rc16", 0, 0x1100_1100),
        (".rc16", 1, 0x3322_3322),
    ];
    for (mode, c, expected) in table {
        let instruction = format!("prmt.b32{mode} %r2, %r10, %r11, %r12;");
        assert_eq!(r(&instruction, &[a, b, c]), expected, "{mode} {c}");
    }
    // A selector's highest bit copies the byte's sign.
    assert_eq!(
        r("prmt.b32 %r2, %r10, %r11, 0x9808;", &[0x8000_ff80, 0]),
        0xffff_80ff
    );
}

#[test]
fn carries_chain() {
    let body = "add.cc.u32 %r2, %r10, %r11; addc.cc.u32 %r3, %r12, %r13; addc.u32 %r4, 0, 0; \
        mov.b64 %rd2, {%r3, %r4};";
    assert_eq!(
        one(body, "%rd2", &[0xffff_ffff, 1, 0xffff_ffff, 0]),
        1 << 32
    );
    let body = "sub.cc.u32 %r2, %r10, %r11; subc.cc.u32 %r3, %r12, %r13; subc.u32 %r4, 5, 0; \
        mov.b64 %rd2, {%r3, %r4};";
    assert_eq!(one(body, "%rd2", &[0, 1, 0, 0]), 0x4_ffff_ffff);
    // 64 x 64 to 128 bits, the upper half.
    let body = "mul.lo.u32 %r20, %r10, %r12; mul.hi.u32 %r21, %r10, %r12;
        mad.lo.cc.u32 %r21, %r10, %r13, %r21; madc.hi.u32 %r22, %r10, %r13, 0;
        mad.lo.cc.u32 %r21, %r11, %r12, %r21; madc.hi.cc.u32 %r22, %r11, %r12, %r22; madc.hi.u32 %r23, %r11, %r13, 0;
        mad.lo.cc.u32 %r22, %r11, %r13, %r22; addc.u32 %r23, %r23, 0; mov.b64 %rd2, {%r22, %r23};";
    let (a, b) = (0xfedc_ba98_7654_3210u64, 0xf0e1_d2c3_b4a5_9687u64);
    let expected = ((u128::from(a) * u128::from(b)) >> 64) as u64;
    assert_eq!(
        one(
            body,
            "%rd2",
            &[a & 0xffff_ffff, a >> 32, b & 0xffff_ffff, b >> 32]
        ),
        expected
    );
    let body = "add.cc.u64 %rd2, %rd10, %rd11; addc.u64 %rd2, 0, 0;";
    assert_eq!(one(body, "%rd2", &[M1, 1]), 1);
}

#[test]
fn comparisons_and_predicates() {
    let test = |name: &str, a: u64, b: u64| {
        r(
            &format!("setp.{name} %p1, %r10, %r11; selp.u32 %r2, 1, 0, %p1;"),
            &[a, b],
        ) == 1
    };
    assert!(test("lt.s32", M1, 1) && !test("lt.u32", M1, 1) && !test("lo.u32", M1, 1));
    assert!(test("hi.u32", M1, 1) && test("hs.u32", 1, 1) && test("ls.u32", 1, 1));
    assert!(test("eq.s32", 5, 5) && test("ne.u32", 5, 6) && test("ge.s32", 1, M1));
    let both = "setp.lt.and.s32 %p1|%p2, %r10, %r11, %p3; selp.u32 %r2, 1, 0, %p1; @%p2 add.u32 %r2, %r2, 2;";
    for (third, a, expected) in [(1, 1, 1), (1, 9, 2), (0, 1, 0), (0, 9, 0)] {
        let body = format!("setp.ne.u32 %p3, %r12, 0; {both}");
        assert_eq!(r(&body, &[a, 5, third]), expected, "{third} {a}");
    }
    let logic = "setp.ne.u32 %p1, %r10, 0; setp.ne.u32 %p2, %r11, 0; xor.pred %p3, %p1, %p2; not.pred %p4, %p3;
        and.pred %p5, %p1, %p4; or.pred %p6, %p5, %p3; selp.u32 %r2, 1, 0, %p6;";
    for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        assert_eq!(r(logic, &[a, b]), u32::from(a != 0 || b != 0));
    }
    assert_eq!(r("set.lt.u32.s32 %r2, %r10, %r11;", &[M1, 0]), u32::MAX);
    assert_eq!(
        one("set.gt.f32.u32 %f2, %r10, %r11;", "%f2", &[M1, 0]) as u32,
        1f32.to_bits()
    );
}

#[test]
fn conversions_of_integers() {
    assert_eq!(
        one("cvt.s64.s32 %rd2, %r10;", "%rd2", &[0x8000_0000]),
        0xffff_ffff_8000_0000
    );
    assert_eq!(
        one("cvt.u64.u32 %rd2, %r10;", "%rd2", &[0x8000_0000]),
        0x8000_0000
    );
    assert_eq!(r("cvt.s32.s8 %r2, %r10;", &[0x1280]), 0xffff_ff80);
    assert_eq!(r("cvt.u32.u8 %r2, %r10;", &[0x1280]), 0x80);
    assert_eq!(r("cvt.u32.u16 %r2, %h10;", &[0xf_ffff]), 0xffff);
    assert_eq!(r("cvt.sat.s8.s32 %r2, %r10;", &[300]), 127);
    assert_eq!(
        r("cvt.sat.s8.s32 %r2, %r10;", &[-300i64 as u64]),
        0xffff_ff80
    );
    assert_eq!(r("cvt.sat.u8.s32 %r2, %r10;", &[-300i64 as u64]), 0);
    assert_eq!(
        r(
            "cvt.pack.sat.s8.s32.b32 %r2, %r10, %r11, %r12;",
            &[300, -5i64 as u64, 0x1234]
        ),
        0x1234_7ffb
    );
    assert_eq!(
        r("cvt.pack.sat.u16.s32 %r2, %r10, %r11;", &[M1, 70_000]),
        0xffff
    );
    assert_eq!(
        r("mov.b32 %r2, {%h10, %h11};", &[0x1111, 0x2222]),
        0x2222_1111
    );
    assert_eq!(
        r("mov.b64 {_, %r2}, %rd10;", &[0x1234_5678_0000_0000]),
        0x1234_5678
    );
}
