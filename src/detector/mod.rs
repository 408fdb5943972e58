//! The detector: a plan and all its buffers, from points to boxes.
//!
//! An encoder, an engine and a decoder, on the CPU or on a GPU (see [`crate::stages`]). Everything is allocated when
//! the plan is loaded; a frame allocates nothing once the first has passed, and gives the same bytes whatever
//! the number of threads.

mod error;
mod load;
mod pipeline;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use error::DetectorError;
use load::Kind;
use pipeline::Pipeline;

use crate::boxes::Box3d;
use crate::cpu::{self, Pool};
use crate::cuda::{self, CudaError, DevicePtr};
use crate::deadline::{Budget, Deadline};
use crate::detection::{Detection, Dropped, Times};
use crate::engine::{Engine, LayerTime};
use crate::map::Location;
use crate::model::{Decode, Model, NmsStep, Pfn};
use crate::plan::{Plan, PlanError};
use crate::points::{Column, FrameError, Layout, PointCloud, SweepBuffer};
use crate::stages::{Encoder, Points};

/// Result of the detector.
pub type Result<T, E = DetectorError> = std::result::Result<T, E>;

/// Where a plan runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// Where the plan was made for.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// How a plan is run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// CPU threads, the caller's included; 0 is one per core.
    pub threads: usize,
    /// Where to run.
    pub device: Device,
    /// Least score of every class, instead of the plan's thresholds.
    pub score: Option<f32>,
    /// Candidate selection instead of the plan's; its numbers of classes and candidates must be the plan's.
    pub decode: Option<Decode>,
    /// Suppression instead of the plan's.
    pub nms: Option<Vec<NmsStep>>,
    /// Factor from the clouds' intensity to the model's scale, instead of the plan's.
    pub intensity_scale: Option<f32>,
    /// For a plan of TensorRT: the library, or the folder that holds it; `None`: as
    /// [`Library::open`](crate::engine::tensorrt::Library::open) finds it.
    pub tensorrt: Option<PathBuf>,
    /// What a frame may take, for [`Detector::deadline`]. It changes no result.
    pub budget: Budget,
}

impl Options {
    /// `model` with these options in place of its own values.
    fn apply(&self, model: &Model) -> Model {
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
        model
    }
}

/// A loaded plan with its buffers.
pub struct Detector {
    model: Model,
    pool: Arc<Pool>,
    stages: Stages,
    deadline: Deadline,
    warned_intensity: bool,
}

/// Where the stages run.
enum Stages {
    Cpu(Box<Pipeline<cpu::Encoder, cpu::Decoder>>),
    Cuda(
        Arc<dyn cuda::Device>,
        Box<Pipeline<cuda::Encoder, cuda::Decoder>>,
    ),
}

impl Detector {
    /// Opens a plan and allocates everything that its frames need.
    ///
    /// # Errors
    /// [`PlanError`] or [`crate::model::ModelError`] for a plan that cannot be used,
    /// [`cuda::CudaError::Unavailable`] where the GPU that was asked for cannot be used,
    /// [`crate::engine::tensorrt::TensorRtError`] where TensorRT cannot be used or the engine does not fit.
    pub fn load(path: &Path, options: &Options) -> Result<Self> {
        Self::new(&Plan::open(path)?, options)
    }

    /// As [`Detector::load`], from an opened plan.
    ///
    /// # Errors
    /// As [`Detector::load`].
    pub fn new(plan: &Plan, options: &Options) -> Result<Self> {
        match (load::kind(plan)?, options.device) {
            (Kind::Cpu, Device::Auto | Device::Cpu) => Self::with(plan, options, None),
            (Kind::TensorRt, Device::Cpu) => Err(PlanError::Target {
                path: plan.path().into(),
                found: plan.manifest().target.engine.clone(),
                wanted: "the CPU was asked for".into(),
                advice:
                    "leave out `--device cpu`, or build a plan with `cp-build compile --target cpu`"
                        .into(),
            }
            .into()),
            (Kind::TensorRt, Device::Auto | Device::Cuda) => Self::on_gpu(plan, options).map_err(
                load::unavailable("; this plan is for TensorRT, which runs nowhere else"),
            ),
            (Kind::Cpu, Device::Cuda) => {
                Self::on_gpu(plan, options).map_err(load::unavailable(", or use `--device cpu`"))
            }
        }
    }

    /// On the machine's GPU.
    fn on_gpu(plan: &Plan, options: &Options) -> Result<Self> {
        Self::on(plan, options, &cuda::open()?)
    }

    /// As [`Detector::new`], on a device that the caller has opened, whatever the options say. All stages of
    /// a TensorRT plan run there; of a plan for the CPU those before and after its engine.
    ///
    /// # Errors
    /// As [`Detector::load`].
    pub fn on(plan: &Plan, options: &Options, device: &Arc<dyn cuda::Device>) -> Result<Self> {
        Self::with(plan, options, Some(device))
    }

    fn with(
        plan: &Plan,
        options: &Options,
        device: Option<&Arc<dyn cuda::Device>>,
    ) -> Result<Self> {
        let pool = Arc::new(Pool::new(options.threads));
        let engine = match (load::kind(plan)?, device) {
            (Kind::TensorRt, Some(device)) => load::tensorrt_engine(plan, options, device)?,
            _ => load::cpu_engine(plan, &pool)?,
        };
        Self::assemble(plan.model(), plan.pfn(), engine, device, options, pool)
            .map_err(load::in_plan(plan))
    }

    /// A detector around an engine that the caller has made. Its stages run on `device`, or on the CPU without one;
    /// they reach an engine with maps on a device only if it is the same.
    ///
    /// # Errors
    /// [`DetectorError::Pfn`], [`DetectorError::Engine`] for an engine that does not fit the model, and
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
                let encoder = cuda::Encoder::new(&model, pfn, device, location)?;
                let decoder = cuda::Decoder::new(&model, device, location)?;
                let mut pipeline = Pipeline::new(&model, encoder, engine, decoder)?;
                if location == Location::Device {
                    pipeline.record(device)?;
                }
                Stages::Cuda(device.clone(), Box::new(pipeline))
            }
        };
        Ok(Self {
            model,
            pool,
            stages,
            deadline: Deadline::new(options.budget),
            warned_intensity: false,
        })
    }

    /// The plan's model description, with the options applied.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// CPU threads that share the work.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The device that stages run on; `None` where all of them run on the CPU.
    pub fn device(&self) -> Option<&dyn cuda::Device> {
        match &self.stages {
            Stages::Cpu(_) => None,
            Stages::Cuda(device, _) => Some(&**device),
        }
    }

    /// Whether frames kept to [`Options::budget`]: every frame that gave a result was counted, with its
    /// `times.total`.
    pub fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Finds the objects in one cloud: one sweep, or several that were accumulated.
    ///
    /// # Errors
    /// [`crate::points::FrameError`] where the cloud lacks a column that the model needs, and
    /// [`crate::engine::EngineError`] where the engine fails: the detector stays usable.
    /// [`cuda::CudaError`] where a GPU fails: it does not.
    pub fn detect(&mut self, cloud: &PointCloud) -> Result<Detection<'_>> {
        self.run(cloud.layout(), Points::Cloud(cloud))
    }

    /// Finds the objects in the sweeps that [`SweepBuffer::accumulate`] takes, without copying them together
    /// first where the stages run on a GPU.
    ///
    /// # Errors
    /// As [`Detector::detect`].
    pub fn detect_sweeps(&mut self, sweeps: &SweepBuffer) -> Result<Detection<'_>> {
        self.run(sweeps.layout(), Points::Sweeps(sweeps))
    }

    /// Finds the objects in `count` points in GPU memory: packed rows of `f32` in the model's columns, intensities
    /// in the clouds' scale.
    ///
    /// # Safety
    /// `points` points to that many rows in memory of the GPU's primary context (CUDA's runtime allocates there), or of
    /// the device that [`Detector::on`] got. They have been written, and stay as they are until this returns.
    ///
    /// # Errors
    /// [`cuda::CudaError::HostStages`] if the stages run on the CPU; as [`Detector::detect`].
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
        // SAFETY: this function's contract; `run` waits for the frame.
        let done = pipeline.run(|encoder| unsafe { encoder.load_device(points, count, layout) })?;
        Ok(self.finished(done))
    }

    /// The boxes of the last frame that gave a result, best first.
    pub fn boxes(&self) -> &[Box3d] {
        match &self.stages {
            Stages::Cpu(pipeline) => pipeline.decoder().boxes(),
            Stages::Cuda(_, pipeline) => pipeline.decoder().boxes(),
        }
    }

    /// Runs the network once more on the last frame's map, which changes nothing, and gives the time of each
    /// layer. With the network go neither graph nor the other stages: the sum is not the frame's `engine`.
    ///
    /// # Errors
    /// As [`Detector::detect`].
    pub fn profile(&mut self) -> Result<Vec<LayerTime>> {
        let engine = match &mut self.stages {
            Stages::Cpu(pipeline) => pipeline.engine_mut(),
            Stages::Cuda(_, pipeline) => pipeline.engine_mut(),
        };
        Ok(engine.profile()?)
    }

    fn run(&mut self, layout: Layout, points: Points<'_>) -> Result<Detection<'_>> {
        self.warn(layout);
        let done = match &mut self.stages {
            Stages::Cpu(pipeline) => pipeline.run(|encoder| Encoder::load(encoder, points))?,
            Stages::Cuda(_, pipeline) => pipeline.run(|encoder| Encoder::load(encoder, points))?,
        };
        Ok(self.finished(done))
    }

    fn finished(&mut self, (dropped, times): (Dropped, Times)) -> Detection<'_> {
        self.deadline.add(times.total, Instant::now());
        Detection {
            boxes: self.boxes(),
            dropped,
            times,
        }
    }

    /// Warns once of frames without the intensity that the model was trained with.
    fn warn(&mut self, layout: Layout) {
        let missing = self.model.points.columns.contains(&Column::Intensity)
            && layout.position(Column::Intensity).is_none();
        if missing && !self.warned_intensity {
            log::warn!("the frames have no intensity, which the model was trained with: using 0");
            self.warned_intensity = true;
        }
    }
}
