//! Links between the documents.

use crate::modules::normal;
use crate::tree::{File, Tree};

/// Every link of a Markdown file to a local file leads to one.
pub fn links_lead_somewhere(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["md"]) {
        for (line, link) in links(&file.text) {
            let is_elsewhere =
                link.contains("://") || link.starts_with("mailto:") || link.starts_with('#');
            if !is_elsewhere && !tree.paths.contains(&resolved(file, &link)) {
                found.push(
                    file.at(line, format_args!("the link `{link}` leads nowhere; mend the path")),
                );
            }
        }
    }
    found
}

/// Every source file of the repository that a document or a picture names by its path is there.
pub fn named_files_are_there(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["md", "svg"]) {
        let quotes: &[char] = if file.extension() == "md" { &['`'] } else { &['<', '>'] };
        for (index, line) in file.text.lines().enumerate() {
            let mut names = line.split(quotes).filter(|text| is_source_path(tree, text));
            if let Some(name) = names.find(|name| !is_there(tree, name)) {
                found.push(file.at(
                    index + 1,
                    format_args!("there is no `{name}`; name the file that is there"),
                ));
            }
        }
    }
    found
}

/// Returns true for a path with a folder: of a Rust file, or of a Python file of the repository.
fn is_source_path(tree: &Tree, text: &str) -> bool {
    let Some((top, _)) = text.split_once('/') else { return false };
    let is_ours = || tree.paths.iter().any(|path| path.split('/').next() == Some(top));
    let is_path = text.chars().all(|char| char.is_ascii_alphanumeric() || "/._-".contains(char));
    let extension = text.rsplit_once('.').map(|(_, extension)| extension);
    is_path && !top.is_empty() && (extension == Some("rs") || extension == Some("py") && is_ours())
}

/// Returns true if a file has this path, from the top folder or from a folder further down.
pub fn is_there(tree: &Tree, name: &str) -> bool {
    let end = format!("/{name}");
    tree.paths.iter().any(|path| path == name || path.ends_with(&end))
}

/// The linked path from the top folder, without anchor and title.
fn resolved(file: &File, link: &str) -> String {
    let path = link.split(['#', ' ']).next().unwrap_or_default();
    if let Some(from_top) = path.strip_prefix('/') {
        return normal(from_top);
    }
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    normal(&format!("{folder}/{path}"))
}

/// The targets of `[text](target)` with their lines, without those in code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        // Every second part lies between back-quotes.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for part in prose.split("](").skip(1) {
            let target = part.split_once(')').map_or(part, |(target, _)| target);
            links.push((index + 1, target.trim_matches(['<', '>']).to_owned()));
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_link_is_found() {
        let text = "[a](../README.md#top) [b](gone.md) `[c](code.md)`\n```\n[d](code.md)\n```\n[`e`](https://example.org) [f](.)\n";
        let found = links_lead_somewhere(&Tree::sample(&[
            ("docs/guide.md", text),
            ("README.md", "[all](docs/)\n"),
        ]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("docs/guide.md:1: the link `gone.md`"));
    }

    #[test]
    fn a_path_that_is_not_there_is_found() {
        let text =
            "`core/a.rs`, `core/b.rs`, `x.rs`, `my/own.py` and `a/src/gone.py` of `a/src/*.rs`\n";
        let found = named_files_are_there(&Tree::sample(&[
            ("a/src/core/a.rs", ""),
            ("docs/guide.md", text),
            ("docs/a.svg", "<text>src/core/c.rs</text>\n"),
        ]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|it| it.starts_with("docs/guide.md:1: there is no `core/b.rs`")));
    }
}
