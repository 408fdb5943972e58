//! `cp-infer`: runs a plan on frames and prints or draws the boxes.

fn main() -> std::process::ExitCode {
    centerpoint::internals::cli::infer::main()
}
