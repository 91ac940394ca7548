//! `security/revoked.json`: read by the broker, added to by the broker and by `furlong cap revoke`.

use std::fs::File;
use std::path::{Path, PathBuf};

use furlong_wire::capability::{Revocation, RevokedError, RevokedTokens};
use furlong_wire::ids::TokenId;
use furlong_wire::limits::REVOKED_FILE_BYTES_MAX;
use thiserror::Error;

use crate::home::ClusterDir;
use crate::private_file::{FileProblem, PrivateFileError, open_own, read_private, write_private};

/// Reads the list of a cluster; nothing is revoked where there is no file.
pub fn load_revoked(dir: &ClusterDir) -> Result<RevokedTokens, RevokedFileError> {
    let path = dir.revoked();
    let text = match read_private(&path, REVOKED_FILE_BYTES_MAX) {
        Err(PrivateFileError { problem: FileProblem::Missing, .. }) => {
            return Ok(RevokedTokens::default());
        }
        text => text?,
    };
    RevokedTokens::from_json(&text).map_err(|problem| RevokedFileError::Invalid { path, problem })
}

/// Adds tokens to the list of a cluster, for good when it returns. Gives the whole list, and those
/// that are new in it.
///
/// Others may do the same at this moment: each waits for its turn. The broker reads the file again
/// within a second.
pub fn add_revoked(
    dir: &ClusterDir,
    tokens: &[TokenId],
    revocation: &Revocation,
) -> Result<(RevokedTokens, Vec<TokenId>), RevokedFileError> {
    let path = dir.revoked();
    let _turn = take_turn(&dir.security().join("revoked.lock"))?;
    let mut revoked = load_revoked(dir)?;
    let mut new = Vec::new();
    for &token in tokens {
        let added = revoked.revoke(token, revocation.clone());
        if added.map_err(|problem| RevokedFileError::Invalid { path: path.clone(), problem })? {
            new.push(token);
        }
    }
    if !new.is_empty() {
        write_private(&path, revoked.to_json().as_bytes())?;
    }
    Ok((revoked, new))
}

/// Held while the file is read, changed and written; free when its process ends, however it ends.
fn take_turn(path: &Path) -> Result<File, PrivateFileError> {
    let file = open_own(path)?;
    file.lock()
        .map_err(|error| PrivateFileError { path: path.to_owned(), problem: error.into() })?;
    Ok(file)
}

/// The reason that a list cannot be read or added to.
#[derive(Debug, Error)]
pub enum RevokedFileError {
    /// The file.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The contents are invalid.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: RevokedError,
    },
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::home::Home;
    use crate::private_file::ensure_private_dir;

    fn cluster() -> (tempfile::TempDir, ClusterDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = Home::at(folder.path()).cluster(&"lab".parse().unwrap());
        ensure_private_dir(&dir.security()).unwrap();
        (folder, dir)
    }

    fn revocation() -> Revocation {
        Revocation { revoked_s: 1, reason: None }
    }

    #[test]
    fn what_is_added_is_in_the_file_and_nothing_is_lost() {
        let (_folder, dir) = cluster();
        assert!(load_revoked(&dir).unwrap().is_empty());
        let tokens: Vec<TokenId> = (0..20).map(|byte| TokenId([byte; 16])).collect();
        std::thread::scope(|scope| {
            tokens.iter().for_each(|token| {
                _ = scope.spawn(|| add_revoked(&dir, &[*token], &revocation()).unwrap());
            });
        });
        let revoked = load_revoked(&dir).unwrap();
        assert!(tokens.iter().all(|token| revoked.get(*token).is_some()) && revoked.len() == 20);
        assert_eq!(fs::metadata(dir.revoked()).unwrap().mode() & 0o7777, 0o600);
        let (_, new) = add_revoked(&dir, &[tokens[0], TokenId([99; 16])], &revocation()).unwrap();
        assert_eq!(new, [TokenId([99; 16])]);
    }

    #[test]
    fn a_broken_list_is_never_replaced() {
        let (_folder, dir) = cluster();
        write_private(&dir.revoked(), b"{").unwrap();
        let error = add_revoked(&dir, &[TokenId([1; 16])], &revocation()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: EOF", dir.revoked().display())), "{error}");
        assert_eq!(fs::read(dir.revoked()).unwrap(), b"{");
    }
}
