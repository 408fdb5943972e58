//! The frame's input on the device: the cloud's rows as they are, and a header that says how to read them.
//!
//! The kernels select columns, scale intensities and move past sweeps while they read, with the operations of
//! `PointCloud::select` and `SweepBuffer::accumulate`. Header and points are adjacent, both in pinned memory and
//! on the device. A frame is copied in pieces of as many bytes as it has: the device copies one while the host writes the
//! next to pinned memory.

use std::sync::Arc;

use bytemuck::{NoUninit, Pod, Zeroable};

use super::device::{Buffer, CudaError, Device, DevicePtr, Pinned, StageError};
use crate::model::Model;
use crate::points::{Column, FrameError, Layout, MAX_COLUMNS, SweepBuffer, SweepCounts, Transform};

/// Most sweeps of a frame.
pub(crate) const MAX_SWEEPS: usize = 256;

/// The mirror of `Sweep` in `kernels/common.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Sweep {
    /// Its first point.
    pub first: u32,
    /// Seconds before the newest sweep.
    pub age: f32,
    /// Rows of `[R | t]` that move its points into the newest sweep's frame of reference.
    pub motion: [[f32; 4]; 3],
}

/// The mirror of `FrameHeader` in `kernels/common.cuh`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
pub struct FrameHeader {
    points: DevicePtr<f32>,
    count: u32,
    stride: u32,
    columns: u32,
    source: [i32; MAX_COLUMNS],
    factor: [f32; MAX_COLUMNS],
    time: i32,
    sweeps: u32,
    /// Whether the newest sweep moves, too.
    placed: u32,
    sweep: [Sweep; MAX_SWEEPS],
}

const _: () = assert!(size_of::<FrameHeader>() == 160 + 56 * MAX_SWEEPS);

/// Columns of a row that always fit; a PointCloud2 of 32 bytes per point has as many.
const MIN_ROW_COLUMNS: usize = 8;

/// Byte of the block where the points start: after the header, aligned like device memory.
const POINTS_AT: usize = size_of::<FrameHeader>().next_multiple_of(256);

/// Most bytes of a piece.
const PIECE: usize = 256 << 10;

/// The sizes of a model that decide how long the stages' buffers are. A kernel trusts the lengths of the buffers
/// that it reads, so stages that share buffers must agree on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    capacity: usize,
    columns: usize,
    /// Columns and rows of the grid.
    grid: [usize; 2],
    max_pillars: usize,
    max_points: usize,
    classes: usize,
    max_boxes: usize,
}

impl Sizes {
    pub(super) fn new(model: &Model) -> Self {
        Self {
            capacity: model.points.capacity,
            columns: model.points.columns.len(),
            grid: [model.grid.nx, model.grid.ny],
            max_pillars: model.grid.max_pillars,
            max_points: model.grid.max_points_per_pillar,
            classes: model.classes.len(),
            max_boxes: model.max_boxes(),
        }
    }

    /// Refuses to run `kernel` on buffers of stages that were made for different models.
    pub(super) fn check(&self, other: &Self, kernel: &str) -> Result<(), CudaError> {
        if self == other {
            return Ok(());
        }
        Err(CudaError::Kernel {
            kernel: kernel.into(),
            reason: format!("its stages were made for different models: {self:?} and {other:?}"),
        })
    }
}

/// The points of a frame and how to read them, on the device. Allocated once.
#[derive(Debug)]
pub struct Input {
    /// The header, and from [`POINTS_AT`] on the points, on the host and on the device.
    host: Pinned<u8>,
    block: Buffer<u8>,
    columns: Vec<Column>,
    intensity_scale: f32,
    capacity: usize,
    /// Most columns of a row in the block; wider rows are packed to the columns that the model reads.
    widest: usize,
    packed: Vec<f32>,
    /// From the next frame's input to the model.
    place: Option<Transform>,
    sizes: Sizes,
}

impl Input {
    /// Buffers for `model.points.capacity` points.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn new(model: &Model, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        let capacity = model.points.capacity;
        let widest = model.points.columns.len().max(MIN_ROW_COLUMNS);
        let bytes = POINTS_AT + capacity * widest * size_of::<f32>();
        // Zeroed memory is the header of a frame without points.
        Ok(Self {
            host: Pinned::zeroed(device, "the frame's input", bytes)?,
            block: Buffer::zeroed(device, "the frame's input", bytes)?,
            columns: model.points.columns.clone(),
            intensity_scale: model.points.intensity_scale,
            capacity,
            widest,
            packed: Vec::new(),
            place: None,
            sizes: Sizes::new(model),
        })
    }

    /// Moves the points of the next frame by `place`.
    pub(super) fn place(&mut self, place: Option<&Transform>) {
        self.place = place.copied();
    }

    /// Address of the header.
    pub fn header(&self) -> DevicePtr<FrameHeader> {
        self.block.ptr().cast()
    }

    /// Most points of a frame.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Sets a frame of one sweep: rows of `layout`. Ignores points past the capacity, and returns their number.
    /// Waits for the previous frame, but not for the copy.
    ///
    /// # Errors
    /// [`FrameError::MissingColumn`] inside [`StageError`], or [`CudaError::Copy`].
    pub fn set(&mut self, points: &[f32], layout: Layout) -> Result<usize, StageError> {
        let stride = layout.stride();
        let count = (points.len() / stride).min(self.capacity);
        let header = self.new_header(layout, count)?;
        self.write(&header, 0, &points[..count * stride])?;
        self.copy(&header)?;
        Ok(points.len() / stride - count)
    }

    /// Sets a frame of one sweep that is on the device already: `count` rows of `layout`. Ignores points past the
    /// capacity, and returns their number.
    ///
    /// # Safety
    /// `points` points to `count` rows of `layout.stride()` values in memory of this input's device. They have
    /// been written, and stay as they are until the frame is done and the next one set.
    ///
    /// # Errors
    /// As [`Input::set`].
    #[allow(unsafe_code)]
    pub unsafe fn set_device(
        &mut self,
        points: DevicePtr<f32>,
        count: usize,
        layout: Layout,
    ) -> Result<usize, StageError> {
        let kept = count.min(self.capacity);
        let mut header = self.new_header(layout, kept)?;
        header.points = points;
        self.host.write(0, &[header])?;
        self.host.copy_to(&self.block, size_of::<FrameHeader>())?;
        Ok(count - kept)
    }

    /// Sets the sweeps that [`SweepBuffer::accumulate`] selects, as they are: the kernels move them. Ignores but
    /// counts points past the capacity and sweeps past [`MAX_SWEEPS`].
    ///
    /// # Errors
    /// As [`Input::set`].
    pub fn set_sweeps(&mut self, sweeps: &SweepBuffer) -> Result<SweepCounts, StageError> {
        let stride = sweeps.layout().stride();
        let mut header = self.new_header(sweeps.layout(), 0)?;
        let (mut points, mut count, mut over_capacity) = (0, 0, 0);
        let mut done = SweepCounts::default();
        let place = self.place;
        for part in sweeps.placed_parts(place.as_ref(), &mut done) {
            let len = part.rows.len() / stride;
            let Some(sweep) = header.sweep.get_mut(count) else {
                over_capacity += len;
                continue;
            };
            *sweep = Sweep {
                first: points as u32,
                age: part.age.unwrap_or(0.0),
                motion: part.motion.unwrap_or_default(),
            };
            let kept = len.min(self.capacity - points);
            self.write(&header, points, &part.rows[..kept * stride])?;
            points += kept;
            over_capacity += len - kept;
            count += 1;
        }
        header.count = points as u32;
        header.sweeps = count as u32;
        self.copy(&header)?;
        done.sweeps = count;
        done.points_over_capacity += over_capacity;
        Ok(done)
    }

    /// Copies rows of the header's layout to the device by way of pinned memory, starting at point `first`, without waiting
    /// for the last piece.
    fn write(&mut self, header: &FrameHeader, first: usize, rows: &[f32]) -> Result<(), CudaError> {
        let (stride, packed) = (header.stride as usize, self.packed_stride(header));
        let source = &header.source[..packed.min(header.source.len())];
        let bytes_of_row = packed * size_of::<f32>();
        let mut at = POINTS_AT + first * bytes_of_row;
        for piece in rows.chunks((PIECE / bytes_of_row).max(1) * stride) {
            if packed == stride {
                self.host.write(at, piece)?;
            } else {
                self.packed.clear();
                for row in piece.chunks_exact(stride) {
                    let value = |&from: &i32| usize::try_from(from).map_or(0.0, |from| row[from]);
                    self.packed.extend(source.iter().map(value));
                }
                self.host.write(at, &self.packed)?;
            }
            let bytes = piece.len() / stride * bytes_of_row;
            self.host.copy_part_to(&self.block, at, bytes)?;
            at += bytes;
        }
        Ok(())
    }

    /// Copies the header, adjusted to the rows' packed layout, to the device, without waiting.
    fn copy(&mut self, header: &FrameHeader) -> Result<(), CudaError> {
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
        header.points = self.block.memory().at(POINTS_AT).cast();
        self.host.write(0, &[header])?;
        self.host.copy_to(&self.block, size_of::<FrameHeader>())
    }

    /// Columns of a packed row of the header's layout.
    fn packed_stride(&self, header: &FrameHeader) -> usize {
        match header.stride as usize {
            stride if stride <= self.widest => stride,
            _ => self.columns.len(),
        }
    }

    /// The header of one sweep of `count` rows of `layout`, without their address.
    fn new_header(&self, layout: Layout, count: usize) -> Result<FrameHeader, FrameError> {
        let mut header = FrameHeader::zeroed();
        header.count = count as u32;
        header.sweeps = 1;
        header.stride = layout.stride() as u32;
        header.columns = self.columns.len() as u32;
        header.source = [-1; MAX_COLUMNS];
        header.factor = [1.0; MAX_COLUMNS];
        header.time = -1;
        if let Some(place) = &self.place {
            header.placed = 1;
            header.sweep[0].motion = place.after(None);
        }
        for (i, &column) in self.columns.iter().enumerate() {
            let position = match column {
                Column::Skip => None,
                other => layout.position(other),
            };
            match (column, position) {
                (_, Some(position)) => header.source[i] = position as i32,
                (Column::Skip | Column::T | Column::Intensity, None) => {}
                (column, None) => {
                    return Err(FrameError::MissingColumn {
                        column,
                        layout,
                        unused: Vec::new(),
                    });
                }
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
