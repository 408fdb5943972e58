//! One frame on the device: points in, boxes out.
//!
//! With an engine on the device the whole frame is one graph. With one on the host (the CPU engine) there
//! are two, from the points to the pillars' features, and from the head maps to the boxes; what lies between
//! is copied to the host and back. They are recorded when the frame is made, after an empty frame has been
//! run in earnest.

use std::sync::Arc;
use std::time::Instant;

use bytemuck::Zeroable;

use super::decode::{self, Decoder};
use super::features::{self, Features};
use super::host::Host;
use super::nms::{self, Nms};
use super::pillars::{self, Pillars};
use super::scatter::{self, Scatter};
use super::{CudaError, Device, DeviceMap, Graph, Input, Pinned};
use crate::boxes::Box3d;
use crate::detection::{Dropped, Times};
use crate::engine::LayerTime;
use crate::error::Result;
use crate::map::MapDesc;
use crate::model::Pfn;
use crate::model::{Model, OUTPUT_KINDS};
use crate::points::{Layout, PointCloud, SweepBuffer};

/// An engine that runs on the device: the counterpart of [`crate::engine::Engine`].
pub trait Engine: Send {
    /// The network's input and its map, all zero at first; only the scatter stage writes it.
    fn input(&self) -> (&MapDesc, DeviceMap);
    /// The network's outputs and their maps, in the network's order. They never move.
    fn outputs(&self) -> Vec<(&MapDesc, DeviceMap)>;
    /// Puts a run of the network on the device's stream, without waiting. This is recorded, so it must be
    /// the same for every frame.
    ///
    /// # Errors
    /// The device's.
    fn enqueue(&mut self) -> Result<(), CudaError>;
    /// Runs the network on the same input once more, which gives the same outputs, and waits for it; the time
    /// of each layer, in the order in which they ran. This is never recorded.
    ///
    /// # Errors
    /// The device's.
    fn profile(&mut self) -> Result<Vec<LayerTime>, CudaError>;
}

/// Marks of time between the stages, in their order.
const START: usize = 0;
const PILLARS: usize = 1;
const FEATURES: usize = 2;
const SCATTER: usize = 3;
const ENGINE: usize = 4;
const DECODE: usize = 5;
const NMS: usize = 6;

/// A frame's buffers on the device, and the launches that were recorded. Allocated once.
pub struct Frame {
    // The graphs go before the buffers that they use.
    graphs: Vec<Graph>,
    device: Arc<dyn Device>,
    stages: Stages,
    side: Side,
    /// The result of the last frame, as [`nms::split`] takes it.
    result: Vec<u32>,
}

/// The stages, and what they leave for the host.
struct Stages {
    input: Input,
    pillars: Pillars,
    features: Features,
    decoder: Decoder,
    nms: Nms,
    /// By task, in the order of [`OUTPUT_KINDS`].
    heads: Vec<[DeviceMap; OUTPUT_KINDS.len()]>,
    totals: Pinned<pillars::Totals>,
    result: Pinned<u32>,
}

/// Where the engine is.
enum Side {
    Device {
        engine: Box<dyn Engine>,
        map: DeviceMap,
        scatter: Scatter,
    },
    Host(Box<Host>),
}

impl Frame {
    /// Allocates and records all that frames need, with an engine on the device.
    ///
    /// # Errors
    /// [`CudaError`]; [`CudaError::Map`] for an engine without one of the model's outputs.
    pub fn new(
        model: &Model,
        pfn: &Pfn,
        device: &Arc<dyn Device>,
        engine: Box<dyn Engine>,
    ) -> Result<Self, CudaError> {
        let outputs = engine.outputs();
        let find = |name: &String| {
            let found = outputs.iter().find(|(desc, _)| desc.name == *name);
            found.map(|(_, map)| *map).ok_or_else(|| CudaError::Map {
                map: name.clone(),
                problem: "the engine has no such output".into(),
            })
        };
        let mut heads = Vec::with_capacity(model.head.tasks.len());
        for task in &model.head.tasks {
            let [heatmap, reg, height, dim, rot, vel] = task.outputs.each_ref().map(find);
            heads.push([heatmap?, reg?, height?, dim?, rot?, vel?]);
        }
        let side = Side::Device {
            map: engine.input().1,
            scatter: Scatter::new(model, device)?,
            engine,
        };
        Self::with(model, pfn, device, side, heads)
    }

    /// As [`Frame::new`], with an engine on the host. `outputs` are indices of its outputs, by task and in
    /// the order of [`OUTPUT_KINDS`].
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn with_host_engine(
        model: &Model,
        pfn: &Pfn,
        device: &Arc<dyn Device>,
        engine: Box<dyn crate::engine::Engine>,
        outputs: &[[usize; OUTPUT_KINDS.len()]],
    ) -> Result<Self, CudaError> {
        let host = Host::new(model, device, engine, outputs)?;
        let heads = host.heads();
        Self::with(model, pfn, device, Side::Host(Box::new(host)), heads)
    }

    fn with(
        model: &Model,
        pfn: &Pfn,
        device: &Arc<dyn Device>,
        side: Side,
        heads: Vec<[DeviceMap; OUTPUT_KINDS.len()]>,
    ) -> Result<Self, CudaError> {
        let nms = Nms::new(model, device)?;
        let stages = Stages {
            input: Input::new(model, device)?,
            pillars: Pillars::new(model, device)?,
            features: Features::new(model, pfn, device)?,
            decoder: Decoder::new(model, device)?,
            heads,
            totals: Pinned::zeroed(device, "counters", 1)?,
            result: Pinned::zeroed(device, "boxes", nms.result().len())?,
            nms,
        };
        let result = vec![0; stages.result.len()];
        let mut frame = Self {
            graphs: Vec::new(),
            device: device.clone(),
            stages,
            side,
            result,
        };
        let parts = match &frame.side {
            Side::Device { .. } => 1,
            Side::Host(_) => 2,
        };
        for part in 0..parts {
            frame.enqueue(part)?;
        }
        for part in 0..parts {
            let graph = Graph::record(device, || frame.enqueue(part))?;
            frame.graphs.push(graph);
        }
        Ok(frame)
    }

    /// Puts what graph `part` holds on the stream.
    fn enqueue(&mut self, part: usize) -> Result<(), CudaError> {
        let Self {
            device,
            stages,
            side,
            ..
        } = self;
        match (side, part) {
            (
                Side::Device {
                    engine,
                    map,
                    scatter,
                },
                _,
            ) => {
                stages.points_to_features(&**device)?;
                let values = stages.features.values();
                scatter::scatter(values, &stages.pillars, scatter, map)?;
                device.mark(SCATTER)?;
                engine.enqueue()?;
                stages.heads_to_boxes(&**device)
            }
            (Side::Host(host), 0) => {
                stages.points_to_features(&**device)?;
                host.copy_out(&stages.features, &stages.pillars)
            }
            (Side::Host(host), _) => {
                host.copy_in()?;
                stages.heads_to_boxes(&**device)
            }
        }
    }

    /// Finds the objects in one cloud; the boxes are [`Frame::boxes`]. `times.read` is 0.
    ///
    /// # Errors
    /// [`crate::points::FrameError`] where the cloud lacks a column that the model needs; [`CudaError`], after
    /// which the device is lost; [`crate::engine::EngineError`] of an engine on the host.
    pub fn detect(&mut self, cloud: &PointCloud) -> Result<(Dropped, Times)> {
        let start = Instant::now();
        let beyond = self.stages.input.set(cloud.data(), cloud.layout())?;
        self.run(start, beyond)
    }

    /// As [`Frame::detect`], for the sweeps that [`SweepBuffer::accumulate`] would take: they are moved on
    /// the device.
    ///
    /// # Errors
    /// As [`Frame::detect`].
    pub fn detect_sweeps(&mut self, sweeps: &SweepBuffer) -> Result<(Dropped, Times)> {
        let start = Instant::now();
        let done = self.stages.input.set_sweeps(sweeps)?;
        self.run(start, done.points_over_capacity)
    }

    /// As [`Frame::detect`], for `count` rows of `layout` that lie on the device from `address` on. They
    /// must stay as they are until this returns.
    ///
    /// # Errors
    /// As [`Frame::detect`].
    pub fn detect_device(
        &mut self,
        address: u64,
        count: usize,
        layout: Layout,
    ) -> Result<(Dropped, Times)> {
        let start = Instant::now();
        let beyond = self.stages.input.set_device(address, count, layout)?;
        self.run(start, beyond)
    }

    /// The device that it runs on.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// The boxes of the last frame, best first.
    pub fn boxes(&self) -> &[Box3d] {
        nms::split(&self.result).1
    }

    /// Runs the network once more on the map of the last frame; the time of each layer.
    ///
    /// # Errors
    /// As [`Frame::detect`].
    pub fn profile(&mut self) -> Result<Vec<LayerTime>> {
        match &mut self.side {
            Side::Device { engine, .. } => Ok(engine.profile()?),
            Side::Host(host) => host.profile(),
        }
    }

    /// Runs the frame whose input has been set.
    fn run(&mut self, start: Instant, beyond: usize) -> Result<(Dropped, Times)> {
        let mut times = Times::default();
        let mut parts = self.graphs.iter_mut();
        if let Some(graph) = parts.next() {
            graph.launch()?;
        }
        let mut totals = [pillars::Totals::zeroed()];
        self.stages.totals.read(0, &mut totals)?;
        if let (Side::Host(host), Some(graph)) = (&mut self.side, parts.next()) {
            host.run(totals[0].pillars(), &mut times)?;
            graph.launch()?;
        }
        let mut dropped = totals[0].dropped();
        self.stages.result.read(0, &mut self.result)?;
        let (found, _) = nms::split(&self.result);
        dropped.sweep_points = beyond as u64;
        dropped.candidates = found.surplus.into();
        dropped.non_finite_candidates = found.non_finite.into();
        let between = |from, to| self.device.elapsed(from, to);
        times.pillars = between(START, PILLARS)?;
        times.features = between(PILLARS, FEATURES)?;
        if let Side::Device { .. } = self.side {
            times.scatter = between(FEATURES, SCATTER)?;
            times.engine = between(SCATTER, ENGINE)?;
        }
        times.decode = between(ENGINE, DECODE)?;
        times.nms = between(DECODE, NMS)?;
        times.total = start.elapsed().as_secs_f64() * 1e3;
        Ok((dropped, times))
    }
}

impl Stages {
    /// From the input to the features, and the counters on their way to the host.
    fn points_to_features(&mut self, device: &dyn Device) -> Result<(), CudaError> {
        device.mark(START)?;
        pillars::voxelize(&self.input, &mut self.pillars)?;
        self.totals.copy_from(self.pillars.totals(), 1)?;
        device.mark(PILLARS)?;
        features::features(&self.input, &self.pillars, &mut self.features)?;
        device.mark(FEATURES)
    }

    /// From the head maps to the boxes on the host.
    fn heads_to_boxes(&mut self, device: &dyn Device) -> Result<(), CudaError> {
        device.mark(ENGINE)?;
        decode::decode(&self.heads, &mut self.decoder)?;
        device.mark(DECODE)?;
        nms::suppress(&self.decoder, &mut self.nms)?;
        self.result
            .copy_from(self.nms.result(), self.result.len())?;
        device.mark(NMS)
    }
}
