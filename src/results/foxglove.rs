//! Foxglove's messages: a cloud, and boxes as a scene for viewers.
//!
//! The types declare the fields that this crate writes, with the names and numbers of Foxglove's protobuf
//! schemas (<https://docs.foxglove.dev/docs/sdk/schemas>, MIT). Metres, radians, m/s, in the frame of the cloud.
#![allow(missing_docs)] // The fields have Foxglove's own names and meaning.

pub(super) mod schema;

use prost::Message;

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
/// `PackedElementField.NumericType.FLOAT32`, the type of all columns.
const FLOAT32: i32 = 7;
/// `SceneEntityDeletion.Type.ALL`.
const ALL: i32 = 1;

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// Converts nanoseconds since the epoch.
    pub(crate) fn from_nanoseconds(nanoseconds: i64) -> Self {
        const SECOND: i64 = 1_000_000_000;
        Self {
            seconds: nanoseconds.div_euclid(SECOND),
            nanos: nanoseconds.rem_euclid(SECOND) as i32,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Vector3 {
    #[prost(double, tag = "1")]
    pub x: f64,
    #[prost(double, tag = "2")]
    pub y: f64,
    #[prost(double, tag = "3")]
    pub z: f64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Quaternion {
    #[prost(double, tag = "1")]
    pub x: f64,
    #[prost(double, tag = "2")]
    pub y: f64,
    #[prost(double, tag = "3")]
    pub z: f64,
    #[prost(double, tag = "4")]
    pub w: f64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Pose {
    #[prost(message, optional, tag = "1")]
    pub position: Option<Vector3>,
    #[prost(message, optional, tag = "2")]
    pub orientation: Option<Quaternion>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Color {
    #[prost(double, tag = "1")]
    pub r: f64,
    #[prost(double, tag = "2")]
    pub g: f64,
    #[prost(double, tag = "3")]
    pub b: f64,
    #[prost(double, tag = "4")]
    pub a: f64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PackedElementField {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(fixed32, tag = "2")]
    pub offset: u32,
    #[prost(int32, tag = "3")]
    pub r#type: i32,
}

/// `foxglove.PointCloud`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FoxglovePoints {
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    #[prost(string, tag = "2")]
    pub frame_id: String,
    #[prost(message, optional, tag = "3")]
    pub pose: Option<Pose>,
    #[prost(fixed32, tag = "4")]
    pub point_stride: u32,
    #[prost(message, repeated, tag = "5")]
    pub fields: Vec<PackedElementField>,
    #[prost(bytes = "vec", tag = "6")]
    pub data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SceneEntityDeletion {
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    #[prost(int32, tag = "2")]
    pub r#type: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValuePair {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ArrowPrimitive {
    #[prost(message, optional, tag = "1")]
    pub pose: Option<Pose>,
    #[prost(double, tag = "2")]
    pub shaft_length: f64,
    #[prost(double, tag = "3")]
    pub shaft_diameter: f64,
    #[prost(double, tag = "4")]
    pub head_length: f64,
    #[prost(double, tag = "5")]
    pub head_diameter: f64,
    #[prost(message, optional, tag = "6")]
    pub color: Option<Color>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CubePrimitive {
    #[prost(message, optional, tag = "1")]
    pub pose: Option<Pose>,
    #[prost(message, optional, tag = "2")]
    pub size: Option<Vector3>,
    #[prost(message, optional, tag = "3")]
    pub color: Option<Color>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TextPrimitive {
    #[prost(message, optional, tag = "1")]
    pub pose: Option<Pose>,
    #[prost(bool, tag = "2")]
    pub billboard: bool,
    #[prost(double, tag = "3")]
    pub font_size: f64,
    #[prost(message, optional, tag = "5")]
    pub color: Option<Color>,
    #[prost(string, tag = "6")]
    pub text: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SceneEntity {
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    #[prost(string, tag = "2")]
    pub frame_id: String,
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(message, repeated, tag = "6")]
    pub metadata: Vec<KeyValuePair>,
    #[prost(message, repeated, tag = "7")]
    pub arrows: Vec<ArrowPrimitive>,
    #[prost(message, repeated, tag = "8")]
    pub cubes: Vec<CubePrimitive>,
    #[prost(message, repeated, tag = "13")]
    pub texts: Vec<TextPrimitive>,
}

/// `foxglove.SceneUpdate`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SceneUpdate {
    #[prost(message, repeated, tag = "1")]
    pub deletions: Vec<SceneEntityDeletion>,
    #[prost(message, repeated, tag = "2")]
    pub entities: Vec<SceneEntity>,
}

impl FoxglovePoints {
    /// Replaces the message's contents with all columns of `cloud` but skipped ones, as 32-bit floats, and reuses
    /// its memory.
    pub(crate) fn set(&mut self, cloud: &PointCloud, stamp_ns: i64, frame_id: &str) {
        let layout = cloud.layout();
        let columns = layout.columns().iter().zip(0u32..);
        self.timestamp = Some(Timestamp::from_nanoseconds(stamp_ns));
        frame_id.clone_into(&mut self.frame_id);
        self.pose = Some(pose([0.0; 3], 0.0));
        self.point_stride = 4 * layout.stride() as u32;
        self.fields.clear();
        self.fields
            .extend(columns.filter(|(column, _)| **column != Column::Skip).map(
                |(column, index)| PackedElementField {
                    name: column.to_string(),
                    offset: 4 * index,
                    r#type: FLOAT32,
                },
            ));
        self.data.clear();
        self.data
            .extend(cloud.data().iter().flat_map(|value| value.to_le_bytes()));
    }
}

impl SceneUpdate {
    /// Converts the boxes of a frame, which replace all previous ones. Each becomes a cube, arrows for heading and
    /// velocity, and a text with class and score.
    ///
    /// # Errors
    /// A number that is not finite, or a class without a name.
    pub(crate) fn new(
        result: &FrameResult<'_>,
        classes: &[String],
        stamp_ns: i64,
        frame_id: &str,
    ) -> Result<Self, ResultsError> {
        let timestamp = Some(Timestamp::from_nanoseconds(stamp_ns));
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
        Ok(Self {
            deletions: vec![SceneEntityDeletion {
                timestamp,
                r#type: ALL,
            }],
            entities: entities.collect::<Result<_, ResultsError>>()?,
        })
    }
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
