//! Pillar features of the shipped frame: this project's stage and ONNX Runtime's PFN, in turn.
//!
//! Ours is the whole stage, from points to features. ONNX Runtime gets rows that are already gathered, padded
//! to the model's points per pillar as in deployments.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use centerpoint::internals::cpu::features::{Features, features};
use centerpoint::internals::cpu::pillars::{Pillars, voxelize};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::testing::Random;
use centerpoint::{Model, Plan};

use crate::runner::{self, Runner, RunnerNetwork};
use crate::{DEMO, frame};

/// Argument that turns this program into our runner.
pub(crate) const SERVE: &str = "--serve-pfn";

struct Stage {
    model: Model,
    points: Vec<f32>,
    pillars: Pillars,
    pool: Pool,
    out: Features,
}

impl Stage {
    fn load(threads: usize) -> Result<Self> {
        let plan = Plan::open(&Path::new(DEMO).join("fp32.plan"))?;
        let model = plan.model().clone();
        let points = frame::points(&model, Path::new(frame::FRAME), None)?;
        let mut pillars = Pillars::new(&model.grid);
        voxelize(
            &points,
            model.points.columns.len(),
            &model.grid,
            &mut pillars,
        );
        Ok(Self {
            out: Features::new(&model, plan.pfn(), threads)?,
            pool: Pool::new(threads),
            model,
            points,
            pillars,
        })
    }
}

impl RunnerNetwork for Stage {
    fn set_input(&mut self, _: &Path) -> Result<()> {
        anyhow::bail!("the input is always the frame")
    }

    fn run(&mut self) -> Result<()> {
        let (grid, stride) = (&self.model.grid, self.model.points.columns.len());
        features(
            &self.points,
            stride,
            &self.pillars,
            grid,
            &self.pool,
            &mut self.out,
        );
        Ok(())
    }

    fn write_outputs(&self, path: &Path) -> Result<()> {
        let values = self
            .out
            .values()
            .iter()
            .flat_map(|value| value.to_le_bytes());
        Ok(std::fs::write(path, values.collect::<Vec<u8>>())?)
    }
}

pub(crate) fn serve(threads: usize) -> Result<()> {
    runner::serve(|| Ok((Stage::load(threads)?, "this stage".to_owned())))
}

/// Runs both in turn and prints their times.
pub(crate) fn compare() -> Result<()> {
    let Some(python) = runner::python() else {
        println!("skipped ONNX Runtime's PFN: CENTERPOINT_PYTHON is not set");
        return Ok(());
    };
    let stage = Stage::load(1)?;
    let pillars = stage.pillars.len();
    let rows = pillars * stage.model.grid.max_points_per_pillar;
    let mut random = Random(1);
    // The time does not depend on the values.
    let values =
        (0..rows * stage.model.pfn_in_features()).flat_map(|_| random.next().to_le_bytes());
    let folder = tempfile::tempdir()?;
    let input = folder.path().join("rows.f32");
    std::fs::write(&input, values.collect::<Vec<u8>>())?;
    println!("pillar features of {pillars} pillars, in turn");
    for threads in [1, 2] {
        let mut ours = Command::new(std::env::current_exe()?);
        let ours = Runner::start(ours.args([SERVE, &threads.to_string()]))?;
        let theirs = Runner::python(
            &python,
            "onnxruntime",
            &Path::new(DEMO).join("pts_voxel_encoder.onnx"),
            threads,
        )?;
        let Some(mut theirs) = theirs else {
            println!("skipped ONNX Runtime's PFN: onnxruntime is not installed");
            return Ok(());
        };
        theirs.set_input(&input)?;
        let mut both = [ours.context("our own process did not start")?, theirs];
        let (rounds, figures) = runner::in_turn(&mut both, Duration::from_secs(10))?;
        for (name, f) in ["this stage", "ONNX Runtime"].iter().zip(&figures) {
            println!(
                "  {name:14} {threads} threads: smallest {:.2} ms, median {:.2} ms, CPU {:.2} ms, \
                 {rounds} rounds",
                f.smallest, f.median, f.mean_processor
            );
        }
    }
    Ok(())
}
