//! Interpreters that die: who ran, and what becomes of the others.

use super::*;

#[tokio::test]
async fn a_death_loses_its_job_with_the_cause_and_gives_back_those_behind() {
    let mut python = Fixture::new();
    python.eval("x = 1; y = 2").await;
    let dies =
        python.start_execute("import os, sys\nprint('last words', file=sys.stderr)\nos._exit(3)");
    let behind = python.start_execute("x");
    let reply = python.end(dies).await;
    assert_eq!(lost(&reply), "the interpreter ended with exit code 3\nlast words");
    assert_eq!(python.text(dies, OutputStream::Stderr), "last words\n");
    assert_eq!(python.downs.len(), 1, "the death is told before the end");
    while python.recalled != [behind] {
        python.event().await;
    }
    assert_eq!(error(python.execute("x").await).type_name, "NameError");

    python.downs.clear();
    let dies = python.start_execute("import os; os.kill(os.getpid(), 9)");
    assert!(lost(&python.end(dies).await).contains("SIGKILL"));
    assert!(python.down().await.contains("SIGKILL"));
    let dies = python.start_execute("import ctypes; ctypes.string_at(0)");
    let reply = python.end(dies).await;
    assert!(
        lost(&reply).starts_with("the interpreter was killed by SIGSEGV\nFatal Python error"),
        "{reply:?}"
    );
}

#[tokio::test]
async fn of_a_thousand_short_jobs_a_death_in_the_middle_loses_one_and_none_runs_twice() {
    let folder = tempfile::tempdir().unwrap();
    let ran = folder.path().join("ran");
    let define = format!(
        "import os\nlog = os.open({ran:?}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n\
         def f(n):\n    os.write(log, b'%d ' % n)\n    if n == 500: os._exit(4)\n    return n"
    );
    let mut python = Fixture::new();
    python.eval(&define).await;
    let data = |n: u64| vec![Bytes::from(format!("[[{n}],{{}}]"))];
    let start = |python: &mut Fixture, n| {
        (n, python.start(Call::Named { function: "f".into() }, Codec::Json, data(n)))
    };
    let mut waiting: Vec<_> = (0..1000).map(|n| start(&mut python, n)).collect();
    assert_eq!(python.down().await, "the interpreter ended with exit code 4");
    let (mut finished, mut lost_ones, mut rounds) = (0, Vec::new(), 0);
    while !waiting.is_empty() {
        // As the broker does: what was given back is given again.
        while waiting
            .iter()
            .any(|(_, it)| !python.replies.contains_key(it) && !python.recalled.contains(it))
        {
            python.event().await;
        }
        if rounds == 0 {
            python.eval(&define).await;
        }
        rounds += 1;
        let mut again = Vec::new();
        for (n, attempt) in waiting {
            match python.replies.remove(&attempt).map(|reply| reply.outcome) {
                Some(AttemptOutcome::Succeeded) => finished += 1,
                Some(AttemptOutcome::Lost(cause)) => lost_ones.push((n, cause)),
                None => again.push(start(&mut python, n)),
                other => panic!("{n}: {other:?}"),
            }
        }
        waiting = again;
    }
    assert_eq!((finished, rounds), (999, 2));
    assert_eq!(lost_ones, [(500, "the interpreter ended with exit code 4".to_owned())]);
    let ran = std::fs::read_to_string(ran).unwrap();
    let mut ran: Vec<u64> = ran.split_whitespace().map(|n| n.parse().unwrap()).collect();
    ran.sort_unstable();
    assert!(ran.iter().copied().eq(0..1000), "each ran once");
}

/// Nobody knows when it comes: of what is killed from outside at any moment, no job is told twice,
/// at most one is lost, and those that were given back have not begun.
#[tokio::test]
async fn a_kill_from_outside_at_any_moment_accounts_for_every_job() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..40_u64 {
        let ran = folder.path().join(round.to_string());
        let mut python = Fixture::new();
        let define = format!(
            "import os\nlog = os.open({ran:?}, os.O_WRONLY | os.O_CREAT)\ndef f(n): os.write(log, b'%d ' % n)\nos.getpid()"
        );
        let pid = python.eval(&define).await.unwrap().parse().unwrap();
        let start = |n: u64| vec![Bytes::from(format!("[[{n}],{{}}]"))];
        let attempts: Vec<_> = (0..300)
            .map(|n| python.start(Call::Named { function: "f".into() }, Codec::Json, start(n)))
            .collect();
        while python.replies.len() < round as usize * 5 {
            python.event().await;
        }
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        while attempts
            .iter()
            .any(|it| !python.replies.contains_key(it) && !python.recalled.contains(it))
        {
            python.event().await;
        }
        let ran = std::fs::read_to_string(ran).unwrap();
        let ran: Vec<usize> = ran.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let mut lost_ones = 0;
        for (n, attempt) in attempts.iter().enumerate() {
            match python.replies.get(attempt).map(|reply| &reply.outcome) {
                Some(AttemptOutcome::Succeeded) => {
                    assert!(ran.contains(&n) && !python.recalled.contains(attempt));
                }
                Some(AttemptOutcome::Lost(_)) => lost_ones += 1,
                None => assert!(!ran.contains(&n), "round {round}: {n} ran, and was given back"),
                other => panic!("{n}: {other:?}"),
            }
        }
        assert!(lost_ones <= 1, "{lost_ones}");
    }
}

#[tokio::test]
async fn an_interpreter_that_is_killed_while_it_starts_costs_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let starts = folder.path().join("starts");
    let site = format!(
        "import os\nwith open({starts:?}, 'a+') as file:\n    file.write('x')\n    file.seek(0)\n    \
         killed = len(file.read()) <= KILLS\nif killed: os.kill(os.getpid(), 9)\n"
    );
    let python_killed_at_its_first = async |kills: u32| {
        // As if nothing had been started before.
        let _ = std::fs::remove_file(&starts);
        let site = site.replace("KILLS", &kills.to_string());
        std::fs::write(folder.path().join("sitecustomize.py"), site).unwrap();
        // What is compiled of it would count as current: the file changes within a second, and
        // keeps its size.
        let no_cache = ("PYTHONDONTWRITEBYTECODE".into(), "1".into());
        let env = vec![("PYTHONPATH".into(), folder.path().into()), no_cache];
        Fixture::with(PythonConfig { env, ..config() }).execute("1").await
    };
    assert_eq!(python_killed_at_its_first(3).await.outcome, AttemptOutcome::Succeeded);
    let reply = python_killed_at_its_first(9).await;
    assert_eq!(reply.outcome, AttemptOutcome::NotBegun(Unable::Runtime));
    assert!(error(reply).message.contains("did not start: the interpreter was killed by SIGKILL"));
}
