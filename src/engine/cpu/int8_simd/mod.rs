//! Sums of products of 8-bit codes, and the conversion of sums to results, on every instruction set.
//!
//! Each kernel is written once, generic over [`InstructionSet`], and [`dispatch`] compiles it twice for every
//! instruction set: for inputs that are never negative (after a ReLU) and for any inputs, because most instruction sets
//! only multiply unsigned by signed codes. Integer sums are exact, and the f32 operations after them are the same in
//! the same order, so results have the same bytes everywhere.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::engine::cpu::simd::{Isa, Lanes, Portable};
use crate::map::quantize;

/// An instruction set, for signed or for non-negative inputs.
///
/// # Safety
/// This applies to the traits below too. Call an implementation's methods only on a processor that has its instruction
/// set; [`dispatch`] ensures this. Pointers must be valid for the values that a method names.
pub(super) trait InstructionSet {
    /// Sums of the wide kernel.
    type Wide: Wide;
    /// Sums of the narrow kernel.
    type Narrow: Narrow;
    /// Lanes that convert sums to results.
    type Floats: Floats;
    /// The tile sizes that fit into the registers.
    const REGISTERS: Registers;
    /// Whether inputs enter the multiplication as code + 128. If so, sums start from the negative of what inputs of the
    /// zero point's code would add.
    const OFFSET: bool = false;
    /// Whether input codes may be negative. Only such inputs have zero points.
    const SIGNED: bool = true;
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
    /// Weights to multiply the inputs by.
    type Weights: Copy;
    /// All zeros.
    unsafe fn zero() -> Self;
    /// Adds the products of inputs and weights.
    unsafe fn dot(self, x: Self::Inputs, w: Self::Weights) -> Self;
    /// `-self`.
    unsafe fn negative(self) -> Self;
}

/// Sixteen sums, one per output channel.
pub(super) trait Wide: Sums {
    /// Reads 4 input codes and broadcasts them to all channels.
    unsafe fn quad(from: *const i8) -> Self::Inputs;
    /// Reads 64 weights, `[16][4]`.
    unsafe fn weights(from: *const i8) -> Self::Weights;
    /// Writes the sums in the order of the channels.
    unsafe fn store(self, to: *mut i32);
}

/// Partial sums over input channels, for one output channel. Only their total is meaningful.
pub(super) trait Narrow: Sums {
    /// Codes per step: 32 or 64.
    const CODES: usize;
    /// Reads [`Self::CODES`] input codes.
    unsafe fn inputs(from: *const i8) -> Self::Inputs;
    /// Reads [`Self::CODES`] weights.
    unsafe fn weights(from: *const i8) -> Self::Weights;
    /// Reads 32 input codes and sets the others, if any, to 0.
    #[inline(always)]
    unsafe fn half_inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees 32 valid codes. Sets that read 64 codes at once override this method.
        unsafe { Self::inputs(from) }
    }
    /// Reads 32 weights and sets the others, if any, to 0.
    #[inline(always)]
    unsafe fn half_weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        unsafe { Self::weights(from) }
    }
    /// The totals of four partial sums.
    unsafe fn totals(sums: [Self; 4]) -> [i32; 4];
}

/// Sixteen f32 lanes that convert integer sums to results.
pub(super) trait Floats: Lanes {
    /// Reads sixteen sums, each rounded to the nearest f32 (half to even).
    unsafe fn load_sums(from: *const i32) -> Self;
    /// Reads sixteen codes.
    unsafe fn load_codes(from: *const i8) -> Self;
    /// `self · other`.
    unsafe fn mul(self, other: Self) -> Self;
    /// `self / other`.
    unsafe fn div(self, other: Self) -> Self;
    /// Applies [`quantize`] to each lane and writes the sixteen codes.
    unsafe fn store_codes(self, scale: Self, to: *mut i8);
}

/// Work that [`dispatch`] compiles for each instruction set. `run` must be `#[inline(always)]`.
pub(super) trait Kernel {
    /// Does the work.
    ///
    /// # Safety
    /// The processor has the instruction set of `S`.
    unsafe fn run<S: InstructionSet>(self);
}

/// Runs a kernel with an instruction set. Falls back to the portable one if the machine lacks the instruction set.
/// `signed`: input codes may be negative.
pub(super) fn dispatch<K: Kernel>(isa: Isa, signed: bool, kernel: K) {
    if !isa.is_available() {
        // SAFETY: plain Rust needs no instruction set.
        return unsafe { kernel.run::<Plain>() };
    }
    match (isa, signed) {
        // SAFETY: `is_available` has just confirmed the instruction set.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Vnni, false) => unsafe { x86::avx512_vnni::<K, x86::Avx512Vnni>(kernel) },
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Vnni, true) => unsafe { x86::avx512_vnni::<K, x86::Avx512VnniOffset>(kernel) },
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        #[cfg(target_arch = "x86_64")]
        (Isa::AvxVnni, false) => unsafe { x86::avx_vnni::<K, x86::AvxVnni>(kernel) },
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        #[cfg(target_arch = "x86_64")]
        (Isa::AvxVnni, true) => unsafe { x86::avx_vnni::<K, x86::AvxVnniOffset>(kernel) },
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, false) => unsafe { x86::avx2::<K, x86::Avx2Unsigned>(kernel) },
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, true) => unsafe { x86::avx2::<K, x86::Avx2Signed>(kernel) },
        // Processors with AVX-512 but without VNNI are rare, and all have AVX2.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) => dispatch(Isa::Avx2, signed, kernel),
        // SAFETY: the caller guarantees the instruction set and valid pointers; see `InstructionSet`.
        #[cfg(target_arch = "aarch64")]
        (Isa::NeonDot, _) => unsafe { neon::neon_dot(kernel) },
        // SAFETY: every AArch64 processor that Rust targets has NEON.
        #[cfg(target_arch = "aarch64")]
        (Isa::Neon, _) => unsafe { kernel.run::<neon::Plain>() },
        // SAFETY: plain Rust needs no instruction set.
        _ => unsafe { kernel.run::<Plain>() },
    }
}

/// The portable instruction set, in plain Rust.
struct Plain;

impl InstructionSet for Plain {
    type Wide = PlainWide;
    type Narrow = PlainNarrow;
    type Floats = Portable;
    const REGISTERS: Registers = Registers::Two;
}

/// [`Sums`] in plain Rust: `N` sums, each of four products at a time.
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
        // SAFETY: the caller guarantees a pointer valid for the values; see `InstructionSet`.
        [unsafe { from.cast::<[i8; 4]>().read() }; 16]
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees a pointer valid for the values; see `InstructionSet`.
        unsafe { from.cast::<[[i8; 4]; 16]>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: the caller guarantees a pointer valid for the values; see `InstructionSet`.
        unsafe { to.cast::<[i32; 16]>().write(self.0) }
    }
}

impl Narrow for PlainNarrow {
    const CODES: usize = 32;

    #[inline(always)]
    unsafe fn inputs(from: *const i8) -> Self::Inputs {
        // SAFETY: the caller guarantees a pointer valid for the values; see `InstructionSet`.
        unsafe { from.cast::<[[i8; 4]; 8]>().read() }
    }

    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: the caller guarantees a pointer valid for the values; see `InstructionSet`.
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
        // SAFETY: the caller guarantees a pointer valid for the values; see `InstructionSet`.
        Self(unsafe { from.cast::<[i32; 16]>().read() }.map(|sum| sum as f32))
    }

    #[inline(always)]
    unsafe fn load_codes(from: *const i8) -> Self {
        // SAFETY: the caller guarantees a pointer valid for the values; see `InstructionSet`.
        Self(unsafe { from.cast::<[i8; 16]>().read() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] / other.0[i]))
    }

    #[inline(always)]
    unsafe fn store_codes(self, scale: Self, to: *mut i8) {
        let codes: [i8; 16] = std::array::from_fn(|i| quantize(self.0[i], scale.0[i]));
        // SAFETY: the caller guarantees a pointer valid for the values; see `InstructionSet`.
        unsafe { to.cast::<[i8; 16]>().write(codes) }
    }
}
