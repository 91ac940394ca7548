//! The engines that are online, according to the broker's events.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use furlong_client::{Client, ClientError, EngineId, Event, Events, EventsError};
use futures_util::StreamExt;
use tokio::sync::Notify;

/// The pause before asking again after a question was cut off.
const PAUSE: Duration = Duration::from_millis(100);

/// The engines that are online, and who waits for a change.
#[derive(Debug, Default)]
pub struct Engines {
    state: Mutex<State>,
    /// The connection is back after a cut, when nobody told what happened meanwhile; or nobody
    /// looks any longer.
    look: Notify,
    is_left: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    online: BTreeSet<EngineId>,
    /// Rises with each change.
    version: u64,
    is_over: bool,
    waiting: Vec<Waker>,
}

impl Engines {
    /// Learns which engines there are, and follows them from then on, in a task of the runtime.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn follow(self: &Arc<Self>, client: &Client) -> Result<(), ClientError> {
        // Before the question: what happens meanwhile is told twice rather than not at all.
        let events = client.subscribe()?;
        self.set(client.engines().await?);
        // This keeps the connection, until `leave` or the client's `close`.
        tokio::spawn(watch(Arc::clone(self), client.clone(), events));
        Ok(())
    }

    /// The connection is back after a cut.
    pub fn handle_back(&self) {
        self.look.notify_one();
    }

    /// Nobody looks any longer: the connection is no longer kept for this.
    pub fn leave(&self) {
        self.is_left.store(true, Ordering::Relaxed);
        self.look.notify_one();
    }

    /// Their ids, sorted, and the version.
    pub fn online(&self) -> (Vec<u32>, u64) {
        let state = self.lock();
        (state.online.iter().map(|id| id.0).collect(), state.version)
    }

    /// Resolves once the version has changed, or will never change again.
    pub fn poll_change(&self, version: u64, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.version != version || state.is_over {
            return Poll::Ready(());
        }
        state.waiting.push(context.waker().clone());
        Poll::Pending
    }

    fn set(&self, online: Vec<EngineId>) {
        self.change(|state| state.online = online.into_iter().collect());
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waiting = {
            let mut state = self.lock();
            change(&mut state);
            state.version += 1;
            std::mem::take(&mut state.waiting)
        };
        for it in waiting {
            Waker::wake(it);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the set right until the connection is over, or nobody looks any longer.
async fn watch(engines: Arc<Engines>, client: Client, mut events: Events) {
    while !engines.is_left.load(Ordering::Relaxed) {
        let event = tokio::select! {
            event = events.next() => event,
            () = engines.look.notified() => Some(Err(EventsError::Missed(0))),
        };
        match event {
            Some(Ok(Event::EngineOnline(id))) => {
                engines.change(|state| _ = state.online.insert(id));
            }
            Some(Ok(Event::EngineOffline(id))) => {
                engines.change(|state| _ = state.online.remove(&id));
            }
            Some(Ok(Event::EngineRestarted(..))) => {}
            Some(Err(EventsError::Missed(_))) => ask_again(&engines, &client).await,
            Some(Err(EventsError::Disconnected(_))) | None => {
                return engines.change(|state| state.is_over = true);
            }
        }
    }
}

/// Asks which engines there are, as often as it takes.
async fn ask_again(engines: &Engines, client: &Client) {
    while !engines.is_left.load(Ordering::Relaxed) {
        match client.engines().await {
            Ok(online) => return engines.set(online),
            Err(ClientError::Disconnected(_)) => return,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
