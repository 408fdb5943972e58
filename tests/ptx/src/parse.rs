//! The outer level of a PTX text: variables, and functions with their bodies as tokens.

use crate::fault::Error;
use crate::lex::{Located, Token};
use crate::module::Type;

/// A position in tokens.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    tokens: &'a [Located],
    pub(crate) at: usize,
}

/// A declared variable or parameter.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) align: usize,
    /// `None` for an array of unknown size.
    pub(crate) bytes: Option<usize>,
    /// First bytes; the rest is 0. `None` if it has no initialiser.
    pub(crate) initial: Option<Vec<u8>>,
    /// It is a register (`.reg` parameters).
    pub(crate) register: bool,
}

/// A function or kernel.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) entry: bool,
    pub(crate) returns: Vec<Variable>,
    pub(crate) params: Vec<Variable>,
    pub(crate) max_threads: Option<u32>,
    /// Tokens between the braces.
    pub(crate) body: std::ops::Range<usize>,
}

/// Where a module's variable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Global,
    Shared,
}

/// The outer level of a module.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    pub(crate) functions: Vec<Function>,
    pub(crate) variables: Vec<(Segment, Variable)>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(tokens: &'a [Located]) -> Self {
        Cursor { tokens, at: 0 }
    }

    pub(crate) fn line(&self) -> u32 {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens.get(self.at.min(last)).map_or(1, |t| t.line)
    }

    pub(crate) fn fail<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err(Error::Syntax {
            line: self.line() as usize,
            message: message.into(),
        })
    }

    pub(crate) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at).map(|t| &t.token)
    }

    pub(crate) fn peek_at(&self, ahead: usize) -> Option<&'a Token> {
        self.tokens.get(self.at + ahead).map(|t| &t.token)
    }

    pub(crate) fn next(&mut self) -> Option<&'a Token> {
        let token = self.peek();
        self.at += 1;
        token
    }

    pub(crate) fn is_mark(&self, mark: char) -> bool {
        self.peek() == Some(&Token::Mark(mark))
    }

    /// Takes a mark if it is next.
    pub(crate) fn take(&mut self, mark: char) -> bool {
        let found = self.is_mark(mark);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn expect(&mut self, mark: char) -> Result<(), Error> {
        if self.take(mark) {
            Ok(())
        } else {
            self.fail(format!("expected `{mark}`"))
        }
    }

    pub(crate) fn word(&mut self) -> Result<&'a str, Error> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.fail("expected a name"),
        }
    }

    pub(crate) fn integer(&mut self) -> Result<u64, Error> {
        let negative = self.take('-');
        match self.peek() {
            Some(&Token::Integer(n)) => {
                self.at += 1;
                Ok(if negative { n.wrapping_neg() } else { n })
            }
            _ => self.fail("expected an integer"),
        }
    }

    pub(crate) fn skip_line(&mut self) {
        let line = self.line();
        while self.at < self.tokens.len() && self.line() == line {
            self.at += 1;
        }
    }

    pub(crate) fn skip_statement(&mut self) {
        while let Some(token) = self.next() {
            if *token == Token::Mark(';') {
                return;
            }
        }
    }

    /// Skips `{ … }`, and returns the range between the braces.
    pub(crate) fn braces(&mut self) -> Result<std::ops::Range<usize>, Error> {
        self.expect('{')?;
        let start = self.at;
        let mut depth = 1;
        while let Some(token) = self.next() {
            match token {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(start..self.at - 1);
            }
        }
        self.fail("a brace does not close")
    }

    /// `.align 8 .b8 name[128] = {…}`, without what follows.
    pub(crate) fn variable(&mut self) -> Result<Variable, Error> {
        let mut align = None;
        let mut lanes = 1;
        let mut register = false;
        let ty = loop {
            match self.word()? {
                ".align" => align = Some(self.integer()? as usize),
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                ".reg" => register = true,
                ".ptr" | ".global" | ".shared" | ".const" | ".local" | ".param" | ".noalias" => {}
                word => match word.strip_prefix('.').and_then(Type::from_name) {
                    Some(ty) => break ty,
                    None => return self.fail(format!("`{word}` is not a type")),
                },
            }
        };
        // A pointer's attributes follow its type.
        while let Some(Token::Word(word)) = self.peek() {
            match word.as_str() {
                ".ptr" | ".global" | ".shared" | ".const" | ".local" | ".param" => self.at += 1,
                ".align" => {
                    self.at += 1;
                    self.integer()?;
                }
                _ => break,
            }
        }
        let name = self.word()?.to_string();
        let element = ty.bytes().max(1) * lanes;
        let mut bytes = Some(element);
        while self.take('[') {
            if self.take(']') {
                bytes = None;
            } else {
                let count = self.integer()? as usize;
                bytes = bytes.map(|b| b.saturating_mul(count));
                self.expect(']')?;
            }
        }
        let mut initial = None;
        if self.take('=') {
            let mut values = Vec::new();
            self.initialiser(ty, &mut values)?;
            if bytes.is_none() {
                bytes = Some(values.len());
            }
            initial = Some(values);
        }
        let align = align.unwrap_or(element);
        Ok(Variable {
            name,
            align,
            bytes,
            initial,
            register,
        })
    }

    fn initialiser(&mut self, ty: Type, values: &mut Vec<u8>) -> Result<(), Error> {
        if self.take('{') {
            while !self.take('}') {
                self.initialiser(ty, values)?;
                if !self.is_mark('}') {
                    self.expect(',')?;
                }
            }
            return Ok(());
        }
        let negative = self.take('-');
        let bits = match (self.next(), ty) {
            (Some(&Token::Integer(n)), Type::F(32)) => u64::from((n as f32).to_bits()),
            (Some(&Token::Integer(n)), Type::F(64)) => (n as f64).to_bits(),
            (Some(&Token::Integer(n)), _) if negative => n.wrapping_neg(),
            (Some(&Token::Integer(n)), _) => n,
            (Some(&Token::Single(n)), _) => u64::from(n),
            (Some(&Token::Double(n)), Type::F(32)) => {
                u64::from((f64::from_bits(n) as f32).to_bits())
            }
            (Some(&Token::Double(n)), _) => n,
            _ => return self.fail("this initialiser is not a number"),
        };
        let bits = if negative && ty.float() {
            bits | 1 << (ty.bits() - 1)
        } else {
            bits
        };
        values.extend(&bits.to_le_bytes()[..ty.bytes()]);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Vec<Variable>, Error> {
        let mut params = Vec::new();
        self.expect('(')?;
        while !self.take(')') {
            params.push(self.variable()?);
            if !self.is_mark(')') {
                self.expect(',')?;
            }
        }
        Ok(params)
    }

    fn function(&mut self, entry: bool) -> Result<Option<Function>, Error> {
        let returns = if !entry && self.is_mark('(') {
            self.parameters()?
        } else {
            Vec::new()
        };
        let name = self.word()?.to_string();
        let params = if self.is_mark('(') {
            self.parameters()?
        } else {
            Vec::new()
        };
        let mut max_threads = None;
        loop {
            match self.peek() {
                Some(Token::Mark(';')) => {
                    self.at += 1;
                    return Ok(None);
                }
                Some(Token::Mark('{')) => break,
                Some(Token::Word(word)) => {
                    let limits = matches!(word.as_str(), ".maxntid" | ".reqntid");
                    self.at += 1;
                    let mut product = 1;
                    while let Some(Token::Integer(_) | Token::Mark(',')) = self.peek() {
                        if !self.take(',') {
                            product *= self.integer()?;
                        }
                    }
                    if limits {
                        max_threads = Some(product as u32);
                    }
                }
                Some(Token::Text(_) | Token::Integer(_)) => self.at += 1,
                _ => return self.fail("expected the function's body"),
            }
        }
        let body = self.braces()?;
        Ok(Some(Function {
            name,
            entry,
            returns,
            params,
            max_threads,
            body,
        }))
    }

    /// The whole text.
    pub(crate) fn outline(&mut self) -> Result<Outline, Error> {
        let mut outline = Outline::default();
        while let Some(token) = self.peek() {
            let Token::Word(word) = token else {
                if self.take(';') {
                    continue;
                }
                return self.fail("expected a directive");
            };
            match word.as_str() {
                ".version" | ".target" | ".address_size" | ".file" | ".loc" => self.skip_line(),
                ".visible" | ".extern" | ".weak" | ".common" => self.at += 1,
                ".pragma" | ".alias" => self.skip_statement(),
                ".section" => {
                    self.at += 2;
                    self.braces()?;
                }
                ".entry" | ".func" => {
                    self.at += 1;
                    while let Some(Token::Word(word)) = self.peek() {
                        if word != ".noreturn" {
                            break;
                        }
                        self.at += 1;
                    }
                    outline.functions.extend(self.function(word == ".entry")?);
                }
                ".global" | ".const" | ".shared" => {
                    self.at += 1;
                    let variable = self.variable()?;
                    self.expect(';')?;
                    let shared = word == ".shared";
                    let segment = if shared {
                        Segment::Shared
                    } else {
                        Segment::Global
                    };
                    outline.variables.push((segment, variable));
                }
                _ => return self.fail(format!("the directive `{word}` is unknown")),
            }
        }
        Ok(outline)
    }
}
