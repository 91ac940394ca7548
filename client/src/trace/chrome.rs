//! Traces as the JSON of Chrome's `chrome://tracing`, which many programs read.
//!
//! Processes and threads are integers, each with an event that names it: some readers take nothing
//! else.

use serde_json::{Value, json};

use super::perfetto::failure;
use super::{Trace, TracedTask};

/// The process of the counters; those of hosts come after it.
const FARM: u64 = 1;

/// The trace as JSON, an event on each line.
pub(super) fn written(trace: &Trace) -> String {
    let mut out = Events::default();
    out.event(&json!({ "ph": "M", "name": "process_name", "pid": FARM, "tid": 0,
                       "args": { "name": format!("Furlong: {}", trace.cluster) } }));
    let (mut pid, mut host) = (FARM, None);
    let mut tid = 0_u64;
    for engine in &trace.engines {
        if host != Some(&engine.host) {
            (pid, host) = (pid + 1, Some(&engine.host));
            let name = trace.host_name(engine);
            out.event(&json!({ "ph": "M", "name": "process_name", "pid": pid, "tid": 0,
                               "args": { "name": name } }));
        }
        for (lane, slices) in engine.lanes.iter().enumerate() {
            tid += 1;
            let lent = if lane == 0 { "" } else { " (lent)" };
            let name = format!("engine {}{lent}", engine.id);
            out.event(&json!({ "ph": "M", "name": "thread_name", "pid": pid, "tid": tid,
                               "args": { "name": name } }));
            for slice in slices {
                let task = &trace.tasks[slice.task];
                out.event(&json!({ "ph": "X", "name": trace.name(task), "cat": task.state_text(),
                                   "pid": pid, "tid": tid, "ts": slice.start_us,
                                   "dur": slice.end_us - slice.start_us, "args": args(task) }));
                for (part, start_us, end_us) in slice.parts() {
                    out.event(&json!({ "ph": "X", "name": part, "cat": "part", "pid": pid,
                                       "tid": tid, "ts": start_us, "dur": end_us - start_us }));
                }
                if task.has_failed() {
                    out.event(
                        &json!({ "ph": "i", "s": "t", "name": failure(task), "cat": "failure",
                                       "pid": pid, "tid": tid, "ts": slice.end_us }),
                    );
                }
            }
        }
    }
    for counter in &trace.counters {
        for (at_us, value) in &counter.points {
            out.event(&json!({ "ph": "C", "name": counter.name, "pid": FARM, "tid": 0,
                               "ts": at_us, "args": { "value": value } }));
        }
    }
    let about = json!({ "cluster": trace.cluster, "extent": trace.extent(),
                        "tasks": trace.tasks.len(), "forgotten": trace.forgotten,
                        "zero_unix_us": trace.zero_unix_us });
    format!(
        "{{\"displayTimeUnit\":\"ms\",\"otherData\":{about},\"traceEvents\":[\n{}\n]}}\n",
        out.0
    )
}

fn args(task: &TracedTask) -> Value {
    let times = &task.times;
    let run = &times.run;
    json!({
        "task": task.id.to_string(), "state": task.state_text(), "error": task.error,
        "attempts": task.attempts, "submitted_us": times.submitted_us,
        "queued_us": times.queued_us, "assigned_us": times.assigned_us,
        "ended_us": times.ended_us, "began_us": run.began_us, "load_us": run.load_us,
        "run_us": run.run_us, "store_us": run.store_us,
        "request_bytes": task.bytes.0, "result_bytes": task.bytes.1,
    })
}

#[derive(Default)]
struct Events(String);

impl Events {
    fn event(&mut self, event: &Value) {
        if !self.0.is_empty() {
            self.0.push_str(",\n");
        }
        self.0.push_str(&event.to_string());
    }
}
