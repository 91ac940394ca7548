//! The contents that every crate's manifest must have.

use crate::tree::Tree;

/// Every crate of the workspace takes the workspace's lints. A crate that is a workspace of its own
/// cannot.
pub fn crates_use_the_workspace_lints(tree: &Tree) -> Vec<String> {
    let manifests =
        tree.files.iter().filter(|file| file.path.split('/').next_back() == Some("Cargo.toml"));
    let crates =
        manifests.filter(|file| has(&file.text, "[package]") && !has(&file.text, "[workspace]"));
    let what = "the crate has lints of its own; add `[lints]` with `workspace = true`";
    crates.filter(|file| !takes_lints(&file.text)).map(|file| file.at(1, what)).collect()
}

fn has(text: &str, table: &str) -> bool {
    text.lines().any(|line| line.trim() == table)
}

fn takes_lints(text: &str) -> bool {
    let after = text.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    after.take_while(|line| !line.starts_with('[')).any(|line| line == "workspace = true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_with_lints_of_its_own_is_found() {
        let tree = Tree::sample(&[
            ("Cargo.toml", "[workspace]\n"),
            ("a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n"),
            ("b/Cargo.toml", "[package]\n\n[lints]\n\n[dependencies]\nworkspace = true\n"),
            ("c/Cargo.toml", "[package]\n"),
            ("fuzz/Cargo.toml", "[package]\n\n[workspace]\n"),
        ]);
        assert_eq!(crates_use_the_workspace_lints(&tree).len(), 2);
    }
}
