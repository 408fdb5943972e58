//! Errors: of a text (`Error`), and of a launch (`Fault`), with the PTX line, block and thread.

use std::fmt;

/// Why a text is no module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not PTX.
    #[error("PTX line {line}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The interpreter lacks an instruction.
    #[error("PTX line {line}: the instruction `{instruction}` is unknown")]
    Unknown {
        /// Line, from 1.
        line: usize,
        /// The opcode with its qualifiers.
        instruction: String,
    },
}

/// A memory space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Device memory and the module's variables.
    Global,
    /// A block's shared memory.
    Shared,
    /// A thread's local memory.
    Local,
    /// The kernel's parameters.
    Param,
    /// Any of them: the address decides.
    Generic,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Space::Global => "global",
            Space::Shared => "shared",
            Space::Local => "local",
            Space::Param => "parameter",
            Space::Generic => "generic",
        })
    }
}

/// A place in a launch: a thread at a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// PTX line, from 1.
    pub line: usize,
    /// The line's text.
    pub text: String,
    /// Index of the block.
    pub block: [u32; 3],
    /// Index of the thread in its block.
    pub thread: [u32; 3],
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (b, t) = (self.block, self.thread);
        write!(
            f,
            "PTX line {} `{}`, block {},{},{} thread {},{},{}",
            self.line, self.text, b[0], b[1], b[2], t[0], t[1], t[2]
        )
    }
}

/// What is wrong with a launch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// The access is outside of every allocation.
    #[error("{bytes} bytes at {address:#x} are outside of {space} memory")]
    OutOfBounds {
        /// The space.
        space: Space,
        /// Address in the space.
        address: u64,
        /// Bytes of the access.
        bytes: usize,
    },
    /// The address is no multiple of the access's size.
    #[error("{bytes} bytes at {address:#x} of {space} memory are misaligned")]
    Misaligned {
        /// The space.
        space: Space,
        /// Address in the space.
        address: u64,
        /// Bytes of the access.
        bytes: usize,
    },
    /// A write to memory that a kernel can only read.
    #[error("{address:#x} of {space} memory is read-only")]
    ReadOnly {
        /// The space.
        space: Space,
        /// Address in the space.
        address: u64,
    },
    /// A read of memory that was never written.
    #[error("{bytes} bytes at {address:#x} of {space} memory were never written")]
    UninitialisedMemory {
        /// The space.
        space: Space,
        /// Address in the space.
        address: u64,
        /// Bytes of the access.
        bytes: usize,
    },
    /// A result depends on a register that was never written.
    #[error("register `{register}` was never written")]
    UninitialisedRegister {
        /// Name of the register.
        register: String,
    },
    /// Two threads access the same memory without order, and one of them writes.
    #[error("race at {address:#x} of {space} memory with {other}")]
    Race {
        /// The space.
        space: Space,
        /// Address in the space.
        address: u64,
        /// The earlier access.
        other: Box<Place>,
    },
    /// `cp.async` has not been waited for.
    #[error(
        "{address:#x} of shared memory is the target of a copy that was not waited for: {other}"
    )]
    PendingCopy {
        /// Address in shared memory.
        address: u64,
        /// The copy.
        other: Box<Place>,
    },
    /// Threads of one warp wait at different aligned barriers.
    #[error("threads of one warp are at different barriers; the other is {other}")]
    BarrierDivergence {
        /// The other thread.
        other: Box<Place>,
    },
    /// Two barriers of the same number differ in their thread count or their kind.
    #[error("barrier {barrier} is used in two ways; the other is {other}")]
    BarrierMismatch {
        /// Number of the barrier.
        barrier: u32,
        /// The other thread.
        other: Box<Place>,
    },
    /// A barrier's number or thread count is invalid.
    #[error("barrier {barrier} for {threads} threads is invalid")]
    BarrierOperands {
        /// Number of the barrier.
        barrier: u64,
        /// Its thread count.
        threads: u64,
    },
    /// All threads that remain wait.
    #[error("deadlock: the thread waits here for others, for example {missing}")]
    Deadlock {
        /// A thread that does not arrive.
        missing: String,
    },
    /// The executing lane is not in its member mask.
    #[error("the lane {lane} is not in the mask {mask:#010x}")]
    NotInMask {
        /// Lane of the thread.
        lane: u32,
        /// Mask of the instruction.
        mask: u32,
    },
    /// A lane reads the register of a lane that does not take part.
    #[error("the lane reads from lane {lane}, which does not take part (mask {mask:#010x})")]
    AbsentLane {
        /// The lane read from.
        lane: u32,
        /// Mask of the instruction.
        mask: u32,
    },
    /// The operands of a `.sync` instruction differ between its lanes although they must not.
    #[error("lanes of one `.sync` instruction differ in their operands; the other is {other}")]
    SyncMismatch {
        /// The other thread.
        other: Box<Place>,
    },
    /// Integer division by zero, which PTX leaves unspecified.
    #[error("integer division by zero")]
    DivisionByZero,
    /// An index of `brx.idx` is past its targets.
    #[error("index {index} is past the {targets} targets")]
    BranchIndex {
        /// The index.
        index: u64,
        /// Number of targets.
        targets: usize,
    },
    /// `trap`.
    #[error("trap")]
    Trap,
    /// A warp issued so many instructions that its loop is assumed to be endless.
    #[error("a warp issued {instructions} instructions; its loop seems endless")]
    Budget {
        /// Instructions issued.
        instructions: u64,
    },
    /// The module has no such kernel.
    #[error("the module has no such kernel")]
    NoKernel,
    /// The parameter block has another size.
    #[error("the parameters are {found} bytes, expected {expected}")]
    Parameters {
        /// Bytes of the kernel's parameters.
        expected: usize,
        /// Bytes of the launch's.
        found: usize,
    },
    /// Too much shared memory.
    #[error("{bytes} bytes of shared memory, expected at most {limit}")]
    SharedMemory {
        /// Static and dynamic bytes.
        bytes: usize,
        /// Most that the architecture has.
        limit: usize,
    },
    /// The grid or block is empty or too large.
    #[error("the launch's size is invalid: {message}")]
    Size {
        /// What is wrong.
        message: String,
    },
    /// The instruction needs a newer architecture.
    #[error("the instruction needs sm_{needed}, the launch runs on sm_{found}")]
    Architecture {
        /// Least architecture.
        needed: u32,
        /// The launch's.
        found: u32,
    },
}

/// A launch that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Name of the kernel.
    pub kernel: String,
    /// Where; `None` if no thread ran.
    pub place: Option<Place>,
    /// What is wrong.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kernel)?;
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        self.kind.fmt(f)
    }
}

impl std::error::Error for Fault {}
