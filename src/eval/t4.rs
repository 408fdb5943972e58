//! The T4 detection metric (tier4 AWML).
