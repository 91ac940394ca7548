//! The dependencies for which one task waits.

use std::collections::BTreeMap;

use furlong_wire::AtLeastOne;
use furlong_wire::ids::{EngineId, TaskId};
use furlong_wire::message::Dependency;

use super::end::DependencyEnd;
use crate::core::journal::rows::Met;
use crate::core::keys::TaskKey;

/// The dependencies for which one task waits.
#[derive(Clone, Debug)]
pub struct Waits {
    pub(super) after: Group,
    pub(super) follow: Group,
    /// Those whose results are inputs.
    pub(super) inputs: Group,
    /// Those that have ended, as far as the journal is to know.
    pub(super) met: Vec<Met>,
}

/// Dependencies of one sort.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub(super) any: bool,
    pub(super) is_met: bool,
    /// Those that have not ended, and what is demanded of each. One may be named more than once.
    pub(super) pending: BTreeMap<TaskKey, AtLeastOne<Dependency>>,
    /// The engines of those that ended as demanded; none for one that no engine ran.
    pub(super) engines: Vec<(TaskId, Option<EngineId>)>,
}

impl Group {
    /// Takes a dependency's end. Those that do not matter any longer are appended to `dropped`.
    pub(super) fn settle(
        &mut self,
        key: TaskKey,
        ending: DependencyEnd,
        dropped: &mut Vec<TaskKey>,
    ) -> Result<(), String> {
        let mut demands: Vec<Dependency> =
            self.pending.remove(&key).into_iter().flatten().collect();
        // One task may be named twice, once for its success and once for its failure: what is met
        // goes first, lest the other fail a group in which one is enough.
        demands.sort_by_key(|demand| !ending.is_as_demanded(demand));
        demands.into_iter().try_for_each(|demand| self.take(demand, ending))?;
        dropped.extend(self.drop_unimportant());
        Ok(())
    }

    pub(super) fn take(&mut self, demand: Dependency, ending: DependencyEnd) -> Result<(), String> {
        // Where one is enough, the first one counts: also for the engine to which it is followed.
        if self.any && self.is_met {
            return Ok(());
        }
        if ending.is_as_demanded(&demand) {
            self.engines.push((demand.task, ending.engine));
            self.is_met = true;
            return Ok(());
        }
        // Another one may still end as demanded.
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
    pub(super) fn drop_unimportant(&mut self) -> Vec<TaskKey> {
        if self.any && self.is_met {
            std::mem::take(&mut self.pending).into_keys().collect()
        } else {
            Vec::new()
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.pending.is_empty()
    }
}

impl Waits {
    /// The tasks that have not ended.
    pub fn pending(&self) -> impl Iterator<Item = TaskId> {
        let groups = [&self.after, &self.follow, &self.inputs].into_iter();
        let pending = groups.flat_map(|group| group.pending.values());
        pending.map(|demands| demands.first.task)
    }

    /// Their keys.
    pub fn keys(&self) -> impl Iterator<Item = TaskKey> {
        let groups = [&self.after, &self.follow, &self.inputs].into_iter();
        groups.flat_map(|group| group.pending.keys()).copied()
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
    pub(super) fn name_of(&self, key: TaskKey) -> Option<TaskId> {
        let mut groups = [&self.after, &self.follow, &self.inputs].into_iter();
        groups.find_map(|group| group.pending.get(&key)).map(|demands| demands.first.task)
    }

    /// Takes a dependency's end. Those that do not matter any longer are appended to `dropped`.
    pub(super) fn settle(
        &mut self,
        key: TaskKey,
        ending: DependencyEnd,
        dropped: &mut Vec<TaskKey>,
    ) -> Result<(), String> {
        let settled = self.after.settle(key, ending, dropped);
        let settled = settled.and_then(|()| self.follow.settle(key, ending, dropped));
        let settled = settled.and_then(|()| self.inputs.settle(key, ending, dropped));
        // What another group waits for is still to be told to this task.
        let groups = [&self.after, &self.follow, &self.inputs];
        dropped.retain(|other| groups.iter().all(|group| !group.pending.contains_key(other)));
        settled
    }

    pub(super) fn is_open(&self) -> bool {
        self.after.is_open() || self.follow.is_open() || self.inputs.is_open()
    }

    /// The engine to which the task follows others, once all have ended. None if it follows nobody.
    pub(super) fn engine(&self) -> Result<Option<EngineId>, String> {
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
