//! Installation: the C library with its headers, the files for CMake and pkg-config, and the programs.
//!
//! ```text
//! PREFIX/bin/cp-*                              those found beside the library
//! PREFIX/include/centerpoint/centerpoint.{h,hpp}
//! PREFIX/LIBDIR/libcenterpoint.so → .so.ABI → .so.VERSION, libcenterpoint.a
//! PREFIX/LIBDIR/cmake/centerpoint/, PREFIX/LIBDIR/pkgconfig/centerpoint.pc
//! PREFIX/share/doc/centerpoint/LICENSE-*
//! ```
//!
//! [`items`] returns the list of files, to which callers may add, and [`install`] writes them. Headers and
//! texts are embedded in the program; libraries and programs are copied from the build folder.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::files::{self, FileError, OutputFile};

/// `libcenterpoint.so.ABI`, the name that programs linked with the library load.
pub(crate) const SONAME: &str = concat!("libcenterpoint.so.", env!("CENTERPOINT_ABI_VERSION"));

const VERSION: &str = env!("CARGO_PKG_VERSION");
const SHARED: &str = "libcenterpoint.so";
const STATIC: &str = "libcenterpoint.a";
const PROGRAMS: [&str; 4] = ["cp-infer", "cp-build", "cp-bench", "cp-ros2"];

/// Libraries needed with the static library: `rustc --print native-static-libs`.
const NATIVE: &[&str] = &["gcc_s", "util", "rt", "pthread", "m", "dl", "c"];

/// The destination of an installation.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where the installation will be used; an absolute path.
    pub prefix: PathBuf,
    /// Library folder below the prefix, such as `lib` or `lib/aarch64-linux-gnu`.
    pub libdir: PathBuf,
    /// Prepended to the prefix when writing, for packages (`DESTDIR` of `make install`).
    pub destdir: Option<PathBuf>,
}

/// A file of an installation.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Path below the prefix.
    pub to: PathBuf,
    /// Its content.
    pub content: Content,
}

/// The content of an [`Item`].
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A text.
    Text(String),
    /// A copy of a file.
    File(PathBuf),
    /// A copy of a program or a shared library.
    Executable(PathBuf),
    /// A symbolic link to a file in the same folder.
    Link(String),
}

/// An installation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum InstallError {
    /// A library is missing.
    #[error(
        "{path}: not found; build it with `cargo build --release`, then run \
         `target/release/cp-build install`"
    )]
    NoLibrary {
        /// The expected path.
        path: PathBuf,
    },
    /// The prefix is relative: CMake and pkg-config could not find it.
    #[error("the prefix `{0}` is not an absolute path")]
    Prefix(PathBuf),
    /// The library folder is outside the prefix.
    #[error("the libdir `{0}` is not a path below the prefix, such as `lib`")]
    Libdir(PathBuf),
    /// A path cannot be written into the files for CMake and pkg-config.
    #[error("the path `{0}` is not UTF-8")]
    NotUtf8(PathBuf),
    /// A file could not be written.
    #[error("{path}: cannot install")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// Lists the files of an installation for `target`, with the libraries and programs in the folder `from`.
///
/// # Errors
/// [`InstallError::NoLibrary`] if a library is missing in `from`; an invalid target.
pub(crate) fn items(from: &Path, target: &Target) -> Result<Vec<Item>, InstallError> {
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
    let (shared, archive) = (from.join(SHARED), from.join(STATIC));
    for path in [&shared, &archive] {
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
    add(libdir, STATIC, Content::File(archive));

    let substitutions = Substitutions::new(target, &real)?;
    let cmake = libdir.join("cmake/centerpoint");
    let texts: [(&Path, &str, String); 7] = [
        (
            Path::new("include/centerpoint"),
            "centerpoint.h",
            include_str!("include/centerpoint/centerpoint.h").to_owned(),
        ),
        (
            Path::new("include/centerpoint"),
            "centerpoint.hpp",
            include_str!("include/centerpoint/centerpoint.hpp").to_owned(),
        ),
        (
            &cmake,
            "centerpoint-config.cmake",
            substitutions.apply(include_str!("package/centerpoint-config.cmake")),
        ),
        (
            &cmake,
            "centerpoint-config-version.cmake",
            substitutions.apply(include_str!("package/centerpoint-config-version.cmake")),
        ),
        (
            &libdir.join("pkgconfig"),
            "centerpoint.pc",
            substitutions.apply(include_str!("package/centerpoint.pc")),
        ),
        (
            Path::new("share/doc/centerpoint"),
            "LICENSE-APACHE",
            include_str!("../../LICENSE-APACHE").to_owned(),
        ),
        (
            Path::new("share/doc/centerpoint"),
            "LICENSE-MIT",
            include_str!("../../LICENSE-MIT").to_owned(),
        ),
    ];
    for (folder, name, text) in texts {
        add(folder, name, Content::Text(text));
    }
    Ok(items)
}

/// Writes `items` and returns the paths. Existing files are replaced rather than overwritten, so running
/// programs keep theirs.
///
/// # Errors
/// [`InstallError::Io`] for the first file that cannot be written; the files before it remain.
pub(crate) fn install(items: &[Item], target: &Target) -> Result<Vec<PathBuf>, InstallError> {
    let root = match &target.destdir {
        None => target.prefix.clone(),
        // Concatenate the two, like `make install`.
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

/// Writes one file with the mode that `install` would set.
fn put(path: &Path, content: &Content) -> io::Result<()> {
    fs::create_dir_all(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    let io = |error: FileError| error.source;
    let (mode, mut from): (u32, Box<dyn io::Read + '_>) = match content {
        Content::Text(text) => (0o644, Box::new(text.as_bytes())),
        Content::File(from) => (0o644, Box::new(fs::File::open(from)?)),
        Content::Executable(from) => (0o755, Box::new(fs::File::open(from)?)),
        Content::Link(to) => return files::write_link(path, to).map_err(io),
    };
    let mut file = OutputFile::create_with_mode(path, mode).map_err(io)?;
    io::copy(&mut from, &mut file)?;
    file.finish().map_err(io)
}

/// The values of the `@NAMES@` in the templates.
struct Substitutions(Vec<(&'static str, String)>);

impl Substitutions {
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

    fn apply(&self, template: &str) -> String {
        self.0
            .iter()
            .fold(template.to_owned(), |text, (name, value)| {
                text.replace(name, value)
            })
    }
}
