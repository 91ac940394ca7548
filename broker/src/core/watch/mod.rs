//! What can be seen of the farm: sums that are exact, the last ends, and the answer to a look.
//!
//! Who watches asks ([`Core::look`]); nothing is made or kept for a viewer. A task pays for being
//! seen with one record of its end and a few additions, watched or not.

pub(in crate::core) mod ends;
pub(in crate::core) mod kinds;
mod left;
mod look;
mod notes;
mod series;
mod spans;
pub(in crate::core) mod sums;
#[cfg(test)]
mod tests;

use furlong_wire::ids::{TaskId, TaskSeq};
use furlong_wire::message::{PhaseTimes, RunTimes, Runtime};

use super::keys::SessionKey;
use super::payloads::stored::Stored;
use super::tasks::ended::EndedTask;
use super::{Core, Time};
use ends::{EndRecord, Ends};
use kinds::{KindId, Kinds};
use series::{Series, Standing};
use sums::Owners;

/// Tasks over which an engine's pace goes.
const PACE_RUNS: f32 = 32.0;
/// The usual run of tasks by which engines are compared, at least, in microseconds.
const PACED_RUN_LEAST_US: u64 = 1_000;
/// A part of a task's time on an engine is taken to be less than two to the power of this, in
/// microseconds: 12 days. The engine says how long it was, and sums are not to overflow by one.
const LONGEST_BITS: u32 = 40;

/// All that is counted for those who look.
#[derive(Debug, Default)]
pub(in crate::core) struct Watch {
    pub(in crate::core) kinds: Kinds,
    ends: Ends,
    series: Series,
    owners: Owners,
    /// The number of looks so far: what changes is marked with it.
    looks: u64,
}

/// What is counted of an engine for those who look.
#[derive(Debug, Default)]
pub(in crate::core) struct EngineCounts {
    /// The look before it changed last.
    pub changed: u64,
    /// Tasks of those that it has ended which did not succeed.
    pub failed: u64,
    /// The number of its interpreters that have ended unasked.
    pub deaths: u32,
    /// Its pace.
    pace: Pace,
}

/// The time that an engine takes for its tasks, beside what is usual for such tasks: both as sums
/// in which the last runs weigh most.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    run_us: f32,
    usual_us: f32,
    runs: u32,
}

impl Pace {
    fn add(&mut self, run_us: u64, usual_us: u64) {
        // Of what takes no time, the machine's swings are all that would be seen.
        if usual_us < PACED_RUN_LEAST_US {
            return;
        }
        let fade = 1.0 - 1.0 / PACE_RUNS;
        self.run_us = self.run_us * fade + run_us as f32;
        self.usual_us = self.usual_us * fade + usual_us as f32;
        self.runs = self.runs.saturating_add(1);
    }
}

impl Core {
    /// The kind of a session's tasks, by the client's number for it.
    pub(in crate::core) fn seen_kind(
        &mut self,
        key: SessionKey,
        runtime: Runtime,
        class: u32,
    ) -> KindId {
        let session = self.sessions.get_mut(key).expect("a session outlives its tasks");
        let seen = &mut session.kinds.seen;
        if let Some((of, number, kind)) = seen.last
            && (of, number) == (runtime, class)
        {
            return kind;
        }
        let name = session.kinds.names.get(runtime, class).map_or("", |name| name);
        let kind = self.tally.watch.kinds.find(session.claims.owner, runtime, name);
        seen.last = Some((runtime, class, kind));
        seen.owner = self.tally.watch.owners.find(session.claims.owner);
        kind
    }

    /// Tasks of a kind were submitted, or come from the journal.
    pub(in crate::core) fn see_submitted(
        &mut self,
        now: Time,
        key: SessionKey,
        kind: KindId,
        tasks: u64,
    ) {
        self.close_seconds(now);
        let session = self.sessions.get(key).expect("a session outlives its tasks");
        let watch = &mut self.tally.watch;
        watch.kinds.submitted(kind, tasks, watch.looks);
        watch.owners.submitted(session.kinds.seen.owner, tasks);
    }

    /// A task has ended.
    pub(in crate::core) fn see_end(
        &mut self,
        now: Time,
        (key, n): (SessionKey, TaskSeq),
        kind: KindId,
        has_run: bool,
        done: &EndedTask,
    ) {
        self.close_seconds(now);
        let result_bytes = self.result_of(done).map_or(0, Stored::bytes);
        let session = self.sessions.get(key).expect("a session outlives its tasks");
        let error = done.outcome.error.as_deref();
        let fingerprint = error.and_then(|error| error.raised.as_ref());
        let fingerprint = fingerprint.map_or(0, |raised| raised.fingerprint);
        let watch = &mut self.tally.watch;
        let end = watch.ends.push(
            EndRecord {
                task: TaskId { session: session.id, n },
                owner: session.owner(),
                kind,
                engine: done.engine,
                has_run,
                state: done.outcome.state,
                error: error.map(|error| (error.kind, fingerprint)),
                attempts: done.attempts,
                at_us: now.0,
                phases: phases(done),
                request_bytes: done.what.request_bytes,
                result_bytes,
            },
            error,
        );
        watch.owners.ended(session.kinds.seen.owner, end);
        let usual_us = watch.kinds.ended(end, watch.looks);
        if let Some(engine) = end.engine {
            let (run_us, failed) = (end.phases.run.run_us, end.has_failed());
            self.engines.count(engine, |counts| {
                counts.failed += u64::from(failed);
                // What has failed says nothing of how fast the engine is.
                if has_run && !failed {
                    counts.pace.add(run_us, usual_us);
                }
            });
        }
    }

    /// Closes the seconds that are over. What ended before that was as it stands.
    fn close_seconds(&mut self, now: Time) {
        if self.tally.watch.series.is_due(now) {
            let standing = self.farm_stands();
            let watch = &mut self.tally.watch;
            watch.series.advance(now, watch.owners.total(), standing);
        }
    }

    fn farm_stands(&self) -> Standing {
        Standing {
            unfinished: self.tasks.len() as u64,
            assigned: self.attempts.len() as u64,
            engines: self.engines.online().count() as u64,
        }
    }
}

#[cfg(any(test, feature = "invariants"))]
impl Watch {
    /// Checks that all sums agree, and leave so many unfinished tasks.
    ///
    /// # Panics
    /// If one is not.
    pub(in crate::core) fn hold(&self, unfinished: u64) {
        let total = self.owners.total();
        assert_eq!(total.submitted - total.ended, unfinished, "of all owners");
        let kinds =
            self.kinds.from(0).map(|(_, kind)| (kind.unfinished(), kind.ended, kind.failed));
        let of_kinds = kinds.fold((0, 0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1, sum.2 + it.2));
        assert_eq!(of_kinds, (unfinished, total.ended, total.failed), "of all kinds");
        assert_eq!(self.ends.next(), total.ended, "each end is remembered once");
    }
}

/// The time that a task has spent in each phase.
fn phases(done: &EndedTask) -> PhaseTimes {
    let times = &done.times;
    let run = of_days(times.run);
    let held_us = done.what.queued_us.min(times.finished_us);
    let Some(assigned_us) = times.assigned_us else {
        return PhaseTimes {
            held_us,
            queue_us: times.finished_us - held_us,
            ..PhaseTimes::default()
        };
    };
    let at_engine = times.finished_us.saturating_sub(assigned_us);
    let measured = run.began_us + run.busy_us();
    PhaseTimes {
        held_us,
        queue_us: assigned_us.saturating_sub(held_us),
        way_us: at_engine.saturating_sub(measured),
        run,
    }
}

/// Times as they are, unless one of them is absurd.
fn of_days(run: RunTimes) -> RunTimes {
    let RunTimes { began_us, load_us, run_us, store_us } = run;
    if (began_us | load_us | run_us | store_us) >> LONGEST_BITS == 0 {
        return run;
    }
    let at_most = |us: u64| us.min((1 << LONGEST_BITS) - 1);
    RunTimes {
        began_us: at_most(began_us),
        load_us: at_most(load_us),
        run_us: at_most(run_us),
        store_us: at_most(store_us),
    }
}
