//! The frame's input on the device: the cloud's rows as they are, and a header that says how to read them.
//!
//! Columns are chosen, intensities scaled and past sweeps moved by the kernels while they read, with the
//! operations of `PointCloud::select` and `SweepBuffer::accumulate`. Header and points lie side by side in
//! pinned memory and on the device, so that a frame is one copy of as many bytes as it has.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::{Buffer, CudaError, Device, Pinned};
use crate::model::Model;
use crate::points::{Accumulated, Column, FrameError, Layout, MAX_COLUMNS, SweepBuffer};

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

/// Where the points begin in the block: past the header, aligned as memory from the device is.
const POINTS_AT: usize = size_of::<Header>().next_multiple_of(256);

/// The points of a frame and how to read them, on the device. Allocated once.
#[derive(Debug)]
pub struct Input {
    /// The header and from [`POINTS_AT`] on the points, on the host and on the device.
    host: Pinned<u8>,
    block: Buffer<u8>,
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
        let bytes = POINTS_AT + capacity * MAX_COLUMNS * size_of::<f32>();
        Ok(Self {
            host: Pinned::zeroed(device, "the frame's input", bytes)?,
            block: Buffer::zeroed(device, "the frame's input", bytes)?,
            columns: model.points.columns.clone(),
            intensity_scale: model.points.intensity_scale,
            capacity,
        })
    }

    /// Address of the header.
    pub fn address(&self) -> u64 {
        self.block.address()
    }

    /// Most points of a frame.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Takes a frame of one sweep: rows of `layout`. Points past the capacity are not taken; their number is
    /// returned. It waits for the frame before, and not for the copy.
    ///
    /// # Errors
    /// [`FrameError::MissingColumn`] inside [`crate::Error`], or [`CudaError::Copy`].
    pub fn set(&mut self, points: &[f32], layout: Layout) -> crate::Result<usize> {
        let stride = layout.stride();
        let count = (points.len() / stride).min(self.capacity);
        let points_at = self.block.address() + POINTS_AT as u64;
        let header = self.header(layout, points_at, count)?;
        let taken = &points[..count * stride];
        self.host.write(0, &[header])?;
        self.host.write(POINTS_AT, taken)?;
        self.host
            .copy_to(&self.block, POINTS_AT + size_of_val(taken))?;
        Ok(points.len() / stride - count)
    }

    /// Takes a frame of one sweep whose points are on the device already: `count` rows of `layout` from
    /// `address` on, aligned to 4 bytes. They must stay as they are until the frame is done. Points past the
    /// capacity are not taken; their number is returned.
    ///
    /// # Errors
    /// As [`Input::set`].
    pub fn set_device(
        &mut self,
        address: u64,
        count: usize,
        layout: Layout,
    ) -> crate::Result<usize> {
        let taken = count.min(self.capacity);
        let header = self.header(layout, address, taken)?;
        self.host.write(0, &[header])?;
        self.host.copy_to(&self.block, size_of::<Header>())?;
        Ok(count - taken)
    }

    /// Takes the sweeps that [`SweepBuffer::accumulate`] would take, as they are: the kernels move them.
    /// Points past the capacity, and sweeps past [`MAX_SWEEPS`], are not taken but counted.
    ///
    /// # Errors
    /// As [`Input::set`].
    pub fn set_sweeps(&mut self, sweeps: &SweepBuffer) -> crate::Result<Accumulated> {
        let stride = sweeps.layout().stride();
        let points_at = self.block.address() + POINTS_AT as u64;
        let mut header = self.header(sweeps.layout(), points_at, 0)?;
        let (mut points, mut count, mut beyond) = (0, 0, 0);
        let mut done = Accumulated::default();
        for part in sweeps.parts(&mut done) {
            let held = part.rows.len() / stride;
            let Some(sweep) = header.sweep.get_mut(count) else {
                beyond += held;
                continue;
            };
            *sweep = Sweep {
                first: points as u32,
                age: part.age,
                motion: part.motion.unwrap_or_default(),
            };
            let taken = held.min(self.capacity - points);
            let at = POINTS_AT + points * stride * size_of::<f32>();
            self.host.write(at, &part.rows[..taken * stride])?;
            points += taken;
            beyond += held - taken;
            count += 1;
        }
        header.count = points as u32;
        header.sweeps = count as u32;
        self.host.write(0, &[header])?;
        let bytes = POINTS_AT + points * stride * size_of::<f32>();
        self.host.copy_to(&self.block, bytes)?;
        done.sweeps = count;
        done.points_over_capacity += beyond;
        Ok(done)
    }

    /// The header of one sweep: `count` rows of `layout` from `points` on.
    fn header(&self, layout: Layout, points: u64, count: usize) -> Result<Header, FrameError> {
        let mut header = Header::zeroed();
        header.points = points;
        header.count = count as u32;
        header.sweeps = 1;
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
