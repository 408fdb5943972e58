//! The program: a kernel's instructions, decoded, in the order in which a warp prefers to run them.
//!
//! Registers are numbered per kernel in three files: predicates (a bit for each lane), 32-bit registers (also
//! for 16 and 8 bits, zero-extended) and 64-bit ones. Functions are inlined, so that a kernel has no calls.

use crate::fault::Space;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// A 32-bit register of a warp.
pub(crate) type Lanes32 = [u32; LANES];
/// A 64-bit register of a warp.
pub(crate) type Lanes64 = [u64; LANES];
/// Computes a 32-bit register from up to three.
pub(crate) type Narrow = fn(&mut Lanes32, &Lanes32, &Lanes32, &Lanes32);
/// Computes a register of any width from up to three of any width; narrow ones come zero-extended.
pub(crate) type Wide = fn(&mut Lanes64, &Lanes64, &Lanes64, &Lanes64);
/// Compares 32-bit registers: a bit for each lane.
pub(crate) type Compare32 = fn(&Lanes32, &Lanes32) -> u32;
/// Compares 64-bit registers.
pub(crate) type Compare64 = fn(&Lanes64, &Lanes64) -> u32;

/// The predicate that is true, and one whose value is never used.
pub(crate) const TRUE: u32 = 0;
pub(crate) const SINK: u32 = 1;

/// First addresses of the windows of generic addresses; each is 2^56 bytes.
pub(crate) const SHARED_BASE: u64 = 0x7f00_0000_0000_0000;
pub(crate) const LOCAL_BASE: u64 = 0x7e00_0000_0000_0000;
pub(crate) const PARAM_BASE: u64 = 0x7d00_0000_0000_0000;
pub(crate) const VARIABLE_BASE: u64 = 0x7c00_0000_0000_0000;
/// Mask of the offset in a window.
pub(crate) const WINDOW: u64 = (1 << 56) - 1;

/// Type of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// Bits without a meaning.
    B(u32),
    /// Unsigned.
    U(u32),
    /// Signed.
    S(u32),
    /// Floating point.
    F(u32),
    /// Two halves.
    F16x2,
    Pred,
}

impl Type {
    /// The type that a qualifier names.
    pub(crate) fn from_name(name: &str) -> Option<Type> {
        Some(match name {
            "pred" => Type::Pred,
            "f16x2" => Type::F16x2,
            _ => {
                let bits = name.get(1..)?.parse().ok()?;
                let fits = matches!(bits, 8 | 16 | 32 | 64) || name == "b128";
                match name.as_bytes()[0] {
                    b'b' if fits => Type::B(bits),
                    b'u' if fits => Type::U(bits),
                    b's' if fits => Type::S(bits),
                    b'f' if fits && bits > 8 => Type::F(bits),
                    _ => return None,
                }
            }
        })
    }

    pub(crate) fn bits(self) -> u32 {
        match self {
            Type::B(n) | Type::U(n) | Type::S(n) | Type::F(n) => n,
            Type::F16x2 => 32,
            Type::Pred => 1,
        }
    }

    pub(crate) fn bytes(self) -> usize {
        self.bits() as usize / 8
    }

    pub(crate) fn signed(self) -> bool {
        matches!(self, Type::S(_))
    }

    pub(crate) fn float(self) -> bool {
        matches!(self, Type::F(_) | Type::F16x2)
    }
}

/// A value to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Src {
    R32(u32),
    R64(u32),
    /// An entry of the kernel's constants.
    Const(u32),
}

/// A register to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dst {
    None,
    R32(u32),
    R64(u32),
}

/// A predicate to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pred {
    pub(crate) index: u32,
    pub(crate) negate: bool,
}

impl Pred {
    pub(crate) const TRUE: Pred = Pred {
        index: TRUE,
        negate: false,
    };
}

/// How two predicates are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// An address: a register or symbol, plus bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) space: Space,
    pub(crate) base: Option<Src>,
    pub(crate) offset: u64,
}

/// `ld`.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) address: Address,
    pub(crate) bytes: usize,
    /// Sign-extended to the register's width.
    pub(crate) signed: bool,
    pub(crate) count: usize,
    pub(crate) d: [Dst; 4],
    /// `.volatile`, `.relaxed`, `.acquire`: as atomic.
    pub(crate) strong: bool,
}

/// `st`.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) address: Address,
    pub(crate) bytes: usize,
    pub(crate) count: usize,
    pub(crate) s: [Src; 4],
    pub(crate) strong: bool,
}

/// Operation of `atom`, `red` and `redux`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    Compare,
    Increment,
    Decrement,
}

/// `atom` and `red`.
#[derive(Clone, Debug)]
pub(crate) struct Atomic {
    pub(crate) address: Address,
    pub(crate) update: Update,
    pub(crate) ty: Type,
    pub(crate) d: Dst,
    pub(crate) s: [Src; 2],
}

/// `cp.async`.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) to: Address,
    pub(crate) from: Address,
    pub(crate) bytes: usize,
    /// Bytes to read; the rest is 0.
    pub(crate) read: Option<Src>,
    /// Ignore the source: all is 0.
    pub(crate) ignore: Pred,
    pub(crate) has_ignore: bool,
}

/// What a barrier reduces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    None,
    Count,
    And,
    Or,
}

/// `bar`, `barrier`.
#[derive(Clone, Debug)]
pub(crate) struct Barrier {
    pub(crate) barrier: Src,
    pub(crate) threads: Option<Src>,
    pub(crate) aligned: bool,
    /// Arrives and does not wait.
    pub(crate) arrive: bool,
    pub(crate) reduction: Reduction,
    pub(crate) value: Pred,
    pub(crate) d: Dst,
    pub(crate) d_pred: u32,
}

/// Where `shfl` reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What `vote` computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// Element types of `mma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Multiply {
    /// 8-bit integers, by whether A and B are signed; sums in 32 bits, saturated or not.
    Integer {
        signed_a: bool,
        signed_b: bool,
        saturate: bool,
    },
    /// Halves, by whether C and D are halves.
    Half { half_c: bool, half_d: bool },
}

/// What a `.sync` instruction of a warp does once all lanes of its mask are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Collective {
    Barrier,
    Shuffle(Shuffle),
    Vote(Vote),
    MatchAny {
        wide: bool,
    },
    MatchAll {
        wide: bool,
    },
    Reduce {
        update: Update,
        signed: bool,
    },
    /// Rows, columns and depth of the product.
    Mma {
        m: u32,
        n: u32,
        k: u32,
        kind: Multiply,
    },
    LoadMatrix {
        count: usize,
        transpose: bool,
    },
}

/// A `.sync` instruction of a warp.
#[derive(Clone, Debug)]
pub(crate) struct Sync {
    pub(crate) collective: Collective,
    pub(crate) mask: Src,
    pub(crate) s: Vec<Src>,
    pub(crate) p: Pred,
    pub(crate) d: Vec<Dst>,
    pub(crate) d_pred: u32,
    pub(crate) address: Option<Address>,
}

/// Rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nearest,
    Zero,
    Down,
    Up,
}

/// Arithmetic that has no fast form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatKind {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Sqrt,
    Reciprocal,
    Min,
    Max,
    MinNan,
    MaxNan,
    Neg,
    Abs,
    Exp2,
    Log2,
    Sin,
    Cos,
    Tanh,
    InverseSqrt,
    /// 20 bits of `1 / x` and `1 / sqrt(x)`, as `rcp.approx.ftz.f64`.
    CoarseReciprocal,
    CoarseInverseSqrt,
}

/// A floating-point operation with its qualifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloatOp {
    pub(crate) kind: FloatKind,
    /// 16, 32 or 64.
    pub(crate) bits: u32,
    pub(crate) mode: Mode,
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    /// Twice, in the halves of a register.
    pub(crate) packed: bool,
}

/// A conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conversion {
    pub(crate) to: Type,
    pub(crate) from: Type,
    pub(crate) mode: Mode,
    /// The result is an integer, also if its type is a float.
    pub(crate) integral: bool,
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Narrow {
        f: Narrow,
        d: u32,
        s: [Src; 3],
    },
    Wide {
        f: Wide,
        d: Dst,
        s: [Src; 3],
    },
    Compare32 {
        f: Compare32,
        s: [Src; 2],
        logic: Logic,
        with: Pred,
        d: u32,
        not_d: u32,
    },
    Compare64 {
        f: Compare64,
        s: [Src; 2],
        logic: Logic,
        with: Pred,
        d: u32,
        not_d: u32,
    },
    /// `lop3`.
    Lookup {
        table: u32,
        d: u32,
        s: [Src; 3],
    },
    Select {
        d: Dst,
        s: [Src; 2],
        p: Pred,
    },
    Predicate {
        logic: Logic,
        d: u32,
        a: Pred,
        b: Pred,
    },
    /// `add.cc` and relatives: `kind` 0 adds, 1 subtracts, 2 is `mad.lo`, 3 is `mad.hi`.
    Carry {
        kind: u8,
        ty: Type,
        takes: bool,
        gives: bool,
        d: Dst,
        s: [Src; 3],
    },
    Divide {
        ty: Type,
        remainder: bool,
        d: Dst,
        s: [Src; 2],
    },
    Float {
        op: FloatOp,
        d: Dst,
        s: [Src; 3],
    },
    Convert {
        op: Conversion,
        d: Dst,
        s: Src,
    },
    /// Two numbers to halves, the first on top.
    ConvertPair {
        op: Conversion,
        d: Dst,
        s: [Src; 2],
    },
    Pack {
        d: Dst,
        s: [Src; 4],
        count: u32,
        bits: u32,
    },
    Unpack {
        d: [Dst; 4],
        s: Src,
        count: u32,
        bits: u32,
    },
    IsSpace {
        space: Space,
        d: u32,
        s: Src,
    },
    Load(Box<Load>),
    Store(Box<Store>),
    Atomic(Box<Atomic>),
    Copy(Box<Copy>),
    CommitGroup,
    /// Waits until at most so many groups are pending; `None` waits for single copies, too.
    WaitGroup(Option<u32>),
    ActiveMask {
        d: u32,
    },
    Sync(Box<Sync>),
    Barrier(Box<Barrier>),
    Jump {
        target: u32,
    },
    JumpIndexed {
        index: Src,
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    Nop,
}

/// An instruction.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub(crate) op: Op,
    /// Runs where it is true.
    pub(crate) guard: Pred,
    pub(crate) line: u32,
    /// Index of its opcode in `Kernel::opcodes`.
    pub(crate) opcode: u32,
    /// Least architecture.
    pub(crate) needs: u32,
}

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
    Lane,
    Warp,
    Warps,
    WarpSize,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    /// Clocks and the like; a constant.
    Clock,
    DynamicShared,
    TotalShared,
}

/// A kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) param_bytes: usize,
    pub(crate) static_shared: usize,
    pub(crate) max_threads: Option<u32>,
    pub(crate) code: Vec<Instruction>,
    pub(crate) opcodes: Vec<String>,
    pub(crate) constants32: Vec<Lanes32>,
    pub(crate) constants64: Vec<Lanes64>,
    pub(crate) registers32: usize,
    pub(crate) registers64: usize,
    pub(crate) predicates: usize,
    /// Names, for messages: 32-bit, 64-bit, predicates.
    pub(crate) names: [Vec<String>; 3],
    /// 32- and 64-bit registers that a warp starts with.
    pub(crate) specials: Vec<(Special, Dst)>,
    /// Bytes of a thread's local memory.
    pub(crate) local_bytes: usize,
}

impl Kernel {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of its parameter block.
    pub fn param_bytes(&self) -> usize {
        self.param_bytes
    }

    /// Bytes of shared memory that it declares.
    pub fn static_shared(&self) -> usize {
        self.static_shared
    }

    /// Most threads of a block (`.maxntid`, `.reqntid`).
    pub fn max_threads(&self) -> Option<u32> {
        self.max_threads
    }
}
