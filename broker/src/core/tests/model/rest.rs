//! The end of each history.

use std::time::Duration;

use furlong_wire::message::Runtime;

use crate::core::tests::model::events::End;
use crate::core::tests::model::{CLIENTS, Model, PROCESSES, invariants};

/// Pauses between attempts are up to a minute, and an engine is given up after less.
const PAUSE: Duration = Duration::from_secs(61);
/// Rounds of work and pauses that the longest chain of retries and dependencies may need.
const ROUNDS_MAX: usize = 500;

impl Model {
    /// Everybody comes back, engines do all that they have, clients acknowledge and leave.
    pub fn comes_to_rest(mut self) {
        for process in 0..PROCESSES {
            if self.processes[process].drains {
                self.engine_leaves(process);
                self.check(false);
            }
            if !self.engine_is_here(process) {
                self.engine_connects(process);
            }
        }
        for client in 0..CLIENTS {
            if !self.client_is_here(client) {
                self.client_connects(client);
            }
            while self.farm.send_chunk(client) {}
        }
        self.check(false);
        let mut rounds = 0;
        while self.farm.core.tasks.len() > 0 || self.is_busy() {
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "somebody waits for ever: {:#?}", self.farm.core.tasks);
            if self.is_busy() {
                self.work();
            } else {
                self.farm.wait(PAUSE);
            }
            self.check(false);
            // Results may wait until others have been read.
            (0..CLIENTS).for_each(|client| self.reads(client));
            self.check(false);
        }
        self.farm.wait(PAUSE);
        self.check(false);
        self.nothing_is_owed();
        (0..CLIENTS).for_each(|client| self.takes_leave(client));
        // What was kept goes after an hour, and the sessions of those who never came back before
        // that.
        self.farm.wait(Duration::from_secs(3_600));
        invariants::is_quiet(&self.farm.core);
    }

    fn is_busy(&self) -> bool {
        let restarts = self.processes.iter().any(|process| !process.restarts.is_empty());
        restarts
            || self
                .farm
                .processes
                .iter()
                .any(|it| !(it.jobs.is_empty() && it.sending.chunks.is_empty()))
    }

    fn work(&mut self) {
        let end = End { fails: false, run_us: 1, payload_bytes: 0 };
        for process in 0..PROCESSES {
            for slot in std::mem::take(&mut self.processes[process].restarts) {
                if self.farm.processes[process].runtimes.contains(&Runtime::Python) {
                    self.interpreter_dies(process, slot as usize);
                } else {
                    self.farm.slot_down(process, slot);
                }
            }
            self.gives_back(process);
            (0..2).for_each(|slot| self.finishes(process, slot, &end));
            while self.farm.send_result_chunk(process) {}
        }
    }

    /// A client acknowledges what it has.
    fn reads(&mut self, client: usize) {
        self.hears(client);
        let it = &self.farm.clients[client];
        let (session, ended): (_, Vec<u64>) = (it.session, it.finished.keys().copied().collect());
        for n in ended {
            if let std::collections::btree_map::Entry::Vacant(entry) =
                self.acknowledged.entry((session, n))
            {
                entry.insert(self.farm.now);
                self.farm.ack(client, n, n);
            }
        }
    }

    /// Nothing is on its way: everybody may send as much as at the beginning, and every question is
    /// answered.
    fn nothing_is_owed(&self) {
        invariants::nothing_is_owed(&self.farm.core);
        assert!(self.clients.iter().all(|client| client.asked.is_empty()));
    }

    fn takes_leave(&mut self, client: usize) {
        let it = &self.farm.clients[client];
        assert!((1..=it.submitted).all(|n| it.finished.contains_key(&n)), "every task has ended");
        let (session, submitted) = (it.session, it.submitted);
        if submitted > 0 {
            self.farm.ack(client, 1, submitted);
        }
        for n in 1..=submitted {
            self.acknowledged.entry((session, n)).or_insert(self.farm.now);
        }
        self.check(false);
        self.farm.goodbye(client);
    }
}
