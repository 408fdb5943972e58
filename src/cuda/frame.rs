//! [`Encoder`] and [`Decoder`]: the stages before and after the engine, on a device.
//!
//! If the engine's maps are on the device, calls only enqueue work, and the detector records the whole frame as one
//! graph. If they are on the host, the encoder and the decoder each record a graph: points to pillar features, and
//! head maps to boxes. Features and head maps are then copied to the host and back. A CPU plan runs this way on a GPU.
//! It waits for the device twice a frame, so it is correct rather than fast. The graphs are recorded at construction,
//! after an empty frame has run.

#![allow(unsafe_code)]

use std::sync::Arc;

use bytemuck::Zeroable;

use super::decode::{self, CandidateList};
use super::device::{Buffer, CudaError, Device, DevicePtr, Graph, Marks, Pinned, StageError};
use super::features::{self, Features};
use super::input::Input;
use super::map::DeviceMap;
use super::nms::{self, Nms};
use super::pillars::{self, Pillars};
use super::scatter::{self, Scatter};
use crate::boxes::{Box3d, Variances};
use crate::cpu::scatter as host_scatter;
use crate::detection::{Clock, Dropped, Times};
use crate::map::{HeadMaps, Location, MapFormat, MapLayout, MapView, MapViewMut};
use crate::model::{Model, Pfn};
use crate::points::{FrameError, Layout, PointCloud, SweepBuffer, Transform};

/// Marks of time between the stages, in their order.
const START: usize = 0;
const PILLARS: usize = 1;
const FEATURES: usize = 2;
const SCATTER: usize = 3;
const ENGINE: usize = 4;
const DECODE: usize = 5;
const NMS: usize = 6;
const MARKS: usize = 7;

/// Converts points to the BEV map on a device. Allocated once.
pub(crate) struct Encoder {
    // Declared first, so it is dropped before the buffers that it uses.
    graph: Option<Graph>,
    marks: Arc<Marks>,
    input: Input,
    pillars: Pillars,
    features: Features,
    scatter: MapWriter,
    /// The engine's map, kept allocated for a graph that has recorded its address.
    map: Option<DeviceMap>,
    /// Points past the capacity.
    surplus_points: usize,
    scatter_ms: f64,
}

/// Writes the features into the engine's map.
enum MapWriter {
    Device(Scatter),
    Host(Box<HostScatter>),
}

/// Buffers that bring the features to a map on the host.
struct HostScatter {
    scatter: host_scatter::Scatter,
    totals: Pinned<pillars::Totals>,
    features: Pinned<f32>,
    cells: Pinned<u32>,
    channels: usize,
    /// Of the frame that was copied.
    counted: pillars::Totals,
    feature_values: Vec<f32>,
    cell_values: Vec<u32>,
}

impl Encoder {
    /// Allocates what frames need, for an engine whose maps are at `location`. With `times`, this and the frame's decoder
    /// measure the stages.
    ///
    /// # Errors
    /// [`CudaError`].
    pub(crate) fn new(
        model: &Model,
        pfn: &Pfn,
        device: &Arc<dyn Device>,
        location: Location,
        times: bool,
    ) -> Result<Self, CudaError> {
        let scatter = match location {
            Location::Device => MapWriter::Device(Scatter::new(model, device)?),
            Location::Host => {
                let (pillars, channels) = (model.grid.max_pillars, model.bev_channels());
                MapWriter::Host(Box::new(HostScatter {
                    scatter: host_scatter::Scatter::new(pillars),
                    features: Pinned::zeroed(device, "pillar features", pillars * channels)?,
                    cells: Pinned::zeroed(device, "cells of pillars", pillars)?,
                    channels,
                    totals: Pinned::zeroed(device, "counters", 1)?,
                    counted: pillars::Totals::zeroed(),
                    feature_values: vec![0.0; pillars * channels],
                    cell_values: vec![0; pillars],
                }))
            }
        };
        let mut encoder = Self {
            graph: None,
            marks: Arc::new(Marks::new(device, if times { MARKS } else { 0 })?),
            input: Input::new(model, device)?,
            pillars: Pillars::new(model, device)?,
            features: Features::new(model, pfn, device)?,
            scatter,
            map: None,
            surplus_points: 0,
            scatter_ms: 0.0,
        };
        if location == Location::Host {
            encoder.points_to_features()?;
            let graph = Graph::record(device, || encoder.points_to_features())?;
            encoder.graph = Some(graph);
        }
        Ok(encoder)
    }

    /// Copies the points of a cloud to the device, where they are moved by `place`.
    ///
    /// # Errors
    /// [`StageError::Points`] for a missing column; [`StageError::Cuda`].
    pub(crate) fn load(
        &mut self,
        cloud: &PointCloud,
        place: Option<&Transform>,
    ) -> Result<(), StageError> {
        self.input.place(place);
        let set = self.input.set(cloud.data(), cloud.layout());
        self.surplus_points = set.map_err(|error| match error {
            StageError::Points(FrameError::MissingColumn { column, .. }) => {
                cloud.missing(column).into()
            }
            other => other,
        })?;
        Ok(self.start()?)
    }

    /// Like [`Encoder::load`], for the sweeps that [`SweepBuffer::accumulate`] takes.
    ///
    /// # Errors
    /// Like [`Encoder::load`].
    pub(crate) fn load_sweeps(
        &mut self,
        sweeps: &SweepBuffer,
        place: Option<&Transform>,
    ) -> Result<(), StageError> {
        self.input.place(place);
        self.surplus_points = self.input.set_sweeps(sweeps)?.points_over_capacity;
        Ok(self.start()?)
    }

    /// Like [`Encoder::load`], for `count` rows of `layout` on the device.
    ///
    /// # Safety
    /// `points` points to that many rows in memory of this device. They have been written, and stay as they are
    /// until the frame is finished.
    ///
    /// # Errors
    /// Like [`Encoder::load`].
    pub(crate) unsafe fn load_device(
        &mut self,
        points: DevicePtr<f32>,
        count: usize,
        layout: Layout,
        place: Option<&Transform>,
    ) -> Result<(), StageError> {
        self.input.place(place);
        // SAFETY: this function's contract; every frame sets another input.
        self.surplus_points = unsafe { self.input.set_device(points, count, layout) }?;
        Ok(self.start()?)
    }

    /// With maps on the host: computes the features and waits for them.
    fn start(&mut self) -> Result<(), CudaError> {
        let (Some(graph), MapWriter::Host(host)) = (&mut self.graph, &mut self.scatter) else {
            return Ok(());
        };
        // SAFETY: the graph uses buffers of this encoder, which outlive it.
        unsafe { graph.launch() }?;
        host.totals.read(0, std::slice::from_mut(&mut host.counted))
    }

    /// Enqueues everything from the points to the BEV map.
    ///
    /// # Errors
    /// [`StageError::Location`] for an encoder of maps on the host; [`StageError::Cuda`].
    pub(crate) fn encode(&mut self, map: &DeviceMap) -> Result<(), StageError> {
        if let MapWriter::Host(_) = self.scatter {
            return Err(StageError::Location);
        }
        self.points_to_features()?;
        if let MapWriter::Device(scatter) = &mut self.scatter {
            scatter::scatter(self.features.values(), &self.pillars, scatter, map)?;
            self.map = Some(map.clone());
        }
        Ok(self.marks.set(SCATTER)?)
    }

    /// Writes the BEV map of the loaded points into a map on the host.
    ///
    /// # Errors
    /// [`StageError::Location`] for an encoder of maps on the device; [`StageError::Cuda`].
    pub(crate) fn encode_host(&mut self, mut map: MapViewMut<'_>) -> Result<(), StageError> {
        let MapWriter::Host(host) = &mut self.scatter else {
            return Err(StageError::Location);
        };
        let clock = Clock::start();
        // A count that a failing device garbled must not cause a panic.
        let pillars = host.counted.pillars().min(host.cell_values.len());
        let cells = &mut host.cell_values[..pillars];
        let features = &mut host.feature_values[..pillars * host.channels];
        host.cells.read(0, cells)?;
        host.features.read(0, features)?;
        host_scatter::scatter(features, cells, &mut host.scatter, &mut map);
        self.scatter_ms = clock.total();
        Ok(())
    }

    /// Reports the encoded frame's losses, and its stage times if they are measured, for which it waits. With maps on the
    /// device, the decoder reports the losses of pillars: they come with its result.
    ///
    /// # Errors
    /// [`CudaError`].
    pub(crate) fn finish(
        &mut self,
        dropped: &mut Dropped,
        times: &mut Times,
    ) -> Result<(), CudaError> {
        if let MapWriter::Host(host) = &self.scatter {
            *dropped += host.counted.dropped();
        }
        dropped.sweep_points += self.surplus_points as u64;
        times.pillars = self.marks.between(START, PILLARS)?;
        times.features = self.marks.between(PILLARS, FEATURES)?;
        times.scatter = match self.scatter {
            MapWriter::Device(_) => self.marks.between(FEATURES, SCATTER)?,
            MapWriter::Host(_) => self.scatter_ms,
        };
        Ok(())
    }

    /// Enqueues everything from the points to the features, and the copies to the host.
    fn points_to_features(&mut self) -> Result<(), CudaError> {
        self.marks.set(START)?;
        pillars::voxelize(&self.input, &mut self.pillars)?;
        self.marks.set(PILLARS)?;
        features::features(&self.input, &self.pillars, &mut self.features)?;
        self.marks.set(FEATURES)?;
        if let MapWriter::Host(host) = &self.scatter {
            host.totals.copy_from(self.pillars.totals(), 1)?;
            let values = self.features.values();
            host.features.copy_from(values, values.len())?;
            let cells = self.pillars.cells_buffer();
            host.cells.copy_from(cells, cells.len())?;
        }
        Ok(())
    }
}

/// Converts head maps to boxes on a device. Allocated once.
pub(crate) struct Decoder {
    // Declared first, so it is dropped before the buffers that it uses.
    graph: Option<Graph>,
    marks: Arc<Marks>,
    /// The head maps by task: the engine's, or copies of them.
    heads: Vec<HeadMaps<DeviceMap>>,
    host: Option<HostMaps>,
    candidates: CandidateList,
    nms: Nms,
    has_variances: bool,
    result: Pinned<u32>,
    /// The result of the last frame, as [`nms::split`] takes it.
    values: Vec<u32>,
}

/// Buffers that bring head maps from the host to the device, one after the other, each NCHW.
struct HostMaps {
    /// First value of each map, by task.
    starts: Vec<HeadMaps<usize>>,
    values: Vec<f32>,
    pinned: Pinned<f32>,
    device: Buffer<f32>,
}

impl Decoder {
    /// Allocates what frames need, for an engine whose maps are at `location`, after `encoder`.
    ///
    /// # Errors
    /// [`CudaError`].
    pub(crate) fn new(
        model: &Model,
        device: &Arc<dyn Device>,
        location: Location,
        encoder: &Encoder,
    ) -> Result<Self, CudaError> {
        let (host, heads) = match location {
            Location::Device => (None, Vec::with_capacity(model.head.tasks.len())),
            Location::Host => {
                let (host, heads) = HostMaps::new(model, device)?;
                (Some(host), heads)
            }
        };
        let mut nms = Nms::new(model, device)?;
        if host.is_none() {
            nms.append(encoder.pillars.totals());
        }
        let result = Pinned::zeroed(device, "boxes", nms.result().len())?;
        let mut decoder = Self {
            graph: None,
            marks: encoder.marks.clone(),
            heads,
            host,
            candidates: CandidateList::new(model, device)?,
            nms,
            has_variances: model.head.variance,
            values: vec![0; result.len()],
            result,
        };
        if decoder.host.is_some() {
            decoder.heads_to_boxes()?;
            let graph = Graph::record(device, || decoder.heads_to_boxes())?;
            decoder.graph = Some(graph);
        }
        Ok(decoder)
    }

    /// Registers the head maps of a task. Tasks come in order; the first one starts a frame.
    ///
    /// # Errors
    /// [`StageError::Location`] for a decoder of maps on the host.
    pub(crate) fn decode(
        &mut self,
        task: usize,
        maps: HeadMaps<DeviceMap>,
    ) -> Result<(), StageError> {
        if self.host.is_some() {
            return Err(StageError::Location);
        }
        if task == 0 {
            self.heads.clear();
        }
        self.heads.push(maps);
        Ok(())
    }

    /// Like [`Decoder::decode`], for maps on the host.
    ///
    /// # Errors
    /// [`StageError::Location`] for a decoder of maps on the device.
    pub(crate) fn decode_host(
        &mut self,
        task: usize,
        maps: HeadMaps<MapView<'_>>,
    ) -> Result<(), StageError> {
        let host = self.host.as_mut().ok_or(StageError::Location)?;
        let starts = host.starts[task];
        for (start, map) in starts.zip(maps).into_array() {
            host.take(start, map);
        }
        Ok(())
    }

    /// Enqueues everything from the head maps to the boxes.
    ///
    /// # Errors
    /// [`CudaError`].
    pub(crate) fn suppress(&mut self) -> Result<(), CudaError> {
        match (&mut self.host, &mut self.graph) {
            (Some(host), Some(graph)) => {
                host.pinned.write(0, &host.values)?;
                // SAFETY: the graph uses buffers of this decoder, which outlive it.
                unsafe { graph.launch() }
            }
            _ => self.heads_to_boxes(),
        }
    }

    /// Waits for the boxes and reports the frame's losses and stage times.
    ///
    /// # Errors
    /// [`CudaError`].
    pub(crate) fn finish(
        &mut self,
        dropped: &mut Dropped,
        times: &mut Times,
    ) -> Result<(), CudaError> {
        self.result.read(0, &mut self.values)?;
        let split = nms::split(&self.values, self.has_variances);
        let counts = split.totals;
        *dropped += split.pillars.dropped();
        dropped.candidates += u64::from(counts.surplus);
        dropped.non_finite_candidates += u64::from(counts.non_finite);
        if self.host.is_none() {
            times.engine = self.marks.between(SCATTER, ENGINE)?;
        }
        times.decode = self.marks.between(ENGINE, DECODE)?;
        times.nms = self.marks.between(DECODE, NMS)?;
        Ok(())
    }

    /// The boxes of the last finished frame, best first.
    pub(crate) fn boxes(&self) -> &[Box3d] {
        nms::split(&self.values, self.has_variances).boxes
    }

    /// The boxes' variances; empty if the head has none.
    pub(crate) fn variances(&self) -> &[Variances] {
        nms::split(&self.values, self.has_variances).variances
    }

    /// Enqueues everything from the head maps to the boxes on the host.
    fn heads_to_boxes(&mut self) -> Result<(), CudaError> {
        if let Some(host) = &self.host {
            host.pinned.copy_to(&host.device, host.pinned.len())?;
        }
        self.marks.set(ENGINE)?;
        decode::decode(&self.heads, &mut self.candidates)?;
        self.marks.set(DECODE)?;
        nms::suppress(&self.candidates, &mut self.nms)?;
        self.result
            .copy_from(self.nms.result(), self.result.len())?;
        self.marks.set(NMS)
    }
}

impl HostMaps {
    /// Allocates the buffers and describes the maps in them.
    fn new(
        model: &Model,
        device: &Arc<dyn Device>,
    ) -> Result<(Self, Vec<HeadMaps<DeviceMap>>), CudaError> {
        let (height, width) = model.head_size();
        let mut len = 0;
        let mut starts = Vec::with_capacity(model.head.tasks.len());
        for task in &model.head.tasks {
            starts.push(model.head_channels(task).map(|channels| {
                let start = len;
                len += channels * height * width;
                start
            }));
        }
        let host = Self {
            starts,
            values: vec![0.0; len],
            pinned: Pinned::zeroed(device, "head maps", len)?,
            device: Buffer::zeroed(device, "head maps", len)?,
        };
        let mut heads = Vec::with_capacity(model.head.tasks.len());
        for (task, starts) in model.head.tasks.iter().zip(&host.starts) {
            let maps = starts.zip(model.head_channels(task));
            heads.push(maps.try_map(|(offset, channels)| {
                let layout = MapLayout {
                    offset,
                    ..MapLayout::nchw(channels, height, width)
                };
                DeviceMap::new(&host.device, MapFormat::f32(layout))
            })?);
        }
        Ok((host, heads))
    }

    /// Copies a map of the engine to the values from `start` on.
    fn take(&mut self, start: usize, map: MapView<'_>) {
        let layout = map.layout;
        let rows = self.values[start..].chunks_exact_mut(layout.width);
        for (row, values) in rows.take(layout.channels * layout.height).enumerate() {
            let (c, y) = (row / layout.height, row % layout.height);
            let first = layout.index(c, y, 0);
            let from = map.data[first..].iter().step_by(layout.stride_x);
            values
                .iter_mut()
                .zip(from)
                .for_each(|(to, from)| *to = *from);
        }
    }
}
