//! The two directions of a connection, whatever carries them: a TCP socket, or two pipes on one
//! machine.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::unix::pipe;

use crate::pass::FilePasser;

/// The incoming half, from the peer.
#[derive(Debug)]
pub enum ReadHalf {
    /// By a socket.
    Tcp(OwnedReadHalf),
    /// By a pipe.
    Pipe(pipe::Receiver),
}

/// The outgoing half, towards the peer.
#[derive(Debug)]
pub enum WriteHalf {
    /// By a socket.
    Tcp(OwnedWriteHalf),
    /// By a pipe.
    Pipe(WritePipe),
}

/// A pipe, which becomes a wide one when it is full for the first time: as a rule because of a
/// payload. All pipes of a user share what the system allows, so those that carry messages alone
/// stay as they are.
#[derive(Debug)]
pub struct WritePipe {
    /// None once it was shut down.
    pipe: Option<pipe::Sender>,
    is_wide: AtomicBool,
    files: Arc<FilePasser>,
}

/// The capacity of a wide pipe. With 64 KiB, 1 MiB there and back took nearly twice as long as by
/// TCP; with this as long.
const WIDE_BYTES: usize = 512 * 1024;

/// Both directions of a TCP connection.
pub fn split(socket: TcpStream) -> (ReadHalf, WriteHalf) {
    let (read, write) = socket.into_split();
    (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
}

impl WritePipe {
    /// Takes the end of a pipe, and the way for memory files beside it.
    pub(crate) fn new(pipe: pipe::Sender, files: FilePasser) -> Self {
        Self { pipe: Some(pipe), is_wide: AtomicBool::new(false), files: Arc::new(files) }
    }

    fn open(&self) -> io::Result<&pipe::Sender> {
        self.pipe.as_ref().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Makes room, once, if nothing was taken. Whoever waits until something is taken hears of it.
    fn widen_if_full(&self, written: io::Result<usize>) -> io::Result<usize> {
        let is_full =
            written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if is_full && !self.is_wide.swap(true, Ordering::Relaxed) {
            // If the system does not allow it, the pipe does its work all the same.
            let _ = self
                .open()
                .and_then(|pipe| Ok(rustix::pipe::fcntl_setpipe_size(pipe, WIDE_BYTES)?));
        }
        written
    }
}

impl WriteHalf {
    /// The way for memory files beside this connection, if there is one.
    pub fn files(&self) -> Option<&Arc<FilePasser>> {
        match self {
            Self::Tcp(_) => None,
            Self::Pipe(pipe) => Some(&pipe.files),
        }
    }

    /// Writes what is taken at once.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is taken now; any other: the connection is over.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Pipe(pipe) => pipe.widen_if_full(pipe.open()?.try_write(bytes)),
        }
    }

    /// Writes what is taken at once of several pieces.
    ///
    /// # Errors
    /// Those of [`WriteHalf::try_write`].
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write_vectored(slices),
            Self::Pipe(pipe) => pipe.widen_if_full(pipe.open()?.try_write_vectored(slices)),
        }
    }

    /// Returns when something may be taken.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.writable().await,
            Self::Pipe(pipe) => pipe.open()?.writable().await,
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Pipe(pipe) => Pin::new(pipe).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Pipe(pipe) => Pin::new(pipe.pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?)
                .poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(context),
            // What is in a pipe has left.
            Self::Pipe(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Pipe(pipe) => {
                pipe.pipe = None;
                Poll::Ready(Ok(()))
            }
        }
    }
}
