//! An interpreter of PTX, which runs what nvcc makes of the kernels where there is no GPU.
//!
//! It executes warps of 32 lanes with one program counter each, blocks one after another (or a few at a time),
//! and reports what a GPU would do silently: accesses out of bounds, reads of memory that was never written,
//! races, barriers that some threads miss. Addresses of device memory are host addresses.
//!
//! Sources: NVIDIA's "Parallel Thread Execution ISA" 9.0 for all instructions. Approximations (`ex2.approx`,
//! `sin.approx`, …) are more exact than hardware's, so their bits differ.

mod access;
mod arith;
mod block;
mod builder;
mod clocks;
mod collective;
mod convert;
mod copies;
mod decode;
mod execute;
mod fast;
mod fault;
mod float;
mod layout;
mod lex;
mod memory;
mod mma;
mod module;
mod numbers;
mod operands;
mod parse;
mod race;
mod random;
mod report;
mod run;
mod steps;
mod transfer;
mod warp;

use std::collections::BTreeMap;

pub use fault::{Error, Fault, FaultKind, Place, Space};
pub use memory::{Memory, run};
pub use module::Kernel;

use builder::{Builder, Variables};
use module::VARIABLE_BASE;
use parse::{Cursor, Outline, Segment};

/// A parsed PTX module.
#[derive(Clone, Debug)]
pub struct Module {
    kernels: Vec<Kernel>,
    /// Contents of the module's variables. Each launch starts with a copy.
    pub(crate) variables: Vec<u8>,
    lines: Vec<String>,
}

impl Module {
    /// Parses and decodes a PTX text.
    pub fn parse(text: &str) -> Result<Module, Error> {
        let tokens = lex::lex(text)?;
        let mut cursor = Cursor::new(&tokens);
        let outline = cursor.outline()?;
        let (addresses, variables) = place_variables(&outline);
        let mut kernels = Vec::new();
        for entry in outline.functions.iter().filter(|f| f.entry) {
            // Where dynamic shared memory begins shows when all static variables are known.
            let mut first = Builder::new(&outline, &addresses, entry, 0);
            first.entry(&cursor, entry)?;
            let align = first.dynamic_align as usize;
            let at = first.kernel.static_shared.div_ceil(align) * align;
            let mut builder = Builder::new(&outline, &addresses, entry, at as u64);
            builder.entry(&cursor, entry)?;
            let mut kernel = builder.kernel;
            if builder.dynamic_align > 1 {
                kernel.static_shared = at;
            }
            layout::arrange(&mut kernel, &builder.labels)?;
            kernels.push(kernel);
        }
        let lines = text.lines().map(|line| line.trim().to_string()).collect();
        Ok(Module {
            kernels,
            variables,
            lines,
        })
    }

    /// The kernel of a name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// All kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.kernels.iter()
    }
}

fn place_variables(outline: &Outline) -> (Variables, Vec<u8>) {
    let (mut addresses, mut image) = (Variables::new(), Vec::new());
    for (segment, variable) in &outline.variables {
        if *segment != Segment::Global {
            continue;
        }
        let start = image.len().div_ceil(variable.align.max(1)) * variable.align.max(1);
        image.resize(start, 0);
        image.extend(variable.initial.iter().flatten());
        image.resize(start + variable.bytes.unwrap_or(0), 0);
        addresses.insert(variable.name.clone(), VARIABLE_BASE + start as u64);
    }
    (addresses, image)
}

/// A launch of a kernel.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// Name of the kernel.
    pub kernel: &'a str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The parameter block.
    pub params: &'a [u8],
}

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Chooses the order of blocks, warps and, if `independent`, threads. 0: in order.
    pub seed: u64,
    /// Threads of a warp advance on their own. Otherwise they meet again as early as possible.
    pub independent: bool,
    /// Reports races.
    pub races: bool,
    /// Architecture, for example 75; 0 for any.
    pub architecture: u32,
}

/// What a launch executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions issued, each for the lanes of a warp that run together.
    pub instructions: u64,
    /// The same for each thread.
    pub thread_instructions: u64,
    /// Bytes that threads read and wrote in global memory.
    pub global_bytes: u64,
    /// Bytes that threads read and wrote in shared memory.
    pub shared_bytes: u64,
    /// `mma` instructions.
    pub mma: u64,
    /// Instructions issued, by opcode with qualifiers.
    pub by_opcode: BTreeMap<String, u64>,
}
