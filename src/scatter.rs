//! Stage scatter.
