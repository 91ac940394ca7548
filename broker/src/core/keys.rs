//! The names of what the core has, each given once.

use std::num::NonZeroU32;

pub use furlong_wire::ids::AttemptId;

/// Names a session in this broker; never given to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKey(pub(in crate::core) u32);

impl SessionKey {
    /// Names no session.
    pub const NOBODY: Self = Self(u32::MAX);
}

/// Names a value; on each engine process's connection, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ValueId(pub(in crate::core) u64);

/// Names an engine process's connection in this broker; never given to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProcessKey(pub(in crate::core) u64);

/// Names a task. A key outlives its task without harm: it then names nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TaskKey {
    pub(in crate::core) index: u32,
    pub(in crate::core) serial: NonZeroU32,
}

impl TaskKey {
    /// Names no task.
    pub const NOBODY: Self = Self { index: u32::MAX, serial: NonZeroU32::MIN };

    /// Whether it was given by then.
    pub fn is_of(self, age: Age) -> bool {
        // Numbers come again after four billion tasks.
        age.0.get().wrapping_sub(self.serial.get()) < u32::MAX / 2
    }
}

/// A moment, told by the last key that was given before it.
#[derive(Clone, Copy, Debug)]
pub struct Age(pub(in crate::core) NonZeroU32);

/// Names a set of demands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PlacementId(pub(in crate::core) u32);

/// Names a class of engines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClassId(pub(in crate::core) u32);
