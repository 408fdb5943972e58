//! warps
