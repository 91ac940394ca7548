//! Helpers of the tests of several parts.

use furlong_wire::ids::{EngineId, OwnerId, SessionId, TaskId, TaskSeq};
use furlong_wire::message::{PhaseTimes, RunTimes, TaskState};

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
