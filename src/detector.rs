//! The detector: a plan and all its buffers, from one cloud to its boxes.
//!
//! Read from top to bottom, [`Detector::detect`] is the product. Everything is allocated when the
//! plan is loaded; a frame allocates nothing once the first has passed, and gives the same bytes
//! whatever the number of threads.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::boxes::Box3d;
use crate::decode::{self, Decoder};
use crate::engine::{Engine, EngineError, MapView, cpu};
use crate::error::Result;
use crate::features::{self, Features};
use crate::frame::{Dropped, Times};
use crate::model::{Model, OUTPUT_KINDS};
use crate::nms::{self, Nms};
use crate::pillars::{self, Pillars};
use crate::plan::{Plan, PlanError};
use crate::points::PointCloud;
use crate::scatter::{self, Scatter};
use crate::threads::Pool;

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
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// CPU threads, the caller's included; 0 is one per core.
    pub threads: usize,
    /// Where to run.
    pub device: Device,
    /// Least score of every class, instead of the plan's thresholds.
    pub score: Option<f32>,
    /// Factor from the clouds' intensity to the model's scale, instead of the plan's.
    pub intensity_scale: Option<f32>,
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
    engine: Box<dyn Engine>,
    /// Indices into the engine's outputs, by task and in the order of [`OUTPUT_KINDS`].
    outputs: Vec<[usize; 6]>,
    points: Vec<f32>,
    pillars: Pillars,
    features: Features,
    scatter: Scatter,
    decoder: Decoder,
    nms: Nms,
    warned_intensity: bool,
}

impl Detector {
    /// Opens a plan and allocates everything that its frames need.
    ///
    /// # Errors
    /// [`PlanError`] or [`crate::model::ModelError`] for a plan that cannot be used,
    /// [`crate::cuda::CudaError::Unavailable`] where the device is not available.
    pub fn load(path: &Path, options: &Options) -> Result<Self> {
        Self::new(&Plan::open(path)?, options)
    }

    /// As [`Detector::load`], from an opened plan.
    ///
    /// # Errors
    /// As [`Detector::load`].
    pub fn new(plan: &Plan, options: &Options) -> Result<Self> {
        if options.device == Device::Cuda {
            crate::cuda::open()?;
            return Err(EngineError::Device {
                device: "cuda".into(),
                reason: "the detector does not run there yet; use `--device cpu`".into(),
            }
            .into());
        }
        let mut model = plan.model().clone();
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
        let engine = engine(plan, &pool)?;
        check_input(plan, &*engine)?;
        let outputs = find_outputs(plan, &*engine)?;
        let features =
            Features::new(&model, plan.pfn(), pool.threads()).map_err(|source| PlanError::Pfn {
                path: plan.path().into(),
                source,
            })?;
        Ok(Self {
            points: Vec::with_capacity(model.points.capacity * model.points.columns.len()),
            pillars: Pillars::new(&model.grid),
            features,
            scatter: Scatter::new(model.grid.max_pillars),
            decoder: Decoder::new(&model),
            nms: Nms::new(&model),
            model,
            pool,
            engine,
            outputs,
            warned_intensity: false,
        })
    }

    /// The plan's model description, with the options applied.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Threads that share the work.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Finds the objects in one cloud: one sweep, or several that were accumulated.
    ///
    /// # Errors
    /// [`crate::points::FrameError`] where the cloud lacks a column that the model needs,
    /// [`EngineError`] where the engine fails. The detector stays usable.
    pub fn detect(&mut self, cloud: &PointCloud) -> Result<Detection<'_>> {
        let model = &self.model;
        let mut times = Times::default();
        let mut clock = Clock::start();

        let selected = cloud.select(
            &model.points.columns,
            model.points.intensity_scale,
            &mut self.points,
        )?;
        if selected.missing_intensity && !self.warned_intensity {
            log::warn!("the frames have no intensity, which the model was trained with: using 0");
            self.warned_intensity = true;
        }
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
            &self.pool,
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
            decode::decode(model, task, &maps, &self.pool, &mut self.decoder);
        }
        clock.lap(&mut times.decode);

        nms::suppress(model, self.decoder.candidates(), &mut self.nms);
        clock.lap(&mut times.nms);

        times.total = clock.total();
        let mut dropped = *self.pillars.dropped();
        dropped.sweep_points = beyond_capacity as u64;
        dropped.candidates = self.decoder.surplus();
        dropped.non_finite_candidates = self.decoder.non_finite();
        Ok(Detection {
            boxes: self.nms.boxes(),
            dropped,
            times,
        })
    }
}

/// The engine that the plan was made for.
fn engine(plan: &Plan, pool: &Arc<Pool>) -> Result<Box<dyn Engine>> {
    let target = &plan.manifest().target;
    if target.engine != "cpu" {
        return Err(PlanError::Target {
            path: plan.path().into(),
            found: target.engine.clone(),
            wanted: "this program runs `cpu` plans".into(),
            advice: "build one with `cp-build compile --target cpu`".into(),
        }
        .into());
    }
    let broken = |e: EngineError| PlanError::Broken {
        path: plan.path().into(),
        what: e.to_string(),
    };
    let program = cpu::Program::from_json(plan.section("program")?.as_ref()).map_err(broken)?;
    let weights = Arc::new(plan.section("weights")?);
    let engine = cpu::CpuEngine::new(program, weights, pool.clone(), &cpu::Options::default())
        .map_err(broken)?;
    Ok(Box::new(engine))
}

/// Checks that the engine reads the BEV map that the model describes.
fn check_input(plan: &Plan, engine: &dyn Engine) -> Result<()> {
    let (model, input) = (plan.model(), engine.input());
    let expected = [model.bev_channels(), model.grid.ny, model.grid.nx];
    let found = [input.channels, input.height, input.width];
    if found != expected {
        return Err(PlanError::Broken {
            path: plan.path().into(),
            what: format!(
                "the network reads `{}` of {found:?} (C, H, W), the model description gives \
                 {expected:?}",
                input.name
            ),
        }
        .into());
    }
    Ok(())
}

/// Finds every task's outputs among the engine's, and checks their sizes.
fn find_outputs(plan: &Plan, engine: &dyn Engine) -> Result<Vec<[usize; 6]>> {
    let model = plan.model();
    let (height, width) = model.head_size();
    let broken = |what| PlanError::Broken {
        path: plan.path().into(),
        what,
    };
    let mut tasks = Vec::with_capacity(model.head.tasks.len());
    for task in &model.head.tasks {
        let mut indices = [0; OUTPUT_KINDS.len()];
        for (kind, (index, name)) in indices.iter_mut().zip(&task.outputs).enumerate() {
            let outputs = engine.outputs();
            let Some(at) = outputs.iter().position(|output| output.name == *name) else {
                let names: Vec<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
                let names = names.join(" ");
                return Err(broken(format!("no output `{name}`; the network has {names}")).into());
            };
            let output = &outputs[at];
            let expected = [model.output_channels(task, kind), height, width];
            let found = [output.channels, output.height, output.width];
            if found != expected {
                return Err(broken(format!(
                    "output `{name}` is {found:?} (C, H, W), the model description gives {expected:?}"
                ))
                .into());
            }
            *index = at;
        }
        tasks.push(indices);
    }
    Ok(tasks)
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
