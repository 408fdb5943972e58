//! `cp-bench`: measures the latency of a plan, in the manner of `trtexec`.

fn main() {}
