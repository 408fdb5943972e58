//! The detector: a plan and all its buffers, from one cloud to its boxes.
//!
//! Read from top to bottom, `Cpu::detect` is the product; [`cuda::Pipeline`] is the same on a GPU. Everything is
//! allocated when the plan is loaded; a frame allocates nothing once the first has passed, and gives the
//! same bytes whatever the number of threads.

mod load;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::boxes::Box3d;
use crate::cuda::{self, CudaError, DevicePtr};
use crate::deadline::{Budget, Deadline};
use crate::decode::{self, Decoder};
use crate::engine::{Engine, LayerTime, MapView};
use crate::error::Result;
use crate::features::{self, Features};
use crate::frame::{Dropped, Times};
use crate::model::{Decode, Model, NmsStep, OUTPUT_KINDS};
use crate::nms::{self, Nms};
use crate::pillars::{self, Pillars};
use crate::plan::{Plan, PlanError};
use crate::points::{Column, FrameError, Layout, PointCloud, SweepBuffer};
use crate::scatter::{self, Scatter};
use crate::threads::Pool;
use load::Kind;

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

/// What was found in one frame; borrowed from the detector until the next one.
#[derive(Clone, Copy, Debug)]
pub struct Detection<'a> {
    /// The boxes, best first.
    pub boxes: &'a [Box3d],
    /// What was lost on the way; all zero in an ordinary frame but for points out of range.
    pub dropped: Dropped,
    /// Time of each stage in ms; `read` is 0.
    pub times: Times,
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
    Cpu(Box<Cpu>),
    Cuda(Box<cuda::Pipeline>),
}

/// What a frame is made of.
#[derive(Clone, Copy)]
enum Source<'a> {
    Cloud(&'a PointCloud),
    Sweeps(&'a SweepBuffer),
    /// Rows in the model's columns on the GPU, and their number.
    Device(DevicePtr<f32>, usize),
}

/// The stages on the CPU.
struct Cpu {
    engine: Box<dyn Engine>,
    /// Indices into the engine's outputs, by task and in the order of [`OUTPUT_KINDS`].
    outputs: Vec<[usize; OUTPUT_KINDS.len()]>,
    points: Vec<f32>,
    pillars: Pillars,
    features: Features,
    scatter: Scatter,
    decoder: Decoder,
    nms: Nms,
    /// Sweeps that were accumulated.
    accumulated: PointCloud,
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
        let mut model = plan.model().clone();
        model.decode = options.decode.clone().unwrap_or(model.decode);
        model.nms = options.nms.clone().unwrap_or(model.nms);
        if let Some(score) = options.score {
            model
                .decode
                .score
                .iter_mut()
                .for_each(|band| band.fill(score));
        }
        if let Some(scale) = options.intensity_scale {
            model.points.intensity_scale = scale;
        }
        let pool = Arc::new(Pool::new(options.threads));
        let stages = match (device, load::kind(plan)?) {
            (Some(device), Kind::TensorRt) => {
                let engine = load::tensorrt_engine(plan, options, device)?;
                let frame = cuda::Pipeline::new(&model, plan.pfn(), device, engine)?;
                Stages::Cuda(Box::new(frame))
            }
            (device, _) => {
                let (engine, outputs) = load::engine(plan, &pool)?;
                match device {
                    None => Stages::Cpu(Box::new(Cpu::new(plan, &model, &pool, engine, outputs)?)),
                    Some(device) => Stages::Cuda(Box::new(cuda::Pipeline::with_host_engine(
                        &model,
                        plan.pfn(),
                        device,
                        engine,
                        &outputs,
                    )?)),
                }
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
            Stages::Cuda(frame) => Some(frame.device()),
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
        self.run(Source::Cloud(cloud))
    }

    /// Finds the objects in the sweeps that [`SweepBuffer::accumulate`] takes, without copying them together
    /// first where the stages run on a GPU.
    ///
    /// # Errors
    /// As [`Detector::detect`].
    pub fn detect_sweeps(&mut self, sweeps: &SweepBuffer) -> Result<Detection<'_>> {
        self.run(Source::Sweeps(sweeps))
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
        self.run(Source::Device(points, count))
    }

    /// The boxes of the last frame that gave a result, best first.
    pub fn boxes(&self) -> &[Box3d] {
        match &self.stages {
            Stages::Cpu(cpu) => cpu.nms.boxes(),
            Stages::Cuda(frame) => frame.boxes(),
        }
    }

    /// Runs the network once more on the last frame's map, which changes nothing, and gives the time of each
    /// layer. With the network go neither graph nor the other stages: the sum is not the frame's `engine`.
    ///
    /// # Errors
    /// As [`Detector::detect`].
    pub fn profile(&mut self) -> Result<Vec<LayerTime>> {
        match &mut self.stages {
            Stages::Cpu(cpu) => Ok(cpu.engine.profile()?),
            Stages::Cuda(frame) => frame.profile(),
        }
    }

    fn run(&mut self, source: Source<'_>) -> Result<Detection<'_>> {
        match source {
            Source::Cloud(cloud) => self.warn(cloud.layout()),
            Source::Sweeps(sweeps) => self.warn(sweeps.layout()),
            Source::Device(..) => {}
        }
        let (dropped, times) = match (&mut self.stages, source) {
            (Stages::Cpu(cpu), source) => match source {
                Source::Cloud(cloud) => cpu.detect(&self.model, &self.pool, cloud)?,
                Source::Sweeps(sweeps) => cpu.detect_sweeps(&self.model, &self.pool, sweeps)?,
                Source::Device(..) => return Err(CudaError::HostStages.into()),
            },
            (Stages::Cuda(frame), source) => match source {
                Source::Cloud(cloud) => frame.detect(cloud)?,
                Source::Sweeps(sweeps) => frame.detect_sweeps(sweeps)?,
                Source::Device(points, count) => {
                    let layout =
                        Layout::new(&self.model.points.columns).map_err(FrameError::from)?;
                    #[allow(unsafe_code)]
                    // SAFETY: only `Detector::detect_device` makes such a source; this is its contract.
                    unsafe {
                        frame.detect_device(points, count, layout)?
                    }
                }
            },
        };
        self.deadline.add(times.total, Instant::now());
        Ok(Detection {
            boxes: self.boxes(),
            dropped,
            times,
        })
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

impl Cpu {
    fn new(
        plan: &Plan,
        model: &Model,
        pool: &Pool,
        engine: Box<dyn Engine>,
        outputs: Vec<[usize; OUTPUT_KINDS.len()]>,
    ) -> Result<Self> {
        let features =
            Features::new(model, plan.pfn(), pool.threads()).map_err(|source| PlanError::Pfn {
                path: plan.path().into(),
                source,
            })?;
        Ok(Self {
            points: Vec::with_capacity(model.points.capacity * model.points.columns.len()),
            pillars: Pillars::new(&model.grid),
            features,
            scatter: Scatter::new(model.grid.max_pillars),
            decoder: Decoder::new(model),
            nms: Nms::new(model),
            engine,
            outputs,
            accumulated: PointCloud::empty(Layout::XYZIT),
        })
    }

    fn detect(
        &mut self,
        model: &Model,
        pool: &Pool,
        cloud: &PointCloud,
    ) -> Result<(Dropped, Times)> {
        let mut times = Times::default();
        let mut clock = Clock::start();

        let selected = cloud.select(
            &model.points.columns,
            model.points.intensity_scale,
            &mut self.points,
        )?;
        let stride = model.points.columns.len();
        let most = model.points.capacity * stride;
        let points = &selected.points[..selected.points.len().min(most)];
        let beyond_capacity = (selected.points.len() - points.len()) / stride;
        pillars::voxelize(points, stride, &model.grid, &mut self.pillars);
        clock.lap(&mut times.pillars);

        features::features(
            points,
            stride,
            &self.pillars,
            &model.grid,
            pool,
            &mut self.features,
        );
        clock.lap(&mut times.features);

        let mut map = self.engine.input_mut();
        scatter::scatter(
            self.features.values(),
            self.pillars.cells(),
            &mut self.scatter,
            &mut map,
        );
        clock.lap(&mut times.scatter);

        self.engine.run()?;
        clock.lap(&mut times.engine);

        let engine = &*self.engine;
        self.decoder.clear();
        for (task, outputs) in self.outputs.iter().enumerate() {
            let Some(maps) = head_maps(engine, outputs) else {
                continue;
            };
            decode::decode(model, task, &maps, pool, &mut self.decoder);
        }
        clock.lap(&mut times.decode);

        nms::suppress(model, self.decoder.candidates(), &mut self.nms);
        clock.lap(&mut times.nms);

        times.total = clock.total();
        let mut dropped = *self.pillars.dropped();
        dropped.sweep_points = beyond_capacity as u64;
        dropped.candidates = self.decoder.surplus();
        dropped.non_finite_candidates = self.decoder.non_finite();
        Ok((dropped, times))
    }

    fn detect_sweeps(
        &mut self,
        model: &Model,
        pool: &Pool,
        sweeps: &SweepBuffer,
    ) -> Result<(Dropped, Times)> {
        let start = Instant::now();
        let mut cloud = std::mem::replace(&mut self.accumulated, PointCloud::empty(Layout::XYZIT));
        let done = sweeps.accumulate(&mut cloud);
        let found = self.detect(model, pool, &cloud);
        self.accumulated = cloud;
        let (mut dropped, mut times) = found?;
        dropped.sweep_points += done.points_over_capacity as u64;
        times.total = start.elapsed().as_secs_f64() * 1e3;
        Ok((dropped, times))
    }
}

/// The maps of one task.
fn head_maps<'a>(engine: &'a dyn Engine, outputs: &[usize; 6]) -> Option<[MapView<'a>; 6]> {
    let [heatmap, reg, height, dim, rot, vel] = outputs.map(|index| engine.output(index));
    Some([heatmap?, reg?, height?, dim?, rot?, vel?])
}

/// Measures the stages of one frame.
struct Clock {
    start: Instant,
    last: Instant,
}

impl Clock {
    fn start() -> Self {
        let start = Instant::now();
        Self { start, last: start }
    }

    /// Writes the milliseconds since the last lap.
    fn lap(&mut self, ms: &mut f64) {
        let now = Instant::now();
        *ms = (now - self.last).as_secs_f64() * 1e3;
        self.last = now;
    }

    fn total(&self) -> f64 {
        (self.last - self.start).as_secs_f64() * 1e3
    }
}
