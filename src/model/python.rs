//! The literals of a Python file: assignments of numbers, texts, lists, tuples and dictionaries, as in a flattened mmengine
//! configuration. Nothing runs: whatever is no literal is an error with its line.
//!
//! A name stands for the value that was assigned to it before. Other names, such as `inf`, are kept as [`Literal::Name`],
//! because most of a configuration concerns training only.

use std::collections::BTreeMap;

/// Deepest nesting.
const MAX_DEPTH: usize = 64;
/// Most values, with those that names stand for: a few lines of names can multiply without end.
const MAX_VALUES: usize = 200_000;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    None,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Literal>),
    Dict(BTreeMap<String, Literal>),
    /// A name without a value.
    Name(String),
}

/// What is no literal, and where.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NotLiteral {
    pub(super) line: usize,
    pub(super) what: String,
}

/// The values that are assigned to names in `text`; the last one counts.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, Literal>, NotLiteral> {
    let mut parser = Parser {
        rest: text,
        line: 1,
        depth: 0,
        values: 0,
        names: BTreeMap::new(),
    };
    loop {
        parser.skip(true);
        if parser.rest.is_empty() {
            return Ok(parser.names);
        }
        parser.statement()?;
    }
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
    depth: usize,
    /// Values so far.
    values: usize,
    names: BTreeMap<String, Literal>,
}

impl Parser<'_> {
    fn error<T>(&self, what: impl Into<String>) -> Result<T, NotLiteral> {
        Err(NotLiteral {
            line: self.line,
            what: what.into(),
        })
    }

    /// The next characters, for a message.
    fn found(&self) -> String {
        let line = self.rest.lines().next().unwrap_or_default();
        match line.chars().take(40).collect::<String>() {
            text if text.is_empty() => "the end of the line".into(),
            text => format!("`{text}`"),
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        self.line += usize::from(next == '\n');
        Some(next)
    }

    fn eat(&mut self, wanted: &str) -> bool {
        let found = self.rest.starts_with(wanted);
        if found {
            for _ in wanted.chars() {
                self.next();
            }
        }
        found
    }

    /// Skips blanks and comments; also line breaks, between statements and within brackets.
    fn skip(&mut self, lines: bool) {
        loop {
            if self.rest.starts_with('#') {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.next();
                }
                continue;
            }
            if self.eat("\\\n") || self.eat("\\\r\n") {
                continue;
            }
            let is_blank = |c: char| c.is_whitespace() && (lines || c != '\n');
            if !self.peek().is_some_and(is_blank) {
                return;
            }
            self.next();
        }
    }

    fn name(&mut self) -> Option<String> {
        let is_start = |c: char| c.is_alphabetic() || c == '_';
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        self.peek().filter(|&c| is_start(c))?;
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(name.to_owned())
    }

    /// `name = value`, to the end of the line.
    fn statement(&mut self) -> Result<(), NotLiteral> {
        let before = self.found();
        let Some(name) = self.name() else {
            return self.error(format!("{before}; expected `name = value`"));
        };
        self.skip(false);
        if self.rest.starts_with("==") || !self.eat("=") {
            return self.error(format!("{before}; expected `name = value`"));
        }
        self.skip(false);
        let value = self.value()?;
        self.skip(false);
        if !(self.rest.is_empty() || self.eat("\n") || self.eat(";")) {
            return self.error(format!("{} after the value of `{name}`", self.found()));
        }
        self.names.insert(name, value);
        Ok(())
    }

    fn value(&mut self) -> Result<Literal, NotLiteral> {
        self.values += 1;
        if self.depth == MAX_DEPTH || self.values > MAX_VALUES {
            return self.error(format!(
                "more than {MAX_DEPTH} brackets in each other, or more than {MAX_VALUES} values"
            ));
        }
        self.depth += 1;
        let value = self.unlimited_value();
        self.depth -= 1;
        value
    }

    fn unlimited_value(&mut self) -> Result<Literal, NotLiteral> {
        match self.peek() {
            Some('[') => self.list("[", "]"),
            Some('(') => self.list("(", ")"),
            Some('{') => self.dict(),
            Some('"' | '\'') => self.texts(),
            Some(c) if c.is_ascii_digit() || "+-.".contains(c) => self.number(),
            _ => self.named(),
        }
    }

    /// A name, `dict(…)`, or a text with a prefix.
    fn named(&mut self) -> Result<Literal, NotLiteral> {
        let before = self.found();
        let Some(name) = self.name() else {
            return self.error(format!("{before}; expected a value"));
        };
        if self.rest.starts_with(['"', '\'']) {
            return match name.to_ascii_lowercase().as_str() {
                "r" | "br" | "rb" => self.text(true).map(Literal::Text),
                "b" | "u" => self.texts(),
                _ => self.error(format!("{before}; expected a literal")),
            };
        }
        let call = self.rest.starts_with('(');
        Ok(match name.as_str() {
            "None" => Literal::None,
            "True" => Literal::Bool(true),
            "False" => Literal::Bool(false),
            "dict" if call => return self.keywords(),
            "list" | "tuple" if call => {
                self.eat("(");
                self.skip(true);
                let value = self.value()?;
                self.skip(true);
                if !self.eat(")") {
                    return self.error(format!("{}; expected `)`", self.found()));
                }
                value
            }
            _ if call => return self.error(format!("{before}; a call is no literal")),
            _ => match self.names.get(&name).cloned() {
                Some(value) => {
                    self.values += count(&value);
                    value
                }
                None => Literal::Name(name),
            },
        })
    }

    /// `[a, b]`, `(a, b)`, or `(a)`, which is `a`.
    fn list(&mut self, open: &str, close: &str) -> Result<Literal, NotLiteral> {
        self.eat(open);
        let mut items = Vec::new();
        loop {
            self.skip(true);
            if self.eat(close) {
                return Ok(Literal::List(items));
            }
            items.push(self.value()?);
            self.skip(true);
            if self.eat(",") {
                continue;
            }
            if !self.eat(close) {
                return self.error(format!("{}; expected `,` or `{close}`", self.found()));
            }
            return Ok(match (close, items.pop()) {
                (")", Some(only)) if items.is_empty() => only,
                (_, last) => {
                    items.extend(last);
                    Literal::List(items)
                }
            });
        }
    }

    /// `{key: value}`.
    fn dict(&mut self) -> Result<Literal, NotLiteral> {
        self.eat("{");
        let mut items = BTreeMap::new();
        loop {
            self.skip(true);
            if self.eat("}") {
                return Ok(Literal::Dict(items));
            }
            let key = match self.value()? {
                Literal::Text(key) => key,
                Literal::Number(key) => key.to_string(),
                other => return self.error(format!("the key {other:?}; expected a text")),
            };
            self.skip(true);
            if !self.eat(":") {
                return self.error(format!("{}; expected `:`", self.found()));
            }
            self.skip(true);
            let value = self.value()?;
            items.insert(key, value);
            self.skip(true);
            if !self.eat(",") && !self.rest.starts_with('}') {
                return self.error(format!("{}; expected `,` or `}}`", self.found()));
            }
        }
    }

    /// `(key=value)` of `dict(key=value)`.
    fn keywords(&mut self) -> Result<Literal, NotLiteral> {
        self.eat("(");
        let mut items = BTreeMap::new();
        loop {
            self.skip(true);
            if self.eat(")") {
                return Ok(Literal::Dict(items));
            }
            let before = self.found();
            let Some(key) = self.name() else {
                return self.error(format!("{before}; expected `key=value`"));
            };
            self.skip(true);
            if self.rest.starts_with("==") || !self.eat("=") {
                return self.error(format!("{before}; expected `key=value`"));
            }
            self.skip(true);
            let value = self.value()?;
            items.insert(key, value);
            self.skip(true);
            if !self.eat(",") && !self.rest.starts_with(')') {
                return self.error(format!("{}; expected `,` or `)`", self.found()));
            }
        }
    }

    fn number(&mut self) -> Result<Literal, NotLiteral> {
        let before = self.found();
        let mut sign = 1.0;
        while self.rest.starts_with(['+', '-']) {
            if self.eat("-") {
                sign = -sign;
            } else {
                self.eat("+");
            }
            self.skip(false);
        }
        if self.peek().is_some_and(char::is_alphabetic) {
            // -inf
            return match self.named()? {
                Literal::Number(number) => Ok(Literal::Number(sign * number)),
                Literal::Name(name) => Ok(Literal::Name(format!("-{name}"))),
                _ => self.error(format!("{before}; expected a number")),
            };
        }
        let mut previous = ' ';
        let is_part = |c: char| {
            let exponent = (c == '+' || c == '-') && matches!(previous, 'e' | 'E');
            previous = c;
            exponent || c.is_alphanumeric() || c == '.' || c == '_'
        };
        let mut is_part = is_part;
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        let plain = digits.replace('_', "");
        let parsed = match plain.strip_prefix("0x").or(plain.strip_prefix("0X")) {
            Some(digits) => u64::from_str_radix(digits, 16).ok().map(|n| n as f64),
            // `inf` and `nan` are no digits.
            None if plain.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
                plain.parse().ok()
            }
            None => None,
        };
        let Some(number) = parsed else {
            return self.error(format!("{before}; expected a number"));
        };
        self.rest = rest;
        Ok(Literal::Number(sign * number))
    }

    /// Texts that follow each other are one.
    fn texts(&mut self) -> Result<Literal, NotLiteral> {
        let mut all = self.text(false)?;
        loop {
            self.skip(self.depth > 1);
            if !self.rest.starts_with(['"', '\'']) {
                return Ok(Literal::Text(all));
            }
            all += &self.text(false)?;
        }
    }

    fn text(&mut self, raw: bool) -> Result<String, NotLiteral> {
        let quote = match self.peek() {
            Some('"') if self.eat("\"\"\"") => "\"\"\"",
            Some('\'') if self.eat("'''") => "'''",
            Some('"') if self.eat("\"") => "\"",
            _ if self.eat("'") => "'",
            _ => return self.error(format!("{}; expected a text", self.found())),
        };
        let mut text = String::new();
        loop {
            if self.eat(quote) {
                return Ok(text);
            }
            match self.next() {
                None => return self.error("a text does not end"),
                Some('\n') if quote.len() == 1 => return self.error("a text does not end"),
                Some('\\') if raw => {
                    text.push('\\');
                    text.extend(self.next());
                }
                Some('\\') => text += &self.escape()?,
                Some(c) => text.push(c),
            }
        }
    }

    /// What a backslash and the characters after it stand for.
    fn escape(&mut self) -> Result<String, NotLiteral> {
        let digits = match self.next() {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some('\n') => return Ok(String::new()),
            Some('n') => return Ok("\n".into()),
            Some('t') => return Ok("\t".into()),
            Some('r') => return Ok("\r".into()),
            Some(c @ ('\\' | '\'' | '"')) => return Ok(c.into()),
            other => return Ok(std::iter::once('\\').chain(other).collect()),
        };
        let code: String = (0..digits).filter_map(|_| self.next()).collect();
        match u32::from_str_radix(&code, 16).ok().and_then(char::from_u32) {
            Some(c) => Ok(c.into()),
            None => self.error(format!("`{code}` is no character's number")),
        }
    }
}

/// The number of values in a value.
fn count(value: &Literal) -> usize {
    match value {
        Literal::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Literal::Dict(items) => 1 + items.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Literal {
        parse(&format!("a = {text}\n"))
            .unwrap()
            .remove("a")
            .unwrap()
    }

    fn numbers(values: &[f64]) -> Literal {
        Literal::List(values.iter().map(|&n| Literal::Number(n)).collect())
    }

    #[test]
    fn literals_are_read_as_python_reads_them() {
        for (text, expected) in [
            ("-1_000.5e-3", Literal::Number(-1.0005)),
            ("0x1F", Literal::Number(31.0)),
            (".5", Literal::Number(0.5)),
            ("--2", Literal::Number(2.0)),
            ("None", Literal::None),
            ("True  # yes", Literal::Bool(true)),
            ("'a' \"b\"", Literal::Text("ab".into())),
            ("r'\\n'", Literal::Text("\\n".into())),
            ("'é\\x41\\u00e9\\'\\q'", Literal::Text("éAé'\\q".into())),
            ("\"\"\"two\nlines\"\"\"", Literal::Text("two\nlines".into())),
            ("[1, 2.0,\n 3, ]", numbers(&[1.0, 2.0, 3.0])),
            ("(1, 2)", numbers(&[1.0, 2.0])),
            ("(1)", Literal::Number(1.0)),
            ("(1,)", numbers(&[1.0])),
            ("()", numbers(&[])),
            ("list((1, 2))", numbers(&[1.0, 2.0])),
            ("-inf", Literal::Name("-inf".into())),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
        let both = [value("dict(x=1, y=[2])"), value("{'x': 1, 'y': [2,],}")];
        assert_eq!(both[0], both[1]);
        let Literal::Dict(items) = &both[0] else {
            panic!("{both:?}")
        };
        assert_eq!(items["y"], numbers(&[2.0]));
    }

    #[test]
    fn names_stand_for_earlier_values() {
        let all = parse("r = [1, 2]\nm = dict(a=r,\n    b=other)\nr = 3; s = r").unwrap();
        let Literal::Dict(m) = &all["m"] else {
            panic!("{all:?}")
        };
        assert_eq!(m["a"], numbers(&[1.0, 2.0]));
        assert_eq!(m["b"], Literal::Name("other".into()));
        assert_eq!(all["s"], Literal::Number(3.0));
    }

    #[test]
    fn everything_else_is_an_error_with_its_line() {
        for (text, line, what) in [
            ("a = 1\nimport os", 2, "import os"),
            ("a = f(1)", 1, "call"),
            ("a = __import__('os').system('true')", 1, "call"),
            ("a = 1 + 2", 1, "+ 2"),
            ("a = b[0]", 1, "[0]"),
            ("a = b.c", 1, ".c"),
            ("a = [i for i in b]", 1, "for i"),
            ("a = dict(**b)", 1, "**b"),
            ("a = f'{b}'", 1, "literal"),
            ("\n\na = 'open", 3, "does not end"),
            ("a = [1,", 1, "expected a value"),
            ("a += 1", 1, "name = value"),
            ("with read_base():\n  pass", 1, "with read_base"),
            ("a = 1j", 1, "number"),
            ("a = '\\ud800'", 1, "character"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error:?}");
            assert!(error.what.contains(what), "{text}: {error:?}");
        }
        let deep = "a = ".to_owned() + &"[".repeat(100_000);
        assert!(parse(&deep).unwrap_err().what.contains("64 brackets"));
        // Each line doubles the one before.
        let mut laughs = "a0 = [1]\n".to_owned();
        for i in 1..60 {
            laughs += &format!("a{i} = [a{}, a{}]\n", i - 1, i - 1);
        }
        assert!(parse(&laughs).unwrap_err().what.contains("values"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c(){}\\[\\]=,:'\"\\\\#0-9.e+\n -]{0,80}") {
            let _ = parse(&text);
        }
    }
}
