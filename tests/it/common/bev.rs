//! The BEV map of a frame: the input of the demo model's network.

use std::path::Path;

use centerpoint::build::Folder;
use centerpoint::internals::cpu::features::{Features, features};
use centerpoint::internals::cpu::pillars::{Pillars, voxelize};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::model::Pfn;
use centerpoint::points::{ReadOptions, read};
use centerpoint::{Layout, Model, PointCloud};

/// The dense map `[C, H, W]` of a frame's file, computed by the runtime's stages.
pub(crate) fn bev(folder: &Folder, frame: &Path) -> Vec<f32> {
    let options = ReadOptions {
        layout: None,
        default_layout: Layout::new(&folder.model.points.columns).unwrap(),
    };
    bev_of(
        &folder.model,
        &folder.pfe.pfn,
        &read(frame, &options).unwrap(),
    )
}

/// The dense map `[C, H, W]` of a cloud.
pub(crate) fn bev_of(model: &Model, pfn: &Pfn, cloud: &PointCloud) -> Vec<f32> {
    let mut points = Vec::new();
    let columns = &model.points.columns;
    let selected = cloud.select(columns, model.points.intensity_scale, &mut points);
    let points = selected.unwrap().points;
    let mut pillars = Pillars::new(&model.grid);
    voxelize(points, columns.len(), &model.grid, &mut pillars);
    let pool = Pool::new(1);
    let mut values = Features::new(model, pfn, 1).unwrap();
    features(
        points,
        columns.len(),
        &pillars,
        &model.grid,
        &pool,
        &mut values,
    );
    let area = model.grid.nx * model.grid.ny;
    let channels = model.bev_channels();
    let mut map = vec![0.0; channels * area];
    let rows = values.values().chunks_exact(channels);
    for (&cell, row) in pillars.cells().iter().zip(rows) {
        for (c, value) in row.iter().enumerate() {
            map[c * area + cell as usize] = *value;
        }
    }
    map
}
