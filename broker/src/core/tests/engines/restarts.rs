//! Any sequence of cuts and restarts: what may run once runs once at most, every task ends, and
//! nothing is left.

use std::collections::BTreeMap;
use std::time::Duration;

use furlong_wire::ids::{Attempt, EngineId, SessionId};
use furlong_wire::message::{
    ErrorKind, Payload, Runtime, Submit, TaskOptions, TaskState, ToEngine,
};
use proptest::prelude::*;

use crate::core::invariants;
use crate::core::tests::farm::peers::{Farm, at_most_once, direct, python, shared, with};

/// One event. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Event {
    /// Of which kind, and whether it is durable.
    Submits(usize, bool),
    Finishes(usize),
    FinishesUnheard(usize, bool),
    Cut(usize),
    /// The last thing that an engine was given had not come to it.
    CutTooEarly(usize),
    EngineReturns(usize),
    ClientLosesConnection,
    ClientReturns,
    Cancels(u64),
    Acknowledges,
    BrokerRestarts,
    TimePasses(u64),
    /// From now on the disk takes until it is said to have written.
    DiskSlows,
    DiskWrites,
    DiskFails,
}

fn event() -> impl Strategy<Value = Event> {
    let engine = || 0..ENGINES;
    prop_oneof![
        8 => (0..4usize, any::<bool>()).prop_map(|(kind, durable)| Event::Submits(kind, durable)),
        6 => engine().prop_map(Event::Finishes),
        3 => (engine(), any::<bool>())
            .prop_map(|(engine, large)| Event::FinishesUnheard(engine, large)),
        2 => engine().prop_map(Event::Cut),
        2 => engine().prop_map(Event::CutTooEarly),
        6 => engine().prop_map(Event::EngineReturns),
        1 => Just(Event::ClientLosesConnection),
        4 => Just(Event::ClientReturns),
        1 => (1..20u64).prop_map(Event::Cancels),
        2 => Just(Event::Acknowledges),
        2 => Just(Event::BrokerRestarts),
        3 => prop_oneof![Just(400u64), Just(1_000), Just(14_000)].prop_map(Event::TimePasses),
        1 => Just(Event::DiskSlows),
        4 => Just(Event::DiskWrites),
        1 => Just(Event::DiskFails),
    ]
}

const ENGINES: usize = 2;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_may_run_once_does_so_through_cuts_and_restarts(
        events in prop::collection::vec(event(), 1..60),
    ) {
        History::new(false).takes(&events);
    }

    #[test]
    fn what_may_run_once_does_so_with_a_journal(events in prop::collection::vec(event(), 1..60)) {
        History::new(true).takes(&events);
    }
}

struct History {
    farm: Farm,
    /// The submits, by number, each with a flag that is true if it may run once only.
    submits: BTreeMap<u64, (Submit, bool)>,
    /// The number of times each task came to an engine and stayed there.
    came: BTreeMap<(SessionId, u64), usize>,
    seen: [usize; ENGINES],
    /// True if the broker has a journal; the second, true if its disk has ever failed.
    has_journal: bool,
    disk_failed: bool,
}

impl History {
    fn new(has_journal: bool) -> Self {
        let mut farm =
            if has_journal { Farm::with_journal(8 << 20, 10_000) } else { Farm::default() };
        farm.client();
        (0..ENGINES).for_each(|_| _ = farm.engine_with(1, Runtime::ALL));
        let (submits, came, seen) = (BTreeMap::new(), BTreeMap::new(), [0; ENGINES]);
        Self { farm, submits, came, seen, has_journal, disk_failed: false }
    }

    fn takes(&mut self, events: &[Event]) {
        for event in events {
            self.take(event);
            invariants::hold(&self.farm.core);
        }
        self.comes_to_rest();
    }

    fn take(&mut self, event: &Event) {
        let farm = &mut self.farm;
        let is_here = |farm: &Farm, engine: usize| farm.processes[engine].connection.is_some();
        match *event {
            Event::Submits(kind, durable) => self.submits(kind, durable),
            Event::Finishes(engine) => self.finishes(engine),
            Event::FinishesUnheard(engine, large) if is_here(farm, engine) => {
                if !farm.processes[engine].jobs.is_empty() {
                    let inline = Payload::Inline(vec![1].into());
                    let payload =
                        if large { farm.processes[engine].large_result(2_000) } else { inline };
                    farm.finish_unheard(engine, payload);
                }
            }
            Event::Cut(engine) => farm.disconnect_engine(engine),
            Event::CutTooEarly(engine) => self.cut_too_early(engine),
            Event::EngineReturns(engine) if !is_here(farm, engine) => farm.connect_engine(engine),
            Event::ClientLosesConnection => farm.disconnect_client(0),
            Event::ClientReturns => self.client_returns(),
            Event::Cancels(n) if farm.clients[0].connection.is_some() => farm.cancel(0, n, n),
            Event::Acknowledges => self.acknowledges(),
            Event::BrokerRestarts => farm.restart(),
            Event::TimePasses(ms) => farm.wait(Duration::from_millis(ms)),
            Event::DiskSlows => farm.disk.is_slow = true,
            Event::DiskWrites => farm.sync_once(),
            Event::DiskFails => {
                self.disk_failed |= !farm.disk.unwritten.is_empty();
                farm.fail_to_sync();
            }
            Event::FinishesUnheard(..) | Event::EngineReturns(_) | Event::Cancels(_) => {}
        }
        self.look();
    }

    fn submits(&mut self, kind: usize, durable: bool) {
        let (farm, id) = (&mut self.farm, EngineId(0));
        if farm.clients[0].connection.is_none() {
            return;
        }
        let (submit, once) = match kind {
            0 => (shared(), false),
            1 => (with(shared(), at_most_once()), true),
            2 => (direct(&[id]), true),
            _ => (python(direct(&[id])), true),
        };
        let options = submit.options.as_deref().cloned().unwrap_or_default();
        let options = TaskOptions { durable: durable && self.has_journal, ..options };
        let submit = with(submit, options);
        let n = farm.submit(0, submit.clone());
        self.submits.insert(n, (submit, once));
    }

    fn finishes(&mut self, engine: usize) {
        let it = &self.farm.processes[engine];
        if it.connection.is_some() && !it.jobs.is_empty() {
            // So short that more is sent ahead.
            self.farm.finish_after(engine, 1);
        }
    }

    /// Cuts a connection with an assignment in flight, which the engine never sees.
    fn cut_too_early(&mut self, engine: usize) {
        let it = &mut self.farm.processes[engine];
        let mut of_this_connection =
            it.received.iter().rev().take_while(|it| !matches!(it, ToEngine::Registered(_)));
        let last = of_this_connection
            .find_map(|it| if let ToEngine::Assign(it) = it { Some(it) } else { None });
        let Some(id) = last.and_then(|assign| assign.work.iter().last()).map(|work| work.attempt)
        else {
            return;
        };
        let attempt = Attempt { start: it.start, id };
        if it.connection.is_none() || it.last_received != Some(attempt) {
            return;
        }
        let Some(place) = it.jobs.iter().position(|job| job.attempt == attempt) else { return };
        let job = it.jobs.remove(place);
        it.last_received =
            it.jobs.iter().chain(it.results.iter().map(|it| &it.job)).map(|job| job.attempt).max();
        *self.came.get_mut(&(job.session, job.n)).expect("it was seen") -= 1;
        self.farm.disconnect_engine(engine);
    }

    /// The client goes on with its session, and submits again what it waits for.
    fn client_returns(&mut self) {
        if self.farm.clients[0].connection.is_some() {
            return;
        }
        let is_new = !self.farm.connect_client(0).unwrap();
        if !is_new {
            return;
        }
        for (n, (submit, _)) in &self.submits {
            if !self.farm.clients[0].finished.contains_key(n) {
                self.farm.repeat(0, *n, submit.clone());
            }
        }
    }

    fn acknowledges(&mut self) {
        if self.farm.clients[0].connection.is_some() {
            let ended: Vec<u64> = self.farm.clients[0].finished.keys().copied().collect();
            for n in ended {
                self.farm.ack(0, n, n);
            }
            self.farm.core.handle_tick();
            self.farm.pump();
        }
    }

    /// Looks at what engines were given since the last time.
    fn look(&mut self) {
        for engine in 0..ENGINES {
            let received = &self.farm.processes[engine].received;
            for message in &received[self.seen[engine]..] {
                let ToEngine::Assign(assign) = message else { continue };
                let session = assign.session.expect("it was noted when it came");
                for work in assign.work.iter() {
                    let came = self.came.entry((session, work.n.0)).or_default();
                    *came += 1;
                    assert!(
                        !self.submits[&work.n.0].1 || *came == 1,
                        "task {} came {came} times",
                        work.n
                    );
                }
            }
            self.seen[engine] = received.len();
        }
    }

    /// Everybody comes back, engines end what they have, and all is acknowledged.
    fn comes_to_rest(&mut self) {
        self.farm.disk.is_slow = false;
        self.farm.sync();
        self.client_returns();
        for engine in 0..ENGINES {
            self.take(&Event::EngineReturns(engine));
        }
        self.farm.wait(Duration::from_secs(16));
        loop {
            self.look();
            let work = |it: &crate::core::tests::farm::peers::EngineProcess| {
                !it.jobs.is_empty() || !it.sending.chunks.is_empty()
            };
            let Some(engine) = self.farm.processes.iter().position(work) else { break };
            while self.farm.send_result_chunk(engine) {}
            self.finishes(engine);
            invariants::hold(&self.farm.core);
        }
        let finished = &self.farm.clients[0].finished;
        assert!(self.submits.keys().all(|n| finished.contains_key(n)), "every task has ended");
        for (n, (_, once)) in &self.submits {
            let state = finished[n].outcome.state;
            let is_lost = !matches!(state, TaskState::Succeeded | TaskState::Cancelled);
            let kind = finished[n].outcome.error.as_ref().map(|error| error.kind);
            let is_refused = self.disk_failed && kind == Some(ErrorKind::Journal);
            assert!(
                *once || !is_lost || is_refused,
                "task {n} may run as often as need be, and is {state:?}"
            );
        }
        self.acknowledges();
        self.farm.goodbye(0);
        self.farm.wait(Duration::from_secs(700));
        self.farm.core.handle_tick();
        self.farm.pump();
        invariants::is_quiet(&self.farm.core);
        assert_eq!(self.farm.core.recovery.orphans.len(), 0);
        assert_eq!(
            (self.farm.core.recovery.journal.acts(), self.farm.disk.journal.counts()),
            (0, (0, 0))
        );
        assert!(
            self.farm.processes.iter().all(|it| it.results.is_empty()),
            "engines hold nothing any longer"
        );
    }
}

/// The engine was cut off when it was given the task a second time, under another start of the
/// broker.
#[test]
fn a_task_that_an_engine_holds_twice_goes_on_once() {
    use Event::{
        BrokerRestarts, ClientReturns, CutTooEarly, EngineReturns, Finishes, Submits, TimePasses,
    };
    let events = [
        Submits(0, false),
        CutTooEarly(0),
        EngineReturns(0),
        BrokerRestarts,
        TimePasses(1000),
        ClientReturns,
        EngineReturns(0),
        CutTooEarly(0),
        EngineReturns(1),
        BrokerRestarts,
        ClientReturns,
        EngineReturns(1),
        Finishes(1),
        BrokerRestarts,
    ];
    History::new(false).takes(&events);
}

/// The end of a task that a broker has told nobody is forgotten with that broker: the engine must
/// hold on to its own.
#[test]
fn a_task_that_was_lost_before_its_engine_came_back_does_not_run_at_the_next_start() {
    use Event::{
        BrokerRestarts, ClientLosesConnection, ClientReturns, Cut, EngineReturns, FinishesUnheard,
    };
    use Event::{Submits, TimePasses};
    for (kind, ends) in
        [(2, FinishesUnheard(0, false)), (2, FinishesUnheard(0, true)), (2, Cut(0)), (3, Cut(0))]
    {
        let events = [
            Submits(kind, false),
            ends,
            BrokerRestarts,
            TimePasses(14_000),
            ClientReturns,
            ClientLosesConnection,
            TimePasses(1_000),
            EngineReturns(0),
            BrokerRestarts,
        ];
        for has_journal in [false, true] {
            History::new(has_journal).takes(&events);
        }
    }
}
