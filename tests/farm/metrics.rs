//! `furlong metrics`: what scrapes get, who gets it, and what the guide, the dashboard and the
//! alerts say of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use furlong_tests::command::{file, furlong, repository};
use furlong_tests::farm::Farm;
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::message::{ErrorKind, NoteCode};
use serde_json::Value;

/// The time for all of a connection.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// What a busy machine adds.
const MARGIN: Duration = Duration::from_secs(60);
/// Connections that are answered at the same time.
const CONNECTIONS_MAX: usize = 16;
const TOKEN: &str = "0123456789abcdef-right";

/// Metrics that are served.
struct Door {
    _program: Program,
    port: u16,
}

impl Door {
    fn open(home: &Home, flags: &[&str]) -> Self {
        let args = [&["metrics", "--listen", "127.0.0.1:0"], flags].concat();
        let program = Program::start("furlong", &args, home);
        let line = program.wait_for_line("metrics http://", SOON);
        let port =
            line.trim_start_matches("metrics http://127.0.0.1:").trim_end_matches("/metrics");
        Self { port: port.parse().unwrap(), _program: program }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(REQUEST_WITHIN + MARGIN)).unwrap();
        socket
    }

    /// The status of a request with these lines after the first, and the body.
    fn ask(&self, first: &str, headers: &[&str]) -> (u16, String) {
        let mut socket = self.connect();
        let lines: String = headers.iter().flat_map(|line| [*line, "\r\n"]).collect();
        // It may be refused before all of it is sent.
        let _ = socket.write_all(format!("{first} HTTP/1.1\r\n{lines}\r\n").as_bytes());
        let mut bytes = Vec::new();
        // A reset after the answer is how a refused request ends.
        let _ = socket.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, body.to_owned())
    }

    fn scrape(&self) -> String {
        let (status, body) = self.ask("GET /metrics", &["Host: 127.0.0.1"]);
        assert_eq!(status, 200, "{body}");
        body
    }
}

/// A file with a token, which this mode lets read.
fn token_file(home: &Home, text: &str, mode: u32) -> String {
    let path = file(home, "token", text);
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn only_who_has_the_token_is_served_and_only_one_path() {
    let farm = Farm::start();
    let path = token_file(farm.home(), &format!("{TOKEN}\n"), 0o600);
    let door = Door::open(farm.home(), &["--token-file", &path]);
    let right = format!("Authorization: Bearer {TOKEN}");
    let (status, body) = door.ask("GET /metrics", &["Host: farm.example:9464", &right]);
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\nfurlong_up 1"), "{body}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    for wrong in [
        "X-No: token".to_owned(),
        "Authorization: Bearer ".to_owned(),
        format!("Authorization: Bearer {TOKEN}x"),
        format!("Authorization: Bearer {}", &TOKEN[1..]),
        format!("Authorization: Basic {TOKEN}"),
        format!("Authorization: {TOKEN}"),
    ] {
        for path in ["/metrics", "/", "/nothing"] {
            let (status, body) = door.ask(&format!("GET {path}"), &["Host: 127.0.0.1", &wrong]);
            assert_eq!(status, 401, "{wrong} {path}");
            assert!(!body.contains("furlong_"), "{body}");
        }
    }
    for path in ["/", "/metrics/", "/metrics/more", "/../metrics"] {
        assert_eq!(door.ask(&format!("GET {path}"), &[&right]).0, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(door.ask(&format!("{method} /metrics"), &[&right]).0, 405, "{method}");
    }
}

#[test]
fn a_token_that_others_can_read_or_guess_is_refused() {
    let home = Home::new();
    let listen = |address: &str, mode, text: &str| {
        let path = token_file(&home, text, mode);
        furlong(&["metrics", "--listen", address, "--token-file", &path], &home)
    };
    let said = listen("127.0.0.1:0", 0o644, TOKEN).failed(1);
    assert!(said.contains("token"), "{said}");
    for text in ["", "short", "sixteen and more, with blanks"] {
        let said = listen("127.0.0.1:0", 0o600, text).failed(1);
        assert!(said.contains("a token has 16 visible"), "{said}");
    }
    let said = furlong(&["metrics", "--listen", "0.0.0.0:0"], &home).failed(2);
    assert!(said.contains("--token-file"), "{said}");
}

#[test]
fn without_a_token_another_name_that_leads_here_is_not_served() {
    let farm = Farm::start();
    let door = Door::open(farm.home(), &[]);
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1"] {
        for path in ["/metrics", "/"] {
            let (status, body) = door.ask(&format!("GET {path}"), &[&format!("Host: {host}")]);
            assert_eq!(status, 403, "{host}: {body}");
        }
    }
    let large = format!("X-Large: {}", "x".repeat(100_000));
    let (status, _) = door.ask("GET /metrics", &["Host: 127.0.0.1", &large]);
    assert!(matches!(status, 0 | 431), "{status}");
    for host in ["localhost", "127.0.0.1:9464", "[::1]"] {
        assert_eq!(door.ask("GET /metrics", &[&format!("Host: {host}")]).0, 200, "{host}");
    }
}

#[test]
fn who_is_slow_or_silent_keeps_nobody_out() {
    let farm = Farm::start();
    let door = Door::open(farm.home(), &[]);
    let began = Instant::now();
    let mut slow = door.connect();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127").unwrap();
    door.scrape();
    assert!(began.elapsed() < REQUEST_WITHIN, "it has waited for the slow one");
    let mut silent: Vec<TcpStream> = (0..CONNECTIONS_MAX + 4).map(|_| door.connect()).collect();
    let began = Instant::now();
    // It waits until the first ones are closed, and no longer.
    door.scrape();
    assert!(began.elapsed() < REQUEST_WITHIN + MARGIN, "{:?}", began.elapsed());
    for socket in silent.iter_mut().chain([&mut slow]) {
        assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0, "it is closed and told nothing");
    }
    assert!(began.elapsed() < 2 * REQUEST_WITHIN + MARGIN, "{:?}", began.elapsed());
}

#[test]
fn a_broker_that_is_away_is_a_figure_and_its_return_too() {
    let mut farm = Farm::start();
    let door = Door::open(farm.home(), &[]);
    assert!(door.scrape().contains("\nfurlong_up 1"));
    farm.broker().kill();
    let mut text = String::new();
    let is_away = || {
        text = door.scrape();
        text.contains("\nfurlong_up 0")
    };
    assert!(eventually(SOON, is_away), "the broker is killed, and it is up");
    assert_eq!(text.matches("# TYPE ").count(), 1, "no other figure is known: {text}");
    farm.restart_after_sigkill();
    let is_back = || door.scrape().contains("\nfurlong_up 1");
    assert!(eventually(SOON, is_back), "the broker is back, and it is not up");
}

#[test]
fn scrapes_within_a_second_share_one_answer() {
    let farm = Farm::start();
    let door = Door::open(farm.home(), &[]);
    // No two looks take the same time, and it is among the figures.
    let mut text = String::new();
    let is_shared = || {
        text = door.scrape();
        text == door.scrape()
    };
    assert!(eventually(SOON, is_shared), "two scrapes are never the same");
    assert!(text.contains("\nfurlong_answer_seconds "), "{text}");
    assert!(eventually(SOON, || door.scrape() != text), "an answer is kept for ever");
}

/// A row of a table in Markdown, without its backquotes.
fn cells(row: &str) -> Vec<String> {
    row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
}

/// The rows of `furlong metrics --list`: name, type, labels and meaning.
fn listed() -> Vec<Vec<String>> {
    let list = furlong(&["metrics", "--list"], &Home::new()).ok();
    list.lines().skip(2).map(cells).collect()
}

fn guide() -> String {
    fs::read_to_string(repository().join("docs/guide/metrics.md")).unwrap()
}

/// The values of each metric's label in a text for scrapes.
fn values(text: &str) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut values = BTreeMap::<_, BTreeSet<String>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let labels = rest.split_once('}').unwrap().0;
        for pair in labels.split(',') {
            let (label, value) = pair.split_once('=').unwrap();
            let key = (name.to_owned(), label.to_owned());
            values.entry(key).or_default().insert(value.trim_matches('"').to_owned());
        }
    }
    values
}

#[test]
fn the_list_and_the_guide_are_what_is_printed() {
    let farm = Farm::start();
    let list = furlong(&["metrics", "--list"], farm.home()).ok();
    assert!(guide().contains(list.trim_end()), "the guide has another table than\n{list}");
    let text = furlong(&["metrics"], farm.home()).ok();
    let types: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, of)| (name.to_owned(), of.to_owned()))
        .collect();
    let expected: Vec<(String, String)> = listed()
        .iter()
        .map(|row| (row[0].trim_end_matches("_total").to_owned(), row[1].clone()))
        .collect();
    assert_eq!(types, expected);
    let rows = listed();
    for (name, label) in values(&text).keys() {
        let row = rows.iter().find(|row| row[0] == *name).expect("a metric of the list");
        assert!(row[2].split(", ").any(|it| it == label), "{name} has the label {label}");
    }
}

#[test]
fn the_guide_has_all_values_of_labels() {
    let farm = Farm::start();
    let printed = values(&furlong(&["metrics"], farm.home()).ok());
    let guide = guide();
    let table = guide.split_once("| label | of | values |\n").expect("a table of labels").1;
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|')).map(cells);
    let mut checked = 0;
    for row in rows {
        let [label, of, told] = &row[..] else { panic!("{row:?}") };
        let told: BTreeSet<String> = told.split(", ").map(str::to_owned).collect();
        let expected = match label.as_str() {
            "error" => ErrorKind::ALL.iter().map(|it| it.as_str().to_owned()).collect(),
            "note" => NoteCode::ALL.iter().map(|it| it.as_str().to_owned()).collect(),
            // Without tasks these have no figures.
            "bound" => BTreeSet::from(["least", "most"].map(str::to_owned)),
            "phase" if of == "furlong_task_phase_seconds" => {
                BTreeSet::from(["queue", "run", "overhead"].map(str::to_owned))
            }
            _ => printed[&(of.clone(), label.clone())].clone(),
        };
        assert_eq!(told, expected, "{label} of {of}");
        checked += 1;
    }
    assert_eq!(checked, 8);
}

/// The queries of `contrib/`.
fn queries() -> Vec<String> {
    let read = |name: &str| fs::read_to_string(repository().join("contrib").join(name)).unwrap();
    let dashboard: Value = serde_json::from_str(&read("grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut queries: Vec<String> =
        targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(queries.len() >= 12, "{queries:?}");
    let alerts = read("alerts.yaml");
    let written = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let written: Vec<String> = written.map(|text| serde_json::from_str(text).unwrap()).collect();
    assert!(written.len() >= 6, "{written:?}");
    queries.extend(written);
    queries
}

/// The parts of a text between two others.
fn between<'a>(text: &'a str, begin: &str, end: char) -> Vec<&'a str> {
    text.split(begin).skip(1).map(|part| part.split(end).next().unwrap()).collect()
}

#[test]
fn dashboard_and_alerts_ask_only_for_what_there_is() {
    let farm = Farm::start();
    let rows = listed();
    let printed = furlong(&["metrics"], farm.home()).ok();
    for query in queries() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = query.split(|c| !is_name(c)).filter(|word| word.starts_with("furlong"));
        // Prometheus adds it.
        let mut labels = BTreeSet::from(["instance"]);
        let mut metrics = 0;
        for word in words {
            let histogram = word.strip_suffix("_bucket");
            let of = rows.iter().find(|row| row[0] == histogram.unwrap_or(word));
            let row = of.unwrap_or_else(|| panic!("there is no {word}: {query}"));
            assert_eq!(histogram.is_some(), row[1] == "histogram", "{word}: {query}");
            labels.extend(row[2].split(", "));
            labels.extend(histogram.map(|_| "le"));
            metrics += 1;
        }
        assert!(metrics > 0, "{query}");
        for label in between(&query, "by (", ')').iter().flat_map(|by| by.split(", ")) {
            assert!(labels.contains(label), "there is no label {label}: {query}");
        }
        for chosen in between(&query, "{", '}') {
            let (label, wanted) = chosen.split_once('=').unwrap();
            assert!(labels.contains(label), "there is no label {label}: {query}");
            for value in wanted.trim_start_matches('~').trim_matches('"').split('|') {
                let pair = format!("{label}=\"{value}\"");
                assert!(printed.contains(&pair), "there is no {pair}: {query}");
            }
        }
    }
}
