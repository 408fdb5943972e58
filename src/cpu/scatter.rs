//! Scatter: writes pillar features into the BEV map, the engine's input.
//!
//! The map persists between frames and is zero where there is no pillar; only the cells written by the last
//! frame are cleared.

use crate::map::{MapDataMut, MapLayout, MapViewMut, quantize};

/// The cells with values, which the next frame must clear.
#[derive(Clone, Debug)]
pub struct Scatter {
    /// Cells of the last frame, `y · width + x`.
    written: Vec<u32>,
}

impl Scatter {
    /// Creates the state for at most `max_pillars` pillars and an all-zero map.
    pub fn new(max_pillars: usize) -> Self {
        Self {
            written: Vec::with_capacity(max_pillars),
        }
    }
}

/// Clears the cells of the last frame, and writes the features of each pillar (`[pillars][channels]`) to its
/// cell (`y · width + x`, each cell at most once). A map of INT8 codes gets quantised features.
///
/// `map` must be the same in each call. Cells outside it are a caller's bug.
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

/// Clears the cells of the last frame, and writes `convert(feature)` to those of this frame.
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
