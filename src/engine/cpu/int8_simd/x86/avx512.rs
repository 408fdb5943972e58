//! AVX-512 VNNI; see the module above.

use std::arch::x86_64::*;

use crate::engine::cpu::int8_simd::x86::avx2::totals;
use crate::engine::cpu::int8_simd::{Floats, Narrow, Sums, Wide};
use crate::engine::cpu::simd::x86::Avx512;

/// 16 sums of AVX-512 VNNI. `OFFSET`: inputs enter as code + 128.
#[derive(Clone, Copy)]
pub(in super::super) struct Vnni512<const OFFSET: bool>(__m512i);

impl<const OFFSET: bool> Vnni512<OFFSET> {
    /// Converts codes to the form that the multiplication takes.
    #[inline(always)]
    unsafe fn offset(codes: __m512i) -> __m512i {
        if !OFFSET {
            return codes;
        }
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { _mm512_xor_si512(codes, _mm512_set1_epi8(-128)) }
    }
}

impl<const OFFSET: bool> Sums for Vnni512<OFFSET> {
    type Inputs = __m512i;
    type Weights = __m512i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn dot(self, x: Self::Inputs, w: Self::Weights) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(unsafe { _mm512_dpbusd_epi32(self.0, x, w) })
    }

    #[inline(always)]
    unsafe fn negative(self) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(unsafe { _mm512_sub_epi32(_mm512_setzero_si512(), self.0) })
    }
}

impl<const OFFSET: bool> Wide for Vnni512<OFFSET> {
    #[inline(always)]
    unsafe fn quad(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { Self::offset(_mm512_set1_epi32(from.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { _mm512_loadu_epi8(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { _mm512_storeu_epi32(to, self.0) }
    }
}

impl<const OFFSET: bool> Narrow for Vnni512<OFFSET> {
    const CODES: usize = 64;

    #[inline(always)]
    unsafe fn inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { Self::offset(_mm512_loadu_epi8(from)) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { _mm512_loadu_epi8(from) }
    }

    #[inline(always)]
    unsafe fn half_inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { Self::offset(Self::half_weights(from)) }
    }

    #[inline(always)]
    unsafe fn half_weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { _mm512_zextsi256_si512(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn totals(sums: [Self; 4]) -> [i32; 4] {
        // SAFETY: the caller guarantees AVX-512F, which includes AVX2.
        unsafe {
            let mut halves = [_mm256_setzero_si256(); 4];
            for (half, Self(sum)) in halves.iter_mut().zip(sums) {
                let high = _mm512_extracti64x4_epi64::<1>(sum);
                *half = _mm256_add_epi32(_mm512_castsi512_si256(sum), high);
            }
            totals(halves)
        }
    }
}

impl Floats for Avx512 {
    #[inline(always)]
    unsafe fn load_sums(from: *const i32) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_loadu_epi32(from)) })
    }

    #[inline(always)]
    unsafe fn load_codes(from: *const i8) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(unsafe {
            let codes = _mm_loadu_si128(from.cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))
        })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn store_codes(self, scale: Self, to: *mut i8) {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            let v = _mm512_div_ps(self.0, scale.0);
            let numbers = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(v, v);
            // The limits are integers, so the upper one may be applied before rounding. The conversion maps values below all
            // integers to the least integer, and the narrowing saturates.
            let v = _mm512_min_ps(v, _mm512_set1_ps(127.0));
            let codes = _mm512_maskz_cvtps_epi32(numbers, v);
            _mm_storeu_si128(to.cast(), _mm512_cvtsepi32_epi8(codes));
        }
    }
}
