//! Turns the file form of a model description into a [`Model`]: class tables become one value per class, sizes
//! are derived and bounded, contradictions are errors that name the key.

use super::check_decode::{resolve_decode, resolve_nms, resolve_remap};
use super::file::{RawGrid, RawHead, RawModel, RawPfn, RawPoints};
use super::problem::{Problem, bounded, class_id, problem};
use super::region::{corners, is_box};
use super::{Grid, Head, Model, PfnSpec, Points, Task};
use crate::map::HeadMaps;
use crate::points::Column;

/// Most cells along one axis.
const MAX_CELLS: usize = 8192;

/// Checks `raw` and derives the model.
pub(super) fn resolve(raw: RawModel) -> Result<Model, Problem> {
    let classes = resolve_classes(raw.classes)?;
    let points = resolve_points(raw.points)?;
    let grid = resolve_grid(raw.grid)?;
    let pfn = resolve_pfn(&raw.pfn, points.columns.len())?;
    let remapped: Vec<&str> = raw.remap.iter().map(|remap| remap.to.as_str()).collect();
    let head = resolve_head(raw.head, &classes, &remapped, &grid)?;
    let decode = resolve_decode(raw.decode, &classes)?;
    let nms = raw
        .nms
        .into_iter()
        .enumerate()
        .map(|(i, step)| resolve_nms(step, &format!("nms[{i}]"), &classes, &head.tasks))
        .collect::<Result<_, _>>()?;
    let remap = raw
        .remap
        .into_iter()
        .enumerate()
        .map(|(i, remap)| resolve_remap(remap, &format!("remap[{i}]"), &classes))
        .collect::<Result<_, _>>()?;
    Ok(Model {
        name: raw.name,
        classes,
        points,
        grid,
        pfn,
        head,
        decode,
        nms,
        remap,
    })
}

fn resolve_classes(classes: Vec<String>) -> Result<Vec<String>, Problem> {
    if classes.is_empty() || classes.len() > 256 {
        return problem(
            "classes",
            format!("{} classes; expected 1 to 256", classes.len()),
        );
    }
    for (i, class) in classes.iter().enumerate() {
        if class.is_empty() || classes[..i].contains(class) {
            return problem("classes", format!("`{class}` is empty or listed twice"));
        }
    }
    Ok(classes)
}

fn resolve_points(raw: RawPoints) -> Result<Points, Problem> {
    let mut columns = Vec::new();
    for name in &raw.columns {
        match name.parse::<Column>() {
            Ok(Column::Skip) | Err(_) => {
                return problem(
                    "points.columns",
                    format!(
                        "`{name}` is not a column; known columns: x y z intensity t ring elongation"
                    ),
                );
            }
            Ok(column) if columns.contains(&column) => {
                return problem("points.columns", format!("`{name}` is listed twice"));
            }
            Ok(column) => columns.push(column),
        }
    }
    if columns.get(..3) != Some(&[Column::X, Column::Y, Column::Z]) {
        return problem("points.columns", "the first three must be x, y, z");
    }
    let intensity_scale = raw.intensity_scale.unwrap_or(1.0);
    if !(intensity_scale.is_finite() && intensity_scale > 0.0) {
        return problem(
            "points.intensity_scale",
            format!("{intensity_scale} is not above 0"),
        );
    }
    if let Some(height) = raw.model_ground.filter(|z| !(-100.0..=100.0).contains(z)) {
        return problem(
            "points.model_ground",
            format!("{height}; expected -100 to 100 metres"),
        );
    }
    if let Some(most) = raw
        .intensity_max
        .filter(|most| !(most.is_finite() && *most > 0.0))
    {
        return problem("points.intensity_max", format!("{most} is not above 0"));
    }
    let sweeps = bounded("points.sweeps", raw.sweeps.unwrap_or(1), 1, 64)?;
    let capacity = raw.capacity.unwrap_or(300_000 * sweeps);
    let capacity = bounded("points.capacity", capacity, 1, 1 << 24)?;
    Ok(Points {
        columns,
        intensity_scale: intensity_scale as f32,
        sweeps,
        capacity,
        extrinsic: raw.extrinsic,
        ground: raw.ground,
        model_ground: raw.model_ground.map(|height| height as f32),
        intensity_max: raw.intensity_max.map(|most| most as f32),
        without_pose: raw.without_pose.unwrap_or_default(),
    })
}

fn resolve_grid(raw: RawGrid) -> Result<Grid, Problem> {
    let [x0, y0, z0, x1, y1, z1] = raw.range;
    let (min, max) = ([x0, y0, z0], [x1, y1, z1]);
    let mut cells = [0usize; 3];
    for axis in 0..3 {
        let (low, high, size) = (min[axis], max[axis], raw.voxel_size[axis]);
        let name = ["x", "y", "z"][axis];
        if !(low.is_finite() && high.is_finite() && low < high && high - low < 1e5) {
            return problem(
                "grid.range",
                format!("{name} from {low} to {high} is not a valid range"),
            );
        }
        if !(size.is_finite() && size > 0.0) {
            return problem(
                "grid.voxel_size",
                format!("{name} size {size} is not above 0"),
            );
        }
        // Round, do not truncate: 244.8 / 0.24 is 1019.9999… in floating point.
        let count = (high - low) / size;
        if (count - count.round()).abs() > 0.01 || count < 0.5 {
            return problem(
                "grid.voxel_size",
                format!(
                    "{name} range {low} to {high} has {count:.3} voxels of {size}, not a whole number"
                ),
            );
        }
        if count > MAX_CELLS as f64 {
            return problem(
                "grid.voxel_size",
                format!("{count:.0} cells along {name}; at most {MAX_CELLS} are supported"),
            );
        }
        cells[axis] = count.round() as usize;
    }
    let [nx, ny, nz] = cells;
    if nz != 1 {
        return problem(
            "grid.voxel_size",
            format!(
                "{nz} voxels along z, but a pillar is one voxel high: set z to {}",
                z1 - z0
            ),
        );
    }
    if let Some(size) = raw.size.filter(|size| *size != [nx, ny]) {
        return problem(
            "grid.size",
            format!(
                "[{}, {}], but range and voxel_size make [{nx}, {ny}]",
                size[0], size[1]
            ),
        );
    }
    if let Some(found) = raw.ignore_box.filter(|corners| !is_box(corners)) {
        return problem(
            "grid.ignore_box",
            format!("{found:?}; expected the least x, y, z, then the greatest, in metres"),
        );
    }
    let max_points = bounded(
        "grid.max_points_per_pillar",
        raw.max_points_per_pillar,
        1,
        1024,
    )?;
    // More pillars than cells are no limit.
    let max_pillars = bounded("grid.max_pillars", raw.max_pillars, 1, usize::MAX)?.min(nx * ny);
    if max_points * max_pillars > 1 << 26 {
        return problem(
            "grid.max_pillars",
            format!(
                "{max_pillars} pillars of {max_points} points need more than 256 MB of indices"
            ),
        );
    }
    Ok(Grid {
        min: min.map(|v| v as f32),
        max: max.map(|v| v as f32),
        ignore_box: raw.ignore_box.map(corners),
        voxel: raw.voxel_size.map(|v| v as f32),
        nx,
        ny,
        max_points_per_pillar: max_points,
        max_pillars,
    })
}

fn resolve_pfn(raw: &RawPfn, columns: usize) -> Result<PfnSpec, Problem> {
    let mean_offset = raw.mean_offset.unwrap_or(true);
    let center_axes = raw.center_offset_axes.unwrap_or(3);
    if ![0, 2, 3].contains(&center_axes) {
        return problem(
            "pfn.center_offset_axes",
            format!("{center_axes}; expected 0, 2 or 3"),
        );
    }
    if raw.layers.is_empty() || raw.layers.len() > 3 {
        return problem(
            "pfn.layers",
            format!("{} layers; expected 1 to 3", raw.layers.len()),
        );
    }
    for (i, &width) in raw.layers.iter().enumerate() {
        let last = i + 1 == raw.layers.len();
        if !(1..=256).contains(&width) || (!last && width % 2 != 0) {
            return problem(
                "pfn.layers",
                format!(
                    "width {width}; expected 1 to 256, and an even number except in the last layer"
                ),
            );
        }
    }
    let in_features = columns + if mean_offset { 3 } else { 0 } + center_axes;
    if let Some(stated) = raw.in_features.filter(|n| *n != in_features) {
        return problem(
            "pfn.in_features",
            format!(
                "{stated}, but {columns} point columns, mean_offset = {mean_offset} and \
                 center_offset_axes = {center_axes} make {in_features}"
            ),
        );
    }
    let legacy = raw.legacy.unwrap_or(false);
    if legacy && center_axes == 0 {
        return problem(
            "pfn.legacy",
            "set, but there are no offsets from the centre",
        );
    }
    Ok(PfnSpec {
        mean_offset,
        center_axes,
        legacy,
        layers: raw.layers.clone(),
    })
}

fn resolve_head(
    raw: RawHead,
    classes: &[String],
    remapped: &[&str],
    grid: &Grid,
) -> Result<Head, Problem> {
    let downsample = bounded("head.downsample", raw.downsample, 1, 64)?;
    if !grid.nx.is_multiple_of(downsample) || !grid.ny.is_multiple_of(downsample) {
        return problem(
            "head.downsample",
            format!(
                "{downsample} does not divide the grid of {} × {}",
                grid.nx, grid.ny
            ),
        );
    }
    let tasks = match raw.tasks {
        None => vec![Task {
            classes: (0..classes.len()).collect(),
            outputs: HeadMaps::NAMES.map(String::from),
        }],
        Some(raw_tasks) => {
            let mut tasks: Vec<Task> = Vec::new();
            for (i, task) in raw_tasks.into_iter().enumerate() {
                let key = format!("head.tasks[{i}].classes");
                let ids = task
                    .classes
                    .iter()
                    .map(|name| class_id(name, classes, &key))
                    .collect::<Result<Vec<_>, _>>()?;
                let outputs = match task.outputs {
                    Some(names) => names.into(),
                    None => HeadMaps::NAMES.map(|name| format!("{name}_{i}")),
                };
                tasks.push(Task {
                    classes: ids,
                    outputs,
                });
            }
            tasks
        }
    };
    let mut seen = vec![0usize; classes.len()];
    tasks
        .iter()
        .flat_map(|task| &task.classes)
        .for_each(|&class| seen[class] += 1);
    for (class, &tasks) in classes.iter().zip(&seen) {
        // Some classes only arise from a remap; the network does not predict them.
        if tasks > 1 || (tasks == 0 && !remapped.contains(&class.as_str())) {
            return problem(
                "head.tasks",
                format!("class `{class}` is in {tasks} tasks; expected exactly one"),
            );
        }
    }
    if tasks.iter().any(|task| task.classes.is_empty()) {
        return problem("head.tasks", "a task has no classes");
    }
    let (size_order, rotation, variance) = (raw.size_order, raw.rotation, raw.variance);
    Ok(Head {
        downsample,
        size_order,
        rotation,
        variance,
        tasks,
    })
}
