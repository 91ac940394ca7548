//! Results that are held until the broker releases them: what was sent may not have arrived when a
//! connection breaks.
//!
//! After a cut nothing of it is sent by itself. The process names it when it registers, and the
//! broker says what it wants: adopted results are sent again, byte for byte, the others are
//! released.

use furlong_link::peer::outbox::Chunks;
use furlong_wire::ids::{Attempt, AttemptId, SessionId, TaskSeq};
use furlong_wire::limits::{
    ASKED_FOR_TRANSFER, ERROR_TEXT_BYTES_MAX, HELD_RESULT_BYTES_MAX, HELD_RESULTS_MAX,
};
use furlong_wire::message::{
    Adopt, AttemptFinished, AttemptOutput, FromEngine, HeldWork, Outcome, Payload, Release, Stream,
};
use furlong_wire::numbers::NumberMap;

use super::results::too_large;
use super::{Core, Output};
use crate::job::{JobTimes, SlotIndex};

/// The work and the results that the process holds, as its registration says it.
#[derive(Debug, Default)]
pub struct Held {
    /// The work that runs or waits here, and what has ended.
    pub work: Vec<HeldWork>,
    /// The last attempt that it was given: later ones have not come to it, or not whole, and have
    /// not begun.
    pub received: Option<Attempt>,
    /// The last attempt whose result was dropped.
    pub dropped: Option<Attempt>,
}

/// The end of an attempt, as it is sent any number of times.
#[derive(Debug)]
pub(super) struct HeldEnd {
    pub finished: AttemptFinished,
    /// The result, if it travels in chunks. To seal it anew would be to use another counter.
    pub payload: Option<Box<Chunks>>,
    pub session: SessionId,
    pub n: TaskSeq,
    pub slot: SlotIndex,
    /// Bytes that it wrote to standard output and standard error.
    pub written: [u64; 2],
    pub stage: Stage,
}

/// The progress of a held result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// It was never sent whole to the end of a connection's queue, or waits to be asked for.
    Unsent,
    /// It was sent on this connection.
    Sent,
    /// It was sent on an earlier one.
    Unsure,
}

/// All results that are held: at most [`HELD_RESULTS_MAX`] and [`HELD_RESULT_BYTES_MAX`], beside
/// those that could not be sent yet.
#[derive(Debug, Default)]
pub(super) struct Results {
    ended: NumberMap<Attempt, HeldEnd>,
    sent: Sent,
    /// Results looked at so far to find the oldest: what the bounds cost, for the tests.
    #[cfg(test)]
    pub looked_at: usize,
    received: Option<Attempt>,
    /// The last attempt that was given back.
    given_back: Option<Attempt>,
    dropped: Option<Attempt>,
}

/// The number of held results that were sent, and their bytes: what the bounds are about.
#[derive(Debug, Default)]
struct Sent {
    results: usize,
    bytes: u64,
}

impl Sent {
    /// Counts a result from now on, if it was sent.
    fn add(&mut self, ended: &HeldEnd) {
        if ended.stage != Stage::Unsent {
            (self.results, self.bytes) = (self.results + 1, self.bytes + ended.bytes());
        }
    }

    /// Counts a result no longer: it goes, or changes.
    fn take(&mut self, ended: &HeldEnd) {
        if ended.stage != Stage::Unsent {
            let is_counted = self.results > 0 && self.bytes >= ended.bytes();
            assert!(is_counted, "a result that was sent is counted until it goes");
            (self.results, self.bytes) = (self.results - 1, self.bytes - ended.bytes());
        }
    }

    fn is_within_bounds(&self) -> bool {
        self.results <= HELD_RESULTS_MAX && self.bytes <= HELD_RESULT_BYTES_MAX
    }
}

impl HeldEnd {
    fn bytes(&self) -> u64 {
        let inline = match &self.finished.payload {
            Some(Payload::Inline(inline)) => inline.len() as u64,
            _ => 0,
        };
        let text = self.finished.outcome.error.as_ref().map_or(0, |error| error.text.len() as u64);
        inline + text + self.payload_bytes().unwrap_or(0)
    }

    /// Bytes of its result, if that travels in chunks.
    fn payload_bytes(&self) -> Option<u64> {
        Some(self.payload.as_ref()?.payload()?.bytes())
    }
}

/// Cuts a text to what the broker keeps of it.
pub(super) fn shorten(text: &mut String) {
    text.truncate(text.floor_char_boundary(ERROR_TEXT_BYTES_MAX));
}

impl Results {
    /// An attempt was given to the process.
    pub fn note_received(&mut self, attempt: Attempt) {
        self.received = self.received.max(Some(attempt));
    }

    /// An attempt was given back.
    pub fn note_given_back(&mut self, attempt: Attempt) {
        self.given_back = self.given_back.max(Some(attempt));
    }

    /// This attempt and later ones that the process does not hold have not begun, since what they
    /// need was on its way when the connection was cut: it is as if they had never come. Up to the
    /// last one that was given back that cannot be said: its interpreter may have ended, and of
    /// that the broker may not have heard.
    pub fn note_unbegun(&mut self, first: Attempt) {
        let before = Attempt { id: AttemptId(first.id.0.saturating_sub(1)), ..first };
        self.received = self.given_back.max(Some(before));
    }

    /// Returns true if the end of an attempt is held.
    pub fn holds(&self, attempt: Attempt) -> bool {
        self.ended.contains_key(&attempt)
    }

    /// Returns true if there is something that was never sent.
    pub fn has_unsent(&self) -> bool {
        self.ended.values().any(|ended| ended.stage == Stage::Unsent)
    }

    /// Returns true if there is something that was not sent on this connection.
    pub fn has_unsettled(&self) -> bool {
        self.ended.values().any(|ended| ended.stage != Stage::Sent)
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self) {
        for ended in self.ended.values_mut().filter(|ended| ended.stage == Stage::Sent) {
            ended.stage = Stage::Unsure;
        }
    }

    fn insert(&mut self, ended: HeldEnd) {
        self.sent.add(&ended);
        // A broker may adopt a result as an attempt of which another one is held: that goes.
        let before = self.ended.insert(ended.finished.attempt, ended);
        if let Some(before) = before {
            self.sent.take(&before);
        }
        assert!(self.sent.results <= self.ended.len(), "more are sent than are held");
    }

    fn remove(&mut self, attempt: Attempt) -> Option<HeldEnd> {
        let ended = self.ended.remove(&attempt)?;
        self.sent.take(&ended);
        Some(ended)
    }

    /// Beyond the bounds, drops the oldest results: an eighth of many, so that it is not to be done
    /// for each new one.
    fn trim(&mut self) {
        if self.sent.is_within_bounds() {
            return;
        }
        #[cfg(test)]
        (self.looked_at += self.ended.len());
        // Not those that wait to be asked for: their tasks have no other end.
        let oldest = self.attempts(|ended| ended.stage != Stage::Unsent);
        let many = oldest.len() / 8;
        for (dropped, attempt) in oldest.into_iter().enumerate() {
            if dropped >= many && self.sent.is_within_bounds() {
                return;
            }
            self.drop_result(attempt);
        }
        assert!(self.sent.is_within_bounds(), "without results that were sent there is room");
    }

    /// The attempts of such results, oldest first.
    fn attempts(&self, such: impl Fn(&HeldEnd) -> bool) -> Vec<Attempt> {
        let ended = self.ended.iter().filter(|(_, ended)| such(ended));
        let mut attempts: Vec<Attempt> = ended.map(|(attempt, _)| *attempt).collect();
        attempts.sort_unstable();
        attempts
    }

    fn drop_result(&mut self, attempt: Attempt) {
        self.dropped = self.dropped.max(Some(attempt));
        self.remove(attempt).expect("what is dropped was held");
    }
}

impl Core {
    /// Returns what the process holds, for its registration. The oldest results that this does not
    /// name are dropped.
    pub fn held(&mut self) -> Held {
        let running = self.work.values().map(|work| HeldWork {
            attempt: work.attempt,
            session: work.session,
            n: work.n,
            slot: self.named(work.slot),
            finished: false,
        });
        // What runs comes first: of a result that is not named the broker learns by `dropped`, of
        // work by nothing.
        let mut work: Vec<HeldWork> = running.take(HELD_RESULTS_MAX).collect();
        let mut ended = self.results.attempts(|_| true);
        let beyond = (work.len() + ended.len()).saturating_sub(HELD_RESULTS_MAX);
        ended.drain(..beyond).for_each(|attempt| self.results.drop_result(attempt));
        work.extend(ended.into_iter().map(|attempt| {
            let HeldEnd { session, n, slot, .. } = self.results.ended[&attempt];
            HeldWork { attempt, session, n, slot: self.named(slot), finished: true }
        }));
        assert!(work.len() <= HELD_RESULTS_MAX, "a registration is longer than its message");
        Held { work, received: self.results.received, dropped: self.results.dropped }
    }

    /// Holds the end of an attempt, and sends it if there is a connection.
    pub(super) fn hold(&mut self, mut ended: HeldEnd) {
        let attempt = ended.finished.attempt;
        // Mostly it travels in its message, and there is nothing else to say.
        if self.connected && ended.payload.is_none() && (!self.was_cut || ended.written == [0; 2]) {
            ended.stage = Stage::Sent;
            let message = FromEngine::Finished(ended.finished.clone());
            self.outputs.push_back(Output::Send(message));
            self.results.insert(ended);
            return self.results.trim();
        }
        self.results.insert(ended);
        if self.connected {
            self.send_result(attempt);
        }
    }

    /// Sends a held result. A large one that may not go unasked is announced, and waits: the slot
    /// goes on, and so do other results.
    fn send_result(&mut self, attempt: Attempt) {
        self.say_what_was_written(attempt);
        let Results { ended, sent, .. } = &mut self.results;
        let ended = ended.get_mut(&attempt).expect("what is sent was inserted a moment ago");
        sent.take(ended);
        ended.stage = Stage::Sent;
        match ended.payload_bytes() {
            Some(bytes) if bytes <= self.room.result_bytes_max => {
                ended.stage = Stage::Unsent;
                // Of an earlier start's attempt the broker does not know whose it is.
                if attempt.start == self.start && self.sessions.announce(ended.session, bytes) {
                    return self.transfer_result(attempt);
                }
                let ended = &self.results.ended[&attempt];
                let sealed = ended.payload.as_ref().and_then(|chunks| chunks.payload());
                let payload = sealed.map(|sealed| self.announcement(sealed, ASKED_FOR_TRANSFER));
                let finished = AttemptFinished { payload, ..ended.finished.clone() };
                return self.outputs.push_back(Output::Send(FromEngine::Finished(finished)));
            }
            // The broker could never let it through, however long it waits.
            Some(bytes) => {
                ended.payload = None;
                ended.finished.outcome =
                    too_large(bytes, self.room.result_bytes_max, &self.room.memory_flag);
            }
            None => {}
        }
        sent.add(ended);
        self.outputs.push_back(Output::Send(FromEngine::Finished(ended.finished.clone())));
        self.results.trim();
    }

    /// After a cut nobody knows which output has arrived: an empty piece at its end shows what is
    /// missing.
    fn say_what_was_written(&mut self, attempt: Attempt) {
        let Some(ended) = self.results.ended.get(&attempt).filter(|_| self.was_cut) else { return };
        for (offset, stream) in ended.written.into_iter().zip([Stream::Stdout, Stream::Stderr]) {
            if offset > 0 {
                let end = AttemptOutput { attempt, stream, offset, bytes: Vec::new() };
                self.outputs.push_back(Output::Send(FromEngine::Output(end)));
            }
        }
    }

    /// The broker has room for a result that waits.
    pub(super) fn send_taken(&mut self, attempt: Attempt) {
        if self.results.ended.get(&attempt).is_some_and(|ended| ended.stage == Stage::Unsent) {
            self.transfer_result(attempt);
        }
    }

    fn transfer_result(&mut self, attempt: Attempt) {
        let ended = self.results.ended.get(&attempt).expect("both callers have just seen it");
        // A broker may ask for what travels in its message and was not sent yet: it comes when the
        // broker says that it wants what is held here.
        let Some(chunks) = ended.payload.as_deref().cloned() else { return };
        let (transfer, payload) = self.announce(&chunks);
        let Results { ended, sent, .. } = &mut self.results;
        let ended = ended.get_mut(&attempt).expect("nothing was removed meanwhile");
        sent.take(ended);
        ended.stage = Stage::Sent;
        sent.add(ended);
        let finished = AttemptFinished { payload: Some(payload), ..ended.finished.clone() };
        self.outputs.push_back(Output::Send(FromEngine::Finished(finished)));
        self.outputs.push_back(Output::Transfer(transfer, chunks));
        self.results.trim();
    }

    /// The broker needs these results no longer.
    pub(super) fn release(&mut self, release: &Release) {
        release.attempts().for_each(|attempt| _ = self.results.remove(attempt));
    }

    /// The broker wants what is held here. What has ended is sent again.
    pub(super) fn adopt(&mut self, adopt: &Adopt) {
        for &(held, adopted) in &adopt.attempts {
            self.results.note_received(adopted);
            // It runs, or waits to: from now on it is spoken of under its new name.
            if let Some(job) = self.by_attempt.remove(&held) {
                self.by_attempt.insert(adopted, job);
                let work = self.work.get_mut(&job).expect("a job has a name while it is work");
                work.attempt = adopted;
                // What was said of it, was said under its old name.
                work.reported = false;
            } else if let Some(mut ended) = self.results.remove(held) {
                ended.finished.attempt = adopted;
                self.results.insert(ended);
                self.send_result(adopted);
            }
        }
        // A cancel of the new attempt may have overtaken the word that it is this one.
        self.respond_early(adopt.attempts.iter().map(|(_, adopted)| *adopted));
    }
}

/// The end of an attempt that has just ended here. Its text is as long as the broker keeps it.
pub(super) fn ended(work: &super::Work, mut outcome: Outcome, times: JobTimes) -> HeldEnd {
    outcome.error.iter_mut().for_each(|error| shorten(&mut error.text));
    let times = times.since(work.received_us);
    let finished = AttemptFinished { attempt: work.attempt, outcome, times, payload: None };
    let super::Work { session, n, slot, .. } = *work;
    HeldEnd { finished, payload: None, session, n, slot, written: [0; 2], stage: Stage::Unsent }
}
