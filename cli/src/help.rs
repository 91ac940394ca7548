//! The line breaks of the texts under `--help`, and the hints on values below 0.

use clap::{Arg, Command};

/// The command with the texts after its help, and after that of all its subcommands, as paragraphs
/// of one line each: clap breaks them to the width of the terminal, and would break lines that are
/// broken already a second time.
pub fn flowing(mut command: Command) -> Command {
    if let Some(text) = command.get_after_help().map(|text| flow(&text.to_string())) {
        command = command.after_help(text);
    }
    if let Some(text) = command.get_after_long_help().map(|text| flow(&text.to_string())) {
        command = command.after_long_help(text);
    }
    let names: Vec<String> =
        command.get_subcommands().map(|one| one.get_name().to_owned()).collect();
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

/// The command, and all its subcommands, with options that take `-1` for a value, and say that it
/// is none of theirs: clap would take it for an option, and advise to pass it as an argument.
pub fn taking_negative_numbers(command: Command) -> Command {
    let takes = |arg: Arg| {
        let has_value = arg.get_action().takes_values() && !arg.is_allow_hyphen_values_set();
        if has_value { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_args(takes).mut_subcommands(taking_negative_numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_number_is_refused_as_a_value() {
        let retries = Arg::new("retries").long("retries").value_parser(clap::value_parser!(u8));
        let inner = Command::new("inner").arg(retries);
        let command = taking_negative_numbers(Command::new("outer").subcommand(inner));
        let error = command
            .try_get_matches_from(["outer", "inner", "--retries", "-1"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("invalid value '-1' for '--retries <retries>'"), "{error}");
    }

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
