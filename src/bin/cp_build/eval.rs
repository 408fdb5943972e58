//! `cp-build eval`.

/// Arguments of `cp-build eval`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs `cp-build eval`.
pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
