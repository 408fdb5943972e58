//! `cp-build compile`.

/// Arguments of `cp-build compile`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs `cp-build compile`.
pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
