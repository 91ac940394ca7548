//! Clients and engine processes: what they are, and what they have heard.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use furlong_broker::core::{ConnectionId, Peer};
use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::{
    Attempt, AttemptId, BrokerStart, ClusterId, EngineId, EngineUuid, InstanceId, OwnerId,
    SessionId, TokenId,
};
use furlong_wire::keys::PublicKey;
use furlong_wire::limits::CHUNK_BYTES_MAX;
use furlong_wire::message::{
    HeldWork, Payload, Register, Runtime, Slot, TaskState, ToClient, ToEngine,
};
use furlong_wire::payload::chunk_bytes;
use furlong_wire::token::{Claims, Role, TokenLimits};

use crate::input::Input;

/// Clients: one that may submit everything, one of few tasks for some engines, an administrator of
/// another owner, and one that a task lets in.
pub const CLIENTS: usize = 4;
/// The one that comes in by a pass.
pub const NESTED: usize = 3;
/// Engine processes.
pub const ENGINES: usize = 2;
/// Attempts that an engine remembers: more than it is given in one input, unless it is asked to
/// hold too much.
const IN_HAND_MAX: usize = 256;

pub struct Client {
    pub place: usize,
    pub connection: Option<ConnectionId>,
    pub incarnation: u64,
    /// The last number that it has given to a task, on whatever connection.
    pub submitted: u64,
    /// The ends of its tasks that it has heard of since the broker knows its session.
    pub ends: BTreeMap<u64, TaskState>,
    pub sending: Sending,
}

pub struct Engine {
    pub place: usize,
    pub connection: Option<ConnectionId>,
    /// The assigned work that has not ended.
    pub in_hand: VecDeque<HeldWork>,
    /// The session of the last work on this connection.
    session: Option<SessionId>,
    pub sending: Sending,
}

/// The payloads that a peer has announced on its connection.
#[derive(Default)]
pub struct Sending {
    transfers_made: u64,
    /// Transfers that are not whole: number, bytes, and the next chunk.
    pub open: VecDeque<(u64, u64, u32)>,
}

/// The bytes from which chunks are cut.
static ZEROS: [u8; CHUNK_BYTES_MAX + 16] = [0; CHUNK_BYTES_MAX + 16];

impl Client {
    pub fn new(place: usize) -> Self {
        Self {
            place,
            connection: None,
            incarnation: 0,
            submitted: 0,
            ends: BTreeMap::new(),
            sending: Sending::default(),
        }
    }

    pub fn session(&self) -> SessionId {
        session_of(self.place)
    }

    pub fn peer(&self) -> Peer {
        let mut peer = peer(
            [Role::Client, Role::Task, Role::Admin, Role::Client][self.place],
            self.place as u8,
        );
        peer.hello.session = self.session();
        peer.hello.incarnation = self.incarnation;
        match self.place {
            1 => {
                peer.claims.scopes = vec!["attic".into(), "gpu".into()];
                peer.claims.limits = TokenLimits {
                    unfinished_tasks_max: 12,
                    payload_bytes_max: 400_000,
                    no_nested: false,
                };
            }
            2 => peer.claims.owner = OwnerId([8; 16]),
            _ => {}
        }
        peer
    }

    pub fn hears(&mut self, message: &ToClient) {
        match message {
            ToClient::Accepted(accepted) => self.submitted = self.submitted.max(accepted.n.0),
            ToClient::Finished(finished) => {
                let state = finished.outcome.state;
                assert_eq!(
                    *self.ends.entry(finished.n.0).or_insert(state),
                    state,
                    "a task ends once"
                );
            }
            _ => {}
        }
    }
}

impl Engine {
    pub fn new(place: usize) -> Self {
        Self {
            place,
            connection: None,
            in_hand: VecDeque::new(),
            session: None,
            sending: Sending::default(),
        }
    }

    pub fn peer(&self) -> Peer {
        peer(Role::Engine, 4 + self.place as u8)
    }

    pub fn instance(&self) -> InstanceId {
        InstanceId([self.place as u8; 16])
    }

    /// It has a connection: what is said once is said again.
    pub fn begins(&mut self, connection: ConnectionId) {
        (self.connection, self.session, self.sending) =
            (Some(connection), None, Sending::default());
    }

    pub fn register(&self) -> Register {
        let place = self.place as u8;
        let slots: Vec<u8> = if place == 0 { vec![10, 11] } else { vec![20] };
        Register {
            instance: self.instance(),
            host: "host".into(),
            pid: 2,
            cwd: "/".into(),
            slots: slots
                .into_iter()
                .map(|uuid| Slot { uuid: EngineUuid([uuid; 16]), wanted: None })
                .collect(),
            runtimes: if place == 0 { Runtime::ALL.to_vec() } else { vec![Runtime::Native] },
            python: None,
            environment: Vec::new(),
            labels: if place == 0 { vec!["gpu".into()] } else { Vec::new() },
            held: self.in_hand.iter().cloned().collect(),
            received: self.in_hand.back().map(|work| work.attempt),
            dropped: None,
            job: None,
            ends_in_ms: (place == 1).then_some(90_000),
        }
    }

    pub fn hears(&mut self, start: BrokerStart, message: &ToEngine) {
        match message {
            ToEngine::Assign(assign) => {
                self.session = assign.session.or(self.session);
                let session =
                    self.session.expect("the first work on a connection names its session");
                for work in assign.work.iter() {
                    let attempt = Attempt { start, id: work.attempt };
                    let held =
                        HeldWork { attempt, session, n: work.n, slot: work.slot, finished: false };
                    self.in_hand.push_back(held);
                }
                while self.in_hand.len() > IN_HAND_MAX {
                    self.in_hand.pop_front();
                }
            }
            ToEngine::Adopt(adopt) => {
                for (old, new) in &adopt.attempts {
                    let held = self.in_hand.iter_mut().filter(|held| held.attempt == *old);
                    held.for_each(|held| held.attempt = *new);
                }
            }
            _ => {}
        }
    }

    /// One of the attempts that it has; one that nobody has given, if there is none.
    pub fn attempt(&self, input: &mut Input<'_>) -> Attempt {
        let chosen = usize::from(input.byte());
        let held = self.in_hand.get(chosen % self.in_hand.len().max(1));
        held.map_or(Attempt { start: BrokerStart(1), id: AttemptId(chosen as u64) }, |held| {
            held.attempt
        })
    }

    pub fn forget(&mut self, attempt: Attempt) {
        self.in_hand.retain(|held| held.attempt != attempt);
    }
}

impl Sending {
    /// A payload: a few bytes, or one whose chunks follow.
    pub fn payload(&mut self, input: &mut Input<'_>) -> Payload {
        let bytes = match input.below(6) {
            0..=2 => return Payload::Inline(b"bytes".into()),
            3 => 2_000,
            4 => 300_000,
            _ => input.number(),
        };
        self.transfers_made += 1;
        self.open.push_back((self.transfers_made, bytes, 0));
        Payload::Chunked { transfer: self.transfers_made, counter: 0, bytes, instance: None }
    }

    /// The transfer and the bytes of the next chunk.
    pub fn chunk(&mut self) -> Option<(u64, Bytes)> {
        let (transfer, bytes, index) = self.open.front_mut()?;
        let chunk = (*transfer, zeros(chunk_bytes(*bytes, *index).unwrap_or_default()));
        *index += 1;
        if u64::from(*index) >= bytes.div_ceil(CHUNK_BYTES_MAX as u64) {
            self.open.pop_front();
        }
        Some(chunk)
    }
}

pub fn zeros(bytes: usize) -> Bytes {
    Bytes::from_static(&ZEROS[..bytes.min(ZEROS.len())])
}

pub fn session_of(client: usize) -> SessionId {
    SessionId([client as u8 + 1; 16])
}

/// One of the farm's engines, or nobody.
pub fn engine_id(input: &mut Input<'_>) -> EngineId {
    EngineId(input.below(4) as u32)
}

/// Each has a key and a token of its own.
fn peer(role: Role, number: u8) -> Peer {
    let claims = Claims {
        cluster: ClusterId([9; 32]),
        token_id: TokenId([number; 16]),
        holder: PublicKey([number + 1; 32]),
        owner: OwnerId([7; 16]),
        role,
        scopes: Vec::new(),
        limits: TokenLimits::default(),
        not_before_s: 0,
        expires_s: Claims::NEVER,
    };
    let hello = HelloBody {
        token: Vec::new(),
        session: SessionId([100 + number; 16]),
        incarnation: 1,
        role,
        software: "fuzz".into(),
        abilities: 0,
    };
    Peer { claims, hello, address: "nowhere".into(), pass: None }
}
