//! The words for what the broker's rules have found.

use furlong_wire::message::{Note, NoteCode};

use super::Picture;

/// The way to an error that only its owner may read.
const WHERE_ERRORS_ARE: &str =
    "who submitted it has the error; `furlong result TASK` prints that of a kept task";

/// A sentence that says what was found, and what to do about it.
pub fn sentence(note: &Note, picture: &Picture) -> String {
    let kind = note.kind.map(|id| picture.kind_name(id)).unwrap_or_default();
    let engine = note.engine.map(|id| id.to_string()).unwrap_or_default();
    let host = note.engine.and_then(|id| picture.engines.get(&id));
    let host = host.map(|engine| engine.host.clone()).unwrap_or_default();
    let Note { code, count, percent, text, .. } = note;
    match code {
        NoteCode::SmallTasks => format!(
            "{percent} % of the time of `{kind}` is overhead: send more items in one task (`chunksize`)"
        ),
        NoteCode::SlowEngine => format!(
            "engine {engine} on {host} takes {:.1} times as long as the others for the same tasks: see what else runs \
             there; `furlong shutdown --finish {engine}` stops it",
            *percent as f64 / 100.0
        ),
        NoteCode::NobodyFits => {
            let mut words = text.split(' ');
            let runtime = words.next().unwrap_or_default();
            let labels: Vec<&str> = words.collect();
            let tasks = tasks(*count);
            if labels.is_empty() {
                return format!(
                    "{tasks} for {runtime}, and no engine that runs it is online: start one with \
                     `furlong engine`"
                );
            }
            let flags: Vec<String> =
                labels.iter().map(|label| format!("--label {label}")).collect();
            format!(
                "{tasks} for {runtime} with {}, which no engine has: start one with `furlong engine {}`",
                labels.join(", "),
                flags.join(" ")
            )
        }
        NoteCode::Memory => format!(
            "payloads fill {percent} % of the memory that they may take: read results, or give the broker more \
             (`--memory`)"
        ),
        NoteCode::UnreadResults => {
            format!(
                "session {text} has {count} results that its client does not read: read them, or end that client"
            )
        }
        NoteCode::SameFailure if text.is_empty() => {
            format!("`{kind}` has failed {count} times in the same way: {WHERE_ERRORS_ARE}")
        }
        NoteCode::SameFailure => {
            format!(
                "`{kind}` has raised {text} {count} times at the same place: {WHERE_ERRORS_ARE}"
            )
        }
        NoteCode::Dying => format!(
            "interpreters of engine {engine} on {host} have ended {count} times, at last: {text}"
        ),
        NoteCode::Stuck => format!(
            "engine {engine} on {host} runs a task that has been ended, and does not stop: a cancel with force, or a \
             restart, ends it with its interpreter"
        ),
        NoteCode::HeavyResults => format!(
            "results of `{kind}` have {:.1} MiB each, and cost more time than its runs: return less, or let them stay",
            *count as f64 / 1024.0 / 1024.0
        ),
        NoteCode::Silent => format!(
            "engine {engine} on {host} has not answered for {} s, and what else its process runs: see whether it or its \
             machine hangs; after 15 s without a sign it is given up",
            count / 1_000
        ),
        NoteCode::SetAside => format!("engine {engine} on {host} cannot begin some work: {text}"),
    }
}

fn tasks(count: u64) -> String {
    if count == 1 { "1 task waits".to_owned() } else { format!("{count} tasks wait") }
}
