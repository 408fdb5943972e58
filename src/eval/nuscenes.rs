//! The nuScenes detection metric.
