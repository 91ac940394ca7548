//! The bytes of a program: its input, and its output with the room that it has.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread, read, write};

use super::exit::STDERR_SHOWN_BYTES;
use crate::runtime::OutputStream;

/// Wakes a slot's thread, and counts the output that it has sent and that the engine has not taken.
///
/// A program that writes endlessly is read only as fast as the engine takes it: beyond the room it
/// waits in its pipe, as it would for any slow reader.
#[derive(Debug)]
pub(super) struct Room {
    used: AtomicUsize,
    wake: OwnedFd,
}

impl Room {
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { used: AtomicUsize::new(0), wake })
    }

    /// Readable after [`Room::wake`], until [`Room::was_woken`].
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.wake
    }

    pub(super) fn wake(&self) {
        // It fails if so many wakes are untaken that one more says nothing new.
        let _ = write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(super) fn was_woken(&self) {
        // It fails if nobody has woken it since.
        let _ = read(&self.wake, &mut [0; 8]);
    }

    pub(super) fn is_full(&self) -> bool {
        self.used.load(Ordering::Acquire) >= UNTAKEN_BYTES_MAX
    }

    /// A piece of output, which takes room until it is dropped.
    fn piece(self: &Arc<Self>, bytes: &[u8]) -> Bytes {
        let cost = bytes.len() + PIECE_COST_BYTES;
        self.used.fetch_add(cost, Ordering::AcqRel);
        Bytes::from_owner(Piece { bytes: bytes.into(), cost, room: Arc::clone(self) })
    }
}

/// Output that the engine has not taken.
struct Piece {
    bytes: Box<[u8]>,
    cost: usize,
    room: Arc<Room>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let before = self.room.used.fetch_sub(self.cost, Ordering::AcqRel);
        if before >= UNTAKEN_BYTES_MAX && before - self.cost < UNTAKEN_BYTES_MAX {
            self.room.wake();
        }
    }
}

/// The reading end of standard output or error.
#[derive(Debug)]
pub(super) struct OutputPipe {
    pub(super) stream: OutputStream,
    pub(super) fd: OwnedFd,
    /// The last bytes that came, kept of standard error only.
    pub(super) tail: Vec<u8>,
}

/// The result of a read.
pub(super) enum Got {
    Bytes(Bytes),
    Nothing,
    End,
}

impl OutputPipe {
    pub(super) fn new(stream: OutputStream, fd: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&fd, true)?;
        Ok(Self { stream, fd, tail: Vec::new() })
    }

    /// Bytes that are there and were not read.
    pub(super) fn unread(&self) -> usize {
        ioctl_fionread(&self.fd).unwrap_or(0) as usize
    }

    /// Reads one piece of what is there.
    pub(super) fn read(&mut self, buffer: &mut [u8], room: &Arc<Room>) -> Got {
        match read(&self.fd, &mut *buffer) {
            Ok(0) => Got::End,
            Ok(bytes) => {
                self.keep_tail(&buffer[..bytes]);
                Got::Bytes(room.piece(&buffer[..bytes]))
            }
            Err(Errno::AGAIN | Errno::INTR) => Got::Nothing,
            Err(_) => Got::End,
        }
    }

    fn keep_tail(&mut self, piece: &[u8]) {
        if self.stream == OutputStream::Stderr {
            let excess = (self.tail.len() + piece.len()).saturating_sub(TAIL_BYTES_MAX);
            self.tail.drain(..excess.min(self.tail.len()));
            self.tail.extend_from_slice(&piece[piece.len().saturating_sub(TAIL_BYTES_MAX)..]);
        }
    }
}

/// The writing end of standard input, and what is still to be written.
#[derive(Debug)]
pub(super) struct InputPipe {
    pub(super) fd: OwnedFd,
    buffers: std::vec::IntoIter<Bytes>,
    now: Bytes,
}

impl InputPipe {
    pub(super) fn new(fd: OwnedFd, buffers: Vec<Bytes>) -> io::Result<Self> {
        ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, buffers: buffers.into_iter(), now: Bytes::new() })
    }

    /// Writes as much as the pipe takes. False when nothing is left to do: all is written, or
    /// nobody reads it.
    pub(super) fn write(&mut self) -> bool {
        loop {
            while self.now.is_empty() {
                match self.buffers.next() {
                    Some(next) => self.now = next,
                    None => return false,
                }
            }
            match write(&self.fd, &self.now) {
                Ok(written) => drop(self.now.split_to(written)),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Bytes of output that are on their way from a slot to the engine.
pub(super) const UNTAKEN_BYTES_MAX: usize = 256 * 1024;
/// The cost of a piece beside its bytes: a program that writes single bytes must not make a queue
/// of thousands.
const PIECE_COST_BYTES: usize = 256;
/// Bytes read at once.
pub(super) const PIECE_BYTES_MAX: usize = furlong_wire::limits::OUTPUT_MESSAGE_BYTES_MAX;
/// More than what is shown, so that it is known whether something is left out.
const TAIL_BYTES_MAX: usize = STDERR_SHOWN_BYTES + 1;
