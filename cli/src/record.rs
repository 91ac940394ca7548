//! A task's record, in figures and as JSON.

use furlong_wire::message::{TaskError, TaskPhase, TaskRecord};
use serde_json::{Value, json};

use furlong_host::durations::short;

/// The spans of a task's time, in microseconds: those that come later in its life may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spans {
    /// It waited for other tasks, for its arguments, or between attempts.
    pub held: u64,
    /// It waited for an engine.
    pub queued: Option<u64>,
    /// It was with its engine, and did not run: behind others, or on the way there and back.
    pub on_engine: Option<u64>,
    /// Its function and arguments were loaded, or its program was started.
    pub loading: Option<u64>,
    /// It ran.
    pub running: Option<u64>,
    /// Its value was encoded.
    pub storing: Option<u64>,
    /// Its result was on the way to the client.
    pub delivering: Option<u64>,
    /// All of it.
    pub total: u64,
}

impl Spans {
    /// Those of a record.
    pub fn of(record: &TaskRecord) -> Self {
        let times = &record.times;
        let until = times.finished_us.unwrap_or(times.now_us);
        // The times of an attempt that came to nothing are before the last time that it was queued.
        let assigned = times.assigned_us.filter(|_| record.phase >= TaskPhase::Assigned);
        let queued_at = times.queued_us.unwrap_or(until).min(assigned.unwrap_or(until));
        let queued = times.queued_us.map(|_| assigned.unwrap_or(until).saturating_sub(queued_at));
        let with_engine = assigned.map(|assigned| until.saturating_sub(assigned));
        let parts = match (times.finished_us, times.started_us) {
            (Some(_), _) => Some([times.run.load_us, times.run.run_us, times.run.store_us]),
            (None, Some(started)) => Some([0, until.saturating_sub(started), 0]),
            (None, None) => None,
        };
        // By another clock: together they are no more than the time for which its engine had it.
        let mut left = with_engine.unwrap_or(0);
        let mut take = |part: u64| {
            let taken = part.min(left);
            left -= taken;
            taken
        };
        let parts = parts.filter(|_| with_engine.is_some()).map(|[load, run, store]| {
            let run = take(run);
            [take(load), run, take(store)]
        });
        let on_engine = with_engine.map(|_| left);
        let delivering =
            times.finished_us.zip(times.delivered_us).map(|(end, there)| there.saturating_sub(end));
        Self {
            held: queued_at,
            queued,
            on_engine,
            loading: parts.map(|[load, ..]| load),
            running: parts.map(|[_, run, _]| run),
            storing: parts.map(|[.., store]| store),
            delivering,
            total: times.delivered_us.unwrap_or(until),
        }
    }

    /// Returns the time that it waited for an engine.
    pub fn waited(&self) -> u64 {
        self.held + self.queued.unwrap_or(0)
    }
}

/// The state of a task, or how it ended.
pub fn state(record: &TaskRecord) -> &'static str {
    match &record.outcome {
        Some(outcome) => outcome.state.as_str(),
        None => record.phase.as_str(),
    }
}

/// Returns the reason why it does not run, or did not succeed, on one line.
pub fn why(record: &TaskRecord) -> Option<String> {
    let error = record.outcome.as_ref().and_then(|outcome| outcome.error.as_ref());
    let text = error.map(|error| error.text.as_str()).filter(|text| !text.is_empty());
    let raised = error.and_then(|error| error.raised.as_ref());
    let raised = raised.map(|raised| format!("raised {}", raised.type_name));
    let kind = error.map(|error| error.kind.as_str()).or(record.waits.as_deref());
    let text = text.map(str::to_owned).or(raised).or(kind.map(str::to_owned))?;
    text.lines().next().map(str::to_owned)
}

/// What the user's code raised, as JSON, and the error's kind and text.
fn error_as_json(error: &TaskError) -> Value {
    let raised = error.raised.as_ref();
    json!({
        "kind": error.kind.as_str(),
        "text": error.text,
        "type": raised.map(|raised| raised.type_name.as_str()),
        "fingerprint": raised.map(|raised| raised.fingerprint),
    })
}

/// A record as JSON.
pub fn as_json(record: &TaskRecord) -> Value {
    let times = &record.times;
    let error = record.outcome.as_ref().and_then(|outcome| outcome.error.as_ref());
    let spans = Spans::of(record);
    json!({
        "task": record.id.to_string(),
        "label": record.label,
        "name": record.name,
        "runtime": record.runtime.as_str(),
        "state": state(record),
        "target": record.target.map(|id| id.0),
        "engine": record.engine.map(|id| id.0),
        "priority": record.priority,
        "why": why(record),
        "error": error.map(|error| error_as_json(error)),
        "attempts": record.attempts,
        "losses": record.losses,
        "errors": record.errors,
        "kept": record.kept,
        "bytes": { "request": record.request_bytes, "result": record.result_bytes,
                   "stdout": record.stdout_bytes, "stderr": record.stderr_bytes },
        "times": { "submitted_unix_us": times.submitted_unix_us, "queued_us": times.queued_us,
                   "assigned_us": times.assigned_us, "started_us": times.started_us,
                   "finished_us": times.finished_us, "delivered_us": times.delivered_us,
                   "began_us": times.run.began_us, "load_us": times.run.load_us,
                   "run_us": times.run.run_us, "store_us": times.run.store_us,
                   "now_us": times.now_us },
        "spans_us": { "held": spans.held, "queued": spans.queued, "on_engine": spans.on_engine,
                      "loading": spans.loading, "running": spans.running,
                      "storing": spans.storing, "delivering": spans.delivering,
                      "total": spans.total },
        "past": record.past.iter().map(|attempt| json!({
            "engine": attempt.engine.0, "assigned_us": attempt.assigned_us,
            "ended_us": attempt.ended_us, "how": attempt.how,
        })).collect::<Vec<_>>(),
    })
}

/// A span for a table; `-` if there is none.
pub fn span(us: Option<u64>) -> String {
    us.map_or("-".to_owned(), short)
}

#[cfg(test)]
pub mod tests {
    use furlong_wire::ids::{EngineId, SessionId, TaskId, TaskSeq};
    use furlong_wire::message::{Outcome, RecordTimes, RunTimes, Runtime};

    use super::*;

    /// A record of a task that has run and ended.
    pub fn ended() -> TaskRecord {
        TaskRecord {
            id: TaskId { session: SessionId([0; 16]), n: TaskSeq(7) },
            label: Some("night".into()),
            name: Some("render.py".into()),
            runtime: Runtime::Command,
            target: None,
            priority: 0,
            phase: TaskPhase::Ended,
            outcome: Some(Outcome::SUCCEEDED),
            waits: None,
            engine: Some(EngineId(2)),
            attempts: 1,
            losses: 0,
            errors: 0,
            request_bytes: 100,
            result_bytes: 10,
            stdout_bytes: 5,
            stderr_bytes: 0,
            kept: true,
            times: RecordTimes {
                submitted_unix_us: 1,
                queued_us: Some(100),
                assigned_us: Some(400),
                started_us: Some(500),
                finished_us: Some(1_000),
                delivered_us: Some(1_050),
                run: RunTimes { began_us: 60, load_us: 30, run_us: 450, store_us: 5 },
                now_us: 9_000,
            },
            past: Vec::new(),
        }
    }

    #[test]
    fn the_spans_of_a_task_that_ended_add_up_to_all_of_its_time() {
        let spans = Spans::of(&ended());
        let expected = Spans {
            held: 100,
            queued: Some(300),
            on_engine: Some(115),
            loading: Some(30),
            running: Some(450),
            storing: Some(5),
            delivering: Some(50),
            total: 1_050,
        };
        assert_eq!(spans, expected);
    }

    #[test]
    fn a_task_that_waits_has_no_spans_of_what_is_to_come() {
        let record = ended();
        let times = RecordTimes {
            assigned_us: None,
            started_us: None,
            finished_us: None,
            delivered_us: None,
            run: RunTimes::default(),
            ..record.times
        };
        let queued =
            TaskRecord { phase: TaskPhase::Queued, outcome: None, times, ..record.clone() };
        let spans = Spans::of(&queued);
        assert_eq!(
            (spans.held, spans.queued, spans.running, spans.total),
            (100, Some(8_900), None, 9_000)
        );
        let waiting = RecordTimes { queued_us: None, ..times };
        let spans = Spans::of(&TaskRecord {
            phase: TaskPhase::Waiting,
            outcome: None,
            times: waiting,
            ..record
        });
        assert_eq!((spans.held, spans.queued, spans.on_engine), (9_000, None, None));
    }
}
