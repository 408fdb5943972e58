//! What leaves the program: JSON lines, KITTI and nuScenes result files, BEV pictures.

pub mod bev;
pub mod json;
pub mod kitti;
pub mod nuscenes;
