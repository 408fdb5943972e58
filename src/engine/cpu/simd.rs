//! Instruction sets, and sixteen f32 lanes on each of them.
//!
//! Each kernel is written once, generic over [`Lanes`], and [`dispatch`] compiles it for every instruction set. All of
//! them compute an element with the same operations in the same order, including fused multiply-adds, so results have
//! the same bytes everywhere.
#![allow(unsafe_code)]

use crate::engine::EngineError;

/// An instruction set with kernels in this engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
    /// x86-64 with AVX-512 F and BW.
    Avx512,
    /// x86-64 with AVX2, FMA and AVX-VNNI.
    AvxVnni,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// AArch64 with the dot-product instructions.
    NeonDot,
    /// AArch64.
    Neon,
    /// Any processor. Slow if the compiler cannot assume a fused multiply-add.
    Portable,
}

impl Isa {
    /// All instruction sets, best first.
    pub const ALL: [Self; 7] = [
        Self::Avx512Vnni,
        Self::Avx512,
        Self::AvxVnni,
        Self::Avx2,
        Self::NeonDot,
        Self::Neon,
        Self::Portable,
    ];

    /// Name, as used by the environment variable `CENTERPOINT_ISA` and `cp-build inspect`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Vnni => "avx512vnni",
            Self::Avx512 => "avx512",
            Self::AvxVnni => "avxvnni",
            Self::Avx2 => "avx2",
            Self::NeonDot => "neondot",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// Whether this machine supports it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                Self::Avx512.is_available()
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            Self::Portable => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The one that `CENTERPOINT_ISA` names, else the machine's best.
    ///
    /// # Errors
    /// [`EngineError::Device`] if the variable names none, or one that the machine lacks.
    #[cfg(feature = "build")]
    pub(crate) fn best() -> Result<Self, EngineError> {
        Self::choose(None)
    }

    /// The requested instruction set, else the one that `CENTERPOINT_ISA` names, else the machine's best.
    pub(super) fn choose(asked: Option<Self>) -> Result<Self, EngineError> {
        let refuse = |device: &str, reason: &str| EngineError::Device {
            device: device.to_owned(),
            reason: reason.to_owned(),
        };
        let isa = match (asked, std::env::var("CENTERPOINT_ISA")) {
            (Some(isa), _) => Some(isa),
            (None, Ok(name)) if !name.is_empty() => {
                let known = Self::ALL.into_iter().find(|isa| isa.name() == name);
                let names = Self::ALL.map(Self::name).join(", ");
                let reason = format!("CENTERPOINT_ISA must be one of {names}");
                Some(known.ok_or_else(|| refuse(&name, &reason))?)
            }
            _ => Self::ALL.into_iter().find(|isa| isa.is_available()),
        };
        match isa {
            Some(isa) if isa.is_available() => Ok(isa),
            Some(isa) => Err(refuse(
                isa.name(),
                "this processor lacks the instruction set",
            )),
            None => Ok(Self::Portable),
        }
    }
}

/// Sixteen f32 lanes.
///
/// # Safety
/// Call an implementation's methods only on a processor that has its instruction set; [`dispatch`] ensures this.
/// Pointers must be valid for 16 values (one value for `splat`).
pub(crate) trait Lanes: Copy {
    /// Whether the registers hold a tile of 12 pixels by 2 blocks (32 registers of 16 lanes).
    const LARGE: bool;
    /// Reads sixteen consecutive values.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes sixteen consecutive values.
    unsafe fn store(self, to: *mut f32);
    /// Reads one value into all lanes.
    unsafe fn splat(from: *const f32) -> Self;
    /// `self + a · b`, rounded once.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self` if it is above 0, else 0 (also for NaN).
    unsafe fn relu(self) -> Self;
    /// The sum of the lanes. Adds halves until one lane is left (i + 8, i + 4, i + 2, i + 1).
    unsafe fn sum(self) -> f32;
}

/// Work that [`dispatch`] compiles for each instruction set. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    /// Does the work with lanes `L`.
    ///
    /// # Safety
    /// The processor has the instruction set of `L`.
    unsafe fn run<L: Lanes>(self);
}

/// Runs a kernel with an instruction set. Falls back to the portable lanes if the machine lacks the instruction set.
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) {
    if !isa.is_available() {
        // SAFETY: portable lanes need no instruction set; the kernel upholds its own pointers.
        return unsafe { kernel.run::<Portable>() };
    }
    match isa {
        // SAFETY: `is_available` has just confirmed the instruction set.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Avx512 => unsafe { x86::avx512(kernel) },
        // SAFETY: `is_available` has just confirmed the instruction set.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni | Isa::Avx2 => unsafe { x86::avx2(kernel) },
        // SAFETY: every AArch64 processor that Rust targets has NEON.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot | Isa::Neon => unsafe { kernel.run::<neon::Neon>() },
        // SAFETY: portable lanes need no instruction set; the kernel upholds its own pointers.
        _ => unsafe { kernel.run::<Portable>() },
    }
}

/// [`Lanes`] in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable(pub(super) [f32; 16]);

impl Lanes for Portable {
    const LARGE: bool = false;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller guarantees a valid pointer; see `Lanes`.
        Self(unsafe { from.cast::<[f32; 16]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller guarantees a valid pointer; see `Lanes`.
        unsafe { to.cast::<[f32; 16]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller guarantees a valid pointer; see `Lanes`.
        Self([unsafe { *from }; 16])
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| a.0[i].mul_add(b.0[i], self.0[i])))
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn relu(self) -> Self {
        Self(self.0.map(|v| if v > 0.0 { v } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut v = self.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] += v[i + half];
            }
        }
        v[0]
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::{Kernel, Lanes};
    use std::arch::x86_64::*;

    /// Runs a kernel with AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512<K: Kernel>(kernel: K) {
        // SAFETY: the caller of this function guarantees the instruction set.
        unsafe { kernel.run::<Avx512>() }
    }

    /// Runs a kernel with AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2<K: Kernel>(kernel: K) {
        // SAFETY: the caller of this function guarantees the instruction set.
        unsafe { kernel.run::<Avx2>() }
    }

    /// One register.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(pub(in super::super) __m512);

    impl Lanes for Avx512 {
        const LARGE: bool = true;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            Self(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn splat(from: *const f32) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            Self(unsafe { _mm512_set1_ps(*from) })
        }

        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // The second operand wins for NaN and for two zeros.
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            Self(unsafe { _mm512_max_ps(self.0, _mm512_setzero_ps()) })
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: the caller guarantees AVX-512F, which includes AVX.
            unsafe {
                let high = _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(
                    _mm512_castps_pd(self.0),
                )));
                sum_register(_mm256_add_ps(
                    _mm512_castps512_ps256(self.0),
                    _mm512_castps512_ps256(high),
                ))
            }
        }
    }

    /// Two registers.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(pub(in super::super) __m256, pub(in super::super) __m256);

    impl Lanes for Avx2 {
        const LARGE: bool = false;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }

        #[inline(always)]
        unsafe fn splat(from: *const f32) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            let v = unsafe { _mm256_broadcast_ss(&*from) };
            Self(v, v)
        }

        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            unsafe {
                Self(
                    _mm256_fmadd_ps(a.0, b.0, self.0),
                    _mm256_fmadd_ps(a.1, b.1, self.1),
                )
            }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            unsafe {
                Self(
                    _mm256_add_ps(self.0, other.0),
                    _mm256_add_ps(self.1, other.1),
                )
            }
        }

        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // The second operand wins for NaN and for two zeros.
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            unsafe {
                let zero = _mm256_setzero_ps();
                Self(_mm256_max_ps(self.0, zero), _mm256_max_ps(self.1, zero))
            }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            unsafe { sum_register(_mm256_add_ps(self.0, self.1)) }
        }
    }

    /// The sum of one register's eight lanes, in the order of [`Lanes::sum`].
    ///
    /// # Safety
    /// The processor has AVX.
    #[inline(always)]
    unsafe fn sum_register(v: __m256) -> f32 {
        // SAFETY: the caller guarantees a valid pointer; see `Lanes`.
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod neon {
    use super::Lanes;
    use std::arch::aarch64::*;

    /// Four registers.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Neon(pub(in super::super) [float32x4_t; 4]);

    impl Lanes for Neon {
        const LARGE: bool = false;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            Self(std::array::from_fn(|i| unsafe {
                vld1q_f32(from.add(4 * i))
            }))
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            for (i, v) in self.0.into_iter().enumerate() {
                // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
                unsafe { vst1q_f32(to.add(4 * i), v) }
            }
        }

        #[inline(always)]
        unsafe fn splat(from: *const f32) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            Self([unsafe { vld1q_dup_f32(from) }; 4])
        }

        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            Self(std::array::from_fn(|i| unsafe {
                vfmaq_f32(self.0[i], a.0[i], b.0[i])
            }))
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            Self(std::array::from_fn(|i| unsafe {
                vaddq_f32(self.0[i], other.0[i])
            }))
        }

        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // A comparison and a selection, because `vmaxq_f32` keeps NaN.
            Self(self.0.map(|v| {
                // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
                unsafe {
                    let zero = vdupq_n_f32(0.0);
                    vbslq_f32(vcgtq_f32(v, zero), v, zero)
                }
            }))
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            let [v0, v1, v2, v3] = self.0;
            // SAFETY: the caller guarantees the instruction set and valid pointers; see `Lanes`.
            unsafe {
                let v = vaddq_f32(vaddq_f32(v0, v2), vaddq_f32(v1, v3));
                let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
                vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
            }
        }
    }
}
