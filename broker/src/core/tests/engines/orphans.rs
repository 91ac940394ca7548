//! The broker is killed and started again: what engines hold is matched with what clients wait for.

use std::time::Duration;

use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{
    Attempts, Dependency, ErrorKind, FromClient, FromEngine, Outcome, Payload, RunTimes, Runtime,
    Shutdown, Submit, TaskOptions, TaskState, ToEngine,
};
use furlong_wire::token::Role;

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, at_most_once, direct, python, shared, with};

const SUCCEEDED: Option<(TaskState, Option<ErrorKind>)> = Some((TaskState::Succeeded, None));
const LOST: Option<(TaskState, Option<ErrorKind>)> =
    Some((TaskState::Lost, Some(ErrorKind::EngineLost)));

fn small() -> Payload {
    Payload::Inline(b"of before".into())
}

/// A farm with a client and an engine that has the client's first task, as it is after a restart:
/// nobody is connected.
fn restarted(submit: impl FnOnce(&Farm, usize) -> Submit) -> (Farm, usize, usize, Submit) {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let submit = submit(&farm, engine);
    farm.submit(client, submit.clone());
    farm.restart();
    (farm, client, engine, submit)
}

fn kinds() -> [fn(&Farm, usize) -> Submit; 4] {
    [
        |_, _| shared(),
        |_, _| with(shared(), at_most_once()),
        |farm, engine| direct(&[farm.id(engine)]),
        |farm, engine| python(direct(&[farm.id(engine)])),
    ]
}

#[test]
fn what_runs_goes_on_whoever_comes_back_first() {
    for kind in kinds() {
        for client_first in [true, false] {
            let (mut farm, client, engine, submit) = restarted(kind);
            if client_first {
                farm.connect_client(client).unwrap();
                farm.repeat(client, 1, submit);
                invariants::hold(&farm.core);
                assert_eq!(farm.end_of(client, 1), None);
                farm.connect_engine(engine);
            } else {
                farm.connect_engine(engine);
                invariants::hold(&farm.core);
                farm.connect_client(client).unwrap();
                farm.repeat(client, 1, submit);
            }
            invariants::hold(&farm.core);
            assert!(farm.processes[engine].cancelled.is_empty());
            assert_eq!(farm.assigned(engine), [1], "it was not given again");
            assert_eq!(farm.processes[engine].jobs[0].attempt.start, farm.core.config.start);
            farm.finish(engine);
            assert_eq!(farm.end_of(client, 1), SUCCEEDED);
            assert_eq!(farm.clients[client].finished[&1].attempts, 1);
            farm.goodbye(client);
            invariants::is_quiet(&farm.core);
            assert_eq!(farm.core.recovery.orphans.len(), 0);
        }
    }
}

#[test]
fn what_has_ended_arrives_whoever_comes_back_first() {
    for kind in kinds() {
        for client_first in [true, false] {
            let mut farm = Farm::default();
            let (client, engine) = (farm.client(), farm.engine());
            let submit = kind(&farm, engine);
            farm.submit(client, submit.clone());
            farm.finish_unheard(engine, small());
            farm.restart();
            if client_first {
                farm.connect_client(client).unwrap();
                farm.repeat(client, 1, submit);
                farm.connect_engine(engine);
            } else {
                farm.connect_engine(engine);
                farm.connect_client(client).unwrap();
                farm.repeat(client, 1, submit);
            }
            invariants::hold(&farm.core);
            assert_eq!((farm.end_of(client, 1), farm.deliveries(client, 1)), (SUCCEEDED, 1));
            assert_eq!(farm.clients[client].finished[&1].payload, Some(small()));
            farm.ack(client, 1, 1);
            farm.core.handle_tick();
            farm.pump();
            assert!(farm.processes[engine].results.is_empty() && farm.assigned(engine).is_empty());
        }
    }
}

#[test]
fn what_ends_before_its_client_is_back_is_kept_for_it() {
    let (mut farm, client, engine, submit) = restarted(|_, _| shared());
    farm.connect_engine(engine);
    farm.finish(engine);
    assert_eq!(farm.processes[engine].results.len(), 1, "it is not released");
    farm.connect_client(client).unwrap();
    farm.repeat(client, 1, submit);
    invariants::hold(&farm.core);
    assert_eq!((farm.end_of(client, 1), farm.deliveries(client, 1)), (SUCCEEDED, 1));
    assert_eq!(farm.core.attempts.len(), 0);
}

#[test]
fn the_run_timeout_of_work_of_before_counts_from_the_report_of_its_start() {
    let limited = TaskOptions { run_timeout_ms: Some(100), ..TaskOptions::default() };
    let (mut farm, client, engine, submit) = restarted(|_, _| with(shared(), limited));
    farm.connect_engine(engine);
    farm.connect_client(client).unwrap();
    farm.repeat(client, 1, submit);
    farm.wait(Duration::from_secs(5));
    assert_eq!(farm.end_of(client, 1), None, "it may wait behind others at its engine");
    farm.start(engine);
    farm.wait(Duration::from_millis(100));
    assert_eq!(farm.end_of(client, 1), Some((TaskState::TimedOut, Some(ErrorKind::RunTimeout))));
}

#[test]
fn an_engine_that_runs_work_of_before_is_as_busy_as_with_any_other() {
    let (mut farm, _, engine, _) = restarted(|_, _| shared());
    farm.connect_engine(engine);
    let (other, outsider) = (farm.engine(), farm.client());
    let [first, second] = [(); 2].map(|()| farm.submit(outsider, shared()));
    assert_eq!(
        (farm.assigned(other), farm.assigned(engine).len()),
        (vec![first], 1),
        "the second one waits"
    );
    farm.finish(engine);
    assert_eq!(farm.assigned(engine), [second]);
    invariants::hold(&farm.core);
}

#[test]
fn an_engine_is_busy_with_unwanted_work_of_before_until_that_has_stopped() {
    let (mut farm, client, engine, submit) = restarted(|_, _| shared());
    farm.connect_client(client).unwrap();
    farm.repeat(client, 1, submit);
    farm.cancel(client, 1, 1);
    farm.connect_engine(engine);
    farm.submit(client, shared());
    assert_eq!(farm.assigned(engine), [1], "it gets nothing new");
    invariants::hold(&farm.core);
    farm.finish(engine);
    assert_eq!(farm.assigned(engine), [2]);
    assert_eq!(farm.core.recovery.orphans.len(), 0);
    invariants::hold(&farm.core);
}

#[test]
fn work_of_before_that_is_given_back_leaves_its_engine_free_and_is_given_again() {
    for is_matched in [false, true] {
        let (mut farm, client, engine, submit) = restarted(|_, _| shared());
        let attempts = vec![farm.processes[engine].jobs[0].attempt];
        farm.connect_engine(engine);
        farm.connect_client(client).unwrap();
        if is_matched {
            farm.repeat(client, 1, submit.clone());
        }
        // Its interpreter has ended, before it has heard of a match.
        farm.processes[engine].jobs.clear();
        farm.report(engine, FromEngine::Recalled(Attempts { attempts })).unwrap();
        if !is_matched {
            farm.repeat(client, 1, submit);
        }
        assert_eq!(farm.assigned(engine), [1]);
        invariants::hold(&farm.core);
        farm.finish(engine);
        assert_eq!((farm.end_of(client, 1), farm.core.recovery.orphans.len()), (SUCCEEDED, 0));
    }
}

#[test]
fn work_of_before_counts_as_a_loss_only_if_it_was_reported_to_run() {
    for begins in [false, true] {
        let once = TaskOptions { retries: Some(0), ..TaskOptions::default() };
        let (mut farm, client, engine, submit) = restarted(|_, _| with(shared(), once));
        farm.connect_engine(engine);
        farm.connect_client(client).unwrap();
        farm.repeat(client, 1, submit);
        if begins {
            farm.start(engine);
        }
        farm.disconnect_engine(engine);
        assert_eq!(farm.end_of(client, 1), begins.then_some(LOST).flatten());
    }
}

#[test]
fn a_client_that_is_cut_off_once_more_says_everything_again() {
    let (mut farm, client, engine, submit) = restarted(|_, _| shared());
    farm.connect_client(client).unwrap();
    farm.disconnect_client(client);
    farm.connect_client(client).unwrap();
    assert_eq!(farm.accepted(client).n, TaskSeq::MIN, "it has not said what it waits for");
    farm.repeat(client, 1, submit.clone());
    farm.repeat(client, 1, submit);
    farm.connect_engine(engine);
    farm.finish(engine);
    assert_eq!((farm.end_of(client, 1), farm.deliveries(client, 1)), (SUCCEEDED, 1));
    invariants::hold(&farm.core);
}

#[test]
fn of_two_attempts_at_one_engine_one_alone_goes_on() {
    let options = TaskOptions { error_retries: 3, ..TaskOptions::default() };
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    farm.submit(client, with(shared(), options.clone()));
    farm.fail(engine);
    assert_eq!((farm.assigned(engine), farm.processes[engine].results.len()), (vec![1], 1));
    farm.restart();
    farm.connect_client(client).unwrap();
    farm.repeat(client, 1, with(shared(), options));
    farm.connect_engine(engine);
    let adopted = farm.processes[engine].received.iter().filter_map(|message| match message {
        ToEngine::Adopt(adopt) => Some(adopt.attempts.len()),
        _ => None,
    });
    assert_eq!(adopted.sum::<usize>(), 1);
    invariants::hold(&farm.core);
}

#[test]
fn what_an_earlier_start_has_cancelled_runs_again_if_it_may() {
    for (options, end) in
        [(TaskOptions::default(), None), (at_most_once(), Some(TaskState::Cancelled))]
    {
        let (mut farm, client, engine, submit) = restarted(|_, _| with(shared(), options));
        farm.end_unheard(
            engine,
            Outcome::error(TaskState::Cancelled, ErrorKind::Cancelled, "it had gone elsewhere"),
        );
        farm.connect_engine(engine);
        farm.connect_client(client).unwrap();
        farm.repeat(client, 1, submit);
        assert_eq!(farm.end_of(client, 1).map(|(state, _)| state), end);
        assert_eq!(farm.assigned(engine).is_empty(), end.is_some());
        invariants::hold(&farm.core);
    }
}

#[test]
fn a_shared_task_waits_a_second_for_the_engines_of_before() {
    let (mut farm, client, _, submit) = restarted(|_, _| shared());
    let other = farm.engine();
    farm.connect_client(client).unwrap();
    farm.repeat(client, 1, submit);
    farm.wait(Duration::from_millis(999));
    invariants::hold(&farm.core);
    assert!(farm.assigned(other).is_empty());
    farm.wait(Duration::from_millis(1));
    assert_eq!(farm.assigned(other), [1]);
    farm.finish(other);
    farm.goodbye(client);
    invariants::is_quiet(&farm.core);
}

#[test]
fn a_shared_task_does_not_wait_when_all_engines_of_before_are_here() {
    let mut farm = Farm::default();
    let (client, engines) = (farm.client(), [farm.engine(), farm.engine()]);
    farm.restart();
    farm.clients[client].submitted = 1;
    farm.connect_client(client).unwrap();
    farm.repeat(client, 1, shared());
    farm.connect_engine(engines[0]);
    assert!(farm.assigned(engines[0]).is_empty());
    farm.connect_engine(engines[1]);
    assert_eq!([farm.assigned(engines[0]), farm.assigned(engines[1])].concat(), [1]);
    invariants::hold(&farm.core);
}

#[test]
fn what_may_run_once_waits_for_its_engine_and_is_lost_without() {
    for comes_back in [true, false] {
        let (mut farm, client, engine, submit) = restarted(|_, _| with(shared(), at_most_once()));
        let other = farm.engine();
        farm.connect_client(client).unwrap();
        farm.repeat(client, 1, submit);
        farm.wait(Duration::from_millis(14_999));
        assert_eq!(farm.end_of(client, 1), None);
        if comes_back {
            farm.connect_engine(engine);
            farm.finish(engine);
        }
        farm.wait(Duration::from_millis(1));
        assert_eq!(farm.end_of(client, 1), if comes_back { SUCCEEDED } else { LOST });
        assert!(farm.assigned(other).is_empty(), "it is given to nobody else");
        invariants::hold(&farm.core);
        if !comes_back {
            assert!(
                farm.error_of(client, 1).contains("may have run"),
                "{}",
                farm.error_of(client, 1)
            );
        }
    }
}

#[test]
fn what_may_run_once_and_no_engine_of_before_holds_is_lost_after_a_second() {
    let (mut farm, client, engine, submit) = restarted(|_, _| with(shared(), at_most_once()));
    farm.processes[engine].jobs.clear();
    farm.connect_client(client).unwrap();
    farm.repeat(client, 1, submit.clone());
    farm.connect_engine(engine);
    assert_eq!(farm.end_of(client, 1), None);
    farm.wait(Duration::from_secs(1));
    assert_eq!(farm.end_of(client, 1), LOST);
    // What was not submitted before is not concerned.
    assert_eq!(farm.submit(client, submit), 2);
    assert_eq!(farm.finish(engine), 2);
}

#[test]
fn direct_work_waits_for_its_engine_from_the_start_of_the_broker_on() {
    for comes_back in [true, false] {
        let (mut farm, client, engine, submit) =
            restarted(|farm, engine| direct(&[farm.id(engine)]));
        farm.processes[engine].jobs.clear();
        farm.connect_client(client).unwrap();
        farm.repeat(client, 1, submit);
        farm.wait(Duration::from_millis(14_999));
        assert_eq!(farm.end_of(client, 1), None);
        if comes_back {
            farm.connect_engine(engine);
            assert_eq!(farm.finish(engine), 1, "it had not come to the engine");
        }
        farm.wait(Duration::from_millis(1));
        assert_eq!(farm.end_of(client, 1), if comes_back { SUCCEEDED } else { LOST });
        invariants::hold(&farm.core);
    }
}

#[test]
fn direct_work_is_lost_if_its_engine_has_dropped_results_of_before() {
    for client_first in [true, false] {
        let (mut farm, client, engine, submit) =
            restarted(|farm, engine| direct(&[farm.id(engine)]));
        let jobs = std::mem::take(&mut farm.processes[engine].jobs);
        farm.processes[engine].dropped = Some(jobs[0].attempt);
        if !client_first {
            farm.connect_engine(engine);
        }
        farm.connect_client(client).unwrap();
        farm.repeat(client, 1, submit.clone());
        if client_first {
            farm.connect_engine(engine);
        }
        assert_eq!(farm.end_of(client, 1), LOST);
        farm.submit(client, submit);
        assert_eq!(farm.finish(engine), 2, "later work is not concerned");
        invariants::hold(&farm.core);
    }
}

#[test]
fn work_whose_client_does_not_return_is_ended() {
    let mut farm = Farm::default();
    let (client, engine) =
        (farm.client(), farm.engine_with(2, furlong_wire::message::Runtime::ALL));
    (0..2).for_each(|_| _ = farm.submit(client, shared()));
    let attempts: Vec<_> = farm.processes[engine].jobs.iter().map(|job| job.attempt).collect();
    farm.finish_unheard(engine, small());
    farm.restart();
    farm.connect_engine(engine);
    farm.wait(Duration::from_secs(599));
    assert!(farm.processes[engine].cancelled.is_empty() && farm.released(engine).is_empty());
    farm.wait(Duration::from_secs(1));
    assert_eq!(farm.released(engine), [attempts[0]]);
    assert!(farm.processes[engine].cancelled.contains(&attempts[1]));
    farm.finish(engine);
    assert_eq!(farm.released(engine), attempts);
    invariants::is_quiet(&farm.core);
    assert_eq!(farm.core.recovery.orphans.len(), 0);
}

#[test]
fn work_whose_client_is_away_waits_as_long_for_a_session_that_the_journal_had() {
    let mut farm = Farm::with_journal(8 << 20, 10_000);
    let (client, engine) = (farm.client(), farm.engine());
    let once = with(shared(), TaskOptions { at_most_once: true, ..TaskOptions::default() });
    farm.submit(client, once.clone());
    let durable = TaskOptions { durable: true, keep: true, ..TaskOptions::default() };
    farm.submit(client, with(shared(), durable));
    farm.restart();
    farm.connect_engine(engine);
    farm.wait(Duration::from_secs(590));
    assert!(farm.processes[engine].cancelled.is_empty(), "its client may come back yet");
    farm.restart();
    farm.connect_engine(engine);
    farm.wait(Duration::from_secs(90));
    assert!(farm.connect_client(client).unwrap(), "the journal has the session");
    farm.repeat(client, 1, once);
    assert_eq!(farm.finish(engine), 1, "it goes on where it was");
    assert_eq!((farm.end_of(client, 1), farm.deliveries(client, 1)), (SUCCEEDED, 1));
    invariants::hold(&farm.core);
}

#[test]
fn work_of_before_that_is_named_twice_is_held_once() {
    let (mut farm, _, engine, _) = restarted(|_, _| shared());
    let job = farm.processes[engine].jobs[0];
    farm.processes[engine].jobs.push(job);
    farm.connect_engine(engine);
    assert_eq!((farm.core.attempts.len(), farm.core.recovery.orphans.len()), (1, 1));
    assert!(farm.processes[engine].cancelled.contains(&job.attempt));
    invariants::hold(&farm.core);
}

#[test]
fn a_client_that_is_back_has_a_minute_to_ask_and_its_goodbye_ends_the_rest() {
    for says_goodbye in [true, false] {
        for client_first in [true, false] {
            let (mut farm, client, engine, _) = restarted(|_, _| shared());
            if client_first {
                farm.connect_client(client).unwrap();
                farm.connect_engine(engine);
            } else {
                farm.connect_engine(engine);
                farm.connect_client(client).unwrap();
            }
            farm.wait(Duration::from_secs(59));
            assert!(farm.processes[engine].cancelled.is_empty());
            if says_goodbye {
                farm.goodbye(client);
            } else {
                farm.wait(Duration::from_secs(1));
            }
            assert_eq!(farm.processes[engine].cancelled.len(), 1);
            farm.finish(engine);
            assert!(farm.processes[engine].results.is_empty());
            invariants::hold(&farm.core);
            assert_eq!(farm.core.recovery.orphans.len(), 0);
        }
    }
}

#[test]
fn what_may_run_once_and_is_asked_for_too_late_is_lost() {
    for kind in kinds().into_iter().skip(1) {
        let mut farm = Farm::default();
        let (client, engine) = (farm.client(), farm.engine());
        let submit = kind(&farm, engine);
        farm.submit(client, submit.clone());
        farm.finish_unheard(engine, small());
        farm.restart();
        farm.connect_engine(engine);
        farm.connect_client(client).unwrap();
        farm.wait(Duration::from_secs(61));
        assert!(farm.processes[engine].results.is_empty(), "nobody has asked for it");
        farm.repeat(client, 1, submit);
        assert!(farm.assigned(engine).is_empty(), "it has run");
        assert_eq!(farm.end_of(client, 1), LOST);
        invariants::hold(&farm.core);
    }
}

#[test]
fn what_may_run_once_and_whose_client_stood_still_for_too_long_is_lost() {
    for kind in kinds().into_iter().skip(1) {
        let (mut farm, client, engine, submit) = restarted(|farm, engine| kind(farm, engine));
        farm.connect_engine(engine);
        farm.wait(Duration::from_secs(601));
        assert_eq!(farm.processes[engine].cancelled.len(), 1, "nobody has asked for it");
        assert!(!farm.connect_client(client).unwrap(), "nobody remembers the session");
        farm.repeat(client, 1, submit);
        farm.finish(engine);
        assert!(farm.assigned(engine).is_empty(), "it may have run");
        assert_eq!(farm.end_of(client, 1), LOST);
        invariants::hold(&farm.core);
    }
}

#[test]
fn what_is_asked_for_and_has_no_arguments_yet_is_not_ended() {
    let mut farm = Farm::default();
    let (client, engine) = (farm.client(), farm.engine());
    let submit = direct(&[farm.id(engine)]);
    farm.submit(client, submit.clone());
    farm.finish_unheard(engine, small());
    farm.restart();
    farm.connect_engine(engine);
    farm.connect_client(client).unwrap();
    let payload = farm.clients[client].sending.chunked(2_000);
    farm.repeat(client, 1, Submit { payload, ..submit });
    farm.wait(Duration::from_secs(100));
    while farm.send_chunk(client) {}
    assert_eq!(farm.end_of(client, 1), SUCCEEDED);
    invariants::hold(&farm.core);
}

#[test]
fn an_engine_that_is_cut_off_once_more_is_matched_when_it_is_back() {
    let (mut farm, client, engine, submit) = restarted(|_, _| with(shared(), at_most_once()));
    farm.connect_engine(engine);
    farm.disconnect_engine(engine);
    invariants::hold(&farm.core);
    farm.connect_client(client).unwrap();
    farm.repeat(client, 1, submit);
    // The word of the match is lost with the connection.
    let held = farm.processes[engine].jobs.clone();
    farm.connect_engine(engine);
    farm.processes[engine].jobs = held;
    farm.disconnect_engine(engine);
    invariants::hold(&farm.core);
    farm.connect_engine(engine);
    invariants::hold(&farm.core);
    assert_eq!(farm.processes[engine].jobs[0].attempt.start, farm.core.config.start);
    farm.finish(engine);
    assert_eq!(farm.end_of(client, 1), SUCCEEDED);
}

#[test]
fn of_work_that_was_tried_twice_what_has_ended_is_taken() {
    let mut farm = Farm::default();
    let (client, slow, other) = (farm.client(), farm.engine(), farm.engine());
    farm.submit(client, shared());
    farm.disconnect_engine(slow);
    assert_eq!(farm.assigned(other), [1]);
    farm.finish_unheard(other, small());
    farm.restart();
    farm.connect_engine(slow);
    farm.connect_engine(other);
    assert_eq!(farm.processes[slow].cancelled.len(), 1);
    farm.connect_client(client).unwrap();
    farm.repeat(client, 1, shared());
    assert_eq!(farm.end_of(client, 1), SUCCEEDED);
    farm.finish(slow);
    assert!(farm.processes[slow].results.is_empty(), "nobody wants that");
    invariants::hold(&farm.core);
}

#[test]
fn a_matched_task_can_be_cancelled_and_its_session_s_secret_is_told() {
    let (mut farm, client, engine, submit) = restarted(|_, _| shared());
    farm.connect_engine(engine);
    farm.connect_client(client).unwrap();
    farm.repeat(client, 1, submit);
    let messages = &farm.processes[engine].received;
    let secret = messages.iter().rposition(|message| matches!(message, ToEngine::Secret(_)));
    let adopted = messages.iter().rposition(|message| matches!(message, ToEngine::Adopt(_)));
    assert!(secret < adopted, "{messages:?}");
    farm.cancel(client, 1, 1);
    let attempt = farm.processes[engine].jobs[0].attempt;
    assert!(farm.processes[engine].cancelled.contains(&attempt));
    farm.finish(engine);
    assert_eq!(farm.stopped(client), [1]);
    invariants::hold(&farm.core);
}

#[test]
fn what_speaks_of_an_earlier_start_without_holding_it_is_told_to_forget_it() {
    let (mut farm, client, engine, _) = restarted(|_, _| shared());
    let job = farm.processes[engine].jobs[0];
    farm.connect_engine(engine);
    farm.connect_client(client).unwrap();
    farm.goodbye(client);
    farm.finish(engine);
    let finished = furlong_wire::message::AttemptFinished {
        attempt: job.attempt,
        outcome: furlong_wire::message::Outcome::SUCCEEDED,
        times: RunTimes::ran(1),
        payload: Some(small()),
    };
    farm.report(engine, FromEngine::Finished(finished)).unwrap();
    assert_eq!(farm.released(engine), [job.attempt; 2]);
    let other = farm.client();
    farm.say(other, FromClient::Submit(Submit { n: TaskSeq(1), ..shared() })).unwrap();
    assert_eq!(farm.assigned(engine), [1]);
}

#[test]
fn a_process_does_not_hold_what_an_engine_had_ended_that_was_stopped_alone() {
    let mut farm = Farm::default();
    let (client, process) = (farm.client(), farm.engine_with(2, Runtime::ALL));
    farm.submit(client, shared());
    let attempt = farm.start(process);
    farm.finish_unheard(process, Payload::Inline(vec![1].into()));
    farm.restart();
    farm.connect_engine(process);
    let admin = farm.client_as(Role::Admin);
    let engines = Some(vec![farm.id(process)]);
    farm.ask(admin, |request| {
        FromClient::Shutdown(Shutdown { request, engines, finish: false, broker: false })
    });
    assert_eq!(farm.released(process), [attempt]);
    invariants::hold(&farm.core);
}

#[test]
fn what_waits_for_others_that_run_once_more_goes_on_where_it_was_however_long_that_takes() {
    for kind in kinds() {
        let (mut farm, client, engine, submit) = restarted(kind);
        let other = farm.client();
        let nowhere = TaskOptions { require: vec!["nowhere".into()], ..TaskOptions::default() };
        let first = farm.submit(other, with(shared(), nowhere));
        farm.connect_engine(engine);
        farm.connect_client(client).unwrap();
        let options = submit.options.as_deref().cloned().unwrap_or_default();
        let after =
            vec![Dependency { task: farm.task(other, first), success: true, failure: true }];
        farm.repeat(client, 1, with(submit, TaskOptions { after, ..options }));
        farm.wait(Duration::from_mins(20));
        assert!(farm.processes[engine].cancelled.is_empty());
        farm.cancel(other, first, first);
        farm.finish(engine);
        assert_eq!((farm.end_of(client, 1), farm.deliveries(client, 1)), (SUCCEEDED, 1));
        assert!(farm.assigned(engine).is_empty());
        invariants::hold(&farm.core);
    }
}

#[test]
fn what_may_run_once_and_has_followed_another_goes_on_though_that_one_runs_elsewhere_now() {
    for is_back in [true, false] {
        let mut farm = Farm::default();
        let (client, engine) = (farm.client(), farm.engine());
        let short =
            with(shared(), TaskOptions { run_timeout_ms: Some(100), ..TaskOptions::default() });
        let first = farm.submit(client, short.clone());
        let follow =
            vec![Dependency { task: farm.task(client, first), success: true, failure: true }];
        let follows = with(shared(), TaskOptions { follow, ..at_most_once() });
        let second = farm.submit(client, follows.clone());
        farm.start(engine);
        farm.disconnect_client(client);
        farm.wait(Duration::from_millis(100));
        farm.finish_with(
            engine,
            Outcome::error(TaskState::Cancelled, ErrorKind::Cancelled, ""),
            1_000,
            None,
        );
        assert_eq!(farm.assigned(engine), [second]);
        farm.restart();
        let other = farm.engine();
        farm.connect_client(client).unwrap();
        farm.repeat(client, first, short);
        farm.repeat(client, second, follows);
        if is_back {
            farm.connect_engine(engine);
        }
        farm.wait(Duration::from_secs(1));
        assert_eq!(farm.finish(other), first);
        assert!(farm.assigned(other).is_empty(), "it has begun where the first one was then");
        invariants::hold(&farm.core);
        if is_back {
            assert_eq!(farm.finish(engine), second);
        }
        farm.wait(Duration::from_secs(15));
        assert_eq!(farm.end_of(client, second), if is_back { SUCCEEDED } else { LOST });
        invariants::hold(&farm.core);
    }
}
