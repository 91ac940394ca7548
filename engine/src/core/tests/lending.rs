//! Jobs that open clients and wait: what the broker is told, and where stand-ins run.

use furlong_wire::ids::PassKey;
use furlong_wire::message::{Attempts, Grant, Granted, Lent};

use super::*;
use crate::job::Ask;

fn asks(process: &mut Process, job: u64, ask: Ask) {
    process.core.handle_slot_event(0, SlotEvent::Asked { attempt: SlotJob(job), ask });
}

#[test]
fn stand_ins_are_places_of_their_own_and_used_again() {
    let mut process = Process::new(2);
    process.assign(1, Python);
    assert_eq!(process.done().jobs(), [(1, Python, 1)]);
    let first = process.assign(3, Python);
    let done = process.done();
    assert_eq!(done.jobs(), [(2, Python, 2)], "the first place beyond the registered ones");
    assert!(matches!(done.rest[..], [Output::StandIn(2, 1)]), "{:?}", done.rest);
    process.assign(3, Python);
    process.assign(2, Python);
    let done = process.done();
    assert_eq!(
        done.jobs(),
        [(3, Python, 3), (4, Python, 4)],
        "each has one of its own, of its slot"
    );
    assert!(
        matches!(done.rest[..], [Output::StandIn(3, 1), Output::StandIn(4, 0)]),
        "{:?}",
        done.rest
    );
    process.finish(2, 2, 1);
    process.done();
    process.assign(3, Python);
    let done = process.done();
    assert_eq!(
        (done.jobs(), done.rest.len()),
        (vec![(2, Python, 5)], 0),
        "one that has nothing is used again"
    );
    let held = process.core.held().work.into_iter();
    let mut held: Vec<(u64, u32)> = held.map(|held| (held.attempt.id.0, held.slot)).collect();
    held.sort_unstable();
    assert_eq!(
        held,
        [(1, 1), (first.id.0, 3), (3, 3), (4, 2), (5, 3)],
        "the broker knows them by their slots"
    );
}

#[test]
fn the_death_of_a_stand_in_is_no_engines() {
    let mut process = Process::new(1);
    process.assign(0, Python);
    process.assign(1, Python);
    process.done();
    process.core.handle_slot_event(1, SlotEvent::Down { cause: "signal 9".into() });
    process.end(1, 2, AttemptOutcome::Lost("signal 9".into()), Vec::new());
    let sent = process.done().sent;
    assert!(!sent.iter().any(|message| matches!(message, FromEngine::SlotDown(_))), "{sent:?}");
    assert!(sent.iter().any(|message| matches!(message, FromEngine::Finished(_))));
}

#[test]
fn a_job_asks_and_is_answered_while_it_runs() {
    let mut process = Process::new(1);
    let attempt = process.assign(0, Python);
    process.done();
    let key = PassKey([7; 32]);
    asks(&mut process, 1, Ask::Pass(key));
    assert_eq!(process.done().sent, [FromEngine::Grant(Grant { attempt, key })]);
    process.tell(ToEngine::Granted(Granted { attempt, key, refusal: Some("no".into()) }));
    let rest = process.done().rest;
    assert!(
        matches!(&rest[..], [Output::Pass(0, SlotJob(1), _, Some(why))] if why == "no"),
        "{rest:?}"
    );
    process.finish(0, 1, 1);
    process.done();
    asks(&mut process, 1, Ask::Pass(key));
    process.tell(ToEngine::Granted(Granted { attempt, key, refusal: None }));
    let done = process.done();
    assert!(done.sent.is_empty() && done.rest.is_empty(), "it has ended");
}

#[test]
fn what_waits_is_said_again_on_the_next_connection() {
    let mut process = Process::new(1);
    let attempt = process.assign(0, Python);
    let sessions = vec![SessionId([9; 16])];
    let (key, lent) =
        (PassKey([7; 32]), FromEngine::Lent(Lent { attempt, sessions: sessions.clone() }));
    let grant = FromEngine::Grant(Grant { attempt, key });
    asks(&mut process, 1, Ask::Pass(key));
    process.core.handle_disconnected();
    process.done();
    asks(&mut process, 1, Ask::Waits(sessions));
    asks(&mut process, 1, Ask::Pass(PassKey([8; 32])));
    let done = process.done();
    assert!(done.sent.is_empty(), "{:?}", done.sent);
    assert!(
        matches!(&done.rest[..], [Output::Pass(.., Some(why))] if why.contains("not connected"))
    );
    process.connect(CREDIT);
    assert_eq!(process.done().sent, [grant, lent]);
    asks(&mut process, 1, Ask::GoesOn);
    asks(&mut process, 1, Ask::GoesOn);
    assert_eq!(process.done().sent, [FromEngine::Back(Attempts { attempts: vec![attempt] })]);
}

#[test]
fn a_broker_cannot_make_stand_ins_without_end() {
    let mut process = Process::new(1);
    let refused = (0..1000).find_map(|_| {
        let Packed::Inline(inline) = process.client.pack(call(b"small")).unwrap() else {
            panic!("it is small")
        };
        let (assign, _) = process.assignment(1, Native, None, Payload::Inline(inline));
        process.core.handle_message(ToEngine::Assign(assign), None).err()
    });
    assert_eq!(refused, Some(BrokerMisbehaved::Assign));
}
