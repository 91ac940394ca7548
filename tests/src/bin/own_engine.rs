//! An engine of Rust functions that hold their slot, for the tests.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use furlong_engine::{Engine, inputs, is_cancelled};
use furlong_tests::wait::eventually;

/// Runs until it is cancelled, and gives whether it was.
fn cooperative() -> bool {
    eventually(LONG, is_cancelled)
}

/// Says that it runs, and does so until there is a file, cancelled or not.
fn hold(begun: &str, release: &str) -> bool {
    std::fs::write(begun, "begun\n").is_ok() && eventually(LONG, || Path::new(release).exists())
}

/// The bytes of all inputs, with bars between them.
fn joined() -> String {
    let texts = inputs()
        .into_iter()
        .map(|input| String::from_utf8_lossy(&input.bytes().expect("bytes, or text")).into_owned());
    texts.collect::<Vec<_>>().join("|")
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(capability), Some(Ok(slots))) = (args.next(), args.next().map(|slots| slots.parse()))
    else {
        eprintln!("usage: own_engine CAPABILITY SLOTS");
        return ExitCode::FAILURE;
    };
    let engine = Engine::builder()
        .capability(capability)
        .slots(slots)
        .without_python()
        .stop_with_stdin(true);
    let engine = engine.function("cooperative", cooperative).function("joined", joined);
    match engine.function("hold", |begun: String, release: String| hold(&begun, &release)).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("own_engine: {error}");
            ExitCode::FAILURE
        }
    }
}

const LONG: Duration = Duration::from_secs(60);
