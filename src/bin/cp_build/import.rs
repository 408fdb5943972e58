//! `cp-build import`.

/// Arguments of `cp-build import`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs `cp-build import`.
pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
