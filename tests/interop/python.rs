//! `peer.py`, a client written from the protocol's description with pyzmq, noiseprotocol and
//! msgpack.

use std::path::{Path, PathBuf};
use std::process::Command;

use furlong_tests::farm::Farm;
use furlong_tests::program::Program;
use furlong_tests::wait::SOON;
use furlong_wire::token::Role;
use serde_json::{Value, json};

/// The interpreter that has the packages of `requirements.txt`.
fn python() -> PathBuf {
    let named = std::env::var_os("FURLONG_TEST_PYTHON").map(PathBuf::from);
    let executable = std::env::current_exe().unwrap();
    // The test is TARGET/debug/deps/interop-HASH, the environment TARGET/venv.
    let python =
        named.unwrap_or_else(|| executable.ancestors().nth(3).unwrap().join("venv/bin/python"));
    assert!(python.is_file(), "there is no {}; run cargo xtask test --step venv", python.display());
    python
}

/// Runs `peer.py` with a capability file: its exit code, and what it printed.
fn run_peer(capability: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/peer.py")).arg(capability);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let mut peer = Program::spawn("peer.py", command);
    let code = peer.wait_exit(SOON).code();
    (code, peer.stdout(), peer.stderr())
}

#[test]
fn a_peer_in_python_is_served() {
    let farm = Farm::start();
    let (code, stdout, stderr) = run_peer(&farm.home().cluster().capability(Role::Client));
    assert_eq!(code, Some(0), "{stderr}");
    let printed: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(printed["welcome"]["cluster_name"], json!("default"));
    assert_eq!(printed["engines"], json!([]));
}

#[test]
fn a_peer_in_python_is_told_why_it_is_refused() {
    let farm = Farm::start();
    // An engine's file, and the peer says that it is a client.
    let (code, _, stderr) = run_peer(&farm.home().cluster().capability(Role::Engine));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("the token is for role engine, not client"), "{stderr}");
}
