//! `cp-build`: the offline side, from exported networks to plans.

fn main() -> std::process::ExitCode {
    centerpoint::cli::build::main()
}
