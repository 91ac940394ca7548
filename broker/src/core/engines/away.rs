//! What is remembered of engines that are away, or lost.

use crate::core::keys::TaskKey;

/// A shared task that was taken from an engine whose connection was cut.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// The task.
    pub task: TaskKey,
    /// The number of attempts made at it by then.
    pub attempts: u32,
    /// True if the engine had reported that it runs.
    pub started: bool,
}

/// Why an engine is lost.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// The reason, for people.
    pub how: &'static str,
    /// Whether it will not come back, as it has said goodbye.
    pub is_for_ever: bool,
}
