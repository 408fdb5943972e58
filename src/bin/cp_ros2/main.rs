//! `cp-ros2`: a ROS 2 node that detects objects in point clouds.

fn main() {}
