//! Profiles for the page: an interpreter is sampled for a while, if this process's capability may
//! do that. An observer may not.

use std::time::Duration;

use furlong_client::{Inspectable, Inspected, TaskId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::view::EngineNow;

/// The length of a profile, which comes before the time for an answer is over.
pub const LENGTH: Duration = Duration::from_secs(5);
/// Looks a second.
pub const SAMPLES_PER_S: u32 = 100;
/// Functions that are listed at most.
const FUNCTIONS_MAX: usize = 100;

/// The thing that a page wants a profile of: a task that runs, or one that runs of a kind.
#[derive(Debug, Deserialize)]
pub struct ProfileAsked {
    task: Option<String>,
    kind: Option<u32>,
}

impl ProfileAsked {
    /// The task that is meant, among those that run.
    ///
    /// # Errors
    /// The reason why there is none, for people.
    pub fn find<'a>(
        &self,
        mut engines: impl Iterator<Item = &'a EngineNow>,
    ) -> Result<Inspectable, &'static str> {
        let is_meant = |task: TaskId, kind: u32| match (&self.task, self.kind) {
            (Some(wanted), _) => task.to_string() == *wanted,
            (None, wanted) => Some(kind) == wanted,
        };
        let found = engines.find_map(|engine| {
            let running = engine.seen.running?;
            running.task.filter(|task| is_meant(*task, running.kind))
        });
        found.map(Inspectable::Task).ok_or(if self.task.is_some() {
            "this task does not run now, or is another owner's"
        } else {
            "no task of this kind runs now, or they are another owner's"
        })
    }
}

/// A profile as the page shows it: a picture, and the functions of the main thread.
pub fn as_json(profile: &Inspected) -> Value {
    let seen = &profile.seen;
    let task = profile.task.map(|task| task.to_string());
    let title = match &task {
        Some(task) => format!("task {task} on engine {}", profile.engine),
        None => format!("engine {}", profile.engine),
    };
    let function = |(own_us, total_us, (name, file, line)): (u64, u64, &(String, String, u64))| {
        json!({ "function": name, "file": file, "line": line,
                "own_us": own_us, "total_us": total_us })
    };
    let functions = seen.hottest().into_iter().take(FUNCTIONS_MAX).map(function);
    json!({
        "title": title,
        "samples": seen.samples,
        "seen_us": seen.seen_us,
        "functions": functions.collect::<Vec<_>>(),
        "svg": seen.flame_graph(&title),
    })
}

#[cfg(test)]
mod tests {
    use furlong_wire::ids::{EngineId, SessionId, TaskSeq};
    use furlong_wire::message::{EngineSeen, EngineState, RunningSeen};

    use super::*;

    fn engine(id: u32, kind: u32, n: Option<u64>) -> EngineNow {
        let task = n.map(|n| TaskId { session: SessionId([7; 16]), n: TaskSeq(n) });
        let seen = EngineSeen {
            id: EngineId(id),
            host: "lab".to_owned(),
            pid: 1,
            state: EngineState::Busy,
            running: Some(RunningSeen { task, kind, for_us: 0 }),
            assigned: 1,
            queued: 0,
            ended: 0,
            failed: 0,
            busy_us: 0,
            deaths: 0,
            pace_percent: None,
            load: None,
        };
        EngineNow::of(&seen, 0)
    }

    #[test]
    fn a_running_task_is_found_by_its_id_or_its_kind() {
        let engines = [engine(0, 1, None), engine(1, 2, Some(4)), engine(2, 1, Some(5))];
        let find = |task: Option<String>, kind| ProfileAsked { task, kind }.find(engines.iter());
        let id = |n| TaskId { session: SessionId([7; 16]), n: TaskSeq(n) };
        assert_eq!(find(Some(id(4).to_string()), None), Ok(Inspectable::Task(id(4))));
        assert_eq!(find(None, Some(1)), Ok(Inspectable::Task(id(5))), "not that of another owner");
        assert!(find(Some(id(6).to_string()), Some(1)).unwrap_err().starts_with("this task"));
        assert!(find(None, Some(3)).is_err() && find(None, None).is_err());
    }
}
