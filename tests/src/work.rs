//! A cluster at work: a broker, engine processes, and sessions of the real client library.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use furlong_client::{
    Arguments, CallSpec, Client, ClusterStatus, Fetched, HasTaskId, SourceFunction, TaskFuture,
    TaskId, TaskOutcome, TaskPhase, TaskRecord,
};
use furlong_wire::token::Role;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::command::command;
use crate::farm::Farm;
use crate::program::Program;
use crate::wait::{SOON, eventually};

/// A broker, engines, and a client.
#[derive(Debug)]
pub struct Work {
    // The client leaves, and the engines end, before the farm's home is removed.
    client: Client,
    runtime: Runtime,
    engines: Vec<Program>,
    farm: Farm,
}

impl Work {
    /// Starts a broker and so many engine processes.
    pub fn start(engines: usize) -> Self {
        Self::start_with(&[], &vec![&[][..]; engines])
    }

    /// Starts a broker with these arguments, and an engine process with each of those.
    ///
    /// # Panics
    /// If they do not come.
    pub fn start_with(broker: &[&str], engines: &[&[&str]]) -> Self {
        let farm = Farm::start_with(broker);
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a tokio runtime");
        let capability = farm.home().cluster().capability(Role::Client);
        let client =
            runtime.block_on(Client::builder().capability(capability).wait(SOON).connect());
        let client = client.unwrap_or_else(|error| panic!("{error}"));
        let mut work = Self { client, runtime, engines: Vec::new(), farm };
        for (count, args) in (1..).zip(engines) {
            work.add_engine(args);
            // One after the other, so that their integers are in this order.
            work.wait_for_processes(count);
        }
        work
    }

    /// The first session.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Another session of the same owner.
    pub fn connect(&self) -> Client {
        self.connect_with(&self.farm.home().cluster().capability(Role::Client))
    }

    /// A session with this capability.
    ///
    /// # Panics
    /// If it is not let in.
    pub fn connect_with(&self, capability: &Path) -> Client {
        let connected = self.within(Client::builder().capability(capability).wait(SOON).connect());
        connected.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The broker, to be restarted or stopped.
    pub fn farm_mut(&mut self) -> &mut Farm {
        &mut self.farm
    }

    /// The broker.
    pub fn farm(&self) -> &Farm {
        &self.farm
    }

    /// The engine processes, in the order of their starts.
    pub fn engines(&mut self) -> &mut Vec<Program> {
        &mut self.engines
    }

    /// Starts an engine process, and does not wait for it.
    pub fn add_engine(&mut self, args: &[&str]) {
        // The home is in its environment, so it finds the right capability by itself.
        let args = [&["--stop-with-stdin"], args].concat();
        self.engines.push(Program::spawn("engine", command("engine", &args, self.farm.home())));
    }

    /// Starts an engine of the tests' own Rust functions: the executable of
    /// `src/bin/own_engine.rs`.
    pub fn add_own_engine(&mut self, executable: &str, slots: u32) {
        let mut program = std::process::Command::new(executable);
        program
            .args([&self.capability_of_engines(), &slots.to_string()])
            .env("FURLONG_HOME", self.farm.home().path());
        self.engines.push(Program::spawn("own_engine", program));
    }

    fn capability_of_engines(&self) -> String {
        self.farm.home().cluster().capability(Role::Engine).to_string_lossy().into_owned()
    }

    /// Waits until so many engine processes are connected.
    ///
    /// # Panics
    /// If they do not come.
    pub fn wait_for_processes(&self, count: usize) {
        let come = eventually(SOON, || self.status().processes.len() == count);
        assert!(come, "there are not {count} engine processes: {:?}", self.status().processes);
    }

    /// Runs a future to its end.
    ///
    /// # Panics
    /// If that does not come.
    #[track_caller]
    pub fn within<T>(&self, future: impl Future<Output = T>) -> T {
        let ended = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await });
        ended.expect("it ends in time")
    }

    /// Lets something run beside the test.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> {
        let task = self.runtime.spawn(future);
        async { task.await.expect("what runs beside does not panic") }
    }

    /// Submits a call to the shared queue.
    ///
    /// # Panics
    /// If it is not taken.
    pub fn submit(&self, call: &CallSpec) -> TaskFuture {
        self.submit_by(&self.client, call)
    }

    /// Submits a call to the shared queue, by another session.
    ///
    /// # Panics
    /// If it is not taken.
    pub fn submit_by(&self, client: &Client, call: &CallSpec) -> TaskFuture {
        self.within(client.tasks().call(call)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Submits a call, and waits for its end.
    #[track_caller]
    pub fn run(&self, call: &CallSpec) -> TaskOutcome {
        self.within(self.submit(call))
    }

    /// Returns the broker's status.
    ///
    /// # Panics
    /// If it says nothing.
    pub fn status(&self) -> ClusterStatus {
        self.within(self.client.status()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns what the broker knows of a task.
    ///
    /// # Panics
    /// If it says nothing.
    pub fn fetch(&self, task: impl HasTaskId) -> Fetched {
        self.within(self.client.fetch(task)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until a task is that far, and gives its record.
    ///
    /// # Panics
    /// If it does not come that far.
    #[track_caller]
    pub fn wait_for_phase(&self, task: TaskId, phase: TaskPhase) -> TaskRecord {
        let mut record = self.fetch(task).record;
        eventually(SOON, || {
            record = self.fetch(task).record;
            record.phase == phase
        });
        assert_eq!(record.phase, phase, "{record:?}");
        record
    }

    /// A file in the home.
    pub fn path(&self, name: &str) -> String {
        self.farm.home().path().join(name).to_string_lossy().into_owned()
    }

    /// The lines of a file in the home; none if it is not there.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until a file in the home has so many lines.
    ///
    /// # Panics
    /// If it does not get them.
    #[track_caller]
    pub fn wait_for_lines(&self, name: &str, count: usize) {
        let come = eventually(SOON, || self.lines(name).len() >= count);
        assert!(come, "{name} has {:?}", self.lines(name));
    }

    /// Makes an empty file in the home: what [`python`]'s `hold` waits for.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn release(&self, name: &str) {
        std::fs::write(self.path(name), "").expect("a temporary folder can be written to");
    }

    /// A call that holds an engine: it adds a line to `NAME.begun`, and returns when there is
    /// `NAME.release`.
    pub fn hold(&self, name: &str) -> CallSpec {
        let [begun, release] =
            [".begun", ".release"].map(|end| self.path(&format!("{name}{end}")).into());
        python("hold", [begun, release])
    }

    /// Submits such a call and waits until it has begun.
    #[track_caller]
    pub fn begin_hold(&self, name: &str) -> TaskFuture {
        let task = self.submit(&self.hold(name));
        self.wait_for_lines(&format!("{name}.begun"), 1);
        task
    }
}

/// A call of one of the tests' Python functions.
pub fn python(function: &str, arguments: impl IntoIterator<Item = Value>) -> CallSpec {
    CallSpec::source(python_function(function))
        .arguments(Arguments::json(arguments.into_iter().collect()))
}

/// One of the tests' Python functions.
pub fn python_function(function: &str) -> Arc<SourceFunction> {
    Arc::new(SourceFunction::new("work.py", include_str!("work.py"), function))
}

/// A no-op in Rust.
pub fn noop() -> CallSpec {
    CallSpec::native("noop").arguments(Arguments::json(Vec::new()))
}

const DEADLINE: Duration = Duration::from_secs(60);
