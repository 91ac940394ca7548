//! The decisions of an engine process: which slot runs what, what it holds, what it reports. No
//! I/O, clock or threads.
//!
//! The shell tells it what happened (`handle_*`) and then takes what is to be done
//! ([`Core::poll_output`]) until there is nothing left. Work goes on without a connection; what is
//! to be said waits for the next one, and results are held until they are released.

mod actions;
mod calls;
mod control;
mod held;
mod leave;
mod lending;
mod line;
mod output;
mod receiving;
mod results;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use actions::Output;
use bytes::Bytes;
use furlong_wire::AtLeastOne;
use furlong_wire::call::CallHeader;
use furlong_wire::ids::{Attempt, BrokerStart, InstanceId, SessionId, TaskSeq};
use furlong_wire::limits::OVERDRAFT_CREDITS;
use furlong_wire::message::{Assign, Attempts, FromEngine, Payload, Runtime, ToEngine};
use furlong_wire::numbers::NumberMap;
pub use held::Held;
pub use leave::{End, Limits};
pub(crate) use results::unreadable;

use crate::job::{DataFile, Job, SlotEvent, SlotIndex, SlotJob};
use actions::Actions;
use held::Results;
use leave::Leaving;
use lending::Lending;
use output::Kept;
use receiving::{Purpose, Receiving, Shared, Values};
use sessions::Sessions;

/// A violation of the protocol by the broker: the connection is closed and made anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BrokerMisbehaved {
    /// A transfer that is unknown, repeated or misshapen.
    #[error("the broker sent a payload transfer that is unknown, repeated or misshapen")]
    Transfer,
    /// Work of a session whose secret is not here, or for a slot that is not.
    #[error("the broker sent work that names an unknown session or slot")]
    Assign,
    /// A shared payload or a value that is unknown, known already, or of another session.
    #[error(
        "the broker named a shared payload or a value that is unknown, known already, or of another session"
    )]
    Share,
}

/// The state of an engine process.
#[derive(Debug)]
pub struct Core {
    /// The registered slots, and then those that stand in.
    slots: Vec<Slot>,
    lending: Lending,
    sessions: Sessions,
    work: NumberMap<SlotJob, Work>,
    by_attempt: NumberMap<Attempt, SlotJob>,
    arrivals: Arrivals,
    receiving: BTreeMap<u64, Receiving>,
    /// The last call header, as it came and as it was read: those of a map's tasks are all the
    /// same.
    last_header: Option<(Vec<u8>, Arc<CallHeader>)>,
    shares: BTreeMap<u64, Shared>,
    /// The inputs of jobs beside their arguments.
    values: Values,
    /// The broker's commands for attempts whose assignments have not come: they overtake what waits
    /// to be sent.
    early: BTreeMap<Attempt, Early>,
    /// Attempts that are told to have started before they begin.
    suspects: BTreeSet<Attempt>,
    /// Calls whose definition has not come whole.
    undefined: Vec<(SessionId, u32, Call, Result<Request, String>)>,
    connected: bool,
    /// True if there was a connection before: what was sent on it may not have arrived.
    was_cut: bool,
    /// The broker's start, with which the attempts that it gives begin.
    start: BrokerStart,
    /// The session of the last assignment on this connection.
    assigned_session: Option<SessionId>,
    next_transfer: u64,
    room: Room,
    /// Messages that wait for a connection.
    unsent: VecDeque<FromEngine>,
    /// Results that have not been released.
    results: Results,
    leaving: Leaving,
    /// True if the shell waits before it lets starts be reported.
    report_is_awaited: bool,
    outputs: Actions,
}

/// Jobs that have come, and the time of the last ones.
#[derive(Debug, Default)]
struct Arrivals {
    jobs: u64,
    now_us: u64,
}

/// What the broker has room for.
#[derive(Debug)]
struct Room {
    /// The largest result that it can ever let through.
    result_bytes_max: u64,
    /// The flag that gives it more memory, for people.
    memory_flag: String,
}

/// A slot's line: the jobs that its runtime has, then those that wait, in the order in which they
/// were assigned. A job waits until its arguments are here, and until the slot is empty if it needs
/// another runtime.
#[derive(Debug, Default)]
struct Slot {
    running: VecDeque<SlotJob>,
    runtime: Option<Runtime>,
    waiting: VecDeque<SlotJob>,
    /// True if there is an interpreter that takes jobs. Until then a Python job has not begun.
    has_interpreter: bool,
}

/// A job, as the broker knows it.
#[derive(Debug)]
struct Work {
    attempt: Attempt,
    session: SessionId,
    n: TaskSeq,
    slot: SlotIndex,
    runtime: Runtime,
    /// When its assignment came.
    received_us: u64,
    /// The job to run, once it is here and until its runtime has it.
    ready: Option<Job>,
    /// The numbers of the values that it has as inputs, until it is ready.
    inputs: Option<Box<[u64]>>,
    reported: bool,
    /// Its end is not waited for.
    cancelled: bool,
    /// It was sent a signal that somebody has asked for, and may end by it.
    signalled: bool,
    /// The output so far: standard output and standard error. Most write nothing.
    output: Option<Box<[Kept; 2]>>,
    /// True if nothing of it is to be left out.
    has_whole_output: bool,
}

/// One assignment: the jobs that share a payload.
#[derive(Debug)]
struct Call {
    jobs: AtLeastOne<SlotJob>,
    session: SessionId,
    define: Option<u32>,
}

/// The content of an assignment's payload: what to run, and the data for it.
#[derive(Clone, Debug)]
struct Request {
    header: Arc<CallHeader>,
    data: Vec<Bytes>,
    /// The memory file in which the data lie.
    file: Option<Box<DataFile>>,
}

/// The command for an attempt that is still on its way.
#[derive(Clone, Copy, Debug)]
enum Early {
    /// It ends, by force or without.
    Cancel(bool),
    /// It goes back.
    Recall,
}

/// The longest time that a task runs before its start is reported to the broker.
const REPORT_AFTER: Duration = Duration::from_millis(5);
impl Core {
    /// A process with that many slots.
    pub fn new(instance: InstanceId, slots: u32) -> Self {
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            lending: Lending::default(),
            sessions: Sessions::new(instance),
            work: NumberMap::default(),
            by_attempt: NumberMap::default(),
            arrivals: Arrivals::default(),
            receiving: BTreeMap::new(),
            shares: BTreeMap::new(),
            values: Values::default(),
            last_header: None,
            early: BTreeMap::new(),
            suspects: BTreeSet::new(),
            undefined: Vec::new(),
            connected: false,
            was_cut: false,
            start: BrokerStart::default(),
            assigned_session: None,
            next_transfer: 0,
            room: Room { result_bytes_max: u64::MAX, memory_flag: String::new() },
            unsent: VecDeque::new(),
            results: Results::default(),
            leaving: Leaving::default(),
            report_is_awaited: false,
            outputs: Actions::default(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.poll()
    }

    /// Returns true if jobs wait until what was polled before them has left.
    pub fn holds_back(&self) -> bool {
        self.outputs.holds_back()
    }

    /// What was polled so far has left, or there is no connection on which it could: jobs that have
    /// waited for that begin.
    pub fn handle_sent(&mut self) {
        self.outputs.handle_sent();
    }

    /// A connection to that start of the broker is there, and the process has registered.
    pub fn handle_connected(&mut self, start: BrokerStart, payload_credit_bytes: u64) {
        self.connected = true;
        (self.start, self.assigned_session) = (start, None);
        self.next_transfer = 0;
        self.sessions.handle_connected();
        self.room.result_bytes_max = payload_credit_bytes.saturating_mul(OVERDRAFT_CREDITS);
        self.work.values_mut().for_each(|work| work.reported = false);
        self.say_that_it_drains();
        self.send_unsent();
        self.say_what_is_lent(|attempt| attempt.start == start);
    }

    /// By which flag the broker is given more memory, for people.
    pub fn set_memory_flag(&mut self, memory_flag: String) {
        self.room.memory_flag = memory_flag;
    }

    /// The connection is gone. What was being received is given up; the broker sends it again, or
    /// to another.
    pub fn handle_disconnected(&mut self) {
        (self.connected, self.was_cut) = (false, true);
        self.give_back_killed();
        self.results.handle_disconnected();
        let undefined = std::mem::take(&mut self.undefined).into_iter().map(|(_, _, call, _)| call);
        let receiving =
            std::mem::take(&mut self.receiving).into_values().filter_map(|it| match it.purpose {
                Purpose::Run(call) => Some(call),
                Purpose::Define(..) | Purpose::Share(_) | Purpose::Value(_) => None,
            });
        let receiving: Vec<Call> = receiving.collect();
        let incomplete: BTreeSet<SlotJob> = undefined
            .chain(receiving)
            .chain(self.forget_shares())
            .chain(self.forget_values())
            .flat_map(|call| call.jobs)
            .collect();
        let unbegun: Vec<Work> = self
            .with_those_behind(&incomplete)
            .into_iter()
            .filter_map(|job| self.forget(job))
            .collect();
        if let Some(first) = unbegun.iter().map(|work| work.attempt).min() {
            self.results.note_unbegun(first);
        }
        for work in unbegun {
            self.advance(work.slot);
        }
        self.early.clear();
        self.suspects.clear();
    }

    /// Jobs whose arguments did not come whole, and what the same sessions have behind them in the
    /// same lines: it must not begin before them.
    fn with_those_behind(&self, incomplete: &BTreeSet<SlotJob>) -> Vec<SlotJob> {
        let mut unbegun = Vec::new();
        for slot in &self.slots {
            let mut sessions = BTreeSet::new();
            for job in &slot.waiting {
                let work = self.work.get(job).expect("a forgotten job leaves its line");
                if incomplete.contains(job) {
                    sessions.insert(work.session);
                }
                if sessions.contains(&work.session) {
                    unbegun.push(*job);
                }
            }
        }
        unbegun
    }

    /// What comes from now on came at this time of the clock by which jobs are measured.
    pub fn handle_time(&mut self, now_us: u64) {
        self.arrivals.now_us = now_us;
    }

    /// Takes a message of the broker, with the chunk that belongs to it.
    ///
    /// # Errors
    /// The connection is to be closed.
    pub fn handle_message(
        &mut self,
        message: ToEngine,
        chunk: Option<&[u8]>,
    ) -> Result<(), BrokerMisbehaved> {
        match message {
            ToEngine::Assign(assign) => return self.assign(assign),
            ToEngine::Chunk(announced) => {
                return self.chunk(announced.transfer, chunk.unwrap_or_default());
            }
            // The shell gives the file itself: see `handle_file`.
            ToEngine::Passed(_) => return Err(BrokerMisbehaved::Transfer),
            ToEngine::Secret(secret) => {
                self.sessions.learn(secret.session, &secret.secret, secret.hides_names);
                self.sessions.open_lane(secret.session, secret.payload_credit_bytes);
            }
            ToEngine::Define(define) => return self.define(define),
            ToEngine::Forget(forget) => {
                self.sessions.forget(forget.session);
                self.undefined.retain(|(of, ..)| *of != forget.session);
            }
            ToEngine::Undefine(it) => self.undefine(it.session, it.number),
            ToEngine::Cancel(cancel) => {
                cancel.attempts.iter().for_each(|attempt| self.cancel(*attempt, cancel.force));
            }
            ToEngine::Recall(recall) => {
                recall.attempts.iter().for_each(|attempt| self.recall(*attempt));
            }
            ToEngine::Credit(credit) => {
                self.sessions.grant(credit.session, credit.payload_bytes_total);
            }
            ToEngine::Take(take) => {
                take.attempts.iter().for_each(|attempt| self.send_taken(*attempt));
            }
            ToEngine::Registered(registered) => {
                self.outputs.push_back(Output::Registered(registered.engines));
            }
            ToEngine::Share(share) => return self.share(share),
            ToEngine::Unshare(unshare) => return self.unshare(unshare.share),
            ToEngine::Value(value) => return self.value(&value),
            ToEngine::Inputs(inputs) => return self.inputs(inputs),
            ToEngine::Signal(signal) => {
                signal.attempts.iter().for_each(|attempt| self.signal(*attempt, signal.signal));
            }
            ToEngine::Restart(restart) => self.restart(&restart.slots),
            ToEngine::Shutdown(leave) if leave.finish => self.drain(&leave.reason),
            ToEngine::Shutdown(leave) => self.leave(&leave.reason),
            ToEngine::Goodbye(goodbye) => self.outputs.push_back(Output::Goodbye(goodbye.reason)),
            ToEngine::Release(release) => self.release(&release),
            ToEngine::Adopt(adopt) => {
                self.adopt(&adopt);
                let adopted = |attempt| {
                    adopt.attempts.iter().any(|(held, now)| *now == attempt && held != now)
                };
                self.say_what_is_lent(adopted);
            }
            ToEngine::Granted(granted) => self.granted(granted),
            ToEngine::Inspect(inspect) => self.inspect(inspect),
            ToEngine::Measure(measure) => {
                self.outputs.push_back(Output::Measure(measure.number));
            }
            ToEngine::Announce(announce) => self.suspects.extend(announce.attempts),
        }
        Ok(())
    }

    /// Takes what a slot reports.
    pub fn handle_slot_event(&mut self, slot: SlotIndex, event: SlotEvent) {
        match event {
            SlotEvent::Finished { attempt: job, reply } => self.slot_finished(slot, job, reply),
            SlotEvent::Output { attempt: job, stream, bytes } => self.output(job, stream, &bytes),
            SlotEvent::StrayOutput { stream, bytes } => {
                let text = String::from_utf8_lossy(&bytes);
                self.outputs
                    .push_back(Output::Log(format!("slot {slot} {stream:?}: {}", text.trim_end())));
            }
            SlotEvent::Up => self.slots[slot as usize].has_interpreter = true,
            SlotEvent::Down { cause } => {
                self.slots[slot as usize].has_interpreter = false;
                self.slot_down(slot, cause);
            }
            SlotEvent::Recalled { attempts } => self.give_back(&attempts),
            SlotEvent::Looked { look, attempt, seen } => self.looked(&look, attempt, seen),
            SlotEvent::Asked { attempt, ask } => self.asked(attempt, ask),
        }
    }

    /// Returns how long to wait before [`Core::report_started`], if there is a running job that the
    /// broker was not notified of and nobody waits already: a short task costs no message for its
    /// start, and a wait for each would cost a wake of the shell.
    pub fn poll_report(&mut self) -> Option<Duration> {
        if self.report_is_awaited || !self.has_unreported() {
            return None;
        }
        self.report_is_awaited = true;
        Some(REPORT_AFTER)
    }

    fn has_unreported(&self) -> bool {
        self.connected && self.slots.iter().any(|slot| self.unreported(slot).is_some())
    }

    /// Tells the broker which jobs run.
    pub fn report_started(&mut self) {
        self.report_is_awaited = false;
        let jobs: Vec<SlotJob> =
            self.slots.iter().filter_map(|slot| self.unreported(slot)).collect();
        let mut attempts = Vec::with_capacity(jobs.len());
        for job in jobs {
            let work = self.work.get_mut(&job).expect("an unreported job is work");
            work.reported = true;
            attempts.push(work.attempt);
        }
        if !attempts.is_empty() {
            self.send(FromEngine::Started(Attempts { attempts }));
        }
    }

    fn unreported(&self, slot: &Slot) -> Option<SlotJob> {
        let job = slot.running.front()?;
        let begins = |work: &&Work| work.runtime != Runtime::Python || slot.has_interpreter;
        let work = self.work.get(job).expect("what runs is work until its end");
        Some(*job).filter(|_| !work.reported && begins(&work))
    }

    fn assign(&mut self, assign: Assign) -> Result<(), BrokerMisbehaved> {
        let known =
            assign.work.iter().all(|work| (work.slot as usize) < 2 * self.registered_slots());
        let session = assign
            .session
            .or(self.assigned_session)
            .filter(|session| self.sessions.knows(*session));
        let session = session.filter(|_| known).ok_or(BrokerMisbehaved::Assign)?;
        self.assigned_session = Some(session);
        let call = self.line_up(session, &assign)?;
        let start = self.start;
        self.respond_early(assign.work.iter().map(|work| Attempt { start, id: work.attempt }));
        if self.leaving.draining().is_some() {
            // It was on its way when the broker was told. A large payload is still received, for
            // nobody.
            let jobs: Vec<SlotJob> = call.jobs.iter().copied().collect();
            self.give_back(&jobs);
        }
        if let Some(number) = assign.share {
            return self.run_shared(number, call);
        }
        match &assign.payload {
            Payload::Inline(inline) => {
                let request = self.read_inline(inline);
                self.run(call, request);
                Ok(())
            }
            payload @ Payload::Chunked { .. } => self.receive(session, payload, Purpose::Run(call)),
        }
    }

    /// Starts what can be started: a slot runs one thing at a time, whatever the runtime, in the
    /// order of its line.
    fn advance(&mut self, slot: SlotIndex) {
        // What ends the job may be ending what runs beside it: nothing begins only to be killed.
        if self.leaving.has_killed(slot) {
            return;
        }
        let place = &mut self.slots[slot as usize];
        while let Some(first) = place.waiting.front() {
            let work = self.work.get_mut(first).expect("a forgotten job leaves its line");
            assert_eq!(work.slot, slot, "a line has its own slot's jobs");
            // Two runtimes of a slot never run at once: a task may build on the one before.
            if !place.running.is_empty() && place.runtime != Some(work.runtime) {
                return;
            }
            // Nothing overtakes a job whose arguments are still on their way.
            let Some(job) = work.ready.take() else { return };
            place.waiting.pop_front();
            place.runtime = Some(work.runtime);
            place.running.push_back(job.attempt);
            let (attempt, runtime) = (work.attempt, work.runtime);
            if self.suspects.is_empty() || !self.suspects.remove(&attempt) {
                self.outputs.push_back(Output::Start(slot, runtime, job));
                continue;
            }
            work.reported = true;
            self.outputs
                .push_back(Output::Send(FromEngine::Started(Attempts { attempts: vec![attempt] })));
            self.outputs.start_when_sent(slot, runtime, job);
        }
    }

    fn forget(&mut self, job: SlotJob) -> Option<Work> {
        let work = self.work.remove(&job)?;
        self.by_attempt.remove(&work.attempt);
        self.forget_lent(job);
        let place = &mut self.slots[work.slot as usize];
        if place.running.front() == Some(&job) {
            place.running.pop_front();
        } else {
            place.running.retain(|running| *running != job);
            place.waiting.retain(|waiting| *waiting != job);
        }
        Some(work)
    }
}
