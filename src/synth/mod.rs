//! Synthetic lidar scenes with known boxes.
//!
//! No labelled lidar data set may be redistributed, so the demo model is trained on scenes made here: streets,
//! crossings, car parks and squares (`scene`, `street`) with objects of real proportions (`vehicles`, `people`)
//! and things that hide or resemble them (`furniture`), seen by a rotating scanner (`scanner`) on a moving
//! vehicle. A frame is a pure function of seed, index and configuration.
//!
//! Points and boxes are in the vehicle frame of the newest sweep: origin on the ground under the scanner, x
//! forward, y left, z up. Older sweeps are compensated for the vehicle's motion: static things coincide, moving
//! things trail behind by their velocity times the sweep's age. Metres, seconds, radians.
//!
//! On one platform the bytes do not depend on the number of threads; they may differ between platforms whose
//! `sin`, `exp` and `ln` round differently.

mod builder;
mod dataset;
mod furniture;
mod ground;
mod people;
mod rng;
mod scanner;
mod scene;
mod shapes;
mod solids;
mod street;
#[cfg(test)]
mod tests;
mod vehicles;

use crate::files::FileError;
use crate::points::{FrameError, Layout, PointCloud};
use crate::results::nuscenes::SampleBox;

pub(crate) use dataset::{Dataset, write_dataset};
pub(crate) use scanner::Scanner;

use builder::{Class, Motion, Object};
pub(crate) use rng::Rng;
use shapes::Pose;

/// Why a data set cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// A scan is not a valid cloud.
    #[error(transparent)]
    Points(#[from] FrameError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Class names, as used in labels.
pub(crate) const CLASSES: [&str; 5] = ["car", "truck", "bus", "bicycle", "pedestrian"];

/// Objects whose centre is farther than this from the vehicle get no label, in metres.
pub(crate) const LABEL_RANGE: f64 = 100.0;

/// Settings for making frames.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Config {
    /// The scanner.
    pub scanner: Scanner,
    /// Sweeps in a frame, including the newest.
    pub sweeps: u32,
    /// Seconds between two sweeps.
    pub sweep_interval: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scanner: Scanner::default(),
            sweeps: 2,
            sweep_interval: 0.1,
        }
    }
}

/// A frame with its labels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LabelledFrame {
    /// Rows of x, y, z, intensity (0..=1), age of the sweep; newest sweep first.
    pub cloud: PointCloud,
    /// All objects within [`LABEL_RANGE`], including those without points.
    pub labels: Vec<SampleBox>,
}

/// Streams of random numbers: the scene's, then one per sweep.
const SCENE_STREAM: u64 = 0;
const FIRST_SWEEP_STREAM: u64 = 1;

/// Makes frame `index` of the data set of `seed`.
///
/// # Errors
/// Never, whatever the input: the rows are whole by construction.
pub(crate) fn generate(
    seed: u64,
    index: u64,
    config: &Config,
) -> Result<LabelledFrame, FrameError> {
    let scene = scene::generate(Rng::new(seed, index, SCENE_STREAM));
    // From the world to the newest vehicle frame; the vehicle is at the world's origin, on the ground.
    let to_vehicle = Pose {
        position: shapes::Vec3::zeros(),
        yaw: -scene.ego.yaw,
    };
    let mut data = Vec::new();
    let mut newest = 0;
    for sweep in 0..config.sweeps {
        let mut rng = Rng::new(seed, index, FIRST_SWEEP_STREAM + u64::from(sweep));
        let age = config.sweep_interval * f64::from(sweep);
        for point in scanner::scan(&scene, &config.scanner, age, &mut rng) {
            let p = to_vehicle.apply(point.point);
            data.extend([p.x, p.y, p.z, point.intensity, age].map(|v| v as f32));
        }
        if sweep == 0 {
            newest = data.len();
        }
    }
    let token = dataset::token(index);
    let labels = scene
        .objects
        .iter()
        .filter(|object| object.center.xy().norm() < LABEL_RANGE)
        .map(|object| {
            label(
                object,
                &token,
                &to_vehicle,
                data.get(..newest).unwrap_or(&[]),
            )
        })
        .collect();
    Ok(LabelledFrame {
        cloud: PointCloud::new(Layout::XYZIT, data)?,
        labels,
    })
}

/// The label of `object`; counts the rows of `newest`, the newest sweep, inside the box.
fn label(object: &Object, token: &str, to_vehicle: &Pose, newest: &[f32]) -> SampleBox {
    let center = to_vehicle.apply(object.center).map(rounded);
    let half = object.size.map(rounded) * 0.5;
    let yaw = object.yaw + to_vehicle.yaw;
    let velocity = to_vehicle.turn(object.velocity());
    let (sin, cos) = yaw.sin_cos();
    let inside = |row: &&[f32]| {
        let [x, y, z] = [row[0], row[1], row[2]].map(f64::from);
        let (dx, dy) = (x - center.x, y - center.y);
        (cos * dx + sin * dy).abs() <= half.x
            && (cos * dy - sin * dx).abs() <= half.y
            && (z - center.z).abs() <= half.z
    };
    let center: [f64; 3] = center.into();
    SampleBox {
        sample_token: token.to_owned(),
        translation: center,
        size: [half.y * 2.0, half.x * 2.0, half.z * 2.0],
        rotation: [(0.5 * yaw).cos(), 0.0, 0.0, (0.5 * yaw).sin()],
        velocity: [Some(rounded(velocity.x)), Some(rounded(velocity.y))],
        detection_name: CLASSES[object.class as usize].to_owned(),
        detection_score: -1.0,
        attribute_name: attribute(object).to_owned(),
        ego_translation: center,
        num_pts: newest.chunks_exact(5).filter(inside).count() as i64,
    }
}

/// Rounds to a tenth of a millimetre, which is enough for labels and keeps the file small.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// The nuScenes attribute of an object.
fn attribute(object: &Object) -> &'static str {
    let moving = object.motion.speed() > 0.2;
    match (object.class, object.motion) {
        (Class::Pedestrian, _) if moving => "pedestrian.moving",
        (Class::Pedestrian, _) => "pedestrian.standing",
        (Class::Bicycle, Motion::Parked) => "cycle.without_rider",
        (Class::Bicycle, _) => "cycle.with_rider",
        (_, Motion::Parked) => "vehicle.parked",
        _ if moving => "vehicle.moving",
        _ => "vehicle.stopped",
    }
}
