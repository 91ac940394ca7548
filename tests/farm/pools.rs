//! Pools of engines on a real Slurm, and on hosts: what is submitted, what is found again, and what
//! is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use furlong_tests::command::{processes_of, touch, wait_for_engines};
use furlong_tests::program::Program;
use furlong_tests::site::{JOBS, Site};
use furlong_tests::slurm::Slurm;
use furlong_tests::sshd::Sshd;
use furlong_tests::wait::{SOON, eventually};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

/// Kills the keeper, and waits until another one is there.
fn kill_keeper(site: &Site) {
    let before = site.keeper().unwrap();
    kill_process(before, Signal::KILL).unwrap();
    let again = || site.keeper().is_some_and(|pid| pid != before);
    assert!(eventually(SOON, again), "no keeper comes back");
}

fn jobs(slurm: &Slurm) -> Vec<String> {
    let mut ids: Vec<String> = slurm
        .queue()
        .iter()
        .filter(|line| line.contains(" furlong-default-"))
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    ids.sort();
    ids
}

#[test]
fn dry_run_leaves_nothing_and_says_what_the_system_says() {
    let Some(slurm) = Slurm::start(1) else { return };
    let site = Site::on(slurm.variables());
    let dry = ["cluster", "start", "--on", "slurm", "-n", "4", "--walltime", "2h", "--dry-run"];
    let said = site.run(&[&dry[..], &["--", "--partition=main"]].concat()).ok();
    for part in ["#SBATCH --array=1-4\n", "#SBATCH --time=120\n", "exec ", "--partition=main <"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.contains("in partition main"), "{said}");
    let said = site.run(&[&dry[..], &["--", "--partition=nope"]].concat()).failed(1);
    assert!(said.contains("invalid partition specified: nope; `sinfo` lists"), "{said}");
    let start = ["cluster", "start", "--on", "slurm", "-n", "4", "--", "--partition=nope"];
    assert_eq!(site.run(&start).failed(1), said);
    assert_eq!(slurm.queue(), Vec::<String>::new());
    assert!(!site.home.cluster().path().exists(), "a folder is left");
}

#[test]
fn pool_scale_adds_jobs_and_lets_others_finish() {
    let Some(slurm) = Slurm::start(2) else { return };
    let site = Site::on(slurm.variables());
    let mut cluster = site.start(&["slurm", "-n", "1"]);
    site.wait_for("one engine", |pool| pool["engines"] == 1);
    site.run(&["pool", "scale", "slurm", "4"]).ok();
    let pool = site.wait_for("four engines", |pool| pool["engines"] == 4);
    assert_eq!(pool["jobs"].as_array().unwrap().len(), 4);
    let gate = site.home.path().join("gate");
    let wait = format!("until [ -e {} ]; do sleep 0.1; done; echo done", gate.display());
    let args = ["submit", "--array", "1-4", "--retries", "0", "--wait", "--", "sh", "-c", &wait];
    let mut tasks = Program::spawn("furlong", site.command(&args));
    let has_all = || {
        let status: Value = serde_json::from_str(&site.run(&["status", "--json"]).ok()).unwrap();
        status["tasks"]["assigned"] == 4
    };
    assert!(eventually(SOON, has_all));
    site.run(&["pool", "scale", "slurm", "1"]).ok();
    site.wait_for("three jobs that drain", |pool| {
        let jobs = pool["jobs"].as_array().unwrap();
        jobs.iter().filter(|job| job["state"] == "drains").count() == 3
    });
    touch(&gate);
    assert_eq!(tasks.wait_exit(SOON).code(), Some(0), "{}", tasks.stderr());
    assert_eq!(tasks.stdout(), "done\n".repeat(4).trim_end());
    site.wait_for("one job", |pool| pool["jobs"].as_array().unwrap().len() == 1);
    assert_eq!(jobs(&slurm).len(), 1);
    cluster.terminate();
    cluster.wait_exit(JOBS);
    assert_eq!(jobs(&slurm), Vec::<String>::new(), "the jobs end with the cluster");
}

#[test]
fn a_pool_that_is_removed_now_gives_its_tasks_to_others() {
    let Some(slurm) = Slurm::start(1) else { return };
    let site = Site::on(slurm.variables());
    let _cluster = site.start(&["slurm", "-n", "1"]);
    site.wait_for("one engine", |pool| pool["engines"] == 1);
    let at = |name: &str| site.home.path().join(name);
    let (began, gate) = (at("began"), at("gate"));
    let wait = "touch $0; until [ -e $1 ]; do sleep 0.1; done; echo done";
    let files = [began.to_str().unwrap(), gate.to_str().unwrap()];
    let args = ["submit", "--retries", "0", "--wait", "--", "sh", "-c", wait];
    let mut task = Program::spawn("furlong", site.command(&[&args[..], &files].concat()));
    assert!(eventually(SOON, || began.exists()));
    let said = site.run(&["pool", "remove", "slurm", "--now"]).ok();
    assert_eq!(said, "pool slurm is removed when its jobs are cancelled");
    assert!(eventually(JOBS, || site.pools() == serde_json::json!([])), "{}", site.pools());
    assert_eq!(jobs(&slurm), Vec::<String>::new());
    touch(&gate);
    site.run(&["pool", "add", "second", "--on", "slurm", "-n", "1"]).ok();
    assert_eq!(task.wait_exit(JOBS).code(), Some(0), "{}", task.stderr());
    site.run(&["cluster", "stop"]).ok();
}

#[test]
fn the_keeper_is_killed_anywhere_and_no_job_is_lost_or_made_twice() {
    let Some(slurm) = Slurm::start(2) else { return };
    let site = Site::on(slurm.variables());
    // The first thing that a submit does is to wait at a gate; the last is to say that it is over.
    let at = |name: &str| site.home.path().join(name);
    let (began, gate, ended) = (at("began"), at("gate"), at("ended"));
    site.fake(
        "sbatch",
        &format!(
            "case \"$*\" in *--test-only*) exec {real} \"$@\";; esac\n\
             touch {began}\nuntil [ -e {gate} ]; do sleep 0.02; done\n\
             {real} \"$@\"\ncode=$?\ntouch {ended}\nexit $code",
            real = Site::real("sbatch"),
            began = began.display(),
            gate = gate.display(),
            ended = ended.display()
        ),
    );
    let _cluster = site.start(&["slurm", "-n", "5"]);
    // During a submit: twice, so that one waits for what the first has left.
    assert!(eventually(SOON, || began.exists()));
    kill_keeper(&site);
    kill_keeper(&site);
    assert_eq!(jobs(&slurm), Vec::<String>::new());
    touch(&gate);
    assert!(eventually(SOON, || ended.exists()));
    kill_keeper(&site);
    // After the second submit, before or after its answer is written down.
    fs::remove_file(&ended).unwrap();
    assert!(eventually(JOBS, || ended.exists()), "no second submit: {}", site.keeper_log());
    kill_keeper(&site);
    let pool = site.wait_for("five engines", |pool| pool["engines"] == 5);
    let mut known: Vec<String> = pool["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["job"].as_str().unwrap().to_owned())
        .collect();
    known.sort();
    assert_eq!(jobs(&slurm), known);
    assert_eq!(known.len(), 5);
    site.run(&["cluster", "stop"]).ok();
    assert_eq!(jobs(&slurm), Vec::<String>::new());
}

#[test]
fn cluster_stop_finds_orphans_by_name() {
    let Some(slurm) = Slurm::start(2) else { return };
    let site = Site::on(slurm.variables());
    let mut cluster = site.start(&["slurm", "-n", "3", "--max-pending", "3"]);
    site.wait_for("three engines", |pool| pool["engines"] == 3);
    let keeper = site.keeper().unwrap();
    cluster.kill();
    kill_process(keeper, Signal::KILL).unwrap_or_default();
    // Not even the pool is known any more.
    fs::remove_dir_all(site.home.cluster().path().join("pools")).unwrap();
    assert_eq!(jobs(&slurm).len(), 3);
    let said = site.run(&["cluster", "stop"]).ok();
    assert!(said.starts_with("3 jobs have ended, nothing is left: "), "{said}");
    assert_eq!(jobs(&slurm), Vec::<String>::new());
    let said = site.run(&["cluster", "stop"]).failed(1);
    assert!(said.contains("does not run here"), "{said}");
}

#[test]
fn the_broker_dies_for_good_and_no_job_is_left() {
    let Some(slurm) = Slurm::start(1) else { return };
    let site = Site::on(slurm.variables());
    let mut cluster = site.start(&["slurm", "-n", "3", "--broker-timeout", "3s"]);
    site.wait_for("three engines", |pool| pool["engines"] == 3);
    let keeper = site.keeper().unwrap();
    cluster.kill();
    kill_process(keeper, Signal::KILL).unwrap_or_default();
    assert!(eventually(JOBS, || jobs(&slurm).is_empty()), "{:?}", slurm.queue());
    let ends = slurm.run("squeue", &["-h", "-r", "-t", "all", "-o", "%T"]).ok();
    assert_eq!(ends, "COMPLETED\n".repeat(3).trim_end());
}

#[test]
fn an_elastic_pool_follows_the_work_and_kills_none_of_it() {
    let Some(slurm) = Slurm::start(2) else { return };
    let site = Site::on(slurm.variables());
    let _cluster = site.start(&["slurm", "-n", "0..4", "--idle-timeout", "3s"]);
    let tasks = ["submit", "--array", "1-8", "--retries", "0", "--wait", "--", "sleep", "1"];
    site.run(&tasks).ok();
    let made = slurm.run("squeue", &["-h", "-r", "-t", "all", "-o", "%i"]).ok();
    assert!((2..=4).contains(&made.lines().count()), "{made}");
    assert!(eventually(JOBS, || jobs(&slurm).is_empty()), "{:?}", slurm.queue());
    let ends = slurm.run("squeue", &["-h", "-r", "-t", "all", "-o", "%T"]).ok();
    assert!(ends.lines().all(|state| state == "COMPLETED"), "{ends}");
    let pool = site.wait_for("no jobs", |pool| pool["jobs"].as_array().unwrap().is_empty());
    assert_eq!(pool["paused"], Value::Null);
}

/// An `ssh` that goes nowhere: it runs the command line as the other side's shell would, and writes
/// down what it was told.
fn fake_ssh(site: &Site) -> PathBuf {
    let told = site.home.path().join("told");
    let script = format!(
        "echo \"$@\" >> {}\nwhile [ \"$1\" != -- ]; do shift; done\n\
         [ \"$2\" != down ] || {{ echo 'ssh: connect to host down: No route to host' >&2; exit 255; }}\n\
         exec sh -c \"$3\"",
        told.display()
    );
    site.fake("ssh", &script);
    told
}

#[test]
fn engines_on_hosts_get_their_capability_through_the_pipe() {
    let site = Site::on(Vec::new());
    let told = fake_ssh(&site);
    let hosts = site.home.path().join("hosts");
    fs::write(&hosts, "node1\nuser@node2:2222 2 # a larger one\ndown\n").unwrap();
    let mut cluster = site.start(&["ssh", "--hosts", hosts.to_str().unwrap(), "-n", "1"]);
    wait_for_engines(3, &site.home);
    let pool = site.wait_for("a host that is down", |pool| {
        pool["engines"] == 3 && pool["state"].as_str().unwrap().contains("No route to host")
    });
    assert_eq!(pool["wanted"], 4);
    let told = fs::read_to_string(told).unwrap();
    assert!(told.contains("-p 2222 -- user@node2 exec "), "{told}");
    assert!(told.contains(" engine --cap - --stop-with-stdin "), "{told}");
    let secret = fs::read_to_string(site.home.cluster().security().join("engine.cap.json"));
    let secret: Value = serde_json::from_str(&secret.unwrap()).unwrap();
    for (_, line) in processes_of(site.home.path()) {
        let has_secret = secret.as_object().unwrap().values().filter_map(Value::as_str);
        let long = has_secret.filter(|text| text.len() > 40).find(|text| line.contains(*text));
        assert_eq!(long, None, "a secret is in a list of processes");
    }
    // The pipes of the keeper end with it, and so do the engines.
    let keeper = site.keeper().unwrap();
    cluster.kill();
    kill_process(keeper, Signal::KILL).unwrap_or_default();
    let left = || processes_of(site.home.path());
    assert!(eventually(SOON, || left().is_empty()), "{:?}", left());
}

#[test]
fn engines_on_real_hosts_come_also_behind_another_one_and_end_with_their_keeper() {
    let Some(sshd) = Sshd::start(3) else { return };
    let site = Site::on(Vec::new());
    site.fake("ssh", &format!("exec {} \"$@\"", sshd.client()));
    let hosts = site.home.path().join("hosts");
    fs::write(&hosts, "node2\nnode3 2\n").unwrap();
    // On the way there is a host whose own `ssh` goes on.
    let via = format!("ssh node1 env PATH={}:/usr/bin:/bin", site.fakes.display());
    let setup = "export WAY='it is \"quoted\"'";
    let mut cluster = site.start(&[
        "ssh",
        "--hosts",
        hosts.to_str().unwrap(),
        "-n",
        "1",
        "--via",
        &via,
        "--setup",
        setup,
    ]);
    wait_for_engines(3, &site.home);
    let said = ["submit", "--array", "1-30", "--wait", "--", "sh", "-c"];
    let echo = "echo \"$SSH_CONNECTION\" \"$WAY\"; sleep 0.05";
    let said = site.run(&[&said[..], &[echo]].concat()).ok();
    let places: BTreeSet<&str> = said.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    assert_eq!(places, BTreeSet::from(["127.0.0.12", "127.0.0.13"]), "{said}");
    assert!(said.lines().all(|line| line.ends_with("it is \"quoted\"")), "{said}");
    let keeper = site.keeper().unwrap();
    cluster.kill();
    kill_process(keeper, Signal::KILL).unwrap_or_default();
    let left = || processes_of(site.home.path());
    assert!(eventually(JOBS, || left().is_empty()), "{:?}", left());
}

#[test]
fn a_bad_script_does_not_flood_and_says_why() {
    let Some(slurm) = Slurm::start(1) else { return };
    let site = Site::on(slurm.variables());
    let _cluster = site.start(&["slurm", "-n", "64", "--python", "/no/python"]);
    let pool = site.wait_for("paused", |pool| pool["paused"].is_string());
    let paused = pool["paused"].as_str().unwrap();
    let why = "3 jobs in a row ended without an engine: /no/python is not";
    assert!(paused.starts_with(why), "{paused}");
    // Slurm also lists what it has refused: a job for which no node is left without this one.
    let made = slurm.run("squeue", &["-h", "-r", "-t", "all", "-o", "%i|%N|%r"]).ok();
    let (begun, refused): (Vec<_>, Vec<_>) = made.lines().partition(|line| line.contains("|n1|"));
    assert_eq!(begun.len(), 3, "{made}");
    assert!(refused.iter().all(|line| line.ends_with("||BadConstraints")), "{made}");
    let table = site.run(&["pool"]).ok();
    let job = pool["jobs"][0]["job"].as_str().unwrap();
    for part in ["then `furlong pool resume slurm`", &format!("(furlong pool log {job})")] {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(site.run(&["pool", "log", job]).ok().contains("/no/python is not"));
    assert!(site.run(&["status"]).ok().contains("/no/python is not"));
    let waiting = Program::spawn("furlong", site.command(&["submit", "--wait", "--", "true"]));
    waiting.wait_for_line("pool slurm has 0 of 64 engines, 3 failed: paused: ", SOON);
    drop(waiting);
    let task = site.run(&["submit", "--", "true"]).ok();
    let said = site.run(&["explain", task.split_whitespace().next().unwrap()]).ok();
    assert!(said.contains("pool        slurm has 0 of 64 engines, 3 failed: paused: "), "{said}");
    // What was wrong is mended: here, by a pool of another interpreter.
    site.run(&["pool", "remove", "slurm"]).ok();
    let is_gone = || site.pools() == serde_json::json!([]);
    assert!(eventually(JOBS, is_gone), "{}", site.pools());
    site.run(&["pool", "add", "good", "--on", "slurm", "-n", "1"]).ok();
    wait_for_engines(1, &site.home);
    site.run(&["cluster", "stop"]).ok();
}

#[test]
fn a_node_that_ends_every_job_is_left_out_and_named() {
    let Some(slurm) = Slurm::start(3) else { return };
    let site = Site::on(slurm.variables());
    let bad = "[ $SLURMD_NODENAME != n1 ] || { echo 'the disk is full'; exit 1; }";
    // The first node is the first that is free, whenever it is.
    let args = ["slurm", "-n", "2", "--setup", bad, "--", "--exclude=n3"];
    let _cluster = site.start(&args);
    let pool = site.wait_for("two engines", |pool| pool["engines"] == 2);
    assert_eq!(pool["paused"], Value::Null);
    let left_out = &pool["left_out"];
    assert_eq!(left_out[0]["node"], "n1", "{pool:#}");
    assert_eq!(left_out[0]["why"], "the disk is full", "{pool:#}");
    let nodes = slurm.run("squeue", &["-h", "-r", "-t", "all", "-o", "%N %T"]).ok();
    let mut nodes: Vec<&str> = nodes.lines().collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1 FAILED", "n1 FAILED", "n2 RUNNING", "n2 RUNNING"]);
    let table = site.run(&["pool"]).ok();
    let said =
        "node n1 is left out, where 2 jobs in a row ended at once: the disk is full; mend it";
    assert!(table.contains(said), "{table}");
    site.run(&["pool", "resume", "slurm"]).ok();
    site.wait_for("no node that is left out", |pool| pool["left_out"] == serde_json::json!([]));
}

#[test]
fn a_system_that_is_missing_or_mad_is_said_in_a_line() {
    let site = Site::alone();
    let start = ["cluster", "start", "--on", "slurm", "-n", "2"];
    let said = site.run(&start).failed(1);
    assert!(
        said.contains("there is no `sbatch` here; run this where Slurm's commands are"),
        "{said}"
    );
    site.fake("sbatch", "case \"$*\" in *--test-only*) exit 0;; esac\necho 'Have a nice day'");
    site.fake("squeue", "exit 0");
    let cluster = site.start(&["slurm", "-n", "2"]);
    let pool =
        site.wait_for("a refusal", |pool| pool["state"] != "ok" && pool["state"] != "starts");
    let state = pool["state"].as_str().unwrap();
    assert!(state.starts_with("sbatch says no job's id: Have a nice day; tried"), "{state}");
    site.fake("squeue", "echo 'slurm_load_jobs error: Unable to contact controller' >&2; exit 1");
    site.wait_for("a failure", |pool| {
        pool["state"] == "squeue fails: slurm_load_jobs error: Unable to contact controller"
    });
    site.fake("squeue", "echo Hello");
    site.wait_for("garbage", |pool| {
        pool["state"] == "squeue answers what nobody understands: Hello"
    });
    drop(cluster);
}

#[test]
fn a_full_queue_is_waited_for() {
    let site = Site::alone();
    site.fake(
        "sbatch",
        "case \"$*\" in *--test-only*) exit 0;; esac\n\
         echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1",
    );
    site.fake("squeue", "exit 0");
    let _cluster = site.start(&["slurm", "-n", "2"]);
    let pool = site.wait_for("full", |pool| pool["state"] != "ok" && pool["state"] != "starts");
    let state = pool["state"].as_str().unwrap();
    assert!(state.starts_with("the queue is full: QOSMaxSubmitJobPerUserLimit; tried"), "{state}");
    assert_eq!(pool["paused"], Value::Null);
}
