//! Clients that take too much: of the broker's memory, of its patience, of their own capability.
//! Others do not feel it.

use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use furlong_client::{Arguments, CallSpec, Client, ClientError, ErrorKind, TaskFuture};
use furlong_tests::command::furlong;
use furlong_tests::measure::rss_bytes;
use furlong_tests::session::RawSession;
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::{Work, noop, python};
use furlong_wire::call::{Call, CallHeader, Codec, encode_header};
use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{FromClient, Payload, Runtime, Submit, Targets};
use furlong_wire::payload::InlineBytes;
use furlong_wire::token::Role;
use futures_util::StreamExt;
use serde_json::{Value, json};

/// Runs no-ops of an honest client, one after the other, until something has happened, and counts
/// them.
fn noops_until(work: &Work, mut happened: impl FnMut() -> bool) -> u64 {
    let (mut noops, begun) = (0, Instant::now());
    while !happened() {
        work.run(&noop()).unwrap();
        noops += 1;
        assert!(begun.elapsed() < 4 * SOON, "it does not happen");
    }
    noops
}

#[test]
fn a_client_that_submits_and_never_reads_is_closed_and_others_do_not_wait_for_it() {
    let work = Work::start(1);
    let mut greedy = RawSession::client(work.farm().port(), &work.farm().capability(Role::Client));
    let call = CallHeader { call: Call::Named { function: "echo".into() }, codec: Codec::Raw };
    let (header, data) = (encode_header(&call), [7; 900]);
    // Two buffers: their count, their lengths, and they themselves.
    let lengths = [header.len(), data.len()].map(|length| (length as u16).to_le_bytes());
    let payload = InlineBytes::from([&[2], lengths.concat().as_slice(), &header, &data].concat());
    let mut n = 0;
    let mut submits = || -> Vec<FromClient> {
        let submit = |n| {
            let payload = Payload::Inline(payload.clone());
            let (targets, runtime) = (Targets::Shared, Runtime::Native);
            FromClient::Submit(Submit {
                n,
                targets,
                runtime,
                class: 1,
                define: None,
                options: None,
                payload,
            })
        };
        n += 8;
        (n - 7..=n).map(|n| submit(TaskSeq(n))).collect()
    };
    assert!(eventually(SOON, || work.status().clients == 2));
    // Its results are more than the sockets' buffers can hold: it is not read from any longer,
    // until it is closed.
    let batches: Vec<_> = (0..3_000).map(|_| submits()).collect();
    let greedy = std::thread::spawn(move || {
        let _ = batches.iter().all(|batch| greedy.send(batch));
        greedy
    });
    let noops = noops_until(&work, || work.status().clients == 1);
    assert!(noops > 1, "others waited for it");
    let mut greedy = greedy.join().expect("it has sent what it could");
    assert!(greedy.peer.is_closed_within(SOON));
    let log = work.farm().home().broker_log();
    assert!(
        log.contains("took nothing of what waits for it") || log.contains("reads too slowly"),
        "{log}"
    );
}

#[test]
fn output_of_four_mebibytes_keeps_its_ends_and_says_the_gap() {
    let work = Work::start(1);
    let report = work.run(&python("write", [json!(4 << 20)])).unwrap().report;
    for (output, name) in [(report.stdout, "out"), (report.stderr, "err")] {
        let (first, last) = (format!("{name}-first\n"), format!("{name}-last\n"));
        assert!(
            output.start().starts_with(first.as_bytes()) && output.end().ends_with(last.as_bytes())
        );
        assert_eq!((output.start().len(), output.end().len()), (1 << 20, 1 << 20));
        let total = (4 << 20) + first.len() + last.len();
        assert_eq!(output.total_bytes(), total as u64);
        assert_eq!(output.left_out_bytes(), (total - (2 << 20)) as u64);
        assert!(output.text().contains("bytes of output left out"));
    }
}

#[test]
fn a_slow_reader_of_output_is_told_of_the_gaps_and_is_not_closed() {
    let work = Work::start_with(&[], &[&["-n", "2"]]);
    let tasks: Vec<TaskFuture> =
        (0..12).map(|_| work.submit(&python("write", [json!(4 << 20)]))).collect();
    // Nobody reads these before the tasks have ended.
    let mut streams: Vec<_> = tasks.iter().map(TaskFuture::output).collect();
    let mut totals = Vec::new();
    for task in tasks {
        let report = work.within(task).unwrap().report;
        totals.push(report.stdout.total_bytes() + report.stderr.total_bytes());
    }
    for (stream, total) in streams.iter_mut().zip(totals) {
        let (mut read, mut left_out) = (0, 0);
        while let Some(piece) = work.within(stream.next()) {
            read += piece.bytes.len() as u64;
            left_out += piece.left_out;
        }
        assert_eq!(read + left_out, total);
        assert!(left_out >= 4 << 20, "{left_out}");
    }
    work.run(&noop()).unwrap();
}

/// Submits as much as goes without waiting.
fn fill(client: &Client, call: &CallSpec) -> Vec<TaskFuture> {
    let mut tasks = Vec::new();
    loop {
        match client.tasks().try_call(call) {
            Ok(task) => tasks.push(task),
            Err(ClientError::Busy) => return tasks,
            Err(error) => panic!("{error}"),
        }
        assert!(tasks.len() < 10_000, "it is never too much");
    }
}

#[test]
fn a_full_payload_budget_is_busy_and_then_drains_without_a_loss() {
    const MIB: usize = 1 << 20;
    let work = Work::start_with(&["--memory", "64M"], &[&[]]);
    let holder = work.begin_hold("held");
    let (_, total) = work.status().payload_bytes;
    assert_eq!(total, 32 << 20);
    let clients = [(); 3].map(|()| work.connect());
    let call =
        CallSpec::native("echo").arguments(Arguments::Raw(vec![Bytes::from(vec![7; MIB - 4096])]));
    let mut filled: Vec<Vec<TaskFuture>> = Vec::new();
    // Requests may have half of it.
    for client in &clients[..2] {
        let mut tasks = Vec::new();
        // The way to the broker is bounded as well: go on until what was announced is there.
        let full = eventually(SOON, || {
            tasks.extend(fill(client, &call));
            tasks.len() == 8
        });
        assert!(full, "{} tasks", tasks.len());
        filled.push(tasks);
    }
    assert!(
        eventually(SOON, || work.status().payload_bytes.0 > (15 << 20)),
        "{:?}",
        work.status().payload_bytes
    );
    // A session that has credit finds no room: its task fails, and nothing else does.
    let refused = work.within(work.submit_by(&clients[2], &call));
    assert_eq!(refused.unwrap_err().kind(), Some(ErrorKind::Busy));
    // One without credit waits.
    let waits = work.spawn({
        let (client, call) = (clients[0].clone(), call.clone());
        async move { client.tasks().call(&call).await.unwrap().await }
    });
    work.release("held.release");
    work.within(holder).unwrap();
    // Their results need room as well, and wait for it.
    for task in filled.into_iter().flatten() {
        assert_eq!(work.within(task).unwrap().data[0].len(), MIB - 4096);
    }
    assert_eq!(work.within(waits).unwrap().data[0].len(), MIB - 4096);
    drop(clients);
    // What is left is the source of a function, which stays as long as its session.
    assert!(
        eventually(SOON, || work.status().payload_bytes.0 < 8 << 10),
        "{:?}",
        work.status().payload_bytes
    );
    let again = work.run(&call).unwrap();
    assert_eq!(again.data[0].len(), MIB - 4096);
    assert!(rss_bytes(work.farm().pid()) < 160 << 20);
}

#[test]
fn sessions_of_one_token_share_its_limit_of_tasks() {
    let work = Work::start(1);
    let out = furlong(
        &["cap", "issue", "--role", "client", "--limits", "tasks=7", "--json"],
        work.farm().home(),
    );
    let document: Value = serde_json::from_str(&out.ok()).unwrap();
    let file = PathBuf::from(document["file"].as_str().unwrap());
    let holder = work.begin_hold("held");
    let clients = [(); 2].map(|()| work.connect_with(&file));
    let first = fill(&clients[0], &noop());
    assert_eq!(first.len(), 7, "its own session does not let more through");
    work.within(clients[0].engines()).unwrap();
    let beyond = work.within(work.submit_by(&clients[1], &noop())).unwrap_err();
    assert_eq!(beyond.kind(), Some(ErrorKind::Busy), "{beyond}");
    let waits = work.spawn({
        let client = clients[0].clone();
        async move { client.tasks().call(&noop()).await.unwrap().await }
    });
    work.release("held.release");
    work.within(holder).unwrap();
    for task in first {
        work.within(task).unwrap();
    }
    work.within(waits).unwrap();
    work.within(work.submit_by(&clients[1], &noop())).unwrap();
}
