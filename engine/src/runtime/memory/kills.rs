//! The number of processes that the system has killed for want of memory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A counter of the system, which stays open.
#[derive(Debug)]
pub(super) struct Kills(Option<File>);

impl Kills {
    /// Counts in a control group's file of events.
    pub(super) fn at(file: &Path) -> Self {
        Self(File::open(file).ok())
    }

    /// Counts in this process's control group, or, where that does not say, on the machine.
    pub(super) fn of_this_process() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let counters = groups.lines().filter_map(counter).chain([PathBuf::from("/proc/vmstat")]);
        let found = counters.map(|path| Self::at(&path)).find(|kills| kills.count().is_some());
        found.unwrap_or(Self(None))
    }

    /// The number so far. None if it cannot be known.
    pub(super) fn count(&self) -> Option<u64> {
        let file = self.0.as_ref()?;
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match file.read_at(&mut piece, text.len() as u64) {
                Ok(0) => break,
                Ok(bytes) if text.len() < COUNTER_BYTES_MAX => {
                    text.extend_from_slice(&piece[..bytes]);
                }
                _ => return None,
            }
        }
        parse(&String::from_utf8_lossy(&text))
    }
}

/// The file in which a line of `/proc/self/cgroup` has its count: version 2 of control groups, then
/// version 1.
fn counter(line: &str) -> Option<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?.trim_end_matches('/'));
    if controllers.is_empty() {
        Some(format!("/sys/fs/cgroup{path}/memory.events").into())
    } else {
        let has_memory = controllers.split(',').any(|name| name == "memory");
        has_memory.then(|| format!("/sys/fs/cgroup/memory{path}/memory.oom_control").into())
    }
}

fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// `/proc/vmstat` has 4 KiB.
const COUNTER_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_either_version_of_control_groups() {
        let counter = |line| counter(line).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(
            counter("0::/user/job").as_deref(),
            Some("/sys/fs/cgroup/user/job/memory.events")
        );
        assert_eq!(counter("0::/").as_deref(), Some("/sys/fs/cgroup/memory.events"));
        assert_eq!(
            counter("5:cpu,memory:/job").as_deref(),
            Some("/sys/fs/cgroup/memory/job/memory.oom_control")
        );
        assert_eq!(counter("4:cpu,cpuacct:/job"), None);
        assert_eq!(parse("low 0\nhigh 2\noom 3\noom_kill 4\noom_group_kill 0\n"), Some(4));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), Some(1));
        assert_eq!(parse("nothing"), None);
    }

    #[test]
    fn a_counter_is_read_anew_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kills = Kills::at(file.path());
        assert_eq!(kills.count(), None);
        for count in [3, 14] {
            fs::write(file.path(), format!("{}oom_kill {count}\n", "filler 1\n".repeat(1_000)))
                .unwrap();
            assert_eq!(kills.count(), Some(count));
        }
        assert_eq!(Kills::at(Path::new("/no/such/file")).count(), None);
    }
}
