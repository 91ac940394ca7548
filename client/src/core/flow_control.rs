//! The flow control of this session: what the broker still takes from it, and who waits for that.

use std::sync::Arc;
use std::task::Poll;

use furlong_wire::limits::OVERDRAFT_CREDITS;

use super::{Core, Waiter};
use crate::error::ClientError;

/// Bytes that may wait to be sent, chunks of payloads apart, before submits wait as well.
pub const BACKLOG_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The session's credit. Inline payloads do not count against its bytes.
#[derive(Debug)]
pub struct FlowControl {
    /// Tasks that may be submitted and not acknowledged.
    tasks_max: u64,
    tasks: u64,
    /// Bytes that may have been announced since the connection began. The broker raises it as it
    /// frees what it holds.
    granted: u64,
    announced: u64,
    /// The first grant.
    credit: u64,
    /// Of that, what the broker does not hold for as long as the session wants: there is as much
    /// when all is quiet.
    usable: u64,
    backlog: usize,
    /// The flag that gives the broker more memory, for people.
    memory_flag: Arc<str>,
}

impl FlowControl {
    /// The credit that the welcome grants.
    pub fn new(tasks_max: u64, credit_bytes: u64) -> Self {
        let (credit, usable, memory_flag) = (credit_bytes, credit_bytes, "--memory".into());
        Self {
            tasks_max,
            tasks: 0,
            granted: credit,
            announced: 0,
            credit,
            usable,
            backlog: 0,
            memory_flag,
        }
    }

    /// By which flag the broker is given more memory, for people.
    pub fn set_memory_flag(&mut self, memory_flag: &str) {
        self.memory_flag = memory_flag.into();
    }

    /// Checks whether these tasks can go, with that many bytes of payloads in chunks.
    ///
    /// # Errors
    /// [`ClientError::Busy`] if they can go later, another error if they never can.
    pub fn check(&self, tasks: u64, bytes: u64) -> Result<(), ClientError> {
        if tasks > self.tasks_max {
            return Err(ClientError::TooManyTargets { tasks, tasks_max: self.tasks_max });
        }
        let bytes_max = self.credit.saturating_mul(OVERDRAFT_CREDITS) - (self.credit - self.usable);
        if bytes > bytes_max {
            let memory_flag = Arc::clone(&self.memory_flag);
            return Err(ClientError::PayloadTooLarge { bytes, bytes_max, memory_flag });
        }
        if self.has_bytes(bytes) && self.has_tasks(tasks) { Ok(()) } else { Err(ClientError::Busy) }
    }

    /// A new connection: what was announced on the last one is announced anew.
    pub fn begin(&mut self, tasks_max: u64, credit_bytes: u64) {
        // Tasks count on: what was not acknowledged on the last connection occupies the broker
        // still.
        let Self { tasks, backlog, ref memory_flag, .. } = *self;
        let memory_flag = Arc::clone(memory_flag);
        *self = Self { tasks, backlog, memory_flag, ..Self::new(tasks_max, credit_bytes) };
    }

    /// True if that many bytes can be announced now: within the credit, or as the one payload that
    /// overdraws it when all else has come back.
    pub fn has_bytes(&self, bytes: u64) -> bool {
        // Saturating, as one payload may have overdrawn the credit.
        let left = self.granted.saturating_sub(self.announced);
        (bytes <= left || (bytes > self.usable && left >= self.usable))
            && self.backlog < BACKLOG_BYTES_MAX
    }

    /// Returns true if that many tasks are within the bound of tasks.
    pub fn has_tasks(&self, tasks: u64) -> bool {
        self.tasks + tasks <= self.tasks_max
    }

    /// Takes what [`FlowControl::check`] allowed; `lasting` bytes of it stay with the broker as
    /// long as the session.
    pub fn take(&mut self, tasks: u64, bytes: u64, lasting: u64) {
        self.tasks += tasks;
        self.announced += bytes;
        // A broker that was started again with less memory grants less than what it is sent again.
        self.usable = self.usable.saturating_sub(lasting);
    }

    /// The broker gives back what was to stay with it.
    pub fn handle_let_go(&mut self, bytes: u64) {
        // Never more than the credit: see above.
        self.usable = self.credit.min(self.usable + bytes);
    }

    /// Tasks were acknowledged.
    pub fn handle_acknowledged(&mut self, tasks: u64) {
        assert!(tasks <= self.tasks, "what is acknowledged was counted when it was submitted");
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
        self.backlog =
            if was_full && bytes >= BACKLOG_BYTES_MAX / 2 { BACKLOG_BYTES_MAX } else { bytes };
        was_full && self.backlog < BACKLOG_BYTES_MAX
    }
}

/// A place in the order of those who wait for room; none before the first refusal.
pub type Ticket = Option<u64>;

impl<W: Waiter> Core<W> {
    /// Wakes when a submit that was refused with [`ClientError::Busy`] may succeed. Gives back the
    /// waiter it replaces.
    pub fn wait_for_room(&mut self, ticket: &mut Ticket, waiter: &W) -> Option<W> {
        let place = *ticket.get_or_insert_with(|| {
            self.next_ticket += 1;
            self.next_ticket
        });
        self.waiting.insert(place, waiter.clone())
    }

    /// Somebody no longer waits for room. Gives back the waiter.
    pub fn stop_waiting(&mut self, ticket: Ticket) -> Option<W> {
        self.waiting.remove(&ticket?)
    }

    /// There may be room: all try again.
    pub(super) fn wake_waiting(&mut self) {
        // In the order of their first try. Who is refused once more keeps its place.
        self.wakes.extend(std::mem::take(&mut self.waiting).into_values());
    }

    /// Everything that was handed out is with the kernel.
    pub fn handle_flushed(&mut self) {
        // What was handed out before a cut is given up, though the kernel had it.
        if !self.is_up() {
            return;
        }
        assert!(self.flushed_n < self.next_n, "more is with the kernel than was submitted");
        self.flushed_n = self.next_n - 1;
        self.wakes.append(&mut self.flushing);
    }

    /// Waits until every task that was submitted so far is with the kernel.
    pub fn poll_flushed(&mut self, waiter: &W) -> Poll<Result<(), ClientError>> {
        if self.flushed_n == self.next_n - 1 {
            return Poll::Ready(Ok(()));
        }
        self.check_open()?;
        if !self.flushing.iter().any(|known| known.is_same(waiter)) {
            self.flushing.push(waiter.clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_count_until_they_are_acknowledged() {
        let mut room = FlowControl::new(2, 0);
        room.check(2, 0).unwrap();
        room.take(2, 0, 0);
        assert!(matches!(room.check(1, 0), Err(ClientError::Busy)));
        room.handle_acknowledged(1);
        room.check(1, 0).unwrap();
        assert!(matches!(
            room.check(3, 0),
            Err(ClientError::TooManyTargets { tasks: 3, tasks_max: 2 })
        ));
    }

    #[test]
    fn announced_bytes_wait_for_credit_and_too_large_ones_fail() {
        let mut room = FlowControl::new(10, 100);
        room.take(1, 60, 0);
        assert!(matches!(room.check(1, 41), Err(ClientError::Busy)));
        room.handle_credit(160);
        room.check(1, 100).unwrap();
        assert!(matches!(
            room.check(1, 301),
            Err(ClientError::PayloadTooLarge { bytes: 301, bytes_max: 300, .. })
        ));
    }

    #[test]
    fn one_payload_overdraws_the_credit_when_all_else_has_come_back() {
        let mut room = FlowControl::new(10, 100);
        room.take(1, 1, 0);
        assert!(matches!(room.check(1, 300), Err(ClientError::Busy)));
        room.handle_credit(101);
        room.check(1, 300).unwrap();
        room.take(1, 300, 0);
        assert!(matches!(room.check(1, 1), Err(ClientError::Busy)));
        room.handle_credit(401);
        room.check(1, 101).unwrap();
    }

    #[test]
    fn what_the_broker_keeps_is_not_there_until_it_lets_it_go() {
        let mut room = FlowControl::new(10, 100);
        room.take(1, 30, 30);
        assert!(matches!(
            room.check(1, 271),
            Err(ClientError::PayloadTooLarge { bytes_max: 270, .. })
        ));
        room.handle_let_go(30);
        room.handle_credit(130);
        room.check(1, 300).unwrap();
    }

    #[test]
    fn what_a_smaller_broker_keeps_is_all_of_its_credit_at_most() {
        let mut room = FlowControl::new(10, 100);
        room.take(1, 40, 40);
        room.begin(10, 30);
        room.take(0, 40, 40);
        assert!(matches!(room.check(1, 61), Err(ClientError::PayloadTooLarge { .. })));
        room.handle_let_go(40);
        room.handle_credit(70);
        room.check(1, 90).unwrap();
    }

    #[test]
    fn a_full_backlog_lets_submits_go_on_when_half_of_it_is_gone() {
        let mut room = FlowControl::new(10, 100);
        assert!(!room.handle_backlog(BACKLOG_BYTES_MAX));
        assert!(!room.handle_backlog(BACKLOG_BYTES_MAX / 2));
        assert!(matches!(room.check(1, 0), Err(ClientError::Busy)));
        assert!(room.handle_backlog(BACKLOG_BYTES_MAX / 2 - 1));
        room.check(1, 0).unwrap();
    }
}
