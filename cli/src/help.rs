//! How the texts under `--help` are broken into lines.

use clap::Command;

/// The command with the texts after its help, and after that of all its subcommands, as paragraphs of one line each:
/// clap breaks them to the width of the terminal, and would break lines that are broken already a second time.
pub fn flowing(mut command: Command) -> Command {
    if let Some(text) = command.get_after_help().map(|text| flow(&text.to_string())) {
        command = command.after_help(text);
    }
    if let Some(text) = command.get_after_long_help().map(|text| flow(&text.to_string())) {
        command = command.after_long_help(text);
    }
    let names: Vec<String> = command.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, flowing))
}

/// Joins the lines of each paragraph. Lines that are indented, and what is before them, stay lines.
fn flow(text: &str) -> String {
    let mut flowed = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        flowed.push_str(line);
        let Some(next) = lines.peek() else { break };
        let is_one_paragraph = |line: &str| !line.is_empty() && !line.starts_with(' ');
        flowed.push(if is_one_paragraph(line) && is_one_paragraph(next) { ' ' } else { '\n' });
    }
    flowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_become_one_line_and_examples_stay() {
        let text = "One\ntwo.\n\nThree\nfour.\n\nExamples:\n  a b\n  c d";
        assert_eq!(flow(text), "One two.\n\nThree four.\n\nExamples:\n  a b\n  c d");
    }

    #[test]
    fn the_texts_of_subcommands_flow_too() {
        let inner = Command::new("inner").after_help("a\nb").after_long_help("c\nd");
        let command = flowing(Command::new("outer").subcommand(inner));
        let inner = command.find_subcommand("inner").unwrap();
        assert_eq!(inner.get_after_help().unwrap().to_string(), "a b");
        assert_eq!(inner.get_after_long_help().unwrap().to_string(), "c d");
    }
}
