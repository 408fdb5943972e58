//! Boxes as messages: `vision_msgs`, Autoware's, and markers for RViz.
//!
//! All messages have the cloud's frame and time. Yaw is about z and sizes are length, width, height, as in [`Box3d`].

use centerpoint::internals::bag::messages::{Header, Quaternion, Vector3};
use centerpoint::internals::draw::class_color;
use centerpoint::model::AUTOWARE_LABELS;
use centerpoint::{Box3d, Variances};

use crate::messages::{
    BoundingBox3D, ColorRGBA, Covariance, DetectedObject, DetectedObjectKinematics,
    DetectedObjects, Detection3D, Detection3DArray, Marker, MarkerArray, ObjectClassification,
    ObjectHypothesis, ObjectHypothesisWithPose, Point, Pose, PoseWithCovariance, Shape, Twist,
    TwistWithCovariance,
};

/// Height of the text above a box, in metres.
const TEXT_HEIGHT: f64 = 0.8;

/// The name of a box's class; empty if `classes` does not have it.
fn class<'a>(bbox: &Box3d, classes: &'a [String]) -> &'a str {
    classes.get(bbox.class as usize).map_or("", String::as_str)
}

fn pose(bbox: &Box3d) -> Pose {
    let [x, y, z] = bbox.center.map(f64::from);
    Pose {
        position: Point { x, y, z },
        orientation: Quaternion::from_yaw(f64::from(bbox.yaw)),
    }
}

fn size(bbox: &Box3d) -> Vector3 {
    let [x, y, z] = bbox.size.map(f64::from);
    Vector3 { x, y, z }
}

/// The covariance of a box's pose: x, y, z and yaw are independent.
fn pose_covariance(variances: &Variances) -> Covariance {
    let mut covariance = Covariance::default();
    let [x, y, z] = variances.center.map(f64::from);
    for (i, value) in [x, y, z].into_iter().enumerate() {
        covariance.0[i * 7] = value;
    }
    covariance.0[35] = f64::from(variances.yaw);
    covariance
}

/// The covariance of the velocity in the box's own frame.
fn own_twist_covariance(bbox: &Box3d, variances: &Variances) -> Covariance {
    let mut covariance = Covariance::default();
    let (sin, cos) = f64::from(bbox.yaw).sin_cos();
    let [x, y] = variances.velocity.map(f64::from);
    covariance.0[0] = cos * cos * x + sin * sin * y;
    covariance.0[7] = sin * sin * x + cos * cos * y;
    covariance.0[1] = sin * cos * (y - x);
    covariance.0[6] = covariance.0[1];
    covariance
}

/// `vision_msgs/Detection3DArray`: one hypothesis per box, with the class by name. The type has no velocities.
/// `variances` are those of the boxes, or none.
pub(crate) fn vision(
    header: &Header,
    boxes: &[Box3d],
    variances: &[Variances],
    classes: &[String],
) -> Detection3DArray {
    let detections = boxes.iter().enumerate().map(|(i, bbox)| {
        let pose = pose(bbox);
        Detection3D {
            header: header.clone(),
            results: vec![ObjectHypothesisWithPose {
                hypothesis: ObjectHypothesis {
                    class_id: class(bbox, classes).into(),
                    score: f64::from(bbox.score),
                },
                pose: PoseWithCovariance {
                    pose,
                    covariance: variances.get(i).map(pose_covariance).unwrap_or_default(),
                },
            }],
            bbox: BoundingBox3D {
                center: pose,
                size: size(bbox),
            },
            id: String::new(),
        }
    });
    Detection3DArray {
        header: header.clone(),
        detections: detections.collect(),
    }
}

/// Autoware's label of a class, by its name in any case; 0 (UNKNOWN) for other names.
fn label(class: &str) -> u8 {
    // The message definition calls it MOTORCYCLE, Autoware's models MOTORBIKE.
    let class = if class.eq_ignore_ascii_case("motorcycle") {
        "MOTORBIKE"
    } else {
        class
    };
    let mut labels = AUTOWARE_LABELS.iter();
    let found = labels.position(|label| class.eq_ignore_ascii_case(label));
    found.unwrap_or(0) as u8
}

/// Whether the label is a vehicle's: CAR, TRUCK, BUS or TRAILER.
fn is_vehicle(label: u8) -> bool {
    (1..=4).contains(&label)
}

/// `autoware_perception_msgs/DetectedObjects`, filled as by Autoware's `lidar_centerpoint`: the orientation of vehicles
/// is known up to its sign, that of other objects is unavailable. With `twist`, velocities are in the object's own
/// frame. `variances` are those of the boxes, or none.
pub(crate) fn autoware(
    header: &Header,
    boxes: &[Box3d],
    variances: &[Variances],
    classes: &[String],
    twist: bool,
) -> DetectedObjects {
    let objects = boxes.iter().enumerate().map(|(i, bbox)| {
        let variances = variances.get(i);
        let label = label(class(bbox, classes));
        DetectedObject {
            existence_probability: bbox.score,
            classification: vec![ObjectClassification {
                label,
                probability: 1.0,
            }],
            kinematics: DetectedObjectKinematics {
                pose_with_covariance: PoseWithCovariance {
                    pose: pose(bbox),
                    covariance: variances.map(pose_covariance).unwrap_or_default(),
                },
                has_position_covariance: variances.is_some(),
                orientation_availability: if is_vehicle(label) {
                    DetectedObjectKinematics::SIGN_UNKNOWN
                } else {
                    DetectedObjectKinematics::UNAVAILABLE
                },
                twist_with_covariance: if twist {
                    TwistWithCovariance {
                        twist: own_twist(bbox),
                        covariance: variances
                            .map(|variances| own_twist_covariance(bbox, variances))
                            .unwrap_or_default(),
                    }
                } else {
                    TwistWithCovariance::default()
                },
                has_twist: twist,
                has_twist_covariance: twist && variances.is_some(),
            },
            shape: Shape {
                shape_type: Shape::BOUNDING_BOX,
                dimensions: size(bbox),
                ..Shape::default()
            },
        }
    });
    DetectedObjects {
        header: header.clone(),
        objects: objects.collect(),
    }
}

/// The velocity in the box's own frame: x along its length.
fn own_twist(bbox: &Box3d) -> Twist {
    let (sin, cos) = f64::from(bbox.yaw).sin_cos();
    let [x, y] = bbox.velocity.map(f64::from);
    Twist {
        linear: Vector3 {
            x: cos * x + sin * y,
            y: cos * y - sin * x,
            z: 0.0,
        },
        ..Twist::default()
    }
}

/// `visualization_msgs/MarkerArray`: a marker that deletes those of the previous frame, then a coloured cube and a text
/// for each box.
pub(crate) fn markers(header: &Header, boxes: &[Box3d], classes: &[String]) -> MarkerArray {
    let mut markers = Vec::with_capacity(1 + 2 * boxes.len());
    markers.push(Marker {
        header: header.clone(),
        action: Marker::DELETEALL,
        ..Marker::default()
    });
    for (id, bbox) in boxes.iter().enumerate() {
        let class = class(bbox, classes);
        let [r, g, b] = class_color(bbox.class);
        let cube = Marker {
            header: header.clone(),
            ns: class.into(),
            id: id as i32,
            marker_type: Marker::CUBE,
            action: Marker::ADD,
            pose: pose(bbox),
            scale: size(bbox),
            color: ColorRGBA { r, g, b, a: 0.6 },
            ..Marker::default()
        };
        let mut text = Marker {
            ns: "label".into(),
            marker_type: Marker::TEXT_VIEW_FACING,
            pose: Pose {
                position: cube.pose.position,
                ..Pose::default()
            },
            scale: Vector3 {
                z: TEXT_HEIGHT,
                ..Vector3::default()
            },
            color: ColorRGBA { r, g, b, a: 1.0 },
            text: format!("{class} {:.2}", bbox.score),
            ..cube.clone()
        };
        text.pose.position.z += f64::from(bbox.size[2]) * 0.5 + TEXT_HEIGHT;
        markers.extend([cube, text]);
    }
    MarkerArray { markers }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::FRAC_PI_2;

    fn bbox(class: u32) -> Box3d {
        Box3d {
            center: [1.0, 2.0, 3.0],
            size: [4.0, 2.0, 1.5],
            yaw: FRAC_PI_2,
            velocity: [3.0, 5.0],
            score: 0.75,
            class,
        }
    }

    fn classes() -> Vec<String> {
        ["CAR", "pedestrian", "scooter"].map(String::from).into()
    }

    fn header() -> Header {
        Header {
            frame_id: "lidar".into(),
            ..Header::default()
        }
    }

    #[test]
    fn vision_messages_contain_the_box_and_its_class() {
        let message = vision(&header(), &[bbox(1)], &[], &classes());
        let detection = &message.detections[0];
        assert_eq!(detection.header, header());
        assert_eq!(detection.results[0].hypothesis.class_id, "pedestrian");
        assert_eq!(detection.results[0].hypothesis.score, 0.75);
        let size = detection.bbox.size;
        assert_eq!([size.x, size.y, size.z], [4.0, 2.0, 1.5]);
        assert_eq!(detection.bbox.center, detection.results[0].pose.pose);
        assert_eq!(detection.bbox.center.position.z, 3.0);
    }

    #[test]
    fn autoware_messages_contain_label_availability_and_twist_in_the_objects_frame() {
        let boxes = [bbox(0), bbox(1), bbox(2), bbox(9)];
        let message = autoware(&header(), &boxes, &[], &classes(), true);
        let labels: Vec<u8> = message
            .objects
            .iter()
            .map(|o| o.classification[0].label)
            .collect();
        assert_eq!(labels, [1, 7, 0, 0]);
        let available: Vec<u8> = message
            .objects
            .iter()
            .map(|o| o.kinematics.orientation_availability)
            .collect();
        assert_eq!(available, [1, 0, 0, 0]);
        let object = &message.objects[0];
        assert_eq!(object.existence_probability, 0.75);
        // The box points along +y: its x is the world's y, and its y the world's -x.
        let linear = object.kinematics.twist_with_covariance.twist.linear;
        assert!((linear.x - 5.0).abs() < 1e-6 && (linear.y + 3.0).abs() < 1e-6);
        assert!(object.kinematics.has_twist);

        let without = autoware(&header(), &boxes, &[], &classes(), false);
        assert!(!without.objects[0].kinematics.has_twist);
        let twist = without.objects[0].kinematics.twist_with_covariance;
        assert_eq!(twist, TwistWithCovariance::default());
    }

    /// The values and entries of Autoware's tests `convertPoseCovarianceMatrix` and `convertTwistCovarianceMatrix`.
    #[test]
    fn variances_become_covariances() {
        let variances = Variances {
            center: [0.1, 0.2, 0.3],
            yaw: 0.4,
            velocity: [0.5, 0.2],
            ..Variances::default()
        };
        let ahead = Box3d {
            yaw: 0.0,
            ..bbox(0)
        };
        let entries = |covariance: &Covariance| -> Vec<(usize, f32)> {
            let values = covariance.0.iter().map(|&value| value as f32);
            values
                .enumerate()
                .filter(|(_, value)| *value != 0.0)
                .collect()
        };
        let pose = [(0, 0.1), (7, 0.2), (14, 0.3), (35, 0.4)];
        let message = autoware(&header(), &[ahead], &[variances], &classes(), true);
        let kinematics = &message.objects[0].kinematics;
        assert!(kinematics.has_position_covariance && kinematics.has_twist_covariance);
        assert_eq!(entries(&kinematics.pose_with_covariance.covariance), pose);
        let twist = entries(&kinematics.twist_with_covariance.covariance);
        assert_eq!(twist, [(0, 0.5), (7, 0.2)]);
        // A quarter turn swaps the axes; at 45° both have the mean, and they depend on each other.
        let turned = autoware(&header(), &[bbox(0)], &[variances], &classes(), true);
        let twist = turned.objects[0]
            .kinematics
            .twist_with_covariance
            .covariance
            .0;
        assert!(
            (twist[0] - 0.2).abs() < 1e-6 && (twist[7] - 0.5).abs() < 1e-6,
            "{twist:?}"
        );
        let diagonal = Box3d {
            yaw: FRAC_PI_2 / 2.0,
            ..bbox(0)
        };
        let turned = autoware(&header(), &[diagonal], &[variances], &classes(), true);
        let twist = turned.objects[0]
            .kinematics
            .twist_with_covariance
            .covariance
            .0;
        for (entry, expected) in [(0, 0.35), (7, 0.35), (1, -0.15), (6, -0.15)] {
            assert!((twist[entry] - expected).abs() < 1e-6, "{twist:?}");
        }

        let message = autoware(&header(), &[ahead], &[variances], &classes(), false);
        let kinematics = &message.objects[0].kinematics;
        assert!(kinematics.has_position_covariance && !kinematics.has_twist_covariance);
        let message = vision(&header(), &[ahead], &[variances], &classes());
        let covariance = &message.detections[0].results[0].pose.covariance;
        assert_eq!(entries(covariance), pose);
    }

    #[test]
    fn markers_replace_those_of_the_previous_frame() {
        let message = markers(&header(), &[bbox(0), bbox(0)], &classes());
        assert_eq!(message.markers.len(), 5);
        assert_eq!(message.markers[0].action, Marker::DELETEALL);
        let names: std::collections::BTreeSet<_> = message.markers[1..]
            .iter()
            .map(|m| (m.ns.clone(), m.id))
            .collect();
        assert_eq!(names.len(), 4);
        assert_eq!(message.markers[2].text, "CAR 0.75");
        assert_eq!(message.markers[2].pose.orientation, Quaternion::default());
        assert!(message.markers[2].pose.position.z > 3.75);
    }
}
