//! The ended tasks that the page knows, and lists of them.

use std::collections::VecDeque;

use furlong_wire::message::{EndSeen, ErrorKind, PhaseTimes, TaskState};
use serde::Deserialize;
use serde_json::{Value, json};

/// Ended tasks that are remembered: about 20 MB.
const KEPT_MAX: usize = 100_000;
/// Rows that a list has at most.
const ROWS_MAX: usize = 500;

/// The last ended tasks.
#[derive(Debug, Default)]
pub struct Ends {
    kept: VecDeque<EndSeen>,
    told: u64,
    missed: u64,
}

/// A question for ended tasks. Unset fields do not matter.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct EndsAsked {
    /// Their terminal state, or `not_ok` for all that did not succeed.
    pub state: Option<String>,
    /// Their kind, by the broker's number.
    pub kind: Option<u32>,
    /// The engine that ended them.
    pub engine: Option<u32>,
    /// The number that their errors have in common.
    pub fingerprint: Option<u32>,
    /// They ran for longer than this, in microseconds.
    pub longer_us: Option<u64>,
    /// The kind of their error.
    pub error: Option<String>,
}

impl Ends {
    /// Adds those of a look: the number that was told by then, that was missed, and the last of
    /// them.
    pub fn add(&mut self, told: u64, missed: u64, last: &VecDeque<EndSeen>) {
        let new = usize::try_from(told.saturating_sub(self.told)).unwrap_or(usize::MAX);
        let new = new.min(last.len());
        self.kept.extend(last.range(last.len() - new..).cloned());
        let surplus = self.kept.len().saturating_sub(KEPT_MAX);
        self.kept.drain(..surplus);
        (self.told, self.missed) = (told, missed);
    }

    /// All of them, the latest last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &EndSeen> {
        self.kept.iter()
    }

    /// A list, the latest first, and how many there are.
    pub fn list(&self, asked: &EndsAsked) -> Value {
        let (mut rows, mut matched) = (Vec::new(), 0_u64);
        for end in self.kept.iter().rev().filter(|end| asked.matches(end)) {
            matched += 1;
            if rows.len() < ROWS_MAX {
                rows.push(row(end));
            }
        }
        json!({
            "rows": rows, "matched": matched, "kept": self.kept.len(),
            "told": self.told, "missed": self.missed,
        })
    }

    /// A task that has ended, if it is remembered.
    pub fn find(&self, task: &str) -> Option<Value> {
        self.kept.iter().rev().find(|end| end.task.to_string() == task).map(row)
    }

    /// The numbers of those that were told, and missed.
    pub fn counts(&self) -> Value {
        json!({ "kept": self.kept.len(), "told": self.told, "missed": self.missed })
    }
}

impl EndsAsked {
    fn matches(&self, end: &EndSeen) -> bool {
        let is_state = match self.state.as_deref() {
            None | Some("") => true,
            Some("not_ok") => end.state != TaskState::Succeeded,
            Some(state) => end.state.as_str() == state,
        };
        is_state
            && self.kind.is_none_or(|kind| end.kind == kind)
            && self.engine.is_none_or(|id| end.engine.is_some_and(|engine| engine.0 == id))
            && self.fingerprint.is_none_or(|number| end.fingerprint == number)
            && self.longer_us.is_none_or(|us| end.phases.run.run_us > us)
            && self
                .error
                .as_deref()
                .is_none_or(|kind| end.error.map(ErrorKind::as_str) == Some(kind))
    }
}

fn row(end: &EndSeen) -> Value {
    let PhaseTimes { held_us, queue_us, way_us, run } = end.phases;
    json!({
        "task": end.task.to_string(), "kind_id": end.kind, "state": end.state.as_str(),
        "engine": end.engine.map(|id| id.0), "error": end.error.map(ErrorKind::as_str),
        "fingerprint": end.fingerprint, "attempts": end.attempts, "at_us": end.at_us,
        "spans_us": { "held": held_us, "queued": queue_us, "on_engine": way_us + run.began_us,
                      "loading": run.load_us, "running": run.run_us, "storing": run.store_us },
        "request_bytes": end.request_bytes, "result_bytes": end.result_bytes,
    })
}

#[cfg(test)]
pub mod tests {
    use furlong_wire::ids::{EngineId, SessionId, TaskId, TaskSeq};
    use furlong_wire::message::RunTimes;

    use super::*;

    /// An end of a task that ran for so long until then.
    pub fn end(number: u64, engine: u32, at_us: u64, run_us: u64, state: TaskState) -> EndSeen {
        let task = TaskId { session: SessionId([7; 16]), n: TaskSeq(number) };
        let run = RunTimes { run_us, ..RunTimes::default() };
        EndSeen {
            task,
            kind: 1,
            engine: Some(EngineId(engine)),
            state,
            error: None,
            fingerprint: 0,
            attempts: 1,
            at_us,
            phases: PhaseTimes { run, ..PhaseTimes::default() },
            request_bytes: 0,
            result_bytes: 0,
        }
    }

    #[test]
    fn each_end_is_added_once_and_the_oldest_go() {
        let mut ends = Ends::default();
        let mut last: VecDeque<EndSeen> =
            (0..3).map(|n| end(n, 0, n, 5, TaskState::Succeeded)).collect();
        ends.add(3, 0, &last);
        ends.add(3, 0, &last);
        last.push_back(end(3, 1, 3, 50, TaskState::Failed));
        ends.add(4, 2, &last);
        let all = ends.list(&EndsAsked::default());
        assert_eq!(
            (&all["matched"], &all["told"], &all["missed"]),
            (&4.into(), &4.into(), &2.into())
        );
        assert_eq!(all["rows"][0]["state"], "failed", "the latest first");
        let many: VecDeque<EndSeen> =
            (0..10_000).map(|n| end(n, 0, n, 5, TaskState::Succeeded)).collect();
        for times in 1..=11 {
            ends.add(4 + times * 10_000, 2, &many);
        }
        assert_eq!(ends.iter().count(), KEPT_MAX);
        let all = ends.list(&EndsAsked::default());
        assert_eq!(all["rows"].as_array().unwrap().len(), ROWS_MAX);
        assert_eq!(all["matched"], KEPT_MAX, "what is not listed is counted");
    }

    #[test]
    fn a_list_has_what_was_asked_for() {
        let mut ends = Ends::default();
        let last = [
            end(1, 0, 1, 5, TaskState::Succeeded),
            end(2, 1, 2, 500, TaskState::Failed),
            end(3, 1, 3, 5, TaskState::Cancelled),
        ];
        ends.add(3, 0, &last.into());
        let matched = |asked: EndsAsked| ends.list(&asked)["matched"].as_u64().unwrap();
        let state =
            |state: &str| EndsAsked { state: Some(state.to_owned()), ..EndsAsked::default() };
        assert_eq!(matched(state("failed")), 1);
        assert_eq!(matched(state("not_ok")), 2);
        assert_eq!(matched(EndsAsked { engine: Some(1), ..EndsAsked::default() }), 2);
        assert_eq!(matched(EndsAsked { longer_us: Some(100), ..EndsAsked::default() }), 1);
        assert_eq!(matched(EndsAsked { kind: Some(9), ..EndsAsked::default() }), 0);
        assert_eq!(ends.find(&last_task()).unwrap()["engine"], 1);
    }

    fn last_task() -> String {
        end(3, 1, 3, 5, TaskState::Cancelled).task.to_string()
    }
}
