//! The gateway: it takes connections in, and ends them all when it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use furlong_client::Client;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::door::Door;
use crate::limits::{CONNECTIONS_MAX, TAKEN_WITHIN, TURNED_AWAY_MAX};
use crate::peer::{Admission, Peer};

/// The pause after a failed accept: the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a door until `stop` resolves, or the session with the farm ends. Then each request that
/// waits is answered with an error, and tasks that are not detached are cancelled.
///
/// Returns false if it was the farm that ended.
pub async fn serve(client: &Client, door: Door, stop: impl Future<Output = ()>) -> bool {
    let (stopping, is_stopping) = watch::channel(false);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let mut peers = JoinSet::new();
    tokio::pin!(stop);
    let was_told = loop {
        let accepted = tokio::select! {
            () = &mut stop => break true,
            () = client.closed() => break false,
            Some(_) = peers.join_next(), if !peers.is_empty() => continue,
            accepted = door.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let admitted = match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => Some((place, Admission::new(door.token().cloned(), false))),
            Err(_) => Arc::clone(&turned_away)
                .try_acquire_owned()
                .ok()
                .map(|place| (place, Admission::new(door.token().cloned(), true))),
        };
        // Beyond both, the connection is closed here.
        let Some((place, admission)) = admitted else { continue };
        let peer = Peer::new(stream, client.clone(), admission, is_stopping.clone());
        peers.spawn(async move {
            peer.run().await;
            drop(place);
        });
    };
    // Nobody comes in any more, and the socket's file is gone before the last is answered.
    drop(door);
    stopping.send_replace(true);
    let ended = async { while peers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(TAKEN_WITHIN, ended).await;
    was_told
}
