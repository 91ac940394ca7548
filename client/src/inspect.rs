//! Interpreters as they are inspected: where one is now, and where it was while it was sampled.

use std::fmt::Write as _;
use std::time::Duration;

use furlong_wire::ids::{EngineId, TaskId};
use furlong_wire::message::{Inspectable, Inspection, InspectionSeen, Query, ReplyBody, Sampling};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::ClientError;
use crate::flame;
use crate::request::{query, refused};

/// What was seen of an interpreter.
#[derive(Clone, PartialEq, Debug)]
pub struct Inspected {
    /// The engine.
    pub engine: EngineId,
    /// The task that ran when the engine answered, if one did.
    pub task: Option<TaskId>,
    /// Its frames.
    pub seen: InterpreterSeen,
}

/// The frames of an interpreter, or the samples of them.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct InterpreterSeen {
    /// Its threads, the main one first.
    pub threads: Vec<ThreadSeen>,
    /// Threads that are not told: those of other tasks, and those for which there was no room.
    pub left_out: u64,
    /// True if it was in a call of C that holds Python's lock, and could not answer itself.
    pub in_c: bool,
    /// The number of samples.
    pub samples: u64,
    /// The time that they stand for, in microseconds.
    pub seen_us: u64,
    /// The longest time between two of them: so long Python's lock was held.
    pub longest_us: u64,
    /// The time of stacks that are not told one by one, in microseconds.
    pub others_us: u64,
    /// The functions of the stacks: name, file, and the line in which it begins.
    pub frames: Vec<(String, String, u64)>,
    /// Microseconds, thread, and frames by their index, the outermost one first.
    pub stacks: Vec<(u64, String, Vec<usize>)>,
    /// The lines of the main thread in which it was most: microseconds, file and line.
    pub lines: Vec<(u64, String, u64)>,
}

/// A thread.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct ThreadSeen {
    /// Its name.
    pub name: String,
    /// The innermost frame first: file, line, function, and the line's source if it may be seen.
    pub frames: Vec<(String, u64, String, String)>,
}

impl Client {
    /// Asks where an interpreter is now. It is neither stopped nor ended by that.
    ///
    /// ```no_run
    /// # use furlong_client::{Client, ClientError};
    /// # async fn show(client: &Client) -> Result<(), ClientError> {
    /// use furlong_client::{EngineId, Inspectable};
    ///
    /// let stack = client.stack(Inspectable::Engine(EngineId(3))).await?;
    /// for thread in stack.seen.threads {
    ///     println!("{}: {:?}", thread.name, thread.frames.first());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the engine or task is not there, or is another owner's; or if
    /// the interpreter does not answer.
    pub async fn stack(&self, of: Inspectable) -> Result<Inspected, ClientError> {
        self.inspect(Inspection { of, sampling: None }).await
    }

    /// Samples an interpreter for so long, so many times a second.
    ///
    /// # Errors
    /// Like [`Client::stack`].
    pub async fn profile(
        &self,
        of: Inspectable,
        length: Duration,
        per_s: u32,
    ) -> Result<Inspected, ClientError> {
        let length_ms = u32::try_from(length.as_millis()).unwrap_or(u32::MAX);
        self.inspect(Inspection { of, sampling: Some(Sampling { length_ms, per_s }) }).await
    }

    async fn inspect(&self, inspection: Inspection) -> Result<Inspected, ClientError> {
        match query(&self.handle, Query::Inspect(inspection)).await? {
            ReplyBody::Inspected(InspectionSeen { engine, task, contents }) => {
                let seen =
                    serde_json::from_slice(&contents).map_err(|_| ClientError::WrongAnswer)?;
                Ok(Inspected { engine, task, seen })
            }
            body => Err(refused(body)),
        }
    }
}

impl Inspected {
    /// The threads, as JSON for programs.
    pub fn to_json(&self) -> Value {
        let thread = |thread: &ThreadSeen| {
            let frames: Vec<Value> = thread.frames.iter().map(frame_json).collect();
            json!({ "name": thread.name, "frames": frames })
        };
        json!({
            "engine": self.engine.0,
            "task": self.task.map(|task| task.to_string()),
            "in_c": self.seen.in_c,
            "threads": self.seen.threads.iter().map(thread).collect::<Vec<_>>(),
            "left_out": self.seen.left_out,
        })
    }
}

impl InterpreterSeen {
    /// The functions in which the main thread was most: microseconds in the function itself, with
    /// what it has called, and the function; the hottest first.
    pub fn hottest(&self) -> Vec<(u64, u64, &(String, String, u64))> {
        let mut times = vec![(0_u64, 0_u64); self.frames.len()];
        let main = self.stacks.iter().filter(|(_, thread, _)| thread == MAIN_THREAD);
        for (us, _, stack) in main {
            let mut seen: Vec<usize> = stack.clone();
            seen.sort_unstable();
            seen.dedup();
            for frame in seen {
                if let Some(time) = times.get_mut(frame) {
                    time.1 = time.1.saturating_add(*us);
                }
            }
            if let Some(time) = stack.last().and_then(|last| times.get_mut(*last)) {
                time.0 = time.0.saturating_add(*us);
            }
        }
        let mut hottest: Vec<_> = times
            .into_iter()
            .zip(&self.frames)
            .map(|((own, all), frame)| (own, all, frame))
            .collect();
        hottest.retain(|(_, all, _)| *all > 0);
        hottest.sort_by_key(|(own, all, _)| std::cmp::Reverse((*own, *all)));
        hottest
    }

    /// The samples as collapsed stacks, a line each, for programs that draw flame graphs:
    /// `thread;outer (file:line);inner (file:line) microseconds`.
    pub fn collapsed(&self) -> String {
        let mut text = String::new();
        for (us, thread, stack) in &self.stacks {
            text.push_str(&plain(thread));
            for (name, file, line) in stack.iter().filter_map(|frame| self.frames.get(*frame)) {
                let _ = write!(text, ";{} ({}:{line})", plain(name), plain(file));
            }
            let _ = writeln!(text, " {us}");
        }
        text
    }

    /// The samples as a picture, a flame graph in SVG: a call is as wide as its time, and stands
    /// under the one that has made it. It has no script, and loads nothing.
    pub fn flame_graph(&self, title: &str) -> String {
        flame::written(self, title)
    }

    /// The samples as a file of speedscope: a profile for each thread.
    pub fn speedscope(&self, name: &str) -> Value {
        let frames: Vec<Value> = self
            .frames
            .iter()
            .map(|(name, file, line)| json!({ "name": name, "file": file, "line": line }))
            .collect();
        let mut threads: Vec<&str> = Vec::new();
        for (_, thread, _) in &self.stacks {
            if !threads.contains(&thread.as_str()) {
                threads.push(thread);
            }
        }
        let profile = |thread: &&str| {
            let of_thread = self.stacks.iter().filter(|(_, of, _)| of == thread);
            let (weights, samples): (Vec<u64>, Vec<&Vec<usize>>) =
                of_thread.map(|(us, _, stack)| (*us, stack)).unzip();
            json!({
                "type": "sampled",
                "name": thread,
                "unit": "microseconds",
                "startValue": 0,
                "endValue": weights.iter().fold(0_u64, |sum, us| sum.saturating_add(*us)),
                "samples": samples,
                "weights": weights,
            })
        };
        json!({
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "name": name,
            "exporter": concat!("furlong ", env!("CARGO_PKG_VERSION")),
            "activeProfileIndex": 0,
            "shared": { "frames": frames },
            "profiles": threads.iter().map(profile).collect::<Vec<_>>(),
        })
    }
}

fn frame_json((file, line, function, source): &(String, u64, String, String)) -> Value {
    json!({ "file": file, "line": line, "function": function, "source": source })
}

/// A name that neither ends a frame nor a line.
fn plain(name: &str) -> String {
    name.replace([';', '\n', '\r'], ":")
}

/// The name of the main thread, in Python.
pub(crate) const MAIN_THREAD: &str = "MainThread";

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> InterpreterSeen {
        serde_json::from_value(json!({
            "samples": 3,
            "frames": [["outer", "a.py", 1], ["inner;x", "a.py", 9], ["wait", "b.py", 2]],
            "stacks": [
                [300, "MainThread", [0, 1]],
                [100, "MainThread", [0, 0]],
                [400, "other", [2]],
            ],
        }))
        .unwrap()
    }

    #[test]
    fn the_hottest_function_is_the_one_that_ran_itself() {
        let seen = seen();
        let names: Vec<_> = seen
            .hottest()
            .into_iter()
            .map(|(own, all, (name, ..))| (own, all, name.as_str()))
            .collect();
        assert_eq!(names, [(300, 300, "inner;x"), (100, 400, "outer")]);
    }

    #[test]
    fn collapsed_stacks_have_a_line_for_each_and_no_strange_separators() {
        assert_eq!(
            seen().collapsed(),
            "MainThread;outer (a.py:1);inner:x (a.py:9) 300\n\
             MainThread;outer (a.py:1);outer (a.py:1) 100\n\
             other;wait (b.py:2) 400\n"
        );
    }

    #[test]
    fn a_file_of_speedscope_has_a_profile_for_each_thread() {
        let file = seen().speedscope("engine 3");
        assert_eq!(file["profiles"].as_array().unwrap().len(), 2);
        assert_eq!(file["profiles"][0]["endValue"], 400);
        assert_eq!(file["profiles"][0]["samples"], json!([[0, 1], [0, 0]]));
        assert_eq!(file["shared"]["frames"][2]["name"], "wait");
    }
}
