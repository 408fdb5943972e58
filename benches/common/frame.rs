//! The BEV map of a real frame.

use std::path::Path;

use anyhow::Result;
use centerpoint::internals::cpu::features::{Features, features};
use centerpoint::internals::cpu::pillars::{Pillars, voxelize};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::model::Pfn;
use centerpoint::points::ReadOptions;
use centerpoint::{Layout, Model, points};

/// A frame of the shipped calibration set, with about the median number of pillars.
pub(crate) const FRAME: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/calib/demo/frames/000003.bin");

/// The points of a frame in the model's columns. `layout`: its own, if the file does not say.
pub(crate) fn points(model: &Model, path: &Path, layout: Option<Layout>) -> Result<Vec<f32>> {
    let options = ReadOptions {
        layout,
        default_layout: Layout::new(&model.points.columns)?,
    };
    let cloud = points::read(path, &options)?;
    let mut scratch = Vec::new();
    let (columns, scale) = (&model.points.columns, model.points.intensity_scale);
    Ok(cloud.select(columns, scale, &mut scratch)?.points.to_vec())
}

/// The frame's pillar features in the model's BEV map, `[C, H, W]`, and the number of pillars.
pub(crate) fn bev(
    model: &Model,
    pfn: &Pfn,
    path: &Path,
    layout: Option<Layout>,
) -> Result<(Vec<f32>, usize)> {
    let (grid, stride) = (&model.grid, model.points.columns.len());
    let points = points(model, path, layout)?;
    let mut pillars = Pillars::new(grid);
    voxelize(&points, stride, grid, &mut pillars);
    let mut out = Features::new(model, pfn, 1)?;
    features(&points, stride, &pillars, grid, &Pool::new(1), &mut out);
    let mut map = vec![0.0; out.channels() * grid.cells()];
    for (&cell, values) in pillars
        .cells()
        .iter()
        .zip(out.values().chunks(out.channels()))
    {
        for (c, value) in values.iter().enumerate() {
            map[c * grid.cells() + cell as usize] = *value;
        }
    }
    Ok((map, pillars.len()))
}
