//! [`InstructionSet`](super::InstructionSet) for x86-64.
//!
//! VNNI multiplies unsigned inputs by signed weights, so inputs that may be negative enter as code + 128. AVX2 has the
//! same multiplication but adds two products in 16 bits, which cannot overflow only for inputs in 0..=127; other inputs
//! are widened to 16 bits.
//!
//! This module has no closures: they would be compiled without the instruction set, and each intrinsic in them would
//! become a call.

mod avx2;
mod avx512;

use crate::engine::cpu::int8_simd::x86::avx2::{Bytes256, Pair256, Words256};
use crate::engine::cpu::int8_simd::x86::avx512::Vnni512;
use crate::engine::cpu::int8_simd::{InstructionSet, Kernel, Registers};
use crate::engine::cpu::simd::x86::{Avx2, Avx512};

/// Runs a kernel with AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
pub(super) fn avx512_vnni<K: Kernel, S: InstructionSet>(kernel: K) {
    // SAFETY: the caller of this function guarantees the instruction set.
    unsafe { kernel.run::<S>() }
}

/// Runs a kernel with AVX2, FMA and AVX-VNNI.
#[target_feature(enable = "avxvnni,avx2,fma")]
pub(super) fn avx_vnni<K: Kernel, S: InstructionSet>(kernel: K) {
    // SAFETY: the caller of this function guarantees the instruction set.
    unsafe { kernel.run::<S>() }
}

/// Runs a kernel with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) fn avx2<K: Kernel, S: InstructionSet>(kernel: K) {
    // SAFETY: the caller of this function guarantees the instruction set.
    unsafe { kernel.run::<S>() }
}

/// AVX-512 VNNI for inputs in 0..=127.
pub(super) struct Avx512Vnni;

impl InstructionSet for Avx512Vnni {
    type Wide = Vnni512<false>;
    type Narrow = Vnni512<false>;
    type Floats = Avx512;
    const REGISTERS: Registers = Registers::Large;
    const SIGNED: bool = false;
}

/// AVX-512 VNNI for any inputs.
pub(super) struct Avx512VnniOffset;

impl InstructionSet for Avx512VnniOffset {
    type Wide = Vnni512<true>;
    type Narrow = Vnni512<true>;
    type Floats = Avx512;
    const REGISTERS: Registers = Registers::Large;
    const OFFSET: bool = true;
}

/// AVX-VNNI for inputs in 0..=127.
pub(super) struct AvxVnni;

impl InstructionSet for AvxVnni {
    type Wide = Pair256<true, false>;
    type Narrow = Bytes256<true, false>;
    type Floats = Avx2;
    const REGISTERS: Registers = Registers::Six;
    const SIGNED: bool = false;
}

/// AVX-VNNI for any inputs.
pub(super) struct AvxVnniOffset;

impl InstructionSet for AvxVnniOffset {
    type Wide = Pair256<true, true>;
    type Narrow = Bytes256<true, true>;
    type Floats = Avx2;
    const REGISTERS: Registers = Registers::Six;
    const OFFSET: bool = true;
}

/// AVX2 for inputs in 0..=127.
pub(super) struct Avx2Unsigned;

impl InstructionSet for Avx2Unsigned {
    type Wide = Pair256<false, false>;
    type Narrow = Bytes256<false, false>;
    type Floats = Avx2;
    const REGISTERS: Registers = Registers::Four;
    const SIGNED: bool = false;
}

/// AVX2 for any inputs.
pub(super) struct Avx2Signed;

impl InstructionSet for Avx2Signed {
    type Wide = Words256<4>;
    type Narrow = Words256<2>;
    type Floats = Avx2;
    const REGISTERS: Registers = Registers::Two;
}
