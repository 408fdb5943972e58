//! The one writer of output files.
//!
//! A file appears under its name whole or not at all: the bytes go to a temporary file in the same folder, which
//! is synced to disk and renamed over the target. A reader therefore never sees half a file, two writers leave
//! one whole file, and an error leaves the existing file as it was. The folder must be writable. A program that is
//! interrupted removes the temporary file; a process that is killed leaves a hidden `.centerpoint-*.tmp` in the folder.
//!
//! - An existing file keeps its mode; a new one gets the umask's.
//! - Symbolic links are followed: the link stays, and its target is replaced or, if the link dangles, created.
//! - A target that is not a regular file (a device, a FIFO, `/dev/stdout`) is written in place.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{Builder, NamedTempFile};

/// Symbolic links followed before giving up, as Linux does.
const MAX_LINKS: usize = 40;

/// A file could not be read or written. The reason is the error's source.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot {action}")]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What failed, as a verb: "create", "write".
    pub action: &'static str,
    /// The operating system's reason.
    pub source: io::Error,
}

impl FileError {
    /// An error at `path`, for `map_err`; `action` is a verb.
    pub fn new(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self {
            path,
            action,
            source,
        }
    }
}

/// Length of the file at `path` in bytes.
///
/// # Errors
/// [`FileError`].
pub(crate) fn len(path: &Path) -> Result<u64, FileError> {
    let metadata = fs::metadata(path).map_err(FileError::new(path, "read"))?;
    Ok(metadata.len())
}

/// Writes `bytes` to `path`.
///
/// # Errors
/// [`FileError`]; an existing file is then unchanged.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes the file `path` with `fill`.
///
/// # Errors
/// [`FileError`], also for an error of `fill`; an existing file is then unchanged.
pub(crate) fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut OutputFile) -> io::Result<()>,
) -> Result<(), FileError> {
    let mut file = OutputFile::create(path)?;
    fill(&mut file).map_err(FileError::new(path, "write"))?;
    file.finish()
}

/// A buffered file that appears under its name when it is [finished](Self::finish), and not at all if it is
/// dropped before.
#[derive(Debug)]
pub(crate) struct OutputFile {
    /// As the caller named it, for errors.
    path: PathBuf,
    file: BufWriter<Destination>,
}

#[derive(Debug)]
enum Destination {
    /// A temporary file that will be renamed to `target`.
    Temporary {
        file: NamedTempFile,
        target: PathBuf,
        _listed: Listed,
    },
    /// A file that is not regular.
    InPlace(File),
}

impl OutputFile {
    /// Opens `path` for writing, following symbolic links.
    ///
    /// # Errors
    /// [`FileError`] if the folder does not exist or cannot be written.
    pub(crate) fn create(path: &Path) -> Result<Self, FileError> {
        Destination::open(path)
            .map(|file| Self::new(path, file))
            .map_err(FileError::new(path, "create"))
    }

    /// Opens `path` for a file of the mode `mode`, whatever the umask. An existing file is replaced with its mode,
    /// and a link itself rather than its target.
    #[cfg(any(feature = "build", test))]
    pub(crate) fn create_with_mode(path: &Path, mode: u32) -> Result<Self, FileError> {
        let open = || {
            let (folder, target) = resolve_folder(path)?;
            let file = temporary().tempfile_in(folder)?;
            set_mode(file.as_file(), mode)?;
            Ok(Destination::temporary(file, target))
        };
        open()
            .map(|file| Self::new(path, file))
            .map_err(FileError::new(path, "create"))
    }

    fn new(path: &Path, file: Destination) -> Self {
        Self {
            path: path.to_path_buf(),
            file: BufWriter::with_capacity(1 << 16, file),
        }
    }

    /// The path, as the caller named it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the file to disk and puts it into place.
    ///
    /// # Errors
    /// [`FileError`]; an existing file is then unchanged.
    pub(crate) fn finish(self) -> Result<(), FileError> {
        let Self { path, file } = self;
        let file = file
            .into_inner()
            .map_err(|error| FileError::new(&path, "write")(error.into_error()))?;
        match file {
            Destination::InPlace(mut file) => file.flush().map_err(FileError::new(&path, "write")),
            Destination::Temporary {
                file,
                target,
                _listed,
            } => {
                let synced = file.as_file().sync_all();
                synced.map_err(FileError::new(&path, "write"))?;
                put_into_place(file, &target).map_err(FileError::new(&path, "rename into place"))
            }
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for OutputFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// The temporary files of this process.
static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes the temporary files of outputs that are not finished, before the process ends without dropping them.
#[cfg(feature = "cli")]
pub(crate) fn remove_temporary() {
    for path in lock_temporary().drain(..) {
        // It may be in place by now.
        let _ = fs::remove_file(path);
    }
}

fn lock_temporary() -> MutexGuard<'static, Vec<PathBuf>> {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary file in [`TEMPORARY`].
#[derive(Debug)]
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        lock_temporary().retain(|path| *path != self.0);
    }
}

impl Destination {
    fn temporary(file: NamedTempFile, target: PathBuf) -> Self {
        let path = file.path().to_path_buf();
        lock_temporary().push(path.clone());
        Self::Temporary {
            file,
            target,
            _listed: Listed(path),
        }
    }

    fn open(path: &Path) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Ok(Self::InPlace(File::create(path)?));
        }
        let (mut folder, mut target) = resolve_folder(path)?;
        for _ in 0..MAX_LINKS {
            // `/dev/stdout` that is redirected to a regular file: the shell has opened that file, so a new file
            // in its place would miss the shell's other output.
            if folder.starts_with("/proc") {
                return Ok(Self::InPlace(File::create(path)?));
            }
            let Ok(link) = fs::read_link(&target) else {
                let file = temporary().tempfile_in(&folder)?;
                if let Ok(existing) = fs::metadata(&target) {
                    file.as_file().set_permissions(existing.permissions())?;
                }
                return Ok(Self::temporary(file, target));
            };
            (folder, target) = resolve_folder(&folder.join(link))?;
        }
        Err(io::Error::other("too many levels of symbolic links"))
    }

    fn file(&mut self) -> &mut File {
        match self {
            Self::Temporary { file, .. } => file.as_file_mut(),
            Self::InPlace(file) => file,
        }
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Seek for Destination {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file().seek(to)
    }
}

/// Makes `path` a symbolic link to `to`, and replaces an existing file or link.
#[cfg(any(feature = "build", test))]
pub(crate) fn write_link(path: &Path, to: &str) -> Result<(), FileError> {
    let link = || {
        let (folder, target) = resolve_folder(path)?;
        let link = temporary().make_in(folder, |path| symlink(to, path))?;
        put_into_place(link, &target)
    };
    link().map_err(FileError::new(path, "create"))
}

#[cfg(any(feature = "build", test))]
#[cfg(unix)]
fn symlink(to: &str, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, path)
}

#[cfg(any(feature = "build", test))]
#[cfg(unix)]
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(any(feature = "build", test))]
#[cfg(not(unix))]
fn symlink(_: &str, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(any(feature = "build", test))]
#[cfg(not(unix))]
fn set_mode(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

/// The folder of `path` without links, and `path` in it.
fn resolve_folder(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => fs::canonicalize(folder)?,
        _ => fs::canonicalize(".")?,
    };
    let target = folder.join(name);
    Ok((folder, target))
}

/// Hidden temporary files with a random part in their names; the umask decides their mode.
fn temporary() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(".centerpoint-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

/// Renames `file` to `target` and syncs the folder: the new name then survives a power failure.
fn put_into_place<F>(file: NamedTempFile<F>, target: &Path) -> io::Result<()> {
    file.persist(target).map_err(|error| error.error)?;
    // The file is in place; some file systems cannot sync a folder.
    if let Some(folder) = target.parent()
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all();
    }
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Names of everything in `folder`, sorted.
    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_appears_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut file = OutputFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.seek(SeekFrom::Start(1)).unwrap();
        file.write_all(b"E").unwrap();
        assert!(!path.exists());
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"nEw");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn an_existing_file_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, path) = (folder.path().join("plain"), folder.path().join("out"));
        fs::write(&plain, "").unwrap();
        write(&path, b"old").unwrap();
        assert_eq!(mode(&path), mode(&plain), "a new file has the umask's mode");
        for wanted in [0o600, 0o664, 0o755] {
            fs::set_permissions(&path, PermissionsExt::from_mode(wanted)).unwrap();
            write(&path, b"new").unwrap();
            assert_eq!(mode(&path), wanted);
        }
    }

    #[test]
    fn links_stay_and_their_targets_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("elsewhere")).unwrap();
        fs::write(at("elsewhere/target"), "old").unwrap();
        symlink("elsewhere/target", &at("link")).unwrap();
        symlink("link", &at("link-to-link")).unwrap();
        symlink("elsewhere/absent", &at("dangling")).unwrap();
        write(&at("link-to-link"), b"new").unwrap();
        write(&at("dangling"), b"made").unwrap();
        assert_eq!(fs::read(at("elsewhere/target")).unwrap(), b"new");
        assert_eq!(fs::read(at("elsewhere/absent")).unwrap(), b"made");
        for link in ["link", "link-to-link", "dangling"] {
            assert!(at(link).symlink_metadata().unwrap().is_symlink(), "{link}");
        }
        assert_eq!(names(&at("elsewhere")), ["absent", "target"]);

        symlink("round", &at("round")).unwrap();
        let error = write(&at("round"), b"").unwrap_err();
        assert_eq!((&error.path, error.action), (&at("round"), "create"));
    }

    #[test]
    fn what_is_no_regular_file_is_written_in_place() {
        write(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());

        // A descriptor of this process stands for `/dev/stdout` that is redirected to a file.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("redirected");
        let open = File::create(&path).unwrap();
        let name = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
        write(Path::new(&name), b"text").unwrap();
        assert_eq!(open.metadata().unwrap().len(), 4, "the file that is open");

        let fifo = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read(fifo).unwrap()
        });
        write(&fifo, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert_eq!(names(folder.path()), ["fifo", "redirected"]);
    }

    #[test]
    fn two_writers_leave_one_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        std::thread::scope(|scope| {
            for byte in [b'a', b'b'] {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write(path, &vec![byte; 200_000]).unwrap();
                    }
                });
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 200_000);
        assert!(bytes.iter().all(|&byte| byte == bytes[0]));
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn an_error_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        write(&path, b"old").unwrap();
        let error = write_with(&path, |file| {
            file.write_all(&[0; 1 << 18])?;
            Err(io::Error::other("no more"))
        })
        .unwrap_err();
        assert_eq!((&error.path, error.action), (&path, "write"));
        assert_eq!(error.source.to_string(), "no more");
        drop(OutputFile::create(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["out"]);

        for bad in ["absent/out", "out/below", ".."] {
            let bad = folder.path().join(bad);
            let error = write(&bad, b"").unwrap_err();
            assert_eq!((&error.path, error.action), (&bad, "create"));
        }
    }

    #[test]
    fn an_installed_file_replaces_a_link_and_has_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(&at("target"), b"old").unwrap();
        write_link(&at("out"), "target").unwrap();
        assert_eq!(fs::read_link(at("out")).unwrap(), Path::new("target"));
        let mut file = OutputFile::create_with_mode(&at("out"), 0o755).unwrap();
        file.write_all(b"new").unwrap();
        file.finish().unwrap();
        assert!(at("out").symlink_metadata().unwrap().is_file());
        assert_eq!(mode(&at("out")), 0o755);
        write_link(&at("out"), "target").unwrap();
        assert_eq!(fs::read(at("out")).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["out", "target"]);
    }
}
