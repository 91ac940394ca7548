//! One task on each of several engines, waited for together.

use std::fmt;
use std::ops::Index;

use serde::de::DeserializeOwned;

use crate::error::ClientError;
use crate::outcome::{DecodeError, TaskFailure, TaskOutcome, TaskResult};
use crate::task::TaskFuture;

/// Tasks that were submitted together: one for each engine, in the order of the engines.
///
/// It is a list of [`TaskFuture`]s, to be awaited one by one, or together by its own methods.
/// Dropping it does not cancel them.
#[derive(Debug, Default)]
#[must_use = "the tasks' results are lost with it; the tasks themselves go on"]
pub struct TaskGroup {
    tasks: Vec<TaskFuture>,
}

impl TaskGroup {
    pub(crate) fn new(tasks: Vec<TaskFuture>) -> Self {
        Self { tasks }
    }

    pub(crate) fn append(&mut self, mut others: Self) {
        self.tasks.append(&mut others.tasks);
    }

    /// The number of tasks.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The tasks.
    pub fn iter(&self) -> std::slice::Iter<'_, TaskFuture> {
        self.tasks.iter()
    }

    /// Cancels all of them, like [`TaskFuture::cancel`].
    pub fn cancel(&self) {
        self.tasks.iter().for_each(TaskFuture::cancel);
    }

    /// Cancels all of them, like [`TaskFuture::cancel_force`].
    pub fn cancel_force(&self) {
        self.tasks.iter().for_each(TaskFuture::cancel_force);
    }

    /// The end of each, whatever it is.
    pub async fn wait_each(self) -> Vec<TaskOutcome> {
        let mut ends = Vec::with_capacity(self.tasks.len());
        for task in self.tasks {
            ends.push(task.await);
        }
        ends
    }

    /// The result of each, if all succeeded. Waits for all of them in any case.
    pub async fn wait(self) -> Result<Vec<TaskResult>, CompositeError> {
        let tasks = self.tasks.len();
        let (mut results, mut failures) = (Vec::with_capacity(tasks), Vec::new());
        for end in self.wait_each().await {
            match end {
                Ok(result) => results.push(result),
                Err(failure) => failures.push(failure),
            }
        }
        if failures.is_empty() { Ok(results) } else { Err(CompositeError { tasks, failures }) }
    }

    /// The value of each, if all succeeded and it is JSON.
    pub async fn json<T: DeserializeOwned>(self) -> Result<Vec<T>, GroupError> {
        let results = self.wait().await?;
        Ok(results.iter().map(TaskResult::json).collect::<Result<_, _>>()?)
    }
}

impl IntoIterator for TaskGroup {
    type Item = TaskFuture;
    type IntoIter = std::vec::IntoIter<TaskFuture>;

    fn into_iter(self) -> Self::IntoIter {
        self.tasks.into_iter()
    }
}

impl<'a> IntoIterator for &'a TaskGroup {
    type Item = &'a TaskFuture;
    type IntoIter = std::slice::Iter<'a, TaskFuture>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Index<usize> for TaskGroup {
    type Output = TaskFuture;

    fn index(&self, place: usize) -> &TaskFuture {
        &self.tasks[place]
    }
}

/// One function over many items, a block of them on each engine. See [`crate::Multiengine::map`].
#[derive(Debug)]
#[must_use = "the results are lost with it; the tasks themselves go on"]
pub struct MappedGroup {
    blocks: TaskGroup,
}

impl MappedGroup {
    pub(crate) fn new(blocks: TaskGroup) -> Self {
        Self { blocks }
    }

    /// The value for each item, in the order of the items, if all succeeded. An item that raises
    /// fails its whole block.
    pub async fn wait<T: DeserializeOwned>(self) -> Result<Vec<T>, GroupError> {
        let blocks: Vec<Vec<T>> = self.blocks.json().await?;
        Ok(blocks.into_iter().flatten().collect())
    }

    /// The tasks, one for each block. The value of each is a list.
    pub fn into_blocks(self) -> TaskGroup {
        self.blocks
    }
}

/// Some of several tasks failed.
#[derive(Clone, Debug)]
pub struct CompositeError {
    /// The number of tasks in all.
    pub tasks: usize,
    /// Those that failed, in the order of the engines: one at least.
    pub failures: Vec<TaskFailure>,
}

impl fmt::Display for CompositeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tasks, failures } = self;
        match &failures[..] {
            [one] if *tasks == 1 => one.fmt(f),
            [first, ..] => {
                write!(f, "{} of {tasks} engines failed; the first: {first}", failures.len())
            }
            [] => f.write_str("no engine failed"),
        }
    }
}

impl std::error::Error for CompositeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.failures.first().map(|failure| failure as _)
    }
}

/// The reason why several tasks have no values.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// They were not submitted.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Some of them failed.
    #[error(transparent)]
    Tasks(#[from] CompositeError),
    /// A value is of another type than was wanted.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}
