//! Synthetic lidar scenes with known boxes.
