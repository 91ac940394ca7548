//! The schedule: which task goes to which engine next, and what holds it up.

pub(in crate::core) mod aside;
pub(in crate::core) mod circles;
pub(in crate::core) mod dispatch;
pub(in crate::core) mod lending;
pub(in crate::core) mod placement;
pub(in crate::core) mod prefetch;
pub(in crate::core) mod queues;
pub(in crate::core) mod recall;
pub(in crate::core) mod sweep;
pub(in crate::core) mod time_left;

use std::collections::BTreeSet;

use furlong_wire::ids::EngineId;

use aside::AllSetAside;
use placement::Placements;

use crate::core::time::Time;

/// Who is next, and when that is looked at again.
#[derive(Debug, Default)]
pub(in crate::core) struct Schedule {
    /// The demands that tasks make on their engines, and the shared queues.
    pub(in crate::core) placements: Placements,
    /// The work that engines could not begin lately.
    pub(in crate::core) set_aside: AllSetAside,
    /// Shared tasks that were given to engines so far: the clock of the sessions' turns.
    pub(in crate::core) shared_given: u64,
    /// Engines whose own queue may have something for them.
    pub(in crate::core) direct_ready: BTreeSet<EngineId>,
    /// The time of the next check if an idle engine could take over what a busy one was given too
    /// early.
    pub(in crate::core) recall_at: Option<Time>,
    /// The time of the last such check.
    pub(in crate::core) recall_looked_at: Option<Time>,
    /// The time of the next check of tasks that wait for each other.
    pub(in crate::core) circles_at: Option<Time>,
    /// The time at which to go on assigning tasks: engines can take more than a turn gives.
    pub(in crate::core) dispatch_at: Option<Time>,
}
