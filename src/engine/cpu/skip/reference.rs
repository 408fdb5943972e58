//! Stores what an operator writes for an input of zeros, compactly. Most pixels share one vector, or a few after a
//! DepthToSpace, with some more along the edges. Groups of equal content are stored once.

use std::collections::HashMap;

use crate::engine::cpu::arena::{Element, TensorPlace, element};
use crate::engine::cpu::skip::GROUP;

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
        let mut reference = Self {
            ids: Vec::with_capacity(place.height * row),
            row,
            group: channels * GROUP / size_of::<u32>(),
            data: Vec::new(),
        };
        let most = place.height * row * reference.group / MOST_OF_MAP;
        let mut known: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut content = vec![0; channels * GROUP];
        for y in 0..place.height {
            for g in 0..row {
                content.fill(0);
                let columns = g * GROUP..place.width.min((g + 1) * GROUP);
                for (pixel, x) in content.chunks_exact_mut(channels).zip(columns) {
                    let at = (place.start() + y * place.row + x * place.pixel) * size;
                    pixel.copy_from_slice(&buffer[at..at + channels]);
                }
                let found = reference
                    .near(&content)
                    .or_else(|| known.get(&content).copied());
                let id = match found {
                    Some(id) => id,
                    None if reference.data.len() >= most => return None,
                    None => {
                        let id = known.len() as u32;
                        known.insert(content.clone(), id);
                        let words = content.chunks_exact(size_of::<u32>());
                        let words = words.map(bytemuck::pod_read_unaligned::<u32>);
                        reference.data.extend(words);
                        id
                    }
                };
                reference.ids.push(id);
            }
        }
        Some(reference)
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
        let id = self.ids[y * self.row + g] as usize;
        bytemuck::cast_slice(&self.data[id * self.group..][..self.group])
    }
}
