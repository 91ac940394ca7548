//! Recordings that are written, cut, damaged and read.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use furlong_client::{EngineId, TaskId};
use furlong_wire::ids::{SessionId, TaskSeq};
use furlong_wire::message::{EndSeen, PhaseTimes, Seen, TaskRecord, TaskState};
use tempfile::TempDir;

use super::{ENDS_MAX, FIRST_LINE, Recorder, Recording, Reel};
use crate::top::tests::{queue, seen};

/// A folder with a file of a name.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.furlong");
    (folder, path)
}

fn recorder(path: &Path) -> Recorder {
    let (recorder, cut_bytes) = Recorder::open(path, "lab.example:7077".to_owned()).unwrap();
    assert_eq!(cut_bytes, 0);
    recorder
}

/// A later look, at which so many tasks have ended.
fn later(at_us: u64, ended: u64) -> Seen {
    let mut later = Seen { at_us, is_new: false, ..seen() };
    (later.kinds, later.engines) = (Vec::new(), Vec::new());
    later.farm.tasks_ended = ended;
    later
}

/// A recording with so many looks, one a second.
fn recorded(path: &Path, looks: u64) {
    let mut recorder = recorder(path);
    recorder.add(1_000_000, vec![seen()], &queue()).unwrap();
    for look in 1..looks {
        let at_us = 100_000_000 + look * 1_000_000;
        recorder.add(1_000_000 + look * 1_000, vec![later(at_us, 50_000 + look)], &[]).unwrap();
    }
}

/// The ended tasks that are told of a look.
fn ended(reel: &mut Reel, look: usize) -> u64 {
    reel.wind(look).unwrap();
    reel.shown().picture.farm.tasks_ended
}

#[test]
fn a_recording_is_wound_to_any_look() {
    let (_folder, path) = place();
    recorded(&path, 5_000);
    let recording = Recording::open(&path).unwrap();
    let times = recording.times_ms();
    assert_eq!((recording.cut_bytes, times.len(), times[4_999]), (0, 5_000, 4_999_000));
    let mut reel = Reel::new(recording);
    for look in [0, 1, 4_999, 17, 4_000, 3_999, 2_500, 64, 63, 65, 4_999] {
        let expected = if look == 0 { 48_113 } else { 50_000 + look as u64 };
        assert_eq!(ended(&mut reel, look), expected, "look {look}");
        assert_eq!(reel.unix_ms(), 1_000_000 + look as u64 * 1_000);
    }
    let picture = reel.shown().picture;
    assert_eq!((picture.engines.len(), picture.kind_name(1)), (4, "fit".to_owned()));
    let running = picture.engines[&EngineId(0)].running.unwrap();
    assert_eq!(running.for_us, 1_200_000 + 4_999_000_000, "time goes on for what has not changed");
    assert_eq!(reel.endpoint(), "lab.example:7077");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_jump_back_decodes_few_looks() {
    let (_folder, path) = place();
    recorded(&path, 5_000);
    let mut reel = Reel::new(Recording::open(&path).unwrap());
    reel.wind(4_999).unwrap();
    let gaps: Vec<usize> = reel.kept().collect();
    assert!((16..=32).contains(&gaps.len()), "{gaps:?}");
    let most = gaps.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    assert!(most <= 5_000 / 16, "{most} looks from one that is kept to the next");
}

#[test]
fn tasks_that_wait_are_told_when_they_change() {
    let (_folder, path) = place();
    let mut recorder = recorder(&path);
    let mut tasks = queue();
    recorder.add(1_000, vec![seen()], &tasks).unwrap();
    let first = fs::metadata(&path).unwrap().len();
    tasks.iter_mut().for_each(|task| task.times.now_us += 2_000_000);
    recorder.add(3_000, vec![later(102_000_000, 1)], &tasks).unwrap();
    let gone = tasks.remove(0);
    tasks[0].waits = Some("nothing".to_owned());
    recorder.add(4_000, vec![later(103_000_000, 2)], &tasks).unwrap();
    let recording = Recording::open(&path).unwrap();
    let body = recording.read(1).unwrap();
    assert_eq!((body.queue.len(), body.left.len()), (0, 0), "nothing but the time went on");
    let body = recording.read(2).unwrap();
    assert_eq!((body.queue.len(), &body.left), (1, &vec![gone.id]));
    assert!(fs::metadata(&path).unwrap().len() < 3 * first);
    let mut reel = Reel::new(recording);
    reel.wind(1).unwrap();
    let now = |tasks: &[TaskRecord]| tasks.iter().map(|it| it.times.now_us).collect::<Vec<_>>();
    let expected: Vec<u64> = now(&queue()).iter().map(|now| now + 2_000_000).collect();
    assert_eq!(now(&reel.shown().queue), expected);
    reel.wind(2).unwrap();
    let shown = reel.shown().queue;
    assert_eq!((shown.len(), shown[0].waits.as_deref()), (2, Some("nothing")));
    reel.wind(0).unwrap();
    assert_eq!(reel.shown().queue, queue());
}

#[test]
fn ends_beyond_the_limit_are_counted_and_failures_stay() {
    let (_folder, path) = place();
    let end = |n: u64, state: TaskState| EndSeen {
        task: TaskId { session: SessionId([7; 16]), n: TaskSeq(n) },
        at_us: n,
        kind: 1,
        engine: Some(EngineId(0)),
        state,
        error: None,
        fingerprint: 0,
        attempts: 1,
        phases: PhaseTimes::default(),
        request_bytes: 0,
        result_bytes: 0,
    };
    let mut first = seen();
    first.ends = (0..400).map(|n| end(n, TaskState::Succeeded)).collect();
    first.ends[0].state = TaskState::Failed;
    let mut second = later(100_000_001, 1);
    second.ends = (400..800).map(|n| end(n, TaskState::Succeeded)).collect();
    recorder(&path).add(1_000, vec![first, second], &[]).unwrap();
    let mut reel = Reel::new(Recording::open(&path).unwrap());
    reel.wind(0).unwrap();
    let picture = reel.shown().picture;
    assert_eq!((picture.ends.len(), picture.ends_missed), (ENDS_MAX, 300));
    assert_eq!(picture.ends[0].state, TaskState::Failed);
    assert_eq!((picture.ends[1].at_us, picture.ends[499].at_us), (301, 799));
}

#[test]
fn a_recording_goes_on_in_the_same_file() {
    let (_folder, path) = place();
    recorded(&path, 3);
    let mut again = recorder(&path);
    let busy = Recorder::open(&path, String::new()).unwrap_err().to_string();
    assert!(busy.ends_with("another process does so now"), "{busy}");
    // The clock was set back meanwhile.
    again.add(900_000, vec![seen()], &[]).unwrap();
    let recording = Recording::open(&path).unwrap();
    assert_eq!(recording.times_ms(), [0, 1_000, 2_000, 2_000]);
    assert_eq!(recording.whole_before(3), 3, "it needs none of those before it");
    let mut reel = Reel::new(recording);
    assert_eq!((ended(&mut reel, 2), ended(&mut reel, 3)), (50_002, 48_113));
    assert!(reel.shown().queue.is_empty());
}

#[test]
fn a_look_that_a_crash_has_cut_is_left_out_and_the_rest_stays() {
    let (_folder, path) = place();
    recorded(&path, 3);
    let whole = fs::read(&path).unwrap();
    let recording = Recording::open(&path).unwrap();
    let second = recording.body(1).end;
    for end in second..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        let recording = Recording::open(&path).unwrap();
        assert_eq!(recording.times_ms().len(), 2, "{end}");
        assert_eq!(recording.cut_bytes, (end - second) as u64, "{end}");
    }
    // Blocks of the last look that never came to the disk.
    let mut blank = whole.clone();
    blank[second + 13..].fill(0);
    fs::write(&path, &blank).unwrap();
    let recording = Recording::open(&path).unwrap();
    assert_eq!(recording.cut_bytes, (whole.len() - second) as u64);
    let (mut recorder, cut_bytes) = Recorder::open(&path, "lab".to_owned()).unwrap();
    assert_eq!(cut_bytes, (whole.len() - second) as u64);
    recorder.add(1_009_000, vec![seen()], &[]).unwrap();
    let recording = Recording::open(&path).unwrap();
    assert_eq!((recording.cut_bytes, recording.times_ms()), (0, vec![0, 1_000, 9_000]));
}

#[test]
fn files_that_are_no_recordings_get_a_line() {
    let (folder, path) = place();
    let refused = |contents: &[u8]| {
        fs::write(&path, contents).unwrap();
        let read = Recording::open(&path).unwrap_err();
        let may_begin = contents.is_empty() || contents == FIRST_LINE.as_bytes();
        assert_eq!(Recorder::open(&path, String::new()).is_ok(), may_begin);
        if !may_begin {
            assert_eq!(fs::read(&path).unwrap(), contents, "it is as it was");
        }
        let line = format!("{read:#}");
        assert!(!line.contains('\n'), "{line}");
        line
    };
    assert!(refused(b"").ends_with("is not a recording of `furlong top --record`"));
    assert!(refused(b"PK\x03\x04 and more of that").contains("is not a recording"));
    assert!(refused(b"furlong recording 2\nwhat will be").contains("of version 2, not 1"));
    assert!(refused(b"furlong recording x\nwhat will be").contains("is not a recording"));
    assert!(refused(FIRST_LINE.as_bytes()).contains("has no whole look"));
    let none = Recording::open(&folder.path().join("none")).unwrap_err();
    assert!(none.to_string().starts_with("cannot read "), "{none}");
    assert!(
        format!("{:#}", Recorder::open(folder.path(), String::new()).unwrap_err())
            .starts_with("cannot record into ")
    );
}

#[test]
fn a_damaged_look_is_named() {
    let (_folder, path) = place();
    recorded(&path, 3);
    let mut bytes = fs::read(&path).unwrap();
    let second = Recording::open(&path).unwrap().body(1).start;
    bytes[second..][..9].fill(0xc1);
    fs::write(&path, &bytes).unwrap();
    let mut reel = Reel::new(Recording::open(&path).unwrap());
    assert_eq!(ended(&mut reel, 0), 48_113);
    let error = format!("{:#}", reel.wind(2).unwrap_err());
    assert!(error.contains("look 2 cannot be read"), "{error}");
    bytes[second - 1] = 7;
    fs::write(&path, &bytes).unwrap();
    let error = Recording::open(&path).unwrap_err().to_string();
    assert!(error.contains("is damaged: record 2"), "{error}");
}

#[test]
fn random_bytes_after_the_first_line_never_panic() {
    use proptest::prelude::*;
    let (_folder, path) = place();
    recorded(&path, 4);
    let whole = fs::read(&path).unwrap();
    proptest!(ProptestConfig::with_cases(200), |(
        at in FIRST_LINE.len()..whole.len(), bytes in proptest::collection::vec(any::<u8>(), 1..30)
    )| {
        let mut damaged = whole.clone();
        let end = (at + bytes.len()).min(damaged.len());
        damaged[at..end].copy_from_slice(&bytes[..end - at]);
        let mut file = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        file.write_all(&damaged).unwrap();
        if let Ok(recording) = Recording::open(&path) {
            let looks = recording.times_ms().len();
            prop_assert!((1..=4).contains(&looks));
            let mut reel = Reel::new(recording);
            for look in 0..looks {
                let _ = reel.wind(look);
                let _ = reel.shown();
            }
        }
    });
}
