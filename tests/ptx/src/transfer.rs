//! Decodes what touches memory or other threads: loads, stores, atomics, barriers, warp operations, branches.

use crate::builder::Builder;
use crate::decode::{Opcode, narrow};
use crate::fault::{Error, Space};
use crate::module::{
    Atomic, Barrier, Collective, Copy, Dst, Load, Multiply, Op, Pred, Reduction, SINK, Shuffle,
    Src, Store, Sync, Type, Update, Vote,
};
use crate::operands::{Operand, Register};

fn space(opcode: &Opcode<'_>) -> Space {
    opcode.parts[1..]
        .iter()
        .find_map(|part| {
            Some(match part.split("::").next().unwrap_or(part) {
                "global" | "const" => Space::Global,
                "shared" => Space::Shared,
                "local" => Space::Local,
                "param" => Space::Param,
                _ => return None,
            })
        })
        .unwrap_or(Space::Generic)
}

fn update(opcode: &Opcode<'_>) -> Option<Update> {
    opcode.parts[1..].iter().find_map(|part| {
        Some(match *part {
            "add" => Update::Add,
            "min" => Update::Min,
            "max" => Update::Max,
            "and" => Update::And,
            "or" => Update::Or,
            "xor" => Update::Xor,
            "exch" => Update::Exchange,
            "cas" => Update::Compare,
            "inc" => Update::Increment,
            "dec" => Update::Decrement,
            _ => return None,
        })
    })
}

fn strong(opcode: &Opcode<'_>) -> bool {
    ["volatile", "relaxed", "acquire", "release"]
        .iter()
        .any(|part| opcode.has(part))
}

impl Builder<'_> {
    /// The parts of a vector, or the operand alone.
    fn parts<'o>(&self, operand: &'o Operand) -> &'o [Operand] {
        match operand {
            Operand::Vector(parts) => parts,
            _ => std::slice::from_ref(operand),
        }
    }

    pub(crate) fn other(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        types: &[Type],
    ) -> Result<(), Error> {
        match opcode.parts[0] {
            "ld" | "ldu" => self.load(opcode, operands, types),
            "st" => self.store(opcode, operands, types),
            "atom" | "red" => self.atomic(opcode, operands, types),
            "cp" => self.copy(opcode, operands),
            "bar" | "barrier" if opcode.parts.get(1) != Some(&"warp") => {
                self.barrier(opcode, operands)
            }
            "bar" | "shfl" | "vote" | "match" | "redux" | "mma" | "ldmatrix" => {
                self.collective(opcode, operands, types)
            }
            "activemask" => {
                let d = narrow(self.dst(operands, 0)?);
                self.emit(Op::ActiveMask { d });
                Ok(())
            }
            "membar" | "fence" | "nanosleep" | "prefetch" | "prefetchu" => {
                self.emit(Op::Nop);
                Ok(())
            }
            "trap" => {
                self.emit(Op::Trap);
                Ok(())
            }
            "exit" => {
                self.emit(Op::Exit);
                Ok(())
            }
            "ret" => {
                let op = self
                    .return_to
                    .map_or(Op::Exit, |target| Op::Jump { target });
                self.emit(op);
                Ok(())
            }
            "bra" => {
                let Some(&Operand::Label(target)) = operands.first() else {
                    return self.fail("expected a label");
                };
                self.emit(Op::Jump { target });
                Ok(())
            }
            "brx" => {
                self.count(operands, 2)?;
                let index = self.src(operands, 0, Type::U(32))?;
                let Operand::Vector(labels) = &operands[1] else {
                    return self.fail("expected a list of labels");
                };
                let targets = labels.iter().map(|label| match label {
                    Operand::Label(label) => Ok(*label),
                    _ => self.fail("expected a label"),
                });
                let targets = targets.collect::<Result<_, _>>()?;
                self.emit(Op::JumpIndexed { index, targets });
                Ok(())
            }
            _ => self.unknown(opcode),
        }
    }

    fn load(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        types: &[Type],
    ) -> Result<(), Error> {
        let (Some(&ty), Some(target)) = (types.last(), operands.first()) else {
            return self.unknown(opcode);
        };
        if ty.bits() > 64 || ty == Type::Pred {
            return self.unknown(opcode);
        }
        let address = match operands.get(1) {
            Some(operand) => self.address(operand, space(opcode))?,
            None => return self.fail("the address is missing"),
        };
        let parts = self.parts(target);
        let mut d = [Dst::None; 4];
        if parts.len() > 4 {
            return self.unknown(opcode);
        }
        for (d, part) in d.iter_mut().zip(parts) {
            *d = self.dst_of(part)?;
        }
        let (bytes, signed, count) = (ty.bytes(), ty.signed(), parts.len());
        let load = Load {
            address,
            bytes,
            signed,
            count,
            d,
            strong: strong(opcode),
        };
        self.emit(Op::Load(Box::new(load)));
        Ok(())
    }

    fn store(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        types: &[Type],
    ) -> Result<(), Error> {
        let (Some(&ty), Some(value)) = (types.last(), operands.get(1)) else {
            return self.unknown(opcode);
        };
        if ty.bits() > 64 || ty == Type::Pred {
            return self.unknown(opcode);
        }
        let address = self.address(&operands[0], space(opcode))?;
        let parts = self.parts(value);
        if parts.len() > 4 {
            return self.unknown(opcode);
        }
        let mut s = [self.constant(0); 4];
        for (i, s) in s.iter_mut().enumerate().take(parts.len()) {
            *s = self.src(parts, i, ty)?;
        }
        let (bytes, count) = (ty.bytes(), parts.len());
        let store = Store {
            address,
            bytes,
            count,
            s,
            strong: strong(opcode),
        };
        self.emit(Op::Store(Box::new(store)));
        Ok(())
    }

    fn atomic(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        types: &[Type],
    ) -> Result<(), Error> {
        let returns = opcode.parts[0] == "atom";
        let (Some(update), [ty]) = (update(opcode), types) else {
            return self.unknown(opcode);
        };
        let integer = !ty.float() && matches!(ty.bits(), 32 | 64);
        let float = matches!(ty, Type::F(32 | 64)) && update == Update::Add;
        let short = ty.bits() == 16 && update == Update::Compare;
        if !integer && !float && !short || opcode.has("vec") {
            return self.unknown(opcode);
        }
        let at = usize::from(returns);
        let inputs = if update == Update::Compare { 2 } else { 1 };
        self.count(operands, at + 1 + inputs)?;
        let d = if returns {
            self.dst(operands, 0)?
        } else {
            Dst::None
        };
        let address = self.address(&operands[at], space(opcode))?;
        let b = self.src(operands, at + 1, *ty)?;
        let c = if inputs == 2 {
            self.src(operands, at + 2, *ty)?
        } else {
            b
        };
        let atomic = Atomic {
            address,
            update,
            ty: *ty,
            d,
            s: [b, c],
        };
        self.emit(Op::Atomic(Box::new(atomic)));
        Ok(())
    }

    fn copy(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Result<(), Error> {
        self.needs = 80;
        if !opcode.has("async") || opcode.has("bulk") || opcode.has("mbarrier") {
            return self.unknown(opcode);
        }
        if opcode.has("commit_group") {
            self.emit(Op::CommitGroup);
        } else if opcode.has("wait_all") {
            self.emit(Op::WaitGroup(None));
        } else if opcode.has("wait_group") {
            let Some(&Operand::Integer(n)) = operands.first() else {
                return self.fail("expected a number of groups");
            };
            self.emit(Op::WaitGroup(Some(n as u32)));
        } else {
            if operands.len() < 3 {
                return self.fail("expected two addresses and a size");
            }
            let to = self.address(&operands[0], Space::Shared)?;
            let from = self.address(&operands[1], Space::Global)?;
            let Operand::Integer(bytes @ (4 | 8 | 16)) = operands[2] else {
                return self.fail("the size is 4, 8 or 16");
            };
            if opcode.has("cg") && bytes != 16 {
                return self.fail("the size of `cp.async.cg` is 16");
            }
            let hint = opcode.has("L2::cache_hint");
            let mut copy = Copy {
                to,
                from,
                bytes: bytes as usize,
                read: None,
                ignore: Pred::TRUE,
                has_ignore: false,
            };
            if operands.len() > 3 + usize::from(hint) {
                if let Some(ignore) = self.maybe_pred(operands, 3) {
                    (copy.ignore, copy.has_ignore) = (ignore, true);
                } else {
                    copy.read = Some(self.src(operands, 3, Type::U(32))?);
                }
            }
            self.emit(Op::Copy(Box::new(copy)));
        }
        Ok(())
    }

    fn barrier(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Result<(), Error> {
        let aligned = opcode.parts[0] == "bar" || opcode.has("aligned");
        let reduction = if opcode.has("popc") {
            Reduction::Count
        } else if opcode.has("and") {
            Reduction::And
        } else if opcode.has("or") {
            Reduction::Or
        } else {
            Reduction::None
        };
        let arrive = opcode.has("arrive");
        let reduces = opcode.has("red");
        if !reduces && !arrive && !opcode.has("sync") || reduces == (reduction == Reduction::None) {
            return self.unknown(opcode);
        }
        let ty = Type::U(32);
        let mut barrier = Barrier {
            barrier: self.constant(0),
            threads: None,
            aligned,
            arrive,
            reduction,
            value: Pred::TRUE,
            d: Dst::None,
            d_pred: SINK,
        };
        if reduces {
            if operands.len() < 3 {
                return self.fail("expected at least 3 operands");
            }
            match &operands[0] {
                Operand::Register(Register::Pred(index)) => barrier.d_pred = *index,
                operand => barrier.d = self.dst_of(operand)?,
            }
            barrier.barrier = self.src(operands, 1, ty)?;
            if operands.len() == 4 {
                barrier.threads = Some(self.src(operands, 2, ty)?);
            }
            barrier.value = self.pred(operands, operands.len() - 1)?;
        } else {
            barrier.barrier = self.src(operands, 0, ty)?;
            if operands.len() > 1 {
                barrier.threads = Some(self.src(operands, 1, ty)?);
            } else if arrive {
                return self.fail("`bar.arrive` needs a thread count");
            }
        }
        self.emit(Op::Barrier(Box::new(barrier)));
        Ok(())
    }

    fn collective(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        types: &[Type],
    ) -> Result<(), Error> {
        let word = Type::B(32);
        let mut sync = Sync {
            collective: Collective::Barrier,
            mask: self.constant(0xffff_ffff),
            s: Vec::new(),
            p: Pred::TRUE,
            d: Vec::new(),
            d_pred: SINK,
            address: None,
        };
        // The result, and the predicate after `|`.
        let result = |this: &Self, sync: &mut Sync| -> Result<(), Error> {
            let first = match operands.first() {
                Some(Operand::Pair(d, p)) => {
                    if let Operand::Register(Register::Pred(index)) = **p {
                        sync.d_pred = index;
                    }
                    d
                }
                Some(operand) => operand,
                None => return this.fail("the result is missing"),
            };
            match first {
                Operand::Register(Register::Pred(index)) => sync.d_pred = *index,
                operand => sync.d.push(this.dst_of(operand)?),
            }
            Ok(())
        };
        match opcode.parts[0] {
            _ if !opcode.has("sync") && opcode.parts[0] != "bar" => return self.unknown(opcode),
            "bar" => sync.mask = self.src(operands, 0, word)?,
            "shfl" => {
                let kind = match opcode.parts.get(2).copied().unwrap_or_default() {
                    "up" => Shuffle::Up,
                    "down" => Shuffle::Down,
                    "bfly" => Shuffle::Butterfly,
                    "idx" => Shuffle::Index,
                    _ => return self.unknown(opcode),
                };
                self.count(operands, 5)?;
                sync.collective = Collective::Shuffle(kind);
                result(self, &mut sync)?;
                for at in 1..4 {
                    sync.s.push(self.src(operands, at, word)?);
                }
                sync.mask = self.src(operands, 4, word)?;
            }
            "vote" => {
                self.count(operands, 3)?;
                sync.collective =
                    Collective::Vote(match opcode.parts.get(2).copied().unwrap_or_default() {
                        "all" => Vote::All,
                        "any" => Vote::Any,
                        "uni" => Vote::Uniform,
                        "ballot" => Vote::Ballot,
                        _ => return self.unknown(opcode),
                    });
                result(self, &mut sync)?;
                sync.p = self.pred(operands, 1)?;
                sync.mask = self.src(operands, 2, word)?;
            }
            "match" => {
                self.count(operands, 3)?;
                let wide = types.last().is_some_and(|ty| ty.bits() == 64);
                sync.collective = if opcode.has("any") {
                    Collective::MatchAny { wide }
                } else {
                    Collective::MatchAll { wide }
                };
                result(self, &mut sync)?;
                sync.s
                    .push(self.src(operands, 1, Type::B(if wide { 64 } else { 32 }))?);
                sync.mask = self.src(operands, 2, word)?;
            }
            "redux" => {
                self.needs = 80;
                self.count(operands, 3)?;
                let (Some(update), Some(ty)) = (update(opcode), types.last()) else {
                    return self.unknown(opcode);
                };
                if ty.bits() != 32 || ty.float() {
                    return self.unknown(opcode);
                }
                sync.collective = Collective::Reduce {
                    update,
                    signed: ty.signed(),
                };
                result(self, &mut sync)?;
                sync.s.push(self.src(operands, 1, word)?);
                sync.mask = self.src(operands, 2, word)?;
            }
            "ldmatrix" => {
                self.needs = 75;
                let count = match operands.first() {
                    Some(operand) => self.parts(operand).len(),
                    None => 0,
                };
                let name = format!("x{count}");
                if !opcode.has(&name) || !opcode.has("m8n8") || types != [Type::B(16)] {
                    return self.unknown(opcode);
                }
                let transpose = opcode.has("trans");
                sync.collective = Collective::LoadMatrix { count, transpose };
                for part in self.parts(&operands[0]) {
                    sync.d.push(self.dst_of(part)?);
                }
                let space = if space(opcode) == Space::Generic {
                    Space::Generic
                } else {
                    Space::Shared
                };
                let Some(address) = operands.get(1) else {
                    return self.fail("the address is missing");
                };
                sync.address = Some(self.address(address, space)?);
            }
            _ => return self.multiply(opcode, operands, sync),
        }
        self.emit(Op::Sync(Box::new(sync)));
        Ok(())
    }

    /// `mma.sync`.
    fn multiply(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        mut sync: Sync,
    ) -> Result<(), Error> {
        let shape = opcode.parts[1..]
            .iter()
            .find(|p| p.starts_with('m') && p.contains('n'));
        let tail = &opcode.parts[opcode.parts.len().saturating_sub(4)..];
        let byte = |name: &str| match name {
            "s8" => Some(true),
            "u8" => Some(false),
            _ => None,
        };
        if tail.len() < 4 {
            return self.unknown(opcode);
        }
        let (m, n, k, needs) = match (shape.copied(), tail[1]) {
            (Some("m8n8k16"), "s8" | "u8") => (8, 8, 16, 75),
            (Some("m16n8k16"), "s8" | "u8") => (16, 8, 16, 80),
            (Some("m16n8k32"), "s8" | "u8") => (16, 8, 32, 80),
            (Some("m16n8k8"), "f16") => (16, 8, 8, 75),
            (Some("m16n8k16"), "f16") => (16, 8, 16, 80),
            _ => return self.unknown(opcode),
        };
        self.needs = needs;
        let kind = match (tail, byte(tail[1]), byte(tail[2])) {
            (["s32", _, _, "s32"], Some(signed_a), Some(signed_b)) => Multiply::Integer {
                signed_a,
                signed_b,
                saturate: opcode.has("satfinite"),
            },
            (["f16" | "f32", "f16", "f16", "f16" | "f32"], ..) => Multiply::Half {
                half_c: tail[3] == "f16",
                half_d: tail[0] == "f16",
            },
            _ => return self.unknown(opcode),
        };
        if !opcode.has("row") || !opcode.has("col") || !opcode.has("aligned") {
            return self.unknown(opcode);
        }
        self.count(operands, 4)?;
        let bits = if matches!(kind, Multiply::Half { .. }) {
            16
        } else {
            8
        };
        let half = |half: bool| if half { 2 } else { 1 };
        let (c, d) = match kind {
            Multiply::Half { half_c, half_d } => (half(half_c), half(half_d)),
            Multiply::Integer { .. } => (1, 1),
        };
        let lengths = [
            m * n / 32 / d,
            m * k * bits / 1024,
            k * n * bits / 1024,
            m * n / 32 / c,
        ];
        for (operand, length) in operands.iter().zip(lengths) {
            if self.parts(operand).len() != length as usize {
                return self.fail(format!("an operand of `mma` has {length} registers"));
            }
        }
        for part in self.parts(&operands[0]) {
            sync.d.push(self.dst_of(part)?);
        }
        for operand in &operands[1..] {
            let parts = self.parts(operand);
            for at in 0..parts.len() {
                let s: Src = self.src(parts, at, Type::B(32))?;
                sync.s.push(s);
            }
        }
        sync.collective = Collective::Mma { m, n, k, kind };
        self.emit(Op::Sync(Box::new(sync)));
        Ok(())
    }
}
