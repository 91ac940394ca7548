//! The task that owns the connection: reads, writes, and tells the session of both.

use std::sync::Arc;
use std::time::Duration;

use furlong_link::dial::{Dialed, random_bytes};
use furlong_link::incoming::Incoming;
use furlong_link::outgoing::Written;
use furlong_link::peer::inbox::Record;
use furlong_link::peer::redial::{Redial, Try};
use furlong_link::peer::{Dead, Peer};
use furlong_link::stream::WriteHalf;
use furlong_wire::ids::SessionId;
use furlong_wire::limits::WRITE_TURN_BYTES;
use furlong_wire::message::{FromClient, ToClient};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::error::{ConnectError, DisconnectCause};
use crate::reconnect::{LinkEvent, Reconnect};
use crate::shared::{Core, Shared, unlock};

/// The interval of heartbeat checks, and of acknowledgements that nothing else takes along.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// A session's connections, one after the other.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    reconnect: Reconnect,
    redial: Redial,
    incoming: Incoming,
    socket: WriteHalf,
    /// The moment since which the time is counted.
    began: Instant,
}

/// Turns in so much time, one at least.
pub(crate) fn turns_of(time: Duration) -> u32 {
    u32::try_from(time.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX).max(1)
}

impl Connection {
    pub fn new(
        shared: Arc<Shared>,
        reconnect: Reconnect,
        incoming: Incoming,
        socket: WriteHalf,
    ) -> Self {
        let mut redial = Redial::new().within(reconnect.returns_within);
        redial.handle_connected(Duration::ZERO);
        let began = Instant::now();
        Self { shared, reconnect, redial, incoming, socket, began }
    }

    /// Runs until the session is over: it comes back after each cut.
    pub async fn run(mut self) {
        let end = EndWithRuntime(Arc::clone(&self.shared));
        let cause = loop {
            let Err(cause) = self.serve().await else { break DisconnectCause::Closed };
            let endpoint = &self.shared.endpoint;
            tracing::debug!(%endpoint, %cause, "the connection to the broker is over");
            let _ = self.socket.shutdown().await;
            if let Err(cause) = self.come_back(cause).await {
                break cause;
            }
        };
        drop(self.socket);
        self.shared.finish(cause);
        drop(end);
    }

    /// Seeks the broker until the session goes on. As an error, why it does not.
    async fn come_back(&mut self, cause: DisconnectCause) -> Result<(), DisconnectCause> {
        let can_come_back = cause.is_cut() && self.shared.with(|core| core.can_come_back());
        if !can_come_back {
            return Err(cause);
        }
        self.shared.with(Core::handle_cut);
        let cause = self.unless_repeated(cause)?;
        self.reconnect.tell(&LinkEvent::Cut(cause.to_string()));
        let deadline = self.redial.gives_up_at().and_then(|at| self.began.checked_add(at));
        let dialed = loop {
            let next = self.redial.next_try(u64::from_le_bytes(random_bytes()));
            let dialing = dial_at(next, &mut self.reconnect, self.shared.session);
            let timeout = sleep_until(deadline.unwrap_or_else(Instant::now));
            tokio::select! {
                dialed = dialing => match dialed {
                    Ok(dialed) => break dialed,
                    Err(error) if !error.is_transient() => {
                        return Err(DisconnectCause::SessionOver(error.to_string()));
                    }
                    Err(error) => tracing::debug!(%error, "not connected again yet"),
                },
                () = is_over(&self.shared) => return Err(DisconnectCause::Closed),
                () = timeout, if deadline.is_some() => return Err(cause),
            }
        };
        let Dialed { incoming, socket, sealer, welcome, .. } = dialed;
        (self.incoming, self.socket) = (incoming, socket);
        let now = self.began.elapsed();
        self.redial.handle_connected(now);
        let mut state = self.shared.lock();
        state.peer = Peer::new::<FromClient>(sealer, TICK, now);
        state.files.reconnect(self.socket.files().cloned());
        let goes_on = state.core.handle_reconnected(&welcome);
        unlock(state);
        if !goes_on {
            return Err(DisconnectCause::SessionOver("the broker has ended it meanwhile".into()));
        }
        self.reconnect.tell(&LinkEvent::Back);
        Ok(())
    }

    /// Tolerates unsound data once, as an accident. If it comes on the next connection too, what
    /// was asked on both is given up; without such a request, the session.
    fn unless_repeated(
        &mut self,
        cause: DisconnectCause,
    ) -> Result<DisconnectCause, DisconnectCause> {
        let now = self.began.elapsed();
        let DisconnectCause::Unsound(error) = cause else {
            self.redial.handle_cut(now, None);
            return Ok(cause);
        };
        let text = error.to_string();
        let is_repeated = self.redial.handle_cut(now, Some(&text));
        if is_repeated && !self.shared.with(|core| core.give_up_requests(&text)) {
            return Err(DisconnectCause::UnsoundAgain(error));
        }
        Ok(DisconnectCause::Unsound(error))
    }

    /// Returns without error once a goodbye is said and heard.
    async fn serve(&mut self) -> Result<(), DisconnectCause> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let written = self.write()?;
            // Reading comes first: after a pause of this process, what came in the meantime counts
            // as life.
            tokio::select! {
                biased;
                read = self.incoming.read() => match read? {
                    0 if self.shared.lock().core.is_over() => return Ok(()),
                    0 => return Err(DisconnectCause::ClosedByBroker),
                    _ => self.handle_input()?,
                },
                writable = self.socket.writable(), if written == Written::Blocked => writable?,
                () = std::future::ready(()), if written == Written::Turn => {}
                () = self.shared.work.notified() => {}
                _ = tick.tick() => {
                    if self.handle_tick()? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Writes what gathered since the last time, and with it the acknowledgement of what arrived.
    fn write(&mut self) -> Result<Written, DisconnectCause> {
        let mut state = self.shared.lock();
        state.is_told = false;
        state.queue_outbound();
        let others_go = !state.peer.is_empty();
        while let Some(ack) = state.core.poll_ack(others_go) {
            state.peer.push(&ack);
        }
        let mut written = Ok(Written::All);
        if !state.peer.is_empty() {
            written = self.socket.write_from(state.peer.outbox(), WRITE_TURN_BYTES);
            state.peer.handle_written(self.began.elapsed());
            let waiting = state.peer.queued_bytes();
            state.core.handle_backlog(waiting);
        }
        if matches!(written, Ok(Written::All)) {
            // What is said again after a cut comes in parts.
            state.queue_outbound();
            if state.peer.is_empty() {
                if state.files.is_idle() {
                    state.core.handle_flushed();
                }
            } else {
                written = Ok(Written::Turn);
            }
        }
        unlock(state);
        Ok(written?)
    }

    /// Takes everything that was read, under one lock.
    fn handle_input(&mut self) -> Result<(), DisconnectCause> {
        let mut state = self.shared.lock();
        state.peer.handle_read();
        let handled = loop {
            match self.incoming.poll_record() {
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
                Ok(Some(record)) => {
                    if let Err(error) = take_messages(record, &mut state.core, &self.socket) {
                        break Err(error);
                    }
                }
            }
        };
        while let Some(bytes) = self.incoming.poll_codec_output() {
            state.peer.push_codec_bytes(bytes);
        }
        unlock(state);
        handled
    }

    /// Looks after heartbeats, and after answers that do not come. True if a goodbye has had its
    /// time.
    fn handle_tick(&mut self) -> Result<bool, DisconnectCause> {
        let mut state = self.shared.lock();
        let dead = state.peer.handle_tick(self.began.elapsed());
        let goes_on = !state.peer.answers_are_due() || state.core.handle_turn();
        if let Some(ack) = state.core.poll_ack(true) {
            state.peer.push(&ack);
        }
        let has_left = state.core.count_goodbye_turn();
        unlock(state);
        match dead {
            Some(Dead::Silent) => return Err(DisconnectCause::Silent),
            Some(Dead::Stalled) => return Err(DisconnectCause::Stalled),
            None => {}
        }
        if !goes_on {
            return Err(DisconnectCause::NoAnswer(turns_of(self.reconnect.answers_within)));
        }
        self.incoming.shrink();
        Ok(has_left)
    }
}

/// Gives the core what a record holds.
fn take_messages(
    record: Record,
    core: &mut Core,
    socket: &WriteHalf,
) -> Result<(), DisconnectCause> {
    let mut messages = record.into_messages::<ToClient>();
    while let Some(message) = messages.next_message() {
        match message? {
            ToClient::Goodbye(goodbye) => return Err(DisconnectCause::Goodbye(goodbye.reason)),
            ToClient::Passed(passed) => {
                let file = socket.take_file(&passed)?;
                core.handle_file(passed.transfer, file.open());
            }
            message => core.handle_message(message, messages.chunk().as_deref()),
        }
    }
    Ok(())
}

async fn dial_at(
    next: Try,
    reconnect: &mut Reconnect,
    session: SessionId,
) -> Result<Dialed, ConnectError> {
    sleep(next.wait).await;
    reconnect.look_again()?;
    reconnect.dial(session, next.incarnation).await
}

/// Returns when this side has closed the session.
async fn is_over(shared: &Shared) {
    while !shared.with(|core| core.is_over()) {
        shared.over.notified().await;
    }
}

/// Ends the session when the connection's task is dropped before its end: with its runtime.
struct EndWithRuntime(Arc<Shared>);

impl Drop for EndWithRuntime {
    fn drop(&mut self) {
        self.0.finish(DisconnectCause::RuntimeEnded);
    }
}
