//! Stores what an operator writes for an input of zeros, or sums on the way there, compactly. Most pixels share one vector, or a few after a
//! DepthToSpace, with some more along the edges. Groups of equal content are stored once.

use std::collections::HashMap;

use crate::engine::cpu::arena::{Element, TensorPlace, element};
use crate::engine::cpu::marks::GROUP;

/// The distinct groups of a reference may take 1 / `MOST_OF_MAP` of their map's bytes. A map that needs more is always
/// computed.
const MOST_OF_MAP: usize = 2;

/// An operator's output for an input of zeros.
#[derive(Debug)]
pub(super) struct Reference {
    /// By row and group: the index of the group in `data`.
    ids: Vec<u32>,
    /// Groups per row.
    row: usize,
    /// Words per group.
    group: usize,
    /// Distinct groups, [`GROUP`] pixels of all channels each. Words give them their alignment.
    data: Vec<u32>,
}

impl Reference {
    /// Stores a buffer's content. Returns `None` if that takes too much memory.
    pub(super) fn new(place: &TensorPlace, buffer: &[u8]) -> Option<Self> {
        let size = element(place.codes);
        let channels = place.channels * size;
        let row = place.width.div_ceil(GROUP);
        let most = place.height * row * channels * GROUP / MOST_OF_MAP;
        let mut builder = Builder::new([place.height, row], channels * GROUP, most);
        let mut content = vec![0; channels * GROUP];
        for y in 0..place.height {
            for g in 0..row {
                content.fill(0);
                let columns = g * GROUP..place.width.min((g + 1) * GROUP);
                for (pixel, x) in content.chunks_exact_mut(channels).zip(columns) {
                    let at = (place.start() + y * place.row + x * place.pixel) * size;
                    pixel.copy_from_slice(&buffer[at..at + channels]);
                }
                builder.push(&content)?;
            }
        }
        Some(builder.finish())
    }

    /// Memory in use, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.ids[..]) + size_of_val(&self.data[..])
    }

    /// The preceding group, or the one above, if it has this content. Most have.
    fn near(&self, content: &[u8]) -> Option<u32> {
        let next = self.ids.len();
        let near = [next.checked_sub(1), next.checked_sub(self.row)];
        near.into_iter().flatten().find_map(|at| {
            let id = self.ids[at];
            let words = &self.data[id as usize * self.group..][..self.group];
            (bytemuck::cast_slice::<u32, u8>(words) == content).then_some(id)
        })
    }

    /// The elements of group `g` of row `y`, pixel by pixel.
    pub(super) fn group<T: Element>(&self, y: usize, g: usize) -> &[T] {
        bytemuck::cast_slice(self.words(y, g))
    }

    /// The same, of a reference of sums.
    #[inline(always)]
    pub(super) fn sums(&self, y: usize, g: usize) -> &[i32] {
        bytemuck::cast_slice(self.words(y, g))
    }

    #[inline(always)]
    fn words(&self, y: usize, g: usize) -> &[u32] {
        let id = self.ids[y * self.row + g] as usize;
        &self.data[id * self.group..][..self.group]
    }
}

/// Stores the groups of a reference in order, row by row.
#[derive(Debug)]
pub(super) struct Builder {
    reference: Reference,
    /// Most words of distinct groups.
    most: usize,
    known: HashMap<Vec<u8>, u32>,
}

impl Builder {
    /// For rows by groups per row, of `bytes` each. The distinct groups may take `most` bytes.
    pub(super) fn new([rows, row]: [usize; 2], bytes: usize, most: usize) -> Self {
        Self {
            reference: Reference {
                ids: Vec::with_capacity(rows * row),
                row,
                group: bytes / size_of::<u32>(),
                data: Vec::new(),
            },
            most: most / size_of::<u32>(),
            known: HashMap::new(),
        }
    }

    /// Stores the next group. Returns `None` if that takes too much memory.
    pub(super) fn push(&mut self, content: &[u8]) -> Option<()> {
        let reference = &mut self.reference;
        let known = || self.known.get(content).copied();
        let id = match reference.near(content).or_else(known) {
            Some(id) => id,
            None if reference.data.len() >= self.most => return None,
            None => {
                let id = self.known.len() as u32;
                self.known.insert(content.to_vec(), id);
                let words = content.chunks_exact(size_of::<u32>());
                let words = words.map(bytemuck::pod_read_unaligned::<u32>);
                reference.data.extend(words);
                id
            }
        };
        reference.ids.push(id);
        Some(())
    }

    pub(super) fn finish(self) -> Reference {
        self.reference
    }
}
