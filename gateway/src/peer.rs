//! One connection: its requests one after the other, and the answers that come later.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use furlong_client::{Client, ClientError, EngineTargets};
use furlong_host::bearer::BearerToken;
use furlong_wire::limits::GATEWAY_REQUEST_BYTES_MAX;
use furlong_wire::zmtp::{Connection, Event, Message, Role, ZmtpError, put_frame_header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::answer::{Node, encode};
use crate::door::Stream;
use crate::limits::{
    CONNECTIONS_MAX, READY_WITHIN, TAKEN_WITHIN, VERSION, WAITS_MAX, WRONG_TOKEN_DELAY,
};
use crate::request::{Format, Id, Refusal, Request, Work, parse};
use crate::tasks::{Found, Shape, Tasks};

/// Bytes to make room for before a read: what is missing of a frame, within these.
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = 64 << 10;

/// The conditions under which a connection is served.
#[derive(Debug)]
pub(crate) struct Admission {
    token: Option<BearerToken>,
    /// True if there are too many: its first request is answered so.
    is_turned_away: bool,
}

impl Admission {
    pub(crate) fn new(token: Option<BearerToken>, is_turned_away: bool) -> Self {
        Self { token, is_turned_away }
    }
}

/// One connection.
pub(crate) struct Peer {
    stream: Box<dyn Stream>,
    input: BytesMut,
    zmtp: Connection,
    client: Client,
    admission: Admission,
    tasks: Tasks,
    waits: Vec<Wait>,
    stopping: watch::Receiver<bool>,
    /// The end of the time for the ZMTP handshake, and afterwards for the one request of a
    /// connection that is turned away.
    deadline: Option<Instant>,
}

/// The envelope of an answer: what of the request it repeats.
#[derive(Clone, Debug)]
struct ReplyTo {
    format: Format,
    id: Id,
    has_delimiter: bool,
}

/// A request for a result that has not come.
#[derive(Debug)]
struct Wait {
    task: u64,
    until: Instant,
    reply_to: ReplyTo,
}

/// The reason why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it closed, or cannot be written to: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Zmtp(#[from] ZmtpError),
    #[error("it was not ready in time")]
    NotReady,
    #[error("it takes no answers")]
    Stalled,
    #[error("it was told why")]
    Told,
}

/// The event that a connection handles next.
enum Next {
    Read(usize),
    TaskEnded(u64),
    Time,
    Stop,
}

type Answer = Result<Node, Refusal>;

impl Peer {
    pub(crate) fn new(
        stream: Box<dyn Stream>,
        client: Client,
        admission: Admission,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            zmtp: Connection::new(Role::Gateway),
            tasks: Tasks::new(client.clone()),
            client,
            admission,
            waits: Vec::new(),
            stopping,
            deadline: Some(Instant::now() + READY_WITHIN),
        }
    }

    /// Serves the connection to its end, and cancels its tasks then.
    pub(crate) async fn run(mut self) {
        let Err(ended) = self.serve().await;
        tracing::debug!(%ended, "a connection has ended");
        self.tasks.cancel_attached();
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, Ended> {
        loop {
            self.write_own().await?;
            self.input.reserve(self.zmtp.bytes_wanted().clamp(READ_BYTES_MIN, READ_BYTES_MAX));
            let waited = self.waits.iter().map(|wait| wait.until).min();
            let next = waited.into_iter().chain(self.deadline).min();
            let timer = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            let stopping = async {
                // An error says that whoever could tell is gone: that is a stop too.
                let _ = self.stopping.wait_for(|is_stopping| *is_stopping).await;
            };
            let next = tokio::select! {
                read = self.stream.read_buf(&mut self.input) => Next::Read(read?),
                number = self.tasks.next_ended() => Next::TaskEnded(number),
                () = timer => Next::Time,
                () = stopping => Next::Stop,
            };
            match next {
                Next::Read(0) => {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                Next::Read(_) => self.handle_input().await?,
                Next::TaskEnded(number) => self.answer_waits(number).await?,
                Next::Time => self.handle_time().await?,
                Next::Stop => return self.say_farewell().await,
            }
        }
    }

    async fn handle_input(&mut self) -> Result<(), Ended> {
        loop {
            let event = match self.zmtp.handle_input(&mut self.input) {
                Ok(event) => event,
                Err(error) => return self.explain(error).await,
            };
            self.write_own().await?;
            match event {
                None => return Ok(()),
                Some(Event::Ready) if self.admission.is_turned_away => {}
                Some(Event::Ready) => self.deadline = None,
                Some(Event::Message(message)) => self.handle_message(message).await?,
            }
        }
    }

    /// A message that is too long is told so before its connection ends; what is no ZMTP is not.
    async fn explain(&mut self, error: ZmtpError) -> Result<(), Ended> {
        let refusal = match error {
            ZmtpError::MessageTooLong { .. } => {
                let message = format!(
                    "a request has at most {GATEWAY_REQUEST_BYTES_MAX} bytes; the connection ends"
                );
                Refusal::new("TooLarge", message)
            }
            ZmtpError::TooManyFrames { .. } => {
                Refusal::new("BadRequest", "a request is one frame; the connection ends")
            }
            other => {
                self.write_own().await?;
                return Err(other.into());
            }
        };
        // A `REQ` demands the delimiter; a `DEALER` has to take it where nothing of it was read.
        let reply_to = ReplyTo { format: Format::Json, id: Id::None, has_delimiter: true };
        self.send(&reply_to, Err(refusal)).await?;
        self.close_gently().await;
        Err(Ended::Told)
    }

    /// Reads on for a moment, so that the last answer is not lost with what the peer still sends.
    async fn close_gently(&mut self) {
        let _ = self.stream.shutdown().await;
        let rest = async {
            self.input.clear();
            while self.stream.read_buf(&mut self.input).await.is_ok_and(|bytes| bytes > 0) {
                self.input.clear();
            }
        };
        let _ = timeout(Duration::from_secs(1), rest).await;
    }

    async fn handle_message(&mut self, message: Message) -> Result<(), Ended> {
        let Message { envelope, mut chunks } = message;
        let last = chunks.pop();
        let has_delimiter = last.is_some();
        if has_delimiter && !envelope.is_empty() {
            let reply_to = ReplyTo { format: Format::Json, id: Id::None, has_delimiter };
            let message = "a request is one frame, after an empty one or not";
            return self.send(&reply_to, Err(Refusal::new("BadRequest", message))).await;
        }
        let request = parse(&last.unwrap_or(envelope));
        let Request { format, id, token, work } = request;
        let reply_to = ReplyTo { format, id, has_delimiter };
        if self.admission.is_turned_away {
            let message = format!("all {CONNECTIONS_MAX} connections are taken; try again later");
            self.send(&reply_to, Err(Refusal::new("TooMany", message))).await?;
            self.close_gently().await;
            return Err(Ended::Told);
        }
        self.check_token(&reply_to, token).await?;
        let answer = match work {
            Ok(Work::Result { task, wait_ms }) => match self.tasks.take(task) {
                Ok(Found::Running) => return self.wait(task, wait_ms, reply_to).await,
                Ok(Found::Ended(ended)) => ended.answer(format),
                Err(refusal) => Err(refusal),
            },
            Ok(work) => self.work(work).await,
            Err(refusal) => Err(refusal),
        };
        self.send(&reply_to, answer).await
    }

    async fn check_token(&mut self, to: &ReplyTo, given: Option<String>) -> Result<(), Ended> {
        let Some(token) = &self.admission.token else { return Ok(()) };
        if given.is_some_and(|given| token.matches(given.as_bytes())) {
            return Ok(());
        }
        tracing::warn!("a request without the right token");
        tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        let message = "every request over tcp has the gateway's `token`; the connection ends";
        self.send(to, Err(Refusal::new("BadToken", message))).await?;
        self.close_gently().await;
        Err(Ended::Told)
    }

    async fn work(&mut self, work: Work) -> Answer {
        match work {
            Work::Version => Ok(Node::Map(vec![
                ("furlong", Node::Text(env!("CARGO_PKG_VERSION").to_owned())),
                ("v", Node::Uint(VERSION)),
            ])),
            Work::Engines => {
                let engines = self.client.engines().await.map_err(refusal)?;
                let engines = engines.into_iter().map(|engine| Node::Uint(engine.0.into()));
                Ok(Node::Map(vec![("engines", Node::List(engines.collect()))]))
            }
            Work::Submit { call, detach } => {
                self.tasks.check_room(1)?;
                let task = self.client.tasks().try_call(&call).map_err(refusal)?;
                Ok(self.tasks.add(vec![task], Shape::One, detach))
            }
            Work::Map { calls, detach } => {
                self.tasks.check_room(calls.len())?;
                let mut tasks = Vec::with_capacity(calls.len());
                for call in &calls {
                    match self.client.tasks().try_call(call) {
                        Ok(task) => tasks.push(task),
                        Err(error) => {
                            // All or none: what was submitted of it would have no number.
                            tasks.iter().for_each(furlong_client::TaskFuture::cancel);
                            return Err(refusal(error));
                        }
                    }
                }
                Ok(self.tasks.add(tasks, Shape::List, detach))
            }
            Work::Execute { code, targets } => self.execute(&code, targets).await,
            Work::Status { task: Some(task) } => {
                let state = self.tasks.check(task)?;
                Ok(Node::Map(vec![("state", Node::Text(state.to_owned()))]))
            }
            Work::Status { task: None } => self.status().await,
            Work::Cancel { task } => {
                self.tasks.cancel(task)?;
                Ok(Node::Map(vec![]))
            }
            Work::Result { .. } => unreachable!("it is answered where its peer can be let wait"),
        }
    }

    async fn execute(&mut self, code: &str, targets: EngineTargets) -> Answer {
        let count = match &targets {
            EngineTargets::Ids(ids) => ids.len(),
            EngineTargets::All => self.client.engines().await.map_err(refusal)?.len(),
        };
        self.tasks.check_room(count)?;
        let group = self.client.multiengine(targets).execute(code).await.map_err(refusal)?;
        Ok(self.tasks.add(group.into_iter().collect(), Shape::List, false))
    }

    async fn status(&mut self) -> Answer {
        let (running, ended) = self.tasks.counts();
        let farm = self.client.status().await.map_err(refusal)?;
        Ok(Node::Map(vec![
            ("cluster", Node::Text(farm.cluster_name)),
            ("tasks_waiting", Node::Uint(farm.tasks_waiting)),
            ("tasks_assigned", Node::Uint(farm.tasks_assigned)),
            ("own_pending", Node::Uint(running as u64)),
            ("own_results", Node::Uint(ended as u64)),
        ]))
    }

    async fn wait(&mut self, task: u64, wait_ms: u64, reply_to: ReplyTo) -> Result<(), Ended> {
        if self.waits.len() >= WAITS_MAX {
            let message = format!("{WAITS_MAX} requests of this connection wait already");
            return self.send(&reply_to, Err(Refusal::new("TooMany", message))).await;
        }
        if wait_ms == 0 {
            return self.send(&reply_to, Ok(pending())).await;
        }
        let until = Instant::now() + Duration::from_millis(wait_ms);
        self.waits.push(Wait { task, until, reply_to });
        Ok(())
    }

    /// Answers the first request that waits for a number. Others are told that it was fetched.
    async fn answer_waits(&mut self, number: u64) -> Result<(), Ended> {
        let (due, rest) = std::mem::take(&mut self.waits)
            .into_iter()
            .partition::<Vec<_>, _>(|wait| wait.task == number);
        self.waits = rest;
        for Wait { reply_to, .. } in due {
            let answer = match self.tasks.take(number) {
                Ok(Found::Ended(ended)) => ended.answer(reply_to.format),
                Ok(Found::Running) => Ok(pending()),
                Err(refusal) => Err(refusal),
            };
            self.send(&reply_to, answer).await?;
        }
        self.tasks.let_go();
        Ok(())
    }

    async fn handle_time(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Ended::NotReady);
        }
        let (due, rest) = std::mem::take(&mut self.waits)
            .into_iter()
            .partition::<Vec<_>, _>(|wait| wait.until <= now);
        self.waits = rest;
        for Wait { reply_to, .. } in due {
            self.send(&reply_to, Ok(pending())).await?;
        }
        Ok(())
    }

    /// Answers what waits before the gateway ends.
    async fn say_farewell(&mut self) -> Result<std::convert::Infallible, Ended> {
        for Wait { reply_to, .. } in std::mem::take(&mut self.waits) {
            let refusal = Refusal::new("Stopping", "the gateway ends, and with it this task");
            self.send(&reply_to, Err(refusal)).await?;
        }
        self.close_gently().await;
        Err(Ended::Told)
    }

    async fn send(&mut self, to: &ReplyTo, answer: Answer) -> Result<(), Ended> {
        let body = encode(to.format, &to.id, answer);
        let mut bytes = BytesMut::with_capacity(body.len() + 16);
        if to.has_delimiter {
            put_frame_header(&mut bytes, 0, true);
        }
        put_frame_header(&mut bytes, body.len(), false);
        bytes.extend_from_slice(&body);
        self.write(&bytes).await
    }

    /// Writes the codec's own bytes.
    async fn write_own(&mut self) -> Result<(), Ended> {
        while let Some(bytes) = self.zmtp.poll_output() {
            self.write(&bytes).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        match timeout(TAKEN_WITHIN, self.stream.write_all(bytes)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Ended::Stalled),
        }
    }
}

fn pending() -> Node {
    Node::Map(vec![("state", Node::Text("pending".to_owned()))])
}

fn refusal(error: ClientError) -> Refusal {
    let kind = match error {
        ClientError::Disconnected(_) => "Disconnected",
        ClientError::Busy => "Busy",
        ClientError::PayloadTooLarge { .. } => "TooLarge",
        ClientError::NoEngines => "NoEngines",
        _ => "Refused",
    };
    Refusal::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of a greeting and a READY of a kind of socket.
    fn opened(socket_type: &str) -> Result<Option<Event>, ZmtpError> {
        let mut bytes = BytesMut::zeroed(64);
        (bytes[0], bytes[9], bytes[10], bytes[11]) = (0xff, 0x7f, 3, 1);
        bytes[12..16].copy_from_slice(b"NULL");
        let mut body = b"\x05READY\x0bSocket-Type".to_vec();
        body.extend_from_slice(&(socket_type.len() as u32).to_be_bytes());
        body.extend_from_slice(socket_type.as_bytes());
        bytes.extend_from_slice(&[4, body.len() as u8]);
        bytes.extend_from_slice(&body);
        Connection::new(Role::Gateway).handle_input(&mut bytes)
    }

    #[test]
    fn a_req_and_a_dealer_are_let_in_and_no_others() {
        for good in ["REQ", "DEALER"] {
            assert_eq!(opened(good), Ok(Some(Event::Ready)), "{good}");
        }
        for wrong in ["ROUTER", "SUB", "PUSH", "REP", ""] {
            let refused = opened(wrong);
            assert!(matches!(refused, Err(ZmtpError::SocketTypeRefused { .. })), "{refused:?}");
        }
    }
}
