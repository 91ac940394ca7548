//! The three rings: values and cores stay free of I/O, clocks, threads and random numbers; unsafe code is listed.

use crate::source::Source;
use crate::tree::Tree;

/// Where nothing may happen that is not an argument.
const CORES: [&str; 4] = ["wire/src/", "broker/src/core", "engine/src/core", "client/src/core"];

/// What a core may not name. `Instant` and `SystemTime` even as types: time is a number that the shell hands in.
const FORBIDDEN: [&str; 8] =
    ["tokio", "std::time::Instant", "Instant::now", "SystemTime", "std::net", "std::fs", "std::thread", "rand::"];

/// Files that may say `allow(unsafe_code)`: small modules with the reason on top.
const UNSAFE_FILES: [&str; 0] = [];

/// `wire` and the cores do no I/O, see no clock and make no random numbers.
pub fn cores_do_no_io(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (file, source) in tree.rust().filter(|(file, _)| is_core(&file.path) && !tree.is_test_file(file)) {
        let mut named: Vec<(usize, &str)> = Vec::new();
        for forbidden in FORBIDDEN {
            named.extend(source.find_path(forbidden).map(|at| (source.line_of(at), forbidden)));
            named.extend(
                use_paths(source)
                    .into_iter()
                    .filter(|(_, path)| is_below(path, forbidden))
                    .map(|(l, _)| (l, forbidden)),
            );
        }
        named.sort_unstable();
        named.dedup();
        for (line, name) in named.into_iter().filter(|(line, _)| !source.is_test_line(*line)) {
            let what = format!("a core names `{name}`; make it an argument, or move the line to the shell");
            found.push(file.at(line, what));
        }
    }
    found
}

/// `allow(unsafe_code)` stands only in the files listed above.
pub fn unsafe_code_is_listed(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (file, source) in tree.rust().filter(|(file, _)| !UNSAFE_FILES.contains(&file.path.as_str())) {
        for at in source.find_path("unsafe_code") {
            let before: String = source.code[..at].iter().collect();
            let attribute = before.rsplit_once('(').map_or("", |(attribute, _)| attribute);
            if attribute.ends_with("allow") || attribute.ends_with("expect") {
                let what = "allows unsafe code; do without, or list the file in tests/tidy/rules/layers.rs with the reason on top";
                found.push(file.at(source.line_of(at), what));
            }
        }
    }
    found
}

fn is_core(path: &str) -> bool {
    let in_folder = |core: &str| {
        path.strip_prefix(core).is_some_and(|rest| core.ends_with('/') || rest.starts_with('/') || rest == ".rs")
    };
    CORES.into_iter().any(in_folder)
}

/// Whether the path is the forbidden one or lies in it.
fn is_below(path: &str, forbidden: &str) -> bool {
    let forbidden = forbidden.trim_end_matches(':');
    path.strip_prefix(forbidden).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path that the file's `use` lines name, in full, with the line: `use std::{fs, net::{self, Ipv4Addr}}` names four.
fn use_paths(source: &Source) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for at in source.find_path("use") {
        let end = (at..source.code.len()).find(|at| source.code[*at] == ';').unwrap_or(source.code.len());
        let tree: String = source.code[(at + 3).min(end)..end].iter().collect();
        let mut full = Vec::new();
        flatten("", &tree, &mut full);
        paths.extend(full.into_iter().map(|path| (source.line_of(at), path)));
    }
    paths
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
        let text =
            "use std::{fmt, time::{Duration, Instant}};\n// tokio\nfn a() { crate::operand::new(std::fs::read(b)) }\n";
        let tree =
            Tree::sample(&[("wire/src/a.rs", text), ("broker/src/core.rs", text), ("broker/src/shell.rs", text)]);
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
            "std::net::Ipv4Addr",
            "std::thread::sleep",
            "rand::rng",
        ] {
            let tree = Tree::sample(&[("engine/src/core/slots.rs", &format!("fn a() {{ {name} }}\n"))]);
            assert_eq!(cores_do_no_io(&tree).len(), 1, "{name}");
        }
    }

    #[test]
    fn allowed_unsafe_code_is_found() {
        let tree = Tree::sample(&[("a.rs", "#![forbid(unsafe_code)]\n#[allow(dead_code, unsafe_code)]\nfn a() {}\n")]);
        assert_eq!(unsafe_code_is_listed(&tree).len(), 1);
    }
}
