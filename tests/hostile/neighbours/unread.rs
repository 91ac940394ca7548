//! Clients that do not read their results, beside a bystander who gets what it asks for meanwhile
//! and afterwards.

use bytes::Bytes;
use furlong_client::{Arguments, CallSpec, ClusterStatus};
use furlong_tests::raw::message;
use furlong_tests::session::RawSession;
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::{Work, noop};
use furlong_wire::call::{Call, CallHeader, Codec, encode_header};
use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{
    Chunk, FromClient, Payload, Query, Request, Runtime, Submit, Targets, ToClient,
};
use furlong_wire::payload::{InlineBytes, Packed, PayloadSealer, PayloadSecret};
use furlong_wire::token::Role;

/// Half of it is for payloads, and a quarter of that for what comes unasked.
const MEMORY: [&str; 2] = ["--memory", "64M"];
/// Bytes of each result that nobody reads.
const RESULT_BYTES: usize = 200_000;

/// A client that submits and reads nothing.
struct Mute {
    session: RawSession,
    sealer: PayloadSealer,
    n: u64,
}

impl Mute {
    fn new(work: &Work) -> Self {
        let (id, session) =
            RawSession::client_with_id(work.farm().port(), &work.farm().capability(Role::Client));
        let secret = PayloadSecret::new([7; 32]);
        Self { session, sealer: secret.request_key(&id).into_sealer(), n: 0 }
    }

    fn submit(&mut self, payload: Payload) -> FromClient {
        self.n += 1;
        let (targets, runtime) = (Targets::Shared, Runtime::Native);
        FromClient::Submit(Submit {
            n: TaskSeq(self.n),
            targets,
            runtime,
            class: 1,
            define: None,
            options: None,
            payload,
        })
    }

    /// Has its bytes sent back, which are too many to come in a message.
    fn submit_large(&mut self) {
        let header = encode_header(&CallHeader {
            call: Call::Named { function: "echo".into() },
            codec: Codec::Raw,
        });
        let data = vec![Bytes::from(vec![7; RESULT_BYTES])];
        let Ok(Packed::Chunked(sealed)) = self.sealer.pack_with_header(header.into(), data) else {
            panic!("it is large")
        };
        let transfer = self.n + 1;
        let (counter, bytes) = (sealed.counter(), sealed.bytes());
        let submit = self.submit(Payload::Chunked { transfer, counter, bytes, instance: None });
        let chunk = sealed.chunk(0).to_vec();
        let chunk_follows = FromClient::Chunk(Chunk { transfer });
        let envelope = self.session.seal(&[submit, chunk_follows], std::slice::from_ref(&chunk));
        assert!(
            self.session.peer.send(&message(&[&envelope, &chunk])),
            "a request within its credit is read"
        );
    }

    /// So many no-ops. False if the broker does not take them.
    fn submit_noops(&mut self, count: usize) -> bool {
        let header = encode_header(&CallHeader {
            call: Call::Named { function: "noop".into() },
            codec: Codec::Raw,
        });
        let payload = [&[1], (header.len() as u16).to_le_bytes().as_slice(), &header].concat();
        let payload = InlineBytes::from(payload);
        let submits: Vec<FromClient> =
            (0..count).map(|_| self.submit(Payload::Inline(payload.clone()))).collect();
        self.session.send(&submits)
    }
}

fn echo(bytes: usize) -> CallSpec {
    CallSpec::native("echo").arguments(Arguments::Raw(vec![Bytes::from(vec![5; bytes])]))
}

/// Does what a bystander does: small things and large ones, one after the other.
fn works(work: &Work) {
    for _ in 0..10 {
        work.run(&noop()).unwrap();
        assert_eq!(work.run(&echo(10)).unwrap().data[0].len(), 10);
        assert_eq!(work.run(&echo(RESULT_BYTES)).unwrap().data[0].len(), RESULT_BYTES);
    }
}

#[test]
fn a_client_that_does_not_read_its_results_holds_nobody_else_up() {
    let work = Work::start_with(&MEMORY, &[&["-n", "2"]]);
    let mut mute = Mute::new(&work);
    let credit = mute.session.welcome.payload_credit_bytes as usize;
    let at_once = credit / RESULT_BYTES - 1;
    for round in 0..2 {
        // What it had before has been run, which gives it the credit for as much more.
        (0..at_once).for_each(|_| mute.submit_large());
        let results = (at_once + round) as u64;
        assert!(eventually(SOON, || work.status().results_held >= results), "{:?}", work.status());
    }
    works(&work);
    let held = work.status();
    let unfinished = |status: &ClusterStatus| status.tasks_waiting + status.tasks_assigned;
    assert!(unfinished(&held) > 0, "it can hold without end: {held:?}");
    assert!(held.payload_bytes.0 < held.payload_bytes.1 * 3 / 4, "{held:?}");
    // It is closed for that, and what it has left stays for a while.
    assert!(eventually(SOON, || work.status().clients == 1), "it reads nothing, and is not closed");
    assert_eq!(unfinished(&work.status()), unfinished(&held), "its tasks stand still");
    works(&work);
    works_as_a_newcomer(&work);
}

fn works_as_a_newcomer(work: &Work) {
    let newcomer = work.connect();
    for bytes in [10, RESULT_BYTES] {
        let result = work.within(work.submit_by(&newcomer, &echo(bytes))).unwrap();
        assert_eq!(result.data[0].len(), bytes);
    }
}

#[test]
fn who_is_closed_for_more_tasks_than_its_credit_leaves_room_for_others() {
    let work = Work::start_with(&MEMORY, &[&[]]);
    let mut mute = Mute::new(&work);
    let most = mute.session.welcome.unfinished_tasks_max;
    while mute.n <= most {
        if !mute.submit_noops(100) {
            break;
        }
        work.run(&noop()).unwrap();
    }
    assert!(eventually(SOON, || work.status().clients == 1), "it is not closed");
    let log = work.farm().home().broker_log();
    assert!(log.contains("more tasks or payload bytes than its credit allows"), "{log}");
    let is_gone = |left: ClusterStatus| left.results_held < 10 && left.tasks_waiting == 0;
    assert!(eventually(SOON, || is_gone(work.status())), "{:?}", work.status());
    works(&work);
}

#[test]
fn the_unread_results_of_who_went_away_leave_room_for_others() {
    let work = Work::start_with(&MEMORY, &[&[]]);
    let mut mute = Mute::new(&work);
    let most = mute.session.welcome.unfinished_tasks_max;
    assert!(
        mute.submit_noops(most as usize % 100) && (0..most / 100).all(|_| mute.submit_noops(100))
    );
    // The answer says that all before it has been taken.
    mute.session.send(&[FromClient::Query(Request { request: 1, query: Query::Engines })]);
    let answered =
        |messages: Vec<ToClient>| messages.iter().any(|it| matches!(it, ToClient::Reply(_)));
    while !answered(mute.session.receive().expect("it has kept to its credit")) {}
    drop(mute);
    assert!(eventually(SOON, || work.status().results_held >= most), "{:?}", work.status());
    works(&work);
    let newcomer = work.connect();
    let tasks: Vec<_> = (0..most / 4).map(|_| work.submit_by(&newcomer, &noop())).collect();
    for task in tasks {
        work.within(task).unwrap();
    }
}
