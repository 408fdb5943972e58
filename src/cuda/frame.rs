//! One frame on the device: points in, boxes out.
//!
//! With an engine on the device the whole frame is one graph. With one on the host (the CPU engine) there are two:
//! from the points to the pillars' features, and from the head maps to the boxes; features and head maps are
//! copied to the host and back. The graphs are recorded when the pipeline is made, after it has run an empty frame.

use std::sync::Arc;
use std::time::Instant;

use bytemuck::Zeroable;

use super::decode::{self, Decoder};
use super::device::{CudaError, Device, DevicePtr, Graph, Pinned};
use super::features::{self, Features};
use super::host::HostEngine;
use super::input::Input;
use super::map::DeviceMap;
use super::nms::{self, Nms};
use super::pillars::{self, Pillars};
use super::scatter::{self, Scatter};
use crate::boxes::Box3d;
use crate::engine::{LayerTime, MapDesc};
use crate::error::Result;
use crate::features::Pfn;
use crate::frame::{Dropped, Times};
use crate::model::{Model, OUTPUT_KINDS};
use crate::points::{Layout, PointCloud, SweepBuffer};

/// An engine that runs on the device: the counterpart of [`crate::engine::Engine`].
pub trait Engine: Send {
    /// The network's input and its map, which is zero at first; only the scatter stage writes it.
    fn input(&self) -> (&MapDesc, DeviceMap);
    /// The network's outputs and their maps, in the network's order. They never move.
    fn outputs(&self) -> Vec<(&MapDesc, DeviceMap)>;
    /// Enqueues a run of the network on the device's stream, without waiting. The call is recorded, so the run must
    /// be the same for every frame, and its memory must live as long as the engine.
    ///
    /// # Errors
    /// The device's.
    fn enqueue(&mut self) -> Result<(), CudaError>;
    /// Runs the network on the same input again, with the same outputs, and waits for it. Returns the time of each
    /// layer, in the order in which they ran. The call is never recorded.
    ///
    /// # Errors
    /// The device's.
    fn profile(&mut self) -> Result<Vec<LayerTime>, CudaError>;
}

/// Time marks between the stages, in their order.
const START: usize = 0;
const PILLARS: usize = 1;
const FEATURES: usize = 2;
const SCATTER: usize = 3;
const ENGINE: usize = 4;
const DECODE: usize = 5;
const NMS: usize = 6;

/// All stages on the device, with their buffers and recorded launches. Allocated once.
pub struct Pipeline {
    // Dropped before the buffers that they use.
    graphs: Vec<Graph>,
    device: Arc<dyn Device>,
    stages: Stages,
    engine: EngineSide,
    /// The result of the last frame, as [`nms::split`] takes it.
    result: Vec<u32>,
}

/// The stages, and their results for the host.
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

/// The engine, on one side or the other.
enum EngineSide {
    Device {
        engine: Box<dyn Engine>,
        map: DeviceMap,
        scatter: Scatter,
    },
    Host(Box<HostEngine>),
}

impl Pipeline {
    /// Allocates and records everything that frames need, with an engine on the device.
    ///
    /// # Errors
    /// [`CudaError`]; [`CudaError::Map`] if the engine lacks one of the model's outputs.
    pub fn new(
        model: &Model,
        pfn: &Pfn,
        device: &Arc<dyn Device>,
        engine: Box<dyn Engine>,
    ) -> Result<Self, CudaError> {
        let outputs = engine.outputs();
        let find = |name: &String| {
            let output = outputs.iter().find(|(desc, _)| desc.name == *name);
            output
                .map(|(_, map)| map.clone())
                .ok_or_else(|| CudaError::Map {
                    map: name.clone(),
                    problem: "the engine has no such output".into(),
                })
        };
        let mut heads = Vec::with_capacity(model.head.tasks.len());
        for task in &model.head.tasks {
            let [heatmap, reg, height, dim, rot, vel] = task.outputs.each_ref().map(find);
            heads.push([heatmap?, reg?, height?, dim?, rot?, vel?]);
        }
        let side = EngineSide::Device {
            map: engine.input().1,
            scatter: Scatter::new(model, device)?,
            engine,
        };
        Self::with_engine(model, pfn, device, side, heads)
    }

    /// As [`Pipeline::new`], with an engine on the host. `outputs` are indices of its outputs, by task and in the
    /// order of [`OUTPUT_KINDS`].
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
        let host = HostEngine::new(model, device, engine, outputs)?;
        let heads = host.heads()?;
        let side = EngineSide::Host(Box::new(host));
        Self::with_engine(model, pfn, device, side, heads)
    }

    fn with_engine(
        model: &Model,
        pfn: &Pfn,
        device: &Arc<dyn Device>,
        engine: EngineSide,
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
        let mut pipeline = Self {
            graphs: Vec::new(),
            device: device.clone(),
            stages,
            engine,
            result,
        };
        let parts = match &pipeline.engine {
            EngineSide::Device { .. } => 1,
            EngineSide::Host(_) => 2,
        };
        for part in 0..parts {
            pipeline.enqueue(part)?;
        }
        for part in 0..parts {
            let graph = Graph::record(device, || pipeline.enqueue(part))?;
            pipeline.graphs.push(graph);
        }
        Ok(pipeline)
    }

    /// Enqueues the calls of graph `part`.
    fn enqueue(&mut self, part: usize) -> Result<(), CudaError> {
        let Self {
            device,
            stages,
            engine,
            ..
        } = self;
        match (engine, part) {
            (
                EngineSide::Device {
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
            (EngineSide::Host(host), 0) => {
                stages.points_to_features(&**device)?;
                host.copy_out(&stages.features, &stages.pillars)
            }
            (EngineSide::Host(host), _) => {
                host.copy_in()?;
                stages.heads_to_boxes(&**device)
            }
        }
    }

    /// Finds the objects in one cloud; [`Pipeline::boxes`] returns them. `times.read` is 0.
    ///
    /// # Errors
    /// [`crate::points::FrameError`] if the cloud lacks a column that the model needs; [`CudaError`], after which the
    /// device is lost; [`crate::engine::EngineError`] of an engine on the host.
    pub fn detect(&mut self, cloud: &PointCloud) -> Result<(Dropped, Times)> {
        let start = Instant::now();
        let over_capacity = self.stages.input.set(cloud.data(), cloud.layout())?;
        self.run(start, over_capacity)
    }

    /// As [`Pipeline::detect`], for the sweeps that [`SweepBuffer::accumulate`] selects; the device moves them.
    ///
    /// # Errors
    /// As [`Pipeline::detect`].
    pub fn detect_sweeps(&mut self, sweeps: &SweepBuffer) -> Result<(Dropped, Times)> {
        let start = Instant::now();
        let done = self.stages.input.set_sweeps(sweeps)?;
        self.run(start, done.points_over_capacity)
    }

    /// As [`Pipeline::detect`], for `count` rows of `layout` in device memory.
    ///
    /// # Safety
    /// `points` points to `count` rows of `layout.stride()` values in memory of this pipeline's device. They have been
    /// written, and stay as they are until this returns.
    ///
    /// # Errors
    /// As [`Pipeline::detect`].
    #[allow(unsafe_code)]
    pub unsafe fn detect_device(
        &mut self,
        points: DevicePtr<f32>,
        count: usize,
        layout: Layout,
    ) -> Result<(Dropped, Times)> {
        let start = Instant::now();
        // SAFETY: this function's contract; `run` waits for the frame, and every frame starts with another input.
        let over_capacity = unsafe { self.stages.input.set_device(points, count, layout) }?;
        self.run(start, over_capacity)
    }

    /// The device that the stages run on.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// The boxes of the last frame, best first.
    pub fn boxes(&self) -> &[Box3d] {
        nms::split(&self.result).1
    }

    /// Runs the network again on the map of the last frame, and returns the time of each layer.
    ///
    /// # Errors
    /// As [`Pipeline::detect`].
    pub fn profile(&mut self) -> Result<Vec<LayerTime>> {
        match &mut self.engine {
            EngineSide::Device { engine, .. } => Ok(engine.profile()?),
            EngineSide::Host(host) => host.profile(),
        }
    }

    /// Runs the frame whose input has been set.
    fn run(&mut self, start: Instant, over_capacity: usize) -> Result<(Dropped, Times)> {
        #[allow(unsafe_code)]
        // SAFETY: the graphs use the buffers of `self.stages` and `self.engine`, which live until the graphs and
        // the device have finished.
        let launch = |graph: &mut Graph| unsafe { graph.launch() };
        let mut times = Times::default();
        let mut parts = self.graphs.iter_mut();
        if let Some(graph) = parts.next() {
            launch(graph)?;
        }
        let mut totals = [pillars::Totals::zeroed()];
        self.stages.totals.read(0, &mut totals)?;
        if let (EngineSide::Host(host), Some(graph)) = (&mut self.engine, parts.next()) {
            host.run(totals[0].pillars(), &mut times)?;
            launch(graph)?;
        }
        let mut dropped = totals[0].dropped();
        self.stages.result.read(0, &mut self.result)?;
        let (box_totals, _) = nms::split(&self.result);
        dropped.sweep_points = over_capacity as u64;
        dropped.candidates = box_totals.surplus.into();
        dropped.non_finite_candidates = box_totals.non_finite.into();
        let between = |from, to| self.device.elapsed(from, to);
        times.pillars = between(START, PILLARS)?;
        times.features = between(PILLARS, FEATURES)?;
        if let EngineSide::Device { .. } = self.engine {
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
    /// From the input to the features; enqueues the copy of the counters to the host.
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
