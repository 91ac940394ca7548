//! The answer to a look.
//!
//! A viewer goes through kinds and engines in rounds: each answer has those that have changed since
//! the round before the present one began, as many as fit a page. So none that changed is left out,
//! and very many engines are told in a few looks. The place is the viewer's; a wrong one shows it
//! less, or the same again.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use furlong_wire::ids::{EngineId, OwnerId, TaskId};
use furlong_wire::limits::PAGE_BYTES_TARGET;
use furlong_wire::message::{
    EngineSeen, EngineState, FailureSeen, FarmSeen, KindSeen, Look, LookPlace, OwnerSeen,
    PhaseTimes, ReplyBody, RunTimes, RunningSeen, Seen, SeriesRow,
};

use super::Pace;
use super::kinds::{Kind, KindId};
use super::left::Work;
use crate::core::engines::engine::Engine;
use crate::core::keys::SessionKey;
use crate::core::sessions::table::Session;
use crate::core::{Connected, Core, Time};

/// Ends that one answer has at most.
const ENDS_TOLD_MAX: usize = 400;
/// Bytes that an ended task has on the wire, about.
const END_BYTES: usize = 110;
/// Failures that one answer has at most.
const FAILURES_TOLD_MAX: usize = 64;
/// Bytes that kind and engine have on the wire beside their texts, about.
const ENTRY_BYTES: usize = 120;
/// Bytes that the distributions of a kind have on the wire, about.
const RANGES_BYTES: usize = 600;
/// What it costs to say of a kind how it is, three times.
const KINDS_WORK: usize = 3;
/// Seconds of which ends are told one by one, and over which phases are summed.
const MINUTE_S: u64 = 60;
/// Runs after which an engine's pace is told.
const PACE_RUNS_LEAST: u32 = 20;

/// A viewer's rights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    /// The owner whose names and tasks it may see; all for none.
    only: Option<OwnerId>,
}

impl Rights {
    pub(super) fn may_see(self, owner: OwnerId) -> bool {
        self.only.is_none_or(|only| only == owner)
    }
}

/// What all engines run at this moment.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// For each kind the number of tasks, and for how long the oldest has run.
    kinds: BTreeMap<KindId, (u32, u64)>,
    online: u32,
    away: u32,
    busy: u32,
    /// Engines that are stuck.
    pub(super) stuck: Vec<EngineId>,
    /// Engines that are set aside for some work.
    pub(super) aside: Vec<EngineId>,
    /// Engines' paces, in per cent.
    pub(super) paces: Vec<(u32, EngineId)>,
    /// Engines whose interpreters have ended unasked, and how often.
    pub(super) deaths: Vec<(u32, EngineId)>,
}

impl Core {
    /// Answers a look.
    pub(in crate::core) fn look(&mut self, now: Time, key: SessionKey, look: &Look) -> ReplyBody {
        self.close_seconds(now);
        self.tally.watch.looks += 1;
        self.engines.note_look(self.tally.watch.looks);
        let claims = &self.sessions.get(key).expect("who asks has a session").claims;
        let rights = Rights { only: (!claims.role.may_look_at_all()).then_some(claims.owner) };
        let first = LookPlace {
            start: self.config.start,
            told: 0,
            began: self.tally.watch.looks,
            kind: 0,
            engine: None,
            ends: self.tally.watch.ends.next(),
        };
        let since = look.since.filter(|since| since.start == self.config.start);
        let mut place = since.unwrap_or(first);
        let running = self.what_runs(now);
        // For the time left and the notes all kinds are gone through.
        self.turns.work.add(KINDS_WORK * self.tally.watch.kinds.len());
        let mut room = Room(PAGE_BYTES_TARGET);
        let (ends, ends_missed) =
            if look.ends { self.ends_seen(&mut place, rights, &mut room) } else { (Vec::new(), 0) };
        let from = place.told;
        let kinds = self.kinds_seen(&mut place, rights, (&running, look.ranges), &mut room);
        let engines = self.engines_seen(now, &mut place, rights, &mut room);
        let gone = self.engines.went_since(from);
        let gone = if since.is_some() { gone.collect() } else { Vec::new() };
        let has_more = !room.has_any();
        let seen = Seen {
            at_us: now.0,
            place,
            is_new: since.is_none(),
            has_more,
            farm: self.farm_seen(&running),
            kinds,
            engines,
            gone,
            owners: self.owners_seen(rights),
            notes: self.notes(now, rights, &running),
            ends,
            ends_missed,
            failures: if look.failures { self.failures_seen(rights) } else { Vec::new() },
            series: look
                .series
                .map(|step| self.tally.watch.series.steps(step).iter().copied().collect())
                .unwrap_or_default(),
        };
        ReplyBody::Seen(Box::new(seen))
    }

    /// Looks at every engine once.
    fn what_runs(&self, now: Time) -> Running {
        let mut running = Running::default();
        for (id, engine) in self.engines.iter() {
            self.turns.work.add(1);
            let online = engine.process.is_some();
            running.online += u32::from(online);
            running.away += u32::from(!online);
            if let Some((_, kind, for_us)) = self.runs_now(now, engine) {
                running.busy += 1;
                let of_kind = running.kinds.entry(kind).or_default();
                *of_kind = (of_kind.0 + 1, of_kind.1.max(for_us));
            }
            if engine.work.assigned.front().is_some_and(|attempt| self.is_stuck(*attempt)) {
                running.stuck.push(id);
            }
            if engine.own_class.is_some() {
                running.aside.push(id);
            }
            if let Some(percent) = engine.counts.pace.percent() {
                running.paces.push((percent, id));
            }
            if engine.counts.deaths > 0 {
                running.deaths.push((engine.counts.deaths, id));
            }
        }
        running
    }

    /// The task that an engine runs, with its kind and for how long the engine has had it.
    fn runs_now(&self, now: Time, engine: &Engine) -> Option<((SessionKey, TaskId), KindId, u64)> {
        let attempt = self.attempts.get(*engine.work.assigned.front()?)?;
        let task = self.tasks.get(attempt.task)?;
        let session = self.sessions.get(task.session)?;
        let for_us = task.times.assigned.map_or(0, |at| now.micros_since(at));
        Some(((task.session, TaskId { session: session.id, n: task.n }), task.kind.id, for_us))
    }

    fn ends_seen(
        &self,
        place: &mut LookPlace,
        rights: Rights,
        room: &mut Room,
    ) -> (Vec<furlong_wire::message::EndSeen>, u64) {
        let (missed, ends) = self.tally.watch.ends.from(place.ends, rights.only);
        let mut told = Vec::new();
        place.ends = self.tally.watch.ends.next();
        let mut ends = ends.peekable();
        while let Some((next, end)) = ends.next() {
            self.turns.work.add(1);
            told.push(end);
            // Half of the page is for what has changed.
            if told.len() == ENDS_TOLD_MAX && ends.peek().is_some() {
                place.ends = next;
                room.fill();
                break;
            }
        }
        room.take(told.len() * END_BYTES);
        (told, missed)
    }

    fn kinds_seen(
        &self,
        place: &mut LookPlace,
        rights: Rights,
        (running, ranges): (&Running, bool),
        room: &mut Room,
    ) -> Vec<KindSeen> {
        let mut told = Vec::new();
        for (id, kind) in self.tally.watch.kinds.from(place.kind) {
            if !room.has_any() {
                break;
            }
            place.kind = u32::from(id.0) + 1;
            self.turns.work.add(1);
            if kind.changed < place.told || kind.submitted == 0 {
                continue;
            }
            room.take(ENTRY_BYTES + kind.name.len() + if ranges { RANGES_BYTES } else { 0 });
            told.push(kind_seen(id, kind, rights, running, ranges));
        }
        told
    }

    fn engines_seen(
        &self,
        now: Time,
        place: &mut LookPlace,
        rights: Rights,
        room: &mut Room,
    ) -> Vec<EngineSeen> {
        let mut told = Vec::new();
        for (id, engine) in self.engines.iter_after(place.engine) {
            if !room.has_any() {
                return told;
            }
            self.turns.work.add(1);
            place.engine = Some(id);
            if engine.counts.changed >= place.told {
                let seen = self.engine_seen(now, id, engine, rights);
                room.take(ENTRY_BYTES + seen.host.len());
                told.push(seen);
            }
        }
        // The round is over, and the next one begins.
        if room.has_any() {
            (place.told, place.began) = (place.began, self.tally.watch.looks);
            (place.kind, place.engine) = (0, None);
        }
        told
    }

    fn engine_seen(&self, now: Time, id: EngineId, engine: &Engine, rights: Rights) -> EngineSeen {
        let process = engine.process.and_then(|key| self.processes.get(&key));
        let register = process.and_then(|process| process.register.as_ref());
        let running = self.runs_now(now, engine).map(|((session, task), kind, for_us)| {
            let owner = self.sessions.get(session).map(Session::owner);
            let is_own = owner.is_some_and(|owner| rights.may_see(owner));
            RunningSeen { task: is_own.then_some(task), kind: u32::from(kind.0), for_us }
        });
        let is_stuck = engine.work.assigned.front().is_some_and(|attempt| self.is_stuck(*attempt));
        let state = match process {
            None => EngineState::Away,
            Some(_) if is_stuck => EngineState::Stuck,
            Some(_) if engine.restarting => EngineState::Restarting,
            Some(process) if process.leaving => EngineState::Leaving,
            Some(_) if engine.work.assigned.is_empty() => EngineState::Idle,
            Some(_) => EngineState::Busy,
        };
        EngineSeen {
            id,
            host: register.map(|register| register.host.clone()).unwrap_or_default(),
            pid: register.map_or(0, |register| register.pid),
            state,
            running,
            assigned: engine.work.assigned.len() as u32,
            queued: engine.queue.len() as u32,
            ended: engine.finished,
            failed: engine.counts.failed,
            busy_us: engine.busy_us,
            deaths: engine.counts.deaths,
            pace_percent: engine.counts.pace.percent(),
        }
    }

    fn farm_seen(&self, running: &Running) -> FarmSeen {
        let totals = self.tally.watch.owners.total();
        let clients =
            self.peers.connections.values().filter(|it| matches!(it, Connected::Client(_))).count();
        self.turns.work.add(self.peers.connections.len());
        let assigned = self.attempts.len() as u64;
        let unfinished = self.tasks.len() as u64;
        let work = self.tally.watch.kinds.from(0).map(|(id, kind)| {
            let (runs, oldest_us) = running.kinds.get(&id).copied().unwrap_or_default();
            Work::of(kind, runs, oldest_us)
        });
        let work = work.fold(Work::default(), Work::and);
        let waits = unfinished.saturating_sub(u64::from(running.busy)) > 0;
        let engines = if waits { running.online } else { running.busy };
        let present = self.tally.watch.series.present(&totals, self.farm_stands());
        let rows = self.tally.watch.series.last(MINUTE_S).chain([&present]);
        let rows: Vec<&SeriesRow> = rows.collect();
        let sum = |of: fn(&SeriesRow) -> f32| {
            (rows.iter().map(|row| f64::from(of(row))).sum::<f64>() * 1e6) as u64
        };
        let minute = PhaseTimes {
            held_us: 0,
            queue_us: sum(|row| row.queue_s),
            way_us: sum(|row| row.way_s),
            run: RunTimes {
                began_us: sum(|row| row.began_s),
                load_us: sum(|row| row.load_s),
                run_us: sum(|row| row.run_s),
                store_us: sum(|row| row.store_s),
            },
        };
        FarmSeen {
            cluster_name: self.config.cluster_name.clone(),
            engines_online: running.online,
            engines_away: running.away,
            engines_busy: running.busy,
            clients: clients as u32,
            tasks_waiting: unfinished.saturating_sub(assigned + self.waiting.held),
            tasks_held: self.waiting.held,
            tasks_assigned: assigned,
            results_held: self.tally.results_held,
            tasks_submitted: totals.submitted,
            tasks_ended: totals.ended,
            tasks_failed: totals.failed,
            tasks_cancelled: totals.cancelled,
            retries: totals.retries,
            last_end_us: self.tally.watch.ends.last_us(),
            request_bytes: totals.request_bytes,
            result_bytes: totals.result_bytes,
            payload_bytes: self.memory.budget.state(),
            left_us: work.left(engines),
            minute,
            ends_per_s: rows.iter().map(|row| row.ended as u32).collect(),
        }
    }

    fn owners_seen(&self, rights: Rights) -> Vec<OwnerSeen> {
        let mut sessions: BTreeMap<OwnerId, u32> = BTreeMap::new();
        for (_, session) in self.sessions.iter() {
            self.turns.work.add(1);
            *sessions.entry(session.owner()).or_default() += 1;
        }
        let mut told: BTreeMap<Option<OwnerId>, OwnerSeen> = BTreeMap::new();
        for (owner, sums) in self.tally.watch.owners.iter() {
            let shown = rights.may_see(*owner).then_some(*owner);
            let seen = told.entry(shown).or_insert_with(|| nothing_of(shown));
            seen.sessions += sessions.get(owner).copied().unwrap_or_default();
            seen.submitted += sums.submitted;
            seen.ended += sums.ended;
            seen.failed += sums.failed;
            seen.busy_us += sums.busy_us();
            seen.request_bytes += sums.request_bytes;
            seen.result_bytes += sums.result_bytes;
        }
        told.into_values().collect()
    }

    fn failures_seen(&self, rights: Rights) -> Vec<FailureSeen> {
        let latest = self.tally.watch.ends.failures().latest();
        self.turns.work.add(latest.len());
        let latest = latest.into_iter().filter(|failure| rights.may_see(failure.owner));
        latest.take(FAILURES_TOLD_MAX).map(|failure| failure.seen.clone()).collect()
    }
}

fn kind_seen(id: KindId, kind: &Kind, rights: Rights, running: &Running, ranges: bool) -> KindSeen {
    let (runs, oldest_us) = running.kinds.get(&id).copied().unwrap_or_default();
    let is_own = rights.may_see(kind.owner);
    // As many engines as it has now, or would have if all that are idle took it.
    let idle = running.online.saturating_sub(running.busy);
    KindSeen {
        id: u32::from(id.0),
        owner: is_own.then_some(kind.owner),
        runtime: kind.runtime,
        name: (is_own && !kind.name.is_empty()).then(|| kind.name.to_string()),
        submitted: kind.submitted,
        running: runs,
        ended: kind.ended,
        failed: kind.failed,
        retries: kind.retries,
        request_bytes: kind.request_bytes,
        result_bytes: kind.result_bytes,
        queue: kind.queue.seen(ranges),
        run: kind.run.seen(ranges),
        overhead: kind.overhead.seen(ranges),
        left_us: Work::of(kind, runs, oldest_us).left(runs + idle),
    }
}

fn nothing_of(owner: Option<OwnerId>) -> OwnerSeen {
    OwnerSeen {
        owner,
        sessions: 0,
        submitted: 0,
        ended: 0,
        failed: 0,
        busy_us: 0,
        request_bytes: 0,
        result_bytes: 0,
    }
}

impl Pace {
    /// The time for a task, in per cent of what is usual, where enough is known.
    fn percent(self) -> Option<u32> {
        let is_known = self.runs >= PACE_RUNS_LEAST && self.usual_us > 0.0;
        is_known.then(|| (100.0 * self.run_us / self.usual_us) as u32)
    }
}

impl Running {
    /// The median of the engines' paces, in per cent.
    pub(super) fn usual_pace(&self) -> Option<u32> {
        let mut paces: Vec<u32> = self.paces.iter().map(|(percent, _)| *percent).collect();
        paces.sort_unstable_by_key(|percent| Reverse(*percent));
        paces.get(paces.len() / 2).copied()
    }
}

/// The room on a page, by a rough count of bytes.
struct Room(usize);

impl Room {
    fn take(&mut self, bytes: usize) {
        self.0 = self.0.saturating_sub(bytes);
    }

    fn fill(&mut self) {
        self.0 = self.0.min(PAGE_BYTES_TARGET / 2);
    }

    fn has_any(&self) -> bool {
        self.0 > 0
    }
}
