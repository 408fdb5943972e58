//! Scatter: pillar features into the BEV map that the engine reads.
//!
//! The map persists from frame to frame and is zero where no pillar is; only the cells that the last
//! frame wrote are cleared.

use crate::map::{MapDataMut, MapLayout, MapViewMut, quantize};

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
/// at most once) and clears the cells of the last frame. Where the map holds codes, the features are
/// quantised.
///
/// `map` must be the one of the last call. Cells outside it are a bug of the caller.
pub fn scatter(features: &[f32], cells: &[u32], state: &mut Scatter, map: &mut MapViewMut<'_>) {
    let layout = map.layout;
    debug_assert_eq!(features.len(), cells.len() * layout.channels);
    match &mut map.data {
        MapDataMut::F32(data) => write(features, cells, state, data, &layout, |value| value),
        MapDataMut::I8 { codes, scale } => {
            let scale = *scale;
            write(features, cells, state, codes, &layout, |value| {
                quantize(value, scale)
            });
        }
    }
    state.written.clear();
    state.written.extend_from_slice(cells);
}

/// Clears the cells of the last frame and writes `convert(feature)` to those of this one.
fn write<T: Copy + Default>(
    features: &[f32],
    cells: &[u32],
    state: &Scatter,
    data: &mut [T],
    layout: &MapLayout,
    convert: impl Fn(f32) -> T,
) {
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
            data[start..start + layout.channels].fill(T::default());
        } else {
            for c in 0..layout.channels {
                data[start + c * layout.stride_c] = T::default();
            }
        }
    }
    for (&cell, values) in cells.iter().zip(features.chunks_exact(layout.channels)) {
        let start = start(cell);
        if layout.stride_c == 1 {
            let to = &mut data[start..start + layout.channels];
            to.iter_mut()
                .zip(values)
                .for_each(|(to, value)| *to = convert(*value));
        } else {
            for (c, value) in values.iter().enumerate() {
                data[start + c * layout.stride_c] = convert(*value);
            }
        }
    }
}
