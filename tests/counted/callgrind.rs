//! What callgrind writes: for each function the costs of its lines, and of what it calls.

use std::io::{BufRead, BufReader};
use std::path::Path;

/// Parts of names of functions that do not count: cryptography, whose code is chosen by the
/// processor and whose handshakes are as many as there were connections; the runtime and the loops
/// of the shells, which turn more often on a busy machine.
const LEFT_OUT: &[&str] = &[
    "curve25519",
    "sha2",
    "hybrid_array",
    "ed25519",
    "ring_core",
    "subtle",
    "chacha",
    "tokio",
    "mio::",
    "::shell::",
];

/// Returns the number of instructions in the program's own code, libraries of the system apart.
///
/// # Panics
/// If the file cannot be read.
pub fn instructions(path: &Path, program: &str) -> u64 {
    let file = std::fs::File::open(path).expect("callgrind has written its counts");
    let object = format!("/{program}");
    let (mut is_ours, mut counts, mut is_call) = (false, false, false);
    let mut sum = 0;
    for line in BufReader::new(file).split(b'\n') {
        let line = line.expect("a file of this test can be read");
        let line = String::from_utf8_lossy(&line);
        if let Some(name) = line.strip_prefix("ob=") {
            is_ours = name.ends_with(&object);
        } else if let Some(name) = line.strip_prefix("fn=") {
            counts = LEFT_OUT.iter().all(|part| !name.contains(part));
        } else if line.starts_with("calls=") {
            // The next line is what the callee costs, which has lines of its own.
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok());
            if !std::mem::take(&mut is_call) && is_ours && counts {
                sum += cost.unwrap_or_default();
            }
        }
    }
    sum
}

#[test]
fn only_what_a_function_costs_itself_is_added() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("counts");
    let text = "events: Ir\n\nob=/x/broker\nfl=a.rs\nfn=furlong::f\n16 400\ncalls=1 0\n18 90000\n\
                19 5\n20\nfn=tokio::run\n1 1000\nob=/lib/libc.so\nfn=memcpy\n1 70\n";
    std::fs::write(&path, text).unwrap();
    assert_eq!(instructions(&path, "broker"), 405);
}
