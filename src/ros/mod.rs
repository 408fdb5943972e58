//! ROS 2 at the edge: messages, and their way into the library's own types and back.
//!
//! [`messages`] holds plain structs that serde turns into CDR, the form of messages in bags (feature `mcap`) and
//! on the wire (feature `ros2`). Nothing here needs an installation of ROS.

#[cfg(feature = "mcap")]
pub mod bag;
pub mod boxes;
pub mod cloud;
pub mod messages;
#[cfg(feature = "ros2")]
pub mod node;
pub mod tf;
