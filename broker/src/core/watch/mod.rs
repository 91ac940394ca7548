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
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use furlong_wire::ids::{OwnerId, TaskId, TaskSeq};
use furlong_wire::message::{PhaseTimes, Runtime, SeriesRow, TaskState};

use super::engines::measured::Questions;
use super::keys::SessionKey;
use super::payloads::stored::Stored;
use super::tasks::ended::EndedTask;
use super::{Core, Time};
use ends::{EndRecord, Ends};
use kinds::{KindId, Kinds};
use series::{Series, Standing};

/// Owners that are told apart.
const OWNERS_MAX: usize = 256;
/// Tasks over which an engine's pace goes.
const PACE_RUNS: f32 = 32.0;
/// The usual run of tasks by which engines are compared, at least, in microseconds.
const PACED_RUN_LEAST_US: u64 = 1_000;

/// All that is counted for those who look.
#[derive(Debug, Default)]
pub(in crate::core) struct Watch {
    pub(in crate::core) kinds: Kinds,
    ends: Ends,
    series: Series,
    owners: BTreeMap<OwnerId, OwnerSums>,
    totals: Totals,
    /// The number of looks so far: what changes is marked with it.
    looks: u64,
    /// The questions for figures of machines.
    pub(in crate::core) questions: Questions,
}

/// Sums over all tasks.
#[derive(Debug, Default)]
struct Totals {
    submitted: u64,
    ended: u64,
    failed: u64,
    cancelled: u64,
    retries: u64,
    request_bytes: u64,
    result_bytes: u64,
    last_end: Option<Time>,
}

/// Sums over an owner's tasks.
#[derive(Clone, Copy, Debug, Default)]
struct OwnerSums {
    submitted: u64,
    ended: u64,
    failed: u64,
    busy_us: u64,
    request_bytes: u64,
    result_bytes: u64,
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

impl Watch {
    /// So many tasks of a kind were submitted, for an owner.
    fn submitted(&mut self, kind: KindId, owner: OwnerId, tasks: u64) {
        self.totals.submitted += tasks;
        self.kinds.submitted(kind, tasks, self.looks);
        self.owner(owner).submitted += tasks;
    }

    /// The sums of an owner. Those of further owners are those of nobody.
    fn owner(&mut self, owner: OwnerId) -> &mut OwnerSums {
        let is_told_apart = self.owners.len() < OWNERS_MAX || self.owners.contains_key(&owner);
        self.owners.entry(if is_told_apart { owner } else { OwnerId::default() }).or_default()
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
        if let Some((of, number, kind)) = session.kinds.last_seen
            && (of, number) == (runtime, class)
        {
            return kind;
        }
        let name = session.kinds.names.get(runtime, class).map_or("", |name| name);
        let kind = self.tally.watch.kinds.find(session.claims.owner, runtime, name);
        session.kinds.last_seen = Some((runtime, class, kind));
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
        let owner = self.sessions.get(key).expect("a session outlives its tasks").owner();
        self.tally.watch.submitted(kind, owner, tasks);
        self.this_second(now).submitted += tasks as f32;
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
        let session = self.sessions.get(key).expect("a session outlives its tasks");
        let (owner, id) = (session.owner(), session.id);
        let error = done.outcome.error.as_deref();
        let fingerprint = error.and_then(|error| error.raised.as_ref());
        let fingerprint = fingerprint.map_or(0, |raised| raised.fingerprint);
        let result_bytes = self.result_of(done).map_or(0, Stored::bytes);
        let end = EndRecord {
            task: TaskId { session: id, n },
            owner,
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
        };
        self.count_end(now, &end);
        self.tally.watch.ends.push(end, error);
    }

    fn count_end(&mut self, now: Time, end: &EndRecord) {
        let watch = &mut self.tally.watch;
        let (failed, run) = (end.has_failed(), end.phases.run);
        watch.kinds.ended(end, watch.looks);
        let totals = &mut watch.totals;
        totals.ended += 1;
        totals.failed += u64::from(failed);
        totals.cancelled += u64::from(end.state == TaskState::Cancelled);
        totals.retries += u64::from(end.attempts.saturating_sub(1));
        totals.request_bytes += end.request_bytes;
        totals.result_bytes += end.result_bytes;
        totals.last_end = Some(now);
        let owner = watch.owner(end.owner);
        owner.ended += 1;
        owner.failed += u64::from(failed);
        owner.busy_us = owner.busy_us.saturating_add(run.busy_us());
        owner.request_bytes += end.request_bytes;
        owner.result_bytes += end.result_bytes;
        let usual_us = watch.kinds.get(end.kind).usual_run_us;
        let seconds = |us: u64| us as f32 / 1e6;
        let row = self.this_second(now);
        row.ended += 1.0;
        row.failed += f32::from(u8::from(failed));
        row.queue_s += seconds(end.phases.queue_us);
        row.began_s += seconds(run.began_us);
        row.way_s += seconds(end.phases.way_us);
        row.load_s += seconds(run.load_us);
        row.run_s += seconds(run.run_us);
        row.store_s += seconds(run.store_us);
        row.request_bytes += end.request_bytes as f32;
        row.result_bytes += end.result_bytes as f32;
        if let Some(engine) = end.engine {
            self.engines.update(engine, |engine| {
                engine.counts.failed += u64::from(failed);
                // What has failed says nothing of how fast the engine is.
                if end.has_run && !failed {
                    engine.counts.pace.add(run.run_us, usual_us);
                }
            });
        }
    }

    /// The sums of the present second.
    fn this_second(&mut self, now: Time) -> &mut SeriesRow {
        let Self { tally, tasks, attempts, engines, .. } = self;
        tally.watch.series.at(now, || Standing {
            unfinished: tasks.len() as u64,
            assigned: attempts.len() as u64,
            engines: engines.online().count() as u64,
        })
    }
}

#[cfg(any(test, feature = "invariants"))]
impl Watch {
    /// Checks that all sums agree, and leave so many unfinished tasks.
    ///
    /// # Panics
    /// If one is not.
    pub(in crate::core) fn hold(&self, unfinished: u64) {
        let Totals { submitted, ended, .. } = self.totals;
        assert_eq!(submitted - ended, unfinished, "of all tasks");
        let kinds =
            self.kinds.from(0).map(|(_, kind)| (kind.unfinished(), kind.ended, kind.failed));
        let of_kinds = kinds.fold((0, 0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1, sum.2 + it.2));
        assert_eq!(of_kinds, (unfinished, ended, self.totals.failed), "of all kinds");
        let owners = self.owners.values().map(|it| (it.submitted - it.ended, it.ended, it.failed));
        let of_owners =
            owners.fold((0, 0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1, sum.2 + it.2));
        assert_eq!(of_owners, of_kinds, "of all owners");
        assert_eq!(self.ends.next(), ended, "each end is remembered once");
    }
}

/// The time that a task has spent in each phase.
fn phases(done: &EndedTask) -> PhaseTimes {
    let times = &done.times;
    let held_us = done.what.queued_us.min(times.finished_us);
    let Some(assigned_us) = times.assigned_us else {
        return PhaseTimes {
            held_us,
            queue_us: times.finished_us - held_us,
            ..PhaseTimes::default()
        };
    };
    let at_engine = times.finished_us.saturating_sub(assigned_us);
    let measured = times.run.began_us.saturating_add(times.run.busy_us());
    PhaseTimes {
        held_us,
        queue_us: assigned_us.saturating_sub(held_us),
        way_us: at_engine.saturating_sub(measured),
        run: times.run,
    }
}
