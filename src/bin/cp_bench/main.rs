//! `cp-bench`: measures the latency of plans, like `trtexec`.

mod alloc;

fn main() -> std::process::ExitCode {
    centerpoint::internals::cli::bench::main(alloc::count)
}
