//! With a folder in the place of the system's control groups.

use std::fs;
use std::path::Path;
use std::process;

use super::fake::Fake;
use super::*;

fn read(path: &Path, name: &str) -> String {
    fs::read_to_string(path.join(name)).unwrap()
}

/// The files of a group of the system's do not keep it from being removed.
fn forget_files(group: &Path) {
    fs::read_dir(group).unwrap().for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
}

/// A process that waits to be killed.
struct Sleeper(process::Child);

impl Sleeper {
    fn new() -> Self {
        Self(process::Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn each_slot_has_a_group_with_the_bound_and_all_its_processes() {
    let fake = Fake::new("cpu memory pids", "memory");
    let memory = Memory::new(Some(256 << 20), &fake.hierarchy());
    let text = "256 MiB for each engine (control group) and each process (RLIMIT_DATA)";
    assert_eq!(memory.describe().as_deref(), Some(text));
    let slot = memory.of_slot(3);
    assert!(Arc::ptr_eq(&slot, &memory.of_slot(3)));
    assert_eq!(
        (read(&fake.slot(3), "memory.max"), read(&fake.slot(3), "memory.swap.max")),
        ("268435456".into(), "0".into())
    );
    let sleeper = Sleeper::new();
    slot.admit(sleeper.pid());
    assert_eq!(read(&fake.slot(3), "cgroup.procs"), sleeper.0.id().to_string());
    let limits = fs::read_to_string(format!("/proc/{}/limits", sleeper.0.id())).unwrap();
    let data = limits.lines().find(|line| line.starts_with("Max data size")).unwrap();
    assert!(data.contains("268435456"), "{data}");
    assert!(!fake.leaf().exists(), "its group lets it have children as it is");
    forget_files(&fake.slot(3));
    memory.close();
    assert!(!fake.slot(3).exists());
}

#[test]
fn the_group_s_own_counter_tells_whether_memory_ran_out() {
    let fake = Fake::new("memory", "memory");
    let events = fake.slot(0).join("memory.events");
    fs::create_dir(fake.slot(0)).unwrap();
    fs::write(&events, "oom 1\noom_kill 1\n").unwrap();
    let slot = Memory::new(Some(64 << 20), &fake.hierarchy()).of_slot(0);
    let before = slot.kills();
    let bytes = Some(64 << 20);
    assert_eq!(slot.at_end(before), MemoryAtEnd { ran_out: Some(false), bytes });
    fs::write(&events, "oom 2\noom_kill 2\n").unwrap();
    assert_eq!(slot.at_end(before), MemoryAtEnd { ran_out: Some(true), bytes });
    fs::write(&events, "").unwrap();
    assert_eq!(slot.at_end(before), MemoryAtEnd { ran_out: None, bytes }, "nobody knows");
}

#[test]
fn an_engine_that_is_alone_in_its_group_moves_into_a_child_and_back() {
    let fake = Fake::new("memory", "");
    let memory = Memory::new(Some(64 << 20), &fake.hierarchy());
    let own = process::id().to_string();
    assert_eq!(read(&fake.leaf(), "cgroup.procs"), own);
    assert_eq!(read(&fake.job(), "cgroup.subtree_control"), "+memory");
    memory.of_slot(0);
    assert!(fake.slot(0).is_dir());
    forget_files(&fake.leaf());
    memory.close();
    assert_eq!(
        (read(&fake.job(), "cgroup.procs"), read(&fake.job(), "cgroup.subtree_control")),
        (own, "-memory".into())
    );
    assert!(!fake.leaf().exists());
}

#[test]
fn without_groups_each_process_is_bounded_and_it_is_said_why() {
    let [none, foreign, shared] =
        [("cpu", ""), ("memory", ""), ("memory", "")].map(|(all, sub)| Fake::new(all, sub));
    let nowhere = Hierarchy { root: foreign.root().to_owned(), own: "4:memory:/job\n".into() };
    // Nobody can write to it; nothing can be made there.
    fs::write(foreign.leaf(), "").unwrap();
    fs::remove_file(shared.job().join("cgroup.subtree_control")).unwrap();
    fs::create_dir(shared.job().join("cgroup.subtree_control")).unwrap();
    let cases = [
        (nowhere, "this machine has none of version 2"),
        (none.hierarchy(), "does not have the memory controller"),
        (foreign.hierarchy(), "cannot be divided"),
        (shared.hierarchy(), "cannot be divided"),
    ];
    for (hierarchy, why) in cases {
        let refused = Groups::open(&hierarchy).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        let memory = Memory::new(Some(64 << 20), &hierarchy);
        assert_eq!(memory.describe().as_deref(), Some("64 MiB for each process (RLIMIT_DATA)"));
        assert_eq!(memory.of_slot(0).bytes(), Some(64 << 20));
    }
    assert_eq!(read(&shared.job(), "cgroup.procs"), process::id().to_string(), "it goes back");
    assert_eq!(Memory::new(None, &none.hierarchy()).describe(), None);
}

#[test]
fn what_engines_that_were_killed_have_left_is_removed() {
    let fake = Fake::new("memory", "memory");
    let mut sleeper = Sleeper::new();
    let ended = sleeper.0.id();
    sleeper.0.kill().unwrap();
    sleeper.0.wait().unwrap();
    let left = [format!("furlong-{ended}"), format!("furlong-{ended}-7")]
        .map(|name| fake.job().join(name));
    let others = [format!("furlong-{}-9", process::id()), "another".to_owned()]
        .map(|name| fake.job().join(name));
    left.iter().chain(&others).for_each(|group| fs::create_dir(group).unwrap());
    Memory::new(Some(64 << 20), &fake.hierarchy());
    assert!(left.iter().all(|group| !group.exists()) && others.iter().all(|group| group.is_dir()));
}
