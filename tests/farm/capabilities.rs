//! `furlong cap`, and how the broker obeys what it does: issue, list, revoke, expiry.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use furlong_host::home::load_capability;
use furlong_tests::command::{engine, furlong, wait_for_engines};
use furlong_tests::farm::Farm;
use furlong_tests::good::Good;
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::session::{Answer, Credentials, RawSession, shake_hands};
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::capability::Capability;
use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{
    ErrorKind, FromClient, Payload, ReplyBody, Revoke, Runtime, Submit, Targets, TaskState,
    ToClient,
};
use furlong_wire::token::{Claims, Role};
use serde_json::Value;

/// Issues a capability, and gives its file.
fn issue(home: &Home, args: &[&str]) -> PathBuf {
    let out = furlong(&[&["cap", "issue", "--json"], args].concat(), home).ok();
    let document: Value = serde_json::from_str(&out).unwrap();
    PathBuf::from(document["file"].as_str().unwrap())
}

fn load(path: &Path) -> Capability {
    load_capability(path).unwrap_or_else(|error| panic!("{error}"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Receives the messages of a session until the broker closes it.
fn until_closed(session: &mut RawSession) -> Vec<ToClient> {
    std::iter::from_fn(|| session.receive().ok()).flatten().collect()
}

fn goodbye(messages: &[ToClient]) -> &str {
    match messages.last() {
        Some(ToClient::Goodbye(goodbye)) => &goodbye.reason,
        other => panic!("the last message is no goodbye: {other:?}"),
    }
}

fn submit() -> FromClient {
    let payload = Payload::Inline(b"call".into());
    let (targets, runtime) = (Targets::Shared, Runtime::Native);
    FromClient::Submit(Submit {
        n: TaskSeq(1),
        targets,
        runtime,
        class: 0,
        define: None,
        options: None,
        payload,
    })
}

fn refusal(farm: &Farm, capability: &Capability) -> Option<String> {
    shake_hands(farm.port(), &Credentials::of(capability)).refusal()
}

#[test]
fn an_issued_file_is_private_and_lets_its_holder_in_with_what_it_says() {
    let farm = Farm::start();
    let args = [
        "--role",
        "task",
        "--labels",
        "gpu,big",
        "--expires",
        "2h",
        "--limits",
        "tasks=7,payload=1G",
    ];
    let path = issue(farm.home(), &args);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(path.starts_with(farm.home().cluster().security()), "{}", path.display());
    let capability = load(&path);
    let (claims, own) = (capability.claims(), farm.capability(Role::Task));
    assert_eq!((claims.role, claims.owner), (Role::Task, own.claims().owner));
    assert_eq!(claims.scopes, ["big", "gpu"]);
    assert_eq!((claims.limits.unfinished_tasks_max, claims.limits.payload_bytes_max), (7, 1 << 30));
    assert!(claims.expires_s.abs_diff(now_s() + 7_200) < 60);
    assert_ne!(claims.holder, own.claims().holder, "the key is fresh");
    assert_eq!(capability.endpoints(), own.endpoints());
    assert_eq!(Good::connect(&capability).unwrap().welcome().unfinished_tasks_max, 7);
    let shown = furlong(&["cap", "show", text(&path)], farm.home()).ok();
    for line in [
        "role      task",
        "engines   those with the label big or gpu",
        "limits    7 unfinished tasks at once, 1.0 GiB of payload at once",
        "good until ",
    ] {
        assert!(shown.contains(line), "{line}:\n{shown}");
    }
    assert!(!shown.contains(&hex(capability.holder_secret().expose())), "the secret is shown");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[test]
fn files_for_one_name_have_one_owner_and_no_running_broker_is_needed() {
    let mut farm = Farm::start();
    farm.broker().terminate();
    farm.broker().wait_exit(SOON);
    let home = farm.home();
    let owner =
        |args: &[&str]| load(&issue(home, &[&["--role", "client"], args].concat())).claims().owner;
    let (alice, again) = (owner(&["--owner", "alice"]), owner(&["--owner", "alice"]));
    assert_eq!(alice, again);
    assert_eq!(owner(&["--owner", &alice.to_string()]), alice);
    let all = [
        alice,
        owner(&["--owner", "bob"]),
        owner(&["--owner", "new"]),
        owner(&["--owner", "new"]),
        owner(&[]),
    ];
    assert!((0..all.len()).all(|at| !all[..at].contains(&all[at])), "{all:?}");
    // A location goes first, with the cluster's port.
    let path = home.path().join("x.cap.json");
    issue(home, &["--role", "engine", "--location", "head.example", "-o", text(&path)]);
    assert_eq!(
        load(&path).endpoints()[0].to_string(),
        format!("tcp://head.example:{}", farm.port())
    );
}

#[test]
fn what_cannot_be_issued_is_one_line() {
    let farm = Farm::start();
    let home = farm.home();
    let usage: &[&[&str]] = &[
        &["--role", "king"],
        &["--role", "client", "--expires", "soon"],
        &["--role", "client", "--expires", "2020-01-01"],
        &["--role", "client", "--expires", "-1h"],
        &["--role", "client", "--limits", "cpu=4"],
        &["--role", "client", "--labels", "a,,b"],
        &["--role", "client", "--owner", ""],
        &[],
    ];
    for args in usage {
        let stderr = furlong(&[&["cap", "issue"], *args].concat(), home).failed(2);
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    }
    let taken = home.cluster().capability(Role::Client);
    let key = home.cluster().broker_key();
    let failing: &[(&[&str], &str)] = &[
        (&["--role", "client", "-o", text(&taken)], "it is there already"),
        (&["--role", "client", "-o", "/nowhere/x.cap.json"], "there is no such file"),
        (&["--role", "engine", "--labels", "gpu"], "role engine submits none"),
        (&["--role", "client", "--location", "a b"], "--location a b"),
        (&["--role", "client", "--cluster", "lab"], "issuer.key.json"),
        (&["--role", "client", "--issuer-key", text(&key)], "furlong issuer key"),
    ];
    for (args, expected) in failing {
        let stderr = furlong(&[&["cap", "issue"], *args].concat(), home).failed(1);
        assert!(stderr.starts_with("furlong: ") && stderr.contains(expected), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    Good::connect(&load(&taken)).unwrap();
}

#[test]
fn the_issuer_key_may_be_kept_elsewhere() {
    let farm = Farm::start();
    let elsewhere = farm.home().path().join("issuer.key.json");
    fs::rename(farm.home().cluster().issuer_key(), &elsewhere).unwrap();
    furlong(&["cap", "issue", "--role", "client"], farm.home()).failed(1);
    let path = issue(farm.home(), &["--role", "client", "--issuer-key", text(&elsewhere)]);
    Good::connect(&load(&path)).unwrap();
}

#[test]
fn a_list_has_every_file_and_says_which_are_good() {
    let farm = Farm::start();
    let (home, security) = (farm.home(), farm.home().cluster().security());
    issue(
        home,
        &["--role", "client", "--expires", "30d", "-o", text(&security.join("guest.cap.json"))],
    );
    furlong(&["cap", "revoke", text(&security.join("task.cap.json")), "--reason", "a test"], home)
        .ok();
    let list = furlong(&["cap", "list"], home).ok();
    assert_eq!(list.lines().count(), 8, "{list}");
    let line = |name: &str| {
        list.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{list}"))
    };
    assert!(
        line("guest.cap.json").contains("client") && line("guest").contains("(in 30 days)"),
        "{list}"
    );
    assert!(
        line("task.cap.json").contains("revoked ") && line("task").ends_with(": a test"),
        "{list}"
    );
    assert!(line("admin.cap.json").ends_with("does not expire"), "{list}");
    let documents: Value =
        serde_json::from_str(&furlong(&["cap", "list", "--json"], home).ok()).unwrap();
    let revoked = |it: &&Value| !it["revoked_unix_s"].is_null();
    assert_eq!(documents.as_array().unwrap().iter().filter(revoked).count(), 1);
    fs::write(security.join("task.cap.json"), "{").unwrap();
    let outcome = furlong(&["cap", "list"], home);
    assert_eq!((outcome.code, outcome.stdout.lines().count()), (Some(1), 7), "{outcome:?}");
    assert!(outcome.stderr.contains("task.cap.json"), "{}", outcome.stderr);
}

#[test]
fn a_revoked_client_is_told_why_its_tasks_end_and_it_stays_out_also_after_a_restart() {
    let mut farm = Farm::start();
    let path = issue(farm.home(), &["--role", "client", "--owner", "alice"]);
    let capability = load(&path);
    let mut session = RawSession::client(farm.port(), &capability);
    session.send(&[submit()]);
    let mut other = farm.good(Role::Client);
    let said =
        furlong(&["cap", "revoke", text(&path), "--reason", "laptop lost"], farm.home()).ok();
    let token = capability.claims().token_id;
    let expected =
        format!("token {token} is revoked\nthe broker of cluster default obeys within a second");
    assert_eq!(said, expected);
    let messages = until_closed(&mut session);
    assert!(
        goodbye(&messages).contains(&format!("{token} is revoked (laptop lost)")),
        "{messages:?}"
    );
    let cancelled = |message: &ToClient| {
        matches!(message, ToClient::Finished(it) if it.outcome.state == TaskState::Cancelled
            && it.outcome.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Cancelled))
    };
    assert!(messages.iter().any(cancelled), "{messages:?}");
    other.engines().expect("nobody else is concerned");
    assert!(refusal(&farm, &capability).unwrap().contains("is revoked (laptop lost)"));
    farm.restart_after_sigkill();
    assert!(refusal(&farm, &capability).unwrap().contains("is revoked (laptop lost)"));
    let again = furlong(&["cap", "revoke", &token.to_string()], farm.home()).ok();
    assert!(again.starts_with(&format!("token {token} was revoked before")), "{again}");
    let command = furlong(&["ids", "--cap", text(&path)], farm.home()).failed(1);
    assert!(
        command.contains("is revoked (laptop lost)") && command.lines().count() == 1,
        "{command}"
    );
}

#[test]
fn a_revoked_engine_leaves_and_ends() {
    let farm = Farm::start();
    let mut engine = engine(farm.home());
    wait_for_engines(1, farm.home());
    let token = farm.capability(Role::Engine).claims().token_id.to_string();
    // The first digits are enough where there is a file.
    furlong(&["cap", "revoke", &token[..8]], farm.home()).ok();
    assert_eq!(engine.wait_exit(SOON).code(), Some(1));
    let stderr = engine.stderr();
    let last = stderr.lines().last().unwrap();
    assert!(
        last.starts_with("engine: ") && last.contains(&format!("{token} is revoked")),
        "{stderr}"
    );
    wait_for_engines(0, farm.home());
}

#[test]
fn what_cannot_be_revoked_is_one_line() {
    let (farm, foreign) = (Farm::start(), Farm::start());
    let theirs = foreign.home().cluster().capability(Role::Client);
    let cases: &[(&[&str], &str)] = &[
        (&["nobody.cap.json"], "neither a file nor the id of a token"),
        (&["0123"], "no token in "),
        (&[text(&theirs)], "a capability of another cluster"),
        (&["--cluster", "lab", &"0".repeat(32)], "broker.key.json"),
    ];
    for (args, expected) in cases {
        let stderr = furlong(&[&["cap", "revoke"], *args].concat(), farm.home()).failed(1);
        assert!(stderr.contains(expected) && stderr.lines().count() == 1, "{args:?}: {stderr}");
    }
    furlong(&["cap", "revoke", &"0".repeat(32), "--reason", "a\nb"], farm.home()).failed(2);
    furlong(&["cap", "revoke"], farm.home()).failed(2);
    assert!(!farm.home().cluster().revoked().exists(), "something was revoked");
}

#[test]
fn a_broken_list_is_said_once_and_changes_nothing_until_it_is_mended() {
    let farm = Farm::start();
    let home = farm.home();
    let guest = || issue(home, &["--role", "client", "--owner", "new"]);
    let (first, second) = (load(&guest()), load(&guest()));
    furlong(&["cap", "revoke", &first.claims().token_id.to_string()], home).ok();
    assert!(eventually(SOON, || refusal(&farm, &first).is_some()));
    let good = fs::read_to_string(home.cluster().revoked()).unwrap();
    let mut session = RawSession::client(farm.port(), &second);
    fs::write(home.cluster().revoked(), good.replace("revoked tokens", "shopping")).unwrap();
    let complaints = || home.broker_log().matches("what was revoked before stays so").count();
    assert!(eventually(SOON, || complaints() == 1), "{}", home.broker_log());
    assert!(refusal(&farm, &first).is_some(), "the last good list is forgotten");
    // Mended, with one token more. The next change is seen after the broken version was looked at
    // again and again.
    let id = |capability: &Capability| capability.claims().token_id.to_string();
    fs::write(home.cluster().revoked(), good.replace(&id(&first), &id(&second))).unwrap();
    assert!(goodbye(&until_closed(&mut session)).contains("is revoked"));
    assert_eq!(complaints(), 1);
    assert!(refusal(&farm, &first).is_none(), "what is no longer in the list is good again");
    fs::remove_file(home.cluster().revoked()).unwrap();
    assert!(eventually(SOON, || home.broker_log().contains("revoked.json is gone")));
    assert!(refusal(&farm, &second).is_some(), "a list that is gone revokes nobody");
}

#[test]
fn a_broker_does_not_start_with_a_list_that_it_cannot_read() {
    let mut farm = Farm::start();
    farm.broker().terminate();
    farm.broker().wait_exit(SOON);
    let file = farm.home().cluster().revoked();
    fs::write(&file, "{}").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut broker = Program::start("broker", &["--bind", "127.0.0.1"], farm.home());
    assert_eq!(broker.wait_exit(SOON).code(), Some(1));
    let stderr = broker.stderr();
    let last = stderr.lines().last().unwrap();
    assert!(
        last.contains("revoked.json: missing field") && last.contains("mend the file"),
        "{stderr}"
    );
}

#[test]
fn an_administrator_revokes_over_the_wire_and_is_answered_when_it_is_on_disk() {
    let farm = Farm::start();
    let victim = farm.capability(Role::Observer);
    let mut session = RawSession::client(farm.port(), &victim);
    let mut admin = RawSession::client(farm.port(), &farm.capability(Role::Admin));
    let token = victim.claims().token_id;
    admin.send(&[FromClient::Revoke(Revoke { request: 1, tokens: vec![token] })]);
    let reply =
        std::iter::from_fn(|| admin.receive().ok()).flatten().find_map(|message| match message {
            ToClient::Reply(reply) => Some(reply.body),
            _ => None,
        });
    assert_eq!(reply, Some(ReplyBody::Done));
    let file = fs::read_to_string(farm.home().cluster().revoked()).unwrap();
    assert!(file.contains(&token.to_string()), "{file}");
    assert_eq!(
        fs::metadata(farm.home().cluster().revoked()).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert!(goodbye(&until_closed(&mut session)).contains("is revoked"));
    assert!(matches!(shake_hands(farm.port(), &Credentials::of(&victim)), Answer::Refused(_)));
}

#[test]
fn a_session_ends_when_its_token_expires() {
    let farm = Farm::start();
    let (capability, issuer) = (farm.capability(Role::Client), farm.home().issuer());
    // What is over since almost five minutes is tolerated for almost no time more.
    let expires_s = now_s() - 298;
    let claims = Claims { not_before_s: 0, expires_s, ..capability.claims().clone() };
    let token = issuer.sign(&claims).unwrap();
    let mut credentials = Credentials::of(&capability);
    credentials.hello.token = token.as_bytes().to_vec();
    let mut session = shake_hands(farm.port(), &credentials).session();
    let messages = until_closed(&mut session);
    assert!(goodbye(&messages).contains("has expired"), "{messages:?}");
    credentials.hello.incarnation += 1;
    assert!(shake_hands(farm.port(), &credentials).refusal().unwrap().contains("expired"));
}
