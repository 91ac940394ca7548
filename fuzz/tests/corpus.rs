//! Every fuzz target over its seeds, its corpus and mutations of both: the same ones each time.

use std::collections::BTreeSet;
use std::path::Path;

use furlong_fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Mutations of all inputs of one target together; fewer where a run has operations on curves, or
/// many acts.
const MUTATIONS: usize = 3_000;
const MUTATIONS_OF_SLOW: usize = 500;
const SLOW: [&str; 2] = ["handshake", "core"];
/// The longest input, so that a run takes microseconds.
const BYTES_MAX: usize = 4_096;
/// The largest file of the corpus, and how many there may be for each target: it is for people to
/// look at.
const FILE_BYTES_MAX: usize = 4_096;
const FILES_MAX: usize = 40;

/// A test for each target, so that they run at once.
macro_rules! targets {
    ($($test:ident $name:literal)*) => {
        $(#[test]
        fn $test() {
            holds($name);
        })*

        const TESTED: &[&str] = &[$($name),*];
    };
}

targets! {
    any_framing_is_read_or_refused "zmtp"
    any_handshake_is_finished_or_refused "handshake"
    any_record_is_opened_or_refused "record"
    any_greeting_is_read_or_refused "greeting"
    any_word_of_a_client_is_read_or_refused "from-client"
    any_word_to_a_client_is_read_or_refused "to-client"
    any_word_of_an_engine_is_read_or_refused "from-engine"
    any_word_to_an_engine_is_read_or_refused "to-engine"
    any_payload_is_unpacked_or_refused "payload"
    any_call_is_read_or_refused "call"
    any_reply_is_read_or_refused "reply"
    any_token_is_verified_or_refused "token"
    any_capability_is_read_or_refused "capability"
    any_list_of_revoked_tokens_is_read_or_refused "revoked"
    any_request_to_a_gateway_is_read_or_refused "gateway"
    the_core_holds_its_invariants_whatever_peers_do "core"
}

fn holds(name: &str) {
    let target = Target::named(name).expect("the target is listed");
    let inputs: Vec<Vec<u8>> = (target.seeds)().into_iter().chain(corpus(target)).collect();
    assert!(!inputs.is_empty());
    inputs.iter().for_each(|input| runs(target, input));
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..if SLOW.contains(&name) { MUTATIONS_OF_SLOW } else { MUTATIONS } {
        let mutation = mutated(&mut rng, &inputs);
        runs(target, &mutation);
    }
}

/// Runs it; a panic is told with the input.
fn runs(target: &Target, input: &[u8]) {
    if std::panic::catch_unwind(|| (target.run)(input)).is_err() {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-failed", target.name));
        std::fs::write(&path, input).unwrap();
        panic!("`{}` does not hold for the input in {}", target.name, path.display());
    }
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(target.corpus()).into_iter().flatten();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    // In one order on every machine, so that the mutations are the same ones.
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// One to four small changes of one of the inputs.
fn mutated(rng: &mut StdRng, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = inputs[rng.random_range(0..inputs.len())].clone();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..8)).min(bytes.len());
        let other = &inputs[rng.random_range(0..inputs.len())];
        match rng.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.random(),
            2 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            3 => _ = bytes.drain(at..end),
            4 => bytes.insert(at, rng.random()),
            5 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part).for_each(drop);
            }
            _ => {
                bytes.truncate(at);
                bytes.extend_from_slice(&other[at.min(other.len())..]);
            }
        }
        bytes.truncate(BYTES_MAX);
    }
    bytes
}

#[test]
fn every_target_is_tested_and_every_corpus_is_a_target_s() {
    let listed: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(listed, TESTED);
    let shown: Vec<&str> = include_str!("../targets.txt")
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(listed, shown);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folders = std::fs::read_dir(folder).into_iter().flatten();
    let folders = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let unknown: BTreeSet<String> =
        folders.filter(|name| !listed.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "no target has these folders of the corpus: {unknown:?}");
}

#[test]
fn the_corpus_is_small() {
    for target in &TARGETS {
        let files = corpus(target);
        assert!(
            files.len() <= FILES_MAX && files.iter().all(|file| file.len() <= FILE_BYTES_MAX),
            "{}",
            target.name
        );
    }
}
