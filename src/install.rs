//! An installation: the C library with its headers and what CMake and pkg-config need, and the programs.
//!
//! ```text
//! PREFIX/bin/cp-*                              those that lie beside the library
//! PREFIX/include/centerpoint/centerpoint.{h,hpp}
//! PREFIX/LIBDIR/libcenterpoint.so → .so.ABI → .so.VERSION, libcenterpoint.a
//! PREFIX/LIBDIR/cmake/centerpoint/, PREFIX/LIBDIR/pkgconfig/centerpoint.pc
//! PREFIX/share/doc/centerpoint/LICENSE-*
//! ```
//!
//! [`items`] lists it, a caller may add to the list, [`install`] writes it. Headers and texts are part of the
//! program, library and programs are copied from where they were built.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// `libcenterpoint.so.ABI`: what programs that were linked with the library ask for.
pub const SONAME: &str = concat!("libcenterpoint.so.", env!("CENTERPOINT_ABI_VERSION"));

const VERSION: &str = env!("CARGO_PKG_VERSION");
const SHARED: &str = "libcenterpoint.so";
const STATIC: &str = "libcenterpoint.a";
const PROGRAMS: [&str; 4] = ["cp-infer", "cp-build", "cp-bench", "cp-ros2"];

/// What a program needs besides the static library: `rustc --print native-static-libs`.
const NATIVE: &[&str] = &["gcc_s", "util", "rt", "pthread", "m", "dl", "c"];

/// Where an installation goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it will be used, an absolute path.
    pub prefix: PathBuf,
    /// Folder of libraries below the prefix, such as `lib` or `lib/aarch64-linux-gnu`.
    pub libdir: PathBuf,
    /// Put before the prefix when writing, for packages (`DESTDIR` of `make install`).
    pub destdir: Option<PathBuf>,
}

/// One file of an installation.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its place below the prefix.
    pub to: PathBuf,
    /// What it is.
    pub content: Content,
}

/// What an [`Item`] is.
#[derive(Clone, Debug)]
pub enum Content {
    /// A text.
    Text(String),
    /// A copy of a file.
    File(PathBuf),
    /// A copy of a program or a shared library.
    Executable(PathBuf),
    /// A symbolic link to a file in the same folder.
    Link(String),
}

/// Why an installation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// Nothing to install.
    #[error(
        "{path}: not here; `cargo build --release` puts it beside the programs, then run \
         `target/release/cp-build install`"
    )]
    NoLibrary {
        /// Where the library should be.
        path: PathBuf,
    },
    /// A prefix that CMake and pkg-config could not find again.
    #[error("the prefix `{0}` is not an absolute path")]
    Prefix(PathBuf),
    /// A folder of libraries outside of the prefix.
    #[error("the libdir `{0}` is not a path below the prefix, such as `lib`")]
    Libdir(PathBuf),
    /// A path that cannot be written into CMake's and pkg-config's files.
    #[error("the path `{0}` is not UTF-8")]
    NotUtf8(PathBuf),
    /// A file could not be written.
    #[error("{path}: cannot install: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// All files of an installation for `target`, of the libraries and programs in the folder `from`.
///
/// # Errors
/// [`InstallError::NoLibrary`] where a library is missing in `from`; a target that cannot be.
pub fn items(from: &Path, target: &Target) -> Result<Vec<Item>, InstallError> {
    let Target { prefix, libdir, .. } = target;
    if !prefix.is_absolute() {
        return Err(InstallError::Prefix(prefix.clone()));
    }
    let depth = libdir.components().count();
    if depth == 0
        || !libdir
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
    {
        return Err(InstallError::Libdir(libdir.clone()));
    }
    let (shared, fixed) = (from.join(SHARED), from.join(STATIC));
    for path in [&shared, &fixed] {
        if !path.is_file() {
            return Err(InstallError::NoLibrary { path: path.clone() });
        }
    }
    let real = format!("{SHARED}.{VERSION}");
    let mut items = Vec::new();
    let mut add = |folder: &Path, name: &str, content| {
        items.push(Item {
            to: folder.join(name),
            content,
        });
    };
    for name in PROGRAMS {
        let program = from.join(name);
        if program.is_file() {
            add(Path::new("bin"), name, Content::Executable(program));
        }
    }
    add(libdir, &real, Content::Executable(shared));
    add(libdir, SONAME, Content::Link(real.clone()));
    add(libdir, SHARED, Content::Link(SONAME.to_owned()));
    add(libdir, STATIC, Content::File(fixed));

    let fill = Fill::new(target, &real)?;
    let cmake = libdir.join("cmake/centerpoint");
    let texts: [(&Path, &str, String); 7] = [
        (
            Path::new("include/centerpoint"),
            "centerpoint.h",
            include_str!("capi/include/centerpoint/centerpoint.h").to_owned(),
        ),
        (
            Path::new("include/centerpoint"),
            "centerpoint.hpp",
            include_str!("capi/include/centerpoint/centerpoint.hpp").to_owned(),
        ),
        (
            &cmake,
            "centerpoint-config.cmake",
            fill.text(include_str!("install/centerpoint-config.cmake")),
        ),
        (
            &cmake,
            "centerpoint-config-version.cmake",
            fill.text(include_str!("install/centerpoint-config-version.cmake")),
        ),
        (
            &libdir.join("pkgconfig"),
            "centerpoint.pc",
            fill.text(include_str!("install/centerpoint.pc")),
        ),
        (
            Path::new("share/doc/centerpoint"),
            "LICENSE-APACHE",
            include_str!("../LICENSE-APACHE").to_owned(),
        ),
        (
            Path::new("share/doc/centerpoint"),
            "LICENSE-MIT",
            include_str!("../LICENSE-MIT").to_owned(),
        ),
    ];
    for (folder, name, text) in texts {
        add(folder, name, Content::Text(text));
    }
    Ok(items)
}

/// Writes `items`, replacing what is there: a program that runs keeps its file. Gives the paths written.
///
/// # Errors
/// [`InstallError::Io`] for the first file that cannot be written; those before it stay.
pub fn install(items: &[Item], target: &Target) -> Result<Vec<PathBuf>, InstallError> {
    let root = match &target.destdir {
        None => target.prefix.clone(),
        // As `make install` does it: one path after the other.
        Some(destdir) => destdir.join(target.prefix.strip_prefix("/").unwrap_or(&target.prefix)),
    };
    let mut written = Vec::with_capacity(items.len());
    for item in items {
        let path = root.join(&item.to);
        put(&path, &item.content).map_err(|source| InstallError::Io {
            path: path.clone(),
            source,
        })?;
        written.push(path);
    }
    Ok(written)
}

/// Writes one file beside its place and moves it there.
fn put(path: &Path, content: &Content) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    fs::create_dir_all(folder)?;
    let mut part = std::ffi::OsString::from(".");
    part.push(name);
    part.push(".part");
    let part = folder.join(part);
    // Left behind by an installation that was interrupted.
    if part.symlink_metadata().is_ok() {
        fs::remove_file(&part)?;
    }
    match content {
        Content::Text(text) => {
            fs::write(&part, text)?;
            set_mode(&part, 0o644)?;
        }
        Content::File(from) => {
            fs::copy(from, &part)?;
            set_mode(&part, 0o644)?;
        }
        Content::Executable(from) => {
            fs::copy(from, &part)?;
            set_mode(&part, 0o755)?;
        }
        Content::Link(to) => link(to, &part)?,
    }
    fs::rename(&part, path)
}

/// Modes as `install` sets them, whatever the umask and the source's mode.
#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(unix)]
fn link(to: &str, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, path)
}

#[cfg(not(unix))]
fn set_mode(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn link(_: &str, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What stands for the names between `@` in the texts.
struct Fill(Vec<(&'static str, String)>);

impl Fill {
    fn new(target: &Target, library: &str) -> Result<Self, InstallError> {
        let text = |path: &Path| match path.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(InstallError::NotUtf8(path.into())),
        };
        let mut native = NATIVE.to_vec();
        if cfg!(feature = "tensorrt") {
            // The shim is C++.
            native.insert(0, "stdc++");
        }
        let up = vec![".."; target.libdir.components().count() + 2].join("/");
        let mut numbers = VERSION.split('.');
        let series = match (numbers.next(), numbers.next()) {
            (Some("0"), Some(minor)) => format!("0.{minor}"),
            (major, _) => major.unwrap_or_default().to_owned(),
        };
        let flags: Vec<String> = native.iter().map(|name| format!("-l{name}")).collect();
        Ok(Self(vec![
            ("@PREFIX@", text(&target.prefix)?),
            ("@LIBDIR@", text(&target.libdir)?),
            ("@UP@", up),
            ("@LIBRARY@", library.to_owned()),
            ("@SONAME@", SONAME.to_owned()),
            ("@VERSION@", VERSION.to_owned()),
            ("@SERIES@", series),
            ("@POINTER@", size_of::<usize>().to_string()),
            ("@NATIVE_CMAKE@", native.join(";")),
            ("@NATIVE_PC@", flags.join(" ")),
        ]))
    }

    fn text(&self, template: &str) -> String {
        self.0
            .iter()
            .fold(template.to_owned(), |text, (name, value)| {
                text.replace(name, value)
            })
    }
}
