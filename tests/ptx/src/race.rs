//! Races: the last accesses to each byte, and whether the next one is ordered after them.
//!
//! Kept are the last write and two reads by different threads, for each word, or for each byte of 64 where an
//! access was narrower. Blocks of a launch are not ordered. Two accesses do not race if both are atomic
//! (`atom`, `red`, `.volatile`, `.relaxed`, …), or if both write the value that is there already.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// An access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// Number of the block; `NONE` for no access.
    pub(crate) block: u32,
    /// Number of the thread in its block.
    pub(crate) thread: u32,
    /// Clocks of its warp and lane.
    pub(crate) warp_time: u32,
    pub(crate) lane_time: u32,
    pub(crate) pc: u32,
    pub(crate) strong: bool,
}

const NONE: Access = Access {
    block: u32::MAX,
    thread: 0,
    warp_time: 0,
    lane_time: 0,
    pc: 0,
    strong: false,
};

impl Access {
    fn is_by(&self, other: &Access) -> bool {
        self.block == other.block && self.thread == other.thread
    }
}

#[derive(Clone, Copy)]
struct Cell {
    write: Access,
    reads: [Access; 2],
}

const EMPTY: Cell = Cell {
    write: NONE,
    reads: [NONE; 2],
};

/// Bytes of a chunk.
const CHUNK: u64 = 64;

struct Chunk {
    /// Bytes of a cell: 4 or 1.
    step: usize,
    cells: Vec<Cell>,
}

/// Hashes addresses.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        let mixed = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

/// The accesses to a memory.
#[derive(Default)]
pub(crate) struct Shadow {
    chunks: HashMap<u64, Chunk, BuildHasherDefault<AddressHasher>>,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    /// Writes the value that is there already.
    Rewrite,
}

impl Shadow {
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
    }

    /// Enters an access. Returns an earlier one that it races with, and its address.
    pub(crate) fn enter(
        &mut self,
        address: u64,
        bytes: usize,
        access: Access,
        kind: Kind,
        ordered: impl Fn(&Access) -> bool,
    ) -> Option<(u64, Access)> {
        let narrow = !address.is_multiple_of(4) || !bytes.is_multiple_of(4);
        let end = address + bytes as u64;
        let mut at = address;
        while at < end {
            let key = at / CHUNK;
            let chunk = self.chunks.entry(key).or_insert_with(|| {
                let step = if narrow { 1 } else { 4 };
                Chunk {
                    step,
                    cells: vec![EMPTY; CHUNK as usize / step],
                }
            });
            if narrow && chunk.step == 4 {
                chunk.cells = (0..CHUNK as usize)
                    .map(|byte| chunk.cells[byte / 4])
                    .collect();
                chunk.step = 1;
            }
            let limit = end.min((key + 1) * CHUNK);
            while at < limit {
                let cell = &mut chunk.cells[(at % CHUNK) as usize / chunk.step];
                if let Some(other) = cell.enter(access, kind, &ordered) {
                    return Some((at, other));
                }
                at += chunk.step as u64;
            }
        }
        None
    }
}

impl Cell {
    fn enter(
        &mut self,
        access: Access,
        kind: Kind,
        ordered: &impl Fn(&Access) -> bool,
    ) -> Option<Access> {
        let before =
            |other: &Access| other.block == NONE.block || other.is_by(&access) || ordered(other);
        let conflicts = |other: &Access| !(before(other) || other.strong && access.strong);
        if kind != Kind::Rewrite && conflicts(&self.write) {
            return Some(self.write);
        }
        if kind == Kind::Read {
            // An access that others know of needs no place.
            let place = usize::from(!before(&self.reads[0]));
            self.reads[place] = access;
        } else {
            if let Some(read) = self.reads.iter().find(|read| conflicts(read)) {
                return Some(*read);
            }
            self.write = access;
            self.reads = [NONE; 2];
        }
        None
    }
}
