//! The SIGINTs that tell the interpreter to read its socket.

use std::future::pending;

use tokio::time::{Duration, Instant, sleep_until};

/// The pause before a SIGINT is sent once more; each later one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest of these pauses: there are five.
const LAST_PAUSE: Duration = Duration::from_millis(2560);

/// SIGINT follows what the interpreter is to read while it runs code.
///
/// A signal that comes in the instant before a system call that blocks is noted by Python and ends
/// no call: a sleep that begins just then goes on for as long as it was to last. So a SIGINT is
/// sent a few times. The handler finds nothing new to read then, and code goes on where it was.
#[derive(Debug, Default)]
pub(super) struct Interrupts {
    /// One is to follow what is being written.
    is_due: bool,
    /// The time at which the last one is sent again.
    again: Option<Instant>,
    /// The pause before that.
    pause: Duration,
    /// All that is pending are questions: an answer says that the interpreter has read them.
    is_question: bool,
    /// The interpreter was told to end.
    is_ending: bool,
}

/// Waits until a time is reached; forever if there is none.
pub(super) async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

impl Interrupts {
    /// SIGINT is to follow what was queued just now.
    pub(super) fn request(&mut self, is_question: bool) {
        let was_idle = !self.is_due && self.again.is_none();
        self.is_question = is_question && (was_idle || self.is_question);
        self.is_due = true;
        self.pause = FIRST_PAUSE;
    }

    /// SIGINT is to follow the order to end. From then on the handler raises each time, also where
    /// code tidies up: none is sent again.
    pub(super) fn request_end(&mut self) {
        self.is_ending = true;
        self.is_due = true;
        self.again = None;
    }

    /// Returns true if SIGINT is to be sent now. Unless all is written, another one follows the
    /// rest: the handler makes room for it.
    pub(super) fn poll(&mut self, is_written: bool, now: Instant) -> bool {
        if !self.is_due {
            return false;
        }
        self.is_due = !is_written;
        let is_repeated = !self.is_ending && self.pause <= LAST_PAUSE;
        self.again = is_repeated.then(|| now + self.pause);
        true
    }

    /// The time at which [`Interrupts::handle_deadline`] wants to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// The deadline may have come.
    pub(super) fn handle_deadline(&mut self, now: Instant) {
        if self.again.is_some_and(|at| at <= now) {
            self.again = None;
            self.is_due = true;
            self.pause *= 4;
        }
    }

    /// A question was answered.
    pub(super) fn handle_answer(&mut self) {
        if self.is_question {
            self.again = None;
        }
    }

    /// What was interrupted has ended, or nothing runs any longer.
    pub(super) fn handle_end(&mut self) {
        self.again = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets deadlines come, and returns how many SIGINTs are sent.
    fn sent(interrupts: &mut Interrupts, mut now: Instant) -> u32 {
        let mut sent = u32::from(interrupts.poll(true, now));
        while let Some(at) = interrupts.deadline() {
            now = now.max(at);
            interrupts.handle_deadline(now);
            sent += u32::from(interrupts.poll(true, now));
        }
        sent
    }

    #[test]
    fn an_interrupt_is_sent_a_few_times() {
        let (mut interrupts, now) = (Interrupts::default(), Instant::now());
        assert!(!interrupts.poll(true, now));
        interrupts.request(false);
        assert_eq!(sent(&mut interrupts, now), 6);
        interrupts.request(false);
        assert!(interrupts.poll(true, now));
        interrupts.handle_end();
        assert_eq!(sent(&mut interrupts, now), 0);
    }

    #[test]
    fn the_interrupt_of_an_end_is_sent_once() {
        let (mut interrupts, now) = (Interrupts::default(), Instant::now());
        interrupts.request(false);
        assert!(interrupts.poll(true, now));
        interrupts.request_end();
        assert_eq!(sent(&mut interrupts, now), 1);
        interrupts.request(false);
        assert_eq!(sent(&mut interrupts, now), 1);
    }

    #[test]
    fn an_answer_ends_the_repeats_of_questions_alone() {
        let now = Instant::now();
        for (requests, expected) in
            [(&[true][..], 0), (&[true, true], 0), (&[false, true], 5), (&[true, false], 5)]
        {
            let mut interrupts = Interrupts::default();
            for is_question in requests {
                interrupts.request(*is_question);
                assert!(interrupts.poll(true, now));
            }
            interrupts.handle_answer();
            assert_eq!(sent(&mut interrupts, now), expected, "{requests:?}");
        }
    }

    #[test]
    fn what_was_not_written_is_followed_by_another() {
        let (mut interrupts, now) = (Interrupts::default(), Instant::now());
        interrupts.request(false);
        assert!(interrupts.poll(false, now) && interrupts.poll(true, now));
        assert!(!interrupts.poll(true, now));
    }
}
