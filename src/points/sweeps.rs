//! Multi-sweep accumulation with ego poses.
