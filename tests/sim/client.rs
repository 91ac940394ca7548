//! Clients: the core of each, what its shell does between core and connection, and a program that
//! uses it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use furlong_broker::core::Peer as Proved;
use furlong_client::core::streams::Taken;
use furlong_client::core::{self, Call, Outbound, Ticket};
use furlong_client::{ClientError, DisconnectCause, Disconnected, Endpoint};
use furlong_link::peer;
use furlong_link::peer::inbox::Messages;
use furlong_link::peer::outbox::Chunks;
use furlong_link::peer::redial::Redial;
use furlong_tests::history::{Invariant, TaskName};
use furlong_wire::handshake::HelloBody;
use furlong_wire::ids::{EngineId, SessionId, TaskSeq, TokenId};
use furlong_wire::message::{Dependency, FromClient, RefusalKind, TaskRange, ToClient, Welcome};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::token::{Role, TokenLimits};

use crate::calls::{CallNo, claims};
use crate::dice::Dice;
use crate::files::FileWay;
use crate::network::{ConnectionNo, Peer, Side, TURN};
use crate::process::Link;
use crate::world::{Event, World};

/// The core of a client whose handles ring bells.
pub type Core = core::Core<Waker>;

/// A client, from its start to its end. Another one comes in its place.
#[derive(Debug)]
pub struct Client {
    pub spec: usize,
    pub is_alive: bool,
    /// None before the first greeting.
    pub core: Option<Core>,
    pub session: SessionId,
    pub token: TokenId,
    pub link: Link,
    turn: u64,
    redial: Redial,
    incarnation: u64,
    /// Nothing happens to it before that time.
    pub stops_until: u64,
    pub handles: BTreeMap<u64, Handle>,
    handles_made: u64,
    bells: Arc<Bells>,
    /// The tasks that it has submitted, by number less one.
    pub tasks: Vec<Submitted>,
    pub stream: Option<usize>,
}

/// A task, as its client submitted it.
#[derive(Clone, Debug)]
pub struct Submitted {
    pub call: CallNo,
    pub target: Option<EngineId>,
    pub at: u64,
    pub cancel_asked: bool,
    /// The tasks after which it is to run, and whether one of them is enough.
    pub after: (Vec<Dependency>, bool),
    /// The calls whose results are its inputs; none for those of another owner.
    pub inputs: Vec<Option<CallNo>>,
    /// The life of the broker to which it was submitted: its client may not have noticed yet that
    /// this one is over.
    pub life: u64,
    /// The outcome that somebody else who asked was told, in that life of the broker.
    pub seen: Option<(u64, furlong_tests::history::Outcome)>,
}

/// The handle on which a part of the program waits.
#[derive(Debug)]
pub enum Handle {
    /// For room.
    Submit(Box<Call>, CallNo, Ticket),
    /// For a task's end, by its key and number.
    Task(usize, u64),
    /// For any end of a stream.
    Stream(usize),
    /// For an answer.
    Request(u64, Asked),
    /// For output, by its task's number.
    Output(u64, usize),
    /// For intermediate data.
    Published(u64, usize),
    Events(usize),
}

/// The subject of a request.
#[derive(Debug)]
pub struct Asked {
    /// The number of tasks that its session had submitted before.
    pub submitted: u64,
    /// The tasks that it cancels.
    pub cancels: Option<TaskRange>,
}

/// Handles that were woken.
#[derive(Default, Debug)]
pub struct Bells(Mutex<VecDeque<u64>>);

impl Bells {
    fn ring(&self, handle: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(handle);
    }

    fn next(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

struct Bell(Arc<Bells>, u64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.ring(self.1);
    }
}

/// The time that a session seeks its broker.
const RETURNS_WITHIN: Duration = Duration::from_mins(10);

impl World {
    pub fn client_comes(&mut self, spec: usize) {
        let place = self.clients.len();
        let mut dice = Dice::of(self.seed, &[4, place as u64]);
        self.note(|world| format!("client {place} starts: {:?}", world.setup.clients[spec]));
        self.clients.push(Client {
            spec,
            is_alive: true,
            core: None,
            session: SessionId(dice.bytes()),
            token: TokenId(dice.bytes()),
            link: Link::Dialling(None),
            turn: 0,
            redial: Redial::new().within(RETURNS_WITHIN),
            incarnation: 1,
            stops_until: 0,
            handles: BTreeMap::new(),
            handles_made: 0,
            bells: Arc::default(),
            tasks: Vec::new(),
            stream: None,
        });
        self.after(0, Event::Dials(Peer::Client(place), 0));
        self.after(1_000_000, Event::ClientTick(place));
    }

    /// Returns the client's proof of identity, if it is still its turn.
    pub fn client_dials(&mut self, place: usize, turn: u64) -> Option<Proved> {
        let client = &mut self.clients[place];
        if !client.is_alive || client.turn != turn || client.link != Link::Dialling(None) {
            return None;
        }
        if client.core.is_none() {
            client.session = SessionId(Dice::of(self.seed, &[4, place as u64, turn + 1]).bytes());
        }
        let spec = &self.setup.clients[client.spec];
        let role = if spec.is_admin { Role::Admin } else { Role::Client };
        let mut claims = claims(role, client.token, spec.owner);
        claims.scopes = spec.scopes.iter().map(|scope| (*scope).to_owned()).collect();
        claims.scopes.sort_unstable();
        claims.limits = TokenLimits {
            unfinished_tasks_max: spec.tasks_max,
            payload_bytes_max: spec.payload_bytes_max,
            no_nested: false,
        };
        let hello = HelloBody {
            token: Vec::new(),
            session: client.session,
            incarnation: if client.core.is_none() { 1 } else { client.incarnation },
            role,
            software: String::new(),
            payload_credit_bytes: 0,
        };
        Some(Proved { claims, hello, address: String::new(), pass: None })
    }

    pub fn client_redials(&mut self, place: usize) {
        let client = &mut self.clients[place];
        client.turn += 1;
        client.link = Link::Dialling(None);
        let next = client.redial.next_try(self.dice.roll());
        client.incarnation = next.incarnation;
        let turn = client.turn;
        self.after(next.wait.as_micros() as u64, Event::Dials(Peer::Client(place), turn));
    }

    pub fn client_is_greeted(
        &mut self,
        place: usize,
        no: ConnectionNo,
        greeting: Result<Welcome, RefusalKind>,
    ) {
        if !self.clients[place].is_alive || self.clients[place].link != Link::Dialling(Some(no)) {
            return;
        }
        let welcome = match greeting {
            Ok(welcome) => welcome,
            Err(RefusalKind::Busy) => return self.client_redials(place),
            Err(kind) => return self.session_is_over(place, &format!("refused: {kind:?}")),
        };
        let client = &mut self.clients[place];
        let spec = &self.setup.clients[client.spec];
        if let Some(core) = &mut client.core {
            if !core.handle_reconnected(&welcome) {
                self.peer_is_gone(no);
                return self.session_is_over(place, "the broker has ended it meanwhile");
            }
        } else {
            let secret = PayloadSecret::new(Dice::of(self.seed, &[8, place as u64]).bytes());
            client.core = Some(Core::new(
                client.session,
                secret,
                spec.cancel_on_disconnect,
                true,
                spec.hides_names,
                &welcome,
            ));
        }
        client.link = Link::Up(no);
        client.redial.handle_connected(Duration::from_micros(self.now));
        self.note(|_| format!("client {place} is connected ({no}), resumed: {}", welcome.resumed));
        self.refused_go_on(place);
        self.client_settles(place);
    }

    /// What was turned away and the client has not heard of it is submitted again: it has its place
    /// from now on.
    fn refused_go_on(&mut self, place: usize) {
        let of_client = |task: &&TaskName| task.client as usize == place;
        let unheard = |task: &&TaskName| !self.history.is_delivered(**task);
        let refused = self.broker.refused.iter().filter(of_client).filter(unheard);
        for task in refused.copied().collect::<Vec<_>>() {
            self.history.end_lost(task);
        }
    }

    pub fn client_hears(&mut self, place: usize, no: ConnectionNo, messages: Messages<ToClient>) {
        if !self.clients[place].is_alive || self.clients[place].link != Link::Up(no) {
            return;
        }
        for message in messages {
            let (message, chunk) = match message {
                Ok(message) => message,
                Err(error) => return self.finds_unsound(&error),
            };
            if let ToClient::Goodbye(goodbye) = message {
                self.peer_is_gone(no);
                return self.session_is_over(place, &goodbye.reason);
            }
            let Some(core) = &mut self.clients[place].core else { return };
            if let ToClient::Passed(passed) = &message {
                let Some(connection) = self.network.connections.get_mut(&no) else { return };
                core.handle_file(passed.transfer, Ok(connection.files_down.take(passed)));
            } else {
                core.handle_message(message, chunk.as_deref());
            }
        }
        self.client_settles(place);
    }

    pub fn client_notices(&mut self, place: usize, no: ConnectionNo) {
        let client = &mut self.clients[place];
        if !client.is_alive || client.link.connection() != Some(no) {
            return;
        }
        let was_up = client.link == Link::Up(no);
        let Some(core) = &mut client.core else { return self.client_redials(place) };
        if core.is_over() {
            return self.client_ends(place);
        }
        if was_up {
            if !core.can_come_back() {
                return self.session_is_over(place, "its connection is gone");
            }
            client.redial.handle_cut(Duration::from_micros(self.now), None);
            core.handle_cut();
            let gives_up_at = client.redial.gives_up_at().unwrap_or_default();
            self.note(|_| format!("client {place} finds its connection {no} gone"));
            self.at(gives_up_at.as_micros() as u64, Event::GivesUp(place));
        }
        self.client_redials(place);
        self.client_settles(place);
    }

    pub fn client_gives_up(&mut self, place: usize) {
        let client = &self.clients[place];
        let now = Duration::from_micros(self.now);
        if client.is_alive && client.redial.gives_up_at().is_some_and(|at| at <= now) {
            self.session_is_over(place, "it gives up");
        }
    }

    /// The session does not go on: everything that is unfinished ends, as nobody knows.
    fn session_is_over(&mut self, place: usize, why: &str) {
        let client = &self.clients[place];
        let spec = &self.setup.clients[client.spec];
        let soon = Duration::from_micros(self.now + 20_000_000);
        let was_long_away = client.redial.gives_up_at().is_some_and(|at| at < soon);
        let is_just = spec.cancel_on_disconnect
            || was_long_away
            || self.broker.revoked.get(client.token).is_some()
            || client.core.as_ref().is_some_and(Core::is_over);
        if !is_just {
            self.violated(
                Invariant::SessionsGoOn,
                None,
                format!("the session of client {place} is over: {why}"),
            );
        }
        self.note(|_| format!("the session of client {place} is over: {why}"));
        self.client_closes_core(place, DisconnectCause::SessionOver(why.to_owned()));
        self.client_ends(place);
    }

    /// Nobody waits for its tasks any longer: what becomes of durable ones the disk tells at the
    /// end.
    fn client_is_gone(&mut self, place: usize) {
        self.history.client_gone(place as u32);
        let count = self.clients[place].tasks.len() as u64;
        (1..=count).for_each(|n| self.history.forgotten(TaskName { client: place as u32, n }));
    }

    fn client_closes_core(&mut self, place: usize, cause: DisconnectCause) {
        self.client_is_gone(place);
        let endpoint = Endpoint::new("localhost", 1).expect("it is one");
        let why = Arc::new(Disconnected { endpoint, cause });
        if let Some(core) = &mut self.clients[place].core {
            if matches!(why.cause, DisconnectCause::Closed) {
                core.close(&why);
            } else {
                core.disconnect(&why);
            }
        }
        self.client_settles(place);
    }

    /// The program closes its session. It ends when the goodbye has been heard.
    pub fn client_closes(&mut self, place: usize) {
        if self.clients[place].core.as_ref().is_none_or(Core::is_over) {
            return;
        }
        self.client_closes_core(place, DisconnectCause::Closed);
        if !matches!(self.clients[place].link, Link::Up(_)) {
            self.client_ends(place);
        }
    }

    /// The process is gone. What it had sent may still arrive.
    pub fn client_ends(&mut self, place: usize) {
        let client = &mut self.clients[place];
        if !std::mem::replace(&mut client.is_alive, false) {
            return;
        }
        let (spec, link) = (client.spec, client.link);
        self.client_is_gone(place);
        self.note(|_| format!("client {place} ends"));
        if let Some(no) = link.connection() {
            self.peer_is_gone(no);
        }
        if !self.rests {
            let wait = self.dice.pick(&[1_000, 500_000]);
            self.after(wait, Event::ClientComes(spec));
        }
    }

    pub fn client_tick(&mut self, place: usize) {
        if !self.clients[place].is_alive {
            return;
        }
        self.after(TURN.as_micros() as u64, Event::ClientTick(place));
        let client = &mut self.clients[place];
        let (Some(core), Link::Up(no)) = (&mut client.core, client.link) else { return };
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        let peer = &mut connection.peer_end.peer;
        if let Some(dead) = peer.handle_tick(Duration::from_micros(self.now)) {
            self.note(|_| format!("client {place} gives connection {no} up: {dead:?}"));
            return self.peer_notices(no);
        }
        if peer.answers_are_due() {
            core.handle_turn();
        }
        let has_left = core.count_goodbye_turn();
        if let Some(ack) = core.poll_ack(true) {
            peer.push(&ack);
        }
        if has_left {
            return self.client_ends(place);
        }
        self.client_settles(place);
    }

    /// A command of the program.
    pub fn client_does<T>(
        &mut self,
        place: usize,
        command: impl FnOnce(&mut Core) -> T,
    ) -> Option<T> {
        let done = self.clients[place].core.as_mut().map(command);
        self.queue_outbound(place);
        self.ring_bells(place);
        done
    }

    /// Everybody who was woken goes on, and what the core wants sent is written.
    pub fn client_settles(&mut self, place: usize) {
        // What is gone submits nothing, though there is room for it now.
        if !self.clients[place].is_alive {
            return;
        }
        loop {
            self.queue_outbound(place);
            self.ring_bells(place);
            let Some(handle) = self.clients[place].bells.next() else { break };
            self.poll_handle(place, handle);
        }
        self.client_writes(place);
    }

    /// Moves what the core wants sent to the queue. Without a connection it goes nowhere.
    fn queue_outbound(&mut self, place: usize) {
        let client = &mut self.clients[place];
        let Some(core) = &mut client.core else { return };
        let connection = client.link.connection().filter(|no| client.link == Link::Up(*no));
        let connection = connection.and_then(|no| self.network.connections.get_mut(&no));
        let Some(connection) = connection else {
            while core.poll_outbound().is_some() {}
            return;
        };
        let (peer, files) = (&mut connection.peer_end.peer, &mut connection.files_up);
        loop {
            while let Some(outbound) = core.poll_outbound() {
                queue(peer, files, outbound);
            }
            core.handle_backlog(peer.queued_bytes());
            match core.poll_outbound() {
                Some(outbound) => queue(peer, files, outbound),
                None => return,
            }
        }
    }

    /// Writes what gathered, and with it the acknowledgement of what arrived.
    pub fn client_writes(&mut self, place: usize) {
        let client = &mut self.clients[place];
        let (Some(core), Link::Up(no)) = (&mut client.core, client.link) else { return };
        let Some(connection) = self.network.connections.get_mut(&no) else { return };
        let peer = &mut connection.peer_end.peer;
        let others_go = !peer.is_empty();
        if let Some(ack) = core.poll_ack(others_go) {
            peer.push(&ack);
        }
        self.depart(no, Side::Peer, false);
        let connection = self.network.connections.get(&no);
        let is_written = connection.is_some_and(|it| it.peer_end.peer.is_empty());
        if let Some(core) = self.clients[place].core.as_mut().filter(|_| is_written) {
            core.handle_flushed();
        }
        self.ring_bells(place);
        while let Some(handle) = self.clients[place].bells.next() {
            self.poll_handle(place, handle);
            self.queue_outbound(place);
            self.ring_bells(place);
        }
        self.depart(no, Side::Peer, false);
    }

    fn ring_bells(&mut self, place: usize) {
        let wakes = self.clients[place].core.as_mut().map(Core::take_wakes).unwrap_or_default();
        for it in wakes {
            Waker::wake(it);
        }
    }

    /// A new part of the program begins to wait.
    pub fn begin(&mut self, place: usize, handle: Handle) {
        let client = &mut self.clients[place];
        client.handles_made += 1;
        client.handles.insert(client.handles_made, handle);
        client.bells.ring(client.handles_made);
    }

    fn poll_handle(&mut self, place: usize, no: u64) {
        let client = &mut self.clients[place];
        let Some(core) = &mut client.core else { return };
        let waker = Waker::from(Arc::new(Bell(client.bells.clone(), no)));
        let Some(handle) = client.handles.remove(&no) else { return };
        let mut replaced = None;
        match handle {
            Handle::Submit(call, call_no, ticket) => {
                return self.tries_to_submit(place, no, (call, call_no, ticket));
            }
            Handle::Task(key, _) => {
                if let Poll::Ready(ended) = core.poll_task(key, &waker, &mut replaced) {
                    return self.is_delivered(place, *ended);
                }
            }
            Handle::Stream(stream) => {
                let mut ended = VecDeque::new();
                if let Taken::Some = core.poll_stream(stream, &mut ended, &waker) {
                    client.handles.insert(no, Handle::Stream(stream));
                    client.bells.ring(no);
                    return ended
                        .into_iter()
                        .for_each(|(_, ended)| self.is_delivered(place, ended));
                }
            }
            Handle::Request(request, ref asked) => {
                if let Poll::Ready(answer) = core.poll_answer(request, &waker, &mut replaced) {
                    return self.is_answered(place, asked, answer);
                }
            }
            Handle::Output(n, feed) => {
                while let Poll::Ready(fed) = core.poll_output(feed, &waker, &mut replaced) {
                    if matches!(fed, furlong_client::core::bounded_queues::Fed::Over) {
                        core.forget_output(TaskSeq(n), feed);
                        return;
                    }
                }
            }
            Handle::Published(n, feed) => {
                while let Poll::Ready(fed) = core.poll_published(feed, &waker, &mut replaced) {
                    if matches!(fed, furlong_client::core::bounded_queues::Fed::Over) {
                        core.forget_published(TaskSeq(n), feed);
                        return;
                    }
                }
            }
            Handle::Events(feed) => {
                while let Poll::Ready(fed) = core.poll_event(feed, &waker, &mut replaced) {
                    if matches!(fed, furlong_client::core::bounded_queues::Fed::Over) {
                        core.unsubscribe(feed);
                        return;
                    }
                }
            }
        }
        self.clients[place].handles.insert(no, handle);
    }

    fn tries_to_submit(
        &mut self,
        place: usize,
        no: u64,
        (mut call, call_no, mut ticket): (Box<Call>, CallNo, Ticket),
    ) {
        match self.submits(place, &mut call, call_no) {
            Err(ClientError::Busy) => {
                let client = &mut self.clients[place];
                let waker = Waker::from(Arc::new(Bell(client.bells.clone(), no)));
                if let Some(core) = &mut client.core {
                    core.wait_for_room(&mut ticket, &waker);
                }
                client.handles.insert(no, Handle::Submit(call, call_no, ticket));
            }
            Ok(()) | Err(_) => {
                if let Some(core) = &mut self.clients[place].core {
                    core.stop_waiting(ticket);
                }
            }
        }
    }
}

/// Queues what the core wants sent.
fn queue(peer: &mut peer::Peer, files: &mut FileWay, outbound: Outbound) {
    match outbound {
        Outbound::Message(message) => peer.push(&message),
        Outbound::Control(message) => peer.outbox().push_control(&message),
        Outbound::Transfer(number, payload) => {
            let pass = |chunks: &Chunks| files.pass(number, chunks);
            peer.push_transfer::<FromClient>(number, Chunks::from(payload), pass);
        }
    }
}
