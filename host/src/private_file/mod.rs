//! Files with secrets: read with the strictness of OpenSSH about private keys, and replaced whole
//! or not at all.
//!
//! Everything is checked on an open descriptor, so a file that is swapped between the check and the
//! read was never the one that was checked. A refusal is one line that names the file and, where
//! there is one, the command that mends it.

mod problem;

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::geteuid;
use tempfile::{NamedTempFile, PersistError};
use zeroize::Zeroizing;

use problem::quoted;
pub use problem::{FileProblem, PrivateFileError};

/// Reads a private file of at most `max_bytes`.
///
/// It has to be a regular file of one name, owned by this user or by root, with no permission for
/// anybody else, in a folder in which others cannot replace it. The text is erased from memory when
/// it is dropped.
pub fn read_private(path: &Path, max_bytes: u64) -> Result<Zeroizing<String>, PrivateFileError> {
    let (folder, name) = split(path)?;
    // What is missed is the file, also where its folder is missing too.
    let folder = open_shared_safely(folder).map_err(|error| match error.problem {
        FileProblem::Missing => FileProblem::Missing.at(path),
        _ => error,
    })?;
    // NONBLOCK: a FIFO would otherwise hold the program until somebody writes. NOCTTY: nor may a
    // terminal take it over.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = openat(&folder, name, flags, Mode::empty()).map(File::from);
    let read = opened.map_err(FileProblem::from).and_then(|file| {
        let size = check_file(&file, path, max_bytes)?;
        read_text(file, size)
    });
    read.map_err(|problem| problem.at(path))
}

/// Replaces a private file, or makes it: whoever reads it sees the old bytes or the new, also after
/// a power failure.
///
/// The new bytes are written to another file in the same folder, with permissions 0600 from the
/// first byte on.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    write_whole(path, bytes, true, |file| file.persist(path))
}

/// The same without waiting for the disk: after a power failure the old bytes may be there.
pub fn write_private_soon(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    write_whole(path, bytes, false, |file| file.persist(path))
}

/// The same for a file that must not be there yet: nothing is replaced.
pub fn create_private(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let created = write_whole(path, bytes, true, |file| file.persist_noclobber(path));
    created.map_err(|error| match error.problem {
        FileProblem::NotAFolder if path.symlink_metadata().is_ok() => FileProblem::Exists.at(path),
        _ => error,
    })
}

fn write_whole(
    path: &Path,
    bytes: &[u8],
    is_synced: bool,
    persist: impl FnOnce(NamedTempFile) -> Result<File, PersistError>,
) -> Result<(), PrivateFileError> {
    let (folder, name) = split(path)?;
    open_shared_safely(folder)?;
    let write = || -> io::Result<()> {
        let mut prefix = OsStr::new(".").to_owned();
        prefix.push(name);
        prefix.push(".");
        // `tempfile` opens with O_EXCL and 0600.
        let mut file = tempfile::Builder::new().prefix(&prefix).tempfile_in(folder)?;
        file.write_all(bytes)?;
        if !is_synced {
            return persist(file).map(|_| ()).map_err(io::Error::from);
        }
        file.as_file().sync_all()?;
        persist(file)?;
        // Without this the name may still lead to the old file after a crash.
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| FileProblem::from(error).at(path))
}

/// Opens a file of a program's own to be written to, such as a lock, and makes it (0600) if it is
/// missing.
///
/// It has to be a regular file, of this user or of root: a link could lead to another file, and a
/// named pipe would hold the program.
pub fn open_own(path: &Path) -> Result<File, PrivateFileError> {
    open_to_write(path, OFlags::CREATE)
}

/// The same for a file that is there.
pub fn open_own_if_there(path: &Path) -> Result<File, PrivateFileError> {
    open_to_write(path, OFlags::empty())
}

/// The same for a file that grows at its end, such as a log.
pub fn append_own(path: &Path) -> Result<File, PrivateFileError> {
    open_to_write(path, OFlags::CREATE | OFlags::APPEND)
}

fn open_to_write(path: &Path, more: OFlags) -> Result<File, PrivateFileError> {
    let flags = OFlags::WRONLY
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC
        | more;
    let opened = openat(CWD, path, flags, Mode::RUSR | Mode::WUSR).map(File::from);
    let checked = opened.map_err(FileProblem::from).and_then(|file| {
        check_kind(&file.metadata()?)?;
        Ok(file)
    });
    checked.map_err(|problem| {
        match problem {
            // Nobody reads from the pipe.
            FileProblem::NotRegular
                if path.symlink_metadata().is_ok_and(|it| it.file_type().is_fifo()) =>
            {
                FileProblem::Fifo
            }
            problem => problem,
        }
        .at(path)
    })
}

/// Makes a private folder (0700), with the folders above it, unless it is there; refuses one that
/// others can write.
pub fn ensure_private_dir(path: &Path) -> Result<(), PrivateFileError> {
    let creation = DirBuilder::new().recursive(true).mode(0o700).create(path);
    creation.map_err(|error| FileProblem::from(error).at(path))?;
    if let Ok((parent, _)) = split(path) {
        open_shared_safely(parent)?;
    }
    let checked = open_folder(path, OFlags::NOFOLLOW).and_then(|folder| {
        let metadata = folder.metadata()?;
        check_owner(&metadata)?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 == 0 {
            Ok(())
        } else {
            Err(FileProblem::WritableFolder { mode, mend: format!("chmod 700 {}", quoted(path)) })
        }
    });
    checked.map_err(|problem| problem.at(path))
}

/// The folder and the name in it.
fn split(path: &Path) -> Result<(&Path, &OsStr), PrivateFileError> {
    let name = path.file_name().ok_or_else(|| FileProblem::Folder.at(path))?;
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((folder, name))
}

/// Opens the folder of a private file, in which nobody else may replace that file: not writable by
/// all, or sticky as `/tmp` is. Writing by a group is not looked at: groups of one user, with umask
/// 002, are common.
fn open_shared_safely(folder: &Path) -> Result<File, PrivateFileError> {
    let opened = open_folder(folder, OFlags::empty()).and_then(|file| {
        let mode = file.metadata()?.mode() & 0o7777;
        if mode & 0o1002 == 0o0002 {
            Err(FileProblem::WritableFolder { mode, mend: format!("chmod o-w {}", quoted(folder)) })
        } else {
            Ok(file)
        }
    });
    opened.map_err(|problem| problem.at(folder))
}

fn open_folder(folder: &Path, more: OFlags) -> Result<File, FileProblem> {
    let flags = LOOK | OFlags::DIRECTORY | OFlags::CLOEXEC | more;
    Ok(openat(CWD, folder, flags, Mode::empty())?.into())
}

/// Checks all but the text; gives the size.
fn check_file(file: &File, path: &Path, max_bytes: u64) -> Result<u64, FileProblem> {
    let metadata = file.metadata()?;
    check_kind(&metadata)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileProblem::OpenToOthers {
            mode,
            mend: format!("chmod 600 {}", quoted(path)),
        });
    }
    // None is fine: `write_private` has just replaced the file that is open here.
    let links = metadata.nlink();
    if links > 1 {
        return Err(FileProblem::HardLinked { links });
    }
    let size = metadata.size();
    if size > max_bytes { Err(FileProblem::TooBig { size, max_bytes }) } else { Ok(size) }
}

/// A regular file, of this user or of root.
fn check_kind(metadata: &std::fs::Metadata) -> Result<(), FileProblem> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(FileProblem::Folder);
    }
    if kind.is_fifo() {
        return Err(FileProblem::Fifo);
    }
    if !kind.is_file() {
        return Err(FileProblem::NotRegular);
    }
    check_owner(metadata)
}

fn check_owner(metadata: &std::fs::Metadata) -> Result<(), FileProblem> {
    let (owner, user) = (metadata.uid(), geteuid().as_raw());
    if owner == user || owner == 0 { Ok(()) } else { Err(FileProblem::OtherOwner { owner, user }) }
}

/// Reads exactly `size` bytes into a buffer that never moves, so that no copy of the secret stays
/// behind.
fn read_text(mut file: File, size: u64) -> Result<Zeroizing<String>, FileProblem> {
    let size =
        usize::try_from(size).map_err(|_| FileProblem::Io(io::ErrorKind::OutOfMemory.into()))?;
    let mut bytes = Zeroizing::new(vec![0; size]);
    match file.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(FileProblem::Changed);
        }
        read => read?,
    }
    if file.read(&mut [0])? != 0 {
        return Err(FileProblem::Changed);
    }
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        FileProblem::NotText
    })
}

/// To look at a folder without the permission to list it.
#[cfg(target_os = "linux")]
const LOOK: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const LOOK: OFlags = OFlags::RDONLY;

#[cfg(test)]
mod tests;
