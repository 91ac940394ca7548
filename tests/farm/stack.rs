//! `furlong stack` and `furlong profile`: where code is, whatever it does, and who may see it.

use std::fs;

use furlong_tests::command::{Cluster, Outcome};
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::token::Role;
use serde_json::Value;

/// Python that goes on until a file is there.
const SPINS: &str = "import os\ndef outer():\n    while not os.path.exists(stop): inner()\n\
                     def inner(): return sum(range(100))\nouter()";

struct Running {
    cluster: Cluster,
    code: Program,
}

impl Running {
    /// A cluster of one engine that runs this code, in which `stop` is a file's name.
    fn start(code: &str) -> Self {
        let cluster = Cluster::start(1);
        let stop = cluster.home().path().join("stop");
        let code = format!("stop = {:?}\n{code}", stop.display().to_string());
        let code = Program::start("furlong", &["execute", &code], cluster.home());
        Self { cluster, code }
    }

    /// Asks until the task is there.
    fn stack(&self, shown: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let is_shown = eventually(SOON, || {
            let Outcome { stdout, .. } = self.cluster.furlong(&["stack", "0"]);
            last = stdout;
            shown(&last)
        });
        assert!(is_shown, "{last}");
        last
    }

    fn stop(mut self) {
        fs::write(self.cluster.home().path().join("stop"), "").unwrap();
        assert_eq!(self.code.wait_exit(SOON).code(), Some(0), "{}", self.code.stderr());
    }
}

#[test]
fn code_in_python_is_shown_with_its_source_and_goes_on() {
    let running = Running::start(SPINS);
    let shown = running.stack(|shown| shown.contains("in outer"));
    assert!(shown.contains("while not os.path.exists(stop): inner()"), "{shown}");
    assert!(!shown.contains("furlong worker"), "{shown}");
    let json = running.cluster.furlong(&["stack", "0", "--json"]).ok();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["engine"], &json["in_c"]), (&0.into(), &false.into()), "{json}");
    let task = json["task"].as_str().unwrap();
    assert!(running.cluster.furlong(&["stack", task]).ok().contains("in outer"));
    running.stop();
}

#[test]
fn code_in_c_that_holds_the_lock_is_shown() {
    let running = Running::start("def work():\n    return sum(range(10**12))\nwork()");
    let shown = running.stack(|shown| shown.contains("in work"));
    assert!(shown.contains("in a call of C that holds Python's lock"), "{shown}");
    let profile = running.cluster.furlong(&["profile", "0", "--seconds", "0.1"]);
    let why = profile.failed(1);
    assert!(why.contains("all the time; there is no sample"), "{why}");
}

#[test]
fn an_idle_engine_is_shown_to_an_administrator_alone() {
    let cluster = Cluster::start(1);
    assert!(cluster.furlong(&["stack", "0"]).failed(1).contains("no task of yours"));
    assert!(cluster.furlong(&["stack", "7"]).failed(1).contains("there is no engine 7"));
    cluster.furlong(&["execute", "1"]).ok();
    let admin = cluster.home().cluster().capability(Role::Admin);
    let shown = cluster.furlong(&["stack", "0", "--cap", admin.to_str().unwrap()]).ok();
    assert!(shown.starts_with("engine 0: no task"), "{shown}");
    let observer = cluster.home().cluster().capability(Role::Observer);
    let refused = cluster.furlong(&["stack", "0", "--cap", observer.to_str().unwrap()]);
    assert!(refused.failed(1).contains("may not look at interpreters"));
}

#[test]
fn another_owner_sees_nothing_and_an_administrator_no_source() {
    let running = Running::start(SPINS);
    running.stack(|shown| shown.contains("in outer"));
    let other = running.cluster.home().path().join("other.cap.json");
    let other = other.to_str().unwrap();
    let cluster = &running.cluster;
    cluster.furlong(&["cap", "issue", "--role", "client", "--owner", "other", "-o", other]).ok();
    let refused = cluster.furlong(&["stack", "0", "--cap", other]).failed(1);
    assert!(refused.contains("no task of yours") && !refused.contains("outer"), "{refused}");
    let root = running.cluster.home().path().join("root.cap.json");
    let root = root.to_str().unwrap();
    cluster.furlong(&["cap", "issue", "--role", "admin", "--owner", "root", "-o", root]).ok();
    let shown = cluster.furlong(&["stack", "0", "--cap", root]).ok();
    assert!(shown.contains("in outer") && !shown.contains("os.path.exists"), "{shown}");
    running.stop();
}

#[test]
fn a_profile_tells_the_hottest_and_writes_its_stacks() {
    let running = Running::start(SPINS);
    running.stack(|shown| shown.contains("in outer"));
    let file = |name: &str| running.cluster.home().path().join(name).display().to_string();
    let profile = |out: &str| {
        running.cluster.furlong(&["profile", "0", "--seconds", "0.5", "--out", out]).ok()
    };
    let shown = profile(&file("p.json"));
    assert!(shown.contains("outer (") && shown.contains(" samples of "), "{shown}");
    let written: Value = serde_json::from_slice(&fs::read(file("p.json")).unwrap()).unwrap();
    assert_eq!(written["profiles"][0]["type"], "sampled");
    assert!(!written["profiles"][0]["samples"].as_array().unwrap().is_empty());
    profile(&file("p.folded"));
    let folded = fs::read_to_string(file("p.folded")).unwrap();
    assert!(folded.starts_with("MainThread;<module> ("), "{folded}");
    profile(&file("p.svg"));
    let picture = fs::read_to_string(file("p.svg")).unwrap();
    assert!(picture.starts_with("<svg ") && picture.contains("<title>outer ("), "{picture}");
    let both = ["profile", "0", "--seconds", "0.2", "--out", &file("q.json"), "--svg", &file("q")];
    let said = running.cluster.furlong(&both).ok();
    assert!(said.contains("q has the flame graph"), "{said}");
    assert!(fs::read_to_string(file("q")).unwrap().contains(">MainThread, "), "{said}");
    running.stop();
}
