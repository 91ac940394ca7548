//! The message catalogue: everything that broker, engines and clients say to each other.
//!
//! | from | to | enum |
//! |---|---|---|
//! | broker | a peer, as its first record | [`Greeting`] |
//! | client | broker | [`FromClient`] |
//! | broker | client | [`ToClient`] |
//! | broker | engine process | [`ToEngine`] |
//! | engine process | broker | [`FromEngine`] |
//!
//! A large payload is announced in its message ([`Payload::Chunked`]) under a transfer number of its sender on this
//! connection, and comes in later records: each chunk frame of a record belongs to one `Chunk` message of its batch, in
//! order.

mod catalogue;
mod status;
mod task;

use serde::{Deserialize, Serialize};

pub use catalogue::{Direction, Message, MessageError, decode_batch, decode_next, encode_message};
pub use status::{ClusterStatus, EngineStatus, Event, ProcessStatus, Query, ReplyBody};
pub use task::{
    Dependency, ErrorKind, Outcome, Payload, Runtime, Stream, Targets, TaskError, TaskOptions, TaskState, TaskTimes,
};

use crate::ids::{Attempt, BrokerStart, ClusterId, EngineId, EngineUuid, InstanceId, SessionId, TokenId};
use crate::payload::PayloadSecret;
use catalogue::{codes, directions, messages};

messages! {
    /// The broker's first record after a handshake: one of these, alone.
    Greeting {
        /// The peer is in.
        1 Welcome(Welcome),
        /// The peer's key is proved, but it may not come in. The connection closes.
        2 Refused(Refused),
    }
}

messages! {
    /// From a client to the broker.
    FromClient {
        /// Frame by frame, the chunks of this record.
        3 Chunk(Chunk),
        /// The end of the session: nothing is kept for it.
        4 Goodbye(Goodbye),
        /// More payload bytes may come.
        5 Credit(Credit),
        /// The session's payload secret; the first message of each connection.
        16 Open(Open),
        /// Tasks.
        17 Submit(Submit),
        /// A blob that later submits of this session name by number.
        18 Define(Define),
        /// Ends tasks.
        19 Cancel(Cancel),
        /// A signal for what runs on engines.
        20 Signal(Signal),
        /// New interpreters for engines.
        21 Restart(Engines),
        /// Empty namespaces for engines.
        22 Clear(Engines),
        /// A question, answered by a reply.
        23 Query(Request),
        /// From now on, events.
        24 Subscribe(Subscribe),
        /// A task's result, again.
        25 Fetch(Fetch),
        /// Results that have arrived: the broker may drop them.
        26 Ack(Ack),
        /// Forgets kept results.
        27 Purge(Ranges),
        /// Makes tokens invalid.
        28 Revoke(Revoke),
        /// Stops engines, or the broker with them.
        29 Shutdown(Shutdown),
    }
}

messages! {
    /// From the broker to a client.
    ToClient {
        /// Frame by frame, the chunks of this record.
        3 Chunk(Chunk),
        /// The connection closes in good order.
        4 Goodbye(Goodbye),
        /// More payload bytes may come.
        5 Credit(Credit),
        /// Submits up to this task are known: after a cut they need not be repeated.
        32 Accepted(Accepted),
        /// A task's end.
        33 Finished(Finished),
        /// A task's output.
        34 Output(Output),
        /// Intermediate data of a running task.
        35 Published(Published),
        /// Something that a subscriber wanted to know.
        36 Event(Event),
        /// The answer to a query.
        37 Reply(Reply),
    }
}

messages! {
    /// From the broker to an engine process.
    ToEngine {
        /// Frame by frame, the chunks of this record.
        3 Chunk(Chunk),
        /// The connection closes in good order.
        4 Goodbye(Goodbye),
        /// More result bytes may come.
        5 Credit(Credit),
        /// The integers of the process's engines.
        48 Registered(Registered),
        /// A session's payload secret, before its first task here.
        49 Secret(Secret),
        /// Work.
        50 Assign(Assign),
        /// A blob that later work of that session names by number.
        51 Define(EngineDefine),
        /// The session is over: its secret and blobs may go.
        52 Forget(Forget),
        /// Ends attempts.
        53 Cancel(CancelAttempts),
        /// A signal for what runs in slots.
        54 Signal(SlotSignal),
        /// New interpreters for slots.
        55 Restart(Slots),
        /// Gives back what has not started.
        56 Recall(Attempts),
        /// Results that need not be kept any longer.
        57 Release(Attempts),
        /// The process shall finish its work and leave.
        58 Shutdown(Goodbye),
    }
}

messages! {
    /// From an engine process to the broker.
    FromEngine {
        /// Frame by frame, the chunks of this record.
        3 Chunk(Chunk),
        /// The process leaves in good order.
        4 Goodbye(Goodbye),
        /// More payload bytes may come.
        5 Credit(Credit),
        /// Who the process is and what it still holds; its first message on each connection.
        64 Register(Register),
        /// Attempts that run now. One that ends before it could be said is not announced.
        65 Started(Attempts),
        /// An attempt's end.
        66 Finished(AttemptFinished),
        /// Output of an attempt.
        67 Output(AttemptOutput),
        /// Intermediate data of an attempt.
        68 Published(AttemptPublished),
        /// Of a recall: what had not started, and will not.
        69 Recalled(Attempts),
        /// A blob that work needs is not here.
        70 NeedBlob(NeedBlob),
        /// A slot's interpreter is gone, and its namespace with it.
        71 SlotDown(SlotDown),
    }
}

directions! { FromClient ToClient ToEngine FromEngine }

/// Defines message bodies: structs with public fields that travel as arrays.
macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })+) => {
        $($(#[$doc])*
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        })+
    };
}

bodies! {
    /// The broker lets a peer in.
    Welcome {
        /// The connection's number, for logs.
        connection: u64,
        /// This start of the broker.
        start: BrokerStart,
        /// The cluster's name.
        cluster_name: String,
        /// The cluster.
        cluster: ClusterId,
        /// The broker's software, for people.
        software: String,
        /// A side that has sent nothing for this long sends an empty record.
        heartbeat_idle_ms: u64,
        /// A side that has received nothing for this long closes.
        heartbeat_dead_ms: u64,
        /// Unfinished tasks that the peer may have; for a client.
        unfinished_tasks_max: u64,
        /// Payload bytes that the peer may send at first.
        payload_credit_bytes: u64,
        /// Whether the broker still knew the peer's session.
        resumed: bool,
    }

    /// The broker refuses a peer whose key is proved.
    Refused {
        /// Why, for programs.
        kind: RefusalKind,
        /// Why and what to do, for people: one line.
        text: String,
    }

    /// The next chunk frame of this record belongs to that transfer.
    Chunk {
        /// The transfer's number, its sender's on this connection.
        transfer: u64,
    }

    /// The sender closes in good order.
    Goodbye {
        /// Why, for people.
        reason: String,
    }

    /// The peer may have announced this many payload bytes since the connection began, in all.
    Credit {
        /// The new total, never smaller than before.
        payload_bytes_total: u64,
    }

    /// A client's first message.
    Open {
        /// The secret of the session's payloads.
        secret: PayloadSecret,
    }

    /// Tasks with one payload: one for the shared queue, or one for each engine named.
    Submit {
        /// The number of the first task; the others follow it.
        n: u64,
        /// Where they run.
        targets: Targets,
        /// What runs them.
        runtime: Runtime,
        /// Tasks of one kind take about as long as each other: a number that the client makes of the function.
        class: u32,
        /// The definition that the call needs.
        define: Option<u32>,
        /// What is not the default.
        options: Option<Box<TaskOptions>>,
        /// Call header and arguments.
        payload: Payload,
    }

    /// A blob for a whole session.
    Define {
        /// Its number in the session.
        number: u32,
        /// The blob.
        payload: Payload,
    }

    /// Ranges of task numbers of this session.
    Ranges {
        /// First and last number of each range.
        ranges: Vec<(u64, u64)>,
    }

    /// Ends tasks of this session.
    Cancel {
        /// First and last number of each range.
        ranges: Vec<(u64, u64)>,
        /// Whether an interpreter that does not heed the interrupt is killed.
        force: bool,
    }

    /// A signal for what runs on engines.
    Signal {
        /// Which engines.
        engines: Vec<EngineId>,
        /// The signal's number.
        signal: i32,
    }

    /// Engines, by their integers.
    Engines {
        /// Which engines.
        engines: Vec<EngineId>,
    }

    /// A question.
    Request {
        /// The client's number for it.
        request: u64,
        /// What it wants to know.
        query: Query,
    }

    /// Which events a client wants.
    Subscribe {
        /// Engines that come and go.
        engines: bool,
    }

    /// Wants the kept result of a task.
    Fetch {
        /// The client's number for the request.
        request: u64,
        /// The session that submitted it, which must be of the same owner.
        session: SessionId,
        /// The task's number there.
        n: u64,
    }

    /// Results that have arrived.
    Ack {
        /// First and last task number of each range.
        ranges: Vec<(u64, u64)>,
    }

    /// Tokens that shall no longer be valid.
    Revoke {
        /// Their ids.
        tokens: Vec<TokenId>,
    }

    /// Stops engines.
    Shutdown {
        /// Which; none for all of them.
        engines: Option<Vec<EngineId>>,
        /// Whether the broker ends as well.
        broker: bool,
    }

    /// Submits that the broker knows.
    Accepted {
        /// Every task up to this number.
        n: u64,
    }

    /// A task's end. It is repeated on each connection of the session until it is acknowledged.
    Finished {
        /// The task's number in the session.
        n: u64,
        /// How it ended.
        outcome: Outcome,
        /// The engine that ran it, if one did.
        engine: Option<EngineId>,
        /// How often it was tried.
        attempts: u32,
        /// When things happened.
        times: TaskTimes,
        /// The result: reply header and data. None if there is none.
        payload: Option<Payload>,
    }

    /// A piece of a task's output.
    Output {
        /// The task's number in the session.
        n: u64,
        /// The engine that runs it.
        engine: EngineId,
        /// Which stream.
        stream: Stream,
        /// How many bytes of the stream came before. A gap is output that was not kept.
        offset: u64,
        /// The bytes, as written.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    }

    /// Intermediate data of a running task.
    Published {
        /// The task's number in the session.
        n: u64,
        /// The data.
        payload: Payload,
    }

    /// The answer to a request.
    Reply {
        /// The client's number for it.
        request: u64,
        /// The answer.
        body: ReplyBody,
    }

    /// The integers of a process's engines.
    Registered {
        /// One for each slot, in order.
        engines: Vec<EngineId>,
    }

    /// A session's payload secret.
    Secret {
        /// The session.
        session: SessionId,
        /// Its secret.
        secret: PayloadSecret,
    }

    /// Work: one payload, for one slot or several of the process.
    Assign {
        /// Which slot runs which task, as which attempt.
        work: Vec<Work>,
        /// The session of the tasks.
        session: SessionId,
        /// What runs them.
        runtime: Runtime,
        /// The definition that the call needs.
        define: Option<u32>,
        /// Call header and arguments.
        payload: Payload,
    }

    /// One slot's part of an assignment.
    Work {
        /// The slot.
        slot: u32,
        /// The task's number in its session.
        n: u64,
        /// The attempt.
        attempt: Attempt,
    }

    /// A blob for the work of a session.
    EngineDefine {
        /// The session.
        session: SessionId,
        /// Its number in the session.
        number: u32,
        /// The blob.
        payload: Payload,
    }

    /// A session that is over.
    Forget {
        /// The session.
        session: SessionId,
    }

    /// Attempts to end.
    CancelAttempts {
        /// Which.
        attempts: Vec<Attempt>,
        /// Whether an interpreter that does not heed the interrupt is killed.
        force: bool,
    }

    /// A signal for what runs in slots.
    SlotSignal {
        /// Which slots.
        slots: Vec<u32>,
        /// The signal's number.
        signal: i32,
    }

    /// Slots of a process.
    Slots {
        /// Which.
        slots: Vec<u32>,
    }

    /// Attempts.
    Attempts {
        /// Which.
        attempts: Vec<Attempt>,
    }

    /// An engine process and what it still holds.
    Register {
        /// The process.
        instance: InstanceId,
        /// Its host's name.
        host: String,
        /// Its process id.
        pid: u32,
        /// Where it runs.
        cwd: String,
        /// Its slots, in order.
        slots: Vec<Slot>,
        /// What it can run.
        runtimes: Vec<Runtime>,
        /// The interpreter that runs Python, if there is one.
        python: Option<String>,
        /// Labels that tasks can require.
        labels: Vec<String>,
        /// Attempts that it has not ended, and ended ones that were not released.
        held: Vec<HeldWork>,
    }

    /// One engine of a process.
    Slot {
        /// The engine's uuid.
        uuid: EngineUuid,
        /// The integer that it had, or asks for.
        wanted: Option<EngineId>,
    }

    /// Work that outlived a connection.
    HeldWork {
        /// The attempt.
        attempt: Attempt,
        /// The session of its task.
        session: SessionId,
        /// The task's number there.
        n: u64,
        /// The slot that has it.
        slot: u32,
        /// Whether it has ended, so that its result follows.
        finished: bool,
    }

    /// An attempt's end.
    AttemptFinished {
        /// The attempt.
        attempt: Attempt,
        /// How it ended.
        outcome: Outcome,
        /// How long the code ran, in microseconds.
        run_us: u64,
        /// Reply header and data. None if there is none.
        payload: Option<Payload>,
    }

    /// A piece of an attempt's output.
    AttemptOutput {
        /// The attempt.
        attempt: Attempt,
        /// Which stream.
        stream: Stream,
        /// How many bytes of the stream came before.
        offset: u64,
        /// The bytes, as written.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    }

    /// Intermediate data of an attempt.
    AttemptPublished {
        /// The attempt.
        attempt: Attempt,
        /// The data.
        payload: Payload,
    }

    /// A blob that is not here.
    NeedBlob {
        /// The session.
        session: SessionId,
        /// The blob's number there.
        number: u32,
    }

    /// A slot's interpreter is gone.
    SlotDown {
        /// The slot.
        slot: u32,
        /// How it ended: exit code or signal, and the last lines of its stderr.
        cause: String,
    }
}

codes! {
    /// Why a peer is refused.
    RefusalKind {
        /// Another protocol version.
        1 "version" Version,
        /// The token does not allow this: role, port, validity, revocation.
        2 "unauthorized" Unauthorized,
        /// The session has a newer connection.
        3 "superseded" Superseded,
        /// The broker is full or stopping.
        4 "busy" Busy,
    }
}

#[cfg(test)]
mod tests;
