//! ROS 2 messages as serde structs: the fields of the `.msg` files, in their order, which is what CDR needs.
//!
//! A file for each package. Names, units and meanings are those of ROS's
//! [common_interfaces](https://github.com/ros2/common_interfaces) unless a file says otherwise.

pub mod autoware;
pub mod diagnostic;
pub mod geometry;
pub mod header;
pub mod sensor;
pub mod tf;
pub mod vision;
pub mod visualization;
