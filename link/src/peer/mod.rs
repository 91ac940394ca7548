//! One connection to a proved peer, without its socket: when a heartbeat is due, when the peer is
//! dead or stalled, what goes first and what is left out for a slow reader. Time is an argument,
//! measured from any fixed start.
//!
//! Broker, engines and clients each have a [`Peer`] for a connection and write what its outbox
//! hands out; the simulation of `tests/sim` runs the same ones. [`inbox::Inbox`] is the other
//! direction, and [`redial::Redial`] decides when a connection that is gone is sought again.

pub mod backoff;
pub mod inbox;
pub mod liveness;
pub mod outbox;
pub mod place;
pub mod redial;
pub mod unsound;

use std::time::Duration;

use bytes::Bytes;
use furlong_wire::record::RecordSealer;

use self::liveness::{Due, Liveness};
use self::outbox::{Chunks, Outbox};
use self::place::{LeftOutAbove, Placed, QueuePlace};
use crate::file::FileId;

/// The time that the last bytes have to leave, when a connection ends gracefully.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// A proved peer, and what waits for it.
///
/// [`Peer::push`] queues. The shell writes from [`Peer::outbox`] and then calls
/// [`Peer::handle_written`]; it calls [`Peer::handle_read`] when bytes have come, and
/// [`Peer::handle_tick`] at each tick.
#[derive(Debug)]
pub struct Peer {
    outbox: Outbox,
    liveness: Liveness,
    /// When the peer last took something.
    sent_at: Duration,
    /// Bytes that it had taken by then.
    sent_bytes: u64,
    /// True if it has taken something since the last tick.
    took_since_tick: bool,
    /// True if nothing on this side held up what was asked, between the last two ticks.
    answers_are_due: bool,
    /// True if what waits for too long ends nothing.
    bears_stalls: bool,
    left_out_above: LeftOutAbove,
    /// The transfer whose announcement was left out, and which is left out after it.
    left_out: Option<u64>,
}

impl Peer {
    /// A fresh connection on which messages of one direction are sent. `tick` is the time between
    /// two ticks, at least.
    pub fn new<M: Placed>(sealer: RecordSealer, tick: Duration, now: Duration) -> Self {
        Self {
            outbox: Outbox::new::<M>(sealer),
            liveness: Liveness::new(tick),
            sent_at: now,
            sent_bytes: 0,
            took_since_tick: false,
            answers_are_due: true,
            bears_stalls: false,
            left_out_above: LeftOutAbove::default(),
            left_out: None,
        }
    }

    /// The same for a peer that may take nothing for as long as it is heard of. An engine has
    /// nobody who waits for the room that its results take, and a broker that is stopped for some
    /// seconds is not worth a new connection.
    pub fn bearing_stalls(mut self) -> Self {
        self.bears_stalls = true;
        self
    }

    /// Sets other limits on what waits for a slow reader: small ones, for tests and simulations.
    pub fn leave_out_above(&mut self, limits: LeftOutAbove) {
        self.left_out_above = limits;
    }

    /// Queues a message, in the place that its kind has. One that a slow reader can do without is
    /// left out while too much waits for it.
    pub fn push<M: Placed>(&mut self, message: &M) {
        match message.place() {
            QueuePlace::InOrder => self.outbox.push(message),
            QueuePlace::First => self.outbox.push_control(message),
            QueuePlace::Dispensable { kind, transfer } => {
                // What is stored for it counts, too: it is in no queue before its turn.
                let waiting = self.outbox.queued_bytes() + self.outbox.stored_bytes();
                if waiting <= self.left_out_above.of(kind) {
                    self.outbox.push(message);
                } else {
                    self.left_out = transfer;
                }
            }
        }
    }

    /// Sends a payload, unless the message that announced it was left out: `pass` passes it in a
    /// memory file, if it can, and says in which; else its chunks are queued.
    ///
    /// It is not passed while chunks of others wait: those were first, and if the connection is cut
    /// they must not be the ones that are missing.
    pub fn push_transfer<M: Placed>(
        &mut self,
        number: u64,
        chunks: Chunks,
        pass: impl FnOnce(&Chunks) -> Option<FileId>,
    ) {
        if self.left_out.take_if(|left_out| *left_out == number).is_some() {
            return;
        }
        let passed = if self.outbox.has_transfers() { None } else { pass(&chunks) };
        match passed {
            Some(file) => self.outbox.push_passed::<M>(number, file),
            None => self.outbox.push_transfer(number, chunks),
        }
    }

    /// Queues bytes that the ZMTP codec of the other direction wants sent.
    pub fn push_codec_bytes(&mut self, bytes: Bytes) {
        self.outbox.push_codec_bytes(bytes);
    }

    /// The queue, to write from it, or to queue what has its place by other rules.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Returns true if what was asked had left by the last tick, or the peer took nothing
    /// since the one before: what is still on its way cannot be answered yet.
    pub fn answers_are_due(&self) -> bool {
        self.answers_are_due
    }

    /// Returns true if nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.outbox.queued_bytes()
    }

    /// The socket was written to. What it took says that the peer reads.
    pub fn handle_written(&mut self, now: Duration) {
        if self.outbox.written_bytes() > self.sent_bytes {
            self.sent_bytes = self.outbox.written_bytes();
            self.sent_at = now;
            self.took_since_tick = true;
            self.liveness.taken();
        }
    }

    /// Bytes have come from the peer, or it is known to live in another way.
    pub fn handle_read(&mut self) {
        self.liveness.heard();
    }

    /// Another tick: queues a heartbeat if one is due. Returns the reason to give the connection
    /// up, if there is one.
    pub fn handle_tick(&mut self, now: Duration) -> Option<Dead> {
        let waits = !self.outbox.is_empty();
        self.answers_are_due = !waits || !self.took_since_tick;
        self.took_since_tick = false;
        match self
            .liveness
            .handle_tick(waits && !self.bears_stalls, now.saturating_sub(self.sent_at))
        {
            Due::Silent => Some(Dead::Silent),
            Due::Stalled => Some(Dead::Stalled),
            Due::Heartbeat => {
                self.outbox.push_heartbeat();
                None
            }
            Due::Nothing => None,
        }
    }
}

/// The reason to give up a connection that nobody has closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dead {
    /// Nothing was heard of the peer for 15 s.
    Silent,
    /// It took nothing of what waits for it for 10 s.
    Stalled,
}

#[cfg(test)]
mod tests;
