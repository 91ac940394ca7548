//! The inputs of a submit's tasks: results of other tasks as standard input, or in files that
//! arguments name.

use std::ffi::OsString;

use anyhow::{Result, bail};
use furlong_client::{Client, CommandExtras, InputPath, OsText, TaskId};

use super::options::ids;
use crate::select::Selector;
use crate::usage_error;

/// The tasks that the flags and the arguments name.
pub struct Inputs {
    stdin: Option<Selector>,
    arguments: Vec<Argument>,
}

/// An argument of the program.
#[derive(PartialEq, Debug)]
struct Argument {
    /// Without its placeholders.
    text: Vec<u8>,
    /// Their places in it, ascending, and the tasks that each names.
    places: Vec<(usize, Selector)>,
}

/// What a command gets: its arguments and the like, and the tasks whose results are its inputs.
pub struct Resolved {
    /// The program and its arguments.
    pub argv: Vec<OsText>,
    /// Where the inputs go.
    pub extras: CommandExtras,
    /// The inputs, each once.
    pub tasks: Vec<TaskId>,
}

impl Inputs {
    /// Reads the placeholders of the arguments.
    ///
    /// # Errors
    /// A usage error, if one names no tasks, or stands in the program's name.
    pub fn new(stdin: Option<Selector>, argv: Vec<OsString>) -> Result<Self> {
        let read = |argument: OsString| read(OsText::from(argument).as_bytes());
        let arguments: Vec<Argument> = argv.into_iter().map(read).collect::<Result<_>>()?;
        if arguments.first().is_some_and(|program| !program.places.is_empty()) {
            return Err(usage_error(
                "the program cannot be an input; name an interpreter, as in `sh {input:TASK}`",
            ));
        }
        Ok(Self { stdin, arguments })
    }

    /// Asks for the tasks. An argument that is a placeholder and nothing else becomes one for each
    /// task that it names.
    pub async fn resolve(self, client: &Client) -> Result<Resolved> {
        let (argv, extras) = (Vec::new(), CommandExtras::default());
        let mut resolved = Resolved { argv, extras, tasks: Vec::new() };
        if let Some(selector) = &self.stdin {
            for task in some(selector, ids(client, selector).await?)? {
                let place = resolved.place(task);
                resolved.extras.stdin.push(place);
            }
        }
        for Argument { text, places } in self.arguments {
            if let [(_, selector)] = &places[..]
                && text.is_empty()
            {
                for task in some(selector, ids(client, selector).await?)? {
                    resolved.push_path(0, task);
                    resolved.argv.push(OsText::from(""));
                }
                continue;
            }
            for (offset, selector) in places {
                let &[task] = &ids(client, &selector).await?[..] else {
                    bail!(
                        "`{{input:{selector}}}` does not name one task, and stands within an argument; alone it is an \
                         argument for each"
                    );
                };
                resolved.push_path(offset as u64, task);
            }
            resolved.argv.push(OsText::from_bytes(text));
        }
        Ok(resolved)
    }
}

impl Resolved {
    /// The path of an input's file is put into the next argument.
    fn push_path(&mut self, offset: u64, task: TaskId) {
        let argument = self.argv.len() as u32;
        let input = self.place(task);
        self.extras.paths.push(InputPath { argument, offset, input });
    }

    /// A task's place among the inputs.
    fn place(&mut self, task: TaskId) -> u32 {
        let known = self.tasks.iter().position(|it| *it == task);
        let place = known.unwrap_or_else(|| {
            self.tasks.push(task);
            self.tasks.len() - 1
        });
        place as u32
    }
}

fn some(selector: &Selector, tasks: Vec<TaskId>) -> Result<Vec<TaskId>> {
    if tasks.is_empty() {
        bail!("`{selector}` names no task that the broker knows, whose result could be an input");
    }
    Ok(tasks)
}

/// Takes the placeholders out of an argument.
fn read(argument: &[u8]) -> Result<Argument> {
    let (mut text, mut places, mut rest) = (Vec::new(), Vec::new(), argument);
    while let Some(at) = rest.windows(BEGIN.len()).position(|part| part == BEGIN) {
        text.extend_from_slice(&rest[..at]);
        let after = &rest[at + BEGIN.len()..];
        let name = after.split(|byte| *byte == b'}').next().filter(|name| name.len() < after.len());
        let selector = name.and_then(|name| std::str::from_utf8(name).ok()?.parse().ok());
        let (Some(name), Some(selector)) = (name, selector) else {
            let argument = argument.escape_ascii();
            return Err(usage_error(&format!(
                "`{argument}`: `{{input:TASK}}` takes a task, as `k3f9a2:17` or `last`; its name and `}}` follow the \
                 colon"
            )));
        };
        places.push((text.len(), selector));
        rest = &after[name.len() + 1..];
    }
    text.extend_from_slice(rest);
    Ok(Argument { text, places })
}

const BEGIN: &[u8] = b"{input:";

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Selector {
        text.parse().unwrap()
    }

    #[test]
    fn placeholders_are_taken_out_of_their_arguments() {
        let plain = |text: &[u8]| Argument { text: text.to_vec(), places: Vec::new() };
        for text in [&b""[..], b"a", b"{}", b"{input}", b"{inputs:last}", b"\xff"] {
            assert_eq!(read(text).unwrap(), plain(text));
        }
        let argument = read(b"--a={input:k3f9a2:17},{input:last}!").unwrap();
        let places = vec![(4, one("k3f9a2:17")), (5, one("last"))];
        assert_eq!(argument, Argument { text: b"--a=,!".to_vec(), places });
    }

    #[test]
    fn a_placeholder_that_names_no_task_is_a_usage_error() {
        for text in [&b"{input:}"[..], b"{input:nobody}", b"{input:last", b"{input:\xff}"] {
            assert!(read(text).is_err(), "{text:?}");
        }
        assert!(Inputs::new(None, vec!["{input:last}".into()]).is_err());
        assert!(Inputs::new(None, vec!["sh".into(), "{input:last}".into()]).is_ok());
    }
}
