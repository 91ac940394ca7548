//! The plan of a history: the size of the farm, and a list of acts, each at its time. A seed makes
//! both, and a shorter list of acts is a history, too.

use std::fmt;

use furlong_link::peer::place::{EXTRAS_QUEUE_BYTES_MAX, FETCHED_QUEUE_BYTES_MAX, LeftOutAbove};
use furlong_wire::message::Runtime;

use crate::dice::Dice;
use crate::network::{Quality, SlowReaders};

/// The farm of a history.
#[derive(Clone, Debug)]
pub struct Setup {
    pub processes: Vec<ProcessSpec>,
    pub clients: Vec<ClientSpec>,
    pub payload_bytes_max: u64,
    pub session_tasks_max: u64,
    /// The mean pause between two acts, in microseconds.
    pub pause_us: u64,
    /// The number of faults in a thousand acts.
    pub faults: u64,
    pub quality: Quality,
    pub slow_readers: SlowReaders,
    /// True if the broker has a journal.
    pub has_journal: bool,
    /// The longest time that a write to its disk takes, in microseconds.
    pub disk_us: u64,
    /// The number of calls in ten that are durable then.
    pub durables: u64,
}

/// An engine process, and those that are started in its place.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    pub slots: u32,
    pub runtimes: Vec<Runtime>,
    pub labels: Vec<&'static str>,
}

/// A client, and those that come in its place.
#[derive(Clone, Debug)]
pub struct ClientSpec {
    pub owner: u8,
    pub is_admin: bool,
    pub scopes: Vec<&'static str>,
    pub tasks_max: u64,
    pub payload_bytes_max: u64,
    pub cancel_on_disconnect: bool,
    /// It says no names of kinds of tasks.
    pub hides_names: bool,
}

/// One act, at its time.
#[derive(Clone, Debug)]
pub struct Planned {
    pub at: u64,
    pub act: Act,
}

/// Something that is done to the farm. Numbers choose among what is there, modulo how much of it
/// there is.
#[derive(Clone, Debug)]
pub enum Act {
    Submit {
        client: u64,
        copies: u64,
        call: Box<CallPlan>,
    },
    Cancel {
        client: u64,
        tasks: Choice,
        force: bool,
        twice: bool,
    },
    CancelStream {
        client: u64,
        force: bool,
    },
    CancelOfAnother {
        client: u64,
        of: u64,
        tasks: Choice,
        force: bool,
    },
    Fetch {
        client: u64,
        of: u64,
        tasks: Choice,
        wait: bool,
        follow: bool,
    },
    Purge {
        client: u64,
        of: u64,
        tasks: Choice,
    },
    Ask {
        client: u64,
        what: Question,
    },
    Signal {
        client: u64,
        engine: u64,
        signal: i32,
    },
    Restart {
        client: u64,
        engine: u64,
    },
    Shutdown {
        client: u64,
        engine: u64,
        whole: bool,
        finish: bool,
    },
    Forget {
        client: u64,
        tasks: Choice,
    },
    Close {
        client: u64,
    },
    ClientDies {
        client: u64,
        loses_sent: bool,
    },
    RevokeClient {
        client: u64,
        by_request: bool,
    },
    RevokeProcess {
        process: u64,
    },
    Cut {
        peer: u64,
        of_client: bool,
        how: Cut,
    },
    CutAll {
        part: u64,
        how: Cut,
    },
    ProcessDies {
        process: u64,
        loses_sent: bool,
        silent: bool,
    },
    ProcessDrains {
        process: u64,
    },
    ProcessLeaves {
        process: u64,
    },
    InterpreterDies {
        process: u64,
        slot: u64,
    },
    CannotBegin {
        process: u64,
        runtime: Runtime,
        class: Option<u32>,
        us: u64,
    },
    BrokerDies {
        down_us: u64,
        silent: bool,
    },
    DiskFails {
        us: u64,
    },
    BrokerPauses {
        us: u64,
    },
    /// A client's process is stopped: it reads and says nothing, and then goes on.
    ClientStops {
        client: u64,
        us: u64,
    },
}

/// A few tasks of a session, counted back from the last one.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub back: u64,
    pub more: u64,
}

/// A question of a client to the broker.
#[derive(Clone, Copy, Debug)]
pub enum Question {
    Engines,
    Status,
    Tasks,
    Events,
}

/// The ways in which a connection breaks. Times in microseconds.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// Both ends notice, after these times.
    Noticed { broker: u64, peer: u64 },
    /// One end notices soon, the other at its heartbeat limit.
    HalfOpen { broker_notices: bool },
    /// Nothing arrives any longer: both notice at their heartbeat limits.
    Silent,
    /// Nothing arrives for a while, and then everything does.
    Stall { us: u64 },
}

/// The options of a submit, and what its runs do.
#[derive(Clone)]
pub struct CallPlan {
    /// The engines that it is for; none for the shared queue.
    pub targets: Vec<u64>,
    pub runtime: Runtime,
    pub class: u32,
    pub define: Option<u8>,
    pub request_bytes: usize,
    pub priority: i32,
    pub retries: Option<u32>,
    pub error_retries: u32,
    pub backoff_ms: u64,
    pub at_most_once: bool,
    pub queue_timeout_ms: Option<u64>,
    pub run_timeout_ms: Option<u64>,
    pub after: Group,
    pub follow: Group,
    pub require: Vec<&'static str>,
    pub keep: bool,
    pub abort_on_error: bool,
    pub restart_safe: bool,
    pub durable: bool,
    /// True if its result stays at the broker until its client lets go of it.
    pub stay: bool,
    /// The tasks whose results are its inputs: of the next client or its own, counted back from the
    /// last one there.
    pub inputs: Vec<(bool, u64)>,
    pub run_us: u64,
    pub ends: Ends,
    /// Runs that raise before one that ends so.
    pub fails_first: u32,
    pub responds: bool,
    pub result_bytes: usize,
    pub output_bytes: usize,
    pub published_bytes: usize,
    pub reader: Reader,
}

/// The dependencies of a task: counted back from itself.
#[derive(Clone, Default, Debug)]
pub struct Group {
    pub any: bool,
    pub demands: Vec<Demand>,
}

#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// True if it is a task of the client's neighbour.
    pub of_neighbour: bool,
    pub back: u64,
    pub success: bool,
    pub failure: bool,
}

/// The end of a run, if nobody ends it before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    Returns,
    Raises,
    Exits,
    KillsInterpreter,
}

/// The reader of the result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    Future,
    Stream,
    Nobody,
}

/// The labels that engines can have, and tasks require.
pub const LABELS: [&str; 2] = ["gpu", "big"];

impl Setup {
    /// The farm of this seed: mostly small.
    pub fn of(seed: u64) -> Self {
        let dice = &mut Dice::of(seed, &[1]);
        let (processes, slots, clients) = match dice.below(100) {
            0..55 => (dice.between(1, 3), 2, dice.between(1, 3)),
            55..85 => (dice.between(2, 6), 4, dice.between(2, 4)),
            85..97 => (dice.between(8, 20), 8, dice.between(2, 6)),
            97..99 => (25, 8, dice.between(3, 8)),
            _ => (200, 1, dice.between(3, 8)),
        };
        let is_large = processes > 20;
        let processes = (0..processes)
            .map(|no| ProcessSpec::of(dice, if is_large { slots } else { 0 }, slots, no));
        let processes = processes.collect();
        let clients = (0..clients).map(|no| ClientSpec::of(dice, no)).collect();
        let latency = dice.pick(&[20, 200, 200, 1_000, 30_000]);
        Self {
            processes,
            clients,
            payload_bytes_max: dice.pick(&[64, 256, 1024, 4096]) * 1024,
            session_tasks_max: dice.pick(&[8, 40, 200, 1000]),
            pause_us: dice.pick(&[50, 300, 300, 2_000, 20_000]),
            faults: dice.pick(&[0, 5, 20, 60, 150]),
            quality: Quality {
                latency,
                jitter: dice.pick(&[0, latency / 2, latency * 4]),
                pace: dice.pick(&[1, 20, 200]),
                window: dice.pick(&[4_000, 60_000, 1_000_000]),
                is_cut_up: dice.one_in(2),
            },
            slow_readers: SlowReaders {
                left_out_above: LeftOutAbove {
                    extra_bytes: dice.pick(&[200, 5_000, EXTRAS_QUEUE_BYTES_MAX]),
                    fetched_bytes: dice.pick(&[500, FETCHED_QUEUE_BYTES_MAX]),
                },
                asks_most: dice.pick(&[1_500, 20_000, 4_000_000]),
            },
            has_journal: dice.one_in(2),
            disk_us: dice.pick(&[5_000, 5_000, 300_000]),
            durables: dice.pick(&[5, 5, 10]),
        }
    }
}

impl ProcessSpec {
    fn of(dice: &mut Dice, slots: u32, slots_max: u32, no: u64) -> Self {
        let slots = if slots > 0 { slots } else { dice.between(1, u64::from(slots_max)) as u32 };
        let runtimes = match dice.below(6) {
            0 if no > 0 => vec![Runtime::Native],
            1 if no > 0 => vec![Runtime::Python],
            _ => Runtime::ALL.to_vec(),
        };
        let labels = LABELS.into_iter().filter(|_| dice.one_in(2)).collect();
        Self { slots, runtimes, labels }
    }
}

impl ClientSpec {
    fn of(dice: &mut Dice, no: u64) -> Self {
        let (tasks_max, payload_bytes_max) = if dice.one_in(5) { (12, 60_000) } else { (0, 0) };
        Self {
            owner: if no > 0 && dice.one_in(3) { 2 } else { 1 },
            is_admin: no == 0,
            scopes: if no > 0 && dice.one_in(6) { vec!["gpu", "attic"] } else { Vec::new() },
            tasks_max,
            payload_bytes_max,
            cancel_on_disconnect: no > 0 && dice.one_in(6),
            hides_names: no % 3 == 2,
        }
    }
}

/// Acts without end.
#[derive(Debug)]
pub struct Acts {
    dice: Dice,
    /// Decides which results stay, and which are inputs.
    flow: Dice,
    at: u64,
    pause_us: u64,
    faults: u64,
    /// Kinds of calls that this history prefers, so that many tasks are like each other.
    habits: Vec<CallPlan>,
}

impl Acts {
    pub fn of(seed: u64, setup: &Setup) -> Self {
        let mut dice = Dice::of(seed, &[2]);
        let habits = (0..3).map(|_| CallPlan::of(&mut dice, setup)).collect();
        let flow = Dice::of(seed, &[12]);
        Self { dice, flow, at: 1_000, pause_us: setup.pause_us, faults: setup.faults, habits }
    }

    pub fn next(&mut self, setup: &Setup) -> Planned {
        let dice = &mut self.dice;
        let pause = match dice.below(1_000) {
            0 => dice.pick(&[1_000_000, 16_000_000]),
            1 if dice.one_in(8) => dice.pick(&[40_000_000, 700_000_000]),
            _ => dice.below(2 * self.pause_us),
        };
        self.at += pause;
        let act = if dice.below(1_000) < self.faults { fault(dice) } else { self.work(setup) };
        Planned { at: self.at, act }
    }

    fn work(&mut self, setup: &Setup) -> Act {
        let dice = &mut self.dice;
        let (client, of) = (dice.below(1 << 20), dice.below(1 << 20));
        let tasks = Choice { back: dice.below(12), more: dice.below(3) };
        let force = dice.one_in(2);
        match dice.below(100) {
            0..72 => {
                let habit = dice.below(2 * self.habits.len() as u64) as usize;
                let mut call =
                    self.habits.get(habit).cloned().unwrap_or_else(|| CallPlan::of(dice, setup));
                if call.durable && dice.one_in(4) {
                    call.after = Group::of_the_last(dice);
                }
                let copies = if dice.one_in(6) { dice.between(2, 20) } else { 1 };
                call.flows(&mut self.flow);
                Act::Submit { client, copies, call: Box::new(call) }
            }
            72..80 => Act::Cancel { client, tasks, force, twice: dice.one_in(3) },
            80 => Act::CancelStream { client, force },
            81..84 => Act::CancelOfAnother { client, of, tasks, force },
            84..89 => {
                Act::Fetch { client, of, tasks, wait: dice.one_in(2), follow: dice.one_in(2) }
            }
            89 => Act::Purge { client, of, tasks },
            90..93 => {
                let what = dice.pick(&[
                    Question::Engines,
                    Question::Status,
                    Question::Tasks,
                    Question::Events,
                ]);
                Act::Ask { client, what }
            }
            93..95 => Act::Signal {
                client,
                engine: dice.below(1 << 20),
                signal: dice.pick(&[2, 2, 9, 10]),
            },
            95..97 => Act::Restart { client, engine: dice.below(1 << 20) },
            97 => Act::Forget { client, tasks },
            98 if dice.one_in(2) => {
                let runtime = dice.weigh(&[
                    (6, Runtime::Native),
                    (5, Runtime::Python),
                    (2, Runtime::Command),
                ]);
                let class = dice.one_in(2).then(|| dice.below(3) as u32);
                let us = dice.pick(&[1_000, 100_000, 3_000_000, 100_000_000]);
                Act::CannotBegin { process: dice.below(1 << 20), runtime, class, us }
            }
            _ => Act::InterpreterDies { process: dice.below(1 << 20), slot: dice.below(8) },
        }
    }
}

fn cut(dice: &mut Dice) -> Cut {
    match dice.below(10) {
        0..4 => Cut::Noticed { broker: dice.below(5_000), peer: dice.below(5_000) },
        4 => Cut::Noticed { broker: dice.below(3_000_000), peer: dice.below(3_000_000) },
        5 | 6 => Cut::HalfOpen { broker_notices: dice.one_in(2) },
        7 => Cut::Silent,
        _ => Cut::Stall { us: dice.pick(&[2_000, 100_000, 3_000_000, 14_000_000, 20_000_000]) },
    }
}

fn fault(dice: &mut Dice) -> Act {
    let (client, process) = (dice.below(1 << 20), dice.below(1 << 20));
    let loses_sent = dice.one_in(2);
    match dice.below(100) {
        0..30 => Act::Cut { peer: process, of_client: false, how: cut(dice) },
        30..50 => Act::Cut { peer: client, of_client: true, how: cut(dice) },
        50..54 => Act::CutAll { part: dice.between(1, 3), how: cut(dice) },
        54..64 => Act::ProcessDies { process, loses_sent, silent: dice.one_in(4) },
        64..69 => Act::ProcessDrains { process },
        69..72 => Act::ProcessLeaves { process },
        72..76 => Act::Close { client },
        76..80 => Act::ClientDies { client, loses_sent },
        80 => Act::RevokeClient { client, by_request: dice.one_in(2) },
        81 => Act::RevokeProcess { process },
        82..85 => {
            let (engine, whole, finish) = (dice.below(1 << 20), dice.one_in(2), dice.one_in(2));
            Act::Shutdown { client, engine, whole, finish }
        }
        85..87 if dice.one_in(2) => Act::DiskFails { us: dice.pick(&[1_000, 300_000, 5_000_000]) },
        85..96 => Act::BrokerDies {
            down_us: dice.pick(&[0, 1_000, 300_000, 3_000_000]),
            silent: dice.one_in(6),
        },
        // Not for so long that its session is over.
        96 | 97 => Act::ClientStops {
            client,
            us: dice.pick(&[300_000, 3_000_000, 20_000_000, 100_000_000, 500_000_000]),
        },
        _ => Act::BrokerPauses { us: dice.pick(&[1_000, 100_000, 2_000_000]) },
    }
}

impl CallPlan {
    fn of(dice: &mut Dice, setup: &Setup) -> Self {
        let targets: Vec<u64> = match dice.below(10) {
            0..6 => Vec::new(),
            6..9 => vec![dice.below(1 << 20)],
            _ => (0..dice.between(2, 6)).map(|_| dice.below(1 << 20)).collect(),
        };
        let direct = !targets.is_empty();
        let at_most_once = dice.one_in(7);
        let once = (at_most_once || direct) && !dice.one_in(40);
        let error_retries = if once { 0 } else { dice.pick(&[0, 0, 0, 1, 3]) };
        let large = setup.payload_bytes_max >= 4 << 20 && dice.one_in(60);
        let bytes = |dice: &mut Dice| dice.pick(&[0, 0, 0, 0, 0, 0, 40, 900, 2_000, 9_000]);
        let runtime =
            dice.weigh(&[(6, Runtime::Native), (5, Runtime::Python), (2, Runtime::Command)]);
        Self {
            targets,
            runtime,
            class: dice.below(3) as u32,
            define: dice.one_in(7).then(|| dice.below(3) as u8),
            request_bytes: if large { 300_000 } else { bytes(dice) },
            priority: dice.pick(&[0, 0, 0, 0, -1, 1]),
            retries: dice.pick(&[None, None, None, Some(0), Some(1), Some(9)]),
            error_retries,
            backoff_ms: dice.pick(&[0, 0, 2, 40_000]),
            at_most_once,
            queue_timeout_ms: dice.weigh(&[
                (12, None),
                (1, Some(2)),
                (1, Some(300)),
                (1, Some(10_000)),
            ]),
            run_timeout_ms: dice.weigh(&[
                (12, None),
                (1, Some(2)),
                (1, Some(300)),
                (1, Some(10_000)),
            ]),
            after: Group::of(dice),
            follow: Group::of(dice),
            require: if dice.one_in(9) {
                dice.pick(&[&["gpu"][..], &["big"], &["big", "gpu"]]).to_vec()
            } else {
                vec![]
            },
            keep: dice.one_in(7),
            abort_on_error: dice.one_in(5),
            restart_safe: dice.one_in(3),
            durable: setup.has_journal && dice.below(10) < setup.durables,
            stay: false,
            inputs: Vec::new(),
            run_us: dice.pick(&[0, 5, 100, 400, 400, 3_000, 60_000, 2_000_000]),
            ends: dice.weigh(&[
                (20, Ends::Returns),
                (4, Ends::Raises),
                (1, Ends::Exits),
                (1, Ends::KillsInterpreter),
            ]),
            fails_first: dice.pick(&[0, 0, 0, 0, 1, 2]),
            responds: !dice.one_in(4),
            result_bytes: if large { 300_000 } else { bytes(dice) },
            output_bytes: dice.pick(&[0, 0, 0, 0, 10, 40_000]),
            published_bytes: dice.pick(&[0, 0, 0, 0, 10, 3_000]),
            reader: dice.weigh(&[(12, Reader::Future), (5, Reader::Stream), (1, Reader::Nobody)]),
        }
    }
}

impl CallPlan {
    /// Decides whether its result stays, and which results are its inputs: for those it waits, and
    /// for no others.
    fn flows(&mut self, dice: &mut Dice) {
        if self.durable || !dice.one_in(3) {
            return;
        }
        self.stay = dice.one_in(2);
        if dice.one_in(2) {
            let count = dice.between(1, 3);
            self.inputs = (0..count).map(|_| (dice.one_in(6), dice.between(1, 6))).collect();
            self.after = Group::default();
        }
    }
}

impl fmt::Debug for CallPlan {
    /// Says what is not as usual.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} after {} us", self.runtime, self.ends, self.run_us)?;
        let mut say =
            |is_said: bool, text: String| if is_said { write!(f, ", {text}") } else { Ok(()) };
        say(!self.targets.is_empty(), format!("for engines {:?}", self.targets))?;
        say(self.class > 0, format!("class {}", self.class))?;
        say(self.define.is_some(), format!("define {:?}", self.define))?;
        say(self.request_bytes > 0, format!("{} bytes", self.request_bytes))?;
        say(self.priority != 0, format!("priority {}", self.priority))?;
        say(self.retries.is_some(), format!("retries {:?}", self.retries))?;
        say(self.error_retries > 0, format!("{} error retries", self.error_retries))?;
        say(self.backoff_ms > 0, format!("backoff {} ms", self.backoff_ms))?;
        say(self.at_most_once, "at most once".to_owned())?;
        say(self.queue_timeout_ms.is_some(), format!("queue timeout {:?}", self.queue_timeout_ms))?;
        say(self.run_timeout_ms.is_some(), format!("run timeout {:?}", self.run_timeout_ms))?;
        say(!self.after.demands.is_empty(), format!("after {:?}", self.after))?;
        say(!self.follow.demands.is_empty(), format!("follow {:?}", self.follow))?;
        say(!self.require.is_empty(), format!("require {:?}", self.require))?;
        say(self.keep, "keep".to_owned())?;
        say(self.abort_on_error, "abort on error".to_owned())?;
        say(self.restart_safe, "restart safe".to_owned())?;
        say(self.durable, "durable".to_owned())?;
        say(self.stay, "stays".to_owned())?;
        say(!self.inputs.is_empty(), format!("inputs {:?}", self.inputs))?;
        say(self.fails_first > 0, format!("fails {} times first", self.fails_first))?;
        say(!self.responds, "responds to nothing".to_owned())?;
        say(self.result_bytes > 0, format!("result of {} bytes", self.result_bytes))?;
        say(self.output_bytes > 0, format!("writes {} bytes", self.output_bytes))?;
        say(self.published_bytes > 0, format!("publishes {} bytes", self.published_bytes))?;
        say(self.reader != Reader::Future, format!("read by {:?}", self.reader))
    }
}

impl Group {
    /// All of the last ones, however they end: some may have ended when the broker is killed, and
    /// others not.
    fn of_the_last(dice: &mut Dice) -> Self {
        let demands = (1..=dice.between(2, 4)).map(|back| Demand {
            of_neighbour: false,
            back,
            success: true,
            failure: true,
        });
        Self { any: false, demands: demands.collect() }
    }

    fn of(dice: &mut Dice) -> Self {
        if !dice.one_in(8) {
            return Self::default();
        }
        let demands = (0..dice.between(1, 3)).map(|_| {
            let (success, failure) = dice.weigh(&[
                (6, (true, false)),
                (2, (false, true)),
                (4, (true, true)),
                (1, (false, false)),
            ]);
            let back = if dice.one_in(25) { 0 } else { dice.between(1, 5) };
            Demand { of_neighbour: dice.one_in(6), back, success, failure }
        });
        let demands = demands.collect();
        Self { any: dice.one_in(2), demands }
    }
}
