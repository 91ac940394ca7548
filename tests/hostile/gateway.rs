//! Attacks on a gateway: other programs of the machine, which have no token, and programs that have
//! one and ask for too much.

use std::io::{Read, Write};
use std::net::TcpStream;

use furlong_tests::farm::Farm;
use furlong_tests::measure::{rss_bytes, rss_peak_bytes};
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};
use serde_json::{Value, json};

/// Connections that a gateway has at most.
const CONNECTIONS_MAX: usize = 64;
/// The limit on the growth of its memory in an attack.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a request at most.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// A gateway on TCP, and its farm, which has no engines.
struct Site {
    _farm: Farm,
    program: Program,
    port: u16,
    token: String,
    rss_bytes: u64,
}

impl Site {
    fn start() -> Self {
        let farm = Farm::start();
        let program = Program::start("furlong", &["gateway", "--port", "0"], farm.home());
        let line = program.wait_for_line("token ", SOON);
        let token = std::fs::read_to_string(line.trim_start_matches("token").trim()).unwrap();
        let line = program.wait_for_line("gateway ", SOON);
        let port = line.rsplit(':').next().unwrap().trim().parse().unwrap();
        let rss_bytes = rss_bytes(program.pid());
        Self { _farm: farm, program, port, token, rss_bytes }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    }

    /// A connection after its handshake.
    fn peer(&self) -> Peer {
        let mut socket = self.connect();
        socket.write_all(&opening()).unwrap();
        let mut answer = [0; 64 + 2];
        socket.read_exact(&mut answer).unwrap();
        let mut ready = vec![0; usize::from(answer[65])];
        socket.read_exact(&mut ready).unwrap();
        assert!(ready.starts_with(b"\x05READY"), "{}", ready.escape_ascii());
        Peer { socket, token: self.token.clone() }
    }

    /// Checks that an honest peer is served, and that the memory never grew beyond the limit.
    fn check_healthy(&mut self) {
        assert!(self.program.is_running(), "the gateway has died: {}", self.program.stderr());
        assert!(self.peer().ask(json!({"version": {}}))["ok"].is_object());
        let growth = rss_peak_bytes(self.program.pid()).saturating_sub(self.rss_bytes);
        assert!(growth <= GROWTH_BYTES_MAX, "its memory grew by {} MiB", growth >> 20);
    }
}

/// A connection after its handshake.
struct Peer {
    socket: TcpStream,
    token: String,
}

impl Peer {
    fn send(&mut self, body: &[u8]) {
        let mut frame = vec![2];
        frame.extend_from_slice(&(body.len() as u64).to_be_bytes());
        frame.extend_from_slice(body);
        self.socket.write_all(&frame).unwrap();
    }

    /// The body of the next answer; none if the connection is closed.
    fn receive(&mut self) -> Option<Value> {
        loop {
            let mut flags = [0];
            if !matches!(self.socket.read(&mut flags), Ok(1)) {
                return None;
            }
            let mut len = [0; 8];
            let len = if flags[0] & 2 == 0 {
                self.socket.read_exact(&mut len[7..]).unwrap();
                len
            } else {
                self.socket.read_exact(&mut len).unwrap();
                len
            };
            let mut body = vec![0; u64::from_be_bytes(len) as usize];
            self.socket.read_exact(&mut body).unwrap();
            if !body.is_empty() {
                return Some(serde_json::from_slice(&body).unwrap());
            }
        }
    }

    fn ask(&mut self, mut request: Value) -> Value {
        request["v"] = 1.into();
        request["token"] = self.token.clone().into();
        self.send(request.to_string().as_bytes());
        self.receive().expect("an answer")
    }

    fn error(&mut self, request: Value) -> Value {
        self.ask(request)["error"]["type"].clone()
    }
}

/// Greeting and READY of a `DEALER`.
fn opening() -> Vec<u8> {
    let mut bytes = vec![0; 64];
    (bytes[0], bytes[9], bytes[10], bytes[11]) = (0xff, 0x7f, 3, 1);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes.extend_from_slice(b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER");
    bytes
}

#[test]
fn a_huge_frame_is_refused_before_its_bytes_come() {
    let mut site = Site::start();
    for declared in [REQUEST_BYTES_MAX as u64 + 1, 1 << 46, u64::MAX >> 1] {
        // Before READY, where nobody has said who they are.
        let mut early = site.connect();
        early.write_all(&opening()[..64]).unwrap();
        early.write_all(&[2]).unwrap();
        early.write_all(&declared.to_be_bytes()).unwrap();
        let mut rest = Vec::new();
        let _ = early.read_to_end(&mut rest);

        let mut late = site.peer();
        late.socket.write_all(&[2]).unwrap();
        late.socket.write_all(&declared.to_be_bytes()).unwrap();
        assert_eq!(late.receive().unwrap()["error"]["type"], "TooLarge");
        assert_eq!(late.receive(), None, "the connection ends");
    }
    site.check_healthy();
}

#[test]
fn a_request_without_the_token_does_nothing() {
    let mut site = Site::start();
    for token in [json!(null), json!(""), json!(site.token[1..]), json!(format!("{} ", site.token))]
    {
        let mut peer = site.peer();
        let request = json!({"v": 1, "token": token, "submit": {"command": ["true"]}});
        peer.send(request.to_string().as_bytes());
        assert_eq!(peer.receive().unwrap()["error"]["type"], "BadToken");
        assert_eq!(peer.receive(), None, "the connection ends");
    }
    // What is not understood is no way to learn anything without it.
    let mut peer = site.peer();
    peer.send(b"{");
    assert_eq!(peer.receive().unwrap()["error"]["type"], "BadToken");
    site.check_healthy();
}

#[test]
fn bytes_that_are_no_request_get_one_answer_each() {
    let mut site = Site::start();
    let mut peer = site.peer();
    let token = site.token.clone();
    for wrong in [
        json!({"v": 1, "token": token, "submit": {"command": "ls"}}),
        json!({"v": 1, "token": token, "result": {"task": "1"}}),
        json!({"v": 1, "token": token, "nothing": {}}),
        json!({"v": 1, "token": token, "engines": {}, "version": {}}),
    ] {
        peer.send(wrong.to_string().as_bytes());
        assert_eq!(peer.receive().unwrap()["error"]["type"], "BadRequest", "{wrong}");
    }
    let deep = format!("{{\"v\":1,\"token\":\"{token}\",\"submit\":{}", "[".repeat(1 << 20));
    peer.send(deep.as_bytes());
    peer.receive().expect("an answer");
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 200], &[0; 200]] {
        let mut socket = site.connect();
        socket.write_all(noise).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    }
    site.check_healthy();
}

#[test]
fn too_many_connections_are_told_so() {
    let mut site = Site::start();
    let mut peers: Vec<Peer> = (0..CONNECTIONS_MAX).map(|_| site.peer()).collect();
    let mut late = site.peer();
    assert_eq!(late.error(json!({"version": {}})), "TooMany");
    assert_eq!(late.receive(), None, "the connection ends");
    assert!(peers[0].ask(json!({"version": {}}))["ok"].is_object(), "others notice nothing");
    peers.clear();
    let is_served = || site.peer().ask(json!({"version": {}}))["ok"].is_object();
    assert!(eventually(SOON, is_served));
    site.check_healthy();
}

#[test]
fn too_many_tasks_and_waits_are_refused() {
    let mut site = Site::start();
    let mut peer = site.peer();
    let items = vec![0; 4096];
    let map = peer.ask(json!({"map": {"function": "builtins:int", "items": items}}));
    let task = map["ok"]["task"].clone();
    assert_eq!(peer.error(json!({"submit": {"command": ["true"]}})), "TooMany");
    // Its answer comes first, since none of those before can be answered.
    for _ in 0..256 {
        let wait = json!({
            "v": 1, "token": site.token, "result": {"task": task, "wait_ms": 600_000},
        });
        peer.send(wait.to_string().as_bytes());
    }
    assert_eq!(peer.error(json!({"result": {"task": task, "wait_ms": 600_000}})), "TooMany");
    assert!(site.peer().ask(json!({"submit": {"command": ["true"]}}))["ok"].is_object());
    site.check_healthy();
}
