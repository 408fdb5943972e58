//! AVX2 and AVX-VNNI; see the module above.

use std::arch::x86_64::*;

use crate::engine::cpu::int8_simd::{Floats, Narrow, Sums, Wide};
use crate::engine::cpu::simd::x86::Avx2;

/// 8 sums of AVX-VNNI, or of AVX2's multiplication of unsigned by signed bytes. `OFFSET`: inputs enter as code + 128
/// (VNNI only).
#[derive(Clone, Copy)]
pub(in super::super) struct Bytes256<const VNNI: bool, const OFFSET: bool>(__m256i);

impl<const VNNI: bool, const OFFSET: bool> Bytes256<VNNI, OFFSET> {
    /// Converts codes to the form that the multiplication takes.
    #[inline(always)]
    unsafe fn offset(codes: __m256i) -> __m256i {
        if !OFFSET {
            return codes;
        }
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { _mm256_xor_si256(codes, _mm256_set1_epi8(-128)) }
    }
}

impl<const VNNI: bool, const OFFSET: bool> Sums for Bytes256<VNNI, OFFSET> {
    type Inputs = __m256i;
    type Weights = __m256i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn dot(self, x: Self::Inputs, w: Self::Weights) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(unsafe {
            if VNNI {
                _mm256_dpbusd_avx_epi32(self.0, x, w)
            } else {
                // For inputs in 0..=127, the sum of a pair is at least 2 · 127 · -128, which fits into 16 bits.
                let pairs = _mm256_maddubs_epi16(x, w);
                let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                _mm256_add_epi32(self.0, fours)
            }
        })
    }

    #[inline(always)]
    unsafe fn negative(self) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self(unsafe { _mm256_sub_epi32(_mm256_setzero_si256(), self.0) })
    }
}

impl<const VNNI: bool, const OFFSET: bool> Narrow for Bytes256<VNNI, OFFSET> {
    const CODES: usize = 32;

    #[inline(always)]
    unsafe fn inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { Self::offset(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn totals(sums: [Self; 4]) -> [i32; 4] {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { totals(sums.map(|sum| sum.0)) }
    }
}

/// 16 sums in two registers.
#[derive(Clone, Copy)]
pub(in super::super) struct Pair256<const VNNI: bool, const OFFSET: bool>(
    [Bytes256<VNNI, OFFSET>; 2],
);

impl<const VNNI: bool, const OFFSET: bool> Sums for Pair256<VNNI, OFFSET> {
    type Inputs = __m256i;
    type Weights = [__m256i; 2];

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self([unsafe { Bytes256::zero() }; 2])
    }

    #[inline(always)]
    unsafe fn dot(self, x: Self::Inputs, w: Self::Weights) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { Self([self.0[0].dot(x, w[0]), self.0[1].dot(x, w[1])]) }
    }

    #[inline(always)]
    unsafe fn negative(self) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { Self([self.0[0].negative(), self.0[1].negative()]) }
    }
}

impl<const VNNI: bool, const OFFSET: bool> Wide for Pair256<VNNI, OFFSET> {
    #[inline(always)]
    unsafe fn quad(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            let codes = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
            Bytes256::<VNNI, OFFSET>::offset(codes)
        }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            [
                _mm256_loadu_si256(from.cast()),
                _mm256_loadu_si256(from.add(32).cast()),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        for (i, sums) in self.0.into_iter().enumerate() {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
            unsafe { _mm256_storeu_si256(to.add(8 * i).cast(), sums.0) }
        }
    }
}

/// Sums of AVX2's multiplication of 16-bit integers, in `N` registers.
///
/// Wide, with 4 registers: register i holds two sums for each of the channels 4·i to 4·i + 3.
#[derive(Clone, Copy)]
pub(in super::super) struct Words256<const N: usize>([__m256i; N]);

impl<const N: usize> Words256<N> {
    /// Reads 16 codes per register.
    #[inline(always)]
    unsafe fn load_words(from: *const i8) -> [__m256i; N] {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            let mut words = [_mm256_setzero_si256(); N];
            for (i, words) in words.iter_mut().enumerate() {
                let codes = _mm_loadu_si128(from.add(16 * i).cast());
                *words = _mm256_cvtepi8_epi16(codes);
            }
            words
        }
    }
}

impl<const N: usize> Sums for Words256<N> {
    type Inputs = [__m256i; N];
    type Weights = [__m256i; N];

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        Self([unsafe { _mm256_setzero_si256() }; N])
    }

    #[inline(always)]
    unsafe fn dot(self, x: Self::Inputs, w: Self::Weights) -> Self {
        let mut sums = self.0;
        for i in 0..N {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
            sums[i] = unsafe { _mm256_add_epi32(sums[i], _mm256_madd_epi16(x[i], w[i])) };
        }
        Self(sums)
    }

    #[inline(always)]
    unsafe fn negative(self) -> Self {
        let mut sums = self.0;
        for sum in &mut sums {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
            *sum = unsafe { _mm256_sub_epi32(_mm256_setzero_si256(), *sum) };
        }
        Self(sums)
    }
}

impl Wide for Words256<4> {
    #[inline(always)]
    unsafe fn quad(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        let codes = unsafe {
            let codes = _mm_set1_epi32(from.cast::<i32>().read_unaligned());
            _mm256_cvtepi8_epi16(codes)
        };
        [codes; 4]
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { Self::load_words(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        for (i, half) in self.0.chunks_exact(2).enumerate() {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
            unsafe {
                // Adds neighbours within each half of the registers; the channels are 0 1 4 5, 2 3 6 7.
                let sums = _mm256_hadd_epi32(half[0], half[1]);
                let sums = _mm256_permute4x64_epi64::<0b11_01_10_00>(sums);
                _mm256_storeu_si256(to.add(8 * i).cast(), sums);
            }
        }
    }
}

impl Narrow for Words256<2> {
    const CODES: usize = 32;

    #[inline(always)]
    unsafe fn inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { Self::load_words(from) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { Self::inputs(from) }
    }

    #[inline(always)]
    unsafe fn totals(sums: [Self; 4]) -> [i32; 4] {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            let mut halves = [_mm256_setzero_si256(); 4];
            for (half, Self([a, b])) in halves.iter_mut().zip(sums) {
                *half = _mm256_add_epi32(a, b);
            }
            totals(halves)
        }
    }
}

impl Floats for Avx2 {
    #[inline(always)]
    unsafe fn load_sums(from: *const i32) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            Self(
                _mm256_cvtepi32_ps(_mm256_loadu_si256(from.cast())),
                _mm256_cvtepi32_ps(_mm256_loadu_si256(from.add(8).cast())),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_codes(from: *const i8) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            let codes = _mm_loadu_si128(from.cast());
            let high = _mm_srli_si128::<8>(codes);
            Self(
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)),
            )
        }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            Self(
                _mm256_mul_ps(self.0, other.0),
                _mm256_mul_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            Self(
                _mm256_div_ps(self.0, other.0),
                _mm256_div_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn store_codes(self, scale: Self, to: *mut i8) {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe {
            let (low, high) = (codes(self.0, scale.0), codes(self.1, scale.1));
            // Within each half of the registers: low 0..4, high 0..4; low 4..8, high 4..8.
            let words = _mm256_packs_epi32(low, high);
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let (low, high) = (
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(to.cast(), _mm_packs_epi16(low, high));
        }
    }
}

/// Quantizes eight values; see [`Floats::store_codes`].
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn codes(values: __m256, scale: __m256) -> __m256i {
    // SAFETY: the caller guarantees AVX2.
    unsafe {
        let v = _mm256_div_ps(values, scale);
        let numbers = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_ORD_Q>(v, v));
        // The same steps as with AVX-512; see the comment there.
        let v = _mm256_min_ps(v, _mm256_set1_ps(127.0));
        _mm256_and_si256(_mm256_cvtps_epi32(v), numbers)
    }
}

/// The totals of four registers.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn totals([a, b, c, d]: [__m256i; 4]) -> [i32; 4] {
    // SAFETY: the caller guarantees AVX2.
    unsafe {
        let v = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
        let mut totals = [0; 4];
        _mm_storeu_si128(totals.as_mut_ptr().cast(), v);
        totals
    }
}
