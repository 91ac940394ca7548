//! What clients take with each message that they may send.

use std::time::Duration;

use furlong_link::file::FileId;
use furlong_tests::engine::{RawEngine, register};
use furlong_tests::farm::Farm;
use furlong_tests::raw::message;
use furlong_wire::aead::TAG_BYTES;
use furlong_wire::call::{Call, CallHeader, Codec, CommandSpec, encode_header};
use furlong_wire::ids::{EngineId, TaskId, TaskSeq, TokenId};
use furlong_wire::limits::CHUNK_BYTES_MAX;
use furlong_wire::message::{
    Ack, Cancel, CancelTasks, Chunk, Credit, Define, Dependency, Fetch, FromClient, FromEngine,
    Goodbye, KindName, Look, Passed, Payload, Purge, Query, Register, Request, Restart, Revoke,
    Runtime, Shutdown, Signal, Submit, Subscribe, TakeBack, Targets, TaskOptions, TaskQuery,
    ToClient, Undefine,
};
use furlong_wire::token::Role;

use super::{Taker, Window};
use crate::files::sealed;
use crate::peer::{Peer, inline, submit, waiting};

/// Bytes of each memory file.
const FILE_BYTES: u64 = 40_000;

pub(super) const TAKERS: &[Taker] = &[
    Taker { name: "requests that never come whole", messages: &["Chunk"], takes: announces },
    Taker { name: "chunks of one byte", messages: &["Chunk"], takes: uploads::<1> },
    Taker { name: "large chunks", messages: &["Chunk"], takes: uploads::<CHUNK_BYTES_MAX> },
    Taker { name: "memory files", messages: &["Passed"], takes: passes_files },
    Taker { name: "goodbyes of full sessions", messages: &["Goodbye"], takes: says_goodbye },
    Taker { name: "credits", messages: &["Credit"], takes: gives_credit },
    Taker { name: "unread results delivered again", messages: &["Open"], takes: opens },
    Taker { name: "no-ops as fast as they go", messages: &["Submit"], takes: submits_noops },
    Taker {
        name: "tasks that end at once",
        messages: &["Submit", "Ack"],
        takes: submits_to_nobody,
    },
    Taker { name: "long options", messages: &["Submit"], takes: submits_long_options },
    Taker { name: "many dependencies", messages: &["Submit"], takes: submits_dependencies },
    Taker {
        name: "a crowd that waits for one task",
        messages: &["Submit", "Cancel"],
        takes: submits_dependents,
    },
    Taker { name: "definitions", messages: &["Define", "Undefine"], takes: defines },
    Taker { name: "names of kinds", messages: &["Name"], takes: names },
    Taker { name: "cancels", messages: &["Cancel"], takes: cancels },
    Taker { name: "signals", messages: &["Signal"], takes: signals },
    Taker { name: "restarts", messages: &["Restart"], takes: restarts },
    Taker { name: "cancels of the same tasks", messages: &["CancelTasks"], takes: cancels_tasks },
    Taker { name: "tasks taken back", messages: &["TakeBack"], takes: takes_back },
    Taker { name: "purges", messages: &["Purge"], takes: purges },
    Taker { name: "questions that nothing fits", messages: &["Query"], takes: asks_for_nothing },
    Taker { name: "an observer's questions", messages: &["Query"], takes: observes },
    Taker { name: "pages of tasks", messages: &["Query"], takes: asks_for_tasks },
    Taker { name: "pages of the status", messages: &["Query"], takes: asks_for_status },
    Taker { name: "looks at the farm", messages: &["Query"], takes: looks },
    Taker {
        name: "answers that are not read",
        messages: &["Query"],
        takes: asks_and_does_not_read,
    },
    Taker { name: "subscriptions", messages: &["Subscribe"], takes: subscribes },
    Taker { name: "fetches that wait", messages: &["Fetch"], takes: fetches },
    Taker { name: "acknowledgements of nothing", messages: &["Ack"], takes: acknowledges },
    Taker { name: "revocations", messages: &["Revoke"], takes: revokes },
    Taker { name: "shutdowns of nobody", messages: &["Shutdown"], takes: shuts_down },
];

/// A taker waits no longer than this for a broker that does not read from it.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// A client of a taker's.
pub(super) fn taker(farm: &Farm) -> Peer {
    of_role(farm, Role::Client).expect("the taker is let in")
}

fn of_role(farm: &Farm, role: Role) -> Option<Peer> {
    let mut peer = Peer::of(farm, role)?;
    peer.session.peer.give_up_after(PATIENCE);
    Some(peer)
}

/// Options of a task for one of the engine processes of takers.
pub(super) fn for_takers(process: u32, options: &TaskOptions) -> TaskOptions {
    TaskOptions { require: vec![format!("taken by {process}")], ..options.clone() }
}

/// An engine process of a taker's, which gets no task of the bystander's.
pub(super) fn of_takers(process: u32, slots: usize) -> Register {
    Register {
        runtimes: vec![Runtime::Command],
        labels: vec![format!("taken by {process}")],
        ..register(process, slots)
    }
}

fn header(call: Call) -> Payload {
    let header = encode_header(&CallHeader { call, codec: Codec::Raw });
    let length = u16::try_from(header.len()).expect("a header is short");
    Payload::Inline([&[1], length.to_le_bytes().as_slice(), &header].concat().into())
}

/// So many tasks more, which differ from the usual by this.
fn tasks(peer: &mut Peer, count: u64, options: &TaskOptions, runtime: Runtime) -> Vec<FromClient> {
    let numbers = TaskSeq(peer.submitted + 1).through(TaskSeq(peer.submitted + count));
    peer.submitted += count;
    let payload = header(Call::Named { function: "noop".into() });
    let task = |n| {
        let (targets, options, payload) =
            (Targets::Shared, Some(Box::new(options.clone())), payload.clone());
        FromClient::Submit(Submit { n, targets, runtime, class: 0, define: None, options, payload })
    };
    numbers.map(task).collect()
}

/// Says the same again and again on a connection that was prepared, and reads to the answer of the
/// last request.
fn asks(window: &Window, (peer, last): (Peer, u64), batch: &[FromClient]) {
    rounds(window, peer, |peer| {
        says_to(peer, batch)?;
        peer.replied(last, |_| false).map(|_| ())
    });
}

/// Does the same again and again, as long as the broker answers, and leaves nothing behind.
fn rounds(window: &Window, mut peer: Peer, mut round: impl FnMut(&mut Peer) -> Option<()>) {
    while window.goes_on() && round(&mut peer).is_some() {}
    peer.leave();
}

fn says_to(peer: &mut Peer, batch: &[FromClient]) -> Option<()> {
    peer.session.send(batch).then_some(())
}

/// Waits until so many tasks have ended, and acknowledges those from a number on.
fn take_ends(peer: &mut Peer, first: u64, mut count: u64) -> Option<()> {
    while count > 0 {
        count -= u64::from(matches!(peer.receive()?, ToClient::Finished(_)));
    }
    let ack = Ack { ranges: vec![(TaskSeq(first), TaskSeq(peer.submitted))].into() };
    says_to(peer, &[FromClient::Ack(ack)])
}

/// Says the same again and again, and is let in again when it is closed. Nothing is answered.
fn says(farm: &Farm, window: &Window, role: Role, batch: &[FromClient]) {
    while window.goes_on() {
        let Some(mut peer) = of_role(farm, role) else { continue };
        while window.goes_on() && peer.session.send(batch) {}
    }
}

/// A question whose answer says that all before it has been heard.
pub(super) fn heard(request: u64) -> FromClient {
    FromClient::Query(Request { request, query: Query::Engines })
}

fn announces(farm: &Farm, window: &Window) {
    let mut peer = taker(farm);
    let each = CHUNK_BYTES_MAX as u64;
    for n in 1..=peer.session.welcome.payload_credit_bytes / each {
        let payload = Payload::Chunked { transfer: n, counter: n, bytes: each, instance: None };
        let (targets, runtime) = (Targets::Shared, Runtime::Native);
        let task = Submit {
            n: TaskSeq(n),
            targets,
            runtime,
            class: 0,
            define: None,
            options: None,
            payload,
        };
        peer.session.send(&[FromClient::Submit(task)]);
    }
    window.hold();
}

/// Definitions in memory files, as many as its credit allows, and then again as another session.
fn passes_files(farm: &Farm, window: &Window) {
    let file = sealed(FILE_BYTES);
    let FileId { device, inode } = file.id();
    while window.goes_on() {
        let mut peer = farm.good(Role::Client);
        let most = peer.welcome().payload_credit_bytes / FILE_BYTES;
        for transfer in (1..=most).take_while(|_| window.goes_on()) {
            let (counter, bytes, instance) = (transfer, FILE_BYTES, None);
            let payload = Payload::Chunked { transfer, counter, bytes, instance };
            let define = FromClient::Define(Define { number: transfer as u32, payload });
            let is_passed = || {
                peer.socket().files().is_some_and(|files| files.send(transfer, file.descriptor()))
            };
            // Where the socket is full the broker is behind: an honest peer would send chunks.
            if !is_passed() || peer.send(&define).is_err() {
                break;
            }
            let passed = FromClient::Passed(Passed { transfer, device, inode });
            if peer.send(&passed).is_err() {
                break;
            }
        }
    }
}

fn uploads<const BYTES: usize>(farm: &Farm, window: &Window) {
    let each_record = if BYTES == 1 { 500 } else { 1 };
    let chunks = vec![vec![5; BYTES + TAG_BYTES]; each_record];
    while window.goes_on() {
        let mut peer = taker(farm);
        let most = peer
            .session
            .welcome
            .unfinished_tasks_max
            .min(peer.session.welcome.payload_credit_bytes / BYTES as u64);
        let mut n = 0;
        while window.goes_on() && n + each_record as u64 <= most {
            let mut batch = Vec::new();
            for _ in 0..each_record {
                n += 1;
                let payload = Payload::Chunked {
                    transfer: n,
                    counter: n,
                    bytes: BYTES as u64,
                    instance: None,
                };
                let FromClient::Submit(task) = submit(n, &waiting()) else {
                    unreachable!("it is one")
                };
                batch.extend([
                    FromClient::Submit(Submit { payload, ..task }),
                    FromClient::Chunk(Chunk { transfer: n }),
                ]);
            }
            let envelope = peer.session.seal(&batch, &chunks);
            let frames: Vec<&[u8]> =
                [&envelope].into_iter().chain(&chunks).map(Vec::as_slice).collect();
            if !peer.session.peer.send(&message(&frames)) {
                break;
            }
        }
        peer.leave();
    }
}

fn says_goodbye(farm: &Farm, window: &Window) {
    while window.goes_on() {
        let mut peer = taker(farm);
        let most = peer.session.welcome.unfinished_tasks_max;
        let batch = tasks(&mut peer, most, &waiting(), Runtime::Native);
        let _ = batch.chunks(2_000).all(|batch| peer.session.send(batch));
        peer.leave();
    }
}

fn gives_credit(farm: &Farm, window: &Window) {
    let credits: Vec<_> =
        (0..40_000).map(|it| FromClient::Credit(Credit { payload_bytes_total: it })).collect();
    says(farm, window, Role::Observer, &credits);
}

fn opens(farm: &Farm, window: &Window) {
    let mut peer = taker(farm);
    let [task, _] = of_nobody(&mut peer, 2_000, &TaskOptions::default());
    peer.session.send(&[task]);
    while window.goes_on() {
        let Some(again) = peer.again(farm) else { return };
        peer = again;
        peer.session.peer.give_up_after(PATIENCE);
        // It takes some, and is cut.
        let _ = peer.receive();
    }
    peer.leave();
}

fn submits_noops(farm: &Farm, window: &Window) {
    rounds(window, taker(farm), |peer| {
        let first = peer.submitted + 1;
        let batch = tasks(peer, 500, &TaskOptions::default(), Runtime::Native);
        says_to(peer, &batch)?;
        take_ends(peer, first, 500)
    });
}

fn submits_to_nobody(farm: &Farm, window: &Window) {
    let options = TaskOptions::default();
    rounds(window, taker(farm), |peer| {
        let [task, ack] = of_nobody(peer, 2_000, &options);
        says_to(peer, &[task, ack, heard(1)])?;
        peer.replied(1, |_| false).map(|_| ())
    });
}

/// Tasks that end at once, as there is no such engine, and what acknowledges them.
fn of_nobody(peer: &mut Peer, count: usize, options: &TaskOptions) -> [FromClient; 2] {
    let (n, targets) = (peer.submitted + 1, Targets::Engines(vec![EngineId(u32::MAX); count]));
    peer.submitted += count as u64;
    let ack = Ack { ranges: vec![(TaskSeq(n), TaskSeq(peer.submitted))].into() };
    match submit(n, options) {
        FromClient::Submit(task) => {
            [FromClient::Submit(Submit { targets, ..task }), FromClient::Ack(ack)]
        }
        other => [other, FromClient::Ack(ack)],
    }
}

/// Tasks that cannot run, taken back as soon as the session has no more.
fn fills(window: &Window, peer: Peer, options: &TaskOptions) {
    let each_bytes = 40 * options.after.len() + 300 * options.require.len() + 100;
    let count = (400_000 / each_bytes as u64).max(1);
    let most = peer.session.welcome.unfinished_tasks_max - peer.submitted;
    rounds(window, peer, |peer| {
        let first = peer.submitted + 1;
        while window.goes_on() && peer.submitted + count < first + most - count {
            let batch = tasks(peer, count, options, Runtime::Native);
            says_to(peer, &batch)?;
        }
        let own = (TaskSeq(first), TaskSeq(peer.submitted));
        let cancel = Cancel { ranges: vec![own], force: false };
        let ack = Ack { ranges: vec![own].into() };
        says_to(peer, &[FromClient::Cancel(cancel), FromClient::Ack(ack), heard(1)])?;
        peer.replied(1, |_| false).map(|_| ())
    });
}

fn submits_long_options(farm: &Farm, window: &Window) {
    let require = (0..64).map(|n| format!("{n:0256}")).collect();
    let label = Some("l".repeat(256));
    fills(window, taker(farm), &TaskOptions { label, require, ..TaskOptions::default() });
}

fn submits_dependencies(farm: &Farm, window: &Window) {
    let mut peer = taker(farm);
    peer.submit(1_000, &waiting());
    let on = |n| Dependency { task: TaskId { session: peer.id, n }, success: true, failure: false };
    let after = TaskSeq(1).through(TaskSeq(1_000)).map(on).collect();
    fills(window, peer, &TaskOptions { after, ..TaskOptions::default() });
}

fn submits_dependents(farm: &Farm, window: &Window) {
    rounds(window, taker(farm), |peer| {
        let most = peer.session.welcome.unfinished_tasks_max;
        let waiting = tasks(peer, 1, &waiting(), Runtime::Native);
        let first = peer.submitted;
        let task = TaskId { session: peer.id, n: TaskSeq(first) };
        let after = vec![Dependency { task, success: true, failure: false }];
        let dependents = tasks(
            peer,
            most - 2,
            &TaskOptions { after, ..TaskOptions::default() },
            Runtime::Native,
        );
        says_to(peer, &waiting)?;
        dependents.chunks(1_000).try_for_each(|batch| says_to(peer, batch))?;
        says_to(
            peer,
            &[FromClient::Cancel(Cancel {
                ranges: vec![(TaskSeq(first), TaskSeq(first))],
                force: false,
            })],
        )?;
        take_ends(peer, first, most - 1)
    });
}

fn defines(farm: &Farm, window: &Window) {
    let define = |number| FromClient::Define(Define { number, payload: inline(1_000) });
    let undefine = |number| FromClient::Undefine(Undefine { number });
    let mut number = 0;
    rounds(window, taker(farm), |peer| {
        number += 300;
        let batch: Vec<_> = (number..number + 300).map(define).collect();
        let all = (number..number + 300).map(undefine).chain([heard(1)]).collect::<Vec<_>>();
        says_to(peer, &batch)?;
        says_to(peer, &all)?;
        peer.replied(1, |_| false).map(|_| ())
    });
}

fn names(farm: &Farm, window: &Window) {
    let name = |class, char: &str| {
        FromClient::Name(KindName { class, runtime: Runtime::Native, name: char.repeat(256) })
    };
    let mut round = 0;
    rounds(window, taker(farm), |peer| {
        round += 1;
        let char = if round % 2 == 0 { "a" } else { "b" };
        let all: Vec<_> = (0..400).map(|class| name(class, char)).chain([heard(1)]).collect();
        says_to(peer, &all)?;
        peer.replied(1, |_| false).map(|_| ())
    });
}

fn cancels(farm: &Farm, window: &Window) {
    rounds(window, taker(farm), |peer| {
        let first = peer.submitted + 1;
        let mut batch = tasks(peer, 1_000, &TaskOptions::default(), Runtime::Native);
        let ranges: Vec<_> = (first..=peer.submitted).map(|n| (TaskSeq(n), TaskSeq(n))).collect();
        batch.push(FromClient::Cancel(Cancel { ranges, force: true }));
        says_to(peer, &batch)?;
        take_ends(peer, first, 1_000)
    });
}

/// Signals that have no effect, to a program that one of the bystander's engines runs.
fn signals(farm: &Farm, window: &Window) {
    let mut peer = taker(farm);
    let argv = ["sleep", "60"].map(Into::into).into();
    let payload = header(Call::Command(CommandSpec { argv, ..CommandSpec::default() }.into()));
    let (targets, runtime) = (Targets::Engines(vec![EngineId(1)]), Runtime::Command);
    let task =
        Submit { n: TaskSeq(1), targets, runtime, class: 0, define: None, options: None, payload };
    peer.session.send(&[FromClient::Submit(task)]);
    let engines = vec![EngineId(1); 16_000];
    let signal =
        |request| FromClient::Signal(Signal { request, engines: engines.clone(), signal: 18 });
    let batch: Vec<_> = (1..=8).map(signal).collect();
    asks(window, (peer, 8), &batch);
}

/// Of engines that never say that their interpreters are new.
fn restarts(farm: &Farm, window: &Window) {
    let engine = RawEngine::start(farm, of_takers(101, 256));
    let restart = |request| FromClient::Restart(Restart { request, engines: engine.ids.clone() });
    let batch: Vec<_> = (1..=200).map(restart).chain([heard(1_000)]).collect();
    asks(window, (taker(farm), 1_000), &batch);
}

/// A client with so many tasks that wait.
fn with_waiting(farm: &Farm, tasks: u64) -> Peer {
    let mut peer = taker(farm);
    peer.submit(tasks, &waiting());
    peer
}

fn cancels_tasks(farm: &Farm, window: &Window) {
    while window.goes_on() {
        let peer = with_waiting(farm, 1_800);
        let cancel = |request| CancelTasks { request, tasks: vec![peer.all(); 4096], force: true };
        let batch: Vec<_> = (1..=3).map(cancel).map(FromClient::CancelTasks).collect();
        asks_once(peer, 3, &batch);
    }
}

fn takes_back(farm: &Farm, window: &Window) {
    while window.goes_on() {
        let peer = with_waiting(farm, 1_800);
        let take = |request| TakeBack { request, tasks: vec![peer.all(); 4096] };
        let batch: Vec<_> = (1..=3).map(take).map(FromClient::TakeBack).collect();
        asks_once(peer, 3, &batch);
    }
}

/// Each message a record, and to the answer of the last.
fn asks_once(mut peer: Peer, last: u64, batch: &[FromClient]) {
    if batch.iter().all(|message| peer.session.send(std::slice::from_ref(message))) {
        let _ = peer.replied(last, |_| false);
    }
    peer.leave();
}

fn purges(farm: &Farm, window: &Window) {
    let kept = TaskOptions { keep: true, ..TaskOptions::default() };
    rounds(window, taker(farm), |peer| {
        let [task, ack] = of_nobody(peer, 2_000, &kept);
        let purge = Purge { request: 1, tasks: vec![peer.all(); 4096] };
        says_to(peer, &[task, ack, FromClient::Purge(purge)])?;
        peer.replied(1, |_| false).map(|_| ())
    });
}

fn questions(count: u64, query: &TaskQuery) -> Vec<FromClient> {
    let ask = |request| {
        FromClient::Query(Request { request, query: Query::Tasks(Box::new(query.clone())) })
    };
    (1..=count).map(ask).collect()
}

fn nothing() -> TaskQuery {
    TaskQuery { label: Some("nothing*like it".into()), limit: 200, ..TaskQuery::default() }
}

fn asks_for_nothing(farm: &Farm, window: &Window) {
    let peer = with_waiting(farm, 1_800);
    asks(window, (peer, 500), &questions(500, &nothing()));
}

fn observes(farm: &Farm, window: &Window) {
    let waiting = with_waiting(farm, 1_800);
    let Some(peer) = of_role(farm, Role::Observer) else { return };
    asks(window, (peer, 500), &questions(500, &nothing()));
    waiting.leave();
}

fn asks_for_tasks(farm: &Farm, window: &Window) {
    let mut peer = taker(farm);
    peer.submit(400, &TaskOptions { label: Some("l".repeat(256)), ..waiting() });
    let query = TaskQuery { limit: 200, ..TaskQuery::default() };
    asks(window, (peer, 50), &questions(50, &query));
}

fn looks(farm: &Farm, window: &Window) {
    let _engine = RawEngine::start(farm, of_takers(102, 1_000));
    let all = Look { ends: true, failures: true, ranges: true, ..Look::default() };
    let ask =
        |request| FromClient::Query(Request { request, query: Query::Look(Box::new(all.clone())) });
    asks(window, (with_waiting(farm, 1_800), 200), &(1..=200).map(ask).collect::<Vec<_>>());
}

fn asks_for_status(farm: &Farm, window: &Window) {
    let long = Register { cwd: "c".repeat(4_000), ..of_takers(102, 1_000) };
    let _engine = RawEngine::start(farm, long);
    let ask = |request| FromClient::Query(Request { request, query: Query::Status });
    let batch: Vec<_> = (1..=100).map(ask).collect();
    asks(window, (taker(farm), 100), &batch);
}

fn asks_and_does_not_read(farm: &Farm, window: &Window) {
    let _engine = RawEngine::start(farm, of_takers(103, 1_000));
    let ask = |request| FromClient::Query(Request { request, query: Query::Status });
    let batch: Vec<_> = (1..=5_000).map(ask).collect();
    let mut peers: Vec<_> = (0..16).map(|_| taker(farm)).collect();
    peers.iter_mut().for_each(|peer| _ = peer.session.send(&batch));
    window.hold();
}

/// Many hear of many engines that come and go.
fn subscribes(farm: &Farm, window: &Window) {
    let subscribe = FromClient::Subscribe(Subscribe { engines: true });
    let mut peers: Vec<_> = (0..40).map(|_| taker(farm)).collect();
    peers.iter_mut().for_each(|peer| _ = peer.session.send(std::slice::from_ref(&subscribe)));
    while window.goes_on() {
        let mut engine = RawEngine::start(farm, of_takers(104, 500));
        engine.session.send(&[FromEngine::Goodbye(Goodbye { reason: String::new() })]);
        for peer in &mut peers {
            peer.session.send(&[heard(1)]);
            let _ = peer.replied(1, |_| false);
        }
    }
}

fn fetches(farm: &Farm, window: &Window) {
    let peer = with_waiting(farm, 10);
    let fetch =
        |request, wait| Fetch { request, session: peer.id, n: TaskSeq(1), wait, output: true };
    let batch: Vec<_> = (1..=2_000)
        .map(|request| fetch(request, request % 2 == 0))
        .map(FromClient::Fetch)
        .collect();
    let batch = [batch, vec![heard(9_999)]].concat();
    asks(window, (peer, 9_999), &batch);
}

fn acknowledges(farm: &Farm, window: &Window) {
    let ranges: Vec<_> = (1..=50_000_u64).map(|n| (TaskSeq(2 * n), TaskSeq(2 * n))).collect();
    says(farm, window, Role::Client, &[FromClient::Ack(Ack { ranges: ranges.into() })]);
}

fn revokes(farm: &Farm, window: &Window) {
    let Some(peer) = of_role(farm, Role::Admin) else { return };
    let mut tokens = 0_u128;
    let mut revoke = |request| {
        tokens += 4;
        Revoke {
            request,
            tokens: (tokens..tokens + 4).map(|id| TokenId(id.to_le_bytes())).collect(),
        }
    };
    rounds(window, peer, |peer| {
        let batch: Vec<_> = (1..=40).map(&mut revoke).map(FromClient::Revoke).collect();
        says_to(peer, &batch)?;
        peer.replied(40, |_| false).map(|_| ())
    });
}

fn shuts_down(farm: &Farm, window: &Window) {
    let Some(peer) = of_role(farm, Role::Admin) else { return };
    let engines: Vec<_> = (1_000_000..1_016_000).map(EngineId).collect();
    let shutdown = |request| {
        let engines = Some(engines.clone());
        FromClient::Shutdown(Shutdown { request, engines, finish: false, broker: false })
    };
    let batch: Vec<_> = (1..=4).map(shutdown).collect();
    asks(window, (peer, 4), &batch);
}
