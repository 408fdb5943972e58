//! The stages of a frame on the device, put together: [`Encoder`] and [`Decoder`].
//!
//! With an engine whose maps lie on the device, their calls only enqueue, and the detector records a whole frame
//! as one graph. With an engine on the host each of them records a graph of its own, from the points to the
//! pillars' features and from the head maps to the boxes; what lies between is copied to the host and back.
//! That is how a plan for the CPU runs on a GPU: it waits for the device twice a frame, and is there to be right,
//! not to be fast. Graphs are recorded at construction, after an empty frame was run.

use std::sync::Arc;

use bytemuck::Zeroable;

use super::decode;
use super::features::{self, Features};
use super::nms::{self, Nms};
use super::pillars::{self, Pillars};
use super::scatter::{self, Scatter};
use super::{Buffer, CudaError, Device, DeviceMap, Graph, Input, Pinned, StageError};
use crate::boxes::Box3d;
use crate::cpu::scatter as host_scatter;
use crate::detection::{Clock, Dropped, Times};
use crate::map::{HeadMaps, MapLayout, MapMut, MapRef, MapView, Memory};
use crate::model::{Model, Pfn};
use crate::points::Layout;
use crate::stages::{self, Points};

/// Marks of time between the stages, in their order.
const START: usize = 0;
const PILLARS: usize = 1;
const FEATURES: usize = 2;
const SCATTER: usize = 3;
const ENGINE: usize = 4;
const DECODE: usize = 5;
const NMS: usize = 6;

/// Points to the BEV map, on a device. Allocated once.
pub struct Encoder {
    // Graphs go before the buffers that they use.
    graph: Option<Graph>,
    device: Arc<dyn Device>,
    input: Input,
    pillars: Pillars,
    features: Features,
    totals: Pinned<pillars::Totals>,
    scatter: MapWriter,
    /// Points past the capacity.
    surplus_points: usize,
    scatter_ms: f64,
}

/// Writes the features into the engine's map.
enum MapWriter {
    Device(Scatter),
    Host(Box<HostScatter>),
}

/// The features' way to a map on the host.
struct HostScatter {
    scatter: host_scatter::Scatter,
    features: Pinned<f32>,
    cells: Pinned<u32>,
    channels: usize,
    /// Pillars of the frame that was copied.
    pillars: usize,
    feature_values: Vec<f32>,
    cell_values: Vec<u32>,
}

impl Encoder {
    /// Allocates what frames need, for an engine whose maps lie in `memory`.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn new(
        model: &Model,
        pfn: &Pfn,
        device: &Arc<dyn Device>,
        memory: Memory,
    ) -> Result<Self, CudaError> {
        let scatter = match memory {
            Memory::Device => MapWriter::Device(Scatter::new(model, device)?),
            Memory::Host => {
                let (pillars, channels) = (model.grid.max_pillars, model.bev_channels());
                MapWriter::Host(Box::new(HostScatter {
                    scatter: host_scatter::Scatter::new(pillars),
                    features: Pinned::zeroed(device, "pillar features", pillars * channels)?,
                    cells: Pinned::zeroed(device, "cells of pillars", pillars)?,
                    channels,
                    pillars: 0,
                    feature_values: vec![0.0; pillars * channels],
                    cell_values: vec![0; pillars],
                }))
            }
        };
        let mut encoder = Self {
            graph: None,
            device: device.clone(),
            input: Input::new(model, device)?,
            pillars: Pillars::new(model, device)?,
            features: Features::new(model, pfn, device)?,
            totals: Pinned::zeroed(device, "counters", 1)?,
            scatter,
            surplus_points: 0,
            scatter_ms: 0.0,
        };
        if memory == Memory::Host {
            encoder.points_to_features()?;
            let graph = Graph::record(device, || encoder.points_to_features())?;
            encoder.graph = Some(graph);
        }
        Ok(encoder)
    }

    /// As [`stages::Encoder::load`], for `count` rows of `layout` that lie on the device from `address` on. They must
    /// stay as they are until the frame is finished.
    ///
    /// # Errors
    /// As [`stages::Encoder::load`].
    pub fn load_device(
        &mut self,
        address: u64,
        count: usize,
        layout: Layout,
    ) -> Result<(), StageError> {
        self.surplus_points = self.input.set_device(address, count, layout)?;
        Ok(self.start()?)
    }

    /// Launches what needs no map, and waits for it.
    fn start(&mut self) -> Result<(), CudaError> {
        let (Some(graph), MapWriter::Host(host)) = (&mut self.graph, &mut self.scatter) else {
            return Ok(());
        };
        graph.launch()?;
        let mut totals = [pillars::Totals::zeroed()];
        self.totals.read(0, &mut totals)?;
        // A broken device must not cost more than a frame.
        host.pillars = totals[0].pillars().min(host.cell_values.len());
        Ok(())
    }

    /// Enqueues everything from the points to the features, and the copies to the host.
    fn points_to_features(&mut self) -> Result<(), CudaError> {
        self.device.mark(START)?;
        pillars::voxelize(&self.input, &mut self.pillars)?;
        self.totals.copy_from(self.pillars.totals(), 1)?;
        self.device.mark(PILLARS)?;
        features::features(&self.input, &self.pillars, &mut self.features)?;
        self.device.mark(FEATURES)?;
        if let MapWriter::Host(host) = &self.scatter {
            let values = self.features.buffer();
            host.features.copy_from(values, values.len())?;
            let cells = self.pillars.cells_buffer();
            host.cells.copy_from(cells, cells.len())?;
        }
        Ok(())
    }
}

impl stages::Encoder for Encoder {
    type Error = StageError;

    fn load(&mut self, points: Points<'_>) -> Result<(), StageError> {
        self.surplus_points = match points {
            Points::Cloud(cloud) => self.input.set(cloud.data(), cloud.layout())?,
            Points::Sweeps(sweeps) => self.input.set_sweeps(sweeps)?.points_over_capacity,
        };
        Ok(self.start()?)
    }

    fn encode(&mut self, map: MapMut<'_>) -> Result<(), StageError> {
        if let (MapWriter::Device(_), MapMut::Device(_)) = (&self.scatter, &map) {
            self.points_to_features()?;
        }
        match (&mut self.scatter, map) {
            (MapWriter::Device(scatter), MapMut::Device(map)) => {
                scatter::scatter(self.features.values(), &self.pillars, scatter, &map)?;
                self.device.mark(SCATTER)?;
            }
            (MapWriter::Host(host), MapMut::Host(mut map)) => {
                let clock = Clock::start();
                let cells = &mut host.cell_values[..host.pillars];
                let features = &mut host.feature_values[..host.pillars * host.channels];
                host.cells.read(0, cells)?;
                host.features.read(0, features)?;
                host_scatter::scatter(features, cells, &mut host.scatter, &mut map);
                self.scatter_ms = clock.total();
            }
            _ => return Err(misplaced("BEV map").into()),
        }
        Ok(())
    }

    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), StageError> {
        let mut totals = [pillars::Totals::zeroed()];
        self.totals.read(0, &mut totals)?;
        *dropped += totals[0].dropped();
        dropped.sweep_points += self.surplus_points as u64;
        times.pillars = self.device.elapsed(START, PILLARS)?;
        times.features = self.device.elapsed(PILLARS, FEATURES)?;
        times.scatter = match self.scatter {
            MapWriter::Device(_) => self.device.elapsed(FEATURES, SCATTER)?,
            MapWriter::Host(_) => self.scatter_ms,
        };
        Ok(())
    }
}

/// Head maps to boxes, on a device. Allocated once.
pub struct Decoder {
    // Graphs go before the buffers that they use.
    graph: Option<Graph>,
    device: Arc<dyn Device>,
    /// The head maps by task: the engine's, or copies of them.
    heads: Vec<HeadMaps<DeviceMap>>,
    host: Option<HostMaps>,
    decode: decode::Decoder,
    nms: Nms,
    result: Pinned<u32>,
    /// The result of the last frame, as [`nms::split`] takes it.
    values: Vec<u32>,
}

/// The way of head maps from the host, one after the other, each NCHW.
struct HostMaps {
    /// First value of each map, by task.
    starts: Vec<HeadMaps<usize>>,
    values: Vec<f32>,
    pinned: Pinned<f32>,
    device: Buffer<f32>,
}

impl Decoder {
    /// Allocates what frames need, for an engine whose maps lie in `memory`.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn new(model: &Model, device: &Arc<dyn Device>, memory: Memory) -> Result<Self, CudaError> {
        let (host, heads) = match memory {
            Memory::Device => (None, Vec::with_capacity(model.head.tasks.len())),
            Memory::Host => {
                let (host, heads) = HostMaps::new(model, device)?;
                (Some(host), heads)
            }
        };
        let nms = Nms::new(model, device)?;
        let result = Pinned::zeroed(device, "boxes", nms.result().len())?;
        let mut decoder = Self {
            graph: None,
            device: device.clone(),
            heads,
            host,
            decode: decode::Decoder::new(model, device)?,
            nms,
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

    /// Enqueues everything from the head maps to the boxes on the host.
    fn heads_to_boxes(&mut self) -> Result<(), CudaError> {
        if let Some(host) = &self.host {
            host.pinned.copy_to(&host.device, host.pinned.len())?;
        }
        self.device.mark(ENGINE)?;
        decode::decode(&self.heads, &mut self.decode)?;
        self.device.mark(DECODE)?;
        nms::suppress(&self.decode, &mut self.nms)?;
        self.result
            .copy_from(self.nms.result(), self.result.len())?;
        self.device.mark(NMS)
    }
}

impl HostMaps {
    /// Its buffers, and the maps on the device.
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
        let address = host.device.address();
        let heads = model.head.tasks.iter().zip(&host.starts);
        let heads = heads.map(|(task, starts)| {
            let maps = starts.zip(model.head_channels(task));
            maps.map(|(start, channels)| {
                let address = address + (start * size_of::<f32>()) as u64;
                DeviceMap::f32(address, MapLayout::nchw(channels, height, width))
            })
        });
        let heads = heads.collect();
        Ok((host, heads))
    }

    /// Takes a map of the engine; `start` is its place among the values.
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

impl stages::Decoder for Decoder {
    type Error = StageError;

    fn decode(&mut self, task: usize, maps: HeadMaps<MapRef<'_>>) -> Result<(), StageError> {
        match &mut self.host {
            None => {
                let maps = maps.try_map(|map| match map {
                    MapRef::Device(map) => Ok(map),
                    MapRef::Host(_) => Err(misplaced("head map")),
                })?;
                if task == 0 {
                    self.heads.clear();
                }
                self.heads.push(maps);
            }
            Some(host) => {
                let starts = host.starts[task];
                for (start, map) in starts.zip(maps).into_array() {
                    let map = map.host().ok_or_else(|| misplaced("head map"))?;
                    host.take(start, map);
                }
            }
        }
        Ok(())
    }

    fn suppress(&mut self) -> Result<(), StageError> {
        match (&mut self.host, &mut self.graph) {
            (Some(host), Some(graph)) => {
                host.pinned.write(0, &host.values)?;
                graph.launch()?;
            }
            _ => self.heads_to_boxes()?,
        }
        Ok(())
    }

    fn finish(&mut self, dropped: &mut Dropped, times: &mut Times) -> Result<(), StageError> {
        self.result.read(0, &mut self.values)?;
        let (counts, _) = nms::split(&self.values);
        dropped.candidates += u64::from(counts.surplus);
        dropped.non_finite_candidates += u64::from(counts.non_finite);
        if self.host.is_none() {
            times.engine = self.device.elapsed(SCATTER, ENGINE)?;
        }
        times.decode = self.device.elapsed(ENGINE, DECODE)?;
        times.nms = self.device.elapsed(DECODE, NMS)?;
        Ok(())
    }

    fn boxes(&self) -> &[Box3d] {
        nms::split(&self.values).1
    }
}

/// A map lies in another memory than the stages were made for.
fn misplaced(map: &str) -> CudaError {
    CudaError::Map {
        map: map.into(),
        problem: "it lies in another memory than the stages were made for".into(),
    }
}
