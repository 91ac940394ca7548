//! Connections: so many, with deadlines for their headers and for what they are sent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Farm;
use crate::door::{Door, Listener};
use crate::routes;
use crate::stalled::Reading;
use crate::watcher::{Shared, watch};

/// Connections at the same time.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// The time until a request's headers must be here, from the one before it on.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// The pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// The page's server, connected to its farm.
#[derive(Debug)]
pub struct Page(Arc<Shared>);

impl Page {
    /// Connects to the farm.
    ///
    /// # Errors
    /// The broker is not there, or refuses.
    pub async fn open(farm: Farm) -> Result<Self, String> {
        Shared::open(farm).await.map(Self)
    }

    /// Serves the page until it is told to stop.
    pub async fn serve(self, door: Door, stop: impl Future) {
        let door = Arc::new(door);
        let router = routes::router(Arc::clone(&self.0), Arc::clone(&door));
        tokio::select! {
            _ = stop => {}
            () = watch(self.0) => {}
            () = accept(&door, &router) => {}
        }
    }
}

async fn accept(door: &Door, router: &Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Before it is accepted: who comes later waits outside.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = match &door.listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(socket, _)| {
                let _ = socket.set_nodelay(true);
                spawn(socket, router, place);
            }),
            Listener::Socket(listener) => {
                listener.accept().await.map(|(socket, _)| spawn(socket, router, place))
            }
        };
        if let Err(error) = accepted {
            note_not_accepted(&error).await;
        }
    }
}

async fn note_not_accepted(error: &io::Error) {
    tracing::warn!("a connection cannot be accepted: {error}");
    tokio::time::sleep(PAUSE).await;
}

/// Serves a browser's connection, until it ends.
fn spawn<T>(socket: T, router: &Router, place: OwnedSemaphorePermit)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router.clone());
    tokio::spawn(async move {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(Reading::new(socket)), service)
            .await;
        if let Err(error) = served {
            tracing::debug!("a connection has ended: {error}");
        }
        drop(place);
    });
}
