//! AVX-512 VNNI; see the module above.

use std::arch::x86_64::*;

use crate::engine::cpu::int8_simd::x86::avx2::totals;
use crate::engine::cpu::int8_simd::{Floats, Narrow, Sums, Wide};
use crate::engine::cpu::simd::x86::Avx512;

// SAFETY, for all unsafe blocks below: the caller promises the instruction set and valid pointers; see
// `Set`.

/// 16 sums by AVX-512 VNNI; `OFFSET`: inputs are code + 128.
#[derive(Clone, Copy)]
pub(in super::super) struct Vnni512<const OFFSET: bool>(__m512i);

impl<const OFFSET: bool> Vnni512<OFFSET> {
    /// Codes as the multiplication takes them.
    #[inline(always)]
    unsafe fn offset(codes: __m512i) -> __m512i {
        if !OFFSET {
            return codes;
        }
        // SAFETY: as above.
        unsafe { _mm512_xor_si512(codes, _mm512_set1_epi8(-128)) }
    }
}

impl<const OFFSET: bool> Sums for Vnni512<OFFSET> {
    type Inputs = __m512i;
    type Weights = __m512i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn dot(self, x: Self::Inputs, w: Self::Weights) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_dpbusd_epi32(self.0, x, w) })
    }

    #[inline(always)]
    unsafe fn negative(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_sub_epi32(_mm512_setzero_si512(), self.0) })
    }
}

impl<const OFFSET: bool> Wide for Vnni512<OFFSET> {
    #[inline(always)]
    unsafe fn quad(from: *const i8) -> Self::Inputs {
        // SAFETY: as above.
        unsafe { Self::offset(_mm512_set1_epi32(from.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: as above.
        unsafe { _mm512_loadu_epi8(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_epi32(to, self.0) }
    }
}

impl<const OFFSET: bool> Narrow for Vnni512<OFFSET> {
    const CODES: usize = 64;

    #[inline(always)]
    unsafe fn inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: as above.
        unsafe { Self::offset(_mm512_loadu_epi8(from)) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: as above.
        unsafe { _mm512_loadu_epi8(from) }
    }

    #[inline(always)]
    unsafe fn half_inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: as above.
        unsafe { Self::offset(Self::half_weights(from)) }
    }

    #[inline(always)]
    unsafe fn half_weights(from: *const i8) -> Self::Weights {
        // SAFETY: as above.
        unsafe { _mm512_zextsi256_si512(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn totals(sums: [Self; 4]) -> [i32; 4] {
        // SAFETY: as above; AVX-512F includes AVX2.
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
        // SAFETY: as above.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_loadu_epi32(from)) })
    }

    #[inline(always)]
    unsafe fn load_codes(from: *const i8) -> Self {
        // SAFETY: as above.
        Self(unsafe {
            let codes = _mm_loadu_si128(from.cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))
        })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn store_codes(self, scale: Self, to: *mut i8) {
        // SAFETY: as above.
        unsafe {
            let v = _mm512_div_ps(self.0, scale.0);
            let numbers = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(v, v);
            // The limits are whole, so it does not matter that the upper one comes before the rounding.
            // The conversion makes the least integer of values below all integers, and the
            // narrowing keeps to the limits.
            let v = _mm512_min_ps(v, _mm512_set1_ps(127.0));
            let codes = _mm512_maskz_cvtps_epi32(numbers, v);
            _mm_storeu_si128(to.cast(), _mm512_cvtsepi32_epi8(codes));
        }
    }
}
