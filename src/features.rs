//! Stage features.
