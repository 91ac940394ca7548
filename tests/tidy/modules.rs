//! The Rust files that cargo compiles: those that a crate's root reaches through `mod` lines.

use std::collections::BTreeSet;
use std::path::Path;

use crate::source::Source;
use crate::tree::{File, Tree};

/// No dead file: every `.rs` file is a crate's root or reached from one.
pub fn every_file_is_a_module(tree: &Tree) -> Vec<String> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&File> =
        tree.with_extension(&["rs"]).filter(|file| is_root(tree, file)).collect();
    while let Some(file) = waiting.pop() {
        if reached.insert(file.path.as_str()) {
            let modules = declared(tree, file);
            waiting.extend(modules.into_iter().map(|module| module.file));
        }
    }
    let dead = tree.with_extension(&["rs"]).filter(|file| !reached.contains(file.path.as_str()));
    dead.map(|file| {
        file.at(1, "no `mod` line leads here, so it is never compiled; declare it or delete it")
    })
    .collect()
}

/// Paths of the modules that a `#[cfg(test)]` declares, and of theirs.
pub fn test_modules(tree: &Tree) -> BTreeSet<String> {
    let declarations: Vec<_> =
        tree.with_extension(&["rs"]).flat_map(|file| declared(tree, file)).collect();
    let mut waiting: Vec<&File> =
        declarations.iter().filter(|module| module.is_test).map(|module| module.file).collect();
    let mut reached = BTreeSet::new();
    while let Some(file) = waiting.pop() {
        if reached.insert(file.path.clone()) {
            waiting.extend(declared(tree, file).into_iter().map(|module| module.file));
        }
    }
    reached
}

/// A `mod name;` line's file.
struct Declared<'a> {
    file: &'a File,
    is_test: bool,
}

/// The files that this one declares, also inside inline modules, also by `#[path]`.
fn declared<'a>(tree: &'a Tree, file: &File) -> Vec<Declared<'a>> {
    let Some(source) = &file.source else { return Vec::new() };
    let mut found = Vec::new();
    for at in source.find_path("mod") {
        let name_at = source.skip_space(at + 3);
        let name = source.word_at(name_at);
        let end = source.skip_space(name_at + name.chars().count());
        if name.is_empty() || source.code.get(end) != Some(&';') {
            continue;
        }
        let folder = module_folder(tree, file, source, at);
        let candidates = match path_attribute(source, at) {
            Some(path) => vec![normal(&format!("{}/{path}", parent(&file.path)))],
            None => vec![
                normal(&format!("{folder}/{name}.rs")),
                normal(&format!("{folder}/{name}/mod.rs")),
            ],
        };
        let is_test = source.is_test_line(source.line_of(at));
        let files = tree.files.iter().filter(|file| candidates.contains(&file.path));
        found.extend(files.map(|file| Declared { file, is_test }));
    }
    found
}

/// The folder of the modules that are declared at the position: the file's own, then one for each
/// inline module around.
fn module_folder(tree: &Tree, file: &File, source: &Source, at: usize) -> String {
    let owns_folder = is_root(tree, file) || file.path.ends_with("/mod.rs");
    let mut folder =
        if owns_folder { parent(&file.path).to_owned() } else { file.path.replace(".rs", "") };
    for outer in source.find_path("mod").take_while(|outer| *outer < at) {
        let name_at = source.skip_space(outer + 3);
        let name = source.word_at(name_at);
        let open = source.skip_space(name_at + name.chars().count());
        if source.code[open] == '{' && source.closing(open) > at {
            folder = format!("{folder}/{name}");
        }
    }
    folder
}

/// The value of a `#[path = "..."]` right above the position.
fn path_attribute(source: &Source, at: usize) -> Option<String> {
    let line = source.line_of(at);
    let above = source.lines().nth(line.checked_sub(2)?)?;
    let text: String = source.chars[above].iter().collect();
    let value = text.trim().strip_prefix("#[path = \"")?;
    Some(value.strip_suffix("\"]")?.to_owned())
}

/// Returns true if cargo begins a crate with this file: by its place, or because a manifest names
/// it.
fn is_root(tree: &Tree, file: &File) -> bool {
    let folder = parent(&file.path);
    let is_manifest =
        |folder: &str| tree.paths.contains(normal(&format!("{folder}/Cargo.toml")).as_str());
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let by_place = match folder.rsplit('/').next().unwrap_or_default() {
        "src" => ["lib.rs", "main.rs"].contains(&name) && is_manifest(parent(folder)),
        "bin" => is_manifest(parent(parent(folder))),
        "tests" | "examples" | "benches" => is_manifest(parent(folder)),
        _ => name == "main.rs" && parent(folder).ends_with("/src/bin"),
    };
    by_place
        || (name == "build.rs" && is_manifest(folder))
        || is_named_by_manifest(tree, &file.path)
}

fn is_named_by_manifest(tree: &Tree, path: &str) -> bool {
    let manifests = tree.files.iter().filter(|file| file.path.ends_with("Cargo.toml"));
    let mut named = manifests.flat_map(|manifest| {
        let values = manifest
            .text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("path = \"")?.strip_suffix('"'));
        values.map(|value| normal(&format!("{}/{value}", parent(&manifest.path))))
    });
    named.any(|root| root == path)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The path without `.`, `..` and empty parts.
pub fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    Path::new(&parts.join("/")).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_mod_line_is_found() {
        let tree = Tree::sample(&[
            ("a/Cargo.toml", "[[test]]\npath = \"deep/main.rs\"\n"),
            (
                "a/src/lib.rs",
                "mod one;\nmod inline {\n    mod two;\n}\n// mod dead;\n#[path = \"odd.rs\"]\nmod even;\n",
            ),
            ("a/src/one.rs", "mod three;\n"),
            ("a/src/one/three.rs", ""),
            ("a/src/inline/two.rs", ""),
            ("a/src/odd.rs", ""),
            ("a/src/dead.rs", ""),
            ("a/deep/main.rs", "mod four;\n"),
            ("a/deep/four/mod.rs", ""),
            ("a/tests/alone.rs", ""),
            ("a/build.rs", ""),
        ]);
        let found = every_file_is_a_module(&tree);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("a/src/dead.rs:1: "));
    }
}
