//! The engine's shell: the connection to the broker, made again and again, and the slots' runtimes.

pub(crate) mod capability;
mod files;
mod leave;
mod register;
mod slots;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use furlong_host::home::CapabilityFileError;
use furlong_host::private_file::FileProblem;
use furlong_host::stop::Stop;
use furlong_link::dial::{DialError, Dialed, dial, random_bytes};
use furlong_link::incoming::Incoming;
use furlong_link::outgoing::Written;
use furlong_link::peer::inbox::ReceiveError;
use furlong_link::peer::outbox::Chunks;
use furlong_link::peer::redial::Redial;
use furlong_link::peer::{Dead, Peer};
use furlong_link::stream::WriteHalf;
use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::EngineId;
use furlong_wire::limits::WRITE_TURN_BYTES;
use furlong_wire::message::{ANSWERS_MEASURE, Direction, FromEngine, Runtime, ToEngine};
use furlong_wire::token::Role;
use tokio::task::JoinHandle;

use crate::EngineError;
use crate::clock;
use crate::core::{BrokerMisbehaved, Core, Limits, Output};
use crate::deadline::{Deadline, TimeLimit};
use crate::job::{Job, SlotEvent, SlotIndex};
use crate::mailbox::Mailbox;
use crate::runtime::command::CommandConfig;
use crate::runtime::native::Functions;
use crate::runtime::python::{PythonConfig, PythonShared, RESTARTED};
use crate::runtime::{self, EventReceiver, Report};
use crate::surroundings::Variables;
use capability::Source;
use files::FilePermits;
use register::Identity;
use slots::Slots;

/// Everything that an engine process is made of.
pub(crate) struct Setup {
    pub(crate) capability: Source,
    pub(crate) slots: u32,
    pub(crate) functions: Functions,
    pub(crate) python: Option<PythonConfig>,
    pub(crate) commands: CommandConfig,
    pub(crate) variables: Variables,
    pub(crate) first_id: Option<u32>,
    pub(crate) labels: Vec<String>,
    pub(crate) software: String,
    pub(crate) stop_with_stdin: bool,
    /// Without the end, which is found later.
    pub(crate) limits: Limits,
    pub(crate) time_limit: TimeLimit,
    pub(crate) job: Option<String>,
}

/// Slot events that are taken in one turn: few, so that the broker gets on with them meanwhile.
const EVENTS_PER_TURN: usize = 128;
/// The interval of checks whether the connection lives, and whether it is time to leave.
const TICK: Duration = Duration::from_millis(250);
/// The time that the first registration waits for the interpreter to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(3);

struct Shell {
    core: Core,
    published: Mailbox,
    slots: Slots,
    identity: Identity,
    setup: Settings,
    link: Link,
    redial: Redial,
    /// The moment since which the time is counted.
    began: Instant,
    /// The last reported reason why there is no connection: reported once, not at each try.
    told: Option<String>,
    engines: Vec<EngineId>,
    /// The broker's address, for the clients that tasks open.
    door: String,
    files: FilePermits,
    /// When it ends, once that is known: before the first connection.
    deadline: Deadline,
}

struct Settings {
    capability: Source,
    software: String,
    limits: Limits,
}

enum Link {
    /// Waiting, then dialling, on a task of its own.
    Dialling(JoinHandle<Result<(Dialed, String), NoConnection>>),
    Up(Box<Up>),
}

struct Up {
    incoming: Incoming,
    socket: WriteHalf,
    peer: Peer,
    blocked: bool,
}

/// Runs the process until it is told to leave.
pub(crate) async fn run(setup: Setup) -> Result<(), EngineError> {
    let (sender, mut events) = runtime::channel();
    let (runtimes, memory) = (runtimes(setup.python.is_some()), setup.commands.memory.describe());
    let slots = Slots::new(
        setup.slots,
        Arc::new(setup.functions),
        (setup.python, setup.commands),
        setup.variables,
        sender,
    );
    let (ids, labels) = ((setup.slots, setup.first_id), setup.labels);
    let identity = Identity::new(ids, labels, setup.job, (runtimes, memory));
    let (capability, limits) = (setup.capability, setup.limits);
    let settings = Settings { capability, software: setup.software, limits };
    let (began, deadline) = (Instant::now(), Deadline::default());
    let dialling =
        connect(settings.capability.clone(), hello(&settings, &identity, 1), Duration::ZERO);
    let mut core = Core::new(identity.instance, setup.slots);
    core.set_limits(limits);
    let found = setup.time_limit.find(began, deadline.clone());
    let first = with_version(dialling, slots.python());
    let first = async { tokio::join!(first, found).0 };
    let mut shell = Shell {
        core,
        published: Mailbox::default(),
        link: Link::Dialling(tokio::spawn(first)),
        slots,
        identity,
        setup: settings,
        redial: Redial::new(),
        began,
        told: None,
        engines: Vec::new(),
        door: String::new(),
        files: FilePermits::new(),
        deadline,
    };
    let (mut stop, mut tick) = (Stop::new(setup.stop_with_stdin), ticks());
    // Armed when a job begins and left as it is when that ends: a timer for each job would cost a
    // wake of this thread.
    let mut report = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    let mut reports = false;
    loop {
        if let Some(wait) = shell.core.poll_report() {
            report.as_mut().reset(tokio::time::Instant::now() + wait);
            reports = true;
        }
        tokio::select! {
            biased;
            happened = shell.link.next() => shell.handle_link(happened)?,
            (slot, report) = events.recv() => {
                shell.handle_report(slot, report);
                shell.handle_reports(&mut events);
            }
            () = &mut report, if reports => {
                reports = false;
                shell.core.report_started();
            }
            _ = tick.tick() => shell.handle_tick(),
            reason = stop.next() => shell.handle_stop(reason),
        }
        shell.flush();
        if let Some(reason) = shell.leaves_now() {
            shell.leave(&reason).await;
            shell.end_interpreters(&mut stop, &mut events).await;
            return Ok(());
        }
    }
}

fn runtimes(has_python: bool) -> Vec<Runtime> {
    let python = has_python.then_some(Runtime::Python);
    [Runtime::Native, Runtime::Command].into_iter().chain(python).collect()
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// Dials, and meanwhile asks the interpreter for its version, which the registration tells.
async fn with_version<T>(
    dialling: impl Future<Output = T>,
    python: Option<Arc<PythonShared>>,
) -> T {
    let version = async {
        if let Some(python) = python {
            // What is wrong with it, the first task will be told.
            let _ = tokio::time::timeout(VERSION_TIMEOUT, python.resolve()).await;
        }
    };
    tokio::join!(dialling, version).0
}

/// An event that the link reports.
enum Happened {
    Dialled(Box<Result<(Dialed, String), NoConnection>>),
    Read(std::io::Result<usize>),
    Writable,
}

impl Link {
    async fn next(&mut self) -> Happened {
        match self {
            Self::Dialling(dialling) => {
                Happened::Dialled(Box::new(dialling.await.unwrap_or(Err(NoConnection::Ended))))
            }
            Self::Up(up) => tokio::select! {
                read = up.incoming.read() => Happened::Read(read),
                _ = up.socket.writable(), if up.blocked => Happened::Writable,
            },
        }
    }
}

impl Shell {
    fn handle_tick(&mut self) {
        let now = self.began.elapsed();
        let dead = match &mut self.link {
            Link::Up(up) => up.peer.handle_tick(now),
            Link::Dialling(_) => None,
        };
        match dead {
            Some(Dead::Silent) => self.down("nothing was heard of the broker for 15 s"),
            Some(Dead::Stalled) => self.down("the broker took nothing for 10 s"),
            None => {}
        }
        self.core.handle_tick(now);
        let core = &self.core;
        self.slots.end_idle_stand_ins(Instant::now(), |place| core.has_nothing(place));
    }

    fn handle_link(&mut self, happened: Happened) -> Result<(), EngineError> {
        match happened {
            Happened::Dialled(outcome) => {
                self.core.set_limits(Limits { end: self.deadline.end(), ..self.setup.limits });
                match *outcome {
                    Ok((dialed, door)) => self.up(dialed, door),
                    Err(error) => return self.no_connection(error),
                }
            }
            Happened::Read(Ok(0)) => self.down("the broker closed the connection"),
            Happened::Read(Err(error)) => self.down(&format!("the connection broke: {error}")),
            Happened::Read(Ok(_)) => {
                if let Err(error) = self.handle_records() {
                    return self.cut(&error);
                }
            }
            Happened::Writable => {}
        }
        Ok(())
    }

    fn up(&mut self, dialed: Dialed, door: String) {
        self.door = door;
        let Dialed { incoming, socket, sealer, welcome, endpoint } = dialed;
        let now = self.began.elapsed();
        let mut peer = Peer::new::<FromEngine>(sealer, TICK, now).bearing_stalls();
        let python = self.slots.python();
        let held = self.core.held();
        let left = self.deadline.end().map(|end| end.stop_at.saturating_sub(now));
        let variables = self.slots.variables();
        let register =
            self.identity.register(&self.engines, python.as_deref(), variables, held, left);
        peer.push(&FromEngine::Register(Box::new(register)));
        self.link = Link::Up(Box::new(Up { incoming, socket, peer, blocked: false }));
        self.redial.handle_connected(now);
        self.told = None;
        tracing::info!("connected to {endpoint}, cluster {}", welcome.cluster_name);
        self.core.set_memory_flag(welcome.memory_flag);
        self.core.handle_connected(welcome.start, welcome.payload_credit_bytes);
    }

    fn down(&mut self, why: &str) {
        self.redial.handle_cut(self.began.elapsed(), None);
        self.seek(why);
    }

    fn seek(&mut self, why: &str) {
        tracing::warn!("no longer connected: {why}");
        self.core.handle_disconnected();
        self.redial();
    }

    /// Cuts a connection over a protocol violation. When one connection after the other ends so,
    /// the process gives up.
    fn cut(&mut self, error: &ConnectionError) -> Result<(), EngineError> {
        let text = error.to_string();
        let unsound = matches!(error, ConnectionError::Receive(_)).then_some(text.as_str());
        let is_repeated = self.redial.handle_cut(self.began.elapsed(), unsound);
        self.seek(&text);
        if is_repeated {
            return Err(EngineError::NoConnection(format!(
                "what comes from the broker is unsound, on one connection after the other ({text}); install the same \
                 Furlong on both sides"
            )));
        }
        Ok(())
    }

    fn redial(&mut self) {
        let next = self.redial.next_try(u64::from_le_bytes(random_bytes()));
        let hello = hello(&self.setup, &self.identity, next.incarnation);
        let dialling = connect(self.setup.capability.clone(), hello, next.wait);
        self.link = Link::Dialling(tokio::spawn(dialling));
    }

    fn no_connection(&mut self, error: NoConnection) -> Result<(), EngineError> {
        if !error.is_transient() {
            return Err(EngineError::NoConnection(error.to_string()));
        }
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            tracing::info!("waiting: {text}");
            self.told = Some(text);
        }
        self.redial();
        Ok(())
    }

    fn handle_records(&mut self) -> Result<(), ConnectionError> {
        let Link::Up(up) = &mut self.link else { return Ok(()) };
        up.peer.handle_read();
        self.core.handle_time(clock::now_us());
        while let Some(record) = up.incoming.poll_record()? {
            let mut messages = record.into_messages::<ToEngine>();
            while let Some(message) = messages.next_message() {
                let message = message?;
                if let Some(passed) = message.as_passed() {
                    let (content, file) = self.files.open(up.socket.take_file(passed)?);
                    self.core.handle_file(passed.transfer, content, file)?;
                } else {
                    self.core.handle_message(message, messages.chunk().as_deref())?;
                }
            }
        }
        while let Some(bytes) = up.incoming.poll_codec_output() {
            up.peer.push_codec_bytes(bytes);
        }
        up.incoming.shrink();
        Ok(())
    }

    fn handle_reports(&mut self, events: &mut EventReceiver) {
        for _ in 0..EVENTS_PER_TURN {
            let Some((slot, report)) = events.poll() else { return };
            self.handle_report(slot, report);
        }
    }

    fn handle_report(&mut self, slot: SlotIndex, mut report: Report) {
        if let Report::Event(SlotEvent::Finished { reply, .. }) = &mut report
            && reply.file.is_some()
        {
            self.files.hold(reply);
        }
        match report {
            Report::Event(event) => self.published.give_event(&mut self.core, slot, event),
            Report::Published { attempt, latest } => self.published.note(attempt, latest),
            Report::Measured(measured) => self.core.handle_measured(*measured),
        }
    }

    /// Does what the core wants done, then writes once; again, if jobs have waited for that.
    fn flush(&mut self) {
        if matches!(&self.link, Link::Up(up) if !up.blocked) {
            self.published.give_all(&mut self.core);
        }
        self.carry_out();
        self.write();
        if self.core.holds_back() && !matches!(&self.link, Link::Up(up) if up.blocked) {
            self.core.handle_sent();
            self.carry_out();
            self.write();
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send(message) => {
                    if let Link::Up(up) = &mut self.link {
                        up.peer.push(&message);
                    }
                }
                Output::Transfer(number, chunks) => {
                    if let Link::Up(up) = &mut self.link {
                        let pass = |chunks: &Chunks| up.socket.pass(number, chunks);
                        up.peer.push_transfer::<FromEngine>(number, chunks, pass);
                    }
                }
                Output::Start(slot, runtime, job) => self.start(slot, runtime, job),
                Output::StandIn(_, host) => self.slots.add_stand_in(host),
                Output::Pass(slot, _, key, refusal) => {
                    let answer = refusal.map_or_else(|| Ok(self.door.clone()), Err);
                    self.slots.pass(slot, key, answer);
                }
                Output::Registered(engines) => self.registered(engines),
                Output::Draining(reason) => leave::tell_draining(&reason),
                Output::Goodbye(reason) => tracing::info!("{reason}"),
                Output::ForgetInput(slot, key) => self.slots.forget_input(slot, key),
                Output::Lost(slot, how) => self.slots.note_lost(slot, &how),
                Output::Measure(number) => self.slots.measure(number),
                Output::Log(line) => tracing::warn!("{line}"),
                of_slot => self.tell_slot(of_slot),
            }
        }
        self.slots.hand_over();
    }

    fn tell_slot(&mut self, output: Output) {
        match output {
            Output::Cancel(slot, runtime, job, force) => {
                self.slots.cancel(slot, runtime, job, force);
            }
            Output::Recall(slot, runtime, job) => {
                if self.slots.recall(slot, runtime, job) {
                    self.core.handle_recalled(job);
                }
            }
            Output::Signal(slot, runtime, job, signal) => {
                self.slots.signal(slot, runtime, job, signal);
            }
            Output::Look(slot, look) => {
                if let Some(look) = self.slots.look(slot, look) {
                    self.core.handle_slot_event(slot, SlotEvent::not_looked(look));
                }
            }
            Output::Restart(slot) => {
                if !self.slots.restart(slot) {
                    self.core.handle_slot_event(slot, SlotEvent::Down { cause: RESTARTED.into() });
                }
            }
            _ => unreachable!("it is not for a slot"),
        }
    }

    fn start(&mut self, slot: SlotIndex, runtime: Runtime, job: Job) {
        if let Err(reply) = self.slots.start(slot, runtime, job) {
            let (attempt, reply) = *reply;
            self.core.handle_slot_event(slot, SlotEvent::Finished { attempt, reply });
        }
    }

    fn registered(&mut self, engines: Vec<EngineId>) {
        if self.engines != engines {
            let names: Vec<String> = engines.iter().map(ToString::to_string).collect();
            tracing::info!("engines {}", names.join(" "));
        }
        for (slot, id) in (0..).zip(&engines) {
            self.slots.set_engine_id(slot, id.0);
        }
        self.engines = engines;
    }

    fn write(&mut self) {
        let Link::Up(up) = &mut self.link else { return };
        if up.peer.is_empty() {
            up.blocked = false;
            return;
        }
        let written = up.socket.write_from(up.peer.outbox(), WRITE_TURN_BYTES);
        up.peer.handle_written(self.began.elapsed());
        match written {
            // After a full turn the loop runs on: the socket is writable at once.
            Ok(written) => up.blocked = written != Written::All,
            Err(error) => self.down(&format!("the connection broke: {error}")),
        }
    }
}

fn hello(settings: &Settings, identity: &Identity, incarnation: u64) -> HelloBody {
    HelloBody {
        token: Vec::new(),
        session: identity.session,
        incarnation,
        role: Role::Engine,
        software: settings.software.clone(),
        abilities: ANSWERS_MEASURE,
    }
}

/// Waits, reads the capability file as it is now, and dials: the broker may have moved since the
/// last time.
async fn connect(
    source: Source,
    mut hello: HelloBody,
    wait: Duration,
) -> Result<(Dialed, String), NoConnection> {
    tokio::time::sleep(wait).await;
    let capability = source.load()?;
    if capability.role() != Role::Engine {
        return Err(NoConnection::Role { path: source.place(), role: capability.role() });
    }
    hello.token = capability.token().as_bytes().to_vec();
    Ok((dial(capability.door(), &hello).await?, capability.door().to_json()))
}

/// The error when there is no connection.
#[derive(Debug, thiserror::Error)]
enum NoConnection {
    #[error(transparent)]
    Capability(#[from] CapabilityFileError),
    #[error("{} is for role {role}: an engine needs engine.cap.json", path.display())]
    Role { path: PathBuf, role: Role },
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection task ended")]
    Ended,
}

impl NoConnection {
    /// Returns true if another try may help: nobody is there yet, or no longer. A file that is
    /// refused stays refused.
    fn is_transient(&self) -> bool {
        match self {
            Self::Capability(CapabilityFileError::File(error)) => {
                matches!(error.problem, FileProblem::Missing)
            }
            Self::Capability(_) | Self::Role { .. } => false,
            Self::Dial(error) => error.is_transient(),
            Self::Ended => true,
        }
    }
}

/// The reason why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Broker(#[from] BrokerMisbehaved),
}
