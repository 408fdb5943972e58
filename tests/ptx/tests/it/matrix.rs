//! `mma` and `ldmatrix` against plain products. The places of elements are written down again here, from the
//! figures of the ISA, as formulas over rows and columns instead of lanes.

use ptx::Options;

use super::support::warp;

/// Lane and element of A at a row and depth: 16 x `k`, `per` elements in a register.
fn in_a(row: usize, depth: usize, per: usize) -> (usize, usize) {
    let lane = row % 8 * 4 + depth / per % 4;
    let register = row / 8 + 2 * (depth / (4 * per));
    (lane, register * per + depth % per)
}

fn in_b(depth: usize, column: usize, per: usize) -> (usize, usize) {
    (
        column * 4 + depth / per % 4,
        depth / (4 * per) * per + depth % per,
    )
}

fn in_c(row: usize, column: usize) -> (usize, usize) {
    (row % 8 * 4 + column / 2, row / 8 * 2 + column % 2)
}

fn value(i: usize) -> i32 {
    (i as u32).wrapping_mul(2_654_435_761) as i32 >> 24
}

/// Runs a product of bytes; A and B are made of `value`, computed by the lanes from tables in the input.
fn bytes(m: usize, k: usize, signed_a: bool, signed_b: bool, name: &str) {
    let a = |row: usize, depth: usize| value(row * k + depth) as u8;
    let b = |depth: usize, column: usize| value(1000 + depth * 8 + column) as u8;
    let widen = |v: u8, signed: bool| {
        if signed {
            i32::from(v as i8)
        } else {
            i32::from(v)
        }
    };
    let a_registers = m * k / 128;
    let (b_registers, c_registers) = (k * 8 / 128, m * 8 / 32);
    let mut words = vec![0u32; 32 * (a_registers + b_registers)];
    for (row, depth) in (0..m).flat_map(|r| (0..k).map(move |d| (r, d))) {
        let (lane, element) = if m == 8 {
            in_b(depth, row, 4)
        } else {
            in_a(row, depth, 4)
        };
        words[element / 4 * 32 + lane] |= u32::from(a(row, depth)) << (element % 4 * 8);
    }
    for (depth, column) in (0..k).flat_map(|d| (0..8).map(move |c| (d, c))) {
        let (lane, element) = in_b(depth, column, 4);
        let at = (a_registers + element / 4) * 32 + lane;
        words[at] |= u32::from(b(depth, column)) << (element % 4 * 8);
    }
    for output in 0..c_registers {
        let loads: String = (0..a_registers + b_registers)
            .map(|i| format!("ld.global.u32 %r{}, [%rd3+{}];", 20 + i, 128 * i))
            .collect();
        let list = |start: usize, count: usize| {
            (start..start + count)
                .map(|n| format!("%r{n}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let sums = ["%r0"; 4][..c_registers].join(", ");
        let body = format!(
            "{loads}\nmma.sync.aligned.{name} {{{}}}, {{{}}}, {{{}}}, {{{sums}}};\nmov.u32 %r2, %r{};",
            list(40, c_registers),
            list(20, a_registers),
            list(20 + a_registers, b_registers),
            40 + output
        );
        let found = warp(&body, &words, &Options::default()).unwrap_or_else(|f| panic!("{f}"));
        for (row, column) in (0..m).flat_map(|r| (0..8).map(move |c| (r, c))) {
            let (lane, element) = in_c(row, column);
            if element != output {
                continue;
            }
            let sum: i32 = (0..k)
                .map(|d| widen(a(row, d), signed_a) * widen(b(d, column), signed_b))
                .sum();
            assert_eq!(
                found[lane] as i32,
                sum + lane as i32,
                "{name} {row} {column}"
            );
        }
    }
}

#[test]
fn products_of_bytes() {
    bytes(16, 32, true, true, "m16n8k32.row.col.s32.s8.s8.s32");
    bytes(16, 32, false, true, "m16n8k32.row.col.s32.u8.s8.s32");
    bytes(16, 16, true, true, "m16n8k16.row.col.s32.s8.s8.s32");
    bytes(8, 16, true, true, "m8n8k16.row.col.s32.s8.s8.s32");
    bytes(
        8,
        16,
        true,
        false,
        "m8n8k16.row.col.satfinite.s32.s8.u8.s32",
    );
}

#[test]
fn sums_saturate_or_wrap() {
    let body = |satfinite: &str| {
        format!(
            "mov.u32 %r3, 0x7f7f7f7f; mov.u32 %r4, 0x7fffffff;
             mma.sync.aligned.m8n8k16.row.col{satfinite}.s32.s8.s8.s32 {{%r2, %r5}}, {{%r3}}, {{%r3}}, {{%r4, %r4}};"
        )
    };
    let run = |text: &str| warp(text, &[0; 32], &Options::default()).expect("no fault")[0];
    assert_eq!(run(&body(".satfinite")), 0x7fff_ffff);
    assert_eq!(run(&body("")), 0x7fff_ffffu32.wrapping_add(127 * 127 * 16));
}

/// Small integers as halves, exactly.
fn half(n: i32) -> u32 {
    let magnitude = n.unsigned_abs();
    if magnitude == 0 {
        return 0;
    }
    let exponent = magnitude.ilog2();
    let fraction = (magnitude << (10 - exponent)) & 0x3ff;
    u32::from(n < 0) << 15 | (exponent + 15) << 10 | fraction
}

fn halves(k: usize, half_sums: bool) {
    let a = |row: usize, depth: usize| value(row * k + depth) / 16;
    let b = |depth: usize, column: usize| value(1000 + depth * 8 + column) / 16;
    let a_registers = 16 * k / 64;
    let b_registers = k * 8 / 64;
    let mut words = vec![0u32; 32 * (a_registers + b_registers)];
    for (row, depth) in (0..16).flat_map(|r| (0..k).map(move |d| (r, d))) {
        let (lane, element) = in_a(row, depth, 2);
        words[element / 2 * 32 + lane] |= half(a(row, depth)) << (element % 2 * 16);
    }
    for (depth, column) in (0..k).flat_map(|d| (0..8).map(move |c| (d, c))) {
        let (lane, element) = in_b(depth, column, 2);
        words[(a_registers + element / 2) * 32 + lane] |=
            half(b(depth, column)) << (element % 2 * 16);
    }
    let loads: String = (0..a_registers + b_registers)
        .map(|i| format!("ld.global.u32 %r{}, [%rd3+{}];", 20 + i, 128 * i))
        .collect();
    let list = |start: usize, count: usize| {
        (start..start + count)
            .map(|n| format!("%r{n}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (registers, ty, zero) = if half_sums {
        (2, "f16", "%r3, %r3")
    } else {
        (4, "f32", "%r3, %r3, %r3, %r3")
    };
    for output in 0..registers {
        let body = format!(
            "{loads} mov.u32 %r3, 0; \
            mma.sync.aligned.m16n8k{k}.row.col.{ty}.f16.f16.{ty} {{{}}}, {{{}}}, {{{}}}, {{{zero}}}; \
            mov.u32 %r2, %r{};",
            list(40, registers),
            list(20, a_registers),
            list(20 + a_registers, b_registers),
            40 + output
        );
        let found = warp(&body, &words, &Options::default()).unwrap_or_else(|f| panic!("{f}"));
        for (row, column) in (0..16).flat_map(|r| (0..8).map(move |c| (r, c))) {
            let (lane, element) = in_c(row, column);
            let sum: i32 = (0..k).map(|d| a(row, d) * b(d, column)).sum();
            if half_sums && element / 2 == output {
                assert_eq!(found[lane] >> (element % 2 * 16) & 0xffff, half(sum));
            } else if !half_sums && element == output {
                assert_eq!(f32::from_bits(found[lane]), sum as f32);
            }
        }
    }
}

#[test]
fn products_of_halves() {
    for k in [8, 16] {
        halves(k, false);
        halves(k, true);
    }
}

#[test]
fn matrices_are_loaded_by_rows() {
    // Four matrices of 8 rows of 16 bytes; lane i stores row i, whose half j is 8 i + j.
    let store = ".shared .align 16 .b8 s[512]; mov.u32 %r3, s; shl.b32 %r4, %r0, 4; add.u32 %r4, %r3, %r4; \
        shl.b32 %r5, %r0, 3;
        shl.b32 %r6, %r5, 16; or.b32 %r6, %r6, %r5; add.u32 %r7, %r6, 0x10000; st.shared.u32 [%r4], %r7; \
        add.u32 %r7, %r6, 0x30002;
        st.shared.u32 [%r4+4], %r7; add.u32 %r7, %r6, 0x50004; st.shared.u32 [%r4+8], %r7; add.u32 %r7, %r6, 0x70006;
        st.shared.u32 [%r4+12], %r7; bar.warp.sync -1;";
    let element =
        |matrix: usize, row: usize, column: usize| (8 * (8 * matrix + row) + column) as u32;
    let options = Options {
        races: true,
        ..Options::default()
    };
    for matrix in 0..4 {
        for trans in ["", ".trans"] {
            let body = format!(
                "{store}\nldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r4];\nmov.u32 %r2, %r{};",
                20 + matrix
            );
            let found = warp(&body, &[0; 32], &options).unwrap_or_else(|f| panic!("{f}"));
            for (lane, &found) in found.iter().enumerate() {
                let (row, column) = (lane / 4, lane % 4 * 2);
                let pair = if trans.is_empty() {
                    (
                        element(matrix, row, column),
                        element(matrix, row, column + 1),
                    )
                } else {
                    (
                        element(matrix, column, row),
                        element(matrix, column + 1, row),
                    )
                };
                assert_eq!(found, pair.0 | pair.1 << 16, "{matrix}{trans} {lane}");
            }
        }
    }
    // One matrix needs the addresses of 8 lanes only.
    let body = format!(
        "{store}\nsetp.lt.u32 %p1, %r0, 8; @!%p1 mov.u32 %r4, 3; \
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r2}}, [%r4];"
    );
    assert_eq!(
        warp(&body, &[0; 32], &options).expect("no fault")[5],
        element(0, 1, 2) | element(0, 1, 3) << 16
    );
}
