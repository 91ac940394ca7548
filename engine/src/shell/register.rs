//! The identity of the process, as it tells the broker.

use std::env;
use std::time::Duration;

use furlong_link::dial::random_bytes;
use furlong_wire::ids::{EngineId, EngineUuid, InstanceId, SessionId};
use furlong_wire::limits::NAME_BYTES_MAX;
use furlong_wire::message::{Register, Runtime, Slot};

use crate::core::Held;
use crate::runtime::python::PythonShared;
use crate::surroundings::{CUDA, Variables};

/// The identity of the process, for as long as it lives.
pub(super) struct Identity {
    pub(super) instance: InstanceId,
    pub(super) session: SessionId,
    pub(super) uuids: Vec<EngineUuid>,
    /// The integer that the first slot asks for before it has one.
    pub(super) first_id: Option<u32>,
    pub(super) labels: Vec<String>,
    pub(super) runtimes: Vec<Runtime>,
    /// The bound of the tasks' memory, if there is one.
    pub(super) memory: Option<String>,
    /// The job of a batch system in which it runs.
    pub(super) job: Option<String>,
}

impl Identity {
    /// A new process's, with so many slots, of which the first asks for that integer, its labels
    /// and job, its runtimes and the bound of its memory.
    pub(super) fn new(
        (slots, first_id): (u32, Option<u32>),
        labels: Vec<String>,
        job: Option<String>,
        (runtimes, memory): (Vec<Runtime>, Option<String>),
    ) -> Self {
        Self {
            instance: InstanceId(random_bytes()),
            session: SessionId(random_bytes()),
            uuids: (0..slots).map(|_| EngineUuid(random_bytes())).collect(),
            first_id,
            labels,
            runtimes,
            memory,
            job,
        }
    }

    /// The first message of a connection, of a process that leaves in so long. The slots' integers
    /// are known after the first.
    pub(super) fn register(
        &self,
        engines: &[EngineId],
        python: Option<&PythonShared>,
        variables: &Variables,
        held: Held,
        left: Option<Duration>,
    ) -> Register {
        let asked = (0..).map(|slot| Some(EngineId(self.first_id?.checked_add(slot)?)));
        let known = engines.iter().map(|id| Some(*id)).chain(asked.skip(engines.len()));
        let slots = self
            .uuids
            .iter()
            .zip(known)
            .map(|(uuid, wanted)| Slot { uuid: *uuid, wanted })
            .collect();
        Register {
            instance: self.instance,
            host: furlong_host::machine_name(),
            pid: std::process::id(),
            cwd: shortened(
                env::current_dir().map(|cwd| cwd.display().to_string()).unwrap_or_default(),
            ),
            slots,
            runtimes: self.runtimes.clone(),
            python: python
                .map(|python| shortened(python.config().interpreter.display().to_string())),
            environment: environment(python, variables, self.memory.clone()),
            labels: self.labels.clone(),
            held: held.work,
            received: held.received,
            dropped: held.dropped,
            job: self.job.clone(),
            ends_in_ms: left.map(|left| left.as_millis().try_into().unwrap_or(u64::MAX)),
        }
    }
}

/// A path as long as the broker takes it.
fn shortened(mut path: String) -> String {
    path.truncate(path.floor_char_boundary(PATH_BYTES_MAX));
    path
}

/// The environment of the tasks: the version of Python, the bound of their memory, and those of the
/// variables that matter which are set.
fn environment(
    python: Option<&PythonShared>,
    variables: &Variables,
    memory: Option<String>,
) -> Vec<(String, String)> {
    let version = python
        .and_then(PythonShared::resolved)
        .map(|resolved| ("python", resolved.version.clone()));
    let value = |name: &str| {
        let given =
            variables.all.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let by_us = || {
            let counts = python.map(|python| python.config().thread_counts()).unwrap_or_default();
            counts.into_iter().find(|(known, _)| *known == name).map(|(_, count)| count.into())
        };
        let text =
            given.or_else(|| env::var_os(name)).or_else(by_us)?.to_string_lossy().into_owned();
        Some(text)
    };
    let devices = Some(variables.devices.join(",")).filter(|devices| !devices.is_empty());
    let of_variables = SHOWN.into_iter().filter_map(|name| {
        let devices = devices.clone().filter(|_| name == CUDA);
        Some((name, devices.or_else(|| value(name))?))
    });
    let bounded = |(name, mut text): (&str, String)| {
        text.truncate(text.floor_char_boundary(NAME_BYTES_MAX));
        (name.to_owned(), text)
    };
    let memory = memory.map(|memory| ("memory", memory));
    version.into_iter().chain(memory).chain(of_variables).map(bounded).collect()
}

/// Bytes of a path that the broker takes.
const PATH_BYTES_MAX: usize = 4096;
/// The variables that `furlong status` shows.
const SHOWN: [&str; 6] =
    ["VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "OMP_NUM_THREADS", CUDA, "SLURM_JOB_ID"];
