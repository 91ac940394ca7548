//! Requests and their answers, as futures.

use std::task::{Context, Poll};

use furlong_wire::ids::EngineId;
use furlong_wire::message::{FromClient, Query, ReplyBody, Request};

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
        self.handle().shared.with(|core| core.poll_answer(self.request, context.waker(), &mut replaced))
    }

    /// The answer of a fetch.
    pub async fn task(&self) -> Result<Box<FetchedTask>, ClientError> {
        match std::future::poll_fn(|context| self.poll(context)).await? {
            Answer::Task(task) => Ok(task),
            Answer::Reply(body) => Err(refused(body)),
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
pub(crate) async fn ask(handle: &Handle, message: impl FnOnce(u64) -> FromClient) -> Result<ReplyBody, ClientError> {
    let request = handle.shared.with(|core| core.request(message))?;
    let asked = Asked::new(handle, request);
    match std::future::poll_fn(|context| asked.poll(context)).await? {
        Answer::Reply(ReplyBody::Refused(text)) => Err(ClientError::Refused(text)),
        Answer::Reply(body) => Ok(body),
        Answer::Task(_) => Err(ClientError::WrongAnswer),
    }
}

pub(crate) async fn query(handle: &Handle, query: Query) -> Result<ReplyBody, ClientError> {
    ask(handle, |request| FromClient::Query(Request { request, query })).await
}

/// Asks for something to be done, and waits until it is.
pub(crate) async fn order(handle: &Handle, message: impl FnOnce(u64) -> FromClient) -> Result<(), ClientError> {
    match ask(handle, message).await? {
        ReplyBody::Done => Ok(()),
        body => Err(refused(body)),
    }
}

/// The engines that are online, sorted.
pub(crate) async fn engines(handle: &Handle) -> Result<Vec<EngineId>, ClientError> {
    match query(handle, Query::Engines).await? {
        ReplyBody::Engines(engines) => Ok(engines),
        body => Err(refused(body)),
    }
}

pub(crate) fn refused(body: ReplyBody) -> ClientError {
    match body {
        ReplyBody::Refused(text) => ClientError::Refused(text),
        _ => ClientError::WrongAnswer,
    }
}
