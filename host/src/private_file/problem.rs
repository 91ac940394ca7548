//! Why a private file is refused, and the command that mends it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

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
    pub(super) fn at(self, path: &Path) -> PrivateFileError {
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

/// The path as a shell reads it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@%,:=".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
