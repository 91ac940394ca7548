//! The flags that the engines of a cluster or a pool are started with.

use furlong_host::memory_size::MemorySize;

/// The flags that the engines are started with.
#[derive(Clone, Debug, clap::Args)]
pub struct EngineFlags {
    /// Label of the engines that tasks can require; more of them with commas, or by repeating the
    /// flag
    #[arg(long = "label", value_name = "LABEL", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Variable for the interpreters and commands of tasks, as NAME=VALUE; repeat the flag for more
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Directory in which tasks run; by default the current one
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Memory that each process of a task may take, as `4G`, `512M` or `10%` of the machine's; on a
    /// batch system, the memory that its jobs ask for, an engine
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<MemorySize>,
    /// Leave after this time with nothing to run; by default never, and 5m on a batch system for
    /// the engines above the least number of a range
    #[arg(long, value_name = "TIME")]
    pub idle_timeout: Option<String>,
    /// Leave after this time without a broker, if nothing runs; by default never, and 10m on a
    /// batch system
    #[arg(long, value_name = "TIME")]
    pub broker_timeout: Option<String>,
}

impl EngineFlags {
    /// As flags of a program: the engine's are the same, and it checks them.
    pub fn flags(&self) -> Vec<String> {
        let memory = self.memory.iter();
        let memory = memory.map(|size| flag("memory", &size.bytes().to_string()));
        let cwd = self.cwd.iter().map(|cwd| flag("cwd", cwd));
        self.flags_of_jobs().into_iter().chain(cwd).chain(memory).collect()
    }

    /// The same without what a batch system sees to: where its jobs run, and with which memory.
    pub fn flags_of_jobs(&self) -> Vec<String> {
        let labels = self.labels.iter().map(|label| flag("label", label));
        let env = self.env.iter().map(|variable| flag("env", variable));
        let idle = self.idle_timeout.iter().map(|time| flag("idle-timeout", time));
        let broker = self.broker_timeout.iter().map(|time| flag("broker-timeout", time));
        labels.chain(env).chain(idle).chain(broker).collect()
    }

    /// These flags, and where they say nothing those of a definition. Labels and variables come
    /// behind the definition's.
    pub fn over(&self, base: Self) -> Self {
        Self {
            labels: [base.labels, self.labels.clone()].concat(),
            env: [base.env, self.env.clone()].concat(),
            cwd: self.cwd.clone().or(base.cwd),
            memory: self.memory.or(base.memory),
            idle_timeout: self.idle_timeout.clone().or(base.idle_timeout),
            broker_timeout: self.broker_timeout.clone().or(base.broker_timeout),
        }
    }
}

fn flag(name: &str, value: &str) -> String {
    format!("--{name}={value}")
}
