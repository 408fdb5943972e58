//! `cp-build install`: installs the files next to this program.

use std::path::{Path, PathBuf};

use crate::files::FileError;

use crate::Error;
use crate::capi::install::{InstallError, Target, install, items};

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
pub(crate) fn run(args: Args) -> crate::Result<()> {
    let program = std::env::current_exe()
        .map_err(FileError::new(Path::new("cp-build"), "find the path of"))?;
    let from = program.parent().unwrap_or(&program);
    let target = Target {
        prefix: std::path::absolute(&args.prefix).map_err(FileError::new(&args.prefix, "find"))?,
        libdir: args.libdir,
        destdir: std::env::var_os("DESTDIR")
            .filter(|d| !d.is_empty())
            .map(PathBuf::from),
    };
    for path in install(&items(from, &target).map_err(failure)?, &target).map_err(failure)? {
        super::print(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

/// What the program says and exits with.
fn failure(error: InstallError) -> Error {
    match error {
        InstallError::Io { path, source } => Error::File(FileError {
            path,
            action: "install",
            source,
        }),
        InstallError::NoLibrary { path } => Error::File(FileError {
            path,
            action: "install",
            source: std::io::Error::other(
                "not found; build it with `cargo build --release`, then run \
                 `target/release/cp-build install`",
            ),
        }),
        other => Error::Usage(other.to_string()),
    }
}
