//! The frame's input on the device: the cloud's rows as they are, and a header that says how to read them.
//!
//! Columns are chosen, intensities scaled and past sweeps moved by the kernels while they read, with the
//! operations of `PointCloud::select` and `SweepBuffer::accumulate`.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::{Buffer, CudaError, Device};
use crate::model::Model;
use crate::points::{Column, FrameError, Layout, MAX_COLUMNS};

/// Most sweeps of a frame.
pub const MAX_SWEEPS: usize = 256;

/// The mirror of `Sweep` in `kernels/common.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Sweep {
    /// Its first point.
    pub first: u32,
    /// Seconds before the newest sweep.
    pub age: f32,
    /// Rows of `[R | t]` that move its points to where the newest sweep sees them.
    pub motion: [[f32; 4]; 3],
}

/// The mirror of `Frame` in `kernels/common.cuh`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    points: u64,
    count: u32,
    stride: u32,
    columns: u32,
    source: [i32; MAX_COLUMNS],
    factor: [f32; MAX_COLUMNS],
    time: i32,
    sweeps: u32,
    reserved: u32,
    sweep: [Sweep; MAX_SWEEPS],
}

const _: () = assert!(size_of::<Header>() == 160 + 56 * MAX_SWEEPS);

/// The points of a frame and how to read them, on the device. Allocated once.
#[derive(Debug)]
pub struct Input {
    header: Buffer<Header>,
    points: Buffer<f32>,
    columns: Vec<Column>,
    intensity_scale: f32,
    capacity: usize,
}

impl Input {
    /// Buffers for `model.points.capacity` points of at most [`MAX_COLUMNS`] columns.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn new(model: &Model, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        let capacity = model.points.capacity;
        Ok(Self {
            header: Buffer::zeroed(device, "the frame's header", 1)?,
            points: Buffer::zeroed(device, "points", capacity * MAX_COLUMNS)?,
            columns: model.points.columns.clone(),
            intensity_scale: model.points.intensity_scale,
            capacity,
        })
    }

    /// Address of the header.
    pub fn address(&self) -> u64 {
        self.header.address()
    }

    /// Most points of a frame.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Takes a frame of one sweep: rows of `layout`. Points past the capacity are not taken; their number is
    /// returned.
    ///
    /// # Errors
    /// [`FrameError::MissingColumn`] inside [`crate::Error`], or [`CudaError::Copy`].
    pub fn set(&mut self, points: &[f32], layout: Layout) -> crate::Result<usize> {
        let stride = layout.stride();
        let count = (points.len() / stride).min(self.capacity);
        let mut header = self.header(layout)?;
        header.points = self.points.address();
        header.count = count as u32;
        header.sweeps = 1;
        self.points.upload(&points[..count * stride])?;
        self.header.upload(&[header])?;
        Ok(points.len() / stride - count)
    }

    /// A header without points for rows of `layout`.
    fn header(&self, layout: Layout) -> Result<Header, FrameError> {
        let mut header = Header::zeroed();
        header.stride = layout.stride() as u32;
        header.columns = self.columns.len() as u32;
        header.source = [-1; MAX_COLUMNS];
        header.factor = [1.0; MAX_COLUMNS];
        header.time = -1;
        for (i, &column) in self.columns.iter().enumerate() {
            let position = match column {
                Column::Skip => None,
                other => layout.position(other),
            };
            match (column, position) {
                (_, Some(position)) => header.source[i] = position as i32,
                (Column::Skip | Column::T | Column::Intensity, None) => {}
                (column, None) => return Err(FrameError::MissingColumn { column, layout }),
            }
            if column == Column::Intensity {
                header.factor[i] = self.intensity_scale;
            }
            if column == Column::T {
                header.time = i as i32;
            }
        }
        Ok(header)
    }
}
