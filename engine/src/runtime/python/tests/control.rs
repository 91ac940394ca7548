//! Signals and restarts.

use rustix::process::{Pid, Signal, kill_process};

use super::*;

#[tokio::test]
async fn an_interrupt_is_an_exception_in_the_code_that_runs() {
    let mut python = Fixture::new();
    python.eval("import time; x = 5").await;
    let sleeps = python.start_execute("print('go', flush=True)\ntime.sleep(1000)");
    python.output_of(sleeps, "go").await;
    python.slot.signal(sleeps, Signal::INT);
    let reply = python.end(sleeps).await;
    assert_eq!(reply.outcome, AttemptOutcome::Failed, "nobody cancelled it");
    let failed = error(reply);
    assert_eq!(failed.type_name, "KeyboardInterrupt");
    assert!(failed.traceback.contains("File \"<furlong 2>\""), "{}", failed.traceback);
    let catches =
        "try: print('go', flush=True); time.sleep(1000)\nexcept KeyboardInterrupt: x = 'caught'\nx";
    let attempt = python.start_execute(catches);
    python.output_of(attempt, "go").await;
    python.slot.signal(attempt, Signal::INT);
    let reply = python.end(attempt).await;
    assert!(
        matches!(reply.header, ReplyHeader::Executed { repr: Some(text), .. } if text == "'caught'")
    );
}

#[tokio::test]
async fn code_that_blocks_or_ignores_the_interrupt_does_so_for_itself_alone() {
    let mut python = Fixture::new();
    for deaf in [
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
        "signal.signal(2, signal.SIG_IGN)",
    ] {
        python.execute(&format!("import signal, time\n{deaf}")).await;
        let attempt = python.start_execute("print('go', flush=True)\ntime.sleep(1000)");
        python.output_of(attempt, "go").await;
        python.slot.cancel(attempt, false);
        assert_eq!(python.end(attempt).await.outcome, AttemptOutcome::Cancelled, "{deaf}");
    }
}

#[tokio::test]
async fn an_interrupt_reaches_only_the_running_attempt_however_it_races() {
    let mut python = Fixture::new();
    let define = "import time\ndef victim(s): time.sleep(s)\n\
                  def next_one():\n    for _ in range(500): pass\n    return 1";
    python.eval(define).await;
    let mut interrupted = 0;
    for round in 0..1000_u64 {
        let data = vec![Bytes::from(format!("[[{}],{{}}]", (round % 20) as f64 * 1e-5))];
        let victim = python.start(Call::Named { function: "victim".into() }, Codec::Json, data);
        let nexts = [(); 3].map(|()| python.start_named("next_one", "[[],{}]"));
        let until = Instant::now() + Duration::from_micros(round % 37 * 10);
        while Instant::now() < until {
            tokio::task::yield_now().await;
        }
        python.slot.signal(victim, Signal::INT);
        let end = python.end(victim).await;
        assert_ne!(end.outcome, AttemptOutcome::Cancelled, "an interrupt is no cancel");
        interrupted += u32::from(end.outcome == AttemptOutcome::Failed);
        for next in nexts {
            assert_eq!(json_value(python.end(next).await).unwrap(), "1", "round {round}");
        }
    }
    assert!(
        (1..1000).contains(&interrupted),
        "the race was none: {interrupted} of 1000 interrupted"
    );
}

#[tokio::test]
async fn other_signals_go_to_the_process_of_the_running_attempt() {
    let mut python = Fixture::new();
    let source = "import signal, time\ngot = []\n\
                  signal.signal(signal.SIGUSR1, lambda *_: got.append(1))\n\
                  def waits():\n    print('go', flush=True)\n    while not got: time.sleep(0.001)\n    return got.pop()";
    python.eval(source).await;
    let attempt = python.start_named("waits", "[[],{}]");
    let behind = python.start_named("len", "[[[]],{}]");
    python.output_of(attempt, "go").await;
    python.slot.signal(behind, Signal::KILL);
    python.slot.signal(attempt, Signal::USR1);
    assert_eq!(json_value(python.end(attempt).await).unwrap(), "1");
    assert_eq!(json_value(python.end(behind).await).unwrap(), "0");
    python.slot.signal(behind, Signal::KILL);
    let attempt = python.start_named("waits", "[[],{}]");
    python.output_of(attempt, "go").await;
    python.slot.signal(attempt, Signal::TERM);
    assert_eq!(lost(&python.end(attempt).await), "the interpreter was killed by SIGTERM");
}

#[tokio::test]
async fn a_restart_ends_what_runs_gives_back_the_rest_and_is_always_answered() {
    const CAUSE: &str = "the interpreter was restarted on request";
    let mut python = Fixture::new();
    python.slot.restart();
    assert_eq!(python.down().await, CAUSE, "there was none yet");
    let long =
        python.start_execute("import time\nx = 1\nprint('go', flush=True)\ntime.sleep(1000)");
    let behind = [python.start_execute("x"), python.start_execute("x")];
    python.output_of(long, "go").await;
    python.slot.restart();
    assert_eq!(lost(&python.end(long).await), CAUSE);
    while python.recalled != behind {
        python.event().await;
    }
    assert_eq!(python.down().await, CAUSE);
    assert_eq!(error(python.execute("x").await).type_name, "NameError");
    python.slot.restart();
    assert_eq!(python.down().await, CAUSE, "it was idle");
    assert_eq!(error(python.execute("x").await).type_name, "NameError");
    python.eval("import os").await;
    let dies = python.start_execute("os._exit(1)");
    assert!(matches!(python.end(dies).await.outcome, AttemptOutcome::Lost(_)));
    python.down().await;
    python.slot.restart();
    assert_eq!(python.down().await, CAUSE, "it was gone");
}

#[tokio::test]
async fn a_recall_that_races_the_beginning_either_succeeds_or_lets_the_job_run_once() {
    let mut python = Fixture::new();
    python
        .eval("ran = []\ndef f(n):\n    ran.append(n)\n    for _ in range(50): pass\n    return n")
        .await;
    let mut returned = Vec::new();
    for round in 0..300_u64 {
        let start = |n: u64| {
            let data = vec![Bytes::from(format!("[[{}],{{}}]", round * 20 + n))];
            python.start(Call::Named { function: "f".into() }, Codec::Json, data)
        };
        let jobs: Vec<SlotJob> = (0..20).map(start).collect();
        let until = Instant::now() + Duration::from_micros(round % 41 * 10);
        while Instant::now() < until {
            tokio::task::yield_now().await;
        }
        let mut taken: Vec<SlotJob> =
            jobs.iter().copied().filter(|job| python.slot.recall(*job)).collect();
        let asked = python.recalled.len();
        let ended = |python: &Fixture, job: &SlotJob| python.replies.contains_key(job);
        while jobs.iter().any(|job| {
            !taken.contains(job) && !ended(&python, job) && !python.recalled.contains(job)
        }) {
            python.event().await;
        }
        taken.extend(&python.recalled[asked..]);
        for (n, job) in (0..).zip(jobs) {
            assert_ne!(taken.contains(&job), ended(&python, &job), "round {round}, job {n}");
            returned.extend(ended(&python, &job).then_some(round * 20 + n));
        }
    }
    let expected = format!("{returned:?}");
    assert_eq!(python.eval("ran").await, Some(expected));
    assert!(
        (1_000..5_900).contains(&returned.len()),
        "the race was none: {} of 6000 ran",
        returned.len()
    );
}

#[tokio::test]
async fn short_jobs_are_told_of_while_a_long_one_runs_whatever_was_asked_before_them() {
    let mut python = Fixture::new();
    let pid = python
        .eval("import os, time\ndef f(n):\n    while n: time.sleep(0.001)\nos.getpid()")
        .await
        .unwrap();
    python.json("f", "[[0],{}]").await.unwrap();
    let process = Pid::from_raw(pid.parse().unwrap()).unwrap();
    // It is asked what runs before it has come to the first of them.
    let status = || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let soon = Instant::now() + DEADLINE;
    kill_process(process, Signal::STOP).unwrap();
    while !status().contains("State:\tT") {
        assert!(Instant::now() < soon, "it does not stop");
        tokio::task::yield_now().await;
    }
    let attempts: Vec<_> =
        (0..4).map(|n| python.start_named("f", ["[[0],{}]", "[[1],{}]"][n / 3])).collect();
    let is_asked = || {
        let status = status();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap().trim();
        u64::from_str_radix(pending, 16).unwrap() & (1 << (Signal::INT.as_raw() - 1)) != 0
    };
    while !is_asked() {
        assert!(Instant::now() < soon, "nobody asks");
        tokio::task::yield_now().await;
    }
    kill_process(process, Signal::CONT).unwrap();
    for attempt in &attempts[..3] {
        assert_eq!(python.end(*attempt).await.outcome, AttemptOutcome::Succeeded);
    }
    python.slot.cancel(attempts[3], false);
    assert_eq!(python.end(attempts[3]).await.outcome, AttemptOutcome::Cancelled);
}
