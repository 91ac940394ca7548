//! A picture of the farm as JSON.

use furlong_wire::message::{
    EndSeen, EngineLoad, EngineSeen, ErrorKind, FailureSeen, FarmSeen, KindSeen, Note, OwnerSeen,
    PhaseTimes, SpanSeen,
};
use serde_json::{Value, json};

use super::{Picture, sentence};

/// All of a picture.
pub fn of_picture(picture: &Picture) -> Value {
    json!({
        "at_us": picture.at_us,
        "farm": farm(&picture.farm),
        "kinds": picture.kinds.values().map(|it| kind(picture, it)).collect::<Vec<_>>(),
        "engines": picture.engines.values().map(|it| engine(picture, it)).collect::<Vec<_>>(),
        "owners": picture.owners.iter().map(owner).collect::<Vec<_>>(),
        "notes": picture.notes.iter().map(|it| note(picture, it)).collect::<Vec<_>>(),
        "ends": picture.ends.iter().map(|it| end(picture, it)).collect::<Vec<_>>(),
        "ends_told": picture.ends_told, "ends_missed": picture.ends_missed,
        "failures": picture.failures.iter().map(|it| failure(picture, it)).collect::<Vec<_>>(),
    })
}

/// The farm as a whole.
pub fn farm(farm: &FarmSeen) -> Value {
    json!({
        "cluster": farm.cluster_name,
        "engines": {
            "online": farm.engines_online, "away": farm.engines_away, "busy": farm.engines_busy,
        },
        "clients": farm.clients,
        "tasks": {
            "waiting": farm.tasks_waiting, "held": farm.tasks_held, "assigned": farm.tasks_assigned,
            "results_held": farm.results_held, "submitted": farm.tasks_submitted,
            "ended": farm.tasks_ended, "failed": farm.tasks_failed,
            "cancelled": farm.tasks_cancelled, "retries": farm.retries,
        },
        "last_end_us": farm.last_end_us,
        "request_bytes": farm.request_bytes, "result_bytes": farm.result_bytes,
        "payload_bytes": { "held": farm.payload_bytes.0, "max": farm.payload_bytes.1 },
        "left_us": farm.left_us,
        "minute": phases(&farm.minute),
        "ends_per_s": farm.ends_per_s,
    })
}

fn phases(times: &PhaseTimes) -> Value {
    json!({
        "held_us": times.held_us, "queue_us": times.queue_us, "way_us": times.way_us,
        "began_us": times.run.began_us, "load_us": times.run.load_us, "run_us": times.run.run_us,
        "store_us": times.run.store_us,
    })
}

fn span(span: &SpanSeen) -> Value {
    json!({ "sum_us": span.sum_us, "p50_us": span.p50_us, "p95_us": span.p95_us })
}

/// A kind of task.
pub fn kind(picture: &Picture, kind: &KindSeen) -> Value {
    json!({
        "id": kind.id, "name": picture.kind_name(kind.id), "runtime": kind.runtime.as_str(),
        "owner": kind.owner.map(|owner| owner.to_string()),
        "submitted": kind.submitted, "waiting": Picture::waiting(kind), "running": kind.running,
        "ended": kind.ended, "failed": kind.failed, "retries": kind.retries,
        "request_bytes": kind.request_bytes, "result_bytes": kind.result_bytes,
        "queue": span(&kind.queue), "run": span(&kind.run), "overhead": span(&kind.overhead),
        "left_us": kind.left_us,
    })
}

/// An engine.
pub fn engine(picture: &Picture, engine: &EngineSeen) -> Value {
    let running = engine.running.map(|running| {
        json!({
            "task": running.task.map(|task| task.to_string()),
            "kind": picture.kind_name(running.kind), "kind_id": running.kind,
            "for_us": running.for_us,
        })
    });
    json!({
        "id": engine.id.0, "host": engine.host, "pid": engine.pid, "state": engine.state.as_str(),
        "running": running, "assigned": engine.assigned, "queued": engine.queued,
        "ended": engine.ended, "failed": engine.failed, "busy_us": engine.busy_us,
        "deaths": engine.deaths, "pace_percent": engine.pace_percent,
        "load": engine.load.map(|it| load(&it, picture.silent_us(engine))),
    })
}

/// The figures of an engine and its machine.
pub fn load(load: &EngineLoad, silent_us: Option<u64>) -> Value {
    let EngineLoad { heard_us, answer_us, slot, machine } = load;
    json!({
        "heard_us": heard_us, "silent_us": silent_us, "answer_us": answer_us,
        "cpu_percent": slot.cpu_percent, "resident_bytes": slot.resident_bytes,
        "machine": {
            "cores": machine.cores, "cpu_percent": machine.cpu_percent,
            "load": f64::from(machine.load_hundredths) / 100.0,
            "memory_bytes": machine.memory_bytes, "memory_free_bytes": machine.memory_free_bytes,
        },
    })
}

/// An owner of tasks.
pub fn owner(owner: &OwnerSeen) -> Value {
    json!({
        "owner": owner.owner.map(|owner| owner.to_string()), "sessions": owner.sessions,
        "submitted": owner.submitted, "ended": owner.ended, "failed": owner.failed,
        "busy_us": owner.busy_us, "request_bytes": owner.request_bytes,
        "result_bytes": owner.result_bytes,
    })
}

/// A note, with its sentence.
pub fn note(picture: &Picture, note: &Note) -> Value {
    json!({
        "note": note.code.as_str(), "says": sentence(note, picture),
        "kind": note.kind.map(|id| picture.kind_name(id)),
        "engine": note.engine.map(|id| id.0), "count": note.count, "percent": note.percent,
        "text": note.text,
    })
}

/// An ended task.
pub fn end(picture: &Picture, end: &EndSeen) -> Value {
    json!({
        "task": end.task.to_string(), "kind": picture.kind_name(end.kind), "kind_id": end.kind,
        "engine": end.engine.map(|id| id.0), "state": end.state.as_str(),
        "error": end.error.map(ErrorKind::as_str), "fingerprint": end.fingerprint,
        "attempts": end.attempts, "at_us": end.at_us, "phases": phases(&end.phases),
        "request_bytes": end.request_bytes, "result_bytes": end.result_bytes,
    })
}

/// Failures of one type at one place.
pub fn failure(picture: &Picture, failure: &FailureSeen) -> Value {
    json!({
        "error": failure.error.as_str(), "type": failure.type_name,
        "fingerprint": failure.fingerprint, "kind": picture.kind_name(failure.kind),
        "kind_id": failure.kind, "count": failure.count,
        "first_us": failure.first_us, "last_us": failure.last_us,
        "engines": failure.engines.iter().map(|id| id.0).collect::<Vec<_>>(),
        "sample": failure.sample.map(|task| task.to_string()),
    })
}
