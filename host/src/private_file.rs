//! Files with secrets: read with the strictness of OpenSSH about private keys, and replaced whole
//! or not at all.
//!
//! Everything is checked on an open descriptor, so a file that is swapped between the check and the
//! read was never the one that was checked. A refusal is one line that names the file and, where
//! there is one, the command that mends it.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::geteuid;
use tempfile::{NamedTempFile, PersistError};
use thiserror::Error;
use zeroize::Zeroizing;

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

/// A private file or folder that is refused, or could not be read or written.
#[derive(Debug, Error)]
#[error("{}: {problem}", path.display())]
pub struct PrivateFileError {
    /// The file or folder.
    pub path: PathBuf,
    /// Any problem with it.
    pub problem: FileProblem,
}

/// A problem with a private file or folder.
#[derive(Debug, Error)]
pub enum FileProblem {
    /// Nothing has this name.
    #[error("there is no such file")]
    Missing,
    /// It is there, and is not replaced.
    #[error("it is there already; remove it, or choose another name")]
    Exists,
    /// The system lets this user not have it.
    #[error("permission denied")]
    Denied,
    /// The name is a symbolic link, with which somebody could lead to another file.
    #[error("it is a symbolic link; name the file itself")]
    SymbolicLink,
    /// A folder where a file should be.
    #[error("it is a folder, not a file")]
    Folder,
    /// A named pipe.
    #[error("it is a named pipe, not a file")]
    Fifo,
    /// A socket or a device.
    #[error("it is not a regular file")]
    NotRegular,
    /// A file, or a symbolic link, where a folder should be.
    #[error("it is not a folder")]
    NotAFolder,
    /// Another user's.
    #[error("it belongs to user {owner}, and this program runs as user {user}")]
    OtherOwner {
        /// The owner's number.
        owner: u32,
        /// This program's user.
        user: u32,
    },
    /// Others have permissions to the file.
    #[error(
        "it holds a secret, and its permissions {mode:04o} let others have it; mend it with: {mend}"
    )]
    OpenToOthers {
        /// The permissions.
        mode: u32,
        /// The command.
        mend: String,
    },
    /// Others can make and replace files in the folder.
    #[error("its permissions {mode:04o} let others replace the files in it; mend it with: {mend}")]
    WritableFolder {
        /// The permissions.
        mode: u32,
        /// The command.
        mend: String,
    },
    /// The file has other names too, perhaps in a folder of somebody else's.
    #[error("it has {links} names (hard links), and a private file has one")]
    HardLinked {
        /// Their number.
        links: u64,
    },
    /// More bytes than such a file can have.
    #[error("it has {size} bytes, more than the {max_bytes} that such a file can have")]
    TooBig {
        /// The file's bytes.
        size: u64,
        /// The most that is read.
        max_bytes: u64,
    },
    /// It grew or shrank while it was read.
    #[error("it changed while it was read; try again")]
    Changed,
    /// It is no text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// Any other error of the system.
    #[error("{0}")]
    Io(io::Error),
}

impl FileProblem {
    fn at(self, path: &Path) -> PrivateFileError {
        PrivateFileError { path: path.to_owned(), problem: self }
    }
}

impl From<io::Error> for FileProblem {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => Self::Missing,
            Some(Errno::ACCESS | Errno::PERM) => Self::Denied,
            Some(Errno::LOOP) => Self::SymbolicLink,
            Some(Errno::ISDIR) => Self::Folder,
            Some(Errno::NOTDIR | Errno::EXIST) => Self::NotAFolder,
            // What opening a socket gives.
            Some(Errno::NXIO) => Self::NotRegular,
            _ => Self::Io(error),
        }
    }
}

impl From<Errno> for FileProblem {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
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

/// The path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@%,:=".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// To look at a folder without the permission to list it.
#[cfg(target_os = "linux")]
const LOOK: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const LOOK: OFlags = OFlags::RDONLY;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// A folder with a good private file in it, and the file's path.
    fn private_file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.cap.json");
        write_private(&path, b"secret").unwrap();
        (folder, path)
    }

    fn refusal(path: &Path) -> String {
        let line = read_private(path, 100).unwrap_err().to_string();
        assert!(!line.contains('\n'));
        line
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_private_file_reads_back_and_is_replaced_whole() {
        let (folder, path) = private_file();
        assert_eq!(*read_private(&path, 6).unwrap(), "secret");
        assert_eq!(mode(&path), 0o600);
        write_private(&path, b"").unwrap();
        assert_eq!(*read_private(&path, 0).unwrap(), "");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_new_file_replaces_nothing() {
        let (folder, path) = private_file();
        symlink("nowhere", folder.path().join("link")).unwrap();
        for taken in [path.clone(), folder.path().join("link"), folder.path().to_owned()] {
            let refusal = create_private(&taken, b"new").unwrap_err().to_string();
            assert_eq!(
                refusal,
                format!(
                    "{}: it is there already; remove it, or choose another name",
                    taken.display()
                )
            );
        }
        assert_eq!(*read_private(&path, 100).unwrap(), "secret");
        let fresh = folder.path().join("fresh");
        create_private(&fresh, b"new").unwrap();
        assert_eq!((mode(&fresh), &**read_private(&fresh, 100).unwrap()), (0o600, "new"));
        assert!(matches!(
            create_private(&path.join("below"), b"").unwrap_err().problem,
            FileProblem::NotAFolder
        ));
    }

    #[test]
    fn writing_replaces_a_link_and_mends_permissions_instead_of_following_them() {
        let (folder, path) = private_file();
        let victim = folder.path().join("victim");
        fs::rename(&path, &victim).unwrap();
        symlink(&victim, &path).unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"secret");
        chmod(&path, 0o666);
        write_private(&path, b"newer").unwrap();
        assert_eq!(*read_private(&path, 100).unwrap(), "newer");
    }

    #[test]
    fn permissions_for_others_are_refused_with_the_command_that_mends_them() {
        let (_folder, path) = private_file();
        for open in [0o644, 0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o660, 0o777] {
            chmod(&path, open);
            let path_shown = path.display();
            assert_eq!(
                refusal(&path),
                format!(
                    "{path_shown}: it holds a secret, and its permissions {open:04o} let others have it; \
                     mend it with: chmod 600 {path_shown}"
                )
            );
        }
        for private in [0o600, 0o400, 0o700] {
            chmod(&path, private);
            read_private(&path, 100).unwrap();
        }
    }

    #[test]
    fn what_is_not_one_regular_file_is_refused() {
        let (folder, path) = private_file();
        let at = |name: &str| folder.path().join(name);
        symlink(&path, at("symlink")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let cases = [
            ("symlink", "it is a symbolic link; name the file itself"),
            ("dangling", "it is a symbolic link; name the file itself"),
            ("folder", "it is a folder, not a file"),
            ("fifo", "it is a named pipe, not a file"),
            ("socket", "it is not a regular file"),
            ("missing", "there is no such file"),
            ("missing/file", "there is no such file"),
            ("x.cap.json/file", "it is not a folder"),
            ("..", "it is a folder, not a file"),
        ];
        for (name, expected) in cases {
            let refusal = refusal(&at(name));
            assert!(refusal.ends_with(expected), "{name}: {refusal}");
        }
        assert!(refusal(Path::new("/dev/null")).ends_with("it is not a regular file"));
    }

    #[test]
    fn a_file_to_write_to_is_made_private_and_is_no_link_and_no_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(matches!(
            open_own_if_there(&at("lock")).unwrap_err().problem,
            FileProblem::Missing
        ));
        open_own(&at("lock")).unwrap();
        append_own(&at("log")).unwrap().write_all(b"one ").unwrap();
        append_own(&at("log")).unwrap().write_all(b"two").unwrap();
        assert_eq!((mode(&at("lock")), mode(&at("log"))), (0o600, 0o600));
        assert_eq!(fs::read(at("log")).unwrap(), b"one two");
        symlink(at("log"), at("symlink")).unwrap();
        rustix::fs::mknodat(
            CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        fs::create_dir(at("folder")).unwrap();
        let cases = [
            ("symlink", "it is a symbolic link; name the file itself"),
            ("fifo", "it is a named pipe, not a file"),
            ("folder", "it is a folder, not a file"),
        ];
        for (name, expected) in cases {
            for open in [open_own, open_own_if_there, append_own] {
                let refusal = open(&at(name)).unwrap_err().to_string();
                assert!(refusal.ends_with(expected), "{name}: {refusal}");
            }
        }
        // Also if somebody reads from it.
        let _reader =
            openat(CWD, at("fifo"), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        assert!(matches!(open_own(&at("fifo")).unwrap_err().problem, FileProblem::Fifo));
    }

    #[test]
    fn a_hard_link_is_refused_until_it_is_gone() {
        let (folder, path) = private_file();
        let other = folder.path().join("other");
        fs::hard_link(&path, &other).unwrap();
        assert!(
            refusal(&path).ends_with("it has 2 names (hard links), and a private file has one")
        );
        fs::remove_file(other).unwrap();
        read_private(&path, 100).unwrap();
    }

    #[test]
    fn a_big_file_is_refused_unread_and_binary_is_no_text() {
        let (_folder, path) = private_file();
        File::options().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
        assert!(
            refusal(&path)
                .ends_with("it has 1073741824 bytes, more than the 100 that such a file can have")
        );
        write_private(&path, &[0xff]).unwrap();
        assert!(refusal(&path).ends_with("it is not UTF-8 text"));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_refused() {
        let (_folder, path) = private_file();
        for wrong_size in [5, 7] {
            let read = read_text(File::open(&path).unwrap(), wrong_size);
            assert!(matches!(read, Err(FileProblem::Changed)), "{read:?}");
        }
    }

    #[test]
    fn a_folder_in_which_anybody_can_replace_the_file_is_refused() {
        let (folder, path) = private_file();
        chmod(folder.path(), 0o777);
        let folder_shown = folder.path().display();
        let expected = format!(
            "{folder_shown}: its permissions 0777 let others replace the files in it; mend it with: chmod o-w {folder_shown}"
        );
        assert_eq!(refusal(&path), expected);
        assert_eq!(write_private(&path, b"new").unwrap_err().to_string(), expected);
        chmod(folder.path(), 0o1777);
        read_private(&path, 100).unwrap();
    }

    #[test]
    fn another_users_file_is_refused() {
        let (_folder, path) = private_file();
        // Only root can give a file away; for anybody else there is nothing to try.
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
            assert!(
                refusal(&path).contains("it belongs to user 12345, and this program runs as user")
            );
        }
    }

    #[test]
    fn what_the_system_denies_is_said_plainly() {
        // By its number, because root is denied nothing.
        assert_eq!(FileProblem::from(Errno::ACCESS).to_string(), "permission denied");
    }

    #[test]
    fn a_private_folder_is_made_private_and_kept_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        ensure_private_dir(&path).unwrap();
        ensure_private_dir(&path).unwrap();
        assert_eq!((mode(&path), mode(&folder.path().join("a"))), (0o700, 0o700));
        for writable in [0o770, 0o702, 0o1777] {
            chmod(&path, writable);
            let refusal = ensure_private_dir(&path).unwrap_err().to_string();
            assert!(
                refusal.ends_with(&format!("mend it with: chmod 700 {}", path.display())),
                "{refusal}"
            );
        }
        chmod(&path, 0o755);
        ensure_private_dir(&path).unwrap();

        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(ensure_private_dir(&link).unwrap_err().problem, FileProblem::NotAFolder));
        fs::write(folder.path().join("file"), "").unwrap();
        let file = ensure_private_dir(&folder.path().join("file")).unwrap_err();
        assert!(matches!(file.problem, FileProblem::NotAFolder), "{file}");
    }

    #[test]
    fn commands_quote_paths_as_a_shell_needs_it() {
        assert_eq!(quoted(Path::new("/h/a/x.cap.json")), "/h/a/x.cap.json");
        assert_eq!(quoted(Path::new("/my files/it's")), r"'/my files/it'\''s'");
    }
}
