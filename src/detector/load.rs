//! From a plan to its engine, checked against the model description.

use std::sync::Arc;

use super::Options;
use crate::cpu::pool::Pool;
use crate::cuda::{CudaError, Device, frame};
use crate::engine::tensorrt::{Library, LoadRequest, TensorRtError};
use crate::engine::{Engine, EngineError, cpu};
use crate::error::{Error, Result};
use crate::model::OUTPUT_KINDS;
use crate::plan::{Plan, PlanError};
use crate::program::Program;

/// An engine and the indices of its outputs, by task and in the order of [`OUTPUT_KINDS`].
type Loaded = (Box<dyn Engine>, Vec<[usize; OUTPUT_KINDS.len()]>);

/// What a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Cpu,
    TensorRt,
}

/// What a plan is made for.
pub(super) fn kind(plan: &Plan) -> Result<Kind> {
    match plan.manifest().target.engine.as_str() {
        "cpu" => Ok(Kind::Cpu),
        "tensorrt" => Ok(Kind::TensorRt),
        other => Err(PlanError::Target {
            path: plan.path().into(),
            found: other.into(),
            wanted: "this program runs `cpu` and `tensorrt` plans".into(),
            advice: "build one with `cp-build compile`".into(),
        }
        .into()),
    }
}

/// Adds to the error of a GPU that cannot be used what that means for this plan.
pub(super) fn unavailable(advice: &'static str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Cuda(CudaError::Unavailable { reason }) => CudaError::Unavailable {
            reason: format!("{reason}{advice}"),
        }
        .into(),
        other => other,
    }
}

/// The engine of a plan for the CPU.
pub(super) fn engine(plan: &Plan, pool: &Arc<Pool>) -> Result<Loaded> {
    let engine = cpu_engine(plan, pool)?;
    check_input(plan, &*engine)?;
    let outputs = find_outputs(plan, &*engine)?;
    Ok((engine, outputs))
}

/// The engine of a TensorRT plan on its device, checked against the model.
pub(super) fn tensorrt_engine(
    plan: &Plan,
    options: &Options,
    device: &Arc<dyn Device>,
) -> Result<Box<dyn frame::Engine>> {
    let target = plan.manifest().target.tensorrt.as_ref();
    let target = target.ok_or_else(|| PlanError::Broken {
        path: plan.path().into(),
        what: "the manifest says nothing of TensorRT; build the plan again with `cp-build compile`"
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
                "name a library of that line with CENTERPOINT_TENSORRT, or build the plan again \
                     with this one"
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

/// Loads the CPU engine.
fn cpu_engine(plan: &Plan, pool: &Arc<Pool>) -> Result<Box<dyn Engine>> {
    let broken = |e: EngineError| PlanError::Broken {
        path: plan.path().into(),
        what: e.to_string(),
    };
    let program =
        Program::from_json(plan.section("program")?.as_ref()).map_err(|e| broken(e.into()))?;
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
fn find_outputs(plan: &Plan, engine: &dyn Engine) -> Result<Vec<[usize; OUTPUT_KINDS.len()]>> {
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
