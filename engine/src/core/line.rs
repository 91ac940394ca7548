//! The lines of slots: an assignment's jobs stand there in the broker's order, whenever their
//! arguments come.

use furlong_wire::AtLeastOne;
use furlong_wire::ids::{Attempt, SessionId};
use furlong_wire::message::{Assign, Runtime, Work as AssignedWork};

use super::{BrokerMisbehaved, Call, Core, Work};
use crate::job::SlotJob;

impl Core {
    /// Puts the jobs of an assignment in line, so that the order is the broker's whenever the
    /// arguments come.
    pub(super) fn line_up(
        &mut self,
        session: SessionId,
        assign: &Assign,
    ) -> Result<Call, BrokerMisbehaved> {
        let first = self.line_up_one(session, assign.runtime, &assign.work.first)?;
        let others =
            assign.work.others.iter().map(|part| self.line_up_one(session, assign.runtime, part));
        let others = others.collect::<Result<_, _>>()?;
        Ok(Call { jobs: AtLeastOne { first, others }, session, define: assign.define })
    }

    fn line_up_one(
        &mut self,
        session: SessionId,
        runtime: Runtime,
        part: &AssignedWork,
    ) -> Result<SlotJob, BrokerMisbehaved> {
        let slot = self.place_of(part.slot)?;
        self.arrivals.jobs += 1;
        let job = SlotJob(self.arrivals.jobs);
        let attempt = Attempt { start: self.start, id: part.attempt };
        let work = Work {
            attempt,
            session,
            n: part.n,
            slot,
            runtime,
            received_us: self.arrivals.now_us,
            ready: None,
            inputs: self.values.take_inputs(part.attempt),
            reported: false,
            cancelled: false,
            signalled: false,
            output: None,
            has_whole_output: false,
        };
        // As soon as it is named. Should its arguments not come whole before a cut, that is taken
        // back then.
        self.results.note_received(attempt);
        self.by_attempt.insert(attempt, job);
        let before = self.work.insert(job, work);
        assert!(before.is_none(), "job {job} is two attempts");
        self.slots[slot as usize].waiting.push_back(job);
        Ok(job)
    }
}
