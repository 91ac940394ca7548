//! Requests and their answers, as futures.

use std::task::{Context, Poll};

use furlong_wire::ids::EngineId;
use furlong_wire::message::{ClusterStatus, FromClient, Query, ReplyBody, Request};

use crate::core::requests::{Answer, FetchedTask};
use crate::error::ClientError;
use crate::shared::Handle;

/// A request that waits for its answer, forgotten when it is dropped.
#[derive(Debug)]
pub(crate) struct Asked<H: AsRef<Handle>> {
    handle: H,
    request: u64,
}

impl<H: AsRef<Handle>> Asked<H> {
    pub fn new(handle: H, request: u64) -> Self {
        Self { handle, request }
    }

    pub fn handle(&self) -> &Handle {
        self.handle.as_ref()
    }

    pub fn poll(&self, context: &Context<'_>) -> Poll<Result<Answer, ClientError>> {
        let mut replaced = None;
        let shared = &self.handle().shared;
        let answer =
            shared.with(|core| core.poll_answer(self.request, context.waker(), &mut replaced));
        answer.map(|answer| match answer? {
            Answer::Late(seconds) => {
                Err(ClientError::NoAnswer { endpoint: shared.endpoint.clone(), seconds })
            }
            Answer::Unsound(why) => Err(ClientError::UnsoundAnswer(why)),
            answer => Ok(answer),
        })
    }

    /// The answer of a fetch.
    pub async fn task(&self) -> Result<Box<FetchedTask>, ClientError> {
        match std::future::poll_fn(|context| self.poll(context)).await? {
            Answer::Task(task) => Ok(task),
            Answer::Reply(body) => Err(refused(body)),
            Answer::Late(_) | Answer::Unsound(_) => Err(ClientError::WrongAnswer),
        }
    }
}

impl<H: AsRef<Handle>> Drop for Asked<H> {
    fn drop(&mut self) {
        drop(self.handle().shared.with(|core| core.forget_request(self.request)));
    }
}

impl AsRef<Handle> for Handle {
    fn as_ref(&self) -> &Handle {
        self
    }
}

/// Sends a request, made for its number, and waits for the reply. A refusal is an error.
pub(crate) async fn ask(
    handle: &Handle,
    message: impl FnOnce(u64) -> FromClient,
) -> Result<ReplyBody, ClientError> {
    let request = handle.shared.with(|core| core.request(message))?;
    let asked = Asked::new(handle, request);
    match std::future::poll_fn(|context| asked.poll(context)).await? {
        Answer::Reply(ReplyBody::Refused(text)) => Err(ClientError::Refused(text)),
        Answer::Reply(body) => Ok(body),
        _ => Err(ClientError::WrongAnswer),
    }
}

pub(crate) async fn query(handle: &Handle, query: Query) -> Result<ReplyBody, ClientError> {
    ask(handle, |request| FromClient::Query(Request { request, query })).await
}

/// Asks for something to be done, and waits until it is.
pub(crate) async fn order(
    handle: &Handle,
    message: impl FnOnce(u64) -> FromClient,
) -> Result<(), ClientError> {
    match ask(handle, message).await? {
        ReplyBody::Done => Ok(()),
        body => Err(refused(body)),
    }
}

/// The engines that are online, sorted: page by page.
pub(crate) async fn engines(handle: &Handle) -> Result<Vec<EngineId>, ClientError> {
    let mut engines: Vec<EngineId> = Vec::new();
    loop {
        let last = engines.last().copied();
        let (some, is_all) =
            match query(handle, last.map_or(Query::Engines, Query::EnginesAfter)).await? {
                ReplyBody::Engines(some) => (some, true),
                ReplyBody::SomeEngines(some) => (some, false),
                body => return Err(refused(body)),
            };
        engines.extend(some);
        if is_all {
            return Ok(engines);
        }
        if engines.last().copied() <= last {
            return Err(ClientError::WrongAnswer);
        }
    }
}

/// The cluster, as the broker sees it: page by page, with the numbers of the first one.
pub(crate) async fn status(handle: &Handle) -> Result<ClusterStatus, ClientError> {
    let page = async |wanted| match query(handle, wanted).await? {
        ReplyBody::Status(page) => Ok(*page),
        body => Err(refused(body)),
    };
    let mut status = page(Query::Status).await?;
    while let Some(place) = status.more {
        let ClusterStatus { processes, engines, more, .. } =
            page(Query::StatusAfter(place)).await?;
        status.processes.extend(processes);
        status.engines.extend(engines);
        status.more = more;
        if more.is_some_and(|more| more <= place) {
            return Err(ClientError::WrongAnswer);
        }
    }
    Ok(status)
}

/// Asks a question whose answer says that everything is on disk which was to be there before it.
pub(crate) async fn ask_for_disk(handle: &Handle) -> Result<(), ClientError> {
    let asked = handle.shared.with(|core| {
        let request =
            core.request(|request| FromClient::Query(Request { request, query: Query::Engines }))?;
        core.wait_for_disk(request);
        Ok::<_, ClientError>(request)
    });
    // A refusal is an answer as well.
    let asked = Asked::new(handle, asked?);
    std::future::poll_fn(|context| asked.poll(context)).await.map(|_| ())
}

pub(crate) fn refused(body: ReplyBody) -> ClientError {
    match body {
        ReplyBody::Refused(text) => ClientError::Refused(text),
        _ => ClientError::WrongAnswer,
    }
}
