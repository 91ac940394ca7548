//! Control groups of version 2: one for each slot, below the group in which the engine was started.
//!
//! The rule of the system is that a group with processes has no children with controllers. So the
//! engine, if it is alone in its group, first moves itself into a child. It touches nothing beyond
//! its own group: where that is not delegated to it, or has other processes, there are no groups.
//!
//! See the kernel's "Control Group v2": *No Internal Process Constraint*, *Delegation*,
//! `memory.max`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use rustix::process::Pid;

use crate::runtime::SlotIndex;

/// The location of control groups, and which one is this process's.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// The folder at which version 2 is mounted.
    pub root: PathBuf,
    /// The process's groups, according to the system: the text of `/proc/self/cgroup`.
    pub own: String,
}

impl Hierarchy {
    /// The system's.
    pub fn of_system() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self { root: "/sys/fs/cgroup".into(), own }
    }

    /// This process's group of version 2.
    fn own_group(&self) -> Option<PathBuf> {
        let path = self.own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        Some(self.root.join(path)).filter(|group| group.join(CONTROLLERS).is_file())
    }
}

/// The reason why there are no control groups.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoGroups {
    /// There is no version 2 here.
    #[error("this machine has none of version 2")]
    Version,
    /// Version 2 is there, and memory is not its business.
    #[error("{} does not have the memory controller", .0.display())]
    Controller(PathBuf),
    /// The system does not let this process make any.
    #[error(
        "{} cannot be divided: {source}; start the engine alone in a group that is delegated to it",
        group.display()
    )]
    Refused {
        /// The group in which this process is.
        group: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The groups of one engine process.
#[derive(Debug)]
pub(super) struct Groups {
    /// In which the slots' groups are made.
    parent: PathBuf,
    /// Into which this process was moved.
    leaf: Option<PathBuf>,
}

impl Groups {
    /// Prepares this process's group for those of slots.
    pub(super) fn open(hierarchy: &Hierarchy) -> Result<Self, NoGroups> {
        let parent = hierarchy.own_group().ok_or(NoGroups::Version)?;
        if !has_memory(&parent.join(CONTROLLERS)) {
            return Err(NoGroups::Controller(parent));
        }
        sweep(&parent);
        let leaf = if has_memory(&parent.join(SUBTREE)) {
            None
        } else {
            let refused = |source| NoGroups::Refused { group: parent.clone(), source };
            Some(divide(&parent).map_err(refused)?)
        };
        Ok(Self { parent, leaf })
    }

    /// Makes the group of a slot.
    pub(super) fn make(&self, slot: SlotIndex, bytes: u64) -> io::Result<SlotGroup> {
        let group = SlotGroup(self.parent.join(format!("{PREFIX}{}-{slot}", process::id())));
        make_dir(&group.0)?;
        if let Err(error) = fs::write(group.0.join("memory.max"), bytes.to_string()) {
            group.remove();
            return Err(error);
        }
        // The bound is meant for all that a task takes. Where there is no swap there is no such
        // file.
        let _ = fs::write(group.0.join("memory.swap.max"), "0");
        Ok(group)
    }

    /// This process goes back to where it was. The slots' groups are to be removed before.
    pub(super) fn close(&self) {
        if let Some(leaf) = &self.leaf {
            unite(&self.parent, leaf);
        }
    }
}

/// The group of a slot.
#[derive(Debug)]
pub(super) struct SlotGroup(PathBuf);

impl SlotGroup {
    /// Moves a process in. What it starts from then on is born there.
    pub(super) fn admit(&self, pid: Pid) -> io::Result<()> {
        fs::write(self.0.join(PROCS), pid.as_raw_nonzero().to_string())
    }

    /// The file that counts what has happened in it.
    pub(super) fn events(&self) -> PathBuf {
        self.0.join("memory.events")
    }

    /// Removes it, once the processes that were killed are gone. With a daemon in it it stays.
    pub(super) fn remove(&self) {
        for _ in 0..REMOVE_TRIES {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    thread::sleep(REMOVE_PAUSE);
                }
                Err(error) => {
                    tracing::debug!(%error, "the control group {} stays", self.0.display());
                    return;
                }
                Ok(()) => return,
            }
        }
    }
}

/// Moves this process into a child of its group, and lets that have children with the memory
/// controller.
fn divide(parent: &Path) -> io::Result<PathBuf> {
    let leaf = parent.join(format!("{PREFIX}{}", process::id()));
    make_dir(&leaf)?;
    let divided = fs::write(leaf.join(PROCS), process::id().to_string())
        .and_then(|()| fs::write(parent.join(SUBTREE), "+memory"));
    match divided {
        Ok(()) => Ok(leaf),
        Err(error) => {
            unite(parent, &leaf);
            Err(error)
        }
    }
}

/// Undoes [`divide`], as far as it goes: each step fails where another engine still needs what it
/// would take back.
fn unite(parent: &Path, leaf: &Path) {
    let _ = fs::write(parent.join(SUBTREE), "-memory");
    let _ = fs::write(parent.join(PROCS), process::id().to_string());
    let _ = fs::remove_dir(leaf);
}

/// Removes what engines that were killed have left: empty groups of processes that are no more.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let pid = rest.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // It fails if a daemon lives in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn has_memory(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|name| name == "memory"))
}

const CONTROLLERS: &str = "cgroup.controllers";
const SUBTREE: &str = "cgroup.subtree_control";
const PROCS: &str = "cgroup.procs";
const PREFIX: &str = "furlong-";
/// The time limit for killed processes to be gone: half a second.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);
