//! The three rings: values and cores stay free of I/O, clocks, threads and random numbers; unsafe
//! code is listed.

use crate::source::{Source, is_word};
use crate::tree::Tree;

/// The folders of code in which nothing may happen that is not an argument.
const CORES: [&str; 7] = [
    "wire/src/",
    "pool/src/",
    "link/src/peer",
    "broker/src/core",
    "broker/src/peer",
    "engine/src/core",
    "client/src/core",
];

/// The names forbidden in a core. `Instant` and `SystemTime` even as types: time is a number that
/// the shell hands in. A `Waker` runs code of somebody else, and is the shell's, too.
const FORBIDDEN: [&str; 11] = [
    "tokio",
    "std::time::Instant",
    "Instant::now",
    "SystemTime",
    "std::net",
    "std::fs",
    "std::thread",
    "Mutex",
    "RwLock",
    "rand::",
    "Waker",
];

/// Modules above a core, which it must not know, by the core's folder.
const ABOVE: [(&str, &str); 7] = [
    ("broker/src/core", "crate::shell"),
    ("broker/src/core", "crate::peer"),
    ("engine/src/core", "crate::shell"),
    ("engine/src/core", "crate::runtime"),
    ("engine/src/core", "crate::mailbox"),
    ("client/src/core", "crate::shared"),
    ("client/src/core", "crate::connection"),
];

/// Files that may say `allow(unsafe_code)`: small modules with the reason on top.
const UNSAFE_FILES: [&str; 4] = [
    "cli/src/cluster/inherited.rs",
    "link/src/map.rs",
    "python/src/buffer.rs",
    "tests/memory/allocator.rs",
];

/// Of `std::net`, what is a value and not a socket.
const NET_VALUES: [&str; 7] = [
    "AddrParseError",
    "IpAddr",
    "Ipv4Addr",
    "Ipv6Addr",
    "SocketAddr",
    "SocketAddrV4",
    "SocketAddrV6",
];

/// `wire` and the cores do no I/O, see no clock and make no random numbers.
pub fn cores_do_no_io(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (file, source) in
        tree.rust().filter(|(file, _)| is_core(&file.path) && !tree.is_test_file(file))
    {
        let mut named = named_paths(source);
        named.retain(|(line, _)| !source.is_test_line(*line));
        for (line, path) in named {
            let above = ABOVE.into_iter().filter(|(core, _)| is_below(&file.path, core));
            let mut forbidden = FORBIDDEN.into_iter().chain(above.map(|(_, name)| name));
            if let Some(forbidden) = forbidden.find(|forbidden| is_named(&path, forbidden)) {
                let what = format!(
                    "a core names `{forbidden}`; make it an argument, or move the line to the shell"
                );
                found.push(file.at(line, what));
            }
        }
    }
    found.dedup();
    found
}

/// `allow(unsafe_code)` stands only in the files listed above.
pub fn unsafe_code_is_listed(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (file, source) in
        tree.rust().filter(|(file, _)| !UNSAFE_FILES.contains(&file.path.as_str()))
    {
        for at in source.find_path("unsafe_code") {
            let before: String = source.code[..at].iter().collect();
            let attribute = before.rsplit_once('(').map_or("", |(attribute, _)| attribute);
            if attribute.ends_with("allow") || attribute.ends_with("expect") {
                let what = "allows unsafe code; do without, or list the file in \
                            tests/tidy/rules/layers.rs";
                found.push(file.at(source.line_of(at), what));
            }
        }
    }
    found
}

fn is_core(path: &str) -> bool {
    CORES.into_iter().any(|core| is_below(path, core))
}

fn is_below(path: &str, core: &str) -> bool {
    path.strip_prefix(core)
        .is_some_and(|rest| core.ends_with('/') || rest.starts_with('/') || rest == ".rs")
}

/// True if the path's parts contain the forbidden ones, one after the other. Addresses are values,
/// sockets are not.
fn is_named(path: &str, forbidden: &str) -> bool {
    let is_value = path
        .strip_prefix("std::net::")
        .is_some_and(|rest| rest.split("::").next().is_some_and(|name| NET_VALUES.contains(&name)));
    let path = path.trim_start_matches("::");
    // A crate is named by how the path begins: `crate::operand::tokio` is ours. `rand` alone may be
    // a variable.
    if !forbidden.trim_end_matches("::").contains("::") && forbidden.starts_with(char::is_lowercase)
    {
        return path == forbidden
            || path.starts_with(&format!("{}::", forbidden.trim_end_matches("::")));
    }
    let contains = format!("::{path}::").contains(&format!("::{forbidden}::"));
    contains && !is_value
}

/// Every name and path in the file, with its line, and what `use` names in full: `use std::{fs,
/// net::{self, Ipv4Addr}}` names `std::fs`, `std::net::self` and `std::net::Ipv4Addr`.
pub(super) fn named_paths(source: &Source) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < source.code.len() {
        let word = source.word_at(at);
        let mut end = at + word.chars().count().max(1);
        if word == "use" {
            end = (at..source.code.len())
                .find(|at| source.code[*at] == ';')
                .unwrap_or(source.code.len());
            let tree: String = source.code[at + 3..end].iter().collect();
            let mut full = Vec::new();
            flatten("", &tree, &mut full);
            paths.extend(full.into_iter().map(|path| (source.line_of(at), path)));
        } else if !word.is_empty() {
            end = (at..source.code.len())
                .find(|at| !is_path(source.code[*at]))
                .unwrap_or(source.code.len());
            paths.push((source.line_of(at), source.code[at..end].iter().collect()));
        }
        at = end;
    }
    paths
}

fn is_path(char: char) -> bool {
    is_word(char) || char == ':'
}

fn flatten(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let name = tree.split_whitespace().next().unwrap_or_default();
        return paths.push(format!("{prefix}{name}"));
    };
    let prefix = format!("{prefix}{}", head.trim());
    let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
    let mut depth = 0_usize;
    let parts = inside.split(|char| {
        match char {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        char == ',' && depth == 0
    });
    parts.for_each(|part| flatten(&prefix, part, paths));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_reads_the_clock_is_found() {
        let text = "use std::{fmt, time::{Duration, Instant}};\n// tokio\n\
                    fn a() { crate::operand::new(std::fs::read(b)) }\n";
        let tree = Tree::sample(&[
            ("wire/src/a.rs", text),
            ("broker/src/core.rs", text),
            ("broker/src/shell.rs", text),
        ]);
        let found = cores_do_no_io(&tree);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with("broker/src/core.rs:1: a core names `std::time::Instant`"));
        assert!(found[1].starts_with("broker/src/core.rs:3: a core names `std::fs`"));
    }

    #[test]
    fn each_forbidden_name_is_found() {
        for name in [
            "tokio::spawn",
            "Instant::now()",
            "std::time::SystemTime",
            "std::net::TcpStream",
            "std::thread::sleep",
            "rand::rng",
            "std::task::Waker::noop()",
        ] {
            let tree =
                Tree::sample(&[("engine/src/core/slots.rs", &format!("fn a() {{ {name} }}\n"))]);
            assert_eq!(cores_do_no_io(&tree).len(), 1, "{name}");
        }
    }

    #[test]
    fn a_core_that_knows_what_is_above_it_is_found() {
        let text = "use crate::runtime::Latest;\nfn a(b: std::sync::Mutex<u8>) {}\n";
        let tree = Tree::sample(&[
            ("engine/src/core/held.rs", text),
            ("client/src/core/acks.rs", "use crate::runtime::Latest;\n"),
            ("engine/src/shell.rs", text),
        ]);
        let found = cores_do_no_io(&tree);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("engine/src/core/held.rs:1: a core names `crate::runtime`"));
        assert!(found[1].starts_with("engine/src/core/held.rs:2: a core names `Mutex`"));
    }

    #[test]
    fn allowed_unsafe_code_is_found() {
        let tree = Tree::sample(&[(
            "a.rs",
            "#![forbid(unsafe_code)]\n#[allow(dead_code, unsafe_code)]\nfn a() {}\n",
        )]);
        assert_eq!(unsafe_code_is_listed(&tree).len(), 1);
    }
}
