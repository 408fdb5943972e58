//! The schema of Foxglove's messages in an MCAP file: a protobuf `FileDescriptorSet`.
//!
//! Names, numbers and types are those of Foxglove's schemas (<https://docs.foxglove.dev/docs/sdk/schemas>, MIT).
//! Every field of every message is listed, including those that are never written, because viewers look them
//! up. `tests/it/bag.rs` compares the result with the published schemas.
#![allow(missing_docs)] // The fields of protobuf's own messages have its names and meaning.

use prost::Message as _;

use FieldType::{
    Bool, Bytes, Double, Enum, Fixed32, Int32, Int64, Message, RepeatedFixed32, RepeatedMessage,
    Text,
};

/// The type of a field; a name refers to another message or to an enumeration of the file.
#[derive(Clone, Copy)]
enum FieldType {
    Double,
    Int64,
    Int32,
    Fixed32,
    Bool,
    Text,
    Bytes,
    RepeatedFixed32,
    Message(&'static str),
    RepeatedMessage(&'static str),
    /// An enumeration inside the message.
    Enum(&'static str),
}

/// A message: its name, its fields (numbered from 1), and its enumeration (numbered from 0), if any.
type MessageDescription = (
    &'static str,
    &'static [(&'static str, FieldType)],
    Option<(&'static str, &'static [&'static str])>,
);

const TIMESTAMP: FieldType = Message(".google.protobuf.Timestamp");
const DURATION: FieldType = Message(".google.protobuf.Duration");
const POSE: FieldType = Message(".foxglove.Pose");
const COLOR: FieldType = Message(".foxglove.Color");
const VECTOR: FieldType = Message(".foxglove.Vector3");
const POINTS: FieldType = RepeatedMessage(".foxglove.Point3");

const TIME: &[(&str, FieldType)] = &[("seconds", Int64), ("nanos", Int32)];
const XYZ: &[(&str, FieldType)] = &[("x", Double), ("y", Double), ("z", Double)];

const FOXGLOVE: &[MessageDescription] = &[
    (
        "PointCloud",
        &[
            ("timestamp", TIMESTAMP),
            ("frame_id", Text),
            ("pose", POSE),
            ("point_stride", Fixed32),
            ("fields", RepeatedMessage(".foxglove.PackedElementField")),
            ("data", Bytes),
        ],
        None,
    ),
    (
        "PackedElementField",
        &[
            ("name", Text),
            ("offset", Fixed32),
            ("type", Enum(".foxglove.PackedElementField.NumericType")),
        ],
        Some((
            "NumericType",
            &[
                "UNKNOWN", "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32",
                "FLOAT64",
            ],
        )),
    ),
    (
        "SceneUpdate",
        &[
            (
                "deletions",
                RepeatedMessage(".foxglove.SceneEntityDeletion"),
            ),
            ("entities", RepeatedMessage(".foxglove.SceneEntity")),
        ],
        None,
    ),
    (
        "SceneEntityDeletion",
        &[
            ("timestamp", TIMESTAMP),
            ("type", Enum(".foxglove.SceneEntityDeletion.Type")),
            ("id", Text),
        ],
        Some(("Type", &["MATCHING_ID", "ALL"])),
    ),
    (
        "SceneEntity",
        &[
            ("timestamp", TIMESTAMP),
            ("frame_id", Text),
            ("id", Text),
            ("lifetime", DURATION),
            ("frame_locked", Bool),
            ("metadata", RepeatedMessage(".foxglove.KeyValuePair")),
            ("arrows", RepeatedMessage(".foxglove.ArrowPrimitive")),
            ("cubes", RepeatedMessage(".foxglove.CubePrimitive")),
            ("spheres", RepeatedMessage(".foxglove.SpherePrimitive")),
            ("cylinders", RepeatedMessage(".foxglove.CylinderPrimitive")),
            ("lines", RepeatedMessage(".foxglove.LinePrimitive")),
            (
                "triangles",
                RepeatedMessage(".foxglove.TriangleListPrimitive"),
            ),
            ("texts", RepeatedMessage(".foxglove.TextPrimitive")),
            ("models", RepeatedMessage(".foxglove.ModelPrimitive")),
        ],
        None,
    ),
    ("KeyValuePair", &[("key", Text), ("value", Text)], None),
    (
        "ArrowPrimitive",
        &[
            ("pose", POSE),
            ("shaft_length", Double),
            ("shaft_diameter", Double),
            ("head_length", Double),
            ("head_diameter", Double),
            ("color", COLOR),
        ],
        None,
    ),
    (
        "CubePrimitive",
        &[("pose", POSE), ("size", VECTOR), ("color", COLOR)],
        None,
    ),
    (
        "SpherePrimitive",
        &[("pose", POSE), ("size", VECTOR), ("color", COLOR)],
        None,
    ),
    (
        "CylinderPrimitive",
        &[
            ("pose", POSE),
            ("size", VECTOR),
            ("bottom_scale", Double),
            ("top_scale", Double),
            ("color", COLOR),
        ],
        None,
    ),
    (
        "LinePrimitive",
        &[
            ("type", Enum(".foxglove.LinePrimitive.Type")),
            ("pose", POSE),
            ("thickness", Double),
            ("scale_invariant", Bool),
            ("points", POINTS),
            ("color", COLOR),
            ("colors", RepeatedMessage(".foxglove.Color")),
            ("indices", RepeatedFixed32),
        ],
        Some(("Type", &["LINE_STRIP", "LINE_LOOP", "LINE_LIST"])),
    ),
    (
        "TriangleListPrimitive",
        &[
            ("pose", POSE),
            ("points", POINTS),
            ("color", COLOR),
            ("colors", RepeatedMessage(".foxglove.Color")),
            ("indices", RepeatedFixed32),
        ],
        None,
    ),
    (
        "TextPrimitive",
        &[
            ("pose", POSE),
            ("billboard", Bool),
            ("font_size", Double),
            ("scale_invariant", Bool),
            ("color", COLOR),
            ("text", Text),
        ],
        None,
    ),
    (
        "ModelPrimitive",
        &[
            ("pose", POSE),
            ("scale", VECTOR),
            ("color", COLOR),
            ("override_color", Bool),
            ("url", Text),
            ("media_type", Text),
            ("data", Bytes),
        ],
        None,
    ),
    (
        "Pose",
        &[
            ("position", VECTOR),
            ("orientation", Message(".foxglove.Quaternion")),
        ],
        None,
    ),
    (
        "Quaternion",
        &[("x", Double), ("y", Double), ("z", Double), ("w", Double)],
        None,
    ),
    ("Vector3", XYZ, None),
    ("Point3", XYZ, None),
    (
        "Color",
        &[("r", Double), ("g", Double), ("b", Double), ("a", Double)],
        None,
    ),
];

/// The schema of all written messages, for a schema record of an MCAP file.
pub(in crate::results) fn file_descriptor_set() -> Vec<u8> {
    let google = |path: &str, name| file(path, "google.protobuf", &[], &[(name, TIME, None)]);
    let times = [
        "google/protobuf/timestamp.proto",
        "google/protobuf/duration.proto",
    ];
    let set = FileDescriptorSet {
        file: vec![
            google(times[0], "Timestamp"),
            google(times[1], "Duration"),
            file("foxglove/centerpoint.proto", "foxglove", &times, FOXGLOVE),
        ],
    };
    set.encode_to_vec()
}

fn file(
    path: &str,
    package: &str,
    dependencies: &[&str],
    messages: &[MessageDescription],
) -> FileDescriptorProto {
    FileDescriptorProto {
        name: path.into(),
        package: package.into(),
        dependency: dependencies.iter().map(|&path| path.into()).collect(),
        message_type: messages.iter().map(message).collect(),
        syntax: "proto3".into(),
    }
}

fn message(&(name, fields, enumeration): &MessageDescription) -> DescriptorProto {
    let fields = fields.iter().zip(1..);
    let enumeration = enumeration
        .iter()
        .map(|(name, values)| EnumDescriptorProto {
            name: (*name).into(),
            value: values
                .iter()
                .zip(0..)
                .map(|(&name, number)| EnumValueDescriptorProto {
                    name: name.into(),
                    number: Some(number),
                })
                .collect(),
        });
    DescriptorProto {
        name: name.into(),
        field: fields
            .map(|(&(name, field_type), number)| field(name, field_type, number))
            .collect(),
        enum_type: enumeration.collect(),
    }
}

fn field(name: &str, field_type: FieldType, number: i32) -> FieldDescriptorProto {
    // Numbers of `FieldDescriptorProto.Type`.
    let (type_number, type_name, repeated) = match field_type {
        Double => (1, None, false),
        Int64 => (3, None, false),
        Int32 => (5, None, false),
        Fixed32 => (7, None, false),
        RepeatedFixed32 => (7, None, true),
        Bool => (8, None, false),
        Text => (9, None, false),
        Message(name) => (11, Some(name), false),
        RepeatedMessage(name) => (11, Some(name), true),
        Bytes => (12, None, false),
        Enum(name) => (14, Some(name), false),
    };
    FieldDescriptorProto {
        name: name.into(),
        number,
        label: if repeated { 3 } else { 1 },
        type_number,
        type_name: type_name.map(Into::into),
    }
}

/// `google.protobuf.FileDescriptorSet` (descriptor.proto); this and the types below declare the fields in use.
#[derive(Clone, PartialEq, prost::Message)]
struct FileDescriptorSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<FileDescriptorProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FileDescriptorProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    package: String,
    #[prost(string, repeated, tag = "3")]
    dependency: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    message_type: Vec<DescriptorProto>,
    #[prost(string, tag = "12")]
    syntax: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DescriptorProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    field: Vec<FieldDescriptorProto>,
    #[prost(message, repeated, tag = "4")]
    enum_type: Vec<EnumDescriptorProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FieldDescriptorProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    number: i32,
    #[prost(int32, tag = "4")]
    label: i32,
    #[prost(int32, tag = "5")]
    type_number: i32,
    #[prost(string, optional, tag = "6")]
    type_name: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EnumDescriptorProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    value: Vec<EnumValueDescriptorProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EnumValueDescriptorProto {
    #[prost(string, tag = "1")]
    name: String,
    /// Optional so that 0 is written, too.
    #[prost(int32, optional, tag = "2")]
    number: Option<i32>,
}
