//! Unusual extras of tasks and sessions and their cost, which is charged to the
//! [`super::stored::Budget`] where it is kept.
//!
//! The table of tasks counts a task with two inline payloads ([`crate::budget::TASK_BYTES`]). Long
//! options, many dependencies, reasons of failed attempts and texts of errors come on top of that.

use std::sync::Arc;

use furlong_wire::ids::TokenId;
use furlong_wire::message::{AttemptRecord, Outcome, TaskOptions};

use super::stored::Stored;
use crate::core::Core;
use crate::core::keys::TaskKey;
use crate::core::payloads::budget::BytesOf;
use crate::core::sessions::names::name_bytes;
use crate::core::sessions::table::Definition;
use crate::core::tasks::ended::EndedTask;
use crate::core::tasks::table::Task;

/// A dependency: in the options, in what the task waits for, and in the table of who waits for
/// whom.
const DEPENDENCY_BYTES: u64 = 192;
/// A required label beside its characters. It stands in the options and in the demands, which are
/// looked up by it.
const LABEL_BYTES: u64 = 64;
/// A definition beside its bytes.
const DEFINITION_BYTES: u64 = 128;
/// The size up to which an ended task costs nothing more than its place in the table.
const SHORT_BYTES: u64 = 256;

/// Returns the cost of the options of an unfinished task.
pub(in crate::core) fn options_bytes(options: &TaskOptions) -> u64 {
    let label = options.label.as_ref().map_or(0, String::len) as u64;
    let require: u64 =
        options.require.iter().map(|label| 3 * label.len() as u64 + LABEL_BYTES).sum();
    let dependencies =
        (options.after.len() + options.follow.len() + 2 * options.inputs.len()) as u64;
    label + require + dependencies * DEPENDENCY_BYTES
}

/// Returns the cost of the reasons of attempts that did not end their task.
pub(in crate::core) fn past_bytes(past: &[AttemptRecord]) -> u64 {
    past.iter().map(|attempt| attempt.how.len() as u64).sum()
}

/// Returns the cost of a definition.
pub(in crate::core) fn definition_bytes(stored: &Stored) -> u64 {
    match stored {
        Stored::Inline(bytes) => bytes.len() as u64 + DEFINITION_BYTES,
        Stored::Chunked(_) | Stored::Sent(_) | Stored::Refused => stored.budget_bytes(),
    }
}

impl Task {
    /// Returns its cost beyond its place in the table and its payload, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn extra_bytes(&self) -> u64 {
        self.options.as_deref().map_or(0, options_bytes)
            + self.more().map_or(0, |more| past_bytes(&more.past))
    }
}

impl EndedTask {
    /// Returns its cost beyond its place in the table, its result and its output.
    pub fn record_bytes(&self) -> u64 {
        let label = self
            .what
            .options
            .as_ref()
            .and_then(|options| options.label.as_ref())
            .map_or(0, String::len);
        let name = self.what.name.as_ref().map_or(0, |name| name.len());
        let text = self.outcome.error.as_ref().map_or(0, |error| {
            error.text.len() + error.raised.as_ref().map_or(0, |raised| raised.type_name.len())
        });
        let past = self.what.more.as_ref().map_or(0, |more| past_bytes(&more.past));
        ((label + name + text) as u64 + past).saturating_sub(SHORT_BYTES)
    }

    /// Shortens its record to what costs nothing.
    pub fn shorten(&mut self) {
        shorten(&mut self.outcome, SHORT_BYTES as usize);
        self.what
            .more
            .iter_mut()
            .flat_map(|more| &mut more.past)
            .for_each(|attempt| attempt.how = String::new());
        if self.record_bytes() > 0 {
            self.what.name = None;
            shorten(&mut self.outcome, 0);
        }
    }
}

fn shorten(outcome: &mut Outcome, bytes: usize) {
    if let Some(error) = &mut outcome.error {
        error.text.truncate(error.text.floor_char_boundary(bytes));
        error.text.shrink_to_fit();
        error.raised = error.raised.take().filter(|_| bytes > 0);
    }
}

impl Core {
    /// Charges for what new tasks have beyond the usual. False if there is no room for it: then
    /// they keep nothing.
    pub(in crate::core) fn charge_options(
        &mut self,
        tasks: impl Iterator<Item = TaskKey>,
        options: &TaskOptions,
    ) -> bool {
        let bytes = options_bytes(options);
        if bytes == 0 {
            return true;
        }
        // For each of them, though they share the options: each gives its part back when it ends.
        let tasks: Vec<TaskKey> = tasks.collect();
        if self.reserve(BytesOf::Other, bytes.saturating_mul(tasks.len() as u64)) {
            return true;
        }
        let mut bare = TaskOptions { label: None, ..options.clone() };
        drop_lists(&mut bare);
        let bare = Arc::new(bare);
        // They end in a moment, and then give back what their options cost: nothing.
        for key in tasks {
            let task = self.tasks.get_mut(key).expect("a task of this submit has not ended");
            task.options = Some(bare.clone());
        }
        false
    }

    /// A task has ended: what it needed to run is kept no longer, and its record is charged for.
    pub(in crate::core) fn charge_done(&mut self, done: &mut EndedTask) {
        let past = done.what.more.as_ref().map_or(0, |more| past_bytes(&more.past));
        let charged = done.what.options.as_deref().map_or(0, options_bytes) + past;
        self.memory.budget.release(BytesOf::Other, charged);
        self.charge_record(done);
    }

    /// Charges for the record of a task that has ended, or shortens it.
    pub(in crate::core) fn charge_record(&mut self, done: &mut EndedTask) {
        let has_lists = |options: &&mut Arc<TaskOptions>| {
            let dependencies = options.after.len() + options.follow.len() + options.inputs.len();
            dependencies + options.require.len() > 0
        };
        if let Some(options) = done.what.options.as_mut().filter(has_lists) {
            drop_lists(Arc::make_mut(options));
        }
        let bytes = done.record_bytes();
        if bytes > 0 && !self.reserve(BytesOf::Other, bytes) {
            done.shorten();
        }
    }

    /// Notes an attempt that did not end its task; without the reason if there is no room for it.
    pub(in crate::core) fn charge_past(
        &mut self,
        key: TaskKey,
        record: AttemptRecord,
        most: usize,
    ) {
        let how = if self.reserve(BytesOf::Other, record.how.len() as u64) {
            record.how
        } else {
            String::new()
        };
        let task = self.tasks.get_mut(key).expect("making room ends no task");
        let past = &mut task.more_mut().past;
        if past.len() == most {
            let oldest = past.remove(0);
            self.memory.budget.release(BytesOf::Other, oldest.how.len() as u64);
        }
        past.push(AttemptRecord { how, ..record });
    }

    /// Charges for a definition that came inside its message. False if there is no room for it.
    pub(in crate::core) fn charge_inline_definition(
        &mut self,
        of: TokenId,
        stored: &Stored,
    ) -> bool {
        let Stored::Inline(_) = stored else { return true };
        self.charge(of, BytesOf::Request, definition_bytes(stored))
    }

    /// Charges for the name of a kind of task. False if there is no room for it.
    pub(in crate::core) fn charge_name(&mut self, of: TokenId, name: &str) -> bool {
        self.charge(of, BytesOf::Other, name_bytes(name))
    }

    /// Frees what names of kinds of tasks cost.
    pub(in crate::core) fn release_names(&mut self, of: TokenId, bytes: u64) {
        self.release_charge(of, BytesOf::Other, bytes);
    }

    /// Frees what a definition costs.
    pub(in crate::core) fn release_definition(&mut self, of: TokenId, definition: Definition) {
        let Definition::Here(stored) = definition else { return };
        self.release_charge(of, BytesOf::Request, definition_bytes(&stored));
        self.discard(Some(stored));
    }

    /// Charges a token and the payload memory. False if one of them has no room.
    fn charge(&mut self, of: TokenId, what: BytesOf, bytes: u64) -> bool {
        if !self.peers.quotas.reserve(of, bytes) {
            return false;
        }
        let fits = self.reserve(what, bytes);
        if !fits {
            self.peers.quotas.release(of, bytes);
        }
        fits
    }

    fn release_charge(&mut self, of: TokenId, what: BytesOf, bytes: u64) {
        self.memory.budget.release(what, bytes);
        self.peers.quotas.release(of, bytes);
    }
}

/// Drops what only a task needs that has not ended.
fn drop_lists(options: &mut TaskOptions) {
    (options.after, options.follow, options.require) = (Vec::new(), Vec::new(), Vec::new());
    options.inputs = Vec::new();
}
