//! The instructions that no-ops cost each of the three processes, counted by valgrind's callgrind,
//! beside the counts in `benches/instructions.json`. A clock sees a cost of a few percent on a
//! quiet machine alone; a count sees it everywhere.

mod callgrind;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use furlong_tests::command::{command, repository};
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::wait::eventually;
use serde::{Deserialize, Serialize};

/// No-ops, one after the other.
const NO_OPS: &str = "1500";
/// A count may be so much over the one in the file.
const OVER_MAX: f64 = 1.02;
/// Counts of one build differ by some percent with how often a process wakes. The least of so many
/// is compared.
const TRIES: usize = 4;
/// Valgrind is some fifty times slower than the program.
const PATIENCE: Duration = Duration::from_secs(240);

/// The counts, and the compiler whose programs they were counted of.
#[derive(Serialize, Deserialize, Debug)]
struct Counts {
    rustc: String,
    no_ops: String,
    instructions: BTreeMap<String, u64>,
}

#[test]
fn a_no_op_costs_no_more_instructions_than_it_did() {
    let path = repository().join("benches/instructions.json");
    let text = std::fs::read_to_string(path).expect("the counts are in the repository");
    let committed: Counts = serde_json::from_str(&text).expect("the counts are a JSON document");
    let is_to_print = std::env::var_os("FURLONG_PRINT_INSTRUCTIONS").is_some();
    let rustc = first_line("rustc");
    if first_line("valgrind").is_empty() {
        return println!("left out: there is no `valgrind`");
    }
    if rustc != committed.rustc && !is_to_print {
        return println!("left out: the counts are of {}, and this is {rustc}", committed.rustc);
    }
    let mut least = count();
    let dearer = |least: &BTreeMap<String, u64>| {
        let over = |(name, count): &(&String, &u64)| {
            let before = committed.instructions.get(*name).copied().unwrap_or_default();
            **count as f64 > before as f64 * OVER_MAX
        };
        least.iter().filter(over).map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    for _ in 1..TRIES {
        if dearer(&least).is_empty() && !is_to_print {
            break;
        }
        for (name, count) in count() {
            least.entry(name).and_modify(|least| *least = count.min(*least));
        }
    }
    if is_to_print {
        let counts = Counts { rustc, no_ops: NO_OPS.to_owned(), instructions: least };
        return println!("{}", serde_json::to_string_pretty(&counts).expect("it is plain data"));
    }
    let dearer = dearer(&least);
    assert!(
        dearer.is_empty(),
        "{dearer:?} took more instructions for {NO_OPS} no-ops than 1.02 of what the file says: {least:?}, \
         {:?}. Find what costs that, or say in the change why it is worth it, with the new counts: \
         FURLONG_PRINT_INSTRUCTIONS=1 cargo test -p furlong-tests --test counted -- --nocapture",
        committed.instructions
    );
}

/// Runs no-ops through a broker and an engine under callgrind. Returns the instructions of each
/// process by its name.
fn count() -> BTreeMap<String, u64> {
    let home = Home::new();
    let counted =
        |name: &str, args: &[&str]| Program::spawn(name, under_callgrind(name, args, &home));
    let mut broker = counted("broker", &["--bind", "127.0.0.1", "--stop-with-stdin"]);
    let cap = home.cluster().security().join("engine.cap.json");
    let is_up = eventually(PATIENCE, || home.broker_state().is_some() && cap.exists());
    assert!(is_up, "the broker does not start:\n{}", broker.stderr());
    let cap = cap.to_str().expect("a temporary folder's name is plain");
    let mut engine = counted("engine", &["--stop-with-stdin", "--cap", cap]);
    // Whoever asked for it would cost the broker some.
    engine.wait_for_line("connected to", PATIENCE);
    let bench = ["bench", "latency", "--count", NO_OPS, "--wait", "120", "--json"];
    let mut client = counted("furlong", &bench);
    for program in [&mut client, &mut engine, &mut broker] {
        program.close_stdin();
        let status = program.wait_exit(PATIENCE);
        assert!(status.success(), "{status}:\n{}", program.stderr());
    }
    let names = ["broker", "engine", "furlong"];
    let count = |name| callgrind::instructions(&counts_of(&home, name), name);
    names.into_iter().map(|name| (name.to_owned(), count(name))).collect()
}

fn under_callgrind(name: &str, args: &[&str], home: &Home) -> Command {
    let program = command(name, args, home);
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--tool=callgrind", "--compress-strings=no", "--compress-pos=no"]);
    valgrind.arg(format!("--callgrind-out-file={}", counts_of(home, name).display()));
    valgrind.arg(program.get_program()).args(program.get_args());
    valgrind.current_dir(repository()).env("FURLONG_HOME", home.path()).env_remove("FURLONG_CAP");
    valgrind
}

fn counts_of(home: &Home, name: &str) -> std::path::PathBuf {
    home.path().join(format!("{name}.callgrind"))
}

/// The first line of what a program says of its version; empty if it is not here.
fn first_line(program: impl AsRef<Path>) -> String {
    let output = Command::new(program.as_ref()).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}
