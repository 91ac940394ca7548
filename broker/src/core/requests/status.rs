//! Answers to questions about the cluster.
//!
//! A long list is answered in pages, each of which costs its own length: a farm may have more
//! engines than a message can name.

use std::ops::Bound;

use furlong_wire::ids::EngineId;
use furlong_wire::limits::PAGE_BYTES_TARGET;
use furlong_wire::message::{
    ClusterStatus, EngineStatus, ProcessStatus, Query, Reply, ReplyBody, StatusPlace, ToClient,
    is_too_long,
};

use crate::core::engines::engine::Engine;
use crate::core::engines::process::Process;
use crate::core::keys::{AttemptId, ProcessKey};
use crate::core::{Connected, Core, Time};

/// About as many bytes as an engine's integer has on the wire.
const ID_BYTES: usize = 5;

/// Room on a page, by a rough count of bytes.
struct Page {
    bytes_left: usize,
}

/// What it costs to say of an engine how it is.
const WORK_PER_ENGINE: usize = 4;

impl Page {
    fn new() -> Self {
        Self { bytes_left: PAGE_BYTES_TARGET }
    }

    /// Takes items while there is room, and gives the last one's place if there are more.
    fn fill<T, P: Copy>(
        &mut self,
        items: impl Iterator<Item = (P, T)>,
        bytes_of: impl Fn(&T) -> usize,
    ) -> (Vec<T>, Option<P>) {
        let (mut taken, mut items, mut last) = (Vec::new(), items.peekable(), None);
        while self.bytes_left > 0
            && let Some((place, item)) = items.next()
        {
            self.bytes_left = self.bytes_left.saturating_sub(bytes_of(&item));
            last = Some(place);
            taken.push(item);
        }
        (taken, last.filter(|_| items.peek().is_some()))
    }

    fn is_full(&self) -> bool {
        self.bytes_left == 0
    }
}

/// An answer as it can be sent: one that no record could carry says so.
pub(in crate::core) fn that_fits(reply: Reply) -> ToClient {
    let reply = ToClient::Reply(reply);
    match reply {
        ToClient::Reply(Reply { request, .. }) if is_too_long(&reply) => {
            let text =
                "the answer is too long for one message; ask for less of it at once".to_owned();
            ToClient::Reply(Reply { request, body: ReplyBody::Refused(text) })
        }
        reply => reply,
    }
}

impl Core {
    /// Answers a query.
    pub(in crate::core) fn answer(
        &mut self,
        now: Time,
        key: crate::core::keys::SessionKey,
        query: &Query,
    ) -> ReplyBody {
        match query {
            Query::Engines => self.engines_after(None),
            Query::EnginesAfter(after) => self.engines_after(Some(*after)),
            Query::Tasks(query) => self.query_tasks(now, key, query),
            Query::Look(look) => self.look(now, key, look),
            Query::Inspect(_) => unreachable!("its engine answers it"),
            Query::Status => ReplyBody::Status(Box::new(self.status(now, None))),
            Query::StatusAfter(place) => {
                ReplyBody::Status(Box::new(self.status(now, Some(*place))))
            }
        }
    }

    fn engines_after(&self, after: Option<EngineId>) -> ReplyBody {
        let online = self.engines.online_after(after).map(|id| (id, id));
        let page = Page::new().fill(online, |_| ID_BYTES);
        self.turns.work.add(page.0.len());
        match page {
            (engines, None) => ReplyBody::Engines(engines),
            (engines, Some(_)) => ReplyBody::SomeEngines(engines),
        }
    }

    fn status(&self, now: Time, after: Option<StatusPlace>) -> ClusterStatus {
        let clients =
            self.peers.connections.values().filter(|it| matches!(it, Connected::Client(_))).count();
        let (processes, engines, more) = self.status_page(now, after);
        self.turns.work.add(self.peers.connections.len() + WORK_PER_ENGINE * engines.len());
        self.turns.work.add_bytes(processes.iter().map(process_bytes).sum());
        ClusterStatus {
            cluster_name: self.config.cluster_name.clone(),
            start: self.config.start,
            uptime_ms: now.0 / 1000,
            pid: self.config.pid,
            software: self.config.software.clone(),
            clients: clients as u64,
            tasks_waiting: self.schedule.placements.tasks_waiting(),
            tasks_held: self.waiting.held,
            tasks_assigned: self.attempts.len() as u64,
            results_held: self.tally.results_held,
            tasks_finished: self.tally.finished,
            payload_bytes: self.memory.budget.state(),
            processes,
            engines,
            more,
        }
    }

    /// First come the processes, then the engines.
    fn status_page(
        &self,
        now: Time,
        after: Option<StatusPlace>,
    ) -> (Vec<ProcessStatus>, Vec<EngineStatus>, Option<StatusPlace>) {
        let mut page = Page::new();
        let (mut processes, mut engine) = (Vec::new(), None);
        match after {
            Some(StatusPlace::Engine(after)) => engine = Some(after),
            Some(StatusPlace::Process(_)) | None => {
                let from = match after {
                    Some(StatusPlace::Process(after)) => Bound::Excluded(ProcessKey(after)),
                    _ => Bound::Unbounded,
                };
                let registered = self.processes.range((from, Bound::Unbounded));
                let status = |(key, process): (&ProcessKey, &Process)| {
                    Some((key.0, process_status(now, process)?))
                };
                let next;
                (processes, next) = page.fill(registered.filter_map(status), process_bytes);
                if let Some(next) = next {
                    return (processes, Vec::new(), Some(StatusPlace::Process(next)));
                }
            }
        }
        // A page without room for an engine still says where to go on: after none of them.
        if page.is_full() && !processes.is_empty() {
            let last = self.processes.last_key_value().map(|(key, _)| StatusPlace::Process(key.0));
            return (processes, Vec::new(), last);
        }
        let engines =
            self.engines.iter_after(engine).map(|(id, it)| (id, self.engine_status(now, id, it)));
        let (engines, next) = page.fill(engines, engine_bytes);
        (processes, engines, next.map(StatusPlace::Engine))
    }

    fn engine_status(&self, now: Time, id: EngineId, engine: &Engine) -> EngineStatus {
        EngineStatus {
            id,
            uuid: engine.uuid,
            online: engine.process.is_some(),
            tasks_assigned: engine.work.assigned.len() as u64,
            tasks_queued: engine.queue.len() as u64,
            tasks_finished: engine.finished,
            busy_us: engine.busy_us,
            set_aside: self.schedule.set_aside.of(now, id),
            stuck: engine.work.assigned.iter().filter(|attempt| self.is_stuck(**attempt)).count()
                as u64,
        }
    }

    /// Returns true if an engine still has an attempt whose task has ended.
    pub(in crate::core) fn is_stuck(&self, count: AttemptId) -> bool {
        self.attempts.get(count).is_some_and(|given| self.tasks.get(given.task).is_none())
    }
}

/// Returns the status a process has reported; none before it has.
fn process_status(now: Time, process: &Process) -> Option<ProcessStatus> {
    let register = process.register.as_ref()?;
    Some(ProcessStatus {
        host: register.host.clone(),
        pid: register.pid,
        cwd: register.cwd.clone(),
        software: process.software.clone(),
        runtimes: register.runtimes.clone(),
        python: register.python.clone(),
        environment: register.environment.clone(),
        leaving: process.leaving,
        labels: register.labels.clone(),
        address: process.address.clone(),
        engines: process.engines.clone(),
        job: register.job.clone(),
        ends_in_ms: process.ends.map(|ends| ends.micros_since(now) / 1000),
    })
}

/// About how many bytes a process has on the wire.
fn process_bytes(process: &ProcessStatus) -> usize {
    let texts = [&process.host, &process.cwd, &process.software, &process.address];
    let texts = texts.into_iter().chain(&process.python).chain(&process.labels);
    let texts = texts.chain(&process.job);
    let variables = process.environment.iter().map(|(name, value)| name.len() + value.len() + 7);
    let texts: usize = texts.map(|text| text.len() + 3).chain(variables).sum();
    40 + texts + ID_BYTES * process.engines.len()
}

/// About how many bytes an engine has on the wire.
fn engine_bytes(engine: &EngineStatus) -> usize {
    50 + engine.set_aside.iter().map(|aside| 20 + aside.cause.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_something_and_says_whether_there_is_more() {
        let items = |count: usize| (0..count).map(|item| (item, item));
        let fill = |count, bytes: usize| Page::new().fill(items(count), |_| bytes);
        assert_eq!(fill(3, 1), (vec![0, 1, 2], None));
        assert_eq!(fill(0, 1), (vec![], None));
        assert_eq!(fill(3, PAGE_BYTES_TARGET), (vec![0], Some(0)));
        assert_eq!(fill(3, PAGE_BYTES_TARGET / 2), (vec![0, 1], Some(1)));
        assert_eq!(fill(2, PAGE_BYTES_TARGET / 2), (vec![0, 1], None));
    }

    #[test]
    fn an_answer_that_no_record_could_carry_says_so() {
        let reply = |engines| Reply {
            request: 7,
            body: ReplyBody::Engines(vec![EngineId(1 << 20); engines]),
        };
        assert_eq!(that_fits(reply(10)), ToClient::Reply(reply(10)));
        let ToClient::Reply(refused) = that_fits(reply(200_000)) else { panic!("no reply") };
        assert!(
            matches!(refused, Reply { request: 7, body: ReplyBody::Refused(_) }),
            "{refused:?}"
        );
    }
}
