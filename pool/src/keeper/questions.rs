//! The times at which the batch system is asked for its jobs: seldom, and soon after something has
//! happened.

/// The usual time between two questions.
const USUAL_MS: u64 = 30_000;
/// The time after which a question is asked about what has just happened.
const SOON_MS: u64 = 3_000;
/// An answer that has not come by then is not waited for.
const LOST_AFTER_MS: u64 = 90_000;

/// When to ask, and which answer is awaited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Questions {
    next_ms: u64,
    interval_ms: u64,
    /// The number of the question that is out, and the time when it was asked.
    out: Option<(u64, u64)>,
    asked: u64,
    /// The last question that was answered, by the time when it was asked.
    answered_ms: Option<u64>,
}

impl Questions {
    /// The first question is due at once.
    pub fn new(now_ms: u64) -> Self {
        Self { next_ms: now_ms, interval_ms: USUAL_MS, out: None, asked: 0, answered_ms: None }
    }

    /// The number of the question to ask now, if one is due.
    pub fn poll(&mut self, now_ms: u64) -> Option<u64> {
        let is_out = self.out.is_some_and(|(_, asked_ms)| now_ms < asked_ms + LOST_AFTER_MS);
        if is_out || now_ms < self.next_ms {
            return None;
        }
        self.asked += 1;
        self.out = Some((self.asked, now_ms));
        Some(self.asked)
    }

    /// The time at which this question was asked, if its answer is awaited; it is not any longer.
    pub fn take(&mut self, now_ms: u64, number: u64) -> Option<u64> {
        let (_, asked_ms) = self.out.take_if(|(out, _)| *out == number)?;
        self.next_ms = now_ms + self.interval_ms;
        self.interval_ms = (self.interval_ms * 2).min(USUAL_MS);
        Some(asked_ms)
    }

    /// The answer was a good one.
    pub fn note_answer(&mut self, asked_ms: u64) {
        self.answered_ms = Some(asked_ms);
    }

    /// The answer was none: what was known is no longer.
    pub fn note_failure(&mut self) {
        self.answered_ms = None;
    }

    /// Returns true if the jobs are known as they were at this time or later.
    pub fn knows_since(&self, ms: u64) -> bool {
        self.answered_ms.is_some_and(|answered_ms| answered_ms >= ms)
    }

    /// Asks soon, once.
    pub fn ask_soon(&mut self, now_ms: u64) {
        self.next_ms = self.next_ms.min(now_ms + SOON_MS);
    }

    /// What was asked about has become clear.
    pub fn ask_as_usual(&mut self) {
        self.interval_ms = USUAL_MS;
    }

    /// Asks soon, and often until nothing happens.
    pub fn ask_often(&mut self, now_ms: u64) {
        self.ask_soon(now_ms);
        self.interval_ms = SOON_MS;
    }
}
