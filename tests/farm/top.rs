//! `furlong top` on terminals: tmux is the terminal, and what it shows is read back. Where there is
//! no tmux, nothing is tried, and that is said.

use std::process::{Command, Output};

use furlong_tests::command::Cluster;
use furlong_tests::program::{Program, binary};
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::token::Role;

/// A terminal of a size, in which `furlong top` runs.
struct Terminal<'a> {
    cluster: &'a Cluster,
    socket: String,
}

impl<'a> Terminal<'a> {
    /// None if there is no tmux.
    fn open(cluster: &'a Cluster, name: &str, size: (u32, u32), env: &str) -> Option<Self> {
        Self::open_with(cluster, name, size, (env, ""))
    }

    /// The same, with flags of `top`.
    fn open_with(
        cluster: &'a Cluster,
        name: &str,
        size: (u32, u32),
        (env, flags): (&str, &str),
    ) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            eprintln!("skipped: there is no tmux");
            return None;
        }
        let socket = cluster.home().path().join(name).to_str().unwrap().to_owned();
        let terminal = Self { cluster, socket };
        let top = binary("furlong");
        let top = format!("{env} {} top --every 0.1 {flags}; echo ended $?", top.display());
        let (width, height) = (size.0.to_string(), size.1.to_string());
        let shell = format!("{top}; read -r line");
        // Without a configuration of the user's, which may change keys.
        let words = ["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, &shell];
        let made = terminal.tmux(&words);
        assert!(made.status.success(), "{made:?}");
        Some(terminal)
    }

    fn tmux(&self, words: &[&str]) -> Output {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(&self.socket).args(words);
        tmux.env("FURLONG_HOME", self.cluster.home().path()).env_remove("FURLONG_CAP");
        tmux.env_remove("TMUX").env("SHELL", "/bin/sh").env("LC_ALL", "C.UTF-8");
        tmux.output().unwrap()
    }

    /// What the terminal shows; with its colours as escapes.
    fn screen(&self, with_colours: bool) -> String {
        let words: &[&str] =
            if with_colours { &["capture-pane", "-p", "-e"] } else { &["capture-pane", "-p"] };
        String::from_utf8(self.tmux(words).stdout).unwrap()
    }

    fn press(&self, keys: &[&str]) {
        let sent = self.tmux(&[&["send-keys"], keys].concat());
        assert!(sent.status.success(), "{sent:?}");
    }

    #[track_caller]
    fn wait_for(&self, text: &str) -> String {
        let shows = || self.screen(false).contains(text);
        assert!(eventually(SOON, shows), "no `{text}` in\n{}", self.screen(false));
        self.screen(false)
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// A cluster that has run forty tasks, one of which has failed.
fn cluster() -> Cluster {
    let cluster = Cluster::start(2);
    let script = "test $FURLONG_TASK -ne 7";
    cluster.furlong(&["submit", "--array", "1-40", "--wait", "--", "sh", "-c", script]).failed(1);
    cluster
}

#[test]
fn every_page_fits_terminals_of_all_sizes() {
    let cluster = cluster();
    for (name, size) in [("small", (80, 24)), ("usual", (120, 40)), ("large", (200, 60))] {
        let Some(terminal) = Terminal::open(&cluster, name, size, "") else { return };
        let screen = terminal.wait_for("KIND");
        assert!(screen.contains("sh ") && screen.contains("40"), "{screen}");
        let width = screen.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(width <= size.0 as usize && screen.lines().count() <= size.1 as usize, "{screen}");
        for (key, shows) in [("3", "ENGINE"), ("5", "ERROR"), ("1", "KIND")] {
            terminal.press(&[key]);
            terminal.wait_for(shows);
        }
        terminal.press(&["q"]);
        let screen = terminal.wait_for("ended 0");
        assert!(!screen.contains("KIND"), "the screen of before is back:\n{screen}");
    }
}

#[test]
fn no_colour_is_shown_where_none_is_wanted() {
    let cluster = cluster();
    let is_coloured = |screen: &str| {
        let codes = screen.split("\u{1b}[").skip(1).filter_map(|rest| rest.split_once('m'));
        codes.flat_map(|(codes, _)| codes.split(';')).any(|code| {
            code.parse::<u32>().is_ok_and(|code| matches!(code, 30..=38 | 40..=48 | 90..=107))
        })
    };
    let Some(terminal) = Terminal::open(&cluster, "none", (120, 40), "NO_COLOR=1") else { return };
    terminal.wait_for("KIND");
    let screen = terminal.screen(true);
    assert!(!is_coloured(&screen), "{screen:?}");
}

#[test]
fn a_dumb_terminal_gets_lines_and_no_escapes() {
    let cluster = cluster();
    let Some(terminal) = Terminal::open(&cluster, "dumb", (120, 40), "TERM=dumb") else { return };
    let screen = terminal.wait_for("1 failed");
    assert!(screen.is_ascii(), "{screen}");
    assert!(!terminal.screen(true).contains('\u{1b}'), "{screen}");
}

#[test]
fn a_broker_that_is_started_again_is_seen_again() {
    let cluster = cluster();
    let Some(terminal) = Terminal::open(&cluster, "again", (120, 40), "") else { return };
    terminal.wait_for("KIND");
    let pid = cluster.home().broker_state().unwrap().pid;
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let is_new = || {
        let state = cluster.home().broker_state();
        state.is_some_and(|state| state.pid != pid.as_raw_pid() as u32)
    };
    assert!(eventually(SOON, is_new), "the broker is started again");
    cluster.furlong(&["submit", "--wait", "--", "true"]).ok();
    terminal.wait_for("true");
}

/// Python that says that it runs, and runs until it is interrupted.
fn begin_forever(cluster: &Cluster, name: &str) -> Program {
    let began = cluster.home().path().join(name);
    let path = began.display();
    let code = format!("open('{path}', 'w')\nimport threading\nthreading.Event().wait()");
    let code = Program::start("furlong", &["execute", "-t", "0", &code], cluster.home());
    assert!(eventually(SOON, || began.exists()), "{}", code.stderr());
    code
}

#[test]
fn a_key_cancels_the_task_that_is_meant_after_a_question() {
    let cluster = Cluster::start(1);
    let mut code = begin_forever(&cluster, "began");
    let Some(terminal) = Terminal::open(&cluster, "cancel", (120, 40), "") else { return };
    terminal.wait_for("KIND");
    terminal.press(&["8"]);
    terminal.wait_for("> ");
    terminal.press(&["c"]);
    terminal.wait_for("cancel task");
    terminal.press(&["n"]);
    terminal.wait_for("nothing is done");
    assert!(code.is_running(), "{}", code.stderr());
    terminal.press(&["c"]);
    terminal.wait_for("? y: yes");
    terminal.press(&["y"]);
    terminal.wait_for("1 task cancelled");
    assert_ne!(code.wait_exit(SOON).code(), Some(0), "{}", code.stdout());
}

#[test]
fn keys_restart_and_drain_engines_with_a_capability_that_may() {
    let cluster = Cluster::start(2);
    let mut code = begin_forever(&cluster, "began");
    let Some(terminal) = Terminal::open(&cluster, "engines", (120, 40), "") else { return };
    terminal.wait_for("KIND");
    terminal.press(&["3"]);
    terminal.wait_for("> ");
    terminal.press(&["r"]);
    terminal.wait_for("give engine 0 a new interpreter");
    terminal.press(&["y"]);
    terminal.wait_for("engine 0: restarted");
    assert_ne!(code.wait_exit(SOON).code(), Some(0), "{}", code.stdout());
    cluster.furlong(&["execute", "-t", "0", "1"]).ok();
    terminal.press(&["G"]);
    terminal.press(&["D"]);
    terminal.wait_for("let engine 1 finish");
    terminal.press(&["y"]);
    terminal.wait_for("engine 1: told to leave");
}

#[test]
fn a_capability_that_may_only_look_does_nothing() {
    let cluster = Cluster::start(1);
    let observer = cluster.home().cluster().capability(Role::Observer);
    let flags = format!("--page engines --cap {}", observer.display());
    let Some(terminal) = Terminal::open_with(&cluster, "looks", (120, 40), ("", &flags)) else {
        return;
    };
    terminal.wait_for("> ");
    terminal.press(&["r"]);
    terminal.wait_for("there is no capability here that may do that");
}

#[test]
fn a_key_profiles_an_engine_and_escape_comes_back() {
    let cluster = Cluster::start(1);
    let mut code = begin_forever(&cluster, "began");
    let Some(terminal) = Terminal::open(&cluster, "profile", (120, 40), "") else { return };
    terminal.wait_for("KIND");
    terminal.press(&["3"]);
    terminal.wait_for("> ");
    terminal.press(&["p"]);
    terminal.wait_for("profile engine 0 for 5 s?");
    terminal.press(&["y"]);
    terminal.wait_for("profiling engine 0");
    let screen = terminal.wait_for("function");
    assert!(screen.contains("wait (") && screen.contains("samples of"), "{screen}");
    terminal.press(&["Escape"]);
    terminal.wait_for("ENGINE HOST");
    code.interrupt();
    code.wait_exit(SOON);
}

#[test]
fn a_recording_is_replayed_on_a_terminal_without_its_farm() {
    let cluster = cluster();
    let recording = cluster.home().path().join("run.furlong");
    let path = recording.display();
    let flags = format!("--record {path}");
    let Some(terminal) = Terminal::open_with(&cluster, "record", (120, 40), ("", &flags)) else {
        return;
    };
    terminal.wait_for("recorded");
    terminal.wait_for("40 (");
    let looks = || {
        let all = cluster.furlong(&["top", "--replay", recording.to_str().unwrap(), "--json"]);
        all.ok().lines().count()
    };
    assert!(eventually(SOON, || looks() >= 20), "a look each 100 ms");
    terminal.press(&["q"]);
    terminal.wait_for("ended 0");
    let pid = cluster.home().broker_state().unwrap().pid;
    cluster.furlong(&["cluster", "stop"]).ok();
    assert!(eventually(SOON, || !std::path::Path::new(&format!("/proc/{pid}")).exists()));

    let flags = format!("--replay {path} --page engines");
    let again = Terminal::open_with(&cluster, "replay", (120, 40), ("", &flags)).unwrap();
    again.wait_for("END");
    again.press(&["0"]);
    again.wait_for("replay 0:00 of ");
    again.press(&["."]);
    again.wait_for("PAUSED");
    for key in ["c", "r", "D"] {
        again.press(&["1", key]);
        again.wait_for("this is a replay: what is past cannot be acted on");
        again.press(&["5"]);
        again.wait_for("ERROR");
    }
    assert!(again.screen(false).contains("exit"), "failures are there:\n{}", again.screen(false));
    again.press(&["?"]);
    let help = again.wait_for("faster, slower");
    assert!(!help.contains("cancel tasks"), "{help}");
    again.press(&["?", "+", "+", "1", "$"]);
    let screen = again.wait_for("speed 5   END");
    assert!(screen.contains("KIND") && screen.contains("sh "), "{screen}");
    again.press(&["q"]);
    again.wait_for("ended 0");
}

#[test]
fn a_recording_is_printed_and_a_cut_look_is_said_once() {
    let cluster = cluster();
    let recording = cluster.home().path().join("run.furlong");
    let path = recording.to_str().unwrap();
    for _ in 0..3 {
        cluster.furlong(&["top", "--once", "--record", path]).ok();
    }
    let last = cluster.furlong(&["top", "--replay", path, "--once", "--page", "failures"]).ok();
    assert!(last.contains("END") && last.contains("exit"), "{last}");
    let first = cluster.furlong(&["top", "--replay", path, "--once", "--json", "--at", "0"]).ok();
    assert_eq!(first.lines().count(), 1, "{first}");
    assert!(first.contains("\"ended\":40"), "{first}");
    let all = cluster.furlong(&["top", "--replay", path, "--json"]).ok();
    assert_eq!(all.lines().count(), 3, "{all}");
    let plain = cluster.furlong(&["top", "--replay", path, "--plain"]).ok();
    assert!(plain.starts_with("0:00  farm ") && plain.is_ascii(), "{plain}");
    let late = cluster.furlong(&["top", "--replay", path, "--once", "--at", "86400"]).failed(1);
    assert!(late.contains("--at is after its end"), "{late}");

    let file = std::fs::OpenOptions::new().write(true).open(&recording).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let all = cluster.furlong(&["top", "--replay", path, "--json"]);
    assert_eq!(all.stderr.matches("ends in the middle of a look").count(), 1, "{}", all.stderr);
    assert_eq!(all.ok().lines().count(), 2);
    let again = cluster.furlong(&["top", "--once", "--record", path]);
    assert!(again.stderr.contains("ended in the middle of a look"), "{}", again.stderr);
    let all = cluster.furlong(&["top", "--replay", path, "--json"]);
    assert_eq!((all.stderr.clone().as_str(), all.ok().lines().count()), ("", 3));

    std::fs::write(&recording, "no recording").unwrap();
    for flag in ["--replay", "--record"] {
        let refused = cluster.furlong(&["top", "--once", flag, path]).failed(1);
        assert!(refused.contains("is not a recording"), "{refused}");
        assert_eq!(refused.trim_end().lines().count(), 1, "{refused}");
    }
    assert_eq!(std::fs::read(&recording).unwrap(), b"no recording");
    cluster.furlong(&["top", "--replay", path, "--record", path]).failed(2);
    cluster.furlong(&["top", "--at", "3"]).failed(2);
}
