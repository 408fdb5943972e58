//! `cp-build install`.

use std::path::PathBuf;

use anyhow::Context;
use centerpoint::install::{Target, install, items};

/// Arguments of `cp-build install`.
#[derive(clap::Args)]
#[command(after_help = "\
With DESTDIR in the environment everything goes below that folder, and is made to be used from --prefix. \
Below /usr or /usr/local, `ldconfig` makes the library known.")]
pub(crate) struct Args {
    /// Where to install.
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Folder of libraries below the prefix.
    #[arg(long, value_name = "DIR", default_value = "lib")]
    libdir: PathBuf,
}

/// Runs `cp-build install`: what lies beside this program is installed.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("this program's own path is not known")?;
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
