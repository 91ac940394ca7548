//! Every command that a document shows runs, and prints what the document says.
//!
//! A block that begins with three backquotes and `console` is a session: lines with `$ ` are
//! commands, the lines under one are what it prints, on stdout and stderr together. All sessions of
//! a document are one shell, in the repository's root, with the built programs on `PATH` and an
//! empty home; at its end nothing may run. What must not be run is in a `text` block.
//!
//! The rules:
//! - a command ends with exit code 0, or with N if its line ends with `# exit code N`;
//! - what is shown is compared when something is shown. In both, the home is `~`, each run of
//!   digits is `0` (with a point in it or not), a word of 16 or more hexadecimal digits too, a day
//!   of the week is any, and each run of blanks is one blank;
//! - a shown line `...` stands for any number of lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use furlong_tests::command::{processes_of, repository};
use furlong_tests::home::Home;
use furlong_tests::program::{Program, binary};
use furlong_tests::wait::{SOON, eventually};

/// Commands that are not run here, and why.
const EXEMPT: &[(&str, &str)] = &[
    ("cargo run --release -- demo", "builds the workspace again; tests/farm/demo.rs runs the demo"),
    ("cargo xtask test", "it runs these tests"),
    (
        "pip install ./python",
        "builds the release profile; the step `python` installs the same package of the dev profile",
    ),
];

/// A command, and what the document says that it prints.
#[derive(Debug)]
struct Step {
    command: String,
    shown: Vec<String>,
}

impl Step {
    fn exit_code(&self) -> i32 {
        let code = self.command.rsplit_once("# exit code ").map(|(_, code)| code.trim().parse());
        code.map_or(0, |code| code.expect("`# exit code` has a number"))
    }
}

#[test]
fn every_command_of_the_documents_runs_and_prints_what_they_show() {
    let mut commands = 0;
    for document in documents() {
        let steps = steps(&fs::read_to_string(&document).unwrap());
        commands += steps.len();
        if !steps.is_empty() {
            check(&document, &steps);
        }
    }
    assert!(
        commands >= 10,
        "only {commands} commands were found: is the rule still that of the documents?"
    );
}

/// The documents that a user reads.
fn documents() -> Vec<PathBuf> {
    let folders =
        ["docs", "docs/guide"].map(|folder| fs::read_dir(repository().join(folder)).unwrap());
    let entries = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut documents: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    documents.extend(["README.md", "python/README.md"].map(|document| repository().join(document)));
    documents.sort();
    documents
}

/// The steps of a document's sessions.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_session = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_session = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| in_session) {
            steps.push(Step { command: command.to_owned(), shown: Vec::new() });
        } else if in_session {
            let step = steps
                .last_mut()
                .unwrap_or_else(|| panic!("a session begins with a command, not with {line}"));
            step.shown.push(line.to_owned());
        }
    }
    steps.retain(|step| EXEMPT.iter().all(|(command, _)| *command != step.command));
    steps
}

/// Runs a document's steps in one shell, and compares.
fn check(document: &Path, steps: &[Step]) {
    let home = Home::new();
    let script = steps.iter().map(|step| format!("{}\necho \"{END} $?\"\n", step.command));
    let script = script.collect::<Vec<_>>().concat();
    let mut shell = Command::new("bash");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", binary("furlong").parent().unwrap().display());
    shell.args(["-c", &format!("exec 2>&1\n{script}")]).current_dir(repository());
    shell
        .env("HOME", home.path())
        .env("PATH", path)
        .env_remove("FURLONG_HOME")
        .env_remove("FURLONG_CAP");
    let mut shell = Program::spawn("bash", shell);
    shell.wait_exit(DOCUMENT);
    let printed = shell.stdout().replace(home.path().to_str().unwrap(), "~");
    // Before the comparison, so that a wrong document leaves nothing either.
    let left = left_running(home.path());
    let mut lines = printed.lines();
    for step in steps {
        let place = format!("{}: $ {}", document.display(), step.command);
        let mut output = Vec::new();
        let code = loop {
            let line = lines.next().unwrap_or_else(|| panic!("{place}\nhas no end:\n{printed}"));
            match line.strip_prefix(END) {
                Some(code) => break code.trim().to_owned(),
                None => output.push(line),
            }
        };
        assert_eq!(code, step.exit_code().to_string(), "{place}\n{}", output.join("\n"));
        let shown: Vec<String> = step.shown.iter().map(|line| plain(line)).collect();
        let got: Vec<String> = output.iter().map(|line| plain(line)).collect();
        assert!(
            shown.is_empty() || matches(&shown, &got),
            "{place}\nprints\n{}\nnot\n{}",
            got.join("\n"),
            shown.join("\n")
        );
    }
    assert!(left.is_empty(), "{} leaves running: {left:?}", document.display());
}

/// The processes that a document leaves, after the cluster of this home was stopped for it.
fn left_running(home: &Path) -> Vec<(u32, String)> {
    let mut left = Vec::new();
    eventually(SOON, || {
        left = processes_of(home);
        left.is_empty()
    });
    if !left.is_empty() {
        let stop =
            Command::new(binary("furlong")).args(["cluster", "stop"]).env("HOME", home).output();
        drop(stop);
    }
    left
}

/// Returns true if the lines are those shown, where `...` stands for any number of them.
fn matches(shown: &[String], got: &[String]) -> bool {
    match shown.split_first() {
        None => got.is_empty(),
        Some((line, rest)) if line == "..." => {
            (0..=got.len()).any(|skipped| matches(rest, &got[skipped..]))
        }
        Some((line, rest)) => got.first() == Some(line) && matches(rest, &got[1..]),
    }
}

/// A line without what may vary.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut word = String::new();
    for character in line.chars().chain([' ']) {
        if character.is_ascii_alphanumeric() {
            word.push(character);
            continue;
        }
        plain.push_str(&plain_word(&word));
        word.clear();
        plain.push(character);
    }
    let plain = plain.replace("0.0", "0").replace("0.0", "0");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A word with each run of digits as `0`, and a day of the week as another one.
fn plain_word(word: &str) -> String {
    if word.len() >= 16 && word.chars().all(|it| it.is_ascii_hexdigit()) {
        return "0".to_owned();
    }
    if ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].contains(&word) {
        return "Day".to_owned();
    }
    let mut plain = String::new();
    for character in word.chars() {
        match character {
            '0'..='9' if plain.ends_with('0') => {}
            '0'..='9' => plain.push('0'),
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn the_rules_let_vary_what_may_and_nothing_else() {
    assert_eq!(plain("up 12.34 s,  port 41873"), plain("up 1 s, port 7"));
    assert_eq!(plain("until Fri 2026-12-25"), plain("until Thu 2026-12-24"));
    assert_eq!(plain("token b20e0f811b46a32d5755f2085bc695ac"), "token 0");
    assert_ne!(plain("engines 4 online"), plain("engines 4 offline"));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(
        matches(&lines("a\n...\nc"), &lines("a\nb\nb\nc"))
            && matches(&lines("a\n..."), &lines("a"))
    );
    assert!(!matches(&lines("a\nc"), &lines("a\nb\nc")) && !matches(&lines("a"), &lines("a\nb")));
    let steps =
        steps("```text\n$ no\n```\n```console\n$ false  # exit code 1\n$ echo b\nb\n```\n$ no\n");
    assert_eq!((steps.len(), steps[0].exit_code(), steps[1].shown.len()), (2, 1, 1));
}

/// Goes before the exit code of a command in the shell's output.
const END: &str = "-- end of command --";
/// A document's sessions, on a machine that is busy with other tests.
const DOCUMENT: Duration = Duration::from_secs(60);
