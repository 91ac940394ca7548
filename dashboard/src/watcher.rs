//! The one who asks the broker, once a second for all pages, and only while one is open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use furlong_client::{Client, ClientError, LinkEvent, Picture, Wanted};
use furlong_wire::ids::BrokerStart;
use furlong_wire::message::SeriesStep;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::view::View;
use crate::{Farm, Told};

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Questions of one look: a larger farm is told in several looks.
const LOOKS_AT_ONCE: usize = 40;
/// The pause before a connection is tried again.
const PAUSE: Duration = Duration::from_secs(2);
/// For how long a series is asked for after a page wanted it last.
const SERIES_WANTED: Duration = Duration::from_secs(15);

/// The server's state, which its connections share.
pub struct Shared {
    /// The way to the farm.
    pub farm: Farm,
    view: Mutex<View>,
    client: Mutex<Option<Client>>,
    changed: watch::Sender<u64>,
    viewers: watch::Sender<usize>,
    series: Mutex<BTreeMap<SeriesStep, Instant>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("viewers", &*self.viewers.borrow()).finish_non_exhaustive()
    }
}

/// A page that is open.
#[derive(Debug)]
pub struct Viewer(Arc<Shared>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.viewers.send_modify(|viewers| *viewers -= 1);
    }
}

impl Shared {
    /// Connects to the farm.
    pub async fn open(farm: Farm) -> Result<Arc<Self>, String> {
        let shared = Arc::new(Self {
            farm,
            view: Mutex::new(View::new()),
            client: Mutex::new(None),
            changed: watch::channel(0).0,
            viewers: watch::channel(0).0,
            series: Mutex::default(),
        });
        let client = (shared.farm.connect)(told(&shared)).await?;
        *locked(&shared.client) = Some(client);
        Ok(shared)
    }

    /// What is known of the farm.
    pub fn view(&self) -> MutexGuard<'_, View> {
        locked(&self.view)
    }

    /// The present session.
    pub fn client(&self) -> Option<Client> {
        locked(&self.client).clone()
    }

    /// Wakes when there is something new to tell.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A page is open until this is dropped.
    pub fn add_viewer(self: &Arc<Self>) -> Viewer {
        self.viewers.send_modify(|viewers| *viewers += 1);
        Viewer(Arc::clone(self))
    }

    /// A page wants a series: the next look asks for it.
    pub fn want_series(&self, step: SeriesStep) {
        locked(&self.series).insert(step, Instant::now());
    }

    fn notify(&self) {
        self.changed.send_modify(|number| *number += 1);
    }

    fn note_cut(&self, cut: Option<String>) {
        self.view().note_cut(cut);
        self.notify();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says on the pages that the connection is cut.
fn told(shared: &Arc<Shared>) -> Told {
    let shared = Arc::downgrade(shared);
    Arc::new(move |event| {
        let Some(shared) = shared.upgrade() else { return };
        match event {
            LinkEvent::Cut(cause) => shared.note_cut(Some(cause.clone())),
            LinkEvent::Back => shared.note_cut(None),
        }
    })
}

/// Watches for as long as it is polled: connects again when a session has ended.
pub async fn watch(shared: Arc<Shared>) {
    let (mut picture, mut known) = (Picture::default(), None);
    loop {
        if let Some(client) = shared.client() {
            let error = watch_with(&shared, &client, &mut picture, &mut known).await;
            tracing::info!("the session has ended: {error}");
            *locked(&shared.client) = None;
            shared.note_cut(Some(error.to_string()));
        }
        tokio::time::sleep(PAUSE).await;
        match (shared.farm.connect)(told(&shared)).await {
            Ok(client) => *locked(&shared.client) = Some(client),
            Err(error) => shared.note_cut(Some(error)),
        }
    }
}

/// Watches with one session, until it ends. `known` is the broker's start whose ended tasks have
/// been asked for from the first one on.
async fn watch_with(
    shared: &Shared,
    client: &Client,
    picture: &mut Picture,
    known: &mut Option<BrokerStart>,
) -> ClientError {
    let mut viewers = shared.viewers.subscribe();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut series = Turns::default();
    loop {
        // Its sender is in `shared`.
        let _ = viewers.wait_for(|viewers| *viewers > 0).await;
        ticks.tick().await;
        let step = series.next(&locked(&shared.series));
        let mut wanted =
            Wanted { ends: true, failures: true, ranges: false, series: step, loads: true };
        for _ in 0..LOOKS_AT_ONCE {
            match client.look(picture, wanted).await {
                Err(error) => return error,
                Ok(_) if picture.start() != *known => {
                    *known = picture.start();
                    picture.rewind_ends();
                }
                Ok(has_more) => {
                    if let Some(step) = wanted.series.take() {
                        shared.view().update_series(step, std::mem::take(&mut picture.series));
                    }
                    if !has_more {
                        break;
                    }
                }
            }
        }
        shared.view().update(picture);
        shared.notify();
    }
}

/// Which series is asked for next: one a look, in turn.
#[derive(Debug, Default)]
struct Turns {
    last: Option<SeriesStep>,
}

impl Turns {
    fn next(&mut self, wanted: &BTreeMap<SeriesStep, Instant>) -> Option<SeriesStep> {
        let is_wanted = |step: &SeriesStep| {
            wanted.get(step).is_some_and(|since| since.elapsed() < SERIES_WANTED)
        };
        let after = |step: &&SeriesStep| self.last.is_none_or(|last| **step > last);
        let all = SeriesStep::ALL.iter();
        let next = all.clone().filter(after).find(|step| is_wanted(step));
        let next = next.or_else(|| all.clone().find(|step| is_wanted(step))).copied();
        self.last = next;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wanted_series_are_asked_for_in_turn_and_for_a_while() {
        let (mut turns, mut wanted) = (Turns::default(), BTreeMap::new());
        assert_eq!(turns.next(&wanted), None);
        wanted.insert(SeriesStep::Second, Instant::now());
        wanted.insert(SeriesStep::Minute, Instant::now());
        let [a, b, c] = [(); 3].map(|()| turns.next(&wanted));
        let (second, minute) = (Some(SeriesStep::Second), Some(SeriesStep::Minute));
        assert_eq!([a, b, c], [second, minute, second]);
        tokio::time::advance(SERIES_WANTED).await;
        assert_eq!(turns.next(&wanted), None);
    }
}
