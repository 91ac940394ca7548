//! A client that is played by a test.

use std::collections::VecDeque;

use furlong_tests::farm::Farm;
use furlong_tests::session::{Answer, Credentials, RawSession, shake_hands};
use furlong_wire::ids::{SessionId, TaskSeq};
use furlong_wire::message::{
    Cancel, FromClient, Goodbye, Open, Payload, ReplyBody, Runtime, Submit, Targets, TaskOptions,
    TaskRange, ToClient,
};
use furlong_wire::payload::PayloadSecret;
use furlong_wire::token::Role;

use crate::CLOSED;

pub fn inline(bytes: usize) -> Payload {
    Payload::Inline(vec![1; bytes].into())
}

pub fn submit(n: u64, options: &TaskOptions) -> FromClient {
    let (targets, runtime, options) =
        (Targets::Shared, Runtime::Native, Some(Box::new(options.clone())));
    FromClient::Submit(Submit {
        n: TaskSeq(n),
        targets,
        runtime,
        class: 0,
        define: None,
        options,
        payload: inline(4),
    })
}

/// Options of a task that no engine can run.
pub fn waiting() -> TaskOptions {
    TaskOptions { require: vec!["nowhere".into()], ..TaskOptions::default() }
}

/// A client's connection, whose session is known by its id.
pub struct Peer {
    pub session: RawSession,
    pub id: SessionId,
    pub submitted: u64,
    credentials: Credentials,
    /// The messages that have come and were not looked at.
    inbox: VecDeque<ToClient>,
}

impl Peer {
    pub fn new(farm: &Farm) -> Self {
        Self::of(farm, Role::Client).expect("the peer is let in")
    }

    /// With a capability of this role. None if it is not let in.
    pub fn of(farm: &Farm, role: Role) -> Option<Self> {
        Self::open(farm, Credentials::of(&farm.capability(role)), 0)
    }

    /// The same session on a new connection. None if it is not let in.
    pub fn again(self, farm: &Farm) -> Option<Self> {
        let mut credentials = self.credentials;
        credentials.hello.incarnation += 1;
        Self::open(farm, credentials, self.submitted)
    }

    fn open(farm: &Farm, credentials: Credentials, submitted: u64) -> Option<Self> {
        let Answer::Welcome(session) = shake_hands(farm.port(), &credentials) else { return None };
        let mut session = *session;
        session.send(&[open(submitted)]);
        Some(Self {
            session,
            id: credentials.hello.session,
            submitted,
            credentials,
            inbox: VecDeque::new(),
        })
    }

    /// Ends its tasks and says goodbye, and waits until that was heard: nothing stays.
    pub fn leave(mut self) {
        let ranges = vec![(TaskSeq(1), TaskSeq(u64::MAX))];
        let cancel = FromClient::Cancel(Cancel { ranges, force: true });
        self.session.send(&[cancel, FromClient::Goodbye(Goodbye { reason: String::new() })]);
        self.session.peer.is_closed_within(CLOSED);
    }

    /// Submits tasks, many a record.
    pub fn submit(&mut self, tasks: u64, options: &TaskOptions) {
        let numbers: Vec<u64> = (self.submitted + 1..=self.submitted + tasks).collect();
        let names: usize = options.label.iter().chain(&options.require).map(String::len).sum();
        let each_bytes = 64 + names + 4 * options.require.len() + 40 * options.after.len();
        for numbers in numbers.chunks(300_000 / each_bytes) {
            let batch: Vec<_> = numbers.iter().map(|n| submit(*n, options)).collect();
            assert!(self.session.send(&batch), "the tasks are taken");
        }
        self.submitted += tasks;
    }

    pub fn all(&self) -> TaskRange {
        TaskRange { session: self.id, first: TaskSeq::MIN, last: TaskSeq(u64::MAX) }
    }

    /// The next message. None if the connection ends, or none comes.
    pub fn receive(&mut self) -> Option<ToClient> {
        while self.inbox.is_empty() {
            self.inbox.extend(self.session.receive::<ToClient>().ok()?);
        }
        self.inbox.pop_front()
    }

    /// The next message.
    pub fn next(&mut self) -> ToClient {
        self.receive().expect("the broker answers")
    }

    /// The reply to a request, and how many of the messages before it are as wanted. None if the
    /// connection ends.
    pub fn replied(
        &mut self,
        request: u64,
        is_wanted: impl Fn(&ToClient) -> bool,
    ) -> Option<(ReplyBody, usize)> {
        let mut wanted = 0;
        loop {
            match self.receive()? {
                ToClient::Reply(reply) if reply.request == request => {
                    return Some((reply.body, wanted));
                }
                other => wanted += usize::from(is_wanted(&other)),
            }
        }
    }

    pub fn reply(
        &mut self,
        request: u64,
        is_wanted: impl Fn(&ToClient) -> bool,
    ) -> (ReplyBody, usize) {
        self.replied(request, is_wanted).expect("the broker answers")
    }

    pub fn until_reply(&mut self, request: u64) -> ReplyBody {
        self.reply(request, |_| false).0
    }
}

pub fn open(submitted: u64) -> FromClient {
    FromClient::Open(Open {
        secret: PayloadSecret::new([1; 32]),
        cancel_on_disconnect: false,
        submitted: TaskSeq(submitted),
        hides_names: false,
    })
}
