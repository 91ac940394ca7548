//! Notifications to handles of single tasks, and the requests that any process of an owner makes.

use std::collections::BTreeMap;

use furlong_wire::ids::TaskId;
use furlong_wire::limits::{FETCHES_WAITING_MAX, OUTPUT_MESSAGE_BYTES_MAX};
use furlong_wire::message::{
    Event, Fetched, FetchedOutput, Published as PublishedMessage, RecordTimes, Stopped, TaskPhase,
    TaskRecord,
};
use proptest::prelude::*;

use super::*;
use crate::core::bounded_queues::Fed;

const OTHER_SESSION: SessionId = SessionId([8; 16]);

fn output(n: u64, attempt: u32, offset: u64, bytes: &[u8]) -> ToClient {
    let (engine, stream, bytes) = (EngineId(attempt), Stream::Stdout, bytes.to_vec());
    ToClient::Output(message::Output { n: TaskSeq(n), attempt, engine, stream, offset, bytes })
}

/// The pieces that a reader gets now: attempt, offset, text. None at the end if it is over.
fn read(core: &mut Core, feed: usize) -> Vec<Option<(u32, u64, String)>> {
    let mut pieces = Vec::new();
    loop {
        match core.poll_output(feed, Waker::noop(), &mut None) {
            Poll::Ready(Fed::Item(piece)) => {
                let text = String::from_utf8_lossy(&piece.bytes).into_owned();
                pieces.push(Some((piece.attempt, piece.offset, text)));
            }
            Poll::Ready(Fed::Missed(_)) => {}
            Poll::Ready(Fed::Over) => {
                pieces.push(None);
                return pieces;
            }
            Poll::Pending => return pieces,
        }
    }
}

fn published(n: u64, payload: Payload) -> ToClient {
    ToClient::Published(PublishedMessage { n: TaskSeq(n), payload })
}

fn small(value: &[u8]) -> Payload {
    let Packed::Inline(bytes) = sealed(value) else { panic!("it is short") };
    Payload::Inline(bytes)
}

/// Returns what a reader of intermediate data gets now. None at the end if it is over.
fn read_published(core: &mut Core, feed: usize) -> Vec<Option<usize>> {
    let mut values = Vec::new();
    while let Poll::Ready(fed) = core.poll_published(feed, Waker::noop(), &mut None) {
        match fed {
            Fed::Item(published) => values.push(Some(published.unwrap().data[0].len())),
            Fed::Missed(_) => {}
            Fed::Over => {
                values.push(None);
                break;
            }
        }
    }
    values
}

/// The end of a task that the broker cancelled; `ran` if an engine had it.
fn cancelled(n: u64, ran: bool) -> ToClient {
    let ToClient::Finished(mut finished) = finished(n, None) else { panic!("made above") };
    finished.outcome = Outcome::error(TaskState::Cancelled, ErrorKind::Cancelled, "cancelled");
    finished.times.assigned_us = ran.then_some(5);
    ToClient::Finished(finished)
}

fn is_stopped(core: &mut Core, task: Submitted) -> bool {
    core.poll_stopped(task.n, Waker::noop()).is_ready()
}

fn stopped(n: u64) -> ToClient {
    ToClient::Stopped(Stopped { n: TaskSeq(n) })
}

fn record(n: u64, phase: TaskPhase, outcome: Option<Outcome>) -> Box<TaskRecord> {
    Box::new(TaskRecord {
        id: TaskId { session: OTHER_SESSION, n: TaskSeq(n) },
        label: None,
        name: None,
        runtime: Runtime::Native,
        target: None,
        priority: 0,
        phase,
        outcome,
        waits: None,
        engine: Some(EngineId(2)),
        attempts: 1,
        losses: 0,
        errors: 0,
        request_bytes: 0,
        result_bytes: 0,
        stdout_bytes: 0,
        stderr_bytes: 0,
        kept: true,
        times: RecordTimes::default(),
        past: Vec::new(),
    })
}

fn fetched(core: &mut Core, request: u64) -> Option<Result<Answer, ClientError>> {
    match core.poll_answer(request, Waker::noop(), &mut None) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

#[test]
fn a_reader_gets_what_was_kept_and_then_what_comes_until_the_end() {
    let mut core = core();
    let task = submit(&mut core);
    core.handle_message(output(1, 1, 0, b"one "), None);
    let feed = core.open_output(TaskSeq(1), Some(task.key));
    core.handle_message(output(1, 1, 4, b"two"), None);
    core.handle_message(output(1, 2, 0, b"again"), None);
    let piece = |attempt, offset, text: &str| Some((attempt, offset, text.to_owned()));
    assert_eq!(
        read(&mut core, feed),
        [piece(1, 0, "one "), piece(1, 4, "two"), piece(2, 0, "again")]
    );
    core.handle_message(returned(1), None);
    assert_eq!(read(&mut core, feed), [None]);
    let late = core.open_output(TaskSeq(1), Some(task.key));
    assert_eq!(read(&mut core, late), [piece(2, 0, "again"), None], "the end has not been taken");
    let report = take(&mut core, task).unwrap().unwrap().report;
    assert_eq!(
        report.stdout.text(),
        "again",
        "a later attempt's output replaces that of an earlier one"
    );
    let too_late = core.open_output(TaskSeq(1), None);
    assert_eq!(read(&mut core, too_late), [None]);
    for feed in [feed, late, too_late] {
        core.forget_output(TaskSeq(1), feed);
    }
    assert!(core.outputs.is_empty());
}

#[test]
fn a_reader_who_does_not_read_costs_a_bounded_memory() {
    let mut core = core();
    let task = submit(&mut core);
    let feed = core.open_output(TaskSeq(1), Some(task.key));
    let piece = vec![b'x'; OUTPUT_MESSAGE_BYTES_MAX];
    let pieces = 3 * OUTPUT_FEED_BYTES / OUTPUT_MESSAGE_BYTES_MAX;
    for at in 0..pieces {
        core.handle_message(output(1, 1, (at * piece.len()) as u64, &piece), None);
    }
    let kept = read(&mut core, feed);
    let bytes: usize = kept.iter().flatten().map(|(_, _, text)| text.len()).sum();
    assert!(bytes <= OUTPUT_FEED_BYTES && bytes > OUTPUT_FEED_BYTES / 2, "{bytes} bytes");
    assert_eq!(
        kept.last().unwrap().as_ref().unwrap().1,
        ((pieces - 1) * piece.len()) as u64,
        "the newest stays"
    );
}

#[test]
fn intermediate_data_come_to_readers_and_the_last_stays_with_the_task() {
    let mut core = core();
    let task = submit(&mut core);
    core.handle_message(published(1, small(b"1")), None);
    let feed = core.open_published(TaskSeq(1), Some(task.key));
    core.handle_message(published(1, small(b"22")), None);
    assert_eq!(read_published(&mut core, feed), [Some(1), Some(2)]);
    assert_eq!(core.latest_published(task.key).unwrap().data[0], "22");
    core.handle_message(returned(1), None);
    assert_eq!(read_published(&mut core, feed), [None]);
    let report = take(&mut core, task).unwrap().unwrap().report;
    assert_eq!(report.published.unwrap().data[0], "22");
}

#[test]
fn a_large_publication_that_comes_late_neither_replaces_a_newer_one_nor_is_lost() {
    let mut core = core();
    let task = submit(&mut core);
    let feed = core.open_published(TaskSeq(1), Some(task.key));
    let Packed::Chunked(payload) = sealed(&[4; 5_000]) else { panic!("it is large") };
    let (counter, bytes) = (payload.counter(), payload.bytes());
    let announced = Payload::Chunked { transfer: 1, counter, bytes, instance: Some(INSTANCE) };
    core.handle_message(published(1, announced.clone()), None);
    core.handle_message(published(1, small(b"new")), None);
    core.handle_message(chunk(), Some(&payload.chunk(0)));
    assert_eq!(core.latest_published(task.key).unwrap().data[0], "new");
    assert_eq!(read_published(&mut core, feed), [Some(3), Some(5_000)]);
    core.handle_message(published(1, announced), None);
    core.handle_message(returned(1), None);
    assert_eq!(read_published(&mut core, feed), [], "the last one is on the way");
    assert!(take(&mut core, task).is_none(), "and so the task has not ended");
    core.handle_message(chunk(), Some(&payload.chunk(0)));
    assert_eq!(read_published(&mut core, feed), [Some(5_000), None]);
    let report = take(&mut core, task).unwrap().unwrap().report;
    assert_eq!(report.published.unwrap().data[0].len(), 5_000);
    core.forget_published(TaskSeq(1), feed);
}

#[test]
fn a_cancelled_task_has_stopped_when_its_engine_says_so() {
    let mut core = core();
    let [ran, queued, done, foreign] = [(); 4].map(|()| submit(&mut core));
    core.watch_stop(ran.n, Some(ran.key));
    core.watch_stop(queued.n, Some(queued.key));
    core.cancel(&[(TaskSeq(1), TaskSeq(2))], false);
    assert!(!is_stopped(&mut core, ran) && !is_stopped(&mut core, queued));
    core.handle_message(cancelled(1, true), None);
    core.handle_message(cancelled(2, false), None);
    core.handle_message(returned(3), None);
    // Cancelled by somebody else: noted, though nobody here has asked for it.
    core.handle_message(cancelled(4, true), None);
    assert!(!is_stopped(&mut core, ran) && !is_stopped(&mut core, foreign));
    assert!(is_stopped(&mut core, queued), "it never began");
    assert!(is_stopped(&mut core, done), "it has ended of itself");
    core.handle_message(stopped(4), None);
    assert!(is_stopped(&mut core, foreign) && !is_stopped(&mut core, ran));
    let failure = take(&mut core, ran).unwrap().unwrap_err();
    assert_eq!(failure.state(), Some(TaskState::Cancelled));
    core.handle_message(stopped(1), None);
    assert!(is_stopped(&mut core, ran));
    (1..=4).for_each(|n| drop(core.forget_stop(TaskSeq(n))));
}

#[test]
fn a_cancel_that_comes_too_late_changes_nothing() {
    let mut core = core();
    let task = submit(&mut core);
    core.watch_stop(TaskSeq(1), Some(task.key));
    core.cancel(&[(TaskSeq(1), TaskSeq(1))], false);
    core.handle_message(returned(1), None);
    assert!(is_stopped(&mut core, task));
    take(&mut core, task).unwrap().unwrap();
}

#[test]
fn a_commands_exit_code_is_in_its_failure() {
    let mut core = core();
    for (n, (code, signal)) in [(Some(3), None), (None, Some(9))].into_iter().enumerate() {
        let task = submit(&mut core);
        let header = encode_reply(&ReplyHeader::Exited { code, signal, written: None });
        let mut sealer = secret().result_key(&SESSION, &INSTANCE).into_sealer();
        let Packed::Inline(bytes) = sealer.pack(vec![header]).unwrap() else {
            panic!("it is short")
        };
        let end = super::finished(n as u64 + 1, Some(Payload::Inline(bytes)));
        let ToClient::Finished(mut finished) = end else { panic!("made above") };
        finished.outcome = Outcome::error(TaskState::Failed, ErrorKind::Exit, "it did not go well");
        core.handle_message(ToClient::Finished(finished), None);
        let failure = take(&mut core, task).unwrap().unwrap_err();
        assert_eq!((failure.exit_code(), failure.signal()), (code, signal));
        assert_eq!(
            (failure.kind(), failure.state()),
            (Some(ErrorKind::Exit), Some(TaskState::Failed))
        );
        assert_eq!(failure.to_string(), "it did not go well (engine 3)");
    }
}

#[test]
fn a_fetched_result_is_opened_with_the_secret_of_its_session() {
    let mut core = core();
    let secret = PayloadSecret::new([3; 32]);
    let (request, follower) =
        core.fetch(TaskId { session: OTHER_SESSION, n: TaskSeq(5) }, true, true).unwrap();
    let follower = follower.unwrap();
    let (attempt, engine, stream, offset) = (1, EngineId(2), Stream::Stdout, 0);
    let piece =
        FetchedOutput { request, attempt, engine, stream, offset, bytes: b"hello".to_vec() };
    core.handle_message(ToClient::FetchedOutput(piece), None);
    assert_eq!(read(&mut core, follower), [Some((1, 0, "hello".to_owned()))]);

    let mut sealer = secret.result_key(&OTHER_SESSION, &INSTANCE).into_sealer();
    let header = encode_reply(&ReplyHeader::Returned { codec: Codec::Raw });
    let Packed::Chunked(payload) = sealer.pack(vec![header, vec![6; 4_000].into()]).unwrap() else {
        panic!("it is large")
    };
    let (counter, bytes) = (payload.counter(), payload.bytes());
    let announced = Payload::Chunked { transfer: 1, counter, bytes, instance: Some(INSTANCE) };
    let record = record(5, TaskPhase::Ended, Some(Outcome::SUCCEEDED));
    let answer = Fetched { request, record, secret: Some(secret), payload: Some(announced) };
    core.handle_message(ToClient::Fetched(answer), None);
    assert!(fetched(&mut core, request).is_none());
    core.handle_message(chunk(), Some(&payload.chunk(0)));
    let Some(Ok(Answer::Task(task))) = fetched(&mut core, request) else { panic!("it is whole") };
    assert_eq!(task.outputs.as_ref().unwrap().stdout.text(), "hello");
    let fetched = crate::owner::Fetched::of(task);
    let result = fetched.result.unwrap().unwrap();
    assert_eq!((result.data[0].len(), result.report.stdout.text().as_str()), (4_000, "hello"));
    assert_eq!(read(&mut core, follower), [None]);
    core.forget_follower(follower);
}

#[test]
fn a_task_that_runs_has_a_record_and_no_result() {
    let mut core = core();
    let (request, _) =
        core.fetch(TaskId { session: OTHER_SESSION, n: TaskSeq(5) }, false, false).unwrap();
    let record = record(5, TaskPhase::Running, None);
    core.handle_message(
        ToClient::Fetched(Fetched { request, record, secret: None, payload: None }),
        None,
    );
    let Some(Ok(Answer::Task(task))) = fetched(&mut core, request) else {
        panic!("it was answered")
    };
    let fetched = crate::owner::Fetched::of(task);
    assert_eq!((fetched.record.phase, fetched.result.is_none()), (TaskPhase::Running, true));
}

#[test]
fn waiting_fetches_are_bounded_and_the_next_goes_when_one_is_answered() {
    let mut core = core();
    let fetch =
        |core: &mut Core| core.fetch(TaskId { session: OTHER_SESSION, n: TaskSeq(1) }, true, false);
    let requests: Vec<u64> =
        (0..FETCHES_WAITING_MAX).map(|_| fetch(&mut core).unwrap().0).collect();
    assert!(matches!(fetch(&mut core), Err(ClientError::Busy)));
    let (wakes, mut ticket) = (Arc::new(Wakes::default()), None);
    core.wait_for_room(&mut ticket, &Arc::clone(&wakes).into());
    // One that nobody waits for here still waits at the broker.
    core.forget_request(requests[0]);
    assert!(matches!(fetch(&mut core), Err(ClientError::Busy)));
    let body = ReplyBody::Refused("unknown".into());
    core.handle_message(ToClient::Reply(Reply { request: requests[0], body }), None);
    wake_all(&mut core);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    fetch(&mut core).unwrap();
}

#[test]
fn events_go_to_all_who_subscribed_and_the_broker_is_asked_once() {
    let mut core = core();
    let (one, two) = (core.subscribe().unwrap(), core.subscribe().unwrap());
    assert_eq!(sent(&mut core), ["message Subscribe"]);
    core.handle_message(ToClient::Event(Event::EngineOnline(EngineId(4))), None);
    for feed in [one, two] {
        let polled = core.poll_event(feed, Waker::noop(), &mut None);
        assert!(matches!(polled, Poll::Ready(Fed::Item(Event::EngineOnline(EngineId(4))))));
    }
    core.unsubscribe(one);
    assert!(sent(&mut core).is_empty());
    core.unsubscribe(two);
    assert_eq!(sent(&mut core), ["message Subscribe"], "which says that none are wanted");
}

#[test]
fn the_end_of_the_connection_ends_every_wait() {
    let mut core = core();
    let task = submit(&mut core);
    let output = core.open_output(TaskSeq(1), Some(task.key));
    let published = core.open_published(TaskSeq(1), Some(task.key));
    let events = core.subscribe().unwrap();
    core.watch_stop(TaskSeq(1), Some(task.key));
    let (request, follower) =
        core.fetch(TaskId { session: SESSION, n: TaskSeq(1) }, true, true).unwrap();
    let counted = Arc::new(Wakes::default());
    let waker = Arc::clone(&counted).into();
    assert!(core.poll_output(output, &waker, &mut None).is_pending());
    assert!(core.poll_published(published, &waker, &mut None).is_pending());
    assert!(core.poll_event(events, &waker, &mut None).is_pending());
    assert!(core.poll_stopped(TaskSeq(1), &waker).is_pending());
    assert!(core.poll_answer(request, &waker, &mut None).is_pending());
    assert!(core.poll_output(follower.unwrap(), &waker, &mut None).is_pending());
    assert!(core.poll_flushed(&waker).is_pending());
    core.disconnect(&why());
    wake_all(&mut core);
    assert_eq!(counted.0.load(Ordering::Relaxed), 7);
    assert_eq!(read(&mut core, output), [None]);
    assert_eq!(read(&mut core, follower.unwrap()), [None]);
    assert_eq!(read_published(&mut core, published), [None]);
    assert!(matches!(core.poll_event(events, &waker, &mut None), Poll::Ready(Fed::Over)));
    assert!(matches!(
        core.poll_stopped(TaskSeq(1), &waker),
        Poll::Ready(Err(ClientError::Disconnected(_)))
    ));
    assert!(matches!(core.poll_flushed(&waker), Poll::Ready(Err(ClientError::Disconnected(_)))));
    assert!(matches!(fetched(&mut core, request), Some(Err(ClientError::Disconnected(_)))));
}

#[test]
fn who_detaches_waits_until_everything_is_with_the_kernel() {
    let mut core = core();
    assert!(core.poll_flushed(Waker::noop()).is_ready());
    submit(&mut core);
    assert!(core.poll_flushed(Waker::noop()).is_pending());
    core.handle_flushed();
    assert!(core.poll_flushed(Waker::noop()).is_ready());
}

#[test]
fn a_cancel_of_many_ranges_goes_in_messages_that_fit() {
    let mut core = core();
    let ranges: Vec<(TaskSeq, TaskSeq)> =
        (0..10_000).map(|n| (TaskSeq::MAX - 3 * n, TaskSeq::MAX - 3 * n)).collect();
    core.cancel(&ranges, false);
    let mut cancelled = 0;
    while let Some(Outbound::Message(message)) = core.poll_outbound() {
        let FromClient::Cancel(cancel) = &message else { panic!("{message:?}") };
        cancelled += cancel.ranges.len();
        let mut bytes = Vec::new();
        furlong_wire::message::encode_message(&message, &mut bytes);
        assert!(bytes.len() <= furlong_wire::limits::MESSAGE_BYTES_MAX, "{} bytes", bytes.len());
    }
    assert_eq!(cancelled, ranges.len());
}

/// A step in the life of a task, in any order.
#[derive(Clone, Debug)]
enum Step {
    Cancel,
    WatchStop,
    Finish,
    CancelledRunning,
    CancelledQueued,
    Stopped,
    Output(u32),
    Publish,
    OpenOutput,
    OpenPublished,
    Take,
    Disconnect,
}

fn step() -> impl Strategy<Value = (u64, Step)> {
    let step = prop_oneof![
        Just(Step::Cancel),
        Just(Step::WatchStop),
        Just(Step::Finish),
        Just(Step::CancelledRunning),
        Just(Step::CancelledQueued),
        Just(Step::Stopped),
        (1_u32..3).prop_map(Step::Output),
        Just(Step::Publish),
        Just(Step::OpenOutput),
        Just(Step::OpenPublished),
        Just(Step::Take),
        Just(Step::Disconnect),
    ];
    (1..=TASKS_MAX, step)
}

proptest! {
    /// Whatever comes in whatever order: each task has one end, nothing panics, and when the broker
    /// has ended all and all handles are gone, nothing is left behind.
    #[test]
    fn every_history_ends_each_task_once_and_leaves_nothing(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut core = core();
        let mut tasks: BTreeMap<u64, (Option<Submitted>, usize)> = BTreeMap::new();
        for n in 1..=TASKS_MAX {
            tasks.insert(n, (Some(submit(&mut core)), 0));
        }
        let (mut outputs, mut publications) = (Vec::new(), Vec::new());
        let all_end = (1..=TASKS_MAX)
            .flat_map(|n| [(n, Step::Finish), (n, Step::Stopped), (n, Step::Take)]);
        for (n, step) in steps.into_iter().chain(all_end) {
            let (task, ends) = tasks.get_mut(&n).unwrap();
            let key = task.map(|task| task.key);
            match step {
                Step::Cancel => core.cancel(&[(TaskSeq(n), TaskSeq(n))], false),
                Step::WatchStop => core.watch_stop(TaskSeq(n), key),
                Step::Finish => core.handle_message(returned(n), None),
                Step::CancelledRunning => core.handle_message(cancelled(n, true), None),
                Step::CancelledQueued => core.handle_message(cancelled(n, false), None),
                Step::Stopped => core.handle_message(stopped(n), None),
                Step::Output(attempt) => core.handle_message(output(n, attempt, 0, b"text"), None),
                Step::Publish => core.handle_message(published(n, small(b"1")), None),
                Step::OpenOutput => outputs.push((n, core.open_output(TaskSeq(n), key))),
                Step::OpenPublished => publications.push((n, core.open_published(TaskSeq(n), key))),
                Step::Take => {
                    if let Some(submitted) = *task && super::take(&mut core, submitted).is_some() {
                        (*task, *ends) = (None, *ends + 1);
                    }
                }
                Step::Disconnect => core.disconnect(&why()),
            }
        }
        for (n, (task, ends)) in tasks {
            prop_assert_eq!((task, ends), (None, 1));
            let stopped = core.poll_stopped(TaskSeq(n), Waker::noop());
            prop_assert!(stopped.is_ready(), "a wait for its stop ends");
            core.forget_stop(TaskSeq(n));
        }
        for (n, feed) in outputs {
            prop_assert_eq!(read(&mut core, feed).pop(), Some(None));
            core.forget_output(TaskSeq(n), feed);
        }
        for (n, feed) in publications {
            prop_assert_eq!(read_published(&mut core, feed).pop(), Some(None));
            core.forget_published(TaskSeq(n), feed);
        }
        prop_assert!(core.subscriptions.is_idle());
        prop_assert!(core.outputs.is_empty() && core.published.is_empty());
        prop_assert!(core.tasks.unfinished().is_empty());
    }
}
