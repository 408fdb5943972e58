//! Stage pillars.
