//! The memory of the processes that run tasks: its bound, and whether the system has killed some
//! because it ran out.
//!
//! A bound is held twice. `RLIMIT_DATA` bounds each process: what asks for more gets an error, and
//! can go on. Where the engine may make control groups of version 2 (`groups`), each slot has one,
//! which bounds all that the slot runs together, with what the first one does not see: files in
//! memory, and what processes share.

mod groups;
mod kills;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::SlotIndex;
pub use groups::Hierarchy;
use groups::{Groups, SlotGroup};
use kills::Kills;

/// The memory that the slots of an engine process may take. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes: Option<u64>,
    groups: Option<Groups>,
    slots: Mutex<BTreeMap<SlotIndex, Arc<SlotMemory>>>,
}

impl Memory {
    /// A bound for each slot, if there is one. The log says how it is held.
    pub fn new(bytes: Option<u64>, hierarchy: &Hierarchy) -> Self {
        let groups = bytes.map(|_| Groups::open(hierarchy));
        let why = groups.as_ref().and_then(|groups| groups.as_ref().err()).map(ToString::to_string);
        let groups = groups.and_then(Result::ok);
        let memory = Self(Arc::new(Inner { bytes, groups, slots: Mutex::default() }));
        if let Some(text) = memory.describe() {
            let why = why.map(|why| format!("; no control groups: {why}")).unwrap_or_default();
            tracing::info!("tasks may take {text}{why}");
        }
        memory
    }

    /// Describes what bounds the tasks' memory, for people; none if nothing does.
    pub fn describe(&self) -> Option<String> {
        let size = mebibytes(self.0.bytes?);
        Some(match &self.0.groups {
            Some(_) => {
                format!("{size} for each engine (control group) and each process (RLIMIT_DATA)")
            }
            None => format!("{size} for each process (RLIMIT_DATA)"),
        })
    }

    /// A slot's part, the same for all that it runs.
    pub(super) fn of_slot(&self, slot: SlotIndex) -> Arc<SlotMemory> {
        let make = || {
            let groups = self.0.groups.as_ref().zip(self.0.bytes);
            let group = groups.and_then(|(groups, bytes)| match groups.make(slot, bytes) {
                Ok(group) => Some(group),
                Err(error) => {
                    tracing::warn!(
                        slot,
                        %error,
                        "no control group for the slot: RLIMIT_DATA alone bounds its memory"
                    );
                    None
                }
            });
            let kills = group
                .as_ref()
                .map_or_else(Kills::of_this_process, |group| Kills::at(&group.events()));
            Arc::new(SlotMemory { bytes: self.0.bytes, group, kills })
        };
        Arc::clone(self.lock().entry(slot).or_insert_with(make))
    }

    /// Removes the control groups. Call it when nothing runs any longer: a group with a process in
    /// it stays.
    pub fn close(&self) {
        let slots = std::mem::take(&mut *self.lock());
        for slot in slots.into_values() {
            slot.group.iter().for_each(SlotGroup::remove);
        }
        self.0.groups.iter().for_each(Groups::close);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SlotIndex, Arc<SlotMemory>>> {
        // Each change of the map is one step, so that of a poisoned lock is whole.
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bound of one slot.
#[derive(Debug)]
pub(super) struct SlotMemory {
    bytes: Option<u64>,
    group: Option<SlotGroup>,
    kills: Kills,
}

/// The number of processes that the system had killed at some moment, if known.
#[derive(Clone, Copy, Debug)]
pub(super) struct KillsBefore(Option<u64>);

/// The known memory state of a process that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct MemoryAtEnd {
    /// True if the system has killed something for want of memory meanwhile, if that is known.
    pub(super) ran_out: Option<bool>,
    /// The number of bytes that it might take.
    pub(super) bytes: Option<u64>,
}

impl SlotMemory {
    /// The memory that the slot may take.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Bounds a process that was just started, and each that it starts.
    pub(super) fn admit(&self, pid: Pid) {
        let Some(bytes) = self.bytes else { return };
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        // It fails if the process has ended already, or if this one has a smaller bound itself,
        // which then holds.
        let _ = prlimit(Some(pid), Resource::Data, limit);
        if let Some(error) = self.group.as_ref().and_then(|group| group.admit(pid).err()) {
            tracing::debug!(
                %error,
                "a process is not in its slot's control group: it has ended, or may not be moved"
            );
        }
    }

    /// Notes the system's kills so far.
    pub(super) fn kills(&self) -> KillsBefore {
        KillsBefore(self.kills.count())
    }

    /// Returns what is known of a process that has ended, and that had not when `before` was noted.
    pub(super) fn at_end(&self, before: KillsBefore) -> MemoryAtEnd {
        let ran_out = self.kills.count().zip(before.0).map(|(now, before)| now > before);
        MemoryAtEnd { ran_out, bytes: self.bytes }
    }
}

/// A size as users wrote it, more or less.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
pub(in crate::runtime) mod fake;
#[cfg(test)]
mod tests;
