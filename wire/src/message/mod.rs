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
//! A large payload is announced in its message ([`Payload::Chunked`]) under a transfer number of
//! its sender on this connection, and comes in later records: each chunk frame of a record belongs
//! to one `Chunk` message of its batch, in order.

pub(crate) mod catalogue;
mod client;
mod engine;
mod inspect;
mod measure;
pub(crate) mod quick;
mod ranges;
mod status;
mod task;
mod watch;

use serde::{Deserialize, Serialize};

pub use catalogue::{
    Direction, Message, MessageError, decode_batch, decode_next, encode_message, encoded_bytes,
    is_too_long,
};
pub use client::{
    Accepted, Ack, Cancel, CancelTasks, Define, Fetch, Fetched, FetchedOutput, Finished, KindName,
    Open, Output, Published, Purge, Reply, Request, Restart, Revoke, Shutdown, Signal, Stopped,
    Submit, Subscribe, TakeBack, TaskRange, Undefine,
};
pub use engine::{
    Adopt, Assign, AttemptFinished, AttemptOutput, AttemptPublished, Attempts, CancelAttempts,
    Draining, EngineCredit, EngineDefine, EngineShutdown, EngineUndefine, Forget, Grant, Granted,
    HeldWork, Inputs, Lent, NeedBlob, Register, Registered, Release, Secret, Share, SignalAttempts,
    Slot, SlotDown, Slots, Unshare, Value, Work,
};
pub use inspect::{Inspect, Inspectable, Inspected, Inspection, InspectionSeen, Sampling};
pub use measure::{ANSWERS_MEASURE, MachineLoad, Measure, Measured, SlotLoad};
pub use ranges::Ranges;
pub use status::{
    AttemptRecord, ClusterStatus, EngineStatus, Event, ProcessStatus, Query, RecordTimes,
    ReplyBody, SetAside, StatusPlace, TaskPhase, TaskQuery, TaskRecord,
};
pub use task::{
    Dependency, ErrorKind, Outcome, Payload, Raised, RunTimes, Runtime, Stream, Targets, TaskError,
    TaskOptions, TaskState, TaskTimes,
};
pub use watch::{
    DURATION_RANGES, EndSeen, EngineLoad, EngineSeen, EngineState, FailureSeen, FarmSeen, KindSeen,
    Look, LookPlace, Note, NoteCode, OwnerSeen, PhaseTimes, RunningSeen, Seen, SeriesRow,
    SeriesStep, SpanSeen, duration_range, range_start_us,
};

use crate::ids::{BrokerStart, ClusterId};
use catalogue::{bodies, body, codes, directions, hot_bodies, messages};
use quick::Quick;

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
        /// A payload that was passed as a memory file.
        6 Passed(Passed),
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
        21 Restart(Restart),
        /// Ends tasks of any session of the owner.
        22 CancelTasks(CancelTasks),
        /// A question, answered by a reply.
        23 Query(Request),
        /// From now on, events.
        24 Subscribe(Subscribe),
        /// A task's record and result, for any process of its owner.
        25 Fetch(Fetch),
        /// Results that have arrived: the broker may drop them.
        26 Ack(Ack),
        /// Forgets kept results.
        27 Purge(Purge),
        /// Makes tokens invalid.
        28 Revoke(Revoke),
        /// Stops engines, or the broker with them.
        29 Shutdown(Shutdown),
        /// Ends what has not begun, of any session of the owner.
        30 TakeBack(TakeBack),
        /// A blob that no unfinished task of this session names, and no later one will.
        31 Undefine(Undefine),
        /// The name of a kind of task, before the first submit of that kind.
        96 Name(KindName),
    }
}

messages! {
    /// From the broker to a client.
    ToClient {
        /// Frame by frame, the chunks of this record.
        3 Chunk(Chunk),
        /// The connection closes gracefully.
        4 Goodbye(Goodbye),
        /// More payload bytes may come.
        5 Credit(Credit),
        /// A payload that was passed as a memory file.
        6 Passed(Passed),
        /// The submits that are known: after a cut they need not be repeated.
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
        /// Nothing of a cancelled task runs any longer.
        38 Stopped(Stopped),
        /// The answer to a fetch.
        39 Fetched(Fetched),
        /// Output that a fetch wanted.
        40 FetchedOutput(FetchedOutput),
    }
}

messages! {
    /// From the broker to an engine process.
    ToEngine {
        /// Frame by frame, the chunks of this record.
        3 Chunk(Chunk),
        /// The connection closes gracefully.
        4 Goodbye(Goodbye),
        /// More result bytes of a session may come unasked.
        5 Credit(EngineCredit),
        /// A payload that was passed as a memory file.
        6 Passed(Passed),
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
        /// A signal for what runs.
        54 Signal(SignalAttempts),
        /// New interpreters for slots.
        55 Restart(Slots),
        /// Gives back what has not started.
        56 Recall(Attempts),
        /// Results that need not be kept any longer.
        57 Release(Release),
        /// The process shall leave.
        58 Shutdown(EngineShutdown),
        /// A payload for several slots.
        59 Share(Share),
        /// A shared payload is no longer needed.
        60 Unshare(Unshare),
        /// Work that outlived a connection, or the broker, is wanted.
        61 Adopt(Adopt),
        /// A blob that no later work of that session names.
        62 Undefine(EngineUndefine),
        /// Attempts that are told to have started before they begin.
        63 Announce(Attempts),
        /// The answer to a grant.
        80 Granted(Granted),
        /// There is room for the results of these attempts.
        81 Take(Attempts),
        /// A value that later work has as an input.
        82 Value(Value),
        /// The inputs of the work that follows.
        83 Inputs(Inputs),
        /// A look at an interpreter.
        84 Inspect(Inspect),
        /// A question for figures of the machine and the slots.
        85 Measure(Measure),
    }
}

messages! {
    /// From an engine process to the broker.
    FromEngine {
        /// Frame by frame, the chunks of this record.
        3 Chunk(Chunk),
        /// The process leaves gracefully.
        4 Goodbye(Goodbye),
        /// More payload bytes may come.
        5 Credit(Credit),
        /// A payload that was passed as a memory file.
        6 Passed(Passed),
        /// The process's identity and what it still holds; its first message on each connection.
        64 Register(Box<Register>),
        /// Attempts that run now. One that ends before it could be said is not announced.
        65 Started(Attempts),
        /// An attempt's end.
        66 Finished(AttemptFinished),
        /// Output of an attempt.
        67 Output(AttemptOutput),
        /// Intermediate data of an attempt.
        68 Published(AttemptPublished),
        /// Attempts that had not started and will not: of a recall, or because the interpreter that
        /// had them is gone.
        69 Recalled(Attempts),
        /// A blob that work needs is not here.
        70 NeedBlob(NeedBlob),
        /// A slot's interpreter is gone, and its namespace with it. Comes before the ends of what
        /// it ran.
        71 SlotDown(SlotDown),
        /// The process takes nothing new.
        72 Draining(Draining),
        /// A running attempt wants to let a client of its own in.
        73 Grant(Grant),
        /// A running attempt waits for tasks: its slot is lent.
        74 Lent(Lent),
        /// Attempts that no longer wait.
        75 Back(Attempts),
        /// The answer to a look at an interpreter.
        76 Inspected(Inspected),
        /// The answer to a question for figures.
        77 Measured(Measured),
    }
}

directions! { FromClient ToClient ToEngine FromEngine }

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
        /// True if the broker still knew the peer's session.
        resumed: bool,
        /// The flag by which this broker is given more memory, for people.
        memory_flag: String,
    }

    /// The broker refuses a peer whose key is proved.
    Refused {
        /// The reason, for programs.
        kind: RefusalKind,
        /// The reason and the remedy, for people: one line.
        text: String,
    }

    /// The sender closes gracefully.
    Goodbye {
        /// The reason, for people.
        reason: String,
    }
}

hot_bodies! {
    /// The next chunk frame of this record belongs to that transfer.
    Chunk {
        /// The transfer's number, its sender's on this connection.
        transfer: u64,
    }

    /// The payload of a transfer was passed as a memory file, beside the connection: no chunks of
    /// it come.
    Passed {
        /// The transfer's number, its sender's on this connection.
        transfer: u64,
        /// The file's device, by its number in the system.
        device: u64,
        /// The file's number on that device. Of two files that there are no two have the same.
        inode: u64,
    }

    /// The peer may have announced this many payload bytes since the connection began, in all.
    Credit {
        /// The new total, never smaller than before.
        payload_bytes_total: u64,
    }
}

codes! {
    /// The reason that a peer is refused.
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
