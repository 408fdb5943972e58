//! Feature maps of a batch of frames: `[frame][row][column][channel]` with a border of zeros, like the maps of the CPU
//! engine (`crate::engine::cpu`), whose kernels run on them.

use crate::program::layout::LANES;

/// Rows, columns and channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// Rows H (y).
    pub(crate) height: usize,
    /// Columns W (x).
    pub(crate) width: usize,
    /// Channels C.
    pub(crate) channels: usize,
}

/// Maps of several frames.
#[derive(Clone, Debug)]
pub(crate) struct Maps {
    pub(crate) shape: Shape,
    /// Zeros around each frame's map, in pixels.
    pub(crate) border: usize,
    pub(crate) frames: usize,
    /// All frames, and [`LANES`] values that kernels may read beyond the last.
    data: Vec<f32>,
}

impl Maps {
    /// Zeros.
    pub(crate) fn new(frames: usize, shape: Shape, border: usize) -> Self {
        let mut maps = Self {
            shape,
            border,
            frames,
            data: Vec::new(),
        };
        maps.data = vec![0.0; frames * maps.frame_len() + LANES];
        maps
    }

    /// Values between two rows.
    pub(crate) fn row(&self) -> usize {
        (self.shape.width + 2 * self.border) * self.shape.channels
    }

    /// Values between two frames.
    pub(crate) fn frame_len(&self) -> usize {
        (self.shape.height + 2 * self.border) * self.row()
    }

    /// Index of the first channel of a pixel.
    pub(crate) fn index(&self, frame: usize, y: usize, x: usize) -> usize {
        frame * self.frame_len()
            + (y + self.border) * self.row()
            + (x + self.border) * self.shape.channels
    }

    /// All values, with borders.
    pub(crate) fn data(&self) -> &[f32] {
        &self.data
    }

    /// All values, with borders, to write pixels inside.
    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The values of a row of pixels, without its border.
    pub(crate) fn pixels(&self, frame: usize, y: usize) -> &[f32] {
        let start = self.index(frame, y, 0);
        &self.data[start..start + self.shape.width * self.shape.channels]
    }

    /// As [`Maps::pixels`], to write.
    pub(crate) fn pixels_mut(&mut self, frame: usize, y: usize) -> &mut [f32] {
        let start = self.index(frame, y, 0);
        &mut self.data[start..start + self.shape.width * self.shape.channels]
    }

    /// Sets a frame to pillars, cell `y · width + x` and features, and all other pixels to 0.
    pub(crate) fn set_pillars<'a>(
        &mut self,
        frame: usize,
        pillars: impl Iterator<Item = (usize, &'a [f32])>,
    ) {
        let (width, channels) = (self.shape.width, self.shape.channels);
        let len = self.frame_len();
        self.data[frame * len..(frame + 1) * len].fill(0.0);
        for (cell, features) in pillars {
            let at = cell % width * channels;
            self.pixels_mut(frame, cell / width)[at..at + channels].copy_from_slice(features);
        }
    }

    /// The channels of the pixel `y · width + x`.
    pub(crate) fn pixel(&self, frame: usize, cell: usize) -> &[f32] {
        let start = self.index(frame, cell / self.shape.width, cell % self.shape.width);
        &self.data[start..start + self.shape.channels]
    }

    /// Sets all pixels to 0.
    pub(crate) fn clear(&mut self) {
        self.data.fill(0.0);
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.data[..])
    }
}
