//! The state shared by a client's handles and its connection's task.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use furlong_link::pass::FilePasser;
use furlong_link::peer::Peer;
use furlong_wire::capability::Endpoint;
use furlong_wire::ids::SessionId;
use furlong_wire::message::Welcome;
use tokio::sync::Notify;

use crate::core::{self, Call, Outbound, Submitted, Ticket, Waiter};
use crate::error::{ClientError, DisconnectCause, Disconnected};
use crate::files::Files;

/// The core of a session whose callers wait in futures.
pub(crate) type Core = core::Core<Waker>;

impl Waiter for Waker {
    fn is_same(&self, other: &Self) -> bool {
        self.will_wake(other)
    }
}

/// The session and the queue to the broker, under one lock, so that tasks are queued in the order
/// of their numbers.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// There is something to write, and the connection's task has not been told before.
    pub work: Notify,
    /// The session is over.
    pub over: Notify,
    pub welcome: Welcome,
    pub endpoint: Endpoint,
    pub session: SessionId,
}

#[derive(Debug)]
pub(crate) struct State {
    pub core: Core,
    pub peer: Peer,
    pub files: Files,
    /// For the thread that writes files.
    pub shared: Weak<Shared>,
    /// True if the connection's task was notified that there is something to write.
    pub is_told: bool,
}

impl Shared {
    pub fn new(
        core: Core,
        (peer, passer): (Peer, Option<Arc<FilePasser>>),
        welcome: Welcome,
        endpoint: Endpoint,
        session: SessionId,
    ) -> Arc<Self> {
        let mut files = Files::default();
        files.reconnect(passer);
        Arc::new_cyclic(|shared| {
            let shared = Weak::clone(shared);
            let state = Mutex::new(State { core, peer, files, shared, is_told: false });
            Self { state, work: Notify::new(), over: Notify::new(), welcome, endpoint, session }
        })
    }

    /// Runs a command or an event of the core, queues what it wants sent, and wakes whom it wants
    /// woken.
    pub fn with<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        let mut state = self.lock();
        let result = f(&mut state.core);
        state.queue_outbound();
        let tell = !state.is_told && !state.peer.is_empty();
        state.is_told |= tell;
        unlock(state);
        if tell {
            self.work.notify_one();
        }
        result
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug in the core; whoever else waits shall get an answer
        // rather than a second panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection is gone.
    pub fn finish(&self, cause: DisconnectCause) {
        let why = self.why(cause);
        // Handles keep this state, but not the socket.
        self.lock().files.reconnect(None);
        self.with(|core| {
            core.disconnect(&why);
            core.finish();
        });
    }

    /// Says goodbye. The connection's task sends it.
    pub fn close(&self) {
        let why = self.why(DisconnectCause::Closed);
        self.with(|core| core.close(&why));
        self.over.notify_one();
    }

    fn why(&self, cause: DisconnectCause) -> Arc<Disconnected> {
        Arc::new(Disconnected { endpoint: self.endpoint.clone(), cause })
    }

    pub fn poll_finished(&self, context: &Context<'_>) -> Poll<()> {
        self.with(|core| core.poll_finished(context.waker()))
    }
}

/// Ends a time under the lock: wakers run without it.
pub(crate) fn unlock(mut state: MutexGuard<'_, State>) {
    let wakes = state.core.take_wakes();
    drop(state);
    for it in wakes {
        Waker::wake(it);
    }
}

impl State {
    /// Moves what the core wants sent to the queue.
    pub fn queue_outbound(&mut self) {
        let mut next = self.core.poll_outbound();
        while let Some(outbound) = next {
            match outbound {
                Outbound::Message(message) => self.peer.push(&message),
                Outbound::Control(message) => self.peer.outbox().push_control(&message),
                Outbound::Transfer(number, payload) => {
                    self.transfer(number, payload);
                }
            }
            next = self.core.poll_outbound();
            if next.is_none() {
                // There may be more, now that it is known how much waits.
                self.core.handle_backlog(self.peer.queued_bytes());
                next = self.core.poll_outbound();
            }
        }
    }
}

/// The handle that keeps the connection open: when the last one goes, the session says goodbye.
#[derive(Debug)]
pub(crate) struct Handle {
    pub shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Submits a call as soon as there is room for it.
pub(crate) async fn submit<T>(
    handle: &Handle,
    mut call: Call,
    submit: impl Fn(&mut Core, &mut Call) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    when_room(handle, |core| submit(core, &mut call)).await
}

/// Does what may have to wait for room, as soon as there is some.
pub(crate) async fn when_room<T>(
    handle: &Handle,
    mut attempt: impl FnMut(&mut Core) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let mut wait = RoomWait { handle, ticket: None };
    std::future::poll_fn(|context| wait.poll_submit(context, &mut attempt)).await
}

/// A place among those who wait for room, given up when it is dropped.
struct RoomWait<'a> {
    handle: &'a Handle,
    ticket: Ticket,
}

impl RoomWait<'_> {
    fn poll_submit<T>(
        &mut self,
        context: &Context<'_>,
        submit: impl FnOnce(&mut Core) -> Result<T, ClientError>,
    ) -> Poll<Result<T, ClientError>> {
        let (polled, _replaced) = self.handle.shared.with(|core| match submit(core) {
            Err(ClientError::Busy) => {
                (Poll::Pending, core.wait_for_room(&mut self.ticket, context.waker()))
            }
            result => (Poll::Ready(result), None),
        });
        polled
    }
}

impl Drop for RoomWait<'_> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            drop(self.handle.shared.with(|core| core.stop_waiting(self.ticket)));
        }
    }
}

/// Submits one call for the shared queue, or refuses it.
pub(crate) fn submit_shared(core: &mut Core, call: &mut Call) -> Result<Submitted, ClientError> {
    core.submit_shared(call, core::tasks::Listener::Future(None))
}
