//! The test vectors of `docs/PROTOCOL.md`, as seeds. `wire/tests/vectors.rs` sees to it that they
//! are what the code writes.

/// The vectors whose names begin like this, in their order.
///
/// # Panics
/// If there is none: the document names it otherwise now.
pub fn named(prefix: &str) -> Vec<Vec<u8>> {
    let block = DOCUMENT.split_once("```vectors\n").and_then(|(_, rest)| rest.split_once("```"));
    let (block, _) = block.expect("the document has a block of vectors");
    let mut found: Vec<Vec<u8>> = Vec::new();
    let mut is_wanted = false;
    for line in block.lines() {
        match line.strip_prefix("  ") {
            Some(digits) if is_wanted => {
                found.last_mut().into_iter().for_each(|bytes| bytes.extend(hex(digits)));
            }
            Some(_) => {}
            None => {
                is_wanted = line.starts_with(prefix);
                found.extend(is_wanted.then(Vec::new));
            }
        }
    }
    assert!(!found.is_empty(), "docs/PROTOCOL.md has no vector `{prefix}`");
    found
}

/// The first vector whose name begins like this.
///
/// # Panics
/// As [`named`].
pub fn one(prefix: &str) -> Vec<u8> {
    named(prefix).swap_remove(0)
}

/// The first vector whose name begins like this, of a fixed length.
///
/// # Panics
/// As [`named`], and if it has another length.
pub fn array<const N: usize>(prefix: &str) -> [u8; N] {
    one(prefix).try_into().expect("the vector has the length of its kind")
}

fn hex(digits: &str) -> impl Iterator<Item = u8> {
    digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok();
        pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).expect("a vector is hexadecimal")
    })
}

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");

/// The secrets of the document's vectors: each is one byte repeated.
pub mod secrets {
    /// The issuer's seed.
    pub const ISSUER_SEED: [u8; 32] = [1; 32];
    /// The broker's secret.
    pub const SERVER: [u8; 32] = [2; 32];
    /// The token's holder's secret.
    pub const HOLDER: [u8; 32] = [3; 32];
    /// The peer's ephemeral secret.
    pub const PEER_EPHEMERAL: [u8; 32] = [4; 32];
    /// The broker's ephemeral secret.
    pub const BROKER_EPHEMERAL: [u8; 32] = [5; 32];
    /// The session's payload secret.
    pub const PAYLOAD: [u8; 32] = [6; 32];
}
