//! Payloads from the broker that are on their way, and what waits for them.

use bytes::Bytes;
use furlong_link::file::PayloadFile;
use furlong_wire::ids::SessionId;
use furlong_wire::message::Payload;
use furlong_wire::payload::{PayloadError, PayloadOpener, places_in};

use super::{BrokerMisbehaved, Call, Core, Request};
use crate::job::DataFile;

/// A payload from the broker, and what waits for it.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) opener: PayloadOpener,
    pub(super) purpose: Purpose,
}

#[derive(Debug)]
pub(super) enum Purpose {
    Run(Call),
    Define(SessionId, u32),
    Share(u64),
}

impl Core {
    pub(super) fn receive(
        &mut self,
        session: SessionId,
        payload: &Payload,
        purpose: Purpose,
    ) -> Result<(), BrokerMisbehaved> {
        let Payload::Chunked { transfer, counter, bytes, .. } = *payload else { return Ok(()) };
        let opener =
            self.sessions.opener(session, counter, bytes).ok_or(BrokerMisbehaved::Assign)?;
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

    pub(super) fn chunk(&mut self, transfer: u64, chunk: &[u8]) -> Result<(), BrokerMisbehaved> {
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

    /// Takes a payload that was passed in a memory file: its content, mapped or copied, and the file
    /// if it is kept.
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
            let file = file.map(|file| DataFile { file, places: of_data });
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
        file: Option<DataFile>,
    ) {
        let read = |buffers| Ok(Request { file, ..self.read(buffers)? });
        match purpose {
            Purpose::Run(call) => {
                let request = buffers.and_then(read);
                self.run(call, request);
            }
            Purpose::Share(number) => {
                let request = buffers.and_then(read);
                self.take_shared(number, &request);
            }
            Purpose::Define(session, number) => {
                let blob = buffers.ok().and_then(|buffers| buffers.into_iter().next());
                self.defined(session, number, blob);
            }
        }
    }
}
