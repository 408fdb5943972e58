//! This project's engine as a runner: the measured process.

use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use centerpoint::Plan;
use centerpoint::engine::Engine;
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::engine::cpu::{CpuEngine, Options};
use centerpoint::internals::engine::lazy::LazyHeads;
use centerpoint::internals::program::Program;

use crate::Saving;
use crate::runner::{self, RunnerNetwork};

/// Serves the network of a plan, its weights mapped into memory as in `cp-infer`.
pub(crate) fn serve(plan: &Path, threads: usize, saving: Saving) -> Result<()> {
    runner::serve(|| {
        let plan = Plan::open(plan)?;
        let heads = LazyHeads::new(plan.model());
        let options = Options {
            skip_empty: Some(saving >= Saving::Pixels),
            skip_channels: Some(saving >= Saving::Channels),
            lazy_heads: (saving == Saving::Lazy).then(|| heads.clone()),
            ..Options::default()
        };
        let program = Program::from_json(plan.section("program")?.as_ref())?;
        let weights = Arc::new(plan.section("weights")?);
        let pool = Arc::new(Pool::new(threads));
        let engine = CpuEngine::new(program, weights, pool, &options)?;
        let about = format!("this engine, {}", engine.isa().name());
        let heads = options.lazy_heads;
        Ok((Ours(engine, heads), about))
    })
}

struct Ours(CpuEngine, Option<LazyHeads>);

impl Ours {
    /// Prints how many cells pass, and what the last run computed of each layer.
    fn print_cells(&self, heads: &LazyHeads) -> Result<()> {
        for task in &heads.tasks {
            let mut outputs = self.0.outputs().iter();
            let index = outputs.position(|output| output.name == task.heatmap);
            let index = index.context("no such heatmap")?;
            let map = self.0.output(index).context("no such output")?;
            let (height, width) = (map.layout.height, map.layout.width);
            let passes = |cell: usize| {
                let logit = |c| map.data[map.layout.index(c, cell / width, cell % width)];
                let mut least = task.least.iter().enumerate();
                least.any(|(c, least)| logit(c) >= *least || logit(c).is_nan())
            };
            let passing = (0..height * width).filter(|&cell| passes(cell)).count();
            eprintln!("{passing} of {} cells pass", height * width);
        }
        eprintln!("shares of the layers: {:.3?}", self.0.layer_shares());
        Ok(())
    }
}

impl RunnerNetwork for Ours {
    fn set_input(&mut self, path: &Path) -> Result<()> {
        let mut view = self.0.input_mut();
        let layout = view.layout;
        // Read row by row: a second copy of the map would count as the engine's memory.
        let mut file = BufReader::new(std::fs::File::open(path)?);
        let mut row = vec![0u8; 4 * layout.width];
        for c in 0..layout.channels {
            for y in 0..layout.height {
                file.read_exact(&mut row)?;
                for (x, bytes) in row.chunks_exact(4).enumerate() {
                    let value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                    view.set(c, y, x, value);
                }
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        Ok(self.0.run()?)
    }

    fn write_outputs(&self, path: &Path) -> Result<()> {
        if let Some(heads) = &self.1 {
            self.print_cells(heads)?;
        }
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for index in 0..self.0.outputs().len() {
            let view = self.0.output(index).context("no such output")?;
            let layout = view.layout;
            for c in 0..layout.channels {
                for y in 0..layout.height {
                    for x in 0..layout.width {
                        file.write_all(&view.data[layout.index(c, y, x)].to_le_bytes())?;
                    }
                }
            }
        }
        Ok(file.flush()?)
    }
}
