//! From a plan to its engine, checked against the model description.

use std::sync::Arc;

use crate::engine::{Engine, EngineError, cpu};
use crate::error::Result;
use crate::model::OUTPUT_KINDS;
use crate::plan::{Plan, PlanError};
use crate::threads::Pool;

/// An engine and the indices of its outputs, by task and in the order of [`OUTPUT_KINDS`].
type Loaded = (Box<dyn Engine>, Vec<[usize; OUTPUT_KINDS.len()]>);

/// The engine that the plan was made for.
pub(super) fn engine(plan: &Plan, pool: &Arc<Pool>) -> Result<Loaded> {
    let engine = cpu_engine(plan, pool)?;
    check_input(plan, &*engine)?;
    let outputs = find_outputs(plan, &*engine)?;
    Ok((engine, outputs))
}

/// Loads the CPU engine.
fn cpu_engine(plan: &Plan, pool: &Arc<Pool>) -> Result<Box<dyn Engine>> {
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
