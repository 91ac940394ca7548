//! The cost of a process, according to `/proc`.

use std::fs;

/// Bytes of memory that are resident now.
///
/// # Panics
/// If there is no such process.
pub fn rss_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmRSS:")
}

/// The most bytes of memory that were resident at any time: what is held for a moment shows here
/// too.
///
/// # Panics
/// If there is no such process.
pub fn rss_peak_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmHWM:")
}

/// Seconds of processor time, user and system, since the process began.
///
/// # Panics
/// If there is no such process.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    // The name in parentheses may hold anything; after it comes field 3, and 14 and 15 are the
    // times (proc(5)).
    let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// Descriptors that are open.
///
/// # Panics
/// If there is no such process.
pub fn open_fds(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there and ours").count()
}

fn status_bytes(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .expect("a live process has this line");
    let kib: u64 =
        line.trim().trim_end_matches(" kB").parse().expect("the line has a number of kB");
    kib * 1024
}

/// Linux has told user space in hundredths of a second on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The payloads in memory files that a process holds open.
///
/// # Panics
/// If there is no such process.
pub fn memory_files(pid: u32) -> usize {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is alive");
    let links = links.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let kinds = ["memfd:furlong-payload", "memfd:furlong-result"];
    let is_payload = |link: &str| kinds.iter().any(|kind| link.contains(kind));
    links.filter(|link| is_payload(&link.to_string_lossy())).count()
}
