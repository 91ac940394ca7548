//! Files that are replaced whole: whoever reads one sees the old contents or the new.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file beside the one that is there, and puts it in its place. What is no file, such as
/// a pipe, is written to. Without a mode it has that of the file that was there, else what the
/// user's mask leaves.
pub fn replace(path: &Path, contents: &[u8], mode: Option<u32>) -> Result<()> {
    write(path, contents, mode).with_context(|| format!("cannot write {}", path.display()))
}

fn write(path: &Path, contents: &[u8], mode: Option<u32>) -> io::Result<()> {
    // A link goes on leading to its file.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let old = match fs::metadata(&real) {
        Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() => {
            return OpenOptions::new().write(true).open(&real)?.write_all(contents);
        }
        found => found.ok(),
    };
    let folder = real.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // The system takes from these what the user's mask forbids.
    let masked = Permissions::from_mode(0o666);
    let mut file =
        tempfile::Builder::new().prefix(".furlong").permissions(masked).tempfile_in(folder)?;
    file.write_all(contents)?;
    let permissions = mode.map(Permissions::from_mode).or(old.map(|old| old.permissions()));
    if let Some(permissions) = permissions {
        file.as_file().set_permissions(permissions)?;
    }
    file.persist(&real).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_keeps_its_mode_and_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        replace(&file, b"one", None).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, b"two", None).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        replace(&file, b"three", Some(0o644)).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        replace(Path::new("/dev/null"), b"gone", None).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let folder = tempfile::tempdir().unwrap();
        let error = replace(folder.path(), b"", None).unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert!(replace(&folder.path().join("none/file"), b"", None).is_err());
    }
}
