//! Looks at the farm.

use std::time::Duration;

use furlong_wire::message::{
    AttemptFinished, FromClient, FromEngine, KindName, Look, LookPlace, NoteCode, Outcome, Query,
    ReplyBody, Request, RunTimes, Runtime, Seen, SeriesStep, TaskOptions, TaskQuery,
};
use furlong_wire::token::Role;

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, shared, with};

fn all() -> Look {
    Look { ends: true, failures: true, ..Look::default() }
}

pub(super) fn look(farm: &mut Farm, viewer: usize, look: Look) -> Seen {
    let query = Query::Look(Box::new(look));
    let request = farm.ask(viewer, |request| FromClient::Query(Request { request, query }));
    match farm.reply(viewer, request) {
        Some(ReplyBody::Seen(seen)) => *seen,
        other => panic!("{other:?}"),
    }
}

fn names(farm: &mut Farm, client: usize, name: &str) {
    let name = KindName { class: 1, runtime: Runtime::Native, name: name.to_owned() };
    farm.say(client, FromClient::Name(name)).unwrap();
}

/// The oldest job ends, after so much time of each part.
fn ends(farm: &mut Farm, engine: usize, times: RunTimes) {
    let attempt = farm.processes[engine].jobs.remove(0).attempt;
    let finished = AttemptFinished { attempt, outcome: Outcome::SUCCEEDED, times, payload: None };
    farm.report(engine, FromEngine::Finished(finished)).unwrap();
}

#[test]
fn sums_are_exact_and_phases_are_those_of_the_task() {
    let mut farm = Farm::default();
    let (client, viewer) = (farm.client(), farm.client_as(Role::Observer));
    names(&mut farm, client, "fit");
    for _ in 0..3 {
        farm.submit(client, shared());
    }
    farm.wait(Duration::from_millis(20));
    let engine = farm.engine();
    farm.wait(Duration::from_millis(5));
    ends(&mut farm, engine, RunTimes { began_us: 300, load_us: 200, run_us: 4_000, store_us: 100 });
    farm.fail(engine);
    let seen = look(&mut farm, viewer, all());
    let (tasks, kind) = (&seen.farm, &seen.kinds[0]);
    assert_eq!((tasks.tasks_submitted, tasks.tasks_ended, tasks.tasks_failed), (3, 2, 1));
    assert_eq!((tasks.engines_online, tasks.engines_busy, tasks.tasks_assigned), (1, 1, 1));
    assert_eq!(
        (kind.name.as_deref(), kind.submitted, kind.ended, kind.failed),
        (Some("fit"), 3, 2, 1)
    );
    assert_eq!(kind.running, 1);
    // It was the viewer's first look: what ended before is not told one by one.
    assert!(seen.is_new && seen.ends.is_empty());
    assert_eq!(seen.failures.len(), 1);
    assert_eq!(seen.failures[0].count, 1);
    let from_the_start = LookPlace { ends: 0, ..seen.place };
    let again = look(&mut farm, viewer, Look { since: Some(from_the_start), ..all() });
    assert!(!again.is_new);
    let first = &again.ends[0].phases;
    assert_eq!((first.queue_us, first.way_us), (20_000, 400));
    assert_eq!(first.run.run_us, 4_000);
    invariants::hold(&farm.core);
}

#[test]
fn a_look_tells_what_has_changed_and_nothing_else() {
    let mut farm = Farm::default();
    let (client, viewer) = (farm.client(), farm.client_as(Role::Observer));
    let engines: Vec<usize> = (0..3).map(|_| farm.engine()).collect();
    names(&mut farm, client, "f");
    let mut place = look(&mut farm, viewer, Look::default()).place;
    // What has changed within the last round is told once more.
    place = look(&mut farm, viewer, Look { since: Some(place), ..Look::default() }).place;
    let quiet = look(&mut farm, viewer, Look { since: Some(place), ..Look::default() });
    assert_eq!((quiet.engines.len(), quiet.kinds.len()), (0, 0), "{quiet:?}");
    farm.submit(client, shared());
    let busy = look(&mut farm, viewer, Look { since: Some(quiet.place), ..Look::default() });
    assert_eq!((busy.engines.len(), busy.kinds.len()), (1, 1));
    assert_eq!(busy.engines[0].running.map(|running| running.kind), Some(busy.kinds[0].id));
    farm.engine_goodbye(engines[2]);
    let gone = look(&mut farm, viewer, Look { since: Some(busy.place), ..Look::default() });
    assert_eq!(gone.gone.len(), 1, "{gone:?}");
    assert_eq!(gone.farm.engines_online, 2);
}

#[test]
fn who_is_not_the_owner_sees_sums_and_no_names() {
    let mut farm = Farm::default();
    let client = farm.client();
    let [outsider, admin, auditor] =
        [Role::Observer, Role::Admin, Role::Auditor].map(|role| farm.absent_client(role));
    for viewer in [outsider, admin, auditor] {
        farm.clients[viewer].owner = 66;
        farm.connect_client(viewer).unwrap();
    }
    let engine = farm.engine();
    names(&mut farm, client, "secret");
    farm.submit(
        client,
        with(shared(), TaskOptions { require: vec!["hidden".into()], ..TaskOptions::default() }),
    );
    farm.submit(client, shared());
    farm.submit(client, shared());
    farm.fail(engine);
    let since = |seen: &Seen| Some(LookPlace { ends: 0, told: 0, ..seen.place });
    let first = look(&mut farm, outsider, all());
    let seen = look(&mut farm, outsider, Look { since: since(&first), ..all() });
    let text = format!("{seen:?}");
    assert!(!text.contains("secret") && !text.contains("hidden"), "{text}");
    assert_eq!((seen.farm.tasks_ended, seen.ends.len(), seen.failures.len()), (1, 0, 0));
    assert!(seen.kinds.iter().all(|kind| kind.owner.is_none() && kind.submitted > 0), "{text}");
    assert!(seen.engines.iter().all(|engine| engine.running.is_none_or(|it| it.task.is_none())));
    assert!(seen.owners.iter().all(|owner| owner.owner.is_none()));
    for viewer in [admin, auditor] {
        let first = look(&mut farm, viewer, all());
        let seen = look(&mut farm, viewer, Look { since: since(&first), ..all() });
        assert_eq!((seen.ends.len(), seen.failures.len()), (1, 1));
        assert_eq!(seen.kinds[0].name.as_deref(), Some("secret"));
    }
}

#[test]
fn an_auditor_reads_the_records_of_all_owners_and_an_admin_its_own() {
    let mut farm = Farm::default();
    let client = farm.client();
    let viewers = [Role::Observer, Role::Admin, Role::Auditor].map(|role| farm.absent_client(role));
    for viewer in viewers {
        farm.clients[viewer].owner = 66;
        farm.connect_client(viewer).unwrap();
    }
    let engine = farm.engine();
    let kept = TaskOptions { keep: true, label: Some("night".into()), ..TaskOptions::default() };
    let ended = farm.submit(client, with(shared(), kept));
    farm.finish(engine);
    let waits = farm.submit(client, shared());
    let mut records = |viewer| {
        let query = TaskQuery { limit: 9, ..TaskQuery::default() };
        let query = Query::Tasks(Box::new(query));
        let request = farm.ask(viewer, |request| FromClient::Query(Request { request, query }));
        let reply = farm.reply(viewer, request);
        let Some(ReplyBody::Tasks(records, None)) = reply else { panic!("{reply:?}") };
        records.into_iter().map(|record| (record.id.n.0, record.label)).collect::<Vec<_>>()
    };
    let [observer, admin, auditor] = viewers.map(&mut records);
    assert_eq!((observer.len(), admin.len()), (0, 0));
    assert_eq!(auditor, [(ended, Some("night".to_owned())), (waits, None)]);
}

#[test]
fn rules_find_what_is_wrong() {
    let mut farm = Farm::default();
    let (client, viewer) = (farm.client(), farm.client_as(Role::Observer));
    let engines: Vec<usize> = (0..3).map(|_| farm.engine()).collect();
    names(&mut farm, client, "fit");
    let gpu = TaskOptions { require: vec!["gpu".into()], ..TaskOptions::default() };
    for _ in 0..3 {
        farm.submit(client, with(shared(), gpu.clone()));
    }
    for _ in 0..40 {
        for _ in &engines {
            farm.submit(client, shared());
        }
        for (engine, run_us) in engines.iter().zip([10_000, 10_000, 31_000]) {
            ends(&mut farm, *engine, RunTimes::ran(run_us));
        }
    }
    for _ in 0..10 {
        farm.submit(client, shared());
        let engine = *engines.iter().find(|it| !farm.processes[**it].jobs.is_empty()).unwrap();
        farm.fail(engine);
    }
    for _ in 0..3 {
        farm.slot_down(engines[0], 0);
    }
    let notes = look(&mut farm, viewer, Look::default()).notes;
    let of = |code| notes.iter().filter(move |note| note.code == code).collect::<Vec<_>>();
    let nobody = of(NoteCode::NobodyFits);
    assert_eq!((nobody.len(), nobody[0].count, &*nobody[0].text), (1, 3, "native gpu"));
    let slow = of(NoteCode::SlowEngine);
    assert_eq!((slow.len(), slow[0].engine), (1, Some(farm.id(engines[2]))), "{notes:?}");
    assert!((250..350).contains(&slow[0].percent), "{slow:?}");
    assert_eq!(of(NoteCode::SameFailure).len(), 1, "{notes:?}");
    let dying = of(NoteCode::Dying);
    assert_eq!((dying.len(), dying[0].engine, dying[0].count), (1, Some(farm.id(engines[0])), 3));
}

#[test]
fn a_series_has_every_task_and_a_place_of_another_start_is_void() {
    let mut farm = Farm::default();
    let (client, viewer, engine) = (farm.client(), farm.client_as(Role::Observer), farm.engine());
    for _ in 0..5 {
        farm.submit(client, shared());
        farm.wait(Duration::from_millis(700));
        farm.finish(engine);
    }
    farm.wait(Duration::from_secs(2));
    let series = Look { series: Some(SeriesStep::Second), ..Look::default() };
    let seen = look(&mut farm, viewer, series);
    let sum: f32 = seen.series.iter().map(|row| row.ended).sum();
    assert_eq!((sum as u32, seen.farm.ends_per_s.iter().sum::<u32>()), (5, 5));
    farm.restart();
    let viewer = farm.client_as(Role::Observer);
    let after = look(&mut farm, viewer, Look { since: Some(seen.place), ..Look::default() });
    assert!(after.is_new && after.farm.tasks_ended == 0);
}
