//! Stage threads.
