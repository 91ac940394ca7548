//! Results that are held: until they are released, within bounds, and sent again as they were.

use furlong_wire::limits::{ERROR_TEXT_BYTES_MAX, HELD_RESULT_BYTES_MAX, HELD_RESULTS_MAX};
use furlong_wire::message::{Release, RunTimes};

use super::*;

/// Ends so many attempts with a result of that many bytes, and gives them.
fn finished(process: &mut Process, count: u64, result_bytes: usize) -> Vec<Attempt> {
    let attempts: Vec<Attempt> = (0..count).map(|_| process.assign(0, Native)).collect();
    attempts.iter().for_each(|attempt| process.finish(0, attempt.id.0, result_bytes));
    attempts
}

fn reconnect(process: &mut Process) {
    process.core.handle_disconnected();
    process.connect(u64::MAX);
    process.done();
}

fn held(process: &mut Process) -> Vec<Attempt> {
    process.core.held().work.into_iter().map(|held| held.attempt).collect()
}

fn release(process: &mut Process, attempts: &[Attempt]) {
    let counts = attempts.iter().rev().map(|attempt| attempt.id).collect();
    process.tell(ToEngine::Release(Release::of(BrokerStart(1), counts)));
}

#[test]
fn a_result_that_was_sent_is_held_until_it_is_released() {
    let mut process = Process::new(1);
    let attempts = finished(&mut process, 3, 3);
    assert_eq!(process.done().finished().len(), 3);
    let work = process.core.held().work;
    assert!(
        work.iter()
            .all(|held| held.finished && held.session == SESSION && held.n.0 == held.attempt.id.0)
    );
    process.tell(ToEngine::Release(Release::of(BrokerStart(2), [1, 2, 3].map(AttemptId).to_vec())));
    assert_eq!(held(&mut process), attempts, "those were of another start");
    release(&mut process, &[attempts[0], attempts[2]]);
    assert_eq!(held(&mut process), [attempts[1]]);
    release(&mut process, &attempts);
    assert!(held(&mut process).is_empty());
}

#[test]
fn an_adopted_result_is_sent_again_byte_for_byte() {
    let mut process = Process::new(1);
    finished(&mut process, 1, 3);
    finished(&mut process, 1, 5_000);
    let first = process.done();
    reconnect(&mut process);
    process.adopt_all();
    let again = process.done();
    let comparable = |done: &Done| {
        done.finished()
            .into_iter()
            .map(|it| (it.attempt, it.outcome.clone(), it.times.run_us))
            .collect::<Vec<_>>()
    };
    assert_eq!(comparable(&first), comparable(&again));
    assert_eq!(first.finished()[0].payload, again.finished()[0].payload);
    assert_eq!(first.finished()[1].payload, again.finished()[1].payload, "under the same counter");
    assert_eq!(first.transfers[0].chunk(0), again.transfers[0].chunk(0));
    process.adopt_all();
    assert_eq!(process.done().finished().len(), 2, "as often as it is wanted");
}

#[test]
fn the_oldest_results_are_dropped_beyond_the_bound_of_their_number() {
    let mut process = Process::new(1);
    let attempts = finished(&mut process, HELD_RESULTS_MAX as u64, 3);
    assert_eq!(held(&mut process), attempts);
    let one_more = finished(&mut process, 1, 3);
    let dropped = HELD_RESULTS_MAX / 8;
    assert_eq!(
        held(&mut process),
        [&attempts[dropped..], &one_more].concat(),
        "and with the first one some more"
    );
    assert_eq!(process.core.held().dropped, Some(attempts[dropped - 1]));
    assert_eq!(process.core.held().received, Some(one_more[0]));
}

#[test]
fn the_oldest_results_are_dropped_beyond_the_bound_of_their_bytes() {
    let mut process = Process::new(1);
    reconnect(&mut process);
    let each = HELD_RESULT_BYTES_MAX / 4 - 1_000;
    let attempts = finished(&mut process, 5, each as usize);
    assert_eq!(held(&mut process), attempts[1..]);
    release(&mut process, &attempts[1..2]);
    let more = finished(&mut process, 1, each as usize);
    assert_eq!(
        held(&mut process),
        [&attempts[2..], &more].concat(),
        "what was released has made room"
    );
}

#[test]
fn what_could_not_be_sent_is_not_dropped() {
    let mut process = Process::new(1);
    process.core.handle_disconnected();
    let attempts = finished(&mut process, 5, HELD_RESULT_BYTES_MAX as usize / 4);
    assert_eq!(held(&mut process), attempts);
    process.connect(u64::MAX);
    process.adopt_all();
    assert_eq!(process.done().transfers.len(), 5);
    assert_eq!(held(&mut process).len(), 3, "once it was sent, the bound holds");
}

#[test]
fn a_registration_names_no_more_than_it_may_and_the_rest_is_dropped() {
    let mut process = Process::new(1);
    process.core.handle_disconnected();
    let attempts = finished(&mut process, HELD_RESULTS_MAX as u64, 3);
    let running = process.assign(0, Native);
    let held = process.core.held();
    assert_eq!((held.work.len(), held.dropped), (HELD_RESULTS_MAX, Some(attempts[0])));
    assert!(held.work.iter().any(|work| work.attempt == running && !work.finished));
}

#[test]
fn adopted_work_is_reported_under_its_new_attempt() {
    let mut process = Process::new(1);
    let ended = finished(&mut process, 1, 5_000)[0];
    let running = process.assign(0, Native);
    process.core.handle_disconnected();
    process.core.handle_connected(BrokerStart(2), u64::MAX);
    process.tell(ToEngine::Secret(told()));
    process.done();
    let of_new_start = |id| Attempt { start: BrokerStart(2), id: AttemptId(id) };
    let attempts = vec![(ended, of_new_start(7)), (running, of_new_start(8))];
    process.tell(ToEngine::Adopt(Adopt { attempts }));
    process.core.report_started();
    process.finish(0, 2, 3);
    let done = process.done();
    assert!(done.sent.contains(&FromEngine::Started(Attempts { attempts: vec![of_new_start(8)] })));
    let reported: Vec<Attempt> = done.finished().into_iter().map(|it| it.attempt).collect();
    assert_eq!((reported, done.transfers.len()), (vec![of_new_start(7), of_new_start(8)], 1));
    assert_eq!(held(&mut process), [of_new_start(7), of_new_start(8)]);
    process.tell(ToEngine::Release(Release::of(BrokerStart(2), [7, 8].map(AttemptId).to_vec())));
    assert!(held(&mut process).is_empty());
}

#[test]
fn results_that_are_adopted_as_one_attempt_count_as_one() {
    let mut process = Process::new(1);
    let attempts = finished(&mut process, 3, 3);
    let as_the_first = attempts[1..].iter().map(|attempt| (*attempt, attempts[0])).collect();
    process.tell(ToEngine::Adopt(Adopt { attempts: as_the_first }));
    assert_eq!(held(&mut process), attempts[..1]);
    finished(&mut process, HELD_RESULTS_MAX as u64 - 1, 3);
    assert_eq!(held(&mut process).len(), HELD_RESULTS_MAX, "there is room for all of them");
}

#[test]
fn a_result_that_is_released_while_it_waits_is_not_sent() {
    let mut process = Process::new(1);
    let attempts = finished(&mut process, 3, 6_000);
    assert_eq!(process.done().transfers.len(), 1);
    release(&mut process, &attempts[1..2]);
    process.tell(ToEngine::Take(Attempts { attempts: attempts[1..].to_vec() }));
    let counts: Vec<u64> =
        process.done().finished().into_iter().map(|it| it.attempt.id.0).collect();
    assert_eq!(counts, [3]);
}

#[test]
fn a_process_that_drains_waits_for_the_word_on_what_it_had_sent() {
    let mut process = Process::new(1);
    let attempts = finished(&mut process, 2, 3);
    process.core.drain("terminated");
    assert!(process.core.is_drained(), "it was sent");
    reconnect(&mut process);
    assert!(!process.core.is_drained(), "it may not have come");
    process.tell(ToEngine::Adopt(Adopt { attempts: vec![(attempts[0], attempts[0])] }));
    release(&mut process, &attempts[1..]);
    assert!(process.core.is_drained());
}

#[test]
fn results_that_are_asked_for_cost_their_own_sending() {
    let (waiting, bytes) = (512, 200_000);
    let mut process = Process::new(1);
    process.core.handle_disconnected();
    process.core.handle_connected(START, u64::MAX);
    process.tell(ToEngine::Secret(Secret { payload_credit_bytes: bytes + 1_000, ..told() }));
    process.done();
    let attempts = finished(&mut process, waiting, bytes as usize);
    let mut sent = process.done().transfers.len() as u64;
    assert_eq!(sent, 1, "the others wait");
    for attempt in &attempts[1..] {
        process.tell(ToEngine::Take(Attempts { attempts: vec![*attempt] }));
        sent += process.done().transfers.len() as u64;
    }
    assert_eq!(sent, waiting);
    // Those that wait count against no bound, and what was sent is looked through for each eighth
    // that is dropped.
    let looked_at = process.core.results.looked_at as u64;
    assert!(looked_at <= 8 * waiting, "{looked_at} results were looked at");
    let held = held(&mut process);
    assert!(
        held.len() as u64 * bytes <= HELD_RESULT_BYTES_MAX
            && held.len() as u64 * bytes > HELD_RESULT_BYTES_MAX / 2
    );
    assert_eq!(held, attempts[attempts.len() - held.len()..], "the newest");
}

#[test]
fn what_an_engine_says_of_an_end_fits_its_message() {
    let mut process = Process::new(1);
    let attempt = process.assign(0, Native);
    process.end(0, attempt.id.0, AttemptOutcome::Exited("\u{e4}".repeat(1 << 20)), vec![]);
    let texts = |done: &Done| {
        done.finished()
            .iter()
            .map(|it| it.outcome.error.as_ref().map(|it| it.text.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(texts(&process.done()), [Some(ERROR_TEXT_BYTES_MAX)]);
    process.core.handle_slot_event(0, SlotEvent::Down { cause: "x".repeat(1 << 20) });
    assert!(process.done().sent.iter().all(|message| !furlong_wire::message::is_too_long(message)));
}

fn raises(type_name: &str, fingerprint: Option<u32>) -> AttemptEnd {
    let header = ReplyHeader::Raised(crate::job::error(type_name, "a secret"));
    let times = JobTimes { begun_at_us: Some(1_500), load_us: 1, run_us: 2, store_us: 3 };
    AttemptEnd { times, fingerprint, ..AttemptEnd::without_data(AttemptOutcome::Failed, header) }
}

#[test]
fn the_broker_is_told_the_type_of_an_error_and_no_more_unless_the_session_hides_it() {
    let mut process = Process::new(1);
    for (type_name, fingerprint, hides_names) in
        [("ValueError", Some(7), false), ("panic", None, false), ("ValueError", Some(7), true)]
    {
        process.tell(ToEngine::Secret(Secret { hides_names, ..told() }));
        process.core.handle_time(1_000);
        process.assign(0, Runtime::Native);
        process.done();
        let attempt = SlotJob(process.attempts);
        let reply = raises(type_name, fingerprint);
        process.core.handle_slot_event(0, SlotEvent::Finished { attempt, reply });
        let done = process.done();
        let [finished] = done.finished()[..] else { panic!("one attempt has ended") };
        let times = RunTimes { began_us: 500, load_us: 1, run_us: 2, store_us: 3 };
        assert_eq!(finished.times, times);
        let error = finished.outcome.error.as_ref().unwrap();
        assert_eq!(error.text, "");
        let raised = error.raised.as_ref();
        assert_eq!(raised.is_none(), hides_names);
        assert!(raised.is_none_or(|raised| raised.type_name == type_name));
        assert!(raised.is_none_or(|raised| fingerprint.is_none_or(|it| it == raised.fingerprint)));
    }
}
