//! The file: where it may be, who has it, which version it is.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use furlong_host::file_system::network_file_system;
use furlong_wire::ids::ClusterId;
use rusqlite::{Connection, ErrorCode as SqliteError, OpenFlags, params};

/// `FURL`: says that a database is a journal of ours.
const APPLICATION_ID: i64 = 0x4655_524c;
/// The version of the tables.
pub(super) const VERSION: i64 = 3;
/// Bytes of the write-ahead log that stay allocated after they were carried over.
const LOG_BYTES_KEPT: i64 = 64 * 1024 * 1024;

/// Never through a symbolic link. Without locks inside SQLite: a connection is one thread's at a
/// time.
const OPEN_FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_NOFOLLOW)
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// The tables of each version: what brings a journal from the one before to it.
const MIGRATIONS: [&str; VERSION as usize] = ["
    CREATE TABLE sessions (
        key INTEGER PRIMARY KEY, id BLOB NOT NULL, claims BLOB NOT NULL, secret BLOB NOT NULL, departed INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE definitions (
        session INTEGER NOT NULL, number INTEGER NOT NULL, head BLOB NOT NULL, payload BLOB,
        PRIMARY KEY (session, number)
    ) STRICT;
    CREATE TABLE tasks (
        id INTEGER PRIMARY KEY, session INTEGER NOT NULL, n INTEGER NOT NULL, head BLOB NOT NULL, options BLOB NOT NULL,
        payload BLOB, chunks INTEGER
    ) STRICT;
    CREATE INDEX tasks_chunks ON tasks (chunks) WHERE chunks IS NOT NULL;
    CREATE TABLE begun (id INTEGER PRIMARY KEY) STRICT;
    CREATE TABLE met (place INTEGER PRIMARY KEY, id INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
    CREATE INDEX met_id ON met (id);
    CREATE TABLE ends (
        id INTEGER PRIMARY KEY, ended_unix_us INTEGER NOT NULL, head BLOB NOT NULL, payload BLOB, delivered_us INTEGER
    ) STRICT;
    CREATE TABLE chunks (
        kind INTEGER NOT NULL, of INTEGER NOT NULL, place INTEGER NOT NULL, bytes BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX chunks_of ON chunks (kind, of, place);
    CREATE TABLE about (cluster BLOB NOT NULL) STRICT;
",
// Heads of tasks and ends have more fields, which those of before lack.
"",
// Options have one more.
""];

/// The owner of the chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A task's arguments.
    Request = 0,
    /// A task's result.
    Result = 1,
    /// A session's definition.
    Definition = 2,
}

/// Opens a journal for a broker, makes it if there is none, and brings it to this version.
pub(super) fn open(path: &Path, cluster: ClusterId) -> Result<Connection> {
    let shown = path.display();
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        bail!(
            "there is no folder {} for the journal: make it, or name another place with --journal",
            folder.display()
        );
    }
    let system = network_file_system(&folder)
        .with_context(|| format!("cannot look at {}", folder.display()))?;
    if let Some(system) = system {
        bail!(
            "the journal {shown} would be on {system}, a network file system, which does not keep what is synced: name \
             a path on a local disk, such as --journal /var/tmp/furlong-journal.db"
        );
    }
    if path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        make(path, &folder, cluster).with_context(|| format!("cannot make the journal {shown}"))?;
    }
    check_private(path)?;
    check_beside(path)?;
    let database = Connection::open_with_flags(path, OPEN_FLAGS);
    let mut database = database.with_context(|| format!("cannot open the journal {shown}"))?;
    prepare(&mut database, cluster).map_err(|error| explain(error, path))?;
    Ok(database)
}

/// Opens a journal to look at it.
pub(super) fn open_to_read(path: &Path) -> Result<Connection> {
    check_beside(path)?;
    // Not read-only: what a killed broker has left in the write-ahead log must be read with it.
    let database = Connection::open_with_flags(path, OPEN_FLAGS);
    let database =
        database.with_context(|| format!("cannot open the journal {}", path.display()))?;
    begin_exclusively(&database).map_err(|error| explain(error, path))?;
    Ok(database)
}

/// Makes a journal with nothing in it. It is there whole or not at all: an empty file in its place
/// is another's fault.
fn make(path: &Path, folder: &Path, cluster: ClusterId) -> Result<()> {
    let file = tempfile::Builder::new().prefix(".furlong-journal.").tempfile_in(folder)?;
    let mut database = Connection::open_with_flags(file.path(), OPEN_FLAGS)?;
    bring_to_this_version(&mut database, cluster)?;
    database.close().map_err(|(_, error)| error)?;
    file.persist_noclobber(path)?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// Checks the files that SQLite would use beside it: no link, and no named pipe, which would block
/// the broker.
fn check_beside(path: &Path) -> Result<()> {
    for end in ["-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        let beside = Path::new(&name);
        if beside.symlink_metadata().is_ok_and(|about| !about.is_file()) {
            bail!(
                "{} is no regular file, and the journal needs that name: remove it",
                beside.display()
            );
        }
    }
    Ok(())
}

/// As with every file that holds secrets: nobody else may have it, and it is what its name says.
fn check_private(path: &Path) -> Result<()> {
    let shown = path.display();
    let about =
        path.symlink_metadata().with_context(|| format!("cannot look at the journal {shown}"))?;
    if !about.is_file() {
        bail!("the journal {shown} is no regular file: name another one with --journal");
    }
    let mode = about.mode() & 0o7777;
    if mode & 0o077 != 0 {
        bail!(
            "the journal {shown} holds secrets, and its permissions {mode:o} let others have it: chmod 600 {shown}"
        );
    }
    if about.uid() != rustix::process::geteuid().as_raw() && !rustix::process::geteuid().is_root() {
        bail!("the journal {shown} belongs to another user: name another file with --journal");
    }
    Ok(())
}

fn prepare(database: &mut Connection, cluster: ClusterId) -> Result<()> {
    begin_exclusively(database)?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    database.set_prepared_statement_cache_capacity(32);
    bring_to_this_version(database, cluster)
}

/// Adds the tables that a journal of an earlier version does not have, and says whose it is if that
/// is not said yet.
fn bring_to_this_version(database: &mut Connection, cluster: ClusterId) -> Result<()> {
    let version: i64 = database.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let transaction = database.transaction()?;
    for tables in &MIGRATIONS[version as usize..] {
        transaction.execute_batch(tables)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    let of: Option<Vec<u8>> =
        transaction.query_row("SELECT max(cluster) FROM about", [], |row| row.get(0))?;
    match of {
        None => {
            _ = transaction
                .execute("INSERT INTO about (cluster) VALUES (?1)", params![&cluster.0[..]])?;
        }
        Some(of) if of == cluster.0 => {}
        Some(_) => bail!(
            "it is the journal of another cluster, or of this one before `--fresh`: name another file"
        ),
    }
    transaction.commit()?;
    Ok(())
}

/// From now on nobody else can open it, until this process ends in whatever way. What is no journal
/// is refused first, as it is.
fn begin_exclusively(database: &Connection) -> Result<()> {
    database.busy_timeout(Duration::ZERO)?;
    database.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    check_kind(database)?;
    database.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // The lock is taken by the first transaction, and kept.
    Ok(database.execute_batch("BEGIN IMMEDIATE; COMMIT;")?)
}

/// Checks that it is a journal, and of a version that is known here.
fn check_kind(database: &Connection) -> Result<()> {
    let version: i64 = database.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let id: i64 = database.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 =
        database.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        bail!(
            "it is empty: put it back from a copy, or remove it to begin a new one without what it had"
        );
    }
    if id != APPLICATION_ID {
        bail!("it is a database of another program");
    }
    if !(0..=VERSION).contains(&version) {
        bail!(
            "it is of version {version}, and this broker knows versions up to {VERSION}: use a later one"
        );
    }
    Ok(())
}

fn explain(error: anyhow::Error, path: &Path) -> anyhow::Error {
    let shown = path.display();
    match error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code) {
        Some(SqliteError::DatabaseBusy | SqliteError::DatabaseLocked) => {
            anyhow::anyhow!(
                "another broker has the journal {shown} open: stop it, or name another file"
            )
        }
        Some(SqliteError::NotADatabase) => {
            anyhow::anyhow!("{shown} is no journal: name another file with --journal")
        }
        _ => error.context(format!("cannot use the journal {shown}")),
    }
}

/// Forgets what ended before a moment, and rows that belong to nothing.
pub(super) fn tidy(database: &Connection, ended_before_unix_us: u64) -> rusqlite::Result<()> {
    let before = i64::try_from(ended_before_unix_us).unwrap_or(i64::MAX);
    let transaction = database.unchecked_transaction()?;
    transaction.execute(
        "DELETE FROM tasks WHERE id IN (SELECT id FROM ends WHERE ended_unix_us < ?1)",
        params![before],
    )?;
    transaction.execute_batch(
        "DELETE FROM ends WHERE id NOT IN (SELECT id FROM tasks);
         DELETE FROM begun WHERE id NOT IN (SELECT id FROM tasks);
         DELETE FROM met WHERE id NOT IN (SELECT id FROM tasks);
         DELETE FROM chunks WHERE kind = 1 AND of NOT IN (SELECT id FROM ends);
         DELETE FROM chunks WHERE kind = 0 AND of NOT IN (SELECT chunks FROM tasks WHERE chunks IS NOT NULL);
         DELETE FROM sessions WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.session = sessions.key);
         DELETE FROM definitions WHERE session NOT IN (SELECT key FROM sessions);
         DELETE FROM chunks WHERE kind = 2 AND (of >> 32) NOT IN (SELECT key FROM sessions);",
    )?;
    transaction.commit()
}
