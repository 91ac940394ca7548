//! Tasks that wait for other tasks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use furlong_wire::AtLeastOne;
use furlong_wire::ids::{EngineId, OwnerId, TaskId};
use furlong_wire::message::{Dependency, ErrorKind, TaskOptions, TaskState};

use super::finish::Ended;
use super::table::{Place, State, Task, TaskKey};
use crate::core::journal::Met;
use crate::core::sessions::table::Ending;
use crate::core::turns::work::{TASKS_PER_PART, count};
use crate::core::{Core, Time};

/// The dependencies for which one task waits.
#[derive(Clone, Debug)]
pub struct Waits {
    after: Group,
    follow: Group,
    /// Those that have ended, as far as the journal is to know.
    met: Vec<Met>,
}

/// Dependencies of one sort.
#[derive(Clone, Debug, Default)]
struct Group {
    any: bool,
    is_met: bool,
    /// Those that have not ended, and what is demanded of each. One may be named more than once.
    pending: BTreeMap<TaskKey, AtLeastOne<Dependency>>,
    /// The engines of those that ended as demanded; none for one that no engine ran.
    engines: Vec<(TaskId, Option<EngineId>)>,
}

/// The dependents of each task, and the ends of which they have not been notified.
#[derive(Debug, Default)]
pub struct Dependents {
    pairs: BTreeSet<(TaskKey, TaskKey)>,
    ends: VecDeque<(TaskKey, Ending)>,
    /// Ends are told one after the other: a chain of a million must not be a million calls deep.
    telling: bool,
}

impl Dependents {
    /// Those that wait for a task.
    pub fn of(&self, key: TaskKey) -> impl Iterator<Item = TaskKey> {
        self.pairs
            .range((key, FIRST_KEY)..)
            .take_while(move |pair| pair.0 == key)
            .map(|pair| pair.1)
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

impl Group {
    /// Takes a dependency's end. Those that do not matter any longer are appended to `dropped`.
    fn settle(
        &mut self,
        key: TaskKey,
        ending: Ending,
        dropped: &mut Vec<TaskKey>,
    ) -> Result<(), String> {
        let mut demands: Vec<Dependency> =
            self.pending.remove(&key).into_iter().flatten().collect();
        demands.sort_by_key(|demand| !ending.is_as_demanded(demand));
        demands.into_iter().try_for_each(|demand| self.take(demand, ending))?;
        dropped.extend(self.drop_unimportant());
        Ok(())
    }

    fn take(&mut self, demand: Dependency, ending: Ending) -> Result<(), String> {
        // Where one is enough, the first one counts: also for the engine to which it is followed.
        if self.any && self.is_met {
            return Ok(());
        }
        if ending.is_as_demanded(&demand) {
            self.engines.push((demand.task, ending.engine));
            self.is_met = true;
            return Ok(());
        }
        if self.any && !self.pending.is_empty() {
            return Ok(());
        }
        let how = if ending.succeeded { "succeeded" } else { "did not succeed" };
        let demanded = match (demand.success, demand.failure) {
            (true, false) => "after its success",
            (false, true) => "after its failure",
            _ => "after neither",
        };
        let of = if self.any { "the last of those of which one was enough, " } else { "" };
        Err(format!("{of}{} {how}, and this task was to run {demanded}", demand.task))
    }

    /// Drops the other dependencies if one is enough and has ended as demanded. Returns those.
    fn drop_unimportant(&mut self) -> Vec<TaskKey> {
        if self.any && self.is_met {
            std::mem::take(&mut self.pending).into_keys().collect()
        } else {
            Vec::new()
        }
    }

    fn is_open(&self) -> bool {
        !self.pending.is_empty()
    }
}

impl Waits {
    /// The tasks that have not ended.
    pub fn pending(&self) -> impl Iterator<Item = TaskId> {
        let pending = self.after.pending.values().chain(self.follow.pending.values());
        pending.map(|demands| demands.first.task)
    }

    /// Their keys.
    pub fn keys(&self) -> impl Iterator<Item = TaskKey> {
        self.after.pending.keys().chain(self.follow.pending.keys()).copied()
    }

    /// Returns the journal's data on those that have ended.
    pub fn met(&self) -> &[Met] {
        &self.met
    }

    /// One has ended before the journal knows of the task.
    pub fn note_met(&mut self, met: Met) {
        self.met.push(met);
    }

    /// The name of one that has not ended.
    fn name_of(&self, key: TaskKey) -> Option<TaskId> {
        let demands = self.after.pending.get(&key).or_else(|| self.follow.pending.get(&key));
        demands.map(|demands| demands.first.task)
    }

    /// Takes a dependency's end. Those that do not matter any longer are appended to `dropped`.
    fn settle(
        &mut self,
        key: TaskKey,
        ending: Ending,
        dropped: &mut Vec<TaskKey>,
    ) -> Result<(), String> {
        let settled = self.after.settle(key, ending, dropped);
        let settled = settled.and_then(|()| self.follow.settle(key, ending, dropped));
        dropped.retain(|other| {
            !self.after.pending.contains_key(other) && !self.follow.pending.contains_key(other)
        });
        settled
    }

    fn is_open(&self) -> bool {
        self.after.is_open() || self.follow.is_open()
    }

    /// The engine to which the task follows others, once all have ended. None if it follows nobody.
    fn engine(&self) -> Result<Option<EngineId>, String> {
        let Some((first, engine)) = self.follow.engines.first() else { return Ok(None) };
        let engine = engine
            .ok_or_else(|| format!("no engine has run {first}, which this task was to follow"))?;
        match self.follow.engines.iter().find(|(_, other)| *other != Some(engine)) {
            Some((other, _)) => Err(format!(
                "{first} and {other}, which this task was to follow, ran in two places"
            )),
            None => Ok(Some(engine)),
        }
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
        if options.after.is_empty() && options.follow.is_empty() {
            return Ok(None);
        }
        // Only a later submit can name it and be meant: so there is no circle.
        let itself =
            |demand: &&Dependency| demand.task.session == own.session && demand.task.n >= own.n;
        if let Some(demand) = options.after.iter().chain(&options.follow).find(itself) {
            return Err(format!(
                "{} was not submitted before this task, which was to wait for it",
                demand.task
            ));
        }
        let mut met = Vec::new();
        let after = self.group(owner, &options.after, options.after_any, known, &mut met)?;
        let follow = self.group(owner, &options.follow, options.follow_any, known, &mut met)?;
        Ok(Some(Waits { after, follow, met: if options.durable { met } else { Vec::new() } }))
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
            if let Some(key) = session.tasks.get(task.n) {
                return Standing::Unfinished(*key);
            }
            let held = || session.done.get(task.n).map(|done| done.ending());
            if let Some(ending) = session.endings.get(task.n).copied().or_else(held) {
                return Standing::Ended(ending);
            }
        }
        let kept = self.kept.find(owner, task);
        kept.map_or(Standing::Unknown, |kept| Standing::Ended(kept.done.ending()))
    }

    /// A task has been submitted that waits for others.
    pub(in crate::core) fn begin_to_wait(&mut self, key: TaskKey, waits: Waits) {
        self.dependents.pairs.extend(waits.keys().map(|other| (other, key)));
        if let Some(task) = self.tasks.get_mut(key) {
            task.more_mut().waits = Some(Box::new(waits));
        }
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
                more.waits = None;
                engine?.map_or(Ok(()), |engine| self.pin(key, engine))?;
                Ok(false)
            }
        }
    }

    fn pin(&mut self, key: TaskKey, engine: EngineId) -> Result<(), String> {
        let may_have_run = self.tasks.get(key).is_some_and(|task| self.may_have_run(task));
        let Some(task) = self.tasks.get_mut(key) else { return Ok(()) };
        let session = task.session;
        match task.place {
            Place::Direct(target) | Place::Pinned(target) if target == engine => Ok(()),
            Place::Direct(target) | Place::Pinned(target) => Err(format!(
                "it is for engine {target}, and was to follow a task that ran on engine {engine}"
            )),
            // If the other one was run once more, this one may have followed it elsewhere before:
            // it goes on there, or is lost.
            Place::Shared if may_have_run && task.at_most_once() => Ok(()),
            Place::Shared => {
                if !self.engines.is_known(engine) {
                    return Err(format!(
                        "engine {engine}, which ran the task that this one was to follow, is gone"
                    ));
                }
                task.place = Place::Pinned(engine);
                let tasks = &self.tasks;
                self.engines
                    .update(engine, |engine| engine.queue.put_in_order(session, key, tasks));
                Ok(())
            }
        }
    }

    /// A task has ended: remembers how, for those that wait for it.
    pub(in crate::core) fn note_end(&mut self, key: TaskKey, ending: Ending) {
        if self.dependents.pairs.range((key, FIRST_KEY)..).next().is_some_and(|pair| pair.0 == key)
        {
            self.dependents.ends.push_back((key, ending));
        }
    }

    /// A task that waited has ended itself.
    pub(in crate::core) fn forget_waits(&mut self, key: TaskKey, waits: &Waits) {
        for other in waits.keys() {
            self.dependents.pairs.remove(&(other, key));
        }
    }

    /// Tells those who wait of the ends that were noted.
    pub(in crate::core) fn tell_dependents(&mut self, now: Time) {
        if std::mem::replace(&mut self.dependents.telling, true) {
            return;
        }
        // Very many are told in later turns, also if one turn has many such ends.
        let mut room = TASKS_PER_PART;
        while room > 0
            && !self.is_turn_over()
            && let Some((ended, ending)) = self.dependents.ends.front().copied()
        {
            let waiting: Vec<_> = self.dependents.of(ended).take(room).collect();
            if waiting.len() < room {
                self.dependents.ends.pop_front();
            }
            room = room.saturating_sub(waiting.len() + 1);
            self.work.add(waiting.len() + 1);
            for key in waiting {
                count(1);
                self.dependents.pairs.remove(&(ended, key));
                self.dependency_ended(now, key, ended, ending);
            }
        }
        self.dependents.telling = false;
    }

    fn dependency_ended(&mut self, now: Time, key: TaskKey, ended: TaskKey, ending: Ending) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let state = task.state;
        let Some(waits) = task.more_if_any().and_then(|more| more.waits.as_mut()) else { return };
        let name = waits.name_of(ended);
        let mut dropped = Vec::new();
        let settled = waits.settle(ended, ending, &mut dropped);
        for other in dropped {
            count(1);
            self.dependents.pairs.remove(&(other, key));
        }
        if let Some(name) = name {
            self.note_met(key, name, ending);
        }
        let waits = settled
            .and_then(|()| if state == State::Waiting { self.still_waits(key) } else { Ok(true) });
        match waits {
            Ok(true) if state == State::Receiving => self.note_if_behind(key),
            Ok(true) => {}
            Ok(false) => self.queue(now, key),
            Err(text) => self.end(now, key, unmet(&text)),
        }
    }
}

/// The end of a task that can never run.
pub(in crate::core) fn unmet(text: &str) -> Ended {
    Ended::by_broker(TaskState::Cancelled, ErrorKind::Dependency, format!("{text}; it was not run"))
}

/// The standing of a task on which another depends.
enum Standing {
    Unfinished(TaskKey),
    Ended(Ending),
    Unknown,
}

/// Before every other key.
const FIRST_KEY: TaskKey = TaskKey { index: 0, serial: std::num::NonZeroU32::MIN };
