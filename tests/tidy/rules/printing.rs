//! One file prints what a command says: there, text of peers is escaped.

use crate::tree::Tree;

const PRINTER: &str = "cli/src/print.rs";

/// Nothing else in the command writes to standard output or standard error.
pub fn the_command_prints_in_one_place(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (file, source) in tree.rust().filter(|(file, _)| !tree.is_test_file(file)) {
        if !file.path.starts_with("cli/src/") || file.path == PRINTER {
            continue;
        }
        let what = format!(
            "it prints past `{PRINTER}`, where text of peers is escaped; use `print::line` or `note!`"
        );
        for way in ["println!", "print!", "eprintln!", "eprint!"] {
            let lines = source.find_path(way).map(|at| source.line_of(at));
            found.extend(lines.map(|line| file.at(line, &what)));
        }
        for way in ["stdout().lock()", "stderr().lock()", "stdout().write", "stderr().write"] {
            let lines = source.find(way).map(|at| source.line_of(at));
            found.extend(lines.map(|line| file.at(line, &what)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_elsewhere_is_found() {
        let text =
            "fn a() {\n  println!(\"{text}\");\n  std::io::stderr().lock().write_all(b\"x\");\n}\n";
        let found = the_command_prints_in_one_place(&Tree::sample(&[
            ("cli/src/a.rs", text),
            (PRINTER, text),
        ]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("cli/src/a.rs:2: ") && found[1].starts_with("cli/src/a.rs:3: ")
        );
    }
}
