//! `cp-build synth`.

/// Arguments of `cp-build synth`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs `cp-build synth`.
pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
