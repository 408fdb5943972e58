//! `cp-build install`: installs the files next to this program.

use std::path::PathBuf;

use anyhow::Context;
use centerpoint::install::{Target, install, items};

/// Arguments of `cp-build install`.
#[derive(clap::Args)]
#[command(after_help = "\
If the environment sets DESTDIR, everything is staged below that folder for later use from --prefix. \
After installing below /usr or /usr/local, run `ldconfig` so that programs find the library.")]
pub(crate) struct Args {
    /// Where to install.
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Folder for libraries, relative to the prefix.
    #[arg(long, value_name = "DIR", default_value = "lib")]
    libdir: PathBuf,
}

/// Runs `cp-build install`.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot determine this program's path")?;
    let from = program.parent().unwrap_or(&program);
    let target = Target {
        prefix: std::path::absolute(&args.prefix)?,
        libdir: args.libdir,
        destdir: std::env::var_os("DESTDIR")
            .filter(|d| !d.is_empty())
            .map(PathBuf::from),
    };
    for path in install(&items(from, &target)?, &target)? {
        crate::print(&format!("{}\n", path.display()))?;
    }
    Ok(())
}
