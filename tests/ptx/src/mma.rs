//! Matrix products of a warp (`mma.sync`): fragments to matrices and back.
//!
//! The ISA gives each lane's part of a matrix. With g = lane / 4 and t = lane % 4, element i of a lane is, for
//! p elements in a register, in row g (+ 8 for every second register of A and C) and at depth p * t + i % p (plus
//! 4 p for later registers). Sums of halves are exact here, and rounded once; hardware may round in between.

use crate::convert::{half_from, widen_half};
use crate::module::{LANES, Lanes32, Multiply};

const ROWS: usize = 16;
const COLUMNS: usize = 8;
const DEPTH: usize = 32;

/// Row and depth of element `i` of A in a lane; `per` elements are in a register, `tall` if it has 16 rows.
fn place_a(lane: usize, i: usize, per: usize, tall: bool) -> (usize, usize) {
    let (g, t, register) = (lane / 4, lane % 4, i / per);
    let row = if tall { g + 8 * (register % 2) } else { g };
    let step = if tall { register / 2 } else { register };
    (row, per * t + i % per + 4 * per * step)
}

/// Depth and column of element `i` of B in a lane.
fn place_b(lane: usize, i: usize, per: usize) -> (usize, usize) {
    (per * (lane % 4) + i % per + 4 * per * (i / per), lane / 4)
}

/// Row and column of element `i` of C and D in a lane.
fn place_c(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)
}

fn byte(word: u32, i: usize, signed: bool) -> i64 {
    let byte = (word >> (8 * i)) as u8;
    if signed {
        i64::from(byte as i8)
    } else {
        i64::from(byte)
    }
}

fn half(word: u32, i: usize) -> f64 {
    f64::from(f32::from_bits(widen_half(word >> (16 * i) & 0xffff)))
}

/// D = A B + C for a shape m x n x k; A, B and C as registers of a warp.
pub(crate) fn multiply(
    (m, n, k): (u32, u32, u32),
    kind: Multiply,
    registers: &[Lanes32],
) -> [Lanes32; 4] {
    let (m, n, k) = (m as usize, n as usize, k as usize);
    let mut d = [[0; LANES]; 4];
    match kind {
        Multiply::Integer {
            signed_a,
            signed_b,
            saturate,
        } => {
            let (a, rest) = registers.split_at(m * k / 128);
            let (b, c) = rest.split_at(k * n / 128);
            let mut left = [[0i64; DEPTH]; ROWS];
            let mut right = [[0i64; COLUMNS]; DEPTH];
            for lane in 0..LANES {
                for i in 0..a.len() * 4 {
                    let (row, depth) = place_a(lane, i, 4, m == 16);
                    left[row][depth] = byte(a[i / 4][lane], i % 4, signed_a);
                }
                for i in 0..b.len() * 4 {
                    let (depth, column) = place_b(lane, i, 4);
                    right[depth][column] = byte(b[i / 4][lane], i % 4, signed_b);
                }
            }
            for (lane, i) in (0..LANES).flat_map(|l| (0..c.len()).map(move |i| (l, i))) {
                let (row, column) = place_c(lane, i);
                let sum: i64 = (0..k).map(|p| left[row][p] * right[p][column]).sum();
                let sum = sum + i64::from(c[i][lane] as i32);
                let limited = sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
                d[i][lane] = if saturate { limited } else { sum } as u32;
            }
        }
        Multiply::Half { half_c, half_d } => {
            let (a, rest) = registers.split_at(m * k / 64);
            let (b, c) = rest.split_at(k * n / 64);
            let mut left = [[0f64; DEPTH]; ROWS];
            let mut right = [[0f64; COLUMNS]; DEPTH];
            for lane in 0..LANES {
                for i in 0..a.len() * 2 {
                    let (row, depth) = place_a(lane, i, 2, m == 16);
                    left[row][depth] = half(a[i / 2][lane], i % 2);
                }
                for i in 0..b.len() * 2 {
                    let (depth, column) = place_b(lane, i, 2);
                    right[depth][column] = half(b[i / 2][lane], i % 2);
                }
            }
            for (lane, i) in (0..LANES).flat_map(|l| (0..m * n / 32).map(move |i| (l, i))) {
                let (row, column) = place_c(lane, i);
                let start = if half_c {
                    half(c[i / 2][lane], i % 2)
                } else {
                    f64::from(f32::from_bits(c[i][lane]))
                };
                let products = (0..k).map(|p| left[row][p] * right[p][column]);
                let sum = products.fold(0.0, |sum, product| sum + product) + start;
                if half_d {
                    d[i / 2][lane] |= half_from(sum) << (16 * (i % 2));
                } else if sum.is_nan() {
                    d[i][lane] = 0x7fff_ffff;
                } else {
                    d[i][lane] = (sum as f32).to_bits();
                }
            }
        }
    }
    d
}
