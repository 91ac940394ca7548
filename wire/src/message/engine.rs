//! Bodies of the messages between the broker and engine processes.

use serde::{Deserialize, Serialize};

use super::catalogue::{bodies, body, hot_bodies};
use super::task::{Outcome, Payload, RunTimes, Runtime, Stream};
use crate::AtLeastOne;
use crate::ids::{
    Attempt, AttemptId, BrokerStart, EngineId, EngineUuid, InstanceId, PassKey, SessionId, TaskSeq,
};
use crate::payload::PayloadSecret;

bodies! {
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
        /// Payload bytes of this session that the process may send unasked at first, on this
        /// connection.
        payload_credit_bytes: u64,
        /// True if the broker is not told the types of its tasks' errors.
        hides_names: bool,
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

    /// A blob that no later work of a session names.
    EngineUndefine {
        /// The session.
        session: SessionId,
        /// Its number in the session.
        number: u32,
    }

    /// A session that is over.
    Forget {
        /// The session.
        session: SessionId,
    }

    /// Attempts to end.
    CancelAttempts {
        /// The identifier.
        attempts: Vec<Attempt>,
        /// True if an interpreter that does not respond to the interrupt is killed.
        force: bool,
    }

    /// A signal for those of the attempts that run now; the others never see it.
    SignalAttempts {
        /// The identifier.
        attempts: Vec<Attempt>,
        /// The signal's number.
        signal: i32,
    }

    /// A payload for several slots of the process, which later assignments name by number.
    Share {
        /// Its number on this connection.
        share: u64,
        /// The session whose key opens it.
        session: SessionId,
        /// The payload.
        payload: Payload,
    }

    /// A result, or a value of a client, that later assignments have as an input.
    Value {
        /// Its number on this connection; shares have others.
        value: u64,
        /// The session whose key opens it.
        session: SessionId,
        /// That session's secret, if the process was not told it on this connection: the attempts
        /// that have the value may be another session's, of the same owner.
        secret: Option<PayloadSecret>,
        /// Reply header and data. It is sealed with the key of the engine process that it names,
        /// as its result, or else with that of the session's requests.
        payload: Payload,
    }

    /// The inputs of an attempt whose assignment follows.
    Inputs {
        /// The attempt, whose broker start is that of the connection.
        attempt: AttemptId,
        /// The numbers of the values, in the order in which its arguments count them.
        values: Vec<u64>,
    }

    /// A shared payload, or a value, that no later assignment names.
    Unshare {
        /// Its number.
        share: u64,
    }

    /// The process shall leave.
    EngineShutdown {
        /// The reason, for people.
        reason: String,
        /// True if it first finishes the work assigned to it.
        finish: bool,
    }

    /// The answer to a grant.
    Granted {
        /// The attempt.
        attempt: Attempt,
        /// The key.
        key: PassKey,
        /// The reason that it is not let in, if it is not: one line.
        refusal: Option<String>,
    }

    /// A key that shall be let in as a client of a running attempt's owner, until the attempt ends.
    Grant {
        /// The attempt.
        attempt: Attempt,
        /// The key.
        key: PassKey,
    }

    /// An attempt that waits for tasks of this cluster: until it goes on, or ends, its slot can run
    /// another.
    Lent {
        /// The attempt.
        attempt: Attempt,
        /// The sessions whose tasks it waits for.
        sessions: Vec<SessionId>,
    }

    /// Work that the process holds, and which is wanted.
    Adopt {
        /// Under which attempt it holds each, and as which it is reported from now on. Of what has
        /// ended, the result is sent again.
        attempts: Vec<(Attempt, Attempt)>,
    }

    /// Ended attempts whose results need not be held any longer.
    Release {
        /// The broker's start that made the attempts.
        start: BrokerStart,
        /// Their ids, ascending: the first one, and then how far each is from the one before.
        steps: Vec<u64>,
    }

    /// Slots of a process.
    Slots {
        /// The identifier.
        slots: Vec<u32>,
    }

    /// An engine process and what it still holds.
    Register {
        /// The process.
        instance: InstanceId,
        /// Its host's name.
        host: String,
        /// Its process id.
        pid: u32,
        /// Its working directory.
        cwd: String,
        /// Its slots, in order.
        slots: Vec<Slot>,
        /// The runtimes that it offers.
        runtimes: Vec<Runtime>,
        /// The interpreter that runs Python, if there is one.
        python: Option<String>,
        /// The environment of the tasks, for people: versions, and the variables that matter.
        environment: Vec<(String, String)>,
        /// Labels that tasks can require.
        labels: Vec<String>,
        /// Attempts that it has not ended, and ended ones that were not released.
        held: Vec<HeldWork>,
        /// The last attempt that it was given, whatever became of it: later ones have not reached
        /// it, or not whole.
        received: Option<Attempt>,
        /// Of ended attempts whose results it has dropped before they were released, the last one.
        /// What it was given after that and does not hold has not run.
        dropped: Option<Attempt>,
        /// The job of a batch system in which it runs, as that names it, for people.
        job: Option<String>,
        /// The time until it stops what it runs and leaves, if that is known.
        ends_in_ms: Option<u64>,
    }

    /// One engine of a process.
    Slot {
        /// The engine's uuid.
        uuid: EngineUuid,
        /// The integer that it had, or asks for.
        wanted: Option<EngineId>,
    }

    /// The process takes nothing new: it finishes what it has, and then says goodbye.
    Draining {
        /// The reason, for people.
        reason: String,
    }

    /// Work that outlived a connection.
    HeldWork {
        /// The attempt.
        attempt: Attempt,
        /// The session of its task.
        session: SessionId,
        /// The task's number there.
        n: TaskSeq,
        /// The slot that has it.
        slot: u32,
        /// True if it has ended. Its result is sent when the broker adopts it.
        finished: bool,
    }

    /// A piece of an attempt's output.
    AttemptOutput {
        /// The attempt.
        attempt: Attempt,
        /// The stream.
        stream: Stream,
        /// The number of bytes of the stream that came before.
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
        /// The way it ended: exit code or signal, and the last lines of its stderr.
        cause: String,
    }
}

hot_bodies! {
    /// Work: one payload, for one slot or several of the process.
    Assign {
        /// The slots with their tasks and attempts.
        work: AtLeastOne<Work>,
        /// The session of the tasks. None if it is that of the assignment before, on this
        /// connection.
        session: Option<SessionId>,
        /// Their runtime.
        runtime: Runtime,
        /// The definition that the call needs.
        define: Option<u32>,
        /// The shared payload that stands in for this one.
        share: Option<u64>,
        /// Call header and arguments; empty if they are shared.
        payload: Payload,
    }

    /// One slot's part of an assignment.
    Work {
        /// The slot. One that is as large as the number of slots, or larger, is that much less a
        /// slot's stand-in: any interpreter beside that slot's own which has nothing to do.
        slot: u32,
        /// The task's number in its session.
        n: TaskSeq,
        /// The attempt, whose broker start is that of the connection.
        attempt: AttemptId,
    }

    /// An attempt's end.
    AttemptFinished {
        /// The attempt.
        attempt: Attempt,
        /// Its outcome.
        outcome: Outcome,
        /// The parts of its time here.
        times: RunTimes,
        /// Reply header and data. None if there is none. One that is announced as transfer 0 waits
        /// to be asked for.
        payload: Option<Payload>,
    }

    /// Attempts.
    Attempts {
        /// The identifier.
        attempts: Vec<Attempt>,
    }

    /// The process may have sent this many payload bytes of a session unasked since the connection
    /// began, in all.
    EngineCredit {
        /// The session.
        session: SessionId,
        /// The new total, never smaller than before.
        payload_bytes_total: u64,
    }
}

impl Release {
    /// Of these attempts, in any order.
    pub fn of(start: BrokerStart, mut attempts: Vec<AttemptId>) -> Self {
        attempts.sort_unstable();
        let mut before = 0;
        let step = |AttemptId(id)| id - std::mem::replace(&mut before, id);
        Self { start, steps: attempts.into_iter().map(step).collect() }
    }

    /// The attempts.
    pub fn attempts(&self) -> impl Iterator<Item = Attempt> {
        let ids = self.steps.iter().scan(0_u64, |id, step| {
            *id = id.checked_add(*step)?;
            Some(AttemptId(*id))
        });
        ids.map(|id| Attempt { start: self.start, id })
    }
}
