//! `furlong gateway`, as programs with other `ZeroMQ` libraries see it: the crate `zeromq` over
//! TCP, and pyzmq, without Furlong's package, over a Unix socket.

use std::path::PathBuf;
use std::process::{Command, Output};

use bytes::Bytes;
use furlong_tests::command::{Cluster, furlong, repository};
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};
use serde_json::{Value, json};
use zeromq::{DealerSocket, ReqSocket, Socket, SocketRecv, SocketSend};

/// Serves a cluster, and returns the process and its address.
fn serve(cluster: &Cluster, flags: &[&str]) -> (Program, String) {
    let program = Program::start("furlong", &[&["gateway"], flags].concat(), cluster.home());
    let line = program.wait_for_line("gateway ", SOON);
    (program, line.trim_start_matches("gateway").trim().to_owned())
}

/// The same on TCP, with the token.
fn serve_tcp(cluster: &Cluster) -> (Program, String, String) {
    let (program, endpoint) = serve(cluster, &["--port", "0"]);
    let line = program.wait_for_line("token ", SOON);
    let token = std::fs::read_to_string(line.trim_start_matches("token").trim()).unwrap();
    (program, endpoint, token)
}

/// A `DEALER` of the crate `zeromq`, which adds the token to what it asks.
struct Dealer {
    runtime: tokio::runtime::Runtime,
    socket: DealerSocket,
    token: String,
}

impl Dealer {
    fn connect(endpoint: &str, token: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut socket = DealerSocket::new();
        runtime.block_on(socket.connect(endpoint)).unwrap();
        Self { runtime, socket, token: token.to_owned() }
    }

    fn send(&mut self, mut request: Value) {
        request["v"] = 1.into();
        request["token"] = self.token.clone().into();
        let frame = Bytes::from(request.to_string());
        self.runtime.block_on(self.socket.send(frame.into())).unwrap();
    }

    fn receive(&mut self) -> Value {
        let answer = async { tokio::time::timeout(SOON, self.socket.recv()).await };
        let answer = self.runtime.block_on(answer).expect("an answer in time").unwrap();
        assert_eq!(answer.len(), 1);
        serde_json::from_slice(answer.get(0).unwrap()).unwrap()
    }

    fn ask(&mut self, request: Value) -> Value {
        self.send(request);
        self.receive()
    }

    fn submit(&mut self, call: Value) -> Value {
        self.ask(json!({"submit": call}))["ok"]["task"].clone()
    }

    fn result(&mut self, task: &Value) -> Value {
        self.ask(json!({"result": {"task": task, "wait_ms": 60_000}}))["ok"].clone()
    }
}

/// Python with pyzmq.
fn python(args: &[&str]) -> Output {
    // The test is TARGET/debug/deps/gateway-HASH, the environment TARGET/venv.
    let executable = std::env::current_exe().unwrap();
    let python: PathBuf = executable.ancestors().nth(3).unwrap().join("venv/bin/python");
    assert!(python.is_file(), "there is no {}; run cargo xtask test --step venv", python.display());
    Command::new(python).args(args).current_dir(repository()).output().unwrap()
}

#[test]
fn a_program_with_pyzmq_alone_uses_the_farm() {
    let cluster = Cluster::start(2);
    let (mut gateway, endpoint) = serve(&cluster, &[]);
    let ended = python(&["examples/gateway.py", &endpoint]);
    let stderr = String::from_utf8(ended.stderr).unwrap();
    let factorial = "15511210043330985984000000";
    let expected = format!(
        "engines [0, 1]\nsqrt 1.4142135623730951\narea 42\nmap [1, 2, 6, {factorial}]\ncommand 3\n\
         execute ['True', 'True']\nfailure ValueError\n"
    );
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), expected, "{stderr}");

    let path = endpoint.trim_start_matches("ipc://");
    assert!(std::fs::exists(path).unwrap());
    gateway.terminate();
    assert!(gateway.wait_exit(SOON).success(), "{}", gateway.stderr());
    assert!(!std::fs::exists(path).unwrap(), "the socket is gone with it");
}

/// Asks in msgpack, and prints what comes back.
const MSGPACK: &str = r#"
import math, msgpack, sys, zmq
socket = zmq.Context.instance().socket(zmq.REQ)
socket.setsockopt(zmq.LINGER, 0)
socket.setsockopt(zmq.RCVTIMEO, 60000)
socket.connect(sys.argv[1])
def ask(**request):
    socket.send(msgpack.packb({"v": 1, **request}))
    return msgpack.unpackb(socket.recv())["ok"]
def call(*args):
    source = "def same(*args): return list(args)"
    task = ask(submit={"function": "same", "source": source, "args": args})["task"]
    return ask(result={"task": task, "wait_ms": 60000})
print(call(2**64 - 1, -2**63, 0.5, [{"a": None}])["value"])
for wrong in (b"\xff", math.nan):
    submit = {"function": "builtins:repr", "args": [wrong]}
    socket.send(msgpack.packb({"v": 1, "submit": submit}))
    print(msgpack.unpackb(socket.recv())["error"]["type"])
task = ask(submit={"command": ["cat"], "stdin": b"\xff\x00"})["task"]
print(ask(result={"task": task, "wait_ms": 60000})["stdout"])
"#;

#[test]
fn msgpack_has_integers_of_64_bits_and_bytes_for_commands() {
    let cluster = Cluster::start(1);
    let (_gateway, endpoint) = serve(&cluster, &[]);
    let ended = python(&["-c", MSGPACK, &endpoint]);
    let stdout = String::from_utf8(ended.stdout).unwrap();
    let expected = "[18446744073709551615, -9223372036854775808, 0.5, [{'a': None}]]\n\
                    BadRequest\nBadRequest\nb'\\xff\\x00'\n";
    assert_eq!(stdout, expected, "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn a_dealer_has_many_requests_under_way() {
    let cluster = Cluster::start(1);
    let (_gateway, endpoint, token) = serve_tcp(&cluster);
    let mut dealer = Dealer::connect(&endpoint, &token);
    let slow = dealer.submit(json!({"command": ["sleep", "600"]}));
    dealer.send(json!({"id": "slow", "result": {"task": slow, "wait_ms": 600_000}}));
    let version = dealer.ask(json!({"id": 18_446_744_073_709_551_615_u64, "version": {}}));
    assert_eq!(version["id"], 18_446_744_073_709_551_615_u64);
    assert_eq!(version["ok"]["furlong"], env!("CARGO_PKG_VERSION"));
    let status = dealer.ask(json!({"status": {"task": slow}}));
    assert_eq!(status["ok"]["state"], "pending");
    let short = dealer.ask(json!({"result": {"task": slow, "wait_ms": 1}}));
    assert_eq!(short["ok"]["state"], "pending");

    dealer.send(json!({"id": "cancel", "cancel": {"task": slow}}));
    let [one, two] = [(); 2].map(|()| dealer.receive());
    let (cancelled, slow_end) = if one["id"] == "cancel" { (one, two) } else { (two, one) };
    assert_eq!(cancelled["ok"], json!({}));
    assert_eq!((&slow_end["id"], &slow_end["ok"]["state"]), (&json!("slow"), &json!("failed")));
    let again = dealer.ask(json!({"result": {"task": slow}}));
    assert_eq!(again["error"]["type"], "NotKept");
    assert_eq!(dealer.ask(json!({"result": {"task": 99}}))["error"]["type"], "NoSuchTask");
}

#[test]
fn a_value_that_json_does_not_have_is_text_and_said() {
    let cluster = Cluster::start(1);
    let (_gateway, endpoint, token) = serve_tcp(&cluster);
    let mut dealer = Dealer::connect(&endpoint, &token);
    let nan = dealer.submit(json!({"function": "builtins:float", "args": ["nan"]}));
    let nan = dealer.result(&nan);
    assert_eq!(nan["value"], "nan", "{nan}");
    assert!(nan["stderr"].as_str().unwrap().contains("which json cannot say"), "{nan}");
    let exit = dealer.submit(json!({"command": ["sh", "-c", "printf '\\377'; exit 3"]}));
    let exit = dealer.result(&exit);
    assert_eq!(exit["failure"]["exit_code"], 3);
    assert_eq!(exit["stdout"], json!({"base64": "/w=="}));
}

#[test]
fn tasks_of_a_peer_that_goes_are_cancelled_unless_detached() {
    let cluster = Cluster::start(2);
    let (mut gateway, endpoint, token) = serve_tcp(&cluster);
    let mut dealer = Dealer::connect(&endpoint, &token);
    dealer.submit(json!({"command": ["sleep", "600"], "label": "attached"}));
    let wait = ["sh", "-c", "until test -e go; do sleep 0.05; done; echo gone"];
    let folder = cluster.home().path().join("work");
    std::fs::create_dir(&folder).unwrap();
    let wait = format!("cd {} && {}", folder.display(), wait[2]);
    let detached = json!({"command": ["sh", "-c", wait], "label": "detached", "detach": true});
    let answer = dealer.ask(json!({"submit": detached}));
    let id = answer["ok"]["ids"][0].as_str().unwrap().to_owned();
    let listed = |label: &str| {
        let queue = cluster.furlong(&["queue", "--json", "--label", label]).ok();
        queue.contains(label)
    };
    assert!(eventually(SOON, || listed("attached") && listed("detached")));
    drop(dealer);
    assert!(eventually(SOON, || !listed("attached")), "it is cancelled");
    assert!(listed("detached"));
    gateway.terminate();
    assert!(gateway.wait_exit(SOON).success(), "{}", gateway.stderr());
    std::fs::write(folder.join("go"), "").unwrap();
    let fetched = || cluster.furlong(&["result", "-f", &id]).ok();
    assert_eq!(fetched().trim(), "gone");
}

#[test]
fn what_waits_is_answered_when_the_gateway_stops() {
    let cluster = Cluster::start(1);
    let (mut gateway, endpoint, token) = serve_tcp(&cluster);
    let mut dealer = Dealer::connect(&endpoint, &token);
    let slow = dealer.submit(json!({"command": ["sleep", "600"]}));
    dealer.send(json!({"result": {"task": slow, "wait_ms": 600_000}}));
    // Requests are read in their order: this one's answer says that the other waits.
    dealer.ask(json!({"version": {}}));
    gateway.terminate();
    assert_eq!(dealer.receive()["error"]["type"], "Stopping");
    assert!(gateway.wait_exit(SOON).success(), "{}", gateway.stderr());
    let run = cluster.home().cluster().run();
    let names = std::fs::read_dir(run).unwrap().map(|it| it.unwrap().file_name());
    assert!(!names.map(|it| it.into_string().unwrap()).any(|it| it.contains(".token")));
}

#[test]
fn a_req_of_the_zeromq_crate_is_served() {
    let cluster = Cluster::start(1);
    let (_gateway, endpoint, token) = serve_tcp(&cluster);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let mut socket = ReqSocket::new();
        socket.connect(&endpoint).await.unwrap();
        let request = json!({"v": 1, "token": token, "engines": {}}).to_string();
        socket.send(Bytes::from(request).into()).await.unwrap();
        tokio::time::timeout(SOON, socket.recv()).await.expect("in time").unwrap()
    });
    let answer: Value = serde_json::from_slice(answer.get(0).unwrap()).unwrap();
    assert_eq!(answer, json!({"v": 1, "id": null, "ok": {"engines": [0]}}));
}

#[test]
fn doors_that_let_others_in_are_refused() {
    let home = Home::new();
    let refused = furlong(&["gateway", "--listen", "0.0.0.0:0"], &home).failed(1);
    assert!(refused.contains("not a loopback address") && refused.contains("ssh -L"), "{refused}");
    let open = home.path().join("open");
    std::fs::create_dir(&open).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&open, mode).unwrap();
    let socket = open.join("gateway.sock");
    let refused = furlong(&["gateway", "--socket", socket.to_str().unwrap()], &home).failed(1);
    assert!(refused.contains("chmod 700"), "{refused}");

    let cluster = Cluster::start(1);
    let (_gateway, _) = serve(&cluster, &[]);
    let second = cluster.furlong(&["gateway"]).failed(1);
    assert!(second.contains("is served by another gateway"), "{second}");
}
