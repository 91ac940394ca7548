//! Payloads from the broker: on their way, with what waits for them, or here for several slots'
//! jobs.
//!
//! What several jobs have in common is received and opened once, and then shared.

mod values;

use bytes::Bytes;
use furlong_link::file::PayloadFile;
use furlong_wire::ids::SessionId;
use furlong_wire::message::{Payload, Share};
use furlong_wire::payload::{PayloadError, PayloadOpener, places_in};

use super::{BrokerMisbehaved, Call, Core, Request};
use crate::job::{DataFile, Input};
pub use values::Values;

/// A payload from the broker, and what waits for it.
#[derive(Debug)]
pub(in crate::core) struct Receiving {
    pub(in crate::core) opener: PayloadOpener,
    pub(in crate::core) purpose: Purpose,
}

#[derive(Debug)]
pub(in crate::core) enum Purpose {
    Run(Call),
    Define(SessionId, u32),
    Share(u64),
    Value(u64),
}

/// A shared payload, from its announcement until it is no longer needed.
#[derive(Debug)]
pub(in crate::core) struct Shared {
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
    pub(in crate::core) fn receive(
        &mut self,
        session: SessionId,
        payload: &Payload,
        purpose: Purpose,
    ) -> Result<(), BrokerMisbehaved> {
        let Payload::Chunked { counter, bytes, instance, .. } = *payload else {
            return Ok(());
        };
        // A result is sealed with the key of the process that made it.
        let of = instance.filter(|_| matches!(purpose, Purpose::Value(_)));
        let opener =
            self.sessions.opener(session, of, counter, bytes).ok_or(BrokerMisbehaved::Assign)?;
        self.receive_with(opener, payload, purpose)
    }

    fn receive_with(
        &mut self,
        opener: Result<PayloadOpener, PayloadError>,
        payload: &Payload,
        purpose: Purpose,
    ) -> Result<(), BrokerMisbehaved> {
        let Payload::Chunked { transfer, .. } = *payload else { return Ok(()) };
        if let Ok(opener) = opener
            && !self.receiving.contains_key(&transfer)
        {
            self.receiving.insert(transfer, Receiving { opener, purpose });
            return Ok(());
        }
        // Larger than any payload may be, or a number that is taken.
        if let Purpose::Run(call) = purpose {
            for job in call.jobs {
                drop(self.forget(job));
            }
        }
        Err(BrokerMisbehaved::Transfer)
    }

    pub(in crate::core) fn chunk(
        &mut self,
        transfer: u64,
        chunk: &[u8],
    ) -> Result<(), BrokerMisbehaved> {
        let receiving = self.receiving.get_mut(&transfer).ok_or(BrokerMisbehaved::Transfer)?;
        let opened = receiving.opener.handle_chunk(chunk);
        if opened.is_ok() && !receiving.opener.is_complete() {
            return Ok(());
        }
        let Receiving { opener, purpose } =
            self.receiving.remove(&transfer).ok_or(BrokerMisbehaved::Transfer)?;
        let buffers =
            opened.and_then(|()| opener.into_buffers()).map_err(|error| error.to_string());
        self.received(purpose, buffers, None);
        Ok(())
    }

    /// Takes a payload that was passed in a memory file: its content, mapped or copied, and the
    /// file if it is kept.
    ///
    /// # Errors
    /// The connection is to be closed.
    pub fn handle_file(
        &mut self,
        transfer: u64,
        content: Result<Bytes, PayloadError>,
        file: Option<PayloadFile>,
    ) -> Result<(), BrokerMisbehaved> {
        let Receiving { opener, purpose } =
            self.receiving.remove(&transfer).ok_or(BrokerMisbehaved::Transfer)?;
        let whole = content.and_then(|content| {
            opener.check_whole(content.len() as u64)?;
            let places: Vec<_> = places_in(&content)?.collect();
            // The first buffer is the header.
            let of_data = places.iter().skip(1);
            let of_data = of_data.map(|place| (place.start as u64, place.len() as u64)).collect();
            let file = file.map(|file| Box::new(DataFile { file, places: of_data }));
            let buffers: Vec<_> = places.into_iter().map(|place| content.slice(place)).collect();
            Ok((buffers, file))
        });
        let (buffers, file) = match whole {
            Ok((buffers, file)) => (Ok(buffers), file),
            Err(error) => (Err(error.to_string()), None),
        };
        self.received(purpose, buffers, file);
        Ok(())
    }

    /// A payload is whole, or lost: what it came for goes on.
    fn received(
        &mut self,
        purpose: Purpose,
        buffers: Result<Vec<Bytes>, String>,
        file: Option<Box<DataFile>>,
    ) {
        match purpose {
            Purpose::Run(call) => {
                let request = buffers.and_then(|buffers| self.read(buffers));
                self.run(call, request.map(|request| Request { file, ..request }));
            }
            Purpose::Share(number) => {
                let request = buffers.and_then(|buffers| self.read(buffers));
                self.take_shared(number, &request.map(|request| Request { file, ..request }));
            }
            Purpose::Value(number) => {
                let input = buffers.and_then(|buffers| self.read_value(buffers));
                self.take_value(number, input.map(|input| Input { file, ..input }));
            }
            Purpose::Define(session, number) => {
                let blob = buffers.ok().and_then(|buffers| buffers.into_iter().next());
                self.defined(session, number, blob);
            }
        }
    }

    pub(in crate::core) fn share(&mut self, share: Share) -> Result<(), BrokerMisbehaved> {
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
    pub(in crate::core) fn run_shared(
        &mut self,
        number: u64,
        call: Call,
    ) -> Result<(), BrokerMisbehaved> {
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
    pub(in crate::core) fn take_shared(&mut self, number: u64, request: &Result<Request, String>) {
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

    /// No later assignment names it: a shared payload, or a value.
    pub(in crate::core) fn unshare(&mut self, number: u64) -> Result<(), BrokerMisbehaved> {
        if self.let_go_of_value(number) {
            return Ok(());
        }
        match self.shares.get_mut(&number).map(|shared| &mut shared.state) {
            // Those that wait for it still need it: it goes when it is whole.
            Some(State::Coming(_, wanted)) => *wanted = false,
            Some(State::Here(_)) => drop(self.shares.remove(&number)),
            None => return Err(BrokerMisbehaved::Share),
        }
        Ok(())
    }

    /// Numbers belong to a connection: forgets all, and gives the assignments that waited.
    pub(in crate::core) fn forget_shares(&mut self) -> Vec<Call> {
        let shares = std::mem::take(&mut self.shares).into_values();
        let waiting = shares.map(|shared| match shared.state {
            State::Coming(waiting, _) => waiting,
            State::Here(_) => Vec::new(),
        });
        waiting.flatten().collect()
    }
}
