//! Engines chosen by their ids.

use furlong_wire::ids::EngineId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::check_outside;
use super::group::{MappedGroup, TaskGroup};
use super::park::block_on;
use crate::call::{CallSpec, Function};
use crate::control::Signal;
use crate::error::ClientError;
use crate::group::GroupError;
use crate::multiengine::Distribution;

/// Engines chosen by their ids. See [`crate::Multiengine`].
#[derive(Clone, Debug)]
pub struct Multiengine {
    multiengine: crate::Multiengine,
}

impl Multiengine {
    pub(super) fn new(multiengine: crate::Multiengine) -> Self {
        Self { multiengine }
    }

    /// Executes Python code in the lasting namespace of each engine.
    pub fn execute(&self, source: &str) -> Result<TaskGroup, ClientError> {
        group(self.multiengine.execute(source))
    }

    /// Calls a function on each engine, or runs a command there.
    pub fn call(&self, call: &CallSpec) -> Result<TaskGroup, ClientError> {
        group(self.multiengine.call(call))
    }

    /// Runs a whole Python script in the namespace of each engine.
    pub fn run(&self, file: &str, source: &str) -> Result<TaskGroup, ClientError> {
        group(self.multiengine.run(file, source))
    }

    /// Sets variables in the namespace of each engine.
    pub fn push<V: Serialize + ?Sized>(&self, variables: &V) -> Result<TaskGroup, ClientError> {
        group(self.multiengine.push(variables))
    }

    /// Evaluates expressions in the namespace of each engine. The value is the list of theirs.
    pub fn pull<S: AsRef<str>>(&self, names: &[S]) -> Result<TaskGroup, ClientError> {
        group(self.multiengine.pull(names))
    }

    /// The names that a user has made in the namespace of each engine.
    pub fn keys(&self) -> Result<TaskGroup, ClientError> {
        group(self.multiengine.keys())
    }

    /// Empties the namespace of each engine.
    pub fn clear(&self) -> Result<TaskGroup, ClientError> {
        group(self.multiengine.clear())
    }

    /// Deals a list to the engines. See [`crate::Multiengine::scatter`].
    pub fn scatter<V: Serialize>(
        &self,
        name: &str,
        items: &[V],
        distribution: Distribution,
    ) -> Result<TaskGroup, ClientError> {
        group(self.multiengine.scatter(name, items, distribution))
    }

    /// Collects what was dealt in the same way. See [`crate::Multiengine::gather`].
    pub fn gather<T: DeserializeOwned>(
        &self,
        name: &str,
        distribution: Distribution,
    ) -> Result<Vec<T>, GroupError> {
        check_outside()?;
        block_on(self.multiengine.gather(name, distribution))
    }

    /// Calls a Python function with each item, one block of items on each engine. See
    /// [`crate::Multiengine::map`].
    pub fn map<V: Serialize>(
        &self,
        function: &Function,
        items: &[V],
    ) -> Result<MappedGroup, ClientError> {
        check_outside()?;
        Ok(MappedGroup::new(block_on(self.multiengine.map(function, items))?))
    }

    /// Sends a signal to what the owner's tasks run on these engines now.
    pub fn signal(&self, signal: Signal) -> Result<(), ClientError> {
        check_outside()?;
        block_on(self.multiengine.signal(signal))
    }

    /// Gives the engines new interpreters, and returns when all have ended the old ones.
    pub fn restart(&self) -> Result<(), ClientError> {
        check_outside()?;
        block_on(self.multiengine.restart())
    }

    /// The engines that a call would go to now.
    pub fn engines(&self) -> Result<Vec<EngineId>, ClientError> {
        check_outside()?;
        block_on(self.multiengine.engines())
    }
}

fn group(
    submit: impl Future<Output = Result<crate::TaskGroup, ClientError>>,
) -> Result<TaskGroup, ClientError> {
    check_outside()?;
    Ok(TaskGroup::new(block_on(submit)?))
}
