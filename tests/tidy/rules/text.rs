//! White space, and names of the machine that a file was written on.

use crate::tree::{File, Tree};

/// No path of somebody's machine, no package registry's host: they are settings of a machine, not
/// of the project.
pub fn no_machine_is_named(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    // Cargo writes its registry's address into the lock file, for every machine the same.
    for file in tree.files.iter().filter(|file| !file.path.ends_with("Cargo.lock")) {
        for (index, line) in file.text.lines().enumerate() {
            for folder in folders().iter().filter(|folder| names_folder(line, folder)) {
                found.push(file.at(
                    index + 1,
                    format_args!("a path of one machine, `{folder}`; make it relative"),
                ));
            }
            for host in hosts().iter().filter(|host| line.contains(host.as_str())) {
                found.push(file.at(
                    index + 1,
                    format_args!("a registry's host, `{host}`; leave it to the configuration"),
                ));
            }
        }
    }
    found
}

/// No tab, nothing after a line's last word, one line end at the end of the file.
pub fn whitespace_is_clean(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["rs", "py", "md", "toml", "sh"]) {
        for (index, line) in file.text.split('\n').enumerate() {
            if line.ends_with(char::is_whitespace) {
                found.push(file.at(index + 1, "white space at the end of the line; remove it"));
            }
            if line.contains('\t') {
                found.push(file.at(index + 1, "a tab; write spaces"));
            }
        }
        found.extend(bad_end(file));
    }
    found
}

fn bad_end(file: &File) -> Option<String> {
    let is_good =
        file.text.is_empty() || (file.text.ends_with('\n') && !file.text.ends_with("\n\n"));
    (!is_good)
        .then(|| file.at(file.text.lines().count(), "the file must end in exactly one line end"))
}

/// Returns true if an absolute path in the line begins with the folder; `target/work/` is another
/// matter.
fn names_folder(line: &str, folder: &str) -> bool {
    let is_path = |char: char| char.is_alphanumeric() || "._-~/}$*".contains(char);
    line.match_indices(folder).any(|(at, _)| !line[..at].ends_with(is_path))
}

/// Put together here, so that this file names none.
fn folders() -> Vec<String> {
    ["root", "work", "home"].iter().map(|name| ["/", name, "/"].concat()).collect()
}

fn hosts() -> Vec<String> {
    [["crates", "io"], ["pypi", "org"], ["pythonhosted", "org"]]
        .iter()
        .map(|parts| parts.join("."))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_found() {
        for word in folders().into_iter().chain(hosts()) {
            assert_eq!(
                no_machine_is_named(&Tree::sample(&[("a.md", &format!("see `{word}x`\n"))])).len(),
                1,
                "{word}"
            );
        }
        let elsewhere = format!("target{}x\n", folders()[1]);
        assert!(no_machine_is_named(&Tree::sample(&[("a.md", &elsewhere)])).is_empty());
    }

    #[test]
    fn untidy_white_space_is_found() {
        for text in ["a \nb\n", "a\tb\n", "a\r\n", "a\n\n", "a"] {
            assert_eq!(whitespace_is_clean(&Tree::sample(&[("a.rs", text)])).len(), 1, "{text:?}");
        }
        assert!(
            whitespace_is_clean(&Tree::sample(&[("a.py", ""), ("b.py", "a\n\nb\n")])).is_empty()
        );
    }
}
