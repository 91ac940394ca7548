//! Interpreters that want more memory than there is.

use std::fs;

use super::*;
use crate::runtime::memory::fake::Fake;
use crate::runtime::memory::{Hierarchy, Memory};

const BYTES: u64 = 256 << 20;

fn without_groups() -> PythonConfig {
    let nothing = Hierarchy { root: "/no/such/folder".into(), own: String::new() };
    PythonConfig { memory: Memory::new(Some(BYTES), &nothing), ..config() }
}

#[tokio::test]
async fn beyond_its_memory_an_interpreter_gets_an_error_and_goes_on() {
    let mut python = Fixture::with(without_groups());
    let greedy =
        "try:\n    bytearray(1 << 30)\n    got = 'all'\nexcept MemoryError:\n    got = 'none'\ngot";
    assert_eq!(python.eval(greedy).await.unwrap(), "'none'");
    assert_eq!(python.eval("len(bytearray(64 << 20))").await.unwrap(), "67108864");
    let child =
        "import subprocess, sys; subprocess.call([sys.executable, '-c', 'bytearray(1 << 30)'])";
    assert_eq!(python.eval(child).await.unwrap(), "1", "what it starts is bounded as well");
}

#[tokio::test]
async fn an_error_for_want_of_memory_says_the_bound() {
    let mut python = Fixture::with(without_groups());
    let failed = error(python.execute("bytearray(1 << 30)").await);
    assert_eq!(
        (failed.type_name.as_str(), failed.message.as_str()),
        ("MemoryError", "it may take 256 MiB (`engine --memory`)")
    );
    let failed = error(python.execute("raise MemoryError('too big')").await);
    assert_eq!(failed.message, "too big; it may take 256 MiB (`engine --memory`)");
    let mut python = Fixture::new();
    assert_eq!(
        error(python.execute("raise MemoryError('too big')").await).message,
        "too big",
        "there is no bound"
    );
}

#[tokio::test]
async fn an_interpreter_is_in_its_slot_s_group_and_its_death_is_explained_by_that() {
    let fake = Fake::with_slot(7);
    let memory = Memory::new(Some(BYTES), &fake.hierarchy());
    let mut python = Fixture::with(PythonConfig { memory, ..config() });
    let pid = python.eval("import os\nos.getpid()").await.unwrap();
    assert_eq!(fs::read_to_string(fake.slot(7).join("cgroup.procs")).unwrap(), pid);
    let suffix = "; it may take 256 MiB (`engine --memory`)";
    let kill = "import os\nos.kill(os.getpid(), 9)";
    let dies = python.start_execute(kill);
    assert_eq!(
        lost(&python.end(dies).await),
        format!("the interpreter was killed by SIGKILL{suffix}")
    );
    let counts =
        |count: u32| format!("open({:?}, 'w').write('oom_kill {count}\\n')", fake.events(7));
    let dies = python.start_execute(&format!("{}\n{kill}", counts(1)));
    let cause = lost(&python.end(dies).await).to_owned();
    assert_eq!(
        cause,
        format!("the interpreter was killed by the system, because memory ran out{suffix}")
    );
    // What the system killed during an earlier job does not explain this.
    python.eval(&format!("import time\ntime.sleep(0.02)\n{}", counts(2))).await;
    let dies = python.start_execute(kill);
    assert_eq!(
        lost(&python.end(dies).await),
        format!("the interpreter was killed by SIGKILL{suffix}")
    );
}
