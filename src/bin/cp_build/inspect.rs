//! `cp-build inspect`.

/// Arguments of `cp-build inspect`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs `cp-build inspect`.
pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
