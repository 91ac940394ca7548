//! Figures of the machine and of the slots' processes, as the system has them in `/proc`.
//!
//! A share of time needs two readings. The first is that of the question before; where there is
//! none, or it is old, two are made.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use furlong_wire::message::{MachineLoad, SlotLoad};

/// The time between two readings, if there was none before.
const APART: Duration = Duration::from_millis(200);
/// A reading from which on a share of time is of the present.
const OLD: Duration = Duration::from_secs(30);

/// Measures, and keeps the last reading.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    last: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    at: Instant,
    machine: Option<Ticks>,
    /// Of each process, its group, and by which a later one of the same number differs: when it
    /// started.
    processes: BTreeMap<i32, Process>,
}

/// The time of all processors since the machine's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// A process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Process {
    group: i32,
    started: u64,
    ticks: u64,
    resident_pages: u64,
}

impl Meter {
    /// Measures the machine, and the processes of each slot's process groups. Takes a while if
    /// nobody has asked lately.
    pub(crate) fn measure(&mut self, groups: &[Vec<i32>]) -> (MachineLoad, Vec<SlotLoad>) {
        let before = self.last.take().filter(|last| last.at.elapsed() < OLD);
        let before = before.unwrap_or_else(|| {
            let first = Reading::now(groups);
            std::thread::sleep(APART);
            first
        });
        let now = self.last.insert(Reading::now(groups));
        let elapsed = now.at.duration_since(before.at);
        let machine = machine_load(before.machine, now.machine);
        let slots = groups.iter().map(|of_slot| slot_load(of_slot, &before, now, elapsed));
        (machine, slots.collect())
    }
}

impl Reading {
    /// Reads of all processes those of these groups.
    fn now(groups: &[Vec<i32>]) -> Self {
        let machine = fs::read_to_string("/proc/stat").ok().and_then(|text| ticks(&text));
        let is_wanted = |group: i32| groups.iter().flatten().any(|wanted| *wanted == group);
        let names = groups.iter().any(|of_slot| !of_slot.is_empty());
        let entries = names.then(|| fs::read_dir("/proc").ok()).flatten();
        let pids = entries.into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let processes = pids.filter_map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, process(&text).filter(|it| is_wanted(it.group))?))
        });
        Self { at: Instant::now(), machine, processes: processes.collect() }
    }
}

fn machine_load(before: Option<Ticks>, now: Option<Ticks>) -> MachineLoad {
    let cpu_percent = before.zip(now).and_then(|(before, now)| {
        let (busy, all) =
            (now.busy.saturating_sub(before.busy), now.all.saturating_sub(before.all));
        (all > 0).then(|| (100 * busy / all).min(100) as u32)
    });
    let info = rustix::system::sysinfo();
    let bytes = |units: u64| units.saturating_mul(u64::from(info.mem_unit));
    let memory = fs::read_to_string("/proc/meminfo").ok();
    let free = memory.and_then(|text| available_bytes(&text));
    MachineLoad {
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        cpu_percent,
        // The system has it in parts of 65,536.
        load_hundredths: (info.loads[0].saturating_mul(100) >> 16) as u32,
        memory_bytes: bytes(info.totalram),
        memory_free_bytes: free.unwrap_or_else(|| bytes(info.freeram)),
    }
}

fn slot_load(groups: &[i32], before: &Reading, now: &Reading, elapsed: Duration) -> SlotLoad {
    let own = now.processes.iter().filter(|(_, process)| groups.contains(&process.group));
    let (mut ticks, mut pages, mut any) = (0_u64, 0_u64, false);
    for (pid, process) in own {
        let earlier = before.processes.get(pid).filter(|it| it.started == process.started);
        ticks += process.ticks.saturating_sub(earlier.map_or(0, |it| it.ticks));
        pages += process.resident_pages;
        any = true;
    }
    let per_s = rustix::param::clock_ticks_per_second().max(1);
    let elapsed_ticks = (elapsed.as_millis() as u64).saturating_mul(per_s) / 1000;
    let cpu_percent = any.then(|| (100 * ticks / elapsed_ticks.max(1)).min(100_000) as u32);
    SlotLoad { cpu_percent, resident_bytes: pages * rustix::param::page_size() as u64 }
}

/// The time of all processors, from the first line of `/proc/stat`.
fn ticks(text: &str) -> Option<Ticks> {
    let mut words = text.lines().next()?.split_ascii_whitespace();
    (words.next()? == "cpu").then_some(())?;
    // User, nice, system, idle, waiting for a disk, interrupts, soft interrupts, stolen; guests are
    // in the first two.
    let parts: Vec<u64> = words.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let all = parts.iter().sum();
    let idle = parts.get(3)? + parts.get(4).copied().unwrap_or_default();
    Some(Ticks { busy: all - idle, all })
}

/// A process, from `/proc/PID/stat`. Its name is in parentheses, and may hold any characters.
fn process(text: &str) -> Option<Process> {
    let (_, rest) = text.rsplit_once(')')?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first word after the name is the third of the documented ones.
    let word = |number: usize| words.get(number - 3)?.parse::<u64>().ok();
    Some(Process {
        group: words.get(5 - 3)?.parse().ok()?,
        started: word(22)?,
        ticks: word(14)? + word(15)?,
        resident_pages: word(24)?,
    })
}

/// The memory that can be given to processes, from `/proc/meminfo`.
fn available_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let fields = "R 1 77 5 0 -1 4194304 9 0 0 0 30 12 0 0 20 0 1 0 4242 1000 250 18446744";
        let read = process(&format!("9 (a) b ( c) {fields}\n")).unwrap();
        assert_eq!(read, Process { group: 77, started: 4242, ticks: 42, resident_pages: 250 });
        assert_eq!(process("9 (cut off) R 1"), None);
        assert_eq!(process(""), None);
    }

    #[test]
    fn processors_are_busy_when_they_neither_idle_nor_wait() {
        let busy = ticks("cpu  10 1 5 80 4 0 0 0 7 0\ncpu0 1 1 1 1\n").unwrap();
        assert_eq!(busy, Ticks { busy: 16, all: 100 });
        assert_eq!(ticks("intr 1 2 3"), None);
        let later = Ticks { busy: 66, all: 200 };
        assert_eq!(machine_load(Some(busy), Some(later)).cpu_percent, Some(50));
        assert_eq!(machine_load(None, Some(later)).cpu_percent, None);
    }

    #[test]
    fn a_slot_has_the_processes_of_its_groups_and_a_busy_one_shows() {
        let spin = |code: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", code]).process_group(0).stdin(Stdio::null());
            command.spawn().unwrap()
        };
        let (mut busy, mut idle) = (spin("while :; do :; done"), spin("exec sleep 1000"));
        let groups = [busy.id() as i32, idle.id() as i32].map(|group| vec![group]);
        let groups = [groups[0].clone(), groups[1].clone(), Vec::new()];
        let mut meter = Meter::default();
        let deadline = Instant::now() + Duration::from_secs(30);
        let (machine, slots) = loop {
            let (machine, slots) = meter.measure(&groups);
            if slots[0].cpu_percent > Some(5) || Instant::now() > deadline {
                break (machine, slots);
            }
            // The next one has two readings, and not the short time since this one.
            meter = Meter::default();
        };
        for child in [&mut busy, &mut idle] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(slots[0].cpu_percent > Some(5) && slots[0].resident_bytes > 10_000, "{slots:?}");
        assert!(slots[1].cpu_percent < Some(5) && slots[1].resident_bytes > 10_000, "{slots:?}");
        assert_eq!(slots[2], SlotLoad::default());
        assert!(machine.memory_bytes > machine.memory_free_bytes && machine.cores > 0);
        assert!(machine.memory_free_bytes > 0 && machine.cpu_percent.is_some(), "{machine:?}");
    }
}
