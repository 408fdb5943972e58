//! The frame's input on the device: the cloud's rows as they are, and a header that says how to read them.
//!
//! Columns are chosen, intensities scaled and past sweeps moved by the kernels while they read, with the
//! operations of `PointCloud::select` and `SweepBuffer::accumulate`. Header and points lie side by side in
//! pinned memory and on the device, so that a frame is one copy of as many bytes as it has.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::{Buffer, CudaError, Device, Pinned, StageError};
use crate::model::Model;
use crate::points::{Column, FrameError, Layout, MAX_COLUMNS, SweepBuffer, SweepCounts};

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

/// Columns of a row for which there is always room; a PointCloud2 of 32 bytes a point has as many.
const ROOM: usize = 8;

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
    /// Most columns of a row in the block; of wider rows only what the model reads is copied there.
    widest: usize,
    packed: Vec<f32>,
}

impl Input {
    /// Buffers for `model.points.capacity` points.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn new(model: &Model, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        let capacity = model.points.capacity;
        let widest = model.points.columns.len().max(ROOM);
        let bytes = POINTS_AT + capacity * widest * size_of::<f32>();
        Ok(Self {
            host: Pinned::zeroed(device, "the frame's input", bytes)?,
            block: Buffer::zeroed(device, "the frame's input", bytes)?,
            columns: model.points.columns.clone(),
            intensity_scale: model.points.intensity_scale,
            capacity,
            widest,
            packed: Vec::new(),
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
    /// [`FrameError::MissingColumn`] inside [`StageError`], or [`CudaError::Copy`].
    pub fn set(&mut self, points: &[f32], layout: Layout) -> Result<usize, StageError> {
        let stride = layout.stride();
        let count = (points.len() / stride).min(self.capacity);
        let header = self.header(layout, count)?;
        self.write(&header, 0, &points[..count * stride])?;
        self.copy(&header)?;
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
    ) -> Result<usize, StageError> {
        let taken = count.min(self.capacity);
        let mut header = self.header(layout, taken)?;
        header.points = address;
        self.host.write(0, &[header])?;
        self.host.copy_to(&self.block, size_of::<Header>())?;
        Ok(count - taken)
    }

    /// Takes the sweeps that [`SweepBuffer::accumulate`] would take, as they are: the kernels move them.
    /// Points past the capacity, and sweeps past [`MAX_SWEEPS`], are not taken but counted.
    ///
    /// # Errors
    /// As [`Input::set`].
    pub fn set_sweeps(&mut self, sweeps: &SweepBuffer) -> Result<SweepCounts, StageError> {
        let stride = sweeps.layout().stride();
        let mut header = self.header(sweeps.layout(), 0)?;
        let (mut points, mut count, mut beyond) = (0, 0, 0);
        let mut done = SweepCounts::default();
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
            self.write(&header, points, &part.rows[..taken * stride])?;
            points += taken;
            beyond += held - taken;
            count += 1;
        }
        header.count = points as u32;
        header.sweeps = count as u32;
        self.copy(&header)?;
        done.sweeps = count;
        done.points_over_capacity += beyond;
        Ok(done)
    }

    /// Writes rows of the layout of `header` to pinned memory, from point `first` on.
    fn write(&mut self, header: &Header, first: usize, rows: &[f32]) -> Result<(), CudaError> {
        let (stride, packed) = (header.stride as usize, self.packed_stride(header));
        let at = POINTS_AT + first * packed * size_of::<f32>();
        if packed == stride {
            return self.host.write(at, rows);
        }
        let source = &header.source[..packed];
        self.packed.clear();
        for row in rows.chunks_exact(stride) {
            let value = |&from: &i32| usize::try_from(from).map_or(0.0, |from| row[from]);
            self.packed.extend(source.iter().map(value));
        }
        self.host.write(at, &self.packed)
    }

    /// Copies the header, as its rows lie in the block, and the rows to the device, without waiting.
    fn copy(&mut self, header: &Header) -> Result<(), CudaError> {
        let packed = self.packed_stride(header);
        let mut header = *header;
        if packed != header.stride as usize {
            header.stride = packed as u32;
            for (column, source) in header.source.iter_mut().enumerate() {
                if *source >= 0 {
                    *source = column as i32;
                }
            }
        }
        header.points = self.block.address() + POINTS_AT as u64;
        self.host.write(0, &[header])?;
        let bytes = POINTS_AT + header.count as usize * packed * size_of::<f32>();
        self.host.copy_to(&self.block, bytes)
    }

    /// Columns that rows of the layout of `header` have in the block.
    fn packed_stride(&self, header: &Header) -> usize {
        match header.stride as usize {
            stride if stride <= self.widest => stride,
            _ => self.columns.len(),
        }
    }

    /// The header of one sweep of `count` rows of `layout`, without their address.
    fn header(&self, layout: Layout, count: usize) -> Result<Header, FrameError> {
        let mut header = Header::zeroed();
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
