//! The BEV map that the demo model's network sees of a frame.

use std::path::Path;

use centerpoint::Model;
use centerpoint::build::folder::Folder;
use centerpoint::features::{Features, Pfn, features};
use centerpoint::pillars::{Pillars, voxelize};
use centerpoint::points::{Layout, PointCloud, ReadOptions, read};
use centerpoint::threads::Pool;

/// The dense map `[C, H, W]` of `frame`, by the runtime's stages.
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

/// The same of a cloud.
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
