//! The runtime against a real Python: `python3`, or the one that `FURLONG_TEST_PYTHON` names.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use furlong_wire::call::{Call, CallHeader, Codec, RemoteError, ReplyHeader};
use furlong_wire::ids::{FunctionHash, SessionId};
use furlong_wire::payload::buffers_of;
use tokio::time::timeout;

use super::*;
use crate::runtime::{
    Ask, AttemptEnd, AttemptOutcome, EventReceiver, Job, OutputStream, Published, Report,
    SlotEvent, SlotJob, Unable, channel,
};

mod begin;
mod cells;
mod control;
mod death;
mod frames;
mod inputs;
mod memory;
mod operations;
mod pickled;
mod rich;
mod values;

const DEADLINE: Duration = Duration::from_secs(20);

fn config() -> PythonConfig {
    let explicit = std::env::var_os("FURLONG_TEST_PYTHON").map(PathBuf::from);
    PythonConfig::new(find_interpreter(explicit.as_deref()).unwrap())
}

/// A slot, and what it has reported.
struct Fixture {
    slot: PythonSlot,
    events: EventReceiver,
    attempts: u64,
    output: HashMap<(SlotJob, bool), Vec<u8>>,
    stray: String,
    replies: HashMap<SlotJob, AttemptEnd>,
    downs: Vec<String>,
    recalled: Vec<SlotJob>,
    published: HashMap<SlotJob, Published>,
    asked: Vec<(SlotJob, Ask)>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: PythonConfig) -> Self {
        let (sender, events) = channel();
        let slot = PythonSlot::new(7, Arc::new(PythonShared::new(config)), sender);
        let (output, replies) = (HashMap::new(), HashMap::new());
        let (recalled, published) = (Vec::new(), HashMap::new());
        let (stray, downs) = (String::new(), Vec::new());
        Self {
            slot,
            events,
            attempts: 0,
            output,
            stray,
            replies,
            downs,
            recalled,
            published,
            asked: Vec::new(),
        }
    }

    fn start(&mut self, call: Call, codec: Codec, data: Vec<Bytes>) -> SlotJob {
        self.attempts += 1;
        let header = CallHeader { call, codec };
        self.slot.start(Job {
            attempt: SlotJob(self.attempts),
            session: SessionId([1; 16]),
            header: header.into(),
            definition: None,
            data,
            file: None,
            inputs: None,
        });
        SlotJob(self.attempts)
    }

    fn start_execute(&mut self, source: &str) -> SlotJob {
        self.start(Call::Execute { source: source.into() }, Codec::Json, Vec::new())
    }

    fn start_named(&mut self, function: &str, arguments: &'static str) -> SlotJob {
        self.start(
            Call::Named { function: function.into() },
            Codec::Json,
            vec![Bytes::from_static(arguments.as_bytes())],
        )
    }

    async fn event(&mut self) {
        let (slot, report) = timeout(DEADLINE, self.events.recv()).await.expect("an event in time");
        assert_eq!(slot, 7);
        let event = match report {
            Report::Event(event) => event,
            Report::Measured(_) => panic!("a slot measures nothing"),
            Report::Published { attempt, latest } => {
                assert!(!self.replies.contains_key(&attempt), "{attempt} published after its end");
                let published = latest.take_if(|_| true);
                return self.published.extend(published.map(|published| (attempt, published)));
            }
        };
        match event {
            SlotEvent::Output { attempt, stream, bytes } => {
                assert!(
                    !self.replies.contains_key(&attempt),
                    "output of {attempt} after its end: {bytes:?}"
                );
                assert!(bytes.len() <= 32 * 1024);
                self.output
                    .entry((attempt, stream == OutputStream::Stdout))
                    .or_default()
                    .extend_from_slice(&bytes);
            }
            SlotEvent::StrayOutput { bytes, .. } => {
                self.stray.push_str(std::str::from_utf8(&bytes).unwrap());
            }
            SlotEvent::Finished { attempt, reply } => {
                assert!(self.replies.insert(attempt, reply).is_none());
            }
            SlotEvent::Up => {}
            SlotEvent::Down { cause } => self.downs.push(cause),
            SlotEvent::Recalled { attempts } => self.recalled.extend(attempts),
            SlotEvent::Asked { attempt, ask } => self.asked.push((attempt, ask)),
            SlotEvent::Looked { .. } => panic!("nobody has looked"),
        }
    }

    async fn end(&mut self, attempt: SlotJob) -> AttemptEnd {
        while !self.replies.contains_key(&attempt) {
            self.event().await;
        }
        let mut reply = self.replies.remove(&attempt).unwrap();
        if let Some(file) = reply.file.take() {
            // Behind the header.
            reply.data = buffers_of(&file.open().unwrap()).unwrap().split_off(1);
        }
        reply
    }

    async fn output_of(&mut self, attempt: SlotJob, needle: &str) {
        while !self.stdout(attempt).contains(needle) {
            self.event().await;
        }
    }

    async fn down(&mut self) -> String {
        while self.downs.is_empty() {
            self.event().await;
        }
        self.downs.remove(0)
    }

    async fn execute(&mut self, source: &str) -> AttemptEnd {
        let attempt = self.start_execute(source);
        self.end(attempt).await
    }

    /// Runs code that must succeed, and gives the `repr` of its last expression.
    async fn eval(&mut self, source: &str) -> Option<String> {
        match self.execute(source).await {
            AttemptEnd {
                outcome: AttemptOutcome::Succeeded,
                header: ReplyHeader::Executed { repr, .. },
                ..
            } => repr,
            other => panic!("{source}: {other:?}"),
        }
    }

    async fn json(
        &mut self,
        function: &str,
        arguments: &'static str,
    ) -> Result<String, RemoteError> {
        let attempt = self.start_named(function, arguments);
        json_value(self.end(attempt).await)
    }

    fn text(&self, attempt: SlotJob, stream: OutputStream) -> String {
        let bytes = self.output.get(&(attempt, stream == OutputStream::Stdout));
        bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }

    fn stdout(&self, attempt: SlotJob) -> String {
        self.text(attempt, OutputStream::Stdout)
    }
}

fn json_value(reply: AttemptEnd) -> Result<String, RemoteError> {
    match (reply.outcome.clone(), reply.header) {
        (AttemptOutcome::Succeeded, ReplyHeader::Returned { codec: Codec::Json }) => {
            Ok(String::from_utf8(reply.data[0].to_vec()).unwrap())
        }
        (AttemptOutcome::Failed | AttemptOutcome::NotBegun(_), ReplyHeader::Raised(error)) => {
            Err(error)
        }
        other => panic!("{other:?}"),
    }
}

fn error(reply: AttemptEnd) -> RemoteError {
    match reply.header {
        ReplyHeader::Raised(error) => error,
        other => panic!("{other:?}"),
    }
}

fn lost(reply: &AttemptEnd) -> &str {
    match &reply.outcome {
        AttemptOutcome::Lost(cause) => cause,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_execution_gives_its_last_expression_and_its_count() {
    let mut python = Fixture::new();
    let reply = python.execute("x = 20\nx + 1").await;
    assert_eq!(
        reply.header,
        ReplyHeader::Executed { count: 1, repr: Some("21".into()), displays: Vec::new() }
    );
    assert_eq!(python.eval("None").await, None);
    assert_eq!(python.eval("x = _ * 2").await, None);
    let failed = error(python.execute("1 / 0").await);
    assert_eq!((failed.type_name.as_str(), failed.execution), ("ZeroDivisionError", Some(4)));
    let reply = python.execute("x, __name__, engine_id").await;
    assert_eq!(
        reply.header,
        ReplyHeader::Executed {
            count: 5,
            repr: Some("(42, '__main__', None)".into()),
            displays: Vec::new()
        }
    );
    python.slot.set_engine_id(12);
    assert_eq!(python.eval("engine_id").await.as_deref(), Some("12"));
    assert_eq!(python.eval("").await, None);
}

#[tokio::test]
async fn output_by_every_way_belongs_to_its_job_and_comes_before_its_end() {
    let mut python = Fixture::new();
    let source = "import os, subprocess, sys, ctypes\n\
                  print('printed')\nos.write(1, b'written\\n')\nsubprocess.run(['echo', 'child'])\n\
                  ctypes.CDLL(None).puts(b'from C')\nprint('unended', end='')\nprint('error', file=sys.stderr)";
    let attempt = python.start_execute(source);
    python.end(attempt).await;
    let stdout = python.stdout(attempt);
    for text in ["printed\n", "written\n", "child\n", "from C\n", "unended"] {
        assert!(stdout.contains(text), "{stdout}");
    }
    assert_eq!(python.text(attempt, OutputStream::Stderr), "error\n");
    assert_eq!(python.stray, "");
}

#[tokio::test]
async fn pipelined_jobs_do_not_mix_their_output() {
    let mut python = Fixture::new();
    let define = "import os, time\n\
                  def f(n):\n    if n % 7 == 0: os.write(1, b'%d;' % n)\n    if n % 50 == 0: time.sleep(0.02)\n    return n";
    python.eval(define).await;
    let mut attempts = Vec::new();
    for n in 1..=1000 {
        let data = vec![Bytes::from(format!("[[{n}],{{}}]"))];
        attempts.push((n, python.start(Call::Named { function: "f".into() }, Codec::Json, data)));
    }
    for (n, attempt) in attempts {
        python.end(attempt).await;
        let expected = if n % 7 == 0 { format!("{n};") } else { String::new() };
        assert_eq!(python.stdout(attempt), expected);
    }
    assert_eq!(python.stray, "");
}

#[tokio::test]
async fn output_of_a_long_job_is_live_even_behind_short_ones() {
    let mut python = Fixture::new();
    let define = "import time\ndef f(n):\n    while n:\n        \
                  print('tick', flush=True); time.sleep(0.01)";
    python.eval(define).await;
    let short = python.start_named("f", "[[0],{}]");
    python.end(short).await;
    let attempts: Vec<_> = (0..20)
        .map(|n| python.start_named("f", if n == 10 { "[[1],{}]" } else { "[[0],{}]" }))
        .collect();
    python.output_of(attempts[10], "tick\ntick\ntick").await;
    for attempt in &attempts[..10] {
        python.end(*attempt).await;
    }
    python.slot.cancel(attempts[10], false);
    assert_eq!(python.end(attempts[10]).await.outcome, AttemptOutcome::Cancelled);
    assert_eq!(python.end(attempts[19]).await.outcome, AttemptOutcome::Succeeded);
    assert_eq!(python.stdout(attempts[9]) + &python.stdout(attempts[11]), "");
}

#[tokio::test]
async fn five_megabytes_of_output_arrive_whole() {
    let mut python = Fixture::new();
    let attempt = python.start_execute("for n in range(50000): print(f'{n:0>99}')");
    python.end(attempt).await;
    let stdout = python.stdout(attempt);
    assert_eq!(stdout.len(), 5_000_000);
    assert!(
        stdout.lines().enumerate().all(|(n, line)| line
            .trim_start_matches('0')
            .parse()
            .unwrap_or(0)
            == n)
    );
}

#[tokio::test]
async fn what_a_thread_prints_after_its_jobs_end_is_stray() {
    let mut python = Fixture::new();
    let source = "import threading\ngo = threading.Event()\n\
                  def late():\n    print('early', flush=True); ready.set(); go.wait(); print('late')\n    done.set()\n\
                  ready = threading.Event(); done = threading.Event()\n\
                  threading.Thread(target=late).start()\nready.wait()";
    let first = python.start_execute(source);
    python.end(first).await;
    assert_eq!(python.stdout(first), "early\n");
    let second = python.start_execute("print('mine'); go.set(); done.wait()");
    python.end(second).await;
    assert_eq!(python.stdout(second), "mine\n");
    while python.stray != "late\n" {
        python.event().await;
    }
}

#[tokio::test]
async fn tracebacks_show_the_users_frames_and_causes_alone() {
    let mut python = Fixture::new();
    let source = "def inner():\n    raise KeyError('a')\n\
                  def outer():\n    try:\n        inner()\n    except KeyError as e:\n        raise ValueError('b') from e\nouter()";
    let failed = error(python.execute(source).await);
    assert_eq!((failed.type_name.as_str(), failed.message.as_str()), ("ValueError", "b"));
    for text in [
        "KeyError: 'a'",
        "direct cause",
        "File \"<furlong 1>\", line 7, in outer",
        "    inner()\n",
        "ValueError: b\n",
    ] {
        assert!(failed.traceback.contains(text), "{}", failed.traceback);
    }
    assert!(!failed.traceback.contains("worker"), "{}", failed.traceback);
    let failed = error(python.execute("x = (1 +\ny = 2").await);
    assert_eq!(failed.type_name, "SyntaxError");
    assert!(failed.traceback.contains("  File \"<furlong 2>\", line "), "{}", failed.traceback);
    assert!(!failed.traceback.contains("parse"), "{}", failed.traceback);
    let failed = error(
        python.execute("class Bad(Exception):\n    def __str__(self): 1 / 0\nraise Bad").await,
    );
    assert_eq!(failed.type_name, "__main__.Bad");
    assert!(failed.message.contains("str() failed"));
    let failed = error(python.execute("raise ValueError('x' * 1_000_000)").await);
    assert!(failed.traceback.len() < 66 * 1024 && failed.message.len() < 66 * 1024);
    let failed = error(python.execute("def r(): r()\nr()").await);
    assert_eq!(failed.type_name, "RecursionError");
}

#[tokio::test]
async fn sys_exit_is_an_error_of_the_task() {
    let mut python = Fixture::new();
    python.eval("x = 1").await;
    let failed = error(python.execute("import sys; sys.exit(3)").await);
    assert_eq!((failed.type_name.as_str(), failed.message.as_str()), ("SystemExit", "3"));
    assert_eq!(python.eval("x").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn named_functions_are_found_in_modules_namespace_and_builtins() {
    let mut python = Fixture::new();
    assert_eq!(python.json("os.path:basename", r#"[["/a/b"],{}]"#).await.unwrap(), r#""b""#);
    assert_eq!(
        python.json("collections:Counter.fromkeys", r"[[[]],{}]").await.unwrap_err().type_name,
        "NotImplementedError"
    );
    python.eval("def twice(x, *, plus=0): return 2 * x + plus").await;
    assert_eq!(python.json("twice", r#"[[4],{"plus":1}]"#).await.unwrap(), "9");
    assert_eq!(python.json("len", r"[[[1,2]],{}]").await.unwrap(), "2");
    let failed = python.json("no_such_module_here:f", "[[],{}]").await.unwrap_err();
    assert_eq!(failed.type_name, "ModuleNotFoundError");
    assert!(!failed.traceback.contains("importlib"), "{}", failed.traceback);
    let failed = python.json("os:nothing", "[[],{}]").await.unwrap_err();
    assert_eq!(failed.message, "module 'os' has no 'nothing'");
    assert_eq!(python.json("nothing", "[[],{}]").await.unwrap_err().type_name, "NameError");
    assert_eq!(python.json("len", "[1]").await.unwrap_err().type_name, "TypeError");
    let attempt = python.start(
        Call::Named { function: "len".into() },
        Codec::Msgpack,
        vec![Bytes::from_static(b"\x90")],
    );
    assert!(error(python.end(attempt).await).message.contains("not as msgpack"));
}

fn source_call(hash: u8, source: Option<&str>, function: &str) -> Call {
    let source = source.map(Into::into);
    Call::Source {
        file: "job.py".into(),
        hash: FunctionHash([hash; 32]),
        source,
        function: function.into(),
    }
}

#[tokio::test]
async fn sources_are_loaded_once_and_errors_name_what_they_define() {
    let mut python = Fixture::new();
    let data = || vec![Bytes::from_static(b"[[],{}]")];
    let text = "import itertools\ncounter = itertools.count(1)\n\
                def f(): return next(counter)\ndef g(): raise OSError(2)\n";
    for expected in ["1", "2"] {
        let attempt = python.start(source_call(1, Some(text), "f"), Codec::Json, data());
        assert_eq!(json_value(python.end(attempt).await).unwrap(), expected);
    }
    let attempt = python.start(source_call(1, None, "f"), Codec::Json, data());
    assert_eq!(json_value(python.end(attempt).await).unwrap(), "3");
    let attempt = python.start(source_call(1, None, "g"), Codec::Json, data());
    let traceback = error(python.end(attempt).await).traceback;
    assert!(
        traceback.contains("File \"job.py\", line 4, in g\n    def g(): raise OSError(2)\n"),
        "{traceback}"
    );
    let attempt = python.start(source_call(1, None, "h"), Codec::Json, data());
    assert_eq!(
        error(python.end(attempt).await).message,
        "job.py has no function 'h'; it defines f, g"
    );
    let attempt = python.start(source_call(2, None, "f"), Codec::Json, data());
    assert_eq!(error(python.end(attempt).await).type_name, "EngineError");

    python.attempts += 1;
    let header = CallHeader { call: source_call(3, None, "f"), codec: Codec::Json };
    let definition = Some(Bytes::from_static(b"def f(): return 'defined'"));
    python.slot.start(Job {
        attempt: SlotJob(python.attempts),
        session: SessionId([1; 16]),
        header: header.into(),
        definition,
        data: data(),
        file: None,
        inputs: None,
    });
    assert_eq!(json_value(python.end(SlotJob(python.attempts)).await).unwrap(), r#""defined""#);
    for hash in 100..200 {
        let attempt =
            python.start(source_call(hash, Some("def f(): return 0"), "f"), Codec::Json, data());
        python.end(attempt).await;
    }
    let attempt = python.start(source_call(1, Some(text), "f"), Codec::Json, data());
    assert_eq!(
        json_value(python.end(attempt).await).unwrap(),
        "1",
        "it was evicted, and is loaded anew"
    );
}

#[tokio::test]
async fn pickles_and_raw_buffers_travel_out_of_band() {
    let mut python = Fixture::new();
    let source = "import pickle\n\
        def pack(data):\n    buffers = []\n\
        \x20   head = pickle.dumps(((pickle.PickleBuffer(data), 5), {}), protocol=5, buffer_callback=buffers.append)\n\
        \x20   return [head, *[b.raw() for b in buffers]]\n\
        def flip(data, n):\n    data[0] = n\n    return pickle.PickleBuffer(data)\n\
        def pair(): return [b'ab', memoryview(b'c')]";
    python.eval(source).await;
    for size in [10_000, 3_000_000] {
        let big = Bytes::from(vec![1_u8; size]);
        let attempt = python.start(Call::Named { function: "pack".into() }, Codec::Raw, vec![big]);
        let packed = python.end(attempt).await;
        assert_eq!(packed.data.iter().map(Bytes::len).skip(1).collect::<Vec<_>>(), [size]);
        let attempt =
            python.start(Call::Named { function: "flip".into() }, Codec::Pickle, packed.data);
        let flipped = python.end(attempt).await;
        assert_eq!(flipped.header, ReplyHeader::Returned { codec: Codec::Pickle }, "{size}");
        assert_eq!(
            (flipped.data.len(), flipped.data[1].len(), &flipped.data[1][..2]),
            (2, size, &[5, 1][..])
        );
    }
    let attempt = python.start(Call::Named { function: "pair".into() }, Codec::Raw, Vec::new());
    assert_eq!(
        python.end(attempt).await.data,
        [Bytes::from_static(b"ab"), Bytes::from_static(b"c")]
    );
}

#[tokio::test]
async fn a_cancel_interrupts_sleeps_and_loops_and_leaves_the_namespace() {
    let mut python = Fixture::new();
    python.eval("import time; x = 5").await;
    for source in
        ["print('go', flush=True)\ntime.sleep(1000)", "print('go', flush=True)\nwhile True: pass"]
    {
        let attempt = python.start_execute(source);
        python.output_of(attempt, "go").await;
        python.slot.cancel(attempt, false);
        let reply = python.end(attempt).await;
        assert_eq!(reply.outcome, AttemptOutcome::Cancelled);
        assert_eq!(error(reply).type_name, "KeyboardInterrupt");
    }
    let failed = python.execute("raise KeyboardInterrupt").await;
    assert_eq!(failed.outcome, AttemptOutcome::Failed, "nobody cancelled it");
    assert_eq!(python.eval("x").await.as_deref(), Some("5"));
}

#[tokio::test]
async fn an_interrupt_that_ends_no_system_call_is_sent_again() {
    let mut python = Fixture::new();
    // The first SIGINT is noted, and the call goes on, as if it had come in the instant before.
    let source = "\
import os, signal, threading
read, _ = os.pipe()
told, tell = os.pipe()
os.set_blocking(tell, False)
signal.set_wakeup_fd(tell)
signal.siginterrupt(signal.SIGINT, False)
def be_interrupted_by_the_next():
    os.read(told, 1)
    signal.siginterrupt(signal.SIGINT, True)
threading.Thread(target=be_interrupted_by_the_next, daemon=True).start()
print('go', flush=True)
os.read(read, 1)";
    let attempt = python.start_execute(source);
    python.output_of(attempt, "go").await;
    python.slot.cancel(attempt, false);
    assert_eq!(python.end(attempt).await.outcome, AttemptOutcome::Cancelled);
    python.eval("signal.set_wakeup_fd(-1)").await;
}

#[tokio::test]
async fn a_cancel_that_races_the_end_never_hits_the_next_job() {
    let mut python = Fixture::new();
    python
        .eval(
            "import time\ndef victim(s): time.sleep(s)\ndef next_one():\n    for _ in range(2000): pass\n    return 1",
        )
        .await;
    let mut cancelled = 0;
    for round in 0..400_u64 {
        let data = vec![Bytes::from(format!("[[{}],{{}}]", (round % 20) as f64 * 1e-5))];
        let victim = python.start(Call::Named { function: "victim".into() }, Codec::Json, data);
        let next = python.start_named("next_one", "[[],{}]");
        let until = Instant::now() + Duration::from_micros(round % 37 * 10);
        while Instant::now() < until {
            tokio::task::yield_now().await;
        }
        python.slot.cancel(victim, false);
        cancelled += u32::from(python.end(victim).await.outcome == AttemptOutcome::Cancelled);
        assert_eq!(json_value(python.end(next).await).unwrap(), "1", "round {round}");
    }
    assert!((1..400).contains(&cancelled), "the race was none: {cancelled} of 400 cancelled");
}

#[tokio::test]
async fn jobs_that_have_not_begun_are_cancelled_without_running_and_recalled_at_once() {
    let mut python = Fixture::new();
    let define = "import time\nran = []\n\
                  def f(n):\n    ran.append(n)\n    if n == 0:\n        time.sleep(1000)";
    python.eval(define).await;
    let warm = python.start_named("f", "[[-1],{}]");
    python.end(warm).await;
    let long = python.start_named("f", "[[0],{}]");
    let ahead = python.start_named("f", "[[1],{}]");
    let recalled: Vec<_> = (0..100).map(|_| python.start_named("f", "[[2],{}]")).collect();
    tokio::task::yield_now().await;
    python.slot.cancel(ahead, false);
    let sent: Vec<_> =
        recalled.iter().copied().filter(|attempt| !python.slot.recall(*attempt)).collect();
    assert!((1..64).contains(&sent.len()), "{} were sent ahead", sent.len());
    // The long one still runs.
    while python.recalled != sent {
        python.event().await;
    }
    assert!(!python.slot.recall(long), "it has begun");
    python.slot.cancel(long, false);
    assert_eq!(python.end(ahead).await.outcome, AttemptOutcome::Cancelled);
    assert_eq!(python.end(long).await.outcome, AttemptOutcome::Cancelled);
    assert_eq!(python.eval("1 in ran, ran.count(2)").await, Some("(False, 0)".to_owned()));
    assert_eq!(python.recalled, sent);
}

#[tokio::test]
async fn a_forced_cancel_kills_what_does_not_stop() {
    let mut config = config();
    config.kill_grace = Duration::from_millis(200);
    let mut python = Fixture::with(config);
    let source = concat!(
        "while True:\n    try:\n        print('go', flush=True)\n",
        "        while True: pass\n    except BaseException: pass",
    );
    let attempt = python.start_execute(source);
    python.output_of(attempt, "go").await;
    python.slot.cancel(attempt, true);
    assert_eq!(python.end(attempt).await.outcome, AttemptOutcome::Cancelled);
    assert_eq!(python.down().await, "the interpreter was killed to cancel a task");
    assert_eq!(python.eval("1").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn user_code_that_tampers_with_its_process_harms_only_itself() {
    let mut python = Fixture::new();
    python.eval("import io, os, signal, sys").await;
    for tampering in [
        "sys.stdout = io.StringIO(); print('caught')",
        "os.close(1)",
        "print('x'); sys.stdout.close()",
        "sys.stderr = None",
        "signal.signal(signal.SIGINT, signal.SIG_DFL); os.chdir('/tmp')",
        "os.dup2(os.open('/dev/null', os.O_WRONLY), 2)",
        "os.fork()",
        "os.fork() or sys.exit(5)",
        "os.fork() or 1 / 0",
    ] {
        python.execute(tampering).await;
        let attempt = python.start_execute("print('still here')");
        assert_eq!(python.end(attempt).await.outcome, AttemptOutcome::Succeeded, "{tampering}");
        if !tampering.contains("dup2") {
            assert_eq!(python.stdout(attempt), "still here\n", "{tampering}");
        }
    }
    let attempt = python.start_execute("print('go'); import time; time.sleep(1000)");
    python.output_of(attempt, "go").await;
    python.slot.cancel(attempt, false);
    assert_eq!(python.end(attempt).await.outcome, AttemptOutcome::Cancelled);
    let closes = python.start_execute("os.closerange(3, 500)");
    assert!(matches!(python.end(closes).await.outcome, AttemptOutcome::Lost(_)));
    assert_eq!(python.eval("1").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn an_interpreter_that_cannot_be_used_fails_its_jobs_with_one_line() {
    let missing = find_interpreter(Some(Path::new("/no/such/python"))).unwrap_err();
    assert!(missing.to_string().contains("/no/such/python is not an executable file"));
    assert!(find_interpreter(Some(Path::new("no-such-python"))).is_err());
    for program in ["/bin/false", "/bin/echo", "/no/such/python"] {
        let mut python = Fixture::with(PythonConfig::new(program.into()));
        let attempts = [python.start_execute("1"), python.start_execute("2")];
        for attempt in attempts {
            let reply = python.end(attempt).await;
            assert_eq!(reply.outcome, AttemptOutcome::NotBegun(Unable::Runtime));
            let failed = error(reply);
            assert_eq!(
                (failed.type_name.as_str(), failed.message.lines().count()),
                ("EngineError", 1)
            );
            assert!(failed.message.contains(program));
        }
    }
    let mut config = config();
    config.env.push((OsString::from("PYTHONHOME"), OsString::from("/no/such/home")));
    let mut python = Fixture::with(config);
    assert_eq!(error(python.execute("1").await).type_name, "EngineError");
}

#[tokio::test]
async fn the_interpreter_and_what_it_started_die_with_the_slot() {
    let mut python = Fixture::new();
    let pids = python
        .eval("import os, subprocess\nos.getpid(), subprocess.Popen(['sleep', '1000']).pid")
        .await
        .unwrap();
    let pids: Vec<i32> =
        pids.trim_matches(['(', ')']).split(", ").map(|pid| pid.parse().unwrap()).collect();
    drop(python);
    let is_alive = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !(status.is_empty() || status.contains(") Z "))
    };
    let until = Instant::now() + DEADLINE;
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(Instant::now() < until);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn numerical_libraries_get_the_slots_share_of_the_cores() {
    let mut config = config();
    config.slots_in_process = 1_000_000;
    config.env.push((OsString::from("MKL_NUM_THREADS"), OsString::from("3")));
    let mut python = Fixture::with(config);
    let repr = python
        .eval("import os; os.environ.get('OMP_NUM_THREADS'), os.environ['MKL_NUM_THREADS']")
        .await
        .unwrap();
    assert!(std::env::var_os("OMP_NUM_THREADS").is_some() || repr == "('1', '3')", "{repr}");
}

/// `cargo test --release measure -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_no_ops() {
    let mut python = Fixture::new();
    python.eval("def f(): pass").await;
    let sequential = 20_000_u32;
    let begun = Instant::now();
    for _ in 0..sequential {
        let attempt = python.start_named("f", "[[],{}]");
        python.end(attempt).await;
    }
    println!("sequential: {:?} each", begun.elapsed() / sequential);
    let cpu_time = "import time; round(time.process_time() * 1e6)";
    let before: f64 = python.eval(cpu_time).await.unwrap().parse().unwrap();
    let pipelined = 200_000_u32;
    let begun = Instant::now();
    let mut waiting = 0;
    for _ in 0..pipelined {
        python.start_named("f", "[[],{}]");
        waiting += 1;
        while waiting >= 256 {
            python.event().await;
            waiting -= 1;
        }
    }
    while waiting > 0 {
        python.event().await;
        waiting -= 1;
    }
    println!("pipelined: {:.0}/s", f64::from(pipelined) / begun.elapsed().as_secs_f64());
    let after: f64 = python.eval(cpu_time).await.unwrap().parse().unwrap();
    println!(
        "of which the interpreter's own time: {:.1} us each",
        (after - before) / f64::from(pipelined)
    );
}
