//! Nothing that happens to an engine, a process or a session takes longer than a turn, however much
//! it has: counted in steps.

use std::collections::BTreeMap;
use std::time::Duration;

use furlong_wire::ids::{EngineId, SessionId, TaskSeq};
use furlong_wire::message::{
    AttemptFinished, Draining, ErrorKind, Event, FromClient, FromEngine, Open, Outcome, Restart,
    RunTimes, SlotDown, Submit, Subscribe, TaskOptions, TaskState, ToClient,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::token::Role;

use crate::core::tests::costs::work::{World, register};
use crate::core::tests::farm::peers::{direct, python, shared, with};
use crate::core::turns::work::{TASKS_PER_PART, steps};
use crate::core::{ConnectionId, Core, Roster, Time, WORK_PER_TURN, invariants};

/// More than any turn may look at.
pub(in crate::core::tests) const MANY: u64 = 4 * WORK_PER_TURN;
/// The most that one turn may cost: several things can be due in it, and each may take what a turn
/// of messages may.
const TURN_MAX: u64 = 3 * WORK_PER_TURN;
pub(in crate::core::tests) const GRACE: Duration = Duration::from_secs(15);

/// What a list of turns has cost: how many there were, and the dearest of them.
#[derive(Default, Debug)]
pub(in crate::core::tests) struct Turns {
    pub(in crate::core::tests) count: usize,
    dearest: u64,
}

impl Turns {
    pub(in crate::core::tests) fn count(
        &mut self,
        world: &mut World,
        turn: impl FnOnce(&mut World),
    ) {
        let before = steps();
        turn(world);
        self.count += 1;
        self.dearest = self.dearest.max(steps() - before);
        assert!(self.dearest <= TURN_MAX, "turn {} cost {} steps", self.count, self.dearest);
        world.settle();
    }

    /// What is left for later turns, until nothing is.
    pub(in crate::core::tests) fn count_all_that_follow(&mut self, world: &mut World) {
        while world.core.poll_timeout().is_some_and(|at| at <= world.now) {
            let now = world.now;
            self.count(world, |world| world.core.handle_timeout(now));
        }
    }

    /// So many things were done in parts.
    pub(in crate::core::tests) fn are_many_for(&self, things: u64) {
        assert!(self.count as u64 >= things / TASKS_PER_PART as u64 / 2, "{self:?} for {things}");
    }
}

impl World {
    /// One event, and all that is left of it for later turns.
    pub(in crate::core::tests) fn turns(&mut self, event: impl FnOnce(&mut Core, Time)) -> Turns {
        let mut turns = Turns::default();
        let now = self.now;
        turns.count(self, |world| {
            event(&mut world.core, now);
            world.core.dispatch(now);
        });
        turns.count_all_that_follow(self);
        turns
    }

    pub(in crate::core::tests) fn wait(&mut self, time: Duration) -> Turns {
        self.now = self.now.after(time);
        let mut turns = Turns::default();
        turns.count_all_that_follow(self);
        turns
    }

    pub(in crate::core::tests) fn disconnect(&mut self, connection: ConnectionId) -> Turns {
        self.turns(|core, now| core.handle_disconnected(now, connection))
    }

    fn tell(&mut self, engine: ConnectionId, message: FromEngine) -> Turns {
        self.turns(|core, now| core.handle_from_engine(now, engine, message, None).unwrap())
    }

    /// A client that has submitted so many tasks.
    pub(in crate::core::tests) fn with_tasks(
        &mut self,
        tasks: u64,
        submit: &Submit,
    ) -> ConnectionId {
        let client = self.client(Role::Client);
        (0..tasks).for_each(|_| _ = self.submit(client, submit.clone()));
        client
    }

    /// How the tasks of a client have ended.
    fn ends(&mut self, client: ConnectionId) -> BTreeMap<(TaskState, Option<ErrorKind>), u64> {
        let mut ends = BTreeMap::new();
        for (to, message) in std::mem::take(&mut self.to_clients) {
            if let ToClient::Finished(finished) = message
                && to == client
            {
                let kind = finished.outcome.error.map(|error| error.kind);
                *ends.entry((finished.outcome.state, kind)).or_default() += 1;
            }
        }
        ends
    }
}

fn namespaced(engine: EngineId) -> Submit {
    python(direct(&[engine]))
}

#[test]
fn ten_thousand_engines_that_go_and_come_are_told_to_many_in_many_turns() {
    let (processes, slots, subscribers) = (10_u64, 1_000_u64, 30_usize);
    let mut world = World::empty();
    let mut connections: Vec<_> = (0..processes)
        .map(|process| world.process(u128::from(process), u128::from(slots)))
        .collect();
    let clients: Vec<_> = (0..subscribers).map(|_| world.client(Role::Observer)).collect();
    for client in &clients {
        world.say(*client, FromClient::Subscribe(Subscribe { engines: true })).unwrap();
    }
    world.to_clients.clear();
    let mut turns = 0;
    for (process, connection) in connections.iter_mut().enumerate() {
        turns += world.disconnect(*connection).count;
        *connection = world.connect(Role::Engine, 1 << 64);
        let again = register(process as u128, u128::from(slots));
        turns += world.tell(*connection, FromEngine::Register(again.into())).count;
    }
    let messages = 2 * processes * slots * subscribers as u64;
    assert!(
        turns as u64 >= messages / (2 * TASKS_PER_PART as u64),
        "{turns} turns for {messages} messages"
    );
    let mut told: BTreeMap<ConnectionId, Vec<(bool, EngineId)>> = BTreeMap::new();
    for (to, message) in &world.to_clients {
        match message {
            ToClient::Event(Event::EngineOnline(id)) => {
                told.entry(*to).or_default().push((true, *id));
            }
            ToClient::Event(Event::EngineOffline(id)) => {
                told.entry(*to).or_default().push((false, *id));
            }
            _ => {}
        }
    }
    let expected: Vec<(bool, EngineId)> = (0..processes as u32)
        .flat_map(|process| {
            let ids = process * slots as u32..(process + 1) * slots as u32;
            [false, true]
                .into_iter()
                .flat_map(move |is_online| ids.clone().map(move |id| (is_online, EngineId(id))))
        })
        .collect();
    assert_eq!(told.len(), subscribers);
    assert!(
        told.values().all(|events| *events == expected),
        "everybody is told everything, in its order"
    );
}

#[test]
fn an_engine_process_waits_while_very_much_is_to_be_told() {
    let mut world = World::empty();
    let observer = world.client(Role::Observer);
    world.say(observer, FromClient::Subscribe(Subscribe { engines: true })).unwrap();
    let engine = world.process(1, 1);
    let down = || FromEngine::SlotDown(SlotDown { slot: 0, cause: "c".repeat(4096) });
    let mut said = 0;
    while !world.core.has_rest(engine) {
        world.core.handle_from_engine(world.now, engine, down(), None).unwrap();
        said += 1;
        assert!(said < 10_000, "nobody reads, and it goes on");
    }
    world.report(engine, down()).unwrap();
    let mut turns = Turns::default();
    turns.count_all_that_follow(&mut world);
    let restarted = |message: &&(ConnectionId, ToClient)| match &message.1 {
        ToClient::Event(Event::EngineRestarted(_, cause)) => cause.len() == 4096,
        _ => false,
    };
    assert_eq!(world.to_clients.iter().filter(restarted).count(), said + 1);
}

#[test]
fn who_is_given_up_costs_the_same_however_many_there_are() {
    let cost = |others: u64| {
        let mut world = World::empty();
        (0..others).for_each(|_| _ = world.client(Role::Client));
        world.process(1, u128::from(others.min(1_000)));
        let (client, engine) = (world.client(Role::Client), world.process(2, 1));
        world.disconnect(engine);
        world.disconnect(client);
        let mut dearest = world.wait(GRACE).dearest;
        assert_eq!(world.core.engines.iter().count() as u64, others.min(1_000), "it is given up");
        dearest = dearest.max(world.wait(Duration::from_secs(600)).dearest);
        assert_eq!(world.core.sessions.len() as u64, others);
        dearest
    };
    let (few, many) = (cost(30), cost(16_000));
    assert!(many <= few + 10, "{few} steps, and {many} with very many others");
}

#[test]
fn sixteen_thousand_sessions_that_stay_away_end_in_many_turns() {
    let mut world = World::empty();
    let clients: Vec<_> = (0..16_384).map(|_| world.with_tasks(2, &shared())).collect();
    for client in clients {
        world.disconnect(client);
    }
    let turns = world.wait(Duration::from_secs(600));
    assert!(turns.count > 1, "{turns:?}");
    assert_eq!((world.core.sessions.len(), world.core.tasks.len()), (0, 0));
    invariants::hold(&world.core);
}

#[test]
fn an_engine_with_a_long_queue_is_lost_in_many_turns_and_comes_back_after_that() {
    let mut world = World::empty();
    let engine = world.process(1, 1);
    let id = world.last_registered();
    let client = world.with_tasks(MANY, &direct(&[id]));
    world.disconnect(engine);
    world.now = world.now.after(GRACE);
    world.core.handle_timeout(world.now);
    world.settle();
    assert!(world.core.tasks.len() as u64 > MANY - WORK_PER_TURN, "most wait for their turn");
    invariants::hold(&world.core);
    // It takes nothing more, and does not come back before all is lost.
    world.submit(client, direct(&[id]));
    assert_eq!(
        world.ends(client).remove(&(TaskState::Failed, Some(ErrorKind::UnknownEngine))),
        Some(1)
    );
    invariants::hold(&world.core);
    let again = world.connect(Role::Engine, 1 << 64);
    let mut turns = Turns::default();
    let (now, message) = (world.now, FromEngine::Register(register(1, 1).into()));
    turns.count(&mut world, |world| {
        world.core.handle_from_engine(now, again, message, None).unwrap();
    });
    while world.core.has_rest(again) {
        assert_eq!(world.core.engines_online(), 0);
        turns.count(&mut world, |world| world.core.handle_rest(now, again).unwrap());
    }
    turns.are_many_for(MANY);
    assert_eq!((world.core.engines_online(), world.last_registered()), (1, id));
    turns.count_all_that_follow(&mut world);
    assert_eq!(world.core.tasks.len(), 0);
    world.submit(client, direct(&[id]));
    assert_eq!(world.core.attempts.len(), 1, "it is as good as before");
    invariants::hold(&world.core);
}

#[test]
fn a_process_that_has_very_much_in_hand_is_cut_in_many_turns() {
    let mut world = World::empty();
    let slots = 1 + MANY as usize / 512;
    let engine = world.process(1, slots as u128);
    let client = world.with_tasks(1, &shared());
    let attempt = world.core.attempt(world.core.attempts.made());
    let outcome = Outcome::SUCCEEDED;
    world
        .report(
            engine,
            FromEngine::Finished(AttemptFinished {
                attempt,
                outcome,
                times: RunTimes::ran(0),
                payload: None,
            }),
        )
        .unwrap();
    (0..MANY).for_each(|_| _ = world.submit(client, shared()));
    while world.core.poll_timeout().is_some_and(|at| at <= world.now) {
        world.core.handle_timeout(world.now);
        world.settle();
    }
    assert_eq!(world.core.attempts.len() as u64, MANY, "such short tasks are given ahead");
    let turns = world.disconnect(engine);
    assert!(turns.count > 2, "{turns:?}");
    assert_eq!(
        (world.core.attempts.len(), world.core.schedule.placements.tasks_waiting()),
        (0, MANY)
    );
    invariants::hold(&world.core);
}

#[test]
fn a_process_that_is_back_at_once_goes_on_with_what_it_has_in_hand() {
    let mut world = World::empty();
    let (slots, each) = (2 * TASKS_PER_PART as u64, 1);
    let connections: Vec<_> =
        (0..2).map(|process| world.process(process, u128::from(slots / 2))).collect();
    let client = world.with_tasks(slots * each, &shared());
    assert_eq!(world.core.attempts.len() as u64, slots);
    // Both are cut in one turn: the second one's work waits for its turn when it is back.
    let now = world.now;
    connections.iter().for_each(|connection| world.core.handle_disconnected(now, *connection));
    world.settle();
    let left = world.core.attempts.len();
    let mut turns = Turns::default();
    turns.count_all_that_follow(&mut world);
    assert_eq!(world.core.attempts.len(), 0, "{left} were left for later turns");
    invariants::hold(&world.core);
    assert!(world.ends(client).is_empty());
}

#[test]
fn a_session_with_very_many_tasks_ends_in_many_turns_for_whatever_reason() {
    type End = fn(&mut Core, Time, ConnectionId);
    let misbehaves: End = |core, now, client| core.handle_misbehaved(now, client);
    let is_cut: End = |core, now, client| core.handle_disconnected(now, client);
    for (end, keep) in [(misbehaves, true), (misbehaves, false), (is_cut, false)] {
        let mut world = World::empty();
        let waiting =
            TaskOptions { require: vec!["nowhere".into()], keep, ..TaskOptions::default() };
        let client = world.client(Role::Client);
        world.core.handle_disconnected(world.now, client);
        let client = world.connect(Role::Client, 77);
        world.sessions.insert(client, SessionId(77_u128.to_le_bytes()));
        let open = Open {
            secret: PayloadSecret::new([1; 32]),
            cancel_on_disconnect: true,
            submitted: TaskSeq::MIN,
            hides_names: false,
        };
        world.say(client, FromClient::Open(open)).unwrap();
        (0..MANY).for_each(|_| _ = world.submit(client, with(shared(), waiting.clone())));
        let turns = world.turns(|core, now| end(core, now, client));
        turns.are_many_for(MANY);
        assert_eq!(world.core.tasks.len(), 0);
        invariants::hold(&world.core);
    }
}

#[test]
fn a_long_queue_loses_its_namespace_in_many_turns_and_nothing_of_it_begins_meanwhile() {
    type Begin = fn(&mut World, ConnectionId, ConnectionId, EngineId);
    let restart = |world: &mut World, client, _, id| {
        let restart = FromClient::Restart(Restart { request: 1, engines: vec![id] });
        world.core.handle_from_client(world.now, client, restart, None).unwrap();
    };
    let down = |world: &mut World, _, engine, _| {
        let down = FromEngine::SlotDown(SlotDown { slot: 0, cause: "signal 9".into() });
        world.core.handle_from_engine(world.now, engine, down, None).unwrap();
    };
    for begin in [restart as Begin, down as Begin] {
        let mut world = World::empty();
        let engine = world.process(1, 1);
        let id = world.last_registered();
        let client = world.with_tasks(MANY, &namespaced(id));
        let first = world.core.attempt(world.core.attempts.made());
        let mut turns = Turns::default();
        turns.count(&mut world, |world| begin(world, client, engine, id));
        // What comes later is for the next interpreter.
        let later = world.submit(client, namespaced(id));
        let outcome = Outcome::error(TaskState::Lost, ErrorKind::EngineLost, "gone");
        let ended =
            AttemptFinished { attempt: first, outcome, times: RunTimes::ran(1), payload: None };
        world.report(engine, FromEngine::Finished(ended)).unwrap();
        if world.core.engines.get(id).unwrap().restarting {
            down(&mut world, client, engine, id);
            world.settle();
        }
        assert_eq!(world.core.attempts.len(), 0, "nothing begins");
        invariants::hold(&world.core);
        turns.count_all_that_follow(&mut world);
        turns.are_many_for(MANY);
        let given = world.core.attempts.iter().map(|(_, given)| given.n).collect::<Vec<_>>();
        assert_eq!((given, world.core.tasks.len()), (vec![TaskSeq(later)], 1));
        assert_eq!(
            world.ends(client),
            BTreeMap::from([((TaskState::Lost, Some(ErrorKind::EngineLost)), MANY)])
        );
        invariants::hold(&world.core);
    }
}

#[test]
fn very_many_followers_are_aborted_in_many_turns_and_hold_up_nobody_else() {
    let mut world = World::empty();
    let engine = world.process(1, 1);
    let id = world.last_registered();
    let aborting =
        with(namespaced(id), TaskOptions { abort_on_error: true, ..TaskOptions::default() });
    let client = world.with_tasks(MANY, &aborting);
    let other = world.client(Role::Client);
    let attempt = world.core.attempt(world.core.attempts.made());
    let outcome = Outcome::error(TaskState::Failed, ErrorKind::Remote, "it raised");
    let failed = FromEngine::Finished(AttemptFinished {
        attempt,
        outcome,
        times: RunTimes::ran(1),
        payload: None,
    });
    let mut turns = Turns::default();
    let now = world.now;
    turns.count(&mut world, |world| {
        world.core.handle_from_engine(now, engine, failed, None).unwrap();
    });
    assert_eq!(world.core.attempts.len(), 0, "nothing that is to be aborted begins");
    let later = world.submit(client, namespaced(id));
    world.submit(other, namespaced(id));
    assert_eq!(
        world.core.attempts.iter().map(|(_, given)| given.n.0).collect::<Vec<_>>(),
        [1],
        "another's begins"
    );
    invariants::hold(&world.core);
    turns.count_all_that_follow(&mut world);
    turns.are_many_for(MANY);
    let ends = world.ends(client);
    assert_eq!(
        ends.get(&(TaskState::Cancelled, Some(ErrorKind::Aborted))),
        Some(&(MANY - 1)),
        "{ends:?}"
    );
    assert_eq!(world.core.tasks.len(), 2, "task {later} was submitted after that");
    invariants::hold(&world.core);
}

#[test]
fn a_long_queue_of_an_engine_that_leaves_ends_in_many_turns() {
    let mut world = World::empty();
    let engine = world.process(1, 1);
    let id = world.last_registered();
    let client = world.with_tasks(MANY, &direct(&[id]));
    let turns = world.tell(engine, FromEngine::Draining(Draining { reason: "leaves".into() }));
    turns.are_many_for(MANY);
    assert_eq!(world.ends(client).values().sum::<u64>(), MANY - 1, "what it runs it finishes");
    world.disconnect(engine);
    assert_eq!((world.core.tasks.len(), world.core.engines.iter().count()), (0, 0));
}

#[test]
fn very_many_tasks_that_have_waited_for_the_roster_go_on_in_many_turns() {
    let mut world = World::empty();
    let engine = world.process(1, 1);
    let roster: Roster = world.core.roster();
    world.disconnect(engine);
    let config = world.core.config.clone();
    world.core = Core::new(config, &roster);
    let client = world.connect(Role::Client, 7);
    world.sessions.insert(client, SessionId(7_u128.to_le_bytes()));
    world.say(client, crate::core::tests::costs::work::open(MANY)).unwrap();
    let repeated = TaskOptions { repeated: true, ..TaskOptions::default() };
    (0..MANY).for_each(|_| _ = world.submit(client, with(shared(), repeated.clone())));
    assert_eq!(
        (world.core.waiting.held, world.core.schedule.placements.tasks_waiting()),
        (MANY, 0),
        "an engine may have them"
    );
    let again = world.connect(Role::Engine, 1 << 64);
    let turns = world.tell(again, FromEngine::Register(register(1, 1).into()));
    turns.are_many_for(MANY);
    assert_eq!((world.core.waiting.held, world.core.attempts.len() as u64), (0, 1));
    invariants::hold(&world.core);
}
