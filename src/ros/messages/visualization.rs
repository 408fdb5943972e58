//! `visualization_msgs`: markers for RViz.

use serde::{Deserialize, Serialize};

use super::geometry::{Point, Pose, Vector3};
use super::header::{Header, Time};

/// `std_msgs/ColorRGBA`, each 0..=1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ColorRGBA {
    /// Red.
    pub r: f32,
    /// Green.
    pub g: f32,
    /// Blue.
    pub b: f32,
    /// Opacity.
    pub a: f32,
}

/// `sensor_msgs/CompressedImage`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompressedImage {
    /// When and in which frame.
    pub header: Header,
    /// Its compression.
    pub format: String,
    /// Its bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// `visualization_msgs/UVCoordinate`: a place in a texture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UVCoordinate {
    /// Along the width.
    pub u: f32,
    /// Along the height.
    pub v: f32,
}

/// `visualization_msgs/MeshFile`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshFile {
    /// Its name.
    pub filename: String,
    /// Its bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// `visualization_msgs/Marker`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Marker {
    /// When and in which frame.
    pub header: Header,
    /// Namespace of the id.
    pub ns: String,
    /// Name within the namespace.
    pub id: i32,
    /// Its form, one of the constants; `type` in the definition.
    pub kind: i32,
    /// What to do, one of the constants.
    pub action: i32,
    /// Where.
    pub pose: Pose,
    /// How large, in metres.
    pub scale: Vector3,
    /// Its colour.
    pub color: ColorRGBA,
    /// How long it stays; 0 is for ever. `builtin_interfaces/Duration` has the fields of a time.
    pub lifetime: Time,
    /// Whether it moves with its frame.
    pub frame_locked: bool,
    /// Points of lists and strips.
    pub points: Vec<Point>,
    /// Their colours.
    pub colors: Vec<ColorRGBA>,
    /// Where the texture is.
    pub texture_resource: String,
    /// The texture.
    pub texture: CompressedImage,
    /// Places in the texture.
    pub uv_coordinates: Vec<UVCoordinate>,
    /// Text of text markers.
    pub text: String,
    /// Where the mesh is.
    pub mesh_resource: String,
    /// The mesh.
    pub mesh_file: MeshFile,
    /// Whether the mesh brings its materials.
    pub mesh_use_embedded_materials: bool,
}

impl Marker {
    /// A box.
    pub const CUBE: i32 = 1;
    /// A text that faces the viewer.
    pub const TEXT_VIEW_FACING: i32 = 9;
    /// Add, or replace the one of this name.
    pub const ADD: i32 = 0;
    /// Delete all markers of the topic.
    pub const DELETEALL: i32 = 3;
}

/// `visualization_msgs/MarkerArray`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MarkerArray {
    /// The markers.
    pub markers: Vec<Marker>,
}
