//! The checks between the file form of a model description and [`Model`]: class tables become one
//! value per class, sizes are derived and bounded, contradictions are refused by key.

use super::file::{
    PerClass, RawBands, RawDecode, RawGrid, RawHead, RawModel, RawNms, RawNmsKind, RawPfn,
    RawPoints, RawRemap, Scope,
};
use super::{
    Candidates, Decode, Grid, Head, Model, NmsKind, NmsStep, OUTPUT_KINDS, PfnSpec, Points, Remap,
    Task,
};
use crate::points::Column;

/// Most cells along one axis.
const MAX_CELLS: usize = 8192;

/// A value that cannot be, before the file's name is added.
pub(super) struct Problem {
    /// Dotted key.
    pub(super) key: String,
    /// What is wrong.
    pub(super) problem: String,
}

fn problem<T>(key: impl Into<String>, problem: impl Into<String>) -> Result<T, Problem> {
    Err(Problem {
        key: key.into(),
        problem: problem.into(),
    })
}

/// Turns the file's form into the checked one.
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
            return problem("classes", format!("`{class}` is empty or named twice"));
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
                    format!("`{name}` is no column; known: x y z intensity t ring elongation"),
                );
            }
            Ok(column) if columns.contains(&column) => {
                return problem("points.columns", format!("`{name}` is named twice"));
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
    let sweeps = bounded("points.sweeps", raw.sweeps.unwrap_or(1), 1, 64)?;
    let capacity = raw.capacity.unwrap_or(300_000 * sweeps);
    let capacity = bounded("points.capacity", capacity, 1, 1 << 24)?;
    Ok(Points {
        columns,
        intensity_scale: intensity_scale as f32,
        sweeps,
        capacity,
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
                format!("{name} from {low} to {high} is no range"),
            );
        }
        if !(size.is_finite() && size > 0.0) {
            return problem(
                "grid.voxel_size",
                format!("{name} size {size} is not above 0"),
            );
        }
        // Rounding, not truncating: 244.8 / 0.24 is 1019.9999… in floating point.
        let count = (high - low) / size;
        if (count - count.round()).abs() > 0.01 || count < 0.5 {
            return problem(
                "grid.voxel_size",
                format!(
                    "{name} range {low} to {high} is {count:.3} voxels of {size}, not a whole number"
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
                "{nz} voxels along z; a pillar is one voxel high: set z to {}",
                z1 - z0
            ),
        );
    }
    if let Some(size) = raw.size.filter(|size| *size != [nx, ny]) {
        return problem(
            "grid.size",
            format!(
                "[{}, {}], but range and voxel_size give [{nx}, {ny}]",
                size[0], size[1]
            ),
        );
    }
    let max_points = bounded(
        "grid.max_points_per_pillar",
        raw.max_points_per_pillar,
        1,
        1024,
    )?;
    let max_pillars = bounded("grid.max_pillars", raw.max_pillars, 1, nx * ny)?;
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
                format!("width {width}; expected 1 to 256, even before the last layer"),
            );
        }
    }
    let in_features = columns + if mean_offset { 3 } else { 0 } + center_axes;
    if let Some(stated) = raw.in_features.filter(|n| *n != in_features) {
        return problem(
            "pfn.in_features",
            format!(
                "{stated}, but {columns} point columns, mean_offset = {mean_offset} and \
                 center_offset_axes = {center_axes} give {in_features}"
            ),
        );
    }
    Ok(PfnSpec {
        mean_offset,
        center_axes,
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
            outputs: OUTPUT_KINDS.map(String::from),
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
                let outputs = task
                    .outputs
                    .unwrap_or_else(|| OUTPUT_KINDS.map(|kind| format!("{kind}_{i}")));
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
        // Some classes only come from a remap: the network does not know them.
        if tasks > 1 || (tasks == 0 && !remapped.contains(&class.as_str())) {
            return problem(
                "head.tasks",
                format!("class `{class}` is in {tasks} tasks; expected exactly one"),
            );
        }
    }
    if tasks.iter().any(|task| task.classes.is_empty()) {
        return problem("head.tasks", "a task without classes");
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

fn resolve_decode(raw: RawDecode, classes: &[String]) -> Result<Decode, Problem> {
    let (bands, score) = match (raw.score, raw.bands) {
        (Some(score), None) => (
            vec![f32::INFINITY],
            vec![per_class(&score, classes, "decode.score", 0.0, 1.0)?],
        ),
        (None, Some(bands)) => resolve_bands(bands, classes)?,
        (Some(_), Some(_)) => {
            return problem(
                "decode.score",
                "given beside `decode.bands`; keep one of them",
            );
        }
        (None, None) => return problem("decode.score", "missing; give it, or `decode.bands`"),
    };
    let yaw_norm = raw.yaw_norm.unwrap_or(PerClass::One(0.0));
    Ok(Decode {
        candidates: raw.candidates.unwrap_or(Candidates::BestClass),
        max_candidates: bounded(
            "decode.max_candidates",
            raw.max_candidates.unwrap_or(1000),
            1,
            1 << 16,
        )?,
        bands,
        score,
        yaw_norm: per_class(&yaw_norm, classes, "decode.yaw_norm", 0.0, 1e3)?,
    })
}

type Bands = (Vec<f32>, Vec<Vec<f32>>);

fn resolve_bands(raw: RawBands, classes: &[String]) -> Result<Bands, Problem> {
    let bounds = raw.upper_bounds;
    let nan = bounds.iter().any(|bound| bound.is_nan());
    if bounds.is_empty() || nan || bounds.windows(2).any(|w| w[0] >= w[1]) {
        return problem(
            "decode.bands.upper_bounds",
            format!("{bounds:?} does not ascend"),
        );
    }
    for name in raw.by_class.keys() {
        class_id(name, classes, "decode.bands")?;
    }
    let mut score = vec![Vec::with_capacity(classes.len()); bounds.len()];
    for class in classes {
        let key = format!("decode.bands.{class}");
        let Some(values) = raw.by_class.get(class) else {
            return problem(key, "missing");
        };
        if values.len() != bounds.len() {
            return problem(
                key,
                format!("{} values for {} upper bounds", values.len(), bounds.len()),
            );
        }
        for (band, &value) in score.iter_mut().zip(values) {
            if !(0.0..=1.0).contains(&value) {
                return problem(key, format!("score {value} is not within 0 to 1"));
            }
            band.push(value as f32);
        }
    }
    Ok((
        bounds.into_iter().map(|bound| bound as f32).collect(),
        score,
    ))
}

fn resolve_nms(
    raw: RawNms,
    key: &str,
    classes: &[String],
    tasks: &[Task],
) -> Result<NmsStep, Problem> {
    let foreign = |name: &str| {
        problem(
            format!("{key}.{name}"),
            "does not belong to this `kind` of suppression",
        )
    };
    let kind = match raw.kind {
        RawNmsKind::Circle => {
            if raw.threshold.is_some() {
                return foreign("threshold");
            }
            if raw.search_distance.is_some() {
                return foreign("search_distance");
            }
            let Some(radius) = raw.radius else {
                return problem(format!("{key}.radius"), "missing; metres, one or by class");
            };
            NmsKind::Circle {
                radius: per_class(&radius, classes, &format!("{key}.radius"), 0.0, 1e3)?,
            }
        }
        RawNmsKind::Iou => {
            if raw.radius.is_some() {
                return foreign("radius");
            }
            let threshold = raw.threshold.unwrap_or(-1.0);
            if !(0.0..=1.0).contains(&threshold) {
                return problem(format!("{key}.threshold"), "missing or not within 0 to 1");
            }
            let search_distance = raw.search_distance.unwrap_or(f64::INFINITY);
            if search_distance.is_nan() || search_distance <= 0.0 {
                return problem(format!("{key}.search_distance"), "not above 0");
            }
            NmsKind::Iou {
                threshold: threshold as f32,
                search_distance: search_distance as f32,
            }
        }
    };
    let group = match (raw.scope, raw.groups) {
        (Some(Scope::Class), None) => (0..classes.len()).collect(),
        (Some(Scope::All), None) => vec![0; classes.len()],
        (Some(Scope::Task), None) => {
            let mut group = vec![0; classes.len()];
            for (i, task) in tasks.iter().enumerate() {
                task.classes.iter().for_each(|&class| group[class] = i);
            }
            group
        }
        (None, Some(groups)) => resolve_groups(&groups, &format!("{key}.groups"), classes)?,
        _ => return problem(format!("{key}.scope"), "give either `scope` or `groups`"),
    };
    let max_boxes = raw.max_boxes.unwrap_or(usize::MAX);
    if max_boxes == 0 {
        return problem(format!("{key}.max_boxes"), "0 would drop every box");
    }
    Ok(NmsStep {
        kind,
        group,
        max_boxes,
    })
}

fn resolve_groups(
    groups: &[Vec<String>],
    key: &str,
    classes: &[String],
) -> Result<Vec<usize>, Problem> {
    let mut group = vec![usize::MAX; classes.len()];
    for (i, names) in groups.iter().enumerate() {
        for name in names {
            let class = class_id(name, classes, key)?;
            if group[class] != usize::MAX {
                return problem(key, format!("class `{name}` is in two groups"));
            }
            group[class] = i;
        }
    }
    match group.iter().position(|&g| g == usize::MAX) {
        Some(class) => problem(key, format!("class `{}` is in no group", classes[class])),
        None => Ok(group),
    }
}

fn resolve_remap(raw: RawRemap, key: &str, classes: &[String]) -> Result<Remap, Problem> {
    let max_area = raw.max_area.unwrap_or(f64::INFINITY);
    if !(raw.min_area >= 0.0 && raw.min_area <= max_area) {
        return problem(
            format!("{key}.min_area"),
            format!("{} to {max_area} m² is no range", raw.min_area),
        );
    }
    let from = class_id(&raw.from, classes, &format!("{key}.from"))?;
    let to = class_id(&raw.to, classes, &format!("{key}.to"))?;
    Ok(Remap {
        from,
        to,
        min_area: raw.min_area as f32,
        max_area: max_area as f32,
    })
}

fn class_id(name: &str, classes: &[String], key: &str) -> Result<usize, Problem> {
    match classes.iter().position(|class| class == name) {
        Some(id) => Ok(id),
        None => problem(
            key,
            format!("`{name}` is no class; known: {}", classes.join(" ")),
        ),
    }
}

fn per_class(
    raw: &PerClass,
    classes: &[String],
    key: &str,
    low: f64,
    high: f64,
) -> Result<Vec<f32>, Problem> {
    let values = match raw {
        PerClass::One(value) => vec![*value; classes.len()],
        PerClass::Each(by_name) => {
            for name in by_name.keys() {
                class_id(name, classes, key)?;
            }
            let mut values = Vec::with_capacity(classes.len());
            for class in classes {
                match by_name.get(class) {
                    Some(value) => values.push(*value),
                    None => return problem(format!("{key}.{class}"), "missing"),
                }
            }
            values
        }
    };
    match values.iter().find(|value| !(low..=high).contains(*value)) {
        Some(value) => problem(key, format!("{value} is not within {low} to {high}")),
        None => Ok(values.into_iter().map(|value| value as f32).collect()),
    }
}

fn bounded(key: &str, value: usize, low: usize, high: usize) -> Result<usize, Problem> {
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        problem(key, format!("{value}; expected {low} to {high}"))
    }
}
