//! Rules that look for what is wrong. Each has a bound, and says what it found; the words are those
//! of the front ends.

use furlong_wire::message::{Note, NoteCode};

use super::kinds::{Kind, KindId};
use super::look::{Rights, Running};
use crate::core::{Core, Time};

/// Ends of a kind from which on something is said of it.
const ENDS_LEAST: u64 = 1_000;
/// Overhead over run, in per cent, from which on tasks are small.
const OVERHEAD_PERCENT: u64 = 100;
/// An engine's time over that of the others, in per cent, from which on it is slow.
const SLOW_PERCENT: u64 = 200;
/// The share of a bound that is in use from which on that is said, in per cent.
const FULL_PERCENT: u64 = 80;
/// Results that a session has not acknowledged.
const UNREAD_RESULTS: u64 = 10_000;
/// Failures of one type and place.
const SAME_FAILURES: u64 = 10;
/// Seconds since the last of them.
const SAME_FAILURES_S: u64 = 60;
/// Ends of an engine's interpreters.
const DEATHS: u32 = 3;
/// Bytes of a result that is large.
const HEAVY_RESULT_BYTES: u64 = 1 << 20;
/// Notes of one rule that are told.
const EACH_MAX: usize = 8;

fn note(code: NoteCode) -> Note {
    Note { code, kind: None, engine: None, count: 0, percent: 0, text: String::new() }
}

impl Core {
    /// What the rules have to say to a viewer with these rights.
    pub(super) fn notes(&self, now: Time, rights: Rights, running: &Running) -> Vec<Note> {
        let mut notes = Vec::new();
        self.note_waits_for_nobody(rights, &mut notes);
        self.note_engines(now, running, &mut notes);
        self.note_failures(now, rights, &mut notes);
        self.note_memory(&mut notes);
        self.note_unread(rights, &mut notes);
        let kinds = self.tally.watch.kinds.from(1);
        let kinds = kinds.filter(|(_, kind)| rights.may_see(kind.owner));
        let of_kinds = kinds.flat_map(|(id, kind)| notes_of(id, kind));
        notes.extend(of_kinds.take(EACH_MAX));
        notes
    }

    /// Tasks for which there is no engine.
    fn note_waits_for_nobody(&self, rights: Rights, notes: &mut Vec<Note>) {
        // The demands of other owners' tasks hold their labels.
        if !self.tally.watch.owners.iter().all(|(owner, _)| rights.may_see(*owner)) {
            return;
        }
        for id in self.schedule.placements.waiting() {
            self.turns.work.add(1);
            if !self.schedule.placements.classes(id, &self.engines).is_empty() {
                continue;
            }
            let placement = self.schedule.placements.get(id);
            let demands = &placement.demands;
            let labels: Vec<&str> =
                demands.require.iter().chain(&demands.scopes).map(String::as_str).collect();
            let text = match &*labels {
                [] => demands.runtime.to_string(),
                labels => format!("{} {}", demands.runtime, labels.join(" ")),
            };
            notes.push(Note { count: placement.waiting, text, ..note(NoteCode::NobodyFits) });
            if notes.len() == EACH_MAX {
                return;
            }
        }
    }

    fn note_engines(&self, now: Time, running: &Running, notes: &mut Vec<Note>) {
        let about = |code, (count, id): (u64, _)| Note { engine: Some(id), count, ..note(code) };
        let stuck = running.stuck.iter().map(|id| about(NoteCode::Stuck, (1, *id)));
        notes.extend(stuck.take(EACH_MAX));
        let dying = running.deaths.iter().filter(|(deaths, _)| *deaths >= DEATHS);
        let dying = dying.map(|(deaths, id)| {
            let cause = self.engines.get(*id).and_then(|engine| engine.down_cause.clone());
            let note = about(NoteCode::Dying, (u64::from(*deaths), *id));
            Note { text: cause.unwrap_or_default(), ..note }
        });
        notes.extend(dying.take(EACH_MAX));
        let aside = running.aside.iter().filter_map(|id| {
            let cause = self.schedule.set_aside.of(now, *id).into_iter().next()?;
            let failures = u64::from(cause.failures);
            Some(Note { text: cause.cause, ..about(NoteCode::SetAside, (failures, *id)) })
        });
        notes.extend(aside.take(EACH_MAX));
        let usual = running.usual_pace().filter(|_| running.paces.len() > 1).map(u64::from);
        let Some(usual) = usual.filter(|usual| *usual > 0) else { return };
        let slow = running.paces.iter().filter_map(|(percent, id)| {
            let percent = 100 * u64::from(*percent) / usual;
            let engine = self.engines.get(*id)?;
            (percent >= SLOW_PERCENT)
                .then(|| Note { percent, ..about(NoteCode::SlowEngine, (engine.finished, *id)) })
        });
        notes.extend(slow.take(EACH_MAX));
    }

    fn note_failures(&self, now: Time, rights: Rights, notes: &mut Vec<Note>) {
        let since = now.0.saturating_sub(SAME_FAILURES_S * 1_000_000);
        let failures = self.tally.watch.ends.failures().latest();
        let again = failures
            .into_iter()
            .filter(|failure| rights.may_see(failure.owner))
            .map(|failure| &failure.seen)
            .filter(|seen| seen.count >= SAME_FAILURES && seen.last_us >= since);
        let again = again.map(|seen| Note {
            kind: Some(seen.kind),
            count: seen.count,
            text: seen.type_name.clone(),
            ..note(NoteCode::SameFailure)
        });
        notes.extend(again.take(EACH_MAX));
    }

    fn note_memory(&self, notes: &mut Vec<Note>) {
        let (held, most) = self.memory.budget.state();
        let percent = 100 * held / most.max(1);
        if percent >= FULL_PERCENT {
            notes.push(Note { count: held, percent, ..note(NoteCode::Memory) });
        }
    }

    fn note_unread(&self, rights: Rights, notes: &mut Vec<Note>) {
        let sessions = self.sessions.iter().map(|(_, session)| session);
        let unread = sessions
            .filter(|session| rights.may_see(session.owner()))
            .filter(|session| session.ledger.done.len() as u64 >= UNREAD_RESULTS);
        let unread = unread.map(|session| Note {
            count: session.ledger.done.len() as u64,
            text: session.id.prefix(),
            ..note(NoteCode::UnreadResults)
        });
        notes.extend(unread.take(EACH_MAX));
    }
}

fn notes_of(id: KindId, kind: &Kind) -> Vec<Note> {
    if kind.run.count() < ENDS_LEAST {
        return Vec::new();
    }
    let about = |code| Note { kind: Some(u32::from(id.0)), count: kind.ended, ..note(code) };
    let (run, overhead) = (kind.run.quantile(0.5), kind.overhead.quantile(0.5));
    let mut notes = Vec::new();
    if 100 * overhead >= OVERHEAD_PERCENT * run.max(1) {
        let percent = 100 * overhead / (overhead + run).max(1);
        notes.push(Note { percent, ..about(NoteCode::SmallTasks) });
    }
    let result_bytes = kind.result_bytes / kind.ended.max(1);
    if result_bytes >= HEAVY_RESULT_BYTES && overhead > run {
        notes.push(Note { count: result_bytes, ..about(NoteCode::HeavyResults) });
    }
    notes
}
