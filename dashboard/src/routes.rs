//! The answers to requests: the page's files, the way in, the stream of changes, and what a page
//! asks for when it shows it.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use furlong_wire::ids::TaskSeq;
use furlong_wire::message::{SeriesStep, TaskQuery};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::assets::ASSETS;
use crate::door::Door;
use crate::ends::EndsAsked;
use crate::guard;
use crate::keys::COOKIE_S;
use crate::profile::{self, ProfileAsked};
use crate::timeline::{TimelineAsked, timeline};
use crate::view::ViewPlace;
use crate::watcher::{Shared, Viewer};

/// Pages that are open at the same time.
const STREAMS_MAX: usize = 8;
/// Bytes of a request's body: a key has 75.
const BODY_BYTES_MAX: usize = 1024;
/// The time for an answer, if it is no stream: also for a request whose body does not come.
const ANSWER: Duration = Duration::from_secs(10);
/// The pause after which a comment is sent on a stream on which nothing else is.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Profiles that are made at the same time.
const PROFILES_MAX: usize = 1;
/// Records that are listed at most.
const RECORDS_MAX: u32 = 500;

/// What a browser may do with the page: show it, and load what is part of it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; frame-ancestors 'self'; base-uri 'none'; \
                      form-action 'none'";
/// A header that no form and no link of another page can set.
const OWN_HEADER: HeaderName = HeaderName::from_static("x-furlong");

/// The state of all routes.
#[derive(Debug)]
pub struct Site {
    /// The farm.
    pub shared: Arc<Shared>,
    /// Who is let in.
    pub door: Arc<Door>,
    streams: Arc<Semaphore>,
    profiles: Semaphore,
}

/// All routes, behind the guard.
pub fn router(shared: Arc<Shared>, door: Arc<Door>) -> Router {
    let streams = Arc::new(Semaphore::new(STREAMS_MAX));
    let site = Arc::new(Site { shared, door, streams, profiles: Semaphore::new(PROFILES_MAX) });
    let files = ASSETS.iter().fold(Router::new(), |router, asset| {
        let file =
            move || async move { ([(header::CONTENT_TYPE, asset.content_type)], asset.text) };
        router.route(asset.path, get(file))
    });
    files
        .route("/enter", post(enter))
        .route("/about", get(about))
        .route("/events", get(events))
        .route("/series", get(series))
        .route("/ends", get(ends))
        .route("/records", get(records))
        .route("/task", get(task))
        .route("/timeline", get(boxes))
        .route("/profile", post(take_profile))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is no such thing here") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(Arc::clone(&site), admit))
        .with_state(site)
}

/// Looks at a request before anything else does, and at its answer after everything else.
async fn admit(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let is_file = matches!(parts.method, Method::GET | Method::HEAD)
        && ASSETS.iter().any(|asset| asset.path == parts.uri.path());
    let is_open = is_file || (parts.method == Method::POST && parts.uri.path() == "/enter");
    let mut response = match site.door.guard.check(&parts) {
        Err(refusal) => (StatusCode::FORBIDDEN, refusal.to_string()).into_response(),
        Ok(()) if !is_open && !site.is_in(&parts.headers) => {
            let text = "no key: `furlong dashboard url` prints an address with one";
            (StatusCode::UNAUTHORIZED, text).into_response()
        }
        Ok(()) => {
            let answer = next.run(Request::from_parts(parts, body));
            let late = (StatusCode::GATEWAY_TIMEOUT, "there was no answer in time");
            let answered = tokio::time::timeout(ANSWER, answer).await;
            answered.unwrap_or_else(|_| late.into_response())
        }
    };
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CACHE_CONTROL, "no-store");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    set(HeaderName::from_static("x-accel-buffering"), "no");
    response
}

impl Site {
    /// Returns true if who asks has been let in.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let Some(keys) = &self.door.keys else { return true };
        let keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cookies = guard::cookies(headers, &self.door.cookie_name);
        cookies.any(|cookie| keys.is_good_cookie(cookie, now_s()))
    }
}

/// Seconds since 1970.
fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Takes a key, and gives a cookie.
async fn enter(State(site): State<Arc<Site>>, headers: HeaderMap, key: String) -> Response {
    if !headers.contains_key(OWN_HEADER) {
        return (StatusCode::FORBIDDEN, "this request comes from another page").into_response();
    }
    let Some(keys) = &site.door.keys else { return StatusCode::NO_CONTENT.into_response() };
    let taken = keys.lock().unwrap_or_else(PoisonError::into_inner).take(&key, now_s());
    match taken {
        Err(error) => (StatusCode::UNAUTHORIZED, error.to_string()).into_response(),
        Ok(cookie) => {
            let name = &site.door.cookie_name;
            let sealed = if site.door.is_sealed { "; Secure" } else { "" };
            // Without a path, it is that of the page, which a proxy may have put somewhere else.
            let cookie =
                format!("{name}={cookie}; Max-Age={COOKIE_S}; HttpOnly; SameSite=Strict{sealed}");
            (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
        }
    }
}

fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// Says what this is: a page asks for it first, and learns whether it is let in.
async fn about(State(site): State<Arc<Site>>) -> Response {
    let endpoint = site.shared.client().map(|client| client.endpoint().to_string());
    json_response(&json!({ "version": env!("CARGO_PKG_VERSION"), "endpoint": endpoint,
                          "may_profile": site.shared.farm.may_profile }))
}

/// An open page.
struct OpenPage {
    site: Arc<Site>,
    place: ViewPlace,
    changes: tokio::sync::watch::Receiver<u64>,
    is_first: bool,
    _viewer: Viewer,
    _place: OwnedSemaphorePermit,
}

/// The stream of a page: what is known, and then what changes of it. A page that does not read is
/// told less often, and then the newest state.
async fn events(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let Ok(permit) = Arc::clone(&site.streams).try_acquire_owned() else {
        let text = "too many pages are open: close one";
        return (StatusCode::TOO_MANY_REQUESTS, text).into_response();
    };
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let open = OpenPage {
        place: last.and_then(ViewPlace::from_text).unwrap_or_default(),
        changes: site.shared.changes(),
        is_first: true,
        _viewer: site.shared.add_viewer(),
        _place: permit,
        site,
    };
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(changes(open)).keep_alive(keep_alive).into_response()
}

fn changes(open: OpenPage) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(open, |mut open| async move {
        if !std::mem::take(&mut open.is_first) {
            open.changes.changed().await.ok()?;
        }
        open.changes.mark_unchanged();
        let (text, place) = open.site.shared.view().since(open.place);
        open.place = place;
        Some((Ok(Event::default().event("look").id(place.to_text()).data(text)), open))
    })
}

#[derive(Debug, Deserialize)]
struct SeriesAsked {
    step: String,
}

async fn series(State(site): State<Arc<Site>>, Query(asked): Query<SeriesAsked>) -> Response {
    let Some(step) = SeriesStep::ALL.iter().find(|step| step.as_str() == asked.step) else {
        return (StatusCode::BAD_REQUEST, "steps are 1s, 10s and 1min").into_response();
    };
    site.shared.want_series(*step);
    json_response(&site.shared.view().series(*step))
}

async fn ends(State(site): State<Arc<Site>>, Query(asked): Query<EndsAsked>) -> Response {
    json_response(&site.shared.view().ends.list(&asked))
}

async fn boxes(State(site): State<Arc<Site>>, Query(asked): Query<TimelineAsked>) -> Response {
    let view = site.shared.view();
    json_response(&timeline(asked, view.at_us(), view.ends.iter(), view.engines()))
}

#[derive(Debug, Deserialize)]
struct RecordsAsked {
    /// Only those that have not ended, or only those that have.
    ended: Option<bool>,
    /// The label; `*` stands for any characters.
    label: Option<String>,
}

/// The records of the owner's tasks.
async fn records(State(site): State<Arc<Site>>, Query(asked): Query<RecordsAsked>) -> Response {
    let label = asked.label.filter(|label| !label.is_empty());
    let query = TaskQuery { ended: asked.ended, label, limit: RECORDS_MAX, ..TaskQuery::default() };
    match site.ask(query).await {
        Ok(rows) => json_response(&json!({ "rows": rows, "limit": RECORDS_MAX })),
        Err(refused) => refused,
    }
}

#[derive(Debug, Deserialize)]
struct TaskAsked {
    id: String,
}

/// One task: its record, if the broker has one that this capability may see, and its end.
async fn task(State(site): State<Arc<Site>>, Query(asked): Query<TaskAsked>) -> Response {
    let number = asked
        .id
        .split_once(':')
        .and_then(|(session, number)| Some((session.to_owned(), number.parse::<u64>().ok()?)));
    let Some((session, number)) = number else {
        return (StatusCode::BAD_REQUEST, "tasks are named like k3f9a2:17").into_response();
    };
    let (first, session) = (Some(TaskSeq(number)), Some(session));
    let query = TaskQuery { session, first, last: first, limit: 1, ..TaskQuery::default() };
    match site.ask(query).await {
        Ok(rows) => {
            let end = site.shared.view().ends.find(&asked.id);
            json_response(&json!({ "record": rows.first(), "end": end }))
        }
        Err(refused) => refused,
    }
}

/// Samples a task that runs. It is no mere look, so that no link may lead to it.
async fn take_profile(
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    Query(asked): Query<ProfileAsked>,
) -> Response {
    let refused = |status: StatusCode, text: String| (status, text).into_response();
    if !headers.contains_key(OWN_HEADER) {
        return refused(StatusCode::FORBIDDEN, "this request comes from another page".to_owned());
    }
    if !site.shared.farm.may_profile {
        let text = "this page holds a capability that may only look: `furlong profile` draws one";
        return refused(StatusCode::FORBIDDEN, text.to_owned());
    }
    let Ok(_permit) = site.profiles.try_acquire() else {
        let text = "a profile is being made: wait for its end";
        return refused(StatusCode::TOO_MANY_REQUESTS, text.to_owned());
    };
    let of = match asked.find(site.shared.view().engines()) {
        Ok(of) => of,
        Err(why) => return refused(StatusCode::NOT_FOUND, why.to_owned()),
    };
    let Some(client) = site.shared.client() else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "the broker is away".to_owned());
    };
    match client.profile(of, profile::LENGTH, profile::SAMPLES_PER_S).await {
        Ok(seen) => json_response(&profile::as_json(&seen)),
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

impl Site {
    /// Asks the broker for records.
    async fn ask(&self, query: TaskQuery) -> Result<Vec<Value>, Response> {
        let unavailable = |text: String| (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        let client = self.shared.client();
        let client = client.ok_or_else(|| unavailable("the broker is away".to_owned()))?;
        let mut records = client.query_tasks(query);
        let mut rows = Vec::new();
        while let Some(record) = records.next().await {
            let record = record.map_err(|error| unavailable(error.to_string()))?;
            rows.push((self.shared.farm.record)(&record));
        }
        Ok(rows)
    }
}
