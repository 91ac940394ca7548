//! Calls: definitions, headers and arguments as they come, put together to jobs that can run.

use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::AtLeastOne;
use furlong_wire::call::{CallHeader, decode_header};
use furlong_wire::ids::SessionId;
use furlong_wire::message::{EngineDefine, Payload};
use furlong_wire::payload::{InlineBytes, unpack_inline, unpack_inline_call};

use super::receiving::Purpose;
use super::{BrokerMisbehaved, Call, Core, Request, unreadable};
use crate::job::{Job, SlotJob};

/// A request with its definition, if it has one; as an error, why it cannot be read.
type Prepared = Result<(Request, Option<Bytes>), String>;

/// A call header up to this size is kept for the next call.
const HEADER_KEPT_BYTES: usize = 1024;

impl Core {
    pub(super) fn define(&mut self, define: EngineDefine) -> Result<(), BrokerMisbehaved> {
        match &define.payload {
            Payload::Inline(inline) => {
                let blob =
                    unpack_inline(inline).ok().and_then(|buffers| buffers.into_iter().next());
                self.defined(define.session, define.number, blob);
                Ok(())
            }
            Payload::Chunked { .. } => {
                let purpose = Purpose::Define(define.session, define.number);
                self.receive(define.session, &define.payload, purpose)
            }
        }
    }

    /// A definition is here, or lost if it is none: what waited for it goes on.
    pub(super) fn defined(&mut self, session: SessionId, number: u32, blob: Option<Bytes>) {
        self.sessions.define(session, number, blob);
        let calls: Vec<_> = self
            .undefined
            .extract_if(.., |(of, its_number, ..)| *of == session && *its_number == number)
            .collect();
        for (_, _, call, request) in calls {
            self.run(call, request);
        }
    }

    /// No later work names a definition. What waits for it all the same, against the broker's word,
    /// fails.
    pub(super) fn undefine(&mut self, session: SessionId, number: u32) {
        self.defined(session, number, None);
        self.sessions.undefine(session, number);
    }

    /// The arguments of jobs are here: they can run when their turn comes.
    pub(super) fn run(&mut self, call: Call, request: Result<Request, String>) {
        if let Some(number) = call.define
            && !self.sessions.is_defined(call.session, number)
        {
            return self.undefined.push((call.session, number, call, request));
        }
        let Some((call, request)) = self.wait_for_values(call, request) else { return };
        let prepared =
            request.and_then(|request| Ok((request, self.definition(call.session, call.define)?)));
        let AtLeastOne { first, mut others } = call.jobs;
        let Some(last) = others.pop() else { return self.prepared(first, call.session, prepared) };
        for job in std::iter::once(first).chain(others) {
            self.prepared(job, call.session, prepared.clone());
        }
        self.prepared(last, call.session, prepared);
    }

    /// What a job needs to run is here, or will never be.
    fn prepared(&mut self, attempt: SlotJob, session: SessionId, prepared: Prepared) {
        let inputs = self.inputs_of(attempt);
        // One that was cancelled or recalled meanwhile is no longer there.
        let Some(work) = self.work.get_mut(&attempt) else { return };
        let slot = work.slot;
        match (prepared, inputs) {
            (Ok((Request { header, data, file }, definition)), Ok(inputs)) => {
                work.has_whole_output = header.wants_whole_output();
                work.ready = Some(Job { attempt, session, header, definition, data, file, inputs });
                self.advance(slot);
            }
            (Err(text), _) | (_, Err(text)) => self.finished(slot, attempt, unreadable(&text)),
        }
    }

    /// Reads a payload that came in its message.
    pub(super) fn read_inline(&mut self, payload: &InlineBytes) -> Result<Request, String> {
        let (header, data) = unpack_inline_call(payload).map_err(|error| error.to_string())?;
        Ok(Request { header: self.header(header)?, data, file: None })
    }

    /// Reads a payload that came in chunks.
    pub(super) fn read(&mut self, buffers: Vec<Bytes>) -> Result<Request, String> {
        let mut data = buffers.into_iter();
        let header = self.header(&data.next().unwrap_or_default())?;
        Ok(Request { header, data: data.collect(), file: None })
    }

    fn header(&mut self, bytes: &[u8]) -> Result<Arc<CallHeader>, String> {
        if let Some((last, header)) = &self.last_header
            && last[..] == *bytes
        {
            return Ok(header.clone());
        }
        let header =
            Arc::new(decode_header::<CallHeader>(bytes).map_err(|error| error.to_string())?);
        if bytes.len() <= HEADER_KEPT_BYTES {
            self.last_header = Some((bytes.to_vec(), header.clone()));
        }
        Ok(header)
    }

    fn definition(&self, session: SessionId, define: Option<u32>) -> Result<Option<Bytes>, String> {
        let lost =
            || "the function's definition did not arrive whole; submit the task again".to_owned();
        define.map(|number| self.sessions.definition(session, number).ok_or_else(lost)).transpose()
    }
}
