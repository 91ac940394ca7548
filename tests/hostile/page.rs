//! Attacks on the page of the farm: other pages of the same browser, other users of the machine,
//! and text that would like to be markup. `tests/farm/page.rs` shows that text to a browser.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use furlong_tests::farm::Farm;
use furlong_tests::measure::rss_bytes;
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};
use serde_json::Value;

/// The time after which a request without its headers is closed, and what a busy machine adds.
const HEADERS: Duration = Duration::from_secs(10 + 5);
/// Connections that a page has at most.
const CONNECTIONS_MAX: usize = 64;
/// Streams that it has at most.
const STREAMS_MAX: usize = 8;
/// The limit on the growth of the server's memory in an attack.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// A page that is served, and its farm.
struct Site {
    _farm: Farm,
    program: Program,
    port: u16,
    key: String,
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Site {
    fn start() -> Self {
        let farm = Farm::start();
        let program = Program::start("furlong", &["dashboard"], farm.home());
        let line = program.wait_for_line("page ", SOON);
        let url = line.trim_start_matches("page").trim().trim_start_matches("http://127.0.0.1:");
        let (port, key) = url.split_once("/#key=").expect("an address with a key");
        Self { port: port.parse().unwrap(), key: key.to_owned(), program, _farm: farm }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(HEADERS)).unwrap();
        socket
    }

    /// A request with these lines after the first, and a body.
    fn request(&self, first: &str, headers: &[&str], body: &str) -> Answer {
        let mut socket = self.connect();
        let lines: String = headers.iter().flat_map(|line| [*line, "\r\n"]).collect();
        let length = body.len();
        let text = format!(
            "{first} HTTP/1.1\r\n{lines}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        // It may be refused before all of it is sent.
        let _ = socket.write_all(text.as_bytes());
        answer(&mut socket)
    }

    fn host(&self) -> String {
        format!("Host: 127.0.0.1:{}", self.port)
    }

    /// A request as the page makes it, with more lines.
    fn get(&self, path: &str, headers: &[&str]) -> Answer {
        let host = self.host();
        self.request(&format!("GET {path}"), &[&[host.as_str()], headers].concat(), "")
    }

    fn enter(&self, key: &str) -> Answer {
        self.request("POST /enter", &[&self.host(), "X-Furlong: 1"], key)
    }

    /// Goes in with the key that was printed, and returns the line with the cookie.
    fn cookie(&self) -> String {
        let entered = self.enter(&self.key);
        assert_eq!(entered.status, 204, "{entered:?}");
        let line = entered.head.lines().find(|line| line.starts_with("set-cookie: "));
        let line = line.expect("a cookie").trim_start_matches("set-cookie: ");
        for flag in ["; HttpOnly", "; SameSite=Strict"] {
            assert!(line.contains(flag), "{line}");
        }
        assert!(line.starts_with(&format!("furlong-{}=", self.port)), "{line}");
        format!("Cookie: {}", line.split(';').next().unwrap())
    }

    /// A stream of changes, whose beginning is read.
    fn stream(&self, cookie: &str) -> (TcpStream, u16) {
        let mut socket = self.connect();
        let text = format!("GET /events HTTP/1.1\r\n{}\r\n{cookie}\r\n\r\n", self.host());
        socket.write_all(text.as_bytes()).unwrap();
        let mut begin = [0; 12];
        socket.read_exact(&mut begin).unwrap();
        let status = String::from_utf8_lossy(&begin[9..]).parse().unwrap();
        (socket, status)
    }

    /// It serves whoever has a cookie, and has not grown.
    fn check_healthy(&self, cookie: &str, before: u64) {
        let about = self.get("/about", &[cookie]);
        assert_eq!(about.status, 200, "{about:?}");
        let growth = rss_bytes(self.program.pid()).saturating_sub(before);
        assert!(growth < GROWTH_BYTES_MAX, "{} KiB more than before", growth >> 10);
    }
}

/// Reads an answer to its end.
fn answer(socket: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // A reset after the answer is how a refused request ends.
    let _ = socket.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// True if the other side closes within this time.
fn is_closed_within(socket: &mut TcpStream, limit: Duration) -> bool {
    socket.set_read_timeout(Some(limit)).unwrap();
    let began = Instant::now();
    let mut bytes = [0; 4096];
    while began.elapsed() < limit {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            }
        }
    }
    false
}

#[test]
fn another_name_that_leads_here_is_not_served() {
    let site = Site::start();
    let cookie = site.cookie();
    for host in
        ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example"]
    {
        for path in ["/", "/about", "/events"] {
            let refused =
                site.request(&format!("GET {path}"), &[&format!("Host: {host}"), &cookie], "");
            assert_eq!(refused.status, 403, "{host} {path}: {refused:?}");
        }
        let refused =
            site.request("POST /enter", &[&format!("Host: {host}"), "X-Furlong: 1"], &site.key);
        assert_eq!(refused.status, 403);
    }
    let twice = site.get("/about", &["Host: evil.example", &cookie]);
    assert!(matches!(twice.status, 400 | 403), "{twice:?}");
    let absolute = site.request("GET http://evil.example/about", &[&site.host(), &cookie], "");
    assert_eq!(absolute.status, 403);
    assert_eq!(site.request("GET /about", &[&cookie], "").status, 403, "without a host");
}

#[test]
fn another_page_of_the_browser_gets_nothing() {
    let site = Site::start();
    let cookie = site.cookie();
    for header in [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://127.0.0.1:1",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ] {
        for path in ["/about", "/events", "/ends", "/"] {
            let refused = site.get(path, &[&cookie, header]);
            assert_eq!(refused.status, 403, "{header}: {refused:?}");
        }
    }
    // A form of another page, in a browser that says nothing of where it comes from.
    let form = site.request("POST /enter", &[&site.host()], &site.key);
    assert_eq!(form.status, 403, "{form:?}");
    let own = format!("Origin: http://127.0.0.1:{}", site.port);
    let served = site.get("/about", &[&cookie, &own, "Sec-Fetch-Site: same-origin"]);
    assert_eq!(served.status, 200);
    assert!(!served.head.contains("access-control"), "nobody else may read it: {}", served.head);
    for line in [
        "content-security-policy: default-src 'none'; script-src 'self'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(served.head.contains(line), "no {line} in {}", served.head);
    }
}

#[test]
fn without_a_cookie_nothing_is_told_not_even_what_there_is() {
    let site = Site::start();
    let other = Site::start();
    let stolen = other.cookie().replace(&other.port.to_string(), &site.port.to_string());
    let good = site.cookie();
    let changed = format!("{}AAAA", &good[..good.len() - 4]);
    for cookie in ["X-No: cookie", "Cookie: furlong=1", &stolen, &changed] {
        for path in ["/about", "/events", "/ends", "/task?id=a:1", "/nothing", "/../page"] {
            let refused = site.get(path, &[cookie]);
            assert_eq!(refused.status, 401, "{cookie} {path}: {refused:?}");
        }
    }
    let page = site.get("/", &[]);
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("default"), "the page itself says nothing of the farm");
    assert_eq!(site.get("/nothing", &[&good]).status, 404);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let refused = site.request(&format!("{method} /about"), &[&site.host(), &good], "");
        assert!(matches!(refused.status, 400 | 405), "{method}: {refused:?}");
    }
}

#[test]
fn a_key_opens_once_and_no_other_does() {
    let site = Site::start();
    let mut wrong = site.key.clone().into_bytes();
    wrong[20] = if wrong[20] == b'A' { b'B' } else { b'A' };
    let wrong = String::from_utf8(wrong).unwrap();
    for key in ["", "x", wrong.as_str(), &"x".repeat(900)] {
        assert_eq!(site.enter(key).status, 401, "{key}");
    }
    assert_eq!(site.enter(&"x".repeat(100_000)).status, 413);
    site.cookie();
    let again = site.enter(&site.key);
    assert_eq!(again.status, 401);
    assert!(again.body.contains("has been used"), "{again:?}");
}

#[test]
fn what_is_too_large_or_too_slow_is_closed_and_keeps_nobody_out() {
    let site = Site::start();
    let cookie = site.cookie();
    let before = rss_bytes(site.program.pid());
    let large = site.get("/about", &[&cookie, &format!("X-Large: {}", "x".repeat(100_000))]);
    assert!(matches!(large.status, 0 | 431), "{}", large.status);
    let many: Vec<String> = (0..500).map(|n| format!("X-{n}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let many = site.get("/about", &[&[cookie.as_str()], &many[..]].concat());
    assert!(matches!(many.status, 0 | 431), "{}", many.status);
    let began = Instant::now();
    // All places: half of them silent, half with a part of a request.
    let mut slow: Vec<TcpStream> = (0..CONNECTIONS_MAX)
        .map(|n| {
            let mut socket = site.connect();
            if n % 2 == 0 {
                socket.write_all(b"GET / HTTP/1.1\r\nHost: 127").unwrap();
            }
            socket
        })
        .collect();
    let mut body = site.connect();
    let started = format!("POST /enter HTTP/1.1\r\n{}\r\nX-Furlong: 1\r\n", site.host());
    body.write_all(format!("{started}Content-Length: 75\r\n\r\nhalf").as_bytes()).unwrap();
    // It waits until they are closed, and no longer.
    site.check_healthy(&cookie, before);
    assert!(began.elapsed() < HEADERS, "{:?}", began.elapsed());
    for socket in &mut slow {
        let left = HEADERS.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        assert!(is_closed_within(socket, left), "a silent connection keeps a place");
    }
    assert_eq!(answer(&mut body).status, 504, "a body that does not come");
    site.check_healthy(&cookie, before);
}

#[test]
fn pages_are_few_and_one_that_does_not_read_costs_a_bounded_sum() {
    let site = Site::start();
    let cookie = site.cookie();
    let before = rss_bytes(site.program.pid());
    let streams: Vec<TcpStream> = (0..STREAMS_MAX)
        .map(|_| {
            let (socket, status) = site.stream(&cookie);
            assert_eq!(status, 200);
            socket
        })
        .collect();
    assert_eq!(site.stream(&cookie).1, 429, "one page too many");
    // Nobody reads: what is told is the newest state, when there is room for it.
    let (cpu, began) = (furlong_tests::measure::cpu_seconds(site.program.pid()), Instant::now());
    let (mut reader, _) = {
        drop(streams.into_iter().next());
        let mut opened = None;
        let is_open = || {
            let (socket, status) = site.stream(&cookie);
            opened = (status == 200).then_some((socket, status));
            opened.is_some()
        };
        assert!(eventually(SOON, is_open), "a page that was closed keeps its place");
        opened.unwrap()
    };
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while text.matches("event: look").count() < 3 {
        let count = reader.read(&mut bytes).expect("looks come");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    let used = furlong_tests::measure::cpu_seconds(site.program.pid()) - cpu;
    assert!(used / began.elapsed().as_secs_f64() < 0.5, "{used} s of processor time");
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).expect("a look");
    let look: Value = serde_json::from_str(data).unwrap();
    assert_eq!(look["whole"], true);
    site.check_healthy(&cookie, before);
}

#[test]
fn questions_that_are_not_what_they_should_be_are_refused() {
    let site = Site::start();
    let cookie = site.cookie();
    for path in [
        "/series?step=1y",
        "/series",
        "/task?id=nothing",
        "/task",
        "/timeline?from_us=-1&to_us=2&width=3",
        "/timeline?from_us=x",
        "/ends?kind=x",
        "/records?ended=maybe",
    ] {
        let refused = site.get(path, &[&cookie]);
        assert_eq!(refused.status, 400, "{path}: {refused:?}");
    }
    let all = u64::MAX;
    for path in [
        format!("/timeline?from_us=0&to_us={all}&width={all}&skip=99999999"),
        format!("/timeline?from_us={all}&to_us=0&width=0"),
        format!("/task?id=zzzzzz:{all}"),
        format!("/task?id={}:1", "x".repeat(2_000)),
        format!("/ends?longer_us={all}&state=%3Cb%3E&error=%00"),
    ] {
        let answered = site.get(&path, &[&cookie]);
        assert!(matches!(answered.status, 200 | 400 | 503), "{path}: {answered:?}");
    }
    assert_eq!(site.get("/about", &[&cookie]).status, 200);
}

#[test]
fn a_profile_needs_a_cookie_the_pages_own_header_and_a_capability() {
    let site = Site::start();
    let cookie = site.cookie();
    let host = site.host();
    let post = |headers: &[&str]| {
        site.request("POST /profile?kind=1", &[&[host.as_str()], headers].concat(), "")
    };
    assert_eq!(post(&["X-Furlong: 1"]).status, 401);
    assert_eq!(post(&[&cookie, "X-Furlong: 1", "Sec-Fetch-Site: cross-site"]).status, 403);
    let other = post(&[&cookie]);
    assert_eq!((other.status, other.body.contains("another page")), (403, true), "{other:?}");
    let observer = post(&[&cookie, "X-Furlong: 1"]);
    let is_said = observer.body.contains("may only look: `furlong profile`");
    assert_eq!((observer.status, is_said), (403, true), "{observer:?}");
    assert_eq!(site.get("/profile?kind=1", &[&cookie]).status, 405, "a link leads to none");
    let about = site.get("/about", &[&cookie]);
    assert!(about.body.contains("\"may_profile\":false"), "{about:?}");
}
