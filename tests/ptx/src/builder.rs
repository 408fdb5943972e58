//! Puts a kernel together: names, registers, constants, inlined functions. `decode` fills in the operations.

use std::collections::HashMap;

use crate::fault::{Error, Space};
use crate::lex::Token;
use crate::module::{
    Dst, Instruction, Kernel, LANES, Op, PARAM_BASE, Pred, SINK, Special, Src, TRUE, Type,
};
use crate::operands::{Register, Symbol};
use crate::parse::{Cursor, Function, Outline, Segment, Variable};

/// Registers `prefix0` and up.
struct Range {
    prefix: String,
    count: u32,
    registers: Vec<Register>,
}

/// The names of a block in braces.
#[derive(Default)]
struct Scope {
    registers: HashMap<String, Register>,
    ranges: Vec<Range>,
    symbols: HashMap<String, Symbol>,
    labels: HashMap<String, u32>,
    /// Targets of `.branchtargets`.
    tables: HashMap<String, Vec<u32>>,
}

/// Addresses of the module's variables.
pub(crate) type Variables = HashMap<String, u64>;

/// A kernel being put together.
pub(crate) struct Builder<'m> {
    outline: &'m Outline,
    variables: &'m Variables,
    pub(crate) kernel: Kernel,
    /// Positions of labels in the code.
    pub(crate) labels: Vec<u32>,
    constants: HashMap<u64, u32>,
    specials: HashMap<(Special, bool), Register>,
    opcodes: HashMap<String, u32>,
    scopes: Vec<Scope>,
    shared: HashMap<String, u64>,
    /// Offset of `extern .shared` arrays.
    dynamic_at: u64,
    pub(crate) dynamic_align: u64,
    /// Names of the functions being inlined, and where the innermost returns to.
    calls: Vec<String>,
    pub(crate) return_to: Option<u32>,
    pub(crate) line: u32,
    pub(crate) opcode: u32,
    pub(crate) needs: u32,
}

fn align_up(n: u64, align: u64) -> u64 {
    n.div_ceil(align.max(1)) * align.max(1)
}

impl<'m> Builder<'m> {
    pub(crate) fn new(
        outline: &'m Outline,
        variables: &'m Variables,
        entry: &Function,
        dynamic_at: u64,
    ) -> Self {
        let kernel = Kernel {
            name: entry.name.clone(),
            param_bytes: 0,
            static_shared: 0,
            max_threads: entry.max_threads,
            code: Vec::new(),
            opcodes: Vec::new(),
            constants32: Vec::new(),
            constants64: Vec::new(),
            registers32: 1,
            registers64: 1,
            predicates: 2,
            names: [
                vec!["_".into()],
                vec!["_".into()],
                vec!["true".into(), "_".into()],
            ],
            specials: Vec::new(),
            local_bytes: 0,
        };
        const { assert!(TRUE == 0 && SINK == 1) };
        Builder {
            outline,
            variables,
            kernel,
            labels: Vec::new(),
            constants: HashMap::new(),
            specials: HashMap::new(),
            opcodes: HashMap::new(),
            scopes: Vec::new(),
            shared: HashMap::new(),
            dynamic_at,
            dynamic_align: 1,
            calls: Vec::new(),
            return_to: None,
            line: 0,
            opcode: 0,
            needs: 0,
        }
    }

    /// Decodes a kernel.
    pub(crate) fn entry(&mut self, cursor: &Cursor<'_>, entry: &Function) -> Result<(), Error> {
        let mut scope = Scope::default();
        let mut end = 0;
        for param in &entry.params {
            let start = align_up(end, param.align as u64);
            end = start + param.bytes.unwrap_or(0) as u64;
            let symbol = Symbol {
                space: Space::Param,
                address: PARAM_BASE + start,
            };
            scope.symbols.insert(param.name.clone(), symbol);
        }
        self.kernel.param_bytes = end as usize;
        self.scopes.push(scope);
        self.calls.push(entry.name.clone());
        self.body(cursor, entry)?;
        self.emit(Op::Exit);
        Ok(())
    }

    pub(crate) fn fail<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err(Error::Syntax {
            line: self.line as usize,
            message: message.into(),
        })
    }

    pub(crate) fn emit(&mut self, op: Op) {
        let (line, opcode, needs) = (self.line, self.opcode, self.needs);
        self.kernel.code.push(Instruction {
            op,
            guard: Pred::TRUE,
            line,
            opcode,
            needs,
        });
    }

    pub(crate) fn register(&mut self, ty: Type, name: &str) -> Register {
        let kernel = &mut self.kernel;
        match ty {
            Type::Pred => {
                kernel.names[2].push(name.into());
                kernel.predicates += 1;
                Register::Pred(kernel.predicates as u32 - 1)
            }
            _ if ty.bits() <= 32 => {
                kernel.names[0].push(name.into());
                kernel.registers32 += 1;
                Register::Narrow(kernel.registers32 as u32 - 1)
            }
            _ => {
                kernel.names[1].push(name.into());
                kernel.registers64 += 1;
                Register::Wide(kernel.registers64 as u32 - 1)
            }
        }
    }

    /// A 32-bit register for a step of an instruction.
    pub(crate) fn temporary(&mut self) -> u32 {
        self.register(Type::B(32), "_");
        self.kernel.registers32 as u32 - 1
    }

    pub(crate) fn constant(&mut self, value: u64) -> Src {
        let kernel = &mut self.kernel;
        Src::Const(*self.constants.entry(value).or_insert_with(|| {
            kernel.constants32.push([value as u32; LANES]);
            kernel.constants64.push([value; LANES]);
            kernel.constants32.len() as u32 - 1
        }))
    }

    pub(crate) fn special(&mut self, special: Special, wide: bool) -> Register {
        if let Some(&register) = self.specials.get(&(special, wide)) {
            return register;
        }
        let register = self.register(Type::B(if wide { 64 } else { 32 }), "special");
        let d = match register {
            Register::Wide(n) => Dst::R64(n),
            Register::Narrow(n) | Register::Pred(n) => Dst::R32(n),
        };
        self.kernel.specials.push((special, d));
        self.specials.insert((special, wide), register);
        register
    }

    pub(crate) fn new_label(&mut self) -> u32 {
        self.labels.push(u32::MAX);
        self.labels.len() as u32 - 1
    }

    pub(crate) fn place_label(&mut self, label: u32) {
        self.labels[label as usize] = self.kernel.code.len() as u32;
    }

    pub(crate) fn find_register(&self, name: &str) -> Option<Register> {
        let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let number = name[digits..].parse::<u32>().ok();
        self.scopes.iter().rev().find_map(|scope| {
            scope.registers.get(name).copied().or_else(|| {
                let n = number?;
                let range = scope.ranges.iter().find(|r| r.prefix == name[..digits])?;
                if n < range.count {
                    range.registers.get(n as usize).copied()
                } else {
                    None
                }
            })
        })
    }

    pub(crate) fn find_symbol(&mut self, name: &str) -> Option<Symbol> {
        if let Some(symbol) = self.scopes.iter().rev().find_map(|s| s.symbols.get(name)) {
            return Some(*symbol);
        }
        if let Some(&address) = self.variables.get(name) {
            return Some(Symbol {
                space: Space::Global,
                address,
            });
        }
        let outline = self.outline;
        let (segment, variable) = outline.variables.iter().find(|(_, v)| v.name == name)?;
        (*segment == Segment::Shared).then(|| self.shared_variable(variable))
    }

    fn shared_variable(&mut self, variable: &Variable) -> Symbol {
        let space = Space::Shared;
        let Some(bytes) = variable.bytes else {
            self.dynamic_align = self.dynamic_align.max(variable.align as u64);
            return Symbol {
                space,
                address: self.dynamic_at,
            };
        };
        if let Some(&address) = self.shared.get(&variable.name) {
            return Symbol { space, address };
        }
        let address = align_up(self.kernel.static_shared as u64, variable.align as u64);
        self.kernel.static_shared = address as usize + bytes;
        self.shared.insert(variable.name.clone(), address);
        Symbol { space, address }
    }

    /// A part of a thread's local memory.
    fn local_variable(&mut self, variable: &Variable) -> Symbol {
        // At least 8, so that a wider access to a small parameter stays aligned.
        let align = variable.align.max(8) as u64;
        let address = align_up(self.kernel.local_bytes as u64, align);
        self.kernel.local_bytes = address as usize + variable.bytes.unwrap_or(0);
        Symbol {
            space: Space::Local,
            address,
        }
    }

    /// Enters the labels of the block that starts at the cursor.
    fn push_scope(&mut self, cursor: &Cursor<'_>, end: usize) {
        let mut scope = Scope::default();
        let mut ahead = cursor.clone();
        let mut depth = 0;
        while ahead.at < end {
            match (ahead.peek(), ahead.peek_at(1)) {
                (Some(Token::Mark('{')), _) => depth += 1,
                (Some(Token::Mark('}')), _) if depth == 0 => break,
                (Some(Token::Mark('}')), _) => depth -= 1,
                (Some(Token::Word(word)), Some(Token::Mark(':'))) if depth == 0 => {
                    let label = self.new_label();
                    scope.labels.insert(word.clone(), label);
                }
                _ => {}
            }
            ahead.at += 1;
        }
        self.scopes.push(scope);
    }

    fn body(&mut self, outer: &Cursor<'_>, function: &Function) -> Result<(), Error> {
        let mut cursor = outer.clone();
        cursor.at = function.body.start;
        let end = function.body.end;
        self.push_scope(&cursor, end);
        let base = self.scopes.len();
        while cursor.at < end {
            self.line = cursor.line();
            match cursor.peek() {
                Some(Token::Mark('{')) => {
                    cursor.at += 1;
                    self.push_scope(&cursor, end);
                }
                Some(Token::Mark('}')) => {
                    cursor.at += 1;
                    if self.scopes.len() == base {
                        return self.fail("a brace closes that did not open");
                    }
                    self.scopes.pop();
                }
                Some(Token::Mark(';')) => cursor.at += 1,
                Some(Token::Word(word)) if cursor.peek_at(1) == Some(&Token::Mark(':')) => {
                    cursor.at += 2;
                    if cursor.peek() == Some(&Token::Word(".branchtargets".into())) {
                        cursor.at += 1;
                        self.branch_targets(&mut cursor, word)?;
                    } else if let Some(label) = self.find_label(word) {
                        self.place_label(label);
                    }
                }
                Some(Token::Word(word)) if word.starts_with('.') => {
                    self.directive(&mut cursor, word)?;
                }
                _ => self.statement(&mut cursor, outer)?,
            }
        }
        self.scopes.truncate(base - 1);
        Ok(())
    }

    pub(crate) fn find_label(&self, name: &str) -> Option<u32> {
        self.scopes
            .iter()
            .rev()
            .find_map(|s| s.labels.get(name))
            .copied()
    }

    fn branch_targets(&mut self, cursor: &mut Cursor<'_>, name: &str) -> Result<(), Error> {
        let mut targets = Vec::new();
        while !cursor.take(';') {
            let label = self.find_label(cursor.word()?);
            let Some(label) = label else {
                return self.fail("a branch target is missing");
            };
            targets.push(label);
            cursor.take(',');
        }
        if let Some(scope) = self.scopes.last_mut() {
            scope.tables.insert(name.into(), targets);
        }
        Ok(())
    }

    pub(crate) fn find_table(&self, name: &str) -> Option<Vec<u32>> {
        self.scopes
            .iter()
            .rev()
            .find_map(|s| s.tables.get(name))
            .cloned()
    }

    fn directive(&mut self, cursor: &mut Cursor<'_>, word: &str) -> Result<(), Error> {
        match word {
            ".loc" | ".file" => cursor.skip_line(),
            ".pragma" | ".callprototype" => cursor.skip_statement(),
            ".reg" => {
                cursor.at += 1;
                let mut word = cursor.word()?;
                if matches!(word, ".v2" | ".v4") {
                    return self.fail("vector registers are unknown");
                }
                let Some(ty) = word.strip_prefix('.').and_then(Type::from_name) else {
                    return self.fail(format!("`{word}` is not a type"));
                };
                loop {
                    word = cursor.word()?;
                    if cursor.take('<') {
                        let count = cursor.integer()? as u32;
                        cursor.expect('>')?;
                        let names = (0..count).map(|n| format!("{word}{n}"));
                        let registers = names.map(|name| self.register(ty, &name)).collect();
                        let range = Range {
                            prefix: word.into(),
                            count,
                            registers,
                        };
                        if let Some(scope) = self.scopes.last_mut() {
                            scope.ranges.push(range);
                        }
                    } else {
                        let register = self.register(ty, word);
                        if let Some(scope) = self.scopes.last_mut() {
                            scope.registers.insert(word.into(), register);
                        }
                    }
                    if !cursor.take(',') {
                        break;
                    }
                }
                cursor.expect(';')?;
            }
            ".shared" | ".local" | ".param" => {
                cursor.at += 1;
                let variable = cursor.variable()?;
                cursor.expect(';')?;
                let symbol = if word == ".shared" {
                    self.shared_variable(&variable)
                } else {
                    self.local_variable(&variable)
                };
                if let Some(scope) = self.scopes.last_mut() {
                    scope.symbols.insert(variable.name, symbol);
                }
            }
            // Variables of a function; the module collects them.
            ".global" | ".const" => cursor.skip_statement(),
            _ => return self.fail(format!("the directive `{word}` is unknown")),
        }
        Ok(())
    }

    /// `@p opcode operands;`
    fn statement(&mut self, cursor: &mut Cursor<'_>, outer: &Cursor<'_>) -> Result<(), Error> {
        let mut guard = Pred::TRUE;
        if cursor.take('@') {
            guard.negate = cursor.take('!');
            match self.find_register(cursor.word()?) {
                Some(Register::Pred(index)) => guard.index = index,
                _ => return self.fail("the guard is not a predicate"),
            }
        }
        let opcode = cursor.word()?;
        let (line, next) = (self.line, self.opcodes.len() as u32);
        self.opcode = *self.opcodes.entry(opcode.into()).or_insert(next);
        if self.opcode == next {
            self.kernel.opcodes.push(opcode.into());
        }
        self.needs = 0;
        if opcode == "call" || opcode == "call.uni" {
            let end = self.new_label();
            if guard != Pred::TRUE {
                self.emit(Op::Jump { target: end });
                let negate = !guard.negate;
                if let Some(jump) = self.kernel.code.last_mut() {
                    jump.guard = Pred { negate, ..guard };
                }
            }
            self.call(cursor, outer, end)?;
            self.line = line;
            self.place_label(end);
            return Ok(());
        }
        let mut operands = Vec::new();
        let start = self.kernel.code.len();
        while !cursor.take(';') {
            operands.push(self.operand(cursor)?);
            if !cursor.is_mark(';') {
                cursor.expect(',')?;
            }
        }
        self.instruction(opcode, &operands)?;
        for instruction in &mut self.kernel.code[start..] {
            instruction.guard = guard;
        }
        Ok(())
    }

    /// `call (returns), name, (arguments);` as the function's code, with the caller's memory as parameters.
    fn call(&mut self, cursor: &mut Cursor<'_>, outer: &Cursor<'_>, end: u32) -> Result<(), Error> {
        let list = |cursor: &mut Cursor<'_>| -> Result<Vec<String>, Error> {
            let mut names = Vec::new();
            if cursor.take('(') {
                while !cursor.take(')') {
                    names.push(cursor.word()?.to_string());
                    cursor.take(',');
                }
            }
            Ok(names)
        };
        let returns = list(cursor)?;
        cursor.take(',');
        let name = cursor.word()?.to_string();
        cursor.take(',');
        let arguments = list(cursor)?;
        cursor.expect(';')?;
        let outline = self.outline;
        let unknown = || Error::Unknown {
            line: self.line as usize,
            instruction: format!("call {name}"),
        };
        let Some(function) = outline
            .functions
            .iter()
            .find(|f| !f.entry && f.name == name)
        else {
            return Err(unknown());
        };
        // Recursion would need a stack of registers.
        if self.calls.contains(&name) {
            return Err(unknown());
        }
        let declared = function.returns.iter().zip(&returns);
        let declared = declared.chain(function.params.iter().zip(&arguments));
        let mut scope = Scope::default();
        for (formal, actual) in declared {
            if formal.register {
                let Some(register) = self.find_register(actual) else {
                    return self.fail(format!("`{actual}` is not a register"));
                };
                scope.registers.insert(formal.name.clone(), register);
            } else {
                let Some(symbol) = self.find_symbol(actual) else {
                    return self.fail(format!("`{actual}` is not a parameter"));
                };
                scope.symbols.insert(formal.name.clone(), symbol);
            }
        }
        if function.returns.len() != returns.len() || function.params.len() != arguments.len() {
            return self.fail(format!("`{name}` is called with other parameters"));
        }
        self.calls.push(name);
        let scopes = std::mem::replace(&mut self.scopes, vec![scope]);
        let return_to = self.return_to.replace(end);
        self.body(outer, function)?;
        self.return_to = return_to;
        self.scopes = scopes;
        self.calls.pop();
        Ok(())
    }
}
