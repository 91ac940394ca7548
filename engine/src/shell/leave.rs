//! The shutdown of the process: at once, or when it has finished what it runs.

use std::time::{Duration, Instant};

use furlong_host::stop::{Reason, Stop};
use furlong_link::outgoing::Written;
use furlong_link::peer::GOODBYE_TIMEOUT;
use furlong_wire::limits::{HEARTBEAT_DEAD_MS, WRITE_TURN_BYTES};
use furlong_wire::message::{FromEngine, Goodbye};

use tokio::sync::mpsc::UnboundedReceiver;

use super::{Link, Shell};
use crate::runtime::{SlotEvent, SlotIndex};

/// A little longer than each of them has.
const INTERPRETERS_TIMEOUT: Duration = Duration::from_millis(3500);

/// A process that finishes what it runs, and then leaves.
pub(super) struct Drain {
    reason: String,
    ends: Option<Instant>,
    /// Since when it has results and nobody to give them to.
    alone: Option<Instant>,
}

impl Shell {
    /// Somebody wants the process to end. SIGTERM, once, lets it finish.
    pub(super) fn handle_stop(&mut self, reason: Reason) {
        if reason == Reason::Terminated && self.drain.is_none() {
            self.drain(reason.text());
        } else {
            self.leaving = Some(reason.text().to_owned());
        }
    }

    /// Takes nothing new, and leaves when it is done.
    pub(super) fn drain(&mut self, reason: &str) {
        if self.drain.is_some() {
            return;
        }
        tracing::info!("{reason}: finishing what runs; SIGTERM again, or SIGINT, ends it at once");
        let ends = self.drain_timeout.map(|timeout| Instant::now() + timeout);
        self.drain = Some(Drain { reason: reason.to_owned(), ends, alone: None });
        self.core.drain(reason);
    }

    /// Returns the reason to leave now, if there is one.
    pub(super) fn leaves_now(&mut self) -> Option<String> {
        if let Some(reason) = self.leaving.take() {
            return Some(reason);
        }
        let Drain { reason, ends, alone } = self.drain.as_mut()?;
        let now = Instant::now();
        if ends.is_some_and(|ends| ends <= now) {
            return Some(format!("{reason}; what runs has not finished in time"));
        }
        let is_done = match &self.link {
            Link::Up(up) => {
                *alone = None;
                self.core.is_drained() && up.peer.is_empty()
            }
            // With results that nobody has: the broker may come back, but not for ever.
            Link::Dialling(_) if !self.core.has_work() => {
                let waited = alone.get_or_insert(now).elapsed();
                !self.core.has_results() || waited >= Duration::from_millis(HEARTBEAT_DEAD_MS)
            }
            Link::Dialling(_) => false,
        };
        is_done.then(|| reason.clone())
    }

    /// Says goodbye and gives the last bytes a second to leave.
    pub(super) async fn leave(&mut self, reason: &str) {
        tracing::info!("leaving: {reason}");
        let Link::Up(up) = &mut self.link else { return };
        up.peer.push(&FromEngine::Goodbye(Goodbye { reason: reason.to_owned() }));
        let last = async {
            while let Ok(written) = up.socket.write_from(up.peer.outbox(), WRITE_TURN_BYTES) {
                if written == Written::All || up.socket.writable().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, last).await;
    }

    /// Ends the interpreters gracefully, unless somebody is in a hurry. What they print at their
    /// end is logged.
    pub(super) async fn end_interpreters(
        &mut self,
        stop: &mut Stop,
        events: &mut UnboundedReceiver<(SlotIndex, SlotEvent)>,
    ) {
        // They kill what has not ended in time; one that is just being started would take longer.
        let ended = tokio::time::timeout(INTERPRETERS_TIMEOUT, self.slots.end());
        let hurry = async {
            loop {
                match stop.next().await {
                    Reason::Terminated | Reason::Interrupted => return,
                    Reason::StarterEnded => {}
                    Reason::NoSignals => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            _ = ended => {}
            () = hurry => {}
        }
        while let Ok((slot, event)) = events.try_recv() {
            if let SlotEvent::StrayOutput { stream, bytes } = event {
                tracing::warn!(
                    "slot {slot} {stream:?}: {}",
                    String::from_utf8_lossy(&bytes).trim_end()
                );
            }
        }
    }
}
