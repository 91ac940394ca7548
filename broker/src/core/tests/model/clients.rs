//! The clients' actions.

use furlong_wire::ids::{EngineId, OwnerId, SessionId, TaskId, TaskSeq};
use furlong_wire::message::{
    Cancel as CancelMessage, CancelTasks, Define, Dependency, Fetch, FromClient, Payload, Purge,
    ReplyBody, Restart, Submit, TaskOptions, TaskRange,
};

use crate::core::sessions::table::Session;
use crate::core::tests::model::events::{Cancel, Choice, Demand, Group, Task, UNKNOWN};
use crate::core::tests::model::{
    Asked, Heard, Model, NO_ENGINE, Name, Submitted, direct, shared, with,
};

/// The definitions that every session has: one that comes inline, one in a chunk. Of a third
/// nothing ever comes.
const DEFINITIONS: [u32; 2] = [1, 2];

impl Model {
    /// Resumes the session if the broker still has it, else begins another one.
    pub fn client_connects(&mut self, client: usize) {
        let is_over = match self.session(self.farm.clients[client].session) {
            Some(session) => session.departure.departed,
            None => self.farm.clients[client].submitted > 0,
        };
        self.hears(client);
        self.clients[client].asked.clear();
        if is_over {
            self.begin_session(client);
        }
        self.clients[client].delivered.clear();
        let session = self.farm.clients[client].session;
        self.stopped.retain(|(of, _)| *of != session);
        if self.farm.connect_client(client).unwrap() {
            return;
        }
        let [inline, chunked] = DEFINITIONS;
        let define = Define { number: inline, payload: Payload::Inline(vec![1].into()) };
        self.farm.say(client, FromClient::Define(define)).unwrap();
        let payload = self.farm.clients[client].sending.chunked(2_000);
        self.farm.say(client, FromClient::Define(Define { number: chunked, payload })).unwrap();
    }

    pub fn client_disconnects(&mut self, client: usize) {
        self.farm.disconnect_client(client);
        self.hears(client);
        self.clients[client].asked.clear();
        let it = &self.farm.clients[client];
        let goes_on = self.session(it.session).is_some_and(|session| !session.departure.departed);
        assert_eq!(goes_on, !it.cancel_on_disconnect, "the session of client {client} goes on");
    }

    pub fn client_leaves(&mut self, client: usize) {
        self.farm.goodbye(client);
        self.begin_session(client);
    }

    /// Everything that the session has is cancelled. The client comes back with another token.
    pub fn client_is_revoked(&mut self, client: usize) {
        let (session, token) = (self.farm.clients[client].session, self.farm.clients[client].token);
        self.cancelled.extend(self.unfinished(session));
        self.revokes(token);
        assert!(!self.client_is_here(client), "who is revoked is closed");
        assert!(self.session(session).is_none(), "and its session is gone with all that it has");
        self.begin_session(client);
        self.farm.clients[client].token = self.farm.fresh_id();
    }

    fn begin_session(&mut self, client: usize) {
        self.hears(client);
        let messages = self.clients[client].messages;
        self.clients[client] = Heard { messages, ..Heard::default() };
        let id = self.farm.fresh_id();
        let client = &mut self.farm.clients[client];
        (client.session, client.submitted) = (SessionId([id; 16]), 0);
        client.finished.clear();
    }

    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.farm.core.sessions.iter().map(|(_, session)| session).find(|session| session.id == id)
    }

    pub fn is_unfinished(&self, (session, n): Name) -> bool {
        self.session(session).is_some_and(|session| session.ledger.tasks.contains(TaskSeq(n)))
    }

    fn unfinished(&self, id: SessionId) -> Vec<Name> {
        self.session(id).map_or_else(Vec::new, |session| {
            session.ledger.tasks.iter().map(|(n, _)| (id, n.0)).collect()
        })
    }

    fn owner(&self, client: usize) -> OwnerId {
        OwnerId([self.farm.clients[client].owner; 16])
    }

    pub fn submits(&mut self, client: usize, task: &Task) {
        let it = &self.farm.clients[client];
        let (id, n) = (it.session, it.submitted + 1);
        let session = self.session(id).expect("a connected client has a session");
        let counted = (session.ledger.tasks.len() + session.ledger.done.len()) as u64
            + session.ledger.refused.unread();
        let room = session.ledger.tasks_max.saturating_sub(counted);
        let targets: Vec<EngineId> = task.targets.iter().map(|place| self.engine(*place)).collect();
        let count = targets.len().max(1) as u64;
        if room < count {
            return;
        }
        let options = self.options(client, task);
        let stray = |demand: &Dependency| !self.may_depend(client, n, demand.task);
        let is_stray = options.after.iter().chain(&options.follow).any(stray);
        for (place, n) in (n..n + count).enumerate() {
            let (owner, scopes) = (self.owner(client), self.farm.clients[client].scopes.clone());
            let target = targets.get(place).copied();
            let (runtime, options, at) = (task.runtime, options.clone(), self.farm.now);
            let submitted = Submitted { owner, scopes, runtime, target, options, at, is_stray };
            self.tasks.insert((id, n), submitted);
        }
        let contradicts =
            options.error_retries > 0 && (options.at_most_once || !targets.is_empty());
        let submit = with(if targets.is_empty() { shared() } else { direct(&targets) }, options);
        let sending = &mut self.farm.clients[client].sending;
        let chunked = task.payload_bytes > 0 && sending.may_announce(task.payload_bytes);
        let payload =
            if chunked { sending.chunked(task.payload_bytes) } else { submit.payload.clone() };
        let (runtime, class, define) = (task.runtime, task.class, task.define);
        self.farm.submit(client, Submit { runtime, class, define, payload, ..submit });
        if is_stray || contradicts {
            assert!(
                (n..n + count).all(|n| !self.is_unfinished((id, n))),
                "task {n} can never run, and is refused"
            );
        }
    }

    /// An engine that is or was there, or one that nobody knows.
    fn engine(&self, place: usize) -> EngineId {
        let known: Vec<EngineId> =
            self.farm.processes.iter().flat_map(|process| process.ids.iter().copied()).collect();
        if place == UNKNOWN { NO_ENGINE } else { known[place % known.len()] }
    }

    fn options(&self, client: usize, task: &Task) -> TaskOptions {
        let demands = |group: &Group| {
            let demand = |demand: &Demand| {
                let of = &self.farm.clients[demand.of.unwrap_or(client)];
                // A session's first tasks have nobody to wait for.
                let n = (of.submitted + 2).checked_sub(demand.back).filter(|n| *n > 0)?;
                let task = TaskId { session: of.session, n: TaskSeq(n) };
                Some(Dependency { task, success: demand.success, failure: demand.failure })
            };
            group.demands.iter().filter_map(demand).collect()
        };
        TaskOptions {
            label: None,
            priority: task.priority,
            retries: task.retries.losses,
            error_retries: task.retries.errors,
            backoff_ms: task.retries.backoff_ms,
            at_most_once: task.flags.at_most_once,
            queue_timeout_ms: task.limits.queue_ms,
            run_timeout_ms: task.limits.run_ms,
            after: demands(&task.after),
            after_any: task.after.any,
            follow: demands(&task.follow),
            follow_any: task.follow.any,
            require: task.require.iter().map(|label| (*label).to_owned()).collect(),
            keep: task.flags.keep,
            abort_on_error: task.flags.abort_on_error,
            restart_safe: task.flags.restart_safe,
            durable: false,
            repeated: false,
            inputs: Vec::new(),
            stay: false,
            time_request_ms: None,
        }
    }

    /// Returns true if a client's task `n` can depend on another: that was submitted earlier, by
    /// the same owner, and is not forgotten.
    fn may_depend(&self, client: usize, n: u64, other: TaskId) -> bool {
        let owner = self.owner(client);
        let of_owner =
            self.tasks.get(&(other.session, other.n.0)).is_some_and(|task| task.owner == owner);
        let before = other.session != self.farm.clients[client].session || other.n < TaskSeq(n);
        of_owner
            && before
            && (self.session(other.session).is_some()
                || self.farm.core.kept.find(owner, other).is_some())
    }

    /// The tasks that are meant: of which session, and the first and last one.
    fn range(&self, tasks: Choice) -> TaskRange {
        let of = &self.farm.clients[tasks.of];
        let first = of.submitted + 1 - tasks.back % (of.submitted + 2);
        TaskRange { session: of.session, first: TaskSeq(first), last: TaskSeq(first + tasks.more) }
    }

    pub fn cancels(&mut self, client: usize, tasks: Choice, how: Cancel) {
        let range = self.range(tasks);
        let force = how.force;
        for _ in 0..=usize::from(how.twice) {
            if tasks.of == client {
                let ranges = vec![(range.first, range.last)];
                self.note_cancelled(&range);
                self.farm.say(client, FromClient::Cancel(CancelMessage { ranges, force })).unwrap();
            } else {
                self.cancels_of_others(client, tasks.of, &range, force);
            }
        }
    }

    fn cancels_of_others(&mut self, client: usize, of: usize, range: &TaskRange, force: bool) {
        let may = self.owner(client) == self.owner(of);
        let session = self.session(range.session);
        let unfinished = session
            .map_or(0, |session| session.ledger.tasks.range(range.first, range.last).count());
        if may {
            self.note_cancelled(range);
        }
        let tasks = vec![range.clone()];
        let request = self.asks(client, Asked::Nothing, |request| {
            FromClient::CancelTasks(CancelTasks { request, tasks, force })
        });
        let Some(ReplyBody::Cancelled(cancelled, _)) = self.farm.reply(client, request) else {
            panic!("a cancel is answered at once")
        };
        assert_eq!(
            cancelled,
            if may { unfinished as u64 } else { 0 },
            "client {client} cancels those of {of}"
        );
        let left = self.session(range.session);
        let left =
            left.map_or(0, |session| session.ledger.tasks.range(range.first, range.last).count());
        assert_eq!(left, if may { 0 } else { unfinished });
    }

    fn note_cancelled(&mut self, range: &TaskRange) {
        let names = (range.first.0..=range.last.0).map(|n| (range.session, n));
        let names: Vec<Name> = names.filter(|name| self.is_unfinished(*name)).collect();
        self.cancelled.extend(names);
    }

    pub fn acknowledges(&mut self, client: usize, back: u64) {
        let it = &self.farm.clients[client];
        let (session, n) = (it.session, it.submitted.saturating_sub(back % it.submitted.max(1)));
        if it.finished.contains_key(&n) {
            self.hears(client);
            self.acknowledged.entry((session, n)).or_insert(self.farm.now);
            self.farm.ack(client, n, n);
        }
    }

    /// Asks something, which waits for something.
    fn asks(
        &mut self,
        client: usize,
        waits_for: Asked,
        question: impl FnOnce(u64) -> FromClient,
    ) -> u64 {
        let request = self.farm.clients[client].requests + 1;
        self.clients[client].asked.insert(request, waits_for);
        self.farm.ask(client, question)
    }

    pub fn fetches(&mut self, client: usize, task: Choice, wait: bool) {
        let TaskRange { session, first: n, .. } = self.range(task);
        let is_known = self.owner(client) == self.owner(task.of);
        let waits_for = if wait && is_known { Asked::Task((session, n.0)) } else { Asked::Nothing };
        let request = self.asks(client, waits_for, |request| {
            FromClient::Fetch(Fetch { request, session, n, wait, output: wait })
        });
        let is_refused = matches!(self.farm.reply(client, request), Some(ReplyBody::Refused(_)));
        let is_there =
            is_known && (self.is_unfinished((session, n.0)) || self.is_held(task.of, session, n.0));
        assert_eq!(is_refused, !is_there, "client {client} fetches task {n} of client {}", task.of);
    }

    /// Returns true if a task that has ended is still held or retained.
    fn is_held(&self, client: usize, session: SessionId, n: u64) -> bool {
        let kept = self.farm.core.kept.find(self.owner(client), TaskId { session, n: TaskSeq(n) });
        kept.is_some()
            || self.session(session).is_some_and(|session| session.ledger.done.contains(TaskSeq(n)))
    }

    pub fn purges(&mut self, client: usize, tasks: Choice) {
        let range = self.range(tasks);
        if self.owner(client) == self.owner(tasks.of) {
            let names = (range.first.0..=range.last.0).map(|n| (range.session, n));
            let has_ended =
                |name: &Name| self.tasks.contains_key(name) && !self.is_unfinished(*name);
            let ended: Vec<Name> = names.filter(has_ended).collect();
            self.purged.extend(ended);
        }
        let tasks = vec![range];
        self.asks(client, Asked::Nothing, |request| FromClient::Purge(Purge { request, tasks }));
    }

    pub fn restarts(&mut self, client: usize, place: usize) {
        let engine = self.engine(place);
        let engines = vec![engine];
        self.asks(client, Asked::Restart(engine), |request| {
            FromClient::Restart(Restart { request, engines })
        });
    }
}
