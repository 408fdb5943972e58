//! Settings of the nuScenes metric: classes, distances and true positive errors.

use serde::{Deserialize, Serialize};

use super::super::EvalError;
use super::super::matching::center_distance;
use crate::results::nuscenes::SampleBox;

/// A true positive error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TpError {
    /// Distance between the centres in the xy plane, metres.
    #[serde(rename = "trans_err")]
    Translation,
    /// 1 − IoU of the boxes after aligning position and heading.
    #[serde(rename = "scale_err")]
    Scale,
    /// Difference between the headings, radians.
    #[serde(rename = "orient_err")]
    Orientation,
    /// Norm of the velocity difference, m/s.
    #[serde(rename = "vel_err")]
    Velocity,
    /// 1 − accuracy of the attribute.
    #[serde(rename = "attr_err")]
    Attribute,
}

impl TpError {
    /// All errors, in the order of the arrays indexed by error.
    pub const ALL: [TpError; 5] = [
        TpError::Translation,
        TpError::Scale,
        TpError::Orientation,
        TpError::Velocity,
        TpError::Attribute,
    ];

    /// The devkit's key.
    pub fn key(self) -> &'static str {
        match self {
            TpError::Translation => "trans_err",
            TpError::Scale => "scale_err",
            TpError::Orientation => "orient_err",
            TpError::Velocity => "vel_err",
            TpError::Attribute => "attr_err",
        }
    }

    /// The error of `prediction`; NaN if the label lacks the value.
    pub(super) fn measure(self, label: &SampleBox, prediction: &SampleBox, class: &Class) -> f64 {
        match self {
            TpError::Translation => center_distance(label, prediction),
            TpError::Scale => 1.0 - scale_iou(label, prediction),
            TpError::Orientation => {
                let turn = if class.half_turn { 0.5 } else { 1.0 } * std::f64::consts::TAU;
                let difference = label.yaw() - prediction.yaw();
                ((difference + turn / 2.0).rem_euclid(turn) - turn / 2.0).abs()
            }
            TpError::Velocity => {
                let [x, y] = [0, 1].map(|axis| {
                    let speed = |b: &SampleBox| b.velocity[axis].unwrap_or(f64::NAN);
                    speed(prediction) - speed(label)
                });
                (x * x + y * y).sqrt()
            }
            TpError::Attribute if label.attribute_name.is_empty() => f64::NAN,
            TpError::Attribute => {
                f64::from(u8::from(label.attribute_name != prediction.attribute_name))
            }
        }
    }
}

/// The settings of a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Its `detection_name`.
    pub name: String,
    /// Boxes at least this far from the ego vehicle are not scored, metres.
    pub range: f64,
    /// Whether front and back are equivalent, so headings differ by at most a quarter turn.
    #[serde(default)]
    pub half_turn: bool,
    /// Errors that are undefined for the class: NaN, and excluded from the means.
    #[serde(default)]
    pub undefined: Vec<TpError>,
}

/// The metric's settings; the default is the devkit's `detection_cvpr_2019`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The classes to score.
    pub classes: Vec<Class>,
    /// Matching thresholds: a prediction matches a label nearer than this, metres.
    pub dist_ths: Vec<f64>,
    /// The threshold of `dist_ths` whose matches determine the errors.
    pub dist_th_tp: f64,
    /// Recall levels up to this one do not count.
    pub min_recall: f64,
    /// Precision up to this value does not count.
    pub min_precision: f64,
    /// Maximum number of predictions per sample.
    pub max_boxes_per_sample: usize,
    /// Weight of mAP in the NDS; each of the five errors has weight 1.
    pub mean_ap_weight: f64,
}

/// The ten nuScenes classes in the devkit's order, with their ranges in metres.
const CLASSES: [(&str, f64); 10] = [
    ("car", 50.0),
    ("truck", 50.0),
    ("bus", 50.0),
    ("trailer", 50.0),
    ("construction_vehicle", 50.0),
    ("pedestrian", 40.0),
    ("motorcycle", 40.0),
    ("bicycle", 40.0),
    ("traffic_cone", 30.0),
    ("barrier", 30.0),
];

/// Maximum number of predictions per sample in nuScenes.
pub(crate) const MAX_BOXES: usize = 500;

/// Range of classes that nuScenes does not define, in metres.
const OTHER_RANGE: f64 = 50.0;

impl Default for Config {
    fn default() -> Config {
        Config::for_classes(CLASSES.map(|(name, _)| name))
    }
}

impl Config {
    /// The nuScenes settings for these classes. Each has its nuScenes range, or 50 m if nuScenes does not define it.
    pub fn for_classes<'n>(names: impl IntoIterator<Item = &'n str>) -> Config {
        let class = |name: &str| Class {
            name: name.to_owned(),
            range: CLASSES
                .iter()
                .find(|known| known.0 == name)
                .map_or(OTHER_RANGE, |known| known.1),
            half_turn: name == "barrier",
            undefined: match name {
                "traffic_cone" => vec![TpError::Orientation, TpError::Velocity, TpError::Attribute],
                "barrier" => vec![TpError::Velocity, TpError::Attribute],
                _ => vec![],
            },
        };
        Config {
            classes: names.into_iter().map(class).collect(),
            dist_ths: vec![0.5, 1.0, 2.0, 4.0],
            dist_th_tp: 2.0,
            min_recall: 0.1,
            min_precision: 0.1,
            max_boxes_per_sample: MAX_BOXES,
            mean_ap_weight: 5.0,
        }
    }

    /// The nuScenes settings for the five classes of the demo model.
    pub fn demo() -> Config {
        Config::for_classes(["car", "truck", "bus", "bicycle", "pedestrian"])
    }

    /// Checks that the settings are consistent.
    pub(super) fn check(&self) -> Result<(), EvalError> {
        let wrong = |message: String| Err(EvalError::Config(message));
        if self.classes.is_empty() || self.dist_ths.is_empty() {
            return wrong("classes and dist_ths must not be empty".to_owned());
        }
        for (i, class) in self.classes.iter().enumerate() {
            if self.classes[..i].iter().any(|c| c.name == class.name) {
                return wrong(format!("class `{}` is listed twice", class.name));
            }
        }
        if !self.dist_ths.contains(&self.dist_th_tp) {
            return wrong(format!(
                "dist_th_tp {} must be one of dist_ths",
                self.dist_th_tp
            ));
        }
        if !(0.0..0.995).contains(&self.min_recall) || !(0.0..1.0).contains(&self.min_precision) {
            return wrong(format!(
                "min_recall {} must be in 0..0.995 and min_precision {} in 0..1",
                self.min_recall, self.min_precision
            ));
        }
        Ok(())
    }
}

/// IoU of the two boxes after aligning position and heading (`scale_iou`).
fn scale_iou(a: &SampleBox, b: &SampleBox) -> f64 {
    let volume = |size: [f64; 3]| size.iter().product::<f64>();
    let common = volume(std::array::from_fn(|i| a.size[i].min(b.size[i])));
    common / (volume(a.size) + volume(b.size) - common)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_wrap_around_and_barriers_have_no_front() {
        let turned = |degrees: f64| {
            let half = f64::to_radians(degrees) / 2.0;
            SampleBox {
                rotation: [half.cos(), 0.0, 0.0, half.sin()],
                ..SampleBox::from_box3d(&bytemuck::Zeroable::zeroed(), "s", "car")
            }
        };
        let config = Config::for_classes(["car", "barrier"]);
        let error = |a: f64, b: f64, class: &Class| {
            TpError::Orientation
                .measure(&turned(a), &turned(b), class)
                .to_degrees()
        };
        let [car, barrier] = &config.classes[..] else {
            panic!()
        };
        for (a, b, expected, without_front) in [
            (170.0, -170.0, 20.0, 20.0),
            (0.0, 180.0, 180.0, 0.0),
            (-90.0, 45.0, 135.0, 45.0),
            (30.0, 30.0, 0.0, 0.0),
        ] {
            assert!((error(a, b, car) - expected).abs() < 1e-9, "{a} {b}");
            assert!(
                (error(a, b, barrier) - without_front).abs() < 1e-9,
                "{a} {b}"
            );
        }
    }
}
