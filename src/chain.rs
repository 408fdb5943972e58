//! An error with its causes, for people.
//!
//! A layer's message does not repeat the message of its source, so whoever prints an error prints the chain.

use std::error::Error;
use std::fmt;

/// Displays an error and its sources, separated by colons: `x.plan: cannot open the plan: permission denied`.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
