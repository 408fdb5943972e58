//! The schema that stands in an MCAP file beside Foxglove's messages: a `FileDescriptorSet` of protobuf.
//!
//! Names, numbers and types are those of Foxglove's schemas (<https://docs.foxglove.dev/docs/sdk/schemas>, MIT).
//! Every field of every message is there, also those that are never written, since viewers look for
//! them. `tests/it/bag.rs` compares it with the published schemas.
#![allow(missing_docs)] // The fields of protobuf's own messages carry its names and meaning.

use prost::Message;

use Kind::{Bool, Bytes, Double, Enum, Fixed32, Int32, Int64, Many, ManyFixed32, One, Text};

/// What a field holds; a name is that of another message or enumeration of the file.
#[derive(Clone, Copy)]
enum Kind {
    Double,
    Int64,
    Int32,
    Fixed32,
    Bool,
    Text,
    Bytes,
    /// A message.
    One(&'static str),
    /// Any number of messages.
    Many(&'static str),
    /// Any number of integers.
    ManyFixed32,
    /// An enumeration within the message.
    Enum(&'static str),
}

/// A message: its name, its fields (numbered from 1), and its enumeration (numbered from 0), if it has one.
type Description = (
    &'static str,
    &'static [(&'static str, Kind)],
    Option<(&'static str, &'static [&'static str])>,
);

const TIMESTAMP: Kind = One(".google.protobuf.Timestamp");
const DURATION: Kind = One(".google.protobuf.Duration");
const POSE: Kind = One(".foxglove.Pose");
const COLOR: Kind = One(".foxglove.Color");
const VECTOR: Kind = One(".foxglove.Vector3");
const POINTS: Kind = Many(".foxglove.Point3");

const TIME: &[(&str, Kind)] = &[("seconds", Int64), ("nanos", Int32)];
const XYZ: &[(&str, Kind)] = &[("x", Double), ("y", Double), ("z", Double)];

const FOXGLOVE: &[Description] = &[
    (
        "PointCloud",
        &[
            ("timestamp", TIMESTAMP),
            ("frame_id", Text),
            ("pose", POSE),
            ("point_stride", Fixed32),
            ("fields", Many(".foxglove.PackedElementField")),
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
            ("deletions", Many(".foxglove.SceneEntityDeletion")),
            ("entities", Many(".foxglove.SceneEntity")),
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
            ("metadata", Many(".foxglove.KeyValuePair")),
            ("arrows", Many(".foxglove.ArrowPrimitive")),
            ("cubes", Many(".foxglove.CubePrimitive")),
            ("spheres", Many(".foxglove.SpherePrimitive")),
            ("cylinders", Many(".foxglove.CylinderPrimitive")),
            ("lines", Many(".foxglove.LinePrimitive")),
            ("triangles", Many(".foxglove.TriangleListPrimitive")),
            ("texts", Many(".foxglove.TextPrimitive")),
            ("models", Many(".foxglove.ModelPrimitive")),
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
            ("colors", Many(".foxglove.Color")),
            ("indices", ManyFixed32),
        ],
        Some(("Type", &["LINE_STRIP", "LINE_LOOP", "LINE_LIST"])),
    ),
    (
        "TriangleListPrimitive",
        &[
            ("pose", POSE),
            ("points", POINTS),
            ("color", COLOR),
            ("colors", Many(".foxglove.Color")),
            ("indices", ManyFixed32),
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
            ("orientation", One(".foxglove.Quaternion")),
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

/// The schema of all messages that are written, as a schema record of MCAP holds it.
pub(in crate::output) fn file_descriptor_set() -> Vec<u8> {
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
    messages: &[Description],
) -> FileDescriptorProto {
    FileDescriptorProto {
        name: path.into(),
        package: package.into(),
        dependency: dependencies.iter().map(|&path| path.into()).collect(),
        message_type: messages.iter().map(message).collect(),
        syntax: "proto3".into(),
    }
}

fn message(&(name, fields, enumeration): &Description) -> DescriptorProto {
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
            .map(|(&(name, kind), number)| field(name, kind, number))
            .collect(),
        enum_type: enumeration.collect(),
    }
}

fn field(name: &str, kind: Kind, number: i32) -> FieldDescriptorProto {
    // Numbers of `FieldDescriptorProto.Type`.
    let (kind, type_name, repeated) = match kind {
        Double => (1, None, false),
        Int64 => (3, None, false),
        Int32 => (5, None, false),
        Fixed32 => (7, None, false),
        ManyFixed32 => (7, None, true),
        Bool => (8, None, false),
        Text => (9, None, false),
        One(name) => (11, Some(name), false),
        Many(name) => (11, Some(name), true),
        Bytes => (12, None, false),
        Enum(name) => (14, Some(name), false),
    };
    FieldDescriptorProto {
        name: name.into(),
        number,
        label: if repeated { 3 } else { 1 },
        kind,
        type_name: type_name.map(Into::into),
    }
}

/// `google.protobuf.FileDescriptorSet`, and what it is made of (descriptor.proto), as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct FileDescriptorSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<FileDescriptorProto>,
}

#[derive(Clone, PartialEq, Message)]
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

#[derive(Clone, PartialEq, Message)]
struct DescriptorProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    field: Vec<FieldDescriptorProto>,
    #[prost(message, repeated, tag = "4")]
    enum_type: Vec<EnumDescriptorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct FieldDescriptorProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    number: i32,
    #[prost(int32, tag = "4")]
    label: i32,
    #[prost(int32, tag = "5")]
    kind: i32,
    #[prost(string, optional, tag = "6")]
    type_name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct EnumDescriptorProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    value: Vec<EnumValueDescriptorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct EnumValueDescriptorProto {
    #[prost(string, tag = "1")]
    name: String,
    /// Written also where it is 0.
    #[prost(int32, optional, tag = "2")]
    number: Option<i32>,
}
