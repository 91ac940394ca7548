//! Answers to questions about the cluster.

use furlong_wire::message::{ClusterStatus, EngineStatus, ProcessStatus, Query, ReplyBody};

use super::{Connected, Core, Time};

impl Core {
    /// Answers a query.
    pub(super) fn answer(&self, now: Time, key: super::SessionKey, query: &Query) -> ReplyBody {
        match query {
            Query::Engines => ReplyBody::Engines(self.engines.online()),
            Query::Tasks(query) => self.query_tasks(now, key, query),
            Query::Status => ReplyBody::Status(Box::new(self.status(now))),
        }
    }

    fn status(&self, now: Time) -> ClusterStatus {
        let clients = self.connections.values().filter(|it| matches!(it, Connected::Client(_))).count();
        ClusterStatus {
            cluster_name: self.config.cluster_name.clone(),
            start: self.config.start,
            uptime_ms: now.0 / 1000,
            pid: self.config.pid,
            software: self.config.software.clone(),
            clients: clients as u64,
            tasks_waiting: self.placements.tasks_waiting(),
            tasks_held: self.held,
            tasks_assigned: self.attempts.len() as u64,
            results_held: self.results_held,
            tasks_finished: self.finished,
            payload_bytes: self.budget.state(),
            processes: self.process_statuses(),
            engines: self.engine_statuses(now),
        }
    }

    fn process_statuses(&self) -> Vec<ProcessStatus> {
        let registered = self.processes.values().filter_map(|process| Some((process, process.register.as_ref()?)));
        registered
            .map(|(process, register)| ProcessStatus {
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
            })
            .collect()
    }

    fn engine_statuses(&self, now: Time) -> Vec<EngineStatus> {
        self.engines
            .iter()
            .map(|(id, engine)| EngineStatus {
                id,
                uuid: engine.uuid,
                online: engine.process.is_some(),
                tasks_assigned: engine.assigned.len() as u64,
                tasks_queued: engine.queue.len() as u64,
                tasks_finished: engine.finished,
                busy_us: engine.busy_us,
                set_aside: self.set_aside.of(now, id),
                stuck: engine.assigned.iter().filter(|count| self.is_stuck(**count)).count() as u64,
            })
            .collect()
    }

    /// Whether an engine still has an attempt whose task has ended.
    pub(super) fn is_stuck(&self, count: u64) -> bool {
        self.attempts.get(count).is_some_and(|given| self.tasks.get(given.task).is_none())
    }
}
