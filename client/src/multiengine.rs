//! Engines chosen by their ids: the multiengine interface.

use std::sync::Arc;

use furlong_wire::ids::EngineId;
use furlong_wire::limits::SUBMIT_TARGETS_MAX;
use furlong_wire::message::{FromClient, Restart, Runtime, Signal as SignalMessage, Targets};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::call::{Arguments, CallSpec, Function, SourceFunction};
use crate::control::Signal;
use crate::core::Call;
use crate::error::ClientError;
use crate::group::{GroupError, MappedGroup, TaskGroup};
use crate::prepared::PreparedCall;
use crate::request::{engines, order};
use crate::shared::{Core, Handle, submit};
use crate::task::TaskFuture;
use furlong_wire::os_text::OsText;

/// The engines that a [`Multiengine`] means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineTargets {
    /// Those that are online at each call.
    All,
    /// These, in this order.
    Ids(Vec<EngineId>),
}

/// The distribution of a list over engines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Distribution {
    /// Contiguous blocks; where they cannot be equal, the first engines get the longer ones.
    #[default]
    Blocks,
    /// One item each, in turn.
    RoundRobin,
}

/// Engines chosen by their ids, each with its own queue: what one session sends to an engine runs
/// there in that order.
///
/// The methods submit one task to each engine and return when that is done; the [`TaskGroup`] waits
/// for their ends. They wait while the session's credit is used up. Values go and come as JSON.
/// After an error of code, a script or an operation on the namespace, what this session has already
/// queued by these on that engine is aborted.
///
/// ```no_run
/// # async fn show(client: &furlong_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use std::collections::BTreeMap;
///
/// use furlong_client::{Distribution, EngineTargets};
///
/// let all = client.multiengine(EngineTargets::All);
/// all.push(&BTreeMap::from([("scale", 3)])).await?;
/// all.scatter("part", &[1, 2, 3, 4, 5], Distribution::Blocks).await?;
/// all.execute("scaled = [scale * x for x in part]").await?.wait().await?;
/// let scaled: Vec<i64> = all.gather("scaled", Distribution::Blocks).await?;
/// assert_eq!(scaled, [3, 6, 9, 12, 15]);
/// let sums: Vec<(i64, i64)> = all.pull(&["sum(part)", "sum(scaled)"]).await?.json().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Multiengine {
    handle: Arc<Handle>,
    targets: EngineTargets,
}

impl Multiengine {
    pub(crate) fn new(handle: Arc<Handle>, targets: EngineTargets) -> Self {
        Self { handle, targets }
    }

    /// Executes Python code in the lasting namespace of each engine.
    pub async fn execute(&self, source: &str) -> Result<TaskGroup, ClientError> {
        self.call(&CallSpec::code(source).abort_on_error(true)).await
    }

    /// Calls a function on each engine, or runs a command there.
    pub async fn call(&self, call: &CallSpec) -> Result<TaskGroup, ClientError> {
        let engines = self.engines().await?;
        self.submit(|targets| call.prepare(targets), engines).await
    }

    /// Submits a call that was prepared to each engine.
    pub async fn call_prepared(&self, call: &PreparedCall) -> Result<TaskGroup, ClientError> {
        let engines = self.engines().await?;
        self.submit(|targets| Ok(call.clone().into_call(targets)), engines).await
    }

    /// Runs a whole Python script in the namespace of each engine; `file` is its name in
    /// tracebacks.
    pub async fn run(&self, file: &str, source: &str) -> Result<TaskGroup, ClientError> {
        self.call(&CallSpec::script(file, source).abort_on_error(true)).await
    }

    /// Sets variables in the namespace of each engine: the entries of a map, or the fields of a
    /// struct.
    pub async fn push<V: Serialize + ?Sized>(
        &self,
        variables: &V,
    ) -> Result<TaskGroup, ClientError> {
        let text = serde_json::to_string(variables)
            .map_err(|error| ClientError::Encode(Arc::new(error)))?;
        self.call(&push(&text)?).await
    }

    /// Evaluates expressions, mostly names, in the namespace of each engine. The value is the list
    /// of theirs.
    pub async fn pull<S: AsRef<str>>(&self, names: &[S]) -> Result<TaskGroup, ClientError> {
        let names = names.iter().map(|name| name.as_ref().to_owned()).collect();
        self.call(&on_namespace(Function::Pull(names))).await
    }

    /// The names that a user has made in the namespace of each engine, sorted.
    pub async fn keys(&self) -> Result<TaskGroup, ClientError> {
        self.call(&on_namespace(Function::Keys)).await
    }

    /// Empties the namespace of each engine.
    pub async fn clear(&self) -> Result<TaskGroup, ClientError> {
        self.call(&on_namespace(Function::Clear)).await
    }

    /// Deals a list to the engines: each gets its part under that name, an empty one if there are
    /// more engines than items.
    pub async fn scatter<V: Serialize>(
        &self,
        name: &str,
        items: &[V],
        distribution: Distribution,
    ) -> Result<TaskGroup, ClientError> {
        let engines = self.engines().await?;
        let items = items.iter().map(to_value).collect::<Result<_, _>>()?;
        let parts = deal(items, engines.len(), distribution);
        let calls = parts.into_iter().map(|part| {
            let variables = Map::from_iter([(name.to_owned(), Value::Array(part))]);
            push(&Value::Object(variables).to_string())
        });
        self.submit_each(calls, engines).await
    }

    /// Collects what [`Multiengine::scatter`] dealt in the same way, or what became of it: the
    /// lists of that name, as one. The name may be any expression whose value is a list.
    pub async fn gather<T: DeserializeOwned>(
        &self,
        name: &str,
        distribution: Distribution,
    ) -> Result<Vec<T>, GroupError> {
        let parts: Vec<(Vec<T>,)> = self.pull(&[name]).await?.json().await?;
        Ok(collect(parts.into_iter().map(|(part,)| part).collect(), distribution))
    }

    /// Calls a Python function with each item, one block of items on each engine: one task an
    /// engine, and so one message each way. [`crate::Tasks::map`] is for items that take long, or
    /// unequally long, and for Rust functions.
    ///
    /// # Errors
    /// [`ClientError::NotPython`] for a Rust function, a command or code.
    pub async fn map<V: Serialize>(
        &self,
        function: &Function,
        items: &[V],
    ) -> Result<MappedGroup, ClientError> {
        let call = map_call(function)?;
        let engines = self.engines().await?;
        let items = items.iter().map(to_value).collect::<Result<_, _>>()?;
        let parts = deal(items, engines.len(), Distribution::Blocks)
            .into_iter()
            .filter(|part| !part.is_empty());
        let calls = parts.map(|part| Ok(call(part)));
        Ok(MappedGroup::new(self.submit_each(calls, engines).await?))
    }

    /// Sends a signal to what the owner's tasks run on these engines now: SIGINT is an interrupt of
    /// Python code.
    pub async fn signal(&self, signal: Signal) -> Result<(), ClientError> {
        let (engines, signal) = (self.engines().await?, signal.number());
        order(&self.handle, |request| {
            FromClient::Signal(SignalMessage { request, engines, signal })
        })
        .await
    }

    /// Gives the engines new interpreters, and returns when all have ended the old ones. What ran
    /// there ends as `lost`, and so does what this needs the namespace for.
    pub async fn restart(&self) -> Result<(), ClientError> {
        let engines = self.engines().await?;
        order(&self.handle, |request| FromClient::Restart(Restart { request, engines })).await
    }

    /// The engines that a call would go to now.
    pub async fn engines(&self) -> Result<Vec<EngineId>, ClientError> {
        let found = match &self.targets {
            EngineTargets::All => engines(&self.handle).await?,
            EngineTargets::Ids(ids) => ids.clone(),
        };
        let tasks_max = SUBMIT_TARGETS_MAX as u64;
        match found.len() {
            tasks if tasks > SUBMIT_TARGETS_MAX => {
                Err(ClientError::TooManyTargets { tasks: tasks as u64, tasks_max })
            }
            _ => Ok(found),
        }
    }

    /// One task with the same payload for each engine.
    async fn submit(
        &self,
        call: impl FnOnce(Targets) -> Result<Call, ClientError>,
        engines: Vec<EngineId>,
    ) -> Result<TaskGroup, ClientError> {
        if engines.is_empty() {
            return Err(ClientError::NoEngines);
        }
        let call = call(Targets::Engines(engines.clone()))?;
        let tasks = submit(&self.handle, call, Core::submit_direct).await?.into_iter().zip(engines);
        let futures = tasks
            .map(|(task, engine)| TaskFuture::new(Arc::clone(&self.handle), task, Some(engine)));
        Ok(TaskGroup::new(futures.collect()))
    }

    /// A task of its own for each engine, as far as there are calls.
    async fn submit_each(
        &self,
        calls: impl Iterator<Item = Result<CallSpec, ClientError>>,
        engines: Vec<EngineId>,
    ) -> Result<TaskGroup, ClientError> {
        if engines.is_empty() {
            return Err(ClientError::NoEngines);
        }
        let mut tasks = TaskGroup::default();
        for (call, engine) in calls.zip(engines) {
            let call = call?;
            tasks.append(self.submit(|targets| call.prepare(targets), vec![engine]).await?);
        }
        Ok(tasks)
    }
}

fn on_namespace(function: Function) -> CallSpec {
    CallSpec::new(Runtime::Python, function).abort_on_error(true)
}

/// A push of the variables of a JSON object, whose numbers are passed as they are written.
fn push(variables: &str) -> Result<CallSpec, ClientError> {
    if !variables.starts_with('{') {
        return Err(ClientError::NotVariables);
    }
    Ok(on_namespace(Function::Push)
        .arguments(Arguments::JsonText(format!("[[{variables}],{{}}]").into())))
}

fn to_value<V: Serialize + ?Sized>(value: &V) -> Result<Value, ClientError> {
    serde_json::to_value(value).map_err(|error| ClientError::Encode(Arc::new(error)))
}

/// The code that finds a function by its name and calls it with each item. The engine keeps it, as
/// it never changes.
const MAP_NAMED: &str = "\
import builtins
import importlib
import sys


def furlong_map(name, items):
    module_name, colon, path = name.partition(':')
    if colon:
        function = importlib.import_module(module_name)
        for part in path.split('.'):
            function = getattr(function, part)
    else:
        scopes = [vars(sys.modules['__main__']), vars(builtins)]
        function = next((scope[name] for scope in scopes if name in scope), None)
        if function is None:
            raise LookupError(f'{name!r} is neither in the engine\\'s namespace nor a builtin; write module:function')
    return [function(item) for item in items]
";

/// Returns the function that makes the call for one block of items.
fn map_call(function: &Function) -> Result<impl Fn(Vec<Value>) -> CallSpec + use<>, ClientError> {
    let (source, name) = match function {
        Function::Named(name) => {
            let source = SourceFunction::new("furlong_map.py", MAP_NAMED, "furlong_map");
            (source, Some(Value::String(name.clone())))
        }
        // Added at the end, so that the lines in tracebacks stay those of the file.
        Function::Source(of) => {
            let name = of.function();
            let mut text = of.source().to_vec();
            let map = format!(
                "\n\n\ndef furlong_map(items):\n    return [{name}(item) for item in items]\n"
            );
            text.extend_from_slice(map.as_bytes());
            (SourceFunction::new(of.file(), OsText::from_bytes(text), "furlong_map"), None)
        }
        _ => return Err(ClientError::NotPython),
    };
    let source = Arc::new(source);
    Ok(move |items| {
        let arguments = name.iter().cloned().chain([Value::Array(items)]).collect();
        CallSpec::source(Arc::clone(&source)).arguments(Arguments::json(arguments))
    })
}

/// Deals items to so many parts.
fn deal<T>(items: Vec<T>, parts: usize, distribution: Distribution) -> Vec<Vec<T>> {
    let (count, mut dealt) = (items.len(), (0..parts).map(|_| Vec::new()).collect::<Vec<_>>());
    if parts == 0 {
        return dealt;
    }
    let (short, longer) = (count / parts, count % parts);
    for (place, item) in items.into_iter().enumerate() {
        let part = match distribution {
            Distribution::RoundRobin => place % parts,
            Distribution::Blocks if place < longer * (short + 1) => place / (short + 1),
            Distribution::Blocks => longer + (place - longer * (short + 1)) / short,
        };
        dealt[part].push(item);
    }
    dealt
}

/// The inverse of `deal`. Lists of other lengths are collected as far as they go.
fn collect<T>(parts: Vec<Vec<T>>, distribution: Distribution) -> Vec<T> {
    if distribution == Distribution::Blocks {
        return parts.into_iter().flatten().collect();
    }
    let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
    let mut items = Vec::new();
    loop {
        let before = items.len();
        items.extend(parts.iter_mut().filter_map(Iterator::next));
        if items.len() == before {
            return items;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_dealt_is_collected_as_it_was(
            items in prop::collection::vec(any::<u8>(), 0..40),
            parts in 1_usize..9,
            in_blocks: bool,
        ) {
            let distribution =
                if in_blocks { Distribution::Blocks } else { Distribution::RoundRobin };
            let dealt = deal(items.clone(), parts, distribution);
            let lengths: Vec<usize> = dealt.iter().map(Vec::len).collect();
            prop_assert_eq!(lengths.len(), parts);
            let is_sorted = lengths.is_sorted_by(|one, next| one >= next);
            prop_assert!(is_sorted, "the first get the longer ones: {:?}", lengths);
            prop_assert!(lengths[0] - lengths[parts - 1] <= 1);
            prop_assert_eq!(collect(dealt, distribution), items);
        }
    }

    #[test]
    fn blocks_are_contiguous_and_round_robin_takes_turns() {
        let items = || (1..=5).collect::<Vec<_>>();
        assert_eq!(deal(items(), 2, Distribution::Blocks), [vec![1, 2, 3], vec![4, 5]]);
        assert_eq!(deal(items(), 2, Distribution::RoundRobin), [vec![1, 3, 5], vec![2, 4]]);
    }

    #[test]
    fn only_a_dictionary_can_be_pushed_and_only_python_mapped() {
        assert!(matches!(push("[1,2]"), Err(ClientError::NotVariables)));
        assert!(matches!(map_call(&Function::Keys).map(drop), Err(ClientError::NotPython)));
        let source = Arc::new(SourceFunction::new("f.py", "def f(x): return x", "f"));
        let call = map_call(&Function::Source(source)).unwrap()(vec![1.into()]);
        let Function::Source(made) = &call.function else { panic!("{call:?}") };
        assert!(made.source().starts_with(b"def f(x): return x\n"));
        assert_eq!(call.arguments, Arguments::json(vec![vec![1].into()]));
    }
}
