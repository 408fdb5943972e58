//! Expands the weights of 4 bits of a program to codes of 8 bits, which the kernels read.
//!
//! A program without any keeps its weights where they are, for instance in a mapped plan. Otherwise all its constants are
//! copied: a plan with weights of 4 bits takes less room on disk, not in memory.

use std::collections::HashMap;
use std::sync::Arc;

use super::{CacheLine, LINE, Weights};
use crate::program::{Conv, OpKind, Program, ProgramError, Section, unpack};

/// A blob of constants, aligned to cache lines.
struct Blob {
    lines: Vec<CacheLine>,
    len: usize,
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

/// Copies sections to a new blob.
struct Copies<'a> {
    from: &'a [u8],
    bytes: Vec<u8>,
    /// New places of sections, by their old ones and whether they were packed.
    known: HashMap<(usize, usize, bool), Section>,
    sections: usize,
}

impl Copies<'_> {
    fn section(&mut self, section: &mut Section, packed: bool) -> Result<(), ProgramError> {
        let key = (section.offset, section.len, packed);
        if let Some(known) = self.known.get(&key) {
            *section = *known;
            return Ok(());
        }
        let offset = self.bytes.len().next_multiple_of(LINE);
        let len = section.len * if packed { 2 } else { 1 };
        self.sections += 1;
        // Sections that do not overlap cannot need more.
        let most = 2 * self.from.len() + LINE * self.sections;
        if offset + len > most {
            return Err(ProgramError::Payload {
                what: format!(
                    "the sections of weights overlap: they hold more than the {} bytes of weights",
                    self.from.len()
                ),
            });
        }
        // Validated: every section is inside.
        let source = self.from.get(section.range()).unwrap_or_default();
        self.bytes.resize(offset, 0);
        if packed {
            self.bytes.extend(unpack(source).map(|code| code as u8));
        } else {
            self.bytes.extend_from_slice(source);
        }
        *section = Section { offset, len };
        self.known.insert(key, *section);
        Ok(())
    }

    fn conv(&mut self, conv: &mut Conv) -> Result<(), ProgramError> {
        let packed = conv.weight_bits == 4;
        for phase in &mut conv.phases {
            self.section(&mut phase.weights, packed)?;
            if let Some(multiplier) = &mut phase.multiplier {
                self.section(multiplier, false)?;
            }
            self.section(&mut phase.bias, false)?;
        }
        conv.weight_bits = 8;
        Ok(())
    }
}

/// The validated program and its weights, with 8 bits for each weight of codes.
///
/// # Errors
/// [`ProgramError::Payload`] for sections that overlap so that they would not fit.
pub(in crate::engine) fn expand(
    mut program: Program,
    weights: Weights,
) -> Result<(Program, Weights), ProgramError> {
    let packed = |kind: &OpKind| matches!(kind, OpKind::Conv(conv) if conv.weight_bits == 4);
    if !program.ops.iter().any(|op| packed(&op.kind)) {
        return Ok((program, weights));
    }
    let mut copies = Copies {
        from: (*weights).as_ref(),
        bytes: Vec::new(),
        known: HashMap::new(),
        sections: 0,
    };
    for op in &mut program.ops {
        match &mut op.kind {
            OpKind::Conv(conv) => copies.conv(conv)?,
            OpKind::Affine { scale, shift, .. } => {
                copies.section(scale, false)?;
                copies.section(shift, false)?;
            }
            _ => {}
        }
    }
    let bytes = copies.bytes;
    let mut lines = vec![CacheLine([0; LINE]); bytes.len().div_ceil(LINE)];
    bytemuck::cast_slice_mut(&mut lines)[..bytes.len()].copy_from_slice(&bytes);
    let len = bytes.len();
    Ok((program, Arc::new(Blob { lines, len })))
}
