//! Decodes instructions: opcode, qualifiers and operands to operations.

use crate::arith::{self, Function};
use crate::builder::Builder;
use crate::fast;
use crate::fault::{Error, Space};
use crate::module::{Dst, LOCAL_BASE, Logic, Mode, Op, Pred, SHARED_BASE, SINK, Src, Type};
use crate::operands::{Operand, Register};

/// An opcode in parts.
pub(crate) struct Opcode<'a> {
    pub(crate) parts: Vec<&'a str>,
    pub(crate) text: &'a str,
}

impl<'a> Opcode<'a> {
    pub(crate) fn has(&self, part: &str) -> bool {
        self.parts[1..].contains(&part)
    }

    /// The types, in order.
    pub(crate) fn types(&self) -> Vec<Type> {
        self.parts[1..]
            .iter()
            .filter_map(|p| Type::from_name(p))
            .collect()
    }

    /// Rounding of a float; `None` if none is named.
    pub(crate) fn mode(&self) -> Option<(Mode, bool)> {
        self.parts[1..].iter().find_map(|p| {
            Some(match *p {
                "rn" => (Mode::Nearest, false),
                "rz" => (Mode::Zero, false),
                "rm" => (Mode::Down, false),
                "rp" => (Mode::Up, false),
                "rni" => (Mode::Nearest, true),
                "rzi" => (Mode::Zero, true),
                "rmi" => (Mode::Down, true),
                "rpi" => (Mode::Up, true),
                _ => return None,
            })
        })
    }

    /// Whether all qualifiers but types are among these.
    pub(crate) fn only(&self, allowed: &[&str]) -> bool {
        self.parts[1..]
            .iter()
            .all(|p| allowed.contains(p) || Type::from_name(p).is_some())
    }
}

impl Builder<'_> {
    pub(crate) fn unknown<T>(&self, opcode: &Opcode<'_>) -> Result<T, Error> {
        let (line, instruction) = (self.line as usize, opcode.text.to_string());
        Err(Error::Unknown { line, instruction })
    }

    /// A value of a type.
    pub(crate) fn src(&mut self, operands: &[Operand], at: usize, ty: Type) -> Result<Src, Error> {
        let bits = ty.bits();
        let mask = if bits >= 64 {
            u64::MAX
        } else {
            (1 << bits) - 1
        };
        let value = match operands.get(at) {
            Some(Operand::Register(Register::Narrow(n))) => return Ok(Src::R32(*n)),
            Some(Operand::Register(Register::Wide(n))) => return Ok(Src::R64(*n)),
            Some(&Operand::Integer(n)) if ty == Type::F(64) => (n as i64 as f64).to_bits(),
            Some(&Operand::Integer(n)) if ty == Type::F(32) => {
                u64::from((n as i64 as f32).to_bits())
            }
            Some(&Operand::Integer(n)) => n,
            Some(&Operand::Single(n)) if bits == 64 => f64::from(f32::from_bits(n)).to_bits(),
            Some(&Operand::Single(n)) => u64::from(n),
            Some(&Operand::Double(n)) if bits == 32 => {
                u64::from((f64::from_bits(n) as f32).to_bits())
            }
            Some(&Operand::Double(n)) => n,
            Some(Operand::Symbol(symbol)) => symbol.address,
            _ => return self.fail(format!("operand {} is not a value", at + 1)),
        };
        Ok(self.constant(value & mask))
    }

    pub(crate) fn dst(&self, operands: &[Operand], at: usize) -> Result<Dst, Error> {
        match operands.get(at) {
            Some(operand) => self.dst_of(operand),
            None => self.fail(format!("operand {} is missing", at + 1)),
        }
    }

    pub(crate) fn dst_of(&self, operand: &Operand) -> Result<Dst, Error> {
        Ok(match operand {
            Operand::Register(Register::Narrow(n)) => Dst::R32(*n),
            Operand::Register(Register::Wide(n)) => Dst::R64(*n),
            Operand::Sink => Dst::None,
            _ => return self.fail("the result is not a register"),
        })
    }

    pub(crate) fn pred(&mut self, operands: &[Operand], at: usize) -> Result<Pred, Error> {
        Ok(match operands.get(at) {
            Some(Operand::Register(Register::Pred(index))) => Pred {
                index: *index,
                negate: false,
            },
            Some(Operand::Not(Register::Pred(index))) => Pred {
                index: *index,
                negate: true,
            },
            Some(Operand::Integer(n)) => Pred {
                index: Pred::TRUE.index,
                negate: *n == 0,
            },
            _ => return self.fail(format!("operand {} is not a predicate", at + 1)),
        })
    }

    /// The predicates of `p` or `p|q`; `SINK` for what is not written.
    pub(crate) fn dst_preds(&self, operands: &[Operand]) -> Result<(u32, u32), Error> {
        let one = |operand: &Operand| match operand {
            Operand::Register(Register::Pred(index)) => Ok(*index),
            Operand::Sink => Ok(SINK),
            _ => self.fail("the result is not a predicate"),
        };
        match operands.first() {
            Some(Operand::Pair(p, q)) => Ok((one(p)?, one(q)?)),
            Some(operand) => Ok((one(operand)?, SINK)),
            None => self.fail("the result is missing"),
        }
    }

    fn is_pred(operands: &[Operand], at: usize) -> bool {
        matches!(
            operands.get(at),
            Some(Operand::Register(Register::Pred(_)) | Operand::Not(Register::Pred(_)))
        )
    }

    pub(crate) fn emit_function(&mut self, f: Function, d: Dst, s: [Src; 3]) -> Result<(), Error> {
        let op = match (f, d) {
            (Function::Wide(f), _) => Op::Wide { f, d, s },
            (Function::Narrow(_), Dst::R64(_)) => return self.fail("the result is too wide"),
            (Function::Narrow(f), _) => {
                if s.iter().any(|s| matches!(s, Src::R64(_))) {
                    return self.fail("an operand is too wide");
                }
                Op::Narrow { f, d: narrow(d), s }
            }
        };
        self.emit(op);
        Ok(())
    }

    /// Operands 1, 2 and 3 as far as there are any; the others repeat the first.
    pub(crate) fn sources(
        &mut self,
        operands: &[Operand],
        tys: [Type; 3],
    ) -> Result<[Src; 3], Error> {
        let first = self.src(operands, 1, tys[0])?;
        let mut s = [first; 3];
        for at in 2..operands.len().min(4) {
            s[at - 1] = self.src(operands, at, tys[at - 1])?;
        }
        Ok(s)
    }

    pub(crate) fn count(&self, operands: &[Operand], count: usize) -> Result<(), Error> {
        if operands.len() == count {
            Ok(())
        } else {
            self.fail(format!("{} operands, expected {count}", operands.len()))
        }
    }

    /// Emits the operations of an instruction.
    pub(crate) fn instruction(&mut self, text: &str, operands: &[Operand]) -> Result<(), Error> {
        let opcode = Opcode {
            parts: text.split('.').collect(),
            text,
        };
        let types = opcode.types();
        let ty = types.last().copied();
        match (opcode.parts[0], ty) {
            ("mov", Some(ty)) => self.mov(operands, ty),
            ("setp" | "set", Some(_)) => self.compare(&opcode, operands, &types),
            ("selp", Some(ty)) => {
                self.count(operands, 4)?;
                let d = self.dst(operands, 0)?;
                let s = [self.src(operands, 1, ty)?, self.src(operands, 2, ty)?];
                let p = self.pred(operands, 3)?;
                self.emit(Op::Select { d, s, p });
                Ok(())
            }
            ("slct", Some(_)) => self.select_by_sign(&opcode, operands, &types),
            ("and" | "or" | "xor" | "not", Some(Type::Pred)) => {
                let logic = match opcode.parts[0] {
                    "and" => Logic::And,
                    "or" => Logic::Or,
                    _ => Logic::Xor,
                };
                let (d, _) = self.dst_preds(operands)?;
                let a = self.pred(operands, 1)?;
                let b = if opcode.parts[0] == "not" {
                    Pred::TRUE
                } else {
                    self.pred(operands, 2)?
                };
                self.emit(Op::Predicate { logic, d, a, b });
                Ok(())
            }
            (
                "add" | "sub" | "mul" | "fma" | "mad" | "div" | "sqrt" | "rcp" | "rsqrt" | "min"
                | "max" | "neg" | "abs" | "ex2" | "lg2" | "sin" | "cos" | "tanh",
                Some(ty),
            ) if ty.float() => self.float(&opcode, operands, ty),
            ("add" | "addc" | "sub" | "subc" | "mad" | "madc", Some(ty))
                if opcode.has("cc") || opcode.parts[0].ends_with('c') =>
            {
                self.carry(&opcode, operands, ty)
            }
            ("mul" | "mad", Some(ty)) if opcode.has("wide") => {
                let adds = opcode.parts[0] == "mad";
                self.count(operands, 3 + usize::from(adds))?;
                let Some(f) = arith::widening(ty, adds) else {
                    return self.unknown(&opcode);
                };
                let sum = match ty {
                    Type::S(n) => Type::S(2 * n),
                    Type::U(n) => Type::U(2 * n),
                    _ => return self.unknown(&opcode),
                };
                let s = self.sources(operands, [ty, ty, sum])?;
                self.emit_function(f, self.dst(operands, 0)?, s)
            }
            ("div" | "rem", Some(ty)) => {
                self.count(operands, 3)?;
                let d = self.dst(operands, 0)?;
                let s = [self.src(operands, 1, ty)?, self.src(operands, 2, ty)?];
                let remainder = opcode.parts[0] == "rem";
                self.emit(Op::Divide {
                    ty,
                    remainder,
                    d,
                    s,
                });
                Ok(())
            }
            (
                "add" | "sub" | "mul" | "mad" | "min" | "max" | "abs" | "neg" | "and" | "or"
                | "xor" | "not" | "cnot" | "shl" | "shr" | "sad" | "popc" | "clz" | "brev"
                | "bfind" | "bfe",
                Some(ty),
            ) => self.integer(&opcode, operands, ty),
            ("bfi", Some(ty)) => self.field(&opcode, operands, ty),
            ("shf", Some(ty)) => {
                self.count(operands, 4)?;
                let (left, wrap) = (opcode.has("l"), opcode.has("wrap"));
                if !left && !opcode.has("r") || !wrap && !opcode.has("clamp") {
                    return self.unknown(&opcode);
                }
                let s = self.sources(operands, [ty, ty, Type::U(32)])?;
                let f = Function::Narrow(arith::funnel(left, wrap));
                self.emit_function(f, self.dst(operands, 0)?, s)
            }
            ("prmt", Some(ty)) => {
                self.count(operands, 4)?;
                let mode = opcode.parts.get(2).copied().unwrap_or("");
                let Some(f) = arith::permutation(mode) else {
                    return self.unknown(&opcode);
                };
                let s = self.sources(operands, [ty; 3])?;
                self.emit_function(Function::Narrow(f), self.dst(operands, 0)?, s)
            }
            ("lop3", Some(ty)) if opcode.parts.len() == 2 => {
                self.count(operands, 5)?;
                let s = self.sources(operands, [ty; 3])?;
                let d = narrow(self.dst(operands, 0)?);
                let Some(&Operand::Integer(table)) = operands.get(4) else {
                    return self.fail("the table is not a number");
                };
                self.emit(Op::Lookup {
                    table: table as u32,
                    d,
                    s,
                });
                Ok(())
            }
            ("dp4a", Some(_)) if types.len() == 2 => {
                self.count(operands, 4)?;
                let s = self.sources(operands, [Type::B(32); 3])?;
                let f = arith::dot4(types[0].signed(), types[1].signed());
                self.emit_function(Function::Narrow(f), self.dst(operands, 0)?, s)
            }
            ("copysign", Some(ty)) => {
                let s = self.sources(operands, [ty; 3])?;
                self.emit_function(arith::copy_sign(ty.bits()), self.dst(operands, 0)?, s)
            }
            ("testp", Some(ty)) => {
                let Some(f) = fast::test(opcode.parts[1], ty.bits()) else {
                    return self.unknown(&opcode);
                };
                let a = self.src(operands, 1, ty)?;
                let (d, _) = self.dst_preds(operands)?;
                self.emit_comparison(f, [a, a], Logic::And, Pred::TRUE, (d, SINK));
                Ok(())
            }
            ("cvt", Some(_)) => self.convert(&opcode, operands, &types),
            ("cvta", _) => {
                let d = self.dst(operands, 0)?;
                let a = self.src(operands, 1, Type::U(64))?;
                let base = if opcode.has("shared") || opcode.has("shared::cta") {
                    SHARED_BASE
                } else if opcode.has("local") {
                    LOCAL_BASE
                } else {
                    // Other spaces have generic addresses.
                    0
                };
                let b = self.constant(base);
                let name = if opcode.has("to") { "sub" } else { "add" };
                let Some(f) = arith::integer(name, Type::U(64)) else {
                    return self.unknown(&opcode);
                };
                self.emit_function(f, d, [a, b, b])
            }
            ("isspacep", _) => {
                let space = match opcode.parts.get(1).copied() {
                    Some("global") => Space::Global,
                    Some("shared" | "shared::cta") => Space::Shared,
                    Some("local") => Space::Local,
                    Some("param") => Space::Param,
                    _ => return self.unknown(&opcode),
                };
                let (d, _) = self.dst_preds(operands)?;
                let s = self.src(operands, 1, Type::U(64))?;
                self.emit(Op::IsSpace { space, d, s });
                Ok(())
            }
            _ => self.other(&opcode, operands, &types),
        }
    }

    fn mov(&mut self, operands: &[Operand], ty: Type) -> Result<(), Error> {
        self.count(operands, 2)?;
        if ty == Type::Pred {
            let (d, _) = self.dst_preds(operands)?;
            let a = self.pred(operands, 1)?;
            self.emit(Op::Predicate {
                logic: Logic::Or,
                d,
                a,
                b: a,
            });
            return Ok(());
        }
        let filler = self.constant(0);
        if let Some(Operand::Vector(parts)) = operands.get(1) {
            let count = parts.len() as u32;
            if count != 2 && count != 4 {
                return self.fail("a vector has 2 or 4 parts");
            }
            let bits = ty.bits() / count;
            let mut s = [filler; 4];
            for (i, s) in s.iter_mut().enumerate().take(parts.len()) {
                *s = self.src(parts, i, Type::B(bits))?;
            }
            let d = self.dst(operands, 0)?;
            self.emit(Op::Pack { d, s, count, bits });
        } else if let Some(Operand::Vector(parts)) = operands.first() {
            let count = parts.len() as u32;
            if count != 2 && count != 4 {
                return self.fail("a vector has 2 or 4 parts");
            }
            let mut d = [Dst::None; 4];
            for (i, d) in d.iter_mut().enumerate().take(parts.len()) {
                *d = self.dst(parts, i)?;
            }
            let s = self.src(operands, 1, ty)?;
            self.emit(Op::Unpack {
                d,
                s,
                count,
                bits: ty.bits() / count,
            });
        } else {
            let s = self.src(operands, 1, ty)?;
            let d = self.dst(operands, 0)?;
            match arith::integer("mov", ty) {
                Some(f) => self.emit_function(f, d, [s; 3])?,
                None => return self.fail("`mov` of this type is unknown"),
            }
        }
        Ok(())
    }

    fn integer(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        ty: Type,
    ) -> Result<(), Error> {
        let name = match opcode.parts[0] {
            base @ ("mul" | "mad") => {
                if opcode.has("hi") && !opcode.has("sat") {
                    format!("{base}.hi")
                } else if opcode.has("lo") {
                    format!("{base}.lo")
                } else {
                    return self.unknown(opcode);
                }
            }
            base @ ("add" | "sub") if opcode.has("sat") => format!("{base}.sat"),
            "bfind" if opcode.has("shiftamt") => "bfind.shiftamt".into(),
            base => base.to_string(),
        };
        if !opcode.only(&["hi", "lo", "sat", "shiftamt"]) {
            return self.unknown(opcode);
        }
        let Some(f) = arith::integer(&name, ty) else {
            return self.unknown(opcode);
        };
        let inputs = match opcode.parts[0] {
            "abs" | "neg" | "not" | "cnot" | "popc" | "clz" | "brev" | "bfind" => 1,
            "mad" | "sad" | "bfe" => 3,
            _ => 2,
        };
        self.count(operands, 1 + inputs)?;
        let tys = match opcode.parts[0] {
            "shl" | "shr" => [ty, Type::U(32), ty],
            "bfe" => [ty, Type::U(32), Type::U(32)],
            _ => [ty; 3],
        };
        let s = self.sources(operands, tys)?;
        self.emit_function(f, self.dst(operands, 0)?, s)
    }

    fn field(&mut self, opcode: &Opcode<'_>, operands: &[Operand], ty: Type) -> Result<(), Error> {
        self.count(operands, 5)?;
        if ty.bits() < 32 {
            return self.unknown(opcode);
        }
        let s = [self.src(operands, 1, ty)?, self.src(operands, 2, ty)?];
        let at = match (&operands[3], &operands[4]) {
            (Operand::Integer(position), Operand::Integer(length)) => {
                self.constant(position & 0xff | (length & 0xff) << 8)
            }
            _ => {
                let position = self.src(operands, 3, Type::U(32))?;
                let length = self.src(operands, 4, Type::U(32))?;
                let d = self.temporary();
                self.emit(Op::Narrow {
                    f: arith::pack_field(),
                    d,
                    s: [position, length, length],
                });
                Src::R32(d)
            }
        };
        self.emit_function(
            arith::field_insert(ty.bits()),
            self.dst(operands, 0)?,
            [s[0], s[1], at],
        )
    }

    fn carry(&mut self, opcode: &Opcode<'_>, operands: &[Operand], ty: Type) -> Result<(), Error> {
        let base = opcode.parts[0];
        let takes = base.ends_with('c');
        let kind = match base {
            "add" | "addc" => 0,
            "sub" | "subc" => 1,
            _ if opcode.has("lo") => 2,
            _ if opcode.has("hi") => 3,
            _ => return self.unknown(opcode),
        };
        if !opcode.only(&["cc", "lo", "hi"]) || ty.bits() < 32 {
            return self.unknown(opcode);
        }
        self.count(operands, if kind < 2 { 3 } else { 4 })?;
        let s = self.sources(operands, [ty; 3])?;
        let d = self.dst(operands, 0)?;
        self.emit(Op::Carry {
            kind,
            ty,
            takes,
            gives: opcode.has("cc"),
            d,
            s,
        });
        Ok(())
    }

    /// The predicates of a result, where the operand is one.
    pub(crate) fn maybe_pred(&mut self, operands: &[Operand], at: usize) -> Option<Pred> {
        if Self::is_pred(operands, at) {
            self.pred(operands, at).ok()
        } else {
            None
        }
    }
}

/// The 32-bit register of a result; register 0 takes what nobody reads.
pub(crate) fn narrow(d: Dst) -> u32 {
    match d {
        Dst::R32(n) => n,
        Dst::None | Dst::R64(_) => 0,
    }
}
