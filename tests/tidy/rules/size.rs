//! Short files, functions and lines.

use std::ops::Range;

use crate::source::{Kind, Source};
use crate::tree::Tree;

const FILE_LINES_MAX: usize = 600;
const TEST_FILE_LINES_MAX: usize = 900;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_COLUMNS_MAX: usize = 100;

/// Files that are longer, and may not grow. Each is to be split by what its parts do.
const LONG_FILES: &[(&str, usize)] = &[
    ("broker/src/core/journal/mod.rs", 609),
    ("broker/src/core/tests/farm/peers.rs", 988),
    ("client/src/call.rs", 602),
    ("engine/src/core/mod.rs", 636),
];

/// Functions that are longer: their names, and how long they may be.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[
    ("broker/src/shell/mod.rs", "serve", 75),
    ("engine/src/shell/mod.rs", "run", 76),
    ("python/furlong/pickling/code_pickler.py", "code_pickler", 88),
    ("tests/sim/fairness.rs", "is_just", 71),
];

/// No file over 600 lines, tests 900.
pub fn files_are_short(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["rs", "py"]) {
        let lines = file.text.lines().count();
        let lines_max = match LONG_FILES.iter().find(|(path, _)| *path == file.path) {
            Some((_, lines_max)) => *lines_max,
            None if file.is_in_tests() => TEST_FILE_LINES_MAX,
            None => FILE_LINES_MAX,
        };
        if lines > lines_max {
            found.push(file.at(
                lines,
                format_args!("{lines} lines, at most {lines_max}; split it by what its parts do"),
            ));
        }
    }
    found
}

/// No function over 70 lines.
pub fn functions_are_short(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["rs", "py"]) {
        let Some(source) = &file.source else { continue };
        let functions = if file.extension() == "rs" {
            source.rust_functions()
        } else {
            source.python_functions()
        };
        for function in functions {
            let known = LONG_FUNCTIONS
                .iter()
                .find(|(path, name, _)| (*path, *name) == (&*file.path, &*function.name));
            if function.lines <= known.map_or(FUNCTION_LINES_MAX, |(.., lines)| *lines) {
                continue;
            }
            let (name, lines) = (&function.name, function.lines);
            let what = format!(
                "`{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}; give its parts names"
            );
            found.push(file.at(function.line, what));
        }
    }
    found
}

/// No line over 100 columns, but for addresses and string literals, which break badly.
pub fn lines_are_short(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["rs", "py"]) {
        let Some(source) = &file.source else { continue };
        for (index, line) in source.lines().enumerate() {
            let columns = line.len();
            if columns > LINE_COLUMNS_MAX && !is_address_or_string(source, line) {
                let what = format!("{columns} columns, at most {LINE_COLUMNS_MAX}; break the line");
                found.push(file.at(index + 1, what));
            }
        }
    }
    found
}

fn is_address_or_string(source: &Source, line: Range<usize>) -> bool {
    let text: String = source.chars[line.clone()].iter().collect();
    let has_text = source.kinds[line.clone()].contains(&Kind::Text);
    let around: String =
        line.filter(|at| source.kinds[*at] != Kind::Text).map(|at| source.chars[at]).collect();
    let is_string = has_text && around.chars().all(|char| " \"'rbf#,;()".contains(char));
    text.contains("https://") || is_string
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_found() {
        let tree = |path: &str, lines: usize| Tree::sample(&[(path, &"\n".repeat(lines))]);
        assert!(files_are_short(&tree("a/src/lib.rs", 600)).is_empty());
        assert_eq!(files_are_short(&tree("a/src/lib.rs", 601)).len(), 1);
        assert!(files_are_short(&tree("a/src/tests.rs", 900)).is_empty());
        assert_eq!(files_are_short(&tree("tests/farm/a.py", 901)).len(), 1);
    }

    #[test]
    fn a_long_function_is_found() {
        let rust = |lines: usize| format!("fn a() {{\n{}}}\n", "    b();\n".repeat(lines - 2));
        let python = |lines: usize| format!("def a():\n{}\n\nb()\n", "    b()\n".repeat(lines - 1));
        for lines in [70, 71] {
            let tree = Tree::sample(&[("a.rs", &rust(lines)), ("a.py", &python(lines))]);
            assert_eq!(functions_are_short(&tree).len(), if lines > 70 { 2 } else { 0 });
        }
    }

    #[test]
    fn a_long_line_is_found() {
        let long = "x".repeat(120);
        let allowed = format!("    \"{long} and more\",\n// https://example.org/{long}\n");
        assert!(lines_are_short(&Tree::sample(&[("a.rs", &allowed)])).is_empty());
        let text = format!("// {long} and more\nfn {long}(and: More) {{}}\n");
        assert_eq!(lines_are_short(&Tree::sample(&[("a.rs", &text)])).len(), 2);
    }
}
