//! [`InstructionSet`] for AArch64, whose multiplications take signed inputs directly.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::engine::cpu::int8_simd::{
    Floats, InstructionSet, Kernel, Narrow, Registers, Sums, Wide,
};
use crate::engine::cpu::simd::neon::Neon;

/// Runs a kernel with the dot-product instructions.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn neon_dot<K: Kernel>(kernel: K) {
    // SAFETY: the caller of this function guarantees the instruction set.
    unsafe { kernel.run::<NeonDot>() }
}

/// NEON with the dot-product instructions.
pub(super) struct NeonDot;

impl InstructionSet for NeonDot {
    type Wide = Dot<4>;
    type Narrow = Dot<2>;
    type Floats = Neon;
    const REGISTERS: Registers = Registers::Six;
}

/// Baseline NEON, which every AArch64 processor has.
pub(super) struct Plain;

impl InstructionSet for Plain {
    type Wide = Long<8>;
    type Narrow = Long<4>;
    type Floats = Neon;
    const REGISTERS: Registers = Registers::Two;
}

/// Sums of `sdot`, in `N` registers. Wide, with 4 registers: one sum per channel.
#[derive(Clone, Copy)]
pub(super) struct Dot<const N: usize>([int32x4_t; N]);

/// Sums of `smull` and `sadalp`, in `N` registers. Wide, with 8 registers: register i holds two sums for each of the
/// channels 2·i and 2·i + 1.
#[derive(Clone, Copy)]
pub(super) struct Long<const N: usize>([int32x4_t; N]);

/// Reads 16 times `N` codes.
#[inline(always)]
unsafe fn codes<const N: usize>(from: *const i8) -> [int8x16_t; N] {
    // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
    std::array::from_fn(|i| unsafe { vld1q_s8(from.add(16 * i)) })
}

/// Reads 4 codes into all lanes.
#[inline(always)]
unsafe fn four<const N: usize>(from: *const i8) -> [int8x16_t; N] {
    // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
    unsafe {
        let codes = vdupq_n_s32(from.cast::<i32>().read_unaligned());
        [vreinterpretq_s8_s32(codes); N]
    }
}

impl<const N: usize> Sums for Dot<N> {
    type Inputs = [int8x16_t; N];
    type Weights = [int8x16_t; N];

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self([unsafe { vdupq_n_s32(0) }; N])
    }

    #[inline(always)]
    unsafe fn dot(self, x: Self::Inputs, w: Self::Weights) -> Self {
        let mut sums = self.0;
        // A closure would be compiled without this function's instruction set, so this is a loop.
        for i in 0..N {
            // The intrinsic, `vdotq_s32`, is not stable.
            // SAFETY: the caller guarantees the instruction set; the instruction has no effect other than its result.
            unsafe {
                asm!(
                    "sdot {sums:v}.4s, {x:v}.16b, {w:v}.16b",
                    sums = inout(vreg) sums[i],
                    x = in(vreg) x[i],
                    w = in(vreg) w[i],
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
        }
        Self(sums)
    }

    #[inline(always)]
    unsafe fn negative(self) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(self.0.map(|sums| unsafe { vnegq_s32(sums) }))
    }
}

impl Wide for Dot<4> {
    #[inline(always)]
    unsafe fn quad(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { four(from) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { codes(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        for (i, sums) in self.0.into_iter().enumerate() {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
            unsafe { vst1q_s32(to.add(4 * i), sums) }
        }
    }
}

impl Narrow for Dot<2> {
    const CODES: usize = 32;

    #[inline(always)]
    unsafe fn inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { codes(from) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { codes(from) }
    }

    #[inline(always)]
    unsafe fn totals(sums: [Self; 4]) -> [i32; 4] {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { totals(sums.map(|Self([a, b])| vaddq_s32(a, b))) }
    }
}

/// The totals of four registers.
#[inline(always)]
unsafe fn totals([a, b, c, d]: [int32x4_t; 4]) -> [i32; 4] {
    let mut totals = [0; 4];
    // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
    unsafe {
        let v = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
        vst1q_s32(totals.as_mut_ptr(), v);
    }
    totals
}

impl<const N: usize> Sums for Long<N> {
    type Inputs = [int8x8_t; N];
    type Weights = [int8x8_t; N];

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self([unsafe { vdupq_n_s32(0) }; N])
    }

    #[inline(always)]
    unsafe fn dot(self, x: Self::Inputs, w: Self::Weights) -> Self {
        Self(std::array::from_fn(|i| {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
            unsafe { vpadalq_s16(self.0[i], vmull_s8(x[i], w[i])) }
        }))
    }

    #[inline(always)]
    unsafe fn negative(self) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(self.0.map(|sums| unsafe { vnegq_s32(sums) }))
    }
}

/// Reads 8 times `N` codes.
#[inline(always)]
unsafe fn eights<const N: usize>(from: *const i8) -> [int8x8_t; N] {
    // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
    std::array::from_fn(|i| unsafe { vld1_s8(from.add(8 * i)) })
}

impl Wide for Long<8> {
    #[inline(always)]
    unsafe fn quad(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            let codes = vdup_n_s32(from.cast::<i32>().read_unaligned());
            [vreinterpret_s8_s32(codes); 8]
        }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { eights(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        for (i, pair) in self.0.chunks_exact(2).enumerate() {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
            unsafe { vst1q_s32(to.add(4 * i), vpaddq_s32(pair[0], pair[1])) }
        }
    }
}

impl Narrow for Long<4> {
    const CODES: usize = 32;

    #[inline(always)]
    unsafe fn inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { eights(from) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { eights(from) }
    }

    #[inline(always)]
    unsafe fn totals(sums: [Self; 4]) -> [i32; 4] {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            totals(sums.map(|Self([a, b, c, d])| vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d))))
        }
    }
}

impl Floats for Neon {
    #[inline(always)]
    unsafe fn load_sums(from: *const i32) -> Self {
        Self(std::array::from_fn(|i| {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
            unsafe { vcvtq_f32_s32(vld1q_s32(from.add(4 * i))) }
        }))
    }

    #[inline(always)]
    unsafe fn load_codes(from: *const i8) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            let codes = vld1q_s8(from);
            let (low, high) = (vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes));
            let quarters = [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ];
            Self(quarters.map(|quarter| vcvtq_f32_s32(quarter)))
        }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(std::array::from_fn(|i| unsafe {
            vmulq_f32(self.0[i], other.0[i])
        }))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(std::array::from_fn(|i| unsafe {
            vdivq_f32(self.0[i], other.0[i])
        }))
    }

    #[inline(always)]
    unsafe fn store_codes(self, scale: Self, to: *mut i8) {
        // The conversion rounds half to even, maps NaN to 0, and saturates, as does the narrowing.
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            let quarter = |i: usize| {
                let codes = vcvtnq_s32_f32(vdivq_f32(self.0[i], scale.0[i]));
                vqmovn_s32(codes)
            };
            let low = vqmovn_s16(vcombine_s16(quarter(0), quarter(1)));
            let high = vqmovn_s16(vcombine_s16(quarter(2), quarter(3)));
            vst1q_s8(to, vcombine_s8(low, high));
        }
    }
}
