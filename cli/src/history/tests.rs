//! What is written down of looks, without a broker.

use furlong_client::Picture;
use furlong_wire::ids::{BrokerStart, EngineId, OwnerId, SessionId, TaskId, TaskSeq};
use furlong_wire::message::{
    EndSeen, ErrorKind, FailureSeen, FarmSeen, KindSeen, LookPlace, PhaseTimes, Runtime, Seen,
    SpanSeen, TaskState,
};
use rusqlite::Connection;

use super::file::open_to_read;
use super::query::{Extent, Filter, Wanted};
use super::write::{Bounds, Writer};

const HOUR_US: u64 = 3_600_000_000;
const START_US: u64 = 1_000 * HOUR_US;
const BOUNDS: Bounds = Bounds { keep_us: HOUR_US, bytes_max: u64::MAX };

/// A history, and the looks that it is written from.
struct Looks {
    folder: tempfile::TempDir,
    writer: Writer,
    picture: Picture,
}

impl Looks {
    fn new(bounds: Bounds) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let writer =
            Writer::open(&folder.path().join("history.db"), ("lab", "00"), bounds).unwrap();
        let mut looks = Self { folder, writer, picture: Picture::default() };
        looks.begin(START_US);
        looks
    }

    fn begin(&mut self, start_us: u64) -> u64 {
        let seen = Seen { is_new: true, ..seen(start_us, 0) };
        self.picture.update(seen);
        self.writer.begin(&self.picture).unwrap()
    }

    /// Is told of ends with these numbers, a second after one another, and how many were missed.
    fn look(&mut self, numbers: std::ops::Range<u64>, missed: u64) {
        let ends: Vec<EndSeen> = numbers.clone().map(end).collect();
        let at_us = numbers.end * 1_000_000;
        let start_us = self.picture.start().unwrap().0;
        self.picture.update(Seen { ends_missed: missed, ..seen(start_us, at_us) });
        self.writer.take(&self.picture, &ends, true).unwrap();
    }

    fn database(&self) -> Connection {
        open_to_read(&self.folder.path().join("history.db")).unwrap()
    }

    fn wanted(&self) -> Wanted {
        Filter::default().wanted(&self.database(), 0).unwrap()
    }

    fn count(&self) -> u64 {
        self.wanted().count(&self.database()).unwrap()
    }

    fn extent(&self) -> Extent {
        self.wanted().extent(&self.database()).unwrap()
    }
}

fn seen(start_us: u64, at_us: u64) -> Seen {
    let start = BrokerStart(start_us);
    Seen {
        at_us,
        place: LookPlace { start, told: 0, began: 0, kind: 0, engine: None, ends: at_us },
        is_new: false,
        has_more: false,
        farm: FarmSeen::default(),
        kinds: vec![kind()],
        engines: vec![],
        gone: vec![],
        owners: vec![],
        notes: vec![],
        ends: vec![],
        ends_missed: 0,
        failures: vec![],
        series: vec![],
    }
}

fn kind() -> KindSeen {
    KindSeen {
        id: 1,
        owner: Some(OwnerId([1; 16])),
        runtime: Runtime::Python,
        name: Some("fit".to_owned()),
        submitted: 1,
        running: 0,
        ended: 1,
        failed: 0,
        retries: 0,
        request_bytes: 0,
        result_bytes: 0,
        queue: SpanSeen::default(),
        run: SpanSeen::default(),
        overhead: SpanSeen::default(),
        left_us: None,
    }
}

/// The end of a task, so many seconds after the broker's start.
fn end(n: u64) -> EndSeen {
    EndSeen {
        task: TaskId { session: SessionId([1; 16]), n: TaskSeq(n + 1) },
        kind: 1,
        engine: Some(EngineId(0)),
        state: TaskState::Failed,
        error: Some(ErrorKind::Remote),
        fingerprint: 7,
        attempts: 1,
        at_us: n * 1_000_000,
        phases: PhaseTimes::default(),
        request_bytes: 0,
        result_bytes: 0,
    }
}

#[test]
fn tasks_that_were_missed_make_one_gap_as_long_as_they_go_on() {
    let mut looks = Looks::new(BOUNDS);
    looks.look(0..5, 0);
    assert_eq!(looks.extent().gaps, []);
    looks.look(100..105, 10);
    looks.look(110..115, 12);
    let gaps = looks.extent().gaps;
    let [gap] = &*gaps else { panic!("{gaps:?}") };
    assert_eq!(gap.ends, Some(22), "10 and then 12 more");
    assert_eq!((gap.from_us, gap.to_us), (START_US + 4_000_000, START_US + 110_000_000));
    looks.look(115..150, 0);
    looks.look(1_000..1_001, 1);
    assert_eq!(looks.extent().gaps.len(), 2, "there was none between");
    assert_eq!(looks.count(), 51);
}

#[test]
fn a_task_that_is_told_twice_is_there_once() {
    let mut looks = Looks::new(BOUNDS);
    looks.look(0..5, 0);
    looks.look(3..8, 0);
    assert_eq!(looks.count(), 8);
    assert_eq!(looks.begin(START_US), 8_000_000, "it goes on where it was");
    assert_eq!(looks.begin(START_US + HOUR_US), 0);
    let gaps = looks.extent().gaps;
    assert_eq!((gaps.len(), gaps[0].ends), (1, None));
    assert_eq!((gaps[0].from_us, gaps[0].to_us), (START_US + 8_000_000, START_US + HOUR_US));
}

#[test]
fn the_type_of_an_error_may_come_after_its_first_task() {
    let mut looks = Looks::new(BOUNDS);
    looks.look(0..1, 0);
    let type_of = |looks: &Looks| {
        let sql = "SELECT type FROM failures WHERE fingerprint = 7";
        looks.database().query_row(sql, [], |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!(type_of(&looks), "");
    let failure = FailureSeen {
        error: ErrorKind::Remote,
        type_name: "ValueError".to_owned(),
        fingerprint: 7,
        kind: 1,
        count: 1,
        first_us: 0,
        last_us: 0,
        engines: vec![],
        sample: None,
    };
    looks.picture.update(Seen { failures: vec![failure], ..seen(START_US, 2_000_000) });
    looks.writer.take(&looks.picture, &[], true).unwrap();
    looks.look(1..2, 0);
    assert_eq!(type_of(&looks), "ValueError");
}

#[test]
fn old_tasks_are_deleted_and_their_number_is_told() {
    let mut looks = Looks::new(BOUNDS);
    looks.look(0..100, 0);
    assert!(!looks.writer.forget(START_US + HOUR_US + 60_000_000).unwrap());
    let extent = looks.extent();
    assert_eq!((looks.count(), extent.dropped), (40, 60));
    assert_eq!(extent.from_us, Some(START_US + 59_000_000));
}

#[test]
fn a_file_that_is_too_large_loses_its_oldest_tasks() {
    let mut looks = Looks::new(Bounds { keep_us: u64::MAX, bytes_max: 3 << 20 });
    looks.look(0..40_000, 0);
    let size = |looks: &Looks| std::fs::metadata(looks.folder.path().join("history.db")).unwrap();
    while looks.writer.forget(START_US).unwrap() {}
    assert_eq!((looks.count(), looks.extent().dropped), (20_000, 20_000));
    let first = looks.database().query_row("SELECT min(n) FROM tasks", [], |row| row.get(0));
    assert_eq!(first, Ok(20_001));
    looks.database().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    assert!(size(&looks).len() < 4 << 20, "{}", size(&looks).len());
}
