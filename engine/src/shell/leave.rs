//! The shutdown of the process: the last words to the broker, and the end of the interpreters.

use std::time::Duration;

use furlong_host::stop::{Reason, Stop};
use furlong_link::outgoing::Written;
use furlong_link::peer::GOODBYE_TIMEOUT;
use furlong_wire::limits::WRITE_TURN_BYTES;
use furlong_wire::message::{FromEngine, Goodbye};

use super::{Link, Shell};
use crate::job::SlotEvent;
use crate::runtime::{EventReceiver, Report};

/// A little longer than each of them has.
const INTERPRETERS_TIMEOUT: Duration = Duration::from_millis(3500);

/// Says how the end can be had sooner.
pub(super) fn tell_draining(reason: &str) {
    tracing::info!("{reason}: finishing what runs; SIGTERM again, or SIGINT, ends it at once");
}

impl Shell {
    /// Somebody wants the process to end. SIGTERM, once, lets it finish.
    pub(super) fn handle_stop(&mut self, reason: Reason) {
        if reason == Reason::Terminated {
            self.core.handle_stop(reason.text());
        } else {
            self.core.leave(reason.text());
        }
    }

    /// Returns the reason to leave now, if there is one.
    pub(super) fn leaves_now(&mut self) -> Option<String> {
        // The clock is not read for each task.
        if !self.core.is_leaving() {
            return None;
        }
        let has_sent = match &self.link {
            Link::Up(up) => up.peer.is_empty(),
            Link::Dialling(_) => true,
        };
        self.core.poll_leave(self.began.elapsed(), has_sent)
    }

    /// Says goodbye and gives the last bytes a second to leave.
    pub(super) async fn leave(&mut self, reason: &str) {
        tracing::info!("leaving: {reason}");
        // What it ran is given back.
        self.carry_out();
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
    pub(super) async fn end_interpreters(&mut self, stop: &mut Stop, events: &mut EventReceiver) {
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
        while let Some((slot, event)) = events.poll() {
            if let Report::Event(SlotEvent::StrayOutput { stream, bytes }) = event {
                tracing::warn!(
                    "slot {slot} {stream:?}: {}",
                    String::from_utf8_lossy(&bytes).trim_end()
                );
            }
        }
    }
}
