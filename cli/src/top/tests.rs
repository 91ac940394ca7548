//! Whole screens of a farm with troubles, in three sizes.

use furlong_client::Picture;
use furlong_wire::ids::{BrokerStart, EngineId, OwnerId, SessionId, TaskId, TaskSeq};
use furlong_wire::message::{
    EngineSeen, EngineState, FarmSeen, KindSeen, LookPlace, Note, NoteCode, PhaseTimes,
    RecordTimes, RunTimes, RunningSeen, Runtime, Seen, SpanSeen, TaskPhase, TaskRecord,
};

use ratatui::crossterm::event::KeyCode;

use super::acts::{Act, Rights};
use super::pages::Shown;
use super::screen::{self, Source};
use super::state::{Page, State, Wish};
use crate::record::tests::ended;

fn span(count: u64, p50_us: u64, p95_us: u64) -> SpanSeen {
    SpanSeen { count, sum_us: count * p50_us, p50_us, p95_us, ranges: Vec::new() }
}

fn kind(id: u32, name: &str, (waiting, running, ended): (u64, u32, u64)) -> KindSeen {
    KindSeen {
        id,
        owner: Some(OwnerId([1; 16])),
        runtime: Runtime::Python,
        name: Some(name.to_owned()),
        submitted: waiting + u64::from(running) + ended,
        running,
        ended,
        failed: 3,
        retries: 0,
        request_bytes: 0,
        result_bytes: 1 << 20,
        queue: span(ended, 200_000, 400_000),
        run: span(ended, 1_800_000, 4_100_000),
        overhead: span(ended, 30_000, 60_000),
        left_us: Some((360_000_000, 540_000_000)),
    }
}

fn engine(id: u32, host: &str, pace_percent: Option<u32>) -> EngineSeen {
    let task = TaskId { session: SessionId([7; 16]), n: TaskSeq(u64::from(id) + 1) };
    EngineSeen {
        id: EngineId(id),
        host: host.to_owned(),
        pid: 100 + id,
        state: EngineState::Busy,
        running: Some(RunningSeen { task: Some(task), kind: 1, for_us: 1_200_000 }),
        assigned: 1,
        queued: 0,
        ended: 40,
        failed: 0,
        busy_us: 72_000_000,
        deaths: 0,
        pace_percent,
        load: None,
    }
}

fn note(code: NoteCode) -> Note {
    Note { code, kind: None, engine: None, count: 0, percent: 0, text: String::new() }
}

/// A farm with an engine three times slower, a kind that is all overhead, and a label that nobody
/// has.
fn picture() -> Picture {
    let mut picture = Picture::default();
    assert!(!picture.update(seen()));
    picture
}

/// The first look at it.
pub(super) fn seen() -> Seen {
    let start = BrokerStart(1);
    let noop = KindSeen {
        run: span(36_189, 6, 9),
        overhead: span(36_189, 140, 200),
        left_us: Some((0, 0)),
        ..kind(2, "noop", (0, 0, 36_189))
    };
    let notes = vec![
        Note { count: 312, text: "python gpu".to_owned(), ..note(NoteCode::NobodyFits) },
        Note { engine: Some(EngineId(7)), percent: 310, ..note(NoteCode::SlowEngine) },
        Note { kind: Some(2), percent: 96, ..note(NoteCode::SmallTasks) },
    ];
    let farm = FarmSeen {
        cluster_name: "default".to_owned(),
        engines_online: 4,
        engines_busy: 4,
        clients: 2,
        tasks_waiting: 1_204,
        tasks_held: 12,
        tasks_assigned: 4,
        results_held: 4,
        tasks_submitted: 49_333,
        tasks_ended: 48_113,
        tasks_failed: 17,
        last_end_us: Some(99_800_000),
        payload_bytes: (1 << 30, 3 << 30),
        left_us: Some((360_000_000, 540_000_000)),
        minute: PhaseTimes {
            queue_us: 38,
            way_us: 1,
            run: RunTimes { load_us: 3, run_us: 55, store_us: 3, ..RunTimes::default() },
            ..PhaseTimes::default()
        },
        ends_per_s: (0..60).map(|second| 400 + second).collect(),
        ..FarmSeen::default()
    };
    Seen {
        at_us: 100_000_000,
        place: LookPlace { start, told: 0, began: 1, kind: 0, engine: None, ends: 0 },
        is_new: true,
        has_more: false,
        farm,
        kinds: vec![kind(1, "fit", (1_012, 4, 9_310)), noop],
        engines: vec![
            engine(0, "lab1", Some(98)),
            engine(1, "lab1", Some(101)),
            engine(3, "lab1", None),
            engine(7, "lab2", Some(310)),
        ],
        gone: Vec::new(),
        owners: Vec::new(),
        notes,
        ends: Vec::new(),
        ends_missed: 0,
        failures: Vec::new(),
        series: Vec::new(),
    }
}

fn shown(page: Page, size: (usize, usize)) -> Vec<String> {
    shown_of(&picture(), page, size)
}

fn shown_of(picture: &Picture, page: Page, size: (usize, usize)) -> Vec<String> {
    let shown = Shown { picture: picture.clone(), queue: Vec::new() };
    drawn(&shown, &State::new(page, 1_000), size)
}

fn drawn(shown: &Shown, state: &State, size: (usize, usize)) -> Vec<String> {
    let source = Source {
        endpoint: "lab.example:7077".to_owned(),
        clock: "14:02:31".to_owned(),
        replay: if state.is_replay {
            "replay 1:03 of 5:00, speed 2".to_owned()
        } else {
            String::new()
        },
        is_recorded: false,
    };
    let lines = screen::lines(shown, state, &source, size, false);
    lines.iter().map(|line| line.to_string().trim_end().to_owned()).collect()
}

#[test]
fn a_screen_of_any_size_is_filled_and_not_overrun() {
    for page in Page::ALL {
        for size in [(80, 24), (120, 40), (200, 60), (20, 5), (1, 1), (0, 0)] {
            let lines = shown(page, size);
            assert!(lines.len() <= size.1.max(1), "{page:?} {size:?}");
            let longest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(longest <= size.0, "{page:?} {size:?}: {longest} characters");
        }
    }
}

#[test]
fn a_small_screen_has_the_farm_in_two_lines_and_all_troubles() {
    let lines = shown(Page::Overview, (80, 24));
    assert_eq!(
        lines[0],
        "farm default  4/4 run  1216 wait  454/s  17 failed  6-9 min left  3 notes"
    );
    assert_eq!(
        lines[1],
        "time queue 38% ████████  way 1%  load 3% █  run 55% ███████████  store 3% █"
    );
    let slow = "! engine 7 on lab2 takes 3.1 times as long as the others for the same tasks";
    assert!(lines[3].starts_with(slow), "{}", lines[3]);
    assert!(lines[2].starts_with("! 312 tasks wait for python with gpu, which no engine has"));
    assert!(lines[4].starts_with("! 96 % of the time of `noop` is overhead"));
    assert_eq!(lines[5], "KIND WAIT RUN ENDED FAIL RUN P50   P95 OVER    LEFT RETRY RESULTS");
    assert_eq!(lines[6], "fit  1012   4  9310    3   1.8 s 4.1 s   1% 6-9 min     0    1.0M");
    assert_eq!(lines[7], "noop    0   0 36189    3    6 us  9 us 95%!       -     0    1.0M");
    assert!(lines[9].starts_with("ENGINE HOST STATE NOW"), "{lines:#?}");
    assert!(lines[13].trim_start().starts_with("7! lab2 busy  fit"), "{lines:#?}");
}

#[test]
fn notes_that_have_no_line_are_counted_in_one() {
    let mut picture = picture();
    let said = |picture: &Picture| {
        let lines = shown_of(picture, Page::Overview, (80, 24));
        lines.into_iter().filter(|line| line.starts_with("! ")).collect::<Vec<_>>()
    };
    picture.notes.push(Note { percent: 91, ..note(NoteCode::Memory) });
    let four = said(&picture);
    assert!(four[3].starts_with("! payloads fill 91 %"), "{four:#?}");
    picture.notes.push(Note { count: 9, ..note(NoteCode::Stuck) });
    let five = said(&picture);
    assert_eq!(five.len(), 4, "{five:#?}");
    assert_eq!(five[3], "! and 2 more: key 7, or `--page notes`");
}

#[test]
fn a_wide_screen_has_two_tables_beside_each_other() {
    let lines = shown(Page::Overview, (200, 60));
    assert_eq!(lines.len(), 60);
    let heading = lines.iter().find(|line| line.starts_with("KIND")).expect("a heading");
    assert!(heading.contains(" | ENGINE HOST"), "{heading}");
    assert!(
        lines[1].contains("running 4/4   unread 4   ended 48113 (+454/s, last 200 ms ago)"),
        "{}",
        lines[1]
    );
    assert!(
        lines[3].starts_with("left    6-9 min for 1220 tasks   payloads 1.0G of 3.0G"),
        "{}",
        lines[3]
    );
}

#[test]
fn the_json_of_a_picture_has_names_and_sentences() {
    let json = furlong_client::watch_json::of_picture(&picture());
    assert_eq!(json["kinds"][0]["name"], "fit");
    assert_eq!(json["engines"][3]["pace_percent"], 310);
    assert_eq!(json["engines"][0]["running"]["kind"], "fit");
    assert_eq!(json["farm"]["tasks"]["ended"], 48_113);
    let says = json["notes"][1]["says"].as_str().unwrap();
    assert!(says.contains("3.1 times as long"), "{says}");
}

/// Two tasks that wait, and one that runs.
pub(super) fn queue() -> Vec<TaskRecord> {
    let open = |n: u64, phase: TaskPhase| {
        let mut record = TaskRecord { phase, outcome: None, ..ended() };
        record.id.n = TaskSeq(n);
        let waits = (phase == TaskPhase::Queued).then(|| "the engine is busy".to_owned());
        record.waits = waits;
        let times = RecordTimes { finished_us: None, delivered_us: None, ..record.times };
        record.times = match phase {
            TaskPhase::Running => times,
            _ => RecordTimes { assigned_us: None, started_us: None, ..times },
        };
        record
    };
    vec![open(1, TaskPhase::Queued), open(2, TaskPhase::Queued), open(3, TaskPhase::Running)]
}

/// A screen, and somebody who presses keys.
struct User {
    shown: Shown,
    state: State,
}

impl User {
    fn new(page: Page) -> Self {
        let mut state = State::new(page, 1_000);
        state.acting.rights = Rights { tasks: true, engines: true, stops: true };
        Self { shown: Shown { picture: picture(), queue: queue() }, state }
    }

    /// Presses keys; what is to be done by the last one.
    fn press(&mut self, keys: &str) -> Wish {
        let mut last = Wish::Draw;
        for key in keys.chars() {
            let rows = screen::rows(&self.shown, &self.state);
            self.state.cursor.follow(&rows);
            last = self.state.press(KeyCode::Char(key), &rows);
            if let Wish::Ask(verb) = last {
                let meant = self.state.cursor.meant();
                let rights = self.state.acting.rights;
                self.state.acting.ask(Act::new(verb, &meant, &self.shown.picture, rights));
            }
        }
        self.state.cursor.follow(&screen::rows(&self.shown, &self.state));
        last
    }

    fn screen(&self, size: (usize, usize)) -> Vec<String> {
        drawn(&self.shown, &self.state, size)
    }
}

#[test]
fn the_queue_has_a_row_that_keys_act_on_and_a_question() {
    let mut user = User::new(Page::Queue);
    user.press("jm");
    let lines = user.screen((100, 16));
    let head = lines.iter().position(|line| line.starts_with("  TASK ")).expect("a table");
    assert_eq!(
        lines[head..head + 4],
        [
            "  TASK     NAME      STATE   ENGINE WAITED    RAN LABEL WHY",
            "  000000:3 render.py running      2 400 us 8.5 ms night",
            " *000000:1 render.py queued       2 9.0 ms      - night the engine is busy",
            "> 000000:2 render.py queued       2 9.0 ms      - night the engine is busy",
        ]
    );
    user.press("c");
    let lines = user.screen((100, 16));
    assert_eq!(lines[15], "cancel task 000000:1? y: yes, any other key: no");
    let Wish::Act(act) = user.press("y") else { panic!("it was yes") };
    assert_eq!((act.tasks.len(), act.tasks[0].n), (1, TaskSeq(1)));
    assert_eq!(user.screen((100, 16))[15], "cancelling task 000000:1");
}

#[test]
fn a_queue_of_which_a_part_is_shown_says_so() {
    let mut user = User::new(Page::Queue);
    user.shown.queue = vec![queue().remove(0); 999];
    assert!(!user.screen((100, 16))[15].contains("the first"));
    user.shown.queue.push(queue().remove(1));
    assert!(user.screen((100, 16))[15].starts_with("the first 1000 tasks"));
}

#[test]
fn a_long_question_is_not_cut() {
    let mut user = User::new(Page::Engines);
    user.press("r");
    let lines = user.screen((40, 20));
    assert_eq!(
        lines[17..],
        [
            "give engine 0 a new interpreter; what ru",
            "ns there and its variables are lost? y:",
            "yes, any other key: no",
        ]
    );
    assert_eq!(user.press("n"), Wish::Draw);
    assert_eq!(user.screen((40, 20))[19], "nothing is done");
}

#[test]
fn a_key_on_an_engine_cancels_what_runs_there() {
    let mut user = User::new(Page::Engines);
    user.press("Gc");
    let Wish::Act(act) = user.press("y") else { panic!("it was yes") };
    assert_eq!((act.tasks.len(), act.tasks[0].n), (1, TaskSeq(8)), "that of engine 7");
    let mut looks = User::new(Page::Kinds);
    looks.press("c");
    let said = looks.screen((100, 16)).pop().unwrap();
    assert_eq!(said, "that is for the pages 3 (engines) and 8 (queue)");
}

#[test]
fn a_replay_says_where_it_is_on_screens_of_all_widths() {
    let mut user = User::new(Page::Overview);
    user.state.is_replay = true;
    let wide = user.screen((120, 40));
    assert!(
        wide[0].contains("   up 100 s   replay 1:03 of 5:00, speed 2   14:02:31   3 notes"),
        "{}",
        wide[0]
    );
    assert!(wide[39].contains("space , . [ ] + - replay   ? help"), "{}", wide[39]);
    let narrow = user.screen((80, 24));
    assert_eq!(narrow[0], "replay 1:03 of 5:00, speed 2");
    assert!(narrow[1].starts_with("farm default  4/4 run"), "{}", narrow[1]);
}

#[test]
fn the_help_of_a_replay_has_its_keys_and_no_others() {
    let mut user = User::new(Page::Engines);
    assert!(
        user.press("?") == Wish::Draw && user.screen((120, 40)).join("\n").contains("cancel tasks")
    );
    user.state.is_replay = true;
    let help = user.screen((120, 40)).join("\n");
    assert!(help.contains("faster, slower") && !help.contains("cancel tasks"), "{help}");
    user.press("?r");
    let said = user.screen((120, 40)).pop().unwrap();
    assert_eq!(said, "this is a replay: what is past cannot be acted on");
}
