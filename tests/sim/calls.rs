//! The submitted calls, how they are recognized where they run, and who may come in.

use bytes::Bytes;
use furlong_broker::core::Peer as Proved;
use furlong_client::core::definitions::Definition;
use furlong_client::core::{Call, Content};
use furlong_engine::job::Input;
use furlong_engine::runtime::Job;
use furlong_tests::history::TaskName;
use furlong_wire::call::{Call as Code, CallHeader, Codec, encode_header};
use furlong_wire::ids::{ClusterId, EngineId, FunctionHash, OwnerId, TokenId};
use furlong_wire::keys::PublicKey;
use furlong_wire::limits::HANDSHAKE_TIMEOUT_MS;
use furlong_wire::message::{RefusalKind, Targets, TaskOptions, Welcome};
use furlong_wire::token::{Claims, Role, TokenLimits};

use crate::network::{Connecting, ConnectionNo, Peer, Quality, Side};
use crate::plan::CallPlan;
use crate::process::Link;
use crate::world::{Event, World};

/// A call, by its place in the world's list. It travels in the call's payload.
pub type CallNo = usize;

/// A call that a client has made.
#[derive(Debug)]
pub struct CallRecord {
    pub client: usize,
    pub plan: CallPlan,
    pub targets: Vec<EngineId>,
    /// The number of its first task, once it is submitted.
    pub first: u64,
}

/// Bytes that tell whose they are.
pub fn filler(call: CallNo, bytes: usize) -> Bytes {
    Bytes::from(vec![call as u8 ^ 0x5a; bytes])
}

/// The text of a definition: small ones, and one that travels in chunks.
pub fn definition_text(number: u8) -> Bytes {
    Bytes::from(vec![number; if number == 2 { 3_000 } else { 50 }])
}

/// Returns the claims of a token. Without a number of its owner it is an engine's.
pub fn claims(role: Role, token_id: TokenId, owner: u8) -> Claims {
    Claims {
        cluster: ClusterId([9; 32]),
        token_id,
        holder: PublicKey([owner; 32]),
        owner: OwnerId([owner; 16]),
        role,
        scopes: Vec::new(),
        limits: TokenLimits::default(),
        not_before_s: 0,
        expires_s: Claims::NEVER,
    }
}

impl CallRecord {
    /// The call as the client's core takes it.
    pub fn call(&self, no: CallNo, options: TaskOptions) -> Call {
        let plan = &self.plan;
        let hash = |number| FunctionHash([number; 32]);
        let source = |number| Code::Source {
            file: "f".into(),
            hash: hash(number),
            source: None,
            function: "f".into(),
        };
        let code = plan.define.map_or_else(|| Code::Named { function: "f".into() }, source);
        let header = Bytes::from(encode_header(&CallHeader { call: code, codec: Codec::Raw }));
        let mut data = vec![Bytes::copy_from_slice(&(no as u64).to_le_bytes())];
        if plan.request_bytes > 0 {
            data.push(filler(no, plan.request_bytes));
        }
        let definition =
            plan.define.map(|number| Definition::new(hash(number), definition_text(number)));
        let targets = if plan.targets.is_empty() {
            Targets::Shared
        } else {
            Targets::Engines(self.targets.clone())
        };
        let is_default = options == TaskOptions::default();
        Call {
            targets,
            runtime: plan.runtime,
            class: plan.class,
            definition: definition.map(Into::into),
            options: (!is_default).then(|| Box::new(options)),
            content: Content::Buffers(header, data),
        }
    }
}

impl World {
    /// Returns which call and which of its tasks an engine was given, if that is what was
    /// submitted.
    pub fn job_is_sound(&self, job: &Job, engines: &[EngineId]) -> Option<(CallNo, TaskName)> {
        let no = u64::from_le_bytes(job.data.first()?.as_ref().try_into().ok()?) as CallNo;
        let record = self.calls.get(no)?;
        let plan = &record.plan;
        let is_whole = match job.data.get(1) {
            Some(bytes) => *bytes == filler(no, plan.request_bytes),
            None => plan.request_bytes == 0,
        };
        let is_defined = match (plan.define, &job.definition) {
            (Some(number), Some(text)) => *text == definition_text(number),
            (None, None) => true,
            _ => false,
        };
        let at = if plan.targets.is_empty() {
            0
        } else {
            record.targets.iter().position(|id| engines.contains(id))?
        };
        let task = TaskName { client: record.client as u32, n: record.first + at as u64 };
        let is_whole = is_whole && self.inputs_are_sound(job, task);
        (is_whole && is_defined && record.first > 0).then_some((no, task))
    }

    /// Returns true if a job's inputs are the results of the tasks that its submit named.
    fn inputs_are_sound(&self, job: &Job, task: TaskName) -> bool {
        let tasks = &self.clients[task.client as usize].tasks;
        // None before the submit has been noted: then it has no job.
        let Some(submitted) = tasks.get(task.n as usize - 1) else { return false };
        let inputs = job.inputs.as_deref().unwrap_or_default();
        let is_of = |call: &Option<CallNo>, input: &Input| {
            // Nobody runs what was to have another owner's result.
            let Some(call) = *call else { return false };
            let proof = input.data.first().and_then(|proof| proof.first_chunk());
            let bytes = self.calls[call].plan.result_bytes;
            let is_whole = match input.data.get(1) {
                Some(data) => *data == filler(call, bytes),
                None => bytes == 0,
            };
            proof.is_some_and(|proof| u64::from_le_bytes(*proof) == call as u64) && is_whole
        };
        inputs.len() == submitted.inputs.len()
            && submitted.inputs.iter().zip(inputs).all(|(call, input)| is_of(call, input))
    }

    /// The number of the next run.
    pub fn next_run(&mut self) -> u64 {
        self.dice.roll()
    }

    /// A peer's turn to dial.
    pub fn dials(&mut self, peer: Peer, turn: u64) {
        let knock = match peer {
            Peer::Client(client) => self.client_dials(client, turn),
            Peer::Process(process) => self.process_dials(process, turn),
        };
        let Some(proved) = knock else { return };
        if self.broker.core.is_none() {
            return self.redials(peer);
        }
        let quality = self.quality();
        let Some(out_queues) = &self.broker.out_queues else { return self.redials(peer) };
        let connecting = Connecting { peer, life: self.broker.life, now: self.now };
        let at_broker = (out_queues, self.setup.slow_readers.left_out_above);
        let no = self.network.connect(self.seed, connecting, quality, at_broker);
        let link = Link::Dialling(Some(no));
        match peer {
            Peer::Client(client) => self.clients[client].link = link,
            Peer::Process(process) => self.processes[process].link = link,
        }
        let connection = self.network.connections.get_mut(&no).expect("it was just made");
        let at = connection.from(Side::Peer).arrival(self.now);
        self.at(at, Event::Proves(no, Box::<Proved>::new(proved)));
        self.after(HANDSHAKE_TIMEOUT_MS * 1_000, Event::HandshakeTimesOut(no));
    }

    /// Lines are alike, but some are ten times slower.
    fn quality(&mut self) -> Quality {
        let quality = self.setup.quality;
        if self.dice.one_in(8) {
            Quality { latency: quality.latency * 10, ..quality }
        } else {
            quality
        }
    }

    fn redials(&mut self, peer: Peer) {
        match peer {
            Peer::Client(client) => self.client_redials(client),
            Peer::Process(process) => self.process_redials(process),
        }
    }

    /// The broker's first record is here.
    pub fn is_greeted(&mut self, no: ConnectionNo, greeting: Result<Welcome, RefusalKind>) {
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        if connection.from(Side::Broker).is_dead() || !connection.at_peer {
            return;
        }
        let peer = connection.peer;
        if greeting.is_err() {
            connection.at_peer = false;
            self.network.settle(no);
        }
        match peer {
            Peer::Client(client) => self.client_is_greeted(client, no, greeting),
            Peer::Process(process) => self.process_is_greeted(process, no, greeting),
        }
    }

    /// Nobody has greeted a peer in time.
    pub fn handshake_times_out(&mut self, no: ConnectionNo) {
        let link = match self.network.connections.get(&no).map(|it| it.peer) {
            Some(Peer::Client(client)) => self.clients[client].link,
            Some(Peer::Process(process)) => self.processes[process].link,
            None => return,
        };
        if link == Link::Dialling(Some(no)) {
            self.peer_notices(no);
        }
    }

    /// A peer's end finds that a connection is gone.
    pub fn peer_notices(&mut self, no: ConnectionNo) {
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        if !std::mem::replace(&mut connection.at_peer, false) {
            return;
        }
        let peer = connection.peer;
        // It has closed its end: the broker hears of it, if the line still carries anything.
        let at = connection.from(Side::Peer).arrival(self.now);
        if connection.at_broker && !connection.from(Side::Peer).is_dead() {
            self.at(at, Event::Notices(no, Side::Broker));
        }
        self.network.settle(no);
        match peer {
            Peer::Client(client) => self.client_notices(client, no),
            Peer::Process(process) => self.process_notices(process, no),
        }
    }

    /// A peer's process is gone: its end closes behind what it has sent.
    pub fn peer_is_gone(&mut self, no: ConnectionNo) {
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        connection.at_peer = false;
        connection.from(Side::Broker).kill();
        let at = connection.from(Side::Peer).arrival(self.now);
        if connection.at_broker && !connection.from(Side::Peer).is_dead() {
            self.at(at, Event::Notices(no, Side::Broker));
        }
        self.network.settle(no);
    }
}
