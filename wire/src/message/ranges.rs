//! Ranges of task numbers, in few bytes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::quick::{Input, Quick};
use crate::ids::TaskSeq;

/// First and last number of each range. They travel as differences modulo 2^64, from the number
/// before: those of ascending ranges are small.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ranges(pub Vec<(TaskSeq, TaskSeq)>);

impl Ranges {
    fn differences(&self) -> Vec<(u64, u64)> {
        let mut before = 0_u64;
        let difference = |&(TaskSeq(first), TaskSeq(last)): &(TaskSeq, TaskSeq)| {
            let skipped = first.wrapping_sub(std::mem::replace(&mut before, last));
            (skipped, last.wrapping_sub(first))
        };
        self.0.iter().map(difference).collect()
    }

    fn of_differences(differences: Vec<(u64, u64)>) -> Self {
        let mut before = 0_u64;
        let range = |(skipped, further): (u64, u64)| {
            let first = skipped.wrapping_add(before);
            before = further.wrapping_add(first);
            (TaskSeq(first), TaskSeq(before))
        };
        Self(differences.into_iter().map(range).collect())
    }
}

impl From<Vec<(TaskSeq, TaskSeq)>> for Ranges {
    fn from(ranges: Vec<(TaskSeq, TaskSeq)>) -> Self {
        Self(ranges)
    }
}

impl Serialize for Ranges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.differences().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Deserialize::deserialize(deserializer).map(Self::of_differences)
    }
}

impl Quick for Ranges {
    fn put(&self, out: &mut Vec<u8>) {
        self.differences().put(out);
    }

    fn take(input: &mut Input<'_>) -> Option<Self> {
        Quick::take(input).map(Self::of_differences)
    }
}
