//! Signals, restarts, deaths, drains, and what tasks publish.

use furlong_wire::message::{
    AttemptPublished, MachineLoad, Measure, Measured, SignalAttempts, SlotLoad, Slots,
};

use super::*;
use crate::job::Published;
use crate::mailbox::Mailbox;
use crate::runtime::Latest;

/// What the jobs of a process publish, on its way to the core.
#[derive(Default)]
struct Publishing {
    mailbox: Mailbox,
    latest: Latest,
}

impl Publishing {
    fn publish(&mut self, job: u64, bytes: usize) {
        let published = Published { codec: Codec::Raw, buffers: vec![vec![4; bytes].into()] };
        if self.latest.put(published) {
            self.mailbox.note(SlotJob(job), self.latest.clone());
        }
    }

    fn give_all(&mut self, process: &mut Process) {
        self.mailbox.give_all(&mut process.core);
    }

    fn finish(&mut self, process: &mut Process, job: u64, bytes: usize) {
        let event = ended(job, AttemptOutcome::Succeeded, vec![vec![3; bytes].into()]);
        self.mailbox.give_event(&mut process.core, 0, event);
    }
}

impl Process {
    fn held_attempts(&mut self) -> Vec<Attempt> {
        self.core
            .held()
            .work
            .iter()
            .filter(|held| !held.finished)
            .map(|held| held.attempt)
            .collect()
    }
}

impl Done {
    fn published(&self) -> Vec<&AttemptPublished> {
        self.sent
            .iter()
            .filter_map(|it| if let FromEngine::Published(it) = it { Some(it) } else { None })
            .collect()
    }
}

#[test]
fn signals_go_to_the_runtimes_and_never_to_what_waits_here() {
    let mut process = Process::new(2);
    let attempts =
        [process.assign(0, Native), process.assign(0, Python), process.assign(1, Python)];
    process.done();
    let unknown = Attempt { start: BrokerStart(0), id: AttemptId(1) };
    let attempts = attempts.into_iter().chain([unknown]).collect();
    process.tell(ToEngine::Signal(SignalAttempts { attempts, signal: 2 }));
    let done = process.done();
    assert!(
        matches!(
            &done.rest[..],
            [Output::Signal(0, Native, SlotJob(1), 2), Output::Signal(1, Python, SlotJob(3), 2)]
        ),
        "{:?}",
        done.rest
    );
}

#[test]
fn what_is_said_of_work_before_it_comes_holds_when_it_is_here() {
    let mut process = Process::new(1);
    let [first, second, third] = [1, 2, 3].map(|id| Attempt { start: START, id: AttemptId(id) });
    let cancel =
        |attempt, force| ToEngine::Cancel(CancelAttempts { attempts: vec![attempt], force });
    process.tell(cancel(first, false));
    process.tell(ToEngine::Recall(Attempts { attempts: vec![second] }));
    process.tell(cancel(third, true));
    process.tell(ToEngine::Recall(Attempts { attempts: vec![third] }));
    let (cancelled, transfer, chunk) = process.assign_large(0, Native);
    assert_eq!(
        (cancelled, process.assign(0, Native), process.assign(0, Python)),
        (first, second, third)
    );
    let done = process.done();
    assert!(done.started.is_empty());
    assert_eq!(done.finished().iter().map(|it| it.attempt).collect::<Vec<_>>(), [first, third]);
    assert!(done.finished().iter().all(|it| it.outcome.state == TaskState::Cancelled));
    let recalled =
        |it: &FromEngine| matches!(it, FromEngine::Recalled(it) if it.attempts == [second]);
    assert!(done.sent.iter().any(recalled));
    process.chunk(transfer, &chunk).unwrap();
    let next = process.assign(0, Native);
    assert_eq!(process.done().jobs(), [(0, Native, 4)], "the slot is free");
    assert_eq!(process.held_attempts(), [next]);
}

#[test]
fn what_is_said_of_a_match_before_it_comes_holds_when_it_is_here() {
    let mut process = Process::new(1);
    let held = process.assign(0, Native);
    process.core.handle_disconnected();
    process.core.handle_connected(BrokerStart(2), CREDIT);
    process.done();
    let adopted = Attempt { start: BrokerStart(2), id: AttemptId(1) };
    process.tell(ToEngine::Cancel(CancelAttempts { attempts: vec![adopted], force: true }));
    assert!(process.done().rest.is_empty());
    process.tell(ToEngine::Adopt(Adopt { attempts: vec![(held, adopted)] }));
    assert!(matches!(&process.done().rest[..], [Output::Cancel(0, Native, SlotJob(1), true)]));
}

#[test]
fn what_stands_behind_what_did_not_come_whole_does_not_begin_before_it() {
    let mut process = Process::new(1);
    let other = SessionId([5; 16]);
    process.tell(ToEngine::Secret(Secret { session: other, ..told() }));
    let runs = process.assign(0, Native);
    process.assign_large(0, Native);
    process.assign(0, Python);
    let Packed::Inline(inline) =
        secret().request_key(&other).into_sealer().pack(call(b"small")).unwrap()
    else {
        panic!("it is small")
    };
    let (assign, of_another) = process.assignment(0, Native, None, Payload::Inline(inline));
    process.tell(ToEngine::Assign(Assign { session: Some(other), ..assign }));
    process.core.handle_disconnected();
    let done = process.done();
    assert_eq!(
        done.jobs(),
        [(0, Native, 1), (0, Native, 4)],
        "another session does not wait for it"
    );
    assert_eq!(BTreeSet::from_iter(process.held_attempts()), BTreeSet::from([runs, of_another]));
    assert_eq!(process.core.held().received, Some(runs), "they are as if they had never come");
}

#[test]
fn what_was_given_back_before_a_cut_is_not_as_if_it_had_never_come() {
    let mut process = Process::new(2);
    process.assign_large(0, Native);
    process.assign(1, Native);
    let (last, ..) = process.assign_large(1, Python);
    process.core.handle_slot_event(1, SlotEvent::Down { cause: "signal 9".into() });
    process.core.handle_disconnected();
    assert_eq!(
        process.core.held().received,
        Some(last),
        "the broker may not have heard of the death"
    );
}

#[test]
fn what_was_given_out_after_what_was_given_back_is_as_if_it_had_never_come() {
    let mut process = Process::new(2);
    process.assign_large(0, Native);
    let (given_back, ..) = process.assign_large(1, Python);
    process.core.handle_slot_event(1, SlotEvent::Down { cause: "signal 9".into() });
    process.assign(0, Python);
    process.core.handle_disconnected();
    assert_eq!(process.core.held().received, Some(given_back), "it waited behind the large one");
}

#[test]
fn a_restart_asks_each_slot_that_there_is() {
    let mut process = Process::new(2);
    process.tell(ToEngine::Restart(Slots { slots: vec![1, 7, 0] }));
    assert!(matches!(&process.done().rest[..], [Output::Restart(1), Output::Restart(0)]));
}

#[test]
fn a_death_is_told_before_the_end_and_what_had_not_begun_is_given_back() {
    let mut process = Process::new(1);
    let (arriving, transfer, chunk) = process.assign_large(0, Python);
    process.chunk(transfer, &chunk).unwrap();
    let ahead = [process.assign(0, Python), process.assign(0, Python)];
    let (waiting, transfer, chunk) = process.assign_large(0, Python);
    let native = process.assign(0, Native);
    process.done();
    process.core.handle_slot_event(0, SlotEvent::Down { cause: "signal 9".into() });
    process.end(0, 1, AttemptOutcome::Lost("signal 9".into()), Vec::new());
    process
        .core
        .handle_slot_event(0, SlotEvent::Recalled { attempts: [2, 3].map(SlotJob).to_vec() });
    let done = process.done();
    let [
        FromEngine::SlotDown(down),
        FromEngine::Recalled(first),
        FromEngine::Finished(lost),
        FromEngine::Recalled(second),
    ] = &done.sent[..]
    else {
        panic!("{:?}", done.sent)
    };
    assert_eq!((down.slot, down.cause.as_str()), (0, "signal 9"));
    assert_eq!(first.attempts, [waiting], "it was meant for the namespace that is gone");
    assert_eq!(
        (lost.attempt, failure(lost)),
        (arriving, (TaskState::Lost, Some(ErrorKind::EngineLost)))
    );
    assert_eq!(second.attempts, ahead);
    assert_eq!(done.jobs(), [(0, Native, 5)], "native work needs no interpreter");
    assert_eq!(process.held_attempts(), [native]);
    process.chunk(transfer, &chunk).unwrap();
    assert!(process.done().started.is_empty(), "its payload came for nobody");
}

#[test]
fn a_process_that_drains_finishes_what_runs_and_gives_back_the_rest() {
    let mut process = Process::new(2);
    let running = process.assign(0, Native);
    process.assign(0, Native);
    let waiting = process.assign(0, Python);
    process.done();
    process.core.drain("terminated");
    process.core.drain("once more");
    let done = process.done();
    assert!(matches!(&done.sent[..], [FromEngine::Draining(said), FromEngine::Recalled(back)]
        if said.reason == "terminated" && back.attempts == [waiting]));
    assert!(matches!(
        &done.rest[..],
        [
            Output::Draining(_),
            Output::Recall(0, Native, SlotJob(2)),
            Output::Recall(0, Native, SlotJob(1))
        ]
    ));
    process.core.handle_recalled(SlotJob(2));
    let late = process.assign(1, Native);
    let (late_and_large, transfer, chunk) = process.assign_large(1, Native);
    process.chunk(transfer, &chunk).unwrap();
    let done = process.done();
    assert_eq!(done.sent[1..], [recalled(late), recalled(late_and_large)], "they crossed our word");
    assert!(done.started.is_empty() && !process.core.is_drained());
    process.core.handle_disconnected();
    process.finish(0, 1, 5_000);
    assert!(!process.core.is_drained(), "its result is still here");
    process.connect(CREDIT);
    let done = process.done();
    assert!(
        matches!(&done.sent[..], [FromEngine::Draining(_)]),
        "a new connection is told again: {:?}",
        done.sent
    );
    assert!(!process.core.is_drained(), "and has not asked for it");
    process.adopt_all();
    assert_eq!(process.done().finished()[0].attempt, running);
    assert!(process.core.is_drained());
}

#[test]
fn a_cancelled_function_that_does_not_return_keeps_no_process() {
    let mut process = Process::new(1);
    let attempt = process.assign(0, Native);
    process.core.drain("terminated");
    assert!(!process.core.is_drained());
    process.tell(ToEngine::Cancel(CancelAttempts { attempts: vec![attempt], force: false }));
    assert!(process.core.is_drained());
}

#[test]
fn of_what_waits_the_last_word_is_published_and_before_the_end() {
    let mut process = Process::new(1);
    let attempt = process.assign(0, Native);
    let mut jobs = Publishing::default();
    jobs.publish(1, 3);
    jobs.publish(1, 4);
    process.done();
    jobs.give_all(&mut process);
    let done = process.done();
    let [AttemptPublished { attempt: of, payload: Payload::Inline(inline) }] = done.published()[..]
    else {
        panic!("{:?}", done.sent)
    };
    let buffers = unpack_inline(inline).unwrap();
    assert_eq!((*of, &buffers[1][..]), (attempt, &[4; 4][..]));
    assert_eq!(decode_reply(&buffers[0]), Ok(ReplyHeader::Returned { codec: Codec::Raw }));
    jobs.give_all(&mut process);
    assert!(process.done().sent.is_empty());
    process.core.handle_disconnected();
    jobs.publish(1, 5);
    process.connect(CREDIT);
    jobs.finish(&mut process, 1, 3);
    assert!(matches!(process.done().sent[..], [FromEngine::Published(_), FromEngine::Finished(_)]));
    jobs.publish(1, 6);
    jobs.give_all(&mut process);
    assert!(process.done().sent.is_empty());
}

#[test]
fn large_published_data_take_credit_and_no_result_waits_for_them() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    process.assign(0, Native);
    let mut jobs = Publishing::default();
    jobs.publish(1, 6_000);
    jobs.give_all(&mut process);
    let done = process.done();
    assert_eq!((done.published().len(), done.transfers.len()), (1, 1));
    jobs.publish(1, 6_000);
    jobs.give_all(&mut process);
    assert!(process.done().sent.is_empty(), "there is no credit");
    jobs.finish(&mut process, 1, 3);
    assert!(
        matches!(process.done().sent[..], [FromEngine::Finished(_)]),
        "it is dropped with its task"
    );
    process.finish(0, 2, 6_000);
    assert_eq!(ends(&process.done()), [(2, Some(false))], "it is asked for");
    process.assign(0, Native);
    let mut jobs = Publishing::default();
    jobs.publish(3, 2 * CREDIT as usize);
    jobs.give_all(&mut process);
    assert!(process.done().sent.is_empty());
    process.tell(grant(2 * CREDIT));
    jobs.give_all(&mut process);
    assert_eq!(process.done().published().len(), 1, "one overdraws it when all else has come back");
}

#[test]
fn large_published_data_wait_for_a_lane_of_this_connection() {
    let mut process = Process::new(1);
    process.assign(0, Native);
    let mut jobs = Publishing::default();
    process.core.handle_disconnected();
    process.core.handle_connected(START, CREDIT);
    process.done();
    jobs.publish(1, 6_000);
    jobs.give_all(&mut process);
    assert!(process.done().sent.is_empty(), "the broker has opened no lane");
    process.tell(ToEngine::Secret(told()));
    jobs.give_all(&mut process);
    assert_eq!(process.done().published().len(), 1);
    jobs.publish(1, 6_000);
    jobs.give_all(&mut process);
    assert!(process.done().sent.is_empty(), "what went has used the lane up");
}

#[test]
fn figures_are_asked_of_the_shell_and_sent_while_there_is_a_connection() {
    let mut process = Process::new(2);
    process.tell(ToEngine::Measure(Measure { number: 5 }));
    assert!(matches!(process.done().rest[..], [Output::Measure(5)]));
    let slots = vec![SlotLoad { cpu_percent: None, resident_bytes: 7 }; 3];
    let measured = Measured { number: 5, machine: MachineLoad::default(), slots };
    process.core.handle_measured(measured.clone());
    let sent = process.done().sent;
    let [FromEngine::Measured(sent)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((sent.number, sent.slots.len()), (5, 2), "those of the slots that are registered");
    process.core.handle_disconnected();
    process.core.handle_measured(measured);
    process.core.handle_connected(START, 0);
    assert!(process.done().sent.is_empty(), "it was of a moment before");
}
