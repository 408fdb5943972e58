//! Sums of products of 8-bit codes, and the way from such sums back to codes, that every instruction
//! set offers.
//!
//! A kernel is written once, generic over [`Set`], and [`dispatch`] compiles it for each instruction
//! set, once for inputs that are never negative (behind a ReLU) and once for any inputs: most
//! instruction sets multiply unsigned with signed codes only. Integer sums are exact, and what follows
//! them are the same f32 operations in the same order, so results have the same bytes everywhere.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::engine::cpu::simd::{Isa, Lanes, Portable};
use crate::map::quantize;

/// An instruction set, for one kind of inputs.
///
/// # Safety
/// Here and in the traits below: the methods of an implementation may be called only on a processor
/// that has its instruction set; [`dispatch`] sees to that. Pointers must be valid for the values that
/// a method names.
pub(super) trait Set {
    /// What the wide kernel works with.
    type Wide: Wide;
    /// What the narrow kernel works with.
    type Narrow: Narrow;
    /// What both use to get from sums to results.
    type Floats: Floats;
    /// How much fits into the registers.
    const REGISTERS: Registers;
    /// Whether inputs are taken as code + 128, so that sums have to begin with the negative of what
    /// inputs of 0 would give.
    const OFFSET: bool = false;
}

/// Sizes of the tiles that fit into the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Registers {
    /// 32 registers of 16 sums.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Large,
    /// Wide: 6 steps by 16 channels.
    Six,
    /// Wide: 4 steps by 16 channels.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Four,
    /// Wide: 2 steps by 16 channels.
    Two,
}

/// Sums of products of codes, in i32.
pub(super) trait Sums: Copy {
    /// Input codes.
    type Inputs: Copy;
    /// The weights that they are multiplied with.
    type Weights: Copy;
    /// Zeros.
    unsafe fn zero() -> Self;
    /// Adds the products of inputs and weights.
    unsafe fn dot(self, x: Self::Inputs, w: Self::Weights) -> Self;
    /// `-self`.
    unsafe fn negative(self) -> Self;
}

/// Sixteen sums, one per output channel.
pub(super) trait Wide: Sums {
    /// Reads 4 input codes, for all channels.
    unsafe fn quad(from: *const i8) -> Self::Inputs;
    /// Reads 64 weights, `[16][4]`.
    unsafe fn weights(from: *const i8) -> Self::Weights;
    /// Writes the sums in the order of the channels.
    unsafe fn store(self, to: *mut i32);
}

/// Partial sums over input channels, for one output channel; only their total means something.
pub(super) trait Narrow: Sums {
    /// Codes taken at once: 32 or 64.
    const CODES: usize;
    /// Reads [`Self::CODES`] input codes.
    unsafe fn inputs(from: *const i8) -> Self::Inputs;
    /// Reads as many weights.
    unsafe fn weights(from: *const i8) -> Self::Weights;
    /// Reads 32 input codes; the others, if any, are 0.
    #[inline(always)]
    unsafe fn half_inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller's promise; sets that take 64 codes at once have their own.
        unsafe { Self::inputs(from) }
    }
    /// Reads 32 weights; the others, if any, are 0.
    #[inline(always)]
    unsafe fn half_weights(from: *const i8) -> Self::Weights {
        // SAFETY: as above.
        unsafe { Self::weights(from) }
    }
    /// The totals of four.
    unsafe fn totals(sums: [Self; 4]) -> [i32; 4];
}

/// Sixteen f32 lanes with what leads from integer sums to results.
pub(super) trait Floats: Lanes {
    /// Reads sixteen sums, each rounded to the nearest f32 (half to even).
    unsafe fn load_sums(from: *const i32) -> Self;
    /// Reads sixteen codes.
    unsafe fn load_codes(from: *const i8) -> Self;
    /// `self · other`.
    unsafe fn mul(self, other: Self) -> Self;
    /// Writes sixteen codes: [`quantize`] of each lane.
    unsafe fn store_codes(self, scale: Self, to: *mut i8);
}

/// Work that [`dispatch`] compiles for each instruction set. `run` must be `#[inline(always)]`.
pub(super) trait Kernel {
    /// Does the work.
    ///
    /// # Safety
    /// The processor has the instruction set of `S`.
    unsafe fn run<S: Set>(self);
}

/// Runs a kernel with an instruction set; one that the machine lacks falls back to the portable one.
/// `signed`: input codes may be negative.
pub(super) fn dispatch<K: Kernel>(isa: Isa, signed: bool, kernel: K) {
    if !isa.is_available() {
        // SAFETY: needs no instruction set.
        return unsafe { kernel.run::<Plain>() };
    }
    match (isa, signed) {
        // SAFETY: just checked that the processor has it.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Vnni, false) => unsafe { x86::avx512_vnni::<K, x86::Avx512Vnni>(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Vnni, true) => unsafe { x86::avx512_vnni::<K, x86::Avx512VnniOffset>(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::AvxVnni, false) => unsafe { x86::avx_vnni::<K, x86::AvxVnni>(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::AvxVnni, true) => unsafe { x86::avx_vnni::<K, x86::AvxVnniOffset>(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, false) => unsafe { x86::avx2::<K, x86::Avx2Unsigned>(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, true) => unsafe { x86::avx2::<K, x86::Avx2Signed>(kernel) },
        // Processors with AVX-512 and without VNNI are few, and all have AVX2.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) => dispatch(Isa::Avx2, signed, kernel),
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        (Isa::NeonDot, _) => unsafe { neon::neon_dot(kernel) },
        // SAFETY: every AArch64 processor that runs Rust's targets has NEON.
        #[cfg(target_arch = "aarch64")]
        (Isa::Neon, _) => unsafe { kernel.run::<neon::Plain>() },
        // SAFETY: needs no instruction set.
        _ => unsafe { kernel.run::<Plain>() },
    }
}

/// Plain Rust.
struct Plain;

impl Set for Plain {
    type Wide = PlainWide;
    type Narrow = PlainNarrow;
    type Floats = Portable;
    const REGISTERS: Registers = Registers::Two;
}

/// [`Sums`] in plain Rust, of `N` times four products.
#[derive(Clone, Copy)]
struct PlainSums<const N: usize>([i32; N]);
/// [`Wide`] in plain Rust.
type PlainWide = PlainSums<16>;
/// [`Narrow`] in plain Rust.
type PlainNarrow = PlainSums<8>;

impl<const N: usize> Sums for PlainSums<N> {
    type Inputs = [[i8; 4]; N];
    type Weights = [[i8; 4]; N];

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; N])
    }

    #[inline(always)]
    unsafe fn dot(self, x: Self::Inputs, w: Self::Weights) -> Self {
        let product = |i: usize, k: usize| i32::from(x[i][k]) * i32::from(w[i][k]);
        Self(std::array::from_fn(|i| {
            let products = product(i, 0) + product(i, 1) + product(i, 2) + product(i, 3);
            self.0[i].wrapping_add(products)
        }))
    }

    #[inline(always)]
    unsafe fn negative(self) -> Self {
        Self(self.0.map(i32::wrapping_neg))
    }
}

impl Wide for PlainWide {
    #[inline(always)]
    unsafe fn quad(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller's promise.
        [unsafe { from.cast::<[i8; 4]>().read() }; 16]
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[[i8; 4]; 16]>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[i32; 16]>().write(self.0) }
    }
}

impl Narrow for PlainNarrow {
    const CODES: usize = 32;

    #[inline(always)]
    unsafe fn inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[[i8; 4]; 8]>().read() }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller's promise.
        unsafe { Self::inputs(from) }
    }

    #[inline(always)]
    unsafe fn totals(sums: [Self; 4]) -> [i32; 4] {
        sums.map(|sum| sum.0.into_iter().fold(0, i32::wrapping_add))
    }
}

impl Floats for Portable {
    #[inline(always)]
    unsafe fn load_sums(from: *const i32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[i32; 16]>().read() }.map(|sum| sum as f32))
    }

    #[inline(always)]
    unsafe fn load_codes(from: *const i8) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[i8; 16]>().read() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }

    #[inline(always)]
    unsafe fn store_codes(self, scale: Self, to: *mut i8) {
        let codes: [i8; 16] = std::array::from_fn(|i| quantize(self.0[i], scale.0[i]));
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[i8; 16]>().write(codes) }
    }
}
