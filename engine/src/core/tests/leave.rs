//! When a process leaves, and why.

use std::time::Duration;

use furlong_wire::message::EngineShutdown;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// The reason to leave at that second, when everything that was said has left.
fn leaves(process: &mut Process, second: u32) -> Option<String> {
    process.core.poll_leave(second * SECOND, true)
}

#[test]
fn the_broker_can_let_it_leave_at_once_or_when_it_has_finished() {
    for finish in [false, true] {
        let mut process = Process::new(1);
        process.assign(0, Native);
        process.tell(ToEngine::Shutdown(EngineShutdown { reason: "asked".into(), finish }));
        assert_eq!(leaves(&mut process, 1), (!finish).then(|| "asked".to_owned()));
    }
}

#[test]
fn the_second_request_to_stop_ends_it_at_once() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    assert_eq!(leaves(&mut process, 0), None);
    process.core.handle_stop("terminated");
    assert_eq!(leaves(&mut process, 1), None);
    process.core.handle_stop("terminated again");
    assert_eq!(leaves(&mut process, 1).as_deref(), Some("terminated again"));
}

#[test]
fn a_draining_process_leaves_when_its_last_word_is_written() {
    let mut process = Process::new(1);
    process.core.handle_stop("terminated");
    assert_eq!(process.core.poll_leave(SECOND, false), None);
    assert_eq!(leaves(&mut process, 2).as_deref(), Some("terminated"));
}

#[test]
fn a_drain_ends_in_its_time_whatever_runs() {
    let mut process = Process::new(1);
    process.core.set_limits(Limits { drain: Some(5 * SECOND), ..Limits::default() });
    process.assign(0, Native);
    process.core.handle_stop("terminated");
    assert!((10..15).all(|second| leaves(&mut process, second).is_none()));
    let reason = leaves(&mut process, 15).unwrap();
    assert!(reason.contains("has not finished in time"), "{reason}");
}

#[test]
fn without_a_broker_it_runs_on_and_keeps_results_for_fifteen_seconds() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    process.core.handle_stop("terminated");
    process.core.handle_disconnected();
    assert!((0..60).all(|second| leaves(&mut process, second).is_none()), "it runs");
    process.finish(0, 1, 10);
    assert!((60..75).all(|second| leaves(&mut process, second).is_none()), "it has a result");
    assert_eq!(leaves(&mut process, 75).as_deref(), Some("terminated"));
}

#[test]
fn a_process_without_work_leaves_though_nobody_hears_of_it() {
    let mut process = Process::new(1);
    process.core.handle_disconnected();
    process.core.handle_stop("terminated");
    assert_eq!(leaves(&mut process, 0).as_deref(), Some("terminated"));
}

/// A slot's job was killed by this signal.
fn killed(job: u64, signal: i32) -> SlotEvent {
    let SlotEvent::Finished { attempt, reply } =
        ended(job, AttemptOutcome::Exited("killed".into()), Vec::new())
    else {
        unreachable!("it is the event of an end")
    };
    SlotEvent::Finished { attempt, reply: AttemptEnd { killed_by: Some(signal), ..reply } }
}

/// The kind of error with which each attempt has ended.
fn kinds(process: &mut Process) -> Vec<ErrorKind> {
    let done = process.done();
    let kind = |it: &&AttemptFinished| it.outcome.error.as_ref().map(|error| error.kind);
    done.finished().iter().filter_map(kind).collect()
}

#[test]
fn what_dies_with_its_engine_is_given_back_whoever_hears_first() {
    for signal in [15, 2, 9] {
        for hears_first in [false, true] {
            let mut process = Process::new(2);
            process.assign(0, Native);
            process.assign(1, Python);
            if hears_first {
                process.core.handle_stop("terminated");
            }
            process.core.handle_slot_event(0, killed(1, signal));
            if !hears_first {
                assert_eq!(kinds(&mut process), []);
                process.core.handle_tick(SECOND);
                process.core.handle_stop("terminated");
            }
            assert_eq!(kinds(&mut process), [ErrorKind::GivenBack]);
            assert_eq!(leaves(&mut process, 2), None, "another one runs on");
        }
    }
}

#[test]
fn what_is_killed_alone_has_failed_within_a_second() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    process.assign(0, Native);
    process.done();
    process.core.handle_slot_event(0, killed(1, 15));
    process.core.handle_tick(10 * SECOND);
    let done = process.done();
    assert!(done.finished().is_empty() && done.started.is_empty(), "nothing begins meanwhile");
    process.core.handle_tick(10 * SECOND + Duration::from_millis(750));
    let done = process.done();
    assert_eq!(done.finished()[0].outcome.error.as_ref().unwrap().kind, ErrorKind::Exit);
    assert_eq!(done.jobs(), [(0, Native, 2)]);
}

#[test]
fn a_signal_that_was_asked_for_or_is_the_tasks_own_is_told_at_once() {
    let signal = |attempt| {
        let of_task = furlong_wire::message::SignalAttempts { attempts: vec![attempt], signal: 15 };
        ToEngine::Signal(of_task)
    };
    for (is_asked_for, by) in [(true, 15), (false, 11)] {
        let mut process = Process::new(1);
        let attempt = process.assign(0, Native);
        if is_asked_for {
            process.tell(signal(attempt));
        }
        process.core.handle_slot_event(0, killed(1, by));
        assert_eq!(kinds(&mut process), [ErrorKind::Exit]);
    }
}

#[test]
fn what_was_killed_before_a_cut_is_given_back() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    process.core.handle_slot_event(0, killed(1, 15));
    process.core.handle_disconnected();
    process.core.handle_connected(START, CREDIT);
    process.done();
    process.adopt_all();
    assert_eq!(kinds(&mut process), [ErrorKind::GivenBack]);
}

#[test]
fn before_its_end_it_drains_and_gives_back_what_still_runs() {
    let mut process = Process::new(1);
    let end = Some(End { drain_at: 30 * SECOND, stop_at: 45 * SECOND });
    process.core.set_limits(Limits { end, ..Limits::default() });
    process.assign(0, Native);
    process.assign(0, Native);
    process.done();
    process.core.handle_tick(29 * SECOND);
    assert!(!process.core.is_leaving());
    process.core.handle_tick(30 * SECOND);
    let given_back = |it: &FromEngine| matches!(it, FromEngine::Recalled(_));
    assert!(process.core.is_leaving() && process.done().sent.iter().any(given_back));
    assert_eq!(leaves(&mut process, 44), None);
    process.core.handle_tick(45 * SECOND);
    assert_eq!(leaves(&mut process, 45).as_deref(), Some("its time limit is near"));
    assert_eq!(kinds(&mut process), [ErrorKind::GivenBack]);
}

#[test]
fn without_a_broker_or_without_work_it_leaves_in_time() {
    let limits =
        Limits { without_broker: Some(10 * SECOND), idle: Some(20 * SECOND), ..Limits::default() };
    for is_alone in [false, true] {
        let mut process = Process::new(1);
        process.core.set_limits(limits);
        process.assign(0, Native);
        if is_alone {
            process.core.handle_disconnected();
        }
        (0..100).for_each(|second| process.core.handle_tick(second * SECOND));
        assert!(!process.core.is_leaving(), "it has work");
        process.finish(0, 1, 10);
        process.core.handle_tick(100 * SECOND);
        assert_eq!(process.core.is_leaving(), is_alone, "for long there has been no broker");
        process.core.handle_tick(119 * SECOND);
        assert_eq!(process.core.is_leaving(), is_alone);
        process.core.handle_tick(120 * SECOND);
        let reason = leaves(&mut process, 120);
        let expected = if is_alone { "there was no broker" } else { "there was nothing to run" };
        assert!(reason.is_some_and(|reason| reason.starts_with(expected)));
    }
}
