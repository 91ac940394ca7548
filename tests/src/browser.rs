//! A headless Chromium, for the page of the farm: driven by its own protocol over two pipes.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::wait::{SOON, eventually};

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<Value>,
    events: VecDeque<Value>,
    session: String,
    number: u64,
    _profile: TempDir,
}

/// Names under which the browser may be installed.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Messages that wait until they are looked at.
const WAITING_MAX: usize = 10_000;
/// The time limit for an answer: the first ones come while the browser starts.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

impl Browser {
    /// Starts a browser that reaches this machine alone; none if there is none here.
    ///
    /// # Panics
    /// If it is here and cannot be driven.
    pub fn start() -> Option<Self> {
        let is_there = |name: &&str| {
            let asked = Command::new(name)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            asked.is_ok_and(|status| status.success())
        };
        let name = NAMES.into_iter().find(is_there)?;
        let profile = tempfile::tempdir().expect("a temporary folder");
        // Its pipes are the descriptors 3 and 4. No name but that of this machine leads anywhere.
        let script = format!(
            "exec {name} --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \
             --no-first-run --disable-background-networking --disable-component-update \
             --host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE 127.0.0.1' --window-size=1280,800 \
             --user-data-dir='{}' --remote-debugging-pipe 3<&0 4>&1 </dev/null >/dev/null 2>&1",
            profile.path().display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, answers) = sync_channel(WAITING_MAX);
        std::thread::spawn(move || {
            for text in BufReader::new(stdout).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&text).expect("a browser speaks JSON");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let requests = child.stdin.take().expect("stdin is piped");
        let (events, session) = (VecDeque::new(), String::new());
        let mut browser =
            Self { child, requests, answers, events, session, number: 0, _profile: profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        attached["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Asks for something, and waits for the answer.
    ///
    /// # Panics
    /// If it is an error, or does not come.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut request = json!({ "id": self.number, "method": method, "params": params });
        if !self.session.is_empty() {
            request["sessionId"] = self.session.as_str().into();
        }
        let text = format!("{request}\0");
        self.requests.write_all(text.as_bytes()).expect("the browser runs");
        let deadline = Instant::now() + ANSWERS_WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.answers.recv_timeout(left);
            let message = message.unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] == self.number {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
            if self.events.len() < WAITING_MAX {
                self.events.push_back(message);
            }
        }
    }

    /// Opens an address.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// The value of an expression in the page.
    ///
    /// # Panics
    /// If it throws.
    pub fn value(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params);
        assert_eq!(result["exceptionDetails"], Value::Null, "{expression}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    ///
    /// # Panics
    /// If it does not become so; the message has the page's text.
    pub fn wait_for(&mut self, expression: &str) {
        let is_true = format!("Boolean(document.body && ({expression}))");
        if !eventually(SOON, || self.value(&is_true) == true) {
            let text = self.value("document.body.innerText");
            panic!("{expression} does not become true:\n{}", text.as_str().unwrap_or_default());
        }
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str) {
        let text = if key.chars().count() == 1 { key } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let code = if key == "Tab" { 9 } else { 0 };
            let params =
                json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    /// Prefers this colour scheme from now on: `light` or `dark`.
    pub fn prefer(&mut self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [feature] }));
    }

    /// A picture of the page, as base64 of a PNG.
    ///
    /// # Panics
    /// If there is none.
    pub fn picture(&mut self) -> String {
        let taken = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        taken["data"].as_str().expect("a picture").to_owned()
    }

    /// The addresses that were asked for so far.
    pub fn asked_for(&mut self) -> Vec<String> {
        self.value("0");
        let requests = self.events.iter().filter(|it| it["method"] == "Network.requestWillBeSent");
        requests
            .filter_map(|it| it["params"]["request"]["url"].as_str().map(str::to_owned))
            .collect()
    }

    /// What the page has thrown and what the browser has complained of so far, apart from answers
    /// with this status.
    pub fn complaints(&mut self, but: &str) -> Vec<String> {
        self.value("0");
        let is_one = |it: &&Value| {
            let is_bad_entry = it["method"] == "Log.entryAdded"
                && matches!(it["params"]["entry"]["level"].as_str(), Some("error" | "warning"));
            it["method"] == "Runtime.exceptionThrown" || is_bad_entry
        };
        let texts = self.events.iter().filter(is_one).map(|it| it["params"].to_string());
        texts.filter(|text| but.is_empty() || !text.contains(but)).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.requests.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let mut has_ended = || self.child.try_wait().is_ok_and(|status| status.is_some());
        if !eventually(SOON, &mut has_ended) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
