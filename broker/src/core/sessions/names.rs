//! A session's kinds of tasks: their names, which clients say for people, and their run times.

use std::collections::BTreeMap;
use std::sync::Arc;

use furlong_wire::limits::KINDS_NAMED_MAX;
use furlong_wire::message::Runtime;

use crate::core::schedule::prefetch::Kinds;
use crate::core::watch::kinds::KindId;
use crate::core::watch::sums::OwnerNumber;

/// The name of a kind beside its bytes.
const NAME_BYTES: u64 = 96;

/// A session's kinds of tasks.
#[derive(Debug, Default)]
pub struct SessionKinds {
    /// Their run times.
    pub times: Kinds,
    /// Their names.
    pub names: Names,
    /// Where its tasks are counted for those who look.
    pub seen: SeenAs,
    /// True if no types of errors are to be told. Of a session from the journal that said no names
    /// it is taken to be so, until its client comes back.
    pub hides_names: bool,
}

/// Where a session's tasks are counted for those who look.
#[derive(Debug, Default)]
pub struct SeenAs {
    /// The kind of the last submit: the next one mostly has the same.
    pub last: Option<(Runtime, u32, KindId)>,
    /// The sums of its owner, once it has submitted something.
    pub owner: OwnerNumber,
}

/// The names of a session's kinds of tasks, by runtime and class.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<(Runtime, u32), Arc<str>>);

impl Names {
    /// The name of a kind, if it was said.
    pub fn get(&self, runtime: Runtime, class: u32) -> Option<&Arc<str>> {
        self.0.get(&(runtime, class))
    }

    /// Returns true if another kind can be named.
    pub fn has_room(&self) -> bool {
        self.0.len() < KINDS_NAMED_MAX
    }

    /// Names a kind, which has no name.
    pub fn insert(&mut self, runtime: Runtime, class: u32, name: Arc<str>) {
        let before = self.0.insert((runtime, class), name);
        assert!(before.is_none(), "a kind has two names");
    }

    /// Takes the name of a kind away.
    pub fn remove(&mut self, runtime: Runtime, class: u32) -> Option<Arc<str>> {
        self.0.remove(&(runtime, class))
    }

    /// Bytes that they count against the payload memory.
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|name| name_bytes(name)).sum()
    }
}

/// The cost of the name of a kind.
pub fn name_bytes(name: &str) -> u64 {
    name.len() as u64 + NAME_BYTES
}
