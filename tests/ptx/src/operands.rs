//! Operands: registers, numbers, symbols, addresses, special registers.

use crate::builder::Builder;
use crate::fault::{Error, Space};
use crate::lex::Token;
use crate::module::{Address, LANES, Special, Src};
use crate::parse::Cursor;

/// A register by file and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    Narrow(u32),
    Wide(u32),
    Pred(u32),
}

/// What a symbol stands for: its address in a space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    pub(crate) space: Space,
    pub(crate) address: u64,
}

/// An operand.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    Register(Register),
    /// `!%p`.
    Not(Register),
    Integer(u64),
    Single(u32),
    Double(u64),
    Symbol(Symbol),
    Label(u32),
    Vector(Vec<Operand>),
    Memory {
        base: Option<Src>,
        symbol: Option<Symbol>,
        offset: u64,
    },
    /// `a|b`.
    Pair(Box<Operand>, Box<Operand>),
    Sink,
}

impl Builder<'_> {
    pub(crate) fn operand(&mut self, cursor: &mut Cursor<'_>) -> Result<Operand, Error> {
        if cursor.take('{') {
            let mut parts = Vec::new();
            while !cursor.take('}') {
                parts.push(self.operand(cursor)?);
                if !cursor.is_mark('}') {
                    cursor.expect(',')?;
                }
            }
            return Ok(Operand::Vector(parts));
        }
        if cursor.take('[') {
            return self.memory(cursor);
        }
        if cursor.take('!') {
            return match self.find_register(cursor.word()?) {
                Some(register) => Ok(Operand::Not(register)),
                None => self.fail("expected a predicate after `!`"),
            };
        }
        let first = self.simple(cursor)?;
        if cursor.take('|') {
            let second = self.simple(cursor)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn simple(&mut self, cursor: &mut Cursor<'_>) -> Result<Operand, Error> {
        let negative = cursor.take('-');
        let token = cursor.next();
        Ok(match token {
            Some(&Token::Integer(n)) if negative => Operand::Integer(n.wrapping_neg()),
            Some(&Token::Integer(n)) => Operand::Integer(n),
            Some(&Token::Single(n)) => Operand::Single(n ^ u32::from(negative) << 31),
            Some(&Token::Double(n)) => Operand::Double(n ^ u64::from(negative) << 63),
            Some(Token::Word(word)) if word == "_" => Operand::Sink,
            Some(Token::Word(word)) => {
                if let Some(register) = self.find_register(word) {
                    Operand::Register(register)
                } else if let Some((special, wide)) = special_named(word) {
                    Operand::Register(self.special(special, wide))
                } else if word == "WARP_SZ" {
                    Operand::Integer(LANES as u64)
                } else if let Some(symbol) = self.find_symbol(word) {
                    let mut symbol = symbol;
                    if cursor.take('+') {
                        symbol.address += cursor.integer()?;
                    }
                    Operand::Symbol(symbol)
                } else if let Some(table) = self.find_table(word) {
                    Operand::Vector(table.into_iter().map(Operand::Label).collect())
                } else if let Some(label) = self.find_label(word) {
                    Operand::Label(label)
                } else {
                    return self.fail(format!("`{word}` is not declared"));
                }
            }
            _ => return self.fail("expected an operand"),
        })
    }

    fn memory(&mut self, cursor: &mut Cursor<'_>) -> Result<Operand, Error> {
        let (mut base, mut symbol, mut offset) = (None, None, 0u64);
        match self.simple(cursor)? {
            Operand::Register(Register::Narrow(n)) => base = Some(Src::R32(n)),
            Operand::Register(Register::Wide(n)) => base = Some(Src::R64(n)),
            Operand::Symbol(s) => symbol = Some(s),
            Operand::Integer(n) => offset = n,
            _ => return self.fail("this is not an address"),
        }
        while !cursor.take(']') {
            if !cursor.take('+') && !cursor.is_mark('-') {
                return self.fail("expected `+` or `]`");
            }
            offset = offset.wrapping_add(cursor.integer()?);
        }
        Ok(Operand::Memory {
            base,
            symbol,
            offset,
        })
    }

    /// The address that an operand names, in the instruction's space.
    pub(crate) fn address(&self, operand: &Operand, space: Space) -> Result<Address, Error> {
        let Operand::Memory {
            base,
            symbol,
            offset,
        } = operand
        else {
            return self.fail("expected an address in brackets");
        };
        Ok(match symbol {
            None => Address {
                space,
                base: *base,
                offset: *offset,
            },
            // A parameter of a function is local memory.
            Some(s) => Address {
                space: if space == Space::Generic || space == Space::Param {
                    s.space
                } else {
                    space
                },
                base: None,
                offset: s.address.wrapping_add(*offset),
            },
        })
    }
}

/// The special register of a name, and whether it is 64 bits wide.
pub(crate) fn special_named(name: &str) -> Option<(Special, bool)> {
    let axis = |dot: &str| match dot {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    let special = match name {
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::Warps,
        "%lanemask_eq" => Special::MaskEq,
        "%lanemask_lt" => Special::MaskLt,
        "%lanemask_le" => Special::MaskLe,
        "%lanemask_gt" => Special::MaskGt,
        "%lanemask_ge" => Special::MaskGe,
        "%clock" | "%clock_hi" | "%smid" | "%nsmid" | "%gridid" | "%globaltimer_lo" => {
            Special::Clock
        }
        "%clock64" | "%globaltimer" => return Some((Special::Clock, true)),
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%warpsize" => Special::WarpSize,
        _ => {
            let dot = name.find('.')?;
            let axis = axis(&name[dot..])?;
            match &name[..dot] {
                "%tid" => Special::Thread(axis),
                "%ntid" => Special::Threads(axis),
                "%ctaid" => Special::Block(axis),
                "%nctaid" => Special::Blocks(axis),
                _ => return None,
            }
        }
    };
    Some((special, false))
}
