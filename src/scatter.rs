//! Scatter: pillar features into the BEV map that the engine reads.
//!
//! The map persists from frame to frame and is zero where no pillar is; only the cells that the last
//! frame wrote are cleared.

use crate::engine::MapViewMut;

/// The cells that hold values, which the next frame has to clear.
#[derive(Clone, Debug)]
pub struct Scatter {
    /// Cells of the last frame, `y · width + x`.
    written: Vec<u32>,
}

impl Scatter {
    /// For at most `max_pillars` pillars, and a map that is all zero.
    pub fn new(max_pillars: usize) -> Self {
        Self {
            written: Vec::with_capacity(max_pillars),
        }
    }
}

/// Writes the features of each pillar (`[pillars][channels]`) at its cell (`y · width + x`, each cell
/// at most once) and clears the cells of the last frame.
///
/// `map` must be the one of the last call. Cells outside it are a bug of the caller.
pub fn scatter(features: &[f32], cells: &[u32], state: &mut Scatter, map: &mut MapViewMut<'_>) {
    let layout = map.layout;
    debug_assert_eq!(features.len(), cells.len() * layout.channels);
    let start = |cell: u32| {
        layout.index(
            0,
            cell as usize / layout.width,
            cell as usize % layout.width,
        )
    };
    for &cell in &state.written {
        let start = start(cell);
        if layout.stride_c == 1 {
            map.data[start..start + layout.channels].fill(0.0);
        } else {
            for c in 0..layout.channels {
                map.data[start + c * layout.stride_c] = 0.0;
            }
        }
    }
    for (&cell, values) in cells.iter().zip(features.chunks_exact(layout.channels)) {
        let start = start(cell);
        if layout.stride_c == 1 {
            map.data[start..start + layout.channels].copy_from_slice(values);
        } else {
            for (c, value) in values.iter().enumerate() {
                map.data[start + c * layout.stride_c] = *value;
            }
        }
    }
    state.written.clear();
    state.written.extend_from_slice(cells);
}
