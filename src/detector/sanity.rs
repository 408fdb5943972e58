//! What is probably wrong with a frame: cheap looks at its values, each with the option that mends it.
//!
//! Wrong columns, another scale of intensity or another height of the sensor are no errors of a file; the network then
//! finds few or wrong boxes, and nothing else tells why. The limits are wide: a warning about a good frame would teach
//! people to ignore them.

use crate::model::Model;
use crate::points::{Column, FrameWarning, GroundHeight, Mounting, PointCloud, move_row};

/// Fewest points that say something.
const MIN_POINTS: usize = 200;
/// Coordinates beyond 10 km, or of a size that only a misread number has.
const MAX_METRES: f32 = 1e4;
const MIN_METRES: f32 = 1e-6;
/// Most coordinates of that kind, as a share.
const MAX_ODD: f64 = 0.01;
/// Fewest points within the model's range, as a share.
const MIN_WITHIN: f64 = 0.1;
/// Height over width of a frame whose columns are mixed up, and of one whose columns are not.
const MIXED: f64 = 0.6;
const FLAT: f64 = 0.3;
/// Share of points whose intensity may exceed the model's, and by which factor.
const MAX_BRIGHT: f64 = 0.01;
const BRIGHT: f32 = 1.5;
/// Distance of the ground from where the model expects it, in metres, that costs pedestrians.
const MAX_GROUND: f32 = 0.2;

/// Returns what is probably wrong with `cloud` as input of `model`: what its reader noticed, and what its values show.
pub(crate) fn check(model: &Model, cloud: &PointCloud) -> Vec<FrameWarning> {
    let mut found = cloud.warnings().to_vec();
    if cloud.len() < MIN_POINTS {
        return found;
    }
    if let Some(warning) = coordinates(cloud) {
        // Nothing else can be said about such values.
        found.push(warning);
        return found;
    }
    let (ground, out_of_range) = (ground(model, cloud), range(model, cloud));
    found.extend(intensity(model, cloud));
    found.extend(out_of_range);
    found.extend(ground);
    found.extend(sweeps(model, cloud));
    found
}

/// Values that cannot be coordinates, or columns that look like rows of another length.
fn coordinates(cloud: &PointCloud) -> Option<FrameWarning> {
    let places = cloud.layout().coordinates();
    let values = cloud.rows().flat_map(|row| places.map(|place| row[place]));
    let values = values.filter(|value| value.is_finite());
    let (mut count, mut odd) = (0usize, 0usize);
    for value in values {
        let size = value.abs();
        count += 1;
        odd += usize::from(size > MAX_METRES || (size != 0.0 && size < MIN_METRES));
    }
    let share = odd as f64 / count.max(1) as f64;
    if share > MAX_ODD {
        return Some(FrameWarning::NotCoordinates { share });
    }
    let own = flatness(cloud.data(), cloud.layout().stride(), places)?;
    let others = (3..=8).filter(|&stride| {
        stride != cloud.layout().stride() && cloud.data().len().is_multiple_of(stride)
    });
    let columns = others
        .filter_map(|stride| Some((stride, flatness(cloud.data(), stride, [0, 1, 2])?)))
        .filter(|(_, other)| own > MIXED && *other < FLAT)
        .min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(FrameWarning::Columns {
        layout: cloud.layout(),
        columns: columns.0,
    })
}

/// Mean height over mean width of rows of `stride` values: a scene is flat, mixed columns are not.
fn flatness(data: &[f32], stride: usize, places: [usize; 3]) -> Option<f64> {
    let mut sums = [0.0f64; 3];
    // Every row: a step could meet the same column of another row length each time.
    for row in data.chunks_exact(stride) {
        let point = places.map(|place| row[place]);
        if point.iter().all(|value| value.abs() < MAX_METRES) {
            for (sum, value) in sums.iter_mut().zip(point) {
                *sum += f64::from(value.abs());
            }
        }
    }
    let width = sums[0].max(sums[1]);
    (width > 0.0).then(|| sums[2] / width)
}

fn intensity(model: &Model, cloud: &PointCloud) -> Option<FrameWarning> {
    let expected = model.points.intensity_max?;
    if !model.points.columns.contains(&Column::Intensity) {
        return None;
    }
    let place = cloud.layout().position(Column::Intensity)?;
    let scale = model.points.intensity_scale;
    let values = || {
        cloud
            .rows()
            .map(|row| row[place] * scale)
            .filter(|v| v.is_finite())
    };
    let found = values().fold(0.0, f32::max);
    let bright = values().filter(|&value| value > BRIGHT * expected).count();
    let too_bright = bright as f64 > MAX_BRIGHT * cloud.len() as f64;
    // Of 0..255 and 0..1, the scales in use, a frame that stays within 1 has the second.
    let too_dim = found > 0.0 && found <= 1.0 && expected >= 32.0;
    let factor = match (too_bright, too_dim) {
        (true, _) if (64.0..=255.0).contains(&(found / scale)) => expected / 255.0,
        (true, _) => expected / (found / scale),
        (_, true) => expected * scale,
        _ => return None,
    };
    Some(FrameWarning::Intensity {
        found,
        expected,
        scale: factor,
    })
}

fn range(model: &Model, cloud: &PointCloud) -> Option<FrameWarning> {
    let places = cloud.layout().coordinates();
    let mut mounting = model.mounting();
    let place = match &mut mounting {
        None => None,
        Some(mounting) => Some(
            mounting
                .transform(cloud.data(), cloud.layout())
                .ok()?
                .after(None),
        ),
    };
    let grid = &model.grid;
    let (mut count, mut within) = (0usize, 0usize);
    for row in cloud.rows() {
        let mut point = places.map(|place| row[place]);
        if !point.iter().all(|value| value.is_finite()) {
            continue;
        }
        if let Some(place) = &place {
            move_row(&mut point, [0, 1, 2], place);
        }
        count += 1;
        let inside = (0..3).all(|a| grid.min[a] <= point[a] && point[a] < grid.max[a]);
        within += usize::from(inside);
    }
    let share = within as f64 / count.max(1) as f64;
    (count > 0 && share < MIN_WITHIN).then_some(FrameWarning::OutOfRange { share })
}

fn ground(model: &Model, cloud: &PointCloud) -> Option<FrameWarning> {
    let expected = model.points.model_ground?;
    if model.points.ground.is_some() {
        return None;
    }
    let mut mounting = Mounting::new(model.points.extrinsic, Some(GroundHeight::Auto), expected)?;
    mounting.transform(cloud.data(), cloud.layout()).ok()?;
    let found = mounting.found()?.height;
    ((found - expected).abs() > MAX_GROUND).then_some(FrameWarning::Ground { found, expected })
}

fn sweeps(model: &Model, cloud: &PointCloud) -> Option<FrameWarning> {
    let expected = model.points.sweeps;
    let past = cloud.layout().position(Column::T);
    let past = past.is_some_and(|place| cloud.rows().any(|row| row[place] != 0.0));
    (expected > 1 && !past).then_some(FrameWarning::Sweeps { expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;
    use std::path::Path;

    fn model(points: &str) -> Model {
        let text = include_str!("../testing/tiny.toml")
            .replace(r#"["x", "y", "z"]"#, r#"["x", "y", "z", "intensity"]"#)
            .replace(
                "-8.0, -8.0, 0.0, 8.0, 8.0, 4.0",
                "-32.0, -32.0, -3.0, 32.0, 32.0, 5.0",
            )
            .replace("1.0, 1.0, 4.0", "1.0, 1.0, 8.0")
            .replace("capacity = 1000", &format!("capacity = 1000\n{points}"));
        Model::parse(&text, Path::new("model.toml")).unwrap()
    }

    /// Flat ground with some walls: x y z intensity.
    fn scene(height: f32, brightest: f32) -> Vec<f32> {
        let mut random = Random(5);
        let point = |_| {
            let [x, y] = [30.0, 30.0].map(|size: f32| size * random.signed());
            let up = if random.next() < 0.2 {
                2.0 * random.next()
            } else {
                0.0
            };
            [x, y, height + up, brightest * random.next()]
        };
        (0..20_000).flat_map(point).collect()
    }

    fn warnings(points: &str, layout: &str, data: Vec<f32>) -> Vec<FrameWarning> {
        let cloud = PointCloud::new(layout.parse().unwrap(), data).unwrap();
        check(&model(points), &cloud)
    }

    const DECLARED: &str = "intensity_max = 1.0\nmodel_ground = 0.0";

    #[test]
    fn a_good_frame_has_no_warning() {
        assert_eq!(warnings(DECLARED, "kitti", scene(0.0, 1.0)), []);
        // Nothing is expected that the model does not declare.
        assert_eq!(warnings("", "kitti", scene(-1.8, 255.0)), []);
        assert_eq!(warnings(DECLARED, "kitti", vec![]), []);
    }

    #[test]
    fn another_scale_of_intensity_names_the_factor() {
        let found = warnings(DECLARED, "kitti", scene(0.0, 255.0));
        let [warning] = &found[..] else {
            panic!("{found:?}")
        };
        assert!(
            warning.to_string().contains("--intensity-scale 0.00392"),
            "{warning}"
        );
        let found = warnings("intensity_max = 255.0", "kitti", scene(0.0, 1.0));
        let [warning] = &found[..] else {
            panic!("{found:?}")
        };
        assert!(
            warning.to_string().contains("--intensity-scale 255"),
            "{warning}"
        );
        let scaled = "intensity_max = 1.0\nintensity_scale = 0.00392";
        assert_eq!(warnings(scaled, "kitti", scene(0.0, 255.0)), []);
    }

    #[test]
    fn a_sensor_frame_names_the_ground() {
        let found = warnings(DECLARED, "kitti", scene(-1.73, 1.0));
        let [warning @ FrameWarning::Ground { found, .. }] = &found[..] else {
            panic!("{found:?}")
        };
        assert!((found + 1.73).abs() < 0.03);
        assert!(warning.to_string().contains("--ground auto"), "{warning}");
        let mounted = format!("{DECLARED}\nextrinsic = [0.0, 0.0, 1.73, 0.0, 0.0, 0.0]");
        assert_eq!(warnings(&mounted, "kitti", scene(-1.73, 1.0)), []);
        let lifted = format!("{DECLARED}\nground = \"auto\"");
        assert_eq!(warnings(&lifted, "kitti", scene(-1.73, 1.0)), []);
    }

    #[test]
    fn rows_of_another_length_are_noticed() {
        let found = warnings(DECLARED, "nuscenes", scene(0.0, 1.0));
        let [warning] = &found[..] else {
            panic!("{found:?}")
        };
        assert!(
            warning.to_string().contains("rows of 4 values"),
            "{warning}"
        );
        // Doubles that are read as floats.
        let doubles = scene(0.0, 1.0);
        let bytes: Vec<u8> = doubles
            .iter()
            .flat_map(|&v| f64::from(v).to_le_bytes())
            .collect();
        let (words, _) = bytes.as_chunks::<4>();
        let data = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
        let found = warnings(DECLARED, "kitti", data);
        assert!(!found.is_empty());
    }

    #[test]
    fn a_frame_beyond_the_range_and_missing_sweeps_are_noticed() {
        let millimetres = scene(0.0, 1.0)
            .chunks_exact(4)
            .flat_map(|p| [p[0] * 100.0, p[1] * 100.0, p[2], p[3]])
            .collect();
        let found = warnings(DECLARED, "kitti", millimetres);
        let out =
            |w: &FrameWarning| matches!(w, FrameWarning::OutOfRange { share } if *share < 0.01);
        assert!(found.iter().any(out), "{found:?}");
        let sweeps = format!("{DECLARED}\nsweeps = 2");
        assert_eq!(
            warnings(&sweeps, "kitti", scene(0.0, 1.0)),
            [FrameWarning::Sweeps { expected: 2 }]
        );
    }
}
