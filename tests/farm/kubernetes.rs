//! Pools of pods: the real `kubectl` on an API server that is played, whose pods run real engines.

use furlong_tests::command::{processes_of, touch, wait_for_engines};
use furlong_tests::kubernetes::Kubernetes;
use furlong_tests::program::{Program, binary};
use furlong_tests::site::{JOBS, Site};
use furlong_tests::wait::{SOON, eventually};
use serde_json::Value;

/// The words that start a cluster with pods, whose image has the program where it is here.
fn pods<'a>(program: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["k8s", "--image", "farm:1", "--program", program], more].concat()
}

fn program() -> String {
    binary("furlong").display().to_string()
}

#[test]
fn kubernetes_is_asked_before_anything_is_left() {
    let Some(kubernetes) = Kubernetes::start() else { return };
    let site = Site::on(kubernetes.variables());
    let dry = ["cluster", "start", "--on", "kubernetes", "-n", "4", "--dry-run"];
    let said = site.run(&dry).failed(1);
    assert!(said.contains("name the image of the containers with --image"), "{said}");
    let dry = [&dry[..], &["--image", "farm:1"]].concat();
    let said = site.run(&[&dry[..], &["--memory", "1G", "--setup", "echo $HOME"]].concat()).ok();
    for part in [
        "\"name\": \"furlong-new\"",
        "the capability, which is not printed",
        "\n---\n# 4 of these\napiVersion: v1\nkind: Pod\n",
        "\n    image: \"farm:1\"\n",
        "args: [\"echo $$HOME\\nexec furlong engine --cluster=default --cap - -n 1",
        "\n        memory: 1024Mi\n",
        "\n# kubectl create -o name -f - < ",
        "\n# pod/furlong-new-k8s-",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = site.run(&[&dry[..], &["--", "-n", "team"]].concat()).failed(1);
    assert!(said.contains("leave `-n` out of the arguments for `kubectl`"), "{said}");
    kubernetes.set("forbidden", Some(""));
    let start = ["cluster", "start", "--on", "k8s", "--image", "farm:1", "-n", "4"];
    let said = site.run(&start).failed(1);
    assert!(said.contains("pods is forbidden: User \"me\" cannot create resource"), "{said}");
    assert!(said.contains("ask for a role"), "{said}");
    assert_eq!(kubernetes.names("pods,secrets"), Vec::<String>::new());
    assert!(!site.home.cluster().path().exists(), "a folder is left");
}

#[test]
fn engines_in_pods_are_scaled_and_kill_no_work() {
    let Some(kubernetes) = Kubernetes::start() else { return };
    let site = Site::on(kubernetes.variables());
    let program = program();
    let args = ["-n", "2", "--setup", "echo \"this is $FURLONG_POD\""];
    let mut cluster = site.start(&pods(&program, &args));
    wait_for_engines(2, &site.home);
    assert_eq!(kubernetes.names("secrets").len(), 1);
    site.run(&["pool", "scale", "k8s", "3"]).ok();
    wait_for_engines(3, &site.home);
    let gate = site.home.path().join("gate");
    let wait = format!("until [ -e {} ]; do sleep 0.1; done; echo done", gate.display());
    let args = ["submit", "--array", "1-3", "--retries", "0", "--wait", "--", "sh", "-c", &wait];
    let mut tasks = Program::spawn("furlong", site.command(&args));
    assert!(eventually(SOON, || {
        let status: Value = serde_json::from_str(&site.run(&["status", "--json"]).ok()).unwrap();
        status["tasks"]["assigned"] == 3
    }));
    // No secret is in what other processes see.
    let lines = processes_of(site.home.path());
    assert!(lines.iter().all(|(_, line)| !line.contains("secret")), "{lines:?}");
    site.run(&["pool", "scale", "k8s", "1"]).ok();
    let pool = site.wait_for("two pods that drain", |pool| {
        let jobs = pool["jobs"].as_array().unwrap();
        jobs.iter().filter(|job| job["state"] == "drains").count() == 2
    });
    assert_eq!(kubernetes.names("pods").len(), 3);
    let drains = pool["jobs"].as_array().unwrap().iter().find(|job| job["state"] == "drains");
    let drained = drains.unwrap()["job"].as_str().unwrap().to_owned();
    let log = || site.run(&["pool", "log", &drained]).ok();
    assert!(log().starts_with(&format!("this is {drained}\n")), "the log of a living pod");
    touch(&gate);
    assert_eq!(tasks.wait_exit(SOON).code(), Some(0), "{}", tasks.stderr());
    assert_eq!(tasks.stdout(), "done\n".repeat(3).trim_end());
    // Those whose engines have left are removed, and not started again.
    assert!(eventually(JOBS, || kubernetes.names("pods").len() == 1), "{}", site.keeper_log());
    assert!(log().starts_with(&format!("this is {drained}\n")), "the log of one that is gone");
    cluster.terminate();
    cluster.wait_exit(JOBS);
    assert_eq!(kubernetes.names("pods,secrets"), Vec::<String>::new());
}

#[test]
fn a_pod_that_somebody_deletes_finishes_what_it_runs() {
    let Some(kubernetes) = Kubernetes::start() else { return };
    let site = Site::on(kubernetes.variables());
    let program = program();
    let _cluster = site.start(&pods(&program, &["-n", "1"]));
    wait_for_engines(1, &site.home);
    let at = |name: &str| site.home.path().join(name);
    let (began, gate) = (at("began"), at("gate"));
    let work = format!(
        "touch {}; until [ -e {} ]; do sleep 0.1; done; echo done",
        began.display(),
        gate.display()
    );
    let args = ["submit", "--retries", "0", "--wait", "--", "sh", "-c", &work];
    let mut task = Program::spawn("furlong", site.command(&args));
    assert!(eventually(SOON, || began.exists()));
    let before = kubernetes.names("pods").remove(0);
    kubernetes.run(&["delete", "pod", "--wait=false", &before]);
    touch(&gate);
    assert_eq!(task.wait_exit(JOBS).code(), Some(0), "{}", task.stderr());
    assert_eq!(task.stdout(), "done");
    site.wait_for("another pod", |pool| {
        pool["engines"] == 1
            && pool["jobs"].as_array().unwrap().iter().any(|it| it["job"] != *before)
    });
}

#[test]
fn an_image_that_cannot_be_pulled_pauses_the_pool() {
    let Some(kubernetes) = Kubernetes::start() else { return };
    let site = Site::on(kubernetes.variables());
    let mut cluster = site.start(&["k8s", "--image", "bad", "-n", "8"]);
    let pool = site.wait_for("a pause", |pool| pool["paused"].is_string());
    let paused = pool["paused"].as_str().unwrap();
    assert!(
        paused.starts_with(
            "3 jobs in a row ended without an engine: ImagePullBackOff: Back-off pulling image \
             \"bad\": is that the image's name"
        ),
        "{paused}"
    );
    assert!(eventually(JOBS, || kubernetes.names("pods").is_empty()), "{}", site.keeper_log());
    cluster.terminate();
    cluster.wait_exit(JOBS);
    assert_eq!(kubernetes.names("pods,secrets"), Vec::<String>::new());
}

#[test]
fn quota_is_waited_for_and_lost_rights_pause_the_pool() {
    let Some(kubernetes) = Kubernetes::start() else { return };
    let site = Site::on(kubernetes.variables());
    let program = program();
    kubernetes.set("quota", Some("1"));
    let mut cluster = site.start(&pods(&program, &["-n", "2"]));
    wait_for_engines(1, &site.home);
    let pool = site.wait_for("a full quota", |pool| {
        pool["state"].as_str().is_some_and(|state| state.contains("exceeded quota: small"))
    });
    assert!(pool["paused"].is_null(), "{pool:#}");
    kubernetes.set("quota", None);
    kubernetes.set("forbidden", Some(""));
    site.run(&["pool", "resume", "k8s"]).ok();
    let pool = site.wait_for("a pause", |pool| pool["paused"].is_string());
    let paused = pool["paused"].as_str().unwrap();
    assert!(paused.contains("cannot create resource \"pods\""), "{paused}");
    assert!(paused.contains("ask for a role with the rights"), "{paused}");
    kubernetes.set("forbidden", None);
    kubernetes.set("nodes", Some("full"));
    site.run(&["pool", "resume", "k8s"]).ok();
    let pool = site.wait_for("a pod that waits", |pool| {
        let jobs = pool["jobs"].as_array().unwrap();
        jobs.iter().any(|job| job["why"].as_str().is_some_and(|why| why.contains("Insufficient")))
    });
    assert_eq!(pool["engines"], 1);
    site.run(&["pool", "scale", "k8s", "1"]).ok();
    assert!(eventually(JOBS, || kubernetes.names("pods").len() == 1), "{}", site.keeper_log());
    wait_for_engines(1, &site.home);
    cluster.terminate();
    cluster.wait_exit(JOBS);
    assert_eq!(kubernetes.names("pods,secrets"), Vec::<String>::new());
}

#[test]
fn cluster_stop_finds_pods_when_all_else_is_gone() {
    let Some(kubernetes) = Kubernetes::start() else { return };
    let site = Site::on(kubernetes.variables());
    let program = program();
    let mut cluster = site.start(&pods(&program, &["-n", "2"]));
    wait_for_engines(2, &site.home);
    cluster.kill();
    // One that has ended meanwhile is what is wanted.
    let _ = rustix::process::kill_process(site.keeper().unwrap(), rustix::process::Signal::KILL);
    std::fs::remove_dir_all(site.home.cluster().path().join("pools")).unwrap();
    assert_eq!(kubernetes.names("pods").len(), 2);
    let said = site.run(&["cluster", "stop"]).ok();
    assert!(said.starts_with("2 jobs have ended, nothing is left: furlong-"), "{said}");
    assert_eq!(kubernetes.names("pods,secrets"), Vec::<String>::new());
}

#[test]
fn a_kubectl_that_is_broken_is_said_in_a_line() {
    let site = Site::alone();
    let start = ["cluster", "start", "--on", "k8s", "--image", "farm:1", "-n", "1"];
    let said = site.run(&start).failed(1);
    assert!(said.contains("there is no `kubectl` here; run this where Kubernetes's"), "{said}");
    let refused = "The connection to the server localhost:8080 was refused - did you specify the \
                   right host or port?";
    site.fake("kubectl", &format!("echo '{refused}' >&2; exit 1"));
    let said = site.run(&start).failed(1);
    assert!(said.contains("localhost:8080 was refused"), "{said}");
    assert!(said.contains("name the cluster with -- --context=NAME"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let site = Site::on(Vec::new());
    site.fake("kubectl", "case \"$*\" in *create*) echo Welcome;; *get*) echo 'items: -f';; esac");
    let _cluster = site.start(&["k8s", "--image", "farm:1", "-n", "2"]);
    site.wait_for("garbage", |pool| {
        pool["state"] == "kubectl answers what nobody understands: items: -f"
    });
}
