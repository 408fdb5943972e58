//! Creates a plan's engine and checks it against the model description.

use std::sync::Arc;

use super::{DetectorError, Options, Result};
use crate::chain::Chain;
use crate::cpu::pool::Pool;
use crate::cuda::{CudaError, Device};
use crate::engine::cuda::{self, CudaEngine};
use crate::engine::lazy::LazyHeads;
use crate::engine::tensorrt::{Library, LoadRequest, TensorRtError};
use crate::engine::{Engine, EngineError, cpu};
use crate::plan::{Plan, PlanError};
use crate::program::Program;

/// The engine that a plan is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EngineTarget {
    Cpu,
    TensorRt,
}

/// Reads the engine that a plan is built for.
pub(super) fn engine_target(plan: &Plan) -> Result<EngineTarget> {
    match plan.manifest().target.engine.as_str() {
        "cpu" => Ok(EngineTarget::Cpu),
        "tensorrt" => Ok(EngineTarget::TensorRt),
        other => Err(PlanError::Target {
            path: plan.path().into(),
            found: other.into(),
            wanted: "this program runs `cpu` and `tensorrt` plans".into(),
            advice: "build one with `cp-build compile`".into(),
        }
        .into()),
    }
}

/// Appends `advice` to the error of an unavailable GPU.
pub(super) fn unavailable(advice: &'static str) -> impl Fn(DetectorError) -> DetectorError {
    move |error| match error {
        DetectorError::Cuda(CudaError::Unavailable { reason }) => CudaError::Unavailable {
            reason: format!("{reason}{advice}"),
        }
        .into(),
        other => other,
    }
}

/// Loads the engine of a TensorRT plan on its device, checked against the model.
pub(super) fn tensorrt_engine(
    plan: &Plan,
    options: &Options,
    device: &Arc<dyn Device>,
) -> Result<Box<dyn Engine>> {
    let target = plan.manifest().target.tensorrt.as_ref();
    let target = target.ok_or_else(|| PlanError::Broken {
        path: plan.path().into(),
        what: "the manifest has no TensorRT target; build the plan again with `cp-build compile`"
            .into(),
    })?;
    let library = Library::open(options.tensorrt.as_deref())?;
    let (wanted, found) = (target.library, library.version());
    if (wanted.family, wanted.major) != (found.family, found.major) {
        return Err(TensorRtError::Mismatch {
            path: plan.path().into(),
            wanted,
            library: found,
            advice:
                "set CENTERPOINT_TENSORRT to a library of the plan's version, or build the plan again with this \
                library"
                    .into(),
        }
        .into());
    }
    let input = target.tensors.iter().find(|tensor| tensor.input);
    let built = target.options.as_ref();
    let engine = library.load(
        &LoadRequest {
            path: plan.path(),
            plan: plan.section("engine")?.as_ref(),
            model: plan.model(),
            input_scale: input.and_then(|input| input.scale),
            host_code: built.is_some_and(|options| options.version_compatible),
        },
        device,
    )?;
    Ok(engine)
}

/// Whether the CUDA engine runs a plan for the CPU.
fn on_cuda_engine(program: &Program, options: &Options) -> bool {
    program.has_codes() || options.fp16
}

/// The machine's GPU, if it is to run a plan for the CPU although nobody asked for it.
pub(super) fn gpu_for(plan: &Plan, options: &Options) -> Result<Option<Arc<dyn Device>>> {
    if !on_cuda_engine(&program(plan)?, options) {
        return Ok(None);
    }
    match crate::cuda::open() {
        Ok(device) => {
            log::info!("the network runs on {}", device.name());
            Ok(Some(device))
        }
        Err(error) => {
            // Of a machine without a GPU only those are told who asked for one; of a GPU that cannot be used everyone is.
            if options.fp16 || crate::cuda::gpu().is_ok() {
                log::warn!("the network runs on the CPU: {}", Chain(&error));
            }
            Ok(None)
        }
    }
}

/// The network of a CPU plan.
fn program(plan: &Plan) -> Result<Program> {
    let program = Program::from_json(plan.section("program")?.as_ref());
    Ok(program.map_err(|e| PlanError::Broken {
        path: plan.path().into(),
        what: e.to_string(),
    })?)
}

/// Creates the engine of a CPU plan, on the device or on the CPU. It computes the maps that the decoder reads only at some cells
/// only there.
pub(super) fn cpu_engine(
    plan: &Plan,
    options: &Options,
    pool: &Arc<Pool>,
    device: Option<&Arc<dyn Device>>,
) -> Result<Box<dyn Engine>> {
    let broken = |e: EngineError| match e {
        EngineError::Cuda(e) => DetectorError::from(e),
        e => PlanError::Broken {
            path: plan.path().into(),
            what: e.to_string(),
        }
        .into(),
    };
    let program = program(plan)?;
    let weights = Arc::new(plan.section("weights")?);
    let lazy_heads = Some(LazyHeads::new(&options.apply(plan.model())));
    if let Some(device) = device.filter(|_| on_cuda_engine(&program, options)) {
        let options = cuda::Options {
            lazy_heads,
            half: !program.has_codes(),
            ..cuda::Options::default()
        };
        let engine = CudaEngine::new(program, weights, device, &options).map_err(broken)?;
        return Ok(Box::new(engine));
    }
    let options = cpu::Options {
        lazy_heads,
        ..cpu::Options::default()
    };
    let engine = cpu::CpuEngine::new(program, weights, pool.clone(), &options).map_err(broken)?;
    Ok(Box::new(engine))
}

/// Names the plan in the error of a PFN or an engine that does not match its model.
pub(super) fn in_plan(plan: &Plan) -> impl Fn(DetectorError) -> DetectorError {
    let path = plan.path();
    move |error| match error {
        DetectorError::Engine(EngineError::Mismatch { what }) => PlanError::Broken {
            path: path.into(),
            what,
        }
        .into(),
        DetectorError::Pfn(source) => PlanError::Pfn {
            path: path.into(),
            source,
        }
        .into(),
        other => other,
    }
}
