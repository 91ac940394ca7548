//! Tests of whether a job has begun when its interpreter dies, and of jobs whose arguments find no
//! room.

use super::*;
use crate::runtime::memory::{Hierarchy, Memory};

const BOUND: u64 = 256 << 20;

/// An interpreter that may take 256 MiB, without control groups.
fn bounded() -> Fixture {
    let nothing = Hierarchy { root: "/no/such/folder".into(), own: String::new() };
    Fixture::with(PythonConfig { memory: Memory::new(Some(BOUND), &nothing), ..config() })
}

#[tokio::test]
async fn arguments_beyond_the_memory_are_an_error_that_names_the_bound() {
    let mut python = bounded();
    python.eval("x = 1").await;
    let data = Bytes::from(vec![b' '; 300 << 20]);
    let attempt = python.start(Call::Named { function: "len".into() }, Codec::Pickle, vec![data]);
    let failed = error(python.end(attempt).await);
    assert_eq!(failed.type_name, "MemoryError");
    assert!(failed.message.contains("the arguments have 3145729"), "{}", failed.message);
    assert!(
        failed.message.ends_with("it may take 256 MiB (`engine --memory`)"),
        "{}",
        failed.message
    );
    assert_eq!(python.eval("x").await.as_deref(), Some("1"), "its interpreter goes on");
    assert!(python.downs.is_empty());
}

#[tokio::test]
async fn a_death_while_arguments_are_read_is_a_loss_of_that_job() {
    let mut python = Fixture::new();
    // As the system does when memory runs out.
    let kills = "import mmap, os, sys\n\
                 class Kills(type(mmap)):\n\
                 \x20   def mmap(self, *_, **__): os.kill(os.getpid(), 9)\n\
                 kills = Kills('mmap')\n\
                 kills.MAP_PRIVATE, kills.MAP_ANONYMOUS = mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS\n\
                 sys.modules['furlong_worker.channel'].mmap = kills\n";
    python.eval(kills).await;
    let data = Bytes::from(vec![b' '; 1 << 20]);
    let attempt = python.start(Call::Named { function: "len".into() }, Codec::Pickle, vec![data]);
    let reply = python.end(attempt).await;
    assert!(
        matches!(&reply.outcome, AttemptOutcome::Lost(cause) if cause.contains("SIGKILL")),
        "{reply:?}"
    );
    assert!(python.recalled.is_empty());
}

#[tokio::test]
async fn interpreters_that_end_before_a_job_begins_are_given_up() {
    let folder = tempfile::tempdir().unwrap();
    // It is ready, and ends as soon as something comes.
    let site = "import os, socket\n\
                class Ends(socket.socket):\n\
                \x20   def recv_into(self, *_): super().recv(1); os._exit(5)\n\
                socket.socket = Ends\n";
    std::fs::write(folder.path().join("sitecustomize.py"), site).unwrap();
    let env = vec![("PYTHONPATH".into(), folder.path().into())];
    let mut python = Fixture::with(PythonConfig { env, ..config() });
    let mut given_back = 0;
    let refused = loop {
        let attempt = python.start_execute("1");
        while !python.replies.contains_key(&attempt) && !python.recalled.contains(&attempt) {
            python.event().await;
        }
        if let Some(reply) = python.replies.remove(&attempt) {
            break reply;
        }
        given_back += 1;
    };
    assert_eq!(
        (given_back, refused.outcome.clone()),
        (3, AttemptOutcome::NotBegun(Unable::Runtime))
    );
    let text = error(refused).message;
    assert_eq!(
        text,
        "the interpreter ends before a task can begin: the interpreter ended with exit code 5"
    );
}
