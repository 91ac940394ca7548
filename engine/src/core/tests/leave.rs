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
    process.core.set_drain_timeout(Some(5 * SECOND));
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
