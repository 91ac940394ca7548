//! The memory of the processes that run tasks: its bound, and whether the system has killed some because it ran out.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Bounds the memory that a process that was just started, and each that it starts, may take: what is its own and can
/// be written to (`RLIMIT_DATA`). Programs and libraries that are mapped do not count.
pub(super) fn limit_memory(pid: Pid, bytes: u64) {
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    // It fails if the process has ended already, or if this one has a smaller bound itself, which then holds.
    let _ = prlimit(Some(pid), Resource::Data, limit);
}

/// How many processes the system has killed for want of memory so far: in our control group, or, where that does not
/// say, on the machine. None if it cannot be known.
pub(super) fn kills() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let counters = groups.lines().filter_map(counter).chain(["/proc/vmstat".to_owned()]);
    counters.into_iter().find_map(|path| parse(&fs::read_to_string(path).ok()?))
}

/// The file in which a line of `/proc/self/cgroup` has its count: version 2 of control groups, then version 1.
fn counter(line: &str) -> Option<String> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?.trim_end_matches('/'));
    if controllers.is_empty() {
        Some(format!("/sys/fs/cgroup{path}/memory.events"))
    } else {
        let has_memory = controllers.split(',').any(|name| name == "memory");
        has_memory.then(|| format!("/sys/fs/cgroup/memory{path}/memory.oom_control"))
    }
}

fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_either_version_of_control_groups() {
        assert_eq!(counter("0::/user/job").as_deref(), Some("/sys/fs/cgroup/user/job/memory.events"));
        assert_eq!(counter("0::/").as_deref(), Some("/sys/fs/cgroup/memory.events"));
        assert_eq!(counter("5:cpu,memory:/job").as_deref(), Some("/sys/fs/cgroup/memory/job/memory.oom_control"));
        assert_eq!(counter("4:cpu,cpuacct:/job"), None);
        assert_eq!(parse("low 0\nhigh 2\noom 3\noom_kill 4\noom_group_kill 0\n"), Some(4));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), Some(1));
        assert_eq!(parse("nothing"), None);
    }
}
