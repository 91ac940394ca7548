//! Any sequence of events: the invariants hold after each, every task ends exactly once, nothing is left at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use furlong_wire::ids::{EngineId, SessionId};
use furlong_wire::message::{
    AttemptOutput, Define, ErrorKind, FromClient, FromEngine, Outcome, Payload, Runtime, Stream, Submit, TaskOptions,
    TaskState, ToEngine,
};
use furlong_wire::token::Role;
use proptest::prelude::*;

use super::invariants;
use super::peers::{Farm, direct, shared, with};

const CLIENTS: usize = 3;
const PROCESSES: usize = 3;
/// The definition that every session has.
const DEFINITION: u32 = 1;

/// One event. Numbers choose among what is there, modulo how much of it there is.
#[derive(Clone, Debug)]
enum Event {
    ClientConnects(usize),
    ClientDisconnects(usize),
    ClientLeaves(usize),
    EngineConnects(usize),
    EngineDisconnects(usize),
    EngineLeaves(usize),
    Submits(usize, Task),
    SendsChunk(usize),
    Cancels(usize, u64, u64),
    Acknowledges(usize, u64),
    Starts(usize),
    Writes(usize),
    Finishes(usize, usize, End),
    SendsResultChunk(usize),
    AnswersRecalls(usize),
    TimePasses(Duration),
}

/// What a submit asks for.
#[derive(Clone, Debug)]
struct Task {
    /// Engines of its own queue; none for the shared one.
    targets: Vec<u32>,
    python: bool,
    class: u32,
    defined: bool,
    priority: i32,
    at_most_once: bool,
    abort_on_error: bool,
    payload_bytes: u64,
}

/// How an engine ends an attempt.
#[derive(Clone, Debug)]
struct End {
    fails: bool,
    run_us: u64,
    payload_bytes: u64,
}

fn payload_bytes() -> impl Strategy<Value = u64> {
    prop_oneof![6 => Just(0), 2 => Just(2_000), 1 => Just(300_000)]
}

prop_compose! {
    fn task()(
        targets in prop_oneof![2 => Just(Vec::new()), 2 => prop::collection::vec(0u32..6, 1..4)],
        python in prop::bool::weighted(0.2),
        class in 0u32..3,
        (defined, at_most_once, abort_on_error) in
            (prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.3)),
        priority in prop_oneof![4 => Just(0), 1 => -1..2],
        payload_bytes in payload_bytes(),
    ) -> Task {
        Task { targets, python, class, defined, priority, at_most_once, abort_on_error, payload_bytes }
    }
}

prop_compose! {
    fn end()(
        fails in prop::bool::weighted(0.2),
        run_us in prop_oneof![Just(1), Just(300), Just(50_000)],
        payload_bytes in payload_bytes(),
    ) -> End {
        End { fails, run_us, payload_bytes }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let (client, process) = (|| 0..CLIENTS, || 0..PROCESSES);
    prop_oneof![
        3 => client().prop_map(Event::ClientConnects),
        1 => client().prop_map(Event::ClientDisconnects),
        1 => client().prop_map(Event::ClientLeaves),
        4 => process().prop_map(Event::EngineConnects),
        2 => process().prop_map(Event::EngineDisconnects),
        1 => process().prop_map(Event::EngineLeaves),
        20 => (client(), task()).prop_map(|(client, task)| Event::Submits(client, task)),
        8 => client().prop_map(Event::SendsChunk),
        3 => (client(), 0u64..30, 0u64..3).prop_map(|(client, first, more)| Event::Cancels(client, first, more)),
        4 => (client(), 0u64..30).prop_map(|(client, n)| Event::Acknowledges(client, n)),
        5 => process().prop_map(Event::Starts),
        2 => process().prop_map(Event::Writes),
        14 => (process(), 0usize..8, end()).prop_map(|(process, job, end)| Event::Finishes(process, job, end)),
        6 => process().prop_map(Event::SendsResultChunk),
        4 => process().prop_map(Event::AnswersRecalls),
        4 => prop_oneof![Just(3u64), Just(16_000), Just(300_000)]
            .prop_map(|ms| Event::TimePasses(Duration::from_millis(ms))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_task_ends_exactly_once_and_nothing_is_left(events in prop::collection::vec(event(), 1..80)) {
        let mut model = Model::new();
        for event in &events {
            model.happens(event);
            model.check();
        }
        model.comes_to_rest();
    }
}

/// A farm, and what is expected of it.
struct Model {
    farm: Farm,
    /// What each session submitted: a client that leaves comes back with another session.
    tasks: BTreeMap<(SessionId, u64), Submitted>,
    acknowledged: BTreeSet<(SessionId, u64)>,
    /// Tasks that may run once only and were given to an engine, which has not given them back.
    given_once: BTreeSet<(SessionId, u64)>,
    /// The last task of each session that was given to each engine from its own queue.
    given: BTreeMap<(EngineId, SessionId), u64>,
    /// How many messages of each process were looked at.
    seen: [usize; PROCESSES],
}

#[derive(Clone, Copy)]
struct Submitted {
    direct: bool,
    at_most_once: bool,
}

impl Model {
    fn new() -> Self {
        let mut farm = Farm::with_limits(2 << 20, 50);
        (0..CLIENTS).for_each(|_| _ = farm.absent_client(Role::Client));
        for runtimes in [Runtime::ALL, &[Runtime::Native], &[Runtime::Python]] {
            let engine = farm.engine_with(2, runtimes);
            farm.disconnect_engine(engine);
        }
        let mut model = Self {
            farm,
            tasks: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            given_once: BTreeSet::new(),
            given: BTreeMap::new(),
            seen: [0; PROCESSES],
        };
        model.client_connects(0);
        model.farm.connect_engine(0);
        model
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::ClientConnects(client) => self.client_connects(client),
            Event::ClientDisconnects(client) => self.farm.disconnect_client(client),
            Event::ClientLeaves(client) => self.client_leaves(client),
            Event::EngineConnects(process) => self.farm.connect_engine(process),
            Event::EngineDisconnects(process) => self.farm.disconnect_engine(process),
            Event::EngineLeaves(process) => self.engine_leaves(process),
            Event::Submits(client, ref task) => self.submits(client, task),
            Event::SendsChunk(client) => _ = self.client_is_here(client) && self.farm.send_chunk(client),
            Event::Cancels(client, first, more) if self.client_is_here(client) => {
                self.farm.cancel(client, first, first + more);
            }
            Event::Acknowledges(client, n) => self.acknowledges(client, n),
            Event::Starts(process) => self.starts(process),
            Event::Writes(process) => self.writes(process),
            Event::Finishes(process, job, ref end) => self.finishes(process, job, end),
            Event::SendsResultChunk(process) => {
                _ = self.engine_is_here(process) && self.farm.send_result_chunk(process);
            }
            Event::AnswersRecalls(process) => self.answers_recalls(process),
            Event::TimePasses(time) => self.farm.wait(time),
            Event::Cancels(..) => {}
        }
    }

    fn client_is_here(&self, client: usize) -> bool {
        self.farm.clients[client].connection.is_some()
    }

    fn engine_is_here(&self, process: usize) -> bool {
        self.farm.processes[process].connection.is_some()
    }

    /// Resumes the session if the broker still has it, else begins another one.
    fn client_connects(&mut self, client: usize) {
        if self.farm.clients[client].submitted > 0 && !self.session_lives(client) {
            self.begin_session(client);
        }
        let resumed = self.farm.connect_client(client).unwrap();
        if !resumed {
            let define = Define { number: DEFINITION, payload: Payload::Inline(vec![1].into()) };
            self.farm.say(client, FromClient::Define(define)).unwrap();
        }
    }

    fn session_lives(&self, client: usize) -> bool {
        let id = self.farm.clients[client].session;
        self.farm.core.sessions.iter().any(|(_, session)| session.id == id)
    }

    fn begin_session(&mut self, client: usize) {
        let id = self.farm.fresh_id();
        let client = &mut self.farm.clients[client];
        (client.session, client.submitted) = (SessionId([id; 16]), 0);
        client.finished.clear();
    }

    fn client_leaves(&mut self, client: usize) {
        if self.client_is_here(client) {
            self.farm.goodbye(client);
            self.begin_session(client);
        }
    }

    /// The process is gone with all that it holds; should one connect in its place, then without its work.
    fn engine_leaves(&mut self, process: usize) {
        if self.engine_is_here(process) {
            self.farm.engine_goodbye(process);
            self.farm.processes[process].jobs.clear();
        }
    }

    fn submits(&mut self, client: usize, task: &Task) {
        if !self.client_is_here(client) {
            return;
        }
        let targets: Vec<EngineId> = task.targets.iter().map(|id| EngineId(*id)).collect();
        let it = &mut self.farm.clients[client];
        let session = self.farm.core.sessions.iter().find(|(_, session)| session.id == it.session).unwrap().1;
        let room = session.tasks_max as usize - session.tasks.len() - session.done.len();
        if room < targets.len().max(1) {
            return;
        }
        let options =
            TaskOptions { priority: task.priority, at_most_once: task.at_most_once, ..TaskOptions::default() };
        let options = TaskOptions { abort_on_error: task.abort_on_error, ..options };
        let submit = with(if targets.is_empty() { shared() } else { direct(&targets) }, options);
        let chunked = task.payload_bytes > 0 && it.sending.may_announce(task.payload_bytes);
        let payload = if chunked { it.sending.chunked(task.payload_bytes) } else { submit.payload.clone() };
        let submit = Submit {
            runtime: if task.python { Runtime::Python } else { Runtime::Native },
            class: task.class,
            define: task.defined.then_some(DEFINITION),
            payload,
            ..submit
        };
        let (session, n) = (it.session, it.submitted + 1);
        let submitted = Submitted { direct: !targets.is_empty(), at_most_once: task.at_most_once };
        self.tasks.extend((n..n + targets.len().max(1) as u64).map(|n| ((session, n), submitted)));
        self.farm.submit(client, submit);
    }

    fn acknowledges(&mut self, client: usize, n: u64) {
        let it = &self.farm.clients[client];
        if self.client_is_here(client) && it.finished.contains_key(&n) {
            self.acknowledged.insert((it.session, n));
            self.farm.ack(client, n, n);
        }
    }

    fn starts(&mut self, process: usize) {
        if self.engine_is_here(process) && !self.farm.processes[process].jobs.is_empty() {
            self.farm.start(process);
        }
    }

    fn answers_recalls(&mut self, process: usize) {
        if !self.engine_is_here(process) {
            return;
        }
        let before = self.farm.processes[process].jobs.clone();
        self.farm.answer_recalls(process);
        let jobs = &self.farm.processes[process].jobs;
        for returned in before.iter().filter(|before| jobs.iter().all(|job| job.attempt != before.attempt)) {
            self.given_once.remove(&(returned.session, returned.n));
        }
    }

    fn writes(&mut self, process: usize) {
        let Some(job) = self.farm.processes[process].jobs.first().copied() else { return };
        if self.engine_is_here(process) {
            let output =
                AttemptOutput { attempt: job.attempt, stream: Stream::Stdout, offset: 0, bytes: b"text".to_vec() };
            self.farm.report(process, FromEngine::Output(output)).unwrap();
        }
    }

    fn finishes(&mut self, process: usize, job: usize, end: &End) {
        let it = &mut self.farm.processes[process];
        // Slots run side by side, each in its order: the first job of one of them ends.
        let slot = (job % it.slots.len()) as u32;
        let Some(place) = it.jobs.iter().position(|job| job.slot == slot) else { return };
        if it.connection.is_none() {
            return;
        }
        let job = it.jobs.remove(place);
        it.jobs.insert(0, job);
        let chunked = end.payload_bytes > 0 && it.sending.may_announce(end.payload_bytes);
        let payload = if chunked { it.sending.chunked(end.payload_bytes) } else { Payload::Inline(vec![0; 3].into()) };
        let error = || Outcome::error(TaskState::Failed, ErrorKind::Remote, "");
        let outcome = if end.fails { error() } else { Outcome::SUCCEEDED };
        self.farm.finish_with(process, outcome, end.run_us, Some(payload));
    }
}

/// What must be true after each event.
impl Model {
    fn check(&mut self) {
        invariants::hold(&self.farm.core);
        self.every_task_is_somewhere();
        self.assignments_are_allowed();
    }

    /// Each task of a living session is unfinished, or done, or acknowledged: exactly one of these.
    fn every_task_is_somewhere(&self) {
        for (_, session) in self.farm.core.sessions.iter() {
            for n in 1..=session.submitted {
                let acknowledged = self.acknowledged.contains(&(session.id, n));
                let places = [session.tasks.contains(n), session.done.contains(n), acknowledged];
                assert_eq!(
                    places.into_iter().filter(|it| *it).count(),
                    1,
                    "task {n} is (here, done, gone): {places:?}"
                );
            }
        }
    }

    /// Looks at what engines were given since the last time.
    fn assignments_are_allowed(&mut self) {
        for process in 0..PROCESSES {
            let received = self.farm.processes[process].received[self.seen[process]..].to_vec();
            self.seen[process] += received.len();
            for message in received {
                let ToEngine::Assign(assign) = message else { continue };
                let session = assign.session.expect("it was noted when it came");
                for work in assign.work {
                    let engine = self.farm.processes[process].ids[work.slot as usize];
                    self.assignment_is_allowed(engine, session, work.n);
                }
            }
        }
    }

    fn assignment_is_allowed(&mut self, engine: EngineId, session: SessionId, n: u64) {
        let Submitted { direct, at_most_once } = self.tasks[&(session, n)];
        let first = !at_most_once || self.given_once.insert((session, n));
        assert!(first, "task {n} may run once only, and was given again");
        if direct {
            let before = self.given.insert((engine, session), n);
            assert!(before.is_none_or(|before| before < n), "engine {engine} got task {n} after {before:?}");
        }
    }

    /// Everybody comes back, engines do all that they have, clients acknowledge and leave.
    fn comes_to_rest(mut self) {
        (0..CLIENTS).for_each(|client| self.client_connects(client));
        (0..PROCESSES).for_each(|process| self.farm.connect_engine(process));
        for client in 0..CLIENTS {
            while self.farm.send_chunk(client) {}
        }
        let end = End { fails: false, run_us: 1, payload_bytes: 0 };
        let busy = |farm: &Farm| farm.processes.iter().any(|it| !(it.jobs.is_empty() && it.sending.chunks.is_empty()));
        while busy(&self.farm) {
            for process in 0..PROCESSES {
                (0..2).for_each(|slot| self.finishes(process, slot, &end));
                while self.farm.send_result_chunk(process) {}
            }
            self.check();
        }
        self.farm.wait(Duration::from_secs(16));
        self.check();
        for client in 0..CLIENTS {
            let it = &self.farm.clients[client];
            assert!((1..=it.submitted).all(|n| it.finished.contains_key(&n)), "every task has ended");
            let (session, submitted) = (it.session, it.submitted);
            self.farm.ack(client, 1, submitted);
            self.acknowledged.extend((1..=submitted).map(|n| (session, n)));
            self.check();
            self.farm.goodbye(client);
        }
        // What was kept goes after an hour.
        self.farm.wait(Duration::from_secs(3_600));
        invariants::is_quiet(&self.farm.core);
    }
}
