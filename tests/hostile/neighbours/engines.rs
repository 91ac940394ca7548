//! What engine processes take with each message that they may send. Their tasks are of clients that
//! belong to them.

use furlong_tests::engine::{RawEngine, register};
use furlong_tests::farm::Farm;
use furlong_tests::raw::message;
use furlong_wire::aead::TAG_BYTES;
use furlong_wire::ids::{Attempt, AttemptId, BrokerStart, EngineId, PassKey, SessionId, TaskSeq};
use furlong_wire::limits::{CHUNK_BYTES_MAX, OUTPUT_MESSAGE_BYTES_MAX};
use furlong_wire::message::{
    AttemptFinished, AttemptOutput, AttemptPublished, Attempts, Chunk, Credit, Draining, ErrorKind,
    FromClient, FromEngine, Goodbye, Grant, HeldWork, Inspected, Lent, MachineLoad, Measured,
    NeedBlob, Outcome, Passed, Payload, Register, RunTimes, Runtime, SlotDown, SlotLoad, Stream,
    Submit, Subscribe, TaskOptions, TaskState, ToEngine,
};

use super::clients::{PATIENCE, for_takers, of_takers, taker};
use super::{Taker, Window};
use crate::peer::{Peer, inline, submit};

pub(super) const TAKERS: &[Taker] = &[
    Taker {
        name: "registrations with all that they may have",
        messages: &["Register"],
        takes: registers,
    },
    Taker { name: "integers far ahead", messages: &["Register"], takes: registers_far },
    Taker { name: "work of earlier starts", messages: &["Register"], takes: holds },
    Taker {
        name: "engines that come and go",
        messages: &["Goodbye", "Register"],
        takes: comes_and_goes,
    },
    Taker { name: "credits", messages: &["Credit"], takes: gives_credit },
    Taker { name: "begins", messages: &["Started"], takes: starts },
    Taker { name: "late ends", messages: &["Finished"], takes: ends_late },
    Taker { name: "ends as fast as they go", messages: &["Finished"], takes: ends },
    Taker { name: "failures that are run again", messages: &["Finished"], takes: fails },
    Taker { name: "work that does not begin", messages: &["Finished"], takes: does_not_begin },
    Taker { name: "large results", messages: &["Chunk", "Finished"], takes: sends_large },
    Taker { name: "files that do not come", messages: &["Passed"], takes: passes_nothing },
    Taker { name: "output byte by byte", messages: &["Output"], takes: writes::<1> },
    Taker { name: "long output", messages: &["Output"], takes: writes::<OUTPUT_MESSAGE_BYTES_MAX> },
    Taker { name: "publications", messages: &["Published"], takes: publishes },
    Taker { name: "work that is given back", messages: &["Recalled"], takes: recalls },
    Taker { name: "definitions asked for", messages: &["NeedBlob"], takes: needs },
    Taker { name: "interpreters that end", messages: &["SlotDown"], takes: falls },
    Taker { name: "farewells", messages: &["Draining"], takes: drains },
    Taker { name: "keys", messages: &["Grant"], takes: grants },
    Taker { name: "unasked stacks", messages: &["Inspected"], takes: shows },
    Taker { name: "unasked figures", messages: &["Measured"], takes: measures },
    Taker { name: "slots lent", messages: &["Lent", "Back"], takes: lends },
];

/// A client, and an engine process that has been given a task of it.
struct Pair {
    engine: RawEngine,
    client: Peer,
    attempt: Attempt,
    options: TaskOptions,
}

impl Pair {
    fn new(farm: &Farm, process: u32, slots: usize, options: &TaskOptions) -> Option<Self> {
        let mut engine = RawEngine::start(farm, of_takers(process, slots));
        engine.session.peer.give_up_after(PATIENCE);
        let (mut client, options) = (taker(farm), &for_takers(process, options));
        submits(&mut client, 1, options);
        let attempt = engine.next_assigned()?;
        Some(Self { engine, client, attempt, options: options.clone() })
    }

    /// Says the same again and again, as long as the broker takes it.
    fn says(&mut self, window: &Window, batch: &[FromEngine]) {
        while window.goes_on() && self.engine.session.send(batch) {}
    }

    /// Leaves no tasks behind.
    fn ends(self) {
        self.client.leave();
    }
}

/// Submits tasks for the engines of takers.
fn submits(client: &mut Peer, count: u64, options: &TaskOptions) -> bool {
    let numbers = client.submitted + 1..=client.submitted + count;
    client.submitted += count;
    let task = |n| match submit(n, options) {
        FromClient::Submit(task) => {
            FromClient::Submit(Submit { runtime: Runtime::Command, ..task })
        }
        other => other,
    };
    client.session.send(&numbers.map(task).collect::<Vec<_>>())
}

fn kept() -> TaskOptions {
    TaskOptions { keep: true, ..TaskOptions::default() }
}

fn finished(attempt: Attempt, outcome: Outcome, payload: Option<Payload>) -> FromEngine {
    FromEngine::Finished(AttemptFinished { attempt, outcome, times: RunTimes::ran(1), payload })
}

fn registers(farm: &Farm, window: &Window) {
    let environment = (0..64).map(|n| (format!("{n:0256}"), "v".repeat(4096))).collect();
    let labels = (0..64).map(|n| format!("{n:0256}")).collect();
    let (cwd, python) = ("c".repeat(4096), Some("p".repeat(4096)));
    let long = Register { environment, labels, cwd, python, ..of_takers(201, 1024) };
    while window.goes_on() {
        drop(RawEngine::start(farm, long.clone()));
    }
}

fn registers_far(farm: &Farm, window: &Window) {
    for process in 0..6 {
        let mut far = of_takers(210 + process, 1024);
        for (place, slot) in (0..).zip(&mut far.slots) {
            slot.wanted = Some(EngineId(60_000 - 1_024 * process - place));
        }
        drop(RawEngine::say(farm, far));
        if !window.goes_on() {
            return;
        }
    }
}

/// Says that it holds what nobody knows.
fn holds(farm: &Farm, window: &Window) {
    let held = |count| HeldWork {
        attempt: Attempt { start: BrokerStart(7), id: AttemptId(count) },
        session: SessionId([count as u8; 16]),
        n: TaskSeq(count),
        slot: 0,
        finished: count % 2 == 0,
    };
    while window.goes_on() {
        drop(RawEngine::start(
            farm,
            Register { held: (1..=8_000).map(held).collect(), ..of_takers(220, 1) },
        ));
    }
}

fn comes_and_goes(farm: &Farm, window: &Window) {
    while window.goes_on() {
        let mut engine = RawEngine::start(farm, of_takers(221, 1024));
        engine.session.send(&[FromEngine::Goodbye(Goodbye { reason: String::new() })]);
    }
}

fn gives_credit(farm: &Farm, window: &Window) {
    let credits: Vec<_> =
        (0..40_000).map(|it| FromEngine::Credit(Credit { payload_bytes_total: it })).collect();
    let Some(mut pair) = Pair::new(farm, 222, 1, &TaskOptions::default()) else { return };
    pair.says(window, &credits);
    pair.ends();
}

/// Names files that nobody has passed: it is closed, and comes again.
fn passes_nothing(farm: &Farm, window: &Window) {
    while window.goes_on() {
        let mut session = RawEngine::say(farm, register(229, 1));
        let passed = Passed { transfer: 1, device: 1, inode: 1 };
        session.send(&[FromEngine::Passed(passed)]);
        while session.receive::<ToEngine>().is_ok() {}
    }
}

fn starts(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 223, 1, &TaskOptions::default()) else { return };
    let attempts = vec![pair.attempt; 16_000];
    pair.says(window, &[FromEngine::Started(Attempts { attempts })]);
    pair.ends();
}

fn ends_late(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 224, 1, &TaskOptions::default()) else { return };
    let outcome = Outcome::error(TaskState::Failed, ErrorKind::Remote, "r".repeat(5_000));
    let late = |count| {
        finished(
            Attempt { start: BrokerStart(7), id: AttemptId(count) },
            outcome.clone(),
            Some(inline(1_000)),
        )
    };
    pair.says(window, &(1..=70).map(late).collect::<Vec<_>>());
    pair.ends();
}

/// Ends what it gets, for a client that reads and acknowledges nothing.
fn ends(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 225, 64, &TaskOptions::default()) else { return };
    let most = pair.client.session.welcome.unfinished_tasks_max;
    let _ = (0..(most - 1) / 500).all(|_| submits(&mut pair.client, 500, &pair.options));
    let mut next = Some(pair.attempt);
    while let Some(attempt) = next.filter(|_| window.goes_on()) {
        pair.engine.session.send(&[finished(attempt, Outcome::SUCCEEDED, Some(inline(1_024)))]);
        next = pair.engine.next_assigned();
    }
    pair.ends();
}

/// Ends all that it gets in this way, again and again.
fn ends_as(pair: &mut Pair, window: &Window, outcome: &Outcome) {
    let mut next = Some(pair.attempt);
    while let Some(attempt) = next.filter(|_| window.goes_on()) {
        pair.engine.session.send(&[finished(attempt, outcome.clone(), None)]);
        next = pair.engine.next_assigned();
    }
}

fn fails(farm: &Farm, window: &Window) {
    let options = TaskOptions { error_retries: u32::MAX, keep: true, ..TaskOptions::default() };
    let Some(mut pair) = Pair::new(farm, 226, 4, &options) else { return };
    submits(&mut pair.client, 3, &pair.options);
    ends_as(
        &mut pair,
        window,
        &Outcome::error(TaskState::Failed, ErrorKind::Remote, "r".repeat(4_096)),
    );
    pair.ends();
}

fn does_not_begin(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 227, 4, &TaskOptions::default()) else { return };
    submits(&mut pair.client, 500, &pair.options);
    ends_as(&mut pair, window, &Outcome::error(TaskState::Failed, ErrorKind::NotBegun, "not here"));
    pair.ends();
}

fn sends_large(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 228, 8, &TaskOptions::default()) else { return };
    submits(&mut pair.client, 200, &pair.options);
    let chunk = vec![5; CHUNK_BYTES_MAX + TAG_BYTES];
    let mut next = Some(pair.attempt);
    let mut transfer = 0;
    while let Some(attempt) = next.filter(|_| window.goes_on()) {
        transfer += 1;
        let (bytes, instance) = (CHUNK_BYTES_MAX as u64, Some(register(228, 1).instance));
        let payload = Payload::Chunked { transfer, counter: transfer, bytes, instance };
        let batch = [
            finished(attempt, Outcome::SUCCEEDED, Some(payload)),
            FromEngine::Chunk(Chunk { transfer }),
        ];
        let envelope = pair.engine.session.seal(&batch, std::slice::from_ref(&chunk));
        if !pair.engine.session.peer.send(&message(&[&envelope, &chunk])) {
            break;
        }
        next = pair.engine.next_assigned();
    }
    window.hold();
    pair.ends();
}

fn writes<const BYTES: usize>(farm: &Farm, window: &Window) {
    let each_record = (300_000 / (BYTES + 50)) as u64;
    for process in 2_000_u32.. {
        let process = process + BYTES as u32;
        let Some(mut pair) = Pair::new(farm, process, 1, &kept()).filter(|_| window.goes_on())
        else {
            return;
        };
        let (attempt, mut offset) = (pair.attempt, 0);
        let mut output = |_| {
            offset += 2 * BYTES as u64;
            let (stream, bytes) = (Stream::Stdout, vec![b'x'; BYTES]);
            FromEngine::Output(AttemptOutput { attempt, stream, offset, bytes })
        };
        while window.goes_on() {
            let batch: Vec<_> = (0..each_record).map(&mut output).collect();
            if !pair.engine.session.send(&batch) {
                break;
            }
        }
        pair.ends();
    }
}

fn publishes(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 240, 1, &TaskOptions::default()) else { return };
    let published = AttemptPublished { attempt: pair.attempt, payload: inline(1_024) };
    pair.says(window, &vec![FromEngine::Published(published); 250]);
    pair.ends();
}

/// Gives back whatever it is given.
fn recalls(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 241, 4, &TaskOptions::default()) else { return };
    submits(&mut pair.client, 500, &pair.options);
    let mut next = Some(pair.attempt);
    while let Some(attempt) = next.filter(|_| window.goes_on()) {
        pair.engine.session.send(&[FromEngine::Recalled(Attempts { attempts: vec![attempt] })]);
        next = pair.engine.next_assigned();
    }
    pair.ends();
}

fn needs(farm: &Farm, window: &Window) {
    while window.goes_on() {
        let mut engine = RawEngine::start(farm, of_takers(242, 8));
        engine
            .session
            .send(&[FromEngine::NeedBlob(NeedBlob { session: SessionId([9; 16]), number: 1 })]);
    }
}

/// Its interpreters end all the time, which subscribers hear.
fn falls(farm: &Farm, window: &Window) {
    let subscribe = FromClient::Subscribe(Subscribe { engines: true });
    let mut peers: Vec<_> = (0..16).map(|_| taker(farm)).collect();
    peers.iter_mut().for_each(|peer| _ = peer.session.send(std::slice::from_ref(&subscribe)));
    let Some(mut pair) = Pair::new(farm, 243, 64, &TaskOptions::default()) else { return };
    let down = |slot| FromEngine::SlotDown(SlotDown { slot, cause: "c".repeat(6_000) });
    pair.says(window, &(0..64).map(down).collect::<Vec<_>>());
    pair.ends();
}

fn drains(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 244, 1024, &TaskOptions::default()) else { return };
    pair.says(window, &vec![FromEngine::Draining(Draining { reason: "r".repeat(300) }); 1_000]);
    pair.ends();
}

fn grants(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 245, 1, &TaskOptions::default()) else { return };
    let attempt = pair.attempt;
    let grant = |n: u32| {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        FromEngine::Grant(Grant { attempt, key: PassKey(key) })
    };
    pair.says(window, &(0..4_000).map(grant).collect::<Vec<_>>());
    pair.ends();
}

/// It answers looks that nobody has asked for.
fn shows(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 247, 1, &TaskOptions::default()) else { return };
    let attempt = Some(pair.attempt);
    let seen = |number| {
        let contents = vec![b'x'; 4_000];
        FromEngine::Inspected(Inspected { number, attempt, refusal: None, contents })
    };
    pair.says(window, &(0..1_000).map(seen).collect::<Vec<_>>());
    pair.ends();
}

/// Answers what nobody has asked, for more slots than it has.
fn measures(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 248, 1, &TaskOptions::default()) else { return };
    let measured = |number| {
        let slots = vec![SlotLoad::default(); 1_000];
        FromEngine::Measured(Measured { number, machine: MachineLoad::default(), slots })
    };
    pair.says(window, &(0..100).map(measured).collect::<Vec<_>>());
    pair.ends();
}

fn lends(farm: &Farm, window: &Window) {
    let Some(mut pair) = Pair::new(farm, 246, 1, &TaskOptions::default()) else { return };
    let attempt = pair.attempt;
    let session =
        |n: u16| SessionId([n.to_le_bytes(); 8].concat().try_into().expect("sixteen bytes"));
    let lent = Lent {
        attempt,
        sessions: (0..1_024).map(session).chain([pair.client.id]).skip(1).collect(),
    };
    let back = Attempts { attempts: vec![attempt; 4_000] };
    let both = [FromEngine::Lent(lent), FromEngine::Back(back)];
    pair.says(window, &[&both[..], &both, &both].concat());
    pair.ends();
}
