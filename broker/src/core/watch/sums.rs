//! Sums over the tasks of each owner. Those of all tasks, and of a second, are worked out from
//! these when somebody asks, or the second is over: a task pays for one addition to each.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use furlong_wire::ids::OwnerId;
use furlong_wire::message::TaskState;

use super::ends::EndRecord;

/// Owners that are told apart.
pub const OWNERS_MAX: usize = 256;

/// Sums over tasks. Times are in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    pub submitted: u64,
    pub ended: u64,
    /// Those that neither succeeded nor were cancelled.
    pub failed: u64,
    pub cancelled: u64,
    pub retries: u64,
    pub request_bytes: u64,
    pub result_bytes: u64,
    pub queue_us: u64,
    pub began_us: u64,
    pub way_us: u64,
    pub load_us: u64,
    pub run_us: u64,
    pub store_us: u64,
}

impl Sums {
    /// The time for which engines were occupied.
    pub fn busy_us(&self) -> u64 {
        self.load_us + self.run_us + self.store_us
    }

    fn add_end(&mut self, end: &EndRecord) {
        let (phases, run) = (&end.phases, &end.phases.run);
        self.ended += 1;
        self.failed += u64::from(end.has_failed());
        self.cancelled += u64::from(end.state == TaskState::Cancelled);
        self.retries += u64::from(end.attempts.saturating_sub(1));
        self.request_bytes += end.request_bytes;
        self.result_bytes += end.result_bytes;
        self.queue_us += phases.queue_us;
        self.began_us += run.began_us;
        self.way_us += phases.way_us;
        self.load_us += run.load_us;
        self.run_us += run.run_us;
        self.store_us += run.store_us;
    }
}

impl AddAssign<&Self> for Sums {
    fn add_assign(&mut self, other: &Self) {
        self.submitted += other.submitted;
        self.ended += other.ended;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.retries += other.retries;
        self.request_bytes += other.request_bytes;
        self.result_bytes += other.result_bytes;
        self.queue_us += other.queue_us;
        self.began_us += other.began_us;
        self.way_us += other.way_us;
        self.load_us += other.load_us;
        self.run_us += other.run_us;
        self.store_us += other.store_us;
    }
}

/// The number of an owner's sums, for this start of the broker. The first is that of all whose
/// tasks are not told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OwnerNumber(u16);

/// The sums of each owner.
#[derive(Debug)]
pub struct Owners {
    sums: Vec<(OwnerId, Sums)>,
    numbers: BTreeMap<OwnerId, OwnerNumber>,
}

impl Default for Owners {
    fn default() -> Self {
        let nobody = OwnerId::default();
        Self {
            sums: vec![(nobody, Sums::default())],
            numbers: BTreeMap::from([(nobody, OwnerNumber::default())]),
        }
    }
}

impl Owners {
    /// The number of an owner, who may be new.
    pub fn find(&mut self, owner: OwnerId) -> OwnerNumber {
        if let Some(known) = self.numbers.get(&owner) {
            return *known;
        }
        if self.sums.len() > OWNERS_MAX {
            return OwnerNumber::default();
        }
        let number = OwnerNumber(u16::try_from(self.sums.len()).expect("there are few owners"));
        self.sums.push((owner, Sums::default()));
        self.numbers.insert(owner, number);
        number
    }

    /// So many tasks of an owner were submitted.
    pub fn submitted(&mut self, number: OwnerNumber, tasks: u64) {
        self.sums[usize::from(number.0)].1.submitted += tasks;
    }

    /// A task of an owner has ended.
    pub fn ended(&mut self, number: OwnerNumber, end: &EndRecord) {
        self.sums[usize::from(number.0)].1.add_end(end);
    }

    /// The owners that have submitted something, with their sums.
    pub fn iter(&self) -> impl Iterator<Item = &(OwnerId, Sums)> {
        self.sums.iter().filter(|(_, sums)| sums.submitted > 0)
    }

    /// The sums over all tasks.
    pub fn total(&self) -> Sums {
        let mut total = Sums::default();
        self.sums.iter().for_each(|(_, sums)| total += sums);
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_beyond_the_bound_are_counted_together() {
        let mut owners = Owners::default();
        for n in 1..=300_u16 {
            let mut owner = OwnerId::default();
            owner.0[..2].copy_from_slice(&n.to_le_bytes());
            let number = owners.find(owner);
            assert_eq!(owners.find(owner), number);
            owners.submitted(number, 2);
        }
        assert_eq!(owners.total().submitted, 600);
        assert_eq!(owners.iter().count(), OWNERS_MAX + 1);
        let (nobody, others) = owners.iter().next().unwrap();
        assert_eq!((*nobody, others.submitted), (OwnerId::default(), 2 * 44));
    }
}
