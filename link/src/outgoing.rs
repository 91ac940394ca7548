//! The socket to one peer: writes what its outbox hands out, a turn at a time.

use std::io::{self, IoSlice};

use furlong_wire::message::Passed;

use crate::file::{FileId, PayloadFile};
use crate::pass::NotPassed;
use crate::peer::inbox::ReceiveError;
use crate::peer::outbox::{Chunks, Outbox, SLICES_MAX};
use crate::stream::WriteHalf;

/// The progress of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// Everything is with the kernel.
    All,
    /// The socket takes no more now: wait until it is writable.
    Blocked,
    /// The turn's bytes are used up: others first, then go on.
    Turn,
}

impl WriteHalf {
    /// Passes a payload in a memory file, if there is a way for that and the payload is worth it.
    /// None if its chunks must be sent.
    pub fn pass(&self, transfer: u64, chunks: &Chunks) -> Option<FileId> {
        self.files()?.pass(transfer, chunks)
    }

    /// Takes the memory file that a message of the peer has named.
    ///
    /// # Errors
    /// The peer broke the protocol: the connection must be closed.
    pub fn take_file(&self, passed: &Passed) -> Result<PayloadFile, ReceiveError> {
        let files = self.files().ok_or(NotPassed::Missing)?;
        Ok(files.receive(passed)?)
    }

    /// Writes as much of what waits as the socket takes, `turn_bytes` at most.
    ///
    /// # Errors
    /// The socket's: the connection is over.
    pub fn write_from(&self, outbox: &mut Outbox, turn_bytes: usize) -> io::Result<Written> {
        let mut room = turn_bytes;
        loop {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = outbox.poll_slices(&mut slices, room);
            if count == 0 {
                return Ok(Written::All);
            }
            if room == 0 {
                return Ok(Written::Turn);
            }
            let written = match count {
                1 => self.try_write(&slices[0]),
                _ => self.try_write_vectored(&slices[..count]),
            };
            match written {
                Ok(bytes) => {
                    outbox.handle_written(bytes);
                    room -= bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Written::Blocked);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
