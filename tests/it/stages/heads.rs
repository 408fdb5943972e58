//! Head maps stored as by an engine, for the tests of decode.

use centerpoint::Model;
use centerpoint::map::{HeadMaps, MapLayout, MapView};

/// Outputs by kind.
pub(crate) const HEATMAP: usize = 0;
pub(crate) const REG: usize = 1;
pub(crate) const HEIGHT: usize = 2;
pub(crate) const DIM: usize = 3;
pub(crate) const ROT: usize = 4;
pub(crate) const VEL: usize = 5;

/// The engine's memory layout of outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Storage {
    /// Each output dense.
    Nchw,
    /// All outputs side by side in one tensor, with a border of one cell.
    Nhwc,
}

/// The head maps of one task, stored as by an engine.
pub(crate) struct Heads {
    pub(crate) data: Vec<f32>,
    pub(crate) layouts: [MapLayout; 6],
}

impl Heads {
    /// Creates maps with all values 0, and all logits −9.
    pub(crate) fn new(model: &Model, task: usize, storage: Storage) -> Self {
        let (height, width) = model.head_size();
        let task = &model.head.tasks[task];
        let channels = model.head_channels(task).into_array();
        let all: usize = channels.iter().sum();
        let mut before = 0;
        let layouts = channels.map(|channels| {
            let dense = MapLayout::nchw(channels, height, width);
            let layout = match storage {
                Storage::Nchw => MapLayout {
                    offset: before * height * width,
                    ..dense
                },
                Storage::Nhwc => MapLayout {
                    offset: (width + 2) * all + all + before,
                    stride_c: 1,
                    stride_y: (width + 2) * all,
                    stride_x: all,
                    ..dense
                },
            };
            before += channels;
            layout
        });
        let mut heads = Self {
            data: vec![0.0; all * (height + 2) * (width + 2)],
            layouts,
        };
        for channel in 0..channels[HEATMAP] {
            for cell in 0..height * width {
                heads.set(HEATMAP, channel, cell, -9.0);
            }
        }
        heads
    }

    fn index(&self, kind: usize, channel: usize, cell: usize) -> usize {
        let layout = self.layouts[kind];
        layout.index(channel, cell / layout.width, cell % layout.width)
    }

    pub(crate) fn set(&mut self, kind: usize, channel: usize, cell: usize, value: f32) {
        let index = self.index(kind, channel, cell);
        self.data[index] = value;
    }

    pub(crate) fn get(&self, kind: usize, channel: usize, cell: usize) -> f32 {
        self.data[self.index(kind, channel, cell)]
    }

    pub(crate) fn maps(&self) -> HeadMaps<MapView<'_>> {
        let data = &self.data;
        self.layouts.map(|layout| MapView { data, layout }).into()
    }
}
