//! A connection whose other side must read: one that does not is closed, and holds no place.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// For how long the other side may take nothing of what waits for it.
const STALLED: Duration = Duration::from_secs(20);

/// A connection with a deadline for each write.
#[derive(Debug)]
pub struct Reading<T> {
    inner: T,
    deadline: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl<T> Reading<T> {
    /// A connection on which nothing waits.
    pub fn new(inner: T) -> Self {
        Self { inner, deadline: Box::pin(tokio::time::sleep(STALLED)), is_waiting: false }
    }

    /// Looks at the outcome of a write: one that waits must go on before the deadline.
    fn check<R>(
        &mut self,
        outcome: Poll<io::Result<R>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<R>> {
        if outcome.is_ready() {
            self.is_waiting = false;
            return outcome;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.deadline.as_mut().reset(Instant::now() + STALLED);
        }
        let is_late = self.deadline.as_mut().poll(context).is_ready();
        if is_late { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Reading<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Reading<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.check(outcome, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(context);
        self.check(outcome, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_closed_and_who_reads_slowly_is_not() {
        let (mut ours, mut theirs) = {
            let (ours, theirs) = tokio::io::duplex(16);
            (Reading::new(ours), theirs)
        };
        let reads = async {
            for _ in 0..8 {
                tokio::time::sleep(STALLED / 2).await;
                theirs.read_exact(&mut [0; 8]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(&[0; 80]), reads);
        written.unwrap();
        let began = Instant::now();
        let error = ours.write_all(&[0; 80]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < STALLED + Duration::from_secs(1));
    }
}
