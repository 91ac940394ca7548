//! Payloads that several slots' jobs have in common: received and opened once, and then shared.

use furlong_wire::ids::SessionId;
use furlong_wire::message::{Payload, Share};

use super::{BrokerMisbehaved, Call, Core, Purpose, Request};

/// A shared payload, from its announcement until it is no longer needed.
#[derive(Debug)]
pub(super) struct Shared {
    session: SessionId,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Its chunks come. The assignments that wait for it, and whether more may name it.
    Coming(Vec<Call>, bool),
    /// It is here, or was forged on the way.
    Here(Result<Request, String>),
}

impl Core {
    pub(super) fn share(&mut self, share: Share) -> Result<(), BrokerMisbehaved> {
        let Share { share: number, session, payload } = share;
        if self.shares.contains_key(&number) || !self.sessions.knows(session) {
            return Err(BrokerMisbehaved::Share);
        }
        let state = match &payload {
            Payload::Inline(inline) => State::Here(self.read_inline(inline)),
            Payload::Chunked { .. } => {
                self.receive(session, &payload, Purpose::Share(number))?;
                State::Coming(Vec::new(), true)
            }
        };
        let before = self.shares.insert(number, Shared { session, state });
        assert!(before.is_none(), "share {number} is two payloads");
        Ok(())
    }

    /// Lets an assignment run with a shared payload, at once or when it is whole.
    pub(super) fn run_shared(&mut self, number: u64, call: Call) -> Result<(), BrokerMisbehaved> {
        let shared = self.shares.get_mut(&number).filter(|shared| shared.session == call.session);
        match shared.map(|shared| &mut shared.state) {
            Some(State::Coming(waiting, true)) => waiting.push(call),
            Some(State::Here(request)) => {
                let request = request.clone();
                self.run(call, request);
            }
            Some(State::Coming(_, false)) | None => {
                for job in call.jobs {
                    drop(self.forget(job));
                }
                return Err(BrokerMisbehaved::Share);
            }
        }
        Ok(())
    }

    /// A shared payload is whole: what waited for it goes on.
    pub(super) fn take_shared(&mut self, number: u64, request: &Result<Request, String>) {
        let shared = self.shares.get_mut(&number).expect("a share stays until it is whole");
        let here = State::Here(request.clone());
        let State::Coming(waiting, wanted) = std::mem::replace(&mut shared.state, here) else {
            unreachable!("a number is one payload's, which comes once");
        };
        if !wanted {
            self.shares.remove(&number);
        }
        for call in waiting {
            self.run(call, request.clone());
        }
    }

    /// No later assignment names it.
    pub(super) fn unshare(&mut self, number: u64) -> Result<(), BrokerMisbehaved> {
        match self.shares.get_mut(&number).map(|shared| &mut shared.state) {
            // Those that wait for it still need it: it goes when it is whole.
            Some(State::Coming(_, wanted)) => *wanted = false,
            Some(State::Here(_)) => drop(self.shares.remove(&number)),
            None => return Err(BrokerMisbehaved::Share),
        }
        Ok(())
    }

    /// Numbers belong to a connection: forgets all, and gives the assignments that waited.
    pub(super) fn forget_shares(&mut self) -> Vec<Call> {
        let shares = std::mem::take(&mut self.shares).into_values();
        let waiting = shares.map(|shared| match shared.state {
            State::Coming(waiting, _) => waiting,
            State::Here(_) => Vec::new(),
        });
        waiting.flatten().collect()
    }
}
