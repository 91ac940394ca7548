//! The runtime with real programs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use furlong_wire::call::{Call, CallHeader, Codec, CommandSpec, ReplyHeader};
use furlong_wire::ids::SessionId;
use furlong_wire::os_text::OsText;
use rustix::process::{Pid, test_kill_process};
use tempfile::TempDir;

use super::pipes::{PIECE_BYTES_MAX, UNTAKEN_BYTES_MAX};
use super::*;
use crate::job::Input;
use crate::runtime::{
    AttemptEnd, AttemptOutcome, EventReceiver, Job, OutputStream, Report, SlotEvent, SlotJob,
    Unable, channel,
};

mod inputs;
mod memory;

const DEADLINE: Duration = Duration::from_secs(20);

/// A slot, and what it has reported.
struct Fixture {
    slot: CommandSlot,
    events: EventReceiver,
    attempts: u64,
    output: HashMap<(SlotJob, bool), Vec<u8>>,
    replies: HashMap<SlotJob, AttemptEnd>,
    folder: TempDir,
}

fn command(argv: &[&str]) -> CommandSpec {
    CommandSpec { argv: argv.iter().copied().map(Into::into).collect(), ..CommandSpec::default() }
}

fn sh(script: &str) -> CommandSpec {
    command(&["sh", "-c", script])
}

impl Fixture {
    fn new() -> Self {
        Self::with(CommandConfig::default(), Vec::new())
    }

    fn with(config: CommandConfig, env: Vec<(OsString, OsString)>) -> Self {
        let (sender, events) = channel();
        let slot = CommandSlot::new(7, env, Arc::new(CommandShared::new(config)), sender).unwrap();
        let (output, replies) = (HashMap::new(), HashMap::new());
        Self { slot, events, attempts: 0, output, replies, folder: tempfile::tempdir().unwrap() }
    }

    fn start(&mut self, spec: CommandSpec) -> SlotJob {
        self.start_with(spec, Codec::Raw, Vec::new())
    }

    fn start_with(&mut self, spec: CommandSpec, codec: Codec, data: Vec<Bytes>) -> SlotJob {
        self.start_with_inputs(spec, codec, data, None)
    }

    fn start_with_inputs(
        &mut self,
        spec: CommandSpec,
        codec: Codec,
        data: Vec<Bytes>,
        inputs: Option<Box<[Input]>>,
    ) -> SlotJob {
        self.attempts += 1;
        let header = CallHeader { call: Call::Command(Box::new(spec)), codec };
        self.slot.start(Job {
            attempt: SlotJob(self.attempts),
            session: SessionId([1; 16]),
            header: Arc::new(header),
            definition: None,
            data,
            file: None,
            inputs,
        });
        SlotJob(self.attempts)
    }

    fn event(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        let (slot, event) = loop {
            if let Some(event) = self.events.poll() {
                break event;
            }
            assert!(Instant::now() < deadline, "no event in time");
            std::thread::yield_now();
        };
        assert_eq!(slot, 7);
        let Report::Event(event) = event else { panic!("a command publishes nothing") };
        match event {
            SlotEvent::Output { attempt, stream, bytes } => {
                assert!(
                    !self.replies.contains_key(&attempt),
                    "output of {attempt} after its end: {bytes:?}"
                );
                self.output
                    .entry((attempt, stream == OutputStream::Stdout))
                    .or_default()
                    .extend_from_slice(&bytes);
            }
            SlotEvent::Finished { attempt, reply } => {
                assert!(self.replies.insert(attempt, reply).is_none());
            }
            other => panic!("a command has no such event: {other:?}"),
        }
    }

    fn end(&mut self, attempt: SlotJob) -> AttemptEnd {
        while !self.replies.contains_key(&attempt) {
            self.event();
        }
        self.replies.remove(&attempt).unwrap()
    }

    fn run(&mut self, spec: CommandSpec) -> AttemptEnd {
        let attempt = self.start(spec);
        self.end(attempt)
    }

    fn stdout(&self, attempt: SlotJob) -> String {
        let bytes = self.output.get(&(attempt, true));
        bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until a command has written this much.
    fn output_of(&mut self, attempt: SlotJob, needle: &str) {
        while !self.stdout(attempt).contains(needle) {
            self.event();
        }
    }

    /// Runs a command that must succeed, and gives what it wrote.
    fn ok(&mut self, spec: CommandSpec) -> String {
        let reply = self.run(spec);
        assert_eq!(
            (&reply.outcome, &reply.header),
            (&AttemptOutcome::Succeeded, &exited(0)),
            "{reply:?}"
        );
        self.stdout(SlotJob(self.attempts))
    }

    /// Runs a command that cannot be run, and gives the line that says why.
    fn refused(&mut self, spec: CommandSpec) -> String {
        refusal(self.run(spec))
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn script(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

#[test]
fn what_this_machine_lacks_is_no_fault_of_the_task() {
    let mut commands = Fixture::new();
    let script = commands.script("plain", "#!/no/such/interpreter\n", 0o755);
    let closed = commands.script("closed", "#!/bin/sh\n", 0o644);
    let nowhere = Some("/no/such/folder".to_owned());
    let kind = AttemptOutcome::NotBegun(Unable::Kind);
    for spec in [command(&["no-such-program"]), command(&[&script]), command(&[&closed])] {
        assert_eq!(commands.run(spec.clone()).outcome, kind, "{spec:?}");
    }
    assert_eq!(
        commands.run(CommandSpec { cwd: nowhere.map(Into::into), ..sh("true") }).outcome,
        kind
    );
    assert_eq!(
        commands
            .run(CommandSpec { stdout: Some("/no/such/folder/x".into()), ..sh("true") })
            .outcome,
        kind
    );
    let long = "x".repeat(1 << 20);
    for spec in [command(&["true", "a\0b"]), command(&["true", &long]), command(&[""])] {
        assert_eq!(commands.run(spec).outcome, AttemptOutcome::Failed, "it is so everywhere");
    }
}

fn refusal(reply: AttemptEnd) -> String {
    let ReplyHeader::Raised(error) = reply.header else { panic!("it was run: {reply:?}") };
    assert!(
        matches!(reply.outcome, AttemptOutcome::Failed | AttemptOutcome::NotBegun(_)),
        "{:?}",
        reply.outcome
    );
    assert_eq!(error.type_name, "CommandError");
    assert_eq!(error.message.lines().count(), 1, "{error}");
    error.message
}

fn exited(code: i32) -> ReplyHeader {
    ReplyHeader::Exited { code: Some(code), signal: None, written: None }
}

fn killed(signal: i32) -> ReplyHeader {
    ReplyHeader::Exited { code: None, signal: Some(signal), written: None }
}

/// Waits until there is no process with this number, or only what is left of one.
fn is_gone(pid: &str) -> bool {
    let pid = pid.trim();
    let process = Pid::from_raw(pid.parse().unwrap()).unwrap();
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if test_kill_process(process).is_err() || stat.contains(") Z ") {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[test]
fn exit_codes_and_signals_come_back_with_the_last_lines_of_stderr() {
    let mut it = Fixture::new();
    assert_eq!(it.ok(sh("echo out; echo err >&2")), "out\n");
    assert_eq!(it.output[&(SlotJob(1), false)], b"err\n");
    let reply = it.run(sh("echo first >&2; echo last >&2; exit 3"));
    assert_eq!(reply.outcome, AttemptOutcome::Exited("exit code 3\nfirst\nlast".into()));
    assert_eq!(reply.header, exited(3));
    let reply = it.run(sh("kill -SEGV $$"));
    assert_eq!(
        (reply.outcome, reply.header),
        (AttemptOutcome::Exited("killed by SIGSEGV".into()), killed(11))
    );
    let reply =
        it.run(CommandSpec { stderr: Some(it.path("err").into()), ..sh("echo kept >&2; exit 1") });
    assert_eq!(
        reply.outcome,
        AttemptOutcome::Exited("exit code 1".into()),
        "what went to a file did not come back"
    );
}

#[test]
fn a_program_finds_its_variables_directory_and_arguments() {
    let mut it =
        Fixture::with(config(), vec![("B".into(), "config".into()), ("C".into(), "c".into())]);
    it.slot.set_engine_id(5);
    let env = [("A", "a b"), ("B", "own")].map(|(name, value)| (name.into(), value.into()));
    let spec = CommandSpec {
        env: env.into(),
        cwd: Some(it.folder.path().into()),
        task: Some(17),
        item: Some("an item".into()),
        ..sh(
            "echo $A,$B,$C,$FURLONG_TASK,$FURLONG_ITEM,$FURLONG_ENGINE; pwd -P; [ -n \"$HOME$PATH\" ]",
        )
    };
    let cwd = it.folder.path().canonicalize().unwrap();
    assert_eq!(it.ok(spec), format!("a b,own,c,17,an item,5\n{}\n", cwd.display()));
    assert_eq!(it.ok(sh("echo $FURLONG_TASK$FURLONG_ITEM")), "\n");
    assert_eq!(it.ok(command(&["printf", "%s|", "a b", "", "$x"])), "a b||$x|");
    assert_eq!(it.ok(sh("echo $0")), "sh\n", "the name is as it was given");
}

fn config() -> CommandConfig {
    CommandConfig::default()
}

#[test]
fn bytes_that_are_not_utf8_pass_through() {
    let mut it = Fixture::new();
    let odd = |prefix: &str| OsText::from_bytes([prefix.as_bytes(), b"caf\xe9"].concat());
    fs::create_dir(it.folder.path().join(&*odd("dir-"))).unwrap();
    let spec = CommandSpec {
        cwd: Some(it.folder.path().join(&*odd("dir-")).into_os_string().into()),
        env: [("V".into(), odd("v-"))].into(),
        item: Some(odd("i-")),
        stdout: Some(odd("out-")),
        argv: vec![
            "sh".into(),
            "-c".into(),
            "printf %s \"$V,$FURLONG_ITEM,$1\"".into(),
            "sh".into(),
            odd("a-"),
        ],
        ..CommandSpec::default()
    };
    it.ok(spec);
    let written = fs::read(it.folder.path().join(&*odd("dir-")).join(&*odd("out-"))).unwrap();
    assert_eq!(written, b"v-caf\xe9,i-caf\xe9,a-caf\xe9");
}

#[test]
fn a_program_is_looked_for_in_its_own_path_and_directory() {
    let mut it = Fixture::new();
    it.script("tool", "#!/bin/sh\necho found\n", 0o755);
    let folder = it.folder.path().to_str().unwrap().to_owned();
    let path = format!("/nowhere:{folder}:/usr/bin:/bin");
    let spec = command(&["tool"]);
    assert_eq!(
        it.ok(CommandSpec { env: [("PATH".into(), path.into())].into(), ..spec.clone() }),
        "found\n"
    );
    let text = it.refused(spec);
    assert!(text.starts_with("there is no program `tool` in the engine's PATH, /"), "{text}");
    assert_eq!(it.ok(CommandSpec { cwd: Some(folder.into()), ..command(&["./tool"]) }), "found\n");
}

#[test]
fn what_cannot_be_run_is_one_line_that_names_it() {
    let mut it = Fixture::new();
    let folder = it.folder.path().to_str().unwrap().to_owned();
    let plain = it.script("plain", "#!/bin/sh\n", 0o644);
    let no_line = it.script("no_line", "\0\0\0\0echo\n", 0o755);
    let orphan = it.script("orphan", "#!/no/such/shell\n", 0o755);
    let missing = it.path("missing");
    for (argv, parts) in [
        (&[][..], &["the command is empty"][..]),
        (
            &["no-such-program-anywhere"],
            &["there is no program `no-such-program-anywhere`", "PATH"],
        ),
        (&[&missing], &["there is no program ", &missing]),
        (&[&plain], &[&plain, "not executable", "chmod +x"]),
        (&[&folder], &[&folder, "is a directory"]),
        (&[&no_line], &[&no_line, "no `#!` line"]),
        (&[&orphan], &[&orphan, "the interpreter"]),
        (&["true", "a\0b"], &["true", "zero byte"]),
        (&["no\nline"], &["there is no program `no\\nline`"]),
    ] {
        let text = it.refused(command(argv));
        parts.iter().for_each(|part| assert!(text.contains(part), "no {part:?} in {text}"));
    }
    let spec = |name: &str, value: &str| CommandSpec {
        env: [(name.into(), value.into())].into(),
        ..sh("")
    };
    assert!(it.refused(spec("A=B", "c")).contains("`A=B` is no name of a variable"));
    assert!(it.refused(spec("A", "c\0")).contains("the variable `A` has a zero byte"));
    let text = it.refused(CommandSpec { cwd: Some(missing.as_str().into()), ..sh("") });
    assert!(text.contains(&missing) && text.contains("no such directory"), "{text}");
    let text = it.refused(CommandSpec { cwd: Some(plain.as_str().into()), ..sh("") });
    assert!(text.contains(&plain) && text.contains("not a directory"), "{text}");
    assert_eq!(it.ok(sh("echo alive")), "alive\n");
}

#[test]
fn input_is_what_was_sent_whole_or_as_much_as_is_read() {
    let mut it = Fixture::new();
    assert_eq!(it.ok(sh("readlink /proc/self/fd/0; wc -c")), "/dev/null\n0\n");
    let buffers = vec![Bytes::from("one "), Bytes::new(), Bytes::from("two")];
    let attempt = it.start_with(command(&["cat"]), Codec::Raw, buffers);
    assert_eq!(
        (it.end(attempt).outcome, it.stdout(attempt).as_str()),
        (AttemptOutcome::Succeeded, "one two")
    );
    let large: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let attempt = it.start_with(command(&["cat"]), Codec::Raw, vec![large.clone().into()]);
    assert_eq!(it.end(attempt).outcome, AttemptOutcome::Succeeded);
    assert!(it.output[&(attempt, true)] == large);
    let attempt = it.start_with(command(&["head", "-c", "3"]), Codec::Raw, vec![large.into()]);
    assert_eq!(it.end(attempt).outcome, AttemptOutcome::Succeeded);
    let attempt = it.start_with(sh(""), Codec::Json, vec![Bytes::from("[[],{}]")]);
    assert!(refusal(it.end(attempt)).contains("raw buffers"));
}

#[test]
fn output_goes_to_files_with_the_numbers_in_their_names() {
    let mut it = Fixture::new();
    it.slot.set_engine_id(2);
    fs::write(it.path("out-9-2"), "what was there before, and longer").unwrap();
    let spec = CommandSpec { task: Some(9), ..sh("echo out; echo err >&2") };
    let (stdout, stderr) =
        (Some(it.path("out-{task}-{engine}").into()), Some(it.path("err-{task}").into()));
    assert_eq!(it.ok(CommandSpec { stdout, stderr, ..spec.clone() }), "");
    let read = |name: &str, it: &Fixture| fs::read_to_string(it.path(name)).unwrap();
    assert_eq!((read("out-9-2", &it).as_str(), read("err-9", &it).as_str()), ("out\n", "err\n"));
    // One file for both, named from the command's directory.
    let (both, cwd) = (Some("both".into()), Some(it.folder.path().into()));
    it.ok(CommandSpec { stdout: both.clone(), stderr: both, cwd, ..spec });
    assert_eq!(read("both", &it), "out\nerr\n");
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    assert_eq!(
        fs::metadata(it.path("both")).unwrap().permissions().mode() & 0o777,
        0o666 & !umask.bits()
    );
}

#[test]
fn output_files_that_cannot_be_are_named() {
    let mut it = Fixture::new();
    let path = it.path("no/folder/out");
    let text = it.refused(CommandSpec { stdout: Some(path.as_str().into()), ..sh("") });
    assert!(
        text.contains(&path)
            && text.contains("there is no folder")
            && text.contains("make it first"),
        "{text}"
    );
    let text = it.refused(CommandSpec { stderr: Some("out-{task}".into()), ..sh("") });
    assert!(text.contains("`out-{task}` names {task}"), "{text}");
    let folder = it.folder.path().to_str().unwrap().to_owned();
    assert!(
        it.refused(CommandSpec { stdout: Some(folder.as_str().into()), ..sh("") })
            .contains(&folder)
    );
    // A named pipe that nobody reads must not keep the slot.
    let pipe = it.path("pipe");
    it.ok(command(&["mkfifo", &pipe]));
    assert!(
        it.refused(CommandSpec { stdout: Some(pipe.as_str().into()), ..sh("") }).contains(&pipe)
    );
}

#[test]
fn endless_output_waits_in_its_pipe_when_nobody_takes_it() {
    let mut it = Fixture::new();
    let attempt = it.start(command(&["yes"]));
    let mut untaken = Vec::new();
    let mut bytes = 0;
    // A whole piece less: a piece counts for more than its bytes.
    while bytes < UNTAKEN_BYTES_MAX - PIECE_BYTES_MAX {
        let (_, event) = it.events.blocking_recv();
        let Report::Event(SlotEvent::Output { bytes: piece, .. }) = event else {
            panic!("{event:?}")
        };
        bytes += piece.len();
        untaken.push(piece);
    }
    // Whoever takes nothing more gets nothing more: as many turns as would be enough for much.
    for _ in 0..20_000 {
        std::thread::yield_now();
        let Some((_, event)) = it.events.poll() else { continue };
        let Report::Event(SlotEvent::Output { bytes: piece, .. }) = event else {
            panic!("{event:?}")
        };
        bytes += piece.len();
        untaken.push(piece);
        assert!(bytes <= UNTAKEN_BYTES_MAX + 2 * PIECE_BYTES_MAX, "{bytes} bytes wait");
    }
    drop(untaken);
    let (_, event) = it.events.blocking_recv();
    let is_output = matches!(event, Report::Event(SlotEvent::Output { .. }));
    assert!(is_output, "it goes on when there is room");
    it.slot.cancel(attempt, true);
    assert_eq!(it.end(attempt).outcome, AttemptOutcome::Cancelled);
}

#[test]
fn large_output_comes_whole_and_before_the_end() {
    let mut it = Fixture::new();
    let attempt = it.start(sh("head -c 5000000 /dev/zero; head -c 3000000 /dev/zero >&2"));
    assert_eq!(it.end(attempt).outcome, AttemptOutcome::Succeeded);
    assert_eq!(
        (it.output[&(attempt, true)].len(), it.output[&(attempt, false)].len()),
        (5_000_000, 3_000_000)
    );
}

#[test]
fn a_grandchild_that_holds_the_pipe_neither_keeps_the_task_nor_survives_it() {
    let mut it = Fixture::new();
    let printed = it.ok(sh("sleep 1000 & echo $!"));
    assert!(is_gone(&printed));
    // One that has left the group may live, but the task does not wait for it.
    let printed = it.ok(sh("setsid sleep 1000 & sleep 0; echo $!"));
    let daemon = Pid::from_raw(printed.trim().parse().unwrap()).unwrap();
    let _ = rustix::process::kill_process(daemon, rustix::process::Signal::KILL);
}

#[test]
fn cancel_ends_the_whole_group_softly_and_then_hard() {
    let mut it = Fixture::new();
    let attempt = it.start(sh("trap 'echo bye; exit 0' TERM; sleep 1000 & echo $!; wait"));
    it.output_of(attempt, "\n");
    it.slot.cancel(attempt, false);
    let reply = it.end(attempt);
    assert_eq!(
        (reply.outcome, reply.header),
        (AttemptOutcome::Cancelled, exited(0)),
        "it had its say"
    );
    let printed = it.stdout(attempt);
    let (child, rest) = printed.split_once('\n').unwrap();
    assert_eq!(rest, "bye\n");
    assert!(is_gone(child));
    let mut it = Fixture::with(
        CommandConfig { kill_grace: Duration::from_millis(50), ..CommandConfig::default() },
        Vec::new(),
    );
    let deaf = "trap '' TERM; sh -c 'echo $$; while :; do sleep 1; done' & wait; \
                while :; do sleep 1; done";
    for force in [false, true] {
        let attempt = it.start(sh(deaf));
        it.output_of(attempt, "\n");
        it.slot.cancel(attempt, force);
        let reply = it.end(attempt);
        assert_eq!((reply.outcome, reply.header), (AttemptOutcome::Cancelled, killed(9)));
        assert!(is_gone(&it.stdout(attempt)));
    }
}

#[test]
fn a_signal_reaches_the_group_of_its_own_attempt_alone() {
    let mut it = Fixture::new();
    let attempt = it.start(sh("trap 'echo got it' USR1; echo ready; while :; do sleep 0.01; done"));
    it.output_of(attempt, "ready");
    it.slot.signal(SlotJob(attempt.0 + 1), 15);
    it.slot.signal(attempt, 99);
    it.slot.signal(attempt, 10);
    it.output_of(attempt, "got it");
    it.slot.signal(attempt, 15);
    let reply = it.end(attempt);
    let AttemptOutcome::Exited(text) = &reply.outcome else { panic!("{reply:?}") };
    assert!(text.starts_with("killed by SIGTERM"), "{reply:?}");
    assert_eq!(reply.header, killed(15));
    it.slot.signal(attempt, 15);
    assert_eq!(it.ok(sh("echo alive")), "alive\n");
}

#[test]
fn what_has_not_begun_is_recalled_or_cancelled_without_being_run() {
    let mut it = Fixture::new();
    let mark = it.path("mark");
    let first = it.start(sh("echo ready; read x < /dev/zero; sleep 1000"));
    it.output_of(first, "ready");
    let [second, third, last] =
        [sh(&format!("touch {mark}")), sh(&format!("touch {mark}")), sh("echo last")]
            .map(|spec| it.start(spec));
    assert!(it.slot.recall(second) && !it.slot.recall(second) && !it.slot.recall(first));
    it.slot.cancel(third, false);
    assert_eq!(it.end(third).outcome, AttemptOutcome::Cancelled);
    it.slot.cancel(first, true);
    assert_eq!(it.end(first).outcome, AttemptOutcome::Cancelled);
    assert_eq!(it.end(last).outcome, AttemptOutcome::Succeeded);
    assert!(!Path::new(&mark).exists());
}

#[test]
fn a_dropped_slot_kills_what_runs() {
    let mut it = Fixture::new();
    let attempt = it.start(sh("sleep 1000 & echo $! $$; wait"));
    it.output_of(attempt, "\n");
    let printed = it.stdout(attempt);
    drop(it);
    assert!(printed.split_whitespace().all(is_gone));
}

#[test]
fn programs_get_no_files_of_the_engine() {
    let mut it = Fixture::new();
    let ours = tempfile::NamedTempFile::new().unwrap();
    let open = it.ok(command(&["ls", "-l", "/proc/self/fd"]));
    assert!(open.lines().count() >= 4, "{open}");
    // What this test itself was given by its parent it may get; a slot's own are of these kinds.
    let own = ["anon_inode", "socket:", ours.path().to_str().unwrap()];
    assert!(own.iter().all(|own| !open.contains(own)), "{open}");
}
