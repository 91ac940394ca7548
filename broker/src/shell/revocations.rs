//! `security/revoked.json` while the broker runs: it is looked at every second and at each
//! handshake, and obeyed when it changes.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use furlong_host::home::ClusterDir;
use furlong_host::revoked::{RevokedFileError, add_revoked, load_revoked};
use furlong_wire::capability::{Revocation, RevokedTokens};
use furlong_wire::ids::TokenId;
use tokio::task::spawn_blocking;

/// The tokens that are revoked, and the file that says so.
#[derive(Debug)]
pub(super) struct Revocations {
    dir: ClusterDir,
    tokens: RefCell<RevokedTokens>,
    /// The file's stamp when it was last read, readable or not.
    seen: Cell<Option<Stamp>>,
}

/// The mark of one version of a file, found without reading it. The inode, because a file that is
/// replaced twice within a tick of the file system's clock may have the size of before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Revocations {
    /// Reads the file at the broker's start.
    ///
    /// # Errors
    /// A file that cannot be read: without it, whom it keeps out would come in.
    pub(super) fn load(dir: &ClusterDir) -> Result<Self> {
        let seen = Cell::new(stamp(dir));
        let tokens = load_revoked(dir).context(
            "the broker does not start without knowing whose token is revoked; mend the file, or remove it if it is \
             of no use",
        )?;
        Ok(Self { dir: dir.clone(), tokens: RefCell::new(tokens), seen })
    }

    /// Reads the file if it has changed. Whether the tokens may have changed; then [`Self::tokens`]
    /// has them.
    ///
    /// A file that cannot be read or is gone changes nothing: the last good list stays in force,
    /// and the log says so, once for each version of the file.
    pub(super) async fn look(&self) -> bool {
        let stamp = stamp(&self.dir);
        // Retained from before the file is read: if it is replaced meanwhile, the next look reads
        // it again.
        if self.seen.replace(stamp) == stamp {
            return false;
        }
        let path = self.dir.revoked();
        if stamp.is_none() {
            tracing::warn!(
                "{} is gone; what it revoked stays revoked until the broker is restarted",
                path.display()
            );
            return false;
        }
        let dir = self.dir.clone();
        // Elsewhere, so that a large file or a slow disk delays no task.
        match spawn_blocking(move || load_revoked(&dir)).await {
            Ok(Ok(tokens)) => {
                tracing::info!(
                    "{} is read again: {} tokens are revoked",
                    path.display(),
                    tokens.len()
                );
                self.tokens.replace(tokens);
                true
            }
            Ok(Err(error)) => {
                tracing::error!("{error}; what was revoked before stays so");
                false
            }
            Err(_) => false,
        }
    }

    /// Adds tokens to the file, for good.
    ///
    /// # Errors
    /// The reason that it could not be written, as people read it.
    pub(super) async fn add(&self, tokens: Vec<TokenId>) -> Result<(), String> {
        let dir = self.dir.clone();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let revocation = Revocation { revoked_s: since_1970.as_secs(), reason: None };
        let added = spawn_blocking(move || add_revoked(&dir, &tokens, &revocation)).await;
        let (all, new) = added
            .map_err(|error| error.to_string())?
            .map_err(|error: RevokedFileError| error.to_string())?;
        for token in new {
            tracing::info!("an administrator has revoked token {token}");
        }
        self.tokens.replace(all);
        Ok(())
    }

    /// Hands out the tokens that are revoked.
    pub(super) fn tokens(&self) -> std::cell::Ref<'_, RevokedTokens> {
        self.tokens.borrow()
    }
}

fn stamp(dir: &ClusterDir) -> Option<Stamp> {
    match dir.revoked().symlink_metadata() {
        Ok(file) => Some(Stamp {
            inode: file.ino(),
            bytes: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // Reading it will say why it cannot be looked at.
        Err(_) => Some(Stamp { inode: 0, bytes: 0, modified: (0, 0) }),
    }
}
