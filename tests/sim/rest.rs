//! The end of each history: nothing breaks any longer, everybody comes back, everything ends, and
//! nothing is left.

use furlong_broker::core::invariants as of_broker;
use furlong_tests::history::Invariant;
use furlong_wire::message::Runtime;

use crate::client::Handle;
use crate::plan::{LABELS, ProcessSpec};
use crate::process::Link;
use crate::world::{Event, World};

/// The time limit for that: pauses between attempts are up to a minute, a session is kept for ten,
/// and a chain of dependencies has many links.
const ENDING_US: u64 = 6 * 3_600_000_000;
/// Results are kept for an hour, and sessions without a client for ten minutes.
const KEPT_US: u64 = 4_300_000_000;
/// Steps within which something has to end: as many as a long history. On a line that carries a few
/// bytes at a time, a large payload takes a good part of them.
const STEPS_MAX: u64 = 400_000;

impl World {
    pub fn comes_to_rest(&mut self) {
        self.note(|_| "-- nothing breaks any longer".to_owned());
        self.rests = true;
        // Whatever a task demands, there is one engine that meets it.
        let spec =
            ProcessSpec { slots: 2, runtimes: Runtime::ALL.to_vec(), labels: LABELS.to_vec() };
        self.setup.processes.push(spec);
        self.after(0, Event::ProcessComes(self.setup.processes.len() - 1));
        // A task that nobody reads may have been on its way, over a slow line.
        let mut was_all = false;
        while self.violation.is_none() && !was_all {
            self.goes_on_until("everything has ended", ENDING_US, Self::everything_has_ended);
            self.goes_on_for(61_000_000);
            was_all = self.everything_has_ended();
        }
        if self.violation.is_some() {
            return;
        }
        self.scan();
        if let Some(core) = &self.broker.core {
            of_broker::nothing_is_owed(core);
        }
        (0..self.clients.len()).for_each(|place| self.client_closes(place));
        self.goes_on_until("everybody has left", ENDING_US, |world| {
            world.clients.iter().all(|it| !it.is_alive)
        });
        self.goes_on_for(KEPT_US);
        if self.violation.is_none() {
            self.quiet_at_the_end();
        }
    }

    fn goes_on_until(&mut self, what: &str, limit_us: u64, is_so: impl Fn(&Self) -> bool) {
        let until = self.now + limit_us;
        let (mut left, mut steps) = (usize::MAX, self.steps + STEPS_MAX);
        while self.violation.is_none() && !is_so(self) {
            if self.unfinished() < left {
                (left, steps) = (self.unfinished(), self.steps + STEPS_MAX);
            }
            if self.now > until || self.steps > steps {
                let text = format!("{what}: that never comes; {}", self.who_waits());
                return self.violated(Invariant::NothingAcknowledgedIsLost, None, text);
            }
            // A look at everybody costs more than a step.
            for _ in (0..50).filter(|_| self.violation.is_none()).collect::<Vec<_>>() {
                self.step();
            }
        }
    }

    fn goes_on_for(&mut self, us: u64) {
        let until = self.now + us;
        while self.violation.is_none() && self.next_at().is_some_and(|at| at <= until) {
            self.step();
        }
    }

    /// The number of tasks of the broker, and of clients that are here.
    fn unfinished(&self) -> usize {
        let clients = self.clients.iter().filter(|client| client.is_alive);
        let waiting = clients.map(|it| 1 + it.handles.values().filter(|it| waits(it)).count());
        self.broker.core.as_ref().map_or(0, of_broker::tasks) + waiting.sum::<usize>()
    }

    fn everything_has_ended(&self) -> bool {
        let is_here = |link: Link| matches!(link, Link::Up(_));
        self.broker.core.as_ref().is_some_and(|core| of_broker::tasks(core) == 0)
            && self.processes.iter().all(|process| !process.is_alive || is_here(process.link))
            && self.clients.iter().all(|client| !client.is_alive || is_here(client.link))
            && self
                .clients
                .iter()
                .all(|client| !client.is_alive || !client.handles.values().any(waits))
            && self.history.is_over()
    }

    fn who_waits(&self) -> String {
        let clients = self.clients.iter().enumerate().filter(|(_, client)| client.is_alive);
        let waiting = clients.flat_map(|(place, client)| {
            client
                .handles
                .values()
                .filter(|handle| waits(handle))
                .map(move |handle| format!("client {place}: {handle:?}"))
        });
        let waiting: Vec<String> = waiting.take(5).collect();
        let links: Vec<_> =
            self.processes.iter().filter(|it| it.is_alive).map(|process| process.link).collect();
        let tasks = self.broker.core.as_ref().map(of_broker::tasks);
        let open = self.history.open_task();
        format!("{waiting:#?}, {links:?}; tasks of the broker: {tasks:?}, never ended: {open:?}")
    }
}

fn waits(handle: &Handle) -> bool {
    matches!(handle, Handle::Submit(..) | Handle::Task(..) | Handle::Request(..))
}
