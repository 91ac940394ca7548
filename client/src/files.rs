//! Large payloads on their way into memory files: a thread writes them, so that nothing else waits.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use furlong_link::file::{FILE_BYTES_MIN, PayloadFile};
use furlong_link::pass::FilePasser;
use furlong_link::peer::outbox::Chunks;
use furlong_wire::message::FromClient;
use furlong_wire::payload::SealedPayload;

use crate::shared::{Shared, State, unlock};

/// Larger ones are written by the thread: the system takes a millisecond for two megabytes.
const WRITTEN_APART_BYTES: u64 = 4 * 1024 * 1024;

/// The way for memory files beside a session's connection, and what is being written for it.
#[derive(Debug, Default)]
pub(crate) struct Files {
    passer: Option<Arc<FilePasser>>,
    /// Transfers of this connection that wait for the thread.
    unwritten: VecDeque<(u64, SealedPayload)>,
    /// True from when a thread was asked for until it has found nothing more to do.
    is_writing: bool,
}

impl Files {
    /// Those of a new connection. The transfers of an earlier one are of no use any longer.
    pub fn reconnect(&mut self, passer: Option<Arc<FilePasser>>) {
        self.passer = passer;
        self.unwritten.clear();
    }

    /// Returns true if nothing is being written, or waits for that.
    pub fn is_idle(&self) -> bool {
        !self.is_writing && self.unwritten.is_empty()
    }

    /// Returns true if the thread is to write a payload: it is large, or comes after others that
    /// the thread has not written yet.
    fn is_written_apart(&self, payload: &SealedPayload) -> bool {
        let least = if self.is_idle() { WRITTEN_APART_BYTES } else { FILE_BYTES_MIN };
        payload.bytes() >= least && self.passer.as_ref().is_some_and(|passer| passer.is_open())
    }
}

impl State {
    /// Sends a payload that was announced: in a memory file if the broker is on this machine.
    pub fn transfer(&mut self, number: u64, payload: SealedPayload) {
        if self.files.is_written_apart(&payload) && self.start_writer() {
            return self.files.unwritten.push_back((number, payload));
        }
        let passer = self.files.passer.as_deref();
        let pass = |chunks: &Chunks| passer?.pass(number, chunks);
        self.peer.push_transfer::<FromClient>(number, Chunks::from(payload), pass);
    }

    /// Starts the thread, unless it is at work. False if there is none to be had.
    fn start_writer(&mut self) -> bool {
        if !self.files.is_writing {
            let shared = Weak::clone(&self.shared);
            let thread = std::thread::Builder::new().name("furlong-files".into());
            self.files.is_writing = thread.spawn(move || write_all(&shared)).is_ok();
        }
        self.files.is_writing
    }
}

/// Writes what waits, one payload after the other, until there is nothing or nobody left.
fn write_all(shared: &Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let mut state = shared.lock();
        let (next, passer) = (state.files.unwritten.pop_front(), state.files.passer.clone());
        let Some(((number, payload), passer)) = next.zip(passer) else {
            state.files.is_writing = false;
            unlock(state);
            // Somebody may wait until everything has left.
            return shared.work.notify_one();
        };
        unlock(state);
        let file = PayloadFile::write(&payload).ok().flatten();
        let mut state = shared.lock();
        let is_current =
            state.files.passer.as_ref().is_some_and(|current| Arc::ptr_eq(current, &passer));
        if is_current {
            let pass = |_: &Chunks| {
                file.filter(|it| passer.send(number, it.descriptor())).map(|it| it.id())
            };
            state.peer.push_transfer::<FromClient>(number, Chunks::from(payload), pass);
        }
        unlock(state);
        shared.work.notify_one();
    }
}
