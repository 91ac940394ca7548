//! The socket on which an interpreter is told what to do.
//!
//! It answers on another one. On a socket for both ways each side would be woken whenever the other
//! has read, since that makes room for more: twice for every short job, and for nothing.

use std::future::{pending, poll_fn};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Our end of it.
#[derive(Debug)]
pub(super) struct Requests {
    socket: StdUnixStream,
    /// Tells of room, from when there was none until all is written.
    room: Option<UnixStream>,
}

impl Requests {
    /// Our end, and the interpreter's.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        // Best effort: the system has a limit.
        let _ = set_socket_send_buffer_size(&ours, SEND_BUFFER_BYTES);
        Ok((Self { socket: ours, room: None }, theirs.into()))
    }

    /// Writes what there is room for.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(|socket| Ok(send(socket, bytes, SendFlags::NOSIGNAL)?))
    }

    /// Waits until there may be room; forever if there was some at last.
    pub(super) async fn writable(&self) -> io::Result<()> {
        match &self.room {
            Some(room) => poll_fn(|cx| room.poll_write_ready(cx)).await,
            None => pending().await,
        }
    }

    /// Everything was written: nobody waits for room.
    pub(super) fn forget_room(&mut self) {
        self.room = None;
    }

    /// Writes all of it.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives files to the other side, with one byte.
    pub(super) async fn send_files(&mut self, files: [BorrowedFd<'_>; 4]) -> io::Result<()> {
        loop {
            match self.attempt(|socket| send_files(socket, files)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                sent => return sent,
            }
        }
    }

    fn attempt<T>(&mut self, write: impl FnOnce(&StdUnixStream) -> io::Result<T>) -> io::Result<T> {
        if let Some(room) = &self.room {
            return room.try_io(Interest::WRITABLE, || write(&self.socket));
        }
        let written = write(&self.socket);
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.room = Some(UnixStream::from_std(self.socket.try_clone()?)?);
        }
        written
    }
}

fn send_files(socket: &StdUnixStream, files: [BorrowedFd<'_>; 4]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(socket, &[IoSlice::new(b"f")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Room for all that is sent ahead, so that a cancel is never stuck behind jobs: 256 KiB, and the
/// kernel's own record of each frame.
const SEND_BUFFER_BYTES: usize = 512 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn what_finds_no_room_is_written_once_the_other_side_has_read() {
        let (mut ours, theirs) = Requests::pair().unwrap();
        let sent: Vec<u8> = (0..4 * SEND_BUFFER_BYTES).map(|at| at as u8).collect();
        let mut received = vec![0; sent.len()];
        let reader = tokio::task::spawn_blocking(move || {
            StdUnixStream::from(theirs).read_exact(&mut received).unwrap();
            received
        });
        ours.write_all(&sent).await.unwrap();
        assert!(reader.await.unwrap() == sent, "they are the same bytes");
        ours.forget_room();
        assert_eq!(
            ours.try_write(b"more").map_err(|error| error.kind()),
            Err(io::ErrorKind::BrokenPipe)
        );
    }
}
