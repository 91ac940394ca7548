//! Temporary leftovers, and panics that do not say why they cannot happen.

use crate::source::{Kind, Source, is_word};
use crate::tree::Tree;

const EXPECT_WORDS_MIN: usize = 3;

/// No placeholder macro and no marker of work to be done.
pub fn nothing_is_left_over(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["rs", "py", "toml", "sh"]) {
        for (index, line) in file.text.lines().enumerate() {
            let words = line.split(|char| !is_word(char));
            for word in words.filter(|word| markers().iter().any(|marker| marker == word)) {
                found.push(
                    file.at(
                        index + 1,
                        format_args!("a leftover `{word}`; do it, or open an issue"),
                    ),
                );
            }
        }
    }
    for (file, source) in tree.rust() {
        for name in ["todo!", "unimplemented!", "dbg!"] {
            let lines = source.find_path(name).map(|at| source.line_of(at));
            found.extend(lines.map(|line| {
                file.at(line, format_args!("a leftover `{name}`; finish or remove it"))
            }));
        }
    }
    found
}

/// Put together here, so that this file has none.
fn markers() -> [String; 3] {
    [["TO", "DO"].concat(), ["FIX", "ME"].concat(), "X".repeat(3)]
}

/// No `unwrap` outside tests: an `expect` says what makes it true.
pub fn unwrap_is_for_tests(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (file, source) in tree.rust().filter(|(file, _)| !tree.is_test_file(file)) {
        let lines = source
            .find(".unwrap()")
            .map(|at| source.line_of(at))
            .filter(|line| !source.is_test_line(*line));
        let what = "`unwrap` outside tests; return the error, or `expect` with the reason why \
                    there is none";
        found.extend(lines.map(|line| file.at(line, what)));
    }
    found
}

/// Outside tests, `expect` has a sentence.
pub fn expect_says_why(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (file, source) in tree.rust().filter(|(file, _)| !tree.is_test_file(file)) {
        for at in source.find(".expect(").filter(|at| !source.is_test_line(source.line_of(*at))) {
            let Some(reason) = literal(source, at + ".expect(".len()) else { continue };
            if reason.split_whitespace().count() < EXPECT_WORDS_MIN {
                let what = format!(
                    "`expect({reason:?})` gives no reason; write the sentence that makes it true"
                );
                found.push(file.at(source.line_of(at), what));
            }
        }
    }
    found
}

/// The string literal that begins at the position, if one does.
fn literal(source: &Source, at: usize) -> Option<String> {
    let open = source.skip_space(at);
    (source.code.get(open) == Some(&'"')).then(|| {
        let inside =
            (open + 1..source.chars.len()).take_while(|at| source.kinds[*at] == Kind::Text);
        inside.map(|at| source.chars[at]).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_found() {
        for marker in markers() {
            assert_eq!(
                nothing_is_left_over(&Tree::sample(&[("a.py", &format!("# {marker}: later\n"))]))
                    .len(),
                1
            );
            assert!(
                nothing_is_left_over(&Tree::sample(&[("a.rs", &format!("// {marker}_MAX\n"))]))
                    .is_empty()
            );
        }
        let text = "fn a() {\n    todo!()\n}\nfn b() {\n    dbg!(\"todo!\");\n}\n";
        assert_eq!(nothing_is_left_over(&Tree::sample(&[("a.rs", text)])).len(), 2);
    }

    #[test]
    fn an_unwrap_is_found() {
        let text = "fn a() {\n  b().unwrap();\n}\n\
                    #[cfg(test)]\nmod tests {\n  fn c() {\n    b().unwrap();\n  }\n}\n";
        let found =
            unwrap_is_for_tests(&Tree::sample(&[("a/src/b.rs", text), ("a/tests/c.rs", text)]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("a/src/b.rs:2: "));
    }

    #[test]
    fn a_short_expect_is_found() {
        let text = "fn a() {\n  b().expect(\n    \"is some\",\n  );\n  \
                    b().expect(\"the loop above filled it\");\n}\n";
        let found = expect_says_why(&Tree::sample(&[("a/src/b.rs", text)]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("a/src/b.rs:2: "));
    }
}
