//! The last tasks that have ended, and the failures among them, by type and place.

use std::collections::{HashMap, VecDeque};

use furlong_wire::ids::{EngineId, OwnerId, TaskId};
use furlong_wire::message::{EndSeen, ErrorKind, FailureSeen, PhaseTimes, TaskError, TaskState};

use super::kinds::KindId;

/// Ended tasks that are remembered one by one.
pub const ENDS_MAX: usize = 65_536;
/// Kinds of failures that are told apart.
const FAILURES_MAX: usize = 512;
/// Engines that are named of a failure.
const ENGINES_NAMED_MAX: usize = 8;

/// The end of a task.
#[derive(Clone, Debug)]
pub struct EndRecord {
    /// The task.
    pub task: TaskId,
    /// Its owner.
    pub owner: OwnerId,
    /// Its kind.
    pub kind: KindId,
    /// The engine that ended it, if one did.
    pub engine: Option<EngineId>,
    /// True if an engine has run it to this end.
    pub has_run: bool,
    /// Its terminal state.
    pub state: TaskState,
    /// The kind of its error, and what errors from one place have in common.
    pub error: Option<(ErrorKind, u32)>,
    /// The number of attempts.
    pub attempts: u32,
    /// The moment: microseconds since the broker's start.
    pub at_us: u64,
    /// The time in each phase.
    pub phases: PhaseTimes,
    /// Bytes of call and arguments.
    pub request_bytes: u64,
    /// Bytes of the result.
    pub result_bytes: u64,
}

impl EndRecord {
    /// True if it neither succeeded nor was cancelled.
    pub fn has_failed(&self) -> bool {
        !matches!(self.state, TaskState::Succeeded | TaskState::Cancelled)
    }

    /// The end as it is told.
    fn seen(&self) -> EndSeen {
        EndSeen {
            task: self.task,
            kind: u32::from(self.kind.0),
            engine: self.engine,
            state: self.state,
            error: self.error.map(|(kind, _)| kind),
            fingerprint: self.error.map_or(0, |(_, fingerprint)| fingerprint),
            attempts: self.attempts,
            at_us: self.at_us,
            phases: self.phases,
            request_bytes: self.request_bytes,
            result_bytes: self.result_bytes,
        }
    }
}

/// The last ends, each with a number.
#[derive(Debug, Default)]
pub struct Ends {
    last: VecDeque<EndRecord>,
    /// The number of the first of them.
    first: u64,
    failures: Failures,
}

impl Ends {
    /// A task has ended. Gives its place.
    pub fn push(&mut self, end: EndRecord, error: Option<&TaskError>) -> &EndRecord {
        if let Some(error) = error.filter(|_| end.has_failed()) {
            self.failures.count(&end, error);
        }
        if self.last.len() == ENDS_MAX {
            self.last.pop_front();
            self.first += 1;
        }
        self.last.push_back(end);
        self.last.back().expect("it was just put there")
    }

    /// The moment of the last one, in microseconds since the broker's start.
    pub fn last_us(&self) -> Option<u64> {
        self.last.back().map(|end| end.at_us)
    }

    /// The number that the next end will have.
    pub fn next(&self) -> u64 {
        self.first + self.last.len() as u64
    }

    /// Ends from this number on that are an owner's, or all, with the number of the next one after
    /// each; and how many from there on were forgotten.
    pub fn from(
        &self,
        number: u64,
        of: Option<OwnerId>,
    ) -> (u64, impl Iterator<Item = (u64, EndSeen)>) {
        // A number of the future is one of an earlier start.
        let from = if number > self.next() { self.first } else { number.max(self.first) };
        let missed = from.saturating_sub(number);
        let ends = self.last.range((from - self.first) as usize..).zip(from + 1..);
        let ends = ends.filter(move |(end, _)| of.is_none_or(|owner| owner == end.owner));
        (missed, ends.map(|(end, next)| (next, end.seen())))
    }

    /// The failures by type and place.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }
}

/// Failures by type and place: those that happened last.
#[derive(Debug, Default)]
pub struct Failures {
    by_place: HashMap<Place, Failure>,
    /// The places in the order in which they came up; entries may be gone.
    order: VecDeque<Place>,
}

/// The place of a failure: the owner's kind of task, the kind of error, and what errors from one
/// line have in common.
type Place = (KindId, ErrorKind, u32);

/// What is known of a failure.
#[derive(Debug)]
pub struct Failure {
    /// The owner of its tasks.
    pub owner: OwnerId,
    /// How it is told.
    pub seen: FailureSeen,
}

impl Failures {
    fn count(&mut self, end: &EndRecord, error: &TaskError) {
        let raised = error.raised.as_ref();
        let fingerprint = raised.map_or(0, |raised| raised.fingerprint);
        let place = (end.kind, error.kind, fingerprint);
        if !self.by_place.contains_key(&place) {
            if self.by_place.len() == FAILURES_MAX {
                let oldest = self.order.pop_front().expect("each place is in the order");
                self.by_place.remove(&oldest);
            }
            self.order.push_back(place);
        }
        let failure = self.by_place.entry(place).or_insert_with(|| Failure {
            owner: end.owner,
            seen: FailureSeen {
                error: error.kind,
                type_name: raised.map(|raised| raised.type_name.clone()).unwrap_or_default(),
                fingerprint,
                kind: u32::from(end.kind.0),
                count: 0,
                first_us: end.at_us,
                last_us: end.at_us,
                engines: Vec::new(),
                sample: Some(end.task),
            },
        });
        let seen = &mut failure.seen;
        seen.count += 1;
        (seen.last_us, seen.sample) = (end.at_us, Some(end.task));
        let is_new = |engine: &EngineId| !seen.engines.contains(engine);
        if let Some(engine) = end.engine.filter(is_new)
            && seen.engines.len() < ENGINES_NAMED_MAX
        {
            seen.engines.push(engine);
        }
    }

    /// All of them, the latest first.
    pub fn latest(&self) -> Vec<&Failure> {
        let mut all: Vec<&Failure> = self.by_place.values().collect();
        all.sort_by_key(|failure| {
            (std::cmp::Reverse(failure.seen.last_us), failure.seen.kind, failure.seen.fingerprint)
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use furlong_wire::ids::{SessionId, TaskSeq};
    use furlong_wire::message::Raised;

    use super::*;

    const OWNER: OwnerId = OwnerId([1; 16]);

    fn end(n: u64) -> EndRecord {
        EndRecord {
            task: TaskId { session: SessionId([1; 16]), n: TaskSeq(n) },
            owner: if n.is_multiple_of(2) { OWNER } else { OwnerId([2; 16]) },
            kind: KindId(1),
            engine: Some(EngineId(n as u32 % 20)),
            has_run: true,
            state: TaskState::Failed,
            error: Some((ErrorKind::Remote, 7)),
            attempts: 1,
            at_us: n,
            phases: PhaseTimes::default(),
            request_bytes: 0,
            result_bytes: 0,
        }
    }

    #[test]
    fn a_viewer_is_told_each_end_once_and_how_many_it_has_missed() {
        let mut ends = Ends::default();
        for n in 0..10 {
            ends.push(end(n), None);
        }
        let (missed, told) = ends.from(4, None);
        let told: Vec<u64> = told.map(|(_, end)| end.task.n.0).collect();
        assert_eq!((missed, told), (0, vec![4, 5, 6, 7, 8, 9]));
        assert_eq!(ends.from(10, None).1.count(), 0);
        assert_eq!(ends.from(0, Some(OWNER)).1.count(), 5);
        for n in 10..65_536 + 100 {
            ends.push(end(n), None);
        }
        let (missed, told) = ends.from(10, None);
        assert_eq!((missed, told.count()), (90, 65_536));
        assert_eq!(ends.from(u64::MAX, None).1.count(), 65_536, "it is of another start");
        assert_eq!(ends.next(), 65_536 + 100);
    }

    #[test]
    fn failures_are_counted_by_type_and_place_and_the_oldest_place_gives_way() {
        let mut ends = Ends::default();
        let error = |fingerprint| TaskError {
            kind: ErrorKind::Remote,
            text: String::new(),
            raised: Some(Raised::new("ValueError", fingerprint)),
        };
        for n in 0..100 {
            ends.push(end(n), Some(&error(7)));
        }
        let latest = ends.failures().latest();
        let [one] = &*latest else { panic!("{latest:?}") };
        assert_eq!((one.seen.count, one.seen.first_us, one.seen.last_us), (100, 0, 99));
        assert_eq!(one.seen.engines.len(), 8);
        assert_eq!(one.seen.type_name, "ValueError");
        for n in 0..1_024 {
            ends.push(end(1_000 + u64::from(n)), Some(&error(100 + n)));
        }
        let latest = ends.failures().latest();
        assert_eq!(latest.len(), 512);
        assert_eq!(latest[0].seen.last_us, 1_000 + 1_024 - 1);
        let cancelled = EndRecord { state: TaskState::Cancelled, ..end(9) };
        ends.push(cancelled, Some(&error(1)));
        assert_eq!(ends.failures().latest().len(), 512, "nobody's fault");
    }
}
