//! A folder in the place of the system's control groups. It has the files that the system would
//! make; what the system would refuse is a folder where a file should be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use tempfile::TempDir;

use super::Hierarchy;

/// The group `/job`, in which this process is.
pub(in crate::runtime) struct Fake(TempDir);

impl Fake {
    /// With these controllers, for itself and for its children.
    pub(in crate::runtime) fn new(controllers: &str, subtree: &str) -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        fs::create_dir(fake.job()).unwrap();
        fs::write(fake.job().join("cgroup.controllers"), controllers).unwrap();
        fs::write(fake.job().join("cgroup.subtree_control"), subtree).unwrap();
        fake
    }

    /// One with groups for the slots, in which the system has killed nothing so far.
    pub(in crate::runtime) fn with_slot(slot: u32) -> Self {
        let fake = Self::new("memory", "memory");
        fs::create_dir(fake.slot(slot)).unwrap();
        fs::write(fake.events(slot), "oom_kill 0\n").unwrap();
        fake
    }

    pub(in crate::runtime) fn root(&self) -> &Path {
        self.0.path()
    }

    /// The file that counts what the system has killed in a slot's group.
    pub(in crate::runtime) fn events(&self, slot: u32) -> PathBuf {
        self.slot(slot).join("memory.events")
    }

    pub(in crate::runtime) fn job(&self) -> PathBuf {
        self.0.path().join("job")
    }

    pub(in crate::runtime) fn hierarchy(&self) -> Hierarchy {
        Hierarchy { root: self.0.path().to_owned(), own: "3:cpu:/elsewhere\n0::/job\n".into() }
    }

    pub(in crate::runtime) fn slot(&self, slot: u32) -> PathBuf {
        self.job().join(format!("furlong-{}-{slot}", process::id()))
    }

    pub(in crate::runtime) fn leaf(&self) -> PathBuf {
        self.job().join(format!("furlong-{}", process::id()))
    }
}
