//! The engine processes of the tests.

use std::collections::BTreeSet;

use super::*;

/// Engines.
impl Farm {
    /// A connected engine process with one slot that runs everything.
    pub fn engine(&mut self) -> usize {
        self.engine_with(1, Runtime::ALL)
    }

    pub fn engine_with(&mut self, slots: usize, runtimes: &[Runtime]) -> usize {
        self.engine_labelled(slots, runtimes, &[])
    }

    pub fn engine_labelled(
        &mut self,
        slots: usize,
        runtimes: &[Runtime],
        labels: &[&str],
    ) -> usize {
        let uuids = (0..slots).map(|_| EngineUuid([self.fresh_id(); 16]));
        let slots = uuids.map(|uuid| Slot { uuid, wanted: None }).collect();
        self.processes.push(EngineProcess {
            slots,
            runtimes: runtimes.to_vec(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            connection: None,
            ids: Vec::new(),
            jobs: Vec::new(),
            assigned_session: None,
            start: START,
            results: Vec::new(),
            last_received: None,
            dropped: None,
            ends_in_ms: None,
            wanted: VecDeque::new(),
            lanes: BTreeMap::new(),
            recalls: Vec::new(),
            cancelled: BTreeSet::new(),
            received: Vec::new(),
            sending: Sending::default(),
        });
        let process = self.processes.len() - 1;
        self.connect_engine(process);
        process
    }

    /// Connects and registers, with what the process still holds.
    pub fn connect_engine(&mut self, process: usize) {
        self.open_engine(process);
        let register = self.processes[process].register();
        self.report(process, FromEngine::Register(register.into())).unwrap();
    }

    /// Connects, and does not register.
    pub fn open_engine(&mut self, process: usize) {
        let connection = self.connection();
        let session = SessionId(self.processes[process].slots[0].uuid.0);
        // Each process has a token of its own, which its first engine's uuid tells.
        let mut peer = peer(Role::Engine, session, 1, session.0[0]);
        peer.hello.abilities = self.abilities;
        let welcome = self.core.handle_connected(connection, peer).unwrap();
        let it = &mut self.processes[process];
        it.connection = Some(connection);
        it.recalls.clear();
        it.assigned_session = None;
        it.start = welcome.start;
        it.wanted.clear();
        it.lanes.clear();
        it.sending.begin(welcome.payload_credit_bytes);
    }

    pub fn disconnect_engine(&mut self, process: usize) {
        if let Some(connection) = self.processes[process].connection {
            self.close(connection);
            self.pump();
        }
    }

    pub fn engine_goodbye(&mut self, process: usize) {
        self.report(process, FromEngine::Goodbye(Goodbye { reason: "stopped".into() })).unwrap();
    }

    pub fn report(&mut self, process: usize, message: FromEngine) -> Result<(), PeerMisbehaved> {
        self.report_with(process, message, None)
    }

    pub(super) fn report_with(
        &mut self,
        process: usize,
        message: FromEngine,
        chunk: Option<Bytes>,
    ) -> Result<(), PeerMisbehaved> {
        let connection = self.processes[process]
            .connection
            .expect("an engine that reports something is connected");
        let result = self.core.handle_from_engine(self.now, connection, message, chunk);
        self.settle(connection, result)
    }

    /// The integer of a process's first slot.
    pub fn id(&self, process: usize) -> EngineId {
        self.processes[process].ids[0]
    }

    /// The numbers of the tasks that a process has been assigned.
    pub fn assigned(&self, process: usize) -> Vec<u64> {
        self.processes[process].jobs.iter().map(|job| job.n).collect()
    }

    /// Reports the oldest job as started.
    pub fn start(&mut self, process: usize) -> Attempt {
        let job = self.processes[process].jobs.first_mut().expect("there is a job to start");
        job.started = true;
        let attempt = job.attempt;
        self.report(process, FromEngine::Started(Attempts { attempts: vec![attempt] })).unwrap();
        attempt
    }

    /// Ends the oldest job with a small result after a second, and gives its number.
    pub fn finish(&mut self, process: usize) -> u64 {
        self.finish_after(process, 1_000_000)
    }

    pub fn finish_after(&mut self, process: usize, run_us: u64) -> u64 {
        let payload = Some(Payload::Inline(b"result".into()));
        self.finish_with(process, Outcome::SUCCEEDED, run_us, payload)
    }

    /// Gives back a job that has not begun.
    pub fn give_back(&mut self, process: usize, places: &[usize]) {
        let jobs = &self.processes[process].jobs;
        let attempts: Vec<Attempt> = places.iter().map(|place| jobs[*place].attempt).collect();
        self.processes[process].jobs.retain(|job| !attempts.contains(&job.attempt));
        self.report(process, FromEngine::Recalled(Attempts { attempts })).unwrap();
    }

    /// Says that the interpreter of a slot is gone.
    pub fn slot_down(&mut self, process: usize, slot: u32) {
        self.report(process, FromEngine::SlotDown(SlotDown { slot, cause: "signal 9".into() }))
            .unwrap();
    }

    /// Returns the number of times the broker asked for a new interpreter.
    pub fn restarts(&self, process: usize) -> usize {
        let is_restart = |message: &&ToEngine| matches!(message, ToEngine::Restart(_));
        self.processes[process].received.iter().filter(is_restart).count()
    }

    pub fn fail(&mut self, process: usize) -> u64 {
        let failed = Outcome::error(TaskState::Failed, ErrorKind::Remote, "");
        self.finish_with(process, failed, 1_000_000, None)
    }

    pub fn finish_with(
        &mut self,
        process: usize,
        outcome: Outcome,
        run_us: u64,
        payload: Option<Payload>,
    ) -> u64 {
        let ended = self.processes[process].end(outcome, RunTimes::ran(run_us), payload);
        let n = ended.job.n;
        self.report(process, FromEngine::Finished(ended.finished)).unwrap();
        n
    }

    /// The oldest job ends, and the connection is cut before the broker hears of it.
    pub fn finish_unheard(&mut self, process: usize, payload: Payload) -> u64 {
        let end = self.processes[process].end(Outcome::SUCCEEDED, RunTimes::ran(9), Some(payload));
        self.disconnect_engine(process);
        end.job.n
    }

    /// The same of a process without a connection, with another outcome.
    pub fn end_unheard(&mut self, process: usize, outcome: Outcome) {
        self.processes[process].end(outcome, RunTimes::ran(1), None);
    }

    /// The attempts that the broker has released.
    pub fn released(&self, process: usize) -> Vec<Attempt> {
        let released = |message: &ToEngine| match message {
            ToEngine::Release(release) => release.attempts().collect(),
            _ => Vec::new(),
        };
        self.processes[process].received.iter().flat_map(released).collect()
    }

    /// Sends one chunk of the process's oldest transfer. Whether there was one.
    pub fn send_result_chunk(&mut self, process: usize) -> bool {
        let Some((chunk, bytes)) = self.processes[process].sending.next_chunk() else {
            return false;
        };
        self.report_with(process, FromEngine::Chunk(chunk), Some(bytes)).unwrap();
        true
    }

    /// Gives back what was asked for and has not started, one by one as the engine does, and what
    /// returns anyhow. The numbers of these tasks.
    pub fn answer_recalls(&mut self, process: usize) -> Vec<u64> {
        let mut returned = Vec::new();
        let it = &mut self.processes[process];
        let mut attempts = std::mem::take(&mut it.recalls);
        attempts.extend(it.jobs.iter().filter(|job| job.returns).map(|job| job.attempt));
        for attempt in attempts {
            let jobs = &mut self.processes[process].jobs;
            let Some(place) = jobs.iter().position(|job| job.attempt == attempt && !job.started)
            else {
                continue;
            };
            // The oldest job of a slot runs, whether or not that was reported.
            let runs = jobs.iter().position(|job| job.slot == jobs[place].slot && !job.returns);
            if runs == Some(place) {
                continue;
            }
            returned.push(jobs.remove(place).n);
            self.report(process, FromEngine::Recalled(Attempts { attempts: vec![attempt] }))
                .unwrap();
        }
        returned
    }
}

impl EngineProcess {
    pub fn register(&self) -> Register {
        let held = |job: &Job| HeldWork {
            attempt: job.attempt,
            session: job.session,
            n: TaskSeq(job.n),
            slot: job.slot,
            finished: false,
        };
        let ended =
            self.results.iter().map(|ended| HeldWork { finished: true, ..held(&ended.job) });
        Register {
            instance: InstanceId(self.slots[0].uuid.0),
            host: "host".into(),
            pid: 1,
            cwd: "/".into(),
            slots: self.slots.clone(),
            runtimes: self.runtimes.clone(),
            python: None,
            environment: Vec::new(),
            labels: self.labels.clone(),
            held: self.jobs.iter().map(held).chain(ended).collect(),
            received: self.last_received,
            dropped: self.dropped,
            job: None,
            ends_in_ms: self.ends_in_ms,
        }
    }

    /// The last assignment was still on its way when the connection broke, if it has not begun.
    pub fn loses_assignment(&mut self) {
        if self.jobs.pop_if(|job| !job.started).is_some() {
            let held = self
                .jobs
                .iter()
                .map(|job| job.attempt)
                .chain(self.results.iter().map(|it| it.job.attempt));
            self.last_received = held.max();
        }
    }

    /// Bytes that it may still send unasked of the session of its oldest job.
    pub fn lane_left(&self, session: SessionId) -> u64 {
        self.lanes.get(&session).map_or(0, |(granted, announced)| granted - announced)
    }

    /// A large result for its oldest job, which it sends unasked if it may.
    pub fn large_result(&mut self, bytes: u64) -> Payload {
        let session = self.jobs[0].session;
        if bytes > self.lane_left(session) {
            return Payload::Chunked {
                transfer: ASKED_FOR_TRANSFER,
                counter: 0,
                bytes,
                instance: None,
            };
        }
        if let Some(lane) = self.lanes.get_mut(&session) {
            lane.1 += bytes;
        }
        self.sending.chunked(bytes)
    }

    /// The oldest job ends. Its result is held.
    pub(super) fn end(
        &mut self,
        outcome: Outcome,
        times: RunTimes,
        payload: Option<Payload>,
    ) -> EndedJob {
        let job = self.jobs.remove(0);
        let finished = AttemptFinished { attempt: job.attempt, outcome, times, payload };
        let ended = EndedJob { job, finished };
        self.results.push(ended.clone());
        ended
    }

    /// The broker wants what is held under one attempt as another. What has ended it wants again.
    pub(super) fn adopt(&mut self, held: Attempt, adopted: Attempt) {
        for job in self.jobs.iter_mut().filter(|job| job.attempt == held) {
            job.attempt = adopted;
        }
        for ended in self.results.iter_mut().filter(|ended| ended.job.attempt == held) {
            (ended.job.attempt, ended.finished.attempt) = (adopted, adopted);
            self.wanted.push_back(adopted);
        }
    }

    pub(super) fn receive(&mut self, mut message: ToEngine) {
        let start = self.start;
        match &mut message {
            ToEngine::Adopt(adopt) => {
                adopt.attempts.iter().for_each(|(held, adopted)| self.adopt(*held, *adopted));
            }
            ToEngine::Release(release) => {
                let released: BTreeSet<Attempt> = release.attempts().collect();
                self.results.retain(|ended| !released.contains(&ended.job.attempt));
            }
            ToEngine::Registered(registered) => self.ids.clone_from(&registered.engines),
            ToEngine::Assign(assign) => {
                let session = assign
                    .session
                    .or(self.assigned_session)
                    .expect("the first one names its session");
                // Noted where it is left out, for the tests that look at messages.
                (self.assigned_session, assign.session) = (Some(session), Some(session));
                let job = |work: &furlong_wire::message::Work| Job {
                    slot: work.slot,
                    session,
                    n: work.n.0,
                    attempt: Attempt { start, id: work.attempt },
                    runtime: assign.runtime,
                    started: false,
                    returns: false,
                };
                let attempt = |id| Attempt { start, id };
                self.last_received = self
                    .last_received
                    .max(assign.work.iter().map(|work| attempt(work.attempt)).max());
                self.jobs.extend(assign.work.iter().map(job));
            }
            ToEngine::Cancel(cancel) => self.cancelled.extend(cancel.attempts.iter()),
            ToEngine::Recall(recall) => self.recalls.extend(recall.attempts.iter()),
            ToEngine::Secret(secret) => {
                _ = self.lanes.insert(secret.session, (secret.payload_credit_bytes, 0));
            }
            ToEngine::Credit(credit) => {
                let lane = self.lanes.get_mut(&credit.session);
                if let Some(lane) = lane {
                    lane.0 = credit.payload_bytes_total;
                }
            }
            ToEngine::Take(take) => self.wanted.extend(take.attempts.iter()),
            _ => {}
        }
        self.received.push(message);
    }
}
