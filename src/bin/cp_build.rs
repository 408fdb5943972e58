//! `cp-build`: the offline side, from exported networks to plans.

fn main() -> std::process::ExitCode {
    centerpoint::internals::cli::build::main()
}
