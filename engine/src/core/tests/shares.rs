//! Payloads that several slots' work has in common.

use furlong_wire::message::{Share, Unshare};

use super::*;

impl Process {
    /// Announces a shared payload of 5000 bytes. Its chunk is still to come.
    fn share(&mut self, share: u64) -> (u64, Bytes) {
        let (payload, transfer, chunk) = self.large(call(&[7; 5_000]));
        self.tell(ToEngine::Share(Share { share, session: SESSION, payload }));
        (transfer, chunk)
    }

    /// Work for these slots, with a shared payload.
    fn shared_work(&mut self, share: u64, slots: &[SlotIndex]) -> Assign {
        let (mut assign, _) =
            self.assignment(slots[0], Native, None, Payload::Inline(InlineBytes::new()));
        assign.share = Some(share);
        for &slot in &slots[1..] {
            self.attempts += 1;
            assign.work.push(AssignedWork {
                slot,
                n: TaskSeq(self.attempts),
                attempt: AttemptId(self.attempts),
            });
        }
        assign
    }

    fn unshare(&mut self, share: u64) -> Result<(), BrokerMisbehaved> {
        self.core.handle_message(ToEngine::Unshare(Unshare { share }), None)
    }
}

#[test]
fn a_shared_payload_is_opened_once_for_all_that_name_it_before_or_after_it_came() {
    let mut process = Process::new(4);
    let (transfer, chunk) = process.share(9);
    let early = process.shared_work(9, &[0, 1]);
    process.tell(ToEngine::Assign(early));
    process.assign(0, Native);
    process.assign(3, Native);
    assert_eq!(
        process.done().jobs(),
        [(3, Native, 4)],
        "work waits in its line for it, and nobody else"
    );
    process.chunk(transfer, &chunk).unwrap();
    let late = process.shared_work(9, &[2, 3]);
    process.tell(ToEngine::Assign(late));
    process.unshare(9).unwrap();
    let started = process.done().started;
    let slots: Vec<_> = started.iter().map(|(slot, _, job)| (*slot, job.attempt.0)).collect();
    assert_eq!(slots, [(0, 1), (0, 3), (1, 2), (2, 5), (3, 6)]);
    let shared: Vec<_> = started.iter().filter(|(_, _, job)| job.attempt != SlotJob(3)).collect();
    let first = &shared[0].2.data[0];
    assert_eq!(first, &vec![7; 5_000]);
    assert!(
        shared.iter().all(|(_, _, job)| job.data[0].as_ptr() == first.as_ptr()),
        "the same bytes in memory"
    );
    assert!(process.core.shares.is_empty());
}

#[test]
fn it_may_be_given_up_right_after_the_last_assignment() {
    let mut process = Process::new(2);
    let (transfer, chunk) = process.share(1);
    let assign = process.shared_work(1, &[0, 1]);
    process.tell(ToEngine::Assign(assign));
    process.unshare(1).unwrap();
    let late = process.shared_work(1, &[0]);
    assert_eq!(
        process.core.handle_message(ToEngine::Assign(late), None),
        Err(BrokerMisbehaved::Share)
    );
    process.chunk(transfer, &chunk).unwrap();
    assert_eq!(process.done().started.len(), 2);
    assert!(process.core.shares.is_empty());
    assert_eq!(process.unshare(1), Err(BrokerMisbehaved::Share));
}

#[test]
fn small_ones_are_shared_too_and_forged_ones_fail_all_that_name_them() {
    let mut process = Process::new(2);
    let Packed::Inline(inline) = process.client.pack(call(b"small")).unwrap() else {
        panic!("it is small")
    };
    process.tell(ToEngine::Share(Share {
        share: 1,
        session: SESSION,
        payload: Payload::Inline(inline),
    }));
    let assign = process.shared_work(1, &[0, 1]);
    process.tell(ToEngine::Assign(assign));
    assert!(process.done().started.iter().all(|(_, _, job)| job.data == [&b"small"[..]]));
    let (transfer, chunk) = process.share(2);
    let before = process.shared_work(2, &[0]);
    process.tell(ToEngine::Assign(before));
    let mut chunk = chunk.to_vec();
    chunk[9] ^= 1;
    process.chunk(transfer, &chunk).unwrap();
    let after = process.shared_work(2, &[1]);
    process.tell(ToEngine::Assign(after));
    assert_eq!(process.done().finished().len(), 2);
}

#[test]
fn shares_that_are_unknown_repeated_or_anothers_are_the_brokers_misbehaviour() {
    let mut process = Process::new(1);
    let unknown = process.shared_work(1, &[0]);
    assert_eq!(
        process.core.handle_message(ToEngine::Assign(unknown), None),
        Err(BrokerMisbehaved::Share)
    );
    let share = |session| {
        let payload = Payload::Inline(b"\0".into());
        ToEngine::Share(Share { share: 1, session, payload })
    };
    let outsider = SessionId([9; 16]);
    assert_eq!(process.core.handle_message(share(outsider), None), Err(BrokerMisbehaved::Share));
    process.tell(share(SESSION));
    assert_eq!(process.core.handle_message(share(SESSION), None), Err(BrokerMisbehaved::Share));
    process.tell(ToEngine::Secret(Secret { session: outsider, ..told() }));
    let anothers = Assign { session: Some(outsider), ..process.shared_work(1, &[0]) };
    assert_eq!(
        process.core.handle_message(ToEngine::Assign(anothers), None),
        Err(BrokerMisbehaved::Share)
    );
    assert!(process.core.held().work.is_empty());
}

#[test]
fn a_cut_forgets_what_waits_for_a_shared_payload() {
    let mut process = Process::new(1);
    process.share(1);
    let assign = process.shared_work(1, &[0]);
    process.tell(ToEngine::Assign(assign));
    process.assign(0, Native);
    process.core.handle_disconnected();
    assert!(process.done().started.is_empty(), "what is behind it does not begin before it");
    assert!(process.core.held().work.is_empty());
    process.connect(CREDIT);
    process.share(1);
}
