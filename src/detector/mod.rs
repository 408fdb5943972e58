//! The detector: a plan with all its buffers, from points to boxes.
//!
//! It combines an encoder, an engine and a decoder, on the CPU or on a GPU (see [`crate::stages`]). Loading the plan
//! allocates everything; after the first frame, frames allocate nothing. The results have the same bytes for any number of
//! threads.

mod error;
mod load;
mod pipeline;
pub(crate) mod sanity;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use error::DetectorError;
use load::EngineTarget;
use pipeline::Pipeline;

use crate::boxes::{Box3d, Variances};
use crate::chain::Chain;
use crate::cpu::{self, Pool};
use crate::cuda::{self, CudaError, DevicePtr};
use crate::deadline::{Budget, Deadline};
use crate::detection::{Detection, Dropped, Times};
use crate::engine::{Engine, LayerTime};
use crate::map::Location;
use crate::model::{Decode, Model, NmsStep, Pfn};
use crate::plan::{Plan, PlanError};
use crate::points::{
    Column, Extrinsic, FrameError, FrameWarning, GroundHeight, Layout, Mounting, PointCloud,
    SweepBuffer, Transform,
};
use crate::stages::{Encoder, Points};

/// Result of the detector.
pub(crate) type Result<T, E = DetectorError> = std::result::Result<T, E>;

/// The device that runs a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The GPU that a TensorRT plan was built for. A plan for the CPU with layers in INT8 runs on an NVIDIA GPU if there is
    /// one, with the same results; another one runs on the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// Options for running a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// CPU threads, including the caller's; 0 for one per core.
    pub threads: usize,
    /// The device to run on.
    pub device: Device,
    /// On a GPU: whether the network of a plan for the CPU without layers in INT8 also runs there, in FP16, whose results differ
    /// slightly. By default it stays on the CPU.
    pub fp16: bool,
    /// Score threshold for every class, instead of the plan's thresholds.
    pub score: Option<f32>,
    /// Candidate selection, instead of the plan's. The numbers of classes and candidates must equal the plan's.
    pub decode: Option<Decode>,
    /// Suppression steps, instead of the plan's.
    pub nms: Option<Vec<NmsStep>>,
    /// Factor that converts the clouds' intensity to the model's scale, instead of the plan's.
    pub intensity_scale: Option<f32>,
    /// Sensor to vehicle, instead of the plan's.
    pub extrinsic: Option<Extrinsic>,
    /// Where the clouds' ground is, instead of the plan's.
    pub ground: Option<GroundHeight>,
    /// Minimum and maximum x, y, z of a box whose points are dropped, instead of the plan's.
    pub ignore_box: Option<[[f32; 3]; 2]>,
    /// For a TensorRT plan: the library, or the folder that contains it. `None` searches as
    /// [`Library::open`](crate::engine::tensorrt::Library::open) does.
    pub tensorrt: Option<PathBuf>,
    /// Time budget of a frame, for [`Detector::deadline`]. It changes no result.
    pub budget: Budget,
    /// Whether to measure the stages on a GPU, for [`Detection::times`], by events between them. Without it, times are 0
    /// there, except for that of the whole frame. On the CPU they are always measured.
    pub stage_times: bool,
}

impl Options {
    /// Returns `model` with these options applied.
    pub(crate) fn apply(&self, model: &Model) -> Model {
        let mut model = model.clone();
        if let Some(decode) = &self.decode {
            model.decode = decode.clone();
        }
        if let Some(nms) = &self.nms {
            model.nms = nms.clone();
        }
        if let Some(score) = self.score {
            for band in &mut model.decode.score {
                band.fill(score);
            }
        }
        if let Some(scale) = self.intensity_scale {
            model.points.intensity_scale = scale;
        }
        model.points.extrinsic = self.extrinsic.or(model.points.extrinsic);
        model.points.ground = self.ground.or(model.points.ground);
        model.grid.ignore_box = self.ignore_box.or(model.grid.ignore_box);
        model
    }
}

/// A loaded plan with its buffers.
pub struct Detector {
    model: Model,
    pool: Arc<Pool>,
    stages: Stages,
    mounting: Option<Mounting>,
    /// From the last frame's input to the model, if they differ.
    place: Option<Transform>,
    /// The last frame's boxes in the frame of its input, if that is not the model's.
    placed: Vec<Box3d>,
    /// Their variances, if the network predicts them.
    placed_variances: Vec<Variances>,
    deadline: Deadline,
    warned_intensity: bool,
}

/// The pipeline, by the device that runs the stages.
enum Stages {
    Cpu(Box<Pipeline<cpu::Encoder, cpu::Decoder>>),
    Cuda(
        Arc<dyn cuda::Device>,
        Box<Pipeline<cuda::Encoder, cuda::Decoder>>,
    ),
}

impl Detector {
    /// Opens a plan and allocates everything that frames need.
    ///
    /// # Errors
    /// [`PlanError`] or [`crate::model::ModelError`] if the plan is unusable,
    /// [`cuda::CudaError::Unavailable`] if the requested GPU is unavailable,
    /// [`crate::engine::tensorrt::TensorRtError`] if TensorRT is unavailable or the engine does not match.
    pub fn load(path: &Path, options: &Options) -> Result<Self> {
        Self::new(&Plan::open(path)?, options)
    }

    /// Like [`Detector::load`], from an opened plan.
    ///
    /// # Errors
    /// The same as [`Detector::load`].
    pub fn new(plan: &Plan, options: &Options) -> Result<Self> {
        let target = load::engine_target(plan)?;
        if options.fp16 && (target == EngineTarget::TensorRt || options.device == Device::Cpu) {
            log::warn!("`fp16` has no effect: it is for plans for the CPU that run on a GPU");
        }
        match (target, options.device) {
            (EngineTarget::Cpu, Device::Cpu) => Self::with(plan, options, None),
            (EngineTarget::Cpu, Device::Auto) => match load::gpu_for(plan, options)? {
                None => Self::with(plan, options, None),
                Some(device) => match Self::on(plan, options, &device) {
                    // Such as a GPU without enough free memory.
                    Err(DetectorError::Cuda(error)) => {
                        log::warn!("the network runs on the CPU: {}", Chain(&error));
                        Self::with(plan, options, None)
                    }
                    other => other,
                },
            },
            (EngineTarget::TensorRt, Device::Cpu) => Err(PlanError::Target {
                path: plan.path().into(),
                found: plan.manifest().target.engine.clone(),
                wanted: "the CPU was requested".into(),
                advice:
                    "leave out `--device cpu`, or build a plan with `cp-build compile --target cpu`"
                        .into(),
            }
            .into()),
            (EngineTarget::TensorRt, Device::Auto | Device::Cuda) => Self::on_gpu(plan, options)
                .map_err(load::unavailable(
                    "; this plan needs TensorRT, which runs only on a GPU",
                )),
            (EngineTarget::Cpu, Device::Cuda) => {
                Self::on_gpu(plan, options).map_err(load::unavailable(", or use `--device cpu`"))
            }
        }
    }

    /// Loads the plan on the machine's GPU.
    fn on_gpu(plan: &Plan, options: &Options) -> Result<Self> {
        Self::on(plan, options, &cuda::open()?)
    }

    /// Like [`Detector::new`], but uses the given device regardless of the options. For a TensorRT plan all stages run on
    /// it, and for a CPU plan with layers in INT8, or with [`Options::fp16`]. For another CPU plan those before and after the
    /// engine do.
    ///
    /// # Errors
    /// The same as [`Detector::load`].
    pub fn on(plan: &Plan, options: &Options, device: &Arc<dyn cuda::Device>) -> Result<Self> {
        Self::with(plan, options, Some(device))
    }

    fn with(
        plan: &Plan,
        options: &Options,
        device: Option<&Arc<dyn cuda::Device>>,
    ) -> Result<Self> {
        let pool = Arc::new(Pool::new(options.threads));
        let engine = match (load::engine_target(plan)?, device) {
            (EngineTarget::TensorRt, Some(device)) => load::tensorrt_engine(plan, options, device)?,
            _ => load::cpu_engine(plan, options, &pool, device)?,
        };
        Self::assemble(plan.model(), plan.pfn(), engine, device, options, pool)
            .map_err(load::in_plan(plan))
    }

    /// Creates a detector around the caller's engine. Its stages run on `device`, or on the CPU if that is `None`. An
    /// engine with maps on a device needs the stages on the same device.
    ///
    /// # Errors
    /// [`DetectorError::Pfn`], [`DetectorError::Engine`] if the engine does not match the model, and
    /// [`DetectorError::Cuda`].
    pub fn with_engine(
        model: &Model,
        pfn: &Pfn,
        engine: Box<dyn Engine>,
        device: Option<&Arc<dyn cuda::Device>>,
        options: &Options,
    ) -> Result<Self> {
        let pool = Arc::new(Pool::new(options.threads));
        Self::assemble(model, pfn, engine, device, options, pool)
    }

    fn assemble(
        model: &Model,
        pfn: &Pfn,
        engine: Box<dyn Engine>,
        device: Option<&Arc<dyn cuda::Device>>,
        options: &Options,
        pool: Arc<Pool>,
    ) -> Result<Self> {
        let model = options.apply(model);
        let stages = match device {
            None => {
                let encoder = cpu::Encoder::new(&model, pfn, &pool)?;
                let decoder = cpu::Decoder::new(&model, &pool);
                let pipeline = Pipeline::new(&model, encoder, engine, decoder)?;
                Stages::Cpu(Box::new(pipeline))
            }
            Some(device) => {
                let location = engine.location();
                let times = options.stage_times;
                let encoder = cuda::Encoder::new(&model, pfn, device, location, times)?;
                let decoder = cuda::Decoder::new(&model, device, location, &encoder)?;
                let mut pipeline = Pipeline::new(&model, encoder, engine, decoder)?;
                if location == Location::Device {
                    pipeline.record(device)?;
                }
                Stages::Cuda(device.clone(), Box::new(pipeline))
            }
        };
        let mounting = model.mounting();
        let placed = mounting.as_ref().map_or(0, |_| model.max_boxes());
        Ok(Self {
            mounting,
            place: None,
            placed: Vec::with_capacity(placed),
            placed_variances: Vec::with_capacity(if model.head.variance { placed } else { 0 }),
            model,
            pool,
            stages,
            deadline: Deadline::new(options.budget),
            warned_intensity: false,
        })
    }

    /// The plan's model description with the options applied.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// CPU threads that share the work.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The device that stages run on; `None` if all run on the CPU.
    pub fn device(&self) -> Option<&dyn cuda::Device> {
        match &self.stages {
            Stages::Cpu(_) => None,
            Stages::Cuda(device, _) => Some(&**device),
        }
    }

    /// Statistics on whether frames met [`Options::budget`]. Every successful frame counts, with its `times.total`.
    pub fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// What is probably wrong with a cloud: columns, scale, range, height, missing sweeps. Costs a few milliseconds, so call
    /// it for the first frame, or when results look wrong.
    pub fn check(&self, cloud: &PointCloud) -> Vec<FrameWarning> {
        sanity::check(&self.model, cloud)
    }

    /// Detects the objects in one cloud: a single sweep, or several accumulated ones.
    ///
    /// # Errors
    /// [`crate::points::FrameError`] if the cloud lacks a column that the model needs, and [`crate::engine::EngineError`]
    /// if the engine fails; the detector remains usable after both. [`cuda::CudaError`] if a GPU fails; the detector is
    /// then unusable.
    pub fn detect(&mut self, cloud: &PointCloud) -> Result<Detection<'_>> {
        self.run(cloud.layout(), Points::Cloud(cloud))
    }

    /// Detects the objects in the sweeps that [`SweepBuffer::accumulate`] would combine. If the stages run on a GPU, the
    /// sweeps are not combined on the host first.
    ///
    /// # Errors
    /// The same as [`Detector::detect`].
    pub fn detect_sweeps(&mut self, sweeps: &SweepBuffer) -> Result<Detection<'_>> {
        self.run(sweeps.layout(), Points::Sweeps(sweeps))
    }

    /// Detects the objects in `count` points in GPU memory: packed rows of `f32` in the model's columns, with
    /// intensities in the clouds' scale.
    ///
    /// # Safety
    /// `points` points to that many rows in memory of the GPU's primary context (as CUDA's runtime allocates it), or
    /// of the device given to [`Detector::on`]. They are written before the call and stay unchanged until it returns.
    ///
    /// # Errors
    /// [`cuda::CudaError::HostStages`] if the stages run on the CPU, [`FrameError::NoGround`] if the ground is to be found:
    /// that needs points on the host. Otherwise the same as [`Detector::detect`].
    #[allow(unsafe_code)]
    pub unsafe fn detect_device(
        &mut self,
        points: DevicePtr<f32>,
        count: usize,
    ) -> Result<Detection<'_>> {
        let Stages::Cuda(_, pipeline) = &mut self.stages else {
            return Err(CudaError::HostStages.into());
        };
        let layout = Layout::new(&self.model.points.columns).map_err(FrameError::from)?;
        self.place = match &mut self.mounting {
            None => None,
            Some(mounting) => Some(mounting.fixed().ok_or(FrameError::NoGround)?),
        };
        let place = self.place.as_ref();
        // SAFETY: this function's contract; `run` waits for the frame.
        let load = |encoder: &mut cuda::Encoder| unsafe {
            encoder.load_device(points, count, layout, place)
        };
        let done = pipeline.run(load)?;
        Ok(self.finished(done))
    }

    /// The boxes of the last successful frame, best first.
    pub fn boxes(&self) -> &[Box3d] {
        if self.place.is_some() {
            return &self.placed;
        }
        self.model_boxes()
    }

    /// The variances of [`Detector::boxes`], in the same order; empty if the network predicts none.
    pub fn variances(&self) -> &[Variances] {
        if self.place.is_some() {
            return &self.placed_variances;
        }
        self.model_variances()
    }

    fn model_variances(&self) -> &[Variances] {
        match &self.stages {
            Stages::Cpu(pipeline) => pipeline.decoder().variances(),
            Stages::Cuda(_, pipeline) => pipeline.decoder().variances(),
        }
    }

    /// The boxes in the model's frame of reference.
    fn model_boxes(&self) -> &[Box3d] {
        match &self.stages {
            Stages::Cpu(pipeline) => pipeline.decoder().boxes(),
            Stages::Cuda(_, pipeline) => pipeline.decoder().boxes(),
        }
    }

    /// Runs the network again on the last frame's map, which changes nothing, and returns the time of each layer. This runs
    /// neither a CUDA graph nor the other stages, so the sum differs from the frame's `engine` time.
    ///
    /// # Errors
    /// The same as [`Detector::detect`].
    pub fn profile(&mut self) -> Result<Vec<LayerTime>> {
        let engine = match &mut self.stages {
            Stages::Cpu(pipeline) => pipeline.engine_mut(),
            Stages::Cuda(_, pipeline) => pipeline.engine_mut(),
        };
        Ok(engine.profile()?)
    }

    fn run(&mut self, layout: Layout, points: Points<'_>) -> Result<Detection<'_>> {
        self.warn(layout);
        self.place = match &mut self.mounting {
            None => None,
            Some(mounting) => {
                let (newest, layout) = points.newest();
                Some(mounting.transform(newest, layout)?)
            }
        };
        let place = self.place.as_ref();
        let done = match &mut self.stages {
            Stages::Cpu(pipeline) => pipeline.run(|e| Encoder::load(e, points, place))?,
            Stages::Cuda(_, pipeline) => pipeline.run(|e| Encoder::load(e, points, place))?,
        };
        Ok(self.finished(done))
    }

    fn finished(&mut self, (dropped, times): (Dropped, Times)) -> Detection<'_> {
        if let Some(place) = self.place {
            let mut placed = std::mem::take(&mut self.placed);
            placed.clear();
            placed.extend(self.model_boxes().iter().map(|bbox| place.place(bbox)));
            self.placed = placed;
            let mut placed = std::mem::take(&mut self.placed_variances);
            placed.clear();
            let variances = self.model_variances().iter();
            placed.extend(variances.map(|variances| place.place_variances(variances)));
            self.placed_variances = placed;
        }
        self.deadline.add(times.total, Instant::now());
        Detection {
            boxes: self.boxes(),
            variances: self.variances(),
            dropped,
            times,
            ground: self.mounting.as_ref().and_then(Mounting::found),
        }
    }

    /// Warns once about frames without the intensity that the model was trained with.
    fn warn(&mut self, layout: Layout) {
        let missing = self.model.points.columns.contains(&Column::Intensity)
            && layout.position(Column::Intensity).is_none();
        if missing && !self.warned_intensity {
            log::warn!("the frames have no intensity, which the model was trained with; using 0");
            self.warned_intensity = true;
        }
    }
}
