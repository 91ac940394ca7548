//! Kinds of tasks, over all sessions: what became of the tasks of each.

use std::collections::HashMap;
use std::sync::Arc;

use furlong_wire::ids::OwnerId;
use furlong_wire::message::Runtime;

use super::ends::EndRecord;
use super::spans::Spans;

/// Names a kind in this broker; never given to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KindId(pub(in crate::core) u16);

impl KindId {
    /// All kinds beyond those that are told apart.
    pub const OTHER: Self = Self(0);
}

/// Kinds that are told apart.
pub const KINDS_MAX: usize = 1024;
/// Ends after which the usual run of a kind is worked out again.
const ENDS_BETWEEN: u64 = 32;
/// Ends over which the mean of a run and its spread go.
const RECENT: f32 = 64.0;

/// A kind of task.
#[derive(Debug)]
pub struct Kind {
    /// The owner of its tasks.
    pub owner: OwnerId,
    /// Their runtime.
    pub runtime: Runtime,
    /// Its name; empty if its clients do not tell it.
    pub name: Arc<str>,
    /// Tasks that were submitted.
    pub submitted: u64,
    /// Tasks that have ended.
    pub ended: u64,
    /// Tasks of these that did not succeed, and were not cancelled.
    pub failed: u64,
    /// Times that tasks were run again.
    pub retries: u64,
    /// Bytes of calls and arguments of ended tasks.
    pub request_bytes: u64,
    /// Bytes of results.
    pub result_bytes: u64,
    /// Waits for an engine.
    pub queue: Spans,
    /// Runs of the code.
    pub run: Spans,
    /// The rest of the time at and around the engine.
    pub overhead: Spans,
    /// The time for which a task occupies its engine, lately.
    pub recent: Recent,
    /// The median of the runs, as it was a few ends ago.
    pub usual_run_us: u64,
    /// The last look before it changed.
    pub changed: u64,
}

/// Moving mean and spread of the last durations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recent {
    /// The mean, in microseconds.
    pub mean_us: f32,
    /// The variance, in square microseconds.
    pub variance: f32,
    count: u32,
}

impl Recent {
    /// As many durations as say the mean alike: those that weigh less count in part.
    pub fn known(self) -> f64 {
        f64::from(self.count).clamp(1.0, f64::from(2.0 * RECENT - 1.0))
    }

    fn add(&mut self, us: u64) {
        self.count = self.count.saturating_add(1);
        // The first ones count alike.
        let weight = 1.0 / (self.count as f32).min(RECENT);
        let off = us as f32 - self.mean_us;
        self.mean_us += weight * off;
        self.variance = (1.0 - weight) * (self.variance + weight * off * off);
    }
}

impl Kind {
    fn new(owner: OwnerId, runtime: Runtime, name: Arc<str>) -> Self {
        Self {
            owner,
            runtime,
            name,
            submitted: 0,
            ended: 0,
            failed: 0,
            retries: 0,
            request_bytes: 0,
            result_bytes: 0,
            queue: Spans::default(),
            run: Spans::default(),
            overhead: Spans::default(),
            recent: Recent::default(),
            usual_run_us: 0,
            changed: 0,
        }
    }

    /// Tasks that have not ended.
    pub fn unfinished(&self) -> u64 {
        self.submitted - self.ended
    }

    fn count(&mut self, end: &EndRecord, look: u64) {
        self.changed = look;
        self.ended += 1;
        self.retries += u64::from(end.attempts.saturating_sub(1));
        self.request_bytes += end.request_bytes;
        self.result_bytes += end.result_bytes;
        self.failed += u64::from(end.has_failed());
        // What no engine has run says nothing of how long it takes.
        if !end.has_run {
            return;
        }
        let (phases, run_us) = (&end.phases, end.phases.run.run_us);
        let overhead = phases.way_us + phases.run.load_us + phases.run.store_us;
        self.queue.add(phases.queue_us);
        self.run.add(run_us);
        self.overhead.add(overhead);
        self.recent.add(overhead + run_us);
        if self.run.count() % ENDS_BETWEEN == 1 || self.run.count() < ENDS_BETWEEN {
            self.usual_run_us = self.run.quantile(0.5);
        }
    }
}

/// All kinds.
#[derive(Debug)]
pub struct Kinds {
    list: Vec<Kind>,
    by_name: HashMap<(OwnerId, Runtime, Arc<str>), KindId>,
}

impl Default for Kinds {
    fn default() -> Self {
        let other = Kind::new(OwnerId::default(), Runtime::Python, Arc::from(""));
        Self { list: vec![other], by_name: HashMap::new() }
    }
}

impl Kinds {
    /// The kind of a name, which may be new.
    pub fn find(&mut self, owner: OwnerId, runtime: Runtime, name: &str) -> KindId {
        let key = (owner, runtime, Arc::from(name));
        if let Some(known) = self.by_name.get(&key) {
            return *known;
        }
        if self.list.len() >= KINDS_MAX {
            return KindId::OTHER;
        }
        let id = KindId(u16::try_from(self.list.len()).expect("there are at most KINDS_MAX"));
        self.list.push(Kind::new(owner, runtime, Arc::clone(&key.2)));
        self.by_name.insert(key, id);
        id
    }

    /// A kind.
    #[cfg(test)]
    pub fn get(&self, id: KindId) -> &Kind {
        &self.list[usize::from(id.0)]
    }

    /// Tasks of a kind were submitted.
    pub fn submitted(&mut self, id: KindId, tasks: u64, look: u64) {
        let kind = &mut self.list[usize::from(id.0)];
        kind.submitted += tasks;
        kind.changed = look;
    }

    /// A task of a kind has ended. Gives what is now the usual run of such tasks, in microseconds.
    pub fn ended(&mut self, end: &EndRecord, look: u64) -> u64 {
        let kind = &mut self.list[usize::from(end.kind.0)];
        assert!(kind.ended < kind.submitted, "more tasks of {:?} end than there were", end.kind);
        kind.count(end, look);
        kind.usual_run_us
    }

    /// Returns their number.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Those from this number on, with their numbers.
    pub fn from(&self, first: u32) -> impl Iterator<Item = (KindId, &Kind)> {
        let all = self.list.iter().zip(0..).map(|(kind, id)| (KindId(id), kind));
        all.skip(first as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_of_one_owner_is_one_kind_and_those_beyond_the_bound_are_others() {
        let mut kinds = Kinds::default();
        let (one, two) = (OwnerId([1; 16]), OwnerId([2; 16]));
        let first = kinds.find(one, Runtime::Python, "f");
        assert_eq!(kinds.find(one, Runtime::Python, "f"), first);
        assert_ne!(kinds.find(two, Runtime::Python, "f"), first);
        assert_ne!(kinds.find(one, Runtime::Command, "f"), first);
        for n in 0..2_048 {
            kinds.find(one, Runtime::Python, &n.to_string());
        }
        assert_eq!(kinds.from(0).count(), 1_024);
        assert_eq!(kinds.find(one, Runtime::Python, "one more"), KindId::OTHER);
        assert_eq!(kinds.find(one, Runtime::Python, "f"), first);
    }

    #[test]
    fn mean_and_spread_are_those_of_the_last_runs() {
        let mut recent = Recent::default();
        for n in 0..1_000 {
            recent.add(100 + 20 * (n % 2));
        }
        assert!((recent.mean_us - 110.0).abs() < 2.0, "{recent:?}");
        assert!((recent.variance.sqrt() - 10.0).abs() < 2.0, "{recent:?}");
        for _ in 0..1_000 {
            recent.add(7);
        }
        assert!((recent.mean_us - 7.0).abs() < 0.1 && recent.variance < 0.1, "{recent:?}");
    }
}
