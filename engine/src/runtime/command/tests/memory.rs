//! Programs that want more memory than there is.

use super::*;
use crate::runtime::memory::fake::Fake;
use crate::runtime::memory::{Hierarchy, Memory};

fn with(hierarchy: &Hierarchy) -> Fixture {
    Fixture::with(
        CommandConfig {
            memory: Memory::new(Some(64 << 20), hierarchy),
            ..CommandConfig::default()
        },
        Vec::new(),
    )
}

#[test]
fn a_command_gets_no_more_memory_than_it_may_take() {
    let mut it = with(&Hierarchy { root: "/no/such/folder".into(), own: String::new() });
    // The bound is set right after the start; then the shell reads a line that does not fit.
    let reads = |megabytes| {
        format!(
            "read go < /dev/null; x=$(head -c {megabytes}000000 /dev/zero | tr '\\0' x); echo ${{#x}}"
        )
    };
    assert_eq!(it.ok(sh(&reads(1))), "1000000\n");
    let attempt = it.start(sh(&reads(200)));
    assert!(!matches!(it.end(attempt).outcome, AttemptOutcome::Succeeded));
    let killed = it.run(sh("kill -ABRT $$"));
    let text = "killed by SIGABRT; it may take 64 MiB (`engine --memory`)";
    assert_eq!(killed.outcome, AttemptOutcome::Exited(text.into()));
}

#[test]
fn a_command_is_in_its_slot_s_group_and_its_end_is_explained_by_that() {
    let fake = Fake::with_slot(7);
    let mut it = with(&fake.hierarchy());
    let pid = it.ok(sh("echo $$"));
    assert_eq!(fs::read_to_string(fake.slot(7).join("cgroup.procs")).unwrap(), pid.trim());
    let counts = |count: u32, then: &str| {
        sh(&format!("echo oom_kill {count} > {}; {then}", fake.events(7).display()))
    };
    let suffix = "; it may take 64 MiB (`engine --memory`)";
    let cases = [
        (
            counts(1, "echo last >&2; kill -KILL $$"),
            format!("killed by the system, because memory ran out{suffix}\nlast"),
        ),
        (sh("kill -KILL $$"), format!("killed by SIGKILL{suffix}")),
        (
            counts(2, "exit 137"),
            "exit code 137; meanwhile the system has killed a process, because memory ran out"
                .into(),
        ),
        (sh("exit 137"), "exit code 137".into()),
    ];
    for (spec, text) in cases {
        assert_eq!(it.run(spec).outcome, AttemptOutcome::Exited(text));
    }
}
