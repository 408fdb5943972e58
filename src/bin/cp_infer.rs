//! `cp-infer`: runs a plan on frames.
fn main() {}
