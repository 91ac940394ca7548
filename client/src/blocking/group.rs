//! One task on each of several engines.

use serde::de::DeserializeOwned;

use super::check_outside;
use super::park::block_on;
use super::task::Task;
use crate::group::{CompositeError, GroupError};
use crate::outcome::{TaskOutcome, TaskResult};

/// Tasks that were submitted together: one for each engine, in the order of the engines. See
/// [`crate::TaskGroup`].
#[derive(Debug)]
#[must_use = "the tasks' results are lost with it; the tasks themselves go on"]
pub struct TaskGroup {
    group: crate::TaskGroup,
}

impl TaskGroup {
    pub(super) fn new(group: crate::TaskGroup) -> Self {
        Self { group }
    }

    /// The number of tasks.
    pub fn len(&self) -> usize {
        self.group.len()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.group.is_empty()
    }

    /// Cancels all of them.
    pub fn cancel(&self) {
        self.group.cancel();
    }

    /// Cancels all of them, and interpreters that do not respond to the interrupt are killed.
    pub fn cancel_force(&self) {
        self.group.cancel_force();
    }

    /// The end of each, whatever it is.
    pub fn wait_each(self) -> Vec<TaskOutcome> {
        block_on(self.group.wait_each())
    }

    /// The result of each, if all succeeded. Waits for all of them in any case.
    pub fn wait(self) -> Result<Vec<TaskResult>, CompositeError> {
        block_on(self.group.wait())
    }

    /// The value of each, if all succeeded and it is JSON.
    pub fn json<T: DeserializeOwned>(self) -> Result<Vec<T>, GroupError> {
        block_on(self.group.json())
    }
}

impl IntoIterator for TaskGroup {
    type Item = Task;
    type IntoIter = std::vec::IntoIter<Task>;

    fn into_iter(self) -> Self::IntoIter {
        self.group.into_iter().map(Task::new).collect::<Vec<_>>().into_iter()
    }
}

/// One function over many items, a block of them on each engine. See [`crate::MappedGroup`].
#[derive(Debug)]
#[must_use = "the results are lost with it; the tasks themselves go on"]
pub struct MappedGroup {
    group: crate::MappedGroup,
}

impl MappedGroup {
    pub(super) fn new(group: crate::MappedGroup) -> Self {
        Self { group }
    }

    /// The value for each item, in the order of the items, if all succeeded. An item that raises
    /// fails its whole block.
    pub fn wait<T: DeserializeOwned>(self) -> Result<Vec<T>, GroupError> {
        check_outside()?;
        block_on(self.group.wait())
    }

    /// The tasks, one for each block. The value of each is a list.
    pub fn into_blocks(self) -> TaskGroup {
        TaskGroup::new(self.group.into_blocks())
    }
}
