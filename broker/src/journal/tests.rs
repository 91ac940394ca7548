//! The file against the journal in memory, and what becomes of it when its broker is killed, or its
//! disk is full.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::ids::{
    BrokerStart, ClusterId, EngineId, InstanceId, OwnerId, SessionId, TaskId, TaskSeq, TokenId,
};
use furlong_wire::keys::{AtRestKey, PublicKey};
use furlong_wire::message::{
    AttemptRecord, ErrorKind, Outcome, RunTimes, Runtime, Stream, TaskOptions, TaskState,
};
use furlong_wire::payload::{InlineBytes, PayloadSecret};
use furlong_wire::token::{Claims, Role, TokenLimits};
use proptest::prelude::*;
use tempfile::TempDir;

use super::read::Reader;
use super::write::Writer;
use super::{Journal, check, file};
use crate::core::Piece;
use crate::core::journal::{
    Blob, Chunked, Content, EndRow, Entry, MemoryJournal, Met, Restoring, SessionRow, TaskRow,
    definition_id,
};
use crate::core::{Config, Core, Roster, invariants};

const CLUSTER: ClusterId = ClusterId([9; 32]);

fn key() -> AtRestKey {
    AtRestKey::from_bytes([5; 32])
}

struct Place {
    _dir: TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    Place { _dir: dir, path }
}

fn private(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn writer(path: &Path) -> Writer {
    let Journal { path, database, sealer } = Journal::open(path, CLUSTER, &key()).unwrap();
    Writer::new(database, sealer, path)
}

fn core(memory: u64) -> Core {
    let config = Config {
        start: BrokerStart(1_000_000_000_000),
        cluster: CLUSTER,
        cluster_name: "test".into(),
        software: "test".into(),
        pid: 1,
        payload_bytes_max: memory,
        memory_flag: "--memory",
        tasks_max: 1_000_000,
        kept_max: 100_000,
        journal_keep: Some(std::time::Duration::from_hours(1)),
    };
    Core::new(config, &Roster::default())
}

fn session(key: u32) -> Entry {
    let claims = Claims {
        cluster: CLUSTER,
        token_id: TokenId([key as u8; 16]),
        holder: PublicKey([9; 32]),
        owner: OwnerId([7; 16]),
        role: Role::Client,
        scopes: vec!["gpu".into()],
        limits: TokenLimits::default(),
        not_before_s: 0,
        expires_s: Claims::NEVER,
    };
    let (id, secret) = (SessionId([key as u8; 16]), PayloadSecret::new([key as u8; 32]));
    Entry::Session(Box::new(SessionRow { key, id, claims, secret, departed: false }))
}

fn task(id: u64, session: u32, payload: Blob) -> TaskRow {
    TaskRow {
        id,
        session,
        n: TaskSeq(id),
        target: None,
        runtime: Runtime::Python,
        class: 4,
        name: Some("night.work".into()),
        define: None,
        options: Arc::new(TaskOptions { durable: true, ..TaskOptions::default() }),
        payload,
        submitted_unix_us: 999_000_000_000 + id,
        begun: false,
        met: Vec::new(),
    }
}

fn end(id: u64, payload: Option<Blob>) -> EndRow {
    EndRow {
        id,
        ended_unix_us: 999_500_000_000,
        outcome: Outcome::error(TaskState::Failed, ErrorKind::Remote, "it raised"),
        engine: Some(EngineId(3)),
        attempts: 2,
        losses: 1,
        errors: 1,
        assigned_us: Some(5),
        finished_us: 77,
        run: RunTimes { began_us: 1, load_us: 2, run_us: 70, store_us: 3 },
        request_bytes: 8,
        request_chunks: None,
        past: vec![AttemptRecord {
            engine: EngineId(1),
            assigned_us: 1,
            ended_us: 2,
            how: "lost".into(),
        }],
        payload,
        output: vec![Piece { stream: Stream::Stdout, offset: 0, bytes: b"hello".to_vec() }],
        output_bytes: (5, 0),
        delivered_us: None,
    }
}

fn inline() -> Blob {
    Blob::Inline(InlineBytes::copy_from_slice(b"call and arguments"))
}

fn chunked(of: u64, is_first: bool) -> Blob {
    let chunks = || vec![Bytes::from(vec![of as u8; 3_000])];
    let content = is_first.then(|| Content::Chunks(chunks()));
    Blob::Chunked(Chunked {
        of,
        counter: 6,
        bytes: 2_984,
        instance: Some(InstanceId([2; 16])),
        content,
    })
}

/// Everything that a journal gives back, as text.
fn contents(path: &Path) -> Vec<String> {
    let journal = Journal::open(path, CLUSTER, &key()).unwrap();
    file::tidy(&journal.database, 0).unwrap();
    let mut reader = Reader::new(&journal.database).unwrap();
    let mut contents = Vec::new();
    reader
        .sessions(|row, secret| {
            let secret = journal.sealer.open(&row.id, secret).unwrap();
            contents.push(format!("{} {} {:?} {}", row.key, row.id, row.claims, row.departed));
            assert!(secret == PayloadSecret::new([row.key as u8; 32]));
            Ok(())
        })
        .unwrap();
    let definitions = reader.definitions(|session, number, blob| {
        contents.push(format!("{session} {number} {blob:?}"));
        Ok(())
    });
    definitions.unwrap();
    let unfinished = reader.unfinished(|task| {
        contents.push(format!("{task:?}"));
        Ok(())
    });
    unfinished.unwrap();
    let ended = reader.ended(|task, end| {
        contents.push(format!("{task:?} {end:?}"));
        Ok(())
    });
    ended.unwrap();
    contents
}

fn contents_of_memory(memory: &mut MemoryJournal) -> Vec<String> {
    let mut contents = Vec::new();
    memory.tidy(0);
    memory.sessions().for_each(|row| {
        contents.push(format!("{} {} {:?} {}", row.key, row.id, row.claims, row.departed));
    });
    memory.definitions().for_each(|((session, number), blob)| {
        contents.push(format!("{session} {number} {blob:?}"));
    });
    let rows = memory.rows();
    let unfinished =
        rows.iter().filter(|(_, end)| end.is_none()).map(|(task, _)| format!("{task:?}"));
    contents.extend(unfinished);
    contents.extend(
        rows.iter().filter_map(|(task, end)| Some(format!("{task:?} {:?}", end.as_ref()?))),
    );
    contents
}

/// A step of a test of a journal with a few tasks.
#[derive(Clone, Debug)]
enum Step {
    Task(u64, u8, bool),
    Begun(u64),
    Met(u64, u64),
    Ended(u64, u8),
    Delivered(u64),
    Forgotten(u64),
    Departed(u32),
    Definition(u32, u32, bool),
    Commit,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 1..12u64;
    prop_oneof![
        8 => (id(), 0..3u8, any::<bool>())
            .prop_map(|(id, kind, options)| Step::Task(id, kind, options)),
        1 => id().prop_map(Step::Begun),
        2 => (id(), id()).prop_map(|(id, of)| Step::Met(id, of)),
        5 => (id(), 0..3u8).prop_map(|(id, kind)| Step::Ended(id, kind)),
        1 => id().prop_map(Step::Delivered),
        4 => id().prop_map(Step::Forgotten),
        1 => (1..4u32).prop_map(Step::Departed),
        1 => (1..4u32, 1..3u32, any::<bool>())
            .prop_map(|(of, number, large)| Step::Definition(of, number, large)),
        3 => Just(Step::Commit),
        1 => Just(Step::Reopen),
    ]
}

/// The rows that exist by now, so that entries are such as the core gives.
#[derive(Default)]
struct Known {
    /// Tasks by their numbers, with whose chunks they have as arguments.
    tasks: BTreeMap<u64, Option<u64>>,
    ended: BTreeSet<u64>,
    /// Those that came and went: no number comes twice.
    gone: BTreeSet<u64>,
    defined: BTreeSet<(u32, u32)>,
}

impl Known {
    fn entry(&mut self, step: &Step) -> Option<Entry> {
        let live = |id: &u64| self.tasks.contains_key(id) && !self.ended.contains(id);
        match *step {
            Step::Task(id, kind, priority)
                if !self.tasks.contains_key(&id) && !self.gone.contains(&id) =>
            {
                let shared = self.tasks.iter().filter(|(id, _)| live(id)).find_map(|(_, of)| *of);
                let (payload, of) = match (kind, shared) {
                    (0, _) => (inline(), None),
                    (2, Some(of)) => (chunked(of, false), Some(of)),
                    _ => (chunked(id, true), Some(id)),
                };
                self.tasks.insert(id, of);
                let row = task(id, id as u32 % 3 + 1, payload);
                let priority = i32::from(priority);
                let options = Arc::new(TaskOptions { priority, ..(*row.options).clone() });
                Some(Entry::Task(Box::new(TaskRow { options, ..row })))
            }
            Step::Begun(id) if live(&id) => Some(Entry::Begun(id)),
            Step::Met(id, of) if live(&id) => {
                let task = TaskId { session: SessionId([1; 16]), n: TaskSeq(of) };
                Some(Entry::Met(id, Met { task, succeeded: true, engine: Some(EngineId(2)) }))
            }
            Step::Ended(id, kind) if live(&id) => {
                self.ended.insert(id);
                let payload =
                    [None, Some(inline()), Some(chunked(id, true))][usize::from(kind)].clone();
                let request_chunks = self.tasks.insert(id, None).flatten();
                Some(Entry::Ended(Box::new(EndRow { request_chunks, ..end(id, payload) })))
            }
            Step::Delivered(id) if self.ended.contains(&id) => Some(Entry::Delivered(id, 5)),
            Step::Forgotten(id) if self.tasks.remove(&id).is_some() => {
                self.ended.remove(&id);
                self.gone.insert(id);
                Some(Entry::Forgotten(id))
            }
            Step::Departed(key) => Some(Entry::Departed(key)),
            Step::Definition(session, number, large) if self.defined.insert((session, number)) => {
                let of = definition_id(session, number);
                Some(Entry::Definition(
                    session,
                    number,
                    if large { chunked(of, true) } else { inline() },
                ))
            }
            _ => None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_file_has_what_was_written_and_nothing_of_a_batch_that_was_not(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let place = place();
        let mut memory = MemoryJournal::default();
        let mut known = Known::default();
        let mut writing = Some(writer(&place.path));
        let mut batch: Vec<Entry> = (1..=3).map(session).collect();
        for step in steps {
            batch.extend(known.entry(&step));
            match step {
                Step::Commit => {
                    batch.iter().for_each(|entry| memory.write(entry.clone()));
                    let written = writing.as_mut().unwrap().write(std::mem::take(&mut batch));
                    prop_assert_eq!(written, Ok(()));
                }
                Step::Reopen => {
                    // As if the broker were killed: what is not written goes into the next batch,
                    // as another would.
                    drop(writing.take());
                    prop_assert_eq!(contents(&place.path), contents_of_memory(&mut memory));
                    writing = Some(writer(&place.path));
                    // A session without tasks was forgotten: the core writes it again before its
                    // next task.
                    batch.splice(..0, (1..=3).map(session));
                }
                _ => {}
            }
        }
        drop(writing.take());
        prop_assert_eq!(contents(&place.path), contents_of_memory(&mut memory));
        let report = check(&place.path, Some(&key())).unwrap();
        prop_assert_eq!(report.problems, Vec::<String>::new());
    }
}

/// A journal with a few tasks, one batch each, in files that its broker was killed with: the file
/// and its log.
fn killed_journal(tasks: u64) -> (Place, Vec<u8>, Vec<u8>) {
    let place = place();
    let mut writer = writer(&place.path);
    writer.write(vec![session(1)]).unwrap();
    for id in 1..=tasks {
        writer
            .write(vec![Entry::Task(Box::new(task(
                id,
                1,
                if id % 3 == 0 { chunked(id, true) } else { inline() },
            )))])
            .unwrap();
    }
    let log = std::fs::read(place.path.with_extension("db-wal")).unwrap();
    let file = std::fs::read(&place.path).unwrap();
    drop(writer);
    (place, file, log)
}

#[test]
fn cut_at_any_byte_it_has_a_beginning_of_what_was_written() {
    let (place, file, log) = killed_journal(30);
    let mut most = 0;
    // Each boundary of a frame and many places between.
    for cut in (0..=log.len()).step_by(509).chain([log.len()]) {
        std::fs::write(&place.path, &file).unwrap();
        std::fs::write(place.path.with_extension("db-wal"), &log[..cut]).unwrap();
        let journal = Journal::open(&place.path, CLUSTER, &key());
        let journal = journal.unwrap_or_else(|error| panic!("cut at {cut}: {error:#}"));
        let mut reader = Reader::new(&journal.database).unwrap();
        let mut found = Vec::new();
        reader
            .unfinished(|row| {
                found.push(row.id);
                Ok(())
            })
            .unwrap();
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "cut at {cut}");
        assert!(found.len() >= most, "more of the log has less of the tasks: cut at {cut}");
        most = found.len();
    }
    assert_eq!(most, 30, "all of the log has all that was written");
}

#[test]
fn what_must_be_held_fits_before_results_and_a_session_that_is_over_needs_no_definitions() {
    let place = place();
    let mut writer = writer(&place.path);
    let ended = [1, 2].map(|id| Entry::Task(Box::new(task(id, 1, inline()))));
    let ends = [1, 2].map(|id| Entry::Ended(Box::new(end(id, Some(chunked(id, true))))));
    let of_another = Entry::Task(Box::new(task(4, 2, inline())));
    let end_of_another = Entry::Ended(Box::new(end(4, None)));
    let definition = Entry::Definition(2, 1, chunked(definition_id(2, 1), true));
    let unfinished = Entry::Task(Box::new(task(3, 1, chunked(3, true))));
    writer
        .write(vec![
            session(1),
            session(2),
            Entry::Departed(2),
            definition,
            of_another,
            end_of_another,
        ])
        .unwrap();
    writer.write(ended.into_iter().chain(ends).chain([unfinished]).collect()).unwrap();
    writer.finish();
    let journal = Journal::open(&place.path, CLUSTER, &key()).unwrap();
    let mut core = core(4_000);
    let mut restoring = Restoring::new(&mut core);
    let restored = journal
        .restore(&mut restoring, std::time::Duration::from_hours(1), 1_000_000_000_000)
        .unwrap();
    restoring.finish(crate::core::Time(0));
    assert_eq!((restored.unfinished, restored.ended), (1, 3));
    invariants::hold(&core);
}

#[test]
fn what_is_restored_goes_to_a_core_and_what_does_not_fit_is_said() {
    let (place, file, log) = killed_journal(6);
    std::fs::write(&place.path, &file).unwrap();
    std::fs::write(place.path.with_extension("db-wal"), &log).unwrap();
    let journal = Journal::open(&place.path, CLUSTER, &key()).unwrap();
    let mut roomy = core(1 << 20);
    let restored = journal.restore(
        &mut Restoring::new(&mut roomy),
        std::time::Duration::from_hours(1),
        1_000_000_000_000,
    );
    assert_eq!(restored.unwrap().unfinished, 6);
    let mut small = core(4_000);
    let error = journal
        .restore(&mut Restoring::new(&mut small), std::time::Duration::from_hours(1), 0)
        .unwrap_err();
    assert!(format!("{error:#}").contains("--memory"), "{error:#}");
}

#[test]
fn one_broker_at_a_time_of_its_own_cluster_with_its_own_key() {
    let place = place();
    let refusal = |cluster, key: AtRestKey| match Journal::open(&place.path, cluster, &key) {
        Err(error) => format!("{error:#}"),
        Ok(journal) => journal
            .restore(&mut Restoring::new(&mut core(1 << 20)), std::time::Duration::from_hours(1), 0)
            .map_or_else(|error| format!("{error:#}"), |_| "open".to_owned()),
    };
    let mut first = writer(&place.path);
    first.write(vec![session(1), Entry::Task(Box::new(task(1, 1, inline())))]).unwrap();
    assert!(
        refusal(CLUSTER, key()).contains("another broker has the journal"),
        "{}",
        refusal(CLUSTER, key())
    );
    assert!(check(&place.path, None).is_err());
    drop(first);
    assert_eq!(refusal(CLUSTER, key()), "open");
    assert!(refusal(ClusterId([1; 32]), key()).contains("another cluster"));
    assert!(refusal(CLUSTER, AtRestKey::from_bytes([1; 32])).contains("another key"));
}

#[test]
fn files_that_are_no_journal_or_of_a_later_version_are_refused_as_they_are() {
    let place = place();
    let refusal = || format!("{:#}", Journal::open(&place.path, CLUSTER, &key()).unwrap_err());
    std::fs::write(
        &place.path,
        "a file of somebody else, longer than a header, which nobody may touch ".repeat(40),
    )
    .unwrap();
    private(&place.path);
    assert!(refusal().contains("is no journal"), "{}", refusal());
    std::fs::remove_file(&place.path).unwrap();
    std::fs::write(&place.path, "").unwrap();
    private(&place.path);
    let other = rusqlite::Connection::open(&place.path).unwrap();
    other.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(other);
    assert!(refusal().contains("another program"), "{}", refusal());
    std::fs::remove_file(&place.path).unwrap();
    drop(writer(&place.path));
    let later = rusqlite::Connection::open(&place.path).unwrap();
    later.pragma_update(None, "user_version", 99).unwrap();
    drop(later);
    assert!(refusal().contains("version 99"), "{}", refusal());
    std::fs::set_permissions(&place.path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refusal().contains("chmod 600"), "{}", refusal());
    std::fs::remove_file(&place.path).unwrap();
    std::os::unix::fs::symlink("/dev/null", &place.path).unwrap();
    assert!(refusal().contains("no regular file"), "{}", refusal());
    std::fs::remove_file(&place.path).unwrap();
    for empty in [vec![], vec![0], vec![0; 512], vec![0; 4096]] {
        std::fs::write(&place.path, &empty).unwrap();
        private(&place.path);
        let refusal = refusal();
        assert!(
            refusal.contains("is no journal") || refusal.contains("it is empty: put it back"),
            "{refusal}"
        );
        assert!(
            std::fs::read(&place.path).unwrap() == empty,
            "a file of {} bytes was changed",
            empty.len()
        );
    }
    std::fs::remove_file(&place.path).unwrap();
    let beside = place.path.with_file_name("journal.db-wal");
    std::os::unix::fs::symlink("/dev/null", &beside).unwrap();
    assert!(refusal().contains("journal.db-wal is no regular file"), "{}", refusal());
    std::fs::remove_file(beside).unwrap();
    let missing = place.path.with_file_name("nowhere").join("journal.db");
    assert!(
        format!("{:#}", Journal::open(&missing, CLUSTER, &key()).unwrap_err())
            .contains("no folder")
    );
}

#[test]
fn a_check_says_what_is_wrong() {
    let place = place();
    let mut writer = writer(&place.path);
    writer.write(vec![session(1), Entry::Task(Box::new(task(1, 1, chunked(1, true))))]).unwrap();
    writer.finish();
    let sound = check(&place.path, Some(&key())).unwrap();
    assert_eq!((sound.sessions, sound.unfinished, sound.ended, sound.problems), (1, 1, 0, vec![]));
    let database = rusqlite::Connection::open(&place.path).unwrap();
    database.execute("DELETE FROM chunks", []).unwrap();
    drop(database);
    let damaged = check(&place.path, Some(&key())).unwrap();
    assert!(damaged.problems[0].contains("its chunks are not all there"), "{damaged:?}");
    let other_key = check(&place.path, Some(&AtRestKey::from_bytes([1; 32]))).unwrap();
    assert!(other_key.problems[0].contains("another key"), "{other_key:?}");
}

/// The rows of a million queued tasks, read and restored in turn. Run it in the release build.
#[test]
#[ignore = "it measures: cargo test --release -p furlong-broker --lib restore_beside -- --ignored \
            --nocapture"]
fn restore_beside_a_plain_select() {
    const TASKS: u64 = 1_000_000;
    let place = place();
    let mut writer = writer(&place.path);
    writer.write(vec![session(1)]).unwrap();
    for first in (1..=TASKS).step_by(10_000) {
        let rows = (first..first + 10_000).map(|id| Entry::Task(Box::new(task(id, 1, inline()))));
        writer.write(rows.collect()).unwrap();
    }
    writer.finish();
    let journal = Journal::open(&place.path, CLUSTER, &key()).unwrap();
    for round in 1..=5 {
        let began = std::time::Instant::now();
        let sql = "SELECT id, session, n, head, options, payload, chunks FROM tasks ORDER BY id";
        let mut rows = journal.database.prepare(sql).unwrap();
        let mut rows = rows.query([]).unwrap();
        let mut bytes = 0;
        while let Some(row) = rows.next().unwrap() {
            let numbers = [0, 1, 2, 6].map(|column| row.get::<_, Option<i64>>(column).unwrap());
            let blobs = [3, 4, 5].map(|column| row.get::<_, Vec<u8>>(column).unwrap());
            bytes += std::hint::black_box((numbers, blobs)).1.iter().map(Vec::len).sum::<usize>();
        }
        let select_s = began.elapsed().as_secs_f64();
        let mut core = core(1 << 30);
        let began = std::time::Instant::now();
        let mut restoring = Restoring::new(&mut core);
        let restored =
            journal.restore(&mut restoring, std::time::Duration::from_hours(1), 0).unwrap();
        restoring.finish(crate::core::Time(0));
        let restore_s = began.elapsed().as_secs_f64();
        assert_eq!((restored.unfinished, bytes > 0), (TASKS, true));
        println!(
            "round {round}: select {select_s:.3} s, restore {restore_s:.3} s, ratio {:.2}",
            restore_s / select_s
        );
    }
}
