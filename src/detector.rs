//! The detector.
/// Stub.
pub struct Detector;
