//! What the tests of several parts need, and those of the sums over owners.

use furlong_wire::ids::{EngineId, OwnerId, SessionId, TaskId, TaskSeq};
use furlong_wire::message::{PhaseTimes, RunTimes, TaskState};

use super::Watch;
use super::ends::EndRecord;
use super::kinds::KindId;

pub(super) const OWNER: OwnerId = OwnerId([1; 16]);

/// The end of a task that has run for so long.
pub(super) fn end_after(kind: KindId, run_us: u64) -> EndRecord {
    let phases = PhaseTimes { run: RunTimes::ran(run_us), ..PhaseTimes::default() };
    EndRecord {
        task: TaskId { session: SessionId([1; 16]), n: TaskSeq(1) },
        owner: OWNER,
        kind,
        engine: Some(EngineId(0)),
        has_run: true,
        state: TaskState::Succeeded,
        error: None,
        attempts: 1,
        at_us: 0,
        phases,
        request_bytes: 0,
        result_bytes: 0,
    }
}

#[test]
fn owners_beyond_the_bound_are_counted_together() {
    let mut watch = Watch::default();
    for n in 1..=300_u16 {
        let mut owner = OwnerId::default();
        owner.0[..2].copy_from_slice(&n.to_le_bytes());
        (0..2).for_each(|_| watch.submitted(KindId::OTHER, owner, 1));
    }
    watch.hold(600);
    assert_eq!(watch.owners.len(), 256 + 1);
    assert_eq!(watch.owners[&OwnerId::default()].submitted, 2 * 44);
}
