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
}
