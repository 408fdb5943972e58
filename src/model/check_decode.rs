//! Checks of the stages after the network: candidate selection, suppression, remap.

use super::file::{PerClass, RawBands, RawDecode, RawNms, RawNmsKind, RawRemap, Scope};
use super::problem::{Problem, bounded, class_id, per_class, problem};
use super::region::{corners, is_box};
use super::{Candidates, Decode, NmsKind, NmsStep, Remap, Task};

pub(super) fn resolve_decode(raw: RawDecode, classes: &[String]) -> Result<Decode, Problem> {
    let (bands, score) = match (raw.score, raw.bands) {
        (Some(score), None) => (
            vec![f32::INFINITY],
            vec![per_class(&score, classes, "decode.score", 0.0, 1.0)?],
        ),
        (None, Some(bands)) => resolve_bands(bands, classes)?,
        (Some(_), Some(_)) => {
            return problem(
                "decode.score",
                "set together with `decode.bands`; keep one of them",
            );
        }
        (None, None) => return problem("decode.score", "missing; set it or `decode.bands`"),
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
        center_range: resolve_center_range(raw.center_range)?,
    })
}

fn resolve_center_range(raw: Option<[f64; 6]>) -> Result<[[f32; 3]; 2], Problem> {
    let Some(range) = raw else {
        return Ok([[f32::NEG_INFINITY; 3], [f32::INFINITY; 3]]);
    };
    if is_box(&range) {
        return Ok(corners(range));
    }
    problem(
        "decode.center_range",
        format!("{range:?}; expected the least x, y, z, then the greatest, in metres"),
    )
}

type Bands = (Vec<f32>, Vec<Vec<f32>>);

fn resolve_bands(raw: RawBands, classes: &[String]) -> Result<Bands, Problem> {
    let bounds = raw.upper_bounds;
    let nan = bounds.iter().any(|bound| bound.is_nan());
    if bounds.is_empty() || nan || bounds.windows(2).any(|w| w[0] >= w[1]) {
        return problem(
            "decode.bands.upper_bounds",
            format!("{bounds:?} is not in ascending order"),
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

pub(super) fn resolve_nms(
    raw: RawNms,
    key: &str,
    classes: &[String],
    tasks: &[Task],
) -> Result<NmsStep, Problem> {
    let foreign = |name: &str| {
        problem(
            format!("{key}.{name}"),
            "not valid for this `kind` of suppression",
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
                return problem(
                    format!("{key}.radius"),
                    "missing; expected metres, one value or one per class",
                );
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
            if search_distance.is_nan() || search_distance < 0.0 {
                return problem(
                    format!("{key}.search_distance"),
                    format!("{search_distance}; expected 0 or more"),
                );
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
        _ => return problem(format!("{key}.scope"), "set either `scope` or `groups`"),
    };
    let max_boxes = raw.max_boxes.unwrap_or(usize::MAX);
    if max_boxes == 0 {
        return problem(format!("{key}.max_boxes"), "0 would drop every box");
    }
    Ok(NmsStep {
        kind,
        suppressors: raw.suppressors.unwrap_or_default(),
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

pub(super) fn resolve_remap(
    raw: RawRemap,
    key: &str,
    classes: &[String],
) -> Result<Remap, Problem> {
    let max_area = raw.max_area.unwrap_or(f64::INFINITY);
    if !(raw.min_area >= 0.0 && raw.min_area <= max_area) {
        return problem(
            format!("{key}.min_area"),
            format!("{} to {max_area} m² is not a valid range", raw.min_area),
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
