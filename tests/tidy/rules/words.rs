//! The words of the code: those of `docs/GLOSSARY.md`, in plain English.

use crate::rules::links::is_there;
use crate::tree::{File, Tree};

/// Words that were private to this project, and what the field says instead.
const PRIVATE: &[(&str, &str)] = &[
    ("stranger", "unauthenticated peer"),
    ("strangers", "unauthenticated peers"),
    ("lodgers", "sessions with state on this engine"),
    ("hasten", "shorten"),
    ("postpone", "extend"),
    ("disclaim", "disown"),
    ("verdicts", "decisions"),
    ("heed", "respond to"),
    ("heeds", "responds to"),
    ("heeded", "obeyed"),
    ("broom", "reaper"),
    ("in good order", "gracefully"),
    ("in hand", "assigned"),
];

/// First words of a doc line that make a clause of what should be a noun phrase or a sentence with
/// a verb.
const CLAUSES: &[&str] =
    &["What", "Whether", "Who", "Whose", "How", "Which", "When", "Where", "Why"];
/// Of a hundred doc lines, so many may begin with one of them.
const CLAUSES_PERCENT_MAX: usize = 5;

/// No word that only we use.
pub fn no_word_is_private(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["rs", "py", "md"]).filter(|file| !may_name_them(file)) {
        for (index, line) in file.text.lines().enumerate() {
            let line = line.to_lowercase();
            for (word, instead) in PRIVATE.iter().filter(|(word, _)| has_word(&line, word)) {
                found.push(
                    file.at(index + 1, format_args!("`{word}` is a private word; say `{instead}`")),
                );
            }
        }
    }
    found
}

/// This list, and the history of what users were told.
fn may_name_them(file: &File) -> bool {
    file.path.ends_with("rules/words.rs") || file.path == "CHANGELOG.md"
}

/// Whether a text has a word, or words, as a whole.
fn has_word(text: &str, word: &str) -> bool {
    let is_end = |char: Option<char>| char.is_none_or(|char| !char.is_alphabetic());
    text.match_indices(word).any(|(at, _)| {
        is_end(text[..at].chars().next_back()) && is_end(text[at + word.len()..].chars().next())
    })
}

/// Doc comments say what a thing is or does, not "what is ..." of it.
pub fn doc_lines_begin_with_a_noun_or_a_verb(tree: &Tree) -> Vec<String> {
    let (mut lines, mut clauses) = (0, Vec::new());
    for file in tree.with_extension(&["rs"]) {
        for (index, line) in file.text.lines().enumerate() {
            let line = line.trim_start();
            let Some(text) = line.strip_prefix("/// ").or_else(|| line.strip_prefix("//! ")) else {
                continue;
            };
            lines += 1;
            if CLAUSES
                .iter()
                .any(|clause| text.strip_prefix(clause).is_some_and(|rest| rest.starts_with(' ')))
            {
                clauses.push(file.at(
                    index + 1,
                    "a doc line that begins with a clause; name the thing, or use a verb",
                ));
            }
        }
    }
    if clauses.len() * 100 > lines * CLAUSES_PERCENT_MAX { clauses } else { Vec::new() }
}

/// Docstrings say what a thing is or does: a noun, or a verb in the imperative ("Return ...").
pub fn docstrings_begin_with_a_noun_or_a_verb(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["py"]) {
        for (index, line) in file.text.lines().enumerate() {
            let line = line.trim_start();
            let Some(text) = line.trim_start_matches('r').strip_prefix("\"\"\"") else { continue };
            let first = text.split([' ', '.', ':', '"']).next().unwrap_or_default();
            if first == "Give" {
                found.push(file.at(index + 1, "a docstring that begins with `Give`; say `Return`"));
            } else if CLAUSES.contains(&first) {
                found.push(file.at(
                    index + 1,
                    "a docstring that begins with a clause; name the thing, or use a verb",
                ));
            }
        }
    }
    found
}

/// A method that is named as a question answers it, and changes nothing.
pub fn questions_change_nothing(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["rs"]).filter(|file| !tree.is_test_file(file)) {
        for (index, line) in file.text.lines().enumerate() {
            let Some((_, after)) = line.split_once("fn ") else { continue };
            let Some((name, arguments)) = after.split_once('(') else { continue };
            let is_question =
                ["is_", "has_", "are_", "can_", "may_"].iter().any(|start| name.starts_with(start))
                    || (name.contains("_is_") && !name.contains("what_is_"));
            if is_question && arguments.starts_with("&mut self") {
                found.push(
                    file.at(
                        index + 1,
                        format_args!("`{name}` changes its object; name it by a verb"),
                    ),
                );
            }
        }
    }
    found
}

/// An option is asked by `if let`, and a collection is walked by `for`.
pub fn options_are_no_loops(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (file, source) in
        tree.rust().filter(|(file, _)| !tree.is_test_file(file) && is_in_a_room(&file.path))
    {
        let lines = source.find(".into_iter().for_each(").map(|at| source.line_of(at));
        found
            .extend(lines.map(|line| file.at(line, "a loop in disguise; write `if let` or `for`")));
    }
    found
}

/// ARCHITECTURE names every source file of the product, and none that is not there.
pub fn architecture_is_complete(tree: &Tree) -> Vec<String> {
    let Some(page) = tree.files.iter().find(|file| file.path == "docs/ARCHITECTURE.md") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let rust = tree
        .rust()
        .filter(|(file, _)| !tree.is_test_file(file) && is_in_a_room(&file.path))
        .map(|(file, _)| file.path.split_once("/src/").expect("a room has its sources in `src`"));
    let python = tree.with_extension(&["py"]).filter_map(|file| {
        file.path.strip_prefix("python/furlong/").map(|name| ("python/furlong", name))
    });
    for (room, name) in rust.chain(python) {
        if !page.text.contains(&format!("`{name}`")) {
            found.push(page.at(
                1,
                format_args!(
                    "`{name}` of `{room}` is named nowhere; add it to the table of its room"
                ),
            ));
        }
    }
    for (index, line) in page.text.lines().enumerate() {
        for name in line.split('`').skip(1).step_by(2).filter(|name| is_file_name(name)) {
            if !is_there(tree, name) {
                found.push(
                    page.at(index + 1, format_args!("there is no `{name}`; name what is there")),
                );
            }
        }
    }
    found
}

/// Whether a text in code quotes names a Rust file.
fn is_file_name(text: &str) -> bool {
    text.rsplit_once('.')
        .is_some_and(|(stem, extension)| extension == "rs" && !stem.contains(['*', ' ']))
}

fn is_in_a_room(path: &str) -> bool {
    [
        "wire/src/",
        "host/src/",
        "link/src/",
        "broker/src/",
        "engine/src/",
        "client/src/",
        "cli/src/",
        "dashboard/src/",
        "gateway/src/",
        "python/src/",
    ]
    .iter()
    .any(|room| path.starts_with(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_words_are_found_as_whole_words() {
        let text = "//! Ends in good order.\n// does not heed it\nlet heedless = 1;\n";
        let found =
            no_word_is_private(&Tree::sample(&[("a/src/a.rs", text), ("CHANGELOG.md", text)]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("a/src/a.rs:1: ") && found[1].contains("respond to"));
    }

    #[test]
    fn clauses_are_found_where_there_are_many() {
        let many = "/// What it is.\n/// The thing.\n";
        assert_eq!(
            doc_lines_begin_with_a_noun_or_a_verb(&Tree::sample(&[("a/src/a.rs", many)])).len(),
            1
        );
        let few =
            format!("/// Whatever it is.\n/// What it is.\n{}", "/// The thing.\n".repeat(30));
        assert!(
            doc_lines_begin_with_a_noun_or_a_verb(&Tree::sample(&[("a/src/a.rs", &few)]))
                .is_empty()
        );
    }

    #[test]
    fn docstrings_that_begin_with_a_clause_are_found() {
        let text = "\"\"\"What it is.\"\"\"\ndef a():\n    \"\"\"Whether it is.\n\n    \
                    Whatever it is.\"\"\"\n    r\"\"\"Give it.\"\"\"\n    \"\"\"Return it.\"\"\"\n";
        let found = docstrings_begin_with_a_noun_or_a_verb(&Tree::sample(&[("a.py", text)]));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("a.py:1: ") && found[2].contains("`Return`"));
    }

    #[test]
    fn questions_that_change_something_are_found() {
        let text = "    pub fn is_over(&mut self) -> bool {\n    \
                    fn is_done(&self) {\n    fn end_is_lost(&mut self) {\n";
        let found =
            questions_change_nothing(&Tree::sample(&[("a/src/a.rs", text), ("tests/a.rs", text)]));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn loops_in_disguise_are_found() {
        let text = "fn a() {\n    one.into_iter().for_each(|it| b(it));\n    \
                    // .into_iter().for_each(\n}\n";
        assert_eq!(options_are_no_loops(&Tree::sample(&[("wire/src/a.rs", text)])).len(), 1);
    }

    #[test]
    fn files_that_are_named_nowhere_and_names_without_a_file_are_found() {
        let page = "| `a.rs` | one |\n| `gone.rs` | two |\n";
        let tree = Tree::sample(&[
            ("docs/ARCHITECTURE.md", page),
            ("wire/src/a.rs", ""),
            ("wire/src/b.rs", ""),
            ("python/furlong/c.py", ""),
        ]);
        let found = architecture_is_complete(&tree);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].contains("`b.rs`")
                && found[1].contains("`c.py`")
                && found[2].starts_with("docs/ARCHITECTURE.md:2: there is no `gone.rs`")
        );
    }
}
