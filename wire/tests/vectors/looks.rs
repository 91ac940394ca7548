//! Looks at the farm, and what they show.

use super::*;

fn place() -> LookPlace {
    LookPlace { start: START, told: 2, began: 3, kind: 0, engine: Some(EngineId(3)), ends: 5 }
}

pub(super) fn look() -> Look {
    let series = Some(SeriesStep::Second);
    let wanted = Look { ends: true, failures: true, series, ..Look::default() };
    Look { since: Some(place()), ..wanted }
}

/// A look that wants figures of machines, which is one field longer.
pub(super) fn look_for_loads() -> Look {
    Look { loads: true, ..look() }
}

pub(super) fn seen_with_loads() -> Seen {
    let load = EngineLoad { heard_us: 700, answer_us: 90, slot: SLOT_LOAD, machine: MACHINE };
    Seen { engines: vec![EngineSeen { load: Some(load), ..engine_seen() }], ..seen() }
}

const PHASES: PhaseTimes = PhaseTimes { held_us: 1, queue_us: 2, way_us: 3, run: RUN };

pub(super) fn seen() -> Seen {
    Seen {
        at_us: 900,
        place: place(),
        is_new: false,
        has_more: true,
        farm: FarmSeen {
            cluster_name: "default".to_owned(),
            engines_online: 1,
            tasks_submitted: 2,
            last_end_us: Some(800),
            left_us: Some((1, 2)),
            minute: PHASES,
            ends_per_s: vec![0, 1],
            ..FarmSeen::default()
        },
        kinds: vec![kind_seen()],
        engines: vec![engine_seen()],
        gone: vec![EngineId(2)],
        owners: vec![OwnerSeen {
            owner: None,
            sessions: 1,
            submitted: 2,
            ended: 1,
            failed: 1,
            busy_us: 3,
            request_bytes: 10,
            result_bytes: 0,
        }],
        notes: vec![Note {
            code: NoteCode::SlowEngine,
            kind: None,
            engine: Some(EngineId(3)),
            count: 1,
            percent: 300,
            text: String::new(),
        }],
        ends: vec![end_seen()],
        ends_missed: 0,
        failures: vec![failure_seen()],
        series: vec![SeriesRow { ended: 1.0, ..SeriesRow::default() }],
    }
}

fn kind_seen() -> KindSeen {
    let span = |ranges| SpanSeen { count: 1, sum_us: 9, p50_us: 8, p95_us: 8, ranges };
    KindSeen {
        id: 1,
        owner: Some(OwnerId([5; 16])),
        runtime: Runtime::Python,
        name: Some("fit".to_owned()),
        submitted: 2,
        running: 1,
        ended: 1,
        failed: 1,
        retries: 0,
        request_bytes: 10,
        result_bytes: 0,
        queue: span(Vec::new()),
        run: span(vec![0, 1]),
        overhead: span(Vec::new()),
        left_us: None,
    }
}

pub(super) const MACHINE: MachineLoad = MachineLoad {
    cores: 8,
    cpu_percent: Some(40),
    load_hundredths: 325,
    memory_bytes: 1 << 36,
    memory_free_bytes: 1 << 35,
};
pub(super) const SLOT_LOAD: SlotLoad = SlotLoad { cpu_percent: Some(97), resident_bytes: 1 << 26 };

fn engine_seen() -> EngineSeen {
    EngineSeen {
        id: EngineId(3),
        host: "lab1".to_owned(),
        pid: 7,
        state: EngineState::Busy,
        running: Some(RunningSeen { task: Some(TASK), kind: 1, for_us: 4 }),
        assigned: 1,
        queued: 0,
        ended: 1,
        failed: 1,
        busy_us: 3,
        deaths: 0,
        pace_percent: Some(100),
        load: None,
    }
}

fn end_seen() -> EndSeen {
    EndSeen {
        task: TASK,
        kind: 1,
        engine: Some(EngineId(3)),
        state: TaskState::Failed,
        error: Some(ErrorKind::Remote),
        fingerprint: 0x0102_0304,
        attempts: 1,
        at_us: 800,
        phases: PHASES,
        request_bytes: 10,
        result_bytes: 0,
    }
}

fn failure_seen() -> FailureSeen {
    FailureSeen {
        error: ErrorKind::Remote,
        type_name: "ValueError".to_owned(),
        fingerprint: 0x0102_0304,
        kind: 1,
        count: 1,
        first_us: 800,
        last_us: 800,
        engines: vec![EngineId(3)],
        sample: Some(TASK),
    }
}
