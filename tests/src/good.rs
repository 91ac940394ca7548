//! An honest peer, made of the programs' own link.

use std::collections::VecDeque;
use std::time::Duration;

use furlong_link::dial::{Dialed, dial, random_bytes};
use furlong_link::incoming::Incoming;
use furlong_link::outgoing::Written;
use furlong_link::peer::outbox::Outbox;
use furlong_link::stream::WriteHalf;
use furlong_wire::capability::Capability;
use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::{EngineId, SessionId, TaskSeq};
use furlong_wire::message::{FromClient, Open, Query, ReplyBody, Request, ToClient, Welcome};
use furlong_wire::payload::PayloadSecret;
use tokio::runtime::Runtime;

/// A connected client.
#[derive(Debug)]
pub struct Good {
    runtime: Runtime,
    incoming: Incoming,
    received: VecDeque<ToClient>,
    socket: WriteHalf,
    outbox: Outbox,
    welcome: Welcome,
    requests: u64,
}

impl Good {
    /// Connects with a capability and opens a session.
    ///
    /// # Errors
    /// The reason why the broker did not let it in, as people read it.
    ///
    /// # Panics
    /// If there can be no tokio runtime.
    pub fn connect(capability: &Capability) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a tokio runtime");
        let hello = HelloBody {
            token: capability.token().as_bytes().to_vec(),
            session: SessionId(random_bytes()),
            incarnation: 1,
            role: capability.role(),
            software: "furlong-tests".to_owned(),
            abilities: 0,
        };
        let dialed =
            runtime.block_on(dial(capability.door(), &hello)).map_err(|error| error.to_string())?;
        let Dialed { incoming, socket, sealer, welcome, .. } = dialed;
        let (received, outbox) = (VecDeque::new(), Outbox::new::<FromClient>(sealer));
        let mut good = Self { runtime, incoming, received, socket, outbox, welcome, requests: 0 };
        good.send(&FromClient::Open(Open {
            secret: PayloadSecret::new(random_bytes()),
            cancel_on_disconnect: false,
            submitted: TaskSeq::MIN,
            hides_names: false,
        }))?;
        Ok(good)
    }

    /// The broker's welcome.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The way to the broker, beside which memory files go.
    pub fn socket(&self) -> &WriteHalf {
        &self.socket
    }

    /// Asks which engines are online.
    ///
    /// # Errors
    /// If the connection ends, or there is no answer in ten seconds.
    pub fn engines(&mut self) -> Result<Vec<EngineId>, String> {
        match self.ask(Query::Engines)? {
            ReplyBody::Engines(engines) => Ok(engines),
            other => Err(format!("another answer than engines: {other:?}")),
        }
    }

    /// Asks something.
    ///
    /// # Errors
    /// If the connection ends, or there is no answer in ten seconds.
    pub fn ask(&mut self, query: Query) -> Result<ReplyBody, String> {
        self.requests += 1;
        let request = self.requests;
        self.send(&FromClient::Query(Request { request, query }))?;
        loop {
            match self.receive()? {
                ToClient::Reply(reply) if reply.request == request => return Ok(reply.body),
                _ => {}
            }
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn send(&mut self, message: &FromClient) -> Result<(), String> {
        self.outbox.push(message);
        let (outbox, socket) = (&mut self.outbox, &self.socket);
        self.runtime.block_on(async {
            while socket.write_from(outbox, usize::MAX).map_err(|error| error.to_string())?
                != Written::All
            {
                socket.writable().await.map_err(|error| error.to_string())?;
            }
            Ok(())
        })
    }

    /// Waits for the next message.
    fn receive(&mut self) -> Result<ToClient, String> {
        let (incoming, received) = (&mut self.incoming, &mut self.received);
        let next = async {
            while received.is_empty() {
                if let Some(record) = incoming.poll_record().map_err(|error| error.to_string())? {
                    for message in record.into_messages::<ToClient>() {
                        received.push_back(message.map_err(|error| error.to_string())?.0);
                    }
                } else if incoming.read().await.map_err(|error| error.to_string())? == 0 {
                    return Err("the broker closed the connection".to_owned());
                }
            }
            received.pop_front().ok_or_else(|| "the loop ends when there is one".to_owned())
        };
        let within = self.runtime.block_on(async { tokio::time::timeout(ANSWER, next).await });
        within.unwrap_or_else(|_| Err("no answer".to_owned()))
    }
}

const ANSWER: Duration = Duration::from_secs(10);
