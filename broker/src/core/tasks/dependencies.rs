//! Tasks that wait for other tasks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use furlong_wire::AtLeastOne;
use furlong_wire::ids::{EngineId, OwnerId, TaskId, TaskSeq};
use furlong_wire::message::{Dependency, TaskOptions};

use super::end::DependencyEnd;
use super::end::unmet;
use super::extras::TaskInput;
use super::table::{Queue, State, Task, Tasks};
use super::waits::{Group, Waits};
use crate::core::journal::rows::Met;
use crate::core::keys::{SessionKey, TaskKey, ValueId};
use crate::core::payloads::values::NoRoom;
use crate::core::turns::work::{TASKS_PER_PART, count};
use crate::core::{Core, Time};

/// The dependents of each task, and the ends of which they have not been notified.
#[derive(Debug, Default)]
pub struct Dependents {
    pairs: BTreeSet<(TaskKey, TaskKey)>,
    ends: VecDeque<(TaskKey, DependencyEnd)>,
    /// Tasks whose results are inputs of others, which have not been notified.
    wanted: BTreeMap<TaskKey, Wanted>,
    /// Ends are told one after the other: a chain of a million must not be a million calls deep.
    telling: bool,
}

/// A task whose result is an input of others.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    /// The number of these that have not been notified of its end.
    tasks: u64,
    /// Its value, once it has ended: held until all of them have been notified.
    value: Option<ValueId>,
}

impl Dependents {
    /// Those that wait for a task.
    pub fn of(&self, key: TaskKey) -> impl Iterator<Item = TaskKey> {
        self.pairs
            .range((key, FIRST_KEY)..)
            .take_while(move |pair| pair.0 == key)
            .map(|pair| pair.1)
    }

    /// Returns true if a task's result is an input of others.
    pub fn want_value(&self, key: TaskKey) -> bool {
        self.wanted.contains_key(&key)
    }

    /// The values of ends of which dependents have not been notified, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn values(&self) -> impl Iterator<Item = ValueId> {
        self.wanted.values().filter_map(|wanted| wanted.value)
    }

    /// Returns true if a task has not been notified of an end yet.
    pub fn has_ends(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Returns the number of pairs.
    #[cfg(any(test, feature = "invariants"))]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }
}

impl Core {
    /// Looks up what a task depends on, the first one of its submit being `own`. Of a task from the
    /// journal, `known` are those that had ended, in that order. None if it depends on nothing.
    ///
    /// # Errors
    /// The reason that the task can never run, for people.
    pub(in crate::core) fn waits_of(
        &self,
        owner: OwnerId,
        own: TaskId,
        options: &TaskOptions,
        known: &[Met],
    ) -> Result<Option<Waits>, String> {
        if options.after.is_empty() && options.follow.is_empty() && options.inputs.is_empty() {
            return Ok(None);
        }
        // Only a later submit can name it and be meant: so there is no circle.
        let itself =
            |demand: &&Dependency| demand.task.session == own.session && demand.task.n >= own.n;
        let inputs: Vec<Dependency> = options.inputs.iter().copied().map(on_success).collect();
        let demands = options.after.iter().chain(&options.follow).chain(&inputs);
        if let Some(demand) = demands.into_iter().find(itself) {
            return Err(format!(
                "{} was not submitted before this task, which was to wait for it",
                demand.task
            ));
        }
        let mut met = Vec::new();
        let after = self.group(owner, &options.after, options.after_any, known, &mut met)?;
        let follow = self.group(owner, &options.follow, options.follow_any, known, &mut met)?;
        let inputs = self
            .group(owner, &inputs, false, known, &mut met)
            .map_err(|text| if options.repeated { LOST_INPUT.to_owned() } else { text })?;
        Ok(Some(Waits {
            after,
            follow,
            inputs,
            met: if options.durable { met } else { Vec::new() },
        }))
    }

    fn group(
        &self,
        owner: OwnerId,
        demands: &[Dependency],
        any: bool,
        known: &[Met],
        met: &mut Vec<Met>,
    ) -> Result<Group, String> {
        let mut group = Group { any, ..Group::default() };
        let mut ended = Vec::new();
        let mut places = BTreeMap::new();
        // Backwards, so that of several notes on one task the first is the one that stays.
        known.iter().enumerate().rev().for_each(|(place, met)| _ = places.insert(met.task, place));
        for &demand in demands {
            let place = places.get(&demand.task).copied();
            let standing = match place {
                Some(place) => Standing::Ended(known[place].ending()),
                None => self.standing(owner, demand.task),
            };
            match standing {
                Standing::Unfinished(key) => match group.pending.entry(key) {
                    Entry::Vacant(entry) => _ = entry.insert(AtLeastOne::new(demand)),
                    Entry::Occupied(mut entry) => entry.get_mut().push(demand),
                },
                Standing::Ended(ending) => ended.push((place, demand, ending)),
                // Where one was enough, nobody has noted how the others ended.
                Standing::Unknown if any && !known.is_empty() => {}
                Standing::Unknown => {
                    return Err(format!(
                        "{} is unknown to the broker: never submitted by this owner, or it ended long ago",
                        demand.task
                    ));
                }
            }
        }
        // Where one is enough, those that are as demanded count first.
        ended.sort_by_key(|(place, demand, ending)| (!ending.is_as_demanded(demand), *place));
        for (_, demand, ending) in ended {
            met.push(Met { task: demand.task, succeeded: ending.succeeded, engine: ending.engine });
            group.take(demand, ending)?;
        }
        group.drop_unimportant();
        Ok(group)
    }

    /// Looks up the inputs of a task that is being submitted; of those that have ended the results
    /// become values, with this task as a user.
    ///
    /// # Errors
    /// The reason that the task can never run, for people.
    pub(in crate::core) fn inputs_of(
        &mut self,
        key: SessionKey,
        options: &TaskOptions,
    ) -> Result<Vec<TaskInput>, String> {
        let mut inputs = Vec::with_capacity(options.inputs.len());
        for task in &options.inputs {
            inputs.push(match self.input_of(key, *task) {
                Ok(input) => input,
                Err(text) => {
                    self.let_go_of_inputs(inputs);
                    return Err(text);
                }
            });
        }
        Ok(inputs)
    }

    /// The task may be one of any session of the owner who submits: as with all that names tasks,
    /// others' tasks are unknown.
    fn input_of(&mut self, key: SessionKey, task: TaskId) -> Result<TaskInput, String> {
        let owner = self.owner(key).expect("a session that submits is here");
        let of = self.sessions.find(owner, task.session);
        let is_unfinished =
            |of| self.sessions.get(of).is_some_and(|of| of.ledger.tasks.contains(task.n));
        if of.is_some_and(is_unfinished) {
            return Ok(TaskInput { task, value: None });
        }
        let held = match of.and_then(|of| self.value_of_held(of, task.n)) {
            Some(value) => Some(value),
            None => self.value_of_kept(owner, task),
        };
        let value = held
            .ok_or_else(|| taken(task))?
            .map_err(|NoRoom| no_value(task, self.config.memory_flag))?;
        self.memory.values.add_user(value);
        Ok(TaskInput { task, value: Some(value) })
    }

    /// The result of an ended task that its session holds, made a value. None if there is no such
    /// task.
    fn value_of_held(&mut self, of: SessionKey, n: TaskSeq) -> Option<Result<ValueId, NoRoom>> {
        // Out of its place meanwhile: room for it may be made by what others keep.
        let mut done = self.sessions.get_mut(of)?.ledger.done.remove(n)?;
        let is_value = self.become_value(of, &mut done);
        let value = done.value.filter(|_| is_value);
        let session = self.sessions.get_mut(of).expect("it was there a moment ago");
        session.ledger.done.insert(n, done);
        Some(value.ok_or(NoRoom))
    }

    /// One task fewer has a task's result as an input, or it has been notified.
    fn want_no_longer(&mut self, key: TaskKey) {
        let wanted = &mut self.waiting.dependents.wanted;
        let of_task = wanted.get_mut(&key).expect("whose result is an input is counted");
        of_task.tasks -= 1;
        let is_last = of_task.tasks == 0;
        let last = is_last.then(|| wanted.remove(&key)).flatten();
        if let Some(value) = last.and_then(|wanted| wanted.value) {
            self.let_go_of_value(value);
        }
    }

    /// A task that was to have inputs has ended.
    pub(in crate::core) fn let_go_of_inputs(&mut self, inputs: Vec<TaskInput>) {
        for value in inputs.into_iter().filter_map(|input| input.value) {
            self.let_go_of_value(value);
        }
    }

    /// Returns true if a task is unfinished and the journal will not have it.
    pub(in crate::core) fn is_in_memory_alone(&self, owner: OwnerId, task: TaskId) -> bool {
        match self.standing(owner, task) {
            Standing::Unfinished(key) => {
                self.tasks.get(key).is_some_and(|task| task.durable().is_none())
            }
            Standing::Ended(_) | Standing::Unknown => false,
        }
    }

    fn standing(&self, owner: OwnerId, task: TaskId) -> Standing {
        if let Some(session) =
            self.sessions.find(owner, task.session).and_then(|key| self.sessions.get(key))
        {
            if let Some(key) = session.ledger.tasks.get(task.n) {
                return Standing::Unfinished(*key);
            }
            let held = || session.ledger.done.get(task.n).map(|done| done.ending());
            if let Some(ending) = session.ledger.endings.get(task.n).copied().or_else(held) {
                return Standing::Ended(ending);
            }
        }
        let kept = self.kept.find(owner, task);
        kept.map_or(Standing::Unknown, |kept| Standing::Ended(kept.done.ending()))
    }

    /// A task has been submitted that waits for others.
    pub(in crate::core) fn begin_to_wait(&mut self, key: TaskKey, waits: Waits) {
        self.waiting.dependents.pairs.extend(waits.keys().map(|other| (other, key)));
        for other in waits.inputs.pending.keys() {
            self.waiting.dependents.wanted.entry(*other).or_default().tasks += 1;
        }
        let task = self.tasks.get_mut(key).expect("a task that begins to wait has not ended");
        let before = task.more_mut().waits.replace(Box::new(waits));
        assert!(before.is_none(), "{key:?} waits twice");
    }

    /// Returns true if a task that has its arguments still waits for others. Moves it to its engine
    /// if it follows one there.
    ///
    /// # Errors
    /// The reason that the task can never run, for people.
    pub(in crate::core) fn still_waits(&mut self, key: TaskKey) -> Result<bool, String> {
        let Some(more) = self.tasks.get_mut(key).and_then(Task::more_if_any) else {
            return Ok(false);
        };
        match &more.waits {
            None => Ok(false),
            Some(waits) if waits.is_open() => Ok(true),
            Some(waits) => {
                let engine = waits.engine();
                // Before anything else: with nobody left in it, no pair names this task any longer.
                more.waits = None;
                engine?.map_or(Ok(()), |engine| self.pin(key, engine))?;
                Ok(false)
            }
        }
    }

    fn pin(&mut self, key: TaskKey, engine: EngineId) -> Result<(), String> {
        let may_have_run = self.tasks.get(key).is_some_and(|task| self.may_have_run(task));
        let task = self.tasks.get_mut(key).expect("a task that has waited has not ended");
        let session = task.session;
        match task.queue {
            Queue::Direct(target) | Queue::Pinned(target) if target == engine => Ok(()),
            Queue::Direct(target) | Queue::Pinned(target) => Err(format!(
                "it is for engine {target}, and was to follow a task that ran on engine {engine}"
            )),
            // If the other one was run once more, this one may have followed it elsewhere before:
            // it goes on there, or is lost.
            Queue::Shared if may_have_run && task.at_most_once() => Ok(()),
            Queue::Shared => {
                if !self.engines.is_known(engine) {
                    return Err(format!(
                        "engine {engine}, which ran the task that this one was to follow, is gone"
                    ));
                }
                task.queue = Queue::Pinned(engine);
                // By its number, and not at the end: what its session has submitted to that engine
                // since then may wait for this task, which would wait behind it.
                let tasks = &self.tasks;
                self.engines
                    .update(engine, |engine| engine.queue.put_in_order(session, key, tasks));
                Ok(())
            }
        }
    }

    /// A task has ended: remembers how, for those that wait for it.
    pub(in crate::core) fn note_end(
        &mut self,
        key: TaskKey,
        ending: DependencyEnd,
        value: Option<ValueId>,
    ) {
        if self
            .waiting
            .dependents
            .pairs
            .range((key, FIRST_KEY)..)
            .next()
            .is_some_and(|pair| pair.0 == key)
        {
            self.waiting.dependents.ends.push_back((key, ending));
            if let Some(wanted) = self.waiting.dependents.wanted.get_mut(&key) {
                wanted.value = value;
                if let Some(value) = value {
                    self.memory.values.add_user(value);
                }
            }
        }
    }

    /// A task that waited has ended itself.
    pub(in crate::core) fn forget_waits(&mut self, key: TaskKey, waits: &Waits) {
        for other in waits.keys() {
            self.waiting.dependents.pairs.remove(&(other, key));
        }
        waits.inputs.pending.keys().for_each(|other| self.want_no_longer(*other));
    }

    /// Tells those who wait of the ends that were noted.
    pub(in crate::core) fn tell_dependents(&mut self, now: Time) {
        if std::mem::replace(&mut self.waiting.dependents.telling, true) {
            return;
        }
        // Very many are told in later turns, also if one turn has many such ends. An end stays the
        // first one until all who wait for it have been told.
        let mut room = TASKS_PER_PART;
        while room > 0
            && !self.is_turn_over()
            && let Some((ended, ending)) = self.waiting.dependents.ends.front().copied()
        {
            let waiting: Vec<_> = self.waiting.dependents.of(ended).take(room).collect();
            if waiting.len() < room {
                self.waiting.dependents.ends.pop_front();
            }
            room = room.saturating_sub(waiting.len() + 1);
            self.turns.work.add(waiting.len() + 1);
            for key in waiting {
                count(1);
                self.waiting.dependents.pairs.remove(&(ended, key));
                self.dependency_ended(now, key, ended, ending);
            }
        }
        self.waiting.dependents.telling = false;
    }

    fn dependency_ended(&mut self, now: Time, key: TaskKey, ended: TaskKey, ending: DependencyEnd) {
        let value = self.waiting.dependents.wanted.get(&ended).and_then(|wanted| wanted.value);
        let task = self.tasks.get_mut(key).expect("a task that ends waits for nobody any longer");
        let state = task.state;
        let waits = task.more_if_any().and_then(|more| more.waits.as_mut());
        let waits = waits.expect("a pair is there for a task that waits");
        let name = waits.name_of(ended).expect("a pair names a task that is waited for");
        let mut dropped = Vec::new();
        let is_input = waits.inputs.pending.contains_key(&ended);
        let settled = waits.settle(ended, ending, &mut dropped);
        let settled = settled.and_then(|()| match (is_input, value) {
            (true, None) => Err(no_value(name, self.config.memory_flag)),
            (true, Some(value)) => {
                let more = task.more_if_any().expect("a task that waits has extras");
                let inputs = more.inputs.iter_mut().filter(|input| input.task == name);
                inputs.for_each(|input| {
                    input.value = Some(value);
                    self.memory.values.add_user(value);
                });
                Ok(())
            }
            (false, _) => Ok(()),
        });
        // What ends the task for another reason leaves it to that end.
        let is_told = is_input && !waits_for_input(&self.tasks, key, ended);
        if is_told {
            self.want_no_longer(ended);
        }
        for other in dropped {
            count(1);
            self.waiting.dependents.pairs.remove(&(other, key));
        }
        self.note_met(key, name, ending);
        let waits = settled
            .and_then(|()| if state == State::Waiting { self.still_waits(key) } else { Ok(true) });
        match waits {
            // The journal takes it after those for which it waits: that may have been the last one.
            Ok(true) if state == State::Receiving => self.note_if_behind(key),
            Ok(true) => {}
            Ok(false) => self.queue(now, key),
            Err(text) => self.end(now, key, unmet(&text)),
        }
    }
}

fn waits_for_input(tasks: &Tasks, key: TaskKey, input: TaskKey) -> bool {
    let waits = tasks.get(key).and_then(Task::more).and_then(|more| more.waits.as_deref());
    waits.is_some_and(|waits| waits.inputs.pending.contains_key(&input))
}

fn on_success(task: TaskId) -> Dependency {
    Dependency { task, success: true, failure: false }
}

/// A task's result is not here any longer.
fn taken(task: TaskId) -> String {
    format!(
        "the result of {task} is no longer at the broker: its client has taken it, or it was not kept \
         for so long; let it stay, or pass its value"
    )
}

/// There is no room for the value of a task that has ended, or it has none.
fn no_value(task: TaskId, memory_flag: &str) -> String {
    format!(
        "the result of {task} cannot be an input: values take half of the broker's payload memory \
         at most, which is full; let go of some, wait for the results and pass their values, or \
         start it with more: {memory_flag}"
    )
}

/// A task that is said again to a broker which never heard of its inputs.
const LOST_INPUT: &str = "the broker was killed and started again, and an input of this task that \
                          its client had taken or let go of was lost with it; submit both again";

/// The standing of a task on which another depends.
enum Standing {
    Unfinished(TaskKey),
    Ended(DependencyEnd),
    Unknown,
}

/// Before every other key.
const FIRST_KEY: TaskKey = TaskKey { index: 0, serial: std::num::NonZeroU32::MIN };
