//! The memory files that an engine process holds: of arguments until their tasks have ended, of
//! results until these are released. Each has a descriptor, of which there are not many.

use std::sync::Arc;

use bytes::Bytes;
use furlong_link::file::PayloadFile;
use furlong_wire::payload::{PayloadError, buffers_of};
use rustix::process::{Resource, getrlimit};
use tokio::sync::Semaphore;

use crate::core::unreadable;
use crate::job::AttemptEnd;

/// Permits for files.
#[derive(Debug)]
pub(super) struct FilePermits(Arc<Semaphore>);

/// Files that are held where the system would allow more.
const FILES_MAX: u64 = 4096;

impl FilePermits {
    /// As many as a quarter of the descriptors that the process may have.
    pub(super) fn new() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(FILES_MAX);
        Self(Arc::new(Semaphore::new((descriptors / 4).min(FILES_MAX) as usize)))
    }

    /// Takes a payload that was passed in a file: its content, and the file if it may be held.
    pub(super) fn open(
        &self,
        file: PayloadFile,
    ) -> (Result<Bytes, PayloadError>, Option<PayloadFile>) {
        let content = file.open();
        (content, self.permit(file).ok())
    }

    /// Gives a file its permit, if there is one left.
    fn permit(&self, file: PayloadFile) -> Result<PayloadFile, PayloadFile> {
        match Arc::clone(&self.0).try_acquire_owned() {
            Ok(permit) => Ok(file.with_permit(permit)),
            Err(_) => Err(file),
        }
    }

    /// Holds the file of a result; without a permit its content takes its place.
    pub(super) fn hold(&self, reply: &mut AttemptEnd) {
        let Some(file) = reply.file.take() else { return };
        let file = match self.permit(file) {
            Ok(file) => return reply.file = Some(file),
            Err(file) => file,
        };
        match file.open().and_then(|content| buffers_of(&content)) {
            Ok(buffers) => reply.data = buffers.into_iter().skip(1).collect(),
            Err(error) => *reply = unreadable(&error.to_string()),
        }
    }
}
