//! What the broker still takes from this session.

use crate::error::ClientError;

/// Bytes that may wait to be sent, chunks of payloads apart, before submits wait as well.
pub const BACKLOG_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The session's credit. Inline payloads do not count against its bytes.
#[derive(Debug)]
pub struct Room {
    /// Tasks that may be submitted and not acknowledged.
    tasks_max: u64,
    tasks: u64,
    /// Bytes that may have been announced since the connection began. The broker raises it as it frees what it holds.
    granted: u64,
    announced: u64,
    /// The first grant, less what the broker never frees: the most that one payload can have.
    usable: u64,
    backlog: usize,
}

impl Room {
    /// What the welcome grants.
    pub fn new(tasks_max: u64, credit_bytes: u64) -> Self {
        Self { tasks_max, tasks: 0, granted: credit_bytes, announced: 0, usable: credit_bytes, backlog: 0 }
    }

    /// Checks whether these tasks can go, with that many bytes of payloads in chunks.
    ///
    /// # Errors
    /// [`ClientError::Busy`] if they can go later, another error if they never can.
    pub fn check(&self, tasks: u64, bytes: u64) -> Result<(), ClientError> {
        if tasks > self.tasks_max {
            return Err(ClientError::TooManyTargets { tasks, tasks_max: self.tasks_max });
        }
        if bytes > self.usable {
            return Err(ClientError::PayloadTooLarge { bytes, credit_bytes: self.usable });
        }
        if self.has_bytes(bytes) && self.has_tasks(tasks) { Ok(()) } else { Err(ClientError::Busy) }
    }

    /// A new connection: what was announced on the last one is announced anew.
    pub fn begin(&mut self, tasks_max: u64, credit_bytes: u64) {
        let Self { tasks, backlog, .. } = *self;
        *self = Self { tasks, backlog, ..Self::new(tasks_max, credit_bytes) };
    }

    /// Whether that many bytes can be announced again now.
    pub fn has_bytes(&self, bytes: u64) -> bool {
        bytes <= self.granted - self.announced && self.backlog < BACKLOG_BYTES_MAX
    }

    /// Whether that many tasks are within the bound of tasks.
    pub fn has_tasks(&self, tasks: u64) -> bool {
        self.tasks + tasks <= self.tasks_max
    }

    /// Takes what [`Room::check`] allowed; `lasting` bytes of it stay with the broker as long as the session.
    pub fn take(&mut self, tasks: u64, bytes: u64, lasting: u64) {
        self.tasks += tasks;
        self.announced += bytes;
        self.usable -= lasting;
    }

    /// Tasks were acknowledged.
    pub fn handle_acknowledged(&mut self, tasks: u64) {
        self.tasks -= tasks;
    }

    /// The broker has raised the total of bytes.
    pub fn handle_credit(&mut self, granted: u64) {
        self.granted = self.granted.max(granted);
    }

    /// That many bytes wait to be sent. True if submits may go on after they had to wait.
    pub fn handle_backlog(&mut self, bytes: usize) -> bool {
        let was_full = self.backlog >= BACKLOG_BYTES_MAX;
        // Once full it counts as full until half of it is gone, so that submits go on in batches.
        self.backlog = if was_full && bytes >= BACKLOG_BYTES_MAX / 2 { BACKLOG_BYTES_MAX } else { bytes };
        was_full && self.backlog < BACKLOG_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_count_until_they_are_acknowledged() {
        let mut room = Room::new(2, 0);
        room.check(2, 0).unwrap();
        room.take(2, 0, 0);
        assert!(matches!(room.check(1, 0), Err(ClientError::Busy)));
        room.handle_acknowledged(1);
        room.check(1, 0).unwrap();
        assert!(matches!(room.check(3, 0), Err(ClientError::TooManyTargets { tasks: 3, tasks_max: 2 })));
    }

    #[test]
    fn announced_bytes_wait_for_credit_and_too_large_ones_fail() {
        let mut room = Room::new(10, 100);
        room.take(1, 60, 0);
        assert!(matches!(room.check(1, 41), Err(ClientError::Busy)));
        room.handle_credit(160);
        room.check(1, 100).unwrap();
        assert!(matches!(room.check(1, 101), Err(ClientError::PayloadTooLarge { bytes: 101, credit_bytes: 100 })));
    }

    #[test]
    fn what_the_broker_keeps_is_never_there_again() {
        let mut room = Room::new(10, 100);
        room.take(1, 30, 30);
        assert!(matches!(room.check(1, 71), Err(ClientError::PayloadTooLarge { credit_bytes: 70, .. })));
    }

    #[test]
    fn a_full_backlog_lets_submits_go_on_when_half_of_it_is_gone() {
        let mut room = Room::new(10, 100);
        assert!(!room.handle_backlog(BACKLOG_BYTES_MAX));
        assert!(!room.handle_backlog(BACKLOG_BYTES_MAX / 2));
        assert!(matches!(room.check(1, 0), Err(ClientError::Busy)));
        assert!(room.handle_backlog(BACKLOG_BYTES_MAX / 2 - 1));
        room.check(1, 0).unwrap();
    }
}
