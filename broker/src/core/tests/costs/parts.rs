//! What one message or one moment brings about is done in parts, and whole when the last is done:
//! counted in steps.

use furlong_wire::ids::{Attempt, BrokerStart, EngineId, SessionId, TaskSeq};
use furlong_wire::limits::HELD_RESULTS_MAX;
use furlong_wire::message::{
    AttemptFinished, Attempts, Draining, FromClient, FromEngine, Goodbye, HeldWork, Lent, Outcome,
    Register, ReplyBody, RunTimes, Shutdown, TaskOptions, ToClient, ToEngine,
};
use furlong_wire::token::Role;

use crate::core::keys::ProcessKey;
use crate::core::tests::costs::turns::{GRACE, MANY, Turns};
use crate::core::tests::costs::work::{World, open, register};
use crate::core::tests::farm::peers::{direct, shared, with};
use crate::core::turns::work::TASKS_PER_PART;
use crate::core::{AttemptId, ConnectionId, Core, PeerMisbehaved, Time, invariants};

const HELD: u64 = HELD_RESULTS_MAX as u64;
const ABSENT: SessionId = SessionId([99; 16]);

impl World {
    /// Something that a peer says, and all that is left of it for later turns.
    fn said_in_turns(
        &mut self,
        peer: ConnectionId,
        say: impl FnOnce(&mut Core, Time) -> Result<(), PeerMisbehaved>,
    ) -> Turns {
        let mut turns = Turns::default();
        let now = self.now;
        turns.count(self, |world| say(&mut world.core, now).unwrap());
        while self.core.has_rest(peer) {
            turns.count(self, |world| world.core.handle_rest(now, peer).unwrap());
        }
        turns.count_all_that_follow(self);
        turns
    }

    fn reported(&mut self, engine: ConnectionId, message: FromEngine) -> Turns {
        self.said_in_turns(engine, |core, now| core.handle_from_engine(now, engine, message, None))
    }

    fn asked(&mut self, client: ConnectionId, message: FromClient) -> Turns {
        self.said_in_turns(client, |core, now| core.handle_from_client(now, client, message, None))
    }

    /// A process that comes with this work.
    fn process_with(&mut self, id: u128, slots: u128, held: Vec<HeldWork>) -> Turns {
        let connection = self.connect(Role::Engine, 1 << 64);
        let register = Register { held, ..register(id, slots) };
        self.reported(connection, FromEngine::Register(register.into()))
    }

    /// Two processes that hold as much as they may of a session of an earlier start.
    fn holders_of(&mut self, session: SessionId) {
        for process in 0..2 {
            let ended = (1..=HELD).map(|n| of_before(session, process * HELD + n, true));
            let turns = self.process_with(u128::from(process), 1, ended.collect());
            turns.are_many_for(HELD);
        }
        assert_eq!(self.core.recovery.orphans.len() as u64, 2 * HELD);
    }

    fn reply(&self, client: ConnectionId) -> Option<&ReplyBody> {
        self.to_clients.iter().find_map(|(to, message)| match message {
            ToClient::Reply(reply) if *to == client => Some(&reply.body),
            _ => None,
        })
    }

    fn told_to_engines(&self, is_meant: impl Fn(&ToEngine) -> bool) -> usize {
        self.to_engines.iter().filter(|(_, message)| is_meant(message)).count()
    }
}

/// Work of an earlier start of the broker.
fn of_before(session: SessionId, n: u64, finished: bool) -> HeldWork {
    let attempt = Attempt { start: BrokerStart(1), id: AttemptId(n) };
    HeldWork { attempt, session, n: TaskSeq(n), slot: 0, finished }
}

#[test]
fn what_a_process_holds_is_compared_in_many_turns_and_it_gets_nothing_before() {
    let mut world = World::empty();
    let client = world.with_tasks(1, &shared());
    let held = (1..=HELD).map(|n| of_before(ABSENT, n, n > 1)).collect();
    let connection = world.connect(Role::Engine, 1 << 64);
    let message = FromEngine::Register(Register { held, ..register(1, 2) }.into());
    let mut turns = Turns::default();
    let now = world.now;
    let say = |world: &mut World| {
        world.core.handle_from_engine(now, connection, message, None).unwrap();
    };
    turns.count(&mut world, say);
    while world.core.has_rest(connection) {
        assert_eq!(world.told_to_engines(|it| matches!(it, ToEngine::Assign(_))), 0);
        invariants::hold(&world.core);
        turns.count(&mut world, |world| world.core.handle_rest(now, connection).unwrap());
    }
    turns.are_many_for(HELD);
    assert_eq!(world.core.recovery.orphans.len() as u64, HELD);
    assert_eq!(world.told_to_engines(|it| matches!(it, ToEngine::Assign(_))), 1, "one is idle");
    world.asked(client, FromClient::Goodbye(Goodbye { reason: String::new() }));
    invariants::hold(&world.core);
}

#[test]
fn what_a_process_no_longer_holds_is_given_again_in_many_turns() {
    let mut world = World::empty();
    let slots = MANY / 512;
    let engine = world.process(1, u128::from(slots));
    let ids: Vec<EngineId> = world.core.engines.iter().map(|(id, _)| id).collect();
    let client = world.with_tasks(1, &direct(&ids[..1]));
    // The next ones are known to be short.
    let attempt = world.core.attempt(world.core.attempts.made());
    let (outcome, run_us) = (Outcome::SUCCEEDED, 0);
    let finished =
        AttemptFinished { attempt, outcome, times: RunTimes::ran(run_us), payload: None };
    world.report(engine, FromEngine::Finished(finished)).unwrap();
    for id in &ids {
        (0..512).for_each(|_| _ = world.submit(client, direct(&[*id])));
    }
    assert_eq!(world.core.attempts.len() as u64, MANY);
    world.disconnect(engine);
    let before = world.core.attempts.made();
    world.process_with(1, u128::from(slots), Vec::new()).are_many_for(MANY);
    assert_eq!(world.core.attempts.len() as u64, MANY);
    assert_eq!(world.core.attempts.made().0, before.0 + MANY, "all of them were given once more");
    invariants::hold(&world.core);
}

#[test]
fn work_goes_on_though_its_process_is_cut_while_that_is_compared() {
    let mut world = World::empty();
    let slots = 3 * TASKS_PER_PART as u64;
    let mut engine = world.process(1, u128::from(slots));
    let client = world.with_tasks(slots, &shared());
    let session = world.sessions[&client];
    let held = world.core.attempts.iter().map(|(attempt, given)| HeldWork {
        attempt: world.core.attempt(attempt),
        session,
        n: given.n,
        slot: world.core.engines.get(given.engine).unwrap().slot,
        finished: false,
    });
    let held: Vec<HeldWork> = held.collect();
    let attempts = held.iter().map(|held| held.attempt).collect();
    world.report(engine, FromEngine::Started(Attempts { attempts })).unwrap();
    let made = world.core.attempts.made();
    for is_cut in [true, false] {
        world.disconnect(engine);
        assert_eq!(world.core.schedule.placements.tasks_waiting(), slots);
        engine = world.connect(Role::Engine, 1 << 64);
        let register = Register { held: held.clone(), ..register(1, u128::from(slots)) };
        let message = FromEngine::Register(register.into());
        world.core.handle_from_engine(world.now, engine, message, None).unwrap();
        world.settle();
        invariants::hold(&world.core);
        assert!(world.core.has_rest(engine), "there is more than one part");
        while !is_cut && world.core.has_rest(engine) {
            world.core.handle_rest(world.now, engine).unwrap();
            world.settle();
        }
    }
    assert_eq!((world.core.attempts.len() as u64, world.core.attempts.made()), (slots, made));
    let losses = |n| world.core.tasks.get(task_of(&world, client, n)).unwrap().tries.losses;
    assert!((1..=slots).all(|n| losses(n) == 0), "it was no loss after all");
    invariants::hold(&world.core);
}

fn task_of(world: &World, client: ConnectionId, n: u64) -> crate::core::keys::TaskKey {
    let id = world.sessions[&client];
    let key = world.core.sessions.with_id(id)[0];
    *world.core.sessions.get(key).unwrap().ledger.tasks.get(TaskSeq(n)).unwrap()
}

#[test]
fn an_engine_that_is_stopped_while_its_work_is_compared_is_lost_with_it() {
    let mut world = World::empty();
    let admin = world.client(Role::Admin);
    let held = (1..=HELD).map(|n| HeldWork { slot: n as u32 % 2, ..of_before(ABSENT, n, n > 9) });
    let held = held.collect();
    let engine = world.connect(Role::Engine, 1 << 64);
    let message = FromEngine::Register(Register { held, ..register(1, 2) }.into());
    world.core.handle_from_engine(world.now, engine, message, None).unwrap();
    world.settle();
    let stopped = world.core.engines.iter().next().map(|(id, _)| id);
    let engines = Some(stopped.into_iter().collect());
    let shutdown = Shutdown { request: 1, engines, finish: true, broker: false };
    world.asked(admin, FromClient::Shutdown(shutdown));
    while world.core.has_rest(engine) {
        world.core.handle_rest(world.now, engine).unwrap();
        world.settle();
        invariants::hold(&world.core);
    }
    assert_eq!((world.core.engines.iter().count(), world.core.engines.idle().count()), (1, 0));
    assert_eq!(world.core.recovery.orphans.len() as u64, HELD / 2, "the other one's are kept");
}

#[test]
fn what_engines_hold_of_a_session_ends_with_it_in_many_turns() {
    let mut world = World::empty();
    world.holders_of(ABSENT);
    let client = world.connect(Role::Client, u128::from_le_bytes(ABSENT.0));
    world.asked(client, open(2 * HELD)).are_many_for(2 * HELD);
    let goodbye = FromClient::Goodbye(Goodbye { reason: String::new() });
    world.asked(client, goodbye).are_many_for(2 * HELD);
    assert_eq!(world.core.recovery.orphans.len(), 0);
    invariants::hold(&world.core);
}

#[test]
fn what_nobody_asks_for_in_time_ends_in_many_turns() {
    let mut world = World::empty();
    world.holders_of(ABSENT);
    world.wait(40 * GRACE).are_many_for(2 * HELD);
    assert_eq!(world.core.recovery.orphans.len(), 0);
}

#[test]
fn a_process_that_leaves_is_told_in_many_turns_what_it_need_not_hold() {
    let mut world = World::empty();
    let engine = world.process(1, 1);
    let client = world.client(Role::Client);
    for _ in 0..MANY / 4 {
        world.submit(client, shared());
        let attempt = world.core.attempt(world.core.attempts.made());
        let (outcome, run_us) = (Outcome::SUCCEEDED, 1_000_000);
        let finished =
            AttemptFinished { attempt, outcome, times: RunTimes::ran(run_us), payload: None };
        world.report(engine, FromEngine::Finished(finished)).unwrap();
    }
    let turns = world.reported(engine, FromEngine::Draining(Draining { reason: "enough".into() }));
    turns.are_many_for(MANY / 4);
    let released = world.to_engines.iter().map(|(_, message)| match message {
        ToEngine::Release(release) => release.attempts().count(),
        _ => 0,
    });
    assert_eq!(released.sum::<usize>() as u64, MANY / 4);
}

#[test]
fn very_many_tasks_become_nested_deeper_in_many_turns() {
    let mut world = World::empty();
    let engine = world.process(1, 1);
    world.with_tasks(1, &shared());
    let attempt = world.core.attempt(world.core.attempts.made());
    let low = TaskOptions { priority: -1, ..TaskOptions::default() };
    let client = world.with_tasks(MANY, &with(shared(), low));
    let sessions = vec![world.sessions[&client]];
    world.reported(engine, FromEngine::Lent(Lent { attempt, sessions })).are_many_for(MANY);
    assert_eq!(world.core.attempts.len(), 2, "the first of them runs in its place");
    let nested =
        world.core.schedule.placements.iter().filter(|(_, placement)| placement.demands.depth == 1);
    assert_eq!(nested.map(|(_, placement)| placement.waiting).sum::<u64>(), MANY - 1);
    invariants::hold(&world.core);
}

#[test]
fn ten_thousand_engines_are_stopped_in_many_turns_whoever_is_there_to_hear_it() {
    let (processes, slots) = (2_000, 5);
    for stays in [true, false] {
        let mut world = World::empty();
        for process in 0..processes {
            world.process(process, slots);
        }
        let admin = world.client(Role::Admin);
        let shutdown = Shutdown { request: 1, engines: None, finish: true, broker: true };
        let message = FromClient::Shutdown(shutdown);
        if stays {
            world.asked(admin, message).are_many_for(10_000);
        } else {
            world.core.handle_from_client(world.now, admin, message, None).unwrap();
            world.disconnect(admin).are_many_for(10_000);
        }
        let told = world.told_to_engines(|message| matches!(message, ToEngine::Shutdown(_)));
        assert_eq!(told as u128, processes);
        assert_eq!(world.reply(admin), stays.then_some(&ReplyBody::Done));
        assert_eq!(world.core.engines.idle().count(), 0, "nobody takes anything any longer");
    }
}

#[test]
fn very_many_processes_are_told_in_many_turns_what_they_need_not_hold() {
    let mut world = World::empty();
    let processes = 4 * TASKS_PER_PART as u64;
    for process in 0..processes {
        world.process(u128::from(process), 1);
    }
    let keys: Vec<ProcessKey> = world.core.processes.keys().copied().collect();
    for key in keys {
        world.core.release_attempt(key, AttemptId(1), 0);
    }
    world.turns(|core, _| core.handle_tick()).are_many_for(processes);
    let told = world.told_to_engines(|message| matches!(message, ToEngine::Release(_)));
    assert_eq!(told as u64, processes);
}
