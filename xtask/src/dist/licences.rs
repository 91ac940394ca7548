//! The licences of all that is compiled in: a list, and the texts, each once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::dist::dependencies::Dependencies;

/// The list, then the texts with the crates that have them.
pub fn text(dependencies: &Dependencies) -> anyhow::Result<String> {
    let foreign = dependencies.sorted().into_iter().filter(|one| !one.is_ours());
    let mut list = String::new();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in foreign {
        let name = format!("{} {}", one.name, one.version);
        writeln!(list, "{name}: {}", one.licence.as_deref().unwrap_or("see its text"))?;
        for text in texts_in(&one.folder)? {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    let mut all = format!("{HEAD}\n{list}");
    for (text, names) in texts {
        write!(all, "\n{RULE}\n{}\n{RULE}\n\n{text}\n", names.join(", "))?;
    }
    Ok(all)
}

/// The texts in a crate's folder, with the blanks at the ends of lines taken away.
fn texts_in(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("{} is not there; cargo fetch brings it", folder.display()))?;
    let is_licence = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        let begins = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
        path.is_file() && begins.iter().any(|begin| name.starts_with(begin))
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| is_licence(path));
    paths.sort();
    let mut texts = Vec::new();
    for path in paths {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        texts.push(lines.join("\n").trim_matches('\n').to_owned());
    }
    Ok(texts)
}

const HEAD: &str = "\
Furlong is licensed under MIT or Apache-2.0, at your choice. Its programs contain the crates of this
list, each under its own licence; the texts follow. SQLite, which libsqlite3-sys contains, is in the
public domain.
";
const RULE: &str =
    "--------------------------------------------------------------------------------";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::dependencies::tests::own;

    #[test]
    fn every_crate_is_listed_and_a_text_is_there_once() {
        let own = own();
        let text = text(&own).unwrap();
        for one in own.sorted().into_iter().filter(|one| !one.is_ours()) {
            let line = format!("\n{} {}: ", one.name, one.version);
            assert!(text.contains(&line), "{line}");
        }
        assert!(text.contains("ring 0.17") && text.contains("Permission is hereby granted"));
        let texts = texts_in(&own.sorted().iter().find(|one| one.name == "ring").unwrap().folder);
        let first = texts.unwrap().swap_remove(0);
        assert_eq!(text.matches(&first).count(), 1);
    }
}
