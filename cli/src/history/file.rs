//! The file of a history: where it may be, who writes it, which version it is.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use furlong_host::file_system::network_file_system;
use furlong_host::private_file::{ensure_private_dir, open_own, open_own_if_there};
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

/// `FURH`: says that a database is a history of ours.
const APPLICATION_ID: i64 = 0x4655_5248;
/// The version of the tables.
const VERSION: i64 = 1;
/// The tables.
const SCHEMA: &str = include_str!("schema.sql");
/// Bytes of the write-ahead log that stay allocated after they were carried over.
const LOG_BYTES_KEPT: i64 = 16 * 1024 * 1024;
/// How long one who writes waits for a reader, and a reader for one who writes.
const BUSY: Duration = Duration::from_secs(60);

/// Never through a symbolic link. Without locks inside SQLite: a connection is one thread's at a
/// time.
const WRITING: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_CREATE)
    .union(OpenFlags::SQLITE_OPEN_NOFOLLOW)
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX);
/// A reader takes part in the write-ahead log, and so needs the right to write.
const READING: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_NOFOLLOW)
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// A history that this process writes; nobody else does meanwhile.
#[derive(Debug)]
pub struct WritableFile {
    /// The database.
    pub database: Connection,
    _lock: File,
}

impl WritableFile {
    /// Opens the history of a cluster, and makes it if there is none.
    ///
    /// # Errors
    /// Another process writes it, it is of another cluster, or of another program, or its file
    /// system is one over the network.
    pub fn open(path: &Path, cluster: &str, cluster_id: &str) -> Result<Self> {
        let shown = path.display();
        let folder = folder(path);
        if !folder.exists() {
            ensure_private_dir(&folder)?;
        }
        let system = network_file_system(&folder)
            .with_context(|| format!("cannot look at {}", folder.display()))?;
        if let Some(system) = system {
            bail!(
                "{shown} would be on {system}, a network file system, where SQLite's locks fail: \
                 name a path on a local disk with --file"
            );
        }
        let lock = open_own(&beside(path, ".lock"))?;
        if lock.try_lock().is_err() {
            bail!("another process writes {shown}: stop it, or name another file with --file");
        }
        // SQLite gives the files beside it the same mode.
        drop(open_own(path)?);
        check_private(path)?;
        let database = Connection::open_with_flags(path, WRITING)?;
        prepare(&database, cluster, cluster_id).map_err(|error| explain(error, path))?;
        Ok(Self { database, _lock: lock })
    }
}

/// Opens a history to read it.
///
/// # Errors
/// There is none, or it is another program's.
pub fn open_to_read(path: &Path) -> Result<Connection> {
    let shown = path.display();
    ensure!(
        path.symlink_metadata().is_ok(),
        "there is no history {shown}: `furlong history record` writes one while it runs"
    );
    check_private(path)?;
    let open = || -> Result<Connection> {
        let database = Connection::open_with_flags(path, READING)?;
        database.busy_timeout(BUSY)?;
        database.pragma_update(None, "query_only", true)?;
        check_kind(&database)?;
        Ok(database)
    };
    open().map_err(|error| explain(error, path))
}

/// Returns true if a process writes a history at this moment.
pub fn is_written(path: &Path) -> bool {
    let lock = open_own_if_there(&beside(path, ".lock"));
    path.exists() && lock.is_ok_and(|lock| lock.try_lock().is_err())
}

/// Bytes that a history occupies, without its write-ahead log.
pub fn bytes(database: &Connection) -> rusqlite::Result<u64> {
    let of = |name| database.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok(((of("page_count")? - of("freelist_count")?) * of("page_size")?).max(0) as u64)
}

fn prepare(database: &Connection, cluster: &str, cluster_id: &str) -> Result<()> {
    database.busy_timeout(BUSY)?;
    let tables: i64 =
        database.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        // Before the first table, or it has no effect.
        database.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        let whole = format!(
            "BEGIN IMMEDIATE; {SCHEMA}; PRAGMA application_id = {APPLICATION_ID}; \
             PRAGMA user_version = {VERSION}; COMMIT;"
        );
        database.execute_batch(&whole)?;
        database.execute(
            "UPDATE about SET cluster = ?1, cluster_id = ?2, \
             made_us = CAST(1e6 * (julianday('now') - 2440587.5) * 86400 AS INTEGER)",
            params![cluster, cluster_id],
        )?;
    }
    check_kind(database)?;
    let of: String = database.query_row("SELECT cluster_id FROM about", [], |row| row.get(0))?;
    ensure!(
        of == cluster_id,
        "it is the history of another cluster: name another file with --file"
    );
    database.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // What a power failure takes is told by the broker again.
    database.pragma_update(None, "synchronous", "NORMAL")?;
    database.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    database.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn check_kind(database: &Connection) -> Result<()> {
    let value = |name| database.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (id, version) = (value("application_id")?, value("user_version")?);
    ensure!(id == APPLICATION_ID, "it is a database of another program");
    ensure!(
        version == VERSION,
        "it is of version {version}, and this program knows version {VERSION}: use a later one"
    );
    Ok(())
}

/// As with every file that says what somebody runs: nobody else may have it.
fn check_private(path: &Path) -> Result<()> {
    let shown = path.display();
    let about = path.symlink_metadata().with_context(|| format!("cannot look at {shown}"))?;
    ensure!(about.is_file(), "{shown} is no regular file: name another one with --file");
    let mode = about.mode() & 0o7777;
    if mode & 0o077 != 0 {
        bail!(
            "{shown} says what was run, and its permissions {mode:o} let others have it: chmod \
             600 {shown}"
        );
    }
    for end in ["-wal", "-shm"] {
        let beside = beside(path, end);
        if beside.symlink_metadata().is_ok_and(|about| !about.is_file()) {
            bail!("{} is no regular file, and SQLite needs that name: remove it", beside.display());
        }
    }
    Ok(())
}

fn explain(error: anyhow::Error, path: &Path) -> anyhow::Error {
    let shown = path.display();
    match error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code) {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            anyhow!("{shown} is in use by another program for too long: try again")
        }
        Some(ErrorCode::NotADatabase) => anyhow!("{shown} is no history: name another with --file"),
        _ => error.context(format!("cannot use {shown}")),
    }
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}
