//! The clients' actions.

use bytes::Bytes;
use furlong_broker::core::ConnectionId;
use furlong_wire::ids::{PassKey, TokenId};
use furlong_wire::ids::{TaskId, TaskSeq};
use furlong_wire::message::{
    Ack, Cancel, CancelTasks, Chunk, Define, Dependency, Direction, Fetch, FromClient, Goodbye,
    KindName, Open, Purge, Query, Request, Restart, Revoke, Runtime, Shutdown, Signal, Submit,
    Subscribe, TakeBack, Targets, TaskOptions, TaskQuery, TaskRange, Undefine, decode_batch,
};
use furlong_wire::payload::PayloadSecret;

use super::peers::{CLIENTS, NESTED, engine_id, session_of, zeros};
use super::{Act, Farm};
use crate::input::Input;

/// The key that engines let in.
pub const PASS: PassKey = PassKey([77; 32]);

impl Farm {
    pub fn client_acts(&mut self, act: Act, client: usize, input: &mut Input<'_>) {
        let Some(connection) = self.clients[client].connection else {
            // Whoever is away can do one thing.
            return self.client_connects(client, input);
        };
        match act {
            Act::ClientConnects => self.client_connects(client, input),
            Act::ClientLeaves if input.flag() => self.close(connection),
            Act::ClientLeaves => self.client_says_goodbye(client),
            Act::Submits => self.submits(client, input),
            Act::ClientSendsChunk => {
                if let Some((transfer, chunk)) = self.clients[client].sending.chunk() {
                    let chunk = if input.byte() == 255 { zeros(17) } else { chunk };
                    self.hears_client(
                        connection,
                        FromClient::Chunk(Chunk { transfer }),
                        Some(chunk),
                    );
                }
            }
            Act::Acknowledges => {
                let ranges = vec![(TaskSeq(input.number()), TaskSeq(input.number()))];
                self.says(client, FromClient::Ack(Ack { ranges: ranges.into() }));
            }
            Act::EndsTasks => self.ends_tasks(client, input),
            Act::Fetches => {
                let (request, session) = (self.request(), session_of(input.below(CLIENTS)));
                let fetch = Fetch {
                    request,
                    session,
                    n: TaskSeq(input.number()),
                    wait: input.flag(),
                    output: input.flag(),
                };
                self.says(client, FromClient::Fetch(fetch));
            }
            Act::Asks => self.asks(client, input),
            Act::Defines => {
                let number = input.below(4) as u32;
                if input.below(4) == 0 {
                    return self.says(client, FromClient::Undefine(Undefine { number }));
                }
                let payload = self.clients[client].sending.payload(input);
                self.says(client, FromClient::Define(Define { number, payload }));
            }
            _ => self.client_says_anything(client, connection, input),
        }
    }

    /// Comes back if it can, and ends what there is of its owner.
    pub fn client_ends_all(&mut self, client: usize) {
        if self.clients[client].connection.is_none() {
            self.client_connects(client, &mut Input::new(&[]));
        }
        let all =
            |of| TaskRange { session: session_of(of), first: TaskSeq::MIN, last: TaskSeq::MAX };
        let (request, tasks) = (self.request(), (0..CLIENTS).map(all).collect());
        self.says(client, FromClient::CancelTasks(CancelTasks { request, tasks, force: true }));
    }

    pub fn client_says_goodbye(&mut self, client: usize) {
        self.says(client, FromClient::Goodbye(Goodbye { reason: "done".into() }));
        if let Some(connection) = self.clients[client].connection {
            self.close(connection);
        }
    }

    /// Comes, or comes again while its older connection is still there, and opens its session.
    fn client_connects(&mut self, client: usize, input: &mut Input<'_>) {
        let connection = self.connection();
        let it = &mut self.clients[client];
        it.incarnation += 1;
        let mut peer = it.peer();
        if self.revoked.get(peer.claims.token_id).is_some() {
            return;
        }
        if client == NESTED {
            let Ok((claims, attempt)) = self.core.pass(self.now, PASS.0) else { return };
            (peer.claims, peer.pass) = (claims, Some(attempt));
        }
        let Ok(welcome) = self.core.handle_connected(connection, peer) else { return };
        let it = &mut self.clients[client];
        if !welcome.resumed {
            it.ends.clear();
        }
        let old = it.connection.replace(connection);
        it.sending = super::peers::Sending::default();
        let submitted = it.submitted;
        self.pump();
        if let Some(old) = old {
            self.core.handle_disconnected(self.now, old);
        }
        let secret = PayloadSecret::new([client as u8; 32]);
        match input.byte() {
            // It forgets to.
            255 => {}
            choice => {
                let cancel_on_disconnect = choice & 1 == 1;
                self.says(
                    client,
                    FromClient::Open(Open {
                        secret,
                        cancel_on_disconnect,
                        submitted: TaskSeq(submitted),
                        hides_names: choice & 2 == 2,
                    }),
                );
            }
        }
    }

    fn submits(&mut self, client: usize, input: &mut Input<'_>) {
        let targets = match input.below(4) {
            0 | 1 => Targets::Shared,
            count => Targets::Engines((1..count).map(|_| engine_id(input)).collect()),
        };
        let payload = self.clients[client].sending.payload(input);
        let runtime = Runtime::ALL[input.below(Runtime::ALL.len())];
        let define = input.flag().then(|| input.below(4) as u32);
        let options = input.flag().then(|| Box::new(options(input)));
        let it = &mut self.clients[client];
        let n = it.submitted + 1;
        it.submitted +=
            if let Targets::Engines(engines) = &targets { engines.len() as u64 } else { 1 };
        // Now and then a repetition, or a number that is not the next one.
        let n = if input.byte() == 255 { input.number() } else { n };
        let class = input.below(3) as u32;
        if class > 0 {
            let name = "n".repeat(class as usize * 120);
            self.says(client, FromClient::Name(KindName { class, runtime, name }));
        }
        self.says(
            client,
            FromClient::Submit(Submit {
                n: TaskSeq(n),
                targets,
                runtime,
                class,
                define,
                options,
                payload,
            }),
        );
    }

    fn ends_tasks(&mut self, client: usize, input: &mut Input<'_>) {
        let (request, force) = (self.request(), input.flag());
        let (first, last) = (input.number(), input.number());
        let tasks = vec![TaskRange {
            session: session_of(input.below(CLIENTS)),
            first: TaskSeq(first),
            last: TaskSeq(last),
        }];
        self.says(
            client,
            match input.below(5) {
                0 | 1 => FromClient::Cancel(Cancel {
                    ranges: vec![(TaskSeq(first), TaskSeq(last))],
                    force,
                }),
                2 => FromClient::CancelTasks(CancelTasks { request, tasks, force }),
                3 => FromClient::TakeBack(TakeBack { request, tasks }),
                _ => FromClient::Purge(Purge { request, tasks }),
            },
        );
    }

    fn asks(&mut self, client: usize, input: &mut Input<'_>) {
        let request = self.request();
        let engines = vec![engine_id(input)];
        let query = |query| FromClient::Query(Request { request, query });
        self.says(
            client,
            match input.below(9) {
                0 => query(Query::Engines),
                1 => query(Query::Status),
                2 => {
                    let (first, last) =
                        (Some(TaskSeq(input.number())), Some(TaskSeq(input.number())));
                    let after = input
                        .flag()
                        .then(|| TaskId { session: session_of(0), n: TaskSeq(input.number()) });
                    let ended = input.flag().then(|| input.flag());
                    let limit = input.number() as u32;
                    query(Query::Tasks(Box::new(TaskQuery {
                        first,
                        last,
                        after,
                        ended,
                        limit,
                        ..TaskQuery::default()
                    })))
                }
                3 => FromClient::Subscribe(Subscribe { engines: input.flag() }),
                4 => FromClient::Signal(Signal { request, engines, signal: input.number() as i32 }),
                5 | 6 => FromClient::Restart(Restart { request, engines }),
                7 => FromClient::Shutdown(Shutdown {
                    request,
                    engines: input.flag().then_some(engines),
                    finish: input.flag(),
                    broker: input.flag(),
                }),
                _ => FromClient::Revoke(Revoke {
                    request,
                    tokens: vec![TokenId([input.below(8) as u8; 16])],
                }),
            },
        );
    }

    /// Any messages that can be read, with chunks of any length.
    fn client_says_anything(
        &mut self,
        client: usize,
        connection: ConnectionId,
        input: &mut Input<'_>,
    ) {
        let len = input.below(256);
        for message in decode_batch::<FromClient>(input.bytes(len)) {
            let Ok(message) = message else { return self.close(connection) };
            if self.clients[client].connection != Some(connection) {
                return;
            }
            let chunk = message.chunk_transfer().map(|_| zeros(16 + input.below(256)));
            self.hears_client(connection, message, chunk);
        }
    }

    /// Says something, if it is connected.
    fn says(&mut self, client: usize, message: FromClient) {
        let Some(connection) = self.clients[client].connection else { return };
        self.hears_client(connection, message, None);
    }

    fn hears_client(
        &mut self,
        connection: ConnectionId,
        message: FromClient,
        chunk: Option<Bytes>,
    ) {
        let mut heard = self.core.handle_from_client(self.now, connection, message, chunk);
        while heard.is_ok() && self.core.has_rest(connection) {
            heard = self.core.handle_rest(self.now, connection);
        }
        self.settle(connection, heard);
    }
}

fn options(input: &mut Input<'_>) -> TaskOptions {
    let (flags, more) = (input.byte(), input.byte());
    let is = |bit: u8| flags >> bit & 1 == 1;
    let mut dependencies = |count: usize| -> Vec<Dependency> {
        let mut one = || {
            let task =
                TaskId { session: session_of(input.below(CLIENTS)), n: TaskSeq(input.number()) };
            let when = input.below(3);
            Dependency { task, success: when != 1, failure: when != 0 }
        };
        (0..count).map(|_| one()).collect()
    };
    let after = dependencies(usize::from(more & 3));
    let follow = dependencies(usize::from(more >> 2 & 1));
    // Of a kind of task that may have none there, too.
    let inputs = dependencies(usize::from(more >> 1 & more & 1) * 2);
    TaskOptions {
        label: is(0).then(|| "label".to_owned()),
        priority: if is(1) { input.number() as i32 } else { 0 },
        retries: is(2).then(|| input.number() as u32),
        error_retries: if is(3) { input.number() as u32 } else { 0 },
        backoff_ms: if is(3) { input.number() } else { 0 },
        at_most_once: is(4),
        queue_timeout_ms: is(5).then(|| input.number()),
        run_timeout_ms: is(6).then(|| input.number()),
        time_request_ms: (is(5) && is(6)).then_some(60_000),
        after,
        after_any: is(7),
        follow,
        follow_any: is(7),
        require: if more >> 3 & 1 == 1 { vec!["gpu".to_owned()] } else { Vec::new() },
        keep: more >> 4 & 1 == 1,
        abort_on_error: more >> 5 & 1 == 1,
        restart_safe: more >> 6 & 1 == 1,
        durable: more >> 7 == 1,
        repeated: is(0) && is(1) && is(2),
        inputs: inputs.into_iter().map(|input| input.task).collect(),
        stay: is(3) && is(4),
    }
}
