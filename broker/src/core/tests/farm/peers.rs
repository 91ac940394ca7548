//! Clients and engine processes in memory, around a core. Time is a number.

mod engines;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::{
    Attempt, BrokerStart, ClusterId, EngineId, EngineUuid, InstanceId, OwnerId, SessionId, TaskId,
    TaskSeq, TokenId,
};
use furlong_wire::keys::PublicKey;
use furlong_wire::limits::ASKED_FOR_TRANSFER;
use furlong_wire::message::{
    ANSWERS_MEASURE, Accepted, Ack, AttemptFinished, Attempts, Cancel, Define, Dependency,
    ErrorKind, Fetch, Fetched, Finished, FromClient, FromEngine, Goodbye, HeldWork, Open, Outcome,
    Payload, Register, ReplyBody, RunTimes, Runtime, Slot, SlotDown, Submit, Targets, TaskOptions,
    TaskState, ToClient, ToEngine, is_too_long,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::token::{Claims, Role, TokenLimits};

use crate::core::journal::Restoring;
use crate::core::tests::farm::disk::{Disk, JOURNAL_KEEP};
use crate::core::tests::farm::sending::Sending;
use crate::core::{
    Config, ConnectionId, Core, Output, Peer, PeerMisbehaved, Refusal, Roster, Time,
};

/// This start of the broker, as attempts name it.
pub const START: BrokerStart = BrokerStart(1_000_000);

/// A core with its peers. Peers are named by their place in the lists.
#[derive(Debug)]
pub struct Farm {
    pub core: Core,
    pub now: Time,
    pub clients: Vec<Client>,
    pub processes: Vec<EngineProcess>,
    pub disk: Disk,
    /// The abilities that engine processes name.
    pub abilities: u64,
    connections_made: u64,
    ids_made: u8,
}

/// A client process with one session.
#[derive(Debug)]
pub struct Client {
    pub session: SessionId,
    pub role: Role,
    pub holder: u8,
    pub owner: u8,
    /// Its token's id.
    pub token: u8,
    pub scopes: Vec<String>,
    pub limits: TokenLimits,
    pub cancel_on_disconnect: bool,
    /// The key by which a running task has let it in.
    pub pass: Option<[u8; 32]>,
    pub incarnation: u64,
    pub connection: Option<ConnectionId>,
    pub submitted: u64,
    /// Its submits, as one task each.
    submits: BTreeMap<u64, Submit>,
    /// Requests that it has made.
    pub requests: u64,
    /// Every message of every connection.
    pub received: Vec<ToClient>,
    /// The first end of each task.
    pub finished: BTreeMap<u64, Finished>,
    pub sending: Sending,
    /// The definitions that it has sent on any connection.
    defined: BTreeSet<u32>,
}

/// An engine process: it runs nothing unless a test says so.
#[derive(Debug)]
pub struct EngineProcess {
    pub slots: Vec<Slot>,
    pub runtimes: Vec<Runtime>,
    pub labels: Vec<String>,
    pub connection: Option<ConnectionId>,
    pub ids: Vec<EngineId>,
    /// The jobs assigned to its slots, in order of arrival.
    pub jobs: Vec<Job>,
    /// The session of the last assignment on this connection.
    pub assigned_session: Option<SessionId>,
    /// The start of the broker that it is connected with.
    pub start: BrokerStart,
    /// Results that have not been released.
    pub results: Vec<EndedJob>,
    /// The last attempt that it was given, the last one whose result it has dropped, and its time.
    pub last_received: Option<Attempt>,
    pub dropped: Option<Attempt>,
    pub ends_in_ms: Option<u64>,
    /// Results that the broker wants again, or asks for.
    wanted: VecDeque<Attempt>,
    /// The bytes that it may send unasked of each session, and those it has sent.
    lanes: BTreeMap<SessionId, (u64, u64)>,
    /// Attempts that the broker wants back.
    pub recalls: Vec<Attempt>,
    /// Attempts that the broker has cancelled.
    pub cancelled: BTreeSet<Attempt>,
    /// Every message of every connection.
    pub received: Vec<ToEngine>,
    pub sending: Sending,
}

/// Work that a slot has been assigned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Job {
    pub slot: u32,
    pub session: SessionId,
    pub n: u64,
    pub attempt: Attempt,
    pub runtime: Runtime,
    pub started: bool,
    /// True if it will not begin here, and goes back.
    pub returns: bool,
}

/// A job that has ended.
#[derive(Clone, PartialEq, Debug)]
pub struct EndedJob {
    pub job: Job,
    finished: AttemptFinished,
}

impl Default for Farm {
    fn default() -> Self {
        Self::with_limits(8 << 20, 10_000)
    }
}

/// The farm itself.
impl Farm {
    pub fn with_limits(payload_bytes_max: u64, session_tasks_max: u64) -> Self {
        let config = Config {
            start: START,
            cluster: ClusterId([9; 32]),
            cluster_name: "test".into(),
            software: "test".into(),
            pid: 1,
            payload_bytes_max,
            memory_flag: "--memory",
            tasks_max: Config::tasks_for_sessions_of(session_tasks_max),
            kept_max: 100_000,
            journal_keep: None,
        };
        let core = Core::new(config, &Roster::default());
        let (clients, processes) = (Vec::new(), Vec::new());
        let (disk, abilities) = (Disk::default(), ANSWERS_MEASURE);
        let (connections_made, ids_made, now) = (0, 0, Time(0));
        Self { core, now, clients, processes, disk, abilities, connections_made, ids_made }
    }

    /// The broker is killed and started again: it knows who its engines were, and nothing else.
    pub fn restart(&mut self) {
        let mut config = self.core.config.clone();
        // What is on its way to the disk is lost.
        self.disk.unwritten.clear();
        config.start.0 += self.now.0 + 1;
        self.core = Core::new(config, &self.core.engines.roster());
        self.now = Time(0);
        let forget_before =
            self.core.config.start.0.saturating_sub(JOURNAL_KEEP.as_micros() as u64);
        let mut restoring = Restoring::new(&mut self.core);
        self.disk.journal.restore(&mut restoring, forget_before).unwrap();
        restoring.finish(Time(0));
        self.clients.iter_mut().for_each(|client| client.connection = None);
        self.processes.iter_mut().for_each(|process| process.connection = None);
    }

    /// Lets time pass; what is due happens at its moment.
    pub fn wait(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            self.pump();
        }
        self.now = end;
    }

    fn connection(&mut self) -> ConnectionId {
        self.connections_made += 1;
        ConnectionId(self.connections_made)
    }

    pub fn fresh_id(&mut self) -> u8 {
        self.ids_made += 1;
        self.ids_made
    }

    /// Acts as the shell: dispatches after a batch, carries out everything, closes those who
    /// misbehaved.
    fn settle(
        &mut self,
        connection: ConnectionId,
        result: Result<(), PeerMisbehaved>,
    ) -> Result<(), PeerMisbehaved> {
        if result.is_err() {
            self.lose(connection);
            self.core.handle_misbehaved(self.now, connection);
        }
        self.core.dispatch(self.now);
        self.pump();
        result
    }

    fn close(&mut self, connection: ConnectionId) {
        self.lose(connection);
        self.core.handle_disconnected(self.now, connection);
    }

    fn lose(&mut self, connection: ConnectionId) {
        for client in self.clients.iter_mut().filter(|client| client.connection == Some(connection))
        {
            client.connection = None;
        }
        for process in
            self.processes.iter_mut().filter(|process| process.connection == Some(connection))
        {
            process.connection = None;
        }
    }

    /// Carries out what the core wants done; engines send again what they are asked for.
    pub fn pump(&mut self) {
        self.carry_out();
        if !self.disk.is_slow {
            self.sync();
        }
        while let Some((process, finished)) = self.wanted_result() {
            self.report(process, FromEngine::Finished(finished)).unwrap();
        }
    }

    fn wanted_result(&mut self) -> Option<(usize, AttemptFinished)> {
        let here = |it: &EngineProcess| it.connection.is_some() && !it.wanted.is_empty();
        let process = self.processes.iter().position(here)?;
        let it = &mut self.processes[process];
        let attempt = it.wanted.pop_front()?;
        let ended = it
            .results
            .iter()
            .find(|ended| ended.job.attempt == attempt)
            .expect("it holds what is wanted");
        let mut finished = ended.finished.clone();
        if let Some(Payload::Chunked { bytes, .. }) = finished.payload {
            finished.payload = Some(it.sending.chunked(bytes));
        }
        Some((process, finished))
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::ToClient(connection, message) => {
                    assert!(!is_too_long(&message), "{} is too long", message.name());
                    if let Some(client) =
                        self.clients.iter_mut().find(|it| it.connection == Some(connection))
                    {
                        client.receive(message);
                    }
                }
                Output::ToEngine(connection, message) => {
                    assert!(!is_too_long(&message), "{} is too long", message.name());
                    if let Some(process) =
                        self.processes.iter_mut().find(|it| it.connection == Some(connection))
                    {
                        process.receive(message);
                    }
                }
                Output::Close(connection, _) => self.close(connection),
                Output::Journal(number, entry) => self.disk.unwritten.push_back((number, entry)),
                Output::Transfer(..)
                | Output::Discard(_)
                | Output::SaveRoster(_)
                | Output::Revoke(..)
                | Output::Stop(_) => {}
            }
        }
    }
}

/// Clients.
impl Farm {
    /// A connected client with a session of its own, that may submit everything.
    pub fn client(&mut self) -> usize {
        self.client_as(Role::Client)
    }

    pub fn client_as(&mut self, role: Role) -> usize {
        let client = self.absent_client(role);
        self.connect_client(client).unwrap();
        client
    }

    /// A client whose session an earlier start of the broker had, with that many tasks.
    pub fn client_that_had_submitted(&mut self, tasks: u64) -> usize {
        let client = self.absent_client(Role::Client);
        self.clients[client].submitted = tasks;
        self.connect_client(client).unwrap();
        client
    }

    /// A client that is not connected yet.
    pub fn absent_client(&mut self, role: Role) -> usize {
        let id = self.fresh_id();
        self.clients.push(Client {
            session: SessionId([id; 16]),
            role,
            holder: id,
            owner: 7,
            token: id,
            scopes: Vec::new(),
            limits: TokenLimits::default(),
            cancel_on_disconnect: false,
            pass: None,
            incarnation: 0,
            connection: None,
            submitted: 0,
            submits: BTreeMap::new(),
            requests: 0,
            received: Vec::new(),
            finished: BTreeMap::new(),
            sending: Sending::default(),
            defined: BTreeSet::new(),
        });
        self.clients.len() - 1
    }

    /// Connects and opens the session.
    pub fn connect_client(&mut self, client: usize) -> Result<bool, Refusal> {
        let connection = self.connection();
        let it = &mut self.clients[client];
        it.incarnation += 1;
        let mut peer = peer(it.role, it.session, it.incarnation, it.holder);
        (peer.claims.owner, peer.claims.token_id) =
            (OwnerId([it.owner; 16]), TokenId([it.token; 16]));
        (peer.claims.scopes, peer.claims.limits) = (it.scopes.clone(), it.limits);
        if let Some(key) = it.pass {
            let (claims, attempt) = self.core.pass(self.now, key)?;
            (peer.claims, peer.pass) = (claims, Some(attempt));
        }
        let welcome = self.core.handle_connected(connection, peer)?;
        self.pump();
        let it = &mut self.clients[client];
        it.connection = Some(connection);
        it.sending.begin(welcome.payload_credit_bytes);
        let secret = PayloadSecret::new([it.holder; 32]);
        let (cancel_on_disconnect, submitted) = (it.cancel_on_disconnect, TaskSeq(it.submitted));
        let open = Open { secret, cancel_on_disconnect, submitted, hides_names: false };
        self.say(client, FromClient::Open(open)).unwrap();
        if !welcome.resumed {
            self.clients[client].defined.clear();
        }
        self.repeat_missing(client);
        Ok(welcome.resumed)
    }

    /// Announces anew what did not come whole on the last connection.
    fn repeat_missing(&mut self, client: usize) {
        let accepted = self.accepted(client);
        let missing: Vec<u64> =
            accepted.missing.iter().flat_map(|(first, last)| first.0..=last.0).collect();
        let here = BTreeSet::from_iter(accepted.definitions);
        for number in self.clients[client].defined.difference(&here).copied().collect::<Vec<_>>() {
            let payload = self.clients[client].sending.chunked(2_000);
            self.say(client, FromClient::Define(Define { number, payload })).unwrap();
        }
        for n in missing
            .into_iter()
            .filter(|n| !self.clients[client].finished.contains_key(n))
            .collect::<Vec<_>>()
        {
            let submit = self.clients[client].submits.get(&n).cloned().unwrap_or_else(shared);
            let payload = match submit.payload {
                // A small one, so that its credit suffices for all.
                Payload::Chunked { .. } => self.clients[client].sending.chunked(2_000),
                payload @ Payload::Inline(_) => payload,
            };
            self.repeat(client, n, Submit { payload, ..submit });
        }
    }

    /// Returns the broker's knowledge of the session when the client last connected.
    pub fn accepted(&self, client: usize) -> Accepted {
        let accepted =
            self.clients[client].received.iter().rev().find_map(|message| match message {
                ToClient::Accepted(accepted) => Some(accepted.clone()),
                _ => None,
            });
        accepted.expect("it has opened its session")
    }

    pub fn disconnect_client(&mut self, client: usize) {
        if let Some(connection) = self.clients[client].connection {
            self.close(connection);
            self.pump();
        }
    }

    pub fn say(&mut self, client: usize, message: FromClient) -> Result<(), PeerMisbehaved> {
        self.say_with(client, message, None)
    }

    fn say_with(
        &mut self,
        client: usize,
        message: FromClient,
        chunk: Option<Bytes>,
    ) -> Result<(), PeerMisbehaved> {
        if let FromClient::Define(define) = &message {
            self.clients[client].defined.insert(define.number);
        }
        let connection =
            self.clients[client].connection.expect("a client that says something is connected");
        let mut result = self.core.handle_from_client(self.now, connection, message, chunk);
        while result.is_ok() && self.core.has_rest(connection) {
            result = self.core.handle_rest(self.now, connection);
        }
        self.settle(connection, result)
    }

    /// Submits under the next numbers, and gives the first of them.
    pub fn submit(&mut self, client: usize, submit: Submit) -> u64 {
        let n = self.clients[client].submitted + 1;
        let count =
            if let Targets::Engines(engines) = &submit.targets { engines.len() as u64 } else { 1 };
        self.clients[client].submitted += count;
        let targets: Vec<Targets> = match &submit.targets {
            Targets::Shared => vec![Targets::Shared],
            Targets::Engines(engines) => {
                engines.iter().map(|engine| Targets::Engines(vec![*engine])).collect()
            }
        };
        let single = |n, targets| Submit { n: TaskSeq(n), targets, ..submit.clone() };
        let each = (n..).zip(targets).map(|(n, targets)| (n, single(n, targets)));
        self.clients[client].submits.extend(each);
        self.say(client, FromClient::Submit(Submit { n: TaskSeq(n), ..submit })).unwrap();
        n
    }

    /// Submits once more what an earlier start of the broker had.
    pub fn repeat(&mut self, client: usize, n: u64, submit: Submit) {
        let options = submit.options.map(|options| *options).unwrap_or_default();
        let options = Some(Box::new(TaskOptions { repeated: true, ..options }));
        self.say(client, FromClient::Submit(Submit { n: TaskSeq(n), options, ..submit })).unwrap();
    }

    /// Sends one chunk of the client's oldest transfer. Whether there was one.
    pub fn send_chunk(&mut self, client: usize) -> bool {
        let Some((chunk, bytes)) = self.clients[client].sending.next_chunk() else { return false };
        self.say_with(client, FromClient::Chunk(chunk), Some(bytes)).unwrap();
        true
    }

    pub fn cancel(&mut self, client: usize, first: u64, last: u64) {
        let ranges = vec![(TaskSeq(first), TaskSeq(last))];
        self.say(client, FromClient::Cancel(Cancel { ranges, force: false })).unwrap();
    }

    pub fn ack(&mut self, client: usize, first: u64, last: u64) {
        let ranges = vec![(TaskSeq(first), TaskSeq(last))].into();
        self.say(client, FromClient::Ack(Ack { ranges })).unwrap();
    }

    pub fn goodbye(&mut self, client: usize) {
        self.say(client, FromClient::Goodbye(Goodbye { reason: "done".into() })).unwrap();
    }

    /// Asks something under a new number, and gives that.
    pub fn ask(&mut self, client: usize, question: impl FnOnce(u64) -> FromClient) -> u64 {
        let it = &mut self.clients[client];
        it.requests += 1;
        let request = it.requests;
        self.say(client, question(request)).unwrap();
        request
    }

    /// The reply to a request, if it has come.
    pub fn reply(&self, client: usize, request: u64) -> Option<ReplyBody> {
        self.clients[client].received.iter().find_map(|message| match message {
            ToClient::Reply(reply) if reply.request == request => Some(reply.body.clone()),
            _ => None,
        })
    }

    /// Asks for a task of a client's session.
    pub fn fetch(&mut self, client: usize, of: usize, n: u64, wait: bool, output: bool) -> u64 {
        let TaskId { session, n } = self.task(of, n);
        self.ask(client, |request| FromClient::Fetch(Fetch { request, session, n, wait, output }))
    }

    /// Returns the result of a fetch.
    pub fn fetched(&self, client: usize, request: u64) -> Option<Fetched> {
        self.clients[client].received.iter().find_map(|message| match message {
            ToClient::Fetched(fetched) if fetched.request == request => Some(fetched.clone()),
            _ => None,
        })
    }

    /// The id of a task.
    pub fn task(&self, client: usize, n: u64) -> TaskId {
        TaskId { session: self.clients[client].session, n: TaskSeq(n) }
    }

    /// The reason that a task did not succeed.
    pub fn error_of(&self, client: usize, n: u64) -> String {
        let finished = &self.clients[client].finished[&n];
        finished.outcome.error.as_ref().map_or_else(String::new, |error| error.text.clone())
    }

    /// The tasks of which a client was told that nothing of them runs.
    pub fn stopped(&self, client: usize) -> Vec<u64> {
        let stopped = |message: &ToClient| {
            if let ToClient::Stopped(it) = message { Some(it.n.0) } else { None }
        };
        self.clients[client].received.iter().filter_map(stopped).collect()
    }

    /// Returns the state and error kind with which a task ended, if it has ended.
    pub fn end_of(&self, client: usize, n: u64) -> Option<(TaskState, Option<ErrorKind>)> {
        let outcome = &self.clients[client].finished.get(&n)?.outcome;
        Some((outcome.state, outcome.error.as_ref().map(|error| error.kind)))
    }

    /// Returns the number of times a task's end was delivered.
    pub fn deliveries(&self, client: usize, n: u64) -> usize {
        let of_task = |said: &&ToClient| matches!(said, ToClient::Finished(it) if it.n.0 == n);
        self.clients[client].received.iter().filter(of_task).count()
    }
}

impl Client {
    fn receive(&mut self, message: ToClient) {
        match &message {
            ToClient::Finished(finished) => {
                let first = self.finished.entry(finished.n.0).or_insert_with(|| finished.clone());
                assert_eq!(comparable(first), comparable(finished), "a task ends once");
            }
            ToClient::Credit(credit) => self.sending.granted = credit.payload_bytes_total,
            _ => {}
        }
        self.received.push(message);
    }
}

/// An end without what differs from connection to connection: the number of its transfer.
fn comparable(finished: &Finished) -> Finished {
    let mut finished = finished.clone();
    if let Some(Payload::Chunked { transfer, .. }) = &mut finished.payload {
        *transfer = 0;
    }
    finished
}

/// One task for the shared queue, with a small payload.
pub fn shared() -> Submit {
    Submit {
        n: TaskSeq::MIN,
        targets: Targets::Shared,
        runtime: Runtime::Native,
        class: 1,
        define: None,
        options: None,
        payload: Payload::Inline(b"call".into()),
    }
}

/// One task for each engine.
pub fn direct(engines: &[EngineId]) -> Submit {
    Submit { targets: Targets::Engines(engines.to_vec()), ..shared() }
}

/// The same with options.
pub fn with(submit: Submit, options: TaskOptions) -> Submit {
    Submit { options: Some(Box::new(options)), ..submit }
}

/// A python task.
pub fn python(submit: Submit) -> Submit {
    Submit { runtime: Runtime::Python, ..submit }
}

/// Options of a task that runs after the success of others.
pub fn after(tasks: &[TaskId]) -> TaskOptions {
    TaskOptions {
        after: tasks.iter().map(|task| on_success(*task)).collect(),
        ..TaskOptions::default()
    }
}

/// Options of a task that runs after the success of others, where they ran.
pub fn follow(tasks: &[TaskId]) -> TaskOptions {
    TaskOptions {
        follow: tasks.iter().map(|task| on_success(*task)).collect(),
        ..TaskOptions::default()
    }
}

pub fn on_success(task: TaskId) -> Dependency {
    Dependency { task, success: true, failure: false }
}

pub fn on_failure(task: TaskId) -> Dependency {
    Dependency { task, success: false, failure: true }
}

pub fn at_most_once() -> TaskOptions {
    TaskOptions { at_most_once: true, ..TaskOptions::default() }
}

pub fn peer(role: Role, session: SessionId, incarnation: u64, holder: u8) -> Peer {
    let claims = Claims {
        cluster: ClusterId([9; 32]),
        token_id: TokenId([holder; 16]),
        holder: PublicKey([holder; 32]),
        owner: OwnerId([7; 16]),
        role,
        scopes: Vec::new(),
        limits: TokenLimits::default(),
        not_before_s: 0,
        expires_s: Claims::NEVER,
    };
    let hello = HelloBody {
        token: Vec::new(),
        session,
        incarnation,
        role,
        software: "test".into(),
        abilities: 0,
    };
    Peer { claims, hello, address: "inproc".into(), pass: None }
}
