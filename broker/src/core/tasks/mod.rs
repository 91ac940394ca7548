//! Tasks: their table, and what happens to each from its submit to its end.

pub(in crate::core) mod deadlines;
pub(in crate::core) mod dependencies;
pub(in crate::core) mod end;
pub(in crate::core) mod ended;
pub(in crate::core) mod extras;
pub(in crate::core) mod finish;
pub(in crate::core) mod retained;
pub(in crate::core) mod submit;
pub(in crate::core) mod table;
pub(in crate::core) mod turned_away;
pub(in crate::core) mod waits;

use deadlines::Deadlines;
use dependencies::Dependents;
use end::DependencyEnd;
use furlong_wire::ids::TaskSeq;
use table::State;

use crate::core::Config;
use crate::core::sessions::table::Session;
use crate::core::watch::Watch;

/// Tasks that wait for something else than an engine.
#[derive(Debug, Default)]
pub(in crate::core) struct Waiting {
    /// How many wait for other tasks, or for a pause between two attempts.
    pub(in crate::core) held: u64,
    /// Who waits for whom.
    pub(in crate::core) dependents: Dependents,
    /// What is due for whom.
    pub(in crate::core) deadlines: Deadlines,
}

/// Sums over all sessions.
#[derive(Debug, Default)]
pub(in crate::core) struct Tally {
    /// Tasks that have ended.
    pub(in crate::core) finished: u64,
    /// Ended tasks that clients have not acknowledged.
    pub(in crate::core) results_held: u64,
    /// Ends that sessions remember, all together.
    pub(in crate::core) ends_remembered: usize,
    /// Sweeps of engines' queues so far.
    pub(in crate::core) sweeps_made: u64,
    /// What is counted for those who look.
    pub(in crate::core) watch: Watch,
}

impl Waiting {
    /// A task leaves this state, in which it was counted if it waited.
    pub(in crate::core) fn leave(&mut self, state: State) {
        let waits = u64::from(matches!(state, State::Waiting | State::Pausing));
        assert!(waits <= self.held, "a task waits that was not counted");
        self.held -= waits;
    }
}

impl Tally {
    /// A session remembers how a task ended.
    pub(in crate::core) fn remember_end(
        &mut self,
        session: &mut Session,
        n: TaskSeq,
        ending: DependencyEnd,
        config: &Config,
    ) {
        let more = session.remember(n, ending, config.ends_remembered_max(self.ends_remembered));
        self.ends_remembered = self.ends_remembered.saturating_add_signed(more);
    }

    /// Ended tasks are not held for their sessions any longer.
    pub(in crate::core) fn let_go(&mut self, results: u64) {
        assert!(results <= self.results_held, "{results} of {} are let go", self.results_held);
        self.results_held -= results;
    }

    /// A session remembers no ends any longer.
    pub(in crate::core) fn forget_ends(&mut self, ends: usize) {
        assert!(ends <= self.ends_remembered, "{ends} of {} are forgotten", self.ends_remembered);
        self.ends_remembered -= ends;
    }
}
