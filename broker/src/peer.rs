//! A connected peer as the broker has it, without its socket: what may wait for it, when it is read
//! from, and why its connection ends.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use furlong_link::file::FileId;
use furlong_link::peer::outbox::{Chunks, Outbox};
use furlong_link::peer::place::{LeftOutAbove, Placed};
use furlong_link::peer::{Dead, Peer};
use furlong_wire::message::{Goodbye, ToClient, ToEngine};
use furlong_wire::record::RecordSealer;
use furlong_wire::token::Role;

use crate::budget::{OUT_QUEUE_BYTES_MAX, OutQueues};

/// The interval at which connections are checked.
pub const TICK: Duration = Duration::from_secs(1);

/// The reason that a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionEnd {
    /// Graceful: pending messages are still written.
    Graceful(&'static str),
    /// At once.
    AtOnce(&'static str),
}

/// A peer that the core has let in.
#[derive(Debug)]
pub struct ConnectedPeer {
    peer: Peer,
    /// Of a client: what waits for all of them, and how much of that is this one's.
    out_queues: Option<Rc<OutQueues>>,
    counted_bytes: usize,
    /// True while nothing is read from it until it takes more of what waits for it.
    is_paused: bool,
    end: Option<ConnectionEnd>,
}

impl ConnectedPeer {
    /// A peer of this role. What waits for clients is shared among them.
    pub fn new(
        role: Role,
        sealer: RecordSealer,
        out_queues: &Rc<OutQueues>,
        now: Duration,
    ) -> Self {
        let (peer, out_queues) = match role {
            Role::Engine => (Peer::new::<ToEngine>(sealer, TICK, now), None),
            _ => (Peer::new::<ToClient>(sealer, TICK, now), Some(Rc::clone(out_queues))),
        };
        Self { peer, out_queues, counted_bytes: 0, is_paused: false, end: None }
    }

    /// Sets other limits on what waits for a slow reader: small ones, for simulations.
    pub fn leave_out_above(&mut self, limits: LeftOutAbove) {
        self.peer.leave_out_above(limits);
    }

    /// Returns true for a client, false for an engine process.
    pub fn is_client(&self) -> bool {
        self.out_queues.is_some()
    }

    /// Queues a message of the core.
    pub fn push<M: Placed>(&mut self, message: &M) {
        self.peer.push(message);
        self.handle_queued();
    }

    /// Sends a payload that the message before has announced: `pass` passes it in a memory file, if
    /// it can, and says in which; else its chunks are queued.
    pub fn push_transfer(
        &mut self,
        number: u64,
        chunks: Chunks,
        pass: impl FnOnce(&Chunks) -> Option<FileId>,
    ) {
        if self.is_client() {
            self.peer.push_transfer::<ToClient>(number, chunks, pass);
        } else {
            self.peer.push_transfer::<ToEngine>(number, chunks, pass);
        }
    }

    /// Queues what the ZMTP codec wants sent.
    pub fn push_codec_bytes(&mut self, bytes: Bytes) {
        self.peer.push_codec_bytes(bytes);
        self.handle_queued();
    }

    /// Tells it that the broker stops, and ends the connection when that is written.
    pub fn say_goodbye(&mut self, reason: String) {
        let goodbye = Goodbye { reason };
        if self.is_client() {
            self.push(&ToClient::Goodbye(goodbye));
        } else {
            self.push(&ToEngine::Goodbye(goodbye));
        }
        self.end(ConnectionEnd::Graceful("the broker stops"));
    }

    /// A peer for which more waits than it may have reads too slowly.
    fn handle_queued(&mut self) {
        self.count_waiting();
        let most =
            self.out_queues.as_ref().map_or(OUT_QUEUE_BYTES_MAX, |queues| queues.waits_max());
        if self.peer.queued_bytes() > most {
            self.end(ConnectionEnd::AtOnce(
                "it reads too slowly: more waits for it than a peer may have",
            ));
        }
    }

    fn count_waiting(&mut self) {
        if let Some(out_queues) = &self.out_queues {
            let now = self.peer.queued_bytes();
            out_queues.change(std::mem::replace(&mut self.counted_bytes, now), now);
        }
    }

    /// Ends the connection; the first reason counts.
    pub fn end(&mut self, end: ConnectionEnd) {
        self.end.get_or_insert(end);
    }

    /// The reason that the connection is to end, if it is.
    pub fn ended(&self) -> Option<ConnectionEnd> {
        self.end
    }

    /// Decides if more is read from the peer now. While very much waits for a client, it is to take
    /// some before it asks for more; one that takes nothing is stalled, as any peer is.
    pub fn resume_reading(&mut self) -> bool {
        let asks_max = self.out_queues.as_ref().map(|queues| queues.asks_max());
        let is_to_take = asks_max.is_some_and(|most| self.peer.queued_bytes() > most);
        if is_to_take && self.end.is_none() {
            self.is_paused = true;
            return false;
        }
        if std::mem::replace(&mut self.is_paused, false) {
            self.peer.handle_read();
        }
        true
    }

    /// Returns true if nothing is read from it at present.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Bytes have come from the peer, or it could say nothing as nobody listened.
    pub fn handle_read(&mut self) {
        self.peer.handle_read();
    }

    /// The queue, to write from it.
    pub fn outbox(&mut self) -> &mut Outbox {
        self.peer.outbox()
    }

    /// The socket was written to.
    pub fn handle_written(&mut self, now: Duration) {
        self.peer.handle_written(now);
        self.count_waiting();
    }

    /// Returns true if nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        self.peer.is_empty()
    }

    /// Another tick: queues a heartbeat if one is due, or ends the connection of a peer that is
    /// dead.
    pub fn handle_tick(&mut self, now: Duration) {
        if self.is_paused {
            // Nothing is read from who does not take what it has asked for: it is stalled, if
            // anything.
            self.peer.handle_read();
        }
        match self.peer.handle_tick(now) {
            Some(Dead::Silent) => {
                self.end(ConnectionEnd::AtOnce("nothing was heard of it for 15 s"));
            }
            Some(Dead::Stalled) => {
                self.end(ConnectionEnd::AtOnce("it took nothing of what waits for it for 10 s"));
            }
            None => {}
        }
    }
}

impl Drop for ConnectedPeer {
    fn drop(&mut self) {
        if let Some(out_queues) = &self.out_queues {
            out_queues.change(self.counted_bytes, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use furlong_wire::message::{Reply, ReplyBody};
    use furlong_wire::record::RecordKeys;

    use super::*;

    fn sealer() -> RecordSealer {
        RecordKeys { send: [1; 32].into(), receive: [1; 32].into() }.split().0
    }

    fn client(out_queues: &Rc<OutQueues>) -> ConnectedPeer {
        ConnectedPeer::new(Role::Client, sealer(), out_queues, Duration::ZERO)
    }

    fn answer(bytes: usize) -> ToClient {
        ToClient::Reply(Reply { request: 1, body: ReplyBody::Refused("r".repeat(bytes)) })
    }

    /// Everything that waits is taken.
    fn take(peer: &mut ConnectedPeer) {
        let mut slices = [std::io::IoSlice::new(&[]); furlong_link::peer::outbox::SLICES_MAX];
        loop {
            let count = peer.outbox().poll_slices(&mut slices, usize::MAX);
            let bytes = slices[..count].iter().map(|slice| slice.len()).sum();
            slices = [std::io::IoSlice::new(&[]); furlong_link::peer::outbox::SLICES_MAX];
            peer.outbox().handle_written(bytes);
            peer.handle_written(Duration::ZERO);
            if bytes == 0 {
                return;
            }
        }
    }

    #[test]
    fn a_client_that_does_not_take_its_answers_is_not_read_from() {
        let out_queues = Rc::new(OutQueues::new(1 << 20));
        let mut peer = client(&out_queues);
        assert!(peer.resume_reading());
        peer.push(&answer(150_000));
        assert!(!peer.resume_reading() && peer.is_paused());
        assert!((0..9).all(|_| {
            peer.handle_tick(Duration::ZERO);
            peer.ended().is_none()
        }));
        take(&mut peer);
        assert!(peer.resume_reading() && !peer.is_paused());
    }

    #[test]
    fn a_paused_client_that_takes_nothing_ends_as_stalled() {
        let out_queues = Rc::new(OutQueues::new(1 << 20));
        let mut peer = client(&out_queues);
        peer.push(&answer(150_000));
        assert!(!peer.resume_reading());
        for _ in 0..10 {
            peer.handle_tick(Duration::ZERO);
        }
        assert_eq!(
            peer.ended(),
            Some(ConnectionEnd::AtOnce("it took nothing of what waits for it for 10 s"))
        );
        assert!(peer.resume_reading(), "whoever waits to read hears of the end");
    }

    #[test]
    fn a_peer_for_which_too_much_waits_ends() {
        let out_queues = Rc::new(OutQueues::new(0));
        let (mut peer, mut other) = (client(&out_queues), client(&out_queues));
        peer.push(&answer(200_000));
        other.push(&answer(200_000));
        assert_eq!((peer.ended(), other.ended()), (None, None));
        peer.push(&answer(200_000));
        assert!(matches!(peer.ended(), Some(ConnectionEnd::AtOnce(_))) && other.ended().is_none());
        peer.end(ConnectionEnd::Graceful("later"));
        assert!(matches!(peer.ended(), Some(ConnectionEnd::AtOnce(_))), "the first reason counts");
    }

    #[test]
    fn what_waited_for_a_client_that_is_gone_counts_no_longer() {
        let out_queues = Rc::new(OutQueues::new(1 << 20));
        let most = out_queues.asks_max();
        let mut peer = client(&out_queues);
        peer.push(&answer(200_000));
        assert!(out_queues.asks_max() < most);
        drop(peer);
        assert_eq!(out_queues.asks_max(), most);
    }

    #[test]
    fn an_engine_is_read_from_whatever_waits_for_it() {
        let out_queues = Rc::new(OutQueues::new(0));
        let mut peer = ConnectedPeer::new(Role::Engine, sealer(), &out_queues, Duration::ZERO);
        peer.push(&ToEngine::Goodbye(Goodbye { reason: "r".repeat(400_000) }));
        assert!(peer.resume_reading() && peer.ended().is_none());
        peer.say_goodbye(String::new());
        assert_eq!(peer.ended(), Some(ConnectionEnd::Graceful("the broker stops")));
    }
}
