//! A cloud, and boxes as a scene for viewers, as Foxglove's messages: metres, radians, m/s, in the frame of the cloud.

use foxglove::messages::packed_element_field::NumericType;
use foxglove::messages::scene_entity_deletion;
use foxglove::messages::{
    ArrowPrimitive, Color, CubePrimitive, KeyValuePair, PackedElementField, Pose, Quaternion,
    SceneEntity, SceneEntityDeletion, SceneUpdate, TextPrimitive, Timestamp, Vector3,
};

use super::{FrameResult, ResultsError};
use crate::boxes::Box3d;
use crate::draw::color;
use crate::points::{Column, PointCloud};

/// Slower objects have no velocity arrow, in m/s; the same as in the picture.
const MIN_SPEED: f64 = 0.5;
/// Nor do objects faster than anything on a road, in m/s.
const MAX_SPEED: f64 = 100.0;
/// Text height in metres.
const TEXT_SIZE: f64 = 0.7;

/// Converts nanoseconds since the epoch. The message has no time before it, nor after 2106: the nearest one stands for
/// those.
fn timestamp(nanoseconds: i64) -> Timestamp {
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    match (u32::try_from(seconds), u32::try_from(rest)) {
        (Ok(seconds), Ok(rest)) => Timestamp::new(seconds, rest),
        _ if nanoseconds < 0 => Timestamp::MIN,
        _ => Timestamp::MAX,
    }
}

/// All columns of `cloud` but skipped ones, as 32-bit floats.
pub(crate) fn points(
    cloud: &PointCloud,
    stamp_ns: i64,
    frame_id: &str,
) -> foxglove::messages::PointCloud {
    let layout = cloud.layout();
    let columns = layout.columns().iter().zip(0u32..);
    let columns = columns.filter(|(column, _)| **column != Column::Skip);
    let fields = columns.map(|(column, index)| PackedElementField {
        name: column.to_string(),
        offset: 4 * index,
        r#type: NumericType::Float32.into(),
    });
    let data = cloud.data().iter().flat_map(|value| value.to_le_bytes());
    foxglove::messages::PointCloud {
        timestamp: Some(timestamp(stamp_ns)),
        frame_id: frame_id.into(),
        pose: Some(pose([0.0; 3], 0.0)),
        point_stride: 4 * layout.stride() as u32,
        fields: fields.collect(),
        data: data.collect(),
    }
}

/// The boxes of a frame, which replace all previous ones. Each becomes a cube, arrows for heading and velocity, and a
/// text with class and score.
///
/// # Errors
/// A number that is not finite, or a class without a name.
pub(crate) fn scene(
    result: &FrameResult<'_>,
    classes: &[String],
    stamp_ns: i64,
    frame_id: &str,
) -> Result<SceneUpdate, ResultsError> {
    let timestamp = Some(timestamp(stamp_ns));
    let boxes = result.boxes.iter().enumerate();
    let entities = boxes.map(|(index, b)| {
        let class = result.checked_class(index, b, classes)?;
        Ok(SceneEntity {
            timestamp,
            frame_id: frame_id.into(),
            id: index.to_string(),
            ..entity(b, class)
        })
    });
    Ok(SceneUpdate {
        deletions: vec![SceneEntityDeletion {
            timestamp,
            r#type: scene_entity_deletion::Type::All.into(),
            id: String::new(),
        }],
        entities: entities.collect::<Result<_, ResultsError>>()?,
    })
}

/// A box as cube, arrows and text.
fn entity(b: &Box3d, class: &str) -> SceneEntity {
    let [x, y, z] = b.center.map(f64::from);
    let [length, width, height] = b.size.map(f64::from);
    let [vx, vy] = b.velocity.map(f64::from);
    let (yaw, speed) = (f64::from(b.yaw), vx.hypot(vy));
    let [red, green, blue] = color::class(b.class).map(f64::from);
    let rgba = |a| {
        Some(Color {
            r: red,
            g: green,
            b: blue,
            a,
        })
    };
    let pair = |key: &str, value| KeyValuePair {
        key: key.into(),
        value,
    };
    // From the centre to beyond the front by the length of the head.
    let head = 0.3 + 0.1 * length;
    let mut arrows = vec![ArrowPrimitive {
        pose: Some(pose([x, y, z], yaw)),
        shaft_length: 0.5 * length,
        shaft_diameter: 0.08,
        head_length: head,
        head_diameter: 0.5 * head,
        color: rgba(1.0),
    }];
    // To the box's position in one second, at roof height.
    if (MIN_SPEED..=MAX_SPEED).contains(&speed) {
        let head = speed.min(0.6);
        arrows.push(ArrowPrimitive {
            pose: Some(pose([x, y, z + 0.5 * height], vy.atan2(vx))),
            shaft_length: speed - head,
            shaft_diameter: 0.15,
            head_length: head,
            head_diameter: 0.4,
            color: Some(Color {
                r: 1.0,
                g: 1.0,
                b: 1.0,
                a: 0.9,
            }),
        });
    }
    SceneEntity {
        metadata: vec![
            pair("class", class.into()),
            pair("score", b.score.to_string()),
            pair("speed", format!("{speed:.2} m/s")),
        ],
        arrows,
        cubes: vec![CubePrimitive {
            pose: Some(pose([x, y, z], yaw)),
            size: Some(Vector3 {
                x: length,
                y: width,
                z: height,
            }),
            color: rgba(0.4),
        }],
        texts: vec![TextPrimitive {
            pose: Some(pose([x, y, z + 0.5 * height + TEXT_SIZE], 0.0)),
            billboard: true,
            font_size: TEXT_SIZE,
            scale_invariant: false,
            color: rgba(1.0),
            text: format!("{class} {:.2}", b.score),
        }],
        ..SceneEntity::default()
    }
}

/// A pose from a position in metres and a heading in radians.
fn pose([x, y, z]: [f64; 3], yaw: f64) -> Pose {
    let (sin, cos) = (yaw * 0.5).sin_cos();
    Pose {
        position: Some(Vector3 { x, y, z }),
        orientation: Some(Quaternion {
            x: 0.0,
            y: 0.0,
            z: sin,
            w: cos,
        }),
    }
}
