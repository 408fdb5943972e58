//! Decodes comparisons, floating-point operations and conversions.

use crate::arith::{self, Comparison, Function};
use crate::builder::Builder;
use crate::decode::Opcode;
use crate::fast;
use crate::fault::Error;
use crate::module::{
    Conversion, Dst, FloatKind, FloatOp, Logic, Mode, Narrow, Op, Pred, SINK, Src, Type,
};
use crate::operands::{Operand, Register};

const ROUNDINGS: [&str; 7] = ["rn", "rz", "rm", "rp", "ftz", "sat", "approx"];

impl Builder<'_> {
    pub(crate) fn emit_comparison(
        &mut self,
        f: Comparison,
        s: [Src; 2],
        logic: Logic,
        with: Pred,
        (d, not_d): (u32, u32),
    ) {
        self.emit(match f {
            Comparison::Narrow(f) => Op::Compare32 {
                f,
                s,
                logic,
                with,
                d,
                not_d,
            },
            Comparison::Wide(f) => Op::Compare64 {
                f,
                s,
                logic,
                with,
                d,
                not_d,
            },
        });
    }

    pub(crate) fn compare(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        types: &[Type],
    ) -> Result<(), Error> {
        let sets = opcode.parts[0] == "set";
        let ty = types[types.len() - 1];
        if sets && types.len() != 2 {
            return self.unknown(opcode);
        }
        let logic = match opcode.parts.get(2).copied() {
            Some("and") => Some(Logic::And),
            Some("or") => Some(Logic::Or),
            Some("xor") => Some(Logic::Xor),
            _ => None,
        };
        let name = opcode.parts[1];
        let allowed = [name, "and", "or", "xor", "ftz"];
        let f = if ty.float() {
            fast::comparison(name, ty.bits(), opcode.has("ftz"))
        } else {
            arith::comparison(name, ty)
        };
        let Some(f) = f else {
            return self.unknown(opcode);
        };
        if !opcode.only(&allowed) || ty == Type::F16x2 {
            return self.unknown(opcode);
        }
        self.count(operands, 3 + usize::from(logic.is_some()))?;
        let s = [self.src(operands, 1, ty)?, self.src(operands, 2, ty)?];
        let with = if logic.is_some() {
            self.pred(operands, 3)?
        } else {
            Pred::TRUE
        };
        let logic = logic.unwrap_or(Logic::And);
        let wide = |s: &Src| matches!(s, Src::R64(_));
        if matches!(f, Comparison::Narrow(_)) && s.iter().any(wide) {
            return self.fail("an operand is too wide");
        }
        if sets {
            let yes = if types[0].float() {
                u64::from(1f32.to_bits())
            } else {
                0xffff_ffff
            };
            let s2 = [self.constant(yes), self.constant(0)];
            let d = self.dst(operands, 0)?;
            let Register::Pred(index) = self.register(Type::Pred, "_") else {
                return self.unknown(opcode);
            };
            self.emit_comparison(f, s, logic, with, (index, SINK));
            self.emit(Op::Select {
                d,
                s: s2,
                p: Pred {
                    index,
                    negate: false,
                },
            });
        } else {
            let d = self.dst_preds(operands)?;
            self.emit_comparison(f, s, logic, with, d);
        }
        Ok(())
    }

    pub(crate) fn select_by_sign(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        types: &[Type],
    ) -> Result<(), Error> {
        self.count(operands, 4)?;
        let [ty, sign] = types else {
            return self.unknown(opcode);
        };
        let f = match sign {
            Type::S(32) => arith::comparison("ge", *sign),
            Type::F(32) => fast::comparison("ge", 32, opcode.has("ftz")),
            _ => None,
        };
        let Some(f) = f else {
            return self.unknown(opcode);
        };
        let c = [self.src(operands, 3, *sign)?, self.constant(0)];
        let s = [self.src(operands, 1, *ty)?, self.src(operands, 2, *ty)?];
        let d = self.dst(operands, 0)?;
        let Register::Pred(index) = self.register(Type::Pred, "_") else {
            return self.unknown(opcode);
        };
        self.emit_comparison(f, c, Logic::And, Pred::TRUE, (index, SINK));
        self.emit(Op::Select {
            d,
            s,
            p: Pred {
                index,
                negate: false,
            },
        });
        Ok(())
    }

    pub(crate) fn float(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        ty: Type,
    ) -> Result<(), Error> {
        let allowed: Vec<&str> = ROUNDINGS.iter().chain(&["full", "NaN"]).copied().collect();
        if !opcode.only(&allowed) || opcode.types().len() != 1 {
            return self.unknown(opcode);
        }
        let ftz = opcode.has("ftz");
        let coarse = opcode.has("approx") && ty == Type::F(64);
        let kind = match opcode.parts[0] {
            "add" => FloatKind::Add,
            "sub" => FloatKind::Sub,
            "mul" => FloatKind::Mul,
            "fma" | "mad" => FloatKind::Fma,
            "div" => FloatKind::Div,
            "sqrt" => FloatKind::Sqrt,
            "rcp" if coarse => FloatKind::CoarseReciprocal,
            "rcp" => FloatKind::Reciprocal,
            "rsqrt" if coarse => FloatKind::CoarseInverseSqrt,
            "rsqrt" => FloatKind::InverseSqrt,
            "min" if opcode.has("NaN") => FloatKind::MinNan,
            "min" => FloatKind::Min,
            "max" if opcode.has("NaN") => FloatKind::MaxNan,
            "max" => FloatKind::Max,
            "neg" => FloatKind::Neg,
            "abs" => FloatKind::Abs,
            "ex2" => FloatKind::Exp2,
            "lg2" => FloatKind::Log2,
            "sin" => FloatKind::Sin,
            "cos" => FloatKind::Cos,
            "tanh" => FloatKind::Tanh,
            _ => return self.unknown(opcode),
        };
        let inputs = match kind {
            FloatKind::Fma => 3,
            FloatKind::Add | FloatKind::Sub | FloatKind::Mul | FloatKind::Div => 2,
            FloatKind::Min | FloatKind::Max | FloatKind::MinNan | FloatKind::MaxNan => 2,
            _ => 1,
        };
        self.count(operands, 1 + inputs)?;
        let packed = ty == Type::F16x2;
        let op = FloatOp {
            kind,
            bits: if packed { 16 } else { ty.bits() },
            mode: opcode.mode().map_or(Mode::Nearest, |(mode, _)| mode),
            ftz,
            sat: opcode.has("sat"),
            packed,
        };
        let s = self.sources(operands, [ty; 3])?;
        let d = self.dst(operands, 0)?;
        if let Some(f) = fast::fast32(op) {
            self.emit_function(Function::Narrow(f), d, s)
        } else if let Some(f) = fast::fast64(op) {
            self.emit_function(Function::Wide(f), d, s)
        } else {
            self.emit(Op::Float { op, d, s });
            Ok(())
        }
    }

    pub(crate) fn convert(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        types: &[Type],
    ) -> Result<(), Error> {
        if opcode.has("pack") {
            return self.convert_packed(opcode, operands, types);
        }
        let [to, from] = types else {
            return self.unknown(opcode);
        };
        if !opcode.only(&[
            "rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "ftz", "sat",
        ]) {
            return self.unknown(opcode);
        }
        let (mode, integral) = opcode.mode().unwrap_or((Mode::Nearest, false));
        let (ftz, sat) = (opcode.has("ftz"), opcode.has("sat"));
        let mut op = Conversion {
            to: *to,
            from: *from,
            mode,
            integral,
            ftz,
            sat,
        };
        let d = self.dst(operands, 0)?;
        let a = self.src(operands, 1, *from)?;
        if *to == Type::F16x2 {
            self.count(operands, 3)?;
            op.to = Type::F(16);
            let s = [a, self.src(operands, 2, *from)?];
            self.emit(Op::ConvertPair { op, d, s });
            return Ok(());
        }
        self.count(operands, 2)?;
        let valid = |ty: &Type| matches!(ty, Type::U(_) | Type::S(_) | Type::F(_));
        if !valid(to) || !valid(from) {
            return self.unknown(opcode);
        }
        if !to.float() && !from.float() && !sat {
            let ty = if to.bits() <= from.bits() { to } else { from };
            self.emit(Op::Wide {
                f: arith::extend(ty.bits(), ty.signed()),
                d,
                s: [a; 3],
            });
        } else if let Some(f) = fast::fast_conversion(op) {
            self.emit(Op::Wide { f, d, s: [a; 3] });
        } else {
            self.emit(Op::Convert { op, d, s: a });
        }
        Ok(())
    }

    /// `cvt.pack.sat`: two saturated numbers below the lower bits of a third operand.
    fn convert_packed(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        types: &[Type],
    ) -> Result<(), Error> {
        let to = types[0];
        let (Some(Type::S(32)), 8 | 16, false) = (types.get(1), to.bits(), to.float()) else {
            return self.unknown(opcode);
        };
        self.count(operands, if types.len() == 3 { 4 } else { 3 })?;
        let op = Conversion {
            to,
            from: Type::S(32),
            mode: Mode::Nearest,
            integral: false,
            ftz: false,
            sat: true,
        };
        let (a, b) = (self.temporary(), self.temporary());
        for (at, d) in [(1, a), (2, b)] {
            let s = self.src(operands, at, Type::S(32))?;
            self.emit(Op::Convert {
                op,
                d: Dst::R32(d),
                s,
            });
        }
        let zero = self.constant(0);
        let c = if types.len() == 3 {
            self.src(operands, 3, Type::B(32))?
        } else {
            zero
        };
        let f: Narrow = if to.bits() == 8 {
            |o, a, b, c| {
                for i in 0..o.len() {
                    o[i] = c[i] << 16 | (a[i] & 0xff) << 8 | b[i] & 0xff;
                }
            }
        } else {
            |o, a, b, _| {
                for i in 0..o.len() {
                    o[i] = a[i] << 16 | b[i] & 0xffff;
                }
            }
        };
        let d = self.dst(operands, 0)?;
        self.emit_function(Function::Narrow(f), d, [Src::R32(a), Src::R32(b), c])
    }
}
