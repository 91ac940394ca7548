//! The HTTP server for scrapes: one path, few connections, each for one request in a bounded time.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use furlong_host::bearer::BearerToken;
use furlong_host::private_file::read_private;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::connect::ConnectArgs;
use crate::print;

use super::scrape::Scraper;

/// The one path that is served.
pub const PATH: &str = "/metrics";
/// Connections at the same time: who comes later waits outside.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// The time for a connection, which is for one request: all of it, its answer too.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// The pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a token's file.
const TOKEN_BYTES_MAX: u64 = 4 * 1024;
/// Characters of a token at least: 16 random ones of an alphabet of 64 have 96 bits.
const TOKEN_CHARACTERS_MIN: usize = 16;
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Reads a bearer token from a private file, whose last newline is none of it.
///
/// # Errors
/// The file is not private, or is no token.
pub fn read_token(path: &Path) -> Result<BearerToken> {
    let text = read_private(path, TOKEN_BYTES_MAX)?;
    let token = text.trim_end_matches(['\r', '\n']);
    if token.len() < TOKEN_CHARACTERS_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!(
            "{}: a token has {TOKEN_CHARACTERS_MIN} visible ASCII characters or more, and no \
             space; `openssl rand -hex 32` makes one",
            path.display()
        );
    }
    Ok(BearerToken::new(token))
}

/// The place where scrapes come in.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    token: Option<BearerToken>,
}

impl Door {
    /// Opens an address.
    ///
    /// # Errors
    /// It cannot be used.
    pub async fn open(address: SocketAddr, token: Option<BearerToken>) -> Result<Self> {
        let cannot = || format!("cannot listen on {address}");
        let listener = TcpListener::bind(address).await.with_context(cannot)?;
        Ok(Self { address: listener.local_addr()?, listener, token })
    }

    /// The address, with the port that it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers scrapes for as long as the program runs.
    pub async fn serve(self, connect: ConnectArgs) {
        let router = Router::new()
            .route(PATH, get(metrics))
            .fallback(|| async { (StatusCode::NOT_FOUND, "there is nothing but /metrics here\n") })
            .layer(from_fn_with_state(Arc::new(self.token), admit))
            .with_state(Scraper::new(connect));
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // Before it is accepted, so that the system holds it meanwhile and not this program.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    let router = router.clone();
                    tokio::spawn(async move {
                        // Who is late is not told: it may read nothing.
                        let _ = tokio::time::timeout(REQUEST_WITHIN, answer(socket, router)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    print::note!("furlong: a connection cannot be accepted: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Answers the one request of a connection.
async fn answer(socket: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!("a connection has ended: {error}");
    }
}

/// Lets in who has the token, or, where there is none, who asks for this machine by its own name: a
/// web page whose name leads here cannot.
async fn admit(
    State(token): State<Arc<Option<BearerToken>>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    match &*token {
        Some(token) if !bearer(headers).is_some_and(|offered| token.matches(offered)) => {
            let how = [(header::WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, how, "a bearer token is needed\n").into_response()
        }
        None if !is_for_this_machine(headers) => {
            (StatusCode::FORBIDDEN, "ask for 127.0.0.1 or localhost\n").into_response()
        }
        _ => next.run(request).await,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

fn is_for_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = host.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(host, |it| it.0);
    name == "localhost"
        || name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

async fn metrics(State(scraper): State<Scraper>) -> Response {
    match scraper.text().await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text.to_string()).into_response(),
        Err(error) => {
            print::note!("furlong: a scrape has failed: {error:#}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_of_this_machine_are_served_without_a_token() {
        let is_ours = |host: &str| {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            is_for_this_machine(&headers)
        };
        for host in ["127.0.0.1:9464", "127.0.0.1", "localhost:9464", "[::1]:9464", "[::1]"] {
            assert!(is_ours(host), "{host}");
        }
        for host in ["example.org", "example.org:9464", "127.0.0.1.example.org", "", "10.0.0.1:1"] {
            assert!(!is_ours(host), "{host}");
        }
        assert!(is_for_this_machine(&HeaderMap::new()));
    }
}
